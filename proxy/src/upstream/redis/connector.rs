//! Opens connections of one kind (server, user, database, RESP version) and brings them back to the state of new ones.

use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sidepool_config::model::{Upstream, UpstreamTls};
use sidepool_config::secret::Secret;
use sidepool_protocol::redis::encode::{self, Resp};
use sidepool_protocol::redis::handshake;
use sidepool_protocol::redis::reply::Reply;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};

use super::connection::RedisConnection;
use super::facts::Facts;
use super::login;
use crate::pool::fault::{ConnectFault, ConnectFaultKind};
use crate::pool::traits::Connector;
use crate::transport::stream::Stream;
use crate::transport::tls;

/// How long a server may take to clean a connection or to say that it is alive.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A silent peer is asked after this, and given up a minute later.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// What connections are opened with.
#[derive(Clone)]
pub struct Target {
    /// Where.
    pub upstream: Upstream,
    /// TLS or not.
    pub tls: UpstreamTls,
    /// The ACL user; `default` unless configured.
    pub user: Arc<str>,
    /// Its password; `None`: no login at all.
    pub password: Option<Secret>,
    /// The selected database.
    pub database: u32,
    /// The RESP version.
    pub version: Resp,
    /// How long opening may take, login included.
    pub timeout: Duration,
}

/// Opens and cleans the connections of one pool.
pub struct RedisConnector {
    target: Target,
    facts: Rc<Facts>,
}

impl RedisConnector {
    /// A connector that adds what it learns of the server to `facts`.
    #[must_use]
    pub fn new(target: Target, facts: Rc<Facts>) -> Self {
        Self { target, facts }
    }

    fn login(&self, reset: bool) -> handshake::Login {
        let Target { user, password, .. } = &self.target;
        let credentials = password.as_ref().map(|password| (&**user, password.reveal()));
        handshake::login(self.target.version, credentials, self.target.database, reset)
    }

    async fn open(&self) -> Result<RedisConnection, ConnectFault> {
        let upstream = shown(&self.target.upstream);
        let mut stream = dial(&self.target.upstream, self.target.tls, &upstream).await?;
        let id = login::log_in(&mut stream, &self.login(false), self.target.version, &upstream, &self.facts).await?;
        Ok(RedisConnection { stream, id })
    }

    /// Asks a question whose answer is read whole, on a connection that nothing is owed on.
    pub async fn ask(connection: &mut RedisConnection, question: &[&[u8]], version: Resp, limit: Duration) -> Result<Reply, ConnectFault> {
        let mut bytes = Vec::new();
        encode::command(&mut bytes, question);
        within(limit, "the server", login::ask(&mut connection.stream, &bytes, version, "the server")).await
    }
}

impl Connector for RedisConnector {
    type Connection = RedisConnection;

    async fn connect(&self) -> Result<RedisConnection, ConnectFault> {
        within(self.target.timeout, &shown(&self.target.upstream), self.open()).await
    }

    async fn reset(&self, connection: &mut RedisConnection) -> Result<(), ConnectFault> {
        let upstream = shown(&self.target.upstream);
        let login = self.login(true);
        let work = login::log_in(&mut connection.stream, &login, self.target.version, &upstream, &self.facts);
        connection.id = within(ANSWER_TIMEOUT, &upstream, work).await?;
        Ok(())
    }

    async fn probe(&self, connection: &mut RedisConnection) -> Result<(), ConnectFault> {
        match Self::ask(connection, &[b"PING"], self.target.version, ANSWER_TIMEOUT).await? {
            Reply::Error(text) => Err(login::refused(&shown(&self.target.upstream), &text, "PING")),
            Reply::Nil | Reply::Integer(_) | Reply::Text(_) | Reply::List(_) => Ok(()),
        }
    }
}

/// How messages name an upstream.
#[must_use]
pub fn shown(upstream: &Upstream) -> String {
    match upstream {
        Upstream::Tcp { host, port } => format!("{host}:{port}"),
        Upstream::Unix(path) => path.display().to_string(),
    }
}

async fn dial(upstream: &Upstream, tls: UpstreamTls, shown: &str) -> Result<Stream, ConnectFault> {
    let (host, port) = match upstream {
        Upstream::Tcp { host, port } => (host, *port),
        Upstream::Unix(path) => {
            return UnixStream::connect(path).await.map(Stream::Unix).map_err(|error| unreachable(shown, &error));
        }
    };
    let stream = plain(host, port).await.map_err(|error| unreachable(shown, &error))?;
    match tls {
        // Redis has no way to ask whether a server offers TLS.
        UpstreamTls::Disable | UpstreamTls::Allow | UpstreamTls::Prefer => return Ok(Stream::Tcp(stream)),
        UpstreamTls::Require | UpstreamTls::VerifyCa | UpstreamTls::VerifyFull => {}
    }
    let broken = |error| ConnectFault::new(ConnectFaultKind::Tls, format!("TLS with Redis at {shown} failed: {error}"));
    let context = tls::usual_redis().map_err(broken)?;
    let mut stream = Stream::Tcp(stream);
    tls::connect(&mut stream, host, Arc::clone(context.for_mode(tls))).await.map_err(broken)?;
    Ok(stream)
}

async fn plain(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3).with_retries(6);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

fn unreachable(upstream: &str, error: &io::Error) -> ConnectFault {
    let kind = match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::TimedOut, _) => ConnectFaultKind::Timeout,
        (_refused_or_unreachable, Some(_)) => ConnectFaultKind::Refused,
        // What resolvers say is no error of the operating system.
        (_no_such_name, None) => ConnectFaultKind::Resolve,
    };
    ConnectFault::new(kind, format!("cannot connect to Redis at {upstream}: {error}"))
}

async fn within<T>(limit: Duration, upstream: &str, work: impl Future<Output = Result<T, ConnectFault>>) -> Result<T, ConnectFault> {
    if limit.is_zero() {
        return work.await;
    }
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_elapsed) => {
            Err(ConnectFault::new(ConnectFaultKind::Timeout, format!("Redis at {upstream} did not answer within {} ms", limit.as_millis())))
        }
    }
}
