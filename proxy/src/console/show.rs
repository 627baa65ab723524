//! What SHOW can show: each list's name and columns, in PgBouncer's order and with its types. One table.
//!
//! Not here: what is in the rows (`tables`, `sockets`, `statistics`).

use sidepool_protocol::postgres::result::{Column, Kind};

/// What can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// The commands, as a notice.
    Help,
    /// The server connections that clients keep past their transactions, and why.
    Pins,
    /// Who we are.
    Version,
    /// All settings.
    Config,
    /// The configured databases.
    Databases,
    /// The pools.
    Pools,
    /// The peers.
    Peers,
    /// The pools of cancels on their way to peers.
    PeerPools,
    /// The clients.
    Clients,
    /// The server connections.
    Servers,
    /// Both, and what is in their buffers.
    Sockets,
    /// Of those the ones with something in their buffers.
    ActiveSockets,
    /// The users.
    Users,
    /// How many there are of what.
    Lists,
    /// What each database has done, in all and on average.
    Stats,
    /// What each database has done in all.
    StatsTotals,
    /// What each database does on average.
    StatsAverages,
    /// What all databases have done together.
    Totals,
    /// What takes memory.
    Mem,
    /// Whether the pooler is paused or suspended.
    State,
    /// Names that have been resolved.
    DnsHosts,
    /// Zones that are watched.
    DnsZones,
    /// The sockets, for a new process.
    Fds,
    /// As [`Show::Databases`], with a column that older versions had.
    OldDatabases,
    /// As [`Show::Stats`], with a column that older versions had.
    OldStats,
}

impl Show {
    /// All that can be asked for.
    pub const ALL: [Self; 23] = [
        Self::Help,
        Self::Version,
        Self::Config,
        Self::Databases,
        Self::Pools,
        Self::Peers,
        Self::PeerPools,
        Self::Clients,
        Self::Servers,
        Self::Sockets,
        Self::ActiveSockets,
        Self::Users,
        Self::Lists,
        Self::Stats,
        Self::StatsTotals,
        Self::StatsAverages,
        Self::Totals,
        Self::Mem,
        Self::State,
        Self::DnsHosts,
        Self::DnsZones,
        Self::Fds,
        Self::Pins,
    ];

    /// Its name in a command, in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Help => "help",
            Self::Version => "version",
            Self::Config => "config",
            Self::Databases | Self::OldDatabases => "databases",
            Self::Pools => "pools",
            Self::Peers => "peers",
            Self::PeerPools => "peer_pools",
            Self::Clients => "clients",
            Self::Servers => "servers",
            Self::Sockets => "sockets",
            Self::ActiveSockets => "active_sockets",
            Self::Users => "users",
            Self::Lists => "lists",
            Self::Stats | Self::OldStats => "stats",
            Self::StatsTotals => "stats_totals",
            Self::StatsAverages => "stats_averages",
            Self::Totals => "totals",
            Self::Mem => "mem",
            Self::State => "state",
            Self::DnsHosts => "dns_hosts",
            Self::DnsZones => "dns_zones",
            Self::Fds => "fds",
            Self::Pins => "pins",
        }
    }

    /// The same with the columns that older versions had, where there were others.
    #[must_use]
    pub const fn with_old_columns(self) -> Self {
        match self {
            Self::Databases => Self::OldDatabases,
            Self::Stats => Self::OldStats,
            other => other,
        }
    }

    /// Its columns; none for what is no list.
    #[must_use]
    pub const fn columns(self) -> &'static [Column] {
        match self {
            Self::Help => &[],
            Self::Version => &VERSION,
            Self::Config => &CONFIG,
            Self::Databases => DATABASES.split_at(17).0,
            Self::OldDatabases => &DATABASES,
            Self::Pools => &POOLS,
            Self::Peers => &PEERS,
            Self::PeerPools => &PEER_POOLS,
            Self::Clients | Self::Servers => SOCKETS.split_at(21).0,
            Self::Sockets | Self::ActiveSockets => &SOCKETS,
            Self::Users => &USERS,
            Self::Lists => &LISTS,
            Self::Stats => STATS.split_at(25).0,
            Self::OldStats => &STATS,
            Self::StatsTotals => &STATS_TOTALS,
            Self::StatsAverages => &STATS_AVERAGES,
            Self::Totals => &TOTALS,
            Self::Mem => &MEM,
            Self::State => &STATE,
            Self::DnsHosts => &DNS_HOSTS,
            Self::DnsZones => &DNS_ZONES,
            Self::Fds => &FDS,
            Self::Pins => &PINS,
        }
    }
}

