//! Why clients of Redis leave, as a closed list, and the lines of the log about those who come and go, or get no connection.
//!
//! Two lines for each client that is let in, where `log.connections` and `log.disconnections` want them; one for each that leaves before that.
//! Nothing here is touched per command.

use std::task::Context;

use super::refusal;
use super::run::Session;
use crate::clock;
use crate::observe::record::WorkerCounter;
use crate::pool::acquire::AcquireError;
use crate::pool::measure;
use crate::pool::reason::RefuseReason;
use crate::transport::ends::Ends;

/// Why a session ended: a field of the log. Words that PostgreSQL's sessions have, too, mean the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// `QUIT`.
    Left,
    /// The client closed its connection.
    Gone,
    /// The client's connection broke.
    Lost,
    /// It did not say in time who it is.
    LoginTimeout,
    /// It had not said who it is, and its place was needed.
    CrowdedOut,
    /// The TLS handshake failed, or it did not begin one where it had to.
    Handshake,
    /// The client broke the protocol.
    Violation,
    /// It does not read its replies.
    OutputLimit,
    /// The same, and memory was running out.
    Memory,
    /// `CLIENT KILL`.
    Killed,
    /// The server does not let its user in any more, or does not let it hear what it listens to.
    Denied,
    /// It may have missed messages that it listens to.
    Gap,
    /// The server's connection was lost, and it could not go on without what that knew.
    ServerLost,
    /// There was no connection for it, and what it had sent could not be answered otherwise.
    Refused,
    /// The proxy shuts down, or another process has taken over.
    Drained,
    /// The time for that was over.
    Cut,
}

/// Why somebody is not let in whose last try was wrong, in the log and in metrics.
const AUTH_FAILED: &str = "auth_failed";

/// How far a client has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has not been let in.
    New,
    /// Nor has it, and the last that it said of who it is was wrong.
    Wrong,
    /// It has been let in. That stays so, even where it has to say again who it is.
    In,
}

impl End {
    /// Its name in the log.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Left => "client_close",
            Self::Gone => "client_eof",
            Self::Lost => "client_lost",
            Self::LoginTimeout => "login_timeout",
            Self::CrowdedOut => "crowded_out",
            Self::Handshake => "tls",
            Self::Violation => "protocol_violation",
            Self::OutputLimit => "output_limit",
            Self::Memory => "memory",
            Self::Killed => "killed",
            Self::Denied => "denied",
            Self::Gap => "subscriber_gap",
            Self::ServerLost => "server_lost",
            Self::Refused => "refused",
            Self::Drained => "draining",
            Self::Cut => "drain_timeout",
        }
    }

    /// The counters of a client that is not let in for this: by the coarse result, and by the reason. `None`: it went, or was in.
    fn denied(self) -> Option<(Option<WorkerCounter>, WorkerCounter)> {
        match self {
            Self::LoginTimeout => Some((Some(WorkerCounter::RedisLoginTimeout), WorkerCounter::DeniedRedisTimeout)),
            Self::CrowdedOut => Some((Some(WorkerCounter::RedisLoginCrowdedOut), WorkerCounter::DeniedRedisCrowdedOut)),
            Self::Handshake => Some((None, WorkerCounter::DeniedRedisTls)),
            Self::Violation => Some((None, WorkerCounter::DeniedRedisProtocol)),
            Self::Left
            | Self::Gone
            | Self::Lost
            | Self::OutputLimit
            | Self::Memory
            | Self::Killed
            | Self::Denied
            | Self::Gap
            | Self::ServerLost
            | Self::Refused
            | Self::Drained
            | Self::Cut => None,
        }
    }

    /// Whether the client went by itself.
    fn is_its_own(self) -> bool {
        match self {
            Self::Left | Self::Gone | Self::Lost => true,
            Self::LoginTimeout
            | Self::CrowdedOut
            | Self::Handshake
            | Self::Violation
            | Self::OutputLimit
            | Self::Memory
            | Self::Killed
            | Self::Denied
            | Self::Gap
            | Self::ServerLost
            | Self::Refused
            | Self::Drained
            | Self::Cut => false,
        }
    }
}

impl Session {
    /// Whether the process is on its way out, and keeps nothing back that the client is still to get.
    pub(super) fn is_to_leave(&self, cx: &mut Context<'_>) -> bool {
        self.worker.drain.is_over_for_those_who_cannot_move() && self.client.poll_drained(cx).is_ready()
    }

