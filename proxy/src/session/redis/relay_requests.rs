//! What a session with a connection of its own sends down it, and what that does to the reasons for keeping it.

use std::task::{Context, Poll};

use sidepool_protocol::redis::command::{Command, Handling};
use sidepool_protocol::redis::encode::{self, Resp};
use sidepool_protocol::redis::fault::RequestFault;
use sidepool_protocol::redis::request::{Arguments, RequestScanner, Scanned};
use sidepool_protocol::redis::{handshake, inline};

use super::blocked::Waits;
use super::count;
use super::end::End;
use super::gate;
use super::others::{Told, wrong};
use super::redirect::is_redirected;
use super::refusal;
use super::relay::{Owed, Relay, What};
use super::relay_transaction::tells_redirect;
use super::requests::resolve;
use super::run::Session;
use super::shown::State;
use super::topics::WAIT_CHANNEL;
use crate::observe::record::PoolCounter;
use crate::pool::lease::Lease;
use crate::upstream::redis::connector::RedisConnector;

impl Relay {
    /// Deals with one request; false: not before all that is owed has come.
    pub(super) fn forward(&mut self, session: &mut Session, whole: &[u8], lease: &Lease<RedisConnector>) -> bool {
        let Ok(Scanned::Request(request)) = RequestScanner::default().scan(whole, false) else { return true };
        let name = &whole[request.name.clone()];
        if inline::is_http(name) {
            self.fault(session, RequestFault::Http);
            return true;
        }
        // What is ours to say and comes next waits for nothing, and nothing waits for it.
        self.say_own(session);
        let command = resolve(whole, &request);
        session.client.shown.command.set(command);
        let handling = command.map(|command| command.handling);
        let alone = request.arguments == 1;
        if self.monitor && !matches!(handling, Some(Handling::Quit | Handling::Reset)) {
            self.answer_error(session, "ERR only QUIT and RESET are possible while MONITOR runs");
            return true;
        }
        if let Some(command) = command.filter(|command| command.is_denied(session.server.denied())) {
            self.poisoned |= self.multi;
            self.answer_error(session, gate::refusal(command));
            return true;
        }
        if self.subscribed && !matches!(handling, Some(Handling::Quit | Handling::Reset)) {
            self.while_subscribed(session, whole, name, command);
            return true;
        }
        if handling == Some(Handling::Control) {
            session.note_pause(whole);
        }
        if let Some(command) = command {
            session.note_script(command, whole);
        }
        let taken = match self.multi {
            true => self.inside(session, whole, command, alone),
            false => self.outside(session, whole, command, alone),
        };
        if taken {
            self.count(command);
            if let Some(command) = command {
                lease.pool().record().add(count::command(command.kind), 1);
            }
            lease.pool().record().add(PoolCounter::Queries, 1);
            lease.pool().record().add(PoolCounter::BytesFromClient, whole.len() as u64);
        }
        taken
    }

    /// A command of a transaction, or its end.
    fn inside(&mut self, session: &mut Session, whole: &[u8], command: Option<&Command>, alone: bool) -> bool {
        match command.map(|command| command.handling) {
            Some(Handling::Quit) => self.quit(session),
            Some(Handling::Reset) if alone => self.reset = true,
            Some(Handling::Exec) if alone => self.exec(session, whole),
            Some(Handling::Discard) if alone => {
                self.end_transaction();
                self.settling = false;
                self.send(session, whole, What::Plain);
            }
            // The server refuses both, and the transaction goes on.
            Some(Handling::Watch | Handling::Multi) => self.send(session, whole, What::Plain),
            Some(Handling::Refuse) => {
                self.poisoned = true;
                self.answer_error(session, "ERR Command not allowed inside a transaction");
            }
            Some(Handling::Tracking) if is_redirected(whole) => return self.redirect_to(session, whole),
            Some(_) | None => self.queue(session, whole, command),
        }
        true
    }

