//! `sidepool top` in a real terminal, and as text for scripts.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use sidepool_tests::binary::{self, Build};
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cluster::PASSWORD;
use sidepool_tests::postgres::{Cluster, Wire, frame};
use sidepool_tests::redis::RedisServer;
use sidepool_tests::settings::Settings;
use sidepool_tests::terminal::Terminal;
use sidepool_tests::wait;

/// A sidepool all of whose connections are held, while others wait for one.
struct Exhausted {
    pool: Pooler,
    holders: Vec<Wire>,
    _waiting: Vec<Wire>,
    _redis: sidepool_tests::redis::Wire,
    _servers: (Cluster, RedisServer),
}

async fn exhausted() -> Exhausted {
    let servers = (Cluster::start().await, RedisServer::start().await);
    let settings = Settings::postgres(&servers.0)
        .and_redis(&servers.1)
        .set("postgres.default_pool_size", 2)
        .set("postgres.query_wait_timeout", "5m")
        .set("workers", 1);
    let pool = Pooler::start(settings).await;
    let (mut holders, mut waiting) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let mut wire = pool.wire().await;
        wire.query("SET application_name = 'worker-3'").await;
        wire.query("BEGIN").await;
        holders.push(wire);
    }
    for _ in 0..3 {
        let mut wire = pool.wire().await;
        wire.send(&frame::query("SELECT 1")).await;
        waiting.push(wire);
    }
    let mut redis = pool.redis_wire().await;
    redis.command(&["SET", "k", "v"]).await;
    pool.metrics_show("waiters", |now| now.sum("sidepool_pool_client_connections", &[("state", "waiting")]) > 2.5).await;
    Exhausted { pool, holders, _waiting: waiting, _redis: redis, _servers: servers }
}

