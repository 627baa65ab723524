//! What operators do to a pooler while clients listen: PAUSE, RECONNECT, KILL, reloads, a drain, and the setting that shares nothing.

use std::time::Duration;

use sidepool_tests::console::rows;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::wire::{first_error, tags};
use sidepool_tests::postgres::{Cluster, Message, Wire};
use sidepool_tests::process::Signal;
use sidepool_tests::scrape::Scrape;
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

fn settings(cluster: &Cluster) -> Settings {
    Settings::postgres(cluster).set("postgres.default_pool_size", 2).set("postgres.admin_users", vec!["app".to_owned()])
}

async fn console(pool: &Pooler) -> Wire {
    Wire::login(pool.postgres_port(), "app", "pgbouncer", "").await
}

fn said(message: &Message) -> String {
    assert_eq!(message.tag, b'A', "{:?}", message.field(b'M'));
    let text = String::from_utf8_lossy(&message.body[4..]);
    text.trim_end_matches('\0').split('\0').collect::<Vec<_>>().join("=")
}

async fn heard(wire: &mut Wire) -> String {
    said(&wire.read().await.expect("a notification, and not the end"))
}

async fn listening_process(cluster: &Cluster) -> i32 {
    let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'sidepool listen'";
    let admin = cluster.superuser("app").await;
    wait::until("one connection that listens", async || {
        let pids = admin.query(sql, &[]).await.expect(sql);
        (pids.len() == 1).then(|| pids[0].get(0))
    })
    .await
}

/// Numbers are notified without a pause while `work` is done, and some before and behind it; who listens hears each of them once and in order.
async fn under_notifications<T>(cluster: &Cluster, listener: &mut Wire, work: impl AsyncFnOnce() -> T) -> T {
    let admin = cluster.superuser("app").await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let (told, notified) = tokio::sync::watch::channel(0_u32);
    let notifier = tokio::spawn(async move {
        while stopped.try_recv().is_err() {
            let number = *told.borrow() + 1;
            admin.batch_execute(&format!("NOTIFY a, '{number}'")).await.expect("it notifies");
            told.send_replace(number);
        }
        *told.borrow()
    });
    let more = async || {
        let goal = *notified.borrow() + 25;
        wait::soon("more numbers", notified.clone().wait_for(|number| *number >= goal)).await.expect("it goes on");
    };
    more().await;
    let done = work().await;
    more().await;
    stop.send(()).expect("it runs");
    let last = notifier.await.expect("it ends well");
    for number in 1..=last {
        assert_eq!(heard(listener).await, format!("a={number}"));
    }
    assert!(listener.is_silent().await);
    done
}

