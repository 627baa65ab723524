//! A new process takes over from the running one, and no client notices (rows P8, P12): idle ones move at once, busy ones at their next idle
//! moment, with parameters, prepared statements and cancel keys. A new process that fails changes nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sidepool::handover::channel::Channel;
use sidepool::handover::message::{Message, VERSION};
use sidepool_tests::load::{Pgbench, pgbench, pgbench_tables};
use sidepool_tests::place;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cancel::{cancel_at, is_cancelled, runs};
use sidepool_tests::postgres::wire::first_column;
use sidepool_tests::postgres::{Cluster, Wire, frame, tags};
use sidepool_tests::redis::{self, RedisServer};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;
use tokio::task::JoinHandle;

fn settings(cluster: &Cluster) -> (Settings, PathBuf) {
    let socket = place::directory("upgrade").join("upgrade");
    (Settings::postgres(cluster).set("upgrade_socket", socket.to_string_lossy().into_owned()), socket)
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_clients_move_with_all_they_have() {
    let cluster = Cluster::start().await;
    let (settings, _) = settings(&cluster);
    let mut old = Pooler::start(settings.clone()).await;
    let tokyo = [("user", "app"), ("database", "app"), ("TimeZone", "Asia/Tokyo"), ("application_name", "mover")];
    let mut client = Wire::try_login(old.postgres_port(), &tokyo, "").await.expect("a login");
    // The server forgets the unnamed statement at a simple query, so these come first.
    client.query("SET DateStyle = 'German'").await;
    client.ask(&[frame::parse("named", "SELECT 'named ' || $1"), frame::sync()].concat()).await;
    client.ask(&[frame::parse("", "SELECT 'unnamed ' || $1"), frame::sync()].concat()).await;
    let mut silent = old.wire().await;
    let new = old.successor(settings).await;
    assert!(old.process_mut().ended().await.success(), "the old process ends when it has no clients any more");
    let bound = |name: &str| [frame::bind("", name, &["one"]), frame::execute("", 0), frame::sync()].concat();
    let answer = client.ask(&bound("")).await;
    assert_eq!(first_column(&answer), ["unnamed one"], "{}", tags(&answer));
    let answer = client.ask(&bound("named")).await;
    assert_eq!(first_column(&answer), ["named one"], "{}", tags(&answer));
    assert_eq!(client.value("SHOW TimeZone").await, "Asia/Tokyo");
    assert_eq!(client.value("SHOW application_name").await, "mover");
    assert!(client.value("SHOW DateStyle").await.starts_with("German"));
    assert_eq!(silent.value("SELECT 'here, too'").await, "here, too");
    assert_eq!(new.wire().await.value("SELECT 'new'").await, "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_ends_where_it_began_and_its_client_follows() {
    let cluster = Cluster::start().await;
    cluster.sql("CREATE TABLE kept (n int); GRANT ALL ON kept TO app").await;
    let (settings, _) = settings(&cluster);
    let mut old = Pooler::start(settings.clone()).await;
    let mut busy = old.wire().await;
    busy.query("BEGIN; INSERT INTO kept VALUES (1)").await;
    let new = old.successor(settings).await;
    let mut fresh = new.wire().await;
    assert_eq!(fresh.value("SELECT count(*) FROM kept").await, "0", "served by the new process meanwhile");
    assert!(old.process_mut().poll_end().is_none(), "the old process serves the transaction");
    assert_eq!(busy.value("SELECT count(*) FROM kept").await, "1");
    assert!(tags(&busy.query("COMMIT").await).starts_with('C'));
    assert!(old.process_mut().ended().await.success());
    assert_eq!(busy.value("SELECT count(*) FROM kept").await, "1");
    assert_eq!(fresh.value("SELECT count(*) FROM kept").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancels_find_clients_that_have_moved_and_those_that_have_not() {
    let cluster = Cluster::start().await;
    let (settings, _) = settings(&cluster);
    let mut old = Pooler::start(settings.clone()).await;
    let (mut mover, mut stayer) = (old.wire().await, old.wire().await);
    stayer.send(&frame::query("SELECT pg_sleep(60), 'stays'")).await;
    runs(&cluster, "stays").await;
    let new = old.successor(settings).await;
    // Everybody who comes now comes to the new process, which does not know this key.
    cancel_at(new.postgres_port(), &stayer).await;
    is_cancelled(&mut stayer).await;
    assert!(old.process_mut().ended().await.success());
    for wire in [&mut mover, &mut stayer] {
        wire.send(&frame::query("SELECT pg_sleep(60), 'moved'")).await;
        runs(&cluster, "moved").await;
        cancel_at(new.postgres_port(), wire).await;
        is_cancelled(wire).await;
    }
    let mut unknown = Wire::connect(new.postgres_port()).await;
    unknown.send(&frame::cancel(42, &[1, 2, 3, 4])).await;
    assert!(unknown.until_closed().await.is_empty());
}

/// Runs pgbench again and again until it is over; gives how many transactions that were.
fn until<R: Future<Output = Pgbench> + Send>(over: &Arc<AtomicBool>, run: impl Fn() -> R + Send + 'static) -> JoinHandle<u64> {
    let over = Arc::clone(over);
    tokio::spawn(async move {
        let mut transactions = 0;
        while !over.load(Ordering::Relaxed) {
            transactions += run().await.transactions;
        }
        transactions
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn pgbench_does_not_notice_three_upgrades() {
    let cluster = Cluster::start().await;
    pgbench_tables(cluster.port(), 1).await;
    // pgbench prepares and connects in blocking calls: with fewer connections than clients it would wait for itself.
    let settings = settings(&cluster).0.set("postgres.default_pool_size", 30);
    for mode in ["simple", "prepared"] {
        let mut running = Pooler::start(settings.clone()).await;
        let port = running.postgres_port();
        let over = Arc::new(AtomicBool::new(false));
        let load = until(&over, move || async move { pgbench(port, &["-M", mode, "-n", "-c", "20", "-j", "2", "-T", "3"]).await });
        let churn = until(&over, move || async move { pgbench(port, &["-n", "-S", "-C", "-c", "4", "-T", "3"]).await });
        for _ in 0..3 {
            let sum = |now: &sidepool_tests::scrape::Scrape| now.sum("sidepool_transactions_total", &[]);
            let before = sum(&running.scrape().await);
            running.metrics_show("traffic", |now| sum(now) > before + 50.0).await;
            let next = running.successor(settings.clone()).await;
            assert!(running.process_mut().ended().await.success());
            running = next;
        }
        over.store(true, Ordering::Relaxed);
        assert!(load.await.expect("no error") > 0);
        assert!(churn.await.expect("no error") > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_cannot_start_changes_nothing() {
    let cluster = Cluster::start().await;
    let (settings, _) = settings(&cluster);
    let mut old = Pooler::start(settings.clone()).await;
    let mut client = old.wire().await;
    client.query("SET DateStyle = 'German'").await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let listen = [old.postgres_port(), taken.local_addr().expect("bound").port()].map(|port| format!("127.0.0.1:{port}")).to_vec();
    let mut failed = old.try_successor(&settings.clone().set("postgres.listen", listen));
    assert!(!failed.ended().await.success());
    old.process().log().line_with("nothing has changed here").await;
    assert!(client.value("SHOW DateStyle").await.starts_with("German"));
    assert_eq!(old.wire().await.value("SELECT 'still here'").await, "still here");
    // And then one that can.
    let new = old.successor(settings).await;
    assert!(old.process_mut().ended().await.success());
    assert!(client.value("SHOW DateStyle").await.starts_with("German"));
    drop(new);
}

async fn hears(channel: &Channel) -> Option<Message> {
    wait::soon("a word", channel.receive()).await.expect("no error").map(|(message, _)| message)
}

async fn knock(path: &Path, version: u16) -> Channel {
    let channel = Channel::connect(path).expect("somebody listens");
    channel.send(&Message::Hello { version }, None).await.expect("it is heard");
    assert!(matches!(hears(&channel).await, Some(Message::Hello { version: VERSION })));
    channel
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_speaks_another_version_is_turned_away_politely() {
    let cluster = Cluster::start().await;
    let (settings, socket) = settings(&cluster);
    let old = Pooler::start(settings).await;
    let channel = knock(&socket, 999).await;
    assert!(hears(&channel).await.is_none(), "it is told our version and closed");
    old.process().log().line_with("it speaks version 999").await;
    assert_eq!(old.wire().await.value("SELECT 'still here'").await, "still here");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dies_half_way_leaves_everybody_with_the_old_process() {
    let cluster = Cluster::start().await;
    let (settings, socket) = settings(&cluster);
    let mut old = Pooler::start(settings.clone()).await;
    let (mut idle, mut busy) = (old.wire().await, old.wire().await);
    idle.query("SET DateStyle = 'German'").await;
    busy.query("BEGIN").await;
    for serves in [false, true] {
        let before = old.process().log().len();
        let channel = knock(&socket, VERSION).await;
        while hears(&channel).await.expect("it goes on") != Message::AllListeners {}
        channel.send(&Message::Ready, None).await.expect("it is heard");
        assert_eq!(hears(&channel).await, Some(Message::Go));
        if serves {
            channel.send(&Message::Serving, None).await.expect("it is heard");
            old.process().log().line_with_after(before, "giving the clients").await;
            drop(channel);
            old.process().log().line_with_after(before, "gone before it had all clients").await;
        } else {
            drop(channel);
            old.process().log().line_with_after(before, "nothing has changed here").await;
        }
        assert_eq!(busy.value("SELECT 'still here'").await, "still here");
        assert_eq!(
            wait::until("a login", async || Wire::try_login(old.postgres_port(), &[("user", "app"), ("database", "app")], "").await.ok())
                .await
                .value("SELECT 1")
                .await,
            "1"
        );
    }
    busy.query("COMMIT").await;
    let new = old.successor(settings).await;
    assert!(old.process_mut().ended().await.success());
    assert_eq!(busy.value("SELECT 'moved'").await, "moved");
    drop(new);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_clients_are_told_when_idle_and_find_the_new_process_at_once() {
    let (cluster, server) = (Cluster::start().await, RedisServer::start().await);
    let (settings, _) = settings(&cluster);
    let settings = settings.and_redis(&server);
    let mut old = Pooler::start(settings.clone()).await;
    let mut client = old.redis_wire().await;
    client.try_send(&redis::wire::request(&["PING"])).await.expect("sent");
    assert!(client.read().await.is_some());
    let new = old.successor(settings).await;
    assert!(old.process_mut().ended().await.success());
    assert!(client.read().await.is_none(), "closed between two commands");
    let mut again = new.redis_wire().await;
    again.try_send(&redis::wire::request(&["PING"])).await.expect("sent");
    assert!(again.read().await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn unix_sockets_move_too_and_their_files_stay() {
    let cluster = Cluster::start().await;
    let directory = place::directory("sockets");
    let plain = Settings::postgres(&cluster);
    let listen = vec![format!("127.0.0.1:{}", plain.postgres_port()), format!("unix:{}", directory.display())];
    // Without an upgrade_socket: it is beside this one.
    let settings = plain.set("postgres.listen", listen);
    let mut old = Pooler::start(settings.clone()).await;
    let mut config = tokio_postgres::Config::new();
    config.host_path(&directory).port(old.postgres_port()).user("app").dbname("app");
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.expect("a login over the Unix socket");
    tokio::spawn(connection);
    let new = old.successor(settings).await;
    assert!(old.process_mut().ended().await.success());
    assert_eq!(client.query_one("SELECT 7", &[]).await.expect("moved").get::<_, i32>(0), 7);
    let (fresh, connection) = config.connect(tokio_postgres::NoTls).await.expect("the file is still there");
    tokio::spawn(connection);
    assert_eq!(fresh.query_one("SELECT 8", &[]).await.expect("served").get::<_, i32>(0), 8);
    drop(new);
}
