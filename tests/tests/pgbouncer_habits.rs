//! What PgBouncer's own test suite expects of a pooler and other tests do not ask: words in the log, who is counted, who is known, settings that
//! take effect at once.

use sidepool_tests::conformance::proves;
use sidepool_tests::console::{number, of, rows, value};
use sidepool_tests::ini::{IniPooler, Program};
use sidepool_tests::postgres::wire::{first_error, tags};
use sidepool_tests::postgres::{Cluster, Message, Wire, frame};
use sidepool_tests::tls::{self, Authority};
use sidepool_tests::wait;

const USERS: &str = "\"app\" \"app-secret-0815\"\n\"watcher\" \"seen\"\n\"postgres\" \"\"\n";

fn ini(cluster: &Cluster, databases: &str, settings: &str) -> String {
    format!(
        "[databases]\napp = host=127.0.0.1 port={} user=app password=app-secret-0815\n{databases}\n[users]\nlimited = pool_size=2\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = LISTEN_PORT\nunix_socket_dir = SOCKET_DIRECTORY\nauth_file = USERS_FILE\n\
         auth_type = trust\nadmin_users = app\nstats_users = watcher\npool_mode = transaction\n{settings}\n",
        cluster.port()
    )
}

async fn start(cluster: &Cluster, databases: &str, settings: &str) -> IniPooler {
    IniPooler::start(Program::Sidepool, &ini(cluster, databases, settings), USERS).await
}

async fn attempt(pool: &IniPooler, user: &str, database: &str) -> Result<Wire, Message> {
    Wire::try_login(pool.port(), &[("user", user), ("database", database)], "").await
}

