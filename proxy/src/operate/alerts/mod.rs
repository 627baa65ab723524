//! Every alert: what it looks at, when that is too much, and what whoever is woken by it does. Rules, runbook and tests derive from it.

mod clients;
mod injector;
mod pools;
mod process;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Clients suffer now: wakes somebody up.
    Page,
    /// Clients will suffer soon, or something is broken: today.
    Critical,
    /// To be looked at in working hours.
    Warning,
}

impl Severity {
    /// As the label `severity`. A page is critical, too, for those whose routing knows the two usual words alone.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Page | Self::Critical => "critical",
            Self::Warning => "warning",
        }
    }
}

/// One alert.
#[derive(Debug, Clone, Copy)]
pub struct Alert {
    /// Its name, unique.
    pub name: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// How long it must be so.
    pub lasting: &'static str,
    /// What it looks at: an expression that gives a number while all is well, too.
    pub signal: &'static str,
    /// When that is too much: a comparison.
    pub condition: &'static str,
    /// What must be so as well; empty for nothing.
    pub only_if: &'static str,
    /// Why the signal may give nothing while all is well; empty if it may not.
    pub silent_because: &'static str,
    /// One line, with labels and the value filled in by Prometheus.
    pub summary: &'static str,
    /// What it means and where it comes from.
    pub cause: &'static str,
    /// What to look at.
    pub look: &'static [&'static str],
    /// What to do.
    pub act: &'static [&'static str],
}

impl Alert {
    /// The whole expression.
    #[must_use]
    pub fn expression(&self) -> String {
        let Self { signal, condition, only_if, .. } = self;
        if only_if.is_empty() { format!("{signal} {condition}") } else { format!("{signal} {condition} and {only_if}") }
    }
}

/// A group of alerts, with its heading.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// The name of the group of rules.
    pub name: &'static str,
    /// As a heading for people.
    pub title: &'static str,
    /// Its alerts.
    pub alerts: &'static [Alert],
}

/// All of them.
pub const GROUPS: &[Group] = &[
    Group { name: "sidepool-pools", title: "Pools that run dry", alerts: pools::ALERTS },
    Group { name: "sidepool-servers", title: "Servers that do not answer", alerts: pools::SERVERS },
    Group { name: "sidepool-clients", title: "Clients that are kept out", alerts: clients::ALERTS },
    Group { name: "sidepool-process", title: "The process and its configuration", alerts: process::ALERTS },
    Group { name: "sidepool-injector", title: "The injector", alerts: injector::ALERTS },
];

/// Every alert.
pub fn all() -> impl Iterator<Item = &'static Alert> {
    GROUPS.iter().flat_map(|group| group.alerts)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::operate::queries;

    #[test]
    fn alerts_are_complete_and_name_what_exists() {
        let mut names = BTreeSet::new();
        for alert in all() {
            assert!(names.insert(alert.name) && alert.name.starts_with("Sidepool"), "{}", alert.name);
            assert!(alert.summary.contains("{{ $") || !alert.silent_because.is_empty(), "{} says neither who nor how much", alert.name);
            assert!(alert.cause.ends_with('.') && !alert.look.is_empty() && !alert.act.is_empty(), "{}", alert.name);
            queries::check(&alert.expression()).unwrap_or_else(|problem| panic!("{}: {problem}", alert.name));
            assert!(alert.lasting.ends_with(['s', 'm', 'h']), "{}", alert.name);
        }
    }

    #[test]
    fn running_dry_warns_at_seventy_percent_is_critical_at_ninety_and_pages_when_clients_suffer() {
        let of = |name: &str| all().find(|alert| alert.name == name).map(|alert| (alert.severity, alert.condition)).expect(name);
        assert_eq!(of("SidepoolPoolUtilizationHigh"), (Severity::Warning, "> 0.7"));
        assert_eq!(of("SidepoolPoolNearExhaustion"), (Severity::Critical, "> 0.9"));
        assert_eq!(of("SidepoolPoolExhausted").0, Severity::Page);
        assert_eq!(of("SidepoolPoolRefusesClients").0, Severity::Page);
    }
}
