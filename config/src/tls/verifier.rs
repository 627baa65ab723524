//! What servers have to prove: nothing but that they hold the key, an authority's word, or that and their name.
//!
//! Beyond what rustls does by itself: verify-ca looks at no name, a certificate without any alternative name may bear the host as its common name
//! (as libpq has it), and certificates of [version 1](super::version_one) will do.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::version_one;

/// What a server has to prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// Nothing: encryption against listeners, not against impostors.
    Nothing,
    /// That an authority vouches for it.
    Authority,
    /// And that it is the host that we meant.
    Host,
}

#[derive(Debug)]
pub(super) struct ServerVerifier {
    proof: Proof,
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    pub(super) fn new(proof: Proof, roots: Arc<RootCertStore>, provider: &CryptoProvider) -> Self {
        Self { proof, roots, algorithms: provider.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.proof != Proof::Nothing && version_one::is_one(end_entity) {
            version_one::verify(end_entity, &self.roots, now, self.algorithms.all)?;
            if self.proof == Proof::Host {
                named_by_common_name(end_entity, server_name, CertificateError::NotValidForName.into())?;
            }
        } else if self.proof != Proof::Nothing {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, self.algorithms.all)?;
            if self.proof == Proof::Host {
                verify_server_name(&certificate, server_name).or_else(|error| named_by_common_name(end_entity, server_name, error))?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // What rustls would read of the certificate here is its key.
        match public_key(cert).filter(|_| self.proof == Proof::Nothing || version_one::is_one(cert)) {
            Some(key) => verify_tls13_signature_with_raw_key(message, &SubjectPublicKeyInfoDer::from(key), dss, &self.algorithms),
            None => verify_tls13_signature(message, cert, dss, &self.algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The common name counts only where the certificate has no alternative names at all.
fn named_by_common_name(certificate: &CertificateDer<'_>, wanted: &ServerName<'_>, error: Error) -> Result<(), Error> {
    let Error::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) = error else {
        return Err(error);
    };
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Err(error) };
    let has_alternatives = !matches!(parsed.subject_alternative_name(), Ok(None));
    let name = common_name(certificate);
    match (has_alternatives, name) {
        (false, Some(name)) if covers(&name, &wanted.to_str()) => Ok(()),
        (_, _) => Err(error),
    }
}

/// Whether a name of a certificate is that of the host; `*` stands for its first label.
fn covers(name: &str, host: &str) -> bool {
    match (name.strip_prefix("*."), host.split_once('.')) {
        (Some(rest), Some((first, of_host))) => !first.is_empty() && rest.contains('.') && rest.eq_ignore_ascii_case(of_host),
        (Some(_), None) => false,
        (None, _) => !name.is_empty() && name.eq_ignore_ascii_case(host),
    }
}

/// The common name of whom a certificate is about: the last one, as OpenSSL has it. `None` where there is none, or one that is no text or has a
/// zero byte in it.
#[must_use]
pub fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let name = parsed.subject().iter_common_name().last()?.as_str().ok()?;
    (!name.is_empty() && !name.contains('\0')).then(|| name.to_owned())
}

/// The public key of a certificate, with its algorithm.
pub(super) fn public_key<'a>(certificate: &'a CertificateDer<'_>) -> Option<&'a [u8]> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.tbs_certificate.subject_pki.raw)
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_name_covers_its_host_and_a_star_one_label() {
        for (name, host) in [("db", "db"), ("DB.example", "db.Example"), ("*.b.example", "a.b.example"), ("10.0.0.1", "10.0.0.1")] {
            assert!(covers(name, host), "{name} {host}");
        }
        for (name, host) in
            [("", ""), ("db", "db2"), ("*", "db"), ("*.example", "a.example"), ("*.b.c", "b.c"), ("*.b.c", "a.a.b.c"), ("*.b.c", ".b.c")]
        {
            assert!(!covers(name, host), "{name} {host}");
        }
    }
}
