//! The panels of the dashboard for one sidepool, from "is it well?" down to the details.

use super::panel::Look::{Heatmap, Lines, Stacked, Stat, Table};
use super::panel::{LIMIT, Panel, Row, Thresholds, folded, heat, max, named, own, quantile, quantiles, rate, select, sum};
use crate::observe::catalog::Family as F;

/// All rows.
pub(super) fn rows() -> Vec<Row> {
    let row = |title, panels| Row { title, collapsed: false, panels };
    vec![
        row("Is it well?", well()),
        row("Saturation", saturation()),
        row("Traffic", traffic()),
        row("Server connections", connections()),
        row("Clients", clients()),
        row("Redis", redis()),
        row("Reloads, drains, addresses", resilience()),
        row("Process", process()),
    ]
}

fn well() -> Vec<Panel> {
    let wait = quantile(F::PoolWaitSeconds, 99, &[]);
    vec![
        Panel::new(
            "Fullest pool",
            Stat(Thresholds::Full),
            "percentunit",
            "The pool with the largest part of its connections in use: above 70 % the next burst will wait, above 90 % clients do.",
            vec![max(F::PoolUtilization, &[])],
        ),
        Panel::new(
            "Waiting clients",
            Stat(Thresholds::Any),
            "short",
            "Clients that wait for a connection now.",
            vec![own(format!("sum ({})", select(F::PoolClientConnections, "", "state=\"waiting\"")), "")],
        ),
        Panel::new(
            "Wait, p99",
            Stat(Thresholds::None),
            "s",
            "How long one of a hundred clients waited for a connection, or longer.",
            vec![wait],
        ),
        Panel::new(
            "Refusals",
            Stat(Thresholds::Any),
            "cps",
            "Clients that were refused a connection, a second.",
            vec![rate(F::PoolRejections, &[])],
        ),
        Panel::new(
            "Servers",
            Stat(Thresholds::Down),
            "short",
            "1 if the last connect of every pool worked, 0 if one failed.",
            vec![folded("min", F::ServerUp, &[])],
        ),
        Panel::new(
            "Configuration",
            Stat(Thresholds::Down),
            "short",
            "1 if every sidepool runs on the configuration that it read last, 0 if one was rejected.",
            vec![folded("min", F::ConfigLastReloadSuccessful, &[])],
        ),
    ]
}

fn saturation() -> Vec<Panel> {
    vec![
        Panel::of(
            F::PoolServerConnections,
            "Server connections by state",
            Stacked,
            vec![sum(F::PoolServerConnections, &["state"]), named(sum(F::PoolServerConnectionsMax, &[]), LIMIT)],
        ),
        Panel::of(F::PoolUtilization, "Utilisation", Lines, vec![max(F::PoolUtilization, &["pool"])]),
        Panel::of(
            F::PoolSaturatedSeconds,
            "Share of the time in which clients waited",
            Lines,
            vec![own(format!("max by (pool) (rate({}[$__rate_interval]))", select(F::PoolSaturatedSeconds, "", "")), "{{pool}}")],
        ),
        Panel::of(F::PoolWaitSeconds, "Wait for a connection", Heatmap, heat(F::PoolWaitSeconds)),
        Panel::of(F::PoolWaitingMaxAge, "Oldest waiter", Lines, vec![max(F::PoolWaitingMaxAge, &["pool"])]),
        Panel::of(F::PoolRejections, "Refusals by reason", Lines, vec![rate(F::PoolRejections, &["pool", "reason"])]),
    ]
}

