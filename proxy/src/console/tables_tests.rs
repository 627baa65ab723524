//! The rows of the lists, column by column.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::*;
use crate::console::rows::read;
use crate::console::show::Show;
use crate::observe::record::PoolRecord;
use crate::pool::core::Core;
use crate::pool::limits::Limits;
use crate::pool::snapshot::Snapshot;
use crate::session::postgres::route::Purpose;

const CONSOLE: ConsoleFacts = ConsoleFacts { present: 2, logins: 5, queries: 9 };

fn snapshot() -> Snapshot {
    let now: Instant = crate::clock::now();
    let limits = Limits::from(&sidepool_config::model::PoolLimits::default());
    Snapshot {
        connecting: 1,
        idle: 2,
        leased: 4,
        resetting: 8,
        probing: 16,
        waiters: 3,
        oldest_wait: Some(Duration::from_micros(5_000_007)),
        ..Core::new(now, limits, 0).snapshot(now)
    }
}

fn pools_of(keys: &[(&str, &str, &str)]) -> Pools {
    let facts = |(entry, dbname, user): &(&str, &str, &str)| {
        let key = PoolKey { entry: (*entry).into(), dbname: (*dbname).into(), user: (*user).into(), purpose: Purpose::Clients };
        let record = PoolRecord::default();
        record.shift(PoolGauge::Clients, 13);
        let facts = PoolFacts {
            key: key.clone(),
            mode: PoolMode::Transaction,
            snapshot: snapshot(),
            numbers: record.numbers(),
            cancels: 2,
            waiting_cancels: 5,
            being_cancelled: 1,
        };
        (key, facts)
    };
    keys.iter().map(facts).collect()
}

fn config() -> Postgres {
    let tcp = |host: &str| Upstream::Tcp { host: host.to_owned(), port: 5433 };
    let mut app = PgDatabase::at(tcp("a"));
    app.hosts.push(tcp("b"));
    app.user = Some("root".to_owned());
    app.max_db_connections = 7;
    app.limits.reserve_pool_size = 6;
    let socket = PgDatabase { names_its_mode: true, ..PgDatabase::at(Upstream::Unix("/run/pg/.s.PGSQL.5432".into())) };
    let mut users: BTreeMap<String, PgUser> = BTreeMap::new();
    users.insert("bob".to_owned(), PgUser { pool_size: Some(4), pool_mode: Some(PoolMode::Session), ..PgUser::default() });
    Postgres {
        listen: vec![Listen::Unix(PathBuf::from("/tmp/.s.PGSQL.6543")), Listen::Tcp("127.0.0.1:7000".parse().unwrap())],
        databases: [("app".to_owned(), app), ("zoo".to_owned(), socket), ("*".to_owned(), PgDatabase::at(tcp("c")))].into(),
        users,
        max_db_client_connections: 50,
        ..Postgres::default()
    }
}

fn named(show: Show, row: &[Option<String>]) -> BTreeMap<&'static str, Option<&str>> {
    show.columns().iter().map(|column| column.name).zip(row.iter().map(Option::as_deref)).collect()
}

#[test]
fn a_pool_has_its_numbers_in_the_right_columns() {
    let pools = pools_of(&[("app", "db", "root"), ("zoo", "zoo", "bob")]);
    let rows = read(Show::Pools, |rows| super::pools(rows, &config(), &pools, CONSOLE));
    let databases: Vec<_> = rows.iter().map(|row| row[0].as_deref().unwrap()).collect();
    assert_eq!(databases, ["app", "pgbouncer", "zoo"]);
    let wanted = ["app", "root", "10", "3", "2", "5", "3", "2", "1", "2", "0", "24", "1", "5", "7", "transaction", "round-robin"];
    assert_eq!(rows[0], wanted.map(|value| Some(value.to_owned())));
    let console = named(Show::Pools, &rows[1]);
    assert_eq!((console["user"], console["cl_active"], console["pool_mode"]), (Some("pgbouncer"), Some("2"), Some("statement")));
    assert_eq!(rows[2][16], None);
}

