//! From what was seen to what it means. Pure. Not here: seeing (`ask`).

pub mod local;
pub mod login;
pub mod postgres;
pub mod reach;
pub mod redis;
pub mod settings;
pub mod tls;

use super::facts::Clock;
use super::finding::Finding;

/// From this difference on, in seconds, people are misled.
const SKEW: f64 = 2.0;

/// What a difference between the clocks means.
fn clock(clock: Option<Clock>) -> Finding {
    const CHECK: &str = "clock";
    let Some(Clock { ahead, doubt }) = clock else {
        return Finding::unseen(CHECK, "the server does not tell the time", "compare the clocks by hand: date -u, here and there");
    };
    let direction = if ahead < 0.0 { "behind" } else { "ahead of" };
    let apart = format!("the server's clock is {:.1} s {direction} this machine's", ahead.abs());
    if ahead.abs() - doubt < SKEW {
        return Finding::good(CHECK, format!("the clocks differ by {:.1} s at most", ahead.abs() + doubt));
    }
    Finding::warning(
        CHECK,
        apart,
        "log lines of the two do not fit together, and certificates begin and end at the wrong moment",
        "have both machines follow a time server (chrony, systemd-timesyncd)",
    )
}

/// `1 connection`, `2 connections`.
fn counted(count: u64, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

/// `for each of 3 replicas`, or nothing for one.
fn times(replicas: u32) -> String {
    if replicas == 1 { String::new() } else { format!(", {replicas} replicas") }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::finding::Verdict;
    use super::*;

    /// The verdicts, by check.
    pub(in crate::doctor) fn verdicts(findings: &[Finding]) -> Vec<(&'static str, Verdict)> {
        findings.iter().map(|finding| (finding.check, finding.verdict)).collect()
    }

    /// The one finding of a check.
    pub(in crate::doctor) fn find<'a>(findings: &'a [Finding], check: &str) -> &'a Finding {
        let mut found = findings.iter().filter(|finding| finding.check == check);
        let finding = found.next().unwrap_or_else(|| panic!("no {check} in {findings:?}"));
        assert!(found.next().is_none(), "{check} twice in {findings:?}");
        finding
    }

    #[test]
    fn clocks_may_differ_by_as_much_as_is_not_known() {
        for (ahead, doubt, verdict) in [
            (0.1, 0.0, Verdict::Good),
            (-1.9, 0.0, Verdict::Good),
            (2.1, 0.2, Verdict::Good),
            (2.0, 0.0, Verdict::Warning),
            (-30.0, 1.0, Verdict::Warning),
        ] {
            let finding = clock(Some(Clock { ahead, doubt }));
            assert_eq!(finding.verdict, verdict, "{ahead} {doubt}");
            assert_eq!(finding.found.contains("behind"), verdict == Verdict::Warning && ahead < 0.0);
        }
        assert_eq!(clock(None).verdict, Verdict::Unseen);
    }
}
