//! A client that does what chance tells it: queries, transactions, batches, cancels, long pauses, and leaving in the middle of anything.

use std::rc::Rc;
use std::time::Duration;

use sidepool_protocol::postgres::encode;
use sidepool_protocol::postgres::frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::World;
use super::server::CANCELLED;
use crate::session::postgres::serve;
use crate::transport::stream::Stream;
use crate::worker::Worker;

/// The session is over for this client.
struct Over;

impl From<std::io::Error> for Over {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

/// What was answered up to a ReadyForQuery.
#[derive(Default)]
struct Answer {
    rows: Vec<String>,
    failed: bool,
    status: u8,
}

struct Client {
    number: u32,
    world: Rc<World>,
    worker: Rc<Worker>,
    stream: UnixStream,
    input: Vec<u8>,
    key: Vec<u8>,
    /// How many tokens have been used.
    tokens: u32,
    /// What was prepared, and its token.
    prepared: Vec<(String, String)>,
    /// It has asked for a cancel of what it waits for.
    cancels: bool,
}

/// Lives the life of a client, and of those that come after it under the same number.
pub(super) async fn live(number: u32, world: Rc<World>, worker: Rc<Worker>) {
    let mut tokens = 0;
    for _ in 0..world.between(1, 3) {
        let (stream, session) = connect(&worker);
        let (world, worker) = (Rc::clone(&world), Rc::clone(&worker));
        let mut client =
            Client { number, world, worker, stream, input: Vec::new(), key: Vec::new(), tokens, prepared: Vec::new(), cancels: false };
        let over = client.run().await.is_err();
        tokens = client.tokens;
        let world = Rc::clone(&client.world);
        if over && !world.faults {
            world.complain(format!("c{number} lost its connection"));
        }
        drop(client);
        world.see_end(&format!("c{number}"), session).await;
    }
}

fn connect(worker: &Rc<Worker>) -> (UnixStream, JoinHandle<()>) {
    let (client, ours) = UnixStream::pair().unwrap();
    (client, tokio::task::spawn_local(serve(Stream::Unix(ours), Rc::clone(worker))))
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend_from_slice(&u32::try_from(body.len() + 4).unwrap_or_default().to_be_bytes());
    out.extend_from_slice(body);
    out
}

fn query(sql: &str) -> Vec<u8> {
    message(b'Q', format!("{sql}\0").as_bytes())
}

fn execute(statement: &str) -> Vec<u8> {
    [message(b'B', format!("\0{statement}\0\0\0\0\0\0\0").as_bytes()), message(b'E', b"\0\0\0\0\0")].concat()
}

fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{sql}\0\0\0").as_bytes())
}

impl Client {
    async fn run(&mut self) -> Result<(), Over> {
        self.log_in().await?;
        for _ in 0..self.world.between(1, 12) {
            if self.world.chance(400) {
                sleep(self.world.while_up_to(Duration::from_secs(300))).await;
            }
            match self.world.between(0, 9) {
                0..=2 => self.one_query().await?,
                3 | 4 => self.transaction().await?,
                5 => self.pipeline().await?,
                6 => self.batch().await?,
                7 => self.prepared().await?,
                8 => self.cancelled().await?,
                _ if self.world.chance(300) => return self.leave_halfway().await,
                _ => {}
            }
        }
        if self.world.chance(500) {
            self.send(&message(b'X', b"")).await?;
        }
        Ok(())
    }

    async fn log_in(&mut self) -> Result<(), Over> {
        let parameters = b"\0\x03\0\0user\0bob\0database\0shop\0\0";
        let mut startup = u32::try_from(parameters.len() + 4).unwrap_or_default().to_be_bytes().to_vec();
        startup.extend_from_slice(parameters);
        self.send(&startup).await?;
        self.answer().await.map(drop)
    }

    fn token(&mut self) -> String {
        self.tokens += 1;
        format!("c{}-{}", self.number, self.tokens)
    }

    async fn one_query(&mut self) -> Result<(), Over> {
        let token = self.token();
        let fails = self.world.chance(100);
        let sql = if fails { format!("FAIL '{token}'") } else { format!("SELECT '{token}'") };
        self.send(&query(&sql)).await?;
        let answer = self.answer().await?;
        self.expect(&answer, if fails { &[] } else { std::slice::from_ref(&token) }, fails);
        Ok(())
    }

    async fn transaction(&mut self) -> Result<(), Over> {
        let begin = self.token();
        self.send(&query(&format!("BEGIN /* '{begin}' */"))).await?;
        if self.answer().await?.failed {
            return Ok(());
        }
        for _ in 0..self.world.between(0, 4) {
            if self.world.chance(200) {
                sleep(self.world.while_up_to(Duration::from_secs(60))).await;
            }
            let token = self.token();
            self.send(&query(&format!("SELECT '{token}'"))).await?;
            let answer = self.answer().await?;
            self.expect(&answer, &[token], false);
            if answer.failed {
                break;
            }
            if answer.status != b'T' {
                self.world.complain(format!("c{} lost its transaction and was not told", self.number));
            }
        }
        let end = if self.world.chance(700) { "COMMIT" } else { "ROLLBACK" };
        self.send(&query(end)).await?;
        self.answer().await?;
        Ok(())
    }

