//! `[redis.NAME]` and what is below it.

use std::path::PathBuf;

use crate::listen::{Protocol, fits};
use crate::model::{CommandClass, CommandClasses, OutputLimits, PoolLimits, Redis, RedisUser, Upstream, UpstreamTls};
use crate::names::Named;
use crate::read_limits::limits;
use crate::read_postgres::{once, plain_host, sslmode as any_sslmode};
use crate::redis_url::{self, DEFAULT_PORT, RedisUrl};
use crate::secret::Secret;
use crate::section::{Section, unknown_value};
use crate::settings::Scope;
use crate::{read_server, read_tls};

/// Reads one section.
pub(crate) fn redis(section: &Section<'_>) -> Redis {
    let url = url(section);
    let tls = url.as_ref().and_then(|url| url.tls);
    let (of_url, user, password, database) =
        url.map_or((None, None, None, None), |url| (Some(url.upstream), url.user, url.password, url.database));
    let mut defaults = Redis::at(upstream(section, of_url));
    read_server::tcp(section, &mut defaults.tcp);
    read_server::traces(section, &mut defaults.traces);
    let mut users = std::collections::BTreeMap::new();
    for (name, section) in section.sections("users", Scope::RedisUser) {
        users.insert(name, redis_user(&section));
    }
    let password = once(section, "password", section.secret("password"), password);
    let mut redis = Redis {
        listen: section.listen(Protocol::Redis).unwrap_or(defaults.listen),
        client_tls: read_tls::client(section),
        tcp: defaults.tcp,
        tls: once(section, "sslmode", sslmode(section), tls).unwrap_or(UpstreamTls::Disable),
        server_tls: read_tls::server(section, &defaults.server_tls),
        auth_type: section.choice("auth_type"),
        user: once(section, "user", section.text("user"), user),
        password,
        database: once(section, "database", section.count("database"), database).unwrap_or(defaults.database),
        users,
        max_client_conn: section.count("max_client_conn").unwrap_or(defaults.max_client_conn),
        max_client_logins: section.count("max_client_logins").unwrap_or(defaults.max_client_logins),
        client_login_timeout: section.duration("client_login_timeout").unwrap_or(defaults.client_login_timeout),
        shared_connections: section.count("shared_connections").unwrap_or(defaults.shared_connections),
        blocking_connections: section.count("blocking_connections").unwrap_or(defaults.blocking_connections),
        spare_connections: section.count("spare_connections").unwrap_or(defaults.spare_connections),
        stream_threshold_bytes: section.size("stream_threshold").unwrap_or(defaults.stream_threshold_bytes),
        client_output_buffer_limit: output_limits(section).unwrap_or_default(),
        request_timeout: section.duration("request_timeout").unwrap_or(defaults.request_timeout),
        log_min_duration_command: section.duration("log_min_duration_command").unwrap_or(defaults.log_min_duration_command),
        traces: defaults.traces,
        retry_timeout: section.duration("retry_timeout").unwrap_or(defaults.retry_timeout),
        queue_fairness: section.choice("queue_fairness").unwrap_or(defaults.queue_fairness),
        subscriber_gap: section.choice("subscriber_gap").unwrap_or(defaults.subscriber_gap),
        command_policy: section.choice("command_policy").unwrap_or(defaults.command_policy),
        command_allow: classes(section, "command_allow"),
        command_deny: classes(section, "command_deny"),
        limits: limits(section, "pool_size", &PoolLimits::default()),
        upstream: defaults.upstream,
    };
    read_tls::load_redis(section, &mut redis);
    redis
}

fn output_limits(section: &Section<'_>) -> Option<OutputLimits> {
    let field = section.field("client_output_buffer_limit")?;
    match OutputLimits::parse(&section.text("client_output_buffer_limit")?) {
        Ok(limits) => Some(limits),
        Err(message) => field.wrong(message),
    }
}

fn classes(section: &Section<'_>, name: &str) -> CommandClasses {
    let Some(field) = section.field(name) else { return CommandClasses::default() };
    let mut classes = Vec::new();
    for (text, line) in field.texts() {
        match CommandClass::from_name(&text) {
            Some(class) => classes.push(class),
            None => section.reading.error(line, &field.path, unknown_value(&text, &CommandClass::all_names())),
        }
    }
    CommandClasses(classes)
}

fn sslmode(section: &Section<'_>) -> Option<UpstreamTls> {
    match any_sslmode(section)? {
        UpstreamTls::Allow | UpstreamTls::Prefer => section
            .field("sslmode")?
            .wrong("a Redis server cannot be asked whether it speaks TLS: \"disable\", \"require\", \"verify-ca\" or \"verify-full\""),
        tls @ (UpstreamTls::Disable | UpstreamTls::Require | UpstreamTls::VerifyCa | UpstreamTls::VerifyFull) => Some(tls),
    }
}

fn redis_user(section: &Section<'_>) -> RedisUser {
    if section.field("password").is_none() {
        section.missing("has no password: set what the client must send");
    }
    RedisUser {
        password: section.secret("password").unwrap_or_else(|| Secret::new("")),
        upstream_user: section.text("upstream_user"),
        upstream_password: section.secret("upstream_password"),
    }
}

fn url(section: &Section<'_>) -> Option<RedisUrl> {
    let field = section.field("url")?;
    match redis_url::parse(section.secret("url")?.reveal()) {
        Ok(url) => {
            url.notes.iter().for_each(|note| section.reading.warning(field.line, &field.path, note.clone()));
            Some(url)
        }
        Err(message) => field.wrong(message),
    }
}

fn upstream(section: &Section<'_>, of_url: Option<Upstream>) -> Upstream {
    let (host, port) = (section.text("host"), section.port("port"));
    if of_url.is_some() {
        for name in ["host", "port"] {
            if let Some(field) = section.field(name) {
                field.wrong::<()>("is said here and in url: keep one of them");
            }
        }
    }
    if of_url.is_none() && section.field("host").is_none() && section.field("url").is_none() {
        section.missing("says no server: set host (a name, an address or the path of a Unix socket) or url");
    }
    let host = host.unwrap_or_default();
    let checked = if host.starts_with('/') { fits(&PathBuf::from(&host)) } else { plain_host(&host).map_err(ToOwned::to_owned) };
    if let (Err(message), Some(field)) = (checked, section.field("host")) {
        field.wrong::<()>(message);
    }
    of_url.unwrap_or_else(|| match host.starts_with('/') {
        true => Upstream::Unix(PathBuf::from(host)),
        false => Upstream::Tcp { host, port: port.unwrap_or(DEFAULT_PORT) },
    })
}
