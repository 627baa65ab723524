//! A client that does what chance tells it: pipelines, scripts, transactions, blocking, subscriptions, large values, slow reading, long pauses, saying no
//! more, and leaving in the middle of anything.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sidepool_protocol::redis::encode::{self, Resp};
use sidepool_protocol::redis::reply::{self, Reply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::{NAME, World};
use crate::session::redis::serve;
use crate::transport::stream::Stream;
use crate::worker::Worker;

/// What gives its key back.
const SCRIPT: &[u8] = b"return KEYS[1]";

/// The session is over for this client.
struct Over;

impl From<std::io::Error> for Over {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

/// What a request is to be answered with.
#[derive(Debug, Clone)]
enum Due {
    /// Its token, with so many bytes, and whether it writes.
    Token(String, usize, bool),
    /// Its token twice: it was popped from there.
    Popped(String),
    /// An error that names its token.
    Fault(String),
    /// This text.
    Text(&'static str),
    /// The replies to all these.
    All(Vec<Due>),
    /// A number.
    Number,
    /// That it has joined or left a channel.
    Confirmation(&'static str),
    /// Whatever it is.
    Any,
}

struct Client {
    name: String,
    world: Rc<World>,
    worker: Rc<Worker>,
    stream: UnixStream,
    input: Vec<u8>,
    version: Resp,
    /// How many tokens have been used.
    tokens: u32,
    /// The token of the last message of its channel.
    heard: u32,
}

/// Lives the life of a client, and of those that come after it under the same number.
pub(super) async fn live(number: u32, world: Rc<World>, worker: Rc<Worker>) {
    for life in 0..world.between(1, 3) {
        let (stream, session) = connect(&worker);
        let (name, world) = (format!("c{number}.{life}"), Rc::clone(&world));
        let worker = Rc::clone(&worker);
        let mut client = Client { name, world, worker, stream, input: Vec::new(), version: Resp::Two, tokens: 0, heard: 0 };
        let over = client.run().await.is_err();
        let (world, name) = (Rc::clone(&client.world), client.name.clone());
        if over && !world.faults {
            world.complain(format!("{name} lost its connection"));
        }
        drop(client);
        world.see_end(&name, session).await;
    }
}

pub(super) fn connect(worker: &Rc<Worker>) -> (UnixStream, JoinHandle<()>) {
    let (client, ours) = UnixStream::pair().unwrap();
    (client, tokio::task::spawn_local(serve(Stream::Unix(ours), Arc::from(NAME), Rc::clone(worker))))
}

fn request(words: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::command(&mut out, words);
    out
}

fn bytes_of(all: &[(Vec<u8>, Due)]) -> Vec<u8> {
    all.iter().flat_map(|(bytes, _)| bytes.clone()).collect()
}

impl Client {
    async fn run(&mut self) -> Result<(), Over> {
        if self.world.chance(700) {
            let name = format!("service{}", self.world.between(1, 2));
            self.ask(&[(request(&[b"CLIENT", b"SETNAME", name.as_bytes()]), Due::Text("OK"))]).await?;
        }
        if self.world.chance(300) {
            self.introduce().await?;
        }
        for _ in 0..self.world.between(1, 12) {
            if self.world.chance(400) {
                sleep(self.world.while_up_to(Duration::from_secs(300))).await;
            }
            match self.world.between(0, 9) {
                0..=3 => self.pipeline().await?,
                4 => self.whole_transaction().await?,
                5 => self.transaction().await?,
                6 => self.watched().await?,
                7 => self.blocked().await?,
                8 => self.published().await?,
                _ if self.world.chance(300) => return self.leave_halfway().await,
                _ => self.large().await?,
            }
        }
        match self.world.between(0, 9) {
            0..=2 => self.ask(&[(request(&[b"QUIT"]), Due::Text("OK"))]).await,
            3..=5 => self.say_no_more().await,
            _ => Ok(()),
        }
    }

    /// From here on it speaks RESP3, unless it is told that it does not.
    async fn introduce(&mut self) -> Result<(), Over> {
        self.version = Resp::Three;
        self.send(&request(&[b"HELLO", b"3"])).await?;
        let reply = self.next_reply(&Due::Any).await?;
        if let Reply::Error(_) = reply {
            self.version = Resp::Two;
        }
        self.look(&Due::Any, &reply);
        Ok(())
    }

    fn token(&mut self) -> String {
        self.tokens += 1;
        format!("{}-{}", self.name, self.tokens)
    }

    /// Any command that can be shared.
    fn one(&mut self) -> (Vec<u8>, Due) {
        let token = self.token();
        match self.world.between(0, 11) {
            0..=3 => (request(&[b"GET", token.as_bytes()]), Due::Token(token, 0, false)),
            4..=6 => {
                // A value that is not small, now and then: lanes are full of bytes before they are full of commands.
                let padding = vec![b'.'; self.world.while_up_to(Duration::from_millis(30_000)).as_millis() as usize];
                (request(&[b"GETSET", token.as_bytes(), &padding]), Due::Token(token, 0, true))
            }
            7 => (request(&[b"INCR", token.as_bytes()]), Due::Fault(token)),
            8 => (request(&[b"PING"]), Due::Text("PONG")),
            // Nobody else waits behind these.
            9..=10 => (request(&[b"EVAL", SCRIPT, b"1", token.as_bytes()]), Due::Token(token, 0, true)),
            _ => {
                let size = self.world.between(100, 3000) as usize;
                let token = format!("{token}:{size}");
                (request(&[b"GET", token.as_bytes()]), Due::Token(token, size, false))
            }
        }
    }

    fn write(&mut self) -> (Vec<u8>, Due) {
        let token = self.token();
        (request(&[b"GETSET", token.as_bytes(), b"x"]), Due::Token(token, 0, true))
    }

    async fn pipeline(&mut self) -> Result<(), Over> {
        let most = if self.world.chance(200) { 400 } else { 12 };
        let all: Vec<_> = (0..self.world.between(1, most)).map(|_| self.one()).collect();
        self.ask(&all).await
    }

    /// `MULTI` to `EXEC` at once, with something before and behind it.
    async fn whole_transaction(&mut self) -> Result<(), Over> {
        let all = self.around_a_transaction();
        self.ask(&all).await
    }

    fn around_a_transaction(&mut self) -> Vec<(Vec<u8>, Due)> {
        let mut all = vec![self.one(), (request(&[b"MULTI"]), Due::Text("OK"))];
        let inside: Vec<_> = (0..self.world.between(1, 4)).map(|_| self.write()).collect();
        let due = inside.iter().map(|(_, due)| due.clone()).collect();
        all.extend(inside.into_iter().map(|(bytes, _)| (bytes, Due::Text("QUEUED"))));
        all.push((request(&[b"EXEC"]), Due::All(due)));
        all.push(self.one());
        all
    }

    /// Asks for several things, perhaps on a connection that it keeps, and closes its own direction: all of it is answered, and nothing else.
    async fn say_no_more(&mut self) -> Result<(), Over> {
        let mut all: Vec<_> = (0..self.world.between(0, 8)).map(|_| self.one()).collect();
        if self.world.chance(500) {
            all.push((request(&[b"WATCH", b"key"]), Due::Text("OK")));
            all.push(self.one());
            all.push((request(&[b"CLIENT", b"ID"]), Due::Number));
        }
        all.extend(self.around_a_transaction());
        self.send_and_listen(&bytes_of(&all)).await?;
        self.stream.shutdown().await?;
        for (_, due) in &all {
            self.hear(due).await?;
        }
        if !self.input.is_empty() || self.stream.read_buf(&mut self.input).await? > 0 {
            self.world.complain(format!("{} is told more than it has asked for", self.name));
        }
        Ok(())
    }

    /// The same one by one.
    async fn transaction(&mut self) -> Result<(), Over> {
        self.ask(&[(request(&[b"MULTI"]), Due::Text("OK"))]).await?;
        let mut due = Vec::new();
        for _ in 0..self.world.between(0, 3) {
            if self.world.chance(200) {
                sleep(self.world.while_up_to(Duration::from_secs(20))).await;
            }
            let (bytes, one) = self.write();
            due.push(one);
            self.ask(&[(bytes, Due::Text("QUEUED"))]).await?;
        }
        if self.world.chance(200) {
            return self.ask(&[(request(&[b"DISCARD"]), Due::Text("OK"))]).await;
        }
        self.ask(&[(request(&[b"EXEC"]), Due::All(due))]).await
    }

    async fn watched(&mut self) -> Result<(), Over> {
        self.ask(&[(request(&[b"WATCH", b"key"]), Due::Text("OK"))]).await?;
        let one = self.one();
        self.ask(&[one]).await?;
        if self.world.chance(300) {
            return self.ask(&[(request(&[b"UNWATCH"]), Due::Text("OK"))]).await;
        }
        self.transaction().await
    }

    /// Something that blocks, and what stands behind it.
    async fn blocked(&mut self) -> Result<(), Over> {
        let token = self.token();
        let mut all = vec![self.one(), (request(&[b"BLPOP", token.as_bytes(), b"0"]), Due::Popped(token))];
        // A token before it must have the smaller number.
        all.swap(0, 1);
        let (first, second) = (all.remove(0), all.remove(0));
        let order = if self.world.chance(500) { vec![first] } else { vec![first, second] };
        self.ask(&order).await
    }

    /// Messages of its own, heard beside the replies.
    async fn published(&mut self) -> Result<(), Over> {
        if self.version == Resp::Two {
            return Ok(());
        }
        let channel = format!("channel of {}", self.name);
        if !self.is_confirmed("subscribe", &channel).await? {
            return Ok(());
        }
        for _ in 0..self.world.between(1, 5) {
            let token = self.token();
            self.ask(&[(request(&[b"PUBLISH", channel.as_bytes(), token.as_bytes()]), Due::Number)]).await?;
        }
        self.is_confirmed("unsubscribe", &channel).await.map(drop)
    }

    /// Joins or leaves a channel; false: that is refused.
    async fn is_confirmed(&mut self, what: &'static str, channel: &str) -> Result<bool, Over> {
        self.send(&request(&[what.as_bytes(), channel.as_bytes()])).await?;
        let due = Due::Confirmation(what);
        let reply = self.next_reply(&due).await?;
        self.look(&due, &reply);
        Ok(matches!(reply, Reply::List(_)))
    }

    /// Large values, read slowly.
    async fn large(&mut self) -> Result<(), Over> {
        let mut all = Vec::new();
        for _ in 0..self.world.between(1, 8) {
            let size = self.world.between(20_000, 200_000) as usize;
            let token = format!("{}:{size}", self.token());
            all.push((request(&[b"GET", token.as_bytes()]), Due::Token(token, size, false)));
        }
        self.send(&bytes_of(&all)).await?;
        // Who lets them lie for a second while others wait for the connection is closed for that.
        let longest = Duration::from_millis(if self.world.faults { 2_000 } else { 100 });
        for (_, due) in &all {
            if self.world.chance(300) {
                sleep(self.world.while_up_to(longest)).await;
            }
            self.hear(due).await?;
        }
        Ok(())
    }

    async fn leave_halfway(&mut self) -> Result<(), Over> {
        let mut bytes = Vec::new();
        let kinds = [b"MULTI".as_slice(), b"PING"];
        bytes.extend(request(&[kinds[self.world.between(0, 1) as usize]]));
        for _ in 0..self.world.between(1, 20) {
            bytes.extend(self.one().0);
        }
        let token = self.token();
        bytes.extend(request(&[b"BLPOP", token.as_bytes(), b"0"]));
        let sent = self.world.between(1, u32::try_from(bytes.len()).unwrap_or(1)) as usize;
        self.send(&bytes[..sent]).await?;
        sleep(self.world.while_up_to(Duration::from_secs(5))).await;
        Ok(())
    }

    /// Sends all, and hears all the replies.
    async fn ask(&mut self, all: &[(Vec<u8>, Due)]) -> Result<(), Over> {
        self.send_and_listen(&bytes_of(all)).await?;
        for (_, due) in all {
            self.hear(due).await?;
        }
        Ok(())
    }

    /// Sends, and takes what comes meanwhile: while both directions are full nobody may wait for the other.
    async fn send_and_listen(&mut self, bytes: &[u8]) -> Result<(), Over> {
        let Self { stream, input, world, .. } = self;
        let (mut reads, mut writes) = stream.split();
        let cut = if world.chance(100) { bytes.len() / 2 } else { 0 };
        let sending = async {
            writes.write_all(&bytes[..cut]).await?;
            if cut > 0 {
                sleep(world.while_up_to(Duration::from_secs(3))).await;
            }
            writes.write_all(&bytes[cut..]).await
        };
        tokio::pin!(sending);
        loop {
            tokio::select! {
                biased;
                sent = &mut sending => return Ok(sent?),
                read = reads.read_buf(input) => if !matches!(read, Ok(1..)) { return Err(Over) },
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Over> {
        Ok(self.stream.write_all(bytes).await?)
    }

    async fn hear(&mut self, due: &Due) -> Result<(), Over> {
        let reply = self.next_reply(due).await?;
        self.look(due, &reply);
        Ok(())
    }

    /// The next reply, to what this is due for.
    async fn next_reply(&mut self, due: &Due) -> Result<Reply, Over> {
        match timeout(self.world.patience(), self.reply()).await {
            Ok(reply) => reply,
            Err(_) => {
                self.world.complain(format!("{} waits for ever for {due:?} having {} bytes", self.name, self.input.len()));
                Err(Over)
            }
        }
    }

    fn look(&self, due: &Due, reply: &Reply) {
        let right = match (due, reply) {
            (Due::Fault(token), Reply::Error(text)) if text.contains(&**token) => true,
            (_, Reply::Error(text)) => {
                self.look_at_error(due, text);
                return;
            }
            (Due::Token(token, size, writes), Reply::Text(text)) => {
                if *writes {
                    self.world.tell(token, true);
                }
                self.world.was_heard(token);
                text.starts_with(token.as_bytes()) && text.len() == token.len().max(*size)
            }
            (Due::Popped(token), Reply::List(list)) => {
                self.world.tell(token, true);
                self.world.was_heard(token);
                list.iter().all(|one| one.text() == Some(token.as_bytes()))
            }
            (Due::Text(expected), Reply::Text(text)) => text == expected.as_bytes(),
            (Due::All(dues), Reply::List(list)) => {
                dues.iter().zip(list).for_each(|(due, reply)| self.look(due, reply));
                dues.len() == list.len()
            }
            // What it watched may have been lost with its connection.
            (Due::All(_), Reply::Nil) => self.world.faults,
            (Due::Confirmation(what), Reply::List(list)) => list.first().and_then(Reply::text) == Some(what.as_bytes()),
            (Due::Number, Reply::Integer(_)) | (Due::Any, _) => true,
            (Due::Token(..) | Due::Popped(_) | Due::Fault(_) | Due::Text(_) | Due::All(_) | Due::Number | Due::Confirmation(_), _) => false,
        };
        if !right {
            self.world.complain(format!("{} was owed {due:?} and got {reply:?}", self.name));
        }
    }

    /// Something went wrong: not without a reason, and what is said not to have run must not have.
    fn look_at_error(&self, due: &Due, text: &str) {
        if !self.world.faults {
            self.world.complain(format!("{} was owed {due:?} and told {text}", self.name));
        }
        if text.contains(" is not an integer") {
            self.world.complain(format!("{} was owed {due:?} and got somebody else's {text}", self.name));
        }
        let known = ["POOLEXHAUSTED", "LOADING", "EXECABORT"].iter().any(|word| text.starts_with(word))
            || text.contains("nothing of it was executed");
        if known {
            self.has_not_run(due);
        }
    }

    fn has_not_run(&self, due: &Due) {
        match due {
            Due::Token(token, _, true) | Due::Popped(token) => self.world.tell(token, false),
            Due::All(dues) => dues.iter().for_each(|due| self.has_not_run(due)),
            Due::Token(..) | Due::Fault(_) | Due::Text(_) | Due::Number | Due::Confirmation(_) | Due::Any => {}
        }
    }

    /// The next reply; messages are looked at on the way.
    async fn reply(&mut self) -> Result<Reply, Over> {
        loop {
            let pushed = self.input.first() == Some(&b'>');
            match reply::decode(self.version, &self.input) {
                Ok(Some((reply, used))) => {
                    self.input.drain(..used);
                    if !pushed || !self.is_message(&reply) {
                        return Ok(reply);
                    }
                }
                Ok(None) => {
                    if self.stream.read_buf(&mut self.input).await? == 0 {
                        return Err(Over);
                    }
                    self.world.look_at_memory(&self.worker);
                }
                Err(error) => {
                    self.world.complain(format!("{} got what is no reply: {error:?}", self.name));
                    return Err(Over);
                }
            }
        }
    }

    /// Whether this is a message and answers nothing. Messages are of its own channel, and in order.
    fn is_message(&mut self, message: &Reply) -> bool {
        let words: Vec<String> =
            message.list().unwrap_or_default().iter().filter_map(|word| Some(String::from_utf8_lossy(word.text()?).into_owned())).collect();
        if words.first().map(String::as_str) != Some("message") {
            return false;
        }
        let number = words[2].strip_prefix(&format!("{}-", self.name)).and_then(|number| number.parse().ok()).unwrap_or(0);
        if number <= self.heard || words[1] != format!("channel of {}", self.name) {
            self.world.complain(format!("{} heard {words:?} after {}", self.name, self.heard));
        }
        self.heard = number;
        true
    }
}