#[tokio::test(flavor = "multi_thread")]
async fn reconnect_replaces_the_connection_that_listens_without_a_gap() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster)).await;
    let (mut listener, mut admin) = (pool.wire().await, console(&pool).await);
    listener.query("LISTEN a").await;
    let before = listening_process(&cluster).await;
    under_notifications(&cluster, &mut listener, async || {
        admin.query("RECONNECT").await;
        wait::until("another one", async || (listening_process(&cluster).await != before).then_some(())).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    })
    .await;
    let mut late = pool.wire().await;
    late.query("LISTEN a; LISTEN b").await;
    cluster.sql("NOTIFY a, 'x'; NOTIFY b, 'y'").await;
    assert_eq!(heard(&mut listener).await, "a=x");
    assert_eq!([heard(&mut late).await, heard(&mut late).await], ["a=x", "b=y"]);
    let scrape = pool.scrape().await;
    assert_eq!(scrape.sum("sidepool_listen_connections_lost_total", &[]), 0.0);
    assert_eq!(scrape.sum("sidepool_listen_channels", &[]), 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_replaces_it_too_and_who_comes_meanwhile_misses_nothing() {
    let cluster = Cluster::start().await;
    let settings = settings(&cluster);
    let mut pool = Pooler::start(settings.clone()).await;
    let mut listener = pool.wire().await;
    listener.query("LISTEN a").await;
    let before = listening_process(&cluster).await;
    cluster.sql("ALTER ROLE app PASSWORD 'another'").await;
    let mut late = Vec::new();
    pool.reload(settings.set("postgres.users.app.password", "another")).await;
    under_notifications(&cluster, &mut listener, async || {
        // At least one, however soon the other connection is there.
        loop {
            let mut wire = pool.wire().await;
            wire.query("LISTEN b").await;
            late.push(wire);
            if listening_process(&cluster).await != before {
                break;
            }
        }
    })
    .await;
    cluster.sql("NOTIFY b, 'all'").await;
    for wire in &mut late {
        assert_eq!(heard(wire).await, "b=all");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_address_is_a_gap() {
    let (first, second) = (Cluster::start().await, Cluster::start().await);
    let settings = settings(&first);
    let mut pool = Pooler::start(settings.clone()).await;
    let mut listener = pool.wire().await;
    listener.query("LISTEN a").await;
    pool.reload(settings.set("postgres.databases.app.port", i64::from(second.port()))).await;
    let error = wait::within(Duration::from_secs(60), "the end", listener.read_patiently()).await.expect("it is told");
    assert_eq!(error.field(b'C').as_deref(), Some("57P01"));
    let mut again = pool.wire().await;
    again.query("LISTEN a").await;
    second.sql("NOTIFY a, 'there'").await;
    assert_eq!(heard(&mut again).await, "a=there");
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_does_not_wait_for_it_and_nothing_is_missed_meanwhile() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster)).await;
    let (mut listener, mut admin) = (pool.wire().await, console(&pool).await);
    listener.query("LISTEN a").await;
    let pools = rows(&mut admin, "SHOW POOLS").await;
    assert_eq!(pools.iter().filter(|row| row["database"].as_deref() == Some("app")).count(), 1, "{pools:?}");
    let servers = rows(&mut admin, "SHOW SERVERS").await;
    let applications = servers.iter().filter(|row| row["database"].as_deref() == Some("app")).count();
    assert!(applications >= 2, "{servers:?}");
    assert_eq!(admin.query("PAUSE").await[0].text(), "PAUSE");
    cluster.sql("NOTIFY a, 'meanwhile'").await;
    assert_eq!(heard(&mut listener).await, "a=meanwhile");
    assert_eq!(admin.query("RESUME").await[0].text(), "RESUME");
    assert_eq!(listener.value("SELECT count(*) FROM pg_listening_channels()").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_ends_clients_that_listen_and_then_nobody_does() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster)).await;
    let (mut listener, mut admin) = (pool.wire().await, console(&pool).await);
    listener.query("LISTEN a").await;
    admin.query("KILL app").await;
    assert!(first_error(&listener.until_closed().await).is_some());
    let closed = |now: &Scrape| now.sum("sidepool_pool_server_connections", &[("pool", "app.app/listen")]) == 0.0;
    pool.metrics_show("the connection that listens closed", closed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_gone_takes_its_listeners_along() {
    let cluster = Cluster::start().await;
    let all = settings(&cluster).database("postgres", &cluster);
    let mut pool = Pooler::start(all.clone()).await;
    let mut listener = pool.wire().await;
    listener.query("LISTEN a").await;
    pool.reload(all.without("postgres.databases.app")).await;
    let last = listener.until_closed().await;
    assert!(first_error(&last).is_some(), "{}", tags(&last));
    wait::until("nobody in the database", async || (cluster.connections().await == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_does_not_wait_for_it() {
    let cluster = Cluster::start().await;
    let mut pool = Pooler::start(settings(&cluster).set("drain.timeout", "60s")).await;
    let mut listener = pool.wire().await;
    listener.query("LISTEN a").await;
    pool.process().signal(Signal::TERM);
    let last = listener.until_closed().await;
    assert_eq!(first_error(&last).expect("it is told").field(b'C').as_deref(), Some("57P01"));
    let ended = pool.process_mut().ended().await;
    assert!(ended.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_session_state_does_not_follow_clients_a_listen_keeps_its_connection() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster).set("postgres.session_state", "off")).await;
    let mut listener = pool.wire().await;
    listener.query("LISTEN a").await;
    let pinned = |now: &Scrape| now.sum("sidepool_pool_server_connections", &[("pool", "app.app"), ("state", "leased")]) == 1.0;
    pool.metrics_show("the connection kept", pinned).await;
    cluster.sql("NOTIFY a, 'x'").await;
    assert_eq!(heard(&mut listener).await, "a=x");
    assert_eq!(pool.scrape().await.sum("sidepool_listen_clients", &[]), 0.0);
}
