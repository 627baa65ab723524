//! A PostgreSQL server as far as it matters: transactions, prepared statements, errors, cancels, and rows that say who asked for them. It stalls,
//! breaks off and refuses as its dice say.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use sidepool_protocol::postgres::encode;
use sidepool_protocol::postgres::fault::{Fault, Severity, SqlState};
use sidepool_protocol::postgres::tracker::TransactionStatus;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::spawn_local;

use crate::dice::Dice;
use crate::wire;

/// Until everybody has noticed who has left.
const NOTICED: Duration = Duration::from_millis(200);

/// What a query is told that a cancel hits. (Timeouts of the proxy have the same code and other words.)
pub(crate) const CANCELLED: &str = "canceling statement due to user request";

/// A query that always fails.
pub(crate) const FAILS: &str = "SELECT 1/0";

/// The server. Shared by all of its connections.
pub(crate) struct Server {
    path: PathBuf,
    calm: bool,
    open: Cell<u32>,
    most: Cell<u32>,
    backends: Cell<i32>,
    cancels: RefCell<HashMap<i32, Rc<Notify>>>,
}

impl Server {
    /// Starts one at a path. A calm one never fails.
    pub(crate) fn start(path: &Path, calm: bool, mut dice: Dice) -> Rc<Self> {
        let server = Rc::new(Self {
            path: path.to_owned(),
            calm,
            open: Cell::new(0),
            most: Cell::new(0),
            backends: Cell::new(100),
            cancels: RefCell::default(),
        });
        let listener = UnixListener::bind(path).expect("our own directory");
        let serving = Rc::clone(&server);
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                spawn_local(Rc::clone(&serving).receive(stream, dice.split()));
            }
        });
        server
    }

    /// Where it listens.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How many are logged in.
    pub(crate) fn open(&self) -> u32 {
        self.open.get()
    }

    /// The most that ever were.
    pub(crate) fn most(&self) -> u32 {
        self.most.get()
    }

    /// Counts a moment later, when those that the proxy has closed in favour of a new one have noticed.
    async fn count(self: Rc<Self>) {
        tokio::time::sleep(NOTICED).await;
        self.most.set(self.most.get().max(self.open.get()));
    }

    async fn receive(self: Rc<Self>, mut stream: UnixStream, mut dice: Dice) {
        if !self.calm && dice.chance(20) {
            return;
        }
        let Some(packet) = wire::packet(&mut stream).await else { return };
        let word = |at: usize| i32::from_be_bytes(packet[at..at + 4].try_into().expect("four bytes"));
        if word(0) == wire::CANCEL {
            if let Some(cancel) = self.cancels.borrow().get(&word(4)) {
                // Like a real one: whoever runs now, and nobody later.
                cancel.notify_waiters();
            }
            return;
        }
        if !self.calm {
            if dice.chance(20) {
                tokio::time::sleep(dice.up_to(20_000)).await;
            }
            if dice.chance(30) {
                let code: &[u8] = if dice.chance(500) { b"53300" } else { b"57P03" };
                let mut out = Vec::new();
                encode::error_response(&fault(code), &mut out);
                wire::send(&mut stream, &out, &mut dice).await;
                return;
            }
        }
        let pid = self.backends.get() + 1;
        self.backends.set(pid);
        let cancel = Rc::new(Notify::new());
        self.cancels.borrow_mut().insert(pid, Rc::clone(&cancel));
        let mut out = Vec::new();
        encode::authentication_ok(&mut out);
        for (name, value) in [("server_version", "15.3"), ("client_encoding", "UTF8"), ("DateStyle", "ISO, MDY"), ("TimeZone", "UTC")] {
            encode::parameter_status(name, value, &mut out);
        }
        encode::backend_key_data(pid, &[1, 2, 3, 4], &mut out);
        encode::ready_for_query(TransactionStatus::Idle, &mut out);
        self.open.set(self.open.get() + 1);
        spawn_local(Rc::clone(&self).count());
        if wire::send(&mut stream, &out, &mut dice).await {
            Backend {
                server: &self,
                stream,
                dice,
                cancel,
                status: TransactionStatus::Idle,
                skipping: false,
                statements: HashMap::new(),
                bound: None,
                out: Vec::new(),
            }
            .serve()
            .await;
        }
        self.cancels.borrow_mut().remove(&pid);
        self.open.set(self.open.get() - 1);
    }
}

