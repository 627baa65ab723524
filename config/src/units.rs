//! Values with units: `"250ms"`, `"1.5s"`, `"5m"`, `"64KiB"`, `"100MB"`. Read, and written back in the largest unit that is exact.
//!
//! A number without a unit is refused, because half the world means seconds by it and the other half milliseconds.

use std::fmt;
use std::time::Duration;

/// The longest duration that a setting may have: ten years, far below where adding it to a clock could overflow.
pub const LONGEST_DURATION: Duration = Duration::from_secs(3650 * 86_400);

/// The largest size that a setting may have: 1 TiB.
pub const LARGEST_SIZE_BYTES: u64 = 1 << 40;

const DURATION_UNITS: [(&str, u64); 6] =
    [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

const SIZE_UNITS: [(&str, u64); 7] =
    [("GiB", 1 << 30), ("GB", 1_000_000_000), ("MiB", 1 << 20), ("MB", 1_000_000), ("KiB", 1 << 10), ("KB", 1_000), ("B", 1)];

/// Why a text is no value with a unit. `Display` says what to write instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitError {
    /// Nothing, or no number in front.
    NoNumber(Quantity),
    /// A number alone.
    NoUnit(Quantity),
    /// A unit that does not exist.
    UnknownUnit(Quantity),
    /// Below zero.
    Negative(Quantity),
    /// More than the largest that any setting may have, or finer than the smallest unit.
    OutOfRange(Quantity),
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// A time.
    Duration,
    /// A number of bytes.
    Size,
}

/// Reads a duration such as `"250ms"` or `"1.5h"`.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let longest = u64::try_from(LONGEST_DURATION.as_micros()).unwrap_or(u64::MAX);
    parse(text, Quantity::Duration, &DURATION_UNITS, longest).map(Duration::from_micros)
}

/// Reads a size such as `"64KiB"` or `"100MB"`.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    parse(text, Quantity::Size, &SIZE_UNITS, LARGEST_SIZE_BYTES)
}

/// Writes a duration so that [`parse_duration`] reads the same value (to the microsecond).
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    if micros == 0 { "0s".to_owned() } else { format_exact(micros, &DURATION_UNITS) }
}

/// Writes a size so that [`parse_size`] reads the same value.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    if bytes == 0 { "0B".to_owned() } else { format_exact(bytes, &SIZE_UNITS) }
}

fn format_exact(value: u64, units: &[(&str, u64)]) -> String {
    let (unit, scale) = units.iter().find(|(_, scale)| value.is_multiple_of(*scale)).copied().unwrap_or(("", 1));
    format!("{}{unit}", value / scale)
}

fn parse(text: &str, quantity: Quantity, units: &[(&str, u64)], largest: u64) -> Result<u64, UnitError> {
    let text = text.trim();
    if text.starts_with('-') {
        return Err(UnitError::Negative(quantity));
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(UnitError::NoNumber(quantity));
    }
    let unit = unit.trim();
    if unit.is_empty() {
        return Err(UnitError::NoUnit(quantity));
    }
    let (_, scale) = units.iter().find(|(name, _)| *name == unit).ok_or(UnitError::UnknownUnit(quantity))?;
    scaled(whole, fraction, *scale).filter(|value| *value <= largest).ok_or(UnitError::OutOfRange(quantity))
}

/// `whole.fraction` times `scale`, if that is a whole number that fits.
fn scaled(whole: &str, fraction: &str, scale: u64) -> Option<u64> {
    let fraction = fraction.trim_end_matches('0');
    let digits = u32::try_from(fraction.len()).ok()?;
    let denominator = 10_u128.checked_pow(digits)?;
    let numerator = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().ok()? };
    let part = numerator.checked_mul(u128::from(scale))?;
    if !part.is_multiple_of(denominator) {
        return None;
    }
    let total = u128::from(whole.parse::<u64>().ok()?).checked_mul(u128::from(scale))?.checked_add(part / denominator)?;
    u64::try_from(total).ok()
}

impl Quantity {
    fn example(self) -> &'static str {
        match self {
            Self::Duration => "a duration such as \"250ms\", \"10s\", \"5m\" or \"1h\"",
            Self::Size => "a size such as \"512B\", \"64KiB\" or \"100MB\"",
        }
    }

    fn units(self) -> &'static str {
        match self {
            Self::Duration => "the units are us, ms, s, m, h and d",
            Self::Size => "the units are B, KB, KiB, MB, MiB, GB and GiB",
        }
    }
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNumber(quantity) => write!(f, "expected {}", quantity.example()),
            Self::NoUnit(quantity) => write!(f, "a unit is missing: write {}", quantity.example()),
            Self::UnknownUnit(quantity) => write!(f, "unknown unit: {}", quantity.units()),
            Self::Negative(_) => f.write_str("must not be negative"),
            Self::OutOfRange(Quantity::Duration) => f.write_str("out of range: at most \"3650d\", in whole microseconds"),
            Self::OutOfRange(Quantity::Size) => f.write_str("out of range: at most \"1024GiB\", in whole bytes"),
        }
    }
}

impl std::error::Error for UnitError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_with_every_unit() {
        let table = [
            ("250ms", Duration::from_millis(250)),
            ("10s", Duration::from_secs(10)),
            ("5m", Duration::from_secs(300)),
            ("1h", Duration::from_secs(3600)),
            ("2d", Duration::from_secs(172_800)),
            ("7us", Duration::from_micros(7)),
            ("1.5s", Duration::from_millis(1500)),
            ("0.25h", Duration::from_secs(900)),
            (" 10 s ", Duration::from_secs(10)),
            ("0s", Duration::ZERO),
            ("3650d", LONGEST_DURATION),
        ];
        for (text, expected) in table {
            assert_eq!(parse_duration(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn sizes_with_every_unit() {
        let table = [("64KiB", 65_536), ("100KB", 100_000), ("1MiB", 1 << 20), ("3B", 3), ("1.5KiB", 1536), ("2GB", 2_000_000_000)];
        for (text, expected) in table {
            assert_eq!(parse_size(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_refused_and_why() {
        use Quantity::Duration as D;
        let table = [
            ("10", UnitError::NoUnit(D)),
            ("", UnitError::NoNumber(D)),
            ("s", UnitError::NoNumber(D)),
            (".5s", UnitError::NoNumber(D)),
            ("1.s", UnitError::NoNumber(D)),
            ("1.2.3s", UnitError::NoNumber(D)),
            ("-1s", UnitError::Negative(D)),
            ("10S", UnitError::UnknownUnit(D)),
            ("10 parsecs", UnitError::UnknownUnit(D)),
            ("1h30m", UnitError::UnknownUnit(D)),
            ("0.5us", UnitError::OutOfRange(D)),
            ("3651d", UnitError::OutOfRange(D)),
            ("99999999999999999999999s", UnitError::OutOfRange(D)),
        ];
        for (text, expected) in table {
            assert_eq!(parse_duration(text), Err(expected), "{text}");
        }
        assert_eq!(parse_size("64M"), Err(UnitError::UnknownUnit(Quantity::Size)));
    }

    proptest! {
        #[test]
        fn durations_survive_the_round_trip(micros in 0..=3650_u64 * 86_400_000_000) {
            let duration = Duration::from_micros(micros);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn sizes_survive_the_round_trip(bytes in 0..=LARGEST_SIZE_BYTES) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
        }
    }
}