fn traffic() -> Vec<Panel> {
    let held = format!(
        "sum by (pool) (rate({}[$__rate_interval]) - rate({}[$__rate_interval]))",
        select(F::TransactionSeconds, "", ""),
        select(F::QuerySeconds, "_sum", ""),
    );
    vec![
        Panel::of(F::Transactions, "Transactions", Lines, vec![rate(F::Transactions, &["pool"])]),
        Panel::of(F::Queries, "Queries and commands", Lines, vec![rate(F::Queries, &["pool"])]),
        Panel::of(F::QuerySeconds, "How long queries take", Lines, quantiles(F::QuerySeconds, &[])),
        Panel::of(F::PoolUseSeconds, "How long connections are held", Lines, quantiles(F::PoolUseSeconds, &[])),
        Panel::new(
            "Bytes",
            Lines,
            "Bps",
            "Bytes moved a second; the direction is as sidepool sees it.",
            vec![rate(F::Bytes, &["side", "direction"])],
        ),
        Panel::of(F::Errors, "Errors by class", Lines, vec![rate(F::Errors, &["source", "class"])]),
        Panel::new(
            "Idle in transactions",
            Lines,
            "short",
            "Connections held by clients that are idle in transactions, on average.",
            vec![own(held, "{{pool}}")],
        ),
    ]
}

fn connections() -> Vec<Panel> {
    let saved = format!(
        "1 - sum (rate({}[$__rate_interval])) / sum (rate({}[$__rate_interval]))",
        select(F::Parses, "", "side=\"server\""),
        select(F::Parses, "", "side=\"client\""),
    );
    vec![
        Panel::of(F::ServerConnects, "Connects by result", Lines, vec![rate(F::ServerConnects, &["result"])]),
        Panel::of(F::ServerConnectSeconds, "How long connecting takes", Lines, quantiles(F::ServerConnectSeconds, &[])),
        Panel::of(F::ServerLoginsInProgress, "Connections being opened", Lines, vec![sum(F::ServerLoginsInProgress, &["pool"])]),
        Panel::of(F::ServerCloses, "Closes by reason", Lines, vec![rate(F::ServerCloses, &["reason"])]),
        Panel::new(
            "Prepared statements that the server knew",
            Lines,
            "percentunit",
            "Share of the clients' Parse messages that needed not be sent on, because the connection had the statement.",
            vec![own(saved, "known")],
        ),
        Panel::of(F::PinnedClients, "Pinned clients by reason", Stacked, vec![sum(F::PinnedClients, &["reason"])]),
        Panel::of(F::SessionStates, "Session state that followed", Lines, vec![rate(F::SessionStates, &["event"])]),
        Panel::of(F::PoolServerConnectionsRoom, "Room on the server", Lines, vec![sum(F::PoolServerConnectionsRoom, &["pool"])]),
        Panel::of(
            F::PoolPinnedConnections,
            "Pinned connections",
            Stacked,
            vec![sum(F::PoolPinnedConnections, &["pool"]), named(sum(F::PoolPinnedConnectionsMax, &[]), LIMIT)],
        ),
    ]
}

fn clients() -> Vec<Panel> {
    vec![
        Panel::of(F::PoolClientConnections, "Clients by state", Stacked, vec![sum(F::PoolClientConnections, &["state"])]),
        Panel::of(
            F::ListenerClients,
            "Clients by listener",
            Stacked,
            vec![sum(F::ListenerClients, &["listener"]), named(sum(F::ListenerClientsMax, &[]), LIMIT)],
        ),
        Panel::of(F::ClientLogins, "Logins by result", Lines, vec![rate(F::ClientLogins, &["protocol", "result"])]),
        Panel::of(F::ClientDenials, "Not let in, by reason", Lines, vec![rate(F::ClientDenials, &["protocol", "reason"])]),
        Panel::of(F::ClientLoginSeconds, "How long logins take", Lines, quantiles(F::ClientLoginSeconds, &["protocol"])),
        Panel::of(F::ListenerRejections, "Turned away at the door", Lines, vec![rate(F::ListenerRejections, &["listener", "reason"])]),
        Panel::of(F::ClientFaults, "Clients that misbehaved", Lines, vec![rate(F::ClientFaults, &["protocol", "kind"])]),
    ]
}

