//! Signals that end a process with PgBouncer's habits: SIGTERM waits for clients, SIGINT for servers, SIGQUIT for nobody, and so does a second
//! one. And a rolling restart made of them: with so_reuseport and peers no client sees an error.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sidepool_tests::conformance::proves;
use sidepool_tests::ini::{IniPooler, Program};
use sidepool_tests::load::{pgbench, pgbench_tables};
use sidepool_tests::place;
use sidepool_tests::postgres::wire::first_error;
use sidepool_tests::postgres::{Cluster, Message, Wire, cluster, frame, tags};
use sidepool_tests::process::Signal;
use sidepool_tests::wait;

fn ini(cluster: &Cluster, more: &str) -> String {
    format!(
        "[databases]\napp = host=127.0.0.1 port={} user={} password={}\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = LISTEN_PORT\nauth_type = trust\nauth_file = USERS_FILE\npool_mode = transaction\n{more}",
        cluster.port(),
        cluster::USER,
        cluster::PASSWORD
    )
}

async fn start(cluster: &Cluster, more: &str) -> IniPooler {
    let more = format!("unix_socket_dir =\n{more}");
    IniPooler::start(Program::Sidepool, &ini(cluster, &more), &users()).await
}

fn users() -> String {
    format!("\"{}\" \"{}\"\n", cluster::USER, cluster::PASSWORD)
}

async fn client(pooler: &IniPooler) -> Wire {
    Wire::login(pooler.port(), cluster::USER, "app", cluster::PASSWORD).await
}

async fn nobody_listens(port: u16) {
    wait::until("the door to be closed", async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err().then_some(())).await;
}

