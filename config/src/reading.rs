//! One configuration file being read: its text, its lines, the problems found so far and the files that it led to.
//!
//! Reading never stops at a problem. A line that is not TOML is noted and blanked, and the rest is read all the same.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml_edit::{Document, Item, Table};

use crate::environment::Lookup;
use crate::pgbouncer::Set;
use crate::pgbouncer::say::in_words_of_toml;
use crate::problem::{Place, Problem};
use crate::sources::Sources;

/// The most problems that are kept. Past this many the file is something else than a configuration.
const MOST_PROBLEMS: usize = 500;

/// One file being read.
pub(crate) struct Reading<'a> {
    path: &'a Path,
    lookup: Lookup<'a>,
    problems: RefCell<Vec<Problem>>,
    /// How many problems were left out.
    dropped: Cell<usize>,
    sources: RefCell<Sources>,
    /// Offsets at which lines begin.
    line_starts: Vec<usize>,
    /// The line of every key that was seen, by its path.
    lines: RefCell<BTreeMap<String, u32>>,
    /// False once lines had to be blanked: what seems to be missing may have stood there.
    whole: bool,
    /// What the console has said, by the path of the key, each as a document with one key.
    set: BTreeMap<String, Document<String>>,
    /// A section that is not in the file.
    empty: Table,
}

/// The key of each document in `Reading::set`.
const SAID: &str = "said";

impl<'a> Reading<'a> {
    /// Starts on a text; gives the document beside it, without the lines that are not TOML.
    pub(crate) fn start(text: &str, path: &'a Path, sources: Sources, lookup: Lookup<'a>) -> (Self, Document<String>) {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let mut reading = Self {
            path,
            lookup,
            problems: RefCell::default(),
            dropped: Cell::new(0),
            sources: RefCell::new(sources),
            line_starts,
            lines: RefCell::default(),
            whole: true,
            set: BTreeMap::new(),
            empty: Table::new(),
        };
        let document = reading.parse(text.to_owned());
        (reading, document)
    }

    fn parse(&mut self, mut text: String) -> Document<String> {
        /// Past this many broken lines the file is something else than a configuration.
        const MOST_BROKEN_LINES: usize = 20;
        /// Of a file larger than this only the first broken line is reported: each further one takes another pass.
        const LARGEST_REREAD_BYTES: usize = 256 << 10;
        let passes = if text.len() > LARGEST_REREAD_BYTES { 1 } else { MOST_BROKEN_LINES };
        let mut last = None;
        for _ in 0..passes {
            let error = match Document::parse(text.clone()) {
                Ok(document) => return document,
                Err(error) => error,
            };
            self.whole = false;
            let at = error.span().map_or(text.len(), |span| span.start.min(text.len()));
            let Some(line) = self.written_line(&text, self.line_at(at)) else { break };
            let message = error.message().lines().collect::<Vec<_>>().join("; ");
            // What runs to the end of the file, like an open """, is found there again and again until the line that opens it is gone.
            let again = line != self.line_at(at) && last.as_ref() == Some(&message);
            if !again {
                let hint =
                    if bare_word(text.get(self.line_start(line)..).unwrap_or_default()) { "; text is written in quotes" } else { "" };
                self.error(Some(line), "", format!("not TOML: {message}{hint}"));
            }
            blank(&mut text, self.line_span(line));
            last = Some(message);
        }
        Document::parse(String::new()).unwrap_or_else(|_| unreachable!("an empty text is TOML"))
    }

    /// Lets the console's word win over the file's.
    pub(crate) fn set(&mut self, set: &Set) {
        for (name, text) in set {
            match in_words_of_toml(name, text) {
                Ok(None) => {}
                Ok(Some((path, value))) => match Document::parse(format!("{SAID} = {value}")) {
                    Ok(said) => drop(self.set.insert(path, said)),
                    Err(error) => self.note(Problem::error(Place::Console, path, error.message())),
                },
                Err(message) => self.note(Problem::error(Place::Console, "", message)),
            }
        }
    }

