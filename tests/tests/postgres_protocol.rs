//! The whole PostgreSQL protocol through the pooler: what the server answers directly, it answers through us, byte for byte.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::frame::{
    bind, close, copy_data, copy_done, copy_fail, describe, execute, flush, function_call, parse, query, sync,
};
use sidepool_tests::postgres::wire::tags;
use sidepool_tests::postgres::{Cluster, Message, Wire};
use sidepool_tests::settings::Settings;

struct Pair {
    _cluster: Cluster,
    _pool: Pooler,
    direct: Wire,
    pooled: Wire,
}

impl Pair {
    async fn start() -> Self {
        let cluster = Cluster::start().await;
        cluster.sql("CREATE TABLE fruit (id int primary key, name text); INSERT INTO fruit VALUES (1, 'apple'), (2, 'pear')").await;
        cluster.sql("GRANT ALL ON fruit TO app").await;
        let pool = Pooler::start(Settings::postgres(&cluster)).await;
        let direct = Wire::login(cluster.port(), "app", "app", "app-secret-0815").await;
        let pooled = pool.wire().await;
        Self { _cluster: cluster, _pool: pool, direct, pooled }
    }

    /// Sends the same to both, reads as many ReadyForQuery as given, and compares all.
    async fn same(&mut self, bytes: &[u8], readies: usize) -> Vec<Message> {
        self.direct.send(bytes).await;
        self.pooled.send(bytes).await;
        let (mut expected, mut got) = (Vec::new(), Vec::new());
        for _ in 0..readies {
            expected.extend(self.direct.until_ready().await);
            got.extend(self.pooled.until_ready().await);
        }
        assert_eq!(tags(&expected), tags(&got));
        assert_eq!(expected, got);
        got
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn simple_queries() {
    let mut pair = Pair::start().await;
    pair.same(&query("SELECT * FROM fruit ORDER BY id"), 1).await;
    pair.same(&query("SELECT 1; SELECT 'two', NULL; SELECT 3 WHERE false"), 1).await;
    pair.same(&query(""), 1).await;
    pair.same(&query(" ; ;; "), 1).await;
    pair.same(&query("SELECT 1; SELECT 1 / 0; SELECT 3"), 1).await;
    pair.same(&query("SELEKT"), 1).await;
    pair.same(&query("BEGIN; SAVEPOINT a"), 1).await;
    pair.same(&query("SELECT nothing"), 1).await;
    pair.same(&query("SELECT 1"), 1).await;
    pair.same(&query("ROLLBACK TO a; SELECT 2"), 1).await;
    pair.same(&query("COMMIT"), 1).await;
    pair.same(&query("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two' USING HINT = 'three'; END $$"), 1).await;
    pair.same(&query("SELECT repeat('x', 100000), generate_series(1, 20)"), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn extended_queries() {
    let mut pair = Pair::start().await;
    let select = parse("", "SELECT id, name FROM fruit WHERE id >= $1::int ORDER BY id");
    pair.same(&[&select[..], &bind("", "", &["1"]), &describe(b'P', ""), &execute("", 0), &sync()].concat(), 1).await;
    pair.same(&[&select[..], &describe(b'S', ""), &sync()].concat(), 1).await;
    pair.same(&[parse("", ""), bind("", "", &[]), describe(b'P', ""), execute("", 0), sync()].concat(), 1).await;
    pair.same(&[parse("", "SELECT $1::int"), bind("", "", &["no number"]), execute("", 0), sync()].concat(), 1).await;
    pair.same(&[&select[..], &bind("p", "", &["1"]), &execute("p", 1), &execute("p", 1), &execute("p", 1), &sync()].concat(), 1).await;
    pair.same(&[&select[..], &bind("p", "", &["1"]), &close(b'P', "p"), &execute("p", 0), &sync()].concat(), 1).await;
    pair.same(&[close(b'S', "unknown"), close(b'P', "unknown"), sync()].concat(), 1).await;
    pair.same(&sync(), 1).await;
    pair.same(&[sync(), sync(), sync()].concat(), 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_skips_to_the_next_sync_and_no_further() {
    let mut pair = Pair::start().await;
    let good = [parse("", "SELECT 'good'"), bind("", "", &[]), execute("", 0)].concat();
    let bad = [parse("", "SELECT 1 / 0"), bind("", "", &[]), execute("", 0)].concat();
    let unparsable = parse("", "SELEKT");
    pair.same(&[&good[..], &bad, &good, &sync(), &good, &sync()].concat(), 2).await;
    pair.same(&[&unparsable[..], &good, &sync(), &bad, &good, &sync(), &good, &good, &sync()].concat(), 3).await;
    pair.same(&[&bad[..], &sync(), &query("SELECT 1"), &unparsable, &flush(), &sync(), &query("SELECT 2")].concat(), 4).await;
    pair.same(&[&query("BEGIN")[..], &bad, &sync(), &good, &sync(), &query("ROLLBACK"), &good, &sync()].concat(), 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flush_brings_the_answers_before_the_sync() {
    let mut pair = Pair::start().await;
    let request =
        [parse("", "SELECT name FROM fruit ORDER BY id"), bind("", "", &[]), describe(b'P', ""), execute("", 1), flush()].concat();
    for wire in [&mut pair.direct, &mut pair.pooled] {
        wire.send(&request).await;
        let mut messages = Vec::new();
        while messages.last().is_none_or(|message: &Message| message.tag != b's') {
            messages.push(wire.read().await.expect("the answers come without a Sync"));
        }
        assert_eq!(tags(&messages), "12TDs");
        // The transaction is still open, so the portal is there for more.
        wire.send(&[execute("", 0), flush()].concat()).await;
        assert_eq!(wire.read().await.map(|message| message.tag), Some(b'D'));
        assert_eq!(wire.read().await.map(|message| message.text()), Some("SELECT 1".to_owned()));
        assert_eq!(tags(&wire.ask(&sync()).await), "Z");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_comes_without_a_sync_when_flushed() {
    let mut pair = Pair::start().await;
    for wire in [&mut pair.direct, &mut pair.pooled] {
        wire.send(&[parse("", "SELEKT"), flush()].concat()).await;
        assert_eq!(wire.read().await.map(|message| message.tag), Some(b'E'));
        wire.send(&[parse("", "SELECT 1"), flush()].concat()).await;
        assert!(wire.is_silent().await, "all is skipped until the Sync");
        assert_eq!(tags(&wire.ask(&sync()).await), "Z");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_out() {
    let mut pair = Pair::start().await;
    pair.same(&query("COPY fruit TO STDOUT"), 1).await;
    pair.same(&query("COPY (SELECT * FROM generate_series(1, 5000)) TO STDOUT WITH (FORMAT binary)"), 1).await;
    pair.same(&query("SELECT 1; COPY fruit TO STDOUT; SELECT 2"), 1).await;
    pair.same(&query("COPY (SELECT 1 / (3 - n) FROM generate_series(1, 5) n) TO STDOUT"), 1).await;
    pair.same(&[parse("", "COPY fruit TO STDOUT"), bind("", "", &[]), execute("", 0), sync(), query("SELECT 1")].concat(), 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_in() {
    let mut pair = Pair::start().await;
    let start = query("CREATE TEMP TABLE t (n int); COPY t FROM STDIN; SELECT sum(n) FROM t; DROP TABLE t");
    pair.same(&[&start[..], &copy_data(b"1\n2\n"), &copy_data(b"39\n"), &copy_done()].concat(), 1).await;
    pair.same(&[&start[..], &copy_data(b"1\n"), &copy_fail("changed my mind")].concat(), 1).await;
    // The server gives up at the wrong line; what still comes belongs to nobody, up to the end of the copy.
    pair.same(&[&start[..], &copy_data(b"1\nwrong\n"), &copy_data(b"3\n"), &copy_done(), &query("SELECT 'next'")].concat(), 2).await;
    let extended = [parse("", "COPY fruit FROM STDIN"), bind("", "", &[]), execute("", 0)].concat();
    pair.same(&[query("BEGIN"), extended.clone(), copy_data(b"7\tfig\n"), copy_done(), sync(), query("ROLLBACK")].concat(), 3).await;
    let failing = [query("BEGIN"), extended, copy_data(b"7\n"), copy_done(), sync(), query("ROLLBACK")].concat();
    pair.same(&failing, 3).await;
    pair.same(&query("SELECT count(*) FROM fruit"), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn function_calls() {
    let mut pair = Pair::start().await;
    // length(text), and a division by zero in int4div.
    pair.same(&function_call(1317, &["four"]), 1).await;
    pair.same(&function_call(154, &["1", "0"]), 1).await;
    pair.same(&[function_call(1317, &["a"]), query("SELECT 1"), function_call(1317, &["ab"])].concat(), 3).await;
    pair.same(&function_call(999_999, &[]), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn single_bytes_arrive_as_well_as_whole_messages() {
    let mut pair = Pair::start().await;
    let request = [parse("slow", "SELECT $1::text"), bind("", "slow", &["drip"]), execute("", 0), sync(), query("SELECT 2")].concat();
    pair.direct.send(&request).await;
    for byte in &request {
        pair.pooled.send(&[*byte]).await;
        tokio::task::yield_now().await;
    }
    for _ in 0..2 {
        assert_eq!(pair.direct.until_ready().await, pair.pooled.until_ready().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_message_ends_this_client_alone() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", 1)).await;
    let mut good = pool.wire().await;
    let lengths: [&[u8]; 4] = [b"Q\xff\xff\xff\xff", b"Q\x00\x00\x00\x03", b"\x00\x00\x00\x00\x04", b"~\x00\x00\x00\x04"];
    for bytes in lengths {
        let mut bad = pool.wire().await;
        bad.try_send(bytes).await.expect("we are still listened to");
        let answer = bad.until_closed().await;
        assert!(answer.iter().all(|message| message.tag == b'E'), "{bytes:?}: {answer:?}");
        assert_eq!(good.value("SELECT 1").await, "1", "after {bytes:?}");
    }
    // The same inside a transaction: nobody inherits it.
    let mut bad = pool.wire().await;
    bad.query("BEGIN").await;
    bad.try_send(b"~\x00\x00\x00\x04").await.expect("we are still listened to");
    bad.until_closed().await;
    assert_eq!(good.query("SELECT 1").await.last().map(|ready| ready.body.to_vec()), Some(b"I".to_vec()));
}
