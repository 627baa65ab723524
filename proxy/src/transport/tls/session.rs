//! One TLS session as rustls keeps it, in either role: records in, plain bytes and records out. No sockets, no waiting.

use std::io;
use std::ops::Deref;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, ServerConfig};

/// A session. Both kinds are large, and there is one for each connection: boxed by whoever holds it.
pub(super) enum Session {
    /// We are the client.
    Client(UnbufferedClientConnection),
    /// We are the server.
    Server(UnbufferedServerConnection),
}

/// What came of records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Advance {
    /// How many bytes at the front are done with.
    pub(super) used: usize,
    /// The peer has said that it sends nothing more.
    pub(super) closed: bool,
}

/// One state of rustls' machine, handled.
enum Turn {
    Again,
    PeerClosed,
    NeedsMore,
}

impl Session {
    pub(super) fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Self> {
        UnbufferedClientConnection::new(config, name).map(Self::Client).map_err(io::Error::other)
    }

    pub(super) fn server(config: Arc<ServerConfig>) -> io::Result<Self> {
        UnbufferedServerConnection::new(config).map(Self::Server).map_err(io::Error::other)
    }

    /// Takes in records. What they say goes to `plain`; what is to be sent in answer is appended to `out`, also after an error (an alert).
    pub(super) fn advance(
        &mut self,
        records: &mut [u8],
        plain: &mut dyn FnMut(&[u8]),
        out: &mut Vec<u8>,
    ) -> Result<Advance, rustls::Error> {
        let mut advance = Advance::default();
        loop {
            let rest = &mut records[advance.used..];
            let (used, turn) = match self {
                Self::Client(session) => turn(session.process_tls_records(rest), plain, out),
                Self::Server(session) => turn(session.process_tls_records(rest), plain, out),
            };
            advance.used += used;
            match turn {
                Ok(Turn::Again) => {}
                Ok(Turn::PeerClosed) => advance.closed = true,
                Ok(Turn::NeedsMore) => return Ok(advance),
                Err(error) => {
                    self.say_why(&mut records[advance.used..], out);
                    return Err(error);
                }
            }
        }
    }

    /// After an error: the alert, if there is one. `rest` is what was being looked at: rustls remembers places in it, and panics where they are gone.
    fn say_why(&mut self, rest: &mut [u8], out: &mut Vec<u8>) {
        let nothing = &mut |_: &[u8]| {};
        loop {
            let (_, turn) = match self {
                Self::Client(session) => turn(session.process_tls_records(rest), nothing, out),
                Self::Server(session) => turn(session.process_tls_records(rest), nothing, out),
            };
            match turn {
                Ok(Turn::Again) => {}
                Ok(Turn::PeerClosed | Turn::NeedsMore) | Err(_) => return,
            }
        }
    }

    /// Encrypts `plain` into `out`, behind what the session itself has to send; answers how many bytes that is. `held` is what is held of the
    /// peer's records.
    pub(super) fn encrypt(&mut self, plain: &[u8], held: &mut [u8], out: &mut [u8]) -> io::Result<usize> {
        self.write(held, out, Write::Data(plain))
    }

    /// Says into `out` that nothing more will be sent.
    pub(super) fn close(&mut self, held: &mut [u8], out: &mut [u8]) -> io::Result<usize> {
        self.write(held, out, Write::Close)
    }

    fn write(&mut self, held: &mut [u8], out: &mut [u8], what: Write<'_>) -> io::Result<usize> {
        let mut written = 0;
        loop {
            let out = &mut out[written..];
            let (count, done) = match self {
                Self::Client(session) => write(session.process_tls_records(held), out, what)?,
                Self::Server(session) => write(session.process_tls_records(held), out, what)?,
            };
            written += count;
            if done {
                return Ok(written);
            }
        }
    }
}

impl Deref for Session {
    type Target = CommonState;

    fn deref(&self) -> &CommonState {
        match self {
            Self::Client(session) => session,
            Self::Server(session) => session,
        }
    }
}

fn turn<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    plain: &mut dyn FnMut(&[u8]),
    out: &mut Vec<u8>,
) -> (usize, Result<Turn, rustls::Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let turn = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    plain(record.payload);
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(Turn::Again),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let end = out.len();
            // It tells how long it is when there is no room.
            if let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) {
                out.resize(end + size.required_size, 0);
                match data.encode(&mut out[end..]) {
                    Ok(written) => out.truncate(end + written),
                    Err(_) => out.truncate(end),
                }
            }
            Ok(Turn::Again)
        }
        // What is to be transmitted lies in `out`, which the caller sends before anything else.
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Turn::Again)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Turn::PeerClosed),
        Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) | ConnectionState::Closed) => Ok(Turn::NeedsMore),
        // Early data is never allowed, and there are no other states.
        Ok(_) => Err(rustls::Error::General("a state that is not known".into())),
        Err(error) => Err(error),
    };
    (discard, turn)
}

#[derive(Clone, Copy)]
enum Write<'a> {
    Data(&'a [u8]),
    Close,
}

fn write<Data>(status: UnbufferedStatus<'_, '_, Data>, out: &mut [u8], what: Write<'_>) -> io::Result<(usize, bool)> {
    match status.state.map_err(io::Error::other)? {
        ConnectionState::EncodeTlsData(mut data) => {
            let written = data.encode(out).map_err(io::Error::other)?;
            Ok((written, false))
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok((0, false))
        }
        ConnectionState::PeerClosed => Ok((0, false)),
        ConnectionState::WriteTraffic(mut traffic) => {
            let written = match what {
                Write::Data(plain) => traffic.encrypt(plain, out),
                Write::Close => traffic.queue_close_notify(out),
            };
            written.map(|written| (written, true)).map_err(|error| match error {
                EncryptError::EncryptExhausted => io::ErrorKind::BrokenPipe.into(),
                EncryptError::InsufficientSize(_) => io::Error::other(error),
            })
        }
        // Closed, or not yet open: nobody writes then.
        _ => Err(io::ErrorKind::BrokenPipe.into()),
    }
}
