//! What a random client of a model test does: a seeded script of pipelines. Each client keeps to keys of its own, so that what it is told depends
//! on nobody else.

use sidepool_tests::redis::wire::request;

/// Numbers that follow from a seed.
pub(crate) struct Random(u64);

impl Random {
    /// The numbers of this seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    /// One of these.
    pub(crate) fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }
}

/// Commands that are sent together, before any of their replies is read, and how many replies they have.
pub(crate) struct Batch {
    /// As they are sent.
    pub(crate) bytes: Vec<u8>,
    /// How many replies there are.
    pub(crate) replies: usize,
    /// The commands, to be shown when something is wrong.
    pub(crate) shown: Vec<String>,
}

/// Writes a script.
pub(crate) struct Author {
    random: Random,
    prefix: String,
    batch: Batch,
    /// Whether a transaction is open, as far as is known: what is not allowed in there is not asked for.
    open: bool,
}

impl Author {
    /// The author of the script of client `client` under `seed`.
    pub(crate) fn new(seed: u64, client: u64) -> Self {
        let batch = Batch { bytes: Vec::new(), replies: 0, shown: Vec::new() };
        Self { random: Random::new(seed * 131 + client), prefix: format!("s{seed}c{client}:"), batch, open: false }
    }

    /// The whole script.
    pub(crate) fn script(mut self, batches: usize) -> Vec<Batch> {
        let mut script = Vec::new();
        for _ in 0..batches {
            for _ in 0..=self.random.below(6) {
                self.step();
            }
            script.push(self.take());
        }
        if self.open {
            self.say(&["EXEC"]);
        }
        self.say(&["LRANGE", &self.key("list"), "0", "-1"]);
        script.push(self.take());
        script
    }

