//! A server that says back what it was asked, and now and then is slow, fails, says half of it, or goes.
//!
//! Texts: `SELECT 'c3-17'` gives that as a row, `FAIL 'c3-17'` an error of that name; `c3` is whose it is.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use sidepool_protocol::postgres::encode;
use sidepool_protocol::postgres::fault::{Fault, SqlState};
use sidepool_protocol::postgres::frame;
use sidepool_protocol::postgres::tracker::TransactionStatus;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::World;

/// What a query is told that a cancel has hit.
pub(super) const CANCELLED: &str = "canceling statement due to user request";

/// The code of a cancel request.
const CANCEL: u32 = 80_877_102;

/// The server.
pub(super) struct Server {
    directory: TempDir,
    open: Rc<Cell<u32>>,
}

/// What its connections share.
struct Shared {
    world: Rc<World>,
    open: Rc<Cell<u32>>,
    cancels: RefCell<HashMap<u32, Rc<Notify>>>,
}

impl Server {
    pub(super) fn start(world: &Rc<World>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        let open = Rc::new(Cell::new(0));
        let shared = Rc::new(Shared { world: Rc::clone(world), open: Rc::clone(&open), cancels: RefCell::default() });
        tokio::task::spawn_local(async move {
            for process in 1.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                let shared = Rc::clone(&shared);
                tokio::task::spawn_local(async move {
                    shared.open.set(shared.open.get() + 1);
                    let _ = Backend::new(stream, process, Rc::clone(&shared)).run().await;
                    shared.cancels.borrow_mut().remove(&process);
                    shared.open.set(shared.open.get() - 1);
                });
            }
        });
        Self { directory, open }
    }

    pub(super) fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("socket")
    }

    /// How many connections there are.
    pub(super) fn open(&self) -> u32 {
        self.open.get()
    }
}

/// The connection has ended.
struct Gone;

impl From<std::io::Error> for Gone {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

/// What ended a pause.
enum Woken {
    Time,
    Cancel,
}

struct Backend {
    stream: UnixStream,
    process: u32,
    shared: Rc<Shared>,
    cancel: Rc<Notify>,
    input: Vec<u8>,
    out: Vec<u8>,
    status: TransactionStatus,
    /// Whose transaction it is.
    owner: Option<String>,
    skipping: bool,
    statements: HashMap<Vec<u8>, String>,
    portals: HashMap<Vec<u8>, String>,
}

impl Backend {
    fn new(stream: UnixStream, process: u32, shared: Rc<Shared>) -> Self {
        let cancel = Rc::new(Notify::new());
        let (input, out, status) = (Vec::new(), Vec::new(), TransactionStatus::Idle);
        let (statements, portals) = (HashMap::new(), HashMap::new());
        Self { stream, process, shared, cancel, input, out, status, owner: None, skipping: false, statements, portals }
    }

    async fn run(&mut self) -> Result<(), Gone> {
        self.fill(8).await?;
        let length = number(&self.input);
        if number(&self.input[4..]) == CANCEL {
            self.fill(12).await?;
            let process = number(&self.input[8..]);
            if self.shared.world.chance(500) {
                sleep(self.shared.world.while_up_to(Duration::from_secs(10))).await;
            }
            if let Some(cancel) = self.shared.cancels.borrow().get(&process) {
                // One that comes too late is about nothing.
                cancel.notify_waiters();
            }
            return Ok(());
        }
        self.fill(length as usize).await?;
        self.input.drain(..length as usize);
        self.log_in().await?;
        loop {
            self.fill(frame::HEAD_BYTES).await?;
            let length = number(&self.input[1..]) as usize + 1;
            self.fill(length).await?;
            let message: Vec<u8> = self.input.drain(..length).collect();
            self.on_message(message[0], &message[frame::HEAD_BYTES..]).await?;
        }
    }

    async fn log_in(&mut self) -> Result<(), Gone> {
        let world = Rc::clone(&self.shared.world);
        if world.fault(30) {
            return Err(Gone);
        }
        if world.fault(30) {
            self.pause(Duration::from_secs(500)).await?;
        }
        if world.fault(30) {
            encode::error_response(&Fault::fatal(SqlState::TOO_MANY_CONNECTIONS, "sorry, too many clients already"), &mut self.out);
            self.flush().await?;
            return Err(Gone);
        }
        encode::authentication_ok(&mut self.out);
        for (name, value) in [("server_version", "15.3"), ("client_encoding", "UTF8"), ("DateStyle", "ISO, MDY"), ("TimeZone", "UTC")] {
            encode::parameter_status(name, value, &mut self.out);
        }
        encode::backend_key_data(i32::try_from(self.process).unwrap_or_default(), &[0; 4], &mut self.out);
        encode::ready_for_query(self.status, &mut self.out);
        self.shared.cancels.borrow_mut().insert(self.process, Rc::clone(&self.cancel));
        self.flush().await
    }

