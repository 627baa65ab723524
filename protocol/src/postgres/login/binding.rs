//! What a SCRAM exchange is bound to when it runs under TLS: the certificate of the server, so that nobody in the middle can pass it on.
//!
//! Source: RFC 5929, section 4 (`tls-server-end-point`): the certificate, hashed as its own signature is; where that is MD5 or SHA-1, by SHA-256.
//! Without a hash of its own (Ed25519) there is nothing to bind to, as in PostgreSQL.

use sha2::{Digest as _, Sha224, Sha256, Sha384, Sha512};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::signature_algorithm::SignatureAlgorithm;

use super::scram::MECHANISM;

/// The name of the mechanism that binds.
pub const PLUS: &str = "SCRAM-SHA-256-PLUS";

/// The name of this kind of binding.
pub(super) const KIND: &str = "tls-server-end-point";

/// The hash of a server's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndPoint(Box<[u8]>);

impl EndPoint {
    /// Of a certificate; `None` where it cannot be read or its signature has no hash that is known here.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let hash = |oid: &str| {
            Some(match Hash::of(oid)? {
                Hash::Sha224 => Sha224::digest(certificate).as_slice().into(),
                Hash::Sha256 => Sha256::digest(certificate).as_slice().into(),
                Hash::Sha384 => Sha384::digest(certificate).as_slice().into(),
                Hash::Sha512 => Sha512::digest(certificate).as_slice().into(),
            })
        };
        match SignatureAlgorithm::try_from(&parsed.signature_algorithm) {
            Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) => hash(&parameters.hash_algorithm_oid().to_id_string()),
            Ok(_) | Err(_) => hash(&parsed.signature_algorithm.algorithm.to_id_string()),
        }
        .map(Self)
    }

    /// The hash.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// How our own exchange with a server is bound.
#[derive(Debug, Clone)]
pub(super) enum OurBinding {
    /// Not at all: there is no TLS, or nothing to bind to.
    None,
    /// Not at all, because the server does not offer it.
    NotOffered,
    /// To the certificate that the server has shown.
    To(EndPoint),
}

impl OurBinding {
    /// The mechanism that goes with it.
    pub(super) fn mechanism(&self) -> &'static str {
        match self {
            Self::None | Self::NotOffered => MECHANISM,
            Self::To(_) => PLUS,
        }
    }

    /// How our first message begins.
    pub(super) fn header(&self) -> &'static str {
        match self {
            Self::None => "n,,",
            Self::NotOffered => "y,,",
            Self::To(_) => "p=tls-server-end-point,,",
        }
    }

    /// What our last message repeats: the header, and what it is bound to.
    pub(super) fn repeated(&self) -> Vec<u8> {
        let data: &[u8] = match self {
            Self::None | Self::NotOffered => &[],
            Self::To(end_point) => end_point.bytes(),
        };
        [self.header().as_bytes(), data].concat()
    }
}

enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    /// Of a signature algorithm, or of a hash itself, by its object identifier.
    fn of(oid: &str) -> Option<Self> {
        Some(match oid {
            // RSA, ECDSA and DSA with SHA-224; SHA-224.
            "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" | "2.16.840.1.101.3.4.3.1" | "2.16.840.1.101.3.4.2.4" => Self::Sha224,
            // MD5 and SHA-1, alone and with all three: too weak, so replaced.
            "1.2.840.113549.1.1.4"
            | "1.2.840.113549.1.1.5"
            | "1.2.840.10045.4.1"
            | "1.2.840.10040.4.3"
            | "1.3.14.3.2.26"
            | "1.2.840.113549.2.5" => Self::Sha256,
            "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" | "2.16.840.1.101.3.4.3.2" | "2.16.840.1.101.3.4.2.1" => Self::Sha256,
            "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" | "2.16.840.1.101.3.4.2.2" => Self::Sha384,
            "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" | "2.16.840.1.101.3.4.2.3" => Self::Sha512,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SignatureAlgorithm};

    use super::*;

    fn certificate(algorithm: &'static SignatureAlgorithm) -> Vec<u8> {
        let key = KeyPair::generate_for(algorithm).unwrap();
        CertificateParams::new(["db".to_owned()]).unwrap().self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_certificate_is_hashed_as_its_signature_is() {
        let der = certificate(&PKCS_ECDSA_P256_SHA256);
        assert_eq!(EndPoint::of(&der).unwrap().bytes(), Sha256::digest(&der).as_slice());
        let der = certificate(&PKCS_ECDSA_P384_SHA384);
        assert_eq!(EndPoint::of(&der).unwrap().bytes(), Sha384::digest(&der).as_slice());
        assert_eq!(EndPoint::of(&certificate(&PKCS_ED25519)), None);
        for junk in [&b""[..], b"junk", &der[..der.len() / 2]] {
            assert_eq!(EndPoint::of(junk), None);
        }
    }

    #[test]
    fn every_algorithm_has_its_hash() {
        assert!(matches!(Hash::of("1.2.840.113549.1.1.5"), Some(Hash::Sha256)), "SHA-1 is too weak");
        assert!(matches!(Hash::of("1.2.840.113549.1.1.13"), Some(Hash::Sha512)));
        assert!(matches!(Hash::of("1.2.840.113549.1.1.14"), Some(Hash::Sha224)));
        assert!(Hash::of("1.3.101.112").is_none());
    }
}
