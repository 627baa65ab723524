//! TLS as configured: the settings and the files they name, made into what rustls is handed for each new connection.
//!
//! Everything here happens where configurations are read, never where connections are served: a key that does not fit its certificate is a
//! problem of the file like any other, and what is in force stays in force. Two contexts are equal when what they were made of is.
//! Not here: handshakes (`transport::tls` of the proxy), or who has to use TLS (`model`).

pub mod ciphers;
pub mod protocols;

mod client_verifier;
mod expiry;
mod material;
mod verifier;
mod version_one;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use sha2::Digest as _;

use self::client_verifier::ClientVerifier;
pub use self::expiry::Expiry;
pub use self::material::ReadFile;
use self::material::{Files, Material};
pub use self::verifier::common_name;
use self::verifier::{Proof, ServerVerifier};
use crate::model::{ClientSslMode, ClientTls, ServerTls, UpstreamTls};
use crate::problem::Severity;

/// The application protocol of PostgreSQL, as registered: what a client that speaks TLS from its first byte has to name.
pub const ALPN: &[u8] = b"postgresql";

/// What is wrong with one of the TLS settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsProblem {
    /// PgBouncer's name of the setting.
    pub setting: &'static str,
    /// What is wrong with it.
    pub message: String,
    /// Whether the configuration can be used all the same.
    pub severity: Severity,
}

impl TlsProblem {
    fn error(setting: &'static str, message: impl Into<String>) -> Self {
        Self { setting, message: message.into(), severity: Severity::Error }
    }

    fn warning(setting: &'static str, message: impl Into<String>) -> Self {
        Self { setting, message: message.into(), severity: Severity::Warning }
    }
}

type Digest = [u8; 32];

/// What clients are met with.
#[derive(Clone)]
pub struct ClientContext {
    /// For rustls.
    pub config: Arc<ServerConfig>,
    /// The certificate that we show.
    pub certificate: CertificateDer<'static>,
    /// Until when what was read holds.
    pub expiries: Vec<Expiry>,
    digest: Digest,
}

/// What servers are met with: one configuration for each thing that they may have to prove.
#[derive(Clone)]
pub struct ServerContext {
    nothing: Arc<ClientConfig>,
    authority: Arc<ClientConfig>,
    host: Arc<ClientConfig>,
    /// Until when what was read holds.
    pub expiries: Vec<Expiry>,
    digest: Digest,
}

impl ServerContext {
    /// The one that goes with this mode.
    #[must_use]
    pub fn for_mode(&self, mode: UpstreamTls) -> &Arc<ClientConfig> {
        match mode {
            UpstreamTls::Disable | UpstreamTls::Allow | UpstreamTls::Prefer | UpstreamTls::Require => &self.nothing,
            UpstreamTls::VerifyCa => &self.authority,
            UpstreamTls::VerifyFull => &self.host,
        }
    }

    /// What holds where nothing is configured: the authorities that the system trusts, no certificate of our own, and this application protocol.
    pub fn usual(alpn: Option<&[u8]>) -> Result<Self, rustls::Error> {
        let rules = Rules::usual();
        Self::build(&rules, Arc::new(system_roots()), None, alpn, Digest::default())
    }

    fn build(
        rules: &Rules,
        roots: Arc<RootCertStore>,
        identity: Option<CertifiedKey>,
        alpn: Option<&[u8]>,
        digest: Digest,
    ) -> Result<Self, rustls::Error> {
        let identity = identity.map(|identity| Arc::new(SingleCertAndKey::from(identity)));
        let build = |proof| {
            let verifier = Arc::new(ServerVerifier::new(proof, Arc::clone(&roots), &rules.provider));
            let builder = ClientConfig::builder_with_provider(Arc::clone(&rules.provider)).with_protocol_versions(&rules.versions)?;
            let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
            let mut config = match &identity {
                Some(identity) => builder.with_client_cert_resolver(Arc::clone(identity) as _),
                None => builder.with_no_client_auth(),
            };
            config.alpn_protocols.extend(alpn.map(<[u8]>::to_vec));
            Ok::<_, rustls::Error>(Arc::new(config))
        };
        Ok(Self {
            nothing: build(Proof::Nothing)?,
            authority: build(Proof::Authority)?,
            host: build(Proof::Host)?,
            expiries: Vec::new(),
            digest,
        })
    }
}

