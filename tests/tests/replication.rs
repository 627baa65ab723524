//! Replication through the pooler: PostgreSQL's own tools and a second cluster as clients.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cancel::{cancel_at, is_cancelled, runs};
use sidepool_tests::postgres::cluster::{PASSWORD, program};
use sidepool_tests::postgres::wire::{first_column, first_error};
use sidepool_tests::postgres::{Cluster, Wire, frame, tags};
use sidepool_tests::process::{Process, Signal};
use sidepool_tests::settings::Settings;
use sidepool_tests::{place, wait};

/// Databases that a replication client names; the second is what the tools say when nothing is said.
const ENTRIES: [&str; 2] = ["app", "replication"];

/// A cluster that can be replicated from, and by whom.
async fn primary(options: &[&str]) -> Cluster {
    let options = [&["wal_level=logical", "max_wal_senders=8", "max_replication_slots=8"], options].concat();
    let cluster = Cluster::start_with(&options).await;
    cluster.sql("ALTER ROLE app REPLICATION").await;
    cluster.allow("host replication app 127.0.0.1/32 scram-sha-256").await;
    cluster
}

fn before(cluster: &Cluster) -> Settings {
    let settings = Settings::postgres(cluster).set("postgres.auth_type", "scram-sha-256");
    ENTRIES.iter().fold(settings, |settings, entry| settings.database(entry, cluster))
}

fn tool(name: &str, pool: &Pooler) -> Command {
    let mut command = Command::new(program(name));
    command.env("PGPASSWORD", PASSWORD).env("PGCONNECT_TIMEOUT", "20");
    command.args(["-h", "127.0.0.1", "-U", "app", "-p"]).arg(pool.postgres_port().to_string());
    command
}

async fn run(mut command: Command) -> Output {
    let running = tokio::task::spawn_blocking(move || command.output().expect("the tool is installed"));
    wait::soon("the tool to end", running).await.expect("it does not panic")
}

async fn replicating(pool: &Pooler, kind: &str) -> Wire {
    let login = [("user", "app"), ("database", "app"), ("replication", kind)];
    Wire::try_login(pool.postgres_port(), &login, PASSWORD).await.unwrap_or_else(|error| panic!("{:?}", error.field(b'M')))
}