    /// A command outside of a transaction.
    fn outside(&mut self, session: &mut Session, whole: &[u8], command: Option<&Command>, alone: bool) -> bool {
        let handling = command.map(|command| command.handling);
        match handling {
            Some(Handling::Quit) => self.quit(session),
            Some(Handling::Reset) if alone => self.reset = true,
            Some(Handling::Multi) if alone => {
                self.multi = true;
                self.send(session, whole, What::Multi);
            }
            Some(Handling::Watch) => {
                self.watch = true;
                self.send(session, whole, What::Plain);
            }
            Some(Handling::Unwatch) => {
                self.watch = false;
                self.send(session, whole, What::Plain);
            }
            Some(Handling::Select) => self.select(session, whole),
            Some(Handling::Monitor) => {
                self.monitor = true;
                self.send(session, whole, What::Monitor);
            }
            Some(Handling::Takeover) => {
                if !self.owed.is_empty() {
                    return false;
                }
                (self.raw, self.begun) = (true, true);
                let replica = command.is_some_and(|command| command.name != "script|debug");
                session.client.shown.state.set(State { replica, ..session.client.shown.state.get() });
                self.out.extend_from_slice(whole);
            }
            Some(Handling::Wait) => self.wait(session, whole),
            Some(Handling::Subscribe | Handling::Unsubscribe) if session.version == Resp::Three => {
                // In RESP3 confirmations come out of band: nothing is owed.
                (self.kept, self.listens, self.dirty, self.begun) = (true, true, true, true);
                self.out.extend_from_slice(whole);
            }
            Some(Handling::Subscribe | Handling::Unsubscribe) => return self.subscribe(whole),
            Some(Handling::Tracking) if is_redirected(whole) => return self.redirect_to(session, whole),
            Some(Handling::Hello | Handling::Auth | Handling::AboutUser | Handling::Tracking | Handling::Switch) => {
                return self.change(session, whole, command);
            }
            // Too many arguments: the server says so.
            Some(Handling::WhoAmI) if !session.is_mapped() || Arguments::new(whole).count() > 2 => self.plain(session, whole, handling),
            Some(_) | None if command.is_some_and(tells_redirect) => return self.change(session, whole, command),
            Some(handling) if is_virtual(handling) => return self.virtual_command(session, whole, handling, command),
            Some(_) | None => self.plain(session, whole, handling),
        }
        true
    }

    fn quit(&mut self, session: &mut Session) {
        self.answer(session, b"+OK\r\n");
        session.closing = Some(End::Left);
    }

    /// The connection logged in with a secret that is not the present one: this goes first.
    pub(super) fn log_in_again(&mut self, request: Option<Vec<u8>>) {
        if let Some(request) = request {
            self.out.extend_from_slice(&request);
            self.owed.push_back(Owed::untimed(What::Swallow, true));
        }
    }

    /// `WAIT`: the server answers for what this connection has written, which is nothing yet. An unheard message moves its offset to where
    /// everybody's writes are.
    fn wait(&mut self, session: &mut Session, whole: &[u8]) {
        let mut message = Vec::new();
        encode::command(&mut message, &[b"PUBLISH", WAIT_CHANNEL, b""]);
        self.send(session, &message, What::Swallow);
        self.plain(session, whole, Some(Handling::Wait));
    }

    /// A command that leaves nothing behind.
    pub(super) fn plain(&mut self, session: &mut Session, request: &[u8], handling: Option<Handling>) {
        let waits = Waits::of(handling, request, &session.server.facts);
        self.send_waiting(session, request, What::Plain, waits);
    }

    fn exec(&mut self, session: &mut Session, whole: &[u8]) {
        let poisoned = self.poisoned;
        self.end_transaction();
        if poisoned {
            let mut discard = Vec::new();
            encode::command(&mut discard, &[b"DISCARD"]);
            self.send(session, &discard, What::Swallow);
            self.settling = false;
            self.answer_error(session, refusal::EXECABORT);
        } else {
            self.send(session, whole, What::Exec);
        }
    }

    fn end_transaction(&mut self) {
        (self.multi, self.watch, self.poisoned) = (false, false, false);
    }

    fn select(&mut self, session: &mut Session, whole: &[u8]) {
        let arguments: Vec<&[u8]> = Arguments::new(whole).collect();
        let database = handshake::select(&arguments).ok();
        self.dirty = true;
        match database {
            Some(database) => self.send(session, whole, What::Select(database)),
            None => self.send(session, whole, What::Plain),
        }
    }

