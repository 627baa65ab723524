//! What it means where a name leads and who answers there. Pure.

use std::time::Duration;

use sidepool_config::model::Upstream;

use crate::doctor::facts::Reached;
use crate::doctor::finding::Finding;
use crate::upstream::roster::Place;

/// A name that takes longer than this delays the first connect of each pool.
const SLOW_NAME: Duration = Duration::from_secs(1);

/// An address that takes longer than this is far away, or busy.
const SLOW_ADDRESS: Duration = Duration::from_millis(250);

/// The way to a host.
#[must_use]
pub fn reach(reached: &Reached) -> Vec<Finding> {
    let mut findings = name(reached);
    for (place, took, answer) in &reached.addresses {
        findings.push(match answer {
            Ok(()) if *took > SLOW_ADDRESS => Finding::warning(
                "connect",
                format!("{place} answers after {}", shown(*took)),
                "opening a connection takes several times as long, and clients wait for it when a pool grows",
                "look at the network between here and there, or raise min_pool_size so that connections are there before they are needed",
            ),
            Ok(()) => Finding::good("connect", format!("{place} answers after {}", shown(*took))),
            Err(why) if reached.is_open() && is_loopback(place) => {
                Finding::good("connect", format!("{place} does not answer ({why}); the server is found at another address of this machine"))
            }
            Err(why) if reached.is_open() => Finding::warning(
                "connect",
                format!("{place} does not answer: {why}"),
                "another address of the same name does, so that clients are served; each connect may lose a moment here",
                "have the name lead only to addresses where the server listens",
            ),
            Err(why) => {
                Finding::problem("connect", format!("{place} does not answer: {why}"), "no client can be served", silence(reached, why))
            }
        });
    }
    findings
}

/// `localhost` is two addresses almost everywhere, and servers listen on one of them.
fn is_loopback(place: &Place) -> bool {
    match place {
        Place::Tcp(address) => address.ip().is_loopback(),
        Place::Unix(_) => false,
    }
}

fn name(reached: &Reached) -> Vec<Finding> {
    const CHECK: &str = "dns";
    let Some((took, answer)) = &reached.name else { return Vec::new() };
    let host = match &reached.upstream {
        Upstream::Tcp { host, .. } => host.as_str(),
        Upstream::Unix(_) => return Vec::new(),
    };
    vec![match answer {
        Ok(addresses) if addresses.is_empty() => nowhere(host, "the name has no address"),
        Ok(addresses) => {
            let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let found = format!("{host} leads to {} after {}", list.join(", "), shown(*took));
            match *took > SLOW_NAME {
                true => Finding::warning(
                    CHECK,
                    found,
                    "whenever the answer has run out (dns_max_ttl), new connections wait for it",
                    "look at the name servers in resolv.conf: the first one may be silent",
                ),
                false => Finding::good(CHECK, found),
            }
        }
        Err(why) => nowhere(host, why),
    }]
}

fn nowhere(host: &str, why: &str) -> Finding {
    Finding::problem(
        "dns",
        format!("{host} leads nowhere: {why}"),
        "no client can be served",
        "look for a mistyped host, a missing search domain, or a name server that does not know it (resolv_conf)",
    )
}

fn silence(reached: &Reached, why: &str) -> String {
    match &reached.upstream {
        Upstream::Unix(path) => format!("see that the server runs and has its socket there (unix_socket_directories): {}", path.display()),
        Upstream::Tcp { port, .. } if why.contains("refused") => {
            format!(
                "see that the server runs, that it listens on this address and not on localhost alone (listen_addresses, bind), and that {port} is its port"
            )
        }
        Upstream::Tcp { .. } => "a firewall, a security group or a network policy drops it, or the machine is down".to_owned(),
    }
}

/// A time as people read it.
#[must_use]
pub fn shown(took: Duration) -> String {
    let millis = took.as_secs_f64() * 1e3;
    match millis {
        ..10.0 => format!("{millis:.1} ms"),
        ..10_000.0 => format!("{millis:.0} ms"),
        _ => format!("{:.0} s", millis / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::super::tests::verdicts;
    use super::*;
    use crate::doctor::finding::Verdict;

    fn reached(name: Option<(u64, Result<&[&str], &str>)>, addresses: &[(&str, u64, Result<(), &str>)]) -> Reached {
        let name = name.map(|(millis, answer)| {
            let parsed = |list: &[&str]| list.iter().map(|address| address.parse::<IpAddr>().unwrap()).collect();
            (Duration::from_millis(millis), answer.map(parsed).map_err(str::to_owned))
        });
        let addresses = addresses
            .iter()
            .map(|(address, millis, answer)| {
                (Place::Tcp(address.parse().unwrap()), Duration::from_millis(*millis), answer.map_err(str::to_owned))
            })
            .collect();
        Reached { upstream: Upstream::Tcp { host: "db".to_owned(), port: 5432 }, name, addresses }
    }

    #[test]
    fn ways_are_judged() {
        const REFUSED: Result<(), &str> = Err("Connection refused (os error 111)");
        use Verdict::{Good, Problem, Warning};
        let table = [
            (reached(None, &[("10.0.0.1:5432", 1, Ok(()))]), vec![("connect", Good)]),
            (reached(Some((3, Ok(&["10.0.0.1"]))), &[("10.0.0.1:5432", 1, Ok(()))]), vec![("dns", Good), ("connect", Good)]),
            (reached(Some((1500, Ok(&["10.0.0.1"]))), &[("10.0.0.1:5432", 900, Ok(()))]), vec![("dns", Warning), ("connect", Warning)]),
            (
                reached(Some((3, Ok(&["::1", "127.0.0.1"]))), &[("[::1]:5432", 1, REFUSED), ("127.0.0.1:5432", 1, Ok(()))]),
                vec![("dns", Good), ("connect", Good), ("connect", Good)],
            ),
            (
                reached(Some((3, Ok(&["10.0.0.1", "10.0.0.2"]))), &[("10.0.0.1:5432", 1, REFUSED), ("10.0.0.2:5432", 1, Ok(()))]),
                vec![("dns", Good), ("connect", Warning), ("connect", Good)],
            ),
            (reached(None, &[("10.0.0.1:5432", 1, REFUSED)]), vec![("connect", Problem)]),
            (reached(None, &[("10.0.0.1:5432", 5000, Err("no answer within 5 s"))]), vec![("connect", Problem)]),
            (reached(Some((3, Err("no such host name"))), &[]), vec![("dns", Problem)]),
            (reached(Some((3, Ok(&[]))), &[]), vec![("dns", Problem)]),
        ];
        for (reached, expected) in table {
            assert_eq!(verdicts(&reach(&reached)), expected, "{reached:?}");
        }
        let refused = reach(&reached(None, &[("10.0.0.1:5432", 1, REFUSED)]));
        assert!(refused[0].advice.contains("listen_addresses"), "{refused:?}");
        let silent = reach(&reached(None, &[("10.0.0.1:5432", 1, Err("no answer within 5 s"))]));
        assert!(silent[0].advice.contains("firewall"), "{silent:?}");
    }

    #[test]
    fn sockets_are_judged() {
        let path = std::path::PathBuf::from("/run/x/.s.PGSQL.5432");
        let addresses = vec![(Place::Unix(path.clone()), Duration::ZERO, Err("No such file".to_owned()))];
        let findings = reach(&Reached { upstream: Upstream::Unix(path), name: None, addresses });
        assert_eq!(verdicts(&findings), [("connect", Verdict::Problem)]);
        assert!(findings[0].advice.contains("unix_socket_directories"));
    }
}