async fn refused(pool: &IniPooler, user: &str, database: &str) -> String {
    attempt(pool, user, database).await.err().expect("refused").field(b'M').expect("a message")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_section_of_limits_does_not_let_anybody_in() {
    let cluster = Cluster::start().await;
    let pool = start(&cluster, "", "").await;
    // With "trust", as with every method that asks for no password, a user has to be in the auth_file.
    assert_eq!(refused(&pool, "limited", "app").await, "\"trust\" authentication failed");
    assert_eq!(attempt(&pool, "watcher", "app").await.expect("listed").value("SELECT current_user").await, "app");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_the_console_are_counted_and_only_those_who_look_are_limited() {
    let cluster = Cluster::start().await;
    let pool = start(&cluster, "", "max_db_client_connections = 2\nmax_user_client_connections = 3").await;
    let mut admin = attempt(&pool, "app", "pgbouncer").await.expect("may");
    let _watcher = attempt(&pool, "watcher", "pgbouncer").await.expect("the second");
    assert!(refused(&pool, "watcher", "pgbouncer").await.contains("max_db_client_connections"));
    let databases = rows(&mut admin, "SHOW DATABASES").await;
    let console = of(&databases, "name", "pgbouncer");
    assert_eq!((number(console, "max_client_connections"), number(console, "current_client_connections")), (2, 2));
    let _another = attempt(&pool, "app", "pgbouncer").await.expect("who can help gets in");
    assert_eq!(number(of(&rows(&mut admin, "SHOW USERS").await, "name", "app"), "current_client_connections"), 2);
    assert_eq!(number(of(&rows(&mut admin, "SHOW USERS").await, "name", "watcher"), "current_client_connections"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_is_that_of_the_command_line() {
    let cluster = Cluster::start().await;
    let pool = start(&cluster, "", "").await;
    let mut admin = attempt(&pool, "app", "pgbouncer").await.expect("may");
    let shown = rows(&mut admin, "SHOW VERSION").await;
    let directory = IniPooler::directory_with("");
    let (_, printed) = IniPooler::run(&directory, &["--version", &directory.join("pgbouncer.ini").to_string_lossy()]).await;
    assert_eq!(printed.lines().next(), Some(value(&shown[0], "version")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_what_a_server_said_and_which_database_is_new() {
    let cluster = Cluster::start().await;
    let pool = start(&cluster, &format!("* = host=127.0.0.1 port={}", cluster.port()), "").await;
    assert_eq!(refused(&pool, "app", "nowhere").await, "database \"nowhere\" does not exist");
    let log = pool.process().log();
    log.line_with("registered new auto-database: nowhere").await;
    log.line_with("server login failed: FATAL database \"nowhere\" does not exist").await;
    log.line_with("nowhere/app@127.0.0.1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reserve_is_named_in_the_log() {
    let cluster = Cluster::start().await;
    let pool = start(&cluster, "", "default_pool_size = 1\nreserve_pool_size = 1\nreserve_pool_timeout = 0.2").await;
    let mut first = attempt(&pool, "app", "app").await.expect("in");
    first.query("BEGIN").await;
    assert_eq!(attempt(&pool, "app", "app").await.expect("in").value("SELECT 1").await, "1");
    pool.process().log().line_with("taking connection from reserve_pool").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replication_connection_evicts_an_idle_one_and_says_so() {
    let cluster = Cluster::start().await;
    cluster.sql("ALTER ROLE app REPLICATION").await;
    let pool = start(&cluster, "", "default_pool_size = 1").await;
    assert_eq!(attempt(&pool, "app", "app").await.expect("in").value("SELECT 1").await, "1");
    let parameters = [("user", "app"), ("database", "app"), ("replication", "database")];
    let mut wire = Wire::try_login(pool.port(), &parameters, "").await.unwrap_or_else(|error| panic!("{}", error.text()));
    assert_eq!(tags(&wire.query("IDENTIFY_SYSTEM").await), "TDCZ");
    pool.process().log().line_with("closing because: evicted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_for_lookups_that_is_of_no_use_is_said_to_be() {
    let cluster = Cluster::start().await;
    let other =
        format!("auth = host=127.0.0.1 port={}\nlooks = host=127.0.0.1 port={} auth_dbname=missing", cluster.port(), cluster.port());
    let other = format!("{other}\nreserved = host=127.0.0.1 port={} auth_dbname=pgbouncer", cluster.port());
    let pool = start(&cluster, &other, "auth_user = postgres\nauth_dbname = auth").await;
    let log = pool.process().log();
    assert_eq!(refused(&pool, "second", "looks").await, "bouncer config error");
    log.line_with("authentication database \"missing\" is not configured").await;
    assert_eq!(refused(&pool, "second", "reserved").await, "bouncer config error");
    log.line_with("cannot be used as an auth_dbname").await;
    let mut admin = attempt(&pool, "app", "pgbouncer").await.expect("may");
    assert_eq!(tags(&admin.query("DISABLE auth").await), "CZ");
    wait::until("the lookups to be disabled", async || {
        (refused(&pool, "second", "app").await == "authentication database \"auth\" is disabled").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn max_prepared_statements_holds_for_connections_that_are_open() {
    let cluster = Cluster::start().await;
    let pool = start(&cluster, "", "max_prepared_statements = 1").await;
    let (mut admin, mut wire) = (attempt(&pool, "app", "pgbouncer").await.expect("may"), attempt(&pool, "app", "app").await.expect("in"));
    let held = "SELECT count(*) FROM pg_prepared_statement()";
    let mut next = 0;
    for (most, held_then) in [(1, "1"), (5, "5"), (2, "2")] {
        assert_eq!(tags(&admin.query(&format!("SET max_prepared_statements = {most}")).await), "CZ");
        for _ in 0..5 {
            next += 1;
            let batch = [frame::parse(&format!("s{next}"), &format!("SELECT {next}")), frame::sync()].concat();
            assert_eq!(tags(&wire.ask(&batch).await), "1Z");
        }
        assert_eq!(wire.value(held).await, held_then, "{most}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_are_not_shared_are_not_counted() {
    let cluster = Cluster::start().await;
    let pool = start(&cluster, "", "max_prepared_statements = 0").await;
    let mut wire = attempt(&pool, "app", "app").await.expect("in");
    let batch = [frame::parse("", "SELECT 1"), frame::bind("", "", &[]), frame::execute("", 0), frame::sync()].concat();
    assert_eq!(tags(&wire.ask(&batch).await), "12DCZ");
    let mut admin = attempt(&pool, "app", "pgbouncer").await.expect("may");
    let stats = rows(&mut admin, "SHOW STATS").await;
    let app = of(&stats, "database", "app");
    for column in ["total_client_parse_count", "total_server_parse_count", "total_bind_count"] {
        assert_eq!(number(app, column), 0, "{column}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_may_have_a_name_of_many_kilobytes() {
    let cluster = Cluster::start().await;
    let pool = start(&cluster, "", "").await;
    let mut wire = attempt(&pool, "app", "app").await.expect("in");
    let name = "n".repeat(40_000);
    let batch = [frame::parse(&name, "SELECT 7"), frame::describe(b'S', &name), frame::sync()].concat();
    assert_eq!(tags(&wire.ask(&batch).await), "1tTZ");
    let batch = [frame::bind("", &name, &[]), frame::execute("", 0), frame::close(b'S', &name), frame::sync()].concat();
    assert_eq!(tags(&wire.ask(&batch).await), "2DC3Z");
    let gone = wire.ask(&[frame::describe(b'S', &name), frame::sync()].concat()).await;
    assert_eq!(first_error(&gone).and_then(|error| error.field(b'C')).as_deref(), Some("26000"));
}

#[tokio::test(flavor = "multi_thread")]
async fn options_that_cannot_be_used_are_refused_in_pgbouncers_words() {
    let cluster = Cluster::start().await;
    let pool = start(&cluster, "", "").await;
    let parameters = [("user", "app"), ("database", "app"), ("options", "-d")];
    let error = Wire::try_login(pool.port(), &parameters, "").await.err().expect("refused");
    let words = "unsupported options startup parameter: only '-c config=val' and '--config=val' are allowed";
    assert_eq!((error.field(b'M').as_deref(), error.field(b'D').as_deref()), (Some(words), Some("Not understood: -d")));
}

#[tokio::test(flavor = "multi_thread")]
async fn key_and_certificate_are_changed_on_the_console_one_after_the_other() {
    let cluster = Cluster::start().await;
    let authority = Authority::new("the authority");
    let (old, new) = (authority.issue("localhost", &["localhost"]), authority.issue("localhost", &["localhost"]));
    let files = [("old.key", &*old.key), ("old.crt", &*old.cert), ("new.key", &*new.key), ("new.crt", &*new.cert)];
    let tls =
        "client_tls_sslmode = require\nclient_tls_key_file = SOCKET_DIRECTORY/old.key\nclient_tls_cert_file = SOCKET_DIRECTORY/old.crt";
    let pool = IniPooler::start_with(Program::Sidepool, &ini(&cluster, "", tls), USERS, &files).await;
    let place = pool.directory().display();
    let shown = async || {
        let mut wire = Wire::connect(pool.port()).await;
        wire.secure(tls::client(&authority, None, &[]), false).await.expect("a handshake");
        wire
    };
    let mut admin = shown().await;
    let before = admin.certificate();
    admin.enter("app", "pgbouncer", "").await.unwrap_or_else(|error| panic!("{}", error.text()));
    assert_eq!(tags(&admin.query(&format!("SET client_tls_key_file = '{place}/new.key'")).await), "NCZ");
    assert_eq!(shown().await.certificate(), before, "a key without its certificate is of no use yet");
    assert_eq!(tags(&admin.query("SET query_timeout = 7").await), "CZ", "other settings are not held up");
    assert_eq!(tags(&admin.query(&format!("SET client_tls_cert_file = '{place}/new.crt'")).await), "CZ");
    wait::until("the new certificate", async || (shown().await.certificate() != before).then_some(())).await;
    let missing = admin.query("SET client_tls_key_file = '/nowhere'").await;
    assert_eq!(first_error(&missing).and_then(|error| error.field(b'M')).as_deref(), Some("SET failed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_goodbye_before_the_first_word_is_answered_with_nothing() {
    let cluster = Cluster::start().await;
    let pool = start(&cluster, "", "").await;
    let mut wire = Wire::connect(pool.port()).await;
    // What node-postgres does when a connection is ended before it is open.
    wire.send(&frame::terminate()).await;
    assert_eq!(tags(&wire.until_closed().await), "");
    assert_eq!(attempt(&pool, "app", "app").await.expect("in").value("SELECT 1").await, "1");
}

/// Milliseconds of queries and of transactions, as the console counts them.
async fn times(pool: &IniPooler) -> (u64, u64) {
    let mut admin = attempt(pool, "app", "pgbouncer").await.expect("may");
    let totals = rows(&mut admin, "SHOW STATS_TOTALS").await;
    let app = of(&totals, "database", "app");
    (number(app, "query_time") / 1000, number(app, "xact_time") / 1000)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_in_a_transaction_is_no_time_of_a_query() {
    let _proof = proves(&["column SHOW STATS.total_query_time", "column SHOW STATS.total_xact_time"]);
    let cluster = Cluster::start().await;
    // A pause is as long as a query of somebody else.
    let clock = cluster.superuser("app").await;
    for (program, mode) in [
        (Program::Pgbouncer, "transaction"),
        (Program::Sidepool, "transaction"),
        (Program::Pgbouncer, "session"),
        (Program::Sidepool, "session"),
    ] {
        // Debian's PgBouncer is older than limits of users.
        let ini = ini(&cluster, "", "").replace("limited = pool_size=2\n", "").replace("= transaction", &format!("= {mode}"));
        let pool = IniPooler::start(program, &ini, USERS).await;
        let mut wire = attempt(&pool, "app", "app").await.expect("in");
        for statement in ["BEGIN", "SELECT pg_sleep(0.3)"] {
            wire.query(statement).await;
        }
        clock.batch_execute("SELECT pg_sleep(0.5)").await.expect("no error");
        wire.query("COMMIT").await;
        let (query, transaction) = times(&pool).await;
        assert!(query >= 300 && transaction >= 800 && transaction - query >= 490, "{program:?} {mode}: {query} {transaction}");
        clock.batch_execute("SELECT pg_sleep(0.5)").await.expect("no error");
        wire.query("SELECT pg_sleep(0.1)").await;
        let (more_query, more_transaction) = times(&pool).await;
        let (query, transaction) = (more_query - query, more_transaction - transaction);
        assert!(query >= 100 && transaction.abs_diff(query) <= 1, "{program:?} {mode}, outside of a transaction: {query} {transaction}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_clients_may_be_set_one_setting_after_the_other() {
    let cluster = Cluster::start().await;
    let authority = Authority::new("the authority");
    let server = authority.issue("pooler", &["localhost"]);
    let files = [("key.pem", &*server.key), ("cert.pem", &*server.cert)];
    let pool = IniPooler::start_with(Program::Sidepool, &ini(&cluster, "", ""), USERS, &files).await;
    let mut admin = attempt(&pool, "app", "pgbouncer").await.expect("may");
    let path = |name: &str| pool.directory().join(name).display().to_string();
    for (set, in_force) in [
        ("SET client_tls_sslmode = require".to_owned(), false),
        (format!("SET client_tls_key_file = '{}'", path("key.pem")), false),
        (format!("SET client_tls_cert_file = '{}'", path("cert.pem")), true),
    ] {
        let answer = admin.query(&set).await;
        assert_eq!(tags(&answer), if in_force { "CZ" } else { "NCZ" }, "{set}");
        if !in_force {
            assert_eq!(answer[0].field(b'M').as_deref(), Some("TLS settings could not be applied, still using old configuration"));
        }
    }
    // The workers hear of it a moment later.
    wait::until("TLS to be required", async || {
        let error = attempt(&pool, "app", "app").await.err()?;
        assert_eq!(error.field(b'M').as_deref(), Some("SSL required"));
        Some(())
    })
    .await;
    let mut wire = Wire::connect(pool.port()).await;
    wire.secure(tls::client(&authority, None, &[]), false).await.expect("a handshake");
    wire.enter("app", "app", "").await.expect("in");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_the_fallback_that_is_paused_is_listed() {
    let cluster = Cluster::start().await;
    let pool = start(&cluster, &format!("* = host=127.0.0.1 port={}", cluster.port()), "").await;
    let mut admin = attempt(&pool, "app", "pgbouncer").await.expect("may");
    assert_eq!(tags(&admin.query("PAUSE other").await), "CZ");
    assert_eq!(number(of(&rows(&mut admin, "SHOW DATABASES").await, "name", "other"), "paused"), 1);
    assert_eq!(tags(&admin.query("RESUME other").await), "CZ");
    assert!(rows(&mut admin, "SHOW DATABASES").await.iter().all(|row| value(row, "name") != "other"));
}
