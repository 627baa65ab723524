//! A `pgbouncer.ini` with its includes as one document: what is said of each setting, database, user and peer, and where.
//!
//! What is said twice holds as said last, as with PgBouncer. Values are only text here; what they come to is elsewhere (`set`, `entries`).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::connection_string;
use super::lines::{Item, items};
use super::table::{self, OWN, SETTINGS};
use crate::problem::{Place, Problem, nearest, shown};

/// How deep includes may be nested, as with PgBouncer.
const DEEPEST_INCLUDE: u32 = 10;

/// The most files that one configuration may include: files that include each other several times would go on for very long.
const MOST_INCLUDES: usize = 1_000;

/// The most problems that are kept.
const MOST_PROBLEMS: usize = 500;

/// How the text of a file is had.
pub(crate) type Reader<'a> = &'a mut dyn FnMut(&Path) -> io::Result<String>;

/// What a `pgbouncer.ini` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Document {
    /// By the name of the setting.
    pub(crate) settings: BTreeMap<&'static str, Said>,
    pub(crate) databases: BTreeMap<String, Entry>,
    pub(crate) users: BTreeMap<String, Entry>,
    pub(crate) peers: BTreeMap<String, Entry>,
    /// Where the document begins, for what is missing in it.
    pub(crate) path: PathBuf,
}

/// What is said of a setting. Its text may have a secret in it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) text: String,
    pub(crate) place: Place,
}

/// One line of `[databases]`, `[users]` or `[peers]`: its pairs, in which there may be a password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) pairs: Vec<(String, String)>,
    pub(crate) place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Settings,
    Databases,
    Users,
    Peers,
    /// Reported once, at its head.
    Unknown,
}

struct Gathering<'a> {
    document: Document,
    problems: Vec<Problem>,
    reader: Reader<'a>,
    /// Where keys belong now; an included file goes on in the section of the line that includes it.
    section: Option<Section>,
    has_settings: bool,
    includes: usize,
    gave_up: bool,
}

/// Reads the file and what it includes. Every problem is found; the document has what could be read.
pub(crate) fn read(path: &Path, reader: Reader<'_>) -> (Document, Vec<Problem>) {
    let document = Document { path: path.to_owned(), ..Document::default() };
    let mut gathering =
        Gathering { document, problems: Vec::new(), reader, section: None, has_settings: false, includes: 0, gave_up: false };
    let opened = match (gathering.reader)(path) {
        Ok(text) => {
            gathering.file(path, &text, 0);
            true
        }
        Err(error) => {
            gathering.error(Place::file(path, None), format!("could not load file \"{}\": {error}", path.display()));
            false
        }
    };
    if opened && !gathering.has_settings {
        gathering.error(Place::file(path, None), "main section missing from config file; it begins with [pgbouncer]");
    }
    (gathering.document, gathering.problems)
}

impl Gathering<'_> {
    fn error(&mut self, place: Place, message: impl Into<String>) {
        if self.problems.len() < MOST_PROBLEMS {
            self.problems.push(Problem::error(place, "", message));
        }
    }

    fn file(&mut self, path: &Path, text: &str, depth: u32) {
        for (line, item) in items(text) {
            let place = Place::file(path, Some(line));
            match item {
                Item::Section(name) => self.head(name, place),
                Item::Include(named) => self.include(named, place, depth),
                Item::Pair { key, value } => self.pair(&key, value, place),
                Item::Wrong(why) => self.error(place, format!("syntax error; {why}")),
            }
        }
    }

    fn head(&mut self, name: &str, place: Place) {
        self.section = Some(match name {
            "pgbouncer" => Section::Settings,
            "databases" => Section::Databases,
            "users" => Section::Users,
            "peers" => Section::Peers,
            other => {
                self.error(place, format!("invalid section {}; there are [pgbouncer], [databases], [users] and [peers]", shown(other)));
                Section::Unknown
            }
        });
        self.has_settings |= self.section == Some(Section::Settings);
    }

    /// The name is relative to where the program runs, as with PgBouncer.
    fn include(&mut self, named: &str, place: Place, depth: u32) {
        if depth >= DEEPEST_INCLUDE || self.includes >= MOST_INCLUDES {
            // Said once: the files are in a circle.
            let (deep, done) = (depth >= DEEPEST_INCLUDE, std::mem::replace(&mut self.gave_up, true));
            if !done && deep {
                self.error(place, format!("include nesting level too deep; at most {DEEPEST_INCLUDE}"));
            } else if !done {
                self.error(place, format!("too many includes; at most {MOST_INCLUDES}"));
            }
            return;
        }
        self.includes += 1;
        let path = PathBuf::from(named);
        match (self.reader)(&path) {
            Ok(text) => self.file(&path, &text, depth + 1),
            Err(error) => self.error(place, format!("could not load file \"{named}\": {error}")),
        }
    }

    fn pair(&mut self, key: &str, value: &str, place: Place) {
        let Some(section) = self.section else {
            return self.error(place, format!("value without section: {}", shown(key)));
        };
        match section {
            Section::Unknown => {}
            Section::Settings => self.setting(key, value, place),
            Section::Databases | Section::Users | Section::Peers => self.entry(section, key, value, place),
        }
    }

    fn setting(&mut self, key: &str, value: &str, place: Place) {
        match table::setting(key) {
            Some(setting) => {
                self.document.settings.insert(setting.name, Said { text: value.to_owned(), place });
            }
            None => {
                let names = SETTINGS.iter().chain(OWN).map(|setting| setting.name);
                let meant = nearest(key, names).map(|name| format!("; did you mean \"{name}\"?")).unwrap_or_default();
                self.error(place, format!("unknown parameter: pgbouncer/{}{meant}", key.escape_debug()));
            }
        }
    }

    fn entry(&mut self, section: Section, name: &str, text: &str, place: Place) {
        let pairs = match connection_string::pairs(text) {
            Ok(pairs) => pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            Err(why) => {
                let what = if section == Section::Users { "user settings" } else { "connection string" };
                return self.error(place, format!("syntax error in {what}; {} has {why}", shown(name)));
            }
        };
        let entries = match section {
            Section::Databases => &mut self.document.databases,
            Section::Users => &mut self.document.users,
            Section::Peers => &mut self.document.peers,
            Section::Settings | Section::Unknown => return,
        };
        entries.insert(name.to_owned(), Entry { pairs, place });
    }
}

