//! What operators have switched: paused pools and databases, disabled databases. One value for the process; each worker has a copy of it.
//!
//! Pure. Not here: who switches (`app::operator`), or what a paused pool does (`pool`).

use std::collections::BTreeSet;

/// What is switched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Switches {
    /// PAUSE without a database: all pools.
    pub paused: bool,
    /// SUSPEND.
    pub suspended: bool,
    /// PAUSE or KILL of these databases.
    pub paused_databases: BTreeSet<Box<str>>,
    /// DISABLE of these databases.
    pub disabled_databases: BTreeSet<Box<str>>,
}

impl Switches {
    /// Whether the pools of this database are paused.
    #[must_use]
    pub fn is_paused(&self, database: &str) -> bool {
        self.paused || self.paused_databases.contains(database)
    }

    /// Whether nobody may log in to this database.
    #[must_use]
    pub fn is_disabled(&self, database: &str) -> bool {
        self.disabled_databases.contains(database)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_paused_alone_or_with_all() {
        let mut switches = Switches::default();
        switches.paused_databases.insert("a".into());
        assert!(switches.is_paused("a") && !switches.is_paused("b") && !switches.is_disabled("a"));
        switches.paused = true;
        assert!(switches.is_paused("b"));
    }
}
