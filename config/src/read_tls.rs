//! The TLS settings of `[postgres]`, of its databases and of `[redis.NAME]`, and the files that they name.

use std::path::PathBuf;
use std::sync::Arc;

use crate::model::{ClientTls, Postgres, Redis, ServerTls, UpstreamTls};
use crate::problem::Severity;
use crate::read_server::take;
use crate::section::Section;
use crate::tls::{ServerContext, TlsProblem};

/// What all of [`server`]'s settings are called.
const SERVER_SETTINGS: [&str; 6] = [
    "server_tls_ca_file",
    "server_tls_key_file",
    "server_tls_cert_file",
    "server_tls_protocols",
    "server_tls_ciphers",
    "server_tls13_ciphers",
];

/// TLS with clients, as said; nothing is loaded yet.
pub(crate) fn client(section: &Section<'_>) -> ClientTls {
    let mut tls = ClientTls::default();
    take(&mut tls.sslmode, section.choice("client_tls_sslmode"));
    tls.key_file = section.path("client_tls_key_file");
    tls.cert_file = section.path("client_tls_cert_file");
    tls.ca_file = section.path("client_tls_ca_file");
    take(&mut tls.protocols, section.text("client_tls_protocols"));
    take(&mut tls.ciphers, section.text("client_tls_ciphers"));
    take(&mut tls.tls13_ciphers, section.any_text("client_tls13_ciphers"));
    take(&mut tls.ecdhcurve, section.text("client_tls_ecdhcurve"));
    take(&mut tls.dheparams, section.text("client_tls_dheparams"));
    tls
}

/// TLS with servers, as said over what holds otherwise; nothing is loaded yet.
pub(crate) fn server(section: &Section<'_>, base: &ServerTls) -> ServerTls {
    let mut tls = base.clone();
    tls.ca_file = section.path("server_tls_ca_file").or(tls.ca_file);
    tls.key_file = section.path("server_tls_key_file").or(tls.key_file);
    tls.cert_file = section.path("server_tls_cert_file").or(tls.cert_file);
    take(&mut tls.protocols, section.text("server_tls_protocols"));
    take(&mut tls.ciphers, section.text("server_tls_ciphers"));
    take(&mut tls.tls13_ciphers, section.any_text("server_tls13_ciphers"));
    tls
}

/// What a database says for itself, loaded; `None` where it says nothing.
pub(crate) fn of_database(section: &Section<'_>, base: &ServerTls, mode: UpstreamTls) -> Option<Box<ServerTls>> {
    if !SERVER_SETTINGS.iter().any(|name| section.field(name).is_some()) {
        return None;
    }
    let mut tls = server(section, base);
    let problems = tls.load(&[mode], &mut |path| (path.to_owned(), section.reading.read_resolved(path)));
    note(section, problems);
    Some(Box::new(tls))
}

/// Loads what all databases have in common, and what clients are met with.
pub(crate) fn load(section: &Section<'_>, postgres: &mut Postgres) {
    let mut read = |path: &std::path::Path| (path.to_owned(), section.reading.read_resolved(path));
    let of_clients = postgres.client_tls.load(&mut read);
    let common: Vec<UpstreamTls> =
        postgres.databases.values().filter(|database| database.server_tls.is_none()).map(|database| database.tls).collect();
    let of_servers = postgres.server_tls.load(&common, &mut read);
    note(section, of_clients);
    note(section, of_servers);
}

/// Loads what a Redis server and its clients are met with.
pub(crate) fn load_redis(section: &Section<'_>, redis: &mut Redis) {
    let mut read = |path: &std::path::Path| (path.to_owned(), section.reading.read_resolved(path));
    let of_clients = redis.client_tls.load(&mut read);
    let of_server = redis.server_tls.load(&[redis.tls], &mut read);
    // The application protocol that PostgreSQL insists on is not theirs.
    redis.client_tls.context = redis.client_tls.context.take().map(|context| Arc::new(context.without_alpn()));
    redis.server_tls.context = redis.server_tls.context.take().map(|context| Arc::new(context.without_alpn()));
    note(section, of_clients);
    note(section, of_server);
}

/// What a collector of traces is met with.
pub(crate) fn of_collector(section: &Section<'_>, ca_file: Option<PathBuf>) -> Option<Arc<ServerContext>> {
    let mut tls = ServerTls { ca_file, ..ServerTls::default() };
    let problems = tls.load(&[UpstreamTls::VerifyFull], &mut |path| (path.to_owned(), section.reading.read_resolved(path)));
    let ours = |problem: TlsProblem| TlsProblem {
        setting: "otlp_traces_ca_file",
        message: problem.message.replace("server_tls_ca_file", "otlp_traces_ca_file"),
        ..problem
    };
    note(section, problems.into_iter().map(ours).collect());
    tls.context.map(|context| Arc::new(context.without_alpn()))
}

/// Each problem at the setting that it is about, or at the section where that is left out.
fn note(section: &Section<'_>, problems: Vec<TlsProblem>) {
    for problem in problems {
        let (line, key) = match section.field(problem.setting) {
            Some(field) => (field.line, field.path),
            None => (section.line, format!("{}.{}", section.path, problem.setting)),
        };
        match problem.severity {
            Severity::Error => section.reading.error(line, &key, problem.message),
            Severity::Warning => section.reading.warning(line, &key, problem.message),
        }
    }
}
