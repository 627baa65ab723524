//! The same ini file, the same clients, the same console commands: once through Debian's PgBouncer and once through sidepool. Every line of an
//! answer that is not the same has to stand in [`differences::DIFFERENCES`], with the reason; one that stands there and is the same is an error, too.

#[path = "pgbouncer_comparison/differences.rs"]
mod differences;
#[path = "pgbouncer_comparison/rendering.rs"]
mod rendering;
#[path = "pgbouncer_comparison/scenarios.rs"]
mod scenarios;

use std::collections::BTreeMap;

use sidepool_tests::conformance::proves;
use sidepool_tests::ini::{IniPooler, Program};
use sidepool_tests::postgres::cancel::runs;
use sidepool_tests::postgres::frame::{cancel, copy_data, copy_done, message, query, ssl_request};
use sidepool_tests::postgres::{Cluster, Wire};
use similar::{ChangeTag, TextDiff};

use self::differences::DIFFERENCES;
use self::rendering::{Detail, render};
use self::scenarios::{HBA, INI, SCENARIOS, Scenario, USERS};

/// Lists of which the columns are PgBouncer's; no difference of theirs is allowed.
const LISTS: &[&str] = &[
    "command SHOW DNS_HOSTS",
    "command SHOW DNS_ZONES",
    "command SHOW FDS",
    "column SHOW DNS_HOSTS.hostname",
    "column SHOW DNS_HOSTS.ttl",
    "column SHOW DNS_HOSTS.addrs",
    "column SHOW DNS_ZONES.zonename",
    "column SHOW DNS_ZONES.serial",
    "column SHOW DNS_ZONES.count",
    "column SHOW FDS.fd",
    "column SHOW FDS.task",
    "column SHOW FDS.user",
    "column SHOW FDS.database",
    "column SHOW FDS.addr",
    "column SHOW FDS.port",
    "column SHOW FDS.cancel",
    "column SHOW FDS.link",
    "column SHOW FDS.client_encoding",
    "column SHOW FDS.std_strings",
    "column SHOW FDS.datestyle",
    "column SHOW FDS.timezone",
    "column SHOW FDS.password",
    "column SHOW FDS.scram_client_key",
    "column SHOW FDS.scram_server_key",
];

/// Settings that the scenarios use, each to an effect that clients see.
const SETTINGS: &[&str] = &[
    "setting auth_type",
    "setting auth_file",
    "setting auth_hba_file",
    "setting auth_query",
    "setting auth_user",
    "setting admin_users",
    "setting stats_users",
    "setting application_name_add_host",
    "setting client_idle_timeout",
    "setting client_login_timeout",
    "setting default_pool_size",
    "setting disable_pqexec",
    "setting idle_transaction_timeout",
    "setting ignore_startup_parameters",
    "setting max_client_conn",
    "setting max_db_connections",
    "setting max_user_connections",
    "setting pool_mode",
    "setting query_timeout",
    "setting query_wait_timeout",
    "setting reserve_pool_size",
    "setting reserve_pool_timeout",
    "setting server_reset_query",
    "setting server_reset_query_always",
    "setting [databases] application_name",
    "setting [databases] client_encoding",
    "setting [databases] connect_query",
    "setting [databases] datestyle",
    "setting [databases] dbname",
    "setting [databases] host",
    "setting [databases] password",
    "setting [databases] pool_mode",
    "setting [databases] port",
    "setting [databases] timezone",
    "setting [databases] user",
    "setting [users] pool_mode",
];

#[tokio::test(flavor = "multi_thread")]
async fn sidepool_answers_as_pgbouncer_does() {
    let mut proof = proves(SETTINGS);
    LISTS.iter().for_each(|item| proof.add(item));
    let cluster = Cluster::start().await;
    cluster.sql("CREATE TABLE note (id int, body text); GRANT ALL ON note TO PUBLIC").await;
    let only = std::env::var("SIDEPOOL_TESTS_SCENARIO").ok();
    let (mut unexpected, mut seen) = (Vec::new(), vec![false; DIFFERENCES.len()]);
    for scenario in SCENARIOS.iter().filter(|scenario| only.as_ref().is_none_or(|only| scenario.name.contains(only.as_str()))) {
        let theirs = play(Program::Pgbouncer, scenario, &cluster).await;
        let ours = play(Program::Sidepool, scenario, &cluster).await;
        if only.is_some() {
            println!("=== {}\n--- PgBouncer\n{theirs}\n--- sidepool\n{ours}", scenario.name);
        }
        rendering::messages_of_both(&theirs, &ours).iter().for_each(|item| proof.add(item));
        let ours = rendering::with_codes_of(&theirs, &ours);
        for change in TextDiff::from_lines(&theirs, &ours).iter_all_changes() {
            let sign = match change.tag() {
                ChangeTag::Equal => continue,
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
            };
            let line = format!("{sign} {}", change.value().trim_end());
            match DIFFERENCES.iter().position(|difference| difference.covers(scenario.name, &line)) {
                Some(index) => seen[index] = true,
                None => unexpected.push(format!("{}: {line}", scenario.name)),
            }
        }
    }
    assert!(unexpected.is_empty(), "differences that nobody has justified:\n{}", unexpected.join("\n"));
    if only.is_none() {
        let gone: Vec<_> = DIFFERENCES.iter().zip(seen).filter(|(_, seen)| !seen).map(|(difference, _)| difference.describe()).collect();
        assert!(gone.is_empty(), "differences that are none any more: {gone:#?}");
    }
}

