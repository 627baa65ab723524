//! Commands about the client itself on a connection of one's own. In a transaction the server queues them as it queues all, so that arity, rights and
//! `EXECABORT` are its own; what `EXEC` then answers for them is ours, and their effect takes place then. Outside of one the same is true of one reply.
//!
//! ```text
//!   client:  MULTI   CLIENT ID   SELECT 3   HELLO 3 …      EXEC ──▶ element by element: the server's, or ours in its place
//!   server:  MULTI   CLIENT ID   SELECT 3   HELLO 3        EXEC
//! ```
//! What would do harm upstream is queued as something harmless of the same weight. Not here: transactions without such commands, which pass as they are.

use std::borrow::Cow;

use sidepool_protocol::redis::command::{Command, Handling};
use sidepool_protocol::redis::encode;
use sidepool_protocol::redis::frame::{FrameScanner, Scan, Value};
use sidepool_protocol::redis::handshake::{self, Credentials};
use sidepool_protocol::redis::request::{Arguments, parse_integer};

use super::habits::switched;
use super::redirect::Redirect;
use super::refusal;
use super::relay::{Relay, What};
use super::requests::anew;
use super::run::Session;
use super::server::Identity;
use super::steps::{Next, Replies, Step};

/// What the replies to a transaction have told so far.
#[derive(Default)]
pub(super) struct Queued {
    /// How many commands the server has queued.
    pub(super) count: u32,
    /// Those of them that mean something to us, by their place.
    changes: Vec<(u32, Change)>,
}

/// What a queued command means once `EXEC` has run it. Not to be shown: it may hold a password.
#[derive(PartialEq, Eq)]
pub(super) enum Change {
    /// It is dealt with and answered here.
    Own(Vec<u8>),
    /// The server decides about the credentials; then as `Own`.
    Login(Credentials, Vec<u8>),
    /// Another database is selected.
    Select(u32),
    /// `CLIENT NO-EVICT` or `NO-TOUCH`.
    Switch(Vec<u8>),
    /// Tracking is on, or off; and where invalidations go, if elsewhere.
    Tracking(bool, Option<Box<Redirect>>),
    /// The reply says where invalidations go.
    Redirection,
    /// Channels are joined or left, with so many confirmations.
    Subscription(usize),
}

/// How the confirmations of a subscriber begin, and the refusal of one.
const CONFIRMATIONS: [&[u8]; 7] = [
    b"*3\r\n$9\r\nsubscribe\r\n",
    b"*3\r\n$10\r\npsubscribe\r\n",
    b"*3\r\n$10\r\nssubscribe\r\n",
    b"*3\r\n$11\r\nunsubscribe\r\n",
    b"*3\r\n$12\r\npunsubscribe\r\n",
    b"*3\r\n$12\r\nsunsubscribe\r\n",
    b"-",
];

/// A command on its way to the server.
struct Sent {
    /// What the server gets.
    bytes: Vec<u8>,
    /// What it means.
    change: Option<Change>,
}

impl Relay {
    /// Queues a command of a transaction.
    pub(super) fn queue(&mut self, session: &mut Session, whole: &[u8], command: Option<&Command>) {
        let Sent { bytes, change } = self.prepare(session, whole, command);
        self.dirty |= change.is_some();
        self.settling |= change.is_some();
        self.send(session, &bytes, What::Queued(change.map(Box::new)));
    }

    /// Sends a command that the server has to know of and whose reply is ours to say; false: not before all that is owed has come.
    pub(super) fn change(&mut self, session: &mut Session, whole: &[u8], command: Option<&Command>) -> bool {
        if !self.owed.is_empty() {
            return false;
        }
        let Sent { bytes, change } = self.prepare(session, whole, command);
        self.dirty |= change.is_some();
        self.settling = change.is_some();
        self.send(session, &bytes, change.map_or(What::Plain, |change| What::Changed(Box::new(change))));
        true
    }

