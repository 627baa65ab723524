//! What a `pgbouncer.ini` comes to: defaults, every key of every section, and every problem with its line.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::{Flags, Set, load, load_text};
use crate::file::Rejected;
use crate::model::{AuthType, Config, Listen, LogLevel, MetricsNames, PoolMode, Upstream, UpstreamTls};

fn config(text: &str) -> Config {
    load_text(text, Path::new("p.ini")).unwrap_or_else(|rejected| panic!("{rejected}")).config
}

fn problems(text: &str) -> Vec<String> {
    load_text(text, Path::new("p.ini")).unwrap_err().problems.iter().map(ToString::to_string).collect()
}

#[test]
fn pgbouncers_defaults_hold() {
    let config = config("[databases]\na =\n[pgbouncer]\n");
    let postgres = config.postgres.unwrap();
    let seconds = Duration::from_secs;
    assert_eq!(postgres.auth_type, AuthType::Md5);
    assert_eq!((postgres.max_client_conn, postgres.listen_backlog, postgres.stats_period), (100, 128, seconds(60)));
    assert_eq!((postgres.client_login_timeout, postgres.cancel_wait_timeout), (seconds(60), seconds(10)));
    assert_eq!(postgres.track_extra_parameters, ["IntervalStyle"]);
    assert!(postgres.ignore_startup_parameters.is_empty());
    assert_eq!(postgres.listen, [Listen::Unix("/tmp/.s.PGSQL.6432".into())]);
    let database = &postgres.databases["a"];
    assert_eq!(database.pool_mode, PoolMode::Session);
    assert_eq!((database.limits.pool_size, database.limits.query_wait_timeout), (20, seconds(120)));
    assert_eq!(database.hosts, [Upstream::Unix("/tmp/.s.PGSQL.5432".into())]);
    assert_eq!(database.tls, UpstreamTls::Disable, "a Unix socket");
    assert_eq!(config.admin.listen, None);
    assert!(config.log.connections && config.log.disconnections && config.log.pooler_errors && config.log.stats);
}

