//! Asks for the addresses of a name: the hosts file, then the name servers of resolv.conf with its search domains, then (where no file of our own
//! is configured) whatever else the operating system asks.
//!
//! The files are looked at again for each question: they are small, questions are rare, and in containers the files change while we run.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolveHosts, ServerOrderingStrategy};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;
use tokio::net::lookup_host;

use super::cache::Answer;

/// Where the name servers are, unless the configuration says otherwise.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Names that need no name server.
const HOSTS: &str = "/etc/hosts";

/// How long an answer holds that came without a time: the operating system's own resolver gives none.
const WITHOUT_TTL: Duration = Duration::from_secs(3600);

/// A resolver, made anew when the files that it is made of change.
#[derive(Default)]
pub(super) struct Resolver {
    made: Option<(Files, TokioResolver)>,
}

/// What a resolver is made of.
#[derive(PartialEq, Eq)]
struct Files {
    resolv_conf: Vec<u8>,
    hosts: Vec<u8>,
}

impl Resolver {
    /// What the question is put to: `None` where there is no usable resolv.conf.
    pub(super) fn ready(&mut self, configured: Option<&Path>) -> Result<Option<TokioResolver>, Arc<str>> {
        let path = configured.map_or_else(|| PathBuf::from(RESOLV_CONF), Path::to_owned);
        let resolv_conf = match (fs::read(&path), configured) {
            (Ok(contents), _) => contents,
            (Err(_), None) => return Ok(None),
            (Err(error), Some(_)) => return Err(format!("cannot read {}: {error}", path.display()).into()),
        };
        let files = Files { resolv_conf, hosts: fs::read(HOSTS).unwrap_or_default() };
        if let Some((made_of, resolver)) = &self.made
            && *made_of == files
        {
            return Ok(Some(resolver.clone()));
        }
        match make(&files.resolv_conf) {
            Ok(resolver) => {
                self.made = Some((files, resolver.clone()));
                Ok(Some(resolver))
            }
            Err(_) if configured.is_none() => Ok(None),
            Err(error) => Err(format!("{}: {error}", path.display()).into()),
        }
    }
}

/// Asks. `own_file`: the configuration names a resolv.conf, and nothing else counts.
pub(super) async fn ask(resolver: Option<TokioResolver>, name: &str, own_file: bool) -> Result<Answer, Arc<str>> {
    let Some(resolver) = resolver else { return ask_system(name).await };
    match resolver.lookup_ip(name).await {
        Ok(found) => {
            let ttl = found.as_lookup().answers().iter().map(|record| record.ttl).min();
            let ttl = ttl.map_or(WITHOUT_TTL, |seconds| Duration::from_secs(seconds.into()));
            Ok(Answer { addresses: distinct(found.iter()), ttl })
        }
        // Names may have other sources than DNS (nsswitch.conf): the system is asked for those that DNS does not have.
        Err(error) if !own_file && (error.is_nx_domain() || error.is_no_records_found()) => ask_system(name).await,
        Err(error) => Err(why(&error)),
    }
}

fn make(resolv_conf: &[u8]) -> Result<TokioResolver, NetError> {
    let (rest, with_port) = split_ports(resolv_conf);
    let (config, mut options) = match parse_resolv_conf(&rest) {
        Ok(parsed) => parsed,
        // It minds that there is no name server besides those with a port.
        Err(_) if !with_port.is_empty() => parse_resolv_conf([&*rest, b"\nnameserver 127.0.0.1\n"].concat())?,
        Err(error) => return Err(error),
    };
    let (domain, search, plain) = config.into_parts();
    let servers = if with_port.is_empty() { plain } else { with_port.iter().map(|server| server_at(*server)).collect() };
    options.cache_size = 0;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Always;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    let config = hickory_resolver::config::ResolverConfig::from_parts(domain, search, servers);
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options).build()
}

fn server_at(address: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

/// Takes out the lines `nameserver ADDRESS:PORT`, which c-ares has and the C library has not.
fn split_ports(resolv_conf: &[u8]) -> (Vec<u8>, Vec<SocketAddr>) {
    let mut with_port = Vec::new();
    let text = String::from_utf8_lossy(resolv_conf);
    let rest = text.lines().filter(|line| {
        let mut words = line.split_whitespace();
        let server = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next()?.parse::<SocketAddr>().ok());
        with_port.extend(server);
        server.is_none()
    });
    let rest = rest.collect::<Vec<_>>().join("\n") + "\n";
    (rest.into_bytes(), with_port)
}

/// The operating system's resolver runs on a thread of its own.
async fn ask_system(name: &str) -> Result<Answer, Arc<str>> {
    let found = lookup_host((name, 0)).await.map_err(|error: io::Error| Arc::from(error.to_string()))?;
    Ok(Answer { addresses: distinct(found.map(|address| address.ip())), ttl: WITHOUT_TTL })
}

fn distinct(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for address in addresses {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

fn why(error: &NetError) -> Arc<str> {
    if error.is_nx_domain() {
        "no such host name".into()
    } else if error.is_no_records_found() {
        "the name has no address".into()
    } else {
        error.to_string().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_may_have_a_port() {
        let (rest, servers) =
            split_ports(b"search a.example b.example\nnameserver 127.0.0.1:5353\nnameserver [::1]:54\nnameserver 10.0.0.1\n");
        assert_eq!(servers, ["127.0.0.1:5353".parse().unwrap(), "[::1]:54".parse().unwrap()]);
        assert_eq!(rest, b"search a.example b.example\nnameserver 10.0.0.1\n");
        assert!(make(b"nameserver 127.0.0.1:5353\noptions ndots:2\n").is_ok());
        assert!(make(b"nameserver 127.0.0.1\n").is_ok());
        assert!(make(b"options ndots:2\n").is_err());
    }

    #[test]
    fn a_file_that_was_configured_must_be_there() {
        let mut resolver = Resolver::default();
        assert!(resolver.ready(Some(Path::new("/nowhere/resolv.conf"))).is_err());
    }
}
