//! Tests of reading `sidepool.toml`: good files, and broken ones with every line that has to be named.

use std::fs;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use crate::file::{Loaded, Rejected, load, load_text};
use crate::model::{AuthType, Listen, PoolMode, Upstream, UpstreamTls, Workers};
use crate::problem::Place;

fn read(text: &str) -> Result<Loaded, Rejected> {
    load_text(text, Path::new("sidepool.toml"), &|name| (name == "PG_PASSWORD").then(|| "hunter2".to_owned()))
}

/// The problems of a text, each as `LINE SEVERITY KEY: MESSAGE` would be read from its display.
fn problems(text: &str) -> Vec<String> {
    match read(text) {
        Ok(loaded) => loaded.warnings.iter().map(ToString::to_string).collect(),
        Err(rejected) => rejected.problems.iter().map(ToString::to_string).collect(),
    }
}

const FULL: &str = r#"
workers = 2
[admin]
listen = "off"
[drain]
accept_for = "5s"
timeout = "30s"
[log]
level = "debug"
format = "json"
connections = true
[postgres]
listen = ["127.0.0.1:6432", "unix:/run/sidepool"]
auth_type = "md5"
pool_mode = "session"
default_pool_size = 30
min_pool_size = 2
query_wait_timeout = "0s"
[postgres.databases.app]
host = "db.internal"
port = 5433
dbname = "prod"
user = "app"
password = { env = "PG_PASSWORD" }
sslmode = "require"
pool_mode = "transaction"
pool_size = 40
server_lifetime = "2h"
[postgres.databases."*"]
host = "/var/run/postgresql"
[postgres.users.alice]
password = "md5aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
pool_size = 5
[redis.cache]
listen = "unix:/run/sidepool/redis.sock"
url = "rediss://:hunter2@cache:6390/2"
shared_connections = 3
stream_threshold = "128KiB"
[redis.cache.users.web]
password = "hunter2"
upstream_user = "web"
upstream_password = "hunter2"
[redis.queue]
host = "queue.internal"
"#;

#[test]
fn everything_that_can_be_said_is_read() {
    let loaded = read(FULL).unwrap_or_else(|rejected| panic!("{rejected}"));
    assert_eq!(loaded.warnings, []);
    let config = loaded.config;
    assert_eq!((config.workers, config.admin.listen), (Workers::Count(2), None));
    assert_eq!((config.drain.accept_for, config.drain.timeout), (Duration::from_secs(5), Duration::from_secs(30)));
    let postgres = config.postgres.unwrap();
    assert_eq!(postgres.listen[1], Listen::Unix("/run/sidepool/.s.PGSQL.6432".into()));
    assert_eq!(postgres.auth_type, AuthType::Md5);
    let app = &postgres.databases["app"];
    assert_eq!(app.hosts[0], Upstream::Tcp { host: "db.internal".into(), port: 5433 });
    assert_eq!((app.dbname.as_deref(), app.user.as_deref()), (Some("prod"), Some("app")));
    assert_eq!(app.password.as_ref().map(|secret| secret.reveal()), Some("hunter2"));
    assert_eq!((app.tls, app.pool_mode), (UpstreamTls::Require, PoolMode::Transaction));
    assert_eq!((app.limits.pool_size, app.limits.min_pool_size), (40, 2), "its own, and the one of [postgres]");
    assert_eq!((app.limits.server_lifetime, app.limits.query_wait_timeout), (Duration::from_secs(7200), Duration::ZERO));
    let any = &postgres.databases["*"];
    assert_eq!(any.hosts[0], Upstream::Unix("/var/run/postgresql/.s.PGSQL.5432".into()));
    assert_eq!((any.limits.pool_size, any.pool_mode), (30, PoolMode::Session));
    assert_eq!(any.limits_for(postgres.users.get("alice")).pool_size, 5);
    let cache = &config.redis["cache"];
    assert_eq!(cache.upstream, Upstream::Tcp { host: "cache".into(), port: 6390 });
    assert_eq!((cache.tls, cache.database, cache.shared_connections), (UpstreamTls::VerifyFull, 2, 3));
    assert_eq!((cache.stream_threshold_bytes, cache.client_output_buffer_limit.normal.hard_bytes), (128 << 10, 64 << 20));
    assert_eq!(cache.users["web"].upstream_user.as_deref(), Some("web"));
    assert_eq!(config.redis["queue"].listen[0].to_string(), "127.0.0.1:6380");
}

