//! `sidepool top` in a real terminal, and as text for scripts.

use std::path::Path;
use std::process::Command;

use sidepool_tests::binary::{self, Build};
use sidepool_tests::pooler::Pooler;
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
    let screen = terminal.shows("the exhausted pool", |screen| screen.contains("app.app") && screen.contains("3 waiting")).await;
    assert!(screen.contains("2 of 2 in use") && screen.contains("main/default"), "it is explained, and Redis is there:\n{screen}");
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
