//! One scrape's worth of series in the Prometheus text format.
//!
//! Counters and gauges go through `metrics` and `metrics-exporter-prometheus`, into a recorder of this scrape's own: series of pools that are
//! gone disappear by themselves, and no recorder is global. What there is of each pool is written here: thousands of series, each of which would
//! pass through a registry for the sake of one line, at several times the cost. So are two kinds that the exporter cannot take. Histograms: its
//! `record_many` loops over `record`, which stores each single sample with a time stamp until the next scrape (16 MB for a million
//! transactions), where we have the exact counts already. Counters of seconds: its counters are whole numbers.

use std::collections::BTreeMap;
use std::fmt::Write;

use metrics::{Key, KeyName, Label, Level, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use sidepool_config::model::MetricsNames;

use crate::observe::catalog::{Buckets, Family, Info, Kind};
use crate::observe::histogram::HistogramNumbers;

static METADATA: Metadata<'static> = Metadata::new("sidepool", Level::INFO, None);

/// Collects series and renders them.
pub struct Exposition {
    recorder: PrometheusRecorder,
    names: MetricsNames,
    own: BTreeMap<Family, String>,
}

impl Exposition {
    /// An empty one, in which the metrics of pools are called so.
    #[must_use]
    pub fn new(names: MetricsNames) -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        for family in Family::ALL {
            let Info { name, kind, labels: _, help } = *family.info();
            let (name, help) = (KeyName::from_const_str(name), SharedString::const_str(help));
            match kind {
                Kind::Counter => recorder.describe_counter(name, None, help),
                Kind::Gauge => recorder.describe_gauge(name, None, help),
                Kind::CounterSeconds | Kind::Histogram(_) => {}
            }
        }
        Self { recorder, names, own: BTreeMap::new() }
    }

    /// Whether a family is shown under these names.
    fn has(&self, family: Family) -> bool {
        match self.names {
            MetricsNames::Sidepool => !family.is_otel(),
            MetricsNames::Otel => !family.is_said_by_otel(),
            MetricsNames::Both => true,
        }
    }

    /// The value of a counter (in nanoseconds for a counter of seconds).
    pub fn counter(&mut self, family: Family, labels: &[&str], value: u64) {
        if !self.has(family) {
            return;
        }
        match family.info().kind {
            Kind::Counter if is_of_pool(family) => self.own_line(family, "", labels, None, &value.to_string()),
            Kind::Counter => self.recorder.register_counter(&key(family, labels), &METADATA).absolute(value),
            Kind::CounterSeconds => self.own_line(family, "", labels, None, &seconds(value)),
            Kind::Gauge | Kind::Histogram(_) => debug_assert!(false, "{family:?} is no counter"),
        }
    }

    /// The value of a gauge.
    pub fn gauge(&mut self, family: Family, labels: &[&str], value: f64) {
        debug_assert!(family.info().kind == Kind::Gauge, "{family:?} is no gauge");
        if !self.has(family) {
            return;
        }
        if is_of_pool(family) {
            self.own_line(family, "", labels, None, &value.to_string());
        } else {
            self.recorder.register_gauge(&key(family, labels), &METADATA).set(value);
        }
    }

    /// The value of a gauge that counts things.
    #[expect(clippy::cast_precision_loss, reason = "gauges are floating point; nobody has 2^53 of anything")]
    pub fn count(&mut self, family: Family, labels: &[&str], value: u64) {
        self.gauge(family, labels, value as f64);
    }

    /// The value of a histogram.
    pub fn histogram(&mut self, family: Family, labels: &[&str], numbers: &HistogramNumbers) {
        let Kind::Histogram(buckets) = family.info().kind else {
            debug_assert!(false, "{family:?} is no histogram");
            return;
        };
        if !self.has(family) {
            return;
        }
        let shown = |number: u64| match buckets {
            Buckets::Wait | Buckets::Work | Buckets::Opening => seconds(number),
            Buckets::Count => number.to_string(),
        };
        let mut so_far = 0;
        for (bound, count) in buckets.bounds().iter().zip(&numbers.counts) {
            so_far += count;
            self.own_line(family, "_bucket", labels, Some(&shown(*bound)), &so_far.to_string());
        }
        so_far += numbers.counts[buckets.bounds().len()];
        self.own_line(family, "_bucket", labels, Some("+Inf"), &so_far.to_string());
        self.own_line(family, "_sum", labels, None, &shown(numbers.sum_nanos));
        self.own_line(family, "_count", labels, None, &so_far.to_string());
    }

    /// The text of the scrape.
    #[must_use]
    pub fn render(self) -> String {
        let mut text = self.recorder.handle().render();
        for (family, lines) in self.own {
            let Info { name, kind, labels: _, help } = *family.info();
            let kind = match kind {
                Kind::Counter | Kind::CounterSeconds => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram(Buckets::Wait | Buckets::Work | Buckets::Opening | Buckets::Count) => "histogram",
            };
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}");
        }
        text
    }

    fn own_line(&mut self, family: Family, suffix: &str, labels: &[&str], bound: Option<&str>, value: &str) {
        let info = family.info();
        debug_assert_eq!(info.labels.len(), labels.len(), "{family:?}");
        let lines = self.own.entry(family).or_default();
        lines.push_str(info.name);
        lines.push_str(suffix);
        let mut open = '{';
        let pairs = info.labels.iter().copied().zip(labels.iter().copied()).chain(bound.map(|bound| ("le", bound)));
        for (name, value) in pairs {
            lines.push(open);
            open = ',';
            lines.push_str(name);
            lines.push_str("=\"");
            push_escaped(lines, value);
            lines.push('"');
        }
        if open == ',' {
            lines.push('}');
        }
        let _ = writeln!(lines, " {value}");
    }
}

