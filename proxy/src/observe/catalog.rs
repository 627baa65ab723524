//! The one table of all metrics: name, kind, labels, help. Registration, docs, dashboards and alerts derive from it.
//!
//! Rules: base units (`_seconds`, `_bytes`, ratios), `_total` on counters and on nothing else, label values from the configuration or from
//! closed enums, limits beside the usage they bound. What the numbers are is elsewhere (`record`, `report`, the admin side).

/// What kind of numbers a family holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only ever grows; whole numbers.
    Counter,
    /// Only ever grows; counted in nanoseconds, shown in seconds.
    CounterSeconds,
    /// Goes up and down.
    Gauge,
    /// A distribution of durations, or of numbers.
    Histogram(Buckets),
}

/// Upper bounds of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buckets {
    /// For waiting: from a tenth of a millisecond to the longest wait.
    Wait,
    /// For work: those of OpenTelemetry with two finer ones in front.
    Work,
    /// For connections to be opened.
    Opening,
    /// For how many, not how long: powers of two.
    Count,
}

/// Everything that is said about a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// The full name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Its label names, in order.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

macro_rules! families {
    ($( $variant:ident = $name:literal $kind:expr, [$($label:literal),*], $help:literal; )*) => {
        /// A metric family.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Family {
            $( #[doc = $help] $variant, )*
        }

        impl Family {
            /// Every family, in the order in which the table lists them.
            pub const ALL: &[Self] = &[ $( Self::$variant, )* ];

            /// The family's line of the table.
            #[must_use]
            pub const fn info(self) -> &'static Info {
                match self {
                    $( Self::$variant => &Info { name: $name, kind: $kind, labels: &[$($label),*], help: $help }, )*
                }
            }
        }
    };
}

use Buckets::{Count, Opening, Wait, Work};
use Kind::{Counter, CounterSeconds, Gauge, Histogram};

