//! The certificate of the webhook: read from a directory, read again when that changes, put in place of the old one only if it can be used.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use x509_parser::parse_x509_certificate;

use super::metrics::Numbers;
use crate::reload::FileWatch;

/// The names under which Kubernetes mounts the two halves.
const FILES: [&str; 2] = ["tls.crt", "tls.key"];

/// The certificate in use, if there is one.
#[derive(Default)]
pub(super) struct Certificate {
    config: ArcSwapOption<ServerConfig>,
}

impl Certificate {
    /// What handshakes are done with.
    pub(super) fn config(&self) -> Option<Arc<ServerConfig>> {
        self.config.load_full()
    }
}

/// Keeps the certificate up to date for as long as it runs.
pub(super) async fn follow(directory: PathBuf, certificate: Arc<Certificate>, numbers: Arc<Numbers>) {
    let files = FILES.map(|name| directory.join(name));
    let mut watch = FileWatch::start(files.iter().map(PathBuf::as_path));
    let mut seen = None;
    loop {
        match read(&files) {
            Ok(material) if seen == Some(material.digest) => {}
            Ok(material) => {
                seen = Some(material.digest);
                put(material, &certificate, &numbers);
            }
            Err(error) => {
                numbers.certificate_failed();
                tracing::warn!(%error, directory = %directory.display(), "the certificate cannot be read; waiting for it to change");
            }
        }
        // Links may lead elsewhere by now.
        watch.follow(files.iter().map(PathBuf::as_path));
        watch.changed().await;
    }
}

fn put(material: Material, certificate: &Certificate, numbers: &Numbers) {
    match usable(&material) {
        Ok((config, not_after)) => {
            certificate.config.store(Some(config));
            numbers.certificate_loaded(not_after);
            tracing::info!(not_after, "a certificate is loaded");
        }
        Err(error) => {
            numbers.certificate_failed();
            tracing::warn!(error, "the certificate cannot be used; the old one stays, if there was one");
        }
    }
}

/// The two files.
struct Material {
    cert: Vec<u8>,
    key: Vec<u8>,
    digest: [u8; 32],
}

fn read(files: &[PathBuf; 2]) -> io::Result<Material> {
    let named = |path: &Path| fs::read(path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())));
    let (cert, key) = (named(&files[0])?, named(&files[1])?);
    let digest = Sha256::new().chain_update((cert.len() as u64).to_be_bytes()).chain_update(&cert).chain_update(&key).finalize().into();
    Ok(Material { cert, key, digest })
}

/// The configuration for handshakes, and when the certificate runs out, in seconds since 1970.
fn usable(material: &Material) -> Result<(Arc<ServerConfig>, i64), String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&material.cert).collect();
    let chain = chain.map_err(|error| format!("{}: {error}", FILES[0]))?;
    let leaf = chain.first().ok_or_else(|| format!("{} holds no certificate in PEM form", FILES[0]))?;
    let (_, parsed) = parse_x509_certificate(leaf).map_err(|error| format!("{}: {error}", FILES[0]))?;
    let not_after = parsed.validity().not_after.timestamp();
    // What is in the file is not repeated.
    let key = PrivateKeyDer::from_pem_slice(&material.key).map_err(|_| format!("{} holds no private key that can be used", FILES[1]))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider())).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).map_err(|error| format!("the two do not fit: {error}"))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((Arc::new(config), not_after))
}
