//! The old process's side: hears who knocks, gives the listening sockets away, and then its clients.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use sidepool_config::model::Listen;
use sidepool_protocol::postgres::cancel_key::CancelKey;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, timeout};

use super::channel::{Channel, Doorstep};
use super::message::{CancelBytes, Message, VERSION};
use crate::admin::facts::Facts;
use crate::clock;
use crate::drain::Stage;
use crate::listener::gate::Door;
use crate::session::postgres::cancel;
use crate::session::postgres::moving::Leaver;
use crate::transport::stream::Parcel;
use crate::worker::WorkerId;

/// How long a new process may take between knocking and being ready to serve.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// How long it may take for a word that costs nothing.
const WORD_PATIENCE: Duration = Duration::from_secs(10);

/// After a knock that came to nothing.
const PAUSE: Duration = Duration::from_millis(100);

/// How often it is looked whether everybody has left.
const LOOK: Duration = Duration::from_millis(10);

/// How long those who are told to leave in the end have to do so.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A listening socket, held once more so that it can be given away.
pub struct Spare {
    /// Whose clients come in there; `None`: whoever wants metrics.
    pub door: Option<Door>,
    /// The address as the configuration has it.
    pub listen: Listen,
    /// The socket.
    pub socket: OwnedFd,
}

/// What a door is called between processes.
#[must_use]
pub fn door_name(door: Option<&Door>) -> String {
    door.map_or_else(|| "admin".to_owned(), Door::label)
}

/// All listening sockets.
pub type Spares = Rc<RefCell<Vec<Spare>>>;

/// Waits until a new process serves: then it has the listening sockets, and wants the clients. Attempts that fail leave everything as it was.
pub async fn successor(doorstep: &Doorstep, spares: &Spares) -> Channel {
    loop {
        let failed = match doorstep.knock().await {
            Ok(channel) => match negotiate(&channel, spares).await {
                Ok(()) => return channel,
                Err(error) => error,
            },
            Err(error) => error,
        };
        tracing::warn!(error = %failed, "a new process wanted to take over, and failed; nothing has changed here");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn negotiate(channel: &Channel, spares: &Spares) -> io::Result<()> {
    let theirs = match word(channel, WORD_PATIENCE).await? {
        Message::Hello { version } => version,
        other => return Err(unexpected(&other)),
    };
    channel.send(&Message::Hello { version: VERSION }, None).await?;
    if theirs != VERSION {
        return Err(io::Error::other(format!("it speaks version {theirs} of the upgrade protocol, and we speak {VERSION}")));
    }
    tracing::info!("a new process wants to take over");
    let copies: Vec<(Message, OwnedFd)> = spares
        .borrow()
        .iter()
        .map(|spare| {
            let message = Message::Listener { door: door_name(spare.door.as_ref()), address: spare.listen.to_string() };
            Ok((message, spare.socket.try_clone()?))
        })
        .collect::<io::Result<_>>()?;
    for (message, socket) in &copies {
        channel.send(message, Some(socket.as_fd())).await?;
    }
    channel.send(&Message::AllListeners, None).await?;
    expect(channel, START_PATIENCE, &Message::Ready).await?;
    channel.send(&Message::Go, None).await?;
    expect(channel, WORD_PATIENCE, &Message::Serving).await
}

async fn expect(channel: &Channel, patience: Duration, wanted: &Message) -> io::Result<()> {
    let said = word(channel, patience).await?;
    if said == *wanted { Ok(()) } else { Err(unexpected(&said)) }
}

async fn word(channel: &Channel, patience: Duration) -> io::Result<Message> {
    match timeout(patience, channel.receive()).await {
        Ok(Ok(Some((message, _)))) => Ok(message),
        Ok(Ok(None)) => Err(io::Error::new(ErrorKind::UnexpectedEof, "it ended before it served")),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::new(ErrorKind::TimedOut, format!("it said nothing for {} s", patience.as_secs()))),
    }
}

fn unexpected(message: &Message) -> io::Error {
    match message {
        Message::Refused(why) => io::Error::other(format!("it gave up: {why}")),
        other => io::Error::new(ErrorKind::InvalidData, format!("it said {other:?} out of turn")),
    }
}

/// What the giving is made of while it lasts.
struct Giving<'a> {
    facts: &'a Facts,
    channel: &'a Channel,
    leavers: mpsc::UnboundedReceiver<Leaver>,
    carried_out: (mpsc::UnboundedSender<u64>, mpsc::UnboundedReceiver<u64>),
    /// Clients that were taken apart, and could not be sent.
    left_over: VecDeque<Leaver>,
    moved: u64,
}