/// Columns with their types.
macro_rules! columns {
    ($($name:ident $kind:ident),* $(,)?) => { [$(Column { name: stringify!($name), kind: Kind::$kind }),*] };
}

const VERSION: [Column; 1] = columns![version Text];

const CONFIG: [Column; 4] = columns![key Text, value Text, default Text, changeable Text];

/// The last one is of older versions.
const DATABASES: [Column; 18] = columns![
    name Text, host Text, port Int4, database Text, force_user Text, pool_size Int4, min_pool_size Int4, reserve_pool_size Int4,
    server_lifetime Int4, pool_mode Text, load_balance_hosts Text, max_connections Int4, current_connections Int4,
    max_client_connections Int4, current_client_connections Int4, paused Int4, disabled Int4, reserve_pool Int4,
];

const POOLS: [Column; 17] = columns![
    database Text, user Text, cl_active Int4, cl_waiting Int4, cl_active_cancel_req Int4, cl_waiting_cancel_req Int4, sv_active Int4,
    sv_active_cancel Int4, sv_being_canceled Int4, sv_idle Int4, sv_used Int4, sv_tested Int4, sv_login Int4, maxwait Int4,
    maxwait_us Int4, pool_mode Text, load_balance_hosts Text,
];

const PEERS: [Column; 4] = columns![peer_id Int4, host Text, port Int4, pool_size Int4];

const PEER_POOLS: [Column; 5] = columns![
    peer_id Int4, cl_active_cancel_req Int4, cl_waiting_cancel_req Int4, sv_active_cancel Int4, sv_login Int4,
];

const USERS: [Column; 8] = columns![
    name Text, pool_size Text, reserve_pool_size Text, pool_mode Text, max_user_connections Int4, current_connections Int4,
    max_user_client_connections Int4, current_client_connections Int4,
];

const LISTS: [Column; 2] = columns![list Text, items Int4];

const TOTALS: [Column; 2] = columns![name Text, value Numeric];

const MEM: [Column; 5] = columns![name Text, size Int4, used Int4, free Int4, memtotal Int4];

const STATE: [Column; 2] = columns![key Text, value Text];

const DNS_HOSTS: [Column; 3] = columns![hostname Text, ttl Int8, addrs Text];

const DNS_ZONES: [Column; 3] = columns![zonename Text, serial Int8, count Int4];

const FDS: [Column; 15] = columns![
    fd Int4, task Text, user Text, database Text, addr Text, port Int4, cancel Int8, link Int4, client_encoding Text, std_strings Text,
    datestyle Text, timezone Text, password Text, scram_client_key Bytea, scram_server_key Bytea,
];

/// Ours alone.
const PINS: [Column; 10] = columns![
    database Text, user Text, reasons Text, since Text, seconds Int4, client_id Int4, client_addr Text, application_name Text,
    server_id Int4, remote_pid Int4,
];

