//! Clients: some do what drivers do, some leave in the middle of a word. Each row they get must be theirs, in order, and nothing may take longer
//! than the timeouts allow.

use std::rc::Rc;
use std::time::Duration;

use sidepool::clock;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::dice::Dice;
use crate::server::{CANCELLED, FAILS};
use crate::wire;
use crate::world::{Mode, World};

/// Longer than a wait for a connection and a query may take together, by the world's timeouts.
const PATIENCE: Duration = Duration::from_secs(90);

/// A connected client.
struct Client {
    world: Rc<World>,
    stream: UnixStream,
    dice: Dice,
    /// Process and secret, for a cancel.
    key: Vec<u8>,
    name: String,
    words: u64,
    prepared: u64,
    /// It has sent a cancel: that may come late, and hit what it asks next.
    cancels: bool,
}

/// Lives a client's life: some visits, each with some deeds.
pub(crate) async fn live(world: Rc<World>, number: usize, mut dice: Dice) {
    for visit in 0..=dice.roll(3) {
        tokio::time::sleep(dice.up_to(5_000)).await;
        let stream = world.connect();
        let name = format!("c{number}v{visit}");
        let client =
            Client { world: Rc::clone(&world), stream, dice: dice.split(), key: Vec::new(), name, words: 0, prepared: 0, cancels: false };
        // None: it was closed, or went.
        let _ = client.visit().await;
    }
}

impl Client {
    async fn visit(mut self) -> Option<()> {
        self.stream_out(&wire::startup("app", "app")).await?;
        self.log_in().await?;
        for _ in 0..=self.dice.roll(8) {
            match self.dice.roll(20) {
                0..8 => self.ask_one().await?,
                8..11 if self.world.mode != Mode::Statement => self.transact().await?,
                11..14 => self.batch().await?,
                14..16 => self.pipeline().await?,
                16 => self.cancel().await?,
                17 => tokio::time::sleep(self.dice.up_to(400_000)).await,
                18 => return self.vanish().await,
                _idle => tokio::time::sleep(self.dice.up_to(3_000)).await,
            }
        }
        self.stream_out(&wire::message(b'X', &[])).await
    }

    /// A word that nobody else says, and nobody twice.
    fn word(&mut self) -> String {
        self.words += 1;
        format!("{}w{}", self.name, self.words)
    }

    async fn stream_out(&mut self, bytes: &[u8]) -> Option<()> {
        wire::send(&mut self.stream, bytes, &mut self.dice).await.then_some(())
    }

    async fn log_in(&mut self) -> Option<()> {
        loop {
            let (tag, body) = self.hear().await?;
            match tag {
                b'K' => self.key = body,
                b'E' => {
                    assert!(!self.world.calm, "nobody is refused: {}", String::from_utf8_lossy(&body));
                    return None;
                }
                b'Z' => return Some(()),
                _ => {}
            }
        }
    }

    async fn hear(&mut self) -> Option<(u8, Vec<u8>)> {
        let heard = timeout(PATIENCE, wire::next(&mut self.stream)).await;
        heard.unwrap_or_else(|_| panic!("{} hangs", self.name))
    }

    async fn ask_one(&mut self) -> Option<()> {
        let word = self.word();
        self.stream_out(&wire::query(&format!("SELECT '{word}'"))).await?;
        self.expect(&[word]).await
    }

    async fn transact(&mut self) -> Option<()> {
        self.command("BEGIN").await?;
        for _ in 0..self.dice.roll(4) {
            if self.dice.chance(100) {
                self.command(FAILS).await?;
            } else {
                self.ask_one().await?;
            }
            // Sometimes longer than a transaction may be idle.
            let longest = if self.world.calm || self.dice.chance(950) { 2_000 } else { 40_000 };
            tokio::time::sleep(self.dice.up_to(longest)).await;
        }
        let end = if self.dice.chance(700) { "COMMIT" } else { "ROLLBACK" };
        self.command(end).await
    }

    async fn command(&mut self, sql: &str) -> Option<()> {
        self.stream_out(&wire::query(sql)).await?;
        self.expect(&[]).await
    }

