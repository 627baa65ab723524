//! Bytes as the files that say who may log in how: complaints point into the file, a line with a fault lets nobody in, and whatever was read
//! can be asked about every kind of login.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sidepool_config::auth::hba::{self, Approach, Method, Origin};
use sidepool_config::auth::{ident, ldap};

/// Runs the target.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let lines = text.lines().count();
    // Files that it names are short, or not there, or name themselves.
    let (rules, faults) = hba::parse(&text, &mut |name| match name.len() % 3 {
        0 => Ok("bob, \"all\"\n".to_owned()),
        1 => Ok(format!("@{name}")),
        _ => Err("not there".to_owned()),
    });
    for fault in &faults {
        assert!((1..=lines).contains(&(fault.line as usize)), "{fault:?}");
    }
    assert!(rules.len() <= lines);
    let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3))];
    let tcp = addresses.into_iter().flat_map(|address| [false, true].map(|tls| Origin::Tcp { address, tls }));
    for origin in tcp.chain([Origin::Local]) {
        for (database, user, replication) in [("app", "bob", false), ("bob", "bob", false), ("all", "all", true)] {
            let Some(rule) = rules.find(&Approach { origin, database, user, replication }) else { continue };
            assert!((1..=lines).contains(&(rule.line as usize)));
            match &rule.method {
                Method::Peer(_) => assert_eq!(origin, Origin::Local),
                Method::Cert(_) => assert!(matches!(origin, Origin::Tcp { tls: true, .. })),
                Method::Trust
                | Method::Md5
                | Method::Password
                | Method::ScramSha256
                | Method::Ldap(_)
                | Method::Pam(_)
                | Method::Reject => {}
            }
            if faults.iter().any(|fault| fault.line == rule.line) {
                assert_eq!(rule.method, Method::Reject, "a line with a fault lets nobody in");
            }
        }
    }
    let (maps, faults) = ident::parse(&text);
    assert!(maps.len() + faults.len() <= lines);
    assert!(!maps.allow(Some("\0"), "bob", "bob"), "a map that is not there allows nobody");
    for line in text.lines() {
        let _ = ldap::parse(line);
    }
}
