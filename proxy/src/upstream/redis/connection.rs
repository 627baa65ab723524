//! An open, logged-in connection to a Redis server, as the pool keeps it.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::pool::reason::CloseReason;
use crate::pool::traits::{Connection, Origin};
use crate::transport::stream::{self, Stream};
use crate::upstream::dial::{Server, name_of};
use crate::upstream::roster::Place;

/// A connection. Between two leases nothing is owed on it in either direction.
#[derive(Debug)]
pub struct RedisConnection {
    /// The socket.
    pub stream: Stream,
    /// The server's `CLIENT ID` of it; 0 when the server did not say.
    pub id: i64,
    /// Where it leads.
    pub server: Arc<Server>,
}

impl Connection for RedisConnection {
    type Parcel = (stream::Parcel, i64, Arc<Server>);

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        // Whatever an idle connection says is a reply to nobody: it is out of step.
        match self.stream.poll_read(cx, &mut [0; 1]) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(CloseReason::ServerClosed),
            Poll::Ready(Ok(_)) => Poll::Ready(CloseReason::Broken),
        }
    }

    fn detach(self) -> io::Result<Self::Parcel> {
        Ok((self.stream.detach()?, self.id, self.server))
    }

    fn attach((stream, id, server): Self::Parcel) -> io::Result<Self> {
        Ok(Self { stream: Stream::attach(stream)?, id, server })
    }

    fn origin(&self) -> Option<Origin> {
        let Place::Tcp(address) = &self.server.place else { return None };
        let name = name_of(&self.server.upstream)?;
        Some(Origin { name: Arc::from(name), address: address.ip() })
    }

    fn close(self) {
        // Redis needs no goodbye: closing the socket is how nearly every client leaves.
        drop(self);
    }
}