    fn prepare(&self, session: &Session, whole: &[u8], command: Option<&Command>) -> Sent {
        let arguments: Vec<&[u8]> = Arguments::new(whole).collect();
        let own = || Some(Change::Own(whole.to_vec()));
        let stand_in = || anew([&b"CLIENT"[..], b"ID"].into_iter());
        let (bytes, change) = match command.map(|command| command.handling) {
            // Too few arguments: the server says so.
            Some(Handling::Auth) if arguments.len() > 1 => self.queue_login(session, whole, &arguments),
            Some(Handling::Hello) => self.queue_login(session, whole, &arguments),
            Some(Handling::ClientId | Handling::ClientInfo | Handling::ClientList | Handling::GetName | Handling::SetName) => {
                (whole.to_vec(), own())
            }
            Some(Handling::SetInfo) if arguments.len() == 4 => (stand_in(), own()),
            Some(Handling::ReplyMode) if arguments.len() == 3 => (stand_in(), own()),
            Some(Handling::Switch) => (whole.to_vec(), Some(Change::Switch(whole.to_vec()))),
            Some(Handling::ClientKill) if arguments.len() > 2 => (stand_in(), own()),
            Some(Handling::Accept) => (stand_in(), own()),
            Some(Handling::WhoAmI) if session.is_mapped() => (whole.to_vec(), own()),
            Some(Handling::AboutUser) => (session.upstream_words(whole), None),
            Some(Handling::ClientUnblock) if arguments.len() > 2 => (unblock(session, &arguments), None),
            Some(Handling::Select) => (whole.to_vec(), handshake::select(&arguments).ok().map(Change::Select)),
            Some(Handling::Tracking) => {
                let on = arguments.get(2).is_some_and(|mode| mode.eq_ignore_ascii_case(b"on"));
                (whole.to_vec(), Some(Change::Tracking(on, None)))
            }
            Some(_) if command.is_some_and(tells_redirect) => (whole.to_vec(), Some(Change::Redirection)),
            Some(Handling::Subscribe | Handling::Unsubscribe) => {
                (whole.to_vec(), Some(Change::Subscription(arguments.len().saturating_sub(1).max(1))))
            }
            // Everything else leaves nothing behind that we would have to know of.
            Some(_) | None => (whole.to_vec(), None),
        };
        Sent { bytes, change }
    }

    /// Who the rest of the transaction is run as, and in which version it is answered, is the server's business as well.
    fn queue_login(&self, session: &Session, whole: &[u8], arguments: &[&[u8]]) -> (Vec<u8>, Option<Change>) {
        let hello = |words: &[&[u8]]| anew([&b"HELLO"[..]].into_iter().chain(words.iter().copied()));
        let own = Some(Change::Own(whole.to_vec()));
        let (version, credentials) = if arguments[0].eq_ignore_ascii_case(b"auth") {
            (None, handshake::auth(arguments).ok())
        } else {
            match handshake::hello(arguments) {
                Ok(asked) => (asked.version, asked.auth),
                // Nothing changes, and the error is ours to say.
                Err(_) => return (hello(&[]), own),
            }
        };
        let number = version.map(|version| version.number().to_string());
        let number: Vec<&[u8]> = number.iter().map(|number| number.as_bytes()).collect();
        let Some(credentials) = credentials else { return (hello(&number), own) };
        match session.server.authenticate(&credentials) {
            Identity::Unknown => (whole.to_vec(), Some(Change::Login(credentials, whole.to_vec()))),
            Identity::Not(_) => (hello(&[]), own),
            Identity::Is(account) => {
                let same = session.account.as_ref().is_some_and(|present| present.upstream == account.upstream);
                match session.server.secret(&account.upstream).filter(|_| !same) {
                    None => (hello(&number), own),
                    Some(secret) => {
                        let login: [&[u8]; 3] = [b"AUTH", account.upstream.as_bytes(), secret.reveal().as_bytes()];
                        match number.is_empty() {
                            true => (anew(login.into_iter()), own),
                            false => (hello(&[&number[..], &login].concat()), own),
                        }
                    }
                }
            }
        }
    }

