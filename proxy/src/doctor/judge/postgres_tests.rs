//! What facts of PostgreSQL servers mean, by tables of facts.

use std::time::Duration;

use sidepool_config::model::UpstreamTls;

use super::super::tests::{find, verdicts};
use super::*;
use crate::doctor::facts::{Clock, Denied, Reached, SecretForm, TlsShown};
use crate::upstream::roster::Place;

const DAY: i64 = 24 * 3600;

fn reached(address: &str) -> Reached {
    let place = Place::Tcp(address.parse().unwrap());
    let upstream = Upstream::Tcp { host: "db".to_owned(), port: 5432 };
    Reached { upstream, name: None, addresses: vec![(place, Duration::from_millis(1), Ok(()))] }
}

fn login(result: Result<PgEntered, Denied>) -> PgLogin {
    let (user, dbname) = ("app".to_owned(), "shop".to_owned());
    PgLogin { user, dbname, guessed: false, secret: SecretForm::Usable, tls: UpstreamTls::Disable, took: Duration::from_millis(5), result }
}

fn server_with(settings: &[(&str, &str)]) -> PgServer {
    PgServer {
        version_number: 150_004,
        version: "15.4".to_owned(),
        settings: settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        clock: Some(Clock { ahead: 0.0, doubt: 0.0 }),
        ..PgServer::default()
    }
}

fn facts(logins: Vec<PgLogin>, server: Option<PgServer>) -> PgFacts {
    PgFacts { reached: reached("127.0.0.1:5432"), logins, untried: 0, shown: None, server: server.map(Ok) }
}

fn good() -> PgFacts {
    facts(vec![login(Ok(PgEntered::default()))], Some(server_with(&[("max_connections", "100"), ("superuser_reserved_connections", "3")])))
}

#[test]
fn a_good_server_is_all_good() {
    let wish = PgWish { connections: 20, replicas: 1, ..PgWish::default() };
    let findings = server(&good(), &wish, 0);
    let checks = ["connect", "login", "tls", "version", "role", "max_connections", "clock"];
    assert_eq!(verdicts(&findings), checks.map(|check| (check, Verdict::Good)), "{findings:?}");
}

#[test]
fn there_is_room_for_the_pools_or_not() {
    use Verdict::{Good, Problem, Warning};
    // max, superuser's, reserved, of others, pools, replicas, for each unknown user.
    let table = [
        ((100, 3, 0), 0, 97, 1, None, Good),
        ((100, 3, 0), 0, 98, 1, None, Problem),
        ((100, 3, 5), 0, 97, 1, None, Problem),
        ((100, 3, 0), 0, 48, 2, None, Good),
        ((100, 3, 0), 0, 49, 2, None, Problem),
        ((100, 3, 0), 10, 90, 1, None, Warning),
        ((100, 3, 0), 0, 0, 1, Some(20), Good),
        ((100, 3, 0), 0, 80, 1, Some(20), Warning),
        ((100, 3, 0), 0, u64::MAX, 3, None, Problem),
    ];
    for ((max, superusers, reserved), others, connections, replicas, unknown, verdict) in table {
        let settings = [("max_connections", max), ("superuser_reserved_connections", superusers), ("reserved_connections", reserved)];
        let settings = settings.map(|(name, value): (_, u64)| (name, value.to_string()));
        let mut server = server_with(&settings.each_ref().map(|(name, value)| (*name, value.as_str())));
        server.in_use = Some((others + 1, others));
        let finding = room(&server, &PgWish { connections, replicas, unknown, ..PgWish::default() });
        assert_eq!(finding.verdict, verdict, "{max} {superusers} {reserved} {others} {connections} {replicas} {unknown:?}: {finding:?}");
    }
    let wish = PgWish { connections: 49, replicas: 2, ..PgWish::default() };
    let finding = room(&server_with(&[("max_connections", "100"), ("superuser_reserved_connections", "3")]), &wish);
    assert!(
        finding.found.contains("98 connections") && finding.found.contains("97") && finding.found.contains("2 replicas"),
        "{finding:?}"
    );
    assert!(finding.advice.contains("at most 48") && finding.advice.contains("101"), "{finding:?}");
    assert_eq!(room(&server_with(&[]), &wish).verdict, Verdict::Unseen);
}

