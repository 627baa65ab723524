//! What it means how a server was met under TLS, and until when certificates hold. Pure.

use sidepool_config::model::UpstreamTls;

use crate::doctor::facts::{Denied, TlsShown};
use crate::doctor::finding::Finding;

const CHECK: &str = "tls";

const DAY: i64 = 24 * 3600;

/// So long before its end a certificate should be on its way to a new one.
const SOON: i64 = 30 * DAY;

/// And so long before it, it should be there.
const NOW: i64 = 7 * DAY;

/// Whether what is said to the server is safe on its way. `offers`: whether the server offers TLS, where that is known.
#[must_use]
pub fn protection(mode: UpstreamTls, shown: Option<&TlsShown>, is_local: bool, offers: Option<bool>) -> Finding {
    let Some(TlsShown { description, .. }) = shown else { return in_the_clear(mode, is_local, offers) };
    match mode {
        UpstreamTls::VerifyFull => {
            Finding::good(CHECK, format!("{description}; the server's certificate is vouched for and names the host"))
        }
        UpstreamTls::VerifyCa => {
            Finding::good(CHECK, format!("{description}; the server's certificate is vouched for, its name is not looked at (verify-ca)"))
        }
        _ if is_local => Finding::good(CHECK, format!("{description}; who the server is is not looked at, and it is on this machine")),
        UpstreamTls::Disable | UpstreamTls::Allow | UpstreamTls::Prefer | UpstreamTls::Require => Finding::warning(
            CHECK,
            format!("{description}, but nobody looks who the server is"),
            "whoever can redirect the connection can read and change everything",
            "set sslmode = verify-full, with server_tls_ca_file where the authority is not one that the system trusts",
        ),
    }
}

fn in_the_clear(mode: UpstreamTls, is_local: bool, offers: Option<bool>) -> Finding {
    if is_local {
        return Finding::good(CHECK, "in the clear, on this machine");
    }
    let why = "whoever sees the network between here and there sees all data";
    match (mode, offers) {
        (UpstreamTls::Prefer | UpstreamTls::Allow, Some(false) | None) => Finding::warning(
            CHECK,
            "in the clear: the server does not offer TLS",
            why,
            "have the server offer TLS, then set sslmode = verify-full",
        ),
        (_, Some(true)) => Finding::warning(CHECK, "in the clear, though the server offers TLS", why, "set sslmode = verify-full"),
        (_, Some(false) | None) => Finding::warning(
            CHECK,
            "in the clear",
            why,
            "have the server offer TLS and set sslmode = verify-full, or see that nobody else is on that network",
        ),
    }
}

/// Why there is no TLS, and what the server shows to those who look at nothing.
#[must_use]
pub fn failed(denied: &Denied, shown: Option<&Result<TlsShown, String>>, now: i64) -> Finding {
    let words = &denied.words;
    let folded = words.to_lowercase();
    let advice = if folded.contains("expired") || shown.is_some_and(|shown| shown.as_ref().is_ok_and(|shown| ends_before(shown, now))) {
        "have the server use a new certificate (and reload it: pg_reload_conf(), or CONFIG SET tls-cert-file)"
    } else if folded.contains("unknownissuer") {
        "name the authority that issued the server's certificate: server_tls_ca_file, or sslrootcert in the URL"
    } else if folded.contains("not valid for") || folded.contains("notvalidforname") {
        "connect by a name that is in the certificate, have one issued that names this host, or set sslmode = verify-ca if any server of this authority will do"
    } else if folded.contains("does not offer") {
        "have the server offer TLS (ssl = on in postgresql.conf), or set sslmode = prefer or disable if the network in between is trusted"
    } else if folded.contains("certificaterequired") || folded.contains("certificate required") {
        "the server wants a certificate of ours: server_tls_cert_file and server_tls_key_file"
    } else {
        "see that TLS is spoken at this port, and that both sides have a version and a cipher in common (server_tls_protocols, server_tls_ciphers)"
    };
    let beside = match shown {
        Some(Ok(TlsShown { description, .. })) => format!(" (without looking at the certificate: {description})"),
        Some(Err(_)) | None => String::new(),
    };
    Finding::problem(CHECK, format!("{words}{beside}"), "no client can be served", advice)
}

