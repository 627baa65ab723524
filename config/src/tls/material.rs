//! Keys and certificates out of PEM files: who we are, and whom we believe.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::TlsProblem;
use super::expiry::Expiry;

/// How files are read: where the file was found, and what is in it.
pub type ReadFile<'a> = dyn FnMut(&Path) -> (PathBuf, std::io::Result<Zeroizing<Vec<u8>>>) + 'a;

/// What came out of the files of one side.
#[derive(Default)]
pub(super) struct Material {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: Option<PrivateKeyDer<'static>>,
    pub(super) roots: Option<Arc<RootCertStore>>,
    pub(super) expiries: Vec<Expiry>,
    /// Over the contents of all files.
    pub(super) digest: Sha256,
}

/// The three files and the names of their settings.
pub(super) struct Files<'a> {
    pub(super) key: (&'static str, Option<&'a Path>),
    pub(super) cert: (&'static str, Option<&'a Path>),
    pub(super) ca: (&'static str, Option<&'a Path>),
}

impl Material {
    /// Reads what is named. Every problem is said; what could be read is there.
    pub(super) fn read(files: &Files<'_>, read: &mut ReadFile<'_>, problems: &mut Vec<TlsProblem>) -> Self {
        let mut material = Self::default();
        let mut contents = |(setting, path): (&'static str, Option<&Path>)| {
            let (path, contents) = read(path?);
            match contents {
                Ok(contents) => {
                    material.digest.update((contents.len() as u64).to_be_bytes());
                    material.digest.update(contents.as_slice());
                    Some((setting, path, contents))
                }
                Err(error) => {
                    problems.push(TlsProblem::error(setting, format!("cannot read {}: {error}", path.display())));
                    None
                }
            }
        };
        let (cert, key, ca) = (contents(files.cert), contents(files.key), contents(files.ca));
        if let Some((setting, path, contents)) = cert {
            material.chain = certificates(setting, &path, &contents, problems);
            material.expiries.extend(Expiry::of_chain(setting, &material.chain));
        }
        if let Some((setting, path, contents)) = key {
            match PrivateKeyDer::from_pem_slice(&contents) {
                Ok(key) => material.key = Some(key),
                // What is in the file is not repeated.
                Err(_) => problems.push(TlsProblem::error(
                    setting,
                    format!("{} holds no private key in PEM form that can be used (is it encrypted?)", path.display()),
                )),
            }
        }
        if let Some((setting, path, contents)) = ca {
            let mut roots = RootCertStore::empty();
            let certificates = certificates(setting, &path, &contents, problems);
            let any = !certificates.is_empty();
            material.expiries.extend(Expiry::of_authorities(setting, &certificates));
            for certificate in certificates {
                if let Err(error) = roots.add(certificate) {
                    problems.push(TlsProblem::warning(setting, format!("{}: an authority that cannot be used: {error}", path.display())));
                }
            }
            if any && roots.is_empty() {
                problems.push(TlsProblem::error(setting, format!("{} names no authority that can be used", path.display())));
            }
            material.roots = Some(Arc::new(roots));
        }
        material
    }
}

fn certificates(setting: &'static str, path: &Path, contents: &[u8], problems: &mut Vec<TlsProblem>) -> Vec<CertificateDer<'static>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(contents).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => certificates,
        Ok(_) => {
            problems.push(TlsProblem::error(setting, format!("{} holds no certificate in PEM form", path.display())));
            Vec::new()
        }
        Err(error) => {
            problems.push(TlsProblem::error(setting, format!("{}: a certificate that cannot be read: {error}", path.display())));
            Vec::new()
        }
    }
}
