//! What the injector counts. It is a program of its own that carries no traffic, so it has a table of its own beside the catalogue of the pooler:
//! what it exports is said by that table, and alerts are held against it.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use sidepool_injector::review::Ending;

use crate::observe::catalog::{Buckets, Info, Kind};

const REQUESTS: Info = Info {
    name: "sidepool_injector_requests_total",
    kind: Kind::Counter,
    labels: &["result"],
    help: "Questions of the API server, by how they ended.",
};

const CERT_LOADS: Info = Info {
    name: "sidepool_injector_cert_loads_total",
    kind: Kind::Counter,
    labels: &["result"],
    help: "Certificates that were read, by whether they can be used.",
};

const CERT_NOT_AFTER: Info = Info {
    name: "sidepool_injector_cert_not_after_timestamp_seconds",
    kind: Kind::Gauge,
    labels: &[],
    help: "When the certificate in use runs out; 0 if there is none.",
};

const HANDSHAKE_FAILURES: Info = Info {
    name: "sidepool_injector_handshake_failures_total",
    kind: Kind::Counter,
    labels: &[],
    help: "TLS handshakes that came to nothing.",
};

const REQUEST_SECONDS: Info = Info {
    name: "sidepool_injector_request_seconds",
    kind: Kind::Histogram(Buckets::Work),
    labels: &[],
    help: "How long the answers took.",
};

/// All of them.
pub const TABLE: &[Info] = &[REQUESTS, CERT_LOADS, CERT_NOT_AFTER, HANDSHAKE_FAILURES, REQUEST_SECONDS];

/// Upper bounds of the durations, in microseconds.
const BOUNDS: [u64; 10] = [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 250_000, 1_000_000];

/// The counters.
#[derive(Default)]
pub(super) struct Numbers {
    requests: [AtomicU64; Ending::ALL.len()],
    durations: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
    loaded: AtomicU64,
    failed: AtomicU64,
    not_after: AtomicI64,
    refused_handshakes: AtomicU64,
}

impl Numbers {
    /// A request was answered like this.
    pub(super) fn answered(&self, ending: Ending, took: Duration) {
        if let Some(index) = Ending::ALL.iter().position(|other| *other == ending) {
            self.requests[index].fetch_add(1, Ordering::Relaxed);
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.durations[BOUNDS.partition_point(|bound| *bound < micros)].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// A certificate is in use from now on.
    pub(super) fn certificate_loaded(&self, not_after: i64) {
        self.loaded.fetch_add(1, Ordering::Relaxed);
        self.not_after.store(not_after, Ordering::Relaxed);
    }

    /// One could not be used.
    pub(super) fn certificate_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Somebody did not get through the handshake.
    pub(super) fn handshake_failed(&self) {
        self.refused_handshakes.fetch_add(1, Ordering::Relaxed);
    }

    /// Everything in the text format of Prometheus.
    pub(super) fn render(&self) -> String {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let mut text = String::new();
        let mut family = |info: Info, lines: &[(String, String)]| {
            text.push_str(&head(info));
            for (labels, value) in lines {
                let _ = writeln!(text, "{}{labels} {value}", info.name);
            }
        };
        let requests = Ending::ALL.iter().zip(&self.requests);
        let requests: Vec<_> =
            requests.map(|(ending, count)| (format!("{{result=\"{}\"}}", ending.label()), load(count).to_string())).collect();
        family(REQUESTS, &requests);
        let loads = [("ok", &self.loaded), ("failed", &self.failed)]
            .map(|(result, count)| (format!("{{result=\"{result}\"}}"), load(count).to_string()));
        family(CERT_LOADS, &loads);
        family(CERT_NOT_AFTER, &[(String::new(), self.not_after.load(Ordering::Relaxed).to_string())]);
        family(HANDSHAKE_FAILURES, &[(String::new(), load(&self.refused_handshakes).to_string())]);
        self.render_durations(&mut text);
        text
    }

    fn render_durations(&self, text: &mut String) {
        const NAME: &str = REQUEST_SECONDS.name;
        text.push_str(&head(REQUEST_SECONDS));
        let mut so_far = 0;
        for (bound, count) in BOUNDS.iter().map(|micros| Duration::from_micros(*micros).as_secs_f64().to_string()).zip(&self.durations) {
            so_far += count.load(Ordering::Relaxed);
            let _ = writeln!(text, "{NAME}_bucket{{le=\"{bound}\"}} {so_far}");
        }
        so_far += self.durations[BOUNDS.len()].load(Ordering::Relaxed);
        let sum = Duration::from_micros(self.micros.load(Ordering::Relaxed)).as_secs_f64();
        let _ = writeln!(text, "{NAME}_bucket{{le=\"+Inf\"}} {so_far}\n{NAME}_sum {sum}\n{NAME}_count {so_far}");
    }
}

/// The two lines above the numbers of a family.
fn head(Info { name, kind, help, .. }: Info) -> String {
    let kind = match kind {
        Kind::Counter | Kind::CounterSeconds => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram(_) => "histogram",
    };
    format!("# HELP {name} {help}\n# TYPE {name} {kind}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_all_that_is_exported() {
        let text = Numbers::default().render();
        let exported: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        assert_eq!(exported, TABLE.iter().map(|info| info.name).collect::<Vec<_>>());
    }

    #[test]
    fn durations_fall_into_the_bucket_that_holds_them() {
        let numbers = Numbers::default();
        for micros in [100, 101, 3_000_000] {
            numbers.answered(Ending::Injected, Duration::from_micros(micros));
        }
        let text = numbers.render();
        assert!(text.contains("_bucket{le=\"0.0001\"} 1\n") && text.contains("_bucket{le=\"0.00025\"} 2\n"), "{text}");
        assert!(
            text.contains("_bucket{le=\"1\"} 2\n") && text.contains("_bucket{le=\"+Inf\"} 3\n") && text.contains("_count 3\n"),
            "{text}"
        );
        assert!(
            text.contains("requests_total{result=\"injected\"} 3\n") && text.contains("requests_total{result=\"error\"} 0\n"),
            "{text}"
        );
    }
}
