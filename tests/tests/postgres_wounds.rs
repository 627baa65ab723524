//! What PgBouncer's users have complained of for years, each healed. The comment at each test says what PgBouncer 1.25 does; run it with
//! `SIDEPOOL_TESTS_POOLER=pgbouncer` to see it. (One older than 1.21, as in Debian 12, does not know statements' names, and passes the first three;
//! those that look at metrics cannot run there.)

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sidepool_tests::fault::{Behaviour, FaultProxy};
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cluster::{PASSWORD, USER};
use sidepool_tests::postgres::frame::{bind, close, describe, execute, message, parse, query, sync};
use sidepool_tests::postgres::wire::{first_column, first_error};
use sidepool_tests::postgres::{Cluster, Message, Wire, tags};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

async fn start(connections: i64) -> (Cluster, Pooler) {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", connections);
    let pool = Pooler::start(settings).await;
    (cluster, pool)
}

fn code(answer: &[Message]) -> Option<String> {
    first_error(answer).and_then(|error| error.field(b'C'))
}

fn run(name: &str) -> Vec<u8> {
    [bind("", name, &[]), execute("", 0), sync()].concat()
}

/// PgBouncer: "cached plan must not change result type" comes back after Close and Parse, and for clients that have just come, until RECONNECT:
/// the server keeps the statement, and all who prepare the same text get that one.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_ddl_made_useless_is_thrown_away() {
    let (cluster, pool) = start(1).await;
    cluster.sql("CREATE TABLE thing (a int); INSERT INTO thing VALUES (1); GRANT ALL ON thing TO app").await;
    let mut wire = pool.wire().await;
    wire.ask(&[parse("s", "SELECT * FROM thing"), sync()].concat()).await;
    assert_eq!(tags(&wire.ask(&run("s")).await), "2DCZ");
    cluster.sql("ALTER TABLE thing ADD b int").await;
    assert_eq!(code(&wire.ask(&run("s")).await).as_deref(), Some("0A000"), "as the server itself says to who has prepared it");
    assert_eq!(tags(&wire.ask(&[close(b'S', "s"), parse("s", "SELECT * FROM thing"), sync()].concat()).await), "31Z");
    assert_eq!(tags(&wire.ask(&run("s")).await), "2DCZ", "prepared anew, it works");
    let mut new = pool.wire().await;
    new.ask(&[parse("mine", "SELECT * FROM thing"), sync()].concat()).await;
    assert_eq!(tags(&new.ask(&run("mine")).await), "2DCZ", "and so it does for somebody new");
}

/// PgBouncer: the name of a Parse that failed is taken, and the next Parse of it closes the connection ("prepared statement name is already in use").
#[tokio::test(flavor = "multi_thread")]
async fn a_parse_that_fails_leaves_its_name_free() {
    let (cluster, pool) = start(1).await;
    let mut wire = pool.wire().await;
    for round in 0..3 {
        assert_eq!(code(&wire.ask(&[parse("s", "SELECT * FROM later"), sync()].concat()).await).as_deref(), Some("42P01"), "round {round}");
        assert_eq!(code(&wire.ask(&run("s")).await).as_deref(), Some("26000"));
    }
    // One that was skipped because of an error before it.
    wire.ask(&[parse("", "SELEKT"), parse("s", "SELECT 1"), sync()].concat()).await;
    cluster.sql("CREATE TABLE later (n int); GRANT ALL ON later TO app").await;
    assert_eq!(tags(&wire.ask(&[parse("s", "SELECT * FROM later"), sync()].concat()).await), "1Z");
    assert_eq!(tags(&wire.ask(&run("s")).await), "2CZ");
}

/// PgBouncer: closes the client's connection, with "prepared statement did not exist" or "prepared statement name is already in use".
#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_unknown_or_taken_are_errors_and_no_more() {
    let (cluster, pool) = start(1).await;
    let mut direct = Wire::login(cluster.port(), USER, "app", PASSWORD).await;
    let mut pooled = pool.wire().await;
    let batches = [
        run("nobody"),
        [describe(b'S', "nobody"), sync()].concat(),
        [close(b'S', "nobody"), sync()].concat(),
        [parse("s", "SELECT 1"), sync()].concat(),
        [parse("s", "SELECT 2"), sync()].concat(),
        [parse("s", "SELECT 1"), sync()].concat(),
        run("s"),
        query("BEGIN"),
        run("nobody"),
        run("s"),
        query("ROLLBACK"),
        run("s"),
    ];
    for batch in batches {
        let (expected, got) = (direct.ask(&batch).await, pooled.ask(&batch).await);
        assert_eq!(tags(&expected), tags(&got));
        for (expected, got) in expected.iter().zip(&got) {
            assert_eq!((expected.field(b'C'), expected.field(b'M')), (got.field(b'C'), got.field(b'M')));
        }
    }
}

