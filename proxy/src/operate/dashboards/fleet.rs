//! The panels of the dashboard for many sidepools: totals, and the few that stand out.

use super::panel::Look::{Lines, Stat, Table};
use super::panel::{Panel, Row, Thresholds, own};
use crate::observe::catalog::{Family, Family as F};

/// How many stand out.
const MOST: &str = "10";

/// All rows.
pub(super) fn rows() -> Vec<Row> {
    let row = |title, panels| Row { title, collapsed: false, panels };
    vec![
        row("All together", together()),
        row("Those that stand out", outstanding()),
        row("Servers", servers()),
        row("Processes", processes()),
    ]
}

/// The family's name with the selection of this dashboard, which has neither instance nor pool.
fn all(family: Family, suffix: &str, more: &str) -> String {
    let more = if more.is_empty() { String::new() } else { format!(",{more}") };
    format!("{}{suffix}{{namespace=~\"$namespace\",job=~\"$job\"{more}}}", family.info().name)
}

/// The largest, by instance and pool.
fn top(title: &str, unit: &'static str, about: &str, expression: &str) -> Panel {
    Panel::new(title, Lines, unit, about, vec![own(format!("topk({MOST}, {expression})"), "{{instance}} {{pool}}")])
}

fn rate(family: Family) -> String {
    format!("rate({}[$__rate_interval])", all(family, "", ""))
}

fn together() -> Vec<Panel> {
    let stat =
        |title, thresholds, unit, about, expression: String| Panel::new(title, Stat(thresholds), unit, about, vec![own(expression, "")]);
    let waiting = format!("sum ({})", all(F::PoolClientConnections, "", "state=\"waiting\""));
    vec![
        stat("Sidepools", Thresholds::None, "short", "How many are scraped.", format!("count ({})", all(F::BuildInfo, "", ""))),
        stat(
            "Fullest pool",
            Thresholds::Full,
            "percentunit",
            "Of all pools of all sidepools.",
            format!("max ({})", all(F::PoolUtilization, "", "")),
        ),
        stat("Waiting clients", Thresholds::Any, "short", "In all sidepools.", waiting),
        stat("Refusals", Thresholds::Any, "cps", "Clients refused a connection, a second.", format!("sum ({})", rate(F::PoolRejections))),
        stat(
            "Configurations",
            Thresholds::None,
            "short",
            "How many different ones are in force.",
            format!("count (count_values (\"hash\", {}))", all(F::ConfigHash, "", "")),
        ),
        stat(
            "Rejected",
            Thresholds::Any,
            "short",
            "Sidepools whose last reload was rejected.",
            format!("sum (1 - {})", all(F::ConfigLastReloadSuccessful, "", "")),
        ),
    ]
}

fn outstanding() -> Vec<Panel> {
    let waiting = format!("sum by (instance, pool) ({})", all(F::PoolClientConnections, "", "state=\"waiting\""));
    let refusals = format!("sum by (instance, pool) ({})", rate(F::PoolRejections));
    let wait = format!("histogram_quantile(0.99, rate({}[$__rate_interval]))", all(F::PoolWaitSeconds, "_bucket", ""));
    vec![
        top("Utilisation", "percentunit", "The fullest pools.", &all(F::PoolUtilization, "", "")),
        top("Waiting clients", "short", "The pools with the longest queues.", &waiting),
        top(
            "Share of the time in which clients waited",
            "percentunit",
            "The pools that were exhausted for longest.",
            &rate(F::PoolSaturatedSeconds),
        ),
        top("Wait, p99", "s", "The pools in which clients wait longest.", &wait),
        top("Refusals", "cps", "The pools that refuse most.", &refusals),
        top("Transactions", "cps", "The busiest pools.", &rate(F::Transactions)),
    ]
}

fn servers() -> Vec<Panel> {
    let joined = |family: Family| {
        let on = "on (namespace, job, instance, pool) group_left (upstream)";
        format!("sum by (upstream) (sum by (namespace, job, instance, pool) ({}) * {on} {})", all(family, "", ""), all(F::PoolInfo, "", ""))
    };
    let budget =
        vec![own(joined(F::PoolServerConnections), "{{upstream}} open"), own(joined(F::PoolServerConnectionsMax), "{{upstream}} most")];
    vec![
        Panel::new(
            "Connections by server",
            Lines,
            "short",
            "What all sidepools together have open to each server, and the most that they may: to be held against its max_connections.",
            budget,
        ),
        Panel::new(
            "Sidepools that cannot reach a server",
            Lines,
            "short",
            "How many pools failed at their last connect.",
            vec![own(
                format!("count by (pool) ({} == 0) or sum by (pool) (0 * {})", all(F::ServerUp, "", ""), all(F::ServerUp, "", "")),
                "{{pool}}",
            )],
        ),
        Panel::new(
            "Connects by result",
            Lines,
            "cps",
            "Attempts to open a connection, a second.",
            vec![own(format!("sum by (result) ({})", rate(F::ServerConnects)), "{{result}}")],
        ),
    ]
}

fn processes() -> Vec<Panel> {
    vec![
        top("Cores used", "short", "The processes that use most CPU.", &rate(F::ProcessCpuSeconds)),
        top("Memory", "bytes", "The largest processes.", &all(F::ProcessResidentMemory, "", "")),
        top(
            "Restarts in an hour",
            "short",
            "The processes that started most often.",
            &format!("changes({}[1h])", all(F::ProcessStartTime, "", "")),
        ),
        Panel::new(
            "Versions",
            Table,
            "short",
            "How many run each version.",
            vec![own(format!("count by (version) ({})", all(F::BuildInfo, "", "")), "")],
        ),
    ]
}
