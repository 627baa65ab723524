//! Cipher suites and curves by OpenSSL's names, as lists of what rustls has. Pure.
//!
//! rustls has no suite without forward secrecy and authenticated encryption: of TLS 1.2 the six `ECDHE-…-GCM` and `…-CHACHA20-POLY1305`. A name
//! that has no equal is noted; a list of which nothing is left is an error.

use rustls::{CipherSuite, NamedGroup};

use crate::problem::shown;

/// The suites of TLS 1.2 that there are, best first: OpenSSL's name and rustls' one.
pub const TLS12: [(&str, CipherSuite); 6] = [
    ("ECDHE-ECDSA-AES256-GCM-SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-AES256-GCM-SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES128-GCM-SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// The suites of TLS 1.3 that there are, best first.
pub const TLS13: [(&str, CipherSuite); 3] = [
    ("TLS_AES_256_GCM_SHA384", CipherSuite::TLS13_AES_256_GCM_SHA384),
    ("TLS_AES_128_GCM_SHA256", CipherSuite::TLS13_AES_128_GCM_SHA256),
    ("TLS_CHACHA20_POLY1305_SHA256", CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
];

/// The curves that there are, best first, by the names they go by.
const CURVES: [(&[&str], NamedGroup); 4] = [
    (&["x25519"], NamedGroup::X25519),
    (&["prime256v1", "secp256r1", "p-256"], NamedGroup::secp256r1),
    (&["secp384r1", "p-384"], NamedGroup::secp384r1),
    (&["x25519mlkem768"], NamedGroup::X25519MLKEM768),
];

/// The name under which OpenSSL, and so PgBouncer's log, knows a suite.
#[must_use]
pub fn openssl_name(suite: CipherSuite) -> &'static str {
    TLS12.iter().chain(&TLS13).find(|(_, known)| *known == suite).map_or("-", |(name, _)| name)
}

/// The name under which OpenSSL knows a curve.
#[must_use]
pub fn curve_name(group: NamedGroup) -> &'static str {
    match group {
        NamedGroup::X25519 => "X25519",
        NamedGroup::secp256r1 => "prime256v1",
        NamedGroup::secp384r1 => "secp384r1",
        NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        _ => "-",
    }
}

/// Reads a list for TLS 1.2 in OpenSSL's syntax, or one of PgBouncer's words for such lists. An empty answer is possible: then nothing of TLS 1.2
/// is left.
pub fn tls12(text: &str) -> Result<(Vec<CipherSuite>, Vec<String>), String> {
    let mut list = List::default();
    for item in text.split([':', ',', ' ', ';']).filter(|item| !item.is_empty()) {
        list.apply(item)?;
    }
    Ok((list.chosen.iter().map(|index| TLS12[*index].1).collect(), list.notes))
}

/// Reads a list for TLS 1.3; empty: all.
pub fn tls13(text: &str) -> Result<(Vec<CipherSuite>, Vec<String>), String> {
    let (mut chosen, mut notes) = (Vec::new(), Vec::new());
    for name in text.split([':', ',', ' ']).filter(|name| !name.is_empty()) {
        match TLS13.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
            Some((_, suite)) if chosen.contains(suite) => {}
            Some((_, suite)) => chosen.push(*suite),
            None if ["TLS_AES_128_CCM_SHA256", "TLS_AES_128_CCM_8_SHA256"].contains(&name) => notes.push(no_equal(name)),
            None => return Err(format!("{} is no cipher suite of TLS 1.3: {}", shown(name), TLS13.map(|(name, _)| name).join(", "))),
        }
    }
    match (text.trim().is_empty(), chosen.is_empty()) {
        (true, _) => Ok((TLS13.map(|(_, suite)| suite).to_vec(), notes)),
        (false, true) => Err("leaves no cipher suite of TLS 1.3 that can be used here".to_owned()),
        (false, false) => Ok((chosen, notes)),
    }
}

