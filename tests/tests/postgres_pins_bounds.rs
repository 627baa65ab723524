//! The bounds of pins: how many connections of a pool they may keep, and for how long a client that keeps one may be idle.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::wire::first_error;
use sidepool_tests::postgres::{Cluster, Message, Wire, frame, tags};
use sidepool_tests::scrape::Scrape;
use sidepool_tests::settings::Settings;

/// Pins without a word that could be known in advance.
const HIDDEN: &str = "SELECT '\\'; PREPARE kept AS SELECT 1";
const HIDDEN_REASON: &str = "statements";
const HIDDEN_LEFT: &str = "SELECT count(*) FROM pg_prepared_statement() WHERE name = 'kept'";

async fn run(wire: &mut Wire, sql: &str) {
    let answer = wire.query(sql).await;
    assert!(first_error(&answer).is_none() && tags(&answer).ends_with('Z'), "{sql}: {answer:?}");
}

fn is(now: &Scrape, name: &str, labels: &[(&str, &str)], wanted: u32) -> bool {
    (now.sum(name, labels) - f64::from(wanted)).abs() < 0.5
}

async fn pins(pool: &Pooler, count: u32) -> Scrape {
    pool.metrics_show(&format!("{count} pinned connections"), |now| is(now, "sidepool_pool_pinned_connections", &[], count)).await
}

