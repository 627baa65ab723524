//! What the pool asks of a connection and of the one who opens it. The pool knows nothing else about either protocol.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::fault::ConnectFault;
use super::reason::CloseReason;
use crate::observe::record::PoolRecord;

/// Where a connection leads whose server has a name: names may come to lead elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The name.
    pub name: Arc<str>,
    /// The address that it had.
    pub address: IpAddr,
}

/// How a connection was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// When that began.
    pub began: Instant,
    /// How long it took, login included.
    pub took: Duration,
}

impl Opening {
    /// The same for somebody who has waited since then; `None`: it was open already.
    #[must_use]
    pub fn seen_by(self, since: Instant) -> Option<Self> {
        let end = self.began + self.took;
        let began = self.began.max(since);
        (end > since).then(|| Self { began, took: end.saturating_duration_since(began) })
    }
}

/// The time of a lease.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    /// When it began.
    pub since: Instant,
    /// When it ended.
    pub until: Instant,
    /// How long that was.
    pub took: Duration,
}

impl Used {
    /// From then to then.
    #[must_use]
    pub fn between(since: Instant, until: Instant) -> Self {
        Self { since, until, took: until.saturating_duration_since(since) }
    }
}

/// An open, logged-in upstream connection.
pub trait Connection: Sized + 'static {
    /// The connection on its way from one worker to another.
    type Parcel: Send + 'static;

    /// Watches an idle connection: ready when it is of no use any more (closed by the server, or it said something that an idle
    /// connection must not say). Harmless news (a changed parameter, a notice) is taken in on the way.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason>;

    /// Whether [`Connection::poll_idle`] may be ready: false costs less, and leaves whoever watches the connection where he is.
    fn has_news(&self) -> bool {
        true
    }

    /// Takes the connection off this worker's runtime.
    fn detach(self) -> io::Result<Self::Parcel>;

    /// Puts it onto this worker's runtime.
    fn attach(parcel: Self::Parcel) -> io::Result<Self>;

    /// A lease on it ends: counts what it knows of that time.
    fn released(&mut self, _used: Used, _record: &PoolRecord) {}

    /// It has been opened here, like this.
    fn opened(&mut self, _opening: Opening) {}

    /// Under TLS: whether an earlier session was resumed.
    fn is_resumed(&self) -> Option<bool> {
        None
    }

    /// It is about to be closed, and this is why.
    fn closing(&mut self, _reason: CloseReason) {}

    /// The host name that led to the server, and where; `None` where no name did.
    fn origin(&self) -> Option<Origin> {
        None
    }

    /// Says goodbye as the protocol wants it, without waiting.
    fn close(self);
}

/// Opens and cleans the connections of one pool.
pub trait Connector: 'static {
    /// What it opens.
    type Connection: Connection;

    /// Opens a connection and logs in. Bounded in time by the implementation (`server_connect_timeout`).
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, ConnectFault>>;

    /// A connection has come from another worker.
    fn arrived(&self, _connection: &mut Self::Connection) {}

    /// Brings a connection that was released dirty back to the state of a new one. Bounded in time by the implementation.
    fn reset(&self, connection: &mut Self::Connection) -> impl Future<Output = Result<(), ConnectFault>>;

    /// Asks an idle connection whether it is alive. Bounded in time by the implementation.
    fn probe(&self, connection: &mut Self::Connection) -> impl Future<Output = Result<(), ConnectFault>>;
}