impl ClientContext {
    /// The same for clients of another protocol, which names none.
    #[must_use]
    pub fn without_alpn(&self) -> Self {
        let mut config = ServerConfig::clone(&self.config);
        config.alpn_protocols.clear();
        Self { config: Arc::new(config), ..self.clone() }
    }
}

impl ServerContext {
    /// The same for servers of another protocol, which names none.
    #[must_use]
    pub fn without_alpn(&self) -> Self {
        let without = |config: &Arc<ClientConfig>| {
            let mut config = ClientConfig::clone(config);
            config.alpn_protocols.clear();
            Arc::new(config)
        };
        Self {
            nothing: without(&self.nothing),
            authority: without(&self.authority),
            host: without(&self.host),
            expiries: self.expiries.clone(),
            digest: self.digest,
        }
    }
}

impl ClientTls {
    /// Reads the files and makes the context that goes with the settings; everything that is wrong with them. After an error there is no context.
    pub fn load(&mut self, read: &mut ReadFile<'_>) -> Vec<TlsProblem> {
        let mut problems = Vec::new();
        self.context = None;
        if self.sslmode == ClientSslMode::Disable {
            return problems;
        }
        let rules = Rules::of_clients(self, &mut problems);
        let files = Files {
            key: ("client_tls_key_file", self.key_file.as_deref()),
            cert: ("client_tls_cert_file", self.cert_file.as_deref()),
            ca: ("client_tls_ca_file", self.ca_file.as_deref()),
        };
        for (setting, file) in [files.key, files.cert] {
            if file.is_none() {
                let message = "to allow TLS connections from clients, client_tls_key_file and client_tls_cert_file must be set";
                problems.push(TlsProblem::error(setting, message));
            }
        }
        let must_prove = match self.sslmode {
            ClientSslMode::VerifyCa | ClientSslMode::VerifyFull => true,
            ClientSslMode::Disable | ClientSslMode::Allow | ClientSslMode::Prefer | ClientSslMode::Require => false,
        };
        if must_prove && self.ca_file.is_none() {
            let message = "clients have to show a certificate, but client_tls_ca_file names nobody who could vouch for it";
            problems.push(TlsProblem::error("client_tls_ca_file", message));
        }
        let mut material = Material::read(&files, read, &mut problems);
        let identity = material.identity(&rules, &files, &mut problems);
        if problems.iter().any(TlsProblem::is_error) {
            return problems;
        }
        let Some((identity, certificate)) = identity.zip(material.chain.into_iter().next()) else { return problems };
        match accepting(&rules, identity, material.roots, must_prove) {
            Ok(config) => {
                let digest = material.digest.finalize().into();
                self.context = Some(Arc::new(ClientContext { config: Arc::new(config), certificate, expiries: material.expiries, digest }));
            }
            Err(error) => problems.push(TlsProblem::error("client_tls_sslmode", format!("TLS cannot be set up: {error}"))),
        }
        problems
    }
}

