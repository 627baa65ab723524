//! Recording rules and alerts as files: for Prometheus itself, and as a PrometheusRule for its operator on Kubernetes.

use std::fmt::Write as _;

use super::alerts::{Alert, GROUPS, Severity};

/// Where runbook entries are found when nobody says otherwise: beside the rules, in the repository.
pub const RUNBOOK: &str = "deploy/runbook.md";

/// A recording rule.
#[derive(Debug, Clone, Copy)]
pub struct Recording {
    /// Its name: level, metric, operation.
    pub name: &'static str,
    /// What it records.
    pub expression: &'static str,
    /// What that is.
    pub about: &'static str,
}

/// All of them.
pub const RECORDINGS: &[Recording] = &[
    Recording {
        name: "sidepool:pool_utilization:ratio",
        expression: "max by (job, namespace, pool) (sidepool_pool_utilization_ratio)",
        about: "The fullest pool of this name among all replicas.",
    },
    Recording {
        name: "sidepool:pool_wait_seconds:p99_5m",
        expression: "histogram_quantile(0.99, sum by (job, namespace, pool, le) (rate(sidepool_pool_wait_seconds_bucket[5m])))",
        about: "How long one of a hundred clients waited for a connection, or longer.",
    },
    Recording {
        name: "sidepool:pool_saturated:ratio_5m",
        expression: "max by (job, namespace, pool) (rate(sidepool_pool_saturated_seconds_total[5m]))",
        about: "Share of the time in which clients waited because every connection was in use, where that was worst.",
    },
    Recording {
        name: "sidepool:pool_rejections:rate_5m",
        expression: "sum by (job, namespace, pool, reason) (rate(sidepool_pool_rejections_total[5m]))",
        about: "Clients refused a connection, a second.",
    },
    Recording {
        name: "sidepool:pool_idle_in_transaction:connections",
        expression: "sum by (job, namespace, pool) (rate(sidepool_transaction_seconds_total[5m]) - rate(sidepool_query_seconds_sum[5m]))",
        about: "Connections that were held by clients idle in transactions, on average.",
    },
    Recording {
        name: "sidepool:upstream_connections_max:sum",
        expression: "sum by (job, namespace, upstream) (sidepool_pool_server_connections_max * on (job, namespace, instance, pool) group_left (upstream) sidepool_pool_info)",
        about: "The most connections that all pools of all replicas together may open to a server: to be held against its max_connections.",
    },
];

/// A file of rules.
#[must_use]
pub fn prometheus(runbook: &str) -> String {
    let mut text = head("sidepool alerts");
    text.push_str("groups:\n");
    groups(&mut text, "  ", runbook);
    text
}

/// The same for the Prometheus operator.
#[must_use]
pub fn kubernetes(runbook: &str) -> String {
    let mut text = head("sidepool alerts --kubernetes");
    text.push_str("apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: sidepool\n");
    text.push_str("  labels:\n    app.kubernetes.io/name: sidepool\nspec:\n  groups:\n");
    groups(&mut text, "    ", runbook);
    text
}

fn head(command: &str) -> String {
    format!("# Made by `{command}`, from the tables in proxy/src/operate: change them, not this.\n")
}

fn groups(text: &mut String, indent: &str, runbook: &str) {
    let mut line = |depth: usize, rest: &str| {
        let _ = writeln!(text, "{indent}{}{rest}", "  ".repeat(depth));
    };
    line(0, "- name: sidepool-recording");
    line(1, "rules:");
    for Recording { name, expression, about } in RECORDINGS {
        line(2, &format!("# {about}"));
        line(2, &format!("- record: {name}"));
        line(3, &format!("expr: {}", quoted(expression)));
    }
    for group in GROUPS {
        line(0, &format!("- name: {}", group.name));
        line(1, "rules:");
        for alert in group.alerts {
            rule(&mut line, alert, runbook);
        }
    }
}

fn rule(line: &mut impl FnMut(usize, &str), alert: &Alert, runbook: &str) {
    line(2, &format!("- alert: {}", alert.name));
    line(3, &format!("expr: {}", quoted(&alert.expression())));
    line(3, &format!("for: {}", alert.lasting));
    line(3, "labels:");
    line(4, &format!("severity: {}", alert.severity.label()));
    if alert.severity == Severity::Page {
        line(4, "page: \"true\"");
    }
    line(3, "annotations:");
    line(4, &format!("summary: {}", quoted(alert.summary)));
    line(4, &format!("description: {}", quoted(alert.cause)));
    line(4, &format!("runbook_url: {}", quoted(&format!("{runbook}#{}", alert.name.to_lowercase()))));
}

/// As a single-quoted scalar of YAML: it holds all that has no line break, and only its own quotes are doubled.
fn quoted(text: &str) -> String {
    debug_assert!(!text.contains('\n'), "one line: {text}");
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operate::queries;

    #[test]
    fn recordings_name_what_exists() {
        for recording in RECORDINGS {
            queries::check(recording.expression).unwrap_or_else(|problem| panic!("{}: {problem}", recording.name));
            assert!(recording.name.starts_with("sidepool:") && recording.name.matches(':').count() == 2, "{}", recording.name);
        }
    }

    #[test]
    fn text_with_quotes_stays_one_scalar() {
        assert_eq!(quoted("a 'b' \"c\": d"), "'a ''b'' \"c\": d'");
    }
}
