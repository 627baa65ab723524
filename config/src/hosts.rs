//! Lists of hosts: `a,b:5433,/run/postgresql`.

use std::path::PathBuf;

use crate::listen::{fits, postgres_socket};
use crate::model::Upstream;
use crate::read_postgres::plain_host;

/// Most hosts of one database.
pub const MAX_HOSTS: usize = 64;

/// Reads a list. A host without a port of its own has `port`.
pub fn parse(list: &str, port: u16) -> Result<Vec<Upstream>, String> {
    let hosts: Vec<Upstream> = list.split(',').map(|host| parse_one(host.trim(), port)).collect::<Result<_, _>>()?;
    if hosts.len() > MAX_HOSTS {
        return Err(format!("names {} hosts; at most {MAX_HOSTS} are possible", hosts.len()));
    }
    Ok(hosts)
}

/// Writes a list so that it can be read again.
#[must_use]
pub fn shown(hosts: &[Upstream]) -> String {
    let shared = hosts.first().map(port_of);
    let one = |host: &Upstream| match host {
        Upstream::Tcp { host, port } if shared == Some(*port) => host.clone(),
        Upstream::Tcp { .. } => host.to_string(),
        Upstream::Unix(path) => path.parent().unwrap_or(path).display().to_string(),
    };
    hosts.iter().map(one).collect::<Vec<_>>().join(",")
}

fn port_of(host: &Upstream) -> u16 {
    match host {
        Upstream::Tcp { port, .. } => *port,
        Upstream::Unix(path) => path.extension().and_then(|port| port.to_str()?.parse().ok()).unwrap_or_default(),
    }
}

fn parse_one(host: &str, port: u16) -> Result<Upstream, String> {
    if host.is_empty() {
        return Err("has an empty place in its list of hosts".to_owned());
    }
    if host.starts_with('/') {
        let path = postgres_socket(&PathBuf::from(host), port);
        fits(&path)?;
        return Ok(Upstream::Unix(path));
    }
    let (host, port) = split_port(host, port)?;
    plain_host(host)?;
    Ok(Upstream::Tcp { host: host.to_owned(), port })
}

fn split_port(host: &str, shared: u16) -> Result<(&str, u16), String> {
    let own = |port: &str| port.parse().ok().filter(|port| *port > 0).ok_or_else(|| format!("has {port:?} where a port should be"));
    if let Some((address, rest)) = host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        return match rest.strip_prefix(':') {
            Some(port) => Ok((address, own(port)?)),
            None if rest.is_empty() => Ok((address, shared)),
            None => Err(format!("has {host:?}, which is no address")),
        };
    }
    match host.split_once(':') {
        Some((name, port)) if !port.contains(':') => Ok((name, own(port)?)),
        Some(_) | None => Ok((host, shared)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Upstream {
        Upstream::Tcp { host: host.into(), port }
    }

    #[test]
    fn lists_are_read_and_written() {
        let hosts = parse("a, b:5433,[::1]:5434,::2,/run/postgresql", 5432).unwrap();
        let socket = Upstream::Unix("/run/postgresql/.s.PGSQL.5432".into());
        assert_eq!(hosts, [tcp("a", 5432), tcp("b", 5433), tcp("::1", 5434), tcp("::2", 5432), socket]);
        assert_eq!(shown(&hosts), "a,b:5433,[::1]:5434,::2,/run/postgresql");
        assert_eq!(parse(&shown(&hosts), 5432).unwrap(), hosts);
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for list in ["a,,b", "a,", "a,b:0", "a,b:x", "a,b c", "a,http://b", "a,[::1]x", "a,b/c"] {
            assert!(parse(list, 5432).is_err(), "{list}");
        }
        assert!(parse(&vec!["a"; MAX_HOSTS + 1].join(","), 5432).is_err());
    }
}