/// One connection.
struct Backend<'a> {
    server: &'a Server,
    stream: UnixStream,
    dice: Dice,
    cancel: Rc<Notify>,
    status: TransactionStatus,
    /// Everything up to Sync is dropped.
    skipping: bool,
    statements: HashMap<String, String>,
    /// The unnamed portal: what its statement says, and its parameter.
    bound: Option<(String, String)>,
    out: Vec<u8>,
}

impl Backend<'_> {
    async fn serve(mut self) {
        while let Some((tag, body)) = self.hear().await {
            if tag == b'X' {
                return;
            }
            if self.skipping && tag != b'S' {
                continue;
            }
            self.take_in(tag, &body);
            if matches!(tag, b'Q' | b'S' | b'H') && !self.answer().await {
                return;
            }
        }
    }

    /// The next message. Sometimes the connection is ended while nobody says anything, as an administrator or a timeout would.
    async fn hear(&mut self) -> Option<(u8, Vec<u8>)> {
        if self.server.calm || !self.dice.chance(10) {
            return wire::next(&mut self.stream).await;
        }
        let patience = self.dice.up_to(30_000);
        if let Ok(message) = tokio::time::timeout(patience, wire::next(&mut self.stream)).await {
            return message;
        }
        if self.dice.chance(500) {
            encode::error_response(&fault(b"57P01"), &mut self.out);
            wire::send(&mut self.stream, &self.out, &mut self.dice).await;
        }
        None
    }

    fn take_in(&mut self, tag: u8, body: &[u8]) {
        match tag {
            b'Q' => {
                let sql = wire::texts(body).swap_remove(0);
                for statement in sql.split(';').filter(|statement| !statement.trim().is_empty()) {
                    if !self.run(statement.trim(), None) {
                        break;
                    }
                }
                self.ready();
            }
            b'P' => {
                let mut texts = wire::texts(body);
                let (name, sql) = (texts.remove(0), texts.remove(0));
                if !name.is_empty() && self.statements.contains_key(&name) {
                    return self.fail(b"42P05");
                }
                self.statements.insert(name, sql);
                self.out.extend(wire::message(b'1', &[]));
            }
            b'B' => self.bind(body),
            b'D' => self.out.extend(wire::message(b'n', &[])),
            b'E' => {
                let Some((sql, parameter)) = self.bound.clone() else { return self.fail(b"34000") };
                if !self.run(&sql, Some(&parameter)) {
                    self.skipping = true;
                }
            }
            b'C' => {
                let name = wire::texts(&body[1..]).swap_remove(0);
                if body[0] == b'S' {
                    self.statements.remove(&name);
                }
                self.out.extend(wire::message(b'3', &[]));
            }
            b'S' => {
                self.skipping = false;
                self.ready();
            }
            b'H' => {}
            other => panic!("the proxy sent {:?}", char::from(other)),
        }
    }

    fn bind(&mut self, body: &[u8]) {
        let texts = wire::texts(body);
        let Some(sql) = self.statements.get(&texts[1]).cloned() else { return self.fail(b"26000") };
        // Portal, statement, no formats, parameters: how many, and the size of the first.
        let counts = &body[texts[0].len() + texts[1].len() + 2..];
        let parameter = match counts {
            [0, 0, 0, 1, a, b, c, d, rest @ ..] => {
                let size = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).expect("small");
                String::from_utf8_lossy(&rest[..size]).into_owned()
            }
            _none => String::new(),
        };
        self.bound = Some((sql, parameter));
        self.out.extend(wire::message(b'2', &[]));
    }

    /// Runs a statement; false: it failed.
    fn run(&mut self, sql: &str, parameter: Option<&str>) -> bool {
        let word = sql.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        let done = |tag: &str| wire::message(b'C', &wire::text(tag));
        match word.as_str() {
            "COMMIT" | "ROLLBACK" => {
                self.status = TransactionStatus::Idle;
                self.out.extend(done(&word));
            }
            _any if self.status == TransactionStatus::Failed => {
                self.fail(b"25P02");
                return false;
            }
            _any if sql == FAILS => {
                self.fail(b"22012");
                return false;
            }
            "BEGIN" => {
                self.status = TransactionStatus::InTransaction;
                self.out.extend(done("BEGIN"));
            }
            "SELECT" => {
                let value = parameter.unwrap_or_else(|| sql.split('\'').nth(1).unwrap_or("1"));
                if parameter.is_none() {
                    // One column of text.
                    let column = [wire::text("word"), vec![0; 6], vec![0, 0, 0, 25, 255, 255, 255, 255, 255, 255, 0, 0]].concat();
                    self.out.extend(wire::message(b'T', &[vec![0, 1], column].concat()));
                }
                self.out.extend(wire::row(value));
                self.out.extend(done("SELECT 1"));
            }
            "DISCARD" => {
                self.statements.clear();
                self.out.extend(done("DISCARD ALL"));
            }
            other => self.out.extend(done(other)),
        }
        true
    }

    fn fail(&mut self, code: &[u8]) {
        let mut fault = fault(code);
        fault.severity = Severity::Error;
        encode::error_response(&fault, &mut self.out);
        self.skipping = true;
        if self.status == TransactionStatus::InTransaction {
            self.status = TransactionStatus::Failed;
        }
    }

    fn ready(&mut self) {
        self.skipping = false;
        encode::ready_for_query(self.status, &mut self.out);
    }

    /// Sends what there is to say, if nothing comes between. False: the connection is over.
    async fn answer(&mut self) -> bool {
        let mut out = std::mem::take(&mut self.out);
        let takes_time = self.dice.chance(100);
        if takes_time {
            let longest = if self.server.calm || self.dice.chance(800) { 3_000 } else { 90_000 };
            let time = self.dice.up_to(longest);
            tokio::select! {
                () = tokio::time::sleep(time) => {}
                () = self.cancel.notified() => {
                    out = self.cancelled(&out);
                }
                () = left(&self.stream) => return false,
            }
        }
        if !self.server.calm {
            if self.dice.chance(8) {
                return false;
            }
            if self.dice.chance(8) {
                let size = self.dice.index(out.len().max(1));
                wire::send(&mut self.stream, &out[..size], &mut self.dice).await;
                return false;
            }
        }
        wire::send(&mut self.stream, &out, &mut self.dice).await
    }

    /// What is said in place of `out` when it is cancelled: an error, and the same ReadyForQuery (of a block that has failed, if there is one).
    fn cancelled(&mut self, out: &[u8]) -> Vec<u8> {
        // Where it ends without ReadyForQuery, or has begun or ended a block, it came too late.
        if out.len() < 6 || out[out.len() - 6] != b'Z' || out.windows(5).any(|part| matches!(part, b"BEGIN" | b"COMMI" | b"ROLLB")) {
            return out.to_vec();
        }
        if self.status == TransactionStatus::InTransaction {
            self.status = TransactionStatus::Failed;
        }
        let sqlstate = SqlState::parse(b"57014").expect("a code");
        let fault = Fault { severity: Severity::Error, ..Fault::fatal(sqlstate, CANCELLED) };
        let mut told = Vec::new();
        encode::error_response(&fault, &mut told);
        encode::ready_for_query(self.status, &mut told);
        told
    }
}

/// Waits until the other side has closed its connection.
async fn left(stream: &UnixStream) {
    loop {
        match stream.ready(Interest::READABLE).await {
            Ok(ready) if !ready.is_read_closed() => tokio::time::sleep(NOTICED / 10).await,
            Ok(_) | Err(_) => return,
        }
    }
}

fn fault(code: &[u8]) -> Fault {
    Fault::fatal(SqlState::parse(code).expect("a code"), "as the dice say")
}
