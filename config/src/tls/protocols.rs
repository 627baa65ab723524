//! Versions of TLS in PgBouncer's words. Pure.

use crate::problem::shown;

/// The versions that may be spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Versions {
    /// TLS 1.2.
    pub tls12: bool,
    /// TLS 1.3.
    pub tls13: bool,
}

/// Reads `secure`, `default`, `all`, `legacy` or a list such as `tlsv1.2,tlsv1.3` or `all:!tlsv1.2`. What was given beside it is noted: the old
/// versions that nothing here speaks any more.
pub fn parse(text: &str) -> Result<(Versions, Vec<String>), String> {
    let mut versions = Versions::default();
    let mut notes = Vec::new();
    for word in text.split([',', ':', ' ']).map(str::trim).filter(|word| !word.is_empty()) {
        let (allow, name) = word.strip_prefix('!').map_or((true, word), |name| (false, name));
        match name.to_ascii_lowercase().as_str() {
            "secure" | "default" | "all" | "legacy" | "tlsv1" => versions = Versions { tls12: allow, tls13: allow },
            "tlsv1.2" => versions.tls12 = allow,
            "tlsv1.3" => versions.tls13 = allow,
            "tlsv1.0" | "tlsv1.1" if allow => notes.push(format!("{name} is too old to be spoken here: it is left out")),
            "tlsv1.0" | "tlsv1.1" => {}
            _ => {
                let allowed = "secure, default, all, legacy, or a list of tlsv1.2 and tlsv1.3";
                return Err(format!("{} is no version of TLS: {allowed}", shown(name)));
            }
        }
    }
    if versions == Versions::default() {
        return Err("allows no version of TLS that can be spoken here: tlsv1.2 or tlsv1.3".to_owned());
    }
    Ok((versions, notes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_lists() {
        let both = Versions { tls12: true, tls13: true };
        for text in
            ["secure", "default", "all", "legacy", "tlsv1", "tlsv1.2,tlsv1.3", "TLSv1.2 : TLSv1.3", "tlsv1.0,tlsv1.1,tlsv1.2,tlsv1.3"]
        {
            assert_eq!(parse(text).unwrap().0, both, "{text}");
        }
        assert_eq!(parse("tlsv1.3").unwrap(), (Versions { tls12: false, tls13: true }, Vec::new()));
        assert_eq!(parse("all:!tlsv1.3").unwrap().0, Versions { tls12: true, tls13: false });
        assert_eq!(parse("tlsv1.1,tlsv1.2").unwrap().1.len(), 1);
    }

    #[test]
    fn what_leaves_nothing_or_is_no_version_is_wrong() {
        for text in ["", ",", "tlsv1.0", "tlsv1.1", "all,!all", "sslv3", "tlsv1.4", "!tlsv1.2"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