#[test]
fn everything_that_can_be_said_is_read() {
    let config = config(
        "[databases]\n\
         a = host=db port=5433 dbname=b user=u password='p w' auth_user=au auth_dbname=ad auth_query='select ''x''' client_encoding=UTF8 \
         datestyle=ISO timezone=UTC application_name=an connect_query='set x to 1' pool_size=3 min_pool_size=2 reserve_pool=1 \
         pool_mode=Transaction load_balance_hosts=disable max_db_connections=9 max_db_client_connections=8 server_lifetime=1.5 query_wait_timeout=7\n\
         * = host=127.0.0.1 pool_size=0 server_lifetime=0\n\
         \"odd name\" = dbname=x password=unused\n\
         [users]\nalice = pool_mode=statement pool_size=4 max_user_connections=5 query_timeout=0.25\n\
         [peers]\n2 = host=other pool_size=3\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1, ::1\nlisten_port = 7000\nunix_socket_dir =\nunix_socket_mode = 0700\nauth_type = SCRAM-SHA-256\n\
         server_tls_sslmode = require\nserver_idle_timeout = 0\nserver_connect_timeout = 0\nserver_login_retry = 0\nstats_period = 5\n\
         tcp_user_timeout = 1500\ntcp_keepidle = 60\nadmin_users = a, b\nserver_check_query =\npkt_buf = 2048\nverbose = 1\nworkers = 2\nmetrics_listen = 127.0.0.1:9\nmetrics_names = OTel\nmetrics_max_pools = 7\nmetrics_allowed_hosts = a.example, b.example\n",
    );
    assert_eq!(config.log.level, LogLevel::Debug);
    assert_eq!(config.admin.listen, "127.0.0.1:9".parse::<SocketAddr>().ok());
    assert_eq!((config.admin.metrics_names, config.admin.metrics_max_pools), (MetricsNames::Otel, 7));
    assert_eq!(config.admin.allowed_hosts, ["a.example", "b.example"]);
    let postgres = config.postgres.unwrap();
    assert_eq!(postgres.listen, ["127.0.0.1:7000", "[::1]:7000"].map(|text| Listen::Tcp(text.parse().unwrap())));
    assert_eq!((postgres.unix_socket_mode, postgres.auth_type), (0o700, AuthType::ScramSha256));
    assert_eq!((postgres.server_check_query, postgres.admin_users), (None, vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!((postgres.tcp.user_timeout, postgres.tcp.keepidle), (Duration::from_millis(1500), Duration::from_secs(60)));
    let a = &postgres.databases["a"];
    assert_eq!(a.hosts, [Upstream::Tcp { host: "db".to_owned(), port: 5433 }]);
    assert_eq!((a.dbname.as_deref(), a.user.as_deref(), a.password.as_ref().unwrap().reveal()), (Some("b"), Some("u"), "p w"));
    assert_eq!((a.auth_user.as_deref(), a.auth_query.as_deref()), (Some("au"), Some("select 'x'")));
    assert_eq!((a.pool_mode, a.limits.pool_size, a.limits.min_pool_size, a.limits.reserve_pool_size), (PoolMode::Transaction, 3, 2, 1));
    assert_eq!((a.limits.server_lifetime, a.limits.query_wait_timeout), (Duration::from_millis(1500), Duration::from_secs(7)));
    assert_eq!((a.max_db_connections, a.max_db_client_connections, a.startup.len(), a.tls), (9, 8, 4, UpstreamTls::Require));
    assert_eq!(postgres.databases["*"].limits.pool_size, 100_000, "no limit");
    assert!(postgres.databases["*"].limits.is_used_once() && !a.limits.is_used_once());
    assert!(postgres.databases["odd name"].password.is_none());
    let alice = &postgres.users["alice"];
    assert_eq!((alice.pool_mode, alice.pool_size, alice.max_user_connections), (Some(PoolMode::Statement), Some(4), Some(5)));
    assert_eq!(alice.timeouts.query_timeout, Some(Duration::from_millis(250)));
    assert_eq!((postgres.peers[&2].pool_size, postgres.peers[&2].upstream.to_string()), (Some(3), "other:6432".to_owned()));
}

#[test]
fn every_problem_is_said_at_once_with_its_line() {
    let found = problems(
        "[databases]\n\
         pgbouncer = host=h\n\
         a = host=h port=0\n\
         b = host=h pool_sise=1\n\
         c = user=u password=hunter2 pool_mode=tx\n\
         d = host=h@x\n\
         [users]\nu = pool_size=x\n\
         [peers]\n0 = host=h\n3 = port=1\n\
         [pgbouncer]\n\
         pool_mode = tx\nmax_client_conn = many\nquery_timeout = -1\nlog_stats = yes\nlisten_port = 70000\nunix_socket_dir =\nlisten_adr = x\n\
         max_packet_size = 5\n",
    );
    let expected = [
        "p.ini:2: database name \"pgbouncer\" is reserved",
        "p.ini:3: invalid value \"0\" for parameter port; it must be from 1 to 65535",
        "p.ini:4: unrecognized connection parameter: pool_sise",
        "p.ini:5: invalid value \"tx\" for parameter pool_mode; expected \"session\", \"transaction\" or \"statement\"",
        "p.ini:6: invalid value for parameter databases.d.host; ",
        "p.ini:8: invalid value \"x\" for parameter pool_size; expected a whole number",
        "p.ini:10: ids of peers must be a number larger than 0 and at most 65535",
        "p.ini:11: host was not provided for peer 3",
        "p.ini:13: invalid value \"tx\" for parameter pool_mode; ",
        "p.ini:14: invalid value \"many\" for parameter max_client_conn; expected a whole number",
        "p.ini:15: invalid value \"-1\" for parameter query_timeout; expected a time in seconds",
        "p.ini:16: invalid value \"yes\" for parameter log_stats; expected 0 or 1",
        "p.ini:17: invalid value \"70000\" for parameter listen_port; it must be from 0 to 65535",
        "p.ini:19: unknown parameter: pgbouncer/listen_adr; did you mean \"listen_addr\"?",
        "p.ini:20: invalid value for parameter max_packet_size; ",
    ];
    for expected in expected {
        assert!(found.iter().any(|problem| problem.starts_with(expected)), "{expected}\n{found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    assert!(found.iter().all(|problem| !problem.contains("hunter2")));
}

#[test]
fn nowhere_to_listen_is_a_problem() {
    assert_eq!(problems("[pgbouncer]\nunix_socket_dir =\n"), ["p.ini: nowhere to listen on; set listen_addr or unix_socket_dir"]);
}

#[test]
fn what_changes_nothing_is_named_once() {
    let loaded =
        load_text("[databases]\nx = password=a\n[pgbouncer]\npkt_buf = 1\npkt_buf = 2\nsbuf_loopcnt = 7\n", Path::new("p.ini")).unwrap();
    let warnings: Vec<_> = loaded.warnings.iter().map(|warning| warning.message.as_str()).collect();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings[0].starts_with("pkt_buf changes nothing: ") && warnings[1].starts_with("sbuf_loopcnt changes nothing: "));
}

#[test]
fn the_minimum_fits_into_the_pool() {
    let config = config("[databases]\na = pool_size=2\nb = min_pool_size=3 pool_size=1\nc =\n[pgbouncer]\nmin_pool_size = 5\n");
    let minimum = |name: &str| config.postgres.as_ref().unwrap().databases[name].limits.min_pool_size;
    assert_eq!(["a", "b", "c"].map(minimum), [2, 1, 5]);
}

#[test]
fn files_are_read_relative_to_where_the_program_runs_and_a_broken_auth_file_is_a_warning() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let ini = format!(
        "%include {}\n[pgbouncer]\nauth_file = {}\n[users]\nbob = pool_size=2\n",
        path("more.ini").display(),
        path("users").display()
    );
    fs::write(path("p.ini"), &ini).unwrap();
    fs::write(path("more.ini"), "[databases]\nx =\n").unwrap();
    let load = || load(&path("p.ini"), &Flags::default(), &Set::new());
    let missing = load().unwrap();
    assert!(missing.warnings[0].message.starts_with("could not open auth_file"), "{:?}", missing.warnings);
    fs::write(path("users"), "\"bob\" \"hunter2\" rest\nbroken\n\"al\"\"ice\" \"md50123456789abcdef0123456789abcdef\"\n").unwrap();
    let loaded = load().unwrap();
    let users = loaded.config.postgres.unwrap().users;
    assert_eq!(users["bob"].password.as_ref().unwrap().reveal(), "hunter2");
    assert_eq!(users["bob"].pool_size, Some(2));
    assert!(users.contains_key("al\"ice"));
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].to_string().contains("users:2: warning: broken auth file"), "{:?}", loaded.warnings);
    assert_eq!(loaded.sources.files().count(), 3);
}