#[test]
fn all_problems_come_at_once_each_with_its_line_and_key() {
    let text = r#"worker = 1
[admin]
listen = "9127"
[drain]
timeout = 25
[log]
level = "inf"
connections = "yes"
[postgres]
listen = ["127.0.0.1:6432",
          "db.example:1"]
pool_mod = "session"
pool_mode = "transacton"
max_client_conn = 0
query_wait_timeout = "10 parsecs"
server_connect_timeout = "0s"
[postgres.databases.app]
pool_sizee = 5
min_pool_size = "3"
password = { fil = "x" }
[postgres.databases.b]
host = "db:5432"
url = "postgres://u:hunter2@h/d"
[postgres.databases.c]
url = "postgres://u:hun/ter2@h/d"
[postgres.users]
alice = "hunter2"
[redis]
host = "cache"
[redis.cache]
hosst = "cache"
stream_threshold = 65536
database = -1
"#;
    let expected = [
        (1, "worker", "unknown key; did you mean \"workers\"?"),
        (3, "admin.listen", "write \"127.0.0.1:9127\""),
        (5, "drain.timeout", "write \"25s\" or \"25ms\""),
        (7, "log.level", "did you mean \"info\"?"),
        (8, "log.connections", "expected true or false, found a string"),
        (11, "postgres.listen", "not an IP address"),
        (12, "postgres.pool_mod", "did you mean \"pool_mode\"?"),
        (13, "postgres.pool_mode", "did you mean \"transaction\"?"),
        (14, "postgres.max_client_conn", "must be from 1 to 1000000"),
        (15, "postgres.query_wait_timeout", "the units are"),
        (16, "postgres.server_connect_timeout", "more than zero"),
        (17, "postgres.databases.app", "says no server"),
        (18, "postgres.databases.app.pool_sizee", "did you mean \"pool_size\"?"),
        (19, "postgres.databases.app.min_pool_size", "without quotes"),
        (20, "postgres.databases.app.password", "did you mean \"file\"?"),
        (22, "postgres.databases.b.host", "said here and in url"),
        (25, "postgres.databases.c.url", "%2F"),
        (27, "postgres.users.alice", "expected the section [postgres.users.alice]"),
        (29, "redis.host", "[redis.NAME]"),
        (30, "redis.cache", "says no server"),
        (31, "redis.cache.hosst", "did you mean \"host\"?"),
        (32, "redis.cache.stream_threshold", "write \"65536B\""),
        (33, "redis.cache.database", "must be from 0"),
    ];
    let found = problems(text);
    for (line, key, message) in expected {
        let start = format!("sidepool.toml:{line}: {key}: ");
        assert!(found.iter().any(|found| found.starts_with(&start) && found.contains(message)), "{start}{message}\n{}", found.join("\n"));
    }
    assert!(!found.iter().any(|found| found.contains("hunter2") || found.contains("hun/")), "{}", found.join("\n"));
    let lines: Vec<_> = read(text).unwrap_err().problems.iter().map(|problem| problem.place.clone()).collect();
    assert!(lines.is_sorted(), "in the order of the file");
}