/// Reads a list of curves, or `auto`.
pub fn curves(text: &str) -> Result<(Vec<NamedGroup>, Vec<String>), String> {
    let (mut chosen, mut notes) = (Vec::new(), Vec::new());
    for name in text.split([':', ',', ' ']).filter(|name| !name.is_empty()) {
        let lower = name.to_ascii_lowercase();
        match CURVES.iter().find(|(names, _)| names.contains(&lower.as_str())) {
            _ if lower == "auto" => chosen.extend(CURVES.map(|(_, group)| group)),
            Some((_, group)) => chosen.push(*group),
            None => notes.push(no_equal(name)),
        }
    }
    if chosen.is_empty() {
        return Err(format!("{} leaves no curve that can be used here: auto, X25519, prime256v1 or secp384r1", shown(text)));
    }
    let mut seen = Vec::new();
    chosen.retain(|group| {
        !seen.contains(group) && {
            seen.push(*group);
            true
        }
    });
    Ok((chosen, notes))
}

fn no_equal(name: &str) -> String {
    format!("{} has no equal here: it is left out", shown(name))
}

/// A list under way, as OpenSSL builds it: items add to it, take from it, or bar for good.
#[derive(Default)]
struct List {
    chosen: Vec<usize>,
    barred: Vec<usize>,
    notes: Vec<String>,
}

impl List {
    fn apply(&mut self, item: &str) -> Result<(), String> {
        if item.starts_with('@') {
            // The order of strength, and levels that all of ours exceed.
            return Ok(());
        }
        let (operator, name) = match item.as_bytes()[0] {
            operator @ (b'!' | b'-' | b'+') => (operator, &item[1..]),
            _ => (b' ', item),
        };
        let matched = matching(name);
        match (operator, matched) {
            (_, Err(unknown)) => return Err(format!("{} is no cipher suite and no group of them, as OpenSSL names them", shown(unknown))),
            (b'!', Ok(matched)) => {
                self.chosen.retain(|index| !matched.contains(index));
                self.barred.extend(matched);
            }
            (b'-', Ok(matched)) => self.chosen.retain(|index| !matched.contains(index)),
            (b'+', Ok(matched)) => {
                let (last, first): (Vec<_>, Vec<_>) = self.chosen.iter().partition(|index| matched.contains(index));
                self.chosen = first.into_iter().chain(last).collect();
            }
            (_, Ok(matched)) => {
                if matched.is_empty() && name.contains('-') {
                    self.notes.push(no_equal(name));
                }
                let new: Vec<usize> =
                    matched.into_iter().filter(|index| !self.chosen.contains(index) && !self.barred.contains(index)).collect();
                self.chosen.extend(new);
            }
        }
        Ok(())
    }
}

/// The suites that are in all groups of `a+b+c`.
fn matching(name: &str) -> Result<Vec<usize>, &str> {
    let mut matched: Vec<usize> = (0..TLS12.len()).collect();
    for part in name.split('+').filter(|part| !part.is_empty()) {
        let of_part = group(part).ok_or(part)?;
        matched.retain(|index| of_part.contains(index));
    }
    Ok(matched)
}

