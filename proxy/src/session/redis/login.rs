//! `HELLO`, `AUTH`, `SELECT` and `RESET`: state that the proxy keeps for the client. Upstream connections have it from their own login.

use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use sidepool_config::model::QueueFairness;
use sidepool_protocol::redis::command::Handling;
use sidepool_protocol::redis::encode::{self, Resp};
use sidepool_protocol::redis::handshake::{self, Credentials};
use sidepool_protocol::redis::reply::Reply;
use sidepool_protocol::redis::request::Arguments;
use tokio::time::Sleep;

use super::end::End;
use super::group::Key;
use super::lost::Lost;
use super::pubsub::unknown_command;
use super::refusal;
use super::run::Session;
use super::server::Identity;
use super::shown::State;
use super::steps::{After, Next, Replies, Step};
use super::unknown::ANSWER_TIMEOUT;
use crate::arrivals::Newcomer;
use crate::observe::record::{WorkerCounter, WorkerHistogram};
use crate::pool::fault::ConnectFaultKind;
use crate::pool::id::IdentityId;
use crate::pool::reason::Condition;
use crate::upstream::redis::connector::RedisConnector;
use crate::upstream::redis::facts::Hello as ServerHello;

/// A client that has to say who it is, and has not.
pub(super) struct Login {
    /// When it is closed.
    pub(super) end: Pin<Box<Sleep>>,
    /// Or when its place is needed.
    pub(super) arrival: Newcomer,
    /// The server was asked, at the end, whether it has to.
    asked: bool,
}

impl Login {
    /// One that may take so long.
    pub(super) fn within(limit: Duration, arrival: Newcomer) -> Self {
        Self { end: Box::pin(tokio::time::sleep(limit)), arrival, asked: false }
    }
}

/// Ready when the client has had all the time, or all the place, that there was for it.
pub(super) fn poll_over(end: Pin<&mut Sleep>, arrival: &Newcomer, cx: &mut Context<'_>) -> Poll<End> {
    if end.poll(cx).is_ready() {
        return Poll::Ready(End::LoginTimeout);
    }
    pin!(arrival.sent_away()).poll(cx).map(|()| End::CrowdedOut)
}

impl Session {
    /// What becomes of a client that has had all the time it may take to authenticate: it is closed. But who has said nothing may not have to, which
    /// nobody has asked the server yet, or not lately.
    pub(super) fn overdue(&mut self, cx: &mut Context<'_>) -> Option<Step> {
        if self.account.is_some() {
            self.login = None;
        }
        let login = self.login.as_mut()?;
        let Poll::Ready(end) = poll_over(login.end.as_mut(), &login.arrival, cx) else { return None };
        if end == End::LoginTimeout && self.carry.is_empty() {
            if self.server.must_knock() && !std::mem::replace(&mut login.asked, true) {
                self.fresh = true;
                return Some(Step::Knock);
            }
            if self.is_welcome() {
                return None;
            }
        }
        self.client.doom(end);
        Some(Step::End)
    }

    /// Whether somebody may do something who has not logged in, as far as that is known; if so, it is in.
    pub(super) fn is_welcome(&mut self) -> bool {
        self.account = self.server.welcome();
        self.note_in();
        self.show();
        self.account.is_some()
    }

    pub(super) fn hello(&mut self, whole: &[u8]) -> Next {
        let arguments: Vec<&[u8]> = Arguments::new(whole).collect();
        let asked = match handshake::hello(&arguments) {
            Ok(asked) => asked,
            Err(line) => return self.say_error(&*line),
        };
        if self.client.pending() > 0 {
            return Next::Hold;
        }
        let account = match &asked.auth {
            None => self.account.clone(),
            Some(credentials) => match self.verify(credentials) {
                Identity::Is(account) => Some(account),
                Identity::Not(line) => return self.say_error(&*line),
                Identity::Unknown => return Next::Step(Step::Verify),
            },
        };
        let Some(account) = account else { return self.say_error(handshake::NOAUTH_HELLO) };
        let Some(facts) = self.server.facts.hello() else {
            // Not applied yet: the request is dealt with again once the server is known.
            self.account = self.account.take().or(Some(account));
            return Next::Step(Step::Introduce);
        };
        // Before it is let in, so that the log names the pool that it will use.
        self.speak(asked.version.unwrap_or(self.version));
        self.become_account(account);
        if let Some(name) = &asked.name {
            self.set_name(name);
        }
        self.show();
        let reply = hello_reply(&facts, self.version, self.client.id);
        self.say(&reply);
        Next::Done
    }

