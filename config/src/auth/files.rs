//! Reads the files and options that say who may log in how, into one value.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::hba::{self, Rules};
use super::ident::{self, Maps};
use super::ldap::Ldap;
use super::words::Fault;

/// What `auth_hba_file`, `auth_ident_file` and `auth_ldap_options` say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuthRules {
    /// The rules.
    pub hba: Rules,
    /// The maps that they name.
    pub maps: Maps,
    /// How `auth_type = ldap` checks passwords.
    pub ldap: Option<Ldap>,
    /// A hash over the files, those that they name included.
    pub content: [u8; 32],
}

/// What is wrong with one of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFault {
    /// The file.
    pub path: PathBuf,
    /// The line; `None`: it cannot be read at all.
    pub line: Option<u32>,
    /// What is wrong.
    pub message: String,
    /// Whether what the line would have matched is refused because of it; otherwise it is as if it were not there.
    pub refuses: bool,
}

/// Reads a file.
pub type Read<'a> = &'a mut dyn FnMut(&Path) -> io::Result<Zeroizing<Vec<u8>>>;

/// Reads the files. Their faults come with the rules, which are safe to use all the same: see [`hba::parse`].
pub fn read(hba_file: Option<&Path>, ident_file: Option<&Path>, read: Read<'_>) -> (AuthRules, Vec<FileFault>) {
    let (mut rules, mut faults) = (AuthRules::default(), Vec::new());
    let mut hasher = Sha256::new();
    if let Some(path) = hba_file {
        match text(path, read, &mut hasher) {
            Ok(contents) => {
                let folder = path.parent().unwrap_or(Path::new(""));
                let (found, wrong) = hba::parse(&contents, &mut |name| text(&folder.join(name), read, &mut hasher));
                faults.extend(wrong.into_iter().map(|fault| located(path, fault)));
                rules.hba = found;
            }
            Err(message) => faults.push(FileFault { path: path.to_owned(), line: None, message, refuses: true }),
        }
    }
    if let Some(path) = ident_file {
        match text(path, read, &mut hasher) {
            Ok(contents) => {
                let (found, wrong) = ident::parse(&contents);
                faults.extend(wrong.into_iter().map(|fault| located(path, fault)));
                rules.maps = found;
            }
            Err(message) => faults.push(FileFault { path: path.to_owned(), line: None, message, refuses: true }),
        }
    }
    rules.content = hasher.finalize().into();
    (rules, faults)
}

fn text(path: &Path, read: Read<'_>, hasher: &mut Sha256) -> Result<String, String> {
    let contents = read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    hasher.update((contents.len() as u64).to_be_bytes());
    hasher.update(&contents);
    std::str::from_utf8(&contents).map(str::to_owned).map_err(|_| format!("{} is not UTF-8 text", path.display()))
}

fn located(path: &Path, fault: Fault) -> FileFault {
    let Fault { line, message, refuses } = fault;
    FileFault { path: path.to_owned(), line: Some(line), message, refuses }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_with_those_that_they_name() {
        let mut read_file = |path: &Path| match path.to_str().unwrap() {
            "etc/hba" => Ok(b"local all @admins trust\nlocal all all nonsense\n".to_vec().into()),
            "etc/admins" => Ok(b"bob".to_vec().into()),
            "etc/ident" => Ok(b"m a b\nwrong\n".to_vec().into()),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        let (rules, faults) = read(Some(Path::new("etc/hba")), Some(Path::new("etc/ident")), &mut read_file);
        assert_eq!((rules.hba.len(), rules.maps.len()), (2, 1));
        let found: Vec<_> = faults.iter().map(|fault| (fault.path.to_str().unwrap(), fault.line, fault.refuses)).collect();
        assert_eq!(found, [("etc/hba", Some(2), true), ("etc/ident", Some(2), false)]);
        let (_, faults) = read(Some(Path::new("no")), None, &mut read_file);
        assert_eq!(faults[0].line, None);
        let mut changed = |path: &Path| match path.to_str().unwrap() {
            "etc/admins" => Ok(b"eve".to_vec().into()),
            _ => read_file(path),
        };
        let (other, _) = read(Some(Path::new("etc/hba")), Some(Path::new("etc/ident")), &mut changed);
        assert_ne!(rules.content, other.content);
    }
}