/// The last one is of older versions.
const STATS: [Column; 26] = columns![
    database Text, total_server_assignment_count Numeric, total_xact_count Numeric, total_query_count Numeric, total_received Numeric,
    total_sent Numeric, total_xact_time Numeric, total_query_time Numeric, total_wait_time Numeric, total_client_parse_count Numeric,
    total_server_parse_count Numeric, total_bind_count Numeric, total_client_login_count Numeric, avg_server_assignment_count Numeric,
    avg_xact_count Numeric, avg_query_count Numeric, avg_recv Numeric, avg_sent Numeric, avg_xact_time Numeric, avg_query_time Numeric,
    avg_wait_time Numeric, avg_client_parse_count Numeric, avg_server_parse_count Numeric, avg_bind_count Numeric,
    avg_client_login_count Numeric, total_requests Numeric,
];

const STATS_TOTALS: [Column; 13] = columns![
    database Text, server_assignment_count Numeric, xact_count Numeric, query_count Numeric, bytes_received Numeric, bytes_sent Numeric,
    xact_time Numeric, query_time Numeric, wait_time Numeric, client_parse_count Numeric, server_parse_count Numeric, bind_count Numeric,
    client_login_count Numeric,
];

const STATS_AVERAGES: [Column; 13] = columns![
    database Text, server_assignment_count Numeric, xact_count Numeric, query_count Numeric, bytes_received Numeric, bytes_sent Numeric,
    xact_time Numeric, query_time Numeric, wait_time Numeric, avg_client_parse_count Numeric, avg_server_parse_count Numeric,
    avg_bind_count Numeric, avg_client_login_count Numeric,
];

