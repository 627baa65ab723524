//! A server that says back what it was asked, and now and then is slow, loading, fails, says half of it, or goes.
//!
//! Keys are tokens: `GET c3.1-17` gives that back, `GETSET c3.1-17` too and counts as executed, as does a script with that key; `INCR c3.1-17` is an error that
//! names it. `c3.1` is whose it is, in which of its lives, and the numbers only grow.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use sidepool_protocol::redis::encode::{self, Resp};
use sidepool_protocol::redis::request::{Arguments, RequestScanner, Scanned};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::sleep;

use super::World;

/// The server.
pub(super) struct Server {
    directory: TempDir,
    shared: Rc<Shared>,
}

/// What its connections share.
struct Shared {
    world: Rc<World>,
    open: Cell<u32>,
    /// Nobody may do anything who has no password.
    closed: Cell<bool>,
    /// Writes that were executed.
    executed: RefCell<BTreeSet<String>>,
    /// Of each client, the number of the last of them.
    last: RefCell<BTreeMap<String, u32>>,
    /// Who listens to what.
    listeners: RefCell<BTreeMap<Vec<u8>, Listeners>>,
}

impl Server {
    pub(super) fn start(world: &Rc<World>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        let shared = Rc::new(Shared {
            world: Rc::clone(world),
            open: Cell::new(0),
            closed: Cell::new(false),
            executed: RefCell::default(),
            last: RefCell::default(),
            listeners: RefCell::default(),
        });
        let at_work = Rc::clone(&shared);
        tokio::task::spawn_local(async move {
            for number in 1.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                let shared = Rc::clone(&at_work);
                tokio::task::spawn_local(async move {
                    shared.open.set(shared.open.get() + 1);
                    let _ = Backend::new(stream, number, Rc::clone(&shared)).run().await;
                    shared.listeners.borrow_mut().values_mut().for_each(|all| drop(all.remove(&number)));
                    shared.open.set(shared.open.get() - 1);
                });
            }
        });
        Self { directory, shared }
    }

    pub(super) fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("socket")
    }

    /// From here on it wants a password.
    pub(super) fn close(&self) {
        self.shared.closed.set(true);
    }

    /// How many connections there are.
    pub(super) fn open(&self) -> u32 {
        self.shared.open.get()
    }

    /// What clients were told against what has been.
    pub(super) fn compare(&self, world: &World) {
        let executed = self.shared.executed.borrow();
        for token in world.late.borrow().intersection(&world.heard.borrow()) {
            world.complain(format!("{token} was executed behind a later write of its client, which was told what it asked for"));
        }
        for (token, told) in &*world.told.borrow() {
            if executed.contains(token) != *told {
                world.complain(format!("{token} has been executed: {}, and somebody was told otherwise", !told));
            }
        }
    }
}

/// The connection has ended.
struct Gone;

impl From<std::io::Error> for Gone {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

type Words = Vec<Vec<u8>>;

/// A channel, and what is said there.
type Message = (Vec<u8>, Vec<u8>);

/// The connections that listen to one channel, by their numbers.
type Listeners = BTreeMap<u32, UnboundedSender<Message>>;

struct Backend {
    stream: UnixStream,
    number: u32,
    shared: Rc<Shared>,
    world: Rc<World>,
    version: Resp,
    input: Vec<u8>,
    out: Vec<u8>,
    /// The transaction that is open.
    queued: Option<Vec<Words>>,
    /// Something in it was refused.
    spoilt: bool,
    logged_in: bool,
    mailbox: UnboundedReceiver<Message>,
    post: UnboundedSender<Message>,
}

impl Backend {
    fn new(stream: UnixStream, number: u32, shared: Rc<Shared>) -> Self {
        let (post, mailbox) = unbounded_channel();
        let world = Rc::clone(&shared.world);
        let (version, queued, spoilt, logged_in) = (Resp::Two, None, false, false);
        Self { stream, number, shared, world, version, input: Vec::new(), out: Vec::new(), queued, spoilt, logged_in, mailbox, post }
    }

    async fn run(&mut self) -> Result<(), Gone> {
        if self.world.fault(20) {
            return Err(Gone);
        }
        loop {
            match self.next_request()? {
                Some(words) => {
                    self.on_request(&words).await?;
                }
                None => {
                    let before = self.input.len();
                    self.flush().await?;
                    // What comes during a pause is read there.
                    if self.input.len() == before {
                        self.wait().await?;
                    }
                }
            }
        }
    }