/// Everything that a scenario's clients get, as text.
async fn play(program: Program, scenario: &Scenario, cluster: &Cluster) -> String {
    let ini = INI.replace("MORE_SETTINGS", scenario.settings).replace("SERVER_PORT", &cluster.port().to_string());
    let pooler = IniPooler::start_with(program, &ini, USERS, &[("hba.conf", HBA)]).await;
    let mut clients: BTreeMap<&str, Wire> = BTreeMap::new();
    let mut text = String::new();
    for line in scenario.script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let answer = act(line, &pooler, cluster, &mut clients).await;
        text.push_str(&format!("> {line}\n{}", pooler.without_ports(&answer, cluster.port())));
    }
    text
}

/// One line of a script.
async fn act<'s>(line: &'s str, pooler: &IniPooler, cluster: &Cluster, clients: &mut BTreeMap<&'s str, Wire>) -> String {
    let (name, verb, argument) = words(line);
    if argument == "connect" {
        clients.insert(name, Wire::connect(pooler.port()).await);
        return String::new();
    }
    if verb == "=" || verb == ":=" {
        let words: Vec<(&str, &str)> = rendering::parameters_of(argument);
        let password = words.iter().find(|(name, _)| *name == "password").map_or("", |(_, value)| value);
        let parameters: Vec<(&str, &str)> = words.into_iter().filter(|(name, _)| *name != "password").collect();
        return match Wire::try_login(pooler.port(), &parameters, password).await {
            Ok(wire) => {
                let reported = rendering::parameters(&wire.parameters);
                clients.insert(name, wire);
                if verb == ":=" { reported } else { "welcome\n".to_owned() }
            }
            Err(error) => render(&[error], Detail::Whole),
        };
    }
    let Some(wire) = clients.get_mut(name) else { return "is not logged in\n".to_owned() };
    match verb {
        "query" => render(&wire.query(argument).await, Detail::Whole),
        "columns" => render(&wire.query(argument).await, Detail::Columns),
        "keys" => render(&wire.query(argument).await, Detail::FirstColumn),
        "send" => {
            wire.send(&query(argument)).await;
            String::new()
        }
        "extended" => render(&wire.ask(&rendering::extended(argument)).await, Detail::Whole),
        "batch" => render(&wire.ask(&rendering::batch(argument)).await, Detail::Whole),
        "copy" => {
            wire.send(&[query(argument), copy_data(b"1\tone\n"), copy_data(b"2\ttwo\n"), copy_done()].concat()).await;
            render(&wire.until_ready().await, Detail::Whole)
        }
        "tag" => {
            wire.send(&message(argument.as_bytes()[0], b"x")).await;
            render(&wire.until_closed().await, Detail::Whole)
        }
        "ssl" => {
            wire.send(&ssl_request()).await;
            format!("answer {:?}\n", String::from_utf8_lossy(&wire.read_exactly(1).await))
        }
        "read" => render(&wire.until_ready().await, Detail::Whole),
        "runs" => {
            runs(cluster, argument).await;
            String::new()
        }
        "silent" => format!("silent: {}\n", wire.is_silent().await),
        "closed" => render(&wire.until_closed().await, Detail::Whole),
        "leave" => {
            drop(clients.remove(name));
            String::new()
        }
        "cancel" => {
            let (process, key) = wire.cancel_key.clone().expect("a session has a key");
            let mut other = Wire::connect(pooler.port()).await;
            other.send(&cancel(process, &key)).await;
            render(&other.until_closed().await, Detail::Whole)
        }
        other => panic!("{line}: nobody can {other}"),
    }
}

fn words(line: &str) -> (&str, &str, &str) {
    let (name, rest) = line.split_once(' ').unwrap_or_else(|| panic!("{line}: NAME VERB [TEXT]"));
    let (verb, argument) = rest.split_once(' ').unwrap_or((rest, ""));
    (name, verb, argument)
}