/// The last seven are not in the lists of clients and servers.
const SOCKETS: [Column; 28] = columns![
    type Text, user Text, database Text, replication Text, state Text, addr Text, port Int4, local_addr Text, local_port Int4,
    connect_time Text, request_time Text, wait Int4, wait_us Int4, close_needed Int4, ptr Text, link Text, remote_pid Int4, tls Text,
    application_name Text, prepared_statements Int4, id Int4, recv_pos Int4, pkt_pos Int4, pkt_remain Int4, send_pos Int4,
    send_remain Int4, pkt_avail Int4, send_avail Int4,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// As PgBouncer 1.25 and what comes after it list them: t text, i int4, q int8, n numeric, b bytea.
    const REFERENCE: &[(&str, &str)] = &[
        ("version", "version t"),
        ("config", "key t, value t, default t, changeable t"),
        (
            "databases",
            "name t, host t, port i, database t, force_user t, pool_size i, min_pool_size i, reserve_pool_size i, server_lifetime i, pool_mode t, load_balance_hosts t, max_connections i, current_connections i, max_client_connections i, current_client_connections i, paused i, disabled i",
        ),
        (
            "pools",
            "database t, user t, cl_active i, cl_waiting i, cl_active_cancel_req i, cl_waiting_cancel_req i, sv_active i, sv_active_cancel i, sv_being_canceled i, sv_idle i, sv_used i, sv_tested i, sv_login i, maxwait i, maxwait_us i, pool_mode t, load_balance_hosts t",
        ),
        ("peers", "peer_id i, host t, port i, pool_size i"),
        ("peer_pools", "peer_id i, cl_active_cancel_req i, cl_waiting_cancel_req i, sv_active_cancel i, sv_login i"),
        (
            "clients",
            "type t, user t, database t, replication t, state t, addr t, port i, local_addr t, local_port i, connect_time t, request_time t, wait i, wait_us i, close_needed i, ptr t, link t, remote_pid i, tls t, application_name t, prepared_statements i, id i",
        ),
        (
            "users",
            "name t, pool_size t, reserve_pool_size t, pool_mode t, max_user_connections i, current_connections i, max_user_client_connections i, current_client_connections i",
        ),
        ("lists", "list t, items i"),
        ("totals", "name t, value n"),
        ("mem", "name t, size i, used i, free i, memtotal i"),
        ("state", "key t, value t"),
        ("dns_hosts", "hostname t, ttl q, addrs t"),
        ("dns_zones", "zonename t, serial q, count i"),
        (
            "fds",
            "fd i, task t, user t, database t, addr t, port i, cancel q, link i, client_encoding t, std_strings t, datestyle t, timezone t, password t, scram_client_key b, scram_server_key b",
        ),
        (
            "stats",
            "database t, total_server_assignment_count n, total_xact_count n, total_query_count n, total_received n, total_sent n, total_xact_time n, total_query_time n, total_wait_time n, total_client_parse_count n, total_server_parse_count n, total_bind_count n, total_client_login_count n, avg_server_assignment_count n, avg_xact_count n, avg_query_count n, avg_recv n, avg_sent n, avg_xact_time n, avg_query_time n, avg_wait_time n, avg_client_parse_count n, avg_server_parse_count n, avg_bind_count n, avg_client_login_count n",
        ),
        (
            "stats_totals",
            "database t, server_assignment_count n, xact_count n, query_count n, bytes_received n, bytes_sent n, xact_time n, query_time n, wait_time n, client_parse_count n, server_parse_count n, bind_count n, client_login_count n",
        ),
        (
            "stats_averages",
            "database t, server_assignment_count n, xact_count n, query_count n, bytes_received n, bytes_sent n, xact_time n, query_time n, wait_time n, avg_client_parse_count n, avg_server_parse_count n, avg_bind_count n, avg_client_login_count n",
        ),
        (
            "sockets",
            "type t, user t, database t, replication t, state t, addr t, port i, local_addr t, local_port i, connect_time t, request_time t, wait i, wait_us i, close_needed i, ptr t, link t, remote_pid i, tls t, application_name t, prepared_statements i, id i, recv_pos i, pkt_pos i, pkt_remain i, send_pos i, send_remain i, pkt_avail i, send_avail i",
        ),
        (
            "servers",
            "type t, user t, database t, replication t, state t, addr t, port i, local_addr t, local_port i, connect_time t, request_time t, wait i, wait_us i, close_needed i, ptr t, link t, remote_pid i, tls t, application_name t, prepared_statements i, id i",
        ),
        (
            "active_sockets",
            "type t, user t, database t, replication t, state t, addr t, port i, local_addr t, local_port i, connect_time t, request_time t, wait i, wait_us i, close_needed i, ptr t, link t, remote_pid i, tls t, application_name t, prepared_statements i, id i, recv_pos i, pkt_pos i, pkt_remain i, send_pos i, send_remain i, pkt_avail i, send_avail i",
        ),
        ("help", ""),
        // Ours alone.
        (
            "pins",
            "database t, user t, reasons t, since t, seconds i, client_id i, client_addr t, application_name t, server_id i, remote_pid i",
        ),
    ];

    #[test]
    fn columns_are_those_of_pgbouncer() {
        assert_eq!(REFERENCE.len(), Show::ALL.len());
        for (name, wanted) in REFERENCE {
            let show = Show::ALL.into_iter().find(|show| show.name() == *name).unwrap_or_else(|| panic!("{name}"));
            let columns: Vec<String> = show
                .columns()
                .iter()
                .map(|column| {
                    let kind = match column.kind {
                        Kind::Text => "t",
                        Kind::Int4 => "i",
                        Kind::Int8 => "q",
                        Kind::Numeric => "n",
                        Kind::Bytea => "b",
                    };
                    format!("{} {kind}", column.name)
                })
                .collect();
            assert_eq!(columns.join(", "), *wanted, "{name}");
        }
    }

    #[test]
    fn there_are_as_many_as_the_reference_counts() {
        for (show, count) in [
            (Show::Databases, 17),
            (Show::Pools, 17),
            (Show::Clients, 21),
            (Show::Sockets, 28),
            (Show::Users, 8),
            (Show::Stats, 25),
            (Show::StatsTotals, 13),
            (Show::StatsAverages, 13),
            (Show::Fds, 15),
        ] {
            assert_eq!(show.columns().len(), count, "{}", show.name());
        }
    }
}
