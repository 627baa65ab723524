//! What comes down a connection that a session has for itself: each reply is given to whom it is owed, which is the client, nobody, or ourselves.

use sidepool_protocol::redis::frame::{Scan, Value};

use super::end::End;
use super::relay::{Owed, Relay, What};
use super::run::Session;

impl Relay {
    /// Hands replies to the client, in as few pieces as possible.
    pub(super) fn take_in(&mut self, session: &mut Session, bytes: &[u8]) -> Result<(), ()> {
        let (mut from, mut at) = (0, 0);
        if self.raw && self.owed.is_empty() {
            self.hand_over(session, bytes, false);
            return Ok(());
        }
        if self.subscribed && self.owed.is_empty() {
            return self.take_in_subscribed(session, bytes);
        }
        while at < bytes.len() {
            let begins = at;
            match self.scanner.scan(&bytes[at..]).map_err(drop)? {
                Scan::More => {
                    at = bytes.len();
                    if self.is_hidden() {
                        self.hand_over(session, &bytes[from..begins], false);
                        self.gather(session, &bytes[begins..at]);
                        from = at;
                    }
                }
                Scan::End { used, value } => {
                    at += used;
                    if value.is_push() || self.monitoring {
                        self.times.passed();
                        continue;
                    }
                    // What nobody is owed can only be an error about something that is answered out of band.
                    let Some(Owed { what, muted, asked, waits }) = self.owed.pop_front() else { continue };
                    if waits {
                        self.blocked.ends();
                    }
                    self.times.answered(asked, session.client.id);
                    let settles = self.is_gathered(&what);
                    if muted || settles || what == What::Swallow {
                        self.hand_over(session, &bytes[from..begins], false);
                        from = at;
                    }
                    if settles {
                        self.gathered.extend_from_slice(&bytes[begins..at]);
                        let reply = std::mem::take(&mut self.gathered);
                        let reply = match what {
                            What::Changed(change) => self.settle_one(session, *change, &reply),
                            _exec => self.settle(session, &reply),
                        };
                        self.hand_over(session, if muted { &[] } else { &reply }, false);
                        if self.subscribed && at < bytes.len() {
                            return self.take_in_subscribed(session, &bytes[at..]);
                        }
                    } else {
                        self.on_reply(session, what, value);
                    }
                    if matches!(self.owed.front(), Some(Owed { what: What::Own(_), .. })) {
                        self.hand_over(session, &bytes[from..at], false);
                        from = at;
                        self.say_own(session);
                    }
                }
            }
        }
        if !self.scanner.is_between() {
            self.times.began();
        }
        let inside = !self.scanner.is_between() && !self.is_hidden();
        self.hand_over(session, &bytes[from..at], inside);
        Ok(())
    }

    pub(super) fn hand_over(&self, session: &Session, bytes: &[u8], inside: bool) {
        if !bytes.is_empty() {
            session.client.deliver(bytes, inside);
        }
    }

    /// Whether the client does not see what is being scanned.
    fn is_hidden(&self) -> bool {
        let answers = self.scanner.kind().is_some_and(|kind| kind != b'>') && !self.monitoring;
        let hidden = |owed: &Owed| owed.muted || owed.what == What::Swallow || self.is_gathered(&owed.what);
        answers && self.owed.front().is_some_and(hidden)
    }

    /// Keeps a part of a reply, as far as a client's output may grow.
    fn gather(&mut self, session: &Session, bytes: &[u8]) {
        if !self.owed.front().is_some_and(|owed| self.is_gathered(&owed.what)) {
            return;
        }
        if session.server.config().client_output_buffer_limit.normal.is_over_hard(self.gathered.len() + bytes.len()) {
            self.gathered = Vec::new();
            session.client.doom(End::OutputLimit);
            return;
        }
        self.gathered.extend_from_slice(bytes);
    }

    fn is_gathered(&self, what: &What) -> bool {
        match what {
            What::Exec => self.gathers(),
            What::Changed(_) => true,
            What::Plain | What::Multi | What::Queued(_) | What::Select(_) | What::Monitor | What::Swallow | What::Own(_) => false,
        }
    }

    /// Whether nothing more is understood before `EXEC` is answered.
    pub(super) fn is_settling(&self) -> bool {
        self.settling && !self.multi
    }

    fn on_reply(&mut self, session: &mut Session, what: What, value: Value) {
        match what {
            What::Plain | What::Swallow | What::Own(_) | What::Changed(_) => {}
            What::Queued(change) => self.on_queued(change, value),
            What::Multi => {
                self.queued = None;
                let ends_later = self.owed.iter().any(|owed| owed.what == What::Exec);
                if value.is_error() && !ends_later {
                    self.multi = false;
                }
            }
            What::Exec => self.settling = false,
            What::Select(database) if !value.is_error() => session.use_database(database),
            What::Monitor if !value.is_error() => self.monitoring = true,
            What::Monitor => self.monitor = false,
            What::Select(_) => {}
        }
    }
}
