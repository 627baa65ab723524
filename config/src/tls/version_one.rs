//! Certificates of version 1: what OpenSSL made for a request without extensions until 2023, and so what many private authorities have given out
//! to databases and clients. rustls refuses them. Here they are accepted in the one simple case: an authority of the list has signed it itself.
//!
//! Such a certificate says nothing of its purpose and has no alternative names; OpenSSL takes it for both ends, and so is it taken here. Never as
//! an authority: chains are for later versions.

use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use rustls::{CertificateError, RootCertStore};
use x509_parser::asn1_rs::{Any, FromDer as _};
use x509_parser::certificate::X509Certificate;
use x509_parser::x509::X509Version;

/// Whether a certificate is one of version 1.
pub(super) fn is_one(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| parsed.version() == X509Version::V1)
}

/// Whether an authority has signed it, and it holds now.
pub(super) fn verify(
    certificate: &CertificateDer<'_>,
    roots: &RootCertStore,
    now: UnixTime,
    algorithms: &[&dyn SignatureVerificationAlgorithm],
) -> Result<(), CertificateError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < parsed.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet);
    }
    if now > parsed.validity().not_after.timestamp() {
        return Err(CertificateError::Expired);
    }
    let signed = Signed::read(certificate).ok_or(CertificateError::BadEncoding)?;
    let issuer = content(parsed.issuer().as_raw()).ok_or(CertificateError::BadEncoding)?;
    // One that may only speak for some names speaks for none that cannot be checked against them.
    let mut issuers = roots.roots.iter().filter(|root| root.subject.as_ref() == issuer && root.name_constraints.is_none()).peekable();
    if issuers.peek().is_none() {
        return Err(CertificateError::UnknownIssuer);
    }
    if issuers.any(|root| signed.is_by(root, algorithms)) { Ok(()) } else { Err(CertificateError::BadSignature) }
}

/// A certificate as its authority sees it.
struct Signed<'a> {
    /// What is signed.
    body: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Signed<'a> {
    fn read(certificate: &'a [u8]) -> Option<Self> {
        let whole = content(certificate)?;
        let (rest, _) = Any::from_der(whole).ok()?;
        let body = &whole[..whole.len() - rest.len()];
        let (rest, algorithm) = Any::from_der(rest).ok()?;
        Some(Self { body, algorithm: algorithm.data, signature: bits(rest)? })
    }

    fn is_by(&self, root: &TrustAnchor<'_>, algorithms: &[&dyn SignatureVerificationAlgorithm]) -> bool {
        let Ok((rest, kind)) = Any::from_der(root.subject_public_key_info.as_ref()) else { return false };
        let Some(key) = bits(rest) else { return false };
        let mut fitting = algorithms
            .iter()
            .filter(|with| with.public_key_alg_id().as_ref() == kind.data && with.signature_alg_id().as_ref() == self.algorithm);
        fitting.any(|with| with.verify_signature(key, self.body, self.signature).is_ok())
    }
}

/// What is in the first element.
fn content(der: &[u8]) -> Option<&[u8]> {
    Any::from_der(der).ok().map(|(_, element)| element.data)
}