/// The suites that one word stands for; `None` when OpenSSL has no such word.
fn group(word: &str) -> Option<Vec<usize>> {
    let all = || (0..TLS12.len()).collect::<Vec<_>>();
    let with = |part: &str| all().into_iter().filter(|index| TLS12[*index].0.contains(part)).collect();
    Some(match word.to_ascii_uppercase().as_str() {
        "DEFAULT" | "SECURE" | "FAST" | "NORMAL" | "COMPAT" | "LEGACY" | "INSECURE" | "ALL" | "HIGH" | "FIPS" | "ECDHE" | "EECDH"
        | "KECDHE" | "KEECDH" | "AEAD" | "TLSV1.2" => all(),
        "AES" => with("AES"),
        "AES128" => with("AES128"),
        "AES256" => with("AES256"),
        "AESGCM" => with("GCM"),
        "CHACHA20" => with("CHACHA20"),
        "SHA256" => with("SHA256"),
        "SHA384" => with("SHA384"),
        "RSA" | "ARSA" => with("-RSA-"),
        "ECDSA" | "AECDSA" => with("-ECDSA-"),
        upper if TLS12.iter().any(|(name, _)| *name == upper) => with(upper),
        // Groups of which rustls has nothing, and the names of other suites.
        "MEDIUM"
        | "LOW"
        | "EXPORT"
        | "EXP"
        | "COMPLEMENTOFDEFAULT"
        | "COMPLEMENTOFALL"
        | "NULL"
        | "ENULL"
        | "ANULL"
        | "ADH"
        | "AECDH"
        | "KRSA"
        | "DHE"
        | "EDH"
        | "KDHE"
        | "KEDH"
        | "DH"
        | "ADSS"
        | "DSS"
        | "DSA"
        | "AESCCM"
        | "AESCCM8"
        | "AESCBC"
        | "3DES"
        | "DES"
        | "RC4"
        | "RC2"
        | "IDEA"
        | "SEED"
        | "CAMELLIA"
        | "CAMELLIA128"
        | "CAMELLIA256"
        | "ARIA"
        | "ARIA128"
        | "ARIA256"
        | "MD5"
        | "SHA1"
        | "SHA"
        | "PSK"
        | "KPSK"
        | "APSK"
        | "KECDHEPSK"
        | "KDHEPSK"
        | "KRSAPSK"
        | "SRP"
        | "KSRP"
        | "GOST"
        | "AGOST"
        | "KGOST"
        | "SSLV3"
        | "TLSV1"
        | "TLSV1.0"
        | "SUITEB128"
        | "SUITEB192"
        | "CBC"
        | "KGOST18"
        | "SUITEB128ONLY"
        | "SSLV2"
        | "ECDH" => Vec::new(),
        upper if upper.contains('-') && upper.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') => Vec::new(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<&'static str> {
        tls12(text).unwrap().0.into_iter().map(openssl_name).collect()
    }

    #[test]
    fn pgbouncers_words_and_openssls_groups() {
        for text in ["default", "secure", "fast", "normal", "all", "HIGH:!aNULL", "HIGH:MEDIUM:+3DES:!aNULL", "DEFAULT@SECLEVEL=2"] {
            let text = text.replace("@SECLEVEL=2", ":@SECLEVEL=2");
            assert_eq!(names(&text).len(), 6, "{text}");
        }
        assert_eq!(names("ECDHE+AESGCM:!RSA"), ["ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256"]);
        assert_eq!(names("EECDH+CHACHA20,-ECDSA"), ["ECDHE-RSA-CHACHA20-POLY1305"]);
        assert_eq!(names("aRSA:AES256:+RSA")[0], "ECDHE-ECDSA-AES256-GCM-SHA384");
        assert_eq!(names("!ECDSA:ALL:-AES").len(), 1);
    }

    #[test]
    fn single_suites_in_the_order_given() {
        assert_eq!(
            names("ECDHE-RSA-AES128-GCM-SHA256:ecdhe-rsa-aes256-gcm-sha384"),
            ["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384"]
        );
        let (suites, notes) = tls12("AES256-SHA:DHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256").unwrap();
        assert_eq!((suites.len(), notes.len()), (1, 2));
        assert!(notes[0].contains("AES256-SHA"), "{notes:?}");
        assert_eq!(tls12("3DES").unwrap().0, []);
        assert_eq!(tls12("").unwrap().0, []);
    }

    #[test]
    fn words_that_mean_nothing_are_wrong() {
        for text in ["bananas", "HIGH:bananas", "!ba nanas", "ECDHE+X", "AES/128"] {
            assert!(tls12(text).is_err(), "{text}");
        }
    }

    #[test]
    fn suites_of_the_new_version() {
        assert_eq!(tls13("").unwrap().0.len(), 3);
        let (suites, notes) = tls13("TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_CCM_SHA256").unwrap();
        assert_eq!((suites, notes.len()), (vec![CipherSuite::TLS13_CHACHA20_POLY1305_SHA256], 1));
        assert!(tls13("TLS_AES_128_CCM_SHA256").is_err());
        assert!(tls13("ECDHE-RSA-AES128-GCM-SHA256").is_err());
    }

    #[test]
    fn curves_by_all_their_names() {
        assert_eq!(curves("auto").unwrap().0.len(), 4);
        assert_eq!(curves("prime256v1").unwrap().0, [NamedGroup::secp256r1]);
        assert_eq!(curves("X25519:P-384:secp521r1").unwrap().1.len(), 1);
        assert_eq!(curves("P-256,auto").unwrap().0[0], NamedGroup::secp256r1);
        assert!(curves("none").is_err() && curves("secp521r1").is_err());
    }
}