#[test]
fn what_is_not_known_beforehand_is_told_and_counted() {
    let server = server_with(&[("max_connections", "100"), ("superuser_reserved_connections", "0")]);
    let wish = PgWish { connections: 60, replicas: 1, ..PgWish::default() };
    for (wish, words, advice) in [
        (PgWish { unknown: Some(41), ..wish.clone() }, "41 more for each user", "max_db_connections"),
        (PgWish { each_database: Some(41), ..wish.clone() }, "41 more for each further database", "name the databases"),
        (PgWish { listening: 41, ..wish.clone() }, "41 more while clients LISTEN", "raise max_connections"),
    ] {
        let finding = room(&server, &wish);
        assert_eq!(finding.verdict, Verdict::Warning, "{finding:?}");
        assert!(finding.found.contains(words) && finding.advice.contains(advice), "{finding:?}");
        assert_eq!(room(&server, &PgWish { connections: 59, ..wish }).verdict, Verdict::Good, "one less of the known ones");
    }
}

#[test]
fn a_database_that_is_a_guess_and_not_there_is_nobodys_fault() {
    let denied = |kind, code: &str, words: &str| Denied { kind, code: Some(code.to_owned()), words: words.to_owned() };
    for (denied, verdict, words) in [
        (denied(ConnectFaultKind::NoDatabase, "3D000", "database \"shop\" does not exist"), Verdict::Unseen, "no database is named"),
        (denied(ConnectFaultKind::Auth, "28000", "no pg_hba.conf entry for host"), Verdict::Unseen, "no database is named"),
        (denied(ConnectFaultKind::Auth, "42501", "permission denied for database"), Verdict::Unseen, "no database is named"),
        (denied(ConnectFaultKind::Auth, "28P01", "password authentication failed"), Verdict::Problem, "28P01"),
    ] {
        let found = logins(&facts(vec![PgLogin { guessed: true, ..login(Err(denied)) }], None));
        assert!(found.len() == 1 && found[0].verdict == verdict && found[0].found.contains(words), "{found:?}");
    }
}

#[test]
fn roles_and_databases_have_limits_of_their_own() {
    let mut facts = good();
    let wish = PgWish {
        connections: 20,
        replicas: 2,
        of_users: [("app".to_owned(), 20)].into(),
        of_databases: [("shop".to_owned(), 20)].into(),
        ..PgWish::default()
    };
    for (of_both, expected) in [
        ((-1, -1), vec![]),
        ((40, -1), vec![Verdict::Good]),
        ((39, -1), vec![Verdict::Problem]),
        ((-1, 39), vec![Verdict::Problem]),
        ((10, 10), vec![Verdict::Problem, Verdict::Problem]),
    ] {
        facts.logins = vec![login(Ok(PgEntered { limits: Some(of_both), ..PgEntered::default() })); 2];
        let findings = limits(&facts, &wish);
        assert_eq!(findings.iter().map(|finding| finding.verdict).collect::<Vec<_>>(), expected, "{of_both:?}");
    }
    facts.logins.truncate(1);
    let findings = limits(&facts, &wish);
    assert!(findings[0].advice.contains("ALTER ROLE \"app\" CONNECTION LIMIT 40"), "{findings:?}");
    assert!(findings[1].advice.contains("ALTER DATABASE \"shop\" CONNECTION LIMIT 40"), "{findings:?}");
}

#[test]
fn names_of_one_server_are_counted_together() {
    let seen = |name: &str, identity: Option<&str>, connections: u64| {
        let mut facts =
            facts(Vec::new(), Some(PgServer { identity: identity.map(str::to_owned), ..server_with(&[("max_connections", "30")]) }));
        facts.reached.upstream = Upstream::Tcp { host: name.to_owned(), port: 5432 };
        let of_users = [("app".to_owned(), connections)].into();
        (facts, PgWish { connections, replicas: 1, of_users, ..PgWish::default() })
    };
    let all = [
        seen("localhost", Some("1"), 20),
        seen("127.0.0.1", Some("1"), 10),
        seen("other", Some("2"), 5),
        seen("x", None, 1),
        seen("y", None, 2),
    ];
    let joined = joined(&all);
    assert_eq!(joined.iter().map(|wish| wish.connections).collect::<Vec<_>>(), [30, 30, 5, 1, 2]);
    assert_eq!((&joined[0].same, joined[0].of_users["app"]), (&vec!["127.0.0.1:5432".to_owned()], 30));
    let server = all[0].0.server.as_ref().unwrap().as_ref().unwrap();
    let found = room(server, &joined[0]);
    assert!(found.verdict == Verdict::Good && found.found.contains("together with 127.0.0.1:5432, which is the same server"), "{found:?}");
    assert_eq!(room(server, &PgWish { connections: 31, ..joined[0].clone() }).verdict, Verdict::Problem);
}

#[test]
fn versions_and_roles_are_told_apart() {
    for (number, verdict) in [(90_600, Verdict::Warning), (130_000, Verdict::Warning), (140_000, Verdict::Good), (180_001, Verdict::Good)] {
        assert_eq!(version(&PgServer { version_number: number, ..server_with(&[]) }).verdict, verdict, "{number}");
    }
    assert_eq!(role(&PgServer { in_recovery: true, ..server_with(&[]) }).verdict, Verdict::Warning);
    assert_eq!(role(&server_with(&[])).verdict, Verdict::Good);
}

