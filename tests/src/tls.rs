//! Certificates made for a test, and what a client of it needs to speak TLS.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::place;
use crate::postgres::Cluster;
use crate::settings::Settings;

/// Somebody who vouches for others.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM form.
pub struct Identity {
    /// The certificate.
    pub cert: String,
    /// The key.
    pub key: String,
}

impl Authority {
    /// A new one.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate"))
    }

    /// Its own certificate, in PEM form.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate with this common name, for these hosts and addresses.
    #[must_use]
    pub fn issue(&self, common_name: &str, names: &[&str]) -> Identity {
        self.issue_until(common_name, names, 47_482)
    }

    /// One that has run out.
    #[must_use]
    pub fn issue_expired(&self, common_name: &str, names: &[&str]) -> Identity {
        self.issue_until(common_name, names, 11_323)
    }

    /// One that will have run out after so many days.
    #[must_use]
    pub fn issue_for_days(&self, common_name: &str, names: &[&str], days: u64) -> Identity {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        self.issue_until(common_name, names, now.as_secs() / (24 * 3600) + days + 1)
    }

    /// `day` is counted from 1970.
    fn issue_until(&self, common_name: &str, names: &[&str], day: u64) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, common_name);
        let end = date_time_ymd(1970, 1, 1) + Duration::from_secs(day * 24 * 3600);
        (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), end);
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.0).expect("a certificate");
        Identity { cert: cert.pem(), key: key.serialize_pem() }
    }
}

/// Files in a directory of their own, which libpq accepts as keys.
pub struct Files(PathBuf);

impl Files {
    /// Writes them.
    #[must_use]
    pub fn new(files: &[(&str, &str)]) -> Self {
        let all = Self(place::directory("tls"));
        for (name, text) in files {
            all.put(name, text);
        }
        all
    }

    /// Writes one, or writes it anew, as a whole.
    pub fn put(&self, name: &str, text: &str) {
        let new = self.0.join(format!(".{name}.new"));
        std::fs::write(&new, text).expect("our own directory");
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).expect("our own file");
        std::fs::rename(&new, self.0.join(name)).expect("the same directory");
    }

    /// Where one is.
    #[must_use]
    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }
}

/// Has a cluster offer TLS with this identity, and believe this authority.
pub async fn encrypt(cluster: &Cluster, identity: &Identity, authority: &Authority) {
    let data = cluster.socket_directory();
    for (name, text) in [("server.crt", &identity.cert), ("server.key", &identity.key), ("root.crt", &authority.pem())] {
        give(data, name, text);
    }
    cluster.sql("ALTER SYSTEM SET ssl = on").await;
    cluster.sql("ALTER SYSTEM SET ssl_ca_file = 'root.crt'").await;
    cluster.reload().await;
}

/// Settings under which PostgreSQL clients may use TLS, with a certificate for `localhost`.
#[must_use]
pub fn offered(settings: Settings) -> Settings {
    let server = Authority::new("the authority").issue("localhost", &["localhost"]);
    let files = Files::new(&[("server.crt", &server.cert), ("server.key", &server.key)]);
    settings
        .set("postgres.client_tls_sslmode", "allow")
        .set("postgres.client_tls_key_file", files.path("server.key"))
        .set("postgres.client_tls_cert_file", files.path("server.crt"))
}

/// Puts a file into the cluster's directory, for the server to read.
pub fn give(data: &Path, name: &str, text: &str) {
    let owner = std::fs::metadata(data).expect("the cluster has a directory");
    let path = data.join(name);
    std::fs::write(&path, text).expect("we may write there");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("our own file");
    chown(&path, Some(owner.uid()), Some(owner.gid())).expect("the server may read its own files");
}

/// What a client speaks TLS with: it believes this authority, shows this identity, and names these protocols.
#[must_use]
pub fn client(authority: &Authority, identity: Option<&Identity>, protocols: &[&str]) -> Arc<ClientConfig> {
    client_that_believes(&authority.pem(), identity, protocols)
}

/// The same with an authority that somebody else has made.
#[must_use]
pub fn client_that_believes(authority: &str, identity: Option<&Identity>, protocols: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).expect("a certificate")).expect("an authority");
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("versions").with_root_certificates(roots);
    let mut config = match identity {
        Some(identity) => {
            let chain = vec![CertificateDer::from_pem_slice(identity.cert.as_bytes()).expect("a certificate")];
            let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("a key");
            builder.with_client_auth_cert(chain, key).expect("a pair")
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}