fn redis() -> Vec<Panel> {
    let merged = format!(
        "sum by (lane) (rate({}[$__rate_interval])) / sum by (lane) (rate({}[$__rate_interval]))",
        select(F::RedisLaneCommands, "", ""),
        select(F::RedisWrites, "", ""),
    );
    vec![
        Panel::of(F::RedisCommands, "Commands by class", Stacked, vec![rate(F::RedisCommands, &["class"])]),
        Panel::of(F::RedisInFlight, "Commands in flight", Lines, vec![sum(F::RedisInFlight, &["pool"])]),
        Panel::of(F::RedisPipelineDepth, "Depth of shared connections", Heatmap, heat(F::RedisPipelineDepth)),
        Panel::new(
            "Commands merged into one write",
            Lines,
            "short",
            "How many commands go to the server with one write, on average.",
            vec![own(merged, "{{lane}}")],
        ),
        Panel::of(F::RedisConnections, "Connections by use", Stacked, vec![sum(F::RedisConnections, &["use"])]),
        Panel::of(F::RedisLeases, "Leases by reason", Lines, vec![rate(F::RedisLeases, &["reason"])]),
        Panel::of(F::RedisRetries, "Sent again", Lines, vec![rate(F::RedisRetries, &["reason"])]),
        Panel::of(F::RedisBlockingWaiting, "Blocking commands that wait", Lines, vec![sum(F::RedisBlockingWaiting, &["pool"])]),
        Panel::of(F::RedisSubscriptions, "Subscriptions", Lines, vec![sum(F::RedisSubscriptions, &["kind"])]),
    ]
}

fn resilience() -> Vec<Panel> {
    vec![
        Panel::of(F::UpstreamAddresses, "Addresses by state", Stacked, vec![sum(F::UpstreamAddresses, &["state"])]),
        Panel::of(F::ServerUp, "Servers", Lines, vec![folded("min", F::ServerUp, &["pool"])]),
        Panel::of(F::ConfigReloads, "Reloads", Lines, vec![rate(F::ConfigReloads, &["trigger", "result"])]),
        Panel::of(F::Draining, "Draining", Lines, vec![max(F::Draining, &["instance"])]),
        Panel::of(F::Cancels, "Cancel requests", Lines, vec![rate(F::Cancels, &["result"])]),
        Panel::of(F::PoolPaused, "Paused pools", Lines, vec![max(F::PoolPaused, &["pool"])]),
    ]
}

fn process() -> Vec<Panel> {
    let workers = own(format!("sum by (instance) ({})", select(F::Workers, "", "")), LIMIT);
    vec![
        Panel::of(F::WorkerBusySeconds, "Busy workers", Lines, vec![rate(F::WorkerBusySeconds, &["instance", "worker"])]),
        Panel::of(F::ProcessCpuSeconds, "Cores used", Lines, vec![rate(F::ProcessCpuSeconds, &["instance"]), workers]),
        Panel::of(
            F::ProcessResidentMemory,
            "Memory",
            Lines,
            vec![sum(F::ProcessResidentMemory, &["instance"]), named(sum(F::MemoryLimit, &["instance"]), LIMIT)],
        ),
        Panel::of(
            F::ProcessOpenFds,
            "Open files",
            Lines,
            vec![sum(F::ProcessOpenFds, &["instance"]), named(sum(F::ProcessMaxFds, &["instance"]), LIMIT)],
        ),
        Panel::of(F::LogMessagesDropped, "Log lines not written", Lines, vec![rate(F::LogMessagesDropped, &["reason"])]),
        Panel::of(F::WorkerHeartbeatAge, "Workers that owe an answer", Lines, vec![max(F::WorkerHeartbeatAge, &["instance", "worker"])]),
        Panel::new(
            "Pools",
            Table,
            "short",
            "Every pool: its protocol, database, user, mode and server.",
            vec![own(select(F::PoolInfo, "", ""), "")],
        ),
        Panel::new("Versions", Table, "short", "Every sidepool with its version.", vec![own(select(F::BuildInfo, "", ""), "")]),
    ]
}
