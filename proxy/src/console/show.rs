//! What SHOW can show: each list's name and columns, in PgBouncer's order and with its types. One table.
//!
//! Not here: what is in the rows (`tables`, `sockets`, `statistics`).

use sidepool_protocol::postgres::result::{Column, Kind};

use Kind::{Bytea, Int4, Int8, Numeric, Text};

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
            Self::Clients | Self::Servers => &CONNECTIONS,
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

const fn column(name: &'static str, kind: Kind) -> Column {
    Column { name, kind }
}

const VERSION: [Column; 1] = [column("version", Text)];

const CONFIG: [Column; 4] = [column("key", Text), column("value", Text), column("default", Text), column("changeable", Text)];

/// The last one is of older versions.
const DATABASES: [Column; 18] = [
    column("name", Text),
    column("host", Text),
    column("port", Int4),
    column("database", Text),
    column("force_user", Text),
    column("pool_size", Int4),
    column("min_pool_size", Int4),
    column("reserve_pool_size", Int4),
    column("server_lifetime", Int4),
    column("pool_mode", Text),
    column("load_balance_hosts", Text),
    column("max_connections", Int4),
    column("current_connections", Int4),
    column("max_client_connections", Int4),
    column("current_client_connections", Int4),
    column("paused", Int4),
    column("disabled", Int4),
    column("reserve_pool", Int4),
];

const POOLS: [Column; 17] = [
    column("database", Text),
    column("user", Text),
    column("cl_active", Int4),
    column("cl_waiting", Int4),
    column("cl_active_cancel_req", Int4),
    column("cl_waiting_cancel_req", Int4),
    column("sv_active", Int4),
    column("sv_active_cancel", Int4),
    column("sv_being_canceled", Int4),
    column("sv_idle", Int4),
    column("sv_used", Int4),
    column("sv_tested", Int4),
    column("sv_login", Int4),
    column("maxwait", Int4),
    column("maxwait_us", Int4),
    column("pool_mode", Text),
    column("load_balance_hosts", Text),
];

const PEERS: [Column; 4] = [column("peer_id", Int4), column("host", Text), column("port", Int4), column("pool_size", Int4)];

const PEER_POOLS: [Column; 5] = [
    column("peer_id", Int4),
    column("cl_active_cancel_req", Int4),
    column("cl_waiting_cancel_req", Int4),
    column("sv_active_cancel", Int4),
    column("sv_login", Int4),
];

const CONNECTIONS: [Column; 21] = [
    column("type", Text),
    column("user", Text),
    column("database", Text),
    column("replication", Text),
    column("state", Text),
    column("addr", Text),
    column("port", Int4),
    column("local_addr", Text),
    column("local_port", Int4),
    column("connect_time", Text),
    column("request_time", Text),
    column("wait", Int4),
    column("wait_us", Int4),
    column("close_needed", Int4),
    column("ptr", Text),
    column("link", Text),
    column("remote_pid", Int4),
    column("tls", Text),
    column("application_name", Text),
    column("prepared_statements", Int4),
    column("id", Int4),
];

const USERS: [Column; 8] = [
    column("name", Text),
    column("pool_size", Text),
    column("reserve_pool_size", Text),
    column("pool_mode", Text),
    column("max_user_connections", Int4),
    column("current_connections", Int4),
    column("max_user_client_connections", Int4),
    column("current_client_connections", Int4),
];

const LISTS: [Column; 2] = [column("list", Text), column("items", Int4)];

const TOTALS: [Column; 2] = [column("name", Text), column("value", Numeric)];

const MEM: [Column; 5] = [column("name", Text), column("size", Int4), column("used", Int4), column("free", Int4), column("memtotal", Int4)];

const STATE: [Column; 2] = [column("key", Text), column("value", Text)];

const DNS_HOSTS: [Column; 3] = [column("hostname", Text), column("ttl", Int8), column("addrs", Text)];

const DNS_ZONES: [Column; 3] = [column("zonename", Text), column("serial", Int8), column("count", Int4)];