    async fn on_message(&mut self, tag: u8, body: &[u8]) -> Result<(), Gone> {
        if self.skipping && tag != b'S' && tag != b'X' {
            return Ok(());
        }
        match tag {
            b'X' => return Err(Gone),
            b'Q' => {
                let text = text(body);
                self.go_wrong().await?;
                self.execute(&text);
                self.ready().await?;
            }
            b'S' => {
                self.skipping = false;
                self.go_wrong().await?;
                self.ready().await?;
            }
            b'P' => {
                let (name, rest) = frame::cstr(body).ok_or(Gone)?;
                let taken = !name.is_empty() && self.statements.contains_key(name);
                if taken {
                    self.fail("42P05", "prepared statement already exists");
                } else {
                    self.statements.insert(name.to_vec(), text(rest));
                    self.put(b'1', b"");
                }
            }
            b'B' => {
                let (portal, rest) = frame::cstr(body).ok_or(Gone)?;
                let (name, _) = frame::cstr(rest).ok_or(Gone)?;
                match self.statements.get(name).cloned() {
                    Some(text) => {
                        self.portals.insert(portal.to_vec(), text);
                        self.put(b'2', b"");
                    }
                    None => self.fail("26000", "prepared statement does not exist"),
                }
            }
            b'E' => {
                let (portal, _) = frame::cstr(body).ok_or(Gone)?;
                let text = self.portals.get(portal).cloned().unwrap_or_default();
                self.execute(&text);
            }
            b'C' => {
                self.statements.remove(text(&body[1..]).as_bytes());
                self.put(b'3', b"");
            }
            b'H' => self.flush().await?,
            other => self.shared.world.complain(format!("the server got {}", char::from(other))),
        }
        Ok(())
    }

    /// Something happens before the answer, or instead of it.
    async fn go_wrong(&mut self) -> Result<(), Gone> {
        let world = Rc::clone(&self.shared.world);
        if world.fault(15) {
            return Err(Gone);
        }
        if world.fault(15) {
            encode::error_response(&Fault::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection"), &mut self.out);
            self.flush().await?;
            return Err(Gone);
        }
        let long = if world.fault(15) { Duration::from_secs(500) } else { world.while_up_to(Duration::from_secs(20)) };
        let pause = if world.chance(300) { long } else { Duration::ZERO };
        if !pause.is_zero() && matches!(self.pause(pause).await?, Woken::Cancel) {
            self.fail("57014", CANCELLED);
        }
        Ok(())
    }

    fn execute(&mut self, text: &str) {
        if self.skipping {
            return;
        }
        let token = text.split('\'').nth(1).unwrap_or_default().to_owned();
        let who = token.split('-').next().filter(|who| who.starts_with('c')).map(str::to_owned);
        if let (Some(owner), Some(who)) = (&self.owner, &who)
            && owner != who
        {
            self.shared.world.complain(format!("{text} came into the transaction of {owner}"));
        }
        let command = text.split([' ', ';']).next().unwrap_or_default();
        match command {
            "COMMIT" | "ROLLBACK" => {
                let tag = if self.status == TransactionStatus::Failed { "ROLLBACK" } else { command };
                (self.status, self.owner) = (TransactionStatus::Idle, None);
                self.complete(tag);
            }
            _ if self.status == TransactionStatus::Failed => self.fail("25P02", "current transaction is aborted"),
            "BEGIN" => {
                (self.status, self.owner) = (TransactionStatus::InTransaction, who);
                self.complete("BEGIN");
            }
            "FAIL" => self.fail("22012", &token),
            "SELECT" => {
                let mut row = vec![0, 1];
                row.extend_from_slice(&u32::try_from(token.len()).unwrap_or_default().to_be_bytes());
                row.extend_from_slice(token.as_bytes());
                self.put(b'D', &row);
                self.complete("SELECT 1");
            }
            "" => self.put(b'I', b""),
            other => self.complete(other),
        }
    }

    fn complete(&mut self, tag: &str) {
        let tag = if tag == "DISCARD" { "DISCARD ALL" } else { tag };
        if tag == "DISCARD ALL" {
            self.statements.clear();
        }
        self.put(b'C', format!("{tag}\0").as_bytes());
    }

    fn fail(&mut self, code: &str, message: &str) {
        let code = SqlState::parse(code.as_bytes()).unwrap();
        encode::error_response(&Fault::error(code, message.to_owned()), &mut self.out);
        self.skipping = true;
        if self.status == TransactionStatus::InTransaction {
            self.status = TransactionStatus::Failed;
        }
    }

    fn put(&mut self, tag: u8, body: &[u8]) {
        self.out.push(tag);
        self.out.extend_from_slice(&u32::try_from(body.len() + 4).unwrap_or_default().to_be_bytes());
        self.out.extend_from_slice(body);
    }

    async fn ready(&mut self) -> Result<(), Gone> {
        self.skipping = false;
        encode::ready_for_query(self.status, &mut self.out);
        let world = Rc::clone(&self.shared.world);
        if world.fault(10) {
            let half = self.out.len() / 2;
            self.out.truncate(half);
            self.flush().await?;
            return Err(Gone);
        }
        self.flush().await
    }

    /// Sends what there is, in pieces now and then.
    async fn flush(&mut self) -> Result<(), Gone> {
        let mut out = std::mem::take(&mut self.out);
        if self.shared.world.chance(100) && out.len() > 1 {
            let rest = out.split_off(out.len() / 2);
            self.stream.write_all(&out).await?;
            self.pause(self.shared.world.while_up_to(Duration::from_secs(1))).await?;
            out = rest;
        }
        Ok(self.stream.write_all(&out).await?)
    }

    async fn fill(&mut self, length: usize) -> Result<(), Gone> {
        while self.input.len() < length {
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(Gone);
            }
        }
        Ok(())
    }

    /// Lets time pass, as long as there is somebody at the other end.
    async fn pause(&mut self, time: Duration) -> Result<Woken, Gone> {
        let end = sleep(time);
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return Ok(Woken::Time),
                () = self.cancel.notified() => return Ok(Woken::Cancel),
                read = self.stream.read_buf(&mut self.input) => if read? == 0 {
                    return Err(Gone);
                },
            }
        }
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk().copied().map_or(0, u32::from_be_bytes)
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(frame::cstr(body).map_or(body, |(text, _)| text)).into_owned()
}
