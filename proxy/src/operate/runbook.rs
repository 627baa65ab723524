//! The runbook: for each alert what it means, what to look at and what to do. Made from the same table as the alerts.

use std::fmt::Write as _;

use super::alerts::{GROUPS, Severity};

/// The document, in Markdown.
#[must_use]
pub fn text() -> String {
    let mut text = String::from(
        "# Runbook\n\n\
         Made by `sidepool alerts --runbook`, from the table that makes the alerts (`proxy/src/operate/alerts`). One entry for each alert: what it means, what to\n\
         look at, what to do. Alerts with `page: \"true\"` are those in which clients suffer now.\n",
    );
    for group in GROUPS {
        let _ = write!(text, "\n## {}\n", group.title);
        for alert in group.alerts {
            let severity = match alert.severity {
                Severity::Page => "critical, pages",
                Severity::Critical => "critical",
                Severity::Warning => "warning",
            };
            let _ =
                write!(text, "\n### {}\n\n`{}` for {} ({severity})\n\n{}\n", alert.name, alert.expression(), alert.lasting, alert.cause);
            list(&mut text, "Look at", alert.look);
            list(&mut text, "Do", alert.act);
        }
    }
    text
}

fn list(text: &mut String, title: &str, items: &[&str]) {
    let _ = write!(text, "\n{title}:\n\n");
    for item in items {
        let _ = writeln!(text, "* {item}");
    }
}
