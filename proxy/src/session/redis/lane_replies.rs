//! What comes down a lane: each reply is handed to the client that it belongs to, straight from the read buffer. What the server did not execute is
//! asked again.

use std::rc::Weak;

use sidepool_protocol::redis::audience;
use sidepool_protocol::redis::frame::Scan;

use super::client::{Owner, Redo};
use super::count;
use super::group::Group;
use super::lane::{Held, Lane};
use super::redo::{NotExecuted, not_executed};
use crate::clock;
use crate::observe::record::{PoolCounter, PoolRecord};
use crate::pool::handle::Pool;
use crate::upstream::redis::connector::RedisConnector;

/// Replies of one client that stand next to each other.
struct Batch {
    owner: Owner,
    muted: bool,
    /// Its owner waits no longer, and is paid.
    abandoned: bool,
    from: usize,
    replies: u32,
}

impl Lane {
    /// Hands a batch of replies over.
    fn finish(&self, batch: &mut Option<Batch>, bytes: &[u8], to: usize, inside: bool, record: &PoolRecord) {
        let Some(batch) = batch.take() else { return };
        let client = &batch.owner.0;
        if !batch.muted && to > batch.from {
            record.add(PoolCounter::BytesToClient, (to - batch.from) as u64);
            client.deliver(&bytes[batch.from..to], inside);
        }
        if batch.replies > 0 && !batch.abandoned {
            self.pay(client, batch.replies);
        }
    }

    /// Hands replies to their owners. One delivery for all that stand next to each other.
    pub(super) fn dispatch(&self, held: &mut Held, bytes: &[u8], record: &PoolRecord, group: &Weak<Group>) -> Result<(), ()> {
        self.progress.set(self.progress.get().wrapping_add(1));
        let mut at = 0;
        let mut batch: Option<Batch> = None;
        let line = !self.turns.is_empty();
        if !line {
            self.flow.forget();
        }
        let owed = self.pipeline.borrow().owed();
        while at < bytes.len() {
            let (owner, muted, abandoned, wanted, raised) = {
                let pipeline = self.pipeline.borrow();
                // A reply that nobody is owed: the connection is out of step.
                let Some(slot) = pipeline.next() else { return Err(()) };
                (slot.owner.clone(), slot.muted || slot.abandoned, slot.abandoned, pipeline.next_replies(), !slot.raise.is_empty())
            };
            if wanted == 0 {
                self.finish(&mut batch, bytes, at, false, record);
                self.deliver_own();
                continue;
            }
            if raised {
                self.finish(&mut batch, bytes, at, false, record);
                at += self.dispatch_raised(held, &bytes[at..], &owner, muted, abandoned, record)?;
                continue;
            }
            if batch.as_ref().is_none_or(|batch| batch.owner != owner || batch.muted != muted || batch.abandoned != abandoned) {
                self.finish(&mut batch, bytes, at, false, record);
                batch = Some(Batch { owner: owner.clone(), muted, abandoned, from: at, replies: 0 });
            }
            let mut got = 0;
            let mut redo = None;
            while got < wanted && at < bytes.len() {
                let whole = held.scanner.is_between();
                match held.scanner.scan(&bytes[at..]).map_err(drop)? {
                    Scan::More => at = bytes.len(),
                    Scan::End { used, value } => {
                        if value.is_error() {
                            let line = &bytes[at..at + used];
                            if owner.0.is_nobody() {
                                refused_renewal(line, held.lease.pool());
                            }
                            record.add(count::server_error(line), 1);
                            let before = got + batch.as_ref().map_or(0, |batch| batch.replies);
                            redo = if whole && !muted { self.redo(held, line, &owner, [before, got], group) } else { None };
                        }
                        at += used;
                        got += 1;
                        if redo.is_some() {
                            self.finish(&mut batch, bytes, at - used, false, record);
                            break;
                        }
                    }
                }
            }
            if got > 0 {
                self.pipeline.borrow_mut().on_replies(got);
                if let Some(batch) = &mut batch {
                    batch.replies += got;
                }
            }
            if let Some(redo) = redo {
                // It is the one reply that is owed; what came before it in this batch is paid here as well.
                owner.0.put_redo(redo);
                self.pay(&owner.0, got);
            }
        }
        let replies = owed - self.pipeline.borrow().owed();
        if line {
            self.flow.on_replies(replies, clock::now);
        }
        if let Some(reach) = &self.reach {
            reach.on_replies(replies, clock::now);
        }
        let inside = !held.scanner.is_between() && held.kept.is_empty();
        let last = batch.as_ref().filter(|batch| !batch.muted).map(|batch| batch.owner.clone());
        self.finish(&mut batch, bytes, at, inside, record);
        self.deliver_own();
        if let Some(Owner(client)) = last {
            self.watch_backlog(held, client, inside, group);
        }
        Ok(())
    }

    /// What becomes of a command that the server did not execute; `None`: its client is told. Replies of the same client come with this
    /// one: `before` in all, and `here` that answer requests of the same slot.
    fn redo(&self, held: &mut Held, line: &[u8], owner: &Owner, [before, here]: [u32; 2], group: &Weak<Group>) -> Option<Redo> {
        let why = not_executed(line)?;
        let alone = owner.0.pending() == before + 1;
        let wanted = why == NotExecuted::NoScript || group.upgrade().is_some_and(|group| group.retries());
        held.stale |= why == NotExecuted::NotHere && wanted;
        if why == NotExecuted::NoScript
            && !alone
            && let Some(group) = group.upgrade()
        {
            group.reload_scripts(self.pipeline.borrow().nth_request(here).unwrap_or_default());
        }
        if !alone || !wanted {
            return None;
        }
        let request = self.pipeline.borrow().nth_request(here)?.to_vec();
        Some(Redo { request, line: line.to_vec(), why })
    }

    /// One reply whose numbers are too low, as far as it is there; says how many bytes that is.
    fn dispatch_raised(
        &self,
        held: &mut Held,
        bytes: &[u8],
        owner: &Owner,
        muted: bool,
        abandoned: bool,
        record: &PoolRecord,
    ) -> Result<usize, ()> {
        let Scan::End { used, .. } = held.scanner.scan(bytes).map_err(drop)? else {
            held.kept.extend_from_slice(bytes);
            return Ok(bytes.len());
        };
        held.kept.extend_from_slice(&bytes[..used]);
        let kept = std::mem::take(&mut held.kept);
        let reply = self.pipeline.borrow().next().map(|slot| audience::raise(&kept, &slot.raise)).unwrap_or(kept);
        self.pipeline.borrow_mut().on_replies(1);
        if !muted {
            record.add(PoolCounter::BytesToClient, reply.len() as u64);
            owner.0.deliver(&reply, false);
        }
        if !abandoned {
            self.pay(&owner.0, 1);
        }
        Ok(used)
    }
}

/// The connection stays what it was; new ones would not come in.
fn refused_renewal(line: &[u8], pool: &Pool<RedisConnector>) {
    let said = String::from_utf8_lossy(line.get(1..).unwrap_or_default());
    tracing::warn!(pool = &**pool.name(), said = said.trim_end(), "the Redis server does not take the new password on an open connection");
}
