//! Which files a configuration came from, and a hash over their contents: what a reload watches, and how a slow poll sees a change that no event told of.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The largest file that is read as configuration. One Kubernetes ConfigMap is at most 1 MiB.
pub const LARGEST_FILE_BYTES: u64 = 4 << 20;

/// The files that were read, or should have been: one that is missing belongs to them, because its appearance is a change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sources {
    files: BTreeMap<PathBuf, Option<[u8; 32]>>,
}

/// A hash over the contents of all sources. Equal where the contents are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentHash(pub [u8; 32]);

impl Sources {
    /// The files, in a fixed order.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(PathBuf::as_path)
    }

    /// The hash of what was read.
    #[must_use]
    pub fn hash(&self) -> ContentHash {
        let mut hasher = Sha256::new();
        for (path, digest) in &self.files {
            hasher.update(Sha256::digest(path.as_os_str().as_encoded_bytes()));
            match digest {
                Some(digest) => hasher.update(digest),
                None => hasher.update([0; 32]),
            }
        }
        ContentHash(hasher.finalize().into())
    }

    /// The hash of what the same files contain now. Differs from [`Sources::hash`] once any of them has changed, appeared or gone.
    #[must_use]
    pub fn hash_now(&self) -> ContentHash {
        let mut now = Self::default();
        for path in self.files.keys() {
            let _ = now.read(path);
        }
        now.hash()
    }

    /// Reads a file and remembers it.
    pub(crate) fn read(&mut self, path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
        let contents = read_bounded(path);
        let digest = contents.as_ref().ok().map(|bytes| Sha256::digest(bytes.as_slice()).into());
        self.files.insert(path.to_owned(), digest);
        contents
    }
}

fn read_bounded(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    // A pipe or a device could block for ever or never end; links are followed, so that mounted secrets work.
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let capacity = usize::try_from(metadata.len().min(LARGEST_FILE_BYTES)).unwrap_or(0) + 1;
    let mut contents = Zeroizing::new(Vec::with_capacity(capacity));
    File::open(path)?.take(LARGEST_FILE_BYTES + 1).read_to_end(&mut contents)?;
    if contents.len() as u64 > LARGEST_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "larger than 4 MiB"));
    }
    Ok(contents)
}

impl ContentHash {
    /// A number made of the first bits, exact as a metric's value: equal where the hash is, for comparing replicas.
    #[must_use]
    pub fn as_metric(&self) -> f64 {
        let [a, b, c, d, ..] = self.0;
        f64::from(u32::from_be_bytes([a, b, c, d]))
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_hash_follows_contents_appearance_and_disappearance() {
        let dir = tempfile::tempdir().unwrap();
        let (main, late) = (dir.path().join("sidepool.toml"), dir.path().join("late"));
        fs::write(&main, "workers = 1").unwrap();
        let mut sources = Sources::default();
        assert_eq!(sources.read(&main).unwrap().as_slice(), b"workers = 1");
        assert!(sources.read(&late).is_err());
        assert_eq!(sources.files().count(), 2, "a missing file is watched too");
        assert_eq!(sources.hash(), sources.hash_now());
        fs::write(&late, "").unwrap();
        assert_ne!(sources.hash(), sources.hash_now());
        fs::remove_file(&late).unwrap();
        assert_eq!(sources.hash(), sources.hash_now());
        fs::write(&main, "workers = 2").unwrap();
        assert_ne!(sources.hash(), sources.hash_now());
        assert_eq!(sources.hash().to_string().len(), 16);
    }

    #[test]
    fn a_device_a_directory_and_a_huge_file_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let huge = dir.path().join("huge");
        File::create(&huge).unwrap().set_len(LARGEST_FILE_BYTES + 1).unwrap();
        let mut sources = Sources::default();
        for path in [Path::new("/dev/zero"), dir.path(), &huge] {
            assert!(sources.read(path).is_err(), "{}", path.display());
        }
    }
}
