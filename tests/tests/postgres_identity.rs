//! Who a client is on the server, in transaction mode: its process, its cancel key, its name.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::wire::first_error;
use sidepool_tests::postgres::{Cluster, Wire, frame};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

const PID: &str = "SELECT pg_backend_pid()";
const NAMES: &str = "SELECT string_agg(application_name, ', ') FROM pg_stat_activity WHERE usename = 'app' AND pid <> pg_backend_pid()";

async fn named(pool: &Pooler, name: &str) -> Wire {
    let parameters = [("user", "app"), ("database", "app"), ("application_name", name)];
    Wire::try_login(pool.postgres_port(), &parameters, "").await.unwrap_or_else(|error| panic!("{error:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_is_the_same_within_a_transaction_and_while_pinned() {
    let cluster = Cluster::start().await;
    // One worker: with several, who has its answer first may have given its connection back last.
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", 2).set("workers", 1)).await;
    let (mut one, mut two) = (pool.wire().await, pool.wire().await);
    // Each takes the connection that was used last, so that the one that is free changes hands.
    let first = one.value(PID).await;
    one.query("BEGIN").await;
    let second = two.value(PID).await;
    assert_ne!(first, second);
    assert_eq!([one.value(PID).await, one.value(PID).await], [first.clone(), first.clone()]);
    two.query("BEGIN").await;
    one.query("COMMIT").await;
    two.query("COMMIT").await;
    assert_eq!(one.value(PID).await, second, "unpinned, it is whatever connection comes next");
    two.query("BEGIN").await;
    assert_eq!(one.value("SELECT 1").await, "1");
    one.query("CREATE TEMP TABLE kept (n int)").await;
    two.query("COMMIT").await;
    let pinned = one.value(PID).await;
    for _ in 0..5 {
        assert_ne!(two.value(PID).await, pinned);
        assert_eq!(one.value(PID).await, pinned, "pinned, it is always the same");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cancel_key_is_the_clients_whatever_connection_it_has() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", 2)).await;
    let (mut wire, mut other) = (pool.wire().await, pool.wire().await);
    let operator = cluster.superuser("app").await;
    let (process, key) = wire.cancel_key.clone().expect("it was given one");
    for before in ["SELECT 1", "CREATE TEMP TABLE kept (n int)", "SELECT 1", "DROP TABLE kept"] {
        wire.query(before).await;
        other.query("SELECT 1").await;
        wire.send(&frame::query("SELECT pg_sleep(60)")).await;
        wait::until("the query to run", async || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(60)'";
            let running: i64 = operator.query_one(sql, &[]).await.expect(sql).get(0);
            (running == 1).then_some(())
        })
        .await;
        let mut cancel = Wire::connect(pool.postgres_port()).await;
        cancel.send(&frame::cancel(process, &key)).await;
        let answer = wire.until_ready().await;
        // The server signals twice, and the second signal may hit what comes next: a cancel has arrived when its connection is closed.
        cancel.until_closed().await;
        let code = first_error(&answer).and_then(|error| error.field(b'C'));
        assert_eq!(code.as_deref(), Some("57014"), "after {before:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_shows_the_name_of_the_client_that_has_the_connection() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 2);
    for add_host in [false, true] {
        let pool = Pooler::start(settings.clone().set("postgres.application_name_add_host", add_host)).await;
        let (mut shop, mut office) = (named(&pool, "shop").await, named(&pool, "office").await);
        let address = shop.stream().local_addr().expect("an address");
        let shown = if add_host { format!("shop - {address}") } else { "shop".to_owned() };
        shop.query("BEGIN").await;
        assert_eq!(office.value(NAMES).await, shown);
        shop.query("COMMIT").await;
        shop.query("CREATE TEMP TABLE kept (n int)").await;
        assert_eq!(office.value(NAMES).await, shown, "pinned and idle");
        shop.query("SET application_name = 'till'").await;
        assert_eq!(office.value(NAMES).await, "till", "a name that it sets is shown as it is");
        shop.query("RESET application_name").await;
        assert_eq!(shop.value("SHOW application_name").await, shown, "what it began with");
        assert_eq!(office.value(NAMES).await, shown);
        let row = office.value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND client_addr = '127.0.0.1'").await;
        assert_eq!(row, "2", "where they come from is where sidepool is");
        drop(pool);
        wait::until("its connections to be gone", async || (cluster.connections().await == 0).then_some(())).await;
    }
}
