//! How much output may wait for a client that does not read, and for how long: Redis's `client-output-buffer-limit`, in Redis's own words.

use std::fmt;
use std::time::Duration;

/// The limits of all classes of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputLimits {
    /// Of those that wait for replies.
    pub normal: OutputLimit,
    /// Of those that are subscribed to something.
    pub pubsub: OutputLimit,
}

/// The limit of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputLimit {
    /// Past so many bytes a client is closed at once; 0: there is no such limit.
    pub hard_bytes: u64,
    /// Past so many bytes it is closed when it stays there for `soft_time`; 0: there is no such limit.
    pub soft_bytes: u64,
    /// For how long; zero: there is no such limit.
    pub soft_time: Duration,
}

const MIB: u64 = 1 << 20;

/// Units as Redis has them, in any case.
const UNITS: [(&str, u64); 8] =
    [("b", 1), ("", 1), ("k", 1_000), ("kb", 1 << 10), ("m", 1_000_000), ("mb", MIB), ("g", 1_000_000_000), ("gb", 1 << 30)];

/// What each class is written as.
const SHAPE: &str = "each class is written as its name, a hard limit, a soft limit and seconds: \"normal 64mb 16mb 60 pubsub 32mb 8mb 60\"";

impl Default for OutputLimits {
    fn default() -> Self {
        let of = |hard: u64, soft: u64| OutputLimit { hard_bytes: hard * MIB, soft_bytes: soft * MIB, soft_time: Duration::from_secs(60) };
        Self { normal: of(64, 16), pubsub: of(32, 8) }
    }
}

impl OutputLimits {
    /// Reads what Redis reads; a class that is not named keeps its default.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut limits = Self::default();
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        if words.is_empty() {
            return Err(SHAPE.to_owned());
        }
        for class in words.chunks(4) {
            let [name, hard, soft, seconds] = class else { return Err(SHAPE.to_owned()) };
            let limit = match name.to_ascii_lowercase().as_str() {
                "normal" => &mut limits.normal,
                "pubsub" => &mut limits.pubsub,
                "replica" | "slave" => {
                    return Err("the class is normal or pubsub: what a replica does not read waits at the server".to_owned());
                }
                _unknown => return Err(format!("the class \"{name}\" is neither normal nor pubsub")),
            };
            let seconds = seconds.parse::<u32>().map_err(|_| format!("\"{seconds}\" is no number of seconds"))?;
            *limit = OutputLimit { hard_bytes: bytes(hard)?, soft_bytes: bytes(soft)?, soft_time: Duration::from_secs(u64::from(seconds)) };
        }
        Ok(limits)
    }
}

impl OutputLimit {
    /// Whether so many bytes are too many, however short they wait.
    #[must_use]
    pub fn is_over_hard(&self, bytes: usize) -> bool {
        self.hard_bytes > 0 && bytes as u64 > self.hard_bytes
    }

    /// Whether so many bytes may wait, but not for long.
    #[must_use]
    pub fn is_over_soft(&self, bytes: usize) -> bool {
        self.soft_bytes > 0 && !self.soft_time.is_zero() && bytes as u64 > self.soft_bytes
    }

    /// Whether that is too long a time for something that must not wait for ever.
    #[must_use]
    pub fn is_too_long(&self, time: Duration) -> bool {
        !self.soft_time.is_zero() && time > self.soft_time
    }

    /// Past how many bytes a client is closed at once.
    #[must_use]
    pub fn most(&self) -> usize {
        if self.hard_bytes == 0 { usize::MAX } else { usize::try_from(self.hard_bytes).unwrap_or(usize::MAX) }
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let wrong = || format!("\"{text}\" is no size: a number of bytes, or one with k, kb, m, mb, g or gb");
    let (_, scale) = UNITS.iter().find(|(name, _)| unit.eq_ignore_ascii_case(name)).ok_or_else(wrong)?;
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(*scale)).ok_or_else(wrong)
}

impl fmt::Display for OutputLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { normal, pubsub } = self;
        write!(f, "normal {normal} pubsub {pubsub}")
    }
}

impl fmt::Display for OutputLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", shown(self.hard_bytes), shown(self.soft_bytes), self.soft_time.as_secs())
    }
}

fn shown(bytes: u64) -> String {
    match [("gb", 1_u64 << 30), ("mb", MIB), ("kb", 1 << 10)].iter().find(|(_, scale)| bytes > 0 && bytes.is_multiple_of(*scale)) {
        Some((unit, scale)) => format!("{}{unit}", bytes / scale),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_reads_is_read_and_written_back() {
        let all = OutputLimits::parse("NORMAL 0 0 0  pubsub 33554432 8mb 60").unwrap();
        assert_eq!(all.normal, OutputLimit { hard_bytes: 0, soft_bytes: 0, soft_time: Duration::ZERO });
        assert_eq!(all.to_string(), "normal 0 0 0 pubsub 32mb 8mb 60");
        let one = OutputLimits::parse("pubsub 1k 1KB 5").unwrap();
        assert_eq!((one.pubsub.hard_bytes, one.pubsub.soft_bytes, one.normal), (1000, 1024, OutputLimits::default().normal));
        for limits in [all, one, OutputLimits::default()] {
            assert_eq!(OutputLimits::parse(&limits.to_string()), Ok(limits));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, said) in [
            ("", "each class"),
            ("normal 1mb 1mb", "each class"),
            ("normal 1mb 1mb 60 pubsub", "each class"),
            ("replica 256mb 64mb 60", "waits at the server"),
            ("master 1 1 1", "neither"),
            ("normal 1tb 0 0", "no size"),
            ("normal 99999999999gb 0 0", "no size"),
            ("normal 1 -1 0", "no size"),
            ("normal 1 1 1s", "seconds"),
        ] {
            let error = OutputLimits::parse(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn zero_is_no_limit() {
        let none = OutputLimits::parse("normal 0 0 0").unwrap().normal;
        assert!(!none.is_over_hard(usize::MAX) && !none.is_over_soft(usize::MAX) && none.most() == usize::MAX);
        let timeless = OutputLimits::parse("normal 10 5 0").unwrap().normal;
        assert!(timeless.is_over_hard(11) && !timeless.is_over_hard(10) && !timeless.is_over_soft(6));
        let timed = OutputLimits::parse("normal 10 5 1").unwrap().normal;
        assert!(timed.is_over_soft(6) && !timed.is_over_soft(5) && timed.most() == 10);
    }
}
