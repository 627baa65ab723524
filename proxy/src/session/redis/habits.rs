//! `CLIENT NO-EVICT` and `CLIENT NO-TOUCH`. A client that asks for one goes on with connections for which it is in force, which it shares with others
//! like it. Whether it may, and whether there is such a thing, the server says.

use sidepool_protocol::redis::handshake::Habits;
use sidepool_protocol::redis::reply::Reply;
use sidepool_protocol::redis::request::Arguments;

use super::run::Session;
use super::shown::State;
use super::steps::After;
use super::unknown::ANSWER_TIMEOUT;
use crate::pool::id::IdentityId;
use crate::pool::reason::Condition;
use crate::upstream::redis::connector::RedisConnector;

/// What `CLIENT name mode` makes of them.
pub(super) fn switched(habits: Habits, whole: &[u8]) -> Habits {
    let mut words = Arguments::new(whole).skip(1);
    let no_evict = words.next().is_some_and(|name| name.eq_ignore_ascii_case(b"no-evict"));
    let on = words.next().is_some_and(|mode| mode.eq_ignore_ascii_case(b"on"));
    if no_evict { Habits { no_evict: on, ..habits } } else { Habits { no_touch: on, ..habits } }
}

impl Session {
    /// The switch at the front of `carry`.
    pub(super) async fn switch_front(&mut self) -> After {
        let Some(key) = self.key() else { return After::GoOn };
        let Some(whole) = self.take_front() else { return After::GoOn };
        let name: Vec<u8> = Arguments::new(&whole).nth(1).unwrap_or_default().to_vec();
        let (version, group) = (key.version, self.server.group(&key.plain(), &self.worker));
        let mut lease = match self.wait_for(group.leased.acquire(IdentityId::default())).await {
            None => return After::End,
            Some(Ok(lease)) => lease,
            Some(Err(error)) => {
                let line = self.note_unconnected(group.leased.name(), &error);
                self.say_error(line);
                return After::GoOn;
            }
        };
        // Off is how it is there.
        let answer = RedisConnector::ask(&mut lease, &[b"CLIENT", &name, b"OFF"], version, ANSWER_TIMEOUT).await;
        lease.release(if answer.is_ok() { Condition::Clean } else { Condition::Broken });
        match answer {
            Ok(Reply::Error(text)) => self.say_error(&text),
            Ok(Reply::Nil | Reply::Integer(_) | Reply::Text(_) | Reply::List(_)) => {
                self.use_habits(switched(self.client.shown.state.get().habits, &whole));
                self.say_ok()
            }
            Err(fault) => self.say_error(format!("UPSTREAM {}", fault.words())),
        };
        After::GoOn
    }

    /// Other commands go down other connections from now on. Only when no replies are owed.
    pub(super) fn use_habits(&mut self, habits: Habits) {
        let now = self.client.shown.state.get();
        if now.habits != habits {
            self.detach();
            self.client.shown.state.set(State { habits, ..now });
        }
    }
}
