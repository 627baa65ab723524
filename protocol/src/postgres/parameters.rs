//! Session parameters by name: what a client wants, what an upstream connection has, and what differs.
//!
//! Names are compared without regard to case, as the server does; values by what they mean to the server where that is known. Which statement
//! carries a difference to the server is not decided here.

use std::borrow::Cow;
use std::fmt;

use super::frame;

/// Most parameters in one set.
pub const MAX_PARAMETERS: usize = 64;

/// Longest name (PostgreSQL's NAMEDATALEN for each part of `extension.name`).
pub const MAX_NAME_BYTES: usize = 127;

/// Longest value: what fits into a startup packet.
pub const MAX_VALUE_BYTES: usize = 10_000;

/// What every supported server reports unasked and a client may differ in.
pub const TRACKED: [&str; 7] =
    ["application_name", "client_encoding", "DateStyle", "IntervalStyle", "search_path", "standard_conforming_strings", "TimeZone"];

/// Whether this parameter follows the client from connection to connection without being configured.
#[must_use]
pub fn is_tracked(name: &str) -> bool {
    TRACKED.iter().any(|tracked| tracked.eq_ignore_ascii_case(name))
}

/// Why a parameter is not taken into a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterError {
    /// The set has [`MAX_PARAMETERS`].
    Full,
    /// The name is empty, too long, or has characters that no parameter name has.
    Name,
    /// The value is too long or has a zero byte.
    Value,
}

impl fmt::Display for ParameterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => write!(f, "more than {MAX_PARAMETERS} session parameters"),
            Self::Name => f.write_str("not the name of a parameter"),
            Self::Value => write!(f, "the value is longer than {MAX_VALUE_BYTES} bytes"),
        }
    }
}

impl std::error::Error for ParameterError {}

/// A small set of session parameters, sorted by name.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct ParameterSet(Vec<(Box<str>, Box<str>)>);

impl ParameterSet {
    /// A set with nothing in it; allocates nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The value of a parameter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.position(name).ok().map(|index| &*self.0[index].1)
    }

    /// Sets a parameter; `Ok(true)` when that changed anything.
    pub fn set(&mut self, name: &str, value: &str) -> Result<bool, ParameterError> {
        if !is_name(name) {
            return Err(ParameterError::Name);
        }
        if value.len() > MAX_VALUE_BYTES || value.as_bytes().contains(&0) {
            return Err(ParameterError::Value);
        }
        match self.position(name) {
            Ok(index) if &*self.0[index].1 == value => Ok(false),
            Ok(index) => {
                self.0[index].1 = value.into();
                Ok(true)
            }
            Err(_) if self.0.len() >= MAX_PARAMETERS => Err(ParameterError::Full),
            Err(index) => {
                if self.0.len() == self.0.capacity() {
                    self.0.reserve_exact(4);
                }
                self.0.insert(index, (name.into(), value.into()));
                Ok(true)
            }
        }
    }

    /// Takes in the body of a ParameterStatus. `None` when it is malformed; a parameter that does not fit is left out.
    pub fn take_in(&mut self, body: &[u8]) -> Option<()> {
        let (name, rest) = frame::cstr(body)?;
        let (value, _) = frame::cstr(rest)?;
        // Values that are not UTF-8 occur with other server encodings; such a one cannot be compared, so it is not kept.
        if let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) {
            let _ = self.set(name, value);
        }
        Some(())
    }

    /// Forgets a parameter; true when it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        match self.position(name) {
            Ok(index) => {
                self.0.remove(index);
                true
            }
            Err(_) => false,
        }
    }

    /// Every name and value, in the order of the names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives back memory that is not needed, before a long rest.
    pub fn shrink_to_fit(&mut self) {
        self.0.shrink_to_fit();
    }

    /// What of `self` (wanted) is otherwise or unknown in `actual`: the names and wanted values.
    pub fn differences<'a>(&'a self, actual: &'a Self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.iter().filter(|(name, wanted)| !actual.get(name).is_some_and(|value| same_value(name, wanted, value)))
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| compare_names(known, name))
    }
}