    /// What the proxy answers itself.
    fn virtual_command(&mut self, session: &mut Session, whole: &[u8], handling: Handling, command: Option<&Command>) -> bool {
        let name = command.map_or("", |command| command.name).replace('|', " ");
        let answered_here = matches!(
            handling,
            Handling::SetName
                | Handling::GetName
                | Handling::SetInfo
                | Handling::ClientId
                | Handling::ClientInfo
                | Handling::ClientList
                | Handling::ClientKill
                | Handling::ClientUnblock
                | Handling::ReplyMode
                | Handling::WhoAmI
                | Handling::Accept
        );
        if !answered_here {
            self.answer_error(session, format!("ERR '{name}' is not possible through sidepool while WATCH or CLIENT TRACKING is in force"));
            return true;
        }
        if !self.owed.is_empty() {
            return false;
        }
        let fault = command.and_then(|command| wrong(whole, command));
        if fault.is_none() && matches!(handling, Handling::ClientList | Handling::ClientKill | Handling::ClientUnblock) {
            self.asking = Some(Box::pin(session.ask_others(whole, handling)));
            self.begun = true;
            return true;
        }
        session.one(whole);
        true
    }

    /// What others say of their clients, once all have answered; whether they have now.
    pub(super) fn poll_others(&mut self, session: &mut Session, cx: &mut Context<'_>) -> bool {
        let Some(Poll::Ready(told)) = self.asking.as_mut().map(|asking| asking.as_mut().poll(cx)) else { return false };
        self.asking = None;
        match told {
            Told::Reply(reply) => self.answer(session, &reply),
            Told::End(reply) => {
                self.answer(session, &reply);
                session.closing = Some(End::Killed);
            }
            Told::Ask(request) => self.send(session, &request, What::Plain),
        }
        self.say_own(session);
        true
    }

    /// What `CLIENT LIST` says of the client follows what it does here. `over`: the connection is given back.
    pub(super) fn show(&self, session: &Session, over: bool) {
        let shown = &session.client.shown;
        let (blocked, monitor, tracking) = (self.is_blocked(), self.monitor, self.tracking);
        let now = State { blocked: blocked && !over, monitor: monitor && !over, tracking: tracking && !over, ..shown.state.get() };
        shown.state.set(now);
        if over && self.redirect.is_some() {
            shown.rename(|words| (words.redirect, words.redirect_broken) = (0, false));
        }
        if over && self.subscribed {
            shown.rename(|words| words.subscriptions = [0; 3]);
        }
        let queued = self.queued.as_ref().map_or(0, |queued| u16::try_from(queued.count).unwrap_or(u16::MAX).min(u16::MAX - 1));
        shown.multi.set(if self.multi && !over { queued + 1 } else { 0 });
    }
}

/// Commands that the proxy answers for its clients.
pub(super) fn is_virtual(handling: Handling) -> bool {
    match handling {
        Handling::Subscribe
        | Handling::Unsubscribe
        | Handling::Hello
        | Handling::Auth
        | Handling::SetName
        | Handling::GetName
        | Handling::SetInfo
        | Handling::ClientId
        | Handling::ClientInfo
        | Handling::ClientList
        | Handling::ClientKill
        | Handling::ClientUnblock
        | Handling::ReplyMode
        | Handling::Switch
        | Handling::WhoAmI
        | Handling::AboutUser
        | Handling::Accept
        | Handling::GetRedir
        | Handling::Monitor
        | Handling::Tracking
        | Handling::Refuse => true,
        Handling::Share
        | Handling::ShareUnlessBlock
        | Handling::Block
        | Handling::Lease
        | Handling::Control
        | Handling::Wait
        | Handling::Multi
        | Handling::Exec
        | Handling::Discard
        | Handling::Watch
        | Handling::Unwatch
        | Handling::Select
        | Handling::Reset
        | Handling::Takeover
        | Handling::Quit => false,
    }
}

/// Commands that change what the connection is.
pub(super) fn is_stateful(handling: Handling) -> bool {
    matches!(
        handling,
        Handling::Multi
            | Handling::Exec
            | Handling::Discard
            | Handling::Select
            | Handling::Reset
            | Handling::Quit
            | Handling::Wait
            | Handling::Takeover
    )
}