#[test]
fn databases_are_those_configured_used_and_ours() {
    let mut switches = Switches::default();
    switches.paused_databases.insert("app".into());
    switches.disabled_databases.insert("zoo".into());
    let pools = pools_of(&[("app", "db", "root"), ("*", "auto", "bob")]);
    let rows = read(Show::Databases, |rows| databases(rows, &config(), &switches, &pools, CONSOLE));
    let rows: Vec<_> = rows.iter().map(|row| named(Show::Databases, row)).collect();
    assert_eq!(rows.iter().map(|row| row["name"].unwrap()).collect::<Vec<_>>(), ["app", "auto", "pgbouncer", "zoo"]);
    let app = &rows[0];
    let wanted = [
        ("host", Some("a,b")),
        ("port", Some("5433")),
        ("database", Some("app")),
        ("force_user", Some("root")),
        ("pool_size", Some("20")),
        ("min_pool_size", Some("0")),
        ("reserve_pool_size", Some("6")),
        ("server_lifetime", Some("3600")),
        ("pool_mode", None),
        ("load_balance_hosts", Some("round-robin")),
        ("max_connections", Some("7")),
        ("current_connections", Some("31")),
        ("max_client_connections", Some("50")),
        ("current_client_connections", Some("13")),
        ("paused", Some("1")),
        ("disabled", Some("0")),
    ];
    for (column, value) in wanted {
        assert_eq!(app[column], value, "{column}");
    }
    assert_eq!((rows[1]["host"], rows[1]["database"]), (Some("c"), Some("auto")));
    assert_eq!((rows[2]["host"], rows[2]["port"], rows[2]["current_client_connections"]), (None, Some("6543"), Some("2")));
    assert_eq!((rows[3]["host"], rows[3]["port"], rows[3]["disabled"]), (Some("/run/pg"), Some("5432"), Some("1")));
    assert_eq!((rows[3]["load_balance_hosts"], rows[3]["force_user"], rows[3]["pool_mode"]), (None, None, Some("transaction")));
}

#[test]
fn users_have_blank_padded_sizes() {
    let pools = pools_of(&[("zoo", "zoo", "bob")]);
    let logged_in = BTreeMap::from([("bob".into(), 3)]);
    let rows = read(Show::Users, |rows| users(rows, &config(), &pools, &logged_in));
    let bob = ["bob", "        4", "", "session", "0", "31", "0", "3"];
    assert_eq!(rows[0], bob.map(|value| Some(value.to_owned())));
    let ours = ["pgbouncer", "", ""].map(|value| Some(value.to_owned()));
    assert_eq!((&rows[1][..3], &rows[1][3]), (&ours[..], &None));
}

#[test]
fn lists_are_counted_under_their_names() {
    let counts = Counts {
        databases: 1,
        users: 2,
        peers: 3,
        pools: 4,
        clients: 5,
        login_clients: 6,
        free_clients: 7,
        servers: 8,
        dns_names: 9,
        dns_pending: 1,
    };
    let rows = read(Show::Lists, |rows| lists(rows, counts));
    let rows: Vec<_> = rows.iter().map(|row| (row[0].as_deref().unwrap(), row[1].as_deref().unwrap())).collect();
    let wanted = [
        ("databases", "1"),
        ("users", "2"),
        ("peers", "3"),
        ("pools", "4"),
        ("peer_pools", "3"),
        ("free_clients", "7"),
        ("used_clients", "5"),
        ("login_clients", "6"),
        ("free_servers", "0"),
        ("used_servers", "8"),
        ("dns_names", "9"),
        ("dns_zones", "0"),
        ("dns_queries", "1"),
        ("dns_pending", "1"),
    ];
    assert_eq!(rows, wanted);
}

#[test]
fn the_state_is_one_of_three() {
    let shown = |paused, suspended| {
        let switches = Switches { paused, suspended, ..Switches::default() };
        let rows = read(Show::State, |rows| state(rows, &switches));
        rows.iter().map(|row| row[1].clone().unwrap()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!([shown(false, false), shown(true, false), shown(false, true)], ["yes no no", "no yes no", "no no yes"]);
}

#[test]
fn settings_peers_and_memory() {
    let setting = Row { key: "a", value: Some("b".to_owned()), default: None, changeable: false };
    let rows = read(Show::Config, |rows| super::config(rows, &[setting]));
    assert_eq!(rows, [vec![Some("a".to_owned()), Some("b".to_owned()), None, Some("no".to_owned())]]);
    let mut config = config();
    let upstream = Upstream::Tcp { host: "p".to_owned(), port: 6432 };
    config.peers.insert(3, sidepool_config::model::Peer { upstream, pool_size: None });
    let rows = read(Show::Peers, |rows| peers(rows, &config));
    assert_eq!(rows, [["3", "p", "6432", "20"].map(|value| Some(value.to_owned())).to_vec()]);
    let rows = read(Show::PeerPools, |rows| peer_pools(rows, &config, |_| LineNumbers { active: 2, waiting: 7 }));
    assert_eq!(rows, [["3", "2", "7", "2", "0"].map(|value| Some(value.to_owned())).to_vec()]);
    let hosts = [("db".to_owned(), Duration::from_secs(15), vec!["10.0.0.1".parse().unwrap(), "::1".parse().unwrap()])];
    let rows = read(Show::DnsHosts, |rows| dns_hosts(rows, &hosts));
    assert_eq!(rows, [["db", "15", "10.0.0.1:0,[::1]:0"].map(|value| Some(value.to_owned())).to_vec()]);
    let rows = read(Show::Mem, |rows| mem(rows, &[("x", 10, 3)]));
    assert_eq!(rows, [["x", "10", "3", "0", "30"].map(|value| Some(value.to_owned())).to_vec()]);
}
