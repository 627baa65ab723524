//! A pool of connections in transaction mode, at the least that it can cost: a client is read only when there is a connection for what it says, and
//! an answer is looked at only at its end. Named statements are the server's own: a client finds them on one connection, and not on the next.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use crate::line::{Door, Line, Poll};
use crate::scram::{Exchange, Verifier};
use crate::{Postgres, loopback};

/// How much is read at a time.
const READ_BYTES: usize = 64 * 1024;

/// One end of a connection, or where they come in.
enum End {
    Door(Door),
    Server(Line, Option<usize>),
    Client(Line, Stage),
}

/// How far a client is.
enum Stage {
    /// It has said nothing, or that it would like TLS.
    New,
    /// It has been asked for its password.
    Asked,
    /// It has begun to prove that it knows it.
    Proving(Exchange),
    Idle,
    /// It has said something, and waits for a connection.
    Waiting,
    /// It has one.
    Linked(usize),
}

struct Relay {
    poll: Poll,
    /// By number; of those who have left nothing.
    ends: Vec<Option<End>>,
    vacant: Vec<usize>,
    free: Vec<usize>,
    queue: VecDeque<usize>,
    verifier: Option<Verifier>,
    welcome: Vec<u8>,
    buffer: Vec<u8>,
}

pub(crate) fn run(options: &Postgres) -> io::Result<()> {
    let mut relay = Relay {
        poll: Poll::new()?,
        ends: Vec::new(),
        vacant: Vec::new(),
        free: Vec::new(),
        queue: VecDeque::new(),
        verifier: options.verifier.as_deref().map(Verifier::read).transpose()?,
        welcome: welcome(),
        buffer: vec![0; READ_BYTES],
    };
    for _ in 0..options.pool_size {
        let server = connect(options, &mut relay.buffer)?;
        let number = relay.put(server, |line| End::Server(line, None))?;
        relay.free.push(number);
    }
    relay.open(Door::Tcp(TcpListener::bind(loopback(options.port))?))?;
    if let Some(folder) = &options.socket_folder {
        relay.open(Door::Unix(UnixListener::bind(folder.join(format!(".s.PGSQL.{}", options.port)))?))?;
    }
    loop {
        for at in 0..relay.poll.wait()? {
            let number = relay.poll.ready(at);
            match &relay.ends[number] {
                Some(End::Door(_)) => relay.let_in(number)?,
                Some(End::Server(..)) => relay.read_server(number)?,
                Some(End::Client(..)) => relay.read_client(number)?,
                // It left in this round.
                None => {}
            }
        }
    }
}

/// A connection that is logged in.
fn connect(options: &Postgres, buffer: &mut [u8]) -> io::Result<Line> {
    let mut line = match &options.server_folder {
        Some(folder) => Line::unix(&folder.join(format!(".s.PGSQL.{}", options.server)))?,
        None => Line::tcp(loopback(options.server))?,
    };
    let mut startup = vec![0, 3, 0, 0];
    for text in ["user", &options.user, "database", &options.database, ""] {
        startup.extend_from_slice(text.as_bytes());
        startup.push(0);
    }
    line.send(&u32::try_from(startup.len() + 4).unwrap_or(0).to_be_bytes());
    line.send(&startup);
    let mut said = Vec::new();
    while ready_status(&said).is_none() {
        let read = line.read(buffer).unwrap_or_default();
        if read.is_empty() || read[0] == b'E' {
            return Err(io::Error::other(format!("PostgreSQL does not let the floor in: {}", String::from_utf8_lossy(read))));
        }
        said.extend_from_slice(read);
    }
    line.unblock()
}

/// The status of the ReadyForQuery at the end, if there is one.
fn ready_status(said: &[u8]) -> Option<u8> {
    match said {
        [.., b'Z', 0, 0, 0, 5, status] => Some(*status),
        _ => None,
    }
}

/// A message of the server: tag, length, body.
fn put(out: &mut Vec<u8>, tag: u8, body: &[&[u8]]) {
    out.push(tag);
    let length = 4 + body.iter().map(|part| part.len()).sum::<usize>();
    out.extend_from_slice(&u32::try_from(length).unwrap_or(0).to_be_bytes());
    body.iter().for_each(|part| out.extend_from_slice(part));
}

/// What a client is told when it is in: AuthenticationOk, some parameters, BackendKeyData and ReadyForQuery.
fn welcome() -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, b'R', &[&[0, 0, 0, 0]]);
    let parameters =
        [("server_version", "15.0"), ("client_encoding", "UTF8"), ("standard_conforming_strings", "on"), ("DateStyle", "ISO, MDY")];
    for (name, value) in parameters {
        put(&mut out, b'S', &[name.as_bytes(), b"\0", value.as_bytes(), b"\0"]);
    }
    put(&mut out, b'K', &[&[0; 8]]);
    put(&mut out, b'Z', &[b"I"]);
    out
}

impl Relay {
    /// A new end of a connection, which is told of from now on.
    fn put(&mut self, line: Line, end: impl FnOnce(Line) -> End) -> io::Result<usize> {
        let number = self.vacant.pop().unwrap_or_else(|| {
            self.ends.push(None);
            self.ends.len() - 1
        });
        self.poll.add(&line, number)?;
        self.ends[number] = Some(end(line));
        Ok(number)
    }

