//! What only `pgbouncer.ini` says: how the process runs and where it logs. The text of every setting that was said is kept, for SHOW CONFIG.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::table;
use super::value;

/// What only `pgbouncer.ini` says.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Process {
    /// The file itself.
    pub conffile: PathBuf,
    /// The settings that were said, as they were.
    pub(crate) settings: BTreeMap<&'static str, String>,
}

/// Where to and how syslog is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Syslog {
    /// The name before each message.
    pub ident: String,
    /// The facility's number.
    pub facility: u8,
}

/// Facilities by name.
const FACILITIES: &[(&str, u8)] = &[
    ("user", 1),
    ("daemon", 3),
    ("auth", 4),
    ("authpriv", 10),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

/// The facility where none of these is named, as with PgBouncer.
const DAEMON: u8 = 3;

impl Process {
    /// The text of a setting: said, or its default.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        let default = || table::setting(name).and_then(|setting| setting.default).unwrap_or_default();
        self.settings.get(name).map_or_else(default, String::as_str)
    }

    /// Where the log is written to, beside standard error.
    #[must_use]
    pub fn logfile(&self) -> Option<PathBuf> {
        self.path("logfile")
    }

    /// Where the process's number is written to.
    #[must_use]
    pub fn pidfile(&self) -> Option<PathBuf> {
        self.path("pidfile")
    }

    /// Who to become when started as root.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        Some(self.text("user")).filter(|user| !user.is_empty())
    }

    /// Syslog, if it is to be told.
    #[must_use]
    pub fn syslog(&self) -> Option<Syslog> {
        if value::int(self.text("syslog")).unwrap_or(0) == 0 {
            return None;
        }
        let named = self.text("syslog_facility");
        let facility = FACILITIES.iter().find(|(name, _)| *name == named).map_or(DAEMON, |(_, number)| *number);
        Some(Syslog { ident: self.text("syslog_ident").to_owned(), facility })
    }

    /// What holds when `loaded` was read while this runs: everything of it but what needs a restart.
    #[must_use]
    pub fn held(&self, loaded: &Self) -> Self {
        let mut held = loaded.clone();
        for setting in table::SETTINGS.iter().chain(table::OWN).filter(|setting| !setting.changeable) {
            match self.settings.get(setting.name) {
                Some(text) => drop(held.settings.insert(setting.name, text.clone())),
                None => drop(held.settings.remove(setting.name)),
            }
        }
        held
    }

    /// The settings that differ from what runs and need a restart.
    #[must_use]
    pub fn pending(&self, loaded: &Self) -> Vec<&'static str> {
        let all = table::SETTINGS.iter().chain(table::OWN);
        all.filter(|setting| !setting.changeable && self.text(setting.name) != loaded.text(setting.name))
            .map(|setting| setting.name)
            .collect()
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.text(name)).filter(|text| !text.is_empty()).map(PathBuf::from)
    }
}

/// Values may have secrets in them (LDAP's options): only the names are shown.
impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("conffile", &self.conffile).field("said", &self.settings.keys()).finish_non_exhaustive()
    }
}
