//! sqlx through sidepool, with its defaults: it prepares every statement under a name of its own and keeps it.

use std::time::Duration;

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::Cluster;
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{Executor as _, Row as _};

/// Servers with a pool of three in between, and sqlx's own pool of twenty in front.
async fn start() -> (Cluster, Pooler, String) {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.auth_type", "scram-sha-256").set("postgres.default_pool_size", 3);
    let pooler = Pooler::start(settings).await;
    let url = format!("postgres://app:app-secret-0815@127.0.0.1:{}/app", pooler.postgres_port());
    (cluster, pooler, url)
}

async fn pool(url: &str) -> PgPool {
    PgPoolOptions::new().max_connections(20).connect(url).await.expect("the pooler lets sqlx in")
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_transactions_and_errors_over_a_few_connections() {
    let (cluster, _pooler, url) = start().await;
    let pool = pool(&url).await;
    pool.execute("CREATE TABLE account (id int PRIMARY KEY, balance int NOT NULL)").await.unwrap();
    sqlx::query("INSERT INTO account SELECT n, 100 FROM generate_series(1, 50) n").execute(&pool).await.unwrap();

    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..40_i32 {
        let pool = pool.clone();
        tasks.spawn(async move {
            for round in 0..10_i32 {
                let (from, to) = ((worker + round) % 50 + 1, (worker * 7 + round) % 50 + 1);
                let mut transaction = pool.begin().await?;
                // In the order of their ids, or they would wait for each other.
                for (id, change) in if from <= to { [(from, -1), (to, 1)] } else { [(to, 1), (from, -1)] } {
                    let update = sqlx::query("UPDATE account SET balance = balance + $1 WHERE id = $2").bind(change).bind(id);
                    update.execute(&mut *transaction).await?;
                }
                if round % 3 == 0 {
                    transaction.rollback().await?
                } else {
                    transaction.commit().await?
                }
                let id: i32 = sqlx::query_scalar("SELECT id FROM account WHERE id = $1").bind(from).fetch_one(&pool).await?;
                assert_eq!(id, from);
            }
            Ok::<_, sqlx::Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap().unwrap();
    }
    let sum: i64 = sqlx::query_scalar("SELECT sum(balance) FROM account").fetch_one(&pool).await.unwrap();
    assert_eq!(sum, 5_000);
    // One that was told goodbye is seen for a moment longer.
    wait::until("the pool to have kept its limit", async || (cluster.connections().await <= 3).then_some(())).await;

    let error = sqlx::query("SELECT 1 / $1").bind(0).execute(&pool).await.unwrap_err();
    assert_eq!(error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned())).as_deref(), Some("22012"));
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_describes_a_statement_by_explaining_it() {
    let (_cluster, _pooler, url) = start().await;
    let pool = pool(&url).await;
    pool.execute("CREATE TABLE note (id int PRIMARY KEY, body text)").await.unwrap();
    for _ in 0..5 {
        // EXPLAIN (VERBOSE, FORMAT JSON) EXECUTE sqlx_s_1(NULL), through Parse.
        let described = pool.describe("SELECT id, body FROM note WHERE id = $1").await.unwrap();
        assert_eq!(described.columns().len(), 2);
        assert_eq!((described.nullable(0), described.nullable(1)), (Some(false), Some(true)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn its_listener_hears_what_is_notified() {
    let (_cluster, _pooler, url) = start().await;
    let mut listener = sqlx::postgres::PgListener::connect(&url).await.unwrap();
    listener.listen("news").await.unwrap();
    let pool = pool(&url).await;
    sqlx::query("SELECT pg_notify('news', 'today')").execute(&pool).await.unwrap();
    let heard = tokio::time::timeout(Duration::from_secs(10), listener.recv()).await.expect("in time").unwrap();
    assert_eq!((heard.channel(), heard.payload()), ("news", "today"));
    let row = sqlx::query("SELECT 'usable'").fetch_one(&pool).await.unwrap();
    assert_eq!(row.get::<&str, _>(0), "usable");
}