/// The new process is gone before it had all clients; these were on their way to it.
pub struct Deserted(pub VecDeque<Leaver>);

/// Gives all clients to the new process, each at its idle moment, and serves the others until they leave or `bound` is over.
pub async fn give_clients(facts: &Facts, channel: &Channel, bound: Duration) -> Result<u64, Deserted> {
    let (sender, leavers) = mpsc::unbounded_channel();
    for id in facts.mailboxes.ids() {
        let sender = sender.clone();
        facts.mailboxes.post(id, move |worker| {
            *worker.postgres.leavers.borrow_mut() = Some(sender);
            worker.drain.advance(Stage::Moving);
        });
    }
    drop(sender);
    let mut giving = Giving { facts, channel, leavers, carried_out: mpsc::unbounded_channel(), left_over: VecDeque::new(), moved: 0 };
    match giving.run(bound).await {
        Ok(()) => Ok(giving.moved),
        Err(error) => {
            tracing::error!(%error, moved = giving.moved, "the new process is gone before it had all clients");
            giving.leavers.close();
            while let Some(leaver) = giving.leavers.recv().await {
                giving.left_over.push_back(leaver);
            }
            Err(Deserted(giving.left_over))
        }
    }
}

impl Giving<'_> {
    async fn run(&mut self, bound: Duration) -> io::Result<()> {
        let deadline = Instant::from_std(clock::now()) + bound;
        let mut look = interval(LOOK);
        let mut told = false;
        loop {
            tokio::select! {
                Some(leaver) = self.leavers.recv() => self.give(leaver).await?,
                said = self.channel.receive() => match said? {
                    Some((Message::Cancel { number, key }, _)) => self.cancel(number, key),
                    Some((message, _)) => return Err(unexpected(&message)),
                    None => return Err(ErrorKind::BrokenPipe.into()),
                },
                Some(number) = self.carried_out.1.recv() => self.channel.send(&Message::Cancelled(number), None).await?,
                _ = look.tick() => {
                    let now = Instant::from_std(clock::now());
                    if self.facts.gates().open() == 0 && self.leavers.is_empty() {
                        break;
                    }
                    if !told && now >= deadline {
                        told = true;
                        tracing::info!(clients = self.facts.gates().open(), "the drain timeout is over: telling the clients that are left");
                        for id in self.facts.mailboxes.ids() {
                            self.facts.mailboxes.post(id, |worker| worker.drain.begin());
                        }
                    }
                    if now >= deadline + LAST_WORDS {
                        self.facts.add_forced_closes(self.facts.gates().open());
                        break;
                    }
                }
            }
        }
        self.channel.send(&Message::Done, None).await
    }

    async fn give(&mut self, leaver: Leaver) -> io::Result<()> {
        let Some(messages) = leaver.state.messages() else {
            tracing::warn!(user = ?leaver.state.user, "a client has more prepared statements than can move; it is closed");
            return Ok(());
        };
        let mut beside = descriptor(&leaver.socket);
        for message in &messages {
            let result = self.channel.send(message, beside.take()).await;
            if let Err(error) = result {
                self.left_over.push_back(leaver);
                return Err(error);
            }
        }
        self.moved += 1;
        Ok(())
    }

    fn cancel(&self, number: u64, key: CancelBytes) {
        let done = self.carried_out.0.clone();
        self.facts.mailboxes.post(WorkerId(0), move |worker| {
            let worker = Rc::clone(worker);
            tokio::task::spawn_local(async move {
                cancel::deliver_in_process(&worker, CancelKey::from_bytes(key.0)).await;
                // Nobody waits for it any more when the giving is over.
                let _ = done.send(number);
            });
        });
    }
}

/// The socket itself; `None` under TLS, of which only this process has the keys.
fn descriptor(socket: &Parcel) -> Option<BorrowedFd<'_>> {
    match socket {
        Parcel::Tcp(stream) => Some(stream.as_fd()),
        Parcel::Unix(stream) => Some(stream.as_fd()),
        Parcel::Tls(_) => None,
    }
}
