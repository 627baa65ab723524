//! A client whose connections upstream are cut all the time. It keeps every world that is possible after what it was told: a command whose outcome
//! is unknown may have been executed, may be executed in a moment, or never. A reply that is true in no world is a lie; so is a command that
//! was executed twice, and what is called not executed and was.

use std::collections::BTreeSet;

use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{Reply, Wire};

use super::script::Random;

const BATCHES: usize = 14;

/// What one client's keys hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    number: i64,
    text: String,
    list: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Op {
    Increment,
    Append(String),
    Text,
    Push(String),
    Pop,
    BlockingPop,
    Length,
    /// All of them at once.
    Transaction(Vec<Op>),
}

/// One of the worlds that are possible.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    state: State,
    /// What a dying connection may still do.
    pending: Vec<Op>,
}

impl State {
    fn apply(&mut self, op: &Op) -> Reply {
        let popped = |list: &mut Vec<String>| if list.is_empty() { None } else { Some(bulk(&list.remove(0))) };
        match op {
            Op::Increment => {
                self.number += 1;
                Reply::Integer(self.number)
            }
            Op::Append(more) => {
                self.text.push_str(more);
                Reply::Integer(self.text.len() as i64)
            }
            Op::Text if self.text.is_empty() => Reply::Null,
            Op::Text => bulk(&self.text),
            Op::Push(value) => {
                self.list.push(value.clone());
                Reply::Integer(self.list.len() as i64)
            }
            Op::Pop => popped(&mut self.list).unwrap_or(Reply::Null),
            Op::BlockingPop => popped(&mut self.list).map_or(Reply::Null, |value| Reply::Array(vec![bulk("list"), value])),
            Op::Length => Reply::Integer(self.list.len() as i64),
            Op::Transaction(ops) => Reply::Array(ops.iter().map(|op| self.apply(op)).collect()),
        }
    }
}

fn bulk(text: &str) -> Reply {
    Reply::Bulk(text.as_bytes().to_vec())
}

/// Without the name of the list, which is the client's own.
fn plain(reply: &Reply) -> Reply {
    match reply {
        Reply::Array(pair) if pair.len() == 2 && pair[0].text().ends_with(":l") => Reply::Array(vec![bulk("list"), pair[1].clone()]),
        Reply::Array(all) => Reply::Array(all.iter().map(plain).collect()),
        other => other.clone(),
    }
}

/// What a reply says about whether its command was executed.
enum Said {
    /// This came of it.
    Done(Reply),
    Unknown,
    NotDone,
}

fn said(reply: Reply) -> Said {
    match &reply {
        Reply::Error(text) if text.starts_with("UPSTREAM") && text.contains("outcome of this command is unknown") => Said::Unknown,
        Reply::Error(text) if ["UPSTREAM", "EXECABORT", "POOLEXHAUSTED"].iter().any(|word| text.starts_with(word)) => Said::NotDone,
        _ => Said::Done(plain(&reply)),
    }
}

struct Life {
    random: Random,
    prefix: String,
    port: u16,
    wire: Wire,
    direct: Wire,
    worlds: BTreeSet<World>,
    unknown: u64,
    letters: u64,
    history: Vec<String>,
}

/// Lives through it; says how many commands had an unknown outcome.
pub(crate) async fn live(seed: u64, client: u64, proxy: u16, server: u16) -> u64 {
    let mut life = Life {
        random: Random::new(seed * 977 + client),
        prefix: format!("w{seed}c{client}"),
        port: proxy,
        wire: Wire::connect(proxy).await,
        direct: Wire::connect(server).await,
        worlds: BTreeSet::from([World::default()]),
        unknown: 0,
        letters: 0,
        history: Vec::new(),
    };
    for _ in 0..BATCHES {
        match life.random.below(10) {
            0..5 => life.pipeline().await,
            5..7 => life.closed_transaction().await,
            7..9 => life.watched_transaction().await,
            _ => life.slow_transaction().await,
        }
        life.settle().await;
    }
    life.unknown
}

impl Life {
    fn op(&mut self) -> Op {
        self.letters += 1;
        // Each of its own, so that one that is there twice shows.
        let letter = format!("{},", self.letters);
        match self.random.below(8) {
            0 | 1 => Op::Increment,
            2 => Op::Append(letter),
            3 => Op::Text,
            4 | 5 => Op::Push(letter),
            6 => Op::Pop,
            _ => Op::Length,
        }
    }

