//! PostgreSQL, and in front of it sidepool or PgBouncer with the same ini file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use rustix::process::{Pid, kill_process};
use rustls::ClientConfig;
use rustls::client::Resumption;
use sidepool_tests::ini::{IniPooler, Program};
use sidepool_tests::postgres::Cluster;
use sidepool_tests::process::{Process, Signal};
use sidepool_tests::tls::{Authority, client};

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

/// What scenarios have in `[pgbouncer]`, but for what they have otherwise.
const COMMON: &str = "\
listen_addr = 127.0.0.1
listen_port = LISTEN_PORT
unix_socket_dir = SOCKET_DIRECTORY
auth_type = scram-sha-256
auth_file = USERS_FILE
pool_mode = transaction
default_pool_size = 20
max_client_conn = 6000
listen_backlog = 4096
log_connections = 0
log_disconnections = 0
stats_period = 3600
query_wait_timeout = 10
client_login_timeout = 5
";

/// Where the pooler looks for the server.
pub struct Upstream {
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
}

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
    /// Starts both with other lines of `[pgbouncer]`.
    pub async fn set_with(peer: Peer, lines: &[&str]) -> Self {
        Self::set_all(peer, None, None, lines, None).await
    }

    /// The same, and the pooler looks for the server where it is told to.
    pub async fn set_at(peer: Peer, upstream: Option<Upstream>, lines: &[&str]) -> Self {
        Self::set_all(peer, None, upstream, lines, None).await
    }

    /// The same with TLS between clients and pooler. No client has been there before: there are no sessions to be resumed.
    pub async fn set_secure(peer: Peer) -> Self {
        let lines = [
            "client_tls_sslmode = require",
            "client_tls_key_file = SOCKET_DIRECTORY/server.key",
            "client_tls_cert_file = SOCKET_DIRECTORY/server.crt",
        ];
        Self::set_all(peer, None, None, &lines, Some(Authority::new("the authority"))).await
    }

    async fn set_all(
        peer: Peer,
        network: Option<&Network>,
        upstream: Option<Upstream>,
        lines: &[&str],
        authority: Option<Authority>,
    ) -> Self {
        let cluster = Cluster::start_with(&["log_connections=on"]).await;
        let password = Arc::new(Password::new("the clients' own secret"));
        let upstream = match (upstream, network) {
            (Some(upstream), _) => upstream,
            (None, None) => Upstream { host: "127.0.0.1".to_owned(), port: cluster.port() },
            (None, Some(network)) => {
                // Its Unix socket knows no networks.
                let socket = cluster.socket_directory().join(format!(".s.PGSQL.{}", cluster.port()));
                Upstream { host: network.relay_to(&socket), port: Network::PORT }
            }
        };
        let Upstream { host, port } = upstream;
        let key = |line: &str| line.split(' ').next().map(str::to_owned);
        let common = COMMON.lines().filter(|common| !lines.iter().any(|line| key(line) == key(common)));
        let mut ini = format!("[databases]\napp = host={host} port={port} dbname=app user={OWNER}\n[pgbouncer]\n");
        for line in common.chain(lines.iter().copied()) {
            let _ = writeln!(ini, "{line}");
        }
        let users: String = USERS.iter().map(|user| format!("\"{user}\" \"{}\"\n", password.verifier())).collect();
        let program = match peer {
            Peer::Sidepool => Program::Sidepool,
            Peer::Other => Program::Pgbouncer,
        };
        let identity = authority.as_ref().map(|authority| authority.issue("localhost", &["localhost"]));
        let files: Vec<_> =
            identity.iter().flat_map(|identity| [("server.key", &*identity.key), ("server.crt", &*identity.cert)]).collect();
        let pooler = IniPooler::start_with(program, &ini, &users, &files).await;
        let tls = authority.map(|authority| {
            let mut config = ClientConfig::clone(&client(&authority, None, &[]));
            config.resumption = Resumption::disabled();
            Arc::new(config)
        });
        let door = PostgresDoor { port: pooler.port(), user: USERS[0], password, tls };
        Self { cluster, pooler, door, seen: BTreeMap::new(), relayed: network.cloned() }
    }

    /// Kills the process of one connection: the server believes its memory broken, and begins anew.
    async fn kill_one(&mut self) {
        let from = self.cluster.process().log().len();
        if let Some(pid) = self.cluster.pids().await.first().and_then(|pid| Pid::from_raw(*pid)) {
            kill_process(pid, Signal::KILL).expect("a process of our server");
            self.cluster.process().log().line_with_after(from, "ready to accept connections").await;
        }
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
        Self::set_all(peer, network, None, &[], None).await
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

    async fn stop(&mut self, how: Stop) {
        let signal = match how {
            Stop::Told => Signal::INT,
            Stop::Crash => Signal::QUIT,
            Stop::KillOne => return self.kill_one().await,
        };
        self.note_connects();
        self.cluster.stop_by(signal);
    }

    async fn launch(&mut self) {
        if self.cluster.is_stopped() {
            self.cluster.launch().await;
        }
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
        Connects { total: self.seen.values().sum(), most_per_second: self.seen.values().copied().max() }
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
