//! What of PgBouncer is shown to be there, and by which test. A test holds a [`Proof`] until its end; when it has not failed by then, what it
//! proves is written down, and the program `conformance` makes the public table of it.
//!
//! Nothing is written unless `SIDEPOOL_CONFORMANCE` names a directory, as `tests/run` does.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

/// The variable that names the directory.
pub const DIRECTORY: &str = "SIDEPOOL_CONFORMANCE";

/// Items that are proven when the test ends well.
#[derive(Debug)]
#[must_use = "it counts when it is dropped at the end of the test"]
pub struct Proof {
    items: Vec<String>,
    by: String,
}

/// Claims items of `tests/conformance/items.txt`, each written as there: `setting query_timeout`, `message query timeout`.
pub fn proves(items: &[&str]) -> Proof {
    let mut proof = Proof { items: Vec::new(), by: test() };
    items.iter().for_each(|item| proof.add(item));
    proof
}

impl Proof {
    /// Claims one more.
    pub fn add(&mut self, item: &str) {
        self.items.push(item.to_owned());
    }
}

impl Drop for Proof {
    fn drop(&mut self) {
        let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from).filter(|_| !std::thread::panicking()) else { return };
        let mut lines = String::new();
        for item in &self.items {
            writeln!(lines, "{item}\t{}", self.by).expect("a String takes all");
        }
        let path = directory.join(format!("{}.txt", std::process::id()));
        let file = std::fs::create_dir_all(&directory).and_then(|()| std::fs::File::options().create(true).append(true).open(&path));
        // One write, so that tests that end together do not mix their lines.
        let written = file.and_then(|mut file| file.write_all(lines.as_bytes()));
        written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// The name of the test that runs on this thread, with the file it is in.
fn test() -> String {
    let program = std::env::current_exe().ok().and_then(|path| Some(path.file_stem()?.to_str()?.to_owned())).unwrap_or_default();
    let file = program.rsplit_once('-').map_or(program.as_str(), |(name, _)| name);
    format!("{file}: {}", std::thread::current().name().unwrap_or("?").replace('_', " "))
}