impl fmt::Debug for ParameterSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Whether the server would take both values of this parameter for the same.
///
/// True only where it is certain; a false answer costs a needless SET, a wrong true one would leave a client with somebody else's setting.
#[must_use]
pub fn same_value(name: &str, wanted: &str, reported: &str) -> bool {
    if wanted == reported {
        return true;
    }
    if name.eq_ignore_ascii_case("client_encoding") {
        return encoding_name(wanted) == encoding_name(reported);
    }
    if name.eq_ignore_ascii_case("datestyle")
        || name.eq_ignore_ascii_case("intervalstyle")
        || name.eq_ignore_ascii_case("standard_conforming_strings")
    {
        return wanted.eq_ignore_ascii_case(reported);
    }
    false
}

/// What the server will report once it has been set to `wanted`, as far as that can be known beforehand from what it reports now.
#[must_use]
pub fn expected_report<'a>(name: &str, wanted: &'a str, reported: &'a str) -> Cow<'a, str> {
    if same_value(name, wanted, reported) {
        return Cow::Borrowed(reported);
    }
    if name.eq_ignore_ascii_case("client_encoding") {
        return encoding_name(wanted);
    }
    if name.eq_ignore_ascii_case("datestyle") && !wanted.contains(',') {
        let (style, order) = reported.split_once(',').unwrap_or((reported, " MDY"));
        let styles = ["ISO", "Postgres", "SQL", "German"];
        if let Some(known) = styles.iter().find(|known| known.eq_ignore_ascii_case(wanted.trim())) {
            // German brings its order along (`check_datestyle`).
            let order = if *known == "German" { " DMY" } else { order };
            return Cow::Owned(format!("{known},{order}"));
        }
        if ["DMY", "MDY", "YMD"].iter().any(|order| order.eq_ignore_ascii_case(wanted.trim())) {
            return Cow::Owned(format!("{style}, {}", wanted.trim().to_ascii_uppercase()));
        }
    }
    if matches!(reported, "on" | "off")
        && let Some(flag) = flag(wanted.trim())
    {
        return Cow::Borrowed(if flag { "on" } else { "off" });
    }
    Cow::Borrowed(wanted)
}

/// A boolean as the server reads it (`parse_bool`): the beginning of a word is enough.
fn flag(value: &str) -> Option<bool> {
    let begins =
        |word: &str, least: usize| value.len() >= least && word.get(..value.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(value));
    if value == "1" || begins("true", 1) || begins("yes", 1) || begins("on", 2) {
        return Some(true);
    }
    (value == "0" || begins("false", 1) || begins("no", 1) || begins("off", 2)).then_some(false)
}

/// The server ignores everything but letters and digits in the name of an encoding, and takes `UNICODE` for `UTF8`.
fn encoding_name(value: &str) -> Cow<'static, str> {
    let plain: String = value.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase()).collect();
    if plain == "UNICODE" { Cow::Borrowed("UTF8") } else { Cow::Owned(plain) }
}

/// ASCII letters, digits, `_`, `$` and the dots between parts; not starting with a digit.
pub(super) fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len() <= MAX_NAME_BYTES
        && bytes.first().is_some_and(|first| !first.is_ascii_digit() && *first != b'.' && *first != b'$')
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$'))
}

