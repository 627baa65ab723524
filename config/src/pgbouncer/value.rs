//! Values as PgBouncer reads and shows them: whole numbers in decimal, octal or hexadecimal, times in decimal seconds, names in any case.

use std::time::Duration;

use crate::units::LONGEST_DURATION;

/// A whole number: `10`, `0777` (octal), `0x1ff`, with a sign.
pub(crate) fn int(text: &str) -> Option<i64> {
    let text = text.trim_start();
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'x' | b'X', _, ..] => (&digits[2..], 16),
        [b'0', _, ..] => (&digits[1..], 8),
        _ => (digits, 10),
    };
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let number = i64::from_str_radix(digits, radix).ok()?;
    Some(if negative { -number } else { number })
}

/// A time in decimal seconds, to the microsecond.
pub(crate) fn seconds(text: &str) -> Option<Duration> {
    let text = text.trim_start();
    // What a number may be made of: Rust reads words such as "inf" as well.
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte)) {
        return None;
    }
    let seconds: f64 = text.parse().ok()?;
    if !(0.0..=LONGEST_DURATION.as_secs_f64()).contains(&seconds) {
        return None;
    }
    Some(Duration::from_micros(Duration::from_secs_f64(seconds).as_micros().try_into().ok()?))
}

/// A time as PgBouncer shows it: seconds with up to six digits that count, as C writes `%g`.
pub(crate) fn shown_seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds == 0.0 {
        return "0".to_owned();
    }
    #[expect(clippy::cast_possible_truncation, reason = "a duration's magnitude is a small number")]
    let magnitude = seconds.log10().floor() as i32;
    if !(-4..6).contains(&magnitude) {
        let text = format!("{seconds:.5e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(("+", exponent), |exponent| ("-", exponent));
        return format!("{}e{sign}{exponent:0>2}", without_zeros(mantissa));
    }
    let decimals = usize::try_from(5 - magnitude).unwrap_or(0);
    without_zeros(&format!("{seconds:.decimals$}")).to_owned()
}

/// The number without zeros at the end that say nothing.
fn without_zeros(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

/// The items of a list with commas.
pub(crate) fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_c_reads_them() {
        let good = [("10", 10), ("0", 0), ("0777", 0o777), ("0x1F", 31), ("-1", -1), ("+5", 5), ("00", 0)];
        for (text, number) in good {
            assert_eq!(int(text), Some(number), "{text}");
        }
        for text in ["", "-", "1.5", "ten", "10s", "08", "0x", "1 2", "--1", "+-1", "99999999999999999999"] {
            assert_eq!(int(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_seconds() {
        assert_eq!(seconds("1.5"), Some(Duration::from_millis(1500)));
        assert_eq!(seconds("120"), Some(Duration::from_mins(2)));
        assert_eq!(seconds("1e1"), Some(Duration::from_secs(10)));
        for text in ["", "-1", "1s", "inf", "nan", "1e300", "1,5", "."] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_shown_as_c_does() {
        for text in ["0", "0.5", "15", "3600", "120.25", "0.333333", "1e+06", "1.23457e+06", "0.0001", "1e-05", "999999"] {
            assert_eq!(shown_seconds(seconds(text).unwrap()), text);
        }
        assert_eq!(shown_seconds(seconds("1234567").unwrap()), "1.23457e+06");
    }

    #[test]
    fn lists_have_commas() {
        assert_eq!(list(" a, b ,,c"), ["a", "b", "c"]);
        assert!(list("").is_empty());
    }
}