    fn open(&mut self, door: Door) -> io::Result<()> {
        self.poll.add_door(&door, self.ends.len())?;
        self.ends.push(Some(End::Door(door)));
        Ok(())
    }

    fn let_in(&mut self, door: usize) -> io::Result<()> {
        let Some(End::Door(door)) = &self.ends[door] else { return Ok(()) };
        let line = door.accept()?;
        self.put(line, |line| End::Client(line, Stage::New))?;
        Ok(())
    }

    fn leave(&mut self, client: usize) {
        self.ends[client] = None;
        self.vacant.push(client);
    }

    fn read_client(&mut self, number: usize) -> io::Result<()> {
        let Some(End::Client(_, stage)) = &mut self.ends[number] else { return Ok(()) };
        match stage {
            Stage::Idle => match self.free.pop() {
                Some(server) => self.link(number, server),
                None => {
                    *stage = Stage::Waiting;
                    self.queue.push_back(number);
                    Ok(())
                }
            },
            Stage::Waiting => Ok(()),
            Stage::Linked(server) => {
                let server = *server;
                self.link(number, server)
            }
            Stage::New | Stage::Asked | Stage::Proving(_) => self.log_in(number),
        }
    }

    /// Sends on what the client says; one that says goodbye, or nothing, makes room for the next.
    fn link(&mut self, client: usize, server: usize) -> io::Result<()> {
        let Some(End::Client(line, stage)) = &mut self.ends[client] else { return Ok(()) };
        let was_linked = matches!(stage, Stage::Linked(_));
        let said = line.read(&mut self.buffer);
        let gone = matches!(said, Some([] | [b'X', ..]));
        match said {
            Some(said) if !gone => {
                *stage = Stage::Linked(server);
                let length = said.len();
                if let Some(End::Server(line, of)) = &mut self.ends[server] {
                    *of = Some(client);
                    line.send(&self.buffer[..length]);
                }
                Ok(())
            }
            _ if was_linked && gone => Err(io::Error::other("a client has left in its transaction")),
            // Nothing new since it was read last.
            _ if was_linked => Ok(()),
            _ => {
                if gone {
                    self.leave(client);
                } else {
                    *stage = Stage::Idle;
                }
                self.give_back(server)
            }
        }
    }

    fn give_back(&mut self, server: usize) -> io::Result<()> {
        match self.queue.pop_front() {
            Some(client) => self.link(client, server),
            None => {
                self.free.push(server);
                Ok(())
            }
        }
    }

    fn read_server(&mut self, number: usize) -> io::Result<()> {
        loop {
            let Some(End::Server(line, of)) = &mut self.ends[number] else { return Ok(()) };
            let Some(said) = line.read(&mut self.buffer) else { return Ok(()) };
            let (length, through) = (said.len(), ready_status(said) == Some(b'I'));
            if length == 0 {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, "PostgreSQL has left"));
            }
            let client = if through { of.take() } else { *of };
            if let Some(client) = client
                && let Some(End::Client(line, stage)) = &mut self.ends[client]
            {
                line.send(&self.buffer[..length]);
                if through {
                    *stage = Stage::Idle;
                }
            }
            if through {
                return self.give_back(number);
            }
            if length < READ_BYTES {
                return Ok(());
            }
        }
    }

    fn log_in(&mut self, number: usize) -> io::Result<()> {
        let Some(End::Client(line, stage)) = &mut self.ends[number] else { return Ok(()) };
        let Some(said) = line.read(&mut self.buffer) else { return Ok(()) };
        if said.is_empty() {
            self.leave(number);
            return Ok(());
        }
        let mut answer = Vec::new();
        let message = said.get(5..).unwrap_or_default();
        let wrong = || io::Error::other("a client logs in otherwise than by SCRAM, or with a wrong password");
        *stage = match (std::mem::replace(stage, Stage::New), &self.verifier) {
            // SSLRequest.
            (Stage::New, _) if said.len() == 8 => {
                line.send(b"N");
                return Ok(());
            }
            (Stage::New, Some(_)) => {
                put(&mut answer, b'R', &[&[0, 0, 0, 10], b"SCRAM-SHA-256\0\0"]);
                Stage::Asked
            }
            (Stage::Asked, Some(verifier)) => {
                let exchange = Exchange::begin(verifier, message).ok_or_else(wrong)?;
                put(&mut answer, b'R', &[&[0, 0, 0, 11], exchange.server_first().as_bytes()]);
                Stage::Proving(exchange)
            }
            (Stage::Proving(exchange), Some(verifier)) => {
                let proof = exchange.end(verifier, message).ok_or_else(wrong)?;
                put(&mut answer, b'R', &[&[0, 0, 0, 12], proof.as_bytes()]);
                answer.extend_from_slice(&self.welcome);
                Stage::Idle
            }
            _ => {
                answer.extend_from_slice(&self.welcome);
                Stage::Idle
            }
        };
        line.send(&answer);
        Ok(())
    }
}
