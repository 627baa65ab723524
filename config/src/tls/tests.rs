//! Tests of contexts: what is made of good files, and what is said of bad ones.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

use super::*;
use crate::file::load_text;

struct Made {
    cert: String,
    key: String,
}

fn made(name: &str, is_ca: bool) -> Made {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    let key = KeyPair::generate().unwrap();
    Made { cert: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

fn load_client(tls: &mut ClientTls, files: &[(&str, &str)]) -> Vec<TlsProblem> {
    tls.load(&mut |path| (path.to_owned(), find(files, path)))
}

fn find(files: &[(&str, &str)], path: &Path) -> std::io::Result<zeroize::Zeroizing<Vec<u8>>> {
    let found = files.iter().find(|(name, _)| Path::new(name) == path);
    found.map(|(_, text)| text.as_bytes().to_vec().into()).ok_or_else(|| std::io::ErrorKind::NotFound.into())
}

fn client(sslmode: ClientSslMode) -> ClientTls {
    let path = |name: &str| Some(PathBuf::from(name));
    ClientTls { sslmode, key_file: path("key"), cert_file: path("cert"), ca_file: path("ca"), ..ClientTls::default() }
}

fn errors(problems: &[TlsProblem]) -> Vec<&str> {
    problems.iter().filter(|problem| problem.is_error()).map(|problem| problem.setting).collect()
}

#[test]
fn a_context_is_what_its_files_are() {
    let (server, ca) = (made("localhost", false), made("ca", true));
    let files = [("key", &*server.key), ("cert", &*server.cert), ("ca", &*ca.cert)];
    let (mut one, mut two) = (client(ClientSslMode::Require), client(ClientSslMode::Require));
    assert_eq!(load_client(&mut one, &files), []);
    load_client(&mut two, &files);
    assert_eq!(one, two);
    let context = one.context.as_ref().unwrap();
    assert_eq!(common_name(&context.certificate).as_deref(), Some("localhost"));
    assert_eq!(context.config.alpn_protocols, [ALPN.to_vec()]);
    let other = made("localhost", false);
    load_client(&mut two, &[("key", &other.key), ("cert", &other.cert), ("ca", &ca.cert)]);
    assert_ne!(one, two);
    assert!(!format!("{one:?}").contains("PRIVATE"));
    two.sslmode = ClientSslMode::Disable;
    assert_eq!(load_client(&mut two, &[]), []);
    assert!(two.context.is_none());
}

#[test]
fn what_cannot_work_is_said_at_its_setting() {
    let (server, other, ca) = (made("localhost", false), made("other", false), made("ca", true));
    let mut tls = client(ClientSslMode::VerifyFull);
    let with = |key: &str, cert: &str, ca: &str, tls: &mut ClientTls| {
        let problems = load_client(tls, &[("key", key), ("cert", cert), ("ca", ca)]);
        assert!(tls.context.is_none());
        assert!(problems.iter().all(|problem| !problem.message.contains("BEGIN")), "{problems:?}");
        errors(&problems).join(" ")
    };
    assert_eq!(with(&other.key, &server.cert, &ca.cert, &mut tls), "client_tls_key_file");
    assert_eq!(with("junk", &server.cert, &ca.cert, &mut tls), "client_tls_key_file");
    assert_eq!(with(&server.key, "junk", &ca.cert, &mut tls), "client_tls_cert_file");
    assert_eq!(with(&server.key, &server.cert, "", &mut tls), "client_tls_ca_file");
    tls.ca_file = None;
    assert_eq!(with(&server.key, &server.cert, "", &mut tls), "client_tls_ca_file");
    tls.sslmode = ClientSslMode::Allow;
    tls.key_file = None;
    assert_eq!(with("", &server.cert, "", &mut tls), "client_tls_key_file");
    tls = client(ClientSslMode::Require);
    (tls.protocols, tls.ciphers, tls.tls13_ciphers) = ("tlsv1.1".into(), "bananas".into(), "apples".into());
    tls.ecdhcurve = "none".into();
    assert_eq!(
        with(&server.key, &server.cert, &ca.cert, &mut tls),
        "client_tls_protocols client_tls_ciphers client_tls13_ciphers client_tls_ecdhcurve"
    );
}

#[test]
fn versions_and_suites_come_to_what_was_said() {
    let server = made("localhost", false);
    let files = [("key", &*server.key), ("cert", &*server.cert)];
    let mut tls = ClientTls { ca_file: None, ..client(ClientSslMode::Require) };
    tls.ciphers = "AES256-SHA".into();
    let problems = load_client(&mut tls, &files);
    assert_eq!((problems.len(), errors(&problems).len()), (2, 0), "{problems:?}");
    assert!(tls.context.is_some(), "TLS 1.3 is left");
    tls.protocols = "tlsv1.2".into();
    assert_eq!(errors(&load_client(&mut tls, &files)), ["client_tls_ciphers"]);
    tls.ciphers = "ECDHE-ECDSA-AES128-GCM-SHA256".into();
    assert_eq!(load_client(&mut tls, &files), []);
    let suites = &tls.context.as_ref().unwrap().config.crypto_provider().cipher_suites;
    assert_eq!(suites.len(), 4, "three of TLS 1.3, which is not spoken");
}

#[test]
fn servers_are_met_with_one_context_for_each_proof() {
    let (ca, own) = (made("ca", true), made("pooler", false));
    let files = [("key", &*own.key), ("cert", &*own.cert), ("ca", &*ca.cert)];
    let path = |name: &str| Some(PathBuf::from(name));
    let mut tls = ServerTls { ca_file: path("ca"), key_file: path("key"), cert_file: path("cert"), ..ServerTls::default() };
    let load = |tls: &mut ServerTls, modes: &[UpstreamTls]| tls.load(modes, &mut |path| (path.to_owned(), find(&files, path)));
    assert_eq!(load(&mut tls, &[UpstreamTls::Disable]), []);
    assert!(tls.context.is_none(), "nobody needs it");
    assert_eq!(load(&mut tls, &[UpstreamTls::Disable, UpstreamTls::VerifyFull]), []);
    let context = tls.context.clone().unwrap();
    assert!(!Arc::ptr_eq(context.for_mode(UpstreamTls::Require), context.for_mode(UpstreamTls::VerifyCa)));
    assert!(Arc::ptr_eq(context.for_mode(UpstreamTls::Prefer), context.for_mode(UpstreamTls::Require)));
    assert!(context.for_mode(UpstreamTls::VerifyFull).client_auth_cert_resolver.has_certs());
    tls.key_file = None;
    assert_eq!(errors(&load(&mut tls, &[UpstreamTls::Require])), ["server_tls_cert_file"]);
    assert!(ServerContext::usual(None).is_ok());
}

#[test]
fn the_file_says_it_with_key_and_line_and_watches_what_it_names() {
    let directory = tempfile::tempdir().unwrap();
    let main = directory.path().join("s.toml");
    let (server, other) = (made("localhost", false), made("other", true));
    let put = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    put("server.key", &server.key);
    put("server.crt", &server.cert);
    put("ca.crt", &other.cert);
    let text = "[postgres]\nclient_tls_sslmode = \"require\"\nclient_tls_key_file = \"server.key\"\nclient_tls_cert_file = \"server.crt\"\n\
        [postgres.databases.a]\nhost = \"h\"\nsslmode = \"verify-ca\"\nserver_tls_ca_file = \"ca.crt\"\n[postgres.databases.b]\nhost = \"h\"\n";
    std::fs::write(&main, text).unwrap();
    let loaded = crate::file::load(&main, &|_| None).unwrap();
    assert_eq!(loaded.sources.files().count(), 4);
    let postgres = loaded.config.postgres.as_ref().unwrap();
    assert!(postgres.client_tls.context.is_some() && postgres.server_tls.context.is_none());
    assert!(postgres.databases["a"].server_tls.as_ref().unwrap().context.is_some());
    assert_eq!(postgres.databases["b"].server_tls, None);

    put("server.crt", &other.cert);
    assert_ne!(loaded.sources.hash_now(), loaded.sources.hash());
    let said = crate::file::load(&main, &|_| None).unwrap_err().to_string();
    assert!(said.contains("s.toml:3: postgres.client_tls_key_file: ") && said.contains("is not the key of the certificate"), "{said}");
    put("server.key", &other.key);
    let renewed = crate::file::load(&main, &|_| None).unwrap();
    let changes = crate::diff::diff(&loaded.config, &renewed.config);
    assert_eq!(changes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["postgres.client_tls_cert_file: changed (for new sessions)"]);
    put("ca.crt", &server.cert);
    let renewed_again = crate::file::load(&main, &|_| None).unwrap();
    assert_eq!(crate::diff::diff(&renewed.config, &renewed_again.config).len(), 1);

    let said = load_text("[postgres]\nclient_tls_sslmode = \"require\"\n[postgres.databases.a]\nhost = \"h\"\n", Path::new("f"), &|_| None);
    assert!(said.unwrap_err().to_string().starts_with("f:1: postgres.client_tls_key_file: to allow TLS"));
}
