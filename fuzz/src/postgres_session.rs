//! Bytes as a conversation over one PostgreSQL connection, cut anywhere: messages of the client, and either an honest server or one that sends
//! anything. Whatever comes, both sides get whole messages, none inside another; and with an honest server nothing is ever out of step, every
//! statement that is called by our name is there, and what is remembered of the server is what it knows.

use std::collections::BTreeMap;

use sidepool::session::postgres::inbound::{Body, Inbound, Rewriting, Rules, Stop};
use sidepool::session::postgres::outbound::{News, Notifications, Outbound};
use sidepool::session::postgres::prepared::{ClientStatements, StatementTable};
use sidepool::session::postgres::schema_clock::SchemaClock;
use sidepool::upstream::postgres::link::Link;
use sidepool::worker::WorkerId;
use sidepool_protocol::postgres::frame::{self, HEAD_BYTES};
use sidepool_protocol::postgres::parameters::ParameterSet;
use sidepool_protocol::postgres::splice::Splice;
use sidepool_protocol::postgres::sql::{self, Verb};

const RULES: Rules = Rules { max_packet: u32::MAX, simple_queries: true };
const SQL: [&str; 10] = [
    "select 1\0",
    "PREPARE a AS SELECT 1\0",
    "EXECUTE a\0",
    "DEALLOCATE a\0",
    "PREPARE b AS SELECT 2; EXECUTE a; DEALLOCATE b\0",
    "EXPLAIN EXECUTE b\0",
    "EXECUTE b('\\'; EXECUTE a')\0",
    "; -- c\n DEALLOCATE b; PREPARE a AS SELECT 3\0",
    "EXECUTE a; DISCARD ALL\0",
    "DEALLOCATE ALL; PREPARE a AS SELECT 4\0",
];
/// What comes through Parse and names another statement.
const REFERRING: [&str; 8] = [
    "PREPARE a AS SELECT 1\0",
    "EXECUTE a\0",
    "DEALLOCATE a\0",
    "PREPARE b AS SELECT 2\0",
    "EXPLAIN EXECUTE b\0",
    "DEALLOCATE b\0",
    "DEALLOCATE ALL\0",
    "CREATE TABLE t AS EXECUTE a\0",
];
const NAMES: [&str; 4] = ["", "a", "b", "longer"];

/// Runs the target.
pub fn run(data: &[u8]) {
    let Some((mode, steps)) = data.split_first() else { return };
    let mut talk = Talk::new(mode & 1 == 1, usize::from(mode >> 1 & 3));
    for step in steps.chunks_exact(3) {
        if talk.step(step[0], step[1], step[2]).is_none() {
            return;
        }
    }
    let _ = talk.finish();
}

struct Talk {
    honest: Option<Server>,
    capacity: usize,
    table: StatementTable,
    state: ParameterSet,
    client: Option<Box<ClientStatements>>,
    body: Body,
    link: Link,
    /// Sent by the client, and by the server, and not yet read.
    from_client: Vec<u8>,
    from_server: Vec<u8>,
    pending: Vec<u8>,
    by_client: Walker,
    to_server: Walker,
    to_client: Walker,
    asked: u64,
    ready: u64,
}

impl Talk {
    fn new(honest: bool, capacity: usize) -> Self {
        Self {
            honest: honest.then(Server::default),
            capacity,
            table: StatementTable::new(WorkerId(0), SchemaClock::default()),
            state: ParameterSet::new(),
            client: None,
            body: Body::default(),
            link: Link::default(),
            from_client: Vec::new(),
            from_server: Vec::new(),
            pending: Vec::new(),
            by_client: Walker::default(),
            to_server: Walker::default(),
            to_client: Walker::default(),
            asked: 0,
            ready: 0,
        }
    }

    /// One message more on one of the wires, and a part of that wire is read. `None`: the session has ended.
    fn step(&mut self, what: u8, how: u8, cut: u8) -> Option<()> {
        if what < 128 {
            let message = client_message(what, how);
            self.asked += u64::from(matches!(message.first(), Some(b'Q' | b'S' | b'F')));
            self.from_client.extend_from_slice(&message);
            self.read_client(part(cut, self.from_client.len()))
        } else {
            match &mut self.honest {
                Some(server) => server.answer(how & 1 == 1, &mut self.from_server),
                None => self.from_server.extend_from_slice(&server_message(what, how)),
            }
            self.read_server(part(cut, self.from_server.len()))
        }
    }

