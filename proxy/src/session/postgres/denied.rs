//! Why a client is not let in: one closed list, whose words are the `reason` of the log's line and a label of the metric
//! `sidepool_client_denials_total`. (Those who are turned away at the door are counted there: `listener::gate`.)

use sidepool_protocol::postgres::fault::{Fault, SqlState};

use super::account::{Crowd, Exceeded};
use crate::observe::record::WorkerCounter;
use crate::pool::reason::RefuseReason;

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// It did not prove who it is.
    AuthFailed,
    /// It may not come in as this user: by a rule, or for want of one, of such a user, or of a certificate.
    AuthRejected,
    /// It could not be found out who it is.
    AuthUnavailable,
    /// It does not use TLS, and has to.
    TlsRequired,
    /// The handshake failed.
    TlsFailed,
    /// It does not speak PostgreSQL.
    NotPostgres,
    /// It speaks it wrongly.
    Protocol,
    /// A parameter of its start-up message cannot be had.
    Parameter,
    /// No such database is configured.
    UnknownDatabase,
    /// The server has no such database.
    NoServerDatabase,
    /// An operator has disabled the database.
    DatabaseDisabled,
    /// As many databases of the entry `*` are in use as may be.
    TooManyDatabases,
    /// As many clients of its database are connected as may be.
    DatabaseClients,
    /// As many clients of its user are connected as may be.
    UserClients,
    /// The admin console is not for this user.
    Console,
    /// The queue for connections is full.
    QueueFull,
    /// It waited for as long as it may.
    WaitTimeout,
    /// It would have.
    WouldTimeOut,
    /// The server cannot be reached, or does not let us in.
    Upstream,
    /// An operator has paused the pool.
    Paused,
    /// The pool, or the process, is on its way out.
    Draining,
    /// Its login took too long.
    LoginTimeout,
    /// So did the server.
    LoginTimeoutServer,
    /// It waited for a server for longer than a query may.
    QueryTimeout,
    /// It was slow, and its place was needed.
    CrowdedOut,
    /// A mistake of the configuration, or of ours.
    Internal,
}

impl Denied {
    /// The counters of this: by the coarse result, and by the reason.
    pub(super) fn counters(self) -> (WorkerCounter, WorkerCounter) {
        let (other, refused) = (WorkerCounter::PostgresLoginOther, WorkerCounter::PostgresLoginRefused);
        match self {
            Self::AuthFailed => (WorkerCounter::PostgresLoginBadPassword, WorkerCounter::DeniedAuthFailed),
            Self::AuthRejected => (other, WorkerCounter::DeniedAuthRejected),
            Self::AuthUnavailable => (other, WorkerCounter::DeniedAuthUnavailable),
            Self::TlsRequired => (other, WorkerCounter::DeniedTlsRequired),
            Self::TlsFailed => (other, WorkerCounter::DeniedTlsFailed),
            Self::NotPostgres => (other, WorkerCounter::DeniedNotPostgres),
            Self::Protocol => (other, WorkerCounter::DeniedProtocol),
            Self::Parameter => (other, WorkerCounter::DeniedParameter),
            Self::UnknownDatabase => (WorkerCounter::PostgresLoginNoDatabase, WorkerCounter::DeniedUnknownDatabase),
            Self::NoServerDatabase => (WorkerCounter::PostgresLoginNoDatabase, WorkerCounter::DeniedNoServerDatabase),
            Self::DatabaseDisabled => (refused, WorkerCounter::DeniedDatabaseDisabled),
            Self::TooManyDatabases => (refused, WorkerCounter::DeniedTooManyDatabases),
            Self::DatabaseClients => (refused, WorkerCounter::DeniedDatabaseClients),
            Self::UserClients => (refused, WorkerCounter::DeniedUserClients),
            Self::Console => (other, WorkerCounter::DeniedConsole),
            Self::QueueFull => (refused, WorkerCounter::DeniedQueueFull),
            Self::WaitTimeout => (refused, WorkerCounter::DeniedWaitTimeout),
            Self::WouldTimeOut => (refused, WorkerCounter::DeniedWouldTimeOut),
            Self::Upstream => (refused, WorkerCounter::DeniedUpstream),
            Self::Paused => (refused, WorkerCounter::DeniedPaused),
            Self::Draining => (refused, WorkerCounter::DeniedDraining),
            Self::LoginTimeout => (WorkerCounter::PostgresLoginTimeout, WorkerCounter::DeniedLoginTimeout),
            Self::LoginTimeoutServer => (WorkerCounter::PostgresLoginTimeout, WorkerCounter::DeniedLoginTimeoutServer),
            Self::QueryTimeout => (WorkerCounter::PostgresLoginTimeout, WorkerCounter::DeniedQueryTimeout),
            Self::CrowdedOut => (WorkerCounter::PostgresLoginCrowdedOut, WorkerCounter::DeniedCrowdedOut),
            Self::Internal => (other, WorkerCounter::DeniedInternal),
        }
    }

    /// Its name in the log and in the metric.
    pub(super) fn label(self) -> &'static str {
        self.counters().1.series().labels[1]
    }

    /// Where nobody has said why, the code does.
    pub(super) fn by_code(fault: &Fault) -> Self {
        match fault.sqlstate {
            SqlState::INVALID_PASSWORD => Self::AuthFailed,
            SqlState::INVALID_AUTHORIZATION => Self::AuthRejected,
            SqlState::PROTOCOL_VIOLATION | SqlState::CHARACTER_NOT_IN_REPERTOIRE | SqlState::FEATURE_NOT_SUPPORTED => Self::Protocol,
            SqlState::INVALID_PARAMETER_VALUE | SqlState::PROGRAM_LIMIT_EXCEEDED => Self::Parameter,
            _any_other => Self::Internal,
        }
    }
}

impl From<RefuseReason> for Denied {
    fn from(reason: RefuseReason) -> Self {
        match reason {
            RefuseReason::QueueFull => Self::QueueFull,
            RefuseReason::WaitTimeout => Self::WaitTimeout,
            RefuseReason::WouldTimeOut => Self::WouldTimeOut,
            RefuseReason::UpstreamRefuses | RefuseReason::LoginFailing => Self::Upstream,
            RefuseReason::Paused => Self::Paused,
            RefuseReason::Draining => Self::Draining,
        }
    }
}

impl From<Exceeded> for Denied {
    fn from(exceeded: Exceeded) -> Self {
        match exceeded.of {
            Crowd::Database => Self::DatabaseClients,
            Crowd::User => Self::UserClients,
        }
    }
}
