//! Which cells there are: one line each, with the family it belongs to and its labels, so that a cell without a series does not compile.
//!
//! Cells of pools are shown for pools of the protocols named behind `for`.

use super::catalog::Family;

/// Which pools have a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All.
    Both,
    /// Those of the PostgreSQL side.
    Postgres,
    /// Those of the Redis side.
    Redis,
}

/// One series of a family: the labels beside `pool`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Series {
    /// The family.
    pub family: Family,
    /// Which pools have it.
    pub scope: Scope,
    /// Label values, in the order in which the family names the labels (without `pool`).
    pub labels: &'static [&'static str],
}

macro_rules! cells {
    (
        $(#[$outer:meta])*
        pub enum $name:ident {
            $( $(#[$inner:meta])* $variant:ident: $family:ident [$($label:literal),*] for $scope:ident, )*
        }
    ) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $( $(#[$inner])* $variant, )*
        }

        impl $name {
            /// Every variant.
            pub const ALL: &[Self] = &[ $( Self::$variant, )* ];

            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Which series it is.
            #[must_use]
            pub const fn series(self) -> Series {
                match self {
                    $( Self::$variant => Series { family: Family::$family, scope: Scope::$scope, labels: &[$($label),*] }, )*
                }
            }
        }
    };
}

cells! {
    /// A counter of one pool. Variants that share a family differ in a label.
    pub enum PoolCounter {
        /// A client took nothing of its answer for too long while a connection waited for it.
        ClientStalls: ClientStalls [] for Postgres,
        /// Transactions finished.
        Transactions: Transactions [] for Postgres,
        /// Nanoseconds that transactions took.
        TransactionTime: TransactionSeconds [] for Postgres,
        /// Queries (Redis: commands) sent.
        Queries: Queries [] for Both,
        /// Bytes that clients sent us.
        BytesFromClient: Bytes ["client", "in"] for Both,
        /// Bytes that we sent to clients.
        BytesToClient: Bytes ["client", "out"] for Both,
        /// Bytes that the upstream sent us.
        BytesFromServer: Bytes ["server", "in"] for Both,
        /// Bytes that we sent upstream.
        BytesToServer: Bytes ["server", "out"] for Both,

        /// A client was given a connection.
        Assignments: ServerAssignments [] for Postgres,
        /// A client logged in.
        Logins: PoolClientLogins [] for Postgres,
        /// Parse messages of clients.
        ClientParses: Parses ["client"] for Postgres,
        /// Parse messages to the server.
        ServerParses: Parses ["server"] for Postgres,
        /// Bind messages of clients.
        Binds: Binds [] for Postgres,

        /// A server was asked what has become of a session.
        StateAsked: SessionStates ["asked"] for Postgres,
        /// A connection was brought into its client's state.
        StateCarried: SessionStates ["carried"] for Postgres,
        /// Something had changed that nothing had hinted at.
        StateSurprise: SessionStates ["surprise"] for Postgres,
        /// What had become of a session could not be found out or kept.
        StateLost: SessionStates ["lost"] for Postgres,

        /// Refused: the queue was full.
        RefusedQueueFull: PoolRejections ["queue_full"] for Both,
        /// Refused: waited for the longest allowed time.
        RefusedWaitTimeout: PoolRejections ["wait_timeout"] for Both,
        /// Refused: it would have waited for longer than it may.
        RefusedWouldTimeOut: PoolRejections ["would_time_out"] for Both,
        /// Refused: the upstream refuses us.
        RefusedByUpstream: PoolRejections ["upstream_refuses"] for Both,
        /// Refused: the pool is paused.
        RefusedPaused: PoolRejections ["paused"] for Both,
        /// Refused: the pool drains.
        RefusedDraining: PoolRejections ["draining"] for Both,

        /// An upstream connection was opened.
        ConnectOk: ServerConnects ["ok"] for Both,
        /// A connection was opened under TLS, all of it agreed on anew.
        TlsFull: ServerTlsHandshakes ["full"] for Both,
        /// A connection was opened under TLS by resuming an earlier session.
        TlsResumed: ServerTlsHandshakes ["resumed"] for Both,
        /// Keys for logging in had to be derived from a password.
        KeyDerivations: ServerKeyDerivations [] for Postgres,
        /// Nobody listens there.
        ConnectRefused: ServerConnects ["refused"] for Both,
        /// No answer in time.
        ConnectTimeout: ServerConnects ["timeout"] for Both,
        /// The name does not resolve.
        ConnectResolve: ServerConnects ["resolve"] for Both,
        /// TLS failed.
        ConnectTls: ServerConnects ["tls"] for Both,
        /// The server does not accept our credentials.
        ConnectAuth: ServerConnects ["auth"] for Both,
        /// The server has no room.
        ConnectTooMany: ServerConnects ["too_many"] for Both,
        /// The server is starting up or shutting down.
        ConnectUnavailable: ServerConnects ["unavailable"] for Both,
        /// There is no such database.
        ConnectNoDatabase: ServerConnects ["no_database"] for Both,
        /// The server broke the protocol.
        ConnectProtocol: ServerConnects ["protocol"] for Both,
        /// Anything else.
        ConnectOther: ServerConnects ["other"] for Both,

        /// Closed: idle for too long.
        ClosedIdle: ServerCloses ["idle"] for Both,
        /// Closed: old.
        ClosedLifetime: ServerCloses ["lifetime"] for Both,
        /// Closed: the pool got smaller.
        ClosedShrunk: ServerCloses ["shrunk"] for Both,
        /// Closed: broken, or its lease was dropped.
        ClosedBroken: ServerCloses ["broken"] for Both,
        /// Closed: another pool needed it more.
        ClosedEvicted: ServerCloses ["evicted"] for Postgres,
        /// Closed by the server.
        ClosedByServer: ServerCloses ["server_closed"] for Both,
        /// Closed: the reset failed.
        ClosedResetFailed: ServerCloses ["reset_failed"] for Both,
        /// Closed: the probe failed.
        ClosedProbeFailed: ServerCloses ["probe_failed"] for Both,
        /// Closed: the configured address or credentials changed.
        ClosedStale: ServerCloses ["stale"] for Both,
        /// Closed: a client's statement wants nobody else to be connected to the database.
        ClosedAsked: ServerCloses ["asked"] for Postgres,
        /// Closed: the pool was paused.
        ClosedPaused: ServerCloses ["paused"] for Both,
        /// Closed: the pool drains.
        ClosedDrain: ServerCloses ["drain"] for Both,

        /// The connection that listens was lost.
        ListenLost: ListenLost [] for Postgres,
        /// A client that listens was closed: it did not take its notifications.
        ListenClosedSlow: ListenClosed ["slow"] for Postgres,
        /// A client that listens was closed: it may have missed notifications.
        ListenClosedGap: ListenClosed ["gap"] for Postgres,
        /// A notification came in.
        NotificationsReceived: Notifications ["received"] for Postgres,
        /// A notification was sent to a client.
        NotificationsDelivered: Notifications ["delivered"] for Postgres,

        /// A query was cancelled upstream.
        CancelSent: Cancels ["sent"] for Postgres,
        /// A waiting query was taken out of the queue.
        CancelQueued: Cancels ["queued"] for Postgres,
        /// There was nothing to cancel.
        CancelIdle: Cancels ["idle"] for Postgres,
        /// The upstream could not be reached for it.
        CancelFailed: Cancels ["failed"] for Postgres,

        /// A connection was pinned for temporary tables.
        PinnedForTables: Pins ["temporary_tables"] for Postgres,
        /// A connection was pinned for cursors WITH HOLD.
        PinnedForCursors: Pins ["held_cursors"] for Postgres,
        /// A connection was pinned for advisory locks.
        PinnedForLocks: Pins ["advisory_locks"] for Postgres,
        /// A connection was pinned for a loaded library.
        PinnedForLibrary: Pins ["library"] for Postgres,
        /// A connection was pinned for statements prepared in SQL.
        PinnedForStatements: Pins ["statements"] for Postgres,
        /// A connection was pinned for LISTEN.
        PinnedForListening: Pins ["listening"] for Postgres,

        /// No connection could be pinned for temporary tables.
        PinRefusedTables: PinRefusals ["temporary_tables"] for Postgres,
        /// No connection could be pinned for cursors WITH HOLD.
        PinRefusedCursors: PinRefusals ["held_cursors"] for Postgres,
        /// No connection could be pinned for advisory locks.
        PinRefusedLocks: PinRefusals ["advisory_locks"] for Postgres,
        /// No connection could be pinned for a loaded library.
        PinRefusedLibrary: PinRefusals ["library"] for Postgres,
        /// No connection could be pinned for statements prepared in SQL.
        PinRefusedStatements: PinRefusals ["statements"] for Postgres,
        /// No connection could be pinned for LISTEN.
        PinRefusedListening: PinRefusals ["listening"] for Postgres,

        /// A client was idle for too long with a connection pinned for temporary tables.
        PinTimedOutTables: PinTimeouts ["temporary_tables"] for Postgres,
        /// A client was idle for too long with a connection pinned for cursors WITH HOLD.
        PinTimedOutCursors: PinTimeouts ["held_cursors"] for Postgres,
        /// A client was idle for too long with a connection pinned for advisory locks.
        PinTimedOutLocks: PinTimeouts ["advisory_locks"] for Postgres,
        /// A client was idle for too long with a connection pinned for a loaded library.
        PinTimedOutLibrary: PinTimeouts ["library"] for Postgres,
        /// A client was idle for too long with a connection pinned for statements prepared in SQL.
        PinTimedOutStatements: PinTimeouts ["statements"] for Postgres,
        /// A client was idle for too long with a connection pinned for LISTEN.
        PinTimedOutListening: PinTimeouts ["listening"] for Postgres,

        /// A command that only reads.
        CommandRead: RedisCommands ["read"] for Redis,
        /// A command that writes.
        CommandWrite: RedisCommands ["write"] for Redis,
        /// A command that may block.
        CommandBlocking: RedisCommands ["blocking"] for Redis,
        /// A command of publish/subscribe.
        CommandPubsub: RedisCommands ["pubsub"] for Redis,
        /// A command of transactions.
        CommandTransaction: RedisCommands ["transaction"] for Redis,
        /// A script or function.
        CommandScript: RedisCommands ["script"] for Redis,
        /// A command about the connection, answered here.
        CommandConnection: RedisCommands ["connection"] for Redis,
        /// A command about the server.
        CommandAdmin: RedisCommands ["admin"] for Redis,

        /// Errors of the upstream: broken connection.
        Error08: Errors ["server", "08"] for Postgres,
        /// Errors of the upstream: data.
        Error22: Errors ["server", "22"] for Postgres,
        /// Errors of the upstream: integrity constraint.
        Error23: Errors ["server", "23"] for Postgres,
        /// Errors of the upstream: transaction state.
        Error25: Errors ["server", "25"] for Postgres,
        /// Errors of the upstream: no such statement.
        Error26: Errors ["server", "26"] for Postgres,
        /// Errors of the upstream: authorisation.
        Error28: Errors ["server", "28"] for Postgres,
        /// Errors of the upstream: serialisation, deadlock.
        Error40: Errors ["server", "40"] for Postgres,
        /// Errors of the upstream: syntax, privileges, unknown names.
        Error42: Errors ["server", "42"] for Postgres,
        /// Errors of the upstream: resources.
        Error53: Errors ["server", "53"] for Postgres,
        /// Errors of the upstream: object state.
        Error55: Errors ["server", "55"] for Postgres,
        /// Errors of the upstream: intervention, cancel.
        Error57: Errors ["server", "57"] for Postgres,
        /// Errors of the upstream: internal.
        ErrorXx: Errors ["server", "XX"] for Postgres,
        /// Errors of the upstream: any other class.
        ErrorOtherClass: Errors ["server", "other"] for Postgres,

        /// Errors of the upstream: plain ones.
        ErrorErr: Errors ["server", "ERR"] for Redis,
        /// Errors of the upstream: wrong kind of value.
        ErrorWrongType: Errors ["server", "WRONGTYPE"] for Redis,
        /// Errors of the upstream: not allowed.
        ErrorNoPerm: Errors ["server", "NOPERM"] for Redis,
        /// Errors of the upstream: out of memory.
        ErrorOom: Errors ["server", "OOM"] for Redis,
        /// Errors of the upstream: still loading.
        ErrorLoading: Errors ["server", "LOADING"] for Redis,
        /// Errors of the upstream: busy with a script.
        ErrorBusy: Errors ["server", "BUSY"] for Redis,
        /// Errors of the upstream: a replica.
        ErrorReadOnly: Errors ["server", "READONLY"] for Redis,
        /// Errors of the upstream: unknown script.
        ErrorNoScript: Errors ["server", "NOSCRIPT"] for Redis,
        /// Errors of the upstream: discarded transaction.
        ErrorExecAbort: Errors ["server", "EXECABORT"] for Redis,
        /// Errors of the upstream: the key is elsewhere in the cluster.
        ErrorMoved: Errors ["server", "MOVED"] for Redis,
        /// Errors of the upstream: the key is on its way elsewhere.
        ErrorAsk: Errors ["server", "ASK"] for Redis,
        /// Errors of the upstream: some keys are on their way.
        ErrorTryAgain: Errors ["server", "TRYAGAIN"] for Redis,
        /// Errors of the upstream: the cluster is not whole.
        ErrorClusterDown: Errors ["server", "CLUSTERDOWN"] for Redis,
        /// Errors of the upstream: a replica without its master.
        ErrorMasterDown: Errors ["server", "MASTERDOWN"] for Redis,
        /// Errors of the upstream: any other word.
        ErrorOtherWord: Errors ["server", "other"] for Redis,

        /// Errors that we sent because no upstream connection was to be had.
        ErrorRefused: Errors ["proxy", "refused"] for Both,
        /// Errors that we sent because the upstream connection broke.
        ErrorUpstreamLost: Errors ["proxy", "upstream_lost"] for Both,
        /// Errors that we sent because the client broke the protocol.
        ErrorProtocol: Errors ["proxy", "protocol"] for Both,
        /// Errors that we sent because what was asked for is not possible in this mode.
        ErrorUnsupported: Errors ["proxy", "unsupported"] for Both,
        /// Errors that we sent because something took longer than it may.
        ErrorTimedOut: Errors ["proxy", "timeout"] for Postgres,
        /// Errors that we sent because a reply took longer than it may.
        RedisTimedOut: Errors ["proxy", "timeout"] for Redis,
        /// Scripts that the server did not know and that were asked for again.
        RetriedScript: RedisRetries ["script"] for Redis,
        /// Commands that the server could not do then and that were asked again.
        RetriedBusy: RedisRetries ["busy"] for Redis,
        /// Commands of a server that was not the one to write to.
        RetriedReadOnly: RedisRetries ["readonly"] for Redis,
        /// Commands that had not been sent when their connection was lost.
        RetriedUnsent: RedisRetries ["unsent"] for Redis,
        /// Commands that only read when their connection was lost.
        RetriedRead: RedisRetries ["read"] for Redis,
        /// Commands on shared connections.
        LaneCommands: RedisLaneCommands ["usual"] for Redis,
        /// Commands on the shared connection for heavy ones.
        LaneHeavyCommands: RedisLaneCommands ["heavy"] for Redis,
        /// Writes to the server on shared connections: the commands divided by them are how many are merged.
        LaneWrites: RedisWrites ["usual"] for Redis,
        /// Writes on the shared connection for heavy commands.
        LaneHeavyWrites: RedisWrites ["heavy"] for Redis,
        /// A command turned out to be slow.
        RedisSlow: RedisSlowCommands [] for Redis,
        /// A connection was leased for MULTI.
        LeasedTransaction: RedisLeases ["transaction"] for Redis,
        /// A connection was leased for WATCH.
        LeasedWatch: RedisLeases ["watch"] for Redis,
        /// A connection was leased for a blocking command.
        LeasedBlocking: RedisLeases ["blocking"] for Redis,
        /// A connection was leased for WAIT.
        LeasedWait: RedisLeases ["wait"] for Redis,
        /// A connection was leased for MONITOR.
        LeasedMonitor: RedisLeases ["monitor"] for Redis,
        /// A connection was leased for CLIENT TRACKING.
        LeasedTracking: RedisLeases ["tracking"] for Redis,
        /// A connection was leased for a request that is too large to be gathered, or that nobody knows.
        LeasedLarge: RedisLeases ["large"] for Redis,
        /// A connection was leased for anything else.
        LeasedOther: RedisLeases ["other"] for Redis,
        /// Errors that we sent because the address or the credentials changed.
        ErrorReconfigured: Errors ["proxy", "reconfigured"] for Postgres,
        /// Errors that we sent because we are shutting down.
        ErrorShutdown: Errors ["proxy", "shutdown"] for Both,
    }
}

cells! {
    /// A number of one pool that goes up and down.
    pub enum PoolGauge {
        /// Clients that are logged in. The states are derived from it at the scrape.
        Clients: PoolClientConnections ["all"] for Both,
        /// Clients that listen and share connections.
        ListenClients: ListenClients [] for Postgres,
        /// Channels that they listen to.
        ListenSubscriptions: ListenSubscriptions [] for Postgres,
        /// Channels that the connection of all of them listens to.
        ListenChannels: ListenChannels [] for Postgres,
        /// Clients that lease a connection for MULTI or WATCH.
        PinnedTransaction: PinnedClients ["transaction"] for Redis,
        /// Clients that lease a connection for a blocking command.
        PinnedBlocking: PinnedClients ["blocking"] for Redis,
        /// Clients that lease a connection for anything else.
        PinnedOther: PinnedClients ["other"] for Redis,
        /// Clients that wait because as many hold a connection for something that only others can end as may.
        BlockingWaiting: RedisBlockingWaiting [] for Redis,
        /// Connections that clients share.
        RedisShared: RedisConnections ["shared"] for Redis,
        /// Connections leased to one client.
        RedisLeased: RedisConnections ["leased"] for Redis,
        /// Connections of the pub/sub hub.
        RedisPubsub: RedisConnections ["pubsub"] for Redis,
        /// Commands sent on shared connections and not yet answered.
        RedisInFlight: RedisInFlight [] for Redis,
        /// Channels with subscribers.
        RedisChannels: RedisSubscriptions ["channel"] for Redis,
        /// Patterns with subscribers.
        RedisPatterns: RedisSubscriptions ["pattern"] for Redis,
    }
}

cells! {
    /// A histogram of one pool.
    pub enum PoolHistogram {
        /// How long sessions waited for a connection.
        Wait: PoolWaitSeconds [] for Both,
        /// How long they then kept it.
        Use: PoolUseSeconds [] for Both,
        /// How long queries took.
        Query: QuerySeconds [] for Postgres,
        /// How long opening a connection took.
        Connect: ServerConnectSeconds [] for Both,
        /// How many commands of a lane had no reply, at each write.
        RedisDepth: RedisPipelineDepth [] for Redis,
    }
}

cells! {
    /// A counter of one worker that belongs to no pool.
    pub enum WorkerCounter {
        /// A PostgreSQL login succeeded.
        PostgresLoginOk: ClientLogins ["postgres", "ok"] for Both,
        /// A PostgreSQL login failed: wrong password or unknown user.
        PostgresLoginBadPassword: ClientLogins ["postgres", "bad_password"] for Both,
        /// A PostgreSQL login failed: no such database here.
        PostgresLoginNoDatabase: ClientLogins ["postgres", "no_database"] for Both,
        /// A PostgreSQL login took too long.
        PostgresLoginTimeout: ClientLogins ["postgres", "timeout"] for Both,
        /// A PostgreSQL login was slow, and its place was needed.
        PostgresLoginCrowdedOut: ClientLogins ["postgres", "crowded_out"] for Both,
        /// A PostgreSQL login found no upstream connection.
        PostgresLoginRefused: ClientLogins ["postgres", "refused"] for Both,
        /// A PostgreSQL login ended otherwise.
        PostgresLoginOther: ClientLogins ["postgres", "other"] for Both,
        /// A Redis login succeeded.
        RedisLoginOk: ClientLogins ["redis", "ok"] for Both,
        /// A Redis login failed: wrong password or unknown user.
        RedisLoginBadPassword: ClientLogins ["redis", "bad_password"] for Both,
        /// A Redis login took too long.
        RedisLoginTimeout: ClientLogins ["redis", "timeout"] for Both,
        /// A Redis login was slow, and its place was needed.
        RedisLoginCrowdedOut: ClientLogins ["redis", "crowded_out"] for Both,
        /// A client was not let in: it did not prove who it is.
        DeniedAuthFailed: ClientDenials ["postgres", "auth_failed"] for Both,
        /// A client was not let in: a rule, no such user, no certificate.
        DeniedAuthRejected: ClientDenials ["postgres", "auth_rejected"] for Both,
        /// A client was not let in: nobody could say who it is.
        DeniedAuthUnavailable: ClientDenials ["postgres", "auth_unavailable"] for Both,
        /// A client was not let in: tLS has to be used.
        DeniedTlsRequired: ClientDenials ["postgres", "tls_required"] for Both,
        /// A client was not let in: the TLS handshake.
        DeniedTlsFailed: ClientDenials ["postgres", "tls"] for Both,
        /// A client was not let in: another protocol.
        DeniedNotPostgres: ClientDenials ["postgres", "not_postgres"] for Both,
        /// A client was not let in: the protocol was broken.
        DeniedProtocol: ClientDenials ["postgres", "protocol_violation"] for Both,
        /// A client was not let in: a parameter that cannot be had.
        DeniedParameter: ClientDenials ["postgres", "startup_parameter"] for Both,
        /// A client was not let in: a database that is not configured.
        DeniedUnknownDatabase: ClientDenials ["postgres", "unknown_database"] for Both,
        /// A client was not let in: a database that the server does not have.
        DeniedNoServerDatabase: ClientDenials ["postgres", "no_server_database"] for Both,
        /// A client was not let in: a disabled database.
        DeniedDatabaseDisabled: ClientDenials ["postgres", "database_disabled"] for Both,
        /// A client was not let in: too many databases of the entry `*`.
        DeniedTooManyDatabases: ClientDenials ["postgres", "too_many_databases"] for Both,
        /// A client was not let in: too many clients of the database.
        DeniedDatabaseClients: ClientDenials ["postgres", "max_db_client_connections"] for Both,
        /// A client was not let in: too many clients of the user.
        DeniedUserClients: ClientDenials ["postgres", "max_user_client_connections"] for Both,
        /// A client was not let in: the admin console.
        DeniedConsole: ClientDenials ["postgres", "console"] for Both,
        /// A client was not let in: the queue of the pool is full.
        DeniedQueueFull: ClientDenials ["postgres", "queue_full"] for Both,
        /// A client was not let in: the wait for a connection.
        DeniedWaitTimeout: ClientDenials ["postgres", "wait_timeout"] for Both,
        /// A client was not let in: the wait that was to be expected.
        DeniedWouldTimeOut: ClientDenials ["postgres", "would_time_out"] for Both,
        /// A client was not let in: the server.
        DeniedUpstream: ClientDenials ["postgres", "upstream_refuses"] for Both,
        /// A client was not let in: a paused pool.
        DeniedPaused: ClientDenials ["postgres", "paused"] for Both,
        /// A client was not let in: the shutdown.
        DeniedDraining: ClientDenials ["postgres", "draining"] for Both,
        /// A client was not let in: the time for a login.
        DeniedLoginTimeout: ClientDenials ["postgres", "login_timeout"] for Both,
        /// A client was not let in: the same, while the server was waited for.
        DeniedLoginTimeoutServer: ClientDenials ["postgres", "login_timeout_server"] for Both,
        /// A client was not let in: the time for a query.
        DeniedQueryTimeout: ClientDenials ["postgres", "query_timeout"] for Both,
        /// A client was not let in: its place was needed.
        DeniedCrowdedOut: ClientDenials ["postgres", "crowded_out"] for Both,
        /// A client was not let in: a mistake of the configuration, or of ours.
        DeniedInternal: ClientDenials ["postgres", "internal"] for Both,
        /// A client was not let in: a wrong password or user.
        DeniedRedisAuth: ClientDenials ["redis", "auth_failed"] for Both,
        /// A client was not let in: the time for a login.
        DeniedRedisTimeout: ClientDenials ["redis", "login_timeout"] for Both,
        /// A client was not let in: its place was needed.
        DeniedRedisCrowdedOut: ClientDenials ["redis", "crowded_out"] for Both,
        /// A client was not let in: the TLS handshake.
        DeniedRedisTls: ClientDenials ["redis", "tls"] for Both,
        /// A client was not let in: the protocol was broken.
        DeniedRedisProtocol: ClientDenials ["redis", "protocol_violation"] for Both,
        /// TLS with a client, all of it agreed on anew.
        TlsFull: ClientTlsHandshakes ["full"] for Both,
        /// TLS with a client that resumed an earlier session.
        TlsResumed: ClientTlsHandshakes ["resumed"] for Both,
        /// A verifier had to be derived from a user's password.
        KeyDerivations: ClientKeyDerivations [] for Both,
        /// A user was looked up and found.
        AuthLookupFound: AuthLookups ["found"] for Both,
        /// A user was looked up, and there is no such user.
        AuthLookupMissing: AuthLookups ["missing"] for Both,
        /// A user could not be looked up.
        AuthLookupError: AuthLookups ["error"] for Both,
        /// A PostgreSQL client broke the protocol.
        PostgresFaultProtocol: ClientFaults ["postgres", "protocol"] for Both,
        /// A PostgreSQL client went away with a transaction open or a query running.
        PostgresFaultLost: ClientFaults ["postgres", "lost"] for Both,
        /// A Redis client broke the protocol.
        RedisFaultProtocol: ClientFaults ["redis", "protocol"] for Both,
        /// A Redis client did not read its replies.
        RedisFaultSlow: ClientFaults ["redis", "slow"] for Both,
        /// A PostgreSQL session ended by a panic.
        PostgresPanics: SessionPanics ["postgres"] for Both,
        /// A Redis session ended by a panic.
        RedisPanics: SessionPanics ["redis"] for Both,
    }
}

cells! {
    /// A histogram of one worker that belongs to no pool.
    pub enum WorkerHistogram {
        /// How long PostgreSQL logins took.
        PostgresLogin: ClientLoginSeconds ["postgres"] for Both,
        /// How long Redis clients that have to log in took, from connecting.
        RedisLogin: ClientLoginSeconds ["redis"] for Both,
    }
}