    /// Everything is read and answered; then the connection is compared with the server's view of it.
    fn finish(&mut self) -> Option<()> {
        self.catch_up()?;
        if self.honest.is_some() && self.pending.is_empty() {
            self.from_client.extend_from_slice(&message(b'S', b""));
            self.asked += 1;
        }
        self.catch_up()?;
        let server = self.honest.as_ref()?;
        if self.pending.is_empty() && self.body.remaining == 0 {
            assert!(self.link.is_free(), "all is answered, but {} are owed", self.link.tracker.len());
            let own = self.to_server.syncs - self.by_client.syncs;
            assert_eq!(self.ready + own, server.readies, "each ReadyForQuery of the server is one for the client");
            if self.capacity > 0 {
                assert_eq!(self.link.statements.len(), server.ours(), "what the server knows: {:?}", server.known);
            }
        }
        Some(())
    }

    /// All that was sent is read, and answered, and the answers are read.
    fn catch_up(&mut self) -> Option<()> {
        loop {
            let before = self.pending.len() + self.from_client.len();
            self.read_client(self.from_client.len())?;
            let mut answered = !self.from_server.is_empty();
            if let Some(server) = &mut self.honest {
                answered |= !server.inbox.is_empty();
                while !server.inbox.is_empty() {
                    server.answer(false, &mut self.from_server);
                }
            }
            self.read_server(self.from_server.len())?;
            // What waited for the end of an earlier batch goes on when that is answered.
            if self.pending.is_empty() || self.pending.len() == before && !answered {
                return Some(());
            }
        }
    }

    fn read_client(&mut self, count: usize) -> Option<()> {
        let mut input = std::mem::take(&mut self.pending);
        input.extend(self.from_client.drain(..count));
        let mut scratch = Vec::new();
        let mut out = Splice::new(&input, &mut scratch);
        let (table, capacity, state) = (&self.table, self.capacity, &self.state);
        let rewriting = Rewriting { client: &mut self.client, client_id: 1, table, capacity, state };
        let (link, body) = (&mut self.link, &mut self.body);
        let (consumed, stop) =
            Inbound { link, body, rewriting, rules: RULES, gate: None, admit: &|_| None, out: &mut out }.scan(&input).ok()?;
        let sent = out.finish();
        self.to_server.walk(sent);
        if let Some(server) = &mut self.honest {
            server.wire.extend_from_slice(sent);
            server.take_in();
        }
        if stop == Stop::Terminate {
            return None;
        }
        self.by_client.walk(&input[..consumed]);
        self.pending = input[consumed..].to_vec();
        assert_eq!(self.to_server.remaining, if self.body.forward { self.body.remaining } else { 0 }, "towards the server");
        self.look_at_server(&[])
    }

    fn read_server(&mut self, count: usize) -> Option<()> {
        let mut input = std::mem::take(&mut self.link.carry);
        input.extend(self.from_server.drain(..count));
        self.look_at_server(&input)
    }

    fn look_at_server(&mut self, input: &[u8]) -> Option<()> {
        let mut scratch = Vec::new();
        let mut out = Splice::new(input, &mut scratch);
        let (link, client, rewriting) = (&mut self.link, &mut self.client, self.capacity > 0);
        let (max_packet, news) = (usize::MAX, News::default());
        let mut outbound = Outbound { link, client, notifications: Notifications::All, rewriting, max_packet, out: &mut out, news };
        outbound.answer_locals();
        let scanned = outbound.scan(input);
        self.ready += outbound.news.ready;
        self.to_client.walk(out.finish());
        match scanned {
            Ok(consumed) if !input.is_empty() => self.link.carry = input[consumed..].to_vec(),
            Ok(_) => {}
            Err(fault) => {
                assert!(self.honest.is_none(), "an honest server is out of step: {fault:?}");
                return None;
            }
        }
        assert!(self.ready <= self.asked, "a ReadyForQuery that nobody asked for");
        assert_eq!(self.to_client.remaining, if self.link.forward { self.link.remaining } else { 0 }, "towards the client");
        assert!(!self.link.tracker.has_local() || self.link.remaining > 0, "a reply of our own whose turn has come waits");
        Some(())
    }
}

/// Reads an output as its receiver does: heads and lengths.
#[derive(Default)]
struct Walker {
    remaining: usize,
    /// Syncs that came by.
    syncs: u64,
}

impl Walker {
    fn walk(&mut self, mut bytes: &[u8]) {
        loop {
            let here = self.remaining.min(bytes.len());
            self.remaining -= here;
            bytes = &bytes[here..];
            if bytes.is_empty() {
                return;
            }
            let head = frame::head(bytes).expect("a length that a message can have").expect("heads are sent whole");
            self.remaining = head.body;
            self.syncs += u64::from(head.tag == b'S');
            bytes = &bytes[HEAD_BYTES..];
        }
    }
}

