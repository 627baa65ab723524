//! `[postgres]` and what is below it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::hosts;
use crate::listen::{Protocol, fits, postgres_socket};
use crate::model::{Base, PgDatabase, PgUser, PoolLimits, PoolMode, Postgres, ServerTls, SessionState, SlowLog, Upstream, UpstreamTls};
use crate::names::{self, Named};
use crate::postgres_url::{self, PostgresUrl};
use crate::problem::Place;
use crate::problem::Problem;
use crate::read_limits::postgres_limits;
use crate::read_server::{self, Caps};
use crate::read_tls;
use crate::section::{Section, unknown_value};
use crate::settings::Scope;
use crate::stored;
use crate::userlist;

/// The port of a PostgreSQL server.
pub(crate) const DEFAULT_PORT: u16 = 5432;

/// Reads the section.
pub(crate) fn postgres(section: &Section<'_>) -> Postgres {
    let defaults = Postgres::default();
    let base = postgres_limits(section, "default_pool_size", &PoolLimits::default());
    let pool_mode = section.choice("pool_mode").unwrap_or(PoolMode::Transaction);
    let texts = |name, default: Vec<String>| section.texts(name).map_or(default, |texts| texts.into_iter().map(|(text, _)| text).collect());
    let mut ignored = texts("ignore_startup_parameters", defaults.ignore_startup_parameters);
    ignored.iter_mut().for_each(|name| *name = name.to_lowercase());
    let databases = section.sections("databases", Scope::PgDatabase);
    let caps = read_server::caps(section, Caps { connections: 0, clients: 0 });
    let server_tls = read_tls::server(section, &ServerTls::default());
    let session_state = read_server::session_state(section, &SessionState::default());
    let slow_log = read_server::slow_log(section, SlowLog::default());
    let base = Base { pool_mode, limits: base, session_state, slow_log };
    let in_file = auth_file(section);
    let file_names: Option<Vec<String>> = in_file.as_ref().map(|users| users.keys().cloned().collect());
    let mut postgres = Postgres {
        listen: section.listen(Protocol::Postgres).unwrap_or(defaults.listen),
        auth_type: section.choice("auth_type").unwrap_or(defaults.auth_type),
        max_client_conn: section.count("max_client_conn").unwrap_or(defaults.max_client_conn),
        max_client_logins: section.count("max_client_logins").unwrap_or(defaults.max_client_logins),
        client_login_timeout: section.duration("client_login_timeout").unwrap_or(defaults.client_login_timeout),
        max_prepared_statements: section.count("max_prepared_statements").unwrap_or(defaults.max_prepared_statements),
        listen_gap: section.choice("listen_gap").unwrap_or(defaults.listen_gap),
        queue_fairness: section.choice("queue_fairness").unwrap_or(defaults.queue_fairness),
        track_extra_parameters: texts("track_extra_parameters", defaults.track_extra_parameters),
        ignore_startup_parameters: ignored,
        databases: databases.into_iter().map(|(name, section)| (name, database(&section, &base, caps, &server_tls))).collect(),
        users: users(section, in_file),
        max_db_connections: caps.connections,
        max_db_client_connections: caps.clients,
        base,
        client_tls: read_tls::client(section),
        server_tls,
        ..defaults
    };
    read_server::server(section, &mut postgres);
    postgres.mark_unlisted(file_names.as_deref());
    read_tls::load(section, &mut postgres);
    postgres
}

fn users(section: &Section<'_>, in_file: Option<BTreeMap<String, PgUser>>) -> BTreeMap<String, PgUser> {
    let mut users = in_file.unwrap_or_default();
    for (name, section) in section.sections("users", Scope::PgUser) {
        let user = users.entry(name).or_default();
        let password = section.secret("password");
        if let (Some(field), Some(fault)) = (section.field("password"), password.as_ref().and_then(|secret| stored::fault(secret.reveal())))
        {
            field.wrong::<()>(fault);
        }
        user.password = password.or_else(|| user.password.take());
        user.pool_mode = section.choice("pool_mode");
        user.pool_size = section.count("pool_size");
        read_server::user(&section, user);
    }
    users
}

fn auth_file(section: &Section<'_>) -> Option<BTreeMap<String, PgUser>> {
    let field = section.field("auth_file")?;
    let Some(named) = field.text() else { return Some(BTreeMap::new()) };
    let (path, contents) = section.reading.read_file(Path::new(&named));
    let contents = match contents {
        Ok(contents) => contents,
        Err(error) => {
            field.wrong::<()>(format!("cannot read {}: {error}", path.display()));
            return Some(BTreeMap::new());
        }
    };
    let Ok(text) = std::str::from_utf8(&contents) else {
        field.wrong::<()>(format!("{} is not UTF-8 text", path.display()));
        return Some(BTreeMap::new());
    };
    let (users, wrong) = userlist::parse(text);
    for (line, message) in wrong {
        section.reading.note(Problem::error(Place::file(&path, Some(line)), "", message));
    }
    Some(users.into_iter().map(|(name, password)| (name, PgUser { password, ..PgUser::default() })).collect())
}

