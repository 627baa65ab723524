//! Redis, and in front of it sidepool or nutcracker.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sidepool_tests::binary::{self, Build};
use sidepool_tests::process::{Process, Signal};
use sidepool_tests::redis::RedisServer;
use sidepool_tests::{place, wait};

use super::{Connects, Door, Peer, Stage, Stop};
use crate::network::Network;
use crate::redis::Session;
use crate::tally::Failure;
use crate::witness::Witnesses;

/// Server, pooler and door.
pub struct RedisStage {
    server: RedisServer,
    pooler: Process,
    port: u16,
    relayed: Option<Network>,
    stopped: Arc<AtomicU64>,
}

/// The way in.
#[derive(Clone)]
pub struct RedisDoor {
    port: u16,
}

/// A client with a key of its own.
pub struct RedisClient {
    session: Session,
    key: String,
}

impl RedisDoor {
    /// A client without a key.
    pub async fn session(&self) -> Result<Session, Failure> {
        Session::enter(self.port).await
    }
}

impl Stage for RedisStage {
    type Door = RedisDoor;

    async fn set(peer: Peer, network: Option<&Network>) -> Self {
        let server = RedisServer::start().await;
        let address = match network {
            None => format!("127.0.0.1:{}", server.port()),
            Some(network) => format!("{}:{}", network.relay_to(&server.socket()), Network::PORT),
        };
        let port = place::free_port();
        let directory = place::directory("redis-pooler");
        let command = match peer {
            Peer::Sidepool => sidepool(&directory, port, &address),
            Peer::Other => nutcracker(&directory, port, &address),
        };
        let pooler = Process::spawn(Self::peer_name(peer), command);
        wait::until("the pooler to listen", async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok().map(drop)).await;
        Self { server, pooler, port, relayed: network.cloned(), stopped: Arc::default() }
    }

    fn peer_name(peer: Peer) -> &'static str {
        match peer {
            Peer::Sidepool => "sidepool",
            Peer::Other => "nutcracker",
        }
    }

    fn door(&self) -> RedisDoor {
        RedisDoor { port: self.port }
    }

    fn pooler(&self) -> &Process {
        &self.pooler
    }

    async fn stop(&mut self, how: Stop) {
        let signal = match how {
            Stop::Told => Signal::TERM,
            // It is one process.
            Stop::Crash | Stop::KillOne => Signal::KILL,
        };
        self.server.stop_by(signal);
        // Behind the last reply: whoever was answered before may be answered by an empty server from now on.
        self.stopped.fetch_add(1, Ordering::Relaxed);
    }

    async fn launch(&mut self) {
        self.server.launch().await;
    }

    async fn end_one_connection(&mut self) {
        let mut direct = self.server.direct().await;
        let list = direct.command(&["CLIENT", "LIST", "TYPE", "NORMAL"]).await.text();
        let others: Vec<&str> = list.lines().filter(|line| !line.contains("cmd=client")).collect();
        let victim = others.get(rotating(others.len())).and_then(|line| line.split(' ').find_map(|field| field.strip_prefix("addr=")));
        if let Some(address) = victim {
            direct.command(&["CLIENT", "KILL", address]).await;
        }
    }

    async fn connects(&mut self) -> Connects {
        if let Some(network) = &self.relayed {
            return network.connects();
        }
        let info = self.server.direct().await.command(&["INFO", "stats"]).await.text();
        let seen = info.lines().find_map(|line| line.strip_prefix("total_connections_received:")).and_then(|text| text.trim().parse().ok());
        Connects { total: seen.unwrap_or(0), most_per_second: None }
    }

    async fn witnesses(&self) -> Witnesses {
        Witnesses::of_redis(self.port, &self.stopped)
    }

    async fn verdict(&self, witnesses: Witnesses) -> Vec<String> {
        witnesses.end().await.0
    }
}

/// Another one each time.
fn rotating(size: usize) -> usize {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = usize::try_from(NEXT.fetch_add(1, Ordering::Relaxed)).unwrap_or(0);
    next.checked_rem(size).unwrap_or(0)
}

impl Door for RedisDoor {
    type Session = RedisClient;

    async fn enter(&self) -> Result<RedisClient, Failure> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let session = self.session().await?;
        Ok(RedisClient { session, key: format!("client:{}", NEXT.fetch_add(1, Ordering::Relaxed)) })
    }

    async fn ask(client: &mut RedisClient, token: &str) -> Result<(), Failure> {
        let key = client.key.as_str();
        let replies = client.session.ask(&[&["SET", key, token, "EX", "60"], &["GET", key]]).await?;
        match replies.as_slice() {
            [set, got] if set == "OK" && got == token => Ok(()),
            // A server that began anew between the two.
            [set, got] if set == "OK" && got.is_empty() => Err(Failure::Told("EMPTY".to_owned())),
            other => Err(Failure::Wrong(format!("{other:?} in place of {token}"))),
        }
    }

    fn is_usable(client: &RedisClient) -> bool {
        client.session.is_usable()
    }
}

fn sidepool(directory: &Path, port: u16, server: &str) -> Command {
    let (host, server_port) = server.rsplit_once(':').expect("host and port");
    let file = directory.join("sidepool.toml");
    let text = format!(
        "[admin]\nlisten = \"127.0.0.1:{}\"\n[redis.main]\nlisten = [\"127.0.0.1:{port}\"]\nhost = \"{host}\"\nport = {server_port}\nmax_client_conn = 6000\n",
        place::free_port()
    );
    std::fs::write(&file, text).expect("our own directory");
    let mut command = Command::new(binary::path(Build::Fast));
    command.arg(file);
    command
}

fn nutcracker(directory: &Path, port: u16, server: &str) -> Command {
    let file = directory.join("nutcracker.yml");
    // Ejection and a timeout as its documentation recommends; without them it never comes back from a lost server, or waits for ever.
    let text = format!(
        "main:\n  listen: 127.0.0.1:{port}\n  redis: true\n  preconnect: true\n  backlog: 4096\n  timeout: 5000\n  server_retry_timeout: 1000\n  servers:\n   - {server}:1 main\n"
    );
    std::fs::write(&file, text).expect("our own directory");
    let mut command = Command::new("/usr/sbin/nutcracker");
    command.arg("-c").arg(&file).arg("-o").arg(directory.join("log")).args(["-a", "127.0.0.1", "-s", &place::free_port().to_string()]);
    command
}