/// A bit string of whole bytes.
fn bits(der: &[u8]) -> Option<&[u8]> {
    content(der)?.strip_prefix(&[0])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::crypto::aws_lc_rs;
    use rustls::pki_types::pem::PemObject as _;

    use super::*;

    /// Made with OpenSSL 3.0: `openssl x509 -req` with no extensions, signed by the next.
    const LEAF: &str = "-----BEGIN CERTIFICATE-----\n\
MIIBMDCB1wIBBzAKBggqhkjOPQQDAjAjMQ0wCwYDVQQKDARUZXN0MRIwEAYDVQQD\n\
DAlBdXRob3JpdHkwIBcNMjYxMTIxMTYxNDI3WhgPMjEyNjEwMjgxNjE0MjdaMCQx\n\
DTALBgNVBAoMBFRlc3QxEzARBgNVBAMMCmRiLmV4YW1wbGUwWTATBgcqhkjOPQIB\n\
BggqhkjOPQMBBwNCAARq6AUdEYg2fkfKmT1qtKbMsKYoDzHrmnDz69KABw5jpEcY\n\
91YU2KWrAIQhH/TB7XSuyY/VDvtKvEDDgrTmVVTXMAoGCCqGSM49BAMCA0gAMEUC\n\
IQDrsZ2nIRKNuucDnRJLvX6yNYiK3ze8BVUcvByLCFkEqQIgJ/Q5dkttpN2Dk3V+\n\
DskF6y+Rm/dxf9h6z9oUHQy4Ca0=\n\
-----END CERTIFICATE-----";
    const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----\n\
MIIBnDCCAUOgAwIBAgIUQctD5tz3iWG/ZSzmFGYS44EDEYgwCgYIKoZIzj0EAwIw\n\
IzENMAsGA1UECgwEVGVzdDESMBAGA1UEAwwJQXV0aG9yaXR5MCAXDTI2MTEyMTE2\n\
MTQyN1oYDzIxMjYxMDI4MTYxNDI3WjAjMQ0wCwYDVQQKDARUZXN0MRIwEAYDVQQD\n\
DAlBdXRob3JpdHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARhLqVihW8Ju7Vk\n\
a34f7z1g0gn3HBcQiBWVYN6uXy6NMy/2/+yRyjm9KcXsO/KyDH8udWcrx2UHg2HH\n\
VjCTp0keo1MwUTAdBgNVHQ4EFgQUjLEVpCAcmGPLfwJ82PJV1DufDhQwHwYDVR0j\n\
BBgwFoAUjLEVpCAcmGPLfwJ82PJV1DufDhQwDwYDVR0TAQH/BAUwAwEB/zAKBggq\n\
hkjOPQQDAgNHADBEAiBdB1OZb9ANVosokDbeFE/grPfWkZ7JlVtskbtulfUBYwIg\n\
VcnvCEnczkT+RpIq6dBnQIsnEpXeaK4CDjLyWOL9QyQ=\n\
-----END CERTIFICATE-----";
    /// Another key under the same name.
    const IMPOSTOR: &str = "-----BEGIN CERTIFICATE-----\n\
MIIBnTCCAUOgAwIBAgIUFkv/d9Yq792pdS8afft1tZDzCocwCgYIKoZIzj0EAwIw\n\
IzENMAsGA1UECgwEVGVzdDESMBAGA1UEAwwJQXV0aG9yaXR5MCAXDTI2MTEyMTE2\n\
MTQyN1oYDzIxMjYxMDI4MTYxNDI3WjAjMQ0wCwYDVQQKDARUZXN0MRIwEAYDVQQD\n\
DAlBdXRob3JpdHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASSaAkoiGKTEcjN\n\
PlGXaq0TLzZ5ThsWd7LUTyqK6TYQZ2qfjAbYmQ3wb8Io7/rH/PLB0eBRfD70hP6H\n\
kVe59O1qo1MwUTAdBgNVHQ4EFgQUzTlrjesL0dwzUGCdk+xkWeMeFsswHwYDVR0j\n\
BBgwFoAUzTlrjesL0dwzUGCdk+xkWeMeFsswDwYDVR0TAQH/BAUwAwEB/zAKBggq\n\
hkjOPQQDAgNIADBFAiBk6yCIHq83yMU6aYYH/P2/8L0RFn8uHkl4B9broftitwIh\n\
ANT9mycQAif+xaKalggmIK6A9QURK2eqeafBIE0kkjuo\n\
-----END CERTIFICATE-----";

    fn read(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    fn verdict(certificate: &str, authority: &str, at: u64) -> Result<(), CertificateError> {
        let mut roots = RootCertStore::empty();
        roots.add(read(authority)).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(at));
        verify(&read(certificate), &roots, now, aws_lc_rs::default_provider().signature_verification_algorithms.all)
    }

    #[test]
    fn its_authority_vouches_for_it_and_nobody_else() {
        const IN_2030: u64 = 1_900_000_000;
        assert!(is_one(&read(LEAF)) && !is_one(&read(AUTHORITY)));
        assert_eq!(verdict(LEAF, AUTHORITY, IN_2030), Ok(()));
        assert_eq!(verdict(LEAF, IMPOSTOR, IN_2030), Err(CertificateError::BadSignature));
        assert_eq!(verdict(LEAF, AUTHORITY, 1_000_000_000), Err(CertificateError::NotValidYet));
        assert_eq!(verdict(LEAF, AUTHORITY, 9_000_000_000), Err(CertificateError::Expired));
        assert_eq!(verdict(AUTHORITY, LEAF, IN_2030), Err(CertificateError::UnknownIssuer));
    }

    #[test]
    fn what_is_cut_or_changed_is_refused() {
        let whole = read(LEAF);
        let mut roots = RootCertStore::empty();
        roots.add(read(AUTHORITY)).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_900_000_000));
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
        for length in 0..whole.len() {
            assert!(verify(&CertificateDer::from(whole[..length].to_vec()), &roots, now, algorithms).is_err(), "{length}");
        }
        for place in 0..whole.len() {
            let mut changed = whole.to_vec();
            changed[place] ^= 1;
            assert!(verify(&CertificateDer::from(changed), &roots, now, algorithms).is_err(), "{place}");
        }
    }
}
