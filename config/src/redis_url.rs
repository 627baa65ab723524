//! `redis://USER:PASSWORD@HOST:PORT/DATABASE`, `rediss://` for TLS, and `unix:/PATH?db=N`, as the usual clients read them.

use std::path::PathBuf;

use crate::model::{Upstream, UpstreamTls};
use crate::problem::shown;
use crate::secret::Secret;
use crate::upstream_url::{Parts, ignored, parse as take_apart, some};

/// The port of a Redis server.
pub(crate) const DEFAULT_PORT: u16 = 6379;

/// What a URL says; what it leaves out is `None`.
#[derive(Debug)]
pub(crate) struct RedisUrl {
    pub(crate) upstream: Upstream,
    /// `None`: the scheme is one without TLS.
    pub(crate) tls: Option<UpstreamTls>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) database: Option<u32>,
    /// What is worth a warning.
    pub(crate) notes: Vec<String>,
}

/// Reads a URL. No message repeats any part that may be secret.
pub(crate) fn parse(text: &str) -> Result<RedisUrl, String> {
    let parts = take_apart(text)?;
    let (socket, tls) = match parts.scheme.as_str() {
        "redis" | "valkey" => (false, None),
        "rediss" | "valkeys" => (false, Some(UpstreamTls::VerifyFull)),
        "unix" | "redis+unix" | "valkey+unix" => (true, None),
        other => return Err(format!("{} is not a Redis URL: it must begin with redis://, rediss:// or unix:/", shown(other))),
    };
    let upstream = if socket { socket_of(&parts)? } else { server_of(&parts)? };
    let mut url = RedisUrl { upstream, tls, user: parts.user, password: parts.password, database: None, notes: Vec::new() };
    // redis-rs turns the verification of certificates off this way.
    match parts.fragment.as_deref() {
        None => {}
        Some("insecure") if tls.is_some() => url.tls = Some(UpstreamTls::Require),
        Some(_) => return Err("has a # in it; in a password it is written %23".to_owned()),
    }
    if !socket {
        let path = parts.path.trim_matches('/');
        url.database = some(path.to_owned()).map(|path| database(&path)).transpose()?;
    }
    take_parameters(&mut url, parts.parameters)?;
    Ok(url)
}

fn server_of(parts: &Parts) -> Result<Upstream, String> {
    if parts.port == Some(0) {
        return Err("port: must be from 1 to 65535".to_owned());
    }
    let host = parts.host.clone().unwrap_or_else(|| "127.0.0.1".to_owned());
    if host.contains(',') {
        return Err("names several hosts, which is not supported: name one".to_owned());
    }
    Ok(Upstream::Tcp { host, port: parts.port.unwrap_or(DEFAULT_PORT) })
}

fn socket_of(parts: &Parts) -> Result<Upstream, String> {
    if parts.host.is_some() || !parts.path.starts_with('/') || parts.path.len() < 2 {
        return Err("a Unix socket needs an absolute path: unix:/run/redis.sock".to_owned());
    }
    let path = PathBuf::from(&parts.path);
    crate::listen::fits(&path)?;
    Ok(Upstream::Unix(path))
}

fn take_parameters(url: &mut RedisUrl, parameters: Vec<(String, String)>) -> Result<(), String> {
    let mut unknown = Vec::new();
    for (name, value) in parameters {
        match name.as_str() {
            "db" | "database" => url.database = Some(database(&value)?),
            "user" | "username" => url.user = some(value),
            "pass" | "password" => url.password = some(value).map(Secret::new),
            "ssl_cert_reqs" if value == "none" && url.tls.is_some() => url.tls = Some(UpstreamTls::Require),
            _ => unknown.push(name),
        }
    }
    url.notes.extend(ignored(&unknown));
    Ok(())
}

fn database(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| *number <= 65_535);
    number.ok_or_else(|| "what follows the host must be the number of a database, from 0 to 65535".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_that_clients_take() {
        let url = parse("redis://:s%2Fcret@cache:6390/3").unwrap();
        assert_eq!(url.upstream, Upstream::Tcp { host: "cache".into(), port: 6390 });
        assert_eq!((url.user, url.password.unwrap().reveal(), url.database), (None, "s/cret", Some(3)));
        let secure = parse("rediss://app:pw@cache").unwrap();
        assert_eq!((secure.tls, secure.user.as_deref()), (Some(UpstreamTls::VerifyFull), Some("app")));
        assert_eq!(parse("rediss://cache/#insecure").unwrap().tls, Some(UpstreamTls::Require));
        assert_eq!(parse("rediss://cache/?ssl_cert_reqs=none").unwrap().tls, Some(UpstreamTls::Require));
        for text in [
            "unix:/run/redis.sock?db=2&password=pw",
            "unix:///run/redis.sock?db=2&password=pw",
            "redis+unix:///run/redis.sock?db=2&password=pw",
        ] {
            let socket = parse(text).unwrap();
            assert_eq!((socket.upstream, socket.database), (Upstream::Unix("/run/redis.sock".into()), Some(2)), "{text}");
            assert_eq!(socket.password.unwrap().reveal(), "pw");
        }
        assert_eq!(parse("redis://[::1]").unwrap().upstream, Upstream::Tcp { host: "::1".into(), port: 6379 });
        assert_eq!(parse("redis://c?protocol=3").unwrap().notes.len(), 1);
    }

    #[test]
    fn no_error_repeats_any_of_the_password() {
        let table = [
            "redis://:hunter2@h/x",
            "redis://:hunter2@h/99999999",
            "redis://:12#hunter2@h",
            "redis://:12/hunter2@h",
            "redis://:hunter2@h:0",
            "redis://:hunter2@a,b",
            "redis+sentinel://:hunter2@h",
            "unix://hunter2",
            "unix:hunter2",
            "hunter2",
        ];
        for text in table {
            let message = parse(text).map(|_| ()).unwrap_err();
            assert!(!message.contains("hunt") && !message.contains("12"), "{text}: {message}");
        }
    }
}
