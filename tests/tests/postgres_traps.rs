//! Traps that other poolers fell into, each as it was met: what is refused in the middle of pipelined batches, a function call among messages of the
//! extended protocol, clients that leave in the middle of a message.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::frame::{bind, execute, function_call, parse, query, startup, sync};
use sidepool_tests::postgres::wire::tags;
use sidepool_tests::postgres::{Cluster, Message, Wire};
use sidepool_tests::settings::Settings;

/// One connection for all.
async fn narrow(cluster: &Cluster, wait: &str) -> Pooler {
    let settings = Settings::postgres(cluster).set("postgres.default_pool_size", 1).set("postgres.query_wait_timeout", wait);
    Pooler::start(settings).await
}

fn batch(sql: &str) -> Vec<u8> {
    [parse("", sql), bind("", "", &[]), execute("", 0), sync()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_batch_that_is_refused_is_answered_once_and_no_row_comes_late() {
    let cluster = Cluster::start().await;
    let pool = narrow(&cluster, "300ms").await;
    let (mut holder, mut client) = (pool.wire().await, pool.wire().await);
    holder.query("BEGIN").await;
    client.send(&[batch("SELECT 'one'"), batch("SELECT 'two'"), query("SELECT 'three'")].concat()).await;
    for _ in 0..3 {
        let answer = client.until_ready().await;
        assert_eq!(tags(&answer), "EZ");
        assert_eq!(answer[0].field(b'C').as_deref(), Some("53300"));
    }
    holder.query("COMMIT").await;
    assert_eq!(client.value("SELECT 'four'").await, "four");
    assert!(client.is_silent().await, "nothing of what was refused comes after all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_call_among_batches_is_answered_in_its_place() {
    let cluster = Cluster::start().await;
    let pool = narrow(&cluster, "10s").await;
    let mut direct = Wire::login(cluster.port(), "open", "app", "").await;
    let mut pooled = pool.wire().await;
    let messages = [batch("SELECT 'before'"), function_call(1317, &["four"]), batch("SELECT 'after'")].concat();
    for _ in 0..2 {
        let (there, here) = (three(&mut direct, &messages).await, three(&mut pooled, &messages).await);
        assert_eq!(there, here);
    }
    // An error in front of it: the server skips to the Sync, which comes behind it.
    let messages = [parse("", "SELEKT"), function_call(1317, &["four"]), sync(), batch("SELECT 'after'"), query("SELECT 1")].concat();
    let (there, here) = (three(&mut direct, &messages).await, three(&mut pooled, &messages).await);
    assert_eq!(there.iter().map(|message| message.tag).collect::<Vec<_>>(), here.iter().map(|message| message.tag).collect::<Vec<_>>());
}

/// What is answered up to the third ReadyForQuery.
async fn three(wire: &mut Wire, messages: &[u8]) -> Vec<Message> {
    wire.send(messages).await;
    let mut answers = wire.until_ready().await;
    answers.extend(wire.until_ready().await);
    answers.extend(wire.until_ready().await);
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_in_the_middle_of_a_message_leaves_nothing_of_it_behind() {
    let cluster = Cluster::start().await;
    let pool = narrow(&cluster, "10s").await;
    let long = format!("SELECT '{}'", "x".repeat(100_000));
    let begun = [parse("", "SELECT $1::text"), bind("", "", &[&"y".repeat(100_000)])].concat();
    let halves = [query(&long)[..60_000].to_vec(), query(&long)[..10].to_vec(), begun[..50_000].to_vec(), query("SELECT 1")[..3].to_vec()];
    for half in halves {
        let mut leaver = pool.wire().await;
        leaver.send(&half).await;
        drop(leaver);
        let mut other = pool.wire().await;
        assert_eq!(other.value("SELECT 'mine'").await, "mine");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_while_the_server_is_awaited_is_not_waited_for() {
    let cluster = Cluster::start().await;
    // Where nobody listens, which is tried again and again.
    let settings = Settings::postgres(&cluster).set("postgres.databases.app.port", 1).set("postgres.client_login_timeout", "60s");
    let pool = Pooler::start(settings).await;
    let mut client = Wire::connect(pool.postgres_port()).await;
    client.send(&startup(&[("user", "app"), ("database", "app")])).await;
    pool.metrics_show("the client waiting", |now| now.sum("sidepool_pool_client_connections", &[("state", "waiting")]) >= 1.0).await;
    drop(client);
    pool.metrics_show("nobody waiting", |now| now.sum("sidepool_pool_client_connections", &[("state", "waiting")]) < 1.0).await;
    pool.process().log().line_with("client left during login").await;
}
