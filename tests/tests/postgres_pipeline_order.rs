//! Pipelines: answers come in the order of the questions, and each client's statements run in its order, whatever connection they get.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::frame::{bind, execute, parse, query, sync};
use sidepool_tests::postgres::wire::{first_column, first_error};
use sidepool_tests::postgres::{Cluster, Wire};
use sidepool_tests::settings::Settings;
use tokio::task::JoinSet;

async fn read_readies(wire: &mut Wire, count: usize) -> Vec<sidepool_tests::postgres::Message> {
    let mut messages = Vec::new();
    for _ in 0..count {
        messages.extend(wire.until_ready().await);
    }
    messages
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_questions_in_one_write() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", 3)).await;
    let mut wire = pool.wire().await;
    let mut bytes = Vec::new();
    for index in 0..1_000 {
        if index % 2 == 0 {
            bytes.extend(query(&format!("SELECT {index}")));
        } else {
            bytes.extend([parse("", "SELECT $1::int"), bind("", "", &[&index.to_string()]), execute("", 0), sync()].concat());
        }
    }
    wire.send(&bytes).await;
    let answers = read_readies(&mut wire, 1_000).await;
    let expected: Vec<String> = (0..1_000).map(|index| index.to_string()).collect();
    assert_eq!(first_column(&answers), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_of_a_pipeline_run_one_after_the_other() {
    let cluster = Cluster::start().await;
    cluster.sql("CREATE TABLE counter (client int primary key, value int); GRANT ALL ON counter TO app").await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", 3)).await;
    let mut clients = JoinSet::new();
    for client in 0..8 {
        let mut wire = pool.wire().await;
        clients.spawn(async move {
            // Each step sees the effect of the one before, or its guard fails.
            let mut bytes = query(&format!("INSERT INTO counter VALUES ({client}, 0)"));
            for step in 0..50 {
                let update = format!("UPDATE counter SET value = {step} + 1 WHERE client = {client} AND value = {step} RETURNING value");
                bytes.extend(match step % 3 {
                    0 => query(&update),
                    1 => [query("BEGIN"), query(&update), query("COMMIT")].concat(),
                    _ => [parse("", &update), bind("", "", &[]), execute("", 0), sync()].concat(),
                });
            }
            wire.send(&bytes).await;
            let readies = 1 + (0..50).map(|step| if step % 3 == 1 { 3 } else { 1 }).sum::<usize>();
            let answers = read_readies(&mut wire, readies).await;
            assert_eq!(first_error(&answers).and_then(|error| error.field(b'M')), None);
            let expected: Vec<String> = (1..=50).map(|value| value.to_string()).collect();
            assert_eq!(first_column(&answers), expected, "client {client}");
        });
    }
    while let Some(done) = clients.join_next().await {
        done.expect("every client saw its own order");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_pipelines() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", 2)).await;
    let client = pool.client().await;
    let statement = client.prepare("SELECT $1::int").await.expect("prepared");
    let mut questions = JoinSet::new();
    let client = std::sync::Arc::new(client);
    for number in 0..200_i32 {
        let (client, statement) = (client.clone(), statement.clone());
        questions.spawn(async move {
            let row = client.query_one(&statement, &[&number]).await.expect("an answer");
            assert_eq!(row.get::<_, i32>(0), number);
        });
    }
    while let Some(done) = questions.join_next().await {
        done.expect("every question got its own answer");
    }
}
