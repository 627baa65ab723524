//! A throwaway Redis server on a free port. Nothing is saved.

use std::path::PathBuf;
use std::process::Command;

use super::wire::Wire;
use crate::place;
use crate::process::{Process, Signal};

/// A running server.
pub struct RedisServer {
    port: u16,
    password: Option<String>,
    directory: PathBuf,
    process: Option<Process>,
}

impl RedisServer {
    /// Starts one that asks for no password.
    pub async fn start() -> Self {
        Self::launch_new(None).await
    }

    /// Starts one that asks for a password.
    pub async fn start_with_password(password: &str) -> Self {
        Self::launch_new(Some(password.to_owned())).await
    }

    /// Its TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The password it asks for.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// The path of its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("redis.sock")
    }

    /// Its process; panics when it is stopped.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("the server runs")
    }

    /// A direct connection, past every proxy, logged in.
    pub async fn direct(&self) -> Wire {
        let mut wire = Wire::connect(self.port).await;
        if let Some(password) = &self.password {
            assert_eq!(wire.command(&["AUTH", password]).await.text(), "OK");
        }
        wire
    }

    /// Kills it.
    pub fn stop(&mut self) {
        self.stop_by(Signal::KILL);
    }

    /// Stops it by this signal: `TERM` is an orderly end.
    pub fn stop_by(&mut self, signal: Signal) {
        if let Some(mut process) = self.process.take() {
            process.end_by(signal);
        }
    }

    /// Starts it again on the same port, empty.
    pub async fn launch(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--save", "", "--appendonly", "no"]);
        command.args(["--maxclients", "10000", "--unixsocket"]).arg(self.socket()).arg("--dir").arg(&self.directory);
        if let Some(password) = &self.password {
            command.args(["--requirepass", password]);
        }
        let process = Process::spawn("redis-server", command).ended_by(Signal::KILL);
        process.log().line_with("Ready to accept connections").await;
        self.process = Some(process);
    }

    async fn launch_new(password: Option<String>) -> Self {
        let mut server = Self { port: place::free_port(), password, directory: place::directory("redis"), process: None };
        server.launch().await;
        server
    }
}