#[test]
fn what_is_looked_up_has_to_be_of_use() {
    use Verdict::{Good, Problem, Warning};
    let found = |secret| Ok(LookedUp { user: "bob".to_owned(), secret });
    for (found, needs_scram, verdict) in [
        (found(Some("a SCRAM verifier")), true, Good),
        (found(Some("an MD5 secret")), true, Warning),
        (found(Some("no password")), true, Warning),
        (found(Some("an MD5 secret")), false, Good),
        (found(None), false, Warning),
        (Err("auth_query has to answer 2 columns (name and secret), and not 1".to_owned()), false, Problem),
        (Err("auth_query failed: permission denied for table pg_authid".to_owned()), false, Problem),
    ] {
        let finding = lookup(&found, &PgWish { needs_scram, ..PgWish::default() });
        assert_eq!(finding.verdict, verdict, "{found:?}");
        assert_eq!(finding.advice.contains("SECURITY DEFINER"), format!("{found:?}").contains("permission denied"));
    }
}

#[test]
fn a_login_that_fails_for_tls_is_told_once_and_with_the_certificate() {
    let words = "TLS failed: certificate verify failed: UnknownIssuer".to_owned();
    let denied = Denied { kind: ConnectFaultKind::Tls, code: None, words };
    let mut facts = facts(vec![login(Err(denied)); 2], None);
    facts.shown = Some(Ok(TlsShown { description: "TLSv1.3".to_owned(), not_after: Some(-DAY) }));
    let findings = server(&facts, &PgWish::default(), 0);
    assert_eq!(verdicts(&findings), [("connect", Verdict::Good), ("tls", Verdict::Problem), ("certificate", Verdict::Problem)]);
}

#[test]
fn nobody_minds_a_certificate_that_nobody_looks_at() {
    for (mode, verdict) in [(UpstreamTls::Require, Verdict::Warning), (UpstreamTls::VerifyFull, Verdict::Problem)] {
        let tls = Some(TlsShown { description: "TLSv1.3".to_owned(), not_after: Some(-DAY) });
        let entered = PgLogin { tls: mode, ..login(Ok(PgEntered { tls, ..PgEntered::default() })) };
        let findings = server(&facts(vec![entered], None), &PgWish { tls: mode, ..PgWish::default() }, 0);
        assert_eq!(find(&findings, "certificate").verdict, verdict, "{mode:?}");
    }
}

#[test]
fn what_was_not_tried_is_said() {
    let mut facts = facts(Vec::new(), None);
    facts.untried = 3;
    let findings = server(&facts, &PgWish::default(), 0);
    assert_eq!(verdicts(&findings), [("connect", Verdict::Good), ("login", Verdict::Unseen), ("login", Verdict::Unseen)]);
    facts.server = Some(Err("syntax error".to_owned()));
    assert_eq!(find(&server(&facts, &PgWish::default(), 0), "server").verdict, Verdict::Unseen);
    facts.reached.addresses[0].2 = Err("Connection refused".to_owned());
    assert_eq!(verdicts(&server(&facts, &PgWish::default(), 0)), [("connect", Verdict::Problem)], "the rest follows from that");
}

#[test]
fn hosts_of_a_list_belong_together() {
    use LoadBalance::{Disable, RoundRobin};
    let host = |name: &str| Upstream::Tcp { host: name.to_owned(), port: 5432 };
    for (roles, balance, verdict) in [
        (vec![Some(false), Some(true)], RoundRobin, Verdict::Warning),
        (vec![Some(false), Some(true)], Disable, Verdict::Good),
        (vec![Some(true), Some(true)], RoundRobin, Verdict::Good),
        (vec![Some(false), Some(false)], Disable, Verdict::Warning),
        (vec![Some(false), None], Disable, Verdict::Unseen),
        (vec![None, None], RoundRobin, Verdict::Unseen),
    ] {
        let names: Vec<String> = (0..roles.len()).map(|index| format!("h{index}")).collect();
        let servers: Vec<PgFacts> = names
            .iter()
            .zip(&roles)
            .map(|(name, role)| {
                let mut facts = facts(Vec::new(), role.map(|in_recovery| PgServer { in_recovery, ..server_with(&[]) }));
                facts.reached.upstream = host(name);
                facts
            })
            .collect();
        let list = HostList { entry: "app".to_owned(), hosts: names.iter().map(|name| host(name)).collect(), balance };
        assert_eq!(super::list(&list, &servers).verdict, verdict, "{roles:?} {balance:?}");
    }
}
