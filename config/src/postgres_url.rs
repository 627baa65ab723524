//! `postgres://USER:PASSWORD@HOST:PORT/DBNAME?sslmode=MODE` as libpq reads it, and a little of what frameworks make of it.

use crate::model::UpstreamTls;
use crate::names::{Named, sslmode};
use crate::problem::{listed, shown};
use crate::secret::Secret;
use crate::upstream_url::{Parts, ignored, parse as take_apart, some};

/// What a URL says; what it leaves out is `None`.
#[derive(Debug, Default)]
pub(crate) struct PostgresUrl {
    /// A host, or the directory of a Unix socket.
    pub(crate) host: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) dbname: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) tls: Option<UpstreamTls>,
    /// What is worth a warning.
    pub(crate) notes: Vec<String>,
}

/// Reads a URL. No message repeats any part that may be secret.
pub(crate) fn parse(text: &str) -> Result<PostgresUrl, String> {
    let parts = take_apart(text)?;
    // SQLAlchemy writes the driver behind the scheme: postgresql+asyncpg.
    let scheme = parts.scheme.split('+').next().unwrap_or_default();
    if !["postgres", "postgresql"].contains(&scheme) {
        return Err(format!("{} is not a PostgreSQL URL: it must begin with postgres:// or postgresql://", shown(scheme)));
    }
    if parts.fragment.is_some() {
        return Err("has a # in it; in a password it is written %23".to_owned());
    }
    let dbname = parts.path.strip_prefix('/').unwrap_or(&parts.path).to_owned();
    if dbname.contains('/') {
        return Err("has a second / behind the host; in a password or a database name it is written %2F".to_owned());
    }
    let mut url = PostgresUrl { dbname: some(dbname), ..PostgresUrl::default() };
    (url.host, url.port, url.user, url.password) = (parts.host.clone(), parts.port, parts.user.clone(), parts.password.clone());
    take_parameters(&mut url, parts)?;
    if url.port == Some(0) {
        return Err("port: must be from 1 to 65535".to_owned());
    }
    if url.host.as_ref().is_some_and(|host| host.contains(',')) {
        return Err("names several hosts, which is not supported: name one".to_owned());
    }
    Ok(url)
}

fn take_parameters(url: &mut PostgresUrl, parts: Parts) -> Result<(), String> {
    let mut unknown = Vec::new();
    for (name, value) in parts.parameters {
        match name.as_str() {
            "host" => url.host = some(value),
            "port" => url.port = Some(value.parse().map_err(|_| "port: must be from 1 to 65535".to_owned())?),
            "dbname" => url.dbname = some(value),
            "user" => url.user = some(value),
            "password" => url.password = some(value).map(Secret::new),
            "sslmode" => {
                let tls = sslmode(&value).ok_or_else(|| format!("sslmode: must be {}", listed(&UpstreamTls::all_names())))?;
                url.tls = Some(tls);
            }
            "ssl" if value == "true" => url.tls = Some(UpstreamTls::Require),
            _ => unknown.push(name),
        }
    }
    url.notes.extend(ignored(&unknown));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_that_libpq_takes() {
        let url = parse("postgres://app:s%40cret@db.example:5433/shop?sslmode=require").unwrap();
        assert_eq!((url.host.as_deref(), url.port, url.dbname.as_deref()), (Some("db.example"), Some(5433), Some("shop")));
        assert_eq!((url.user.as_deref(), url.tls), (Some("app"), Some(UpstreamTls::Require)));
        assert_eq!(url.password.unwrap().reveal(), "s@cret");
        let socket = parse("postgres:///shop?host=/var/run/postgresql&user=app").unwrap();
        assert_eq!((socket.host.as_deref(), socket.user.as_deref()), (Some("/var/run/postgresql"), Some("app")));
        let encoded = parse("postgresql://%2Fvar%2Frun/shop").unwrap();
        assert_eq!((encoded.host.as_deref(), encoded.dbname.as_deref()), (Some("/var/run"), Some("shop")));
        assert_eq!(parse("postgresql+asyncpg://[::1]/x").unwrap().host.as_deref(), Some("::1"));
        assert_eq!(parse("postgres://").unwrap().host, None);
        let noted = parse("postgres://h/d?sslmode=verify-ca&connect_timeout=10&s3cr=et").unwrap();
        assert_eq!(noted.tls, Some(UpstreamTls::VerifyCa));
        assert_eq!(noted.notes.len(), 1);
        assert!(noted.notes[0].contains("connect_timeout"), "{:?}", noted.notes);
    }

    #[test]
    fn no_error_repeats_any_of_the_password() {
        let table = [
            "postgres://app:hunt/er2@h/d",
            "postgres://app:12#hunter2@h/d",
            "postgres://app:12/hunter2@h/d",
            "postgres://app:12?hunter2@h/d",
            "postgres://app:hunter2%@h/d",
            "postgres://app:hunter2%00@h/d",
            "postgres://app:hunter2@h:0/d",
            "postgres://app:hunter2@h:99999/d",
            "postgres://app:hunter2@a,b/d",
            "postgres://app:hunter2@h/d?sslmode=hunter2",
            "postgres://app:hunter2@h/d?port=hunter2",
            "mysql://app:hunter2@h/d",
            "app:hunter2@h/d",
            "hunter2",
            "",
        ];
        for text in table {
            let message = parse(text).map(|_| ()).unwrap_err();
            assert!(!message.contains("hunt") && !message.contains("12"), "{text}: {message}");
        }
    }
}
