//! PostgreSQL, and in front of it sidepool or PgBouncer with the same ini file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use sidepool_tests::ini::{IniPooler, Program};
use sidepool_tests::postgres::Cluster;
use sidepool_tests::process::{Process, Signal};

use super::{Connects, Door, Peer, Stage, Stop};
use crate::network::Network;
use crate::postgres::Session;
use crate::postgres::client::Door as PostgresDoor;
use crate::postgres::scram::Password;
use crate::tally::Failure;
use crate::witness::{Witnesses, money};

/// Whose the connections to the server are: a role that it trusts. (PgBouncer 1.18 would log in with the keys of the client's own SCRAM login in
/// place of the password that its file gives for the database.)
const OWNER: &str = "open";

/// Users that clients come in as; all of them share one pool.
const USERS: [&str; 3] = ["plain", "small", "greedy"];

/// What all scenarios have in `[pgbouncer]`.
const COMMON: &str = "\
listen_addr = 127.0.0.1
listen_port = LISTEN_PORT
unix_socket_dir = SOCKET_DIRECTORY
auth_type = scram-sha-256
auth_file = USERS_FILE
pool_mode = transaction
max_client_conn = 6000
listen_backlog = 4096
log_connections = 0
log_disconnections = 0
stats_period = 3600
query_wait_timeout = 10
client_login_timeout = 5
";

/// Server, pooler and door.
pub struct PostgresStage {
    /// The server.
    pub cluster: Cluster,
    pooler: IniPooler,
    door: PostgresDoor,
    /// Seconds in which servers that were stopped since saw connections, and how many.
    seen: BTreeMap<String, u64>,
    relayed: Option<Network>,
}

impl PostgresStage {
    /// Starts both with more lines of `[pgbouncer]`.
    pub async fn set_with(peer: Peer, network: Option<&Network>, lines: &[&str]) -> Self {
        let cluster = Cluster::start_with(&["log_connections=on"]).await;
        let password = Arc::new(Password::new("the clients' own secret"));
        let (host, port) = match network {
            None => ("127.0.0.1".to_owned(), cluster.port()),
            Some(network) => {
                // The server is told apart by its Unix socket, which knows no networks.
                let socket = cluster.socket_directory().join(format!(".s.PGSQL.{}", cluster.port()));
                (network.relay_to(&socket), Network::PORT)
            }
        };
        let mut ini = format!("[databases]\napp = host={host} port={port} dbname=app user={OWNER}\n[pgbouncer]\n{COMMON}");
        if !lines.iter().any(|line| line.starts_with("default_pool_size")) {
            ini.push_str("default_pool_size = 20\n");
        }
        for line in lines {
            let _ = writeln!(ini, "{line}");
        }
        let users: String = USERS.iter().map(|user| format!("\"{user}\" \"{}\"\n", password.verifier())).collect();
        let program = match peer {
            Peer::Sidepool => Program::Sidepool,
            Peer::Other => Program::Pgbouncer,
        };
        let pooler = IniPooler::start(program, &ini, &users).await;
        let door = PostgresDoor { port: pooler.port(), user: USERS[0], password };
        Self { cluster, pooler, door, seen: BTreeMap::new(), relayed: network.cloned() }
    }

    /// Takes down what the server has logged of connections over TCP: `2026-11-21 20:42:27.123 UTC [77] LOG:  connection received: host=…`.
    fn note_connects(&mut self) {
        let lines = self.cluster.process().log().lines();
        for line in lines.iter().filter(|line| line.contains("connection received: host=127.0.0.1")) {
            *self.seen.entry(line.chars().take(19).collect()).or_default() += 1;
        }
    }
}

impl Stage for PostgresStage {
    type Door = PostgresDoor;

    async fn set(peer: Peer, network: Option<&Network>) -> Self {
        Self::set_with(peer, network, &[]).await
    }

    fn peer_name(peer: Peer) -> &'static str {
        match peer {
            Peer::Sidepool => "sidepool",
            Peer::Other => "pgbouncer",
        }
    }

    fn door(&self) -> PostgresDoor {
        self.door.clone()
    }

    fn pooler(&self) -> &Process {
        self.pooler.process()
    }

    fn stop(&mut self, how: Stop) {
        self.note_connects();
        self.cluster.stop_by(match how {
            Stop::Told => Signal::INT,
            Stop::Crash => Signal::QUIT,
        });
    }

    async fn launch(&mut self) {
        self.cluster.launch().await;
    }

    async fn end_one_connection(&mut self) {
        let sql = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{OWNER}' ORDER BY random() LIMIT 1");
        self.cluster.superuser("postgres").await.batch_execute(&sql).await.expect("the superuser may");
    }

    async fn connects(&mut self) -> Connects {
        if let Some(network) = &self.relayed {
            return network.connects();
        }
        self.note_connects();
        Connects { total: self.seen.values().sum(), most_per_second: self.seen.values().copied().max().unwrap_or(0) }
    }

    async fn witnesses(&self) -> Witnesses {
        money::prepare(&self.cluster).await;
        Witnesses::of_postgres(&self.door)
    }

    async fn verdict(&self, witnesses: Witnesses) -> Vec<String> {
        let (mut broken, receipts) = witnesses.end().await;
        broken.extend(money::audit(&self.cluster, &receipts).await);
        broken
    }
}

impl Door for PostgresDoor {
    type Session = Session;

    async fn enter(&self) -> Result<Session, Failure> {
        Self::enter(self).await
    }

    async fn ask(session: &mut Session, token: &str) -> Result<(), Failure> {
        let answer = session.ask(&format!("SELECT '{token}'")).await?;
        if answer == [token] { Ok(()) } else { Err(Failure::Wrong(format!("{answer:?} in place of {token}"))) }
    }

    fn is_usable(session: &Session) -> bool {
        session.is_usable()
    }
}
