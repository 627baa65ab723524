//! The new process's side: knocks at the old one, gets its listening sockets, and then its clients.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, getsockname};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::channel::Channel;
use super::message::{Assembly, CancelBytes, ClientState, Message, VERSION};
use crate::admin::facts::Facts;
use crate::listener::accept;
use crate::listener::gate::Door;
use crate::listener::place::Places;
use crate::session::postgres::moving::Leaver;
use crate::session::postgres::peering::{Ask, Elder};
use crate::transport::stream::Parcel;
use crate::worker::WorkerId;

/// How long the old process may take for a word.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most cancels that the old process is asked for at a time.
const MAX_ASKED: usize = 64;

/// A listening socket of the old process.
pub struct Inherited {
    /// Whose clients come in there.
    pub door: String,
    /// The address as its configuration has it.
    pub address: String,
    /// The socket.
    pub socket: OwnedFd,
}

/// The process that served up to now.
pub struct Predecessor {
    channel: Channel,
    elder: Elder,
    asked: mpsc::Receiver<Ask>,
}

impl Predecessor {
    /// Knocks at `path` and gets the listening sockets. Must be called on a runtime.
    pub async fn meet(path: &Path) -> io::Result<(Channel, Vec<Inherited>)> {
        let channel = Channel::connect(path)?;
        channel.send(&Message::Hello { version: VERSION }, None).await?;
        match word(&channel).await? {
            (Message::Hello { version: VERSION }, _) => {}
            (Message::Hello { version }, _) => {
                let why = format!("the running process speaks version {version} of the upgrade protocol, and we speak {VERSION}");
                return Err(io::Error::other(why));
            }
            (message, _) => return Err(unexpected(&message)),
        }
        let mut inherited = Vec::new();
        loop {
            match word(&channel).await? {
                (Message::Listener { door, address }, Some(socket)) => inherited.push(Inherited { door, address, socket }),
                (Message::AllListeners, _) => return Ok((channel, inherited)),
                (message, _) => return Err(unexpected(&message)),
            }
        }
    }

    /// Says that we could serve, and waits until we may. From here on `elder` stands for the old process.
    pub async fn ready(channel: Channel, elder: Elder) -> io::Result<Self> {
        channel.send(&Message::Ready, None).await?;
        match word(&channel).await? {
            (Message::Go, _) => {}
            (message, _) => return Err(unexpected(&message)),
        }
        let (sender, asked) = mpsc::channel(MAX_ASKED);
        elder.set(Some(sender));
        Ok(Self { channel, elder, asked })
    }

    /// Says that we serve: from here on the old process gives its clients away.
    pub async fn serving(&self) -> io::Result<()> {
        self.channel.send(&Message::Serving, None).await
    }

    /// Takes clients in until there are no more, and sends cancels to where clients still are.
    pub async fn take_clients(self, facts: Arc<Facts>, places: Places) {
        let Self { channel, elder, asked } = self;
        let mut taking = Taking { channel, asked, waiting: HashMap::new(), next: 0, coming: None, taken: 0 };
        let ended = taking.run(&facts, &places).await;
        elder.set(None);
        match ended {
            Ok(()) => tracing::info!(clients = taking.taken, "the old process has given its clients away and ended"),
            Err(error) => tracing::warn!(%error, clients = taking.taken, "the old process is gone; these clients came from it"),
        }
    }
}

struct Taking {
    channel: Channel,
    asked: mpsc::Receiver<Ask>,
    waiting: HashMap<u64, oneshot::Sender<()>>,
    next: u64,
    /// The client whose state comes in.
    coming: Option<(OwnedFd, Assembly)>,
    taken: u64,
}

impl Taking {
    async fn run(&mut self, facts: &Facts, places: &Places) -> io::Result<()> {
        loop {
            let has_room = self.waiting.len() < MAX_ASKED;
            tokio::select! {
                said = self.channel.receive() => match said? {
                    Some((Message::Done, _)) => return Ok(()),
                    Some((message, beside)) => self.take_in(message, beside, facts, places)?,
                    None => return Err(ErrorKind::UnexpectedEof.into()),
                },
                Some(ask) = self.asked.recv(), if has_room => {
                    self.next += 1;
                    let message = Message::Cancel { number: self.next, key: CancelBytes(ask.key.bytes()) };
                    self.channel.send(&message, None).await?;
                    self.waiting.insert(self.next, ask.done);
                }
            }
        }
    }

    fn take_in(&mut self, message: Message, beside: Option<OwnedFd>, facts: &Facts, places: &Places) -> io::Result<()> {
        let bad = |error| io::Error::new(ErrorKind::InvalidData, error);
        match (message, beside) {
            (Message::Client(size), Some(socket)) if self.coming.is_none() => {
                self.coming = Some((socket, Assembly::new(size).map_err(bad)?));
                Ok(())
            }
            (Message::Part(bytes), _) => {
                let Some((socket, mut assembly)) = self.coming.take() else { return Err(ErrorKind::InvalidData.into()) };
                match assembly.add(&bytes).map_err(bad)? {
                    Some(state) => {
                        self.taken += 1;
                        take_client(socket, state, facts, places);
                    }
                    None => self.coming = Some((socket, assembly)),
                }
                Ok(())
            }
            (Message::Cancelled(number), _) => {
                if let Some(done) = self.waiting.remove(&number) {
                    // Whoever asked may have left.
                    let _ = done.send(());
                }
                Ok(())
            }
            (message, _) => Err(unexpected(&message)),
        }
    }
}

/// Puts a client on the worker that has room for it.
pub fn take_client(socket: OwnedFd, state: ClientState, facts: &Facts, places: &Places) {
    match parcel(socket) {
        Ok(socket) => place_client(Leaver { socket, state }, facts, places),
        Err(error) => tracing::warn!(%error, "a client's socket is of no use"),
    }
}

/// The same for one whose socket has a name already.
pub fn place_client(client: Leaver, facts: &Facts, places: &Places) {
    let Some(permit) = facts.gates().get(&Door::Postgres).map(|gate| gate.enter_again()) else { return };
    let place = places.take(WorkerId(0));
    facts.mailboxes.post(place.worker(), move |worker| accept::adopt(worker, client, permit, place));
}

fn parcel(socket: OwnedFd) -> io::Result<Parcel> {
    let family = getsockname(&socket)?.address_family();
    if family == AddressFamily::UNIX {
        let stream = std::os::unix::net::UnixStream::from(socket);
        stream.set_nonblocking(true)?;
        return Ok(Parcel::Unix(stream));
    }
    let stream = std::net::TcpStream::from(socket);
    stream.set_nonblocking(true)?;
    Ok(Parcel::Tcp(stream))
}

async fn word(channel: &Channel) -> io::Result<(Message, Option<OwnedFd>)> {
    match timeout(PATIENCE, channel.receive()).await {
        Ok(Ok(Some(said))) => Ok(said),
        Ok(Ok(None)) => Err(io::Error::new(ErrorKind::UnexpectedEof, "the running process broke off")),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::new(ErrorKind::TimedOut, format!("the running process said nothing for {} s", PATIENCE.as_secs()))),
    }
}

fn unexpected(message: &Message) -> io::Error {
    match message {
        Message::Refused(why) => io::Error::other(format!("the running process refuses: {why}")),
        other => io::Error::new(ErrorKind::InvalidData, format!("the running process said {other:?} out of turn")),
    }
}
