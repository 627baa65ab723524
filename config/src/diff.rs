//! What differs between two configurations, setting by setting, and what it takes to put each difference into force.

use std::collections::BTreeMap;
use std::fmt;

use crate::effective::{Entry, entries};
use crate::model::Config;
use crate::reading::key_path;
use crate::settings::{Scope, setting};

/// What it takes to put a change into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Nothing: it holds at once, for everybody.
    Live,
    /// Sessions that begin from now on have it; those that are open keep what they had.
    NewSessions,
    /// The process has to be started again; until then the old value holds.
    NeedsRestart,
}

/// One setting, or one whole section, that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The path of the key or of the section.
    pub key: String,
    /// The kind of section it is, or is in.
    pub scope: Scope,
    /// What happened.
    pub what: What,
    /// What it takes.
    pub class: Class,
}

/// What happened to a setting or a section. Secrets are never in here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The section is new.
    Added,
    /// The section is gone.
    Removed,
    /// The setting has another value.
    Set {
        /// What it was, as it would be written; secrets masked.
        before: String,
        /// What it is.
        after: String,
    },
}

/// Everything that differs, in the order of the settings' paths.
#[must_use]
pub fn diff(before: &Config, after: &Config) -> Vec<Change> {
    let (old, new) = (entries(before), entries(after));
    let (old, new) = (by_path(&old), by_path(&new));
    let mut changes = Vec::new();
    for (path, entry) in &old {
        match new.get(path) {
            Some(other) => changes.extend(settings(entry, other)),
            None => changes.push(section(entry, What::Removed)),
        }
    }
    changes.extend(new.iter().filter(|(path, _)| !old.contains_key(*path)).map(|(_, entry)| section(entry, What::Added)));
    // A section that comes or goes takes what is below it along.
    let whole: Vec<String> = changes.iter().filter(|change| change.is_section()).map(|change| format!("{}.", change.key)).collect();
    changes.retain(|change| !whole.iter().any(|prefix| change.key.starts_with(prefix)));
    changes.sort_by(|a, b| a.key.cmp(&b.key));
    changes
}

fn by_path(entries: &[Entry]) -> BTreeMap<&str, &Entry> {
    entries.iter().map(|entry| (entry.path.as_str(), entry)).collect()
}

fn settings(old: &Entry, new: &Entry) -> Vec<Change> {
    let pairs = old.values.iter().zip(&new.values);
    pairs
        .filter(|((_, before), (_, after))| before != after)
        .map(|((name, before), (_, after))| Change {
            key: key_path(&old.path, name),
            scope: old.scope,
            what: What::Set { before: before.to_string(), after: after.to_string() },
            class: setting(old.scope, name).map_or(Class::NeedsRestart, |setting| setting.reload),
        })
        .collect()
}

fn section(entry: &Entry, what: What) -> Change {
    let class = match entry.scope {
        Scope::PgDatabase | Scope::PgUser | Scope::PgPeer | Scope::RedisUser => Class::Live,
        // With the section its listeners come or go.
        Scope::Root | Scope::Admin | Scope::Drain | Scope::Log | Scope::Postgres | Scope::Redis => Class::NeedsRestart,
    };
    Change { key: entry.path.clone(), scope: entry.scope, what, class }
}

impl Change {
    fn is_section(&self) -> bool {
        match self.what {
            What::Added | What::Removed => true,
            What::Set { .. } => false,
        }
    }
}

impl Class {
    /// The class in words.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::NewSessions => "for new sessions",
            Self::NeedsRestart => "needs a restart",
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.key)?;
        match &self.what {
            What::Added => f.write_str("added")?,
            What::Removed => f.write_str("removed")?,
            What::Set { before, after } if before == after => f.write_str("changed")?,
            What::Set { before, after } => write!(f, "{before} -> {after}")?,
        }
        write!(f, " ({})", self.class.describe())
    }
}
