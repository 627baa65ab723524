//! Which way a request goes: what can be queued with its neighbours, what is one reply of our own, and what is a step.

use sidepool_protocol::redis::command::{self, Command, Handling, Kind, Replay};
use sidepool_protocol::redis::encode;
use sidepool_protocol::redis::fault::RequestFault;
use sidepool_protocol::redis::request::{Arguments, Request, RequestScanner, Scanned};
use sidepool_protocol::redis::tracker::Work;
use sidepool_protocol::redis::{inline, transaction};

use super::count;
use super::end::End;
use super::gate;
use super::lost::Lost;
use super::run::Session;
use super::steps::{Next, Replies, Step};
use crate::observe::record::PoolCounter;

impl Session {
    /// Whether the request at the front of `rest` can be queued as it stands, together with others; and how much of `rest` that is.
    pub(super) fn shareable(&mut self, rest: &[u8], request: &Request) -> Option<(Work, u32, usize)> {
        let plain = self.replies == Replies::On && self.lost == Lost::Nothing && !self.is_subscribed_resp2();
        let attached = self.attached.as_ref().filter(|attached| plain && !attached.lane.is_retired())?;
        let record = attached.group.shared.record();
        let command = resolve(rest, request).filter(|command| !command.is_denied(self.server.denied()))?;
        match command.handling {
            Handling::Share | Handling::Exec | Handling::Discard | Handling::Unwatch
                if attached.suits(self.is_heavy(command), &self.client) => {}
            Handling::ShareUnlessBlock if attached.suits(false, &self.client) && !has_block(&rest[..request.length]) => {}
            Handling::Multi => {
                let closed = transaction::closed(rest, self.server.denied())?;
                record.add(PoolCounter::CommandTransaction, u64::from(closed.replies));
                return Some((Work::Transaction, closed.replies, closed.length));
            }
            _other_places => return None,
        }
        if command.kind == Kind::PubSub && self.server.is_crowded() {
            return None;
        }
        self.note_script(command, &rest[..request.length]);
        self.client.shown.command.set(Some(command));
        record.add(count::command(command.kind), 1);
        Some((work(command), 1, request.length))
    }

    /// Sources of scripts are remembered until the server is told to forget them.
    pub(super) fn note_script(&self, command: &Command, whole: &[u8]) {
        if command.kind != Kind::Script {
            return;
        }
        let source = match command.name {
            "eval" | "eval_ro" => Arguments::new(whole).nth(1),
            "script|load" => Arguments::new(whole).nth(2),
            "script|flush" => return self.server.forget_scripts(&self.worker),
            _no_source => None,
        };
        if let Some(source) = source {
            self.server.saw_script(source, &self.worker);
        }
    }

    /// Whether nobody is to wait behind this command.
    fn is_heavy(&self, command: &'static Command) -> bool {
        command.heavy || self.server.slow.note(command) || (command.replay == Replay::Never && self.server.pause.is_on())
    }

    pub(super) fn inline(&mut self, text: &[u8]) -> Next {
        match inline::split(text) {
            Ok(arguments) => self.one(&anew(arguments.iter().map(Vec::as_slice))),
            Err(fault) => {
                self.protocol_fault(fault);
                Next::Done
            }
        }
    }

    /// Deals with one whole, canonical request by itself.
    pub(super) fn one(&mut self, whole: &[u8]) -> Next {
        let Ok(Scanned::Request(request)) = RequestScanner::default().scan(whole, false) else { return Next::Done };
        let name = &whole[request.name.clone()];
        if inline::is_http(name) {
            self.protocol_fault(RequestFault::Http);
            return Next::Done;
        }
        let command = resolve(whole, &request);
        let next = self.decide(whole, name, command);
        // SKIP silences exactly one request, and not the one that asked for it.
        let asked_for_silence = command.is_some_and(|command| command.handling == Handling::ReplyMode);
        if self.replies == Replies::Skip && !asked_for_silence && matches!(next, Next::Done) {
            self.replies = Replies::On;
        }
        next
    }

