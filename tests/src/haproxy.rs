//! A real HAProxy in TCP mode in front of one port, as a load balancer stands between pooler and server: it accepts whether or not there is a server
//! behind it, and closes what is quiet for long.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::process::Process;
use crate::{place, wait};

/// A running HAProxy. Ended with the test.
pub struct Haproxy {
    port: u16,
    socket: PathBuf,
    _process: Process,
}

impl Haproxy {
    /// Starts one in front of this port of 127.0.0.1 that closes connections on which nothing happens for so long.
    pub async fn start(server: u16, patience: Duration) -> Self {
        let (place, port) = (place::directory("haproxy"), place::free_port());
        let (config, socket) = (place.join("haproxy.cfg"), place.join("haproxy.sock"));
        let (patience, shown) = (patience.as_millis(), socket.display());
        let text = format!(
            "global\n  stats socket {shown} mode 600 level operator\ndefaults\n  mode tcp\n  retries 0\n  timeout connect 2s\n  timeout client {patience}ms\n  \
             timeout server {patience}ms\nlisten through\n  bind 127.0.0.1:{port}\n  server behind 127.0.0.1:{server}\n"
        );
        std::fs::write(&config, text).expect("our own directory");
        let program = ["/usr/sbin/haproxy", "/usr/bin/haproxy"].into_iter().find(|path| std::path::Path::new(path).exists());
        let mut command = Command::new(program.unwrap_or("haproxy"));
        command.arg("-db").arg("-f").arg(&config);
        let haproxy = Self { port, socket, _process: Process::spawn("haproxy", command) };
        wait::until("HAProxy", async || haproxy.info("CumConns").await).await;
        haproxy
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections it has accepted, those of who asks for this number among them.
    pub async fn accepted(&self) -> u64 {
        self.info("CumConns").await.expect("it answers")
    }

    async fn info(&self, name: &str) -> Option<u64> {
        let mut stream = UnixStream::connect(&self.socket).await.ok()?;
        stream.write_all(b"show info\n").await.ok()?;
        let mut said = String::new();
        stream.read_to_string(&mut said).await.ok()?;
        said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.trim().parse().ok())
    }
}
