//! The secrets with which sidepool logs in to Redis change while clients work: connections that are open log in again, and nobody notices.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sidepool_tests::place;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::{RedisServer, Reply, Wire};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;
use tokio::task::JoinHandle;

/// Writes the secret as a whole: whoever reads finds the old one or the new one.
fn write(file: &Path, secret: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, secret).expect("our own directory");
    std::fs::rename(&new, file).expect("the same directory");
}

/// Clients of every kind that work until they are told to stop: what each got that is not as it should be.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    async fn start(pool: &Pooler) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut wires = Vec::new();
        for client in 0..8 {
            let mut wire = pool.redis_wire().await;
            if client % 2 == 1 {
                wire.command(&["HELLO", "3"]).await;
            }
            // As many connections as it ever takes are there from the beginning.
            if client % 4 >= 2 {
                wire.command(&["WATCH", "k"]).await;
            }
            wires.push(wire);
        }
        let mut clients = Vec::new();
        for (client, mut wire) in wires.into_iter().enumerate() {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            wire.command(&["UNWATCH"]).await;
            clients.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let value = done.fetch_add(1, Ordering::Relaxed).to_string();
                    let key = format!("k{client}");
                    assert_eq!(wire.command(&["SET", &key, &value]).await.text(), "OK");
                    assert_eq!(wire.command(&["GET", &key]).await.text(), value);
                    if client % 4 >= 2 {
                        assert_eq!(wire.command(&["WATCH", &key]).await.text(), "OK");
                        assert_eq!(wire.command(&["MULTI"]).await.text(), "OK");
                        assert_eq!(wire.command(&["GET", &key]).await.text(), "QUEUED");
                        assert_eq!(wire.command(&["EXEC"]).await.elements()[0].text(), value);
                    }
                }
            }));
        }
        let load = Self { stop, done, clients };
        load.go_on().await;
        load
    }

    /// Waits until everybody has done some more.
    async fn go_on(&self) {
        let before = self.done.load(Ordering::Relaxed);
        wait::until("some more work", async || (self.done.load(Ordering::Relaxed) > before + 200).then_some(())).await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.expect("no client saw anything wrong");
        }
    }
}

async fn number(direct: &mut Wire, section: &str, name: &str) -> u64 {
    let text = direct.command(&["INFO", section]).await.text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0").trim_start_matches(':').to_owned();
    let digits = line.trim_start_matches("calls=");
    digits.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn open_connections_log_in_again_when_the_secret_in_a_file_changes() {
    let server = RedisServer::start().await;
    let mut direct = server.direct().await;
    let acl = async |direct: &mut Wire, change: &str| {
        assert_eq!(direct.command(&["ACL", "SETUSER", "app", change]).await.text(), "OK", "{change}");
    };
    assert_eq!(direct.command(&["ACL", "SETUSER", "app", "on", ">secret-0", "~*", "&*", "+@all"]).await.text(), "OK");
    let directory = place::directory("secret");
    let file = directory.join("password");
    write(&file, "secret-0");
    let settings = Settings::redis(&server).set("redis.main.user", "app");
    let secret = format!("user = \"app\"\npassword = {{ file = \"{}\" }}", file.display());
    std::fs::write(directory.join("sidepool.toml"), settings.toml().replace("user = \"app\"", &secret)).expect("our own directory");
    let pool = Pooler::start_file(settings, &directory).await;
    let load = Load::start(&pool).await;
    for round in 1..5 {
        let connections = number(&mut direct, "stats", "total_connections_received").await;
        let logins = number(&mut direct, "commandstats", "cmdstat_auth").await;
        acl(&mut direct, &format!(">secret-{round}")).await;
        write(&file, &format!("secret-{round}"));
        wait::until("open connections to log in again", async || {
            (number(&mut direct, "commandstats", "cmdstat_auth").await > logins).then_some(())
        })
        .await;
        acl(&mut direct, &format!("<secret-{}", round - 1)).await;
        load.go_on().await;
        let opened = number(&mut direct, "stats", "total_connections_received").await - connections;
        assert!(opened <= 1, "{opened} connections were opened where those that were open could go on");
    }
    // What is opened from now on comes in with the last of them.
    load.end().await;
    assert!(matches!(direct.command(&["CLIENT", "KILL", "USER", "app"]).await, Reply::Integer(_)));
    let mut wire = pool.redis_wire().await;
    wait::until("new connections", async || (wire.command(&["SET", "k", "v"]).await.text() == "OK").then_some(())).await;
    let log = pool.process().log().tail(1000);
    assert!(!log.contains("secret-1") && !log.contains("does not take"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_with_another_secret_is_felt_by_nobody() {
    let server = RedisServer::start_with_password("secret-0").await;
    let settings = Settings::redis(&server);
    let mut pool = Pooler::start(settings.clone()).await;
    let mut direct = server.direct().await;
    let load = Load::start(&pool).await;
    for round in 1..4 {
        let secret = format!("secret-{round}");
        let logins = number(&mut direct, "commandstats", "cmdstat_auth").await;
        assert_eq!(direct.command(&["CONFIG", "SET", "requirepass", &secret]).await.text(), "OK");
        pool.reload(settings.clone().set("redis.main.password", secret.as_str())).await;
        wait::until("open connections to log in again", async || {
            (number(&mut direct, "commandstats", "cmdstat_auth").await > logins).then_some(())
        })
        .await;
        load.go_on().await;
    }
    load.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_the_server_does_not_take_is_reported_and_open_connections_go_on() {
    let server = RedisServer::start_with_password("right").await;
    let settings = Settings::redis(&server);
    let mut pool = Pooler::start(settings.clone()).await;
    let mut wire = pool.redis_wire().await;
    assert_eq!(wire.command(&["SET", "k", "v"]).await.text(), "OK");
    pool.reload(settings.set("redis.main.password", "mistaken-8472")).await;
    let said = wait::soon("a warning", pool.process().log().line_with("does not take the new password")).await;
    assert!(!said.contains("mistaken-8472"), "{said}");
    for _ in 0..2 {
        assert_eq!(wire.command(&["GET", "k"]).await.text(), "v", "it goes on");
    }
}
