//! What facts of Redis servers mean, by tables of facts.

use sidepool_config::model::{RedisUser, Upstream};
use sidepool_config::secret::Secret;

use super::super::tests::{find, verdicts};
use super::*;
use crate::doctor::facts::{Clock, Reached, TlsShown};
use crate::doctor::finding::Verdict;
use crate::upstream::roster::Place;

fn plan() -> RedisPlan {
    let upstream = Upstream::Tcp { host: "127.0.0.1".to_owned(), port: 6379 };
    RedisPlan { name: "cache".to_owned(), config: Redis::at(upstream), connections: 20, replicas: 1 }
}

fn server_with(info: &[(&str, &str)], settings: &[(&'static str, &str)]) -> RedisServer {
    let info = info.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    RedisServer {
        info: Some(info),
        settings: settings.iter().map(|(name, value)| (*name, Some((*value).to_owned()))).collect(),
        user: Some("default".to_owned()),
        commands: vec![("PING, which asks", Ok(())), ("SUBSCRIBE to channels", Ok(()))],
        is_dry: true,
        speaks_resp3: Some(true),
        clock: Some(Clock { ahead: 0.0, doubt: 0.0 }),
        ..RedisServer::default()
    }
}

fn good() -> RedisServer {
    let info = [("redis_version", "7.0.15"), ("redis_mode", "standalone"), ("role", "master"), ("connected_clients", "3")];
    let settings = [
        ("maxclients", "10000"),
        ("maxmemory", "0"),
        ("maxmemory-policy", "noeviction"),
        ("timeout", "0"),
        ("client-output-buffer-limit", "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60"),
        ("protected-mode", "yes"),
    ];
    server_with(&info, &settings)
}

fn changed(change: impl FnOnce(&mut RedisServer)) -> RedisServer {
    let mut server = good();
    change(&mut server);
    server
}

fn info(name: &str, value: &str) -> RedisServer {
    changed(|server| {
        server.info.as_mut().unwrap().insert(name.to_owned(), value.to_owned());
    })
}

fn setting(name: &'static str, value: &str) -> RedisServer {
    changed(|server| {
        server.settings.insert(name, Some(value.to_owned()));
    })
}

#[test]
fn a_good_server_is_all_good() {
    let findings = entered(&good(), &plan());
    assert!(findings.iter().all(|finding| finding.verdict == Verdict::Good), "{findings:?}");
}

#[test]
fn each_fact_has_its_verdict() {
    use Verdict::{Good, Problem, Unseen, Warning};
    let denied = |what: &'static str| changed(|server| server.commands.push((what, Err("NOPERM".to_owned()))));
    for (server, check, verdict) in [
        (info("redis_version", "6.0.9"), "version", Warning),
        (info("redis_version", "5.0.1"), "version", Warning),
        (info("redis_version", "8.2.0"), "version", Good),
        (info("valkey_version", "8.1.0"), "version", Good),
        (info("redis_mode", "cluster"), "mode", Warning),
        (info("redis_mode", "sentinel"), "mode", Problem),
        (info("role", "slave"), "role", Warning),
        (setting("maxclients", "20"), "maxclients", Warning),
        (setting("maxclients", "19"), "maxclients", Problem),
        (setting("maxclients", "40"), "maxclients", Good),
        (changed(|server| drop(server.settings.remove("maxclients"))), "maxclients", Unseen),
        (setting("timeout", "30"), "timeout", Warning),
        (setting("timeout", "601"), "timeout", Good),
        (setting("client-output-buffer-limit", "normal 1048576 0 0 pubsub 33554432 8388608 60"), "output-buffers", Warning),
        (setting("client-output-buffer-limit", "normal 0 0 0 pubsub 1048576 0 0"), "output-buffers", Warning),
        (setting("client-output-buffer-limit", "normal 0 0 0 pubsub 0 0 0"), "output-buffers", Good),
        (setting("protected-mode", "no"), "protected-mode", Warning),
        (denied("PING, which asks"), "acl", Problem),
        (denied("SUBSCRIBE to channels"), "acl", Warning),
        (changed(|server| server.commands.clear()), "acl", Unseen),
        (changed(|server| server.speaks_resp3 = Some(false)), "resp3", Warning),
        (changed(|server| server.speaks_resp3 = None), "resp3", Unseen),
        (changed(|server| server.clock = Some(Clock { ahead: 9.0, doubt: 0.0 })), "clock", Warning),
    ] {
        let findings = entered(&server, &plan());
        assert_eq!(find(&findings, check).verdict, verdict, "{:?}", find(&findings, check));
    }
}

#[test]
fn replicas_of_sidepool_count() {
    let plan = RedisPlan { replicas: 600, ..plan() };
    let finding = room(&good(), &plan);
    assert_eq!(finding.verdict, Verdict::Problem);
    assert!(finding.found.contains("12000 connections") && finding.advice.contains("pool_size to 8"), "{finding:?}");
    let mut plan = RedisPlan { replicas: 100, connections: 5 * 20, ..plan };
    for name in ["a", "b", "c", "d", "e"] {
        let user = RedisUser { password: Secret::new("x"), upstream_user: None, upstream_password: None };
        plan.config.users.insert(name.to_owned(), user);
    }
    let finding = room(&good(), &plan);
    assert!(finding.found.contains("10000 connections") && finding.advice.contains("pool_size to 10 "), "each user has pools: {finding:?}");
}

#[test]
fn a_server_that_does_not_tell_is_not_at_fault() {
    let silent = RedisServer::default();
    let findings = entered(&silent, &plan());
    assert!(findings.iter().all(|finding| finding.verdict == Verdict::Unseen), "{findings:?}");
    let managed = RedisServer { settings: Default::default(), ..good() };
    let with_info = changed(|server| {
        server.settings.clear();
        let info = server.info.as_mut().unwrap();
        info.insert("maxclients".to_owned(), "65000".to_owned());
        info.insert("maxmemory_policy".to_owned(), "volatile-lru".to_owned());
    });
    assert_eq!(find(&entered(&managed, &plan()), "maxclients").verdict, Verdict::Unseen);
    assert_eq!(find(&entered(&with_info, &plan()), "maxclients").verdict, Verdict::Good, "INFO tells it, too");
    assert!(find(&entered(&with_info, &plan()), "maxmemory-policy").found.contains("volatile-lru"));
}

#[test]
fn advice_for_a_user_names_what_it_lacks() {
    let server = changed(|server| server.commands.push(("PUBLISH to channels", Err("NOPERM".to_owned()))));
    let finding = commands(&server);
    assert_eq!(finding.advice, "there: ACL SETUSER default +publish &sidepool:*");
    let server = changed(|server| server.commands.push(("SCRIPT EXISTS, for EVALSHA on new connections", Err("NOPERM".to_owned()))));
    assert_eq!(commands(&server).advice, "there: ACL SETUSER default +script|exists &sidepool:*", "no wider than needed");
}

#[test]
fn a_password_makes_an_open_door_no_finding() {
    let mut plan = plan();
    plan.config.password = Some(Secret::new("x"));
    assert_eq!(protection(&setting("protected-mode", "no"), &plan.config).unwrap().verdict, Verdict::Good);
}

#[test]
fn logins_and_tls_come_first() {
    let place = Place::Tcp("127.0.0.1:6379".parse().unwrap());
    let reached = Reached { upstream: plan().config.upstream, name: None, addresses: vec![(place, Duration::ZERO, Ok(()))] };
    let denied = |kind| Denied { kind, code: None, words: "TLS with Redis failed: UnknownIssuer".to_owned() };
    let whole = good();
    let entered = Some((Duration::ZERO, Err(denied(ConnectFaultKind::Tls))));
    let mut facts = RedisFacts { reached, entered, shown: None, others: Vec::new(), untried: 0 };
    facts.shown = Some(Ok(TlsShown { description: "TLSv1.3".to_owned(), not_after: Some(5) }));
    let first = ("connect", Verdict::Good);
    assert_eq!(verdicts(&server(&facts, &plan(), 0)), [first, ("tls", Verdict::Problem), ("certificate", Verdict::Problem)]);
    facts.entered = Some((Duration::ZERO, Err(denied(ConnectFaultKind::Auth))));
    assert_eq!(verdicts(&server(&facts, &plan(), 0)), [first, ("login", Verdict::Problem)]);
    facts.entered = Some((Duration::ZERO, Ok(whole)));
    let findings = server(&facts, &plan(), 0);
    assert_eq!(find(&findings, "login").verdict, Verdict::Good);
    assert_eq!(find(&findings, "tls").verdict, Verdict::Good, "on this machine");
    let lacking = changed(|server| server.commands.push(("PUBLISH to channels", Err("NOPERM".to_owned()))));
    facts.others = vec![("eve".to_owned(), Ok(lacking)), ("bob".to_owned(), Err(denied(ConnectFaultKind::Auth)))];
    facts.untried = 3;
    let findings = server(&facts, &plan(), 0);
    let last = [("login", Verdict::Good), ("acl", Verdict::Warning), ("login", Verdict::Problem), ("login", Verdict::Unseen)];
    assert!(verdicts(&findings).ends_with(&last), "{findings:?}");
    assert!(findings.iter().any(|finding| finding.found.starts_with("as bob: ") && finding.why.contains("this user")));
    assert!(findings.last().unwrap().found.contains("attack"));
    facts.others.push(("carl".to_owned(), Err(denied(ConnectFaultKind::Timeout))));
    assert!(server(&facts, &plan(), 0).last().unwrap().found.contains("as long"));
    facts.others.clear();
    assert!(server(&facts, &plan(), 0).last().unwrap().found.contains("the same would happen"));
}