    /// The client may do something from now on.
    pub(super) fn note_in(&mut self) {
        if self.standing == Standing::In || self.account.is_none() {
            return;
        }
        self.standing = Standing::In;
        let wanted = {
            let config = self.worker.config.borrow();
            (config.log.connections, config.log.disconnections)
        };
        if wanted == (false, false) {
            return;
        }
        let ends = self.ends();
        if wanted.0 {
            let (peer, client, user) = (ends.peer(), self.client.id, self.user());
            tracing::info!(peer, client, pool = self.pool(), user, database = %self.database, "client connected");
        }
        self.noted = Some(Box::new(ends));
    }

    /// It did not prove who it is.
    pub(super) fn note_wrong(&mut self) {
        self.worker.record.add(WorkerCounter::RedisLoginBadPassword, 1);
        if self.standing != Standing::In {
            self.standing = Standing::Wrong;
        }
        let (peer, client, server) = (self.ends().peer(), self.client.id, &*self.server.name);
        tracing::info!(peer, client, server, reason = AUTH_FAILED, "a Redis client gave a wrong user or password");
    }

    /// There is no connection for what it asks, for this reason; what it is told.
    pub(super) fn note_unconnected(&self, pool: &str, error: &AcquireError) -> String {
        let line = refusal::line(error);
        self.note_refused(pool, error.refusal.reason, &line);
        line
    }

    /// There is no connection for what it asks.
    pub(super) fn note_refused(&self, pool: &str, reason: RefuseReason, line: &str) {
        if self.worker.config.borrow().log.pooler_errors {
            let (client, peer, user, reason) = (self.client.id, self.ends().peer(), self.user(), measure::refusal_label(reason));
            tracing::warn!(pool, client, peer, user, database = %self.database, reason, "no connection for a client: {line}");
        }
    }

    /// The client has left.
    pub(super) fn note_out(&self) {
        if std::thread::panicking() {
            return;
        }
        // What it is told at the end may not reach it any more: that is not why it leaves.
        let end = match (self.closing, self.client.end()) {
            (Some(end), None | Some(End::Lost)) | (_, Some(end)) => end,
            (None, None) => End::Cut,
        };
        let (client, age_s) = (self.client.id, clock::now().saturating_duration_since(self.client.since).as_secs());
        match self.standing {
            Standing::In if self.worker.config.borrow().log.disconnections => {
                let (peer, user, reason) = (self.noted.as_deref().map_or_else(|| self.ends().peer(), Ends::peer), self.user(), end.label());
                tracing::info!(peer, client, pool = self.pool(), user, database = %self.database, age_s, reason, "client disconnected");
            }
            Standing::In => {}
            Standing::New | Standing::Wrong => self.note_denied(end, age_s),
        }
    }

    /// The client has left, and never was in.
    fn note_denied(&self, end: End, age_s: u64) {
        let (peer, client, server) = (self.ends().peer(), self.client.id, &*self.server.name);
        let (result, denied) = end.denied().unzip();
        // However often it tried, and however it went then: that is one client, and one reason.
        let wrong = self.standing == Standing::Wrong;
        let (denied, reason) = if wrong { (Some(WorkerCounter::DeniedRedisAuth), AUTH_FAILED) } else { (denied, end.label()) };
        result.flatten().into_iter().chain(denied).for_each(|counter| self.worker.record.add(counter, 1));
        match (end.is_its_own() && !wrong, self.client.shown.command.get()) {
            (true, None) => tracing::debug!(peer, client, server, age_s, reason, "client left without a word"),
            (true, Some(_)) => tracing::info!(peer, client, server, age_s, reason, "client left during login"),
            (false, _) => tracing::warn!(peer, client, server, age_s, reason, "a Redis client was not let in"),
        }
    }

    fn ends(&self) -> Ends {
        self.client.with_stream(Ends::of).unwrap_or(Ends::Unknown)
    }

    fn user(&self) -> String {
        self.account.as_ref().map(|account| account.name.to_string()).unwrap_or_default()
    }

    /// The pool that its commands are sent through, as metrics name it, or would be.
    fn pool(&self) -> String {
        self.key().map(|key| key.shared_name(&self.server.name)).unwrap_or_else(|| self.server.name.to_string())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.note_slow();
        self.note_out();
        self.leave_hub();
        self.detach();
        self.part_identity();
        self.server.leave(self.client.id);
        self.client.close();
    }
}