/// Whether there is one for each pool.
fn is_of_pool(family: Family) -> bool {
    family.info().labels.first().is_some_and(|label| ["pool", "db_client_connection_pool_name"].contains(label))
}

fn key(family: Family, labels: &[&str]) -> Key {
    let info = family.info();
    debug_assert_eq!(info.labels.len(), labels.len(), "{family:?}");
    let labels: Vec<Label> = info.labels.iter().zip(labels).map(|(name, value)| Label::new(*name, (*value).to_owned())).collect();
    Key::from_parts(info.name, labels)
}

fn push_escaped(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

/// Nanoseconds as seconds, exactly and without needless zeros.
fn seconds(nanos: u64) -> String {
    let (whole, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    if rest == 0 {
        return whole.to_string();
    }
    let text = format!("{whole}.{rest:09}");
    text.trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_exact() {
        let texts = [0, 1, 100_000, 2_500_000_000, 30_000_000_000].map(seconds);
        assert_eq!(texts, ["0", "0.000000001", "0.0001", "2.5", "30"]);
    }

    #[test]
    fn histograms_are_cumulative_and_labels_escaped() {
        let mut numbers = HistogramNumbers { sum_nanos: 1_500_000_000, ..HistogramNumbers::default() };
        numbers.counts[0] = 2;
        numbers.counts[1] = 1;
        numbers.counts[17] = 1;
        let mut exposition = Exposition::new(MetricsNames::Sidepool);
        exposition.histogram(Family::PoolWaitSeconds, &["a\"b\\c\nd"], &numbers);
        let text = exposition.render();
        assert!(text.contains("# TYPE sidepool_pool_wait_seconds histogram\n"), "{text}");
        assert!(text.contains("sidepool_pool_wait_seconds_bucket{pool=\"a\\\"b\\\\c\\nd\",le=\"0.0001\"} 2\n"), "{text}");
        assert!(text.contains("le=\"0.00025\"} 3\n") && text.contains("le=\"30\"} 3\n") && text.contains("le=\"+Inf\"} 4\n"), "{text}");
        assert!(text.contains("_sum{pool=\"a\\\"b\\\\c\\nd\"} 1.5\n") && text.contains("_count{pool=\"a\\\"b\\\\c\\nd\"} 4\n"), "{text}");
    }

    #[test]
    fn counters_and_gauges_come_from_the_exporter_with_their_help() {
        let mut exposition = Exposition::new(MetricsNames::Sidepool);
        exposition.counter(Family::Queries, &["app"], 3);
        exposition.counter(Family::ProcessCpuSeconds, &[], 1_250_000_000);
        exposition.gauge(Family::Draining, &[], 0.0);
        let text = exposition.render();
        assert!(
            text.contains(
                "# HELP sidepool_queries_total Queries sent upstream (Redis: commands).\n# TYPE sidepool_queries_total counter\n"
            ),
            "{text}"
        );
        assert!(text.contains("sidepool_queries_total{pool=\"app\"} 3\n") && text.contains("sidepool_draining 0\n"), "{text}");
        assert!(text.contains("# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 1.25\n"), "{text}");
    }
}
