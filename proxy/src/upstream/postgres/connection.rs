//! An open, logged-in connection to a PostgreSQL server, and what is known of the session at its other end.
//!
//! Not here: how it is opened (`connector`), or what a client does with it (`session`).

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use sidepool_protocol::postgres::frame;
use sidepool_protocol::postgres::parameters::ParameterSet;
use sidepool_protocol::postgres::tag::BackendTag;
use tokio::io::{AsyncRead, ReadBuf};

use super::cancellable::Cancellable;
use super::link::Link;
use super::roll::{Born, Entry};
use super::sequences::Sequences;
use super::statements::ServerStatements;
use crate::clock;
use crate::observe::record::PoolRecord;
use crate::pool::reason::CloseReason;
use crate::pool::traits::{Connection, Opening, Origin, Used};
use crate::transport::stream::{Parcel, Stream};
use crate::upstream::dial::{Server, name_of};
use crate::upstream::roster::Place;

/// How much of what an idle connection says is looked at in one go. It says a parameter or a notice, or nothing.
const IDLE_READ_BYTES: usize = 4096;

/// An open, logged-in connection to a PostgreSQL server.
#[derive(Debug)]
pub struct PgConnection {
    /// The socket.
    pub stream: Stream,
    /// The session's parameters as the server last reported them.
    pub parameters: ParameterSet,
    /// Those parameters as they were right after the login: what a client finds that sets nothing.
    pub baseline: Rc<ParameterSet>,
    /// What a cancel of this connection needs.
    pub cancel: Rc<Cancellable>,
    /// The state of what flows over it.
    pub link: Link,
    /// Its place on the worker's roll of connections.
    pub entry: Option<Entry>,
    /// The place it had on another worker's.
    born: Option<Born>,
    /// How it was opened; `None`: elsewhere.
    pub opening: Option<Opening>,
}

/// A [`PgConnection`] on its way from one worker to another. It is idle, so of its link only what the server remembers travels.
#[derive(Debug)]
pub struct PgParcel {
    stream: Parcel,
    parameters: ParameterSet,
    baseline: ParameterSet,
    key: Box<[u8]>,
    server: Arc<Server>,
    statements: ServerStatements,
    carried: ParameterSet,
    sequences: Sequences,
    doubtful: bool,
    born: Option<Born>,
}

impl PgConnection {
    /// A connection that has just logged in. `key` is the body of BackendKeyData, empty when the server sent none.
    #[must_use]
    pub fn new(stream: Stream, baseline: Rc<ParameterSet>, key: Box<[u8]>, server: Arc<Server>) -> Self {
        let cancel = Rc::new(Cancellable::new(key, server));
        Self {
            stream,
            parameters: ParameterSet::clone(&baseline),
            baseline,
            cancel,
            link: Link::default(),
            entry: None,
            born: None,
            opening: None,
        }
    }

    /// Where it leads.
    #[must_use]
    pub fn server(&self) -> &Arc<Server> {
        self.cancel.server()
    }

    fn closed_without_a_word(&self) -> Poll<CloseReason> {
        self.server().lost(clock::now());
        Poll::Ready(CloseReason::ServerClosed)
    }

    /// Puts the connection, which is open, on this place of the roll.
    pub fn enter(&mut self, entry: Entry) {
        entry.open(&self.stream, &self.cancel);
        self.entry = Some(entry);
    }

    /// The place that the connection had on another worker's roll, once.
    pub fn take_born(&mut self) -> Option<Born> {
        self.born.take()
    }
}