fn says(error: &Message, code: &str, what: &[&str]) {
    assert_eq!(error.field(b'C').as_deref(), Some(code), "{error:?}");
    let words = [b'M', b'D', b'H'].map(|field| error.field(field).unwrap_or_default()).join(" | ");
    for what in what {
        assert!(words.contains(what), "{what:?} is not in {words:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_a_pool_may_be_pinned_by_default_and_all_of_a_pool_of_one() {
    let cluster = Cluster::start().await;
    for (size, bound) in [(1, 1), (2, 1), (3, 1), (5, 2), (20, 10)] {
        let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", size)).await;
        let mut wire = pool.wire().await;
        run(&mut wire, "SELECT 1").await;
        assert!(is(&pool.scrape().await, "sidepool_pool_pinned_connections_max", &[], bound), "{bound} of {size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_turns_out_to_pin_one_too_many_is_told_and_its_connection_serves_others() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 2).set("postgres.max_pinned_connections", 1);
    let mut pool = Pooler::start(settings.clone()).await;
    let (mut first, mut second, mut other) = (pool.wire().await, pool.wire().await, pool.wire().await);
    run(&mut first, HIDDEN).await;
    // What is left is found out behind the answer: whose is found out first has the only place.
    pins(&pool, 1).await;
    second.send(&frame::query(HIDDEN)).await;
    let last = second.until_closed().await.pop().expect("it is told");
    says(&last, "53300", &["max_pinned_connections", "statements prepared in SQL", "There may be 1 of them", "DEALLOCATE ALL"]);
    assert_eq!(last.field(b'S').as_deref(), Some("FATAL"));
    let now = pool.scrape().await;
    assert!(is(&now, "sidepool_pin_refusals_total", &[("reason", HIDDEN_REASON)], 1));
    for _ in 0..3 {
        assert_eq!(other.value(HIDDEN_LEFT).await, "0", "others go on, on a clean connection");
    }
    assert_eq!(first.value(HIDDEN_LEFT).await, "1", "and who was first keeps what it has");
    pool.reload(settings.clone().set("postgres.max_pinned_connections", 2)).await;
    let mut third = pool.wire().await;
    run(&mut third, HIDDEN).await;
    pins(&pool, 2).await;
    pool.reload(settings).await;
    assert_eq!([first.value(HIDDEN_LEFT).await, third.value(HIDDEN_LEFT).await], ["1", "1"], "a new bound takes nothing away");
    drop((first, third));
    pins(&pool, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_certain_to_pin_one_too_many_does_not_run() {
    let cluster = Cluster::start().await;
    cluster.sql("ALTER ROLE app SUPERUSER").await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 3).set("postgres.max_pinned_connections", 1);
    let pool = Pooler::start(settings).await;
    let (mut first, mut second) = (pool.wire().await, pool.wire().await);
    run(&mut first, "CREATE TEMP TABLE kept AS SELECT 1").await;
    // It has its place since it was sent; what for is found out behind the answer.
    let kept = |now: &Scrape| is(now, "sidepool_pinned_clients", &[("reason", "temporary_tables")], 1);
    pool.metrics_show("what the connection is kept for", kept).await;
    for (sql, words) in [
        ("CREATE TEMP TABLE kept AS SELECT 1", "temporary tables"),
        ("SELECT 1 INTO TEMP kept", "temporary tables"),
        ("SELECT pg_advisory_lock(1)", "advisory locks"),
        ("LOAD 'auto_explain'", "a loaded library"),
        ("BEGIN; DECLARE kept CURSOR WITH HOLD FOR SELECT 1; COMMIT", "cursors WITH HOLD"),
    ] {
        let answer = second.query(sql).await;
        assert_eq!(tags(&answer), "EZ", "{sql}");
        says(&answer[0], "53300", &["max_pinned_connections", words, "1 of them pinned: temporary tables 1"]);
        assert_eq!(answer[0].field(b'S').as_deref(), Some("ERROR"));
        assert_eq!(&answer[1].body[..], b"I", "{sql}: nothing of it has run");
    }
    // What is gone with its transaction needs no place.
    run(&mut second, "BEGIN").await;
    run(&mut second, "CREATE TEMP TABLE gone (n int) ON COMMIT DROP").await;
    run(&mut second, "SELECT pg_advisory_xact_lock(1)").await;
    run(&mut second, "COMMIT").await;
    assert!(is(&pool.scrape().await, "sidepool_pin_refusals_total", &[("reason", "temporary_tables")], 2));
    run(&mut first, "DROP TABLE kept").await;
    pins(&pool, 0).await;
    run(&mut second, "CREATE TEMP TABLE kept AS SELECT 2").await;
    assert_eq!(second.value("SELECT * FROM kept").await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_fails_its_transaction_and_its_batch_as_any_error_does() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 2).set("postgres.max_pinned_connections", 1);
    let pool = Pooler::start(settings).await;
    let (mut first, mut second) = (pool.wire().await, pool.wire().await);
    run(&mut first, "CREATE TEMP TABLE kept AS SELECT 1").await;
    run(&mut second, "BEGIN").await;
    let answer = second.query("CREATE TEMP TABLE kept (n int)").await;
    says(&answer[0], "53300", &["max_pinned_connections"]);
    assert_eq!(&answer[1].body[..], b"E");
    assert_eq!(first_error(&second.query("SELECT 1").await).and_then(|error| error.field(b'C')).as_deref(), Some("25P02"));
    assert_eq!(
        first_error(&second.query("CREATE TEMP TABLE kept (n int)").await).and_then(|error| error.field(b'C')).as_deref(),
        Some("25P02")
    );
    run(&mut second, "ROLLBACK").await;
    // A savepoint catches it.
    for sql in ["BEGIN", "SAVEPOINT s"] {
        run(&mut second, sql).await;
    }
    says(&second.query("CREATE TEMP TABLE kept (n int)").await[0], "53300", &[]);
    run(&mut second, "ROLLBACK TO s").await;
    assert_eq!(second.value("SELECT 'caught'").await, "caught");
    run(&mut second, "COMMIT").await;
    for name in ["", "named"] {
        let pins = "CREATE TEMP TABLE kept (n int)";
        let batch = |sql: &str| [frame::parse(name, sql), frame::bind("", name, &[]), frame::execute("", 0), frame::sync()].concat();
        let answer = second.ask(&batch(pins)).await;
        assert_eq!(tags(&answer), "1EZ", "{name:?}: preparing it pins nothing");
        says(&answer[1], "53300", &["max_pinned_connections", "temporary tables"]);
        // Behind one that is refused, and in front of another that is not.
        let pipeline = [frame::query("SELECT 1"), batch("SELECT 2"), frame::query(pins), frame::query("SELECT 3")].concat();
        second.send(&pipeline).await;
        let mut answers = Vec::new();
        for _ in 0..4 {
            answers.extend(second.until_ready().await);
        }
        let expected = if name.is_empty() { "TDCZ12DCZEZTDCZ" } else { "TDCZEZEZTDCZ" };
        assert_eq!(tags(&answers), expected, "{name:?}");
    }
    let close = [frame::close(b'S', "named"), frame::sync()].concat();
    assert_eq!(tags(&second.ask(&close).await), "3Z");
    assert_eq!(second.value("SELECT 'well'").await, "well");
    assert_eq!(first.value("SELECT count(*) FROM kept").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_pin_at_once_as_many_do_as_may_and_the_others_are_refused_before_they_do_anything() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 10).set("postgres.max_pinned_connections", 4);
    let pool = Pooler::start(settings).await;
    let mut wires = Vec::new();
    for _ in 0..10 {
        wires.push(pool.wire().await);
    }
    for wire in &mut wires {
        wire.send(&frame::query("SELECT pg_sleep(0.2); CREATE TEMP TABLE kept (n int)")).await;
    }
    let mut refused = 0;
    for wire in &mut wires {
        let answer = wire.until_ready().await;
        match first_error(&answer) {
            Some(error) => {
                says(error, "53300", &["max_pinned_connections"]);
                assert_eq!(tags(&answer), "EZ", "told at once, and still here");
                refused += 1;
            }
            None => assert_eq!(tags(&answer), "TDCCZ"),
        }
    }
    assert_eq!(refused, 6);
    pool.metrics_show("four pins", |now| is(now, "sidepool_pins_total", &[("reason", "temporary_tables")], 4)).await;
    pins(&pool, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_client_that_is_idle_for_too_long_is_told_and_its_connection_serves_others() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 1).set("postgres.pin_idle_timeout", "400ms");
    let pool = Pooler::start(settings).await;
    let (mut idle, mut other) = (pool.wire().await, pool.wire().await);
    // Unpinned clients have no such bound, and neither have those that are in a transaction.
    run(&mut other, "SELECT 1").await;
    // In one go, so that it is not idle in between.
    idle.send(&[frame::query(HIDDEN), frame::query("BEGIN")].concat()).await;
    assert_eq!([tags(&idle.until_ready().await), tags(&idle.until_ready().await)], ["TDCCZ", "CZ"]);
    assert_eq!(idle.value("SELECT pg_sleep(0.8)").await, "");
    run(&mut idle, "COMMIT").await;
    let last = idle.until_closed().await.pop().expect("it is told");
    says(&last, "57P05", &["pin_idle_timeout is 400 ms", "statements prepared in SQL", "DEALLOCATE ALL"]);
    assert_eq!(last.field(b'S').as_deref(), Some("FATAL"));
    assert!(is(&pool.scrape().await, "sidepool_pin_timeouts_total", &[("reason", HIDDEN_REASON)], 1));
    assert_eq!(other.value(HIDDEN_LEFT).await, "0");
    pins(&pool, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_may_have_its_own_patience_with_pins() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster)
        .set("postgres.default_pool_size", 2)
        .set("postgres.pin_idle_timeout", "0s")
        .set("postgres.users.app.pin_idle_timeout", "300ms");
    let mut pool = Pooler::start(settings.clone()).await;
    let mut idle = pool.wire().await;
    run(&mut idle, HIDDEN).await;
    says(&idle.until_closed().await.pop().expect("it is told"), "57P05", &["pin_idle_timeout is 300 ms"]);
    pool.reload(settings.clone().without("postgres.users.app.pin_idle_timeout")).await;
    let mut patient = pool.wire().await;
    run(&mut patient, HIDDEN).await;
    pins(&pool, 1).await;
    assert!(patient.is_silent().await);
    // Who is pinned already has the new bound, too.
    pool.reload(settings).await;
    says(&patient.until_closed().await.pop().expect("it is told"), "57P05", &["pin_idle_timeout is 300 ms"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_session_mode_nothing_is_pinned() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster)
        .set("postgres.pool_mode", "session")
        .set("postgres.default_pool_size", 2)
        .set("postgres.max_pinned_connections", 1)
        .set("postgres.pin_idle_timeout", "200ms");
    let pool = Pooler::start(settings).await;
    let (mut first, mut second) = (pool.wire().await, pool.wire().await);
    for wire in [&mut first, &mut second] {
        run(wire, "LISTEN news; CREATE TEMP TABLE kept (n int); SELECT pg_advisory_lock_shared(1)").await;
    }
    assert!(first.is_silent().await && second.is_silent().await);
    assert!(first.is_silent().await && second.is_silent().await);
    assert!(is(&pool.scrape().await, "sidepool_pins_total", &[], 0));
    assert_eq!(first.value("SELECT count(*) FROM kept").await, "0");
}