fn told(messages: &[Message]) -> Option<String> {
    first_error(messages).and_then(|error| error.field(b'M'))
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_serves_everybody_who_is_there_until_they_leave() {
    let _proof = proves(&["signal SIGTERM", "message pooler is shutting down"]);
    let cluster = Cluster::start().await;
    let mut pooler = start(&cluster, "").await;
    let (mut idle, mut busy) = (client(&pooler).await, client(&pooler).await);
    busy.query("BEGIN").await;
    pooler.process().signal(Signal::TERM);
    pooler.process().log().line_with("got SIGTERM, shutting down, waiting for all clients disconnect").await;
    nobody_listens(pooler.port()).await;
    for round in 0..3 {
        assert_eq!(idle.value(&format!("SELECT {round}")).await, round.to_string(), "served fully");
        idle.query("BEGIN").await;
        assert_eq!(tags(&idle.query("COMMIT").await), "CZ");
    }
    assert_eq!(tags(&busy.query("COMMIT").await), "CZ");
    drop(busy);
    assert!(pooler.process_mut().poll_end().is_none());
    idle.send(&frame::terminate()).await;
    drop(idle);
    assert!(pooler.process_mut().ended().await.success());
    pooler.process().log().line_with("client connections dropped, exiting").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigint_waits_for_servers_and_sends_away_who_needs_one() {
    let _proof = proves(&["signal SIGINT", "message server shutting down"]);
    let cluster = Cluster::start().await;
    let mut pooler = start(&cluster, "default_pool_size = 1\n").await;
    let (mut busy, mut waiter, mut idle) = (client(&pooler).await, client(&pooler).await, client(&pooler).await);
    busy.query("BEGIN").await;
    waiter.send(&frame::query("SELECT 'never runs'")).await;
    assert!(waiter.is_silent().await);
    pooler.process().signal(Signal::INT);
    assert_eq!(told(&waiter.until_closed().await).as_deref(), Some("server shutting down"));
    nobody_listens(pooler.port()).await;
    idle.send(&frame::query("SELECT 'never runs'")).await;
    assert_eq!(told(&idle.until_closed().await).as_deref(), Some("server shutting down"));
    assert_eq!(busy.value("SELECT 'goes on'").await, "goes on");
    assert_eq!(tags(&busy.query("COMMIT").await), "CZ");
    assert!(pooler.process_mut().ended().await.success());
    pooler.process().log().line_with("server connections dropped, exiting").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigquit_and_a_second_signal_wait_for_nobody() {
    let _proof = proves(&["signal SIGQUIT"]);
    let cluster = Cluster::start().await;
    for (first, second) in
        [(Signal::QUIT, None), (Signal::TERM, Some(Signal::TERM)), (Signal::INT, Some(Signal::INT)), (Signal::TERM, Some(Signal::INT))]
    {
        let mut pooler = start(&cluster, "").await;
        let mut busy = client(&pooler).await;
        busy.query("BEGIN").await;
        pooler.process().signal(first);
        if let Some(second) = second {
            pooler.process().log().line_with("shutting down, waiting").await;
            pooler.process().signal(second);
        }
        pooler.process_mut().ended().await;
        busy.until_closed().await;
    }
}

/// How many sockets listen on this port.
fn listeners(port: u16) -> usize {
    let sockets = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    let local = format!(":{port:04X} 00000000:0000 0A");
    sockets.lines().filter(|line| line.contains(&local)).count()
}

/// What one of two peers is told: it lives at the directory with its own number, and the other one at the other.
fn peer_ini(cluster: &Cluster, id: usize, homes: [&Path; 2]) -> String {
    let (own, other) = (homes[id - 1].display(), homes[2 - id].display());
    let more = format!("so_reuseport = 1\npeer_id = {id}\nunix_socket_dir = {own}\ndefault_pool_size = 20\n");
    format!("[peers]\n{} = host={other} port=LISTEN_PORT\n{}", 3 - id, ini(cluster, &more))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_with_peers_is_not_noticed() {
    let cluster = Cluster::start().await;
    pgbench_tables(cluster.port(), 1).await;
    let homes = ["first", "second"].map(place::directory);
    for home in &homes {
        std::fs::set_permissions(home, std::fs::Permissions::from_mode(0o777)).expect("our own directory");
    }
    let homes = [homes[0].as_path(), homes[1].as_path()];
    let mut first = IniPooler::start(Program::Sidepool, &peer_ini(&cluster, 1, homes), &users()).await;
    let port = first.port();
    let mut sleeper = client(&first).await;
    let load = tokio::spawn(async move { pgbench(port, &["-n", "-c", "8", "-j", "2", "-T", "5"]).await });
    sleeper.send(&frame::query("SELECT pg_sleep(60), 'sleeper'")).await;
    let second = first.start_beside(Program::Sidepool, &peer_ini(&cluster, 2, homes), &users()).await;
    first.process().signal(Signal::TERM);
    first.process().log().line_with("got SIGTERM").await;
    // Only the second listens now; a cancel that comes in there is for a client of the first.
    wait::until("the first to have closed", async || (listeners(port) == 1).then_some(())).await;
    let mut late = tokio_postgres::Config::new();
    late.host_path(homes[0]).port(port).user(cluster::USER).dbname("app");
    let refused = late.connect(tokio_postgres::NoTls).await.err().expect("its Unix socket is there for cancel requests alone");
    assert_eq!(refused.as_db_error().map(|error| error.message()), Some("pooler is shutting down"));
    let churn = tokio::spawn(async move { pgbench(port, &["-n", "-S", "-C", "-c", "4", "-T", "3"]).await });
    assert!(churn.await.expect("no error").transactions > 0);
    assert!(load.await.expect("no error").transactions > 0);
    assert!(first.process_mut().poll_end().is_none(), "it still has the sleeper");
    let (process, key) = sleeper.cancel_key.clone().expect("a key");
    Wire::connect(port).await.send(&frame::cancel(process, &key)).await;
    assert_eq!(first_error(&sleeper.until_ready().await).and_then(|error| error.field(b'C')).as_deref(), Some("57014"));
    sleeper.send(&frame::terminate()).await;
    drop(sleeper);
    assert!(first.process_mut().ended().await.success());
    assert_eq!(client(&second).await.value("SELECT 'served'").await, "served");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_flag_r_takes_over_with_an_ini_file() {
    let _proof = proves(&["flag -R"]);
    let cluster = Cluster::start().await;
    let home = place::directory("home");
    std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o777)).expect("our own directory");
    let pidfile = home.join("pid");
    let text = ini(&cluster, &format!("unix_socket_dir = {}\npidfile = {}\n", home.display(), pidfile.display()));
    let mut old = IniPooler::start(Program::Sidepool, &text, &users()).await;
    let mut client = client(&old).await;
    client.query("SET DateStyle = 'German'").await;
    let new = old.successor(&text, &users()).await;
    assert!(old.process_mut().ended().await.success());
    assert!(client.value("SHOW DateStyle").await.starts_with("German"));
    assert_eq!(std::fs::read_to_string(&pidfile).expect("the new one's").trim(), new.process().id().to_string());
    let mut config = tokio_postgres::Config::new();
    config.host_path(&home).port(old.port()).user(cluster::USER).dbname("app");
    let (fresh, connection) = config.connect(tokio_postgres::NoTls).await.expect("a login over the Unix socket");
    tokio::spawn(connection);
    assert_eq!(fresh.query_one("SELECT 8", &[]).await.expect("served").get::<_, i32>(0), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn suspend_keeps_everybody_still_until_resume() {
    let _proof = proves(&["command SUSPEND", "setting suspend_timeout"]);
    let cluster = Cluster::start().await;
    let pooler = start(&cluster, "admin_users = app\nsuspend_timeout = 1\n").await;
    let mut console = Wire::login(pooler.port(), cluster::USER, "pgbouncer", cluster::PASSWORD).await;
    let (mut idle, mut busy, mut greedy) = (client(&pooler).await, client(&pooler).await, client(&pooler).await);
    busy.query("BEGIN").await;
    // This one asks for more than fits between us, and takes nothing of it: it cannot be flushed.
    greedy.send(&frame::query("SELECT repeat('x', 100000000)")).await;
    runs_out_of_room(&cluster).await;
    assert_eq!(tags(&console.query("SUSPEND").await), "CZ");
    assert!(!tags(&greedy.until_closed().await).contains('Z'), "closed by suspend_timeout");
    idle.send(&frame::query("SELECT 'idle'")).await;
    busy.send(&frame::query("SELECT 'busy'")).await;
    assert!(idle.is_silent().await && busy.is_silent().await);
    let again = console.query("SUSPEND").await;
    assert_eq!(told(&again).as_deref(), Some("already suspended/paused"));
    assert_eq!(tags(&console.query("RESUME").await), "CZ");
    assert_eq!(tags(&idle.until_ready().await), "TDCZ");
    assert_eq!(tags(&busy.until_ready().await), "TDCZ");
    assert_eq!(tags(&busy.query("COMMIT").await), "CZ");
    // While it is suspended nobody could be waited for.
    let mut pooler = pooler;
    assert_eq!(tags(&console.query("SUSPEND").await), "CZ");
    pooler.process().signal(Signal::TERM);
    pooler.process_mut().ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_suspends_and_leaves_suspends_nobody_for_ever() {
    let _proof = proves(&["log admin disappeared when suspended, doing RESUME"]);
    let cluster = Cluster::start().await;
    let pooler = start(&cluster, "admin_users = app\n").await;
    let mut other = client(&pooler).await;
    let mut first = Wire::login(pooler.port(), cluster::USER, "pgbouncer", cluster::PASSWORD).await;
    let mut second = Wire::login(pooler.port(), cluster::USER, "pgbouncer", cluster::PASSWORD).await;
    assert_eq!(tags(&first.query("SUSPEND").await), "CZ");
    drop(first);
    other.send(&frame::query("SELECT 1")).await;
    assert!(other.is_silent().await, "somebody is left who can say RESUME");
    second.send(&frame::terminate()).await;
    pooler.process().log().line_with("admin disappeared when suspended, doing RESUME").await;
    assert_eq!(tags(&other.until_ready().await), "TDCZ");
}

/// Waits until a server process is stuck in sending to its client.
async fn runs_out_of_room(cluster: &Cluster) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite' AND query LIKE '%repeat%' AND usename = 'app'";
    let superuser = cluster.superuser("app").await;
    wait::until("a server that cannot send on", async || {
        (superuser.query_one(sql, &[]).await.expect(sql).get::<_, i64>(0) > 0).then_some(())
    })
    .await;
}