families! {
    // The process.
    BuildInfo = "sidepool_build_info" Gauge, ["version"], "Always 1; the version is a label.";
    IoBackend = "sidepool_io_backend" Gauge, ["backend"], "1: connections are read and written by these means of the kernel (io_backend); 0: they are not. Where io_uring was wished and is 0, the log and /statusz say why.";
    ProcessCpuSeconds = "process_cpu_seconds_total" CounterSeconds, [], "CPU time used by the process, user and system together.";
    ProcessResidentMemory = "process_resident_memory_bytes" Gauge, [], "Memory of the process that is in RAM.";
    MemoryUsed = "sidepool_memory_used_bytes" Gauge, [], "Memory in use of the limit that is nearest: memory_limit, or that of a control group without what the kernel can take back at once; absent without a limit.";
    MemoryLimit = "sidepool_memory_limit_bytes" Gauge, [], "That limit.";
    MemoryPressure = "sidepool_memory_pressure" Gauge, [], "What is done for want of memory: 0 nothing, 1 requests of clients that do not take their replies are not read, 2 new clients are refused, 3 those that hold most are closed.";
    MemoryCloses = "sidepool_memory_closes_total" Counter, [], "Client connections closed for want of memory.";
    ProcessOpenFds = "process_open_fds" Gauge, [], "Open file descriptors.";
    ProcessMaxFds = "process_max_fds" Gauge, [], "The most file descriptors the process may have open.";
    ProcessStartTime = "process_start_time_seconds" Gauge, [], "When the process started, in seconds since the epoch.";
    Draining = "sidepool_draining" Gauge, [], "1 from SIGTERM on.";
    DrainForcedCloses = "sidepool_drain_forced_closes_total" Counter, [], "Client connections that were cut because the drain timeout was over.";
    LogMessagesDropped = "sidepool_log_messages_dropped_total" Counter, ["reason"], "Log lines that were not written: repeated too often, or written faster than they were read.";
    TracesExported = "sidepool_traces_exported_total" Counter, [], "Transactions of which a collector has taken the trace.";
    TracesDropped = "sidepool_traces_dropped_total" Counter, ["reason"], "Traced transactions that no collector has: more than could be sent, or not taken.";
    Workers = "sidepool_workers" Gauge, [], "Worker threads.";
    WorkerBusySeconds = "sidepool_worker_busy_seconds_total" CounterSeconds, ["worker"], "CPU time used by the worker's thread; a rate near 1 is a saturated worker.";
    WorkerHeartbeatAge = "sidepool_worker_heartbeat_age_seconds" Gauge, ["worker"], "How long the worker has owed an answer to a scrape or a health check; 0 while it answers.";
    SessionPanics = "sidepool_session_panics_total" Counter, ["protocol"], "Sessions that ended by a defect of this program; the others went on.";

    // Configuration.
    ConfigLastReloadSuccessful = "sidepool_config_last_reload_successful" Gauge, [], "1 if the configuration in force is the last one that was read.";
    ConfigLastReloadSuccessTime = "sidepool_config_last_reload_success_timestamp_seconds" Gauge, [], "When a configuration was last put into force.";
    ConfigReloads = "sidepool_config_reloads_total" Counter, ["trigger", "result"], "Attempts to put a changed configuration into force.";
    ConfigHash = "sidepool_config_hash" Gauge, [], "A number that is equal where the configuration is.";
    ConfigRestartPending = "sidepool_config_restart_pending" Gauge, [], "1 if a changed setting waits for a restart.";
    CertificateNotAfter = "sidepool_tls_certificate_not_after_timestamp_seconds" Gauge, ["section", "setting"], "Until when the certificates in a file hold: the first of a chain to end, the last of several authorities.";
    MetricsPoolsFolded = "sidepool_metrics_pools_folded" Gauge, [], "Pools without series of their own: beyond metrics_max_pools, they are added up as _other.";

    // Listeners.
    ListenerAccepts = "sidepool_listener_accepts_total" Counter, ["listener"], "Client connections accepted.";
    ListenerRejections = "sidepool_listener_rejections_total" Counter, ["listener", "reason"], "Client connections refused before login.";
    ListenerClients = "sidepool_listener_client_connections" Gauge, ["listener"], "Client connections open, those still logging in included.";
    ListenerClientsMax = "sidepool_listener_client_connections_max" Gauge, ["listener"], "The most client connections there may be: max_client_conn, or less where the limit on open files is nearer.";
    ListenerAcceptErrors = "sidepool_listener_accept_errors_total" Counter, ["listener"], "Failed accepts, above all for want of file descriptors.";
    ClientLogins = "sidepool_client_logins_total" Counter, ["protocol", "result"], "Client logins by how they ended.";
    ClientDenials = "sidepool_client_denials_total" Counter, ["protocol", "reason"], "Clients that were not let in, by the reason that the log has, too; those that were turned away at the door are in sidepool_listener_rejections_total.";
    ClientLoginSeconds = "sidepool_client_login_seconds" Histogram(Work), ["protocol"], "From a client's first byte to the end of its login.";
    ClientTlsHandshakes = "sidepool_client_tls_handshakes_total" Counter, ["kind"], "TLS handshakes with clients that went well: full ones, and those that resumed an earlier session for a fraction of the work.";
    ClientKeyDerivations = "sidepool_client_key_derivations_total" Counter, [], "Passwords of users from which a SCRAM verifier was made to check logins against: one for each, as long as it stays the same.";
    AuthLookups = "sidepool_auth_lookups_total" Counter, ["result"], "Logins for which a user was looked up with auth_query: found, missing (there is no such user) or error (it could not be asked).";
    ClientFaults = "sidepool_client_faults_total" Counter, ["protocol", "kind"], "Client connections that were closed because of what they sent, or did not send.";

    // Pools: who has what.
    PoolInfo = "sidepool_pool_info" Gauge, ["pool", "protocol", "database", "user", "mode", "upstream"], "Always 1; join on the pool label.";
    PoolServerConnections = "sidepool_pool_server_connections" Gauge, ["pool", "state"], "Upstream connections by state; the states add up to all of them.";
    PoolServerConnectionsMax = "sidepool_pool_server_connections_max" Gauge, ["pool"], "The most upstream connections there may be.";
    PoolServerConnectionsRoom = "sidepool_pool_server_connections_room" Gauge, ["pool"], "The most upstream connections that the server has room for: less than there may be for a while after it refused one for want of room.";
    PoolReserve = "sidepool_pool_reserve_connections" Gauge, ["pool"], "Connections beyond the most that may be opened for somebody who has waited for too long (reserve_pool_size).";
    PoolReserveUsed = "sidepool_pool_reserve_connections_used" Gauge, ["pool"], "How many of them there are.";
    PoolServerConnectionsMin = "sidepool_pool_server_connections_min" Gauge, ["pool"], "Upstream connections that are kept open even when idle.";
    PoolUtilization = "sidepool_pool_utilization_ratio" Gauge, ["pool"], "Upstream connections in use or being opened, over the most there may be.";
    PoolClientConnections = "sidepool_pool_client_connections" Gauge, ["pool", "state"], "Logged-in clients by state.";
    PoolWaitingMaxAge = "sidepool_pool_waiting_max_age_seconds" Gauge, ["pool"], "How long the oldest waiter has waited.";
    PoolQueueLimit = "sidepool_pool_queue_limit" Gauge, ["pool"], "The most waiters there may be.";
    PoolWaitSeconds = "sidepool_pool_wait_seconds" Histogram(Wait), ["pool"], "How long clients waited for an upstream connection; those that did not wait count as 0.";
    PoolUseSeconds = "sidepool_pool_use_seconds" Histogram(Work), ["pool"], "How long upstream connections were held, from lease to release; in transaction mode that is how long transactions took.";
    PoolRejections = "sidepool_pool_rejections_total" Counter, ["pool", "reason"], "Requests for an upstream connection that were refused.";
    PoolSaturatedSeconds = "sidepool_pool_saturated_seconds_total" CounterSeconds, ["pool"], "Time during which clients waited because every connection was in use.";
    PoolPinnedConnections = "sidepool_pool_pinned_connections" Gauge, ["pool"], "Upstream connections that clients keep past their transactions, because of what they left on them.";
    PoolPinnedConnectionsMax = "sidepool_pool_pinned_connections_max" Gauge, ["pool"], "The most of them there may be.";
    PoolPaused = "sidepool_pool_paused" Gauge, ["pool"], "1 while the pool is paused.";

    // Upstream connections.
    ServerConnects = "sidepool_server_connects_total" Counter, ["pool", "result"], "Attempts to open an upstream connection, login included.";
    ServerConnectSeconds = "sidepool_server_connect_seconds" Histogram(Opening), ["pool"], "How long opening an upstream connection took, login included.";
    ServerTlsHandshakes = "sidepool_server_tls_handshakes_total" Counter, ["pool", "kind"], "Upstream connections that were opened under TLS: by a full handshake, or by resuming an earlier session where the server offers that (PostgreSQL itself does not).";
    ServerKeyDerivations = "sidepool_server_key_derivations_total" Counter, ["pool"], "How often keys for a SCRAM login to a server were derived from the password: once for each salt, and not for each connection.";
    ServerLoginsInProgress = "sidepool_server_logins_in_progress" Gauge, ["pool"], "Upstream connections being opened.";
    ServerCloses = "sidepool_server_closes_total" Counter, ["pool", "reason"], "Upstream connections closed.";
    ServerUp = "sidepool_server_up" Gauge, ["pool"], "0 if the last attempt to reach the upstream failed, else 1.";
    UpstreamAddresses = "sidepool_upstream_addresses" Gauge, ["host", "state"], "Addresses of each configured host by what connects to them came to: closed (they work), open (they failed and are avoided while there are others), half_open (a connect tries, or is due to try, whether they are back).";
    UpstreamOpened = "sidepool_upstream_address_opens_total" Counter, ["host"], "How often an address of the host failed so that it was avoided from then on.";

    // Traffic.
    Transactions = "sidepool_transactions_total" Counter, ["pool"], "Transactions finished (Redis: requests answered).";
    Queries = "sidepool_queries_total" Counter, ["pool"], "Queries sent upstream (Redis: commands).";
    TransactionSeconds = "sidepool_transaction_seconds_total" CounterSeconds, ["pool"], "Time that transactions took on their connections, with what their clients were idle in them.";
    QuerySeconds = "sidepool_query_seconds" Histogram(Work), ["pool"], "How long queries took on their connections, without what clients were idle in transactions; those that were sent together, and all of a transaction in which nobody was idle, count as one.";
    Bytes = "sidepool_bytes_total" Counter, ["pool", "side", "direction"], "Bytes moved; the direction is as sidepool sees it.";
    ServerAssignments = "sidepool_server_assignments_total" Counter, ["pool"], "How often a client was given an upstream connection.";
    PoolClientLogins = "sidepool_pool_client_logins_total" Counter, ["pool"], "Clients that logged in to the pool.";
    SessionStates = "sidepool_session_state_total" Counter, ["pool", "event"], "What it took to let session state follow clients: asked (the server was asked what had changed), carried (a connection was brought into its client's state), surprise (something had changed that nothing had hinted at), lost (it could not be found out or kept, and the client was closed).";
    Parses = "sidepool_parses_total" Counter, ["pool", "side"], "Parse messages: those that clients sent, and those that were sent upstream.";
    Binds = "sidepool_binds_total" Counter, ["pool"], "Bind messages that clients sent.";
    Errors = "sidepool_errors_total" Counter, ["pool", "source", "class"], "Errors that clients were sent, by the first two characters of the SQLSTATE or the first word of the Redis error.";
    Cancels = "sidepool_cancels_total" Counter, ["pool", "result"], "Cancel requests.";
    ListenClients = "sidepool_listen_clients" Gauge, ["pool"], "Clients that listen for notifications and share connections.";
    ListenSubscriptions = "sidepool_listen_subscriptions" Gauge, ["pool"], "Channels that they listen to, counted for each client.";
    ListenChannels = "sidepool_listen_channels" Gauge, ["pool"], "Channels that the pool's connection listens to for all clients of its database.";
    ListenLost = "sidepool_listen_connections_lost_total" Counter, ["pool"], "How often the connection that listens for all clients was lost or replaced.";
    ListenClosed = "sidepool_listen_clients_closed_total" Counter, ["pool", "reason"], "Clients that listen and were closed: because they did not take their notifications (slow), or may have missed some (gap).";
    Notifications = "sidepool_notifications_total" Counter, ["pool", "stage"], "Notifications: received by the connection that listens for all clients, and delivered to each client.";
    PinnedClients = "sidepool_pinned_clients" Gauge, ["pool", "reason"], "Clients that keep an upstream connection of their own, by what for.";
    Pins = "sidepool_pins_total" Counter, ["pool", "reason"], "How often a client came to keep its upstream connection past its transaction, by what for.";
    PinRefusals = "sidepool_pin_refusals_total" Counter, ["pool", "reason"], "How often a client was not to, because as many connections are kept as may be.";
    ClientStalls = "sidepool_client_stalls_total" Counter, ["pool"], "Clients that were closed because they took nothing of their answer while an upstream connection waited for that (client_stall_timeout).";
    PinTimeouts = "sidepool_pin_timeouts_total" Counter, ["pool", "reason"], "Clients that were closed for keeping one while they were idle for too long.";

    // Redis.
    RedisConnections = "sidepool_redis_connections" Gauge, ["pool", "use"], "Upstream connections by what they are used for.";
    RedisInFlight = "sidepool_redis_inflight_commands" Gauge, ["pool"], "Commands sent on shared connections and not yet answered.";
    RedisCommands = "sidepool_redis_commands_total" Counter, ["pool", "class"], "Commands by class.";
    RedisRetries = "sidepool_redis_retries_total" Counter, ["pool", "reason"], "Commands that were sent again: the server did not know the script (script), could not do it then (busy) or is not the one to write to (readonly); or the connection was lost before they were sent (unsent) or while they only read (read).";
    RedisLaneCommands = "sidepool_redis_lane_commands_total" Counter, ["pool", "lane"], "Commands sent on shared connections: the usual ones, and those on which nobody expects quick answers (heavy).";
    RedisWrites = "sidepool_redis_writes_total" Counter, ["pool", "lane"], "Writes to the server on shared connections; their commands divided by them are how many are merged into one.";
    RedisPipelineDepth = "sidepool_redis_pipeline_depth" Histogram(Count), ["pool"], "How many commands of a shared connection had no reply yet, at each write to the server.";
    RedisSlowCommands = "sidepool_redis_slow_commands_total" Counter, ["pool"], "How often a command turned out to be slow, so that it went down the heavy connection for a while.";
    RedisBlockingWaiting = "sidepool_redis_blocking_waiting_clients" Gauge, ["pool"], "Clients whose blocking command, MONITOR or tracking waits because as many connections are held for such as may be (blocking_connections).";
    RedisLeases = "sidepool_redis_leases_total" Counter, ["pool", "reason"], "Connections leased to one client, by what for.";
    RedisSubscriptions = "sidepool_redis_subscriptions" Gauge, ["pool", "kind"], "Channels and patterns that clients are subscribed to.";

    // The same in the words of OpenTelemetry (semantic conventions for database client connection pools), where metrics_names says so.
    OtelCount = "db_client_connection_count" Gauge, ["db_client_connection_pool_name", "db_client_connection_state"], "Connections that are in the state: idle or used.";
    OtelIdleMax = "db_client_connection_idle_max" Gauge, ["db_client_connection_pool_name"], "The most idle connections there may be.";
    OtelIdleMin = "db_client_connection_idle_min" Gauge, ["db_client_connection_pool_name"], "Connections that are kept open even when idle.";
    OtelMax = "db_client_connection_max" Gauge, ["db_client_connection_pool_name"], "The most connections there may be.";
    OtelPending = "db_client_connection_pending_requests" Gauge, ["db_client_connection_pool_name"], "Clients that wait for a connection.";
    OtelTimeouts = "db_client_connection_timeouts_total" Counter, ["db_client_connection_pool_name"], "Clients that waited for the longest allowed time.";
    OtelCreateTime = "db_client_connection_create_time_seconds" Histogram(Opening), ["db_client_connection_pool_name"], "How long opening a connection took.";
    OtelWaitTime = "db_client_connection_wait_time_seconds" Histogram(Wait), ["db_client_connection_pool_name"], "How long it took to obtain an open connection.";
    OtelUseTime = "db_client_connection_use_time_seconds" Histogram(Work), ["db_client_connection_pool_name"], "How long connections were held.";
}

