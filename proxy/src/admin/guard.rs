//! Who may not use a browser as a way in: a page of somebody else's that was opened on a machine which reaches the admin listener. Pure.
//!
//! Such a page can send requests but not read answers, unless its own name is made to lead here (DNS rebinding): then the browser names it as the
//! host. So names that a stranger could own are refused where there is something to be read that is for people, and whatever a browser sends
//! from a page is refused where something is done. `/metrics` and the probes say nothing of clients, are asked by names of any kind, and are left alone.

use std::net::IpAddr;

/// Ends of names that nobody can register: a name below them leads where the local network says.
const PRIVATE: [&str; 6] = ["localhost", "local", "internal", "svc", "home.arpa", "test"];

/// Whether a request that names this host may have the status: none is named by who is no browser.
#[must_use]
pub(super) fn is_ours(host: Option<&str>, allowed: &[String]) -> bool {
    let Some(host) = host else { return true };
    let name = without_port(host).trim_end_matches('.').to_ascii_lowercase();
    // The single names that a machine, a compose file or a namespace gives are no names of the internet.
    let is_private = !name.contains('.') || PRIVATE.iter().any(|end| name.strip_suffix(end).is_some_and(|rest| rest.ends_with('.')));
    let is_allowed = |one: &String| one == "*" || one.trim_end_matches('.').eq_ignore_ascii_case(&name);
    is_address(&name) || is_private || allowed.iter().any(is_allowed)
}

/// What stands before the port, without the brackets of an address.
fn without_port(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => {
            rest.split_once(']').filter(|(_, port)| port.is_empty() || port.starts_with(':')).map_or(host, |(address, _)| address)
        }
        None => host.split(':').next().unwrap_or_default(),
    }
}

fn is_address(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_private_names_are_ours() {
        assert!(is_ours(None, &[]));
        for host in [
            "127.0.0.1:9127",
            "[::1]:9127",
            "10.1.2.3",
            "localhost:9127",
            "LOCALHOST",
            "a.localhost",
            "sidepool:9127",
            "sidepool.shop.svc:9127",
            "sidepool.shop.svc.cluster.local.",
            "db.internal",
        ] {
            assert!(is_ours(Some(host), &[]), "{host}");
        }
    }

    #[test]
    fn names_that_a_stranger_could_own_are_not_unless_they_are_allowed() {
        for host in
            ["evil.example:9127", "localhost.evil.com", "127.0.0.1.nip.io", "notlocal.com", "xlocalhost.com", "[::1].evil.com", "1.2.3"]
        {
            assert!(!is_ours(Some(host), &[]), "{host}");
        }
        let allowed = ["Status.Example.com".to_owned()];
        assert!(is_ours(Some("status.example.com:443"), &allowed) && !is_ours(Some("x.status.example.com"), &allowed));
        assert!(is_ours(Some("any.example.com"), &["*".to_owned()]));
    }
}