#[test]
fn relations_are_checked_where_they_were_said() {
    const PG: &str = "[postgres]\n[postgres.users.u]\npassword = \"x\"\n[postgres.databases.a]\nhost = \"h\"\n";
    let table = [
        (
            format!("{PG}pool_size = 5\nmin_pool_size = 6\n"),
            ":7: postgres.databases.a.min_pool_size: min_pool_size (6) is more than pool_size (5)",
        ),
        (PG.replace("[postgres]\n", "[postgres]\nmin_pool_size = 21\n"), ":2: postgres.min_pool_size: min_pool_size (21)"),
        (
            format!("{PG}server_connect_backoff = \"1m\"\n"),
            ":6: postgres.databases.a.server_connect_backoff: server_connect_backoff (1m) is longer",
        ),
        (format!("{PG}password = \"x\"\n"), ":6: postgres.databases.a.password: a password without its user"),
        (PG.replace("[postgres]", "[postgres]\nauth_type = \"any\""), ":5: postgres.databases.a: auth_type \"any\""),
        (
            PG.replace("[postgres]", "[postgres]\nlisten = \"0.0.0.0:9127\""),
            ":2: postgres.listen: 0.0.0.0:9127 is taken by admin.listen (127.0.0.1:9127)",
        ),
        (
            PG.replace("[postgres]", "[postgres]\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:1\"]"),
            ":2: postgres.listen: 127.0.0.1:1 is in the list twice",
        ),
        (PG.replace("databases.a", "databases.pgbouncer"), ":4: postgres.databases.pgbouncer: this name is reserved"),
        (format!("[drain]\naccept_for = \"1m\"\n{PG}"), ":2: drain.accept_for: accept_for (1m) is longer than timeout (25s)"),
        ("[postgres]\n".into(), ":1: postgres: has no databases"),
        ("[redis.a]\nhost = \"h\"\n[redis.b]\nhost = \"h\"\n".into(), ":3: redis.b.listen: 127.0.0.1:6380 is taken by redis.a.listen"),
        ("[redis.a]\nhost = \"h\"\nshared_connections = 20\n".into(), ":3: redis.a.shared_connections: pool_size (20) must be more than"),
        (
            "[redis.a]\nhost = \"h\"\nstream_threshold = \"1GiB\"\n".into(),
            ":3: redis.a.stream_threshold: stream_threshold (1GiB) is more than",
        ),
        ("[redis.a]\nurl = \"redis://u@h\"\n".into(), ":2: redis.a.url: a user without its password"),
        ("[redis.a]\nhost = \"h\"\nsslmode = \"prefer\"\n".into(), ":3: redis.a.sslmode: a Redis server cannot be asked"),
        ("[redis.a]\nhost = \"h\"\n[redis.a.users.u]\n".into(), ":3: redis.a.users.u: has no password"),
        (
            "[redis.a]\nhost = \"h\"\n[redis.a.users.u]\npassword = \"p\"\nupstream_user = \"x\"".into(),
            ":5: redis.a.users.u.upstream_user: ",
        ),
        (
            format!("[admin]\nallowed_hosts = [\n\"a.example\",\n\"a.example:8443\"]\n{PG}"),
            ":4: admin.allowed_hosts: \"a.example:8443\" has a port",
        ),
        (
            format!("[admin]\nallowed_hosts = \"https://a.example\"\n{PG}"),
            ":2: admin.allowed_hosts: this value is a URL: write the name of the host alone",
        ),
        (format!("[admin]\nallowed_hosts = [\"*.a.example\"]\n{PG}"), ":2: admin.allowed_hosts: \"*.a.example\" is a pattern"),
        (format!("[admin]\nallowed_hosts = [\"a example\"]\n{PG}"), ":2: admin.allowed_hosts: \"a example\" is no name of a host"),
        (String::new(), "sidepool.toml: nothing to do"),
    ];
    for (text, expected) in table {
        assert!(read(&text).is_err(), "{text}");
        let found = problems(&text);
        assert!(found.len() == 1 && found[0].contains(expected), "{expected}\n{}\n{text}", found.join("\n"));
    }
}

#[test]
fn what_is_only_odd_is_a_warning() {
    let table = [
        (
            "[postgres]\nlisten = \"*:1\"\nauth_type = \"trust\"\n[postgres.users.u]\n[postgres.databases.a]\nhost = \"h\"\n",
            ":2: warning: postgres.listen: 0.0.0.0:1 is reachable",
        ),
        ("[postgres]\n[postgres.databases.a]\nhost = \"h\"\n", ":1: warning: postgres: has no users"),
        ("[postgres.users.u]\n[postgres.databases.a]\nhost = \"h\"\n", ":1: warning: postgres.users.u: user \"u\" has no password"),
        (
            "[postgres.users.u]\npassword = \"md500000000000000000000000000000000\"\n[postgres.databases.a]\nhost = \"h\"\n",
            ":2: warning: postgres.users.u.password: the secret of user \"u\" is an MD5",
        ),
        ("[redis.a]\nlisten = \"0.0.0.0:1\"\nurl = \"redis://:pw@h\"\n", ":2: warning: redis.a.listen: 0.0.0.0:1 is reachable"),
        ("[redis.a]\nurl = \"redis://h?protocol=3\"\n", ":2: warning: redis.a.url: parameters of the URL"),
    ];
    for (text, expected) in table {
        assert!(read(text).is_ok(), "{text}");
        let found = problems(text);
        assert!(found.len() == 1 && found[0].contains(expected), "{expected}\n{}", found.join("\n"));
    }
}

