//! Tests of the configuration without a file.

use std::collections::HashMap;

use proptest::prelude::*;

use crate::environment::{Given, Overrides, from_environment, from_given, from_urls};
use crate::file::{Loaded, Rejected};
use crate::model::{AuthType, PoolMode, Upstream, UpstreamTls, Workers};

fn environment(variables: &[(&str, &str)]) -> Result<Loaded, Rejected> {
    let variables: HashMap<String, String> = variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    from_environment(&|name| variables.get(name).cloned())
}

#[test]
fn two_urls_are_a_whole_configuration() {
    let loaded =
        environment(&[("DATABASE_URL", "postgresql://app:s%3Acret@db.example/shop\n"), ("REDIS_URL", "redis://:pw@cache:6390/1")]).unwrap();
    assert_eq!(loaded.warnings, []);
    let config = loaded.config;
    assert_eq!(config.workers, Workers::Auto);
    assert_eq!(config.admin.listen.unwrap().to_string(), "127.0.0.1:9127");
    let postgres = config.postgres.unwrap();
    assert!(postgres.zero_config);
    assert_eq!((postgres.auth_type, postgres.listen[0].to_string()), (AuthType::Any, "127.0.0.1:6432".to_owned()));
    assert_eq!(postgres.databases.keys().collect::<Vec<_>>(), ["*", "shop"]);
    for (name, database) in &postgres.databases {
        assert_eq!(database.hosts[0], Upstream::Tcp { host: "db.example".into(), port: 5432 });
        assert_eq!((database.user.as_deref(), database.password.as_ref().unwrap().reveal()), (Some("app"), "s:cret"));
        assert_eq!(database.dbname.as_deref(), (name == "shop").then_some("shop"));
    }
    let redis = &config.redis["redis"];
    assert_eq!((redis.listen[0].to_string(), redis.database), ("127.0.0.1:6380".to_owned(), 1));
    assert_eq!(redis.password.as_ref().unwrap().reveal(), "pw");
}

#[test]
fn what_the_url_leaves_out_is_as_with_libpq() {
    let variables = [("DATABASE_URL", "postgres:///?host=/var/run/postgresql"), ("USER", "me"), ("PGPASSWORD", "pw")];
    let config = environment(&variables).unwrap().config;
    let postgres = config.postgres.unwrap();
    let me = &postgres.databases["me"];
    assert_eq!(me.hosts[0], Upstream::Unix("/var/run/postgresql/.s.PGSQL.5432".into()));
    assert_eq!((me.user.as_deref(), me.password.as_ref().unwrap().reveal(), me.tls), (Some("me"), "pw", UpstreamTls::default()));
    let config = environment(&[("DATABASE_URL", "postgres://"), ("USER", "me"), ("PGUSER", "her")]).unwrap().config;
    let postgres = config.postgres.unwrap();
    assert_eq!(postgres.databases["her"].hosts[0], Upstream::Tcp { host: "localhost".into(), port: 5432 });
    let rejected = environment(&[("DATABASE_URL", "postgres://h/d")]).unwrap_err();
    assert!(rejected.to_string().starts_with("environment: DATABASE_URL: names no user"), "{rejected}");
}

#[test]
fn overrides_are_read_like_the_settings() {
    let config = environment(&[
        ("DATABASE_URL", "postgres://u:p@h/d"),
        ("REDIS_URL", "redis://h"),
        ("SIDEPOOL_POOL_SIZE", "50"),
        ("SIDEPOOL_POSTGRES_LISTEN", "127.0.0.1:5432,unix:/run/sp"),
        ("SIDEPOOL_REDIS_LISTEN", "127.0.0.1:6379"),
        ("SIDEPOOL_ADMIN_LISTEN", "off"),
        ("SIDEPOOL_WORKERS", "2"),
        ("SIDEPOOL_LOG_LEVEL", "warn"),
        ("SIDEPOOL_LOG_FORMAT", ""),
    ])
    .unwrap()
    .config;
    let postgres = config.postgres.unwrap();
    assert_eq!(postgres.listen[1].to_string(), "unix:/run/sp/.s.PGSQL.5432");
    assert_eq!((postgres.databases["d"].limits.pool_size, config.redis["redis"].limits.pool_size), (50, 50));
    assert_eq!((config.admin.listen, config.workers), (None, Workers::Count(2)));
}

#[test]
fn every_problem_is_named_with_its_variable_and_none_shows_a_secret() {
    let rejected = environment(&[
        ("DATABASE_URL", "postgres://app:hunt/er2@h/d"),
        ("REDIS_URL", "http://:hunter2@h"),
        ("SIDEPOOL_POOL_SIZE", "0"),
        ("SIDEPOOL_ADMIN_LISTEN", "localhost"),
        ("SIDEPOOL_WORKERS", "many"),
        ("SIDEPOOL_LOG_LEVEL", "wran"),
    ])
    .unwrap_err();
    let text = rejected.to_string();
    for name in ["DATABASE_URL", "REDIS_URL", "SIDEPOOL_POOL_SIZE", "SIDEPOOL_ADMIN_LISTEN", "SIDEPOOL_WORKERS"] {
        assert!(text.contains(&format!("environment: {name}: ")), "{name}\n{text}");
    }
    assert!(text.contains("did you mean \"warn\"?"), "{text}");
    assert!(!text.contains("hunt"), "{text}");
}