    /// What the console has said of a key.
    pub(crate) fn said(&self, path: &str) -> Option<&Item> {
        self.set.get(path)?.get(SAID)
    }

    /// An empty section in the place of one that the file does not have, if the console has said something in it.
    pub(crate) fn stand_in(&self, section: &str) -> Option<&Table> {
        let is_said = self.set.keys().any(|path| path.strip_prefix(section).is_some_and(|rest| rest.starts_with('.')));
        is_said.then_some(&self.empty)
    }

    /// The line (from 1) of an offset.
    pub(crate) fn line_at(&self, offset: usize) -> u32 {
        u32::try_from(self.line_starts.partition_point(|start| *start <= offset)).unwrap_or(u32::MAX)
    }

    fn line_start(&self, line: u32) -> usize {
        self.line_starts.get((line as usize).saturating_sub(1)).copied().unwrap_or(usize::MAX)
    }

    fn line_span(&self, line: u32) -> Range<usize> {
        self.line_start(line)..self.line_start(line.saturating_add(1))
    }

    /// The line itself, or the nearest one above it that has something on it.
    fn written_line(&self, text: &str, line: u32) -> Option<u32> {
        let written = |line: &u32| {
            let span = self.line_span(*line);
            text.get(span.start..span.end.min(text.len())).is_some_and(|line| !line.trim().is_empty())
        };
        (1..=line).rev().find(written)
    }

    /// Remembers where a key stands.
    pub(crate) fn saw(&self, key: &str, line: Option<u32>) {
        if let Some(line) = line {
            self.lines.borrow_mut().insert(key.to_owned(), line);
        }
    }

    /// True if the key is in the file.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.lines.borrow().contains_key(key)
    }

    /// The line of a key, or of the nearest section around it.
    pub(crate) fn line_of(&self, key: &str) -> Option<u32> {
        let lines = self.lines.borrow();
        let mut key = key;
        loop {
            if let Some(line) = lines.get(key) {
                return Some(*line);
            }
            key = key.rsplit_once('.')?.0;
        }
    }

    /// False when lines had to be left out, so that complaints about what is missing would be guesses.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Notes an error.
    pub(crate) fn error(&self, line: Option<u32>, key: &str, message: impl Into<String>) {
        self.note(Problem::error(Place::file(self.path, line), key, message));
    }

    /// Notes a warning.
    pub(crate) fn warning(&self, line: Option<u32>, key: &str, message: impl Into<String>) {
        self.note(Problem::warning(Place::file(self.path, line), key, message));
    }

    /// Notes a problem that has its place already.
    pub(crate) fn note(&self, problem: Problem) {
        let mut problems = self.problems.borrow_mut();
        match problems.len() < MOST_PROBLEMS {
            true => problems.push(problem),
            false => self.dropped.set(self.dropped.get() + 1),
        }
    }

    /// Reads a file that the configuration names, relative to itself.
    pub(crate) fn read_file(&self, named: &Path) -> (PathBuf, std::io::Result<zeroize::Zeroizing<Vec<u8>>>) {
        let path = self.resolve(named);
        let contents = self.sources.borrow_mut().read(&path);
        (path, contents)
    }

    /// Reads a file that lies exactly there.
    pub(crate) fn read_at(&self, path: &Path) -> std::io::Result<zeroize::Zeroizing<Vec<u8>>> {
        self.sources.borrow_mut().read(path)
    }

    /// Where a file is that the configuration names, relative to itself.
    pub(crate) fn resolve(&self, named: &Path) -> PathBuf {
        self.path.parent().map_or_else(|| named.to_owned(), |dir| dir.join(named))
    }

    /// Reads a file that has its place already.
    pub(crate) fn read_resolved(&self, path: &Path) -> std::io::Result<zeroize::Zeroizing<Vec<u8>>> {
        self.sources.borrow_mut().read(path)
    }

    /// The value of an environment variable.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        (self.lookup)(name)
    }

    /// What came of it: the problems in the order of the file, each once, and the files read.
    pub(crate) fn finish(self) -> (Vec<Problem>, Sources) {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| match &problem.place {
            Place::File { path, line } => (path.as_path() != self.path, line.unwrap_or(0)),
            Place::Environment | Place::CommandLine | Place::Console => (true, 0),
        });
        let mut seen = std::collections::HashSet::new();
        problems.retain(|problem| seen.insert(problem.clone()));
        let dropped = self.dropped.get();
        if dropped > 0 {
            problems.push(Problem::error(Place::file(self.path, None), "", format!("{dropped} more problems are not listed")));
        }
        (problems, self.sources.into_inner())
    }
}

