//! One configuration file being read: its text, its lines, the problems found so far and the files that it led to.
//!
//! Reading never stops at a problem. A line that is not TOML is noted and blanked, and the rest is read all the same.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml_edit::Document;

use crate::environment::Lookup;
use crate::problem::{Place, Problem};
use crate::sources::Sources;

/// One file being read.
pub(crate) struct Reading<'a> {
    path: &'a Path,
    lookup: Lookup<'a>,
    problems: RefCell<Vec<Problem>>,
    sources: RefCell<Sources>,
    /// Offsets at which lines begin.
    line_starts: Vec<usize>,
    /// The line of every key that was seen, by its path.
    lines: RefCell<BTreeMap<String, u32>>,
    /// False once lines had to be blanked: what seems to be missing may have stood there.
    whole: bool,
}

impl<'a> Reading<'a> {
    /// Starts on a text; gives the document beside it, without the lines that are not TOML.
    pub(crate) fn start(text: &str, path: &'a Path, sources: Sources, lookup: Lookup<'a>) -> (Self, Document<String>) {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let mut reading = Self {
            path,
            lookup,
            problems: RefCell::default(),
            sources: RefCell::new(sources),
            line_starts,
            lines: RefCell::default(),
            whole: true,
        };
        let document = reading.parse(text.to_owned());
        (reading, document)
    }

    fn parse(&mut self, mut text: String) -> Document<String> {
        /// Past this many broken lines the file is something else than a configuration.
        const MOST_BROKEN_LINES: usize = 20;
        for _ in 0..MOST_BROKEN_LINES {
            let error = match Document::parse(text.clone()) {
                Ok(document) => return document,
                Err(error) => error,
            };
            self.whole = false;
            let at = error.span().map_or(text.len(), |span| span.start.min(text.len()));
            let line = self.line_at(at);
            let message = error.message().lines().collect::<Vec<_>>().join("; ");
            self.problems.borrow_mut().push(Problem::error(Place::file(self.path, Some(line)), "", format!("not TOML: {message}")));
            if !blank(&mut text, self.line_span(line)) {
                break;
            }
        }
        Document::parse(String::new()).unwrap_or_else(|_| unreachable!("an empty text is TOML"))
    }

    /// The line (from 1) of an offset.
    pub(crate) fn line_at(&self, offset: usize) -> u32 {
        u32::try_from(self.line_starts.partition_point(|start| *start <= offset)).unwrap_or(u32::MAX)
    }

    fn line_span(&self, line: u32) -> Range<usize> {
        let index = line as usize;
        let start = self.line_starts.get(index.saturating_sub(1)).copied().unwrap_or(usize::MAX);
        start..self.line_starts.get(index).copied().unwrap_or(usize::MAX)
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
        self.problems.borrow_mut().push(Problem::error(Place::file(self.path, line), key, message));
    }

    /// Notes a warning.
    pub(crate) fn warning(&self, line: Option<u32>, key: &str, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem::warning(Place::file(self.path, line), key, message));
    }

    /// Notes a problem that has its place already.
    pub(crate) fn note(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// Reads a file that the configuration names, relative to itself.
    pub(crate) fn read_file(&self, named: &Path) -> (PathBuf, std::io::Result<zeroize::Zeroizing<Vec<u8>>>) {
        let path = self.path.parent().map_or_else(|| named.to_owned(), |dir| dir.join(named));
        let contents = self.sources.borrow_mut().read(&path);
        (path, contents)
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
            Place::Environment | Place::CommandLine => (true, 0),
        });
        let mut seen = std::collections::HashSet::new();
        problems.retain(|problem| seen.insert(problem.clone()));
        (problems, self.sources.into_inner())
    }
}

/// Overwrites a line with spaces, so that every other offset stays. False if there was nothing left to overwrite.
fn blank(text: &mut String, span: Range<usize>) -> bool {
    let end = span.end.min(text.len());
    let Some(line) = text.get(span.start..end) else { return false };
    if line.trim().is_empty() {
        return false;
    }
    let blanks: String = line.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect();
    text.replace_range(span.start..end, &blanks);
    true
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
    fn key_paths_quote_what_is_not_bare() {
        assert_eq!(key_path("", "postgres"), "postgres");
        assert_eq!(key_path("postgres.databases", "*"), "postgres.databases.\"*\"");
        assert_eq!(key_path("postgres.databases", "a.b"), "postgres.databases.\"a.b\"");
    }
}