impl std::fmt::Debug for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Said(***, {})", self.place)
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Entry(***, {})", self.place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(files: &[(&str, &str)]) -> (Document, Vec<String>) {
        let files: BTreeMap<&Path, &str> = files.iter().map(|(path, text)| (Path::new(*path), *text)).collect();
        let mut reader = |path: &Path| files.get(path).map(|text| (*text).to_owned()).ok_or(io::ErrorKind::NotFound.into());
        let (document, problems) = read(Path::new("main.ini"), &mut reader);
        (document, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn includes_go_on_in_the_section_they_stand_in() {
        let (document, problems) = read_all(&[
            ("main.ini", "[databases]\n%include dbs.ini\nc = port=1\n[pgbouncer]\nlisten_port = 1\nlisten_port = 2\n"),
            ("dbs.ini", "a = host=x\n[pgbouncer]\npool_mode = session\n[databases]\nb = host='y z'\n"),
        ]);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(document.databases.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(document.databases["b"].pairs, [("host".to_owned(), "y z".to_owned())]);
        assert_eq!(document.settings["listen_port"].text, "2", "said last");
        assert_eq!(document.settings["pool_mode"].place, Place::file(Path::new("dbs.ini"), Some(3)));
    }

    #[test]
    fn every_problem_has_its_file_and_line() {
        let (_, problems) = read_all(&[
            (
                "main.ini",
                "x = 1\n[pgbouncer]\npool_mod = session\n%include gone.ini\nno\n[what]\ny = 1\n[databases]\na = hunter2\n%include more.ini",
            ),
            ("more.ini", "b = host='hunter2\n"),
        ]);
        let expected = [
            "main.ini:1: value without section: \"x\"",
            "main.ini:3: unknown parameter: pgbouncer/pool_mod; did you mean \"pool_mode\"?",
            "main.ini:4: could not load file \"gone.ini\"",
            "main.ini:5: syntax error",
            "main.ini:6: invalid section \"what\"",
            "main.ini:9: syntax error in connection string; \"a\" has a key",
            "more.ini:1: syntax error in connection string; \"b\" has a quoted value",
        ];
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.starts_with(expected) && !problem.contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn includes_are_bounded_in_depth_and_number() {
        let (_, problems) = read_all(&[("main.ini", "[pgbouncer]\n%include main.ini\n")]);
        assert_eq!(problems, ["main.ini:2: include nesting level too deep; at most 10"]);
        let (document, problems) = read_all(&[("main.ini", &format!("[pgbouncer]\n{}", "%include main.ini\n".repeat(9)))]);
        assert_eq!((document.settings.len(), problems.len()), (0, 1));
        let many = format!("[pgbouncer]\n{}", "%include more.ini\n".repeat(MOST_INCLUDES + 2));
        let (_, problems) = read_all(&[("main.ini", &many), ("more.ini", "")]);
        assert_eq!(problems, ["main.ini:1002: too many includes; at most 1000"]);
        let (_, problems) = read_all(&[("main.ini", &"x\n".repeat(MOST_PROBLEMS + 5))]);
        assert!(problems.len() <= MOST_PROBLEMS);
    }

    #[test]
    fn a_file_that_is_none_is_one_problem() {
        let (_, problems) = read_all(&[]);
        assert_eq!(problems.len(), 1);
        let (_, problems) = read_all(&[("main.ini", "[databases]\n")]);
        assert_eq!(problems, ["main.ini: main section missing from config file; it begins with [pgbouncer]"]);
    }
}