    /// The server has answered a command of a transaction.
    pub(super) fn on_queued(&mut self, change: Option<Box<Change>>, value: Value) {
        if value.is_error() {
            return;
        }
        let queued = self.queued.get_or_insert_default();
        if let Some(change) = change {
            queued.changes.push((queued.count, *change));
        }
        queued.count += 1;
    }

    /// Whether the reply to `EXEC` is gathered, because parts of it are ours to say.
    pub(super) fn gathers(&self) -> bool {
        self.queued.as_ref().is_some_and(|queued| !queued.changes.is_empty())
    }

    /// `EXEC` is answered: what was queued for the client itself takes place, and the reply says so.
    pub(super) fn settle(&mut self, session: &mut Session, reply: &[u8]) -> Vec<u8> {
        self.settling = false;
        let Some(queued) = self.queued.take() else { return reply.to_vec() };
        let Some(mut at) = memchr::memchr(b'\n', reply).map(|end| end + 1).filter(|_| reply.first() == Some(&b'*')) else {
            return reply.to_vec();
        };
        let mut out = reply[..at].to_vec();
        let mut changes = queued.changes.into_iter().peekable();
        let mut index = 0;
        while at < reply.len() {
            let change = changes.next_if(|(place, _)| *place == index).map(|(_, change)| change);
            at += self.element(session, change, &reply[at..], &mut out);
            index += 1;
        }
        out
    }

    /// A single command is answered that means something to us.
    pub(super) fn settle_one(&mut self, session: &mut Session, change: Change, reply: &[u8]) -> Vec<u8> {
        self.settling = false;
        let mut out = Vec::new();
        self.element(session, Some(change), reply, &mut out);
        out
    }

    /// One element of the reply to `EXEC`, at the front of `rest`; says how long it is.
    fn element(&mut self, session: &mut Session, change: Option<Change>, rest: &[u8], out: &mut Vec<u8>) -> usize {
        let frames = if let Some(Change::Subscription(frames)) = &change { *frames } else { 1 };
        let length = frames_at(rest, frames);
        let (element, is_error) = (&rest[..length], rest[0] == b'-');
        match change {
            Some(Change::Own(whole)) => own(session, &whole, element, out),
            Some(Change::Login(credentials, whole)) if !is_error => {
                session.server.accept(&credentials);
                own(session, &whole, element, out);
            }
            change => {
                let mut said = Cow::Borrowed(element);
                match change {
                    Some(Change::Select(database)) if !is_error => session.use_database(database),
                    Some(Change::Switch(whole)) if !is_error => {
                        session.use_habits(switched(session.client.shown.state.get().habits, &whole));
                    }
                    Some(Change::Tracking(on, redirect)) if !is_error => self.track(session, on, redirect),
                    Some(Change::Redirection) => said = self.in_our_numbers(element),
                    Some(Change::Subscription(_)) => self.on_confirmed(session, element),
                    Some(_) | None => {}
                }
                if session.replies != Replies::Off {
                    out.extend_from_slice(&said);
                }
            }
        }
        length
    }

    /// How many channels there are now, by confirmations or the messages between them. An error leaves everything as it is.
    fn on_confirmed(&mut self, session: &Session, confirmations: &[u8]) {
        let end = confirmations.strip_suffix(b"\r\n").unwrap_or_default();
        let number = end.iter().rposition(|byte| *byte == b':').and_then(|colon| parse_integer(&end[colon + 1..]));
        if let Some(count) = number.filter(|_| confirmations.first() != Some(&b'-')) {
            self.channels = count;
        }
        self.kept = self.channels > 0 || self.tracking || self.listens;
        self.subscribed = self.channels > 0 && session.version == encode::Resp::Two;
        if session.version == encode::Resp::Two {
            self.show_channels(session);
        }
    }