fn command(pool: &Pooler) -> String {
    format!("{} top --interval 200ms --admin 127.0.0.1:{}", binary::path(Build::Checked).display(), pool.settings().admin_port())
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_are_seen_sorted_filtered_and_looked_into() {
    let mut scene = exhausted().await;
    let terminal = Terminal::start(80, 24, &command(&scene.pool));
    // It is explained, and Redis is there. A screen is drawn in pieces, and may be looked at between two of them.
    let wanted = ["app.app", "3 waiting", "2 of 2 in use", "main/default"];
    let screen = terminal.shows("the exhausted pool", |screen| wanted.iter().all(|said| screen.contains(said))).await;
    assert!(screen.lines().all(|line| line.chars().count() <= 80));

    terminal.press(&["/", "m", "a", "i", "n"]);
    terminal.shows("the filter", |screen| screen.contains("main/default") && !screen.contains("app.app ")).await;
    // Behind an Escape a key counts as held together with it, unless a moment passes.
    terminal.press(&["Escape"]);
    terminal.shows("all pools", |screen| screen.contains("app.app ") && screen.contains("main/default")).await;
    terminal.press(&["s"]);
    terminal.shows("another order", |screen| screen.contains("waiting") && screen.contains("app.app")).await;

    terminal.press(&["Enter"]);
    terminal
        .shows("one pool with who holds its connections", |screen| {
            screen.contains("worker-3") && screen.contains("idle in transaction") && screen.contains("held for longest by")
        })
        .await;
    terminal.press(&["Escape"]);
    terminal.shows("the list", |screen| screen.contains("enter look into")).await;
    terminal.press(&["?"]);
    terminal.shows("the keys", |screen| screen.contains("filter by name, server or state")).await;
    terminal.press(&["q", "2"]);
    terminal.shows("databases", |screen| screen.contains("Databases") && screen.contains("app")).await;

    terminal.press(&["1"]);
    for holder in &mut scene.holders {
        holder.query("COMMIT").await;
    }
    terminal.shows("that nobody waits any more", |screen| screen.contains("All is well")).await;
    terminal.press(&["q"]);
    let after = terminal.shows("its end", |screen| screen.contains("ended with 0")).await;
    assert!(!after.contains("app.app"), "the terminal is as it was:\n{after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_when_nobody_answers_and_leaves_the_terminal_as_it_was() {
    let mut scene = exhausted().await;
    let terminal = Terminal::start(100, 30, &command(&scene.pool));
    terminal.shows("the pool", |screen| screen.contains("app.app")).await;
    scene.pool.process_mut().kill();
    terminal.shows("the loss", |screen| screen.contains("refused")).await;
    assert!(Command::new("kill").arg("-TERM").arg(child(&terminal)).status().expect("kill").success());
    terminal.shows("its end", |screen| screen.contains("ended with") && !screen.contains("app.app")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_its_terminal() {
    let scene = exhausted().await;
    for ignores_hangups in ["", "trap '' HUP; "] {
        let terminal = Terminal::start(80, 24, &format!("{ignores_hangups}{}", command(&scene.pool)));
        terminal.shows("the pool", |screen| screen.contains("app.app")).await;
        let top = child(&terminal);
        terminal.close();
        wait::until("its end", async || (!Path::new("/proc").join(&top).exists()).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cursor_gets_past_databases_of_one_name_in_two_protocols() {
    let servers = (Cluster::start().await, RedisServer::start().await);
    let mut settings = Settings::postgres(&servers.0).and_redis(&servers.1).set("workers", 1);
    // That of the Redis server is called main, too.
    for name in ["main", "zoo"] {
        let section = format!("postgres.databases.{name}");
        settings = settings.database(name, &servers.0).set(&format!("{section}.user"), "app");
        settings = settings.set(&format!("{section}.password"), PASSWORD).set(&format!("{section}.dbname"), "app");
    }
    let pool = Pooler::start(settings).await;
    Wire::login(pool.postgres_port(), "app", "main", PASSWORD).await.query("SELECT 1").await;
    pool.redis_wire().await.command(&["SET", "k", "v"]).await;
    let terminal = Terminal::start(80, 24, &command(&pool));
    terminal.shows("the pools", |screen| screen.contains("main.app")).await;
    terminal.press(&["2"]);
    terminal.shows("the databases", |screen| screen.contains("main (redis)") && screen.contains("zoo")).await;
    terminal.press(&["Down", "Down", "Down", "Enter"]);
    // Enter leads from a database to its pools.
    terminal.shows("the pool of the last one", |screen| screen.contains("/zoo") && screen.contains("zoo.app")).await;
    terminal.press(&["q"]);
    terminal.shows("its end", |screen| screen.contains("ended with 0")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_trickles_holds_no_script() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    let trickler = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        while stream.write_all(b"H").is_ok() {
            std::thread::park_timeout(std::time::Duration::from_millis(50));
        }
    });
    let said = Command::new(binary::path(Build::Checked)).args(["top", "--once", "--admin", &address]).output().expect("it runs");
    assert!(!said.status.success());
    assert!(String::from_utf8_lossy(&said.stderr).contains("no whole answer within 5s"), "{}", String::from_utf8_lossy(&said.stderr));
    trickler.join().expect("it ends with its client");
}

/// What the terminal's shell has started.
fn child(terminal: &Terminal) -> String {
    let children = format!("/proc/{0}/task/{0}/children", terminal.shell());
    std::fs::read_to_string(children).expect("the shell has one child").trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_get_it_as_text() {
    let scene = exhausted().await;
    let address = format!("127.0.0.1:{}", scene.pool.settings().admin_port());
    let once = |address: &str| {
        let mut top = Command::new(binary::path(Build::Checked));
        top.args(["top", "--once", "--interval", "200ms", "--admin", address]).output().expect("it runs")
    };
    let said = once(&address);
    let text = String::from_utf8(said.stdout).expect("text");
    assert!(said.status.success() && text.contains("app.app: 2 of 2 in use, 3 waiting"), "{text}");
    assert!(text.contains("worker-3") && text.contains("  -> ") && !text.contains('\u{1b}'), "{text}");
    let nobody = once(&format!("127.0.0.1:{}", sidepool_tests::place::free_port()));
    assert!(!nobody.status.success() && String::from_utf8_lossy(&nobody.stderr).contains("refused"));
}
