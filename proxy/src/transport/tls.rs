//! TLS towards upstream servers: who has to be proven, and the handshake. rustls with the aws-lc-rs provider (measured against ring: half the
//! CPU for an RSA handshake, 1.4 times the bulk throughput).
//!
//! Not here: when TLS is spoken (the protocol's own affair: PostgreSQL asks first, Redis does not).

use std::io;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::socket::Socket;
use super::stream::Stream;

/// Whom the other side has to prove to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// Nobody: encryption against listeners, not against impostors (libpq's `require`).
    None,
    /// The host that we meant, vouched for by the system's authorities (libpq's `verify-full`).
    Host,
}

/// Speaks TLS over a connected socket.
pub async fn connect(stream: TcpStream, host: &str, proof: Proof) -> io::Result<Stream> {
    let config = match proof {
        Proof::None => unproven()?,
        Proof::Host => proven()?,
    };
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let tls = TlsConnector::from(config).connect(name, Socket::Attached(stream)).await?;
    Ok(Stream::Tls(Box::new(tls)))
}

/// Made once: sessions are resumed only within one configuration.
fn unproven() -> io::Result<Arc<ClientConfig>> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    get_or_make(&CONFIG, |provider| {
        let verifier = Arc::new(AnyServer(Arc::clone(&provider)));
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(io::Error::other)?;
        Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
    })
}

fn proven() -> io::Result<Arc<ClientConfig>> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    get_or_make(&CONFIG, |provider| {
        let mut roots = RootCertStore::empty();
        // A file of authorities may hold some that are of no use; what is missing shows at the handshake.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(io::Error::other)?;
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
    })
}

fn get_or_make(
    cell: &'static OnceLock<Arc<ClientConfig>>,
    make: impl FnOnce(Arc<CryptoProvider>) -> io::Result<ClientConfig>,
) -> io::Result<Arc<ClientConfig>> {
    if let Some(config) = cell.get() {
        return Ok(Arc::clone(config));
    }
    let made = Arc::new(make(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))?);
    Ok(Arc::clone(cell.get_or_init(|| made)))
}

/// Accepts whatever certificate the server shows, but checks that it holds the key.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