    /// `HELLO` before anything is known of the server: asks it, by opening a connection that will be needed anyway.
    pub(super) async fn introduce(&mut self) -> After {
        let Some(key) = self.key() else { return After::GoOn };
        let group = self.server.group(&key, &self.worker);
        match self.wait_for(group.shared.acquire(IdentityId::default())).await {
            None => return After::End,
            Some(Ok(mut lease)) => {
                // Another worker may have opened it, and knows what this one does not.
                let answer = match self.server.facts.hello() {
                    Some(_) => Ok(Reply::Nil),
                    None => RedisConnector::ask(&mut lease, &[b"HELLO"], key.version, ANSWER_TIMEOUT).await,
                };
                lease.release(if answer.is_ok() { Condition::Clean } else { Condition::Broken });
                match answer {
                    Ok(answer @ Reply::List(_)) => self.server.facts.learn_hello(&answer),
                    Ok(Reply::Nil | Reply::Integer(_) | Reply::Text(_) | Reply::Error(_)) => {}
                    Err(fault) => {
                        return self.refuse_hello(format!("UPSTREAM {}", fault.words()));
                    }
                }
            }
            Some(Err(error)) => {
                let line = self.note_unconnected(group.shared.name(), &error);
                return self.refuse_hello(line);
            }
        }
        if self.server.facts.hello().is_none() {
            // A server without HELLO: it says what such servers say.
            return self.refuse_hello("ERR unknown command 'HELLO'");
        }
        After::GoOn
    }

    /// There is no answer to `HELLO`; who it is has been said all the same.
    fn refuse_hello(&mut self, line: impl AsRef<[u8]>) -> After {
        self.note_in();
        self.refuse_front(line);
        After::GoOn
    }

    pub(super) fn auth(&mut self, whole: &[u8]) -> Next {
        let arguments: Vec<&[u8]> = Arguments::new(whole).collect();
        let credentials = match handshake::auth(&arguments) {
            Ok(credentials) => credentials,
            Err(line) => return self.say_error(&*line),
        };
        if self.client.pending() > 0 {
            return Next::Hold;
        }
        let account = match self.verify(&credentials) {
            Identity::Is(account) => account,
            Identity::Not(line) => return self.say_error(&*line),
            Identity::Unknown => return Next::Step(Step::Verify),
        };
        self.become_account(account);
        self.show();
        self.say(b"+OK\r\n");
        Next::Done
    }

    fn verify(&mut self, credentials: &Credentials) -> Identity {
        let identity = self.server.authenticate(credentials);
        match &identity {
            Identity::Is(_) => {
                self.worker.record.add(WorkerCounter::RedisLoginOk, 1);
                // Whoever is in already only changes who it is.
                if self.account.is_none() {
                    let took = crate::clock::now().saturating_duration_since(self.client.since);
                    self.worker.record.observe(WorkerHistogram::RedisLogin, took);
                }
            }
            Identity::Not(_) => self.note_wrong(),
            Identity::Unknown => {}
        }
        identity
    }

    /// Has the server say what it makes of the credentials in the request at the front of `carry`, which is then dealt with again.
    pub(super) async fn verify_front(&mut self) -> After {
        let Some(whole) = self.front_request() else { return After::GoOn };
        let arguments: Vec<&[u8]> = Arguments::new(&whole).collect();
        let credentials = match handshake::auth(&arguments) {
            Ok(credentials) if arguments[0].eq_ignore_ascii_case(b"auth") => Some(credentials),
            Ok(_) | Err(_) => handshake::hello(&arguments).ok().and_then(|hello| hello.auth),
        };
        let (server, client, worker) = (Rc::clone(&self.server), Rc::clone(&self.client), Rc::clone(&self.worker));
        match self.wait_for(server.ask(&client, credentials.as_ref(), &worker)).await {
            None => return After::End,
            Some(Ok(())) => {}
            Some(Err(line)) => {
                self.refuse_front(&line);
            }
        }
        After::GoOn
    }

    /// Finds out whether somebody may do something who has not logged in.
    pub(super) async fn knock(&mut self) -> After {
        let (server, client, worker) = (Rc::clone(&self.server), Rc::clone(&self.client), Rc::clone(&self.worker));
        // When nobody can be asked, the pool will say why.
        match self.wait_for(server.ask(&client, None, &worker)).await {
            None => After::End,
            Some(Ok(()) | Err(_)) => After::GoOn,
        }
    }

    /// The request at the front of `carry`, in canonical form there as well.
    pub(super) fn front_request(&mut self) -> Option<Vec<u8>> {
        let whole = self.take_front()?;
        self.carry.splice(0..0, whole.iter().copied());
        Some(whole)
    }

    /// What somebody is told who has not logged in. Commands are looked up before anybody asks who sends them; one with a dot is a module's, which we
    /// need not know.
    pub(super) fn stranger(&self, whole: &[u8], name: &[u8], handling: Option<Handling>) -> String {
        match handling {
            Some(Handling::Exec) => format!("EXECABORT Transaction discarded because of: {}", handshake::NOAUTH),
            None if !name.contains(&b'.') && self.server.facts.flags(&name.to_ascii_lowercase()).is_none() => unknown_command(whole),
            Some(_) | None => handshake::NOAUTH.to_owned(),
        }
    }