fn ends_before(shown: &TlsShown, now: i64) -> bool {
    shown.not_after.is_some_and(|end| end < now)
}

/// Until when a certificate holds: `whose` it is.
#[must_use]
pub fn expiry(whose: &str, not_after: i64, now: i64) -> Finding {
    const CHECK: &str = "certificate";
    let left = not_after - now;
    let days = left.abs() / DAY;
    let plural = if days == 1 { "day" } else { "days" };
    let advice = "renew it, or see why what renews it does not";
    if left < 0 {
        let why = "whoever looks at it refuses the connection";
        return Finding::problem(CHECK, format!("{whose} has ended {days} {plural} ago"), why, advice);
    }
    let found = format!("{whose} ends in {days} {plural}");
    let why = "from then on, whoever looks at it refuses the connection";
    match left {
        ..NOW => Finding::problem(CHECK, found, why, advice),
        NOW..SOON => Finding::warning(CHECK, found, why, advice),
        _ => Finding::good(CHECK, found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Verdict;
    use crate::pool::fault::ConnectFaultKind;

    fn shown(not_after: Option<i64>) -> TlsShown {
        TlsShown { description: "TLSv1.3/X".to_owned(), not_after }
    }

    #[test]
    fn protection_is_judged_by_mode_and_distance() {
        use UpstreamTls::{Allow, Disable, Prefer, Require, VerifyCa, VerifyFull};
        use Verdict::{Good, Warning};
        for (mode, under_tls, is_local, verdict) in [
            (VerifyFull, true, false, Good),
            (VerifyCa, true, false, Good),
            (Require, true, false, Warning),
            (Prefer, true, false, Warning),
            (Allow, true, false, Warning),
            (Require, true, true, Good),
            (Disable, false, true, Good),
            (Disable, false, false, Warning),
            (Prefer, false, false, Warning),
            (Allow, false, false, Warning),
        ] {
            for offers in [None, Some(true), Some(false)] {
                let shown = shown(None);
                let finding = protection(mode, under_tls.then_some(&shown), is_local, offers);
                assert_eq!(finding.verdict, verdict, "{mode:?} {under_tls} {is_local} {offers:?}");
            }
        }
        assert!(protection(Disable, None, false, Some(true)).found.contains("offers TLS"));
        assert!(protection(Prefer, None, false, None).found.contains("does not offer"));
    }

    #[test]
    fn failures_are_told_apart() {
        for (words, shown_ends, advice) in [
            ("TLS failed: certificate verify failed: UnknownIssuer", None, "server_tls_ca_file"),
            ("TLS failed: certificate verify failed: certificate expired: …", None, "a new certificate"),
            ("TLS failed: something", Some(5), "a new certificate"),
            ("TLS failed: certificate verify failed: certificate not valid for name \"db\"", Some(500), "verify-ca"),
            ("it does not offer TLS, which the configuration requires", None, "ssl = on"),
            ("TLS failed: received fatal alert: CertificateRequired", None, "server_tls_cert_file"),
            ("TLS failed: HandshakeFailure", None, "server_tls_protocols"),
        ] {
            let denied = Denied { kind: ConnectFaultKind::Tls, code: None, words: words.to_owned() };
            let shown = shown_ends.map(|ends| Ok(shown(Some(ends))));
            let finding = failed(&denied, shown.as_ref(), 100);
            assert!(finding.verdict == Verdict::Problem && finding.advice.contains(advice), "{words}: {finding:?}");
            assert_eq!(finding.found.contains("TLSv1.3"), shown_ends.is_some());
        }
    }

    #[test]
    fn certificates_end() {
        for (left, verdict, found) in [
            (-2 * DAY, Verdict::Problem, "has ended 2 days ago"),
            (DAY, Verdict::Problem, "ends in 1 day"),
            (NOW, Verdict::Warning, "ends in 7 days"),
            (SOON - 1, Verdict::Warning, "ends in 29 days"),
            (SOON, Verdict::Good, "ends in 30 days"),
        ] {
            let finding = expiry("it", 1000 + left, 1000);
            assert!(finding.verdict == verdict && finding.found.ends_with(found), "{left}: {finding:?}");
        }
    }
}