/// What PostgreSQL does, as far as order and names go.
#[derive(Default)]
struct Server {
    wire: Vec<u8>,
    inbox: Vec<(u8, Vec<u8>)>,
    /// Statements and their texts.
    known: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Portals and the texts of what they run.
    portals: BTreeMap<Vec<u8>, Vec<u8>>,
    skipping: bool,
    readies: u64,
    /// How often tables were changed: it is the name of the only column that statements have.
    changes: u8,
}

impl Server {
    /// Takes whole messages off the wire.
    fn take_in(&mut self) {
        while let Some(head) = frame::head(&self.wire).expect("a length that a message can have") {
            let Some(body) = self.wire.get(HEAD_BYTES..head.message_bytes()) else { return };
            self.inbox.push((head.tag, body.to_vec()));
            self.wire.drain(..head.message_bytes());
        }
    }

    fn ours(&self) -> usize {
        let ours = |name: &&Vec<u8>| name.starts_with(b"sidepool_") && !name.starts_with(b"sidepool_none_");
        self.known.keys().filter(ours).count()
    }

    /// Answers the oldest message; `fails`: with an error where one is possible.
    fn answer(&mut self, fails: bool, out: &mut Vec<u8>) {
        if self.inbox.is_empty() {
            return;
        }
        let (tag, body) = self.inbox.remove(0);
        match tag {
            b'S' => {
                self.skipping = false;
                self.portals.clear();
                self.readies += 1;
                out.extend(message(b'Z', b"I"));
            }
            _ if self.skipping => {}
            b'Q' | b'F' => {
                self.readies += 1;
                self.portals.clear();
                match tag {
                    b'Q' => {
                        self.known.remove(&Vec::new());
                    }
                    _ => {}
                }
                match tag {
                    _ if fails => out.extend(error(b"42601")),
                    b'Q' => {
                        if let Err(error) = self.run(&body, out) {
                            out.extend(error);
                        }
                    }
                    _ => out.extend(message(b'V', b"\xff\xff\xff\xff")),
                }
                out.extend(message(b'Z', b"I"));
            }
            _ if fails && b"PBDEC".contains(&tag) => self.refuse(b"22023", out),
            b'P' => {
                let Some((name, text)) = frame::cstr(&body) else { return self.refuse(b"08P01", out) };
                let (name, text) = (name.to_vec(), frame::cstr(text).map(|(text, _)| text.to_vec()));
                if !name.is_empty() && self.known.contains_key(&name) {
                    return self.refuse(b"42P05", out);
                }
                self.known.insert(name, [&text.unwrap_or_default()[..], b"\0"].concat());
                out.extend(message(b'1', b""));
            }
            b'B' => {
                let names = frame::cstr(&body).and_then(|(portal, rest)| Some((portal.to_vec(), frame::cstr(rest)?.0.to_vec())));
                let text = names.as_ref().and_then(|(_, name)| self.known.get(name)).cloned();
                let (portal, name) = names.unzip();
                self.use_of(name, message(b'2', b""), out);
                self.portals.extend(portal.zip(text));
            }
            b'D' if body.first() == Some(&b'S') => {
                let name = frame::cstr(&body[1..]).map(|(name, _)| name.to_vec());
                let mut column = vec![0, 1, self.changes + b'a', 0];
                column.extend([0; 18]);
                self.use_of(name, message(b'T', &column), out);
            }
            b'D' => out.extend(message(b'n', b"")),
            b'E' => {
                let text = frame::cstr(&body).and_then(|(portal, _)| self.portals.get(portal)).cloned();
                let ran = text.ok_or_else(|| error(b"34000")).and_then(|text| self.run(&text, out));
                if let Err(error) = ran {
                    self.skipping = true;
                    out.extend(error);
                }
            }
            b'C' => {
                if let Some((name, _)) = body.strip_prefix(b"S").and_then(frame::cstr) {
                    self.known.remove(name);
                }
                out.extend(message(b'3', b""));
            }
            // Flush, and COPY messages when no COPY is under way, which PostgreSQL passes over.
            _ => {}
        }
    }