    /// Until something comes, from the client or from who publishes.
    async fn wait(&mut self) -> Result<(), Gone> {
        tokio::select! {
                biased;
            read = self.stream.read_buf(&mut self.input) => if read? == 0 { Err(Gone) } else { Ok(()) },
            Some((channel, message)) = self.mailbox.recv() => {
                encode::push(&mut self.out, self.version, 3);
                [b"message".as_slice(), &channel, &message].iter().for_each(|part| encode::bulk(&mut self.out, part));
                self.flush().await
            }
        }
    }

    fn next_request(&mut self) -> Result<Option<Words>, Gone> {
        match RequestScanner::default().scan(&self.input, false) {
            Ok(Scanned::Request(request)) => {
                let words = Arguments::new(&self.input).map(<[u8]>::to_vec).collect();
                self.input.drain(..request.length);
                Ok(Some(words))
            }
            Ok(Scanned::Incomplete { .. }) => Ok(None),
            Ok(Scanned::Nothing { .. } | Scanned::Inline { .. }) | Err(_) => {
                self.world.complain(format!("the server got {:?}", String::from_utf8_lossy(&self.input)));
                Err(Gone)
            }
        }
    }

    async fn on_request(&mut self, words: &Words) -> Result<(), Gone> {
        let name = String::from_utf8_lossy(&words[0]).to_ascii_uppercase();
        if !self.logged_in {
            self.logged_in = true;
            if self.world.fault(30) {
                encode::error(&mut self.out, "ERR max number of clients reached");
                self.flush().await?;
                return Err(Gone);
            }
        }
        self.go_wrong().await?;
        let before = self.out.len();
        match (name.as_str(), &mut self.queued) {
            ("EXEC", Some(queued)) => {
                let all = std::mem::take(queued);
                self.queued = None;
                if std::mem::take(&mut self.spoilt) {
                    encode::error(&mut self.out, "EXECABORT Transaction discarded because of previous errors.");
                } else {
                    self.transact(&all);
                }
            }
            ("DISCARD", Some(_)) => {
                (self.queued, self.spoilt) = (None, false);
                encode::simple(&mut self.out, "OK");
            }
            (_, Some(_)) if self.world.fault(20) => {
                self.spoilt = true;
                encode::error(&mut self.out, "LOADING not yet");
            }
            (_, Some(queued)) => {
                queued.push(words.clone());
                encode::simple(&mut self.out, "QUEUED");
            }
            ("MULTI", None) => {
                self.queued = Some(Vec::new());
                encode::simple(&mut self.out, "OK");
            }
            ("BLPOP", None) => self.block(words).await?,
            (_, None) => self.execute(&name, words),
        }
        if self.world.fault(10) {
            // It was done, and half an answer comes, or none.
            let half = before + (self.out.len() - before) / 2;
            self.out.truncate(half);
            self.flush().await?;
            return Err(Gone);
        }
        if self.input.is_empty() || self.world.chance(200) { self.flush().await } else { Ok(()) }
    }

    /// Something happens before the answer, or instead of it.
    async fn go_wrong(&mut self) -> Result<(), Gone> {
        if self.world.fault(5) {
            return Err(Gone);
        }
        if self.world.fault(2) {
            self.pause(Duration::from_secs(30)).await?;
        } else if self.world.chance(60) {
            self.pause(self.world.while_up_to(Duration::from_secs(3))).await?;
        }
        Ok(())
    }

    fn transact(&mut self, all: &[Words]) {
        let whose: BTreeSet<String> = all.iter().filter_map(owner).collect();
        if whose.len() > 1 {
            self.world.complain(format!("one transaction of {whose:?}"));
        }
        encode::array(&mut self.out, all.len());
        for words in all {
            self.execute(&String::from_utf8_lossy(&words[0]).to_ascii_uppercase(), words);
        }
    }

    async fn block(&mut self, words: &Words) -> Result<(), Gone> {
        self.flush().await?;
        self.pause(self.world.while_up_to(Duration::from_secs(2))).await?;
        self.write(&words[1]);
        encode::array(&mut self.out, 2);
        encode::bulk(&mut self.out, &words[1]);
        encode::bulk(&mut self.out, &words[1]);
        Ok(())
    }

