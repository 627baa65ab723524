//! What facts of this machine mean, by tables of facts.

use std::path::PathBuf;

use sidepool_config::model::{Listen, PgDatabase, Postgres, Redis, Upstream};

use super::super::tests::find;
use super::*;
use crate::doctor::finding::Verdict;

fn config(max_client_conn: u32) -> Config {
    let nowhere = || Upstream::Unix("/nowhere".into());
    let databases = [("app".to_owned(), PgDatabase::at(nowhere()))].into();
    let postgres = Postgres { max_client_conn, databases, ..Postgres::default() };
    let redis = Redis { max_client_conn: 100, ..Redis::at(nowhere()) };
    Config { postgres: Some(postgres), redis: [("cache".to_owned(), redis)].into(), ..Config::default() }
}

fn facts() -> LocalFacts {
    LocalFacts { files: Some(10_000), own_files: 10, admin: Some(("127.0.0.1:9127".parse().unwrap(), Door::Free)), ..LocalFacts::default() }
}

#[test]
fn files_are_enough_or_not() {
    // 16 are kept, 10 are our own, and 40 are for servers.
    for (clients, verdict) in [(10_000 - 16 - 10 - 40 - 100, Verdict::Good), (10_000 - 16 - 10 - 40 - 99, Verdict::Warning)] {
        let finding = files(&facts(), &config(clients));
        assert_eq!(finding.verdict, verdict, "{finding:?}");
        if verdict == Verdict::Warning {
            assert!(finding.advice.contains("10001"), "just so many more are needed: {finding:?}");
        }
    }
    assert_eq!(files(&LocalFacts { files: None, ..facts() }, &config(1_000_000)).verdict, Verdict::Good);
}

#[test]
fn memory_is_enough_or_not() {
    for (limit, clients, verdict) in [
        (None, 1_000_000, Verdict::Good),
        (Some(64 << 20), 10_000, Verdict::Good),
        (Some(16 << 20), 10_000, Verdict::Warning),
        (Some(64 << 20), 1_000_000, Verdict::Warning),
    ] {
        assert_eq!(memory(&LocalFacts { memory: limit, ..facts() }, &config(clients)).verdict, verdict, "{limit:?} {clients}");
    }
    let mut under_tls = config(10_000);
    under_tls.postgres.as_mut().unwrap().client_tls.sslmode = ClientSslMode::Allow;
    assert_eq!(memory(&LocalFacts { memory: Some(64 << 20), ..facts() }, &under_tls).verdict, Verdict::Warning);
}

#[test]
fn doors_are_free_taken_or_impossible() {
    let listen = Listen::Tcp("127.0.0.1:6432".parse().unwrap());
    let denied = Door::Impossible("Permission denied (os error 13)".to_owned());
    for (door, runs, verdict, advice) in [
        (Door::Free, false, Verdict::Good, ""),
        (Door::Taken, true, Verdict::Good, ""),
        (Door::Taken, false, Verdict::Problem, "ss -ltnp"),
        (denied, false, Verdict::Problem, "CAP_NET_BIND_SERVICE"),
        (Door::Impossible("Cannot assign requested address".to_owned()), true, Verdict::Problem, "an address of this machine"),
    ] {
        let findings = doors(&LocalFacts { doors: vec![(listen.clone(), door.clone())], runs, ..facts() });
        assert_eq!(findings.len(), 2, "the admin listener's, too");
        assert!(findings[0].verdict == verdict && findings[0].advice.contains(advice), "{door:?}: {findings:?}");
    }
    let taken = LocalFacts { doors: vec![(listen, Door::Taken)], ..facts() };
    for unclear in [LocalFacts { admin: None, ..taken.clone() }, LocalFacts { has_unit: true, ..taken }] {
        let finding = doors(&unclear).remove(0);
        assert!(finding.verdict == Verdict::Warning && finding.found.contains("sidepool.socket"), "nobody can tell who it is: {finding:?}");
    }
}

#[test]
fn the_admin_listener_is_not_for_everybody() {
    for (address, in_kubernetes, verdict) in [
        ("127.0.0.1:9127", false, Verdict::Good),
        ("[::1]:9127", false, Verdict::Good),
        ("10.1.2.3:9127", false, Verdict::Good),
        ("[fd00::1]:9127", false, Verdict::Good),
        ("0.0.0.0:9127", false, Verdict::Warning),
        ("[::]:9127", false, Verdict::Warning),
        ("198.51.100.1:9127", false, Verdict::Warning),
        ("0.0.0.0:9127", true, Verdict::Good),
    ] {
        let facts = LocalFacts { admin: Some((address.parse().unwrap(), Door::Free)), in_kubernetes, ..facts() };
        assert_eq!(admin(&facts).unwrap().verdict, verdict, "{address}");
    }
    assert_eq!(admin(&LocalFacts { admin: None, ..facts() }), None);
}

#[test]
fn everything_about_the_machine_is_told() {
    let facts = LocalFacts {
        certificates: vec![("client_tls_cert_file", 10)],
        readable: vec![PathBuf::from("/etc/userlist.txt")],
        now: 20,
        ..facts()
    };
    let findings = machine(&facts, &config(10));
    assert_eq!(find(&findings, "certificate").verdict, Verdict::Problem);
    assert!(find(&findings, "certificate").found.contains("client_tls_cert_file"));
    assert_eq!(find(&findings, "secrets").advice, "chmod o-rwx /etc/userlist.txt");
    assert_eq!(find(&findings, "listen").found, "127.0.0.1:9127 (admin) is free");
    let safe = LocalFacts { readable: Vec::new(), looked_at: 1, ..facts };
    assert_eq!(secrets(&safe).verdict, Verdict::Good);
}