impl Connection for PgConnection {
    type Parcel = PgParcel;

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        // Not zeroed: this runs for every lease, and there is hardly ever anything to read.
        let mut room = [const { MaybeUninit::uninit() }; IDLE_READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut room);
        loop {
            let before = buffer.filled().len();
            match AsyncRead::poll_read(Pin::new(&mut self.stream), cx, &mut buffer) {
                // Half a message of an idle connection would have to be kept for whoever gets the connection next: not worth it, it is so rare.
                Poll::Pending if before > 0 => return Poll::Ready(CloseReason::ServerClosed),
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return self.closed_without_a_word(),
                // Whoever ends it with a word of why is there, and knows what it does.
                Poll::Ready(Ok(())) if buffer.filled().len() == before => return self.closed_without_a_word(),
                Poll::Ready(Ok(())) => {}
            }
            let Some(used) = take_in_idle_news(buffer.filled(), &mut self.parameters) else {
                return Poll::Ready(CloseReason::ServerClosed);
            };
            let left = buffer.filled().len() - used;
            buffer.filled_mut().copy_within(used.., 0);
            buffer.set_filled(left);
            if buffer.remaining() == 0 {
                return Poll::Ready(CloseReason::ServerClosed);
            }
        }
    }

    fn has_news(&self) -> bool {
        self.stream.may_be_read()
    }

    fn detach(self) -> io::Result<PgParcel> {
        let Self { stream, parameters, baseline, cancel, link, entry, born, opening: _ } = self;
        let born = entry.as_ref().map(Entry::born).or(born);
        let Link { statements, carried, sequences, doubtful, .. } = link;
        let carried = Rc::unwrap_or_clone(carried);
        let baseline = ParameterSet::clone(&baseline);
        let (key, server) = (cancel.key().into(), Arc::clone(cancel.server()));
        Ok(PgParcel { stream: stream.detach()?, parameters, baseline, key, server, statements, carried, sequences, doubtful, born })
    }

    fn attach(parcel: PgParcel) -> io::Result<Self> {
        let PgParcel { stream, parameters, baseline, key, server, statements, carried, sequences, doubtful, born } = parcel;
        let link = Link { statements, carried: Rc::new(carried), sequences, doubtful, ..Link::default() };
        Ok(Self { parameters, link, born, ..Self::new(Stream::attach(stream)?.onto_ring()?, Rc::new(baseline), key, server) })
    }

    fn origin(&self) -> Option<Origin> {
        let server = self.server();
        match (name_of(&server.upstream), &server.place) {
            (Some(name), Place::Tcp(address)) => Some(Origin { name: name.into(), address: address.ip() }),
            (_, Place::Tcp(_) | Place::Unix(_)) => None,
        }
    }

    fn released(&mut self, used: Used, record: &PoolRecord) {
        if self.link.spent.is_idle()
            && let Some(entry) = &self.entry
        {
            entry.server().rests.set(false);
        }
        self.link.spent.end(used, record);
        if let Some(journal) = &mut self.link.journal {
            journal.clear();
        }
        self.cancel.server().lasts(used.until);
    }

    fn closing(&mut self, reason: CloseReason) {
        if let Some(entry) = &self.entry {
            entry.server().reason.set(Some(reason));
        }
    }

    fn opened(&mut self, opening: Opening) {
        self.opening = Some(opening);
    }

    fn is_resumed(&self) -> Option<bool> {
        self.stream.tls_peer().map(|peer| peer.is_resumed())
    }

    fn close(mut self) {
        if self.link.half_sent || !self.link.to_server.is_empty() {
            // Terminate would be the end of a statement that nobody has said.
            return;
        }
        // If the socket does not take five bytes at once, the server learns it from the end of the stream.
        let _ = self.stream.poll_write(&mut Context::from_waker(Waker::noop()), b"X\0\0\0\x04");
    }
}

