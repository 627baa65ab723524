//! Tests of the comparison: each setting with its class, sections that come and go, secrets that never show.

use std::path::Path;

use crate::diff::{Class, What, diff};
use crate::effective::fingerprint;
use crate::environment::{Overrides, from_urls};
use crate::file::load_text;
use crate::model::Config;

const BASE: &str = r#"
workers = 1
[log]
level = "info"
[postgres]
auth_type = "md5"
[postgres.databases.app]
host = "db"
user = "app"
password = "hunter2"
pool_size = 20
[postgres.users.alice]
password = "hunter2"
[redis.cache]
host = "cache"
password = "hunter2"
[redis.cache.users.web]
password = "hunter2"
"#;

fn read(text: &str) -> Config {
    load_text(text, Path::new("f"), &|_| None).unwrap_or_else(|rejected| panic!("{rejected}")).config
}

#[test]
fn each_change_has_its_key_and_its_class() {
    use Class::{Live, NeedsRestart, NewSessions};
    let table = [
        ("workers = 1", "workers = 2", "workers: 1 -> 2 (needs a restart)", NeedsRestart),
        ("\"info\"", "\"debug\"", "log.level: \"info\" -> \"debug\" (live)", Live),
        ("\"info\"", "\"info\"\nformat = \"json\"", "log.format: \"text\" -> \"json\" (needs a restart)", NeedsRestart),
        ("\"md5\"", "\"plain\"", "postgres.auth_type: \"md5\" -> \"plain\" (for new sessions)", NewSessions),
        ("\"md5\"", "\"md5\"\nmax_client_conn = 5", "postgres.max_client_conn: 10000 -> 5 (live)", Live),
        (
            "\"md5\"",
            "\"md5\"\nlisten = \"[::1]:1\"",
            "postgres.listen: [\"127.0.0.1:6432\"] -> [\"[::1]:1\"] (needs a restart)",
            NeedsRestart,
        ),
        ("pool_size = 20", "pool_size = 30", "postgres.databases.app.pool_size: 20 -> 30 (live)", Live),
        ("\"md5\"", "\"md5\"\nquery_wait_timeout = \"2s\"", "postgres.databases.app.query_wait_timeout: \"10s\" -> \"2s\" (live)", Live),
        ("\"db\"", "\"/run/pg\"\nport = 7", "postgres.databases.app.host: \"db\" -> \"/run/pg\" (live)", Live),
        (
            "user = \"app\"\npassword = \"hunter2\"",
            "user = \"app\"\npassword = \"rotated\"",
            "postgres.databases.app.password: changed (live)",
            Live,
        ),
        ("host = \"cache\"\npassword = \"hunter2\"", "host = \"cache\"", "redis.cache.password: *** -> unset (live)", Live),
        ("host = \"cache\"", "host = \"cache\"\nshared_connections = 3", "redis.cache.shared_connections: 2 -> 3 (live)", Live),
        ("[redis.cache.users.web]\npassword = \"hunter2\"", "", "redis.cache.users.web: removed (live)", Live),
        ("[postgres.users.alice]", "[postgres.users.bob]\n[postgres.users.alice]", "postgres.users.bob: added (live)", Live),
        (
            "[postgres.users.alice]",
            "[postgres.databases.b]\nhost = \"h\"\n[postgres.users.alice]",
            "postgres.databases.b: added (live)",
            Live,
        ),
        (
            "[redis.cache]",
            "[redis.b]\nlisten = \"[::1]:1\"\nhost = \"h\"\n[redis.b.users.u]\npassword = \"x\"\n[redis.cache]",
            "redis.b: added (needs a restart)",
            NeedsRestart,
        ),
    ];
    let before = read(BASE);
    for (from, to, expected, class) in table {
        assert!(BASE.contains(from), "{from}");
        let after = read(&BASE.replacen(from, to, 1));
        let changes = diff(&before, &after);
        let change = changes.iter().find(|change| change.to_string() == expected);
        let change = change.unwrap_or_else(|| panic!("{expected}\n{changes:#?}"));
        assert_eq!(change.class, class);
        let more = changes.iter().filter(|other| !other.key.ends_with(".port") && *other != change).count();
        assert_eq!(more, 0, "{changes:#?}");
        assert!(!format!("{changes:?}").contains("hunter2") && !format!("{changes:?}").contains("rotated"));
    }
}

#[test]
fn nothing_differs_from_itself_and_what_differs_does_so_both_ways() {
    let base = read(BASE);
    assert_eq!(diff(&base, &base), []);
    let other = read("[redis.x]\nhost = \"h\"\n");
    let (there, back) = (diff(&base, &other), diff(&other, &base));
    assert_eq!(there.len(), back.len());
    for (one, two) in there.iter().zip(&back) {
        assert_eq!((&one.key, one.class), (&two.key, two.class));
        let mirrored = match (&one.what, &two.what) {
            (What::Added, What::Removed) | (What::Removed, What::Added) => true,
            (What::Set { before, after }, What::Set { before: later, after: earlier }) => before == earlier && after == later,
            (What::Added | What::Removed | What::Set { .. }, _) => false,
        };
        assert!(mirrored, "{one:?} {two:?}");
    }
}

#[test]
fn zero_configurations_compare_too() {
    let of = |url: &str| from_urls(Some(url), None, &Overrides::default()).unwrap().config;
    let changes = diff(&of("postgres://u:a@h/d"), &of("postgres://u:b@h/d"));
    let keys: Vec<_> = changes.iter().map(ToString::to_string).collect();
    let prints = ["a", "b", "a"].map(|password| fingerprint(&of(&format!("postgres://u:{password}@h/d"))));
    assert!(prints[0] == prints[2] && prints[0] != prints[1]);
    assert_eq!(keys, ["postgres.databases.\"*\".password: changed (live)", "postgres.databases.d.password: changed (live)"]);
}