/// PgBouncer: says `utf8`, as the client wrote it; libraries that compare with `UTF8` go wrong.
#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_spelled_as_the_server_spells_them() {
    let (cluster, pool) = start(1).await;
    let spelled = [
        ("client_encoding", "utf8"),
        ("DateStyle", "iso"),
        ("TimeZone", "utc"),
        ("IntervalStyle", "ISO_8601"),
        ("standard_conforming_strings", "TRUE"),
    ];
    for (name, value) in spelled {
        let login = [("user", USER), ("database", "app"), (name, value)];
        let direct = Wire::try_login(cluster.port(), &login, PASSWORD).await.expect("a login");
        let mut pooled = Wire::try_login(pool.postgres_port(), &login, PASSWORD).await.expect("a login");
        // What needs the server to be spelled right is told with the first transaction at the latest.
        pooled.query("SELECT 1").await;
        assert_eq!(pooled.parameters[name], direct.parameters[name], "{name}");
        pooled.query(&format!("SET {name} = '{value}'")).await;
        assert_eq!(pooled.parameters[name], direct.parameters[name], "{name}");
    }
}

/// Servers with something in between that loses connections, a pool of one, and one client whose connection is open.
async fn fragile() -> (Cluster, FaultProxy, Pooler, Wire) {
    let cluster = Cluster::start().await;
    cluster.sql("CREATE TABLE log (n int); GRANT ALL ON log TO app").await;
    let network = FaultProxy::start(cluster.port()).await;
    let settings =
        Settings::postgres(&cluster).set("postgres.default_pool_size", 1).set("postgres.databases.app.port", i64::from(network.port()));
    let pool = Pooler::start(settings).await;
    let mut wire = pool.wire().await;
    assert_eq!(wire.value("SELECT 1").await, "1");
    (cluster, network, pool, wire)
}

async fn is_under_way(pool: &Pooler) {
    let state = [("state", "active")];
    pool.metrics_show("a client with a connection", |now| now.sum("sidepool_pool_client_connections", &state) >= 1.0).await;
}

/// PgBouncer: mostly finds it as well; where the news has not been read, it tells the client 08P01 and closes its connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_died_idle_costs_nobody_anything() {
    let (cluster, pool) = start(1).await;
    let mut wire = pool.wire().await;
    for first in
        [query("BEGIN"), query("SELECT 'anything'"), [parse("", "SELECT 'prepared'"), bind("", "", &[]), execute("", 0), sync()].concat()]
    {
        assert_eq!(wire.value("SELECT 1").await, "1");
        cluster.terminate_connections().await;
        let answer = wire.ask(&first).await;
        assert!(first_error(&answer).is_none(), "{:?}", first_error(&answer));
        wire.query("ROLLBACK").await;
    }
}

/// PgBouncer: tells the client 08P01 and closes its connection, although nothing has run. Here the connection dies with BEGIN on its way, so that nobody can know whether the server has read it: a transaction that
/// has begun ends with its connection, and so BEGIN is sent over another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_begin_whose_connection_is_lost_goes_to_another_one() {
    let (cluster, network, pool, mut wire) = fragile().await;
    for farewell in [true, false] {
        network.behave(Behaviour::Stall);
        if farewell {
            // The server's FATAL is held back, and arrives behind our BEGIN.
            cluster.terminate_connections().await;
        }
        wire.send(&query("BEGIN ISOLATION LEVEL REPEATABLE READ, READ WRITE;")).await;
        is_under_way(&pool).await;
        if !farewell {
            network.cut();
        }
        network.behave(Behaviour::Pass);
        let answer = wire.until_ready().await;
        assert_eq!(tags(&answer), "CZ", "{:?}", first_error(&answer));
        assert_eq!((answer[0].text(), answer[1].text()), ("BEGIN".to_owned(), "T".to_owned()));
        assert_eq!(wire.value("SHOW transaction_isolation").await, "repeatable read");
        wire.query("INSERT INTO log VALUES (1)").await;
        assert_eq!(wire.query("COMMIT").await[0].text(), "COMMIT");
    }
    assert_eq!(wire.value("SELECT count(*) FROM log").await, "2");
    pool.process().log().line_with("server connection lost before anything ran on it").await;
}

