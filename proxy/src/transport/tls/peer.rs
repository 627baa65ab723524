//! What is known of a connection under TLS: for authentication, the log and the console.

use std::fmt;

use rustls::pki_types::CertificateDer;
use rustls::{HandshakeKind, ProtocolVersion};
use sidepool_config::tls::ciphers::{curve_name, openssl_name};
use sidepool_config::tls::common_name;

use super::layer::Tls;
use crate::observe::record::WorkerCounter;

/// What is known of a connection under TLS. `Display` describes it as PgBouncer does: `TLSv1.3/TLS_AES_256_GCM_SHA384/ECDH=X25519`.
#[derive(Clone, Copy)]
pub struct TlsPeer<'a>(pub(super) &'a Tls);

impl<'a> TlsPeer<'a> {
    /// The certificate that the peer has shown. A client's has been verified; a server's as the mode says.
    #[must_use]
    pub fn certificate(&self) -> Option<&'a CertificateDer<'static>> {
        self.0.session().peer_certificates()?.first()
    }

    /// Whom the peer's certificate is about: the last common name in it.
    #[must_use]
    pub fn common_name(&self) -> Option<String> {
        common_name(self.certificate()?)
    }

    /// The certificate of the server of this connection, whoever that is: what SCRAM is bound to.
    #[must_use]
    pub fn server_certificate(&self) -> Option<&'a CertificateDer<'static>> {
        match self.0.context() {
            Some(context) => Some(&context.certificate),
            None => self.certificate(),
        }
    }

    /// Whether an earlier session was resumed, which spares both sides the costly part of the handshake.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.0.session().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// What a client's handshake is counted as.
    #[must_use]
    pub fn counter(&self) -> WorkerCounter {
        if self.is_resumed() { WorkerCounter::TlsResumed } else { WorkerCounter::TlsFull }
    }

    /// The application protocol that was agreed on.
    #[must_use]
    pub fn alpn(&self) -> Option<&'a [u8]> {
        self.0.session().alpn_protocol()
    }
}

impl fmt::Display for TlsPeer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let session = self.0.session();
        let version = match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "-",
        };
        let cipher = session.negotiated_cipher_suite().map_or("-", |suite| openssl_name(suite.suite()));
        let curve = session.negotiated_key_exchange_group().map_or("-", |group| curve_name(group.name()));
        write!(f, "{version}/{cipher}/ECDH={curve}")
    }
}