    /// Runs the commands about statements in a text; an error is the caller's to send.
    fn run(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Vec<u8>> {
        let commands = body.split_last().and_then(|(_, text)| sql::commands(text)).unwrap_or_default();
        if commands.is_empty() {
            out.extend(message(b'C', b"SELECT 1\0"));
        }
        for command in commands {
            let name = command.name.to_vec();
            let (done, tag): (bool, &[u8]) = match command.verb {
                Verb::Prepare if self.known.contains_key(&name) => (false, b""),
                Verb::Prepare => (self.known.insert(name, b"SELECT 1\0".to_vec()).is_none(), b"PREPARE\0"),
                Verb::Execute if body.starts_with(b"CREATE") => {
                    self.changes = (self.changes + 1) % 4;
                    (self.known.contains_key(&name), b"SELECT 1\0")
                }
                Verb::Execute => (self.known.contains_key(&name), b"SELECT 1\0"),
                Verb::Deallocate => (self.known.remove(&name).is_some(), b"DEALLOCATE\0"),
                Verb::DeallocateAll => {
                    self.known.retain(|name, _| name.is_empty());
                    (true, b"DEALLOCATE ALL\0")
                }
            };
            if !done {
                return Err(if command.verb == Verb::Prepare { error(b"42P05") } else { nobody(&command.name) });
            }
            out.extend(message(b'C', tag));
        }
        Ok(())
    }

    fn use_of(&mut self, name: Option<Vec<u8>>, reply: Vec<u8>, out: &mut Vec<u8>) {
        let Some(name) = name else { return self.refuse(b"08P01", out) };
        if self.known.contains_key(&name) {
            out.extend(reply);
        } else {
            assert!(!name.starts_with(b"sidepool_") || name == b"sidepool_nobody", "{} is not there", String::from_utf8_lossy(&name));
            self.skipping = true;
            out.extend(nobody(&name));
        }
    }

    fn refuse(&mut self, code: &[u8; 5], out: &mut Vec<u8>) {
        self.skipping = true;
        out.extend(error(code));
    }
}

fn part(cut: u8, length: usize) -> usize {
    if cut >= 128 { length } else { usize::from(cut).min(length) }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend((body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(body);
    out
}

fn error(code: &[u8; 5]) -> Vec<u8> {
    message(b'E', &[b"SERROR\0VERROR\0C", &code[..], b"\0Mno\0\0"].concat())
}

fn nobody(name: &[u8]) -> Vec<u8> {
    message(b'E', &[&b"SERROR\0VERROR\0C26000\0Mprepared statement \""[..], name, b"\" does not exist\0\0"].concat())
}

fn client_message(what: u8, how: u8) -> Vec<u8> {
    let name = NAMES[usize::from(how % 4)];
    let text = how >> 2 & 3;
    let portal = ["", "p"][usize::from(how >> 7)];
    match what % 15 {
        1 => message(b'P', format!("{name}\0{}\0\0", REFERRING[usize::from(how >> 2) % REFERRING.len()]).as_bytes()),
        0 => message(b'P', format!("{name}\0select {text}\0\0\0").as_bytes()),
        2 | 3 => message(b'B', format!("{portal}\0{name}\0\0\0\0\0\0\0").as_bytes()),
        4 => message(b'D', format!("S{name}\0").as_bytes()),
        5 => message(b'D', format!("P{name}\0").as_bytes()),
        6 => message(b'E', format!("{portal}\0\0\0\0\0").as_bytes()),
        7 | 8 => message(b'S', b""),
        9 => message(b'C', format!("S{name}\0").as_bytes()),
        10 => message(b'Q', SQL[usize::from(how) % SQL.len()].as_bytes()),
        11 => message(b'H', b""),
        12 => message([b'd', b'c', b'f'][usize::from(how % 3)], b"x\0"),
        13 => message(b'F', &[0; 10]),
        _ => message(how, &[how; 3]),
    }
}

fn server_message(what: u8, how: u8) -> Vec<u8> {
    const EMPTY: &[u8] = b"123nIsctHGW";
    match what % 9 {
        0 | 1 => message(EMPTY[usize::from(how) % EMPTY.len()], b""),
        2 => message(b'Z', &[b"ITE"[usize::from(how % 3)]]),
        3 => error(if how & 1 == 1 { b"42P05" } else { b"42601" }),
        4 => message(b'C', [&b"SELECT 1\0"[..], b"DISCARD ALL\0", b"DEALLOCATE ALL\0", b"LISTEN\0", b"SET\0"][usize::from(how % 5)]),
        5 => message(b'D', &vec![how; usize::from(how)]),
        6 => message(b'S', b"TimeZone\0UTC\0"),
        7 => message([b'N', b'A', b'T', b'V'][usize::from(how % 4)], b"\0\0\0\0\0\0"),
        _ => vec![how; 3],
    }
}