    fn execute(&mut self, name: &str, words: &Words) {
        let key = words.get(1).cloned().unwrap_or_default();
        match name {
            _ if self.world.fault(5) => encode::error(&mut self.out, "LOADING Redis is loading the dataset in memory"),
            _ if self.shared.closed.get() => encode::error(&mut self.out, "NOAUTH Authentication required."),
            "HELLO" => self.hello(&key),
            "SELECT" | "AUTH" | "CLIENT" | "WATCH" | "UNWATCH" => encode::simple(&mut self.out, "OK"),
            "RESET" => {
                (self.queued, self.version) = (None, Resp::Two);
                encode::simple(&mut self.out, "RESET");
            }
            "COMMAND" => encode::array(&mut self.out, 0),
            "PING" => encode::simple(&mut self.out, "PONG"),
            "GET" => {
                self.read(&key);
                // `GET c1.0-5:3000` wants so many bytes.
                let size = String::from_utf8_lossy(&key).split(':').nth(1).and_then(|size| size.parse().ok()).unwrap_or(0);
                let mut value = key;
                value.resize(value.len().max(size), b'.');
                encode::bulk(&mut self.out, &value);
            }
            "GETSET" => {
                self.write(&key);
                encode::bulk(&mut self.out, &key);
            }
            "EVAL" => {
                self.write(&words[3]);
                encode::bulk(&mut self.out, &words[3]);
            }
            "SCRIPT" => encode::bulk(&mut self.out, &[b'0'; 40]),
            "INCR" => encode::error(&mut self.out, format!("ERR {} is not an integer", String::from_utf8_lossy(&key))),
            "SUBSCRIBE" | "UNSUBSCRIBE" => self.listen(name == "SUBSCRIBE", words),
            "PUBLISH" => {
                let listeners = self.shared.listeners.borrow();
                let all = listeners.get(&key).map(|all| all.values().collect::<Vec<_>>()).unwrap_or_default();
                let sent = all.iter().filter(|one| one.send((key.clone(), words[2].clone())).is_ok()).count();
                encode::integer(&mut self.out, sent as i64);
            }
            other => self.world.complain(format!("the server got {other}")),
        }
    }

    fn hello(&mut self, version: &[u8]) {
        self.version = if version == b"3" { Resp::Three } else { self.version };
        encode::map(&mut self.out, self.version, 3);
        for (name, value) in [("server", "redis"), ("version", "7.2.0")] {
            encode::bulk(&mut self.out, name.as_bytes());
            encode::bulk(&mut self.out, value.as_bytes());
        }
        encode::bulk(&mut self.out, b"id");
        encode::integer(&mut self.out, i64::from(self.number));
    }

    fn listen(&mut self, begins: bool, words: &Words) {
        for channel in &words[1..] {
            let mut listeners = self.shared.listeners.borrow_mut();
            let all = listeners.entry(channel.clone()).or_default();
            if begins {
                all.insert(self.number, self.post.clone());
            } else {
                all.remove(&self.number);
            }
            encode::push(&mut self.out, self.version, 3);
            encode::bulk(&mut self.out, &words[0].to_ascii_lowercase());
            encode::bulk(&mut self.out, channel);
            encode::integer(&mut self.out, 1);
        }
    }

    /// Nothing is to come behind a write that its client asked for later, unless the client was told that it waits no longer.
    fn read(&self, token: &[u8]) {
        let Some((owner, number)) = parts(token) else { return };
        if self.shared.last.borrow().get(&owner).is_some_and(|last| *last > number) {
            self.world.was_late(&String::from_utf8_lossy(token));
        }
    }

    /// A write is executed once, and in the order of its client.
    fn write(&self, token: &[u8]) {
        self.read(token);
        let Some((owner, number)) = parts(token) else { return };
        self.shared.last.borrow_mut().insert(owner, number);
        let token = String::from_utf8_lossy(token).into_owned();
        if !self.shared.executed.borrow_mut().insert(token.clone()) {
            self.world.complain(format!("{token} was executed twice"));
        }
    }

    /// Sends what there is, in pieces now and then.
    async fn flush(&mut self) -> Result<(), Gone> {
        let mut out = std::mem::take(&mut self.out);
        while self.world.chance(100) && out.len() > 1 {
            let rest = out.split_off(self.world.between(1, u32::try_from(out.len()).unwrap_or(1) - 1) as usize);
            self.stream.write_all(&out).await?;
            self.pause(self.world.while_up_to(Duration::from_secs(1))).await?;
            out = rest;
        }
        self.stream.write_all(&out).await?;
        Ok(())
    }

    /// Lets time pass, as long as there is somebody at the other end.
    async fn pause(&mut self, time: Duration) -> Result<(), Gone> {
        let end = sleep(time);
        tokio::pin!(end);
        loop {
            tokio::select! {
                biased;
                () = &mut end => return Ok(()),
                read = self.stream.read_buf(&mut self.input) => if read? == 0 {
                    return Err(Gone);
                },
            }
        }
    }
}

fn owner(words: &Words) -> Option<String> {
    parts(words.get(1)?).map(|(owner, _)| owner)
}

/// `c3.1` and 17 of `c3.1-17:5000`.
fn parts(token: &[u8]) -> Option<(String, u32)> {
    let token = String::from_utf8_lossy(token);
    let (owner, number) = token.split_once('-')?;
    Some((owner.to_owned(), number.split(':').next()?.parse().ok()?))
}
