//! Sees this machine: its limits, its ports and sockets, the files of the configuration. Ports are bound for a moment, files are only read.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rustix::fs::{Access, access};
use rustix::process::{Resource, getrlimit};
use sidepool_config::file::Loaded;
use sidepool_config::model::{Config, Listen};

use crate::admin::http;
use crate::admin::process::ProcessFigures;
use crate::clock;
use crate::doctor::facts::{Door, LocalFacts};
use crate::listener::bind::{Bound, Options};
use crate::probe;
use crate::runtime::memory::Gauges;

/// Looks.
#[must_use]
pub fn look(loaded: &Loaded) -> LocalFacts {
    let config = &loaded.config;
    let (looked_at, readable) = files(loaded);
    LocalFacts {
        // The soft limit is raised to this at the start.
        files: getrlimit(Resource::Nofile).maximum,
        own_files: ProcessFigures::read().open_fds.unwrap_or_default(),
        memory: Gauges::of_this_process().tightest(config.memory_limit).map(|reading| reading.usage.limit),
        in_kubernetes: std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
        doors: doors(config),
        admin: config.admin.listen.map(|address| (address, said(http::bind(address)))),
        runs: config.admin.listen.is_some_and(|address| probe::healthcheck(&format!("http://{}", reachable(address))).is_ok()),
        certificates: certificates(config),
        readable,
        looked_at,
        now: clock::wall().duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or_default(),
    }
}

/// Where a listener on every address is found.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    address
}

fn doors(config: &Config) -> Vec<(Listen, Door)> {
    let postgres = config.postgres.iter().flat_map(|postgres| {
        let options = Options::from(postgres);
        postgres.listen.iter().map(move |listen| (listen.clone(), options.clone()))
    });
    let redis = config.redis.values().flat_map(|redis| redis.listen.iter().map(|listen| (listen.clone(), Options::default())));
    postgres.chain(redis).map(|(listen, options)| (listen.clone(), door(&listen, &options))).collect()
}

fn door(listen: &Listen, options: &Options) -> Door {
    match listen {
        Listen::Tcp(address) => tcp(*address, options),
        Listen::Unix(path) => unix(path),
    }
}

/// Bound as at the start, and closed at once.
fn tcp(address: SocketAddr, options: &Options) -> Door {
    said(Bound::bind(&Listen::Tcp(address), options))
}

fn said<T>(bound: io::Result<T>) -> Door {
    match bound {
        Ok(_) => Door::Free,
        Err(error) if error.kind() == ErrorKind::AddrInUse => Door::Taken,
        Err(error) => Door::Impossible(error.to_string()),
    }
}

/// A socket's file is left alone, whatever it is.
fn unix(path: &Path) -> Door {
    if path.to_str().is_some_and(|path| path.starts_with('@')) {
        return Door::Free;
    }
    match UnixStream::connect(path) {
        Ok(_) => return Door::Taken,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Door::Impossible(error.to_string()),
        Err(_) => {}
    }
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match access(directory, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) if path.exists() && !is_socket(path) => Door::Impossible("there is a file at this path which is not a socket".to_owned()),
        Ok(()) => Door::Free,
        Err(error) => Door::Impossible(format!("{}: {}", directory.display(), io::Error::from(error))),
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

fn certificates(config: &Config) -> Vec<(&'static str, i64)> {
    let postgres = config.postgres.iter();
    let clients = postgres.clone().map(|postgres| &postgres.client_tls).chain(config.redis.values().map(|redis| &redis.client_tls));
    let clients = clients.filter_map(|tls| tls.context.as_deref()).flat_map(|context| &context.expiries);
    let own = postgres.clone().flat_map(|postgres| postgres.databases.values()).filter_map(|database| database.server_tls.as_deref());
    let servers = postgres.map(|postgres| &postgres.server_tls).chain(own).chain(config.redis.values().map(|redis| &redis.server_tls));
    let servers = servers.filter_map(|tls| tls.context.as_deref()).flat_map(|context| &context.expiries);
    let all: BTreeSet<_> = clients.chain(servers).map(|expiry| (expiry.setting, expiry.not_after)).collect();
    all.into_iter().collect()
}

/// How many files there are, and those with secrets in them that everybody may read.
fn files(loaded: &Loaded) -> (usize, Vec<PathBuf>) {
    let secrets = secrets(&loaded.config);
    let is_open = |path: &Path| fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0);
    let tells = |path: &Path| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.contains("PRIVATE KEY-----") || secrets.iter().any(|secret| text.contains(secret))
    };
    let open = loaded.sources.files().filter(|path| is_open(path) && !is_projected(path) && tells(path));
    (loaded.sources.files().count(), open.map(Path::to_owned).collect())
}

/// Kubernetes mounts secrets for one container alone, behind links to a directory whose name begins with two dots.
fn is_projected(path: &Path) -> bool {
    let real = fs::canonicalize(path).unwrap_or_default();
    real.components().any(|part| part.as_os_str().to_string_lossy().starts_with("..2"))
}

/// All secrets of the configuration that are long enough to be found.
fn secrets(config: &Config) -> Vec<&str> {
    let postgres = config.postgres.iter();
    let databases = postgres.clone().flat_map(|postgres| postgres.databases.values()).filter_map(|database| database.password.as_ref());
    let users = postgres.flat_map(|postgres| postgres.users.values()).filter_map(|user| user.password.as_ref());
    let redis = config.redis.values().flat_map(|redis| {
        let users = redis.users.values().flat_map(|user| std::iter::once(&user.password).chain(&user.upstream_password));
        redis.password.iter().chain(users)
    });
    databases.chain(users).chain(redis).map(|secret| secret.reveal()).filter(|secret| secret.len() >= 4).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_needs_a_directory_that_can_be_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".s.PGSQL.6432");
        assert_eq!(unix(&path), Door::Free);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(unix(&path), Door::Taken);
        drop(listener);
        assert_eq!(unix(&path), Door::Free, "nobody listens on it any more");
        assert!(path.exists(), "and it was left alone");
        assert!(matches!(unix(&directory.path().join("none/socket")), Door::Impossible(_)));
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(unix(&file), Door::Impossible(why) if why.contains("not a socket")));
        assert_eq!(unix(Path::new("@abstract")), Door::Free);
    }

    #[test]
    fn a_port_is_free_or_taken() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(tcp(address, &Options::default()), Door::Taken);
        drop(listener);
        assert_eq!(tcp(address, &Options::default()), Door::Free);
        assert!(matches!(tcp("192.0.2.1:1".parse().unwrap(), &Options::default()), Door::Impossible(_)));
    }

    #[test]
    fn what_kubernetes_projects_is_for_one_container() {
        let directory = tempfile::tempdir().unwrap();
        let version = directory.path().join("..2026_01_01");
        fs::create_dir(&version).unwrap();
        fs::write(version.join("password"), "x").unwrap();
        std::os::unix::fs::symlink("..2026_01_01/password", directory.path().join("password")).unwrap();
        assert!(is_projected(&directory.path().join("password")));
        assert!(!is_projected(directory.path()));
    }
}