    /// Several queries at once.
    async fn pipeline(&mut self) -> Result<(), Over> {
        let tokens: Vec<String> = (0..self.world.between(2, 8)).map(|_| self.token()).collect();
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| query(&format!("SELECT '{token}'"))).collect();
        self.send(&bytes).await?;
        for token in tokens {
            let answer = self.answer().await?;
            self.expect(&answer, &[token], false);
        }
        Ok(())
    }

    /// One batch of the extended protocol.
    async fn batch(&mut self) -> Result<(), Over> {
        let tokens: Vec<String> = (0..self.world.between(1, 5)).map(|_| self.token()).collect();
        let mut bytes: Vec<u8> = tokens.iter().flat_map(|token| [parse("", &format!("SELECT '{token}'")), execute("")].concat()).collect();
        bytes.extend(message(b'S', b""));
        self.send(&bytes).await?;
        let answer = self.answer().await?;
        self.expect(&answer, &tokens, false);
        Ok(())
    }

    /// A statement that is prepared once and run whenever.
    async fn prepared(&mut self) -> Result<(), Over> {
        if self.prepared.is_empty() || self.world.chance(300) {
            let token = self.token();
            let name = format!("s{}", self.tokens);
            self.send(&[parse(&name, &format!("SELECT '{token}'")), message(b'S', b"")].concat()).await?;
            if self.answer().await?.failed {
                return Ok(());
            }
            self.prepared.push((name, token));
        }
        let last = u32::try_from(self.prepared.len()).unwrap_or(1) - 1;
        let (name, token) = self.prepared[self.world.between(0, last) as usize].clone();
        self.send(&[execute(&name), message(b'S', b"")].concat()).await?;
        let answer = self.answer().await?;
        self.expect(&answer, &[token], false);
        Ok(())
    }

    /// A query that somebody asks to have cancelled.
    async fn cancelled(&mut self) -> Result<(), Over> {
        let token = self.token();
        self.send(&query(&format!("SELECT '{token}'"))).await?;
        sleep(self.world.while_up_to(Duration::from_secs(20))).await;
        let (mut other, session) = connect(&self.worker);
        let mut request = Vec::new();
        encode::cancel_request(i32::from_be_bytes(self.key[..4].try_into().unwrap_or_default()), &self.key[4..], &mut request);
        let _ = other.write_all(&request).await;
        let _ = timeout(self.world.patience(), other.read(&mut [0])).await;
        drop(other);
        if timeout(self.world.patience(), session).await.is_err() {
            self.world.complain(format!("a cancel of c{} has no end", self.number));
        }
        self.cancels = true;
        let answer = self.answer().await;
        // It has been delivered, so that it hits nothing later.
        self.cancels = false;
        let answer = answer?;
        if !answer.failed {
            self.expect(&answer, &[token], false);
        }
        Ok(())
    }

    async fn leave_halfway(&mut self) -> Result<(), Over> {
        let bytes = [query(&format!("BEGIN /* '{}' */", self.token())), query(&format!("SELECT '{}'", self.token()))].concat();
        let sent = self.world.between(1, u32::try_from(bytes.len()).unwrap_or(1)) as usize;
        self.send(&bytes[..sent]).await?;
        sleep(self.world.while_up_to(Duration::from_secs(5))).await;
        Ok(())
    }

    /// Sends, in pieces now and then.
    async fn send(&mut self, bytes: &[u8]) -> Result<(), Over> {
        let cut = if self.world.chance(100) { bytes.len() / 2 } else { 0 };
        self.stream.write_all(&bytes[..cut]).await?;
        if cut > 0 {
            sleep(self.world.while_up_to(Duration::from_secs(3))).await;
        }
        Ok(self.stream.write_all(&bytes[cut..]).await?)
    }

    fn expect(&self, answer: &Answer, tokens: &[String], fails: bool) {
        let right = if answer.failed { tokens.starts_with(&answer.rows) } else { answer.rows == tokens };
        if !right {
            self.world.complain(format!("c{} asked for {tokens:?} and got {:?}", self.number, answer.rows));
        }
        if answer.failed != fails && (fails || !self.world.faults) {
            self.world.complain(format!("{tokens:?} failed: {}", answer.failed));
        }
    }

    /// All up to the next ReadyForQuery.
    async fn answer(&mut self) -> Result<Answer, Over> {
        let mut answer = Answer::default();
        let read = timeout(self.world.patience(), async {
            loop {
                let (tag, body) = self.read().await?;
                match tag {
                    b'D' => answer.rows.push(String::from_utf8_lossy(body.get(6..).unwrap_or_default()).into_owned()),
                    b'E' => {
                        answer.failed = true;
                        self.look_for_others(&body);
                    }
                    b'K' => self.key = body,
                    b'Z' => {
                        answer.status = body.first().copied().unwrap_or_default();
                        return Ok(());
                    }
                    _ => {}
                }
            }
        })
        .await;
        match read {
            Ok(read) => read.map(|()| answer),
            Err(_) => {
                self.world.complain(format!("c{} waits for ever", self.number));
                Err(Over)
            }
        }
    }

    /// An error that names somebody else's token is somebody else's, and so is a cancel that was not asked for.
    fn look_for_others(&self, body: &[u8]) {
        let text = String::from_utf8_lossy(body).into_owned();
        if text.contains(CANCELLED) && !self.cancels && !self.world.cancels_the_overdue.get() {
            self.world.complain(format!("c{} was hit by somebody else's cancel", self.number));
        }
        let own = format!("c{}-", self.number);
        if (0..10).any(|other| text.contains(&format!("Mc{other}-"))) && !text.contains(&own) {
            self.world.complain(format!("c{} was told {text:?}", self.number));
        }
    }

    async fn read(&mut self) -> Result<(u8, Vec<u8>), Over> {
        loop {
            if let Some(head) = frame::head(&self.input).map_err(|_| Over)?
                && self.input.len() >= head.message_bytes()
            {
                let message: Vec<u8> = self.input.drain(..head.message_bytes()).collect();
                return Ok((head.tag, message[frame::HEAD_BYTES..].to_vec()));
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(Over);
            }
        }
    }
}