/// The other side of it: what may have run is never sent again. The client has the server's own words (57P01, and not 08P01) where there are any.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_run_is_never_sent_again() {
    for (message, farewell) in [
        (query("INSERT INTO log VALUES (1)"), true),
        (query("INSERT INTO log VALUES (1)"), false),
        (query("BEGIN; INSERT INTO log VALUES (1); COMMIT"), true),
        ([query("BEGIN"), query("INSERT INTO log VALUES (1)"), query("COMMIT")].concat(), false),
        ([parse("", "INSERT INTO log VALUES (1)"), bind("", "", &[]), execute("", 0), sync()].concat(), true),
    ] {
        let (cluster, network, pool, mut wire) = fragile().await;
        network.behave(Behaviour::Stall);
        if farewell {
            cluster.terminate_connections().await;
        }
        wire.send(&message).await;
        is_under_way(&pool).await;
        if farewell {
            network.behave(Behaviour::Pass);
        } else {
            network.cut();
        }
        let answer = wire.until_closed().await;
        network.behave(Behaviour::Pass);
        assert_eq!(code(&answer).as_deref(), Some(if farewell { "57P01" } else { "08006" }));
        assert_eq!(pool.wire().await.value("SELECT count(*) FROM log").await, "0");
    }
}

/// A server that lets everybody in and ends every connection at BEGIN; answers where it listens, and counts how often it has been asked.
async fn fatal_server() -> (u16, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let (port, asked) = (listener.local_addr().expect("it is bound").port(), Arc::new(AtomicU32::new(0)));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let status = |name: &str, value: &str| message(b'S', format!("{name}\0{value}\0").as_bytes());
                let welcome =
                    [message(b'R', &[0; 4]), status("server_version", "15"), status("client_encoding", "UTF8"), message(b'Z', b"I")];
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await?;
                stream.write_all(&welcome.concat()).await?;
                loop {
                    let read = stream.read(&mut buffer).await?;
                    if read == 0 {
                        return std::io::Result::Ok(());
                    }
                    if buffer[..read].starts_with(&query("BEGIN")) {
                        count.fetch_add(1, Ordering::SeqCst);
                        return stream.write_all(&message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mgo away\0\0")).await;
                    }
                    stream.write_all(&[message(b'C', b"SELECT 0\0"), message(b'Z', b"I")].concat()).await?;
                }
            });
        }
    });
    (port, asked)
}

/// The bound on it: a server that ends every connection at BEGIN is not asked for ever, and the client then hears what it says.
#[tokio::test(flavor = "multi_thread")]
async fn a_begin_is_tried_on_four_connections_and_no_more() {
    let (port, asked) = fatal_server().await;
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.databases.app.port", i64::from(port))).await;
    let mut wire = pool.wire().await;
    assert_eq!(tags(&wire.query("SELECT").await), "CZ");
    wire.send(&query("BEGIN")).await;
    let answer = wire.until_closed().await;
    assert_eq!((code(&answer).as_deref(), tags(&answer)), (Some("57P01"), "E".to_owned()));
    assert_eq!(asked.load(Ordering::SeqCst), 4);
}

/// A server that says goodbye in the middle of what comes behind a COMMIT.
async fn short_lived_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await?;
                stream.write_all(&[message(b'R', &[0; 4]), message(b'Z', b"I")].concat()).await?;
                loop {
                    let read = stream.read(&mut buffer).await?;
                    let done = |what: &[u8], status: &[u8]| [message(b'C', what), message(b'Z', status)].concat();
                    if buffer[..read].starts_with(&query("COMMIT")) {
                        stream.write_all(&done(b"COMMIT\0", b"I")).await?;
                        return stream.write_all(&message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mgo away\0\0")).await;
                    }
                    if read == 0 {
                        return std::io::Result::Ok(());
                    }
                    stream.write_all(&done(b"BEGIN\0", b"T")).await?;
                }
            });
        }
    });
    port
}

/// What is begun anew is a BEGIN that nobody has answered, and not one of a transaction that is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_begin_that_was_answered_never_stands_for_another_query() {
    let port = short_lived_server().await;
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.databases.app.port", i64::from(port))).await;
    let mut wire = pool.wire().await;
    assert_eq!(tags(&wire.query("BEGIN").await), "CZ");
    wire.send(&[query("COMMIT"), query("UPDATE accounts SET amount = 0")].concat()).await;
    let answer = wire.until_closed().await;
    assert_eq!((tags(&answer).as_str(), code(&answer).as_deref()), ("CZE", Some("57P01")));
}

