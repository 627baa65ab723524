//! An open, logged-in connection to a Redis server, as the pool keeps it.

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use crate::clock;
use crate::observe::record::PoolRecord;
use crate::pool::reason::CloseReason;
use crate::pool::traits::{Connection, Opening, Origin, Used};
use crate::transport::stream::{self, Stream};
use crate::upstream::dial::{Server, name_of};
use crate::upstream::roster::Place;

/// Tells secrets apart without holding one: a hash with a key of this process, of no use to anybody who sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecretMark(u64);

static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl SecretMark {
    /// The mark of this secret.
    #[must_use]
    pub fn of(secret: Option<&str>) -> Self {
        Self(KEY.hash_one(secret))
    }

    /// The same as a number.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
}

/// A connection. Between two leases nothing is owed on it in either direction.
#[derive(Debug)]
pub struct RedisConnection {
    /// The socket.
    pub stream: Stream,
    /// The server's `CLIENT ID` of it; 0 when the server did not say.
    pub id: i64,
    /// With which secret it logged in.
    pub secret: SecretMark,
    /// Where it leads.
    pub server: Arc<Server>,
    /// How it was opened; `None`: elsewhere.
    pub opening: Option<Opening>,
}

impl Connection for RedisConnection {
    type Parcel = (stream::Parcel, i64, SecretMark, Arc<Server>);

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        // Whatever an idle connection says is a reply to nobody: it is out of step.
        match self.stream.poll_read(cx, &mut [0; 1]) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(CloseReason::ServerClosed),
            Poll::Ready(Ok(_)) => Poll::Ready(CloseReason::Broken),
        }
    }

    fn opened(&mut self, opening: Opening) {
        self.opening = Some(opening);
    }

    fn has_news(&self) -> bool {
        self.stream.may_be_read()
    }

    fn detach(self) -> io::Result<Self::Parcel> {
        Ok((self.stream.detach()?, self.id, self.secret, self.server))
    }

    fn attach((stream, id, secret, server): Self::Parcel) -> io::Result<Self> {
        Ok(Self { stream: Stream::attach(stream)?.onto_ring()?, id, secret, server, opening: None })
    }

    fn released(&mut self, used: Used, _record: &PoolRecord) {
        self.server.lasts(used.until);
    }

    fn closing(&mut self, reason: CloseReason) {
        if reason == CloseReason::ServerClosed {
            self.server.lost(clock::now());
        }
    }

    fn origin(&self) -> Option<Origin> {
        let Place::Tcp(address) = &self.server.place else { return None };
        let name = name_of(&self.server.upstream)?;
        Some(Origin { name: Arc::from(name), address: address.ip() })
    }

    fn is_resumed(&self) -> Option<bool> {
        self.stream.tls_peer().map(|peer| peer.is_resumed())
    }

    fn close(self) {
        // Redis needs no goodbye: closing the socket is how nearly every client leaves.
        drop(self);
    }
}