    /// A RESP2 client is subscribed here or nowhere.
    pub(super) fn show_channels(&self, session: &Session) {
        let count = u32::try_from(self.channels).unwrap_or(0);
        session.client.shown.rename(|words| words.subscriptions = [count, 0, 0]);
    }

    /// A RESP2 client subscribes on this connection, outside of a transaction; false: not before all that is owed has come.
    pub(super) fn subscribe(&mut self, whole: &[u8]) -> bool {
        if self.owed.is_empty() {
            (self.kept, self.subscribed, self.dirty, self.begun) = (true, true, true, true);
            self.out.extend_from_slice(whole);
        }
        self.owed.is_empty()
    }

    /// What a RESP2 client that subscribed in a transaction says: few things, and none is answered in turn.
    pub(super) fn while_subscribed(&mut self, session: &Session, whole: &[u8], name: &[u8], command: Option<&Command>) {
        let handling = command.map(|command| command.handling);
        if matches!(handling, Some(Handling::Subscribe | Handling::Unsubscribe)) || name.eq_ignore_ascii_case(b"ping") {
            self.out.extend_from_slice(whole);
            return;
        }
        self.answer_error(session, refusal::while_subscribed(name, command));
    }

    /// The same client hears messages and confirmations; the last of them frees it.
    pub(super) fn take_in_subscribed(&mut self, session: &Session, bytes: &[u8]) -> Result<(), ()> {
        let mut at = 0;
        while at < bytes.len() {
            match self.scanner.scan(&bytes[at..]).map_err(drop)? {
                Scan::More => {
                    self.gathered.extend_from_slice(&bytes[at..]);
                    return Ok(());
                }
                Scan::End { used, .. } => {
                    self.gathered.extend_from_slice(&bytes[at..at + used]);
                    at += used;
                }
            }
            let frame = std::mem::take(&mut self.gathered);
            session.client.deliver(&frame, false);
            if CONFIRMATIONS.iter().any(|head| frame.starts_with(head)) {
                self.on_confirmed(session, &frame);
            }
            if !self.subscribed {
                // Nothing follows: whatever else there is answers nothing either.
                self.hand_over(session, &bytes[at..], false);
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Deals with a request as if it came now, and takes its reply. What cannot be answered at once leaves the server's words.
fn own(session: &mut Session, whole: &[u8], element: &[u8], out: &mut Vec<u8>) {
    let before = session.replies;
    session.client.capture();
    if let Next::Step(Step::Others) = session.one(whole)
        && let Some(handling) = session.client.shown.command.get().map(|command| command.handling)
    {
        session.about_our_clients(whole, handling);
    }
    let said = session.client.captured();
    let silent = session.replies != before || before == Replies::Off;
    out.extend_from_slice(if said.is_empty() && !silent { element } else { &said });
}

/// `CLIENT UNBLOCK` with the server's own number.
fn unblock(session: &Session, arguments: &[&[u8]]) -> Vec<u8> {
    let id = parse_integer(arguments[2]).map(|id| session.server.leased_by(id).to_string());
    let words = arguments.iter().enumerate();
    anew(words.map(|(place, word)| if place == 2 { id.as_ref().map_or(*word, |id| id.as_bytes()) } else { *word }))
}

/// Whether a reply says to whom invalidations go.
pub(super) fn tells_redirect(command: &Command) -> bool {
    command.handling == Handling::GetRedir || command.name == "client|trackinginfo"
}

/// How many bytes the first `count` values have, as far as they are there.
fn frames_at(bytes: &[u8], count: usize) -> usize {
    let mut at = 0;
    for _ in 0..count {
        match FrameScanner::default().scan(&bytes[at..]) {
            Ok(Scan::End { used, .. }) if at < bytes.len() => at += used,
            Ok(_) | Err(_) => break,
        }
    }
    at
}