#[test]
fn keys_in_the_wrong_section_are_sent_home() {
    let found = problems(
        "[postgres]\npool_size = 3\npkt_buf = 4096\nlisten_addr = \"*\"\n[postgres.databases.a]\nhost = \"h\"\nworkers = 3\n[databases.a]\nhost=\"h\"",
    );
    let has = |text: &str| assert!(found.iter().any(|problem| problem.contains(text)), "{text}\n{}", found.join("\n"));
    has("postgres.pool_size: unknown key; did you mean \"default_pool_size\"?");
    has("postgres.pkt_buf: unknown key; a setting of PgBouncer that");
    has("postgres.listen_addr: unknown key; a setting of PgBouncer; here it is part of listen");
    has("workers: unknown key; it belongs at the top of the file");
    has("databases: unknown key; it belongs in [postgres]");
}

#[test]
fn broken_lines_do_not_hide_the_other_problems_nor_invent_any() {
    let found = problems("workers == 2\n[redis.a]\nhost = cache\nport = \"x\"\npool_size = 0\npool_size = 1\n");
    let starts: Vec<&str> = found.iter().map(|problem| problem.split(": ").nth(1).unwrap_or_default()).collect();
    assert!(found[1].ends_with("; text is written in quotes"), "{}", found.join("\n"));
    assert_eq!(starts, ["not TOML", "not TOML", "redis.a.port", "redis.a.pool_size", "not TOML"], "{}", found.join("\n"));
}

#[test]
fn secrets_come_from_files_beside_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sidepool.toml");
    fs::create_dir(dir.path().join("secrets")).unwrap();
    fs::write(dir.path().join("secrets/redis"), "hunter2\n").unwrap();
    fs::write(dir.path().join("users.txt"), "\"bob\" \"hunter2\"\n\"carol\" \"x\"\n").unwrap();
    let text = "[postgres]\nauth_file = \"users.txt\"\n[postgres.users.bob]\npool_size = 3\n[postgres.users.carol]\npassword = \"own\"\n\
        [postgres.databases.a]\nhost = \"h\"\n[redis.a]\nhost = \"h\"\npassword = { file = \"secrets/redis\" }\n";
    fs::write(&path, text).unwrap();
    let loaded = load(&path, &|_| None).unwrap();
    assert_eq!(loaded.config.redis["a"].password.as_ref().unwrap().reveal(), "hunter2", "without the newline");
    let users = &loaded.config.postgres.as_ref().unwrap().users;
    assert_eq!((users["bob"].password.as_ref().unwrap().reveal(), users["bob"].pool_size), ("hunter2", Some(3)));
    assert_eq!(users["carol"].password.as_ref().unwrap().reveal(), "own", "the file itself beats auth_file");
    let files: Vec<_> = loaded.sources.files().map(|file| file.strip_prefix(dir.path()).unwrap().to_owned()).collect();
    assert_eq!(files, [Path::new("secrets/redis"), Path::new("sidepool.toml"), Path::new("users.txt")]);
    let before = loaded.sources.hash();
    assert_eq!(before, loaded.sources.hash_now());
    fs::write(dir.path().join("secrets/redis"), "rotated\n").unwrap();
    assert_ne!(before, loaded.sources.hash_now());
    assert_ne!(before, load(&path, &|_| None).unwrap().sources.hash());
    assert!(!format!("{loaded:?}").contains("hunter2"));
}