    fn become_account(&mut self, account: Rc<super::server::Account>) {
        if self.account.as_ref().is_none_or(|present| present.upstream != account.upstream) {
            self.detach();
        }
        let is_another = self.account.as_ref().is_none_or(|present| present.name != account.name);
        self.account = Some(account);
        self.note_in();
        if is_another {
            self.show();
            self.rejoin_identity(QueueFairness::User);
        }
    }

    fn speak(&mut self, version: Resp) {
        if self.version != version {
            self.detach();
            self.version = version;
        }
    }

    pub(super) fn select(&mut self, whole: &[u8]) -> Next {
        let arguments: Vec<&[u8]> = Arguments::new(whole).collect();
        match handshake::select(&arguments) {
            Err(line) => self.say_error(&line),
            Ok(database) if database == self.database => {
                self.say(b"+OK\r\n");
                Next::Done
            }
            Ok(_) if self.client.pending() > 0 => Next::Hold,
            Ok(database) if self.server.has_database(database) => {
                self.use_database(database);
                self.say(b"+OK\r\n");
                Next::Done
            }
            Ok(database) => Next::Step(Step::Select(database)),
        }
    }

    /// Other commands go to another database from now on. Only when no replies are owed.
    pub(super) fn use_database(&mut self, database: u32) {
        if self.database != database {
            self.detach();
            self.database = database;
            self.show();
        }
    }

    /// `SELECT` of a database that nobody has used: whether it exists shows when a connection to it is opened.
    pub(super) async fn select_unseen(&mut self, database: u32) -> After {
        self.take_front();
        let Some(key) = self.key() else { return After::GoOn };
        let key = Key { database, ..key };
        let group = self.server.group(&key, &self.worker);
        match self.wait_for(group.shared.acquire(IdentityId::default())).await {
            None => return After::End,
            Some(Ok(lease)) => {
                lease.release(Condition::Clean);
                self.server.saw_database(database);
                self.use_database(database);
                self.say(b"+OK\r\n");
            }
            Some(Err(error)) => {
                let line = if error.fault.as_ref().is_some_and(|fault| fault.kind == ConnectFaultKind::NoDatabase) {
                    self.server.forget_group(&key);
                    refusal::line(&error)
                } else {
                    self.note_unconnected(group.shared.name(), &error)
                };
                self.say_error(line);
            }
        }
        After::GoOn
    }

    pub(super) fn reset(&mut self, whole: &[u8]) -> Next {
        if Arguments::new(whole).count() != 1 {
            return self.say_error(handshake::wrong_arity("reset"));
        }
        if self.client.pending() > 0 {
            return Next::Hold;
        }
        self.forget_state();
        self.say(b"+RESET\r\n");
        Next::Done
    }

    /// Everything as on the first day, but for the library's name.
    pub(super) fn forget_state(&mut self) {
        self.leave_hub();
        self.detach();
        self.part_identity();
        self.version = Resp::Two;
        self.database = self.server.config().database;
        self.replies = Replies::On;
        self.lost = Lost::Nothing;
        self.account = self.server.welcome();
        self.client.shown.rename(|words| words.name = Box::default());
        self.client.shown.state.set(State::default());
        self.show();
    }
}

/// The answer to `HELLO`: the server's own words, but for the client's number and version.
fn hello_reply(facts: &ServerHello, version: Resp, id: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(160);
    encode::map(&mut out, version, 7);
    for (key, value) in [("server", &facts.server), ("version", &facts.version)] {
        encode::bulk(&mut out, key.as_bytes());
        encode::bulk(&mut out, value.as_bytes());
    }
    encode::bulk(&mut out, b"proto");
    encode::integer(&mut out, i64::from(version.number()));
    encode::bulk(&mut out, b"id");
    encode::integer(&mut out, i64::try_from(id).unwrap_or(i64::MAX));
    for (key, value) in [("mode", &facts.mode), ("role", &facts.role)] {
        encode::bulk(&mut out, key.as_bytes());
        encode::bulk(&mut out, value.as_bytes());
    }
    encode::bulk(&mut out, b"modules");
    encode::array(&mut out, facts.modules.len());
    for module in &facts.modules {
        value(&mut out, module, version);
    }
    out
}

/// A module, as the server described it: a map of names to values.
fn value(out: &mut Vec<u8>, reply: &Reply, version: Resp) {
    match reply {
        Reply::Nil => encode::null(out, version),
        Reply::Integer(number) => encode::integer(out, *number),
        Reply::Text(text) => encode::bulk(out, text),
        Reply::Error(text) => encode::error(out, text),
        Reply::List(pairs) if pairs.len() % 2 == 0 && !pairs.is_empty() => {
            encode::map(out, version, pairs.len() / 2);
            pairs.iter().for_each(|one| value(out, one, version));
        }
        Reply::List(all) => {
            encode::array(out, all.len());
            all.iter().for_each(|one| value(out, one, version));
        }
    }
}
