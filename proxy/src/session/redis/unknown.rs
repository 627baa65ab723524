//! Commands that the table does not have, of modules or of newer servers: the server's own `COMMAND` says whether they can be shared. A
//! client is never closed for one.

use std::time::Duration;

use sidepool_protocol::redis::command::Kind;
use sidepool_protocol::redis::encode::Resp;
use sidepool_protocol::redis::request::Arguments;
use sidepool_protocol::redis::tracker::Work;

use super::group::Key;
use super::refusal;
use super::run::{After, Next, Session, Step};
use crate::pool::id::IdentityId;
use crate::pool::reason::Condition;
use crate::upstream::redis::connector::RedisConnector;
use crate::upstream::redis::facts::Flags;

/// How long the server may take to list its commands.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);

impl Session {
    /// A command that the table does not have.
    pub(super) fn unlisted(&mut self, whole: &[u8], name: &[u8]) -> Next {
        let name = name.to_ascii_lowercase();
        match self.server.facts.flags(&name) {
            Some(Some(Flags { shareable: true, reads })) => {
                self.share(whole, if reads { Work::Reads } else { Work::Writes }, if reads { Kind::Read } else { Kind::Write })
            }
            Some(Some(Flags { shareable: false, .. })) => self.step(Step::Lease),
            // The server did not list it either; a module may have been loaded since.
            Some(None) if !self.server.facts.may_ask_again() => self.step(Step::Lease),
            Some(None) | None => self.step(Step::Unknown),
        }
    }

    /// Asks the server for its commands, then deals with the one at the front of `carry`.
    pub(super) async fn unknown(&mut self) -> After {
        let Some(Key { user, database, .. }) = self.key() else { return After::GoOn };
        let group = self.server.group(&Key { user, database, version: Resp::Two }, &self.worker);
        match self.wait_for(group.leased.acquire(IdentityId::default())).await {
            None => return After::End,
            Some(Err(error)) => {
                self.take_front();
                self.say_error(&refusal::line(&error));
                return After::GoOn;
            }
            Some(Ok(mut lease)) => match RedisConnector::ask(&mut lease, &[b"COMMAND"], Resp::Two, LIST_TIMEOUT).await {
                Ok(reply) => {
                    lease.release(Condition::Clean);
                    self.server.facts.learn_commands(&reply);
                }
                Err(fault) => {
                    tracing::warn!(server = &*self.server.name, fault = &*fault.message, "cannot ask the Redis server for its commands");
                    lease.release(Condition::Broken);
                }
            },
        }
        // Whatever is still unknown takes a connection of its own, where it can do no harm; the server will say what it is.
        let listed = RequestName::of(self).is_some_and(|name| self.server.facts.flags(&name.0).flatten().is_some());
        if listed { After::GoOn } else { Box::pin(self.leased()).await }
    }
}

/// The name of the command at the front of `carry`, in lower case.
struct RequestName(Vec<u8>);

impl RequestName {
    fn of(session: &mut Session) -> Option<Self> {
        let whole = session.take_front()?;
        let name = Arguments::new(&whole).next()?.to_ascii_lowercase();
        // Back to the front, in canonical form.
        session.carry.splice(0..0, whole);
        Some(Self(name))
    }
}