fn files(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_backup_is_whole() {
    let cluster = primary(&[]).await;
    cluster.sql("CREATE TABLE t AS SELECT n, repeat('x', 500) FROM generate_series(1, 20000) n").await;
    let pool = Pooler::start(before(&cluster)).await;
    let target = place::directory("backup").join("data");
    let mut backup = tool("pg_basebackup", &pool);
    backup.args(["-X", "stream", "-c", "fast", "--no-sync", "-D"]).arg(&target);
    let output = run(backup).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut verify = Command::new(program("pg_verifybackup"));
    verify.arg(&target);
    let output = run(verify).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn received_log_arrives_while_it_is_written() {
    let cluster = primary(&[]).await;
    let pool = Pooler::start(before(&cluster)).await;
    let target = place::directory("wal");
    let mut receive = tool("pg_receivewal", &pool);
    receive.args(["--no-loop", "-D"]).arg(&target);
    let mut receiver = Process::spawn("pg_receivewal", receive);
    wait::until("a segment that is being written", async || (!files(&target).is_empty()).then_some(())).await;
    let whole = || files(&target).iter().filter(|path| path.extension().is_none()).count();
    let before = whole();
    cluster.sql("CREATE TABLE t AS SELECT n FROM generate_series(1, 100000) n; SELECT pg_switch_wal()").await;
    wait::until("a whole segment", async || (whole() > before).then_some(())).await;
    receiver.signal(Signal::INT);
    receiver.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_follows_its_publisher() {
    let (publisher, subscriber) = (primary(&[]).await, Cluster::start_with(&["wal_level=logical"]).await);
    let table = "CREATE TABLE t (n int primary key)";
    publisher
        .sql(&format!("{table}; INSERT INTO t SELECT generate_series(1, 1000); GRANT SELECT ON t TO app; CREATE PUBLICATION p FOR TABLE t"))
        .await;
    subscriber.sql(table).await;
    let pool = Pooler::start(before(&publisher)).await;
    let way = format!("host=127.0.0.1 port={} user=app password={PASSWORD} dbname=app", pool.postgres_port());
    subscriber.sql(&format!("CREATE SUBSCRIPTION s CONNECTION '{way}' PUBLICATION p")).await;
    let client = subscriber.superuser("app").await;
    let rows = async |wanted: i64| {
        let count: i64 = client.query_one("SELECT count(*) FROM t", &[]).await.expect("it answers").get(0);
        (count == wanted).then_some(())
    };
    wait::until("the rows that were there", async || rows(1000).await).await;
    publisher.sql("INSERT INTO t SELECT generate_series(1001, 3000)").await;
    wait::until("the rows that came later", async || rows(3000).await).await;
    subscriber.sql("ALTER SUBSCRIPTION s DISABLE").await;
    subscriber.sql("ALTER SUBSCRIPTION s SET (slot_name = NONE)").await;
    subscriber.sql("DROP SUBSCRIPTION s").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_and_queries_of_both_kinds_are_answered() {
    let cluster = primary(&[]).await;
    let pool = Pooler::start(before(&cluster)).await;
    let mut physical = replicating(&pool, "true").await;
    assert!(tags(&physical.query("IDENTIFY_SYSTEM").await).contains('D'));
    let mut logical = replicating(&pool, "database").await;
    assert!(tags(&logical.query("IDENTIFY_SYSTEM").await).contains('D'));
    assert_eq!(logical.value("SELECT current_database()").await, "app");
    let made = logical.query("CREATE_REPLICATION_SLOT s TEMPORARY LOGICAL pgoutput").await;
    assert_eq!(first_column(&made), ["s"]);
    // An error is the server's own, and the connection goes on.
    let error = physical.query("NO_SUCH_COMMAND").await;
    assert_eq!(first_error(&error).and_then(|error| error.field(b'C')).as_deref(), Some("0A000"));
    assert!(tags(&physical.query("IDENTIFY_SYSTEM").await).contains('D'));
    drop((physical, logical));
    wait::until("the server's side to be closed, too", async || (cluster.walsenders().await == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_counts_toward_the_pool_and_idle_connections_give_way() {
    let cluster = primary(&[]).await;
    let settings = before(&cluster).set("postgres.default_pool_size", 1);
    let mut pool = Pooler::start(settings.clone()).await;
    let mut usual = pool.wire().await;
    usual.value("SELECT 1").await;
    assert_eq!(cluster.connections().await, 1);
    // The idle connection makes room; then there is none for anybody else.
    let mut replication = replicating(&pool, "database").await;
    replication.value("SELECT 1").await;
    wait::until("the idle one to be gone", async || (cluster.connections().await == 0).then_some(())).await;
    assert_eq!(cluster.walsenders().await, 1);
    pool.reload(settings.set("postgres.query_wait_timeout", "300ms")).await;
    let refused = usual.query("SELECT 1").await;
    assert!(first_error(&refused).is_some());
    drop(replication);
    wait::until("room again", async || first_error(&usual.query("SELECT 1").await).is_none().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_reaches_it_and_a_wrong_password_does_not() {
    let cluster = primary(&[]).await;
    let pool = Pooler::start(before(&cluster)).await;
    let login = [("user", "app"), ("database", "app"), ("replication", "database")];
    let error = Wire::try_login(pool.postgres_port(), &login, "wrong").await.err().expect("no entry");
    assert_eq!(error.field(b'C').as_deref(), Some("28P01"));
    let mut wire = replicating(&pool, "database").await;
    wire.send(&frame::query("SELECT pg_sleep(60)")).await;
    runs(&cluster, "pg_sleep(60)").await;
    cancel_at(pool.postgres_port(), &wire).await;
    is_cancelled(&mut wire).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_refusal_is_told_in_its_own_words() {
    let cluster = primary(&[]).await;
    cluster.sql("ALTER ROLE app NOREPLICATION").await;
    let pool = Pooler::start(before(&cluster)).await;
    let login = [("user", "app"), ("database", "app"), ("replication", "database")];
    let error = Wire::try_login(pool.postgres_port(), &login, PASSWORD).await.err().expect("no entry");
    assert_eq!(error.field(b'C').as_deref(), Some("42501"), "{:?}", error.field(b'M'));
    assert!(error.field(b'M').is_some_and(|message| message.contains("replication")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_the_drain() {
    let cluster = primary(&[]).await;
    let mut pool = Pooler::start(before(&cluster).set("drain.timeout", "60s")).await;
    let mut wire = replicating(&pool, "true").await;
    let system = wire.query("IDENTIFY_SYSTEM").await;
    let place = system.iter().find(|message| message.tag == b'D').expect("a row").columns()[2].clone().expect("a place");
    wire.send(&frame::query(&format!("START_REPLICATION PHYSICAL {place}"))).await;
    assert_eq!(wire.read().await.expect("an answer").tag, b'W');
    let ended = async {
        let rest = wire.until_closed().await;
        assert_eq!(first_error(&rest).and_then(|error| error.field(b'C')).as_deref(), Some("57P01"));
    };
    let (status, ()) = tokio::join!(pool.terminate(), ended);
    assert!(status.success());
}
