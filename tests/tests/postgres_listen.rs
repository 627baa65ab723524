//! LISTEN in transaction mode: clients that listen share connections, one connection listens for all of them, and each client hears what it would
//! hear without a pooler: what was committed after its LISTEN was, in order, once, outside of transactions.

use std::process::Command;
use std::time::{Duration, Instant};

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cluster::{PASSWORD, USER};
use sidepool_tests::postgres::frame::{bind, describe, execute, parse, query, sync};
use sidepool_tests::postgres::wire::{first_column, first_error, tags};
use sidepool_tests::postgres::{Cluster, Message, Wire};
use sidepool_tests::scrape::Scrape;
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

fn two(cluster: &Cluster) -> Settings {
    Settings::postgres(cluster).set("postgres.default_pool_size", 2)
}

/// What a notification says: `channel=payload`.
fn said(message: &Message) -> String {
    assert_eq!(message.tag, b'A', "{:?}", message.body);
    let text = String::from_utf8_lossy(&message.body[4..]);
    let mut parts = text.split('\0');
    format!("{}={}", parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

/// The next notification.
async fn heard(wire: &mut Wire) -> String {
    said(&wire.read().await.expect("a notification, and not the end"))
}

/// How long an answer waits for what a client has notified itself of: only then may it come later.
const OWN_PATIENCE: Duration = Duration::from_millis(500);

/// How often something is tried where a machine stands still for that long.
const TRIES: u32 = 3;

/// What is notified to a client by a statement of its own: before the end of the answer, as from the server.
async fn told(wire: &mut Wire, sql: &str) -> String {
    for _ in 0..TRIES {
        let begun = Instant::now();
        let answer = wire.query(sql).await;
        if let Some(message) = answer.iter().find(|message| message.tag == b'A') {
            return said(message);
        }
        assert!(begun.elapsed() >= OWN_PATIENCE, "{sql}: it is waited for");
        heard(wire).await;
    }
    panic!("{sql}: no notification within the answer");
}

async fn nobody_is_pinned(pool: &Pooler) -> Scrape {
    let free = |now: &Scrape| now.sum("sidepool_pool_server_connections", &[("pool", "app.app"), ("state", "leased")]) == 0.0;
    pool.metrics_show("all connections free", free).await;
    // With several workers one may see them free before another is asked what it has counted: only a later look has both.
    pool.scrape().await
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_listen_on_two_connections_and_none_is_pinned() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(two(&cluster)).await;
    let mut listeners = Vec::new();
    for index in 0..50 {
        let mut wire = pool.wire().await;
        assert_eq!(tags(&wire.query(&format!("LISTEN own_{index}; LISTEN shared")).await), "CCZ");
        listeners.push(wire);
    }
    let mut deaf = pool.wire().await;
    assert_eq!(deaf.value("SELECT 1").await, "1");
    let scrape = nobody_is_pinned(&pool).await;
    assert_eq!(scrape.sum("sidepool_listen_clients", &[]), 50.0);
    assert_eq!(scrape.sum("sidepool_listen_subscriptions", &[]), 100.0);
    assert_eq!(scrape.sum("sidepool_listen_channels", &[("pool", "app.app/listen")]), 51.0);
    assert_eq!(scrape.sum("sidepool_pool_server_connections", &[("pool", "app.app/listen")]), 1.0);
    assert!(cluster.connections().await <= 3, "two for all, and one that listens");
    let mut notifier = pool.wire().await;
    for index in 0..50 {
        notifier.query(&format!("NOTIFY own_{index}, 'to {index}'")).await;
    }
    notifier.query("NOTIFY shared, 'to all'").await;
    for (index, wire) in listeners.iter_mut().enumerate() {
        assert_eq!(heard(wire).await, format!("own_{index}=to {index}"));
        assert_eq!(heard(wire).await, "shared=to all");
    }
    assert!(deaf.is_silent().await && notifier.is_silent().await, "only who listens hears");
    let scrape = nobody_is_pinned(&pool).await;
    assert_eq!(scrape.sum("sidepool_notifications_total", &[("stage", "received")]), 51.0);
    assert_eq!(scrape.sum("sidepool_notifications_total", &[("stage", "delivered")]), 100.0);
    drop(listeners);
    pool.metrics_show("nobody listening", |now| now.sum("sidepool_listen_channels", &[]) == 0.0).await;
    let closed = |now: &Scrape| now.sum("sidepool_pool_server_connections", &[("pool", "app.app/listen")]) == 0.0;
    pool.metrics_show("the connection that listens closed", closed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rolled_back_is_not_listened_to() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(two(&cluster)).await;
    let (mut wire, mut notifier) = (pool.wire().await, pool.wire().await);
    let script = [
        // What the client does, and what it listens to then.
        ("BEGIN|LISTEN a|ROLLBACK", ""),
        ("BEGIN|LISTEN a|COMMIT", "a"),
        ("BEGIN|UNLISTEN a|ROLLBACK", "a"),
        ("BEGIN|UNLISTEN *|ROLLBACK", "a"),
        ("BEGIN|LISTEN b|SAVEPOINT s|LISTEN c|UNLISTEN a|ROLLBACK TO s|COMMIT", "a b"),
        ("BEGIN|SAVEPOINT s|UNLISTEN a|RELEASE s|SAVEPOINT t|UNLISTEN b|ROLLBACK TO t|COMMIT", "b"),
        ("LISTEN c; SELECT 1/0", "b"),
        ("UNLISTEN b; SELECT 1/0", "b"),
        ("BEGIN; LISTEN c; COMMIT; BEGIN; LISTEN d; ROLLBACK; LISTEN e", "b c e"),
        ("UNLISTEN c|UNLISTEN nothing", "b e"),
        ("UNLISTEN *; LISTEN \"Strange \"\"Name\"", "Strange \"Name"),
        ("BEGIN|LISTEN a|SELECT 1/0|COMMIT", "Strange \"Name"),
        ("BEGIN|UNLISTEN *|LISTEN a|LISTEN b|COMMIT", "a b"),
        ("UNLISTEN *", ""),
        ("LISTEN a|DISCARD ALL", ""),
        ("LISTEN a|LISTEN b|BEGIN|UNLISTEN a|LISTEN a|UNLISTEN b|COMMIT", "a"),
    ];
    for (statements, expected) in script {
        for statement in statements.split('|') {
            wire.query(statement).await;
        }
        let mut listed = first_column(&wire.query("SELECT pg_listening_channels()").await);
        listed.sort();
        assert_eq!(listed.join(" "), expected, "{statements}");
        nobody_is_pinned(&pool).await;
        notifier.query("NOTIFY a; NOTIFY b; NOTIFY c; NOTIFY d; NOTIFY e; NOTIFY \"Strange \"\"Name\"; NOTIFY nothing").await;
        let mut all = Vec::new();
        for _ in 0..listed.len() {
            all.push(heard(&mut wire).await.trim_end_matches('=').to_owned());
        }
        all.sort();
        assert_eq!(all, listed, "{statements}");
        assert!(wire.is_silent().await, "{statements}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_wait_for_the_end_of_the_transaction_and_come_within_its_answer() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(two(&cluster)).await;
    let (mut wire, mut other, mut notifier) = (pool.wire().await, pool.wire().await, pool.wire().await);
    wire.query("LISTEN a").await;
    other.query("LISTEN a").await;
    assert_eq!(tags(&wire.query("BEGIN").await), "CZ");
    let me = notifier.value("SELECT pg_backend_pid()").await;
    notifier.query("NOTIFY a, 'one'; NOTIFY a, 'two'").await;
    assert_eq!([heard(&mut other).await, heard(&mut other).await], ["a=one", "a=two"]);
    assert_eq!(tags(&wire.query("SELECT 1").await), "TDCZ");
    assert!(wire.is_silent().await, "not inside of a transaction");
    // As the server itself does it: who looks for notifications when its COMMIT is through finds them.
    let end = wire.query("COMMIT").await;
    assert_eq!(tags(&end), "CAAZ");
    assert_eq!([said(&end[1]), said(&end[2])], ["a=one", "a=two"]);
    assert_eq!(u32::from_be_bytes(end[1].body[..4].try_into().unwrap()).to_string(), me, "the process that notified");
    // In a failed one, too.
    wire.query("BEGIN").await;
    assert_eq!(tags(&wire.query("SELECT 1/0").await), "EZ");
    notifier.query("NOTIFY a, 'three'").await;
    assert_eq!(heard(&mut other).await, "a=three");
    assert!(wire.is_silent().await);
    assert_eq!(tags(&wire.query("ROLLBACK").await), "CAZ");
    // What its end may have changed is known only behind the answer.
    wire.query("BEGIN; UNLISTEN a").await;
    notifier.query("NOTIFY a, 'four'").await;
    assert_eq!(heard(&mut other).await, "a=four");
    assert_eq!(tags(&wire.query("COMMIT").await), "CZ");
    assert!(wire.is_silent().await, "it listens no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_notifies_itself_hears_it_and_what_was_rolled_back_nobody_hears() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(two(&cluster)).await;
    let mut wire = pool.wire().await;
    wire.query("LISTEN a").await;
    assert_eq!(told(&mut wire, "NOTIFY a, 'self'").await, "a=self");
    wire.query("BEGIN").await;
    wire.query("NOTIFY a, 'never'").await;
    wire.query("ROLLBACK").await;
    assert_eq!(told(&mut wire, "BEGIN; NOTIFY a, 'last'; COMMIT").await, "a=last");
    assert!(wire.is_silent().await, "once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_notifies_itself_of_comes_within_the_answer_in_the_order_of_all() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(two(&cluster)).await;
    let (mut wire, mut other) = (pool.wire().await, pool.wire().await);
    wire.query("LISTEN a; LISTEN b").await;
    let busy = tokio::spawn(async move {
        for index in 0..200 {
            other.query(&format!("NOTIFY b, '{index}'")).await;
        }
    });
    let (mut own, mut others, mut late) = (Vec::new(), Vec::new(), 0);
    for index in 0..100 {
        let sql = format!("NOTIFY a, '{index}'");
        let begun = Instant::now();
        let answer = match index % 3 {
            0 => wire.query(&sql).await,
            1 => wire.ask(&[parse("", &sql), bind("", "", &[]), execute("", 0), sync()].concat()).await,
            _ => wire.query(&format!("BEGIN; {sql}; {sql}; COMMIT")).await,
        };
        let heard = answer.iter().filter(|message| message.tag == b'A').map(said);
        let (to_own, to_others): (Vec<_>, Vec<_>) = heard.partition(|said| said.starts_with("a="));
        let in_time = to_own.contains(&format!("a={index}"));
        assert!(in_time || begun.elapsed() >= OWN_PATIENCE, "{sql}: it is waited for");
        late += u32::from(!in_time);
        own.extend(to_own);
        others.extend(to_others);
    }
    assert!(late < TRIES, "{late} came too late");
    while own.len() < 100 {
        let said = heard(&mut wire).await;
        if said.starts_with("a=") { own.push(said) } else { others.push(said) }
    }
    assert_eq!(own, (0..100).map(|index| format!("a={index}")).collect::<Vec<_>>(), "once, and in order");
    busy.await.expect("it does not panic");
    while others.len() < 200 {
        others.push(heard(&mut wire).await);
    }
    assert_eq!(others, (0..200).map(|index| format!("b={index}")).collect::<Vec<_>>());
    // With queries behind it that have been sent already.
    let mut in_time = false;
    for _ in 0..TRIES {
        let begun = Instant::now();
        wire.send(&[query("NOTIFY a, 'x'"), query("SELECT 1"), query("NOTIFY a, 'y'"), query("SELECT 2")].concat()).await;
        let mut told = Vec::new();
        for _ in 0..4 {
            told.push(tags(&wire.until_ready().await).matches('A').count());
        }
        for _ in told.iter().sum()..2 {
            heard(&mut wire).await;
        }
        let these = told[0] >= 1 && told[..3].iter().sum::<usize>() == 2 && told[3] == 0;
        assert!(these || begun.elapsed() >= OWN_PATIENCE, "{told:?}");
        in_time |= these;
    }
    assert!(in_time, "each within the answer to its own, or to one behind it");
    // More than is waited for.
    let mut most = 0;
    for _ in 0..TRIES {
        let begun = Instant::now();
        let answer = wire.query("SELECT pg_notify('a', i::text) FROM generate_series(1, 300) i").await;
        let mut own: Vec<_> = answer.iter().filter(|message| message.tag == b'A').map(said).collect();
        assert!(own.len() >= 100 || begun.elapsed() >= OWN_PATIENCE, "{}", own.len());
        most = most.max(own.len());
        while own.len() < 300 {
            own.push(heard(&mut wire).await);
        }
        assert_eq!(own, (1..=300).map(|index| format!("a={index}")).collect::<Vec<_>>());
    }
    assert!(most >= 100, "{most}");
    assert!(wire.is_silent().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_shows_its_own_notification_with_the_command_that_sent_it() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(two(&cluster)).await;
    let in_order = |text: &str| {
        text.find("Asynchronous notification \"a\" with payload \"self\"").is_some_and(|told| Some(told) < text.find("behind"))
    };
    let mut texts = Vec::new();
    for _ in 0..TRIES {
        let begun = Instant::now();
        let port = pool.postgres_port().to_string();
        let psql = tokio::task::spawn_blocking(move || {
            let mut psql = Command::new("psql");
            psql.env("PGPASSWORD", PASSWORD).args(["-X", "-h", "127.0.0.1", "-p", &port, "-U", USER, "-d", "app"]);
            psql.args(["-c", "LISTEN a", "-c", "NOTIFY a, 'self'", "-c", "SELECT 1 AS behind"]).output().expect("psql is installed")
        });
        let output = wait::soon("psql to end", psql).await.expect("it does not panic");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(in_order(&text) || begun.elapsed() >= OWN_PATIENCE, "{text}");
        texts.push(text);
    }
    assert!(texts.iter().any(|text| in_order(text)), "{texts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_the_commit_of_a_listen_is_not_for_it() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(two(&cluster)).await;
    let (mut wire, mut other, mut notifier) = (pool.wire().await, pool.wire().await, pool.wire().await);
    other.query("LISTEN a").await;
    wire.query("BEGIN").await;
    wire.query("LISTEN a").await;
    notifier.query("NOTIFY a, 'before'").await;
    assert_eq!(heard(&mut other).await, "a=before");
    assert_eq!(tags(&wire.query("SELECT 1").await), "TDCZ");
    assert_eq!(tags(&wire.query("COMMIT").await), "CZ");
    notifier.query("NOTIFY a, 'after'").await;
    assert_eq!(heard(&mut wire).await, "a=after");
}

#[tokio::test(flavor = "multi_thread")]
async fn listen_by_the_extended_protocol_named_unnamed_and_in_a_batch() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(two(&cluster)).await;
    let (mut wire, mut notifier) = (pool.wire().await, pool.wire().await);
    let run = |name: &str| [bind("", name, &[]), execute("", 0), sync()].concat();
    assert_eq!(tags(&wire.ask(&[parse("", "LISTEN a"), run("")].concat()).await), "12CZ");
    // Prepared in one transaction, run in another, and run again when it was forgotten meanwhile.
    assert_eq!(tags(&wire.ask(&[parse("later", "listen b"), describe(b'S', "later"), sync()].concat()).await), "1tnZ");
    notifier.query("NOTIFY b, 'not yet'; NOTIFY a, '1'").await;
    assert_eq!(heard(&mut wire).await, "a=1");
    for round in 0..3 {
        assert_eq!(tags(&wire.ask(&run("later")).await), "2CZ");
        notifier.query(&format!("NOTIFY b, '{round}'")).await;
        assert_eq!(heard(&mut wire).await, format!("b={round}"));
        wire.query("UNLISTEN b").await;
    }
    assert_eq!(tags(&wire.ask(&[parse("", "LISTEN c"), sync()].concat()).await), "1Z");
    assert_eq!(tags(&wire.ask(&run("")).await), "2CZ");
    let batch =
        [parse("", "SELECT 1"), bind("", "", &[]), execute("", 0), parse("", "LISTEN d"), bind("", "", &[]), execute("", 0), sync()]
            .concat();
    assert_eq!(tags(&wire.ask(&batch).await), "12DC12CZ");
    // A batch that fails behind its LISTEN is rolled back.
    let failing =
        [parse("", "LISTEN e"), bind("", "", &[]), execute("", 0), parse("", "SELECT 1/0"), bind("", "", &[]), execute("", 0), sync()]
            .concat();
    assert!(first_error(&wire.ask(&failing).await).is_some());
    // Pipelined: none waits for the answer to the one before.
    wire.send(&[query("SELECT 2"), query("LISTEN f"), query("LISTEN g"), query("SELECT 3")].concat()).await;
    for expected in ["TDCZ", "CZ", "CZ", "TDCZ"] {
        assert_eq!(tags(&wire.until_ready().await), expected);
    }
    nobody_is_pinned(&pool).await;
    notifier.query("NOTIFY c; NOTIFY e; NOTIFY d; NOTIFY f; NOTIFY g").await;
    for expected in ["c=", "d=", "f=", "g="] {
        assert_eq!(heard(&mut wire).await, expected);
    }
    assert!(wire.is_silent().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_function_listens_to_keeps_the_connection_until_it_is_unlistened() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(two(&cluster)).await;
    let (mut wire, mut notifier) = (pool.wire().await, pool.wire().await);
    // Words that can be read in two ways, so that nobody knows the channel before it has run.
    wire.query("LISTEN known").await;
    assert_eq!(tags(&wire.query("LISTEN U&\"str\\0061nge\"").await), "CZ");
    let pinned = |now: &Scrape| now.sum("sidepool_pool_server_connections", &[("pool", "app.app"), ("state", "leased")]) == 1.0;
    pool.metrics_show("the connection kept", pinned).await;
    for round in 0..3 {
        notifier.query(&format!("NOTIFY strange, '{round}'; NOTIFY known, '{round}'")).await;
        let mut both = [heard(&mut wire).await, heard(&mut wire).await];
        both.sort();
        assert_eq!(both, [format!("known={round}"), format!("strange={round}")], "each once");
    }
    wire.query("LISTEN more").await;
    wire.query("UNLISTEN strange").await;
    nobody_is_pinned(&pool).await;
    notifier.query("NOTIFY strange; NOTIFY known; NOTIFY more").await;
    assert_eq!([heard(&mut wire).await, heard(&mut wire).await], ["known=", "more="]);
    assert!(wire.is_silent().await);
    // Of a client that listens to nothing else, and hears at once.
    let mut other = pool.wire().await;
    for round in 0..10 {
        assert_eq!(tags(&other.query("DO $$ BEGIN EXECUTE 'LISTEN hidden'; END $$").await), "CZ");
        notifier.query(&format!("NOTIFY hidden, '{round}'")).await;
        assert_eq!(heard(&mut other).await, format!("hidden={round}"));
        pool.metrics_show("the connection kept", pinned).await;
        other.query("DO $$ BEGIN EXECUTE 'UNLISTEN hidden'; END $$").await;
        nobody_is_pinned(&pool).await;
    }
    notifier.query("NOTIFY hidden").await;
    assert!(other.is_silent().await);
}