#[test]
fn a_broken_line_of_the_hba_file_is_a_warning_and_lets_nobody_in() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (hba, ident) = (path("hba"), path("ident"));
    let ini = format!(
        "[databases]\nx =\n[pgbouncer]\nauth_type = hba\nauth_hba_file = {}\nauth_ident_file = {}\n",
        hba.display(),
        ident.display()
    );
    fs::write(path("p.ini"), ini).unwrap();
    fs::write(&hba, "host all bob all rejct\nnonsense\nhost all all all md5\n").unwrap();
    fs::write(&ident, "short\n").unwrap();
    let loaded = load(&path("p.ini"), &Flags::default(), &Set::new()).unwrap();
    let said: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    for expected in [
        "hba:1: warning: could not parse hba config line 1; unknown method \"rejct\"",
        "hba:2: warning: could not parse hba config line 2; too short",
        "ident:1: warning: could not parse ident config line 1; expected three columns",
    ] {
        assert!(said.iter().any(|line| line.contains(expected) && line.ends_with("this line lets nobody in")), "{expected}: {said:?}");
    }
    assert_eq!(loaded.config.postgres.unwrap().auth_rules.hba.len(), 2);
    fs::remove_file(&hba).unwrap();
    assert!(load(&path("p.ini"), &Flags::default(), &Set::new()).is_err(), "without its rules it does not start");
}

#[test]
fn flags_and_set_win_over_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("p.ini");
    fs::write(&path, "[databases]\na =\nb = pool_size=4\n[pgbouncer]\nverbose = 1\nuser = nobody\n").unwrap();
    let listen = vec![Listen::Unix("/run/x/.s.PGSQL.1".into())];
    let flags = Flags { verbose: 1, user: Some("postgres".to_owned()), listen: listen.clone() };
    let set = |pairs: &[(&str, &str)]| -> Set { pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect() };
    let loaded = load(&path, &flags, &set(&[("default_pool_size", "7")])).unwrap().config;
    assert_eq!(loaded.log.level, LogLevel::Trace);
    assert_eq!(loaded.postgres.as_ref().unwrap().listen, listen, "listen_addr and unix_socket_dir do not count");
    assert_eq!(loaded.pgbouncer.as_ref().unwrap().user(), Some("postgres"));
    let databases = &loaded.postgres.as_ref().unwrap().databases;
    assert_eq!((databases["a"].limits.pool_size, databases["b"].limits.pool_size), (7, 4));
    let rejected = |pairs: &[(&str, &str)]| -> Rejected { load(&path, &flags, &set(pairs)).unwrap_err() };
    assert_eq!(rejected(&[("pool_size", "7")]).to_string(), "console: unknown parameter: pgbouncer/pool_size");
    assert!(rejected(&[("pool_mode", "x")]).to_string().starts_with("console: invalid value \"x\" for parameter pool_mode"));
}

#[test]
fn what_needs_a_restart_is_kept_and_named() {
    let process = |text: &str| *config(text).pgbouncer.unwrap();
    let running = process("[pgbouncer]\nlisten_port = 1\nlogfile = a\n");
    let loaded = process("[pgbouncer]\nlisten_port = 2\npidfile = p\nlogfile = b\n");
    assert_eq!(running.pending(&loaded), ["listen_port", "pidfile"]);
    let held = running.held(&loaded);
    assert_eq!((held.text("listen_port"), held.pidfile(), held.logfile()), ("1", None, Some("b".into())));
    assert!(!format!("{held:?}").contains("logfile\": \"b"));
}

#[test]
fn a_host_that_can_never_match_is_refused() {
    let said = problems("[databases]\na = host=db\n[pgbouncer]\nmetrics_allowed_hosts = a.example, b.example:80\n");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("p.ini:4: invalid value for parameter metrics_allowed_hosts; \"b.example:80\" has a port"), "{said:?}");
}