impl ServerTls {
    /// Reads the files and makes the context that goes with the settings and the modes in which they are used; everything that is wrong with
    /// them. After an error there is no context.
    pub fn load(&mut self, modes: &[UpstreamTls], read: &mut ReadFile<'_>) -> Vec<TlsProblem> {
        let mut problems = Vec::new();
        self.context = None;
        if modes.iter().all(|mode| *mode == UpstreamTls::Disable) {
            return problems;
        }
        let rules = Rules::of_servers(self, &mut problems);
        let files = Files {
            key: ("server_tls_key_file", self.key_file.as_deref()),
            cert: ("server_tls_cert_file", self.cert_file.as_deref()),
            ca: ("server_tls_ca_file", self.ca_file.as_deref()),
        };
        for ((setting, file), (other, beside)) in [(files.key, files.cert), (files.cert, files.key)] {
            if file.is_none() && beside.is_some() {
                problems.push(TlsProblem::error(other, format!("needs {setting} beside it")));
            }
        }
        let mut material = Material::read(&files, read, &mut problems);
        let identity = material.identity(&rules, &files, &mut problems);
        if problems.iter().any(TlsProblem::is_error) {
            return problems;
        }
        let proven = modes.iter().any(|mode| [UpstreamTls::VerifyCa, UpstreamTls::VerifyFull].contains(mode));
        let roots = match material.roots.take() {
            Some(roots) => roots,
            // Some hundred certificates are not read for nothing.
            None if proven => Arc::new(system_roots()),
            None => Arc::new(RootCertStore::empty()),
        };
        if proven && roots.is_empty() {
            let message = "servers have to be vouched for, but the system trusts nobody: set server_tls_ca_file";
            problems.push(TlsProblem::error("server_tls_ca_file", message));
            return problems;
        }
        material.digest.update([u8::from(proven)]);
        roots.roots.iter().for_each(|root| material.digest.update(&root.subject_public_key_info));
        match ServerContext::build(&rules, roots, identity, Some(ALPN), material.digest.finalize().into()) {
            Ok(context) => self.context = Some(Arc::new(ServerContext { expiries: material.expiries, ..context })),
            Err(error) => problems.push(TlsProblem::error("server_tls_protocols", format!("TLS cannot be set up: {error}"))),
        }
        problems
    }
}