    fn bytes(&self, op: &Op) -> Vec<u8> {
        let key = |name: &str| format!("{}:{name}", self.prefix);
        match op {
            Op::Increment => request(&["INCR", &key("n")]),
            Op::Append(more) => request(&["APPEND", &key("t"), more]),
            Op::Text => request(&["GET", &key("t")]),
            Op::Push(value) => request(&["RPUSH", &key("l"), value]),
            Op::Pop => request(&["LPOP", &key("l")]),
            Op::BlockingPop => request(&["BLPOP", &key("l"), "0.05"]),
            Op::Length => request(&["LLEN", &key("l")]),
            Op::Transaction(ops) => {
                let inside: Vec<u8> = ops.iter().flat_map(|op| self.bytes(op)).collect();
                [request(&["MULTI"]), inside, request(&["EXEC"])].concat()
            }
        }
    }

    async fn pipeline(&mut self) {
        let mut ops: Vec<Op> = (0..=self.random.below(6)).map(|_| self.op()).collect();
        if self.random.below(4) == 0 {
            ops.push(Op::BlockingPop);
        }
        let bytes: Vec<u8> = ops.iter().flat_map(|op| self.bytes(op)).collect();
        self.send(&bytes).await;
        for (place, op) in ops.iter().enumerate() {
            let Some(reply) = self.wire.read().await else { return self.gone(&ops[place..]).await };
            self.hear(op, reply);
        }
    }

    /// All of it in one write, with nothing watched.
    async fn closed_transaction(&mut self) {
        let before: Vec<Op> = (0..self.random.below(2)).map(|_| self.op()).collect();
        let transaction = Op::Transaction((0..=self.random.below(3)).map(|_| self.op()).collect());
        let all: Vec<Op> = before.into_iter().chain([transaction]).collect();
        let bytes: Vec<u8> = all.iter().flat_map(|op| self.bytes(op)).collect();
        self.send(&bytes).await;
        for (place, op) in all.iter().enumerate() {
            let queued = if let Op::Transaction(ops) = op { ops.len() + 1 } else { 0 };
            for _ in 0..queued {
                let Some(reply) = self.wire.read().await else { return self.gone(&all[place..]).await };
                assert!(matches!(reply.text().as_str(), "OK" | "QUEUED") || matches!(reply, Reply::Error(_)), "{reply:?}");
            }
            let Some(reply) = self.wire.read().await else { return self.gone(&all[place..]).await };
            self.hear(op, reply);
        }
    }

    /// Two of them on a connection of its own, in one write.
    async fn watched_transaction(&mut self) {
        let (early, late) = (self.op(), self.op());
        let first = Op::Transaction(vec![self.op(), self.op()]);
        let second = Op::Transaction(vec![self.op()]);
        let watch = request(&["WATCH", &format!("{}:w", self.prefix)]);
        let bytes = [watch, self.bytes(&early), self.bytes(&first), self.bytes(&second), self.bytes(&late)].concat();
        self.send(&bytes).await;
        let all = [early, first, second, late];
        let Some(_watching) = self.wire.read().await else { return self.gone(&all).await };
        for (place, op) in all.iter().enumerate() {
            let queued = if let Op::Transaction(ops) = op { ops.len() + 1 } else { 0 };
            for _ in 0..queued {
                let Some(reply) = self.wire.read().await else { return self.gone(&all[place..]).await };
                assert!(matches!(reply.text().as_str(), "OK" | "QUEUED") || matches!(reply, Reply::Error(_)), "{reply:?}");
            }
            let Some(reply) = self.wire.read().await else { return self.gone(&all[place..]).await };
            // A WATCH that was lost makes the transaction that relies on it fail as if the key had changed.
            if place == 1 && reply == Reply::Null { self.note(op, &reply) } else { self.hear(op, reply) }
        }
    }