    /// Prepared statements under names that all clients use, and one without a name, in one batch.
    async fn batch(&mut self) -> Option<()> {
        let mut bytes = Vec::new();
        let mut words = Vec::new();
        let named = self.dice.chance(600);
        let statement = if named { "shared" } else { "" };
        if !named || self.prepared == 0 {
            bytes.extend(wire::parse(statement, "SELECT $1::text"));
            self.prepared += u64::from(named);
        }
        for _ in 0..=self.dice.roll(3) {
            let word = self.word();
            bytes.extend(wire::bind(statement, &word));
            bytes.extend(wire::execute());
            words.push(word);
        }
        if named && self.dice.chance(200) {
            bytes.extend(wire::close(statement));
            self.prepared = 0;
        }
        bytes.extend(wire::message(b'S', &[]));
        self.stream_out(&bytes).await?;
        let failed = !self.expect_whole(&words).await?;
        if failed && named {
            // Whether the name is taken now depends on where it failed: start anew.
            self.stream_out(&[wire::close(statement), wire::message(b'S', &[])].concat()).await?;
            self.prepared = 0;
            self.expect(&[]).await?;
        }
        Some(())
    }

    /// Several queries at once.
    async fn pipeline(&mut self) -> Option<()> {
        let words: Vec<String> = (0..=self.dice.roll(4)).map(|_| self.word()).collect();
        let bytes: Vec<u8> = words.iter().flat_map(|word| wire::query(&format!("SELECT '{word}'"))).collect();
        self.stream_out(&bytes).await?;
        for word in words {
            self.expect(&[word]).await?;
        }
        Some(())
    }

    /// A query that is cancelled from another connection, perhaps too late.
    async fn cancel(&mut self) -> Option<()> {
        let word = self.word();
        self.stream_out(&wire::query(&format!("SELECT '{word}'"))).await?;
        tokio::time::sleep(self.dice.up_to(2_000)).await;
        let mut other = self.world.connect();
        let packet = [16_i32.to_be_bytes().to_vec(), wire::CANCEL.to_be_bytes().to_vec(), self.key.clone()].concat();
        let _ = wire::send(&mut other, &packet, &mut self.dice).await;
        self.cancels = true;
        self.expect(&[word]).await
    }

    /// Goes in the middle of something.
    async fn vanish(mut self) -> Option<()> {
        let word = self.word();
        let bytes = match self.dice.roll(3) {
            0 => [wire::parse("", "SELECT $1::text"), wire::bind("", &word), wire::execute()].concat(),
            1 => [wire::query("BEGIN"), wire::query(&format!("SELECT '{word}'"))].concat(),
            _ => wire::query(&format!("SELECT '{word}'")),
        };
        let size = self.dice.index(bytes.len() + 1);
        self.stream_out(&bytes[..size]).await?;
        tokio::time::sleep(self.dice.up_to(500)).await;
        None
    }

    async fn expect(&mut self, words: &[String]) -> Option<()> {
        self.expect_whole(words).await.map(drop)
    }

    /// What is heard up to ReadyForQuery: these words in order, or a beginning of them and an error. Some(false): an error. None: closed.
    async fn expect_whole(&mut self, words: &[String]) -> Option<bool> {
        let begun = clock::now();
        let (mut rows, mut error) = (0, None);
        loop {
            let heard = self.hear().await;
            assert!(clock::now() - begun < PATIENCE, "{} waits too long", self.name);
            let Some((tag, body)) = heard else {
                assert!(!self.world.calm || error.is_some(), "{} is closed without a word", self.name);
                return None;
            };
            match tag {
                b'D' => {
                    let got = wire::value(&body);
                    assert_eq!(words.get(rows), Some(&got), "{} hears somebody else's word", self.name);
                    assert!(error.is_none(), "{} gets a row behind an error", self.name);
                    rows += 1;
                }
                b'E' => {
                    let told = wire::texts(&body).join(" ");
                    assert!(self.cancels || !told.contains(CANCELLED), "{} is hit by somebody else's cancel: {told}", self.name);
                    error = Some(told);
                }
                b'Z' => {
                    assert!(error.is_some() || rows == words.len(), "{} got {rows} of {} rows", self.name, words.len());
                    return Some(error.is_none());
                }
                _ => {}
            }
        }
    }
}