#[test]
fn a_secret_that_cannot_be_had_is_a_problem_and_still_watched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sidepool.toml");
    fs::write(dir.path().join("empty"), "\n").unwrap();
    fs::write(dir.path().join("users.txt"), "bob hunter2\n").unwrap();
    let text = "[postgres]\nauth_file = \"users.txt\"\n[redis.a]\nhost = \"h\"\npassword = { file = \"absent\" }\n\
        [redis.a.users.u]\npassword = { env = \"ABSENT\" }\n[redis.a.users.v]\npassword = { file = \"empty\" }\n\
        [redis.a.users.w]\npassword = { file = \"a\", env = \"b\" }\n[redis.a.users.x]\npassword = 12345\n";
    fs::write(&path, text).unwrap();
    let rejected = load(&path, &|_| None).unwrap_err();
    let all = rejected.to_string();
    for expected in [
        ":5: redis.a.password: cannot read the secret file",
        ":7: redis.a.users.u.password: the environment variable ABSENT is not set",
        ":9: redis.a.users.v.password: the secret file",
        ":11: redis.a.users.w.password: say either file or env",
        ":13: redis.a.users.x.password: expected a string",
        "users.txt:1: expected \"name\" \"secret\"",
    ] {
        assert!(all.contains(expected), "{expected}\n{all}");
    }
    assert!(!all.contains("hunter2") && !all.contains("12345"), "{all}");
    let before = rejected.sources.hash();
    fs::write(dir.path().join("absent"), "here now").unwrap();
    assert_ne!(before, rejected.sources.hash_now(), "a missing file that appears is a change");
}

#[test]
fn what_is_no_text_at_all_is_refused_with_a_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sidepool.toml");
    fs::write(&path, b"workers = 1\n\xff\xfe").unwrap();
    let rejected = load(&path, &|_| None).unwrap_err();
    assert_eq!(rejected.problems[0].place, Place::file(&path, Some(2)));
    assert!(load(&dir.path().join("absent"), &|_| None).unwrap_err().to_string().contains("cannot be read"));
    assert!(load(dir.path(), &|_| None).unwrap_err().to_string().contains("not a regular file"));
}

#[test]
fn no_debug_and_no_display_shows_a_secret() {
    let text = FULL.replace("md5aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "hunter2");
    assert!(!format!("{:?}", read(&text).unwrap()).contains("hunter2"));
    // The same file with a mistake on every line that has a value.
    let broken = text.replace(" = ", " = 0x");
    assert!(!read(&broken).unwrap_err().to_string().contains("hunter2"));
    let swapped = text.replace("host = ", "hosts = ").replace("url", "host").replace("password =", "pool_mode =");
    let message = read(&swapped).unwrap_err().to_string();
    assert!(!message.contains("hunter2@"), "{message}");
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,400}") {
        let _ = read(&text);
    }

    #[test]
    fn pieces_of_a_real_file_in_any_order_never_panic(picks in prop::collection::vec((0..50_usize, 0..60_usize), 0..60)) {
        // Lines of the full example, some cut short, in any order.
        let lines: Vec<&str> = FULL.lines().collect();
        let mut text = String::new();
        for (line, cut) in picks {
            let line = lines.get(line).copied().unwrap_or("\"\"\"");
            text.push_str(line.get(..cut.min(line.len())).unwrap_or(line));
            text.push('\n');
        }
        if let Err(rejected) = read(&text) {
            prop_assert!(!rejected.problems.is_empty());
        }
    }

    #[test]
    fn any_value_anywhere_never_panics(value in "[-0-9a-z\"{}=\\[\\]:/@.%#? ]{0,30}", key in 0..40_usize) {
        let lines: Vec<&str> = FULL.lines().collect();
        let mut lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        if let Some(line) = lines.get_mut(key)
            && let Some((name, _)) = line.clone().split_once(" = ")
        {
            *line = format!("{name} = {value}");
        }
        let _ = read(&lines.join("\n"));
    }
}

#[test]
fn a_database_has_the_limits_of_all_unless_it_says_its_own() {
    let text = "[postgres]\nmax_db_connections = 7\nmax_db_client_connections = 9\n[postgres.databases.a]\nhost = \"h\"\n\
                [postgres.databases.b]\nhost = \"h\"\nmax_db_connections = 0\nmax_db_client_connections = 3\n";
    let postgres = read(text).unwrap().config.postgres.unwrap();
    let caps = |name: &str| (postgres.databases[name].max_db_connections, postgres.databases[name].max_db_client_connections);
    assert_eq!((caps("a"), caps("b")), ((7, 9), (0, 3)));
}