fn database(section: &Section<'_>, base: &Base, caps: Caps, server_tls: &ServerTls) -> PgDatabase {
    let caps = read_server::caps(section, caps);
    let mut url = url(section);
    let whole = url.is_some();
    let url = url.get_or_insert_default();
    let host = once(section, "host", section.text("host"), url.host.take());
    let port = once(section, "port", section.port("port"), url.port.take()).unwrap_or(DEFAULT_PORT);
    if host.is_none() && section.field("host").is_none() && (whole || section.field("url").is_none()) {
        section.missing("says no server: set host (a name, an address or the directory of a Unix socket) or url");
    }
    let hosts = upstreams(section, &host.unwrap_or_default(), port);
    let own_mode = section.choice("pool_mode");
    let mut database = PgDatabase {
        hosts,
        dbname: once(section, "dbname", section.text("dbname"), url.dbname.take()),
        user: once(section, "user", section.text("user"), url.user.take()),
        password: once(section, "password", section.secret("password"), url.password.take()),
        tls: once(section, "sslmode", sslmode(section), url.tls.take()).unwrap_or_default(),
        pool_mode: own_mode.unwrap_or(base.pool_mode),
        names_its_mode: own_mode.is_some(),
        limits: postgres_limits(section, "pool_size", &base.limits),
        session_state: read_server::session_state(section, &base.session_state),
        slow_log: read_server::slow_log(section, base.slow_log),
        max_db_connections: caps.connections,
        max_db_client_connections: caps.clients,
        ..PgDatabase::at(Upstream::Tcp { host: String::new(), port })
    };
    database.server_tls = read_tls::of_database(section, server_tls, database.tls);
    read_server::database(section, &mut database);
    database
}

fn url(section: &Section<'_>) -> Option<PostgresUrl> {
    let field = section.field("url")?;
    match postgres_url::parse(section.secret("url")?.reveal()) {
        Ok(url) => {
            url.notes.iter().for_each(|note| section.reading.warning(field.line, &field.path, note.clone()));
            Some(url)
        }
        Err(message) => field.wrong(message),
    }
}

/// What the key says or what the URL says; saying it in both is an error, because one of them would be ignored.
pub(crate) fn once<T>(section: &Section<'_>, name: &str, own: Option<T>, of_url: Option<T>) -> Option<T> {
    if of_url.is_some()
        && let Some(field) = section.field(name)
    {
        field.wrong::<()>("is said here and in url: keep one of them");
    }
    own.or(of_url)
}

/// Where the servers of a database are: one, or several with commas between.
fn upstreams(section: &Section<'_>, given: &str, port: u16) -> Vec<Upstream> {
    if !given.contains(',') {
        return vec![upstream(section, given.to_owned(), port)];
    }
    hosts::parse(given, port).unwrap_or_else(|message| {
        if let Some(field) = section.field("host") {
            field.wrong::<()>(message);
        }
        vec![Upstream::Tcp { host: given.to_owned(), port }]
    })
}

/// Where a server is: a name or an address, or the directory of its Unix socket.
pub(crate) fn upstream(section: &Section<'_>, host: String, port: u16) -> Upstream {
    if !host.starts_with('/') {
        if let Some(field) = section.field("host")
            && let Err(message) = plain_host(&host)
        {
            field.wrong::<()>(message);
        }
        return Upstream::Tcp { host, port };
    }
    let path = postgres_socket(&PathBuf::from(host), port);
    if let Err(message) = fits(&path) {
        section.reading.error(section.line, &section.path, message);
    }
    Upstream::Unix(path)
}

/// Checks what a name or an address can never have in it.
pub(crate) fn plain_host(host: &str) -> Result<(), &'static str> {
    match host {
        _ if host.contains("://") || host.contains('@') => Err("is a URL: give it as url"),
        _ if host.contains(',') => Err("names several hosts, which is not supported: name one"),
        _ if host.contains(|c: char| c.is_whitespace() || c.is_control()) => Err("has a space or control character in it"),
        _ if host.contains('/') => Err("has a / in it; only an absolute path to a Unix socket has one, and in front"),
        _ if host.len() > 255 => Err("is longer than a host name can be (255 bytes)"),
        _ if host.contains(':') && host.parse::<std::net::Ipv6Addr>().is_err() => Err("has a : in it; the port is a key of its own"),
        _ => Ok(()),
    }
}

/// Reads `sslmode`.
pub(crate) fn sslmode(section: &Section<'_>) -> Option<UpstreamTls> {
    let field = section.field("sslmode")?;
    let given = field.text()?;
    names::sslmode(&given).or_else(|| field.wrong(unknown_value(&given, &UpstreamTls::all_names())))
}