impl Family {
    /// Whether it is there in the words of OpenTelemetry alone.
    #[must_use]
    pub const fn is_otel(self) -> bool {
        matches!(
            self,
            Self::OtelCount
                | Self::OtelIdleMax
                | Self::OtelIdleMin
                | Self::OtelMax
                | Self::OtelPending
                | Self::OtelTimeouts
                | Self::OtelCreateTime
                | Self::OtelWaitTime
                | Self::OtelUseTime
        )
    }

    /// Whether OpenTelemetry has a name for all that it says.
    #[must_use]
    pub const fn is_said_by_otel(self) -> bool {
        matches!(
            self,
            Self::PoolServerConnectionsMax
                | Self::PoolServerConnectionsMin
                | Self::ServerConnectSeconds
                | Self::PoolWaitSeconds
                | Self::PoolUseSeconds
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_rules() {
        let mut names = BTreeSet::new();
        for family in Family::ALL {
            let info = family.info();
            assert!(names.insert(info.name), "{} is listed twice", info.name);
            assert_eq!(info.name.starts_with("db_client_connection_"), family.is_otel(), "{}", info.name);
            assert!(family.is_otel() || info.name.starts_with("sidepool_") || info.name.starts_with("process_"), "{}", info.name);
            assert!(info.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{}", info.name);
            assert_eq!(info.name.ends_with("_total"), matches!(info.kind, Counter | CounterSeconds), "{}", info.name);
            assert_eq!(matches!(info.kind, CounterSeconds), info.name.ends_with("_seconds_total"), "{}", info.name);
            if let Histogram(buckets) = info.kind {
                // Counts have no unit (Prometheus, "Metric and label naming").
                assert_eq!(!matches!(buckets, Count), info.name.ends_with("_seconds"), "{}", info.name);
            }
            assert!(info.help.ends_with('.'), "{}", info.name);
            let labels: BTreeSet<_> = info.labels.iter().collect();
            assert_eq!(labels.len(), info.labels.len(), "{}: a label is named twice", info.name);
            assert!(!labels.contains(&"le"), "{}", info.name);
        }
    }
}