/// True if the line sets a key to something that begins like a word: nearly always a text without its quotes.
fn bare_word(text: &str) -> bool {
    let line = text.lines().next().unwrap_or_default();
    line.split_once('=').is_some_and(|(_, value)| value.trim_start().starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/'))
}

/// Overwrites a line with spaces, so that every other offset stays.
fn blank(text: &mut String, span: Range<usize>) {
    let end = span.end.min(text.len());
    let line = text.get(span.start..end).unwrap_or_default();
    let blanks: String = line.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect();
    text.replace_range(span.start..end, &blanks);
}

/// The path of a key inside a section: `postgres.databases."my.db"`.
pub(crate) fn key_path(section: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    let written = if bare { key.to_owned() } else { format!("{key:?}") };
    if section.is_empty() { written } else { format!("{section}.{written}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_broken_line_is_found_and_the_rest_is_read() {
        let text = "workers = 1\nbroken broken\n[log]\nlevel = \"inf\nformat = \"json\"\n";
        let (reading, document) = Reading::start(text, Path::new("f.toml"), Sources::default(), &|_| None);
        assert_eq!(document["workers"].as_integer(), Some(1));
        assert_eq!(document["log"]["format"].as_str(), Some("json"));
        assert!(!reading.is_whole());
        let (problems, _) = reading.finish();
        let lines: Vec<_> = problems.iter().map(|problem| problem.place.clone()).collect();
        assert_eq!(lines, [Place::file(Path::new("f.toml"), Some(2)), Place::file(Path::new("f.toml"), Some(4))]);
    }

    #[test]
    fn a_text_that_is_never_closed_is_one_problem() {
        let text = "workers = 1\nfoo = bar\n\"\"\"\n[log]\nlevel = \"info\"\n\n";
        let (reading, document) = Reading::start(text, Path::new("f.toml"), Sources::default(), &|_| None);
        assert_eq!(document["workers"].as_integer(), Some(1));
        let (problems, _) = reading.finish();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert_eq!(problems[0].place, Place::file(Path::new("f.toml"), Some(2)));
    }

    #[test]
    fn a_file_of_nothing_but_mistakes_ends() {
        let text = "= =\n".repeat(10_000);
        let (reading, _) = Reading::start(&text, Path::new("f.toml"), Sources::default(), &|_| None);
        assert_eq!(reading.finish().0.len(), 20);
        let text = text.repeat(10);
        let (reading, _) = Reading::start(&text, Path::new("f.toml"), Sources::default(), &|_| None);
        assert_eq!(reading.finish().0.len(), 1);
    }

    #[test]
    fn the_list_of_problems_is_bounded() {
        let (reading, _) = Reading::start("", Path::new("f.toml"), Sources::default(), &|_| None);
        (0..MOST_PROBLEMS + 7).for_each(|line| reading.error(u32::try_from(line).ok(), "", "wrong"));
        let (problems, _) = reading.finish();
        assert_eq!(problems.len(), MOST_PROBLEMS + 1);
        assert!(problems.last().unwrap().message.starts_with("7 more"));
    }

    #[test]
    fn key_paths_quote_what_is_not_bare() {
        assert_eq!(key_path("", "postgres"), "postgres");
        assert_eq!(key_path("postgres.databases", "*"), "postgres.databases.\"*\"");
        assert_eq!(key_path("postgres.databases", "a.b"), "postgres.databases.\"a.b\"");
    }
}