    fn decide(&mut self, whole: &[u8], name: &[u8], command: Option<&'static Command>) -> Next {
        let handling = command.map(|command| command.handling);
        self.client.shown.command.set(command);
        if self.account.is_none() && !matches!(handling, Some(Handling::Auth | Handling::Hello | Handling::Quit | Handling::Reset)) {
            return self.say_error(self.stranger(whole, name, handling));
        }
        if self.is_subscribed_resp2()
            && let Some(next) = self.while_subscribed(whole, name, command)
        {
            return next;
        }
        if let Some(next) = self.while_lost(handling) {
            return next;
        }
        let Some(command) = command else { return self.unlisted(whole, name) };
        if command.is_denied(self.server.denied()) {
            return self.say_error(gate::refusal(command));
        }
        self.note_script(command, whole);
        if let Some(raise) = self.raised(whole, command) {
            return self.share_raised(whole, raise);
        }
        match command.handling {
            Handling::Share | Handling::Exec | Handling::Discard | Handling::Unwatch => {
                self.share(whole, work(command), command.kind, self.is_heavy(command))
            }
            Handling::ShareUnlessBlock if !has_block(whole) => self.share(whole, work(command), command.kind, false),
            Handling::ShareUnlessBlock
            | Handling::Block
            | Handling::Lease
            | Handling::Control
            | Handling::Wait
            | Handling::Multi
            | Handling::Watch
            | Handling::Takeover
            | Handling::Monitor => self.step(Step::Lease),
            Handling::Subscribe => self.step(Step::Subscribe),
            Handling::Unsubscribe => self.step(Step::Unsubscribe),
            Handling::Hello => self.hello(whole),
            Handling::Auth => self.auth(whole),
            Handling::Select => self.select(whole),
            Handling::Reset => self.reset(whole),
            Handling::Tracking => self.tracking(whole),
            Handling::Quit => {
                self.say(b"+OK\r\n");
                self.closing = Some(End::Left);
                Next::Done
            }
            Handling::Refuse => {
                self.say_error(format!("ERR '{}' is not possible through sidepool: it would take the shared connection over", command.name))
            }
            Handling::SetName
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
            | Handling::GetRedir => self.virtual_command(whole, command),
        }
    }
}

/// The table's row for the request at the front of `bytes`; that of the sub-command where there is one.
pub(super) fn resolve(bytes: &[u8], request: &Request) -> Option<&'static Command> {
    let command = command::lookup(&bytes[request.name.clone()])?;
    if request.arguments < 2 || !command::is_container(command) {
        return Some(command);
    }
    let sub = Arguments::new(bytes).nth(1)?;
    // A sub-command that we do not know is the server's to know.
    Some(command::lookup_sub(command, sub).unwrap_or(command))
}

/// The request at the front of `bytes`, and how much of them that is; `None`: there is no whole one.
pub(super) fn front(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, RequestFault> {
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        return Ok(match RequestScanner::default().scan(rest, false)? {
            Scanned::Request(request) => Some((anew(Arguments::new(&rest[..request.length])), at + request.length)),
            Scanned::Inline { text, length } => {
                let arguments = inline::split(&rest[text])?;
                Some((anew(arguments.iter().map(Vec::as_slice)), at + length))
            }
            Scanned::Nothing { length } => {
                at += length;
                continue;
            }
            Scanned::Incomplete { .. } => None,
        });
    }
}

/// What the request at the front of `bytes` asks for; `None`: something that the table does not have, or it is not all there.
pub(super) fn handling(bytes: &[u8]) -> Option<Handling> {
    match RequestScanner::default().scan(bytes, false) {
        Ok(Scanned::Request(request)) => resolve(bytes, &request).map(|command| command.handling),
        Ok(Scanned::Incomplete { .. } | Scanned::Nothing { .. } | Scanned::Inline { .. }) | Err(_) => None,
    }
}

/// Whether an `XREAD` or `XREADGROUP` waits: `BLOCK` stands among its options. Groups and consumers may be called like one.
pub(super) fn has_block(whole: &[u8]) -> bool {
    let mut arguments = Arguments::new(whole).skip(1);
    while let Some(option) = arguments.next() {
        let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
        if is("block") || is("streams") {
            return is("block");
        }
        let values = if is("group") { 2 } else { usize::from(is("count")) };
        arguments.by_ref().take(values).for_each(drop);
    }
    false
}

fn work(command: &Command) -> Work {
    match command.replay {
        Replay::Safe => Work::Reads,
        Replay::Never => Work::Writes,
    }
}

/// A request in canonical form.
pub(super) fn anew<'a>(arguments: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let arguments: Vec<&[u8]> = arguments.collect();
    let mut bytes = Vec::new();
    encode::command(&mut bytes, &arguments);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_option_makes_a_stream_wait_not_a_name_like_it() {
        let blocks = |words: &str| has_block(&anew(words.split(' ').map(str::as_bytes)));
        for waits in [
            "XREAD BLOCK 0 STREAMS s $",
            "XREAD COUNT 2 block 0 STREAMS s $",
            "XREADGROUP GROUP streams c BLOCK 0 STREAMS s >",
            "XREADGROUP group g STREAMS NOACK Block 0 STREAMS s >",
            "XREADGROUP GROUP block block COUNT 1 BLOCK 0 STREAMS s >",
            "XREADGROUP BLOCK 0 GROUP g c STREAMS s >",
        ] {
            assert!(blocks(waits), "{waits}");
        }
        for reads in [
            "XREAD STREAMS block 0",
            "XREAD COUNT block STREAMS s 0",
            "XREADGROUP GROUP block c STREAMS s >",
            "XREADGROUP GROUP g BLOCK NOACK COUNT 3 STREAMS s >",
            "XREADGROUP GROUP Streams streams STREAMS BLOCK >",
            "XREADGROUP GROUP g",
        ] {
            assert!(!blocks(reads), "{reads}");
        }
    }
}