const FDS: [Column; 15] = [
    column("fd", Int4),
    column("task", Text),
    column("user", Text),
    column("database", Text),
    column("addr", Text),
    column("port", Int4),
    column("cancel", Int8),
    column("link", Int4),
    column("client_encoding", Text),
    column("std_strings", Text),
    column("datestyle", Text),
    column("timezone", Text),
    column("password", Text),
    column("scram_client_key", Bytea),
    column("scram_server_key", Bytea),
];

/// Ours alone.
const PINS: [Column; 10] = [
    column("database", Text),
    column("user", Text),
    column("reasons", Text),
    column("since", Text),
    column("seconds", Int4),
    column("client_id", Int4),
    column("client_addr", Text),
    column("application_name", Text),
    column("server_id", Int4),
    column("remote_pid", Int4),
];

/// The last one is of older versions.
const STATS: [Column; 26] = [
    column("database", Text),
    column("total_server_assignment_count", Numeric),
    column("total_xact_count", Numeric),
    column("total_query_count", Numeric),
    column("total_received", Numeric),
    column("total_sent", Numeric),
    column("total_xact_time", Numeric),
    column("total_query_time", Numeric),
    column("total_wait_time", Numeric),
    column("total_client_parse_count", Numeric),
    column("total_server_parse_count", Numeric),
    column("total_bind_count", Numeric),
    column("total_client_login_count", Numeric),
    column("avg_server_assignment_count", Numeric),
    column("avg_xact_count", Numeric),
    column("avg_query_count", Numeric),
    column("avg_recv", Numeric),
    column("avg_sent", Numeric),
    column("avg_xact_time", Numeric),
    column("avg_query_time", Numeric),
    column("avg_wait_time", Numeric),
    column("avg_client_parse_count", Numeric),
    column("avg_server_parse_count", Numeric),
    column("avg_bind_count", Numeric),
    column("avg_client_login_count", Numeric),
    column("total_requests", Numeric),
];

const STATS_TOTALS: [Column; 13] = [
    column("database", Text),
    column("server_assignment_count", Numeric),
    column("xact_count", Numeric),
    column("query_count", Numeric),
    column("bytes_received", Numeric),
    column("bytes_sent", Numeric),
    column("xact_time", Numeric),
    column("query_time", Numeric),
    column("wait_time", Numeric),
    column("client_parse_count", Numeric),
    column("server_parse_count", Numeric),
    column("bind_count", Numeric),
    column("client_login_count", Numeric),
];

const STATS_AVERAGES: [Column; 13] = [
    column("database", Text),
    column("server_assignment_count", Numeric),
    column("xact_count", Numeric),
    column("query_count", Numeric),
    column("bytes_received", Numeric),
    column("bytes_sent", Numeric),
    column("xact_time", Numeric),
    column("query_time", Numeric),
    column("wait_time", Numeric),
    column("avg_client_parse_count", Numeric),
    column("avg_server_parse_count", Numeric),
    column("avg_bind_count", Numeric),
    column("avg_client_login_count", Numeric),
];

const SOCKETS: [Column; 28] = [
    column("type", Text),
    column("user", Text),
    column("database", Text),
    column("replication", Text),
    column("state", Text),
    column("addr", Text),
    column("port", Int4),
    column("local_addr", Text),
    column("local_port", Int4),
    column("connect_time", Text),
    column("request_time", Text),
    column("wait", Int4),
    column("wait_us", Int4),
    column("close_needed", Int4),
    column("ptr", Text),
    column("link", Text),
    column("remote_pid", Int4),
    column("tls", Text),
    column("application_name", Text),
    column("prepared_statements", Int4),
    column("id", Int4),
    column("recv_pos", Int4),
    column("pkt_pos", Int4),
    column("pkt_remain", Int4),
    column("send_pos", Int4),
    column("send_remain", Int4),
    column("pkt_avail", Int4),
    column("send_avail", Int4),
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
                        Text => "t",
                        Int4 => "i",
                        Int8 => "q",
                        Numeric => "n",
                        Bytea => "b",
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