    fn take(&mut self) -> Batch {
        std::mem::replace(&mut self.batch, Batch { bytes: Vec::new(), replies: 0, shown: Vec::new() })
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn say(&mut self, words: &[&str]) {
        // Now and then as a person would type it.
        let plain = words.iter().all(|word| !word.is_empty() && word.len() < 100 && word.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        if plain && self.random.below(20) == 0 {
            self.batch.bytes.extend_from_slice(words.join(" ").as_bytes());
            self.batch.bytes.extend_from_slice(b"\r\n");
        } else {
            self.batch.bytes.extend_from_slice(&request(words));
        }
        self.batch.replies += 1;
        let shown = words.join(" ");
        self.batch.shown.push(shown.chars().take(80).collect());
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..45 => self.plain(),
            45..55 => self.transaction(),
            55..61 => self.watch(),
            61..66 => self.open_or_close(),
            66..72 => self.blocking(),
            72..78 if !self.open => self.switch(),
            78..83 if !self.open => self.subscribe(),
            83..88 if !self.open => self.silence(),
            88..92 => self.script_of_the_server(),
            92..94 => self.large(),
            _ => self.wrong(),
        }
    }

    /// What goes down a lane.
    fn plain(&mut self) {
        let (text, list, hash, sorted) = (self.key("text"), self.key("list"), self.key("hash"), self.key("sorted"));
        let number = self.random.below(1000).to_string();
        match self.random.below(16) {
            0 => self.say(&["SET", &text, &number]),
            1 => self.say(&["GET", &text]),
            2 => self.say(&["INCR", &text]),
            3 => self.say(&["APPEND", &text, "1"]),
            4 => self.say(&["RPUSH", &list, &number, "more"]),
            5 => self.say(&["LPOP", &list]),
            6 => self.say(&["LRANGE", &list, "0", "-1"]),
            7 => self.say(&["HSET", &hash, &number, "value", "fixed", &number]),
            8 => self.say(&["HGET", &hash, "fixed"]),
            9 => self.say(&["ZADD", &sorted, &number, &number, "1.5", "one"]),
            10 => self.say(&["ZRANGE", &sorted, "0", "3", "WITHSCORES"]),
            11 => self.say(&["MGET", &text, "absent", &list]),
            12 => self.say(&["ECHO", &number]),
            13 => self.say(&["SORT", &list, "ALPHA"]),
            14 => self.say(&["DEL", &text, &hash]),
            _ => self.say(&["OBJECT", "ENCODING", &sorted]),
        }
    }

    /// A transaction that is closed in the pipeline that begins it.
    fn transaction(&mut self) {
        if self.open {
            return self.plain();
        }
        self.say(&["MULTI"]);
        for _ in 0..self.random.below(4) {
            match self.random.below(8) {
                0 => self.say(&["GET"]),
                1 => self.say(&["SELECT", "0"]),
                _ => self.plain(),
            }
        }
        let end = *self.random.of(&["EXEC", "EXEC", "EXEC", "DISCARD"]);
        self.say(&[end]);
    }

    fn watch(&mut self) {
        let key = self.key("text");
        if self.open {
            return self.say(&["GET", &key]);
        }
        self.say(&["WATCH", &key]);
        if self.random.below(3) == 0 {
            self.say(&["APPEND", &key, "x"]);
        }
        if self.random.below(4) == 0 {
            return self.say(&["UNWATCH"]);
        }
        self.say(&["MULTI"]);
        self.say(&["SET", &key, "2"]);
        self.say(&["EXEC"]);
    }

    /// A transaction that stays open over several pipelines, or is closed.
    fn open_or_close(&mut self) {
        let word = if self.open { *self.random.of(&["EXEC", "DISCARD"]) } else { "MULTI" };
        self.say(&[word]);
        self.open = !self.open;
    }

    fn blocking(&mut self) {
        let (list, stream) = (self.key("list"), self.key("stream"));
        match self.random.below(5) {
            0 => {
                self.say(&["RPUSH", &list, "pushed"]);
                self.say(&["BLPOP", &list, "0"]);
            }
            1 => self.say(&["BLPOP", &self.key("empty"), "0.01"]),
            2 => {
                self.say(&["XADD", &stream, "1-1", "f", "v"]);
                self.say(&["XREAD", "BLOCK", "5", "STREAMS", &stream, "$"]);
                self.say(&["DEL", &stream]);
            }
            3 => self.say(&["XREAD", "COUNT", "1", "STREAMS", &stream, "0"]),
            _ => self.say(&["WAIT", "0", "0"]),
        }
    }

    /// Another database, protocol version or user.
    fn switch(&mut self) {
        match self.random.below(6) {
            0 | 1 => {
                let database = self.random.below(4).to_string();
                self.say(&["SELECT", &database]);
            }
            2 => {
                let version = *self.random.of(&["2", "3"]);
                self.say(&["HELLO", version]);
            }
            3 => self.say(&["AUTH", "other", "secret"]),
            4 => {
                self.say(&["CLIENT", "SETNAME", "somebody"]);
                self.say(&["CLIENT", "GETNAME"]);
            }
            _ => self.say(&["RESET"]),
        }
    }

    /// Joins and leaves a channel at once: in RESP2 little else is possible in between.
    fn subscribe(&mut self) {
        let channel = self.key("channel");
        self.say(&["SUBSCRIBE", &channel]);
        self.say(&["PING", "there"]);
        self.say(&["UNSUBSCRIBE", &channel]);
    }

    /// Commands without replies.
    fn silence(&mut self) {
        let key = self.key("text");
        if self.random.below(2) == 0 {
            self.say(&["CLIENT", "REPLY", "SKIP"]);
            self.say(&["SET", &key, "5"]);
            self.batch.replies -= 2;
        } else {
            self.say(&["CLIENT", "REPLY", "OFF"]);
            self.say(&["INCR", &key]);
            self.say(&["NOSUCH"]);
            self.batch.replies -= 3;
            self.say(&["CLIENT", "REPLY", "ON"]);
        }
    }

    fn script_of_the_server(&mut self) {
        let list = self.key("list");
        match self.random.below(3) {
            0 => self.say(&["EVAL", "return redis.call('LLEN', KEYS[1])", "1", &list]),
            1 => self.say(&["EVAL", "return {1, {2, 'three'}, redis.error_reply('MY error')}", "0"]),
            _ => {
                self.say(&["SCRIPT", "LOAD", "return ARGV[1]"]);
                self.say(&["EVALSHA", "098e0f0d1448c0a81dafe820f66d460eb09263da", "0", "argument"]);
            }
        }
    }

    /// More than is gathered before it is sent.
    fn large(&mut self) {
        let (key, value) = (self.key("text"), "v".repeat(70_000 + self.random.below(100_000) as usize));
        self.say(&["SET", &key, &value]);
        self.say(&["STRLEN", &key]);
        self.say(&["SET", &key, "0"]);
    }

    fn wrong(&mut self) {
        match self.random.below(5) {
            0 => self.say(&["NOSUCH", "argument"]),
            1 => self.say(&["GET"]),
            2 => self.say(&["LPUSH", &self.key("text"), "x"]),
            3 if !self.open => self.say(&["EXEC"]),
            4 if !self.open => self.say(&["SELECT", "99"]),
            _ => self.say(&["INCR", &self.key("hash")]),
        }
    }
}