/// PgBouncer: remembers that the login failed and tells so for `server_login_retry` (15 s), long after the database is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_has_been_created_since_is_there() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.server_login_retry", "5m").database("later", &cluster)).await;
    let login = [("user", USER), ("database", "later")];
    let attempt = async || Wire::try_login(pool.postgres_port(), &login, PASSWORD).await;
    for _ in 0..3 {
        assert!(attempt().await.is_err());
    }
    cluster.superuser("postgres").await.batch_execute("CREATE DATABASE later OWNER app").await.expect("made");
    let mut found = wait::until("a login", async || attempt().await.ok()).await;
    assert_eq!(found.value("SELECT current_database()").await, "later");
}

/// PgBouncer: refuses the login ("unsupported startup parameter: geqo"), or with `ignore_startup_parameters` drops the value without a word.
#[tokio::test(flavor = "multi_thread")]
async fn startup_parameters_count_like_set() {
    let (cluster, pool) = start(2).await;
    let login = [
        ("user", USER),
        ("database", "app"),
        ("geqo", "off"),
        ("work_mem", "3MB"),
        ("statement_timeout", "0"),
        ("app.tenant_id", "seven"),
        ("options", "-c enable_sort=off -c search_path=pg_catalog"),
    ];
    let mut direct = Wire::try_login(cluster.port(), &login, PASSWORD).await.expect("a login");
    let mut pooled = Wire::try_login(pool.postgres_port(), &login, PASSWORD).await.expect("a login");
    let mut other = pool.wire().await;
    for name in ["geqo", "work_mem", "statement_timeout", "app.tenant_id", "enable_sort", "search_path"] {
        let show = format!("SHOW {name}");
        assert_eq!(pooled.value(&show).await, direct.value(&show).await, "{name}");
        other.query("SELECT 1").await;
    }
    assert_eq!(other.value("SHOW geqo").await, "on", "and they are this client's alone");
    // What cannot be, the server itself says.
    let nonsense = [("user", USER), ("database", "app"), ("no_such_parameter", "x")];
    let mut wire = Wire::try_login(pool.postgres_port(), &nonsense, PASSWORD).await.expect("a login");
    wire.send(&query("SELECT 1")).await;
    let answer = wire.until_closed().await;
    let said = first_error(&answer).and_then(|error| error.field(b'M')).unwrap_or_default();
    assert!(said.contains("no_such_parameter"), "{said}");
}

/// PgBouncer: its own idle connections stand in the way ("database "old" is being accessed by other users"), until somebody closes them by hand.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_stand_in_the_way_of_databases() {
    let cluster = Cluster::start().await;
    cluster.sql("ALTER ROLE app CREATEDB").await;
    for name in ["old", "gold", "named"] {
        cluster.superuser("postgres").await.batch_execute(&format!("CREATE DATABASE {name} OWNER app")).await.expect("made");
    }
    let settings = ["old", "gold", "named"].iter().fold(Settings::postgres(&cluster), |settings, name| settings.database(name, &cluster));
    let pool = Pooler::start(settings.set("postgres.min_pool_size", 1)).await;
    let mut clients = Vec::new();
    for name in ["old", "gold", "named"] {
        let mut wire = Wire::login(pool.postgres_port(), USER, name, PASSWORD).await;
        assert_eq!(wire.value("SELECT current_database()").await, name);
        clients.push(wire);
    }
    let mut wire = pool.wire().await;
    assert_eq!(tags(&wire.query("DROP DATABASE IF EXISTS old").await), "CZ");
    assert_eq!(tags(&wire.query("CREATE DATABASE copy TEMPLATE gold").await), "CZ");
    let rename = "/* one way */ ALTER DATABASE named RENAME TO called";
    assert_eq!(tags(&wire.ask(&[parse("", rename), bind("", "", &[]), execute("", 0), sync()].concat()).await), "12CZ");
    // Those whose database is still there notice nothing.
    assert_eq!(clients[1].value("SELECT current_database()").await, "gold");
    // Somebody who uses a connection is in nobody's pool.
    clients[1].query("BEGIN").await;
    let answer = wire.query("DROP DATABASE gold").await;
    assert_eq!(code(&answer).as_deref(), Some("55006"));
    clients[1].query("COMMIT").await;
    assert_eq!(first_column(&wire.query("SELECT count(*) FROM pg_database WHERE datname IN ('old', 'copy', 'called')").await), ["2"]);
    let closed = pool.scrape().await.sum("sidepool_server_closes_total", &[("reason", "asked")]);
    assert!(closed >= 3.0, "{closed} were closed for it");
}
