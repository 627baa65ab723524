//! What is wrong with a configuration, said so that it can be mended: where, which key, what, what is allowed, what was probably meant.
//!
//! No problem ever carries a secret: values that may hold one are not repeated.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a setting was given.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// In a file, at a line where that is known.
    File {
        /// The file as it was named to us.
        path: PathBuf,
        /// The line, counted from 1.
        line: Option<u32>,
    },
    /// In an environment variable.
    Environment,
    /// On the command line.
    CommandLine,
    /// By SET in the admin console.
    Console,
}

/// Whether a problem stops the configuration from being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It is used, but probably not what was meant.
    Warning,
}

/// One thing that is wrong. `Display` gives one line: `sidepool.toml:12: postgres.listen: what is wrong`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Problem {
    /// Where it is.
    pub place: Place,
    /// The path of the key (`postgres.databases.app.pool_size`), the variable or the flag; empty for the file as a whole.
    pub key: String,
    /// What is wrong, what is allowed, and what was probably meant.
    pub message: String,
    /// Whether it stops the configuration from being used.
    pub severity: Severity,
}

impl Problem {
    /// An error.
    #[must_use]
    pub fn error(place: Place, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place, key: key.into(), message: message.into(), severity: Severity::Error }
    }

    /// A warning.
    #[must_use]
    pub fn warning(place: Place, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place, key: key.into(), message: message.into(), severity: Severity::Warning }
    }

    /// True if it is about the configuration as a whole.
    #[must_use]
    pub fn is_about_no_line(&self) -> bool {
        matches!(self.place, Place::File { line: None, .. })
    }

    /// True if the configuration cannot be used because of it.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl Place {
    /// A place in a file.
    #[must_use]
    pub fn file(path: &Path, line: Option<u32>) -> Self {
        Self::File { path: path.to_owned(), line }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::Environment => f.write_str("environment"),
            Self::CommandLine => f.write_str("command line"),
            Self::Console => f.write_str("console"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        match self.severity {
            Severity::Error => {}
            Severity::Warning => f.write_str("warning: ")?,
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// The name that was probably meant, if one is near enough.
#[must_use]
pub fn nearest<'a>(given: &str, allowed: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Comparing is quadratic in the length: what is this long is no typing mistake.
    const LONGEST: usize = 64;
    if given.len() > LONGEST {
        return None;
    }
    let folded = given.to_lowercase().replace('-', "_");
    let budget = given.chars().count() / 3 + 1;
    // A word that is left out (`pool_size` for `default_pool_size`) is as likely as a slip of the finger.
    let distance = |name: &str| match folded.len() >= 4 && name.contains(&folded) {
        true => 1,
        false => strsim::damerau_levenshtein(&folded, &name.to_lowercase().replace('-', "_")),
    };
    allowed
        .into_iter()
        .map(|name| (distance(name), name))
        .filter(|(distance, name)| *distance <= budget && *distance < name.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// A value as it may be repeated in a message: short, on one line, and not at all if it could be a URL with a password in it.
pub(crate) fn shown(value: &str) -> String {
    const LONGEST: usize = 40;
    if value.contains('@') || value.contains("://") {
        return "this value".to_owned();
    }
    let escaped: String = value.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    let more = if value.chars().nth(LONGEST).is_some() { "…" } else { "" };
    format!("\"{escaped}{more}\"")
}

/// `"a", "b" or "c"`, as the end of a sentence on what is allowed.
pub(crate) fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [only] => format!("\"{only}\""),
        [first @ .., last] => format!("\"{}\" or \"{last}\"", first.join("\", \"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line_with_everything_in_it() {
        let place = Place::file(Path::new("sidepool.toml"), Some(12));
        let problem = Problem::error(place.clone(), "postgres.listen", "empty");
        assert_eq!(problem.to_string(), "sidepool.toml:12: postgres.listen: empty");
        let warning = Problem::warning(place, "", "nothing in it");
        assert_eq!(warning.to_string(), "sidepool.toml:12: warning: nothing in it");
        assert_eq!(Problem::error(Place::Environment, "REDIS_URL", "x").to_string(), "environment: REDIS_URL: x");
    }

    #[test]
    fn the_nearest_name_is_found_and_a_far_one_is_not() {
        let names = ["pool_size", "min_pool_size", "pool_mode"];
        assert_eq!(nearest("pool_sizee", names), Some("pool_size"));
        assert_eq!(nearest("pool-size", names), Some("pool_size"));
        assert_eq!(nearest("POOL_MODE", names), Some("pool_mode"));
        assert_eq!(nearest("banana", names), None);
        assert_eq!(nearest("", names), None);
        assert_eq!(nearest(&"x".repeat(1 << 20), names), None);
    }

    #[test]
    fn what_may_be_a_url_is_not_repeated() {
        assert!(!shown("postgres://app:hunter2@db/app").contains("hunter2"));
        assert_eq!(shown("a\nb"), "\"a\\nb\"");
        assert!(shown(&"y".repeat(100)).ends_with("…\""));
    }
}