#[test]
fn relations_hold_here_too() {
    let clash = environment(&[("REDIS_URL", "redis://h"), ("SIDEPOOL_REDIS_LISTEN", "127.0.0.1:9127")]).unwrap_err();
    assert!(clash.to_string().starts_with("environment: SIDEPOOL_REDIS_LISTEN: 127.0.0.1:9127 is taken by admin.listen"), "{clash}");
    let small = environment(&[("REDIS_URL", "redis://h"), ("SIDEPOOL_POOL_SIZE", "2")]).unwrap_err();
    assert!(small.to_string().starts_with("environment: SIDEPOOL_POOL_SIZE: pool_size (2) must be more than"), "{small}");
    let open = environment(&[("REDIS_URL", "redis://:pw@h"), ("SIDEPOOL_REDIS_LISTEN", "*:1")]).unwrap();
    assert!(
        open.warnings[0].to_string().starts_with("environment: warning: SIDEPOOL_REDIS_LISTEN: 0.0.0.0:1 is reachable"),
        "{:?}",
        open.warnings
    );
    let nothing = environment(&[]).unwrap_err();
    assert!(nothing.to_string().contains("nothing to do"), "{nothing}");
}

#[test]
fn flags_and_variables_can_be_mixed() {
    let flag = Given::on_command_line("--postgres", "postgres://u:p@h/d");
    let variable = Given::in_environment("REDIS_URL", &|_| Some("redis//broken".to_owned()));
    let rejected = from_given(Some(&flag), variable.as_ref(), &Overrides::default()).unwrap_err();
    assert!(rejected.to_string().starts_with("environment: REDIS_URL: "), "{rejected}");
    let rejected = from_urls(Some("nonsense"), None, &Overrides::default()).unwrap_err();
    assert!(rejected.to_string().starts_with("command line: --postgres: not a URL"), "{rejected}");
}

proptest! {
    #[test]
    fn no_url_panics(postgres in "\\PC{0,60}", redis in "(redis|postgres|unix)(:|://)[-a-z0-9:@/?#%&=.,\\[\\]]{0,40}") {
        let _ = from_urls(Some(&postgres), Some(&redis), &Overrides::default());
        let _ = from_urls(Some(&redis), Some(&postgres), &Overrides::default());
    }

    #[test]
    fn no_message_repeats_a_password_however_it_is_written(password in "[a-z/?#@:%&=.]{0,6}QZX[a-z/?#@:%&=.]{0,6}", rest in "[a-z0-9:/?=.]{0,12}") {
        for url in [format!("postgres://app:{password}@h/{rest}"), format!("redis://:{password}@h:{rest}")] {
            let messages = match from_urls(Some(&url), Some(&url), &Overrides::default()) {
                Ok(loaded) => loaded.warnings,
                Err(rejected) => rejected.problems,
            };
            for message in messages {
                prop_assert!(!message.to_string().contains("QZX"), "{}", message);
            }
        }
    }
}

#[test]
fn the_parts_of_libpq_are_as_good_as_a_url() {
    let variables = [
        ("PGHOST", "fd00::1"),
        ("PGPORT", "5433"),
        ("PGDATABASE", "my shop"),
        ("PGUSER_2", "app"),
        ("PGPASSWORD_3", "p@ss/word"),
        ("PGSSLMODE", "require"),
        ("SIDEPOOL_DATABASE_ALIAS", "sidepool"),
    ];
    let config = environment(&variables).unwrap().config;
    let postgres = config.postgres.unwrap();
    assert_eq!(postgres.databases.keys().collect::<Vec<_>>(), ["*", "my shop", "sidepool"]);
    let named = &postgres.databases["sidepool"];
    assert_eq!((named.dbname.as_deref(), named.user.as_deref(), named.tls), (Some("my shop"), Some("app"), UpstreamTls::Require));
    assert_eq!(named.password.as_ref().unwrap().reveal(), "p@ss/word");
    assert_eq!(named.hosts[0], Upstream::Tcp { host: "fd00::1".into(), port: 5433 });
    let rejected = environment(&[("PGHOST", "h"), ("PGPORT", "x"), ("PGUSER", "u")]).unwrap_err().to_string();
    assert!(rejected.starts_with("environment: PGHOST: "), "{rejected}");
}

#[test]
fn the_first_of_the_numbered_names_counts_that_is_set() {
    let variables =
        [("REDIS_URL_4", "redis://fourth"), ("REDIS_URL_3", "redis://third"), ("DATABASE_URL_2", "postgres://u@second/d"), ("PGHOST", "h")];
    let config = environment(&variables).unwrap().config;
    assert_eq!(config.redis["redis"].upstream, Upstream::Tcp { host: "third".into(), port: 6379 });
    assert_eq!(config.postgres.unwrap().databases["d"].hosts[0], Upstream::Tcp { host: "second".into(), port: 5432 });
}

#[test]
fn what_a_sidecar_is_told_of_its_life() {
    let base = [("REDIS_URL", "redis://h"), ("DATABASE_URL", "postgres://u@h/d")];
    let with = |more: (&'static str, &'static str)| environment(&[&base[..], &[more]].concat());
    assert_eq!(with(("SIDEPOOL_DRAIN_TIMEOUT", "90s")).unwrap().config.drain.timeout.as_secs(), 90);
    assert!(with(("SIDEPOOL_QUITQUITQUIT", "on")).unwrap().config.admin.quitquitquit);
    assert!(!with(("SIDEPOOL_QUITQUITQUIT", "off")).unwrap().config.admin.quitquitquit);
    let session = with(("SIDEPOOL_POOL_MODE", "session")).unwrap().config.postgres.unwrap();
    assert!(session.databases.values().all(|database| database.pool_mode == PoolMode::Session));
    for wrong in [("SIDEPOOL_DRAIN_TIMEOUT", "90"), ("SIDEPOOL_QUITQUITQUIT", "maybe"), ("SIDEPOOL_POOL_MODE", "sessions")] {
        assert!(with(wrong).unwrap_err().to_string().contains(wrong.0));
    }
}