    /// Step by step, each after the reply to the one before; a client that is told of an error gives up.
    async fn slow_transaction(&mut self) {
        let ops: Vec<Op> = (0..=self.random.below(3)).map(|_| self.op()).collect();
        // Something before it that is no part of it, on the same connection.
        let early = self.op();
        let watch = request(&["WATCH", &format!("{}:w", self.prefix)]);
        let bytes = [watch, self.bytes(&early), request(&["MULTI"])].concat();
        self.send(&bytes).await;
        let Some(_watching) = self.wire.read().await else { return self.gone(&[early]).await };
        let Some(reply) = self.wire.read().await else { return self.gone(&[early]).await };
        self.hear(&early, reply);
        let Some(begun) = self.wire.read().await else { return self.gone(&[]).await };
        if matches!(begun, Reply::Error(_)) {
            // Whoever waits for its answer sends nothing more of it.
            return;
        }
        for op in &ops {
            let bytes = self.bytes(op);
            self.send(&bytes).await;
            let Some(reply) = self.wire.read().await else { return self.gone(&[]).await };
            assert!(reply.text() == "QUEUED" || matches!(reply, Reply::Error(_)), "{op:?} was executed outside its transaction: {reply:?}");
        }
        self.send(&request(&["EXEC"])).await;
        let transaction = Op::Transaction(ops);
        let Some(reply) = self.wire.read().await else { return self.gone(&[transaction]).await };
        // A WATCH that was lost makes the transaction that relies on it fail as if the key had changed.
        if reply == Reply::Null { self.note(&transaction, &reply) } else { self.hear(&transaction, reply) }
    }

    async fn send(&mut self, bytes: &[u8]) {
        // Where nobody listens any more, the replies say so.
        let _ = self.wire.try_send(bytes).await;
    }

    fn note(&mut self, op: &Op, reply: &Reply) {
        self.history.push(format!("{op:?} -> {reply:?}"));
    }

    /// A reply: the worlds in which it is not true are not the real one.
    fn hear(&mut self, op: &Op, reply: Reply) {
        self.note(op, &reply);
        match said(reply) {
            Said::NotDone => {}
            Said::Unknown => {
                self.unknown += 1;
                self.may_have(op);
            }
            Said::Done(reply) => {
                self.expand();
                let worlds = std::mem::take(&mut self.worlds);
                for mut world in worlds {
                    if world.state.apply(op) == reply {
                        self.worlds.insert(world);
                    }
                }
                assert!(!self.worlds.is_empty(), "{}: no history makes this true:\n{}", self.prefix, self.history.join("\n"));
            }
        }
    }

    fn may_have(&mut self, op: &Op) {
        let more: Vec<World> = self
            .worlds
            .iter()
            .map(|world| {
                let mut later = world.clone();
                later.pending.push(op.clone());
                later
            })
            .collect();
        self.worlds.extend(more);
    }

    /// What is pending may happen now.
    fn expand(&mut self) {
        let mut new: Vec<World> = self.worlds.iter().filter(|world| !world.pending.is_empty()).cloned().collect();
        while let Some(world) = new.pop() {
            let mut next = world;
            let op = next.pending.remove(0);
            next.state.apply(&op);
            if self.worlds.insert(next.clone()) && !next.pending.is_empty() {
                new.push(next);
            }
        }
    }

    /// The connection was closed, as it may be in the middle of a reply: nothing is known of these.
    async fn gone(&mut self, ops: &[Op]) {
        self.history.push("closed".to_owned());
        for op in ops {
            self.unknown += 1;
            self.may_have(op);
        }
        self.wire = Wire::connect(self.port).await;
    }

    /// Whatever a dying connection does, it has done now; and what is there is what one of the worlds says.
    async fn settle(&mut self) {
        for _ in 0..2 {
            self.direct.command(&["PING"]).await;
        }
        self.expand();
        let states: BTreeSet<World> =
            std::mem::take(&mut self.worlds).into_iter().map(|world| World { state: world.state, pending: Vec::new() }).collect();
        let key = |name: &str| format!("{}:{name}", self.prefix);
        let number = self.direct.command(&["GET", &key("n")]).await.text().parse().unwrap_or(0);
        let text = self.direct.command(&["GET", &key("t")]).await;
        let list = self.direct.command(&["LRANGE", &key("l"), "0", "-1"]).await;
        let text = if text == Reply::Null { String::new() } else { text.text() };
        let real = State { number, text, list: list.elements().iter().map(Reply::text).collect() };
        assert!(
            states.iter().any(|world| world.state == real),
            "{}: {real:?} is not among {states:?} after\n{}",
            self.prefix,
            self.history.join("\n")
        );
        self.worlds = BTreeSet::from([World { state: real, pending: Vec::new() }]);
        self.history.clear();
    }
}
