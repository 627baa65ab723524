//! Commands that the table does not have, of modules or of newer servers: the server's own `COMMAND INFO` says
//! whether they can be shared. A client is never closed for one.

use std::time::Duration;

use sidepool_protocol::redis::command::Kind;
use sidepool_protocol::redis::encode::Resp;
use sidepool_protocol::redis::request::Arguments;
use sidepool_protocol::redis::tracker::Work;

use super::group::Key;
use super::run::Session;
use super::steps::{After, Next, Step};
use crate::pool::id::IdentityId;
use crate::pool::reason::Condition;
use crate::upstream::redis::connector::RedisConnector;
use crate::upstream::redis::facts::Flags;

/// How long the server may take to say what a command is.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

impl Session {
    /// A command that the table does not have.
    pub(super) fn unlisted(&mut self, whole: &[u8], name: &[u8]) -> Next {
        match self.server.facts.flags(&name.to_ascii_lowercase()) {
            Some(Flags { shareable: true, reads: true, .. }) => self.share(whole, Work::Reads, Kind::Read, false),
            Some(Flags { shareable: true, reads: false, .. }) => self.share(whole, Work::Writes, Kind::Write, false),
            Some(Flags { shareable: false, .. }) => self.step(Step::Lease),
            None => self.step(Step::Unknown),
        }
    }

    /// Asks the server what the command at the front of `carry` is, then deals with it.
    pub(super) async fn unknown(&mut self) -> After {
        let Some(Key { user, database, .. }) = self.key() else { return After::GoOn };
        let Some(name) = self.front_name() else { return After::GoOn };
        let group = self.server.group(&Key::new(user, database), &self.worker);
        match self.wait_for(group.leased.acquire(IdentityId::default())).await {
            None => return After::End,
            Some(Err(error)) => {
                let line = self.note_unconnected(group.leased.name(), &error);
                self.refuse_front(line);
                return After::GoOn;
            }
            Some(Ok(mut lease)) => {
                let question: [&[u8]; 3] = [b"COMMAND", b"INFO", &name];
                match RedisConnector::ask(&mut lease, &question, Resp::Two, ANSWER_TIMEOUT).await {
                    Ok(reply) => {
                        lease.release(Condition::Clean);
                        self.server.facts.learn_commands(&reply);
                    }
                    Err(fault) => {
                        tracing::warn!(server = &*self.server.name, fault = &*fault.message, "cannot ask the Redis server about a command");
                        lease.release(Condition::Broken);
                    }
                }
            }
        }
        // Whatever is still unknown takes a connection of its own, where it can do no harm; the server will say what it is.
        if self.server.facts.flags(&name).is_some() { After::GoOn } else { Box::pin(self.leased()).await }
    }

    /// The name of the command at the front of `carry`, in lower case.
    fn front_name(&mut self) -> Option<Vec<u8>> {
        Some(Arguments::new(&self.front_request()?).next()?.to_ascii_lowercase())
    }
}