/// Takes in the whole messages at the front of what an idle connection said, and answers how many bytes they are.
///
/// `None` when it said something that makes it unusable: an error (the server is about to close), or anything that answers a request nobody made.
pub(super) fn take_in_idle_news(bytes: &[u8], parameters: &mut ParameterSet) -> Option<usize> {
    let mut used = 0;
    while let Some(head) = frame::head(&bytes[used..]).ok()? {
        let Some(body) = bytes.get(used + frame::HEAD_BYTES..used + head.message_bytes()) else { break };
        match BackendTag::from_byte(head.tag)? {
            BackendTag::ParameterStatus => parameters.take_in(body)?,
            BackendTag::NoticeResponse | BackendTag::NotificationResponse => {}
            BackendTag::ParseComplete
            | BackendTag::BindComplete
            | BackendTag::CloseComplete
            | BackendTag::CommandComplete
            | BackendTag::DataRow
            | BackendTag::CopyData
            | BackendTag::CopyDone
            | BackendTag::ErrorResponse
            | BackendTag::CopyInResponse
            | BackendTag::CopyOutResponse
            | BackendTag::CopyBothResponse
            | BackendTag::EmptyQueryResponse
            | BackendTag::BackendKeyData
            | BackendTag::NoData
            | BackendTag::Authentication
            | BackendTag::PortalSuspended
            | BackendTag::RowDescription
            | BackendTag::ParameterDescription
            | BackendTag::FunctionCallResponse
            | BackendTag::NegotiateProtocolVersion
            | BackendTag::ReadyForQuery => return None,
        }
        used += head.message_bytes();
    }
    Some(used)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidepool_protocol::postgres::encode;
    use sidepool_protocol::postgres::fault::{Fault, SqlState};
    use std::future::poll_fn;
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    fn pair() -> (PgConnection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (PgConnection::new(Stream::Unix(ours), Rc::default(), Box::default(), Arc::new(Server::nowhere())), theirs)
    }

    async fn idle_now(connection: &mut PgConnection) -> Option<CloseReason> {
        tokio::task::yield_now().await;
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        poll_fn(|cx| {
            Poll::Ready(match connection.poll_idle(cx) {
                Poll::Ready(reason) => Some(reason),
                Poll::Pending => None,
            })
        })
        .await
    }

    async fn rest(server: &mut UnixStream) -> Vec<u8> {
        let mut said = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(server, &mut said).await.unwrap();
        said
    }

    #[tokio::test]
    async fn news_of_an_idle_connection_are_taken_in() {
        let (mut connection, mut server) = pair();
        assert_eq!(idle_now(&mut connection).await, None);
        let mut bytes = Vec::new();
        encode::parameter_status("TimeZone", "UTC", &mut bytes);
        encode::notice_response(&Fault::error(SqlState::INTERNAL_ERROR, "n"), &mut bytes);
        for index in 0..300 {
            encode::parameter_status("application_name", &format!("name{index}"), &mut bytes);
        }
        server.write_all(&bytes).await.unwrap();
        assert_eq!(idle_now(&mut connection).await, None);
        assert_eq!(connection.parameters.get("timezone"), Some("UTC"));
        assert_eq!(connection.parameters.get("application_name"), Some("name299"));
    }

    #[tokio::test]
    async fn an_error_a_reply_half_a_message_or_the_end_make_it_useless() {
        let mut error = Vec::new();
        encode::error_response(&Fault::fatal(SqlState::ADMIN_SHUTDOWN, "bye"), &mut error);
        for said in [&error[..], b"Z\0\0\0\x05I", b"S\0\0\0\x10abc", b"?\0\0\0\x04", b"S\0\0\0\0", b"S\0\0\0\x05a"] {
            let (mut connection, mut server) = pair();
            server.write_all(said).await.unwrap();
            assert_eq!(idle_now(&mut connection).await, Some(CloseReason::ServerClosed), "{said:?}");
        }
        let (mut connection, server) = pair();
        drop(server);
        assert_eq!(idle_now(&mut connection).await, Some(CloseReason::ServerClosed));
    }

    #[tokio::test]
    async fn it_moves_to_another_worker_and_says_goodbye() {
        let (connection, mut server) = pair();
        let parcel = connection.detach().unwrap();
        let mut connection = PgConnection::attach(parcel).unwrap();
        assert_eq!(idle_now(&mut connection).await, None);
        connection.close();
        assert_eq!(rest(&mut server).await, b"X\0\0\0\x04");
    }

    #[tokio::test]
    async fn it_says_nothing_in_the_middle_of_a_message() {
        let (mut connection, mut server) = pair();
        connection.link.half_sent = true;
        connection.close();
        assert_eq!(rest(&mut server).await, b"");
        let (mut connection, mut server) = pair();
        connection.link.to_server.push(b"Q\0\0\0");
        connection.close();
        assert_eq!(rest(&mut server).await, b"");
    }
}
