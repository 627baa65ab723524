//! What a scenario found: one line of JSON, and a row of a table beside the peer's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::tally::Tally;

/// One run of one scenario.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The scenario.
    pub scenario: String,
    /// Who stood between clients and server.
    pub against: &'static str,
    /// Requests made.
    pub asked: u64,
    /// Requests that were served.
    pub served: u64,
    /// The share of requests that was served.
    pub success: f64,
    /// Requests that were told why not, by SQLSTATE or first word.
    pub told: BTreeMap<String, u64>,
    /// Requests whose connection was closed without a word.
    pub closed: u64,
    /// Requests that nobody answered in the time a client has patience for.
    pub silent: u64,
    /// Half of the served requests took no longer, in milliseconds.
    pub p50_ms: f64,
    /// 95 of 100.
    pub p95_ms: f64,
    /// 99 of 100.
    pub p99_ms: f64,
    /// From the end of the cause to service as before, in seconds; nothing where there is no cause that ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_s: Option<f64>,
    /// Connections that the server saw.
    pub connects: u64,
    /// The most of them within a second, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connects_per_second: Option<u64>,
    /// The most memory the pooler had, in MB.
    pub peak_rss_mb: f64,
    /// Broken promises: replies lost, doubled, foreign or out of order, money that appeared or went. Empty, or it is a bug.
    pub broken: Vec<String>,
    /// What this scenario is about, by name.
    pub figures: BTreeMap<&'static str, f64>,
}

impl Report {
    /// The report of these requests.
    pub fn of(against: &'static str, tally: &Tally) -> Self {
        Self {
            scenario: String::new(),
            against,
            asked: tally.asked(),
            served: tally.served(),
            success: round(tally.share(), 5),
            told: tally.told().clone(),
            closed: tally.closed(),
            silent: tally.silent(),
            p50_ms: milliseconds(tally.percentile(0.5)),
            p95_ms: milliseconds(tally.percentile(0.95)),
            p99_ms: milliseconds(tally.percentile(0.99)),
            recovery_s: None,
            connects: 0,
            connects_per_second: None,
            peak_rss_mb: 0.0,
            broken: tally.wrong().to_vec(),
            figures: BTreeMap::new(),
        }
    }

    /// With the time it took to recover.
    #[must_use]
    pub fn recovered(mut self, after: Option<Duration>) -> Self {
        match after {
            Some(after) => self.recovery_s = Some(round(after.as_secs_f64(), 3)),
            None => self.broken.push("service did not come back".to_owned()),
        }
        self
    }

    /// With one more figure.
    #[must_use]
    pub fn figure(mut self, name: &'static str, value: f64) -> Self {
        self.figures.insert(name, round(value, 3));
        self
    }

    /// One line of JSON.
    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("numbers and texts")
    }

    fn row(&self) -> String {
        let recovery = self.recovery_s.map_or_else(|| "–".to_owned(), |seconds| format!("{seconds:.1} s"));
        let mut extra = String::new();
        for (name, value) in &self.figures {
            let _ = write!(extra, "{}{} {value}", if extra.is_empty() { "" } else { ", " }, name.replace('_', " "));
        }
        let unserved = self.asked - self.served;
        let told: u64 = self.told.values().sum();
        let rate = self.connects_per_second.map_or_else(String::new, |most| format!(" (≤ {most}/s)"));
        let promises = if self.broken.is_empty() { "kept".to_owned() } else { format!("**{} broken**", self.broken.len()) };
        format!(
            "| {} | {} | {} | {:.2} % | {unserved} ({told} told why) | {:.0} / {:.0} / {:.0} ms | {recovery} | {}{rate} | {:.0} MB | {promises} | {extra} |\n",
            self.scenario,
            self.against,
            self.asked,
            self.success * 100.0,
            self.p50_ms,
            self.p95_ms,
            self.p99_ms,
            self.connects,
            self.peak_rss_mb
        )
    }
}

/// All reports as a table.
pub fn table(reports: &[Report]) -> String {
    let mut text = "| scenario | through | requests | served | not served | p50 / p95 / p99 | recovery | server saw connects | peak memory | promises | |\n|---|---|---|---|---|---|---|---|---|---|---|\n".to_owned();
    text.extend(reports.iter().map(Report::row));
    text
}

fn milliseconds(duration: Duration) -> f64 {
    round(duration.as_secs_f64() * 1000.0, 2)
}

/// Rounded to so many digits behind the point.
pub fn round(value: f64, digits: i32) -> f64 {
    let factor = 10_f64.powi(digits);
    (value * factor).round() / factor
}