fn accepting(
    rules: &Rules,
    identity: CertifiedKey,
    roots: Option<Arc<RootCertStore>>,
    must_prove: bool,
) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(&rules.provider)).with_protocol_versions(&rules.versions)?;
    let builder = match roots {
        Some(roots) => builder.with_client_cert_verifier(Arc::new(ClientVerifier::new(roots, must_prove, &rules.provider)?)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Sealed with a key that lives as long as the context, so that resumption costs no memory and ends with the certificate.
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(config)
}

impl Material {
    /// The key with its certificate, if both are there and belong together.
    fn identity(&mut self, rules: &Rules, files: &Files<'_>, problems: &mut Vec<TlsProblem>) -> Option<CertifiedKey> {
        let key = self.key.take()?;
        if self.chain.is_empty() {
            return None;
        }
        match pair(&self.chain, key, &rules.provider) {
            Ok(identity) => Some(identity),
            Err(error) => {
                let shown = |file: Option<&Path>| file.map_or_else(String::new, |file| file.display().to_string());
                let (key, cert) = (shown(files.key.1), shown(files.cert.1));
                let message = match error {
                    rustls::Error::InconsistentKeys(_) => format!("{key} is not the key of the certificate in {cert}"),
                    other => format!("{key} with {cert} cannot be used: {other}"),
                };
                problems.push(TlsProblem::error(files.key.0, message));
                None
            }
        }
    }
}

fn pair(chain: &[CertificateDer<'static>], key: PrivateKeyDer<'static>, provider: &CryptoProvider) -> Result<CertifiedKey, rustls::Error> {
    let key = provider.key_provider.load_private_key(key)?;
    // Compared by hand: rustls reads no certificates of version 1, which OpenSSL makes unless told otherwise.
    let of_certificate = verifier::public_key(&chain[0]).ok_or(rustls::CertificateError::BadEncoding)?;
    if key.public_key().is_some_and(|of_key| of_key.as_ref() != of_certificate) {
        return Err(rustls::InconsistentKeys::KeyMismatch.into());
    }
    Ok(CertifiedKey::new(chain.to_vec(), key))
}

impl TlsProblem {
    /// Whether it stops the configuration from being used.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// What may be spoken.
struct Rules {
    provider: Arc<CryptoProvider>,
    versions: Vec<&'static SupportedProtocolVersion>,
}

impl Rules {
    fn usual() -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        Self { provider, versions: vec![&rustls::version::TLS13, &rustls::version::TLS12] }
    }

    fn of_clients(tls: &ClientTls, problems: &mut Vec<TlsProblem>) -> Self {
        const NAMES: [&str; 3] = ["client_tls_protocols", "client_tls_ciphers", "client_tls13_ciphers"];
        let mut rules = Self::read(NAMES, [&tls.protocols, &tls.ciphers, &tls.tls13_ciphers], problems);
        if let Some(curves) = said("client_tls_ecdhcurve", ciphers::curves(&tls.ecdhcurve), problems) {
            let provider = Arc::make_mut(&mut rules.provider);
            let all = std::mem::take(&mut provider.kx_groups);
            provider.kx_groups = curves.iter().filter_map(|curve| all.iter().find(|group| group.name() == *curve).copied()).collect();
        }
        if !["auto", "none", ""].contains(&tls.dheparams.as_str()) {
            let message = "has no meaning here: key exchange is by elliptic curves alone";
            problems.push(TlsProblem::warning("client_tls_dheparams", message));
        }
        rules
    }

    fn of_servers(tls: &ServerTls, problems: &mut Vec<TlsProblem>) -> Self {
        const NAMES: [&str; 3] = ["server_tls_protocols", "server_tls_ciphers", "server_tls13_ciphers"];
        Self::read(NAMES, [&tls.protocols, &tls.ciphers, &tls.tls13_ciphers], problems)
    }

    fn read(names: [&'static str; 3], texts: [&str; 3], problems: &mut Vec<TlsProblem>) -> Self {
        let mut rules = Self::usual();
        let versions = said(names[0], protocols::parse(texts[0]), problems).unwrap_or_default();
        let suites12 = said(names[1], ciphers::tls12(texts[1]), problems);
        let suites13 = said(names[2], ciphers::tls13(texts[2]), problems).unwrap_or_default();
        if versions.tls12 && suites12.as_ref().is_some_and(Vec::is_empty) {
            problems.push(match versions.tls13 {
                true => TlsProblem::warning(names[1], "leaves no cipher suite of TLS 1.2 that can be used here: only TLS 1.3 is spoken"),
                false => TlsProblem::error(names[1], "leaves no cipher suite that can be used here"),
            });
        }
        let suites12 = suites12.unwrap_or_default();
        let provider = Arc::make_mut(&mut rules.provider);
        let all = std::mem::take(&mut provider.cipher_suites);
        let chosen = suites13.iter().chain(&suites12);
        provider.cipher_suites = chosen.filter_map(|suite| all.iter().find(|known| known.suite() == *suite).copied()).collect();
        rules.versions.clear();
        if versions.tls13 {
            rules.versions.push(&rustls::version::TLS13);
        }
        if versions.tls12 && !suites12.is_empty() {
            rules.versions.push(&rustls::version::TLS12);
        }
        rules
    }
}

/// Notes what a setting gave beside its value.
fn said<T>(setting: &'static str, read: Result<(T, Vec<String>), String>, problems: &mut Vec<TlsProblem>) -> Option<T> {
    match read {
        Ok((value, notes)) => {
            problems.extend(notes.into_iter().map(|note| TlsProblem::warning(setting, note)));
            Some(value)
        }
        Err(message) => {
            problems.push(TlsProblem::error(setting, message));
            None
        }
    }
}

/// Those whom the system trusts. A file of authorities may hold some that are of no use; what is missing shows at the handshake.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

impl PartialEq for ClientContext {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for ClientContext {}

impl fmt::Debug for ClientContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientContext(***)")
    }
}

impl PartialEq for ServerContext {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for ServerContext {}

impl fmt::Debug for ServerContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerContext(***)")
    }
}

impl ClientContext {
    /// Tells contexts of different contents apart, for people.
    #[must_use]
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.digest
    }
}

impl ServerContext {
    /// Tells contexts of different contents apart, for people.
    #[must_use]
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.digest
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
