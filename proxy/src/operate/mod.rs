//! What an operator sets up around a running sidepool, generated so that it cannot drift from what is exported: alerts, recording rules, their
//! runbook, dashboards. Sits on top, beside the admin side; it reads the catalogue of metrics and nothing that runs.

pub mod alerts;
pub mod dashboards;
pub mod queries;
pub mod rules;
pub mod runbook;

use std::io::Write as _;
use std::process::ExitCode;

use crate::cli::Alerts;

/// What `sidepool alerts` prints.
#[must_use]
pub fn alerts_text(wanted: &Alerts) -> String {
    if wanted.runbook {
        runbook::text()
    } else if wanted.kubernetes {
        rules::kubernetes(&wanted.runbook_url)
    } else {
        rules::prometheus(&wanted.runbook_url)
    }
}

/// What `sidepool dashboard` prints.
#[must_use]
pub fn dashboard_text(fleet: bool) -> String {
    if fleet { dashboards::fleet() } else { dashboards::instance() }
}

/// Prints a text.
#[must_use]
pub fn print(text: &str) -> ExitCode {
    // Whoever reads only the beginning (`| head`) has seen what they wanted.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}