fn compare_names(left: &str, right: &str) -> std::cmp::Ordering {
    let lower = |byte: u8| byte.to_ascii_lowercase();
    left.bytes().map(lower).cmp(right.bytes().map(lower))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[(&str, &str)]) -> ParameterSet {
        let mut set = ParameterSet::new();
        for (name, value) in pairs {
            set.set(name, value).unwrap();
        }
        set
    }

    #[test]
    fn names_are_compared_without_case_and_kept_sorted() {
        let mut parameters = set(&[("TimeZone", "UTC"), ("client_encoding", "UTF8"), ("DateStyle", "ISO, MDY")]);
        assert_eq!(parameters.get("timezone"), Some("UTC"));
        assert_eq!(parameters.set("TIMEZONE", "Europe/Zurich"), Ok(true));
        assert_eq!(parameters.set("TIMEZONE", "Europe/Zurich"), Ok(false));
        assert_eq!(parameters.len(), 3);
        let names: Vec<_> = parameters.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["client_encoding", "DateStyle", "TimeZone"]);
        assert!(parameters.remove("datestyle"));
        assert!(!parameters.remove("datestyle"));
    }

    #[test]
    fn the_number_and_the_size_are_bounded() {
        let mut parameters = ParameterSet::new();
        for index in 0..MAX_PARAMETERS {
            parameters.set(&format!("app.p{index}"), "x").unwrap();
        }
        assert_eq!(parameters.set("app.more", "x"), Err(ParameterError::Full));
        assert_eq!(parameters.set("app.p0", "y"), Ok(true));
        assert_eq!(parameters.set("app.p0", &"y".repeat(MAX_VALUE_BYTES + 1)), Err(ParameterError::Value));
        assert_eq!(parameters.set("app.p0", "a\0b"), Err(ParameterError::Value));
        for name in ["", "1a", ".a", "a b", "a;b", "a'b", &"n".repeat(MAX_NAME_BYTES + 1)] {
            assert_eq!(parameters.set(name, "x"), Err(ParameterError::Name), "{name}");
        }
    }

    #[test]
    fn differences_are_what_is_wanted_and_otherwise_there() {
        let wanted = set(&[("client_encoding", "utf-8"), ("DateStyle", "iso, mdy"), ("TimeZone", "utc"), ("app.tenant", "7")]);
        let actual = set(&[("client_encoding", "UTF8"), ("DateStyle", "ISO, MDY"), ("TimeZone", "UTC"), ("server_version", "15")]);
        assert_eq!(wanted.differences(&actual).collect::<Vec<_>>(), [("app.tenant", "7"), ("TimeZone", "utc")]);
        assert_eq!(wanted.differences(&wanted).count(), 0);
    }

    #[test]
    fn a_partial_date_style_keeps_the_other_part() {
        for (wanted, reported, expected) in [
            ("ISO", "ISO, MDY", "ISO, MDY"),
            ("iso", "SQL, DMY", "ISO, DMY"),
            ("german", "ISO, MDY", "German, DMY"),
            ("dmy", "ISO, MDY", "ISO, DMY"),
            ("iso, mdy", "ISO, MDY", "ISO, MDY"),
            ("nonsense", "ISO, MDY", "nonsense"),
        ] {
            assert_eq!(expected_report("DateStyle", wanted, reported), expected, "{wanted}");
        }
        assert_eq!(expected_report("client_encoding", "'utf-8'", "UTF8"), "UTF8");
        assert_eq!(expected_report("client_encoding", "unicode", "LATIN1"), "UTF8");
        for (wanted, reported) in
            [("TRUE", "on"), ("1", "on"), ("y", "on"), ("Of", "off"), ("n", "off"), ("o", "o"), ("", ""), ("yesss", "yesss")]
        {
            assert_eq!(expected_report("standard_conforming_strings", wanted, "on"), reported, "{wanted}");
        }
        assert_eq!(expected_report("TimeZone", "Europe/Zurich", "UTC"), "Europe/Zurich");
    }

    #[test]
    fn a_parameter_status_is_taken_in() {
        let mut parameters = ParameterSet::new();
        assert_eq!(parameters.take_in(b"a\0b\0"), Some(()));
        assert_eq!(parameters.take_in(b"a\0\xff\0"), Some(()));
        assert_eq!(parameters.get("a"), Some("b"));
        assert_eq!(parameters.take_in(b"a\0b"), None);
        assert_eq!(parameters.take_in(b""), None);
    }

    #[test]
    fn tracked_names_have_no_case() {
        assert!(is_tracked("datestyle") && is_tracked("TIMEZONE"));
        assert!(!is_tracked("work_mem"));
    }
}
