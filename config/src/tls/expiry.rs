//! Until when certificates hold: for the metrics, so that nobody is surprised.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Until when the certificates of a file hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// The setting that names the file.
    pub setting: &'static str,
    /// In seconds since the epoch.
    pub not_after: i64,
}

impl Expiry {
    /// Of a certificate and those that vouch for it: when the first of them ends, it ends.
    pub(super) fn of_chain(setting: &'static str, chain: &[CertificateDer<'_>]) -> Option<Self> {
        let not_after = chain.iter().filter_map(not_after).min()?;
        Some(Self { setting, not_after })
    }

    /// Of authorities, any of which will do: when the last of them ends.
    pub(super) fn of_authorities(setting: &'static str, authorities: &[CertificateDer<'_>]) -> Option<Self> {
        let not_after = authorities.iter().filter_map(not_after).max()?;
        Some(Self { setting, not_after })
    }
}

fn not_after(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}
