//! Sees this machine: its limits, its ports and sockets, the files of the configuration. Ports are bound for a moment, files are only read.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rustix::fs::{Access, access};
use rustix::process::{Resource, getrlimit};
use sidepool_config::file::Loaded;
use sidepool_config::model::{Config, Listen};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::admin::http;
use crate::admin::process::ProcessFigures;
use crate::clock;
use crate::doctor::facts::{Door, LocalFacts};
use crate::listener::bind::{self, Options};
use crate::probe;
use crate::runtime::memory::Gauges;

/// Where systemd notes that it listens for us.
const UNITS: [&str; 2] =
    ["/etc/systemd/system/sockets.target.wants/sidepool.socket", "/run/systemd/system/sockets.target.wants/sidepool.socket"];

/// A secret of letters alone that is shorter than this may be a word.
const WORD: usize = 16;

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
        has_unit: UNITS.iter().any(|unit| Path::new(unit).exists()),
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

/// Bound as at the start, but not listened on: beside a running sidepool (`so_reuseport`) clients would come here.
fn tcp(address: SocketAddr, options: &Options) -> Door {
    match bind::can_bind(address, options) {
        Err(error) if options.may_be_without(&Listen::Tcp(address), &error) => Door::Free,
        answer => said(answer),
    }
}

fn said<T>(bound: io::Result<T>) -> Door {
    match bound {
        Ok(_) => Door::Free,
        Err(error) if error.kind() == ErrorKind::AddrInUse => Door::Taken,
        Err(error) => Door::Impossible(error.to_string()),
    }
}

/// Connects without waiting, however long the queue is.
fn knock(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

/// A socket's file is left alone, whatever it is.
fn unix(path: &Path) -> Door {
    if path.to_str().is_some_and(|path| path.starts_with('@')) {
        return Door::Free;
    }
    match knock(path) {
        Ok(()) => return Door::Taken,
        // Somebody listens, and has more clients in the queue than fit in.
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Door::Taken,
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
    let has_secrets = |path: &Path| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.contains("PRIVATE KEY-----") || secrets.iter().any(|secret| tells(&text, secret))
    };
    let open = loaded.sources.files().filter(|path| is_open(path) && !is_projected(path) && has_secrets(path));
    (loaded.sources.files().count(), open.map(Path::to_owned).collect())
}

/// Whether a text tells a secret. One that is a mere word (`postgres`) may be there for itself: then it has to stand where passwords stand.
fn tells(text: &str, secret: &str) -> bool {
    let is_word = secret.len() < WORD && secret.chars().all(|letter| letter.is_ascii_alphabetic());
    if !is_word {
        return text.contains(secret);
    }
    let (quoted, in_url, at_end) = (format!("\"{secret}\""), format!(":{secret}@"), format!(":{secret}"));
    let in_line = |line: &str| {
        let (line, lower) = (line.trim(), line.to_lowercase());
        let is_named = ["pass", "secret", "pwd"].iter().any(|word| lower.contains(word)) && line.contains(secret);
        // `"user" "password"` of a userlist, `host:port:database:user:password` of a .pgpass.
        let is_listed = line.starts_with('"') && line.ends_with(&quoted) && line.len() > quoted.len();
        let is_in_pgpass = line.ends_with(&at_end) && line.matches(':').count() == 4;
        is_named || is_listed || is_in_pgpass || line.contains(&in_url)
    };
    text.trim() == secret || text.lines().any(in_line)
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
    fn a_socket_whose_queue_is_full_is_taken_and_nobody_waits() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("full");
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        listener.listen(0).unwrap();
        let connect = || {
            let client = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            client.set_nonblocking(true).unwrap();
            client.connect(&SockAddr::unix(&path).unwrap()).map(|()| client)
        };
        let queued: Vec<Socket> = std::iter::from_fn(|| connect().ok()).take(100).collect();
        assert!((1..100).contains(&queued.len()) && connect().unwrap_err().kind() == ErrorKind::WouldBlock);
        assert_eq!(unix(&path), Door::Taken);
    }

    #[test]
    fn a_port_beside_a_running_one_is_not_listened_on() {
        let options = Options { reuse_port: true, ..Options::default() };
        let running = bind::Bound::bind(&Listen::Tcp("127.0.0.1:0".parse().unwrap()), &options).unwrap();
        let address = running.address().unwrap();
        bind::can_bind(address, &options).unwrap();
        assert_eq!(tcp(address, &options), Door::Free);
        assert_eq!(tcp(address, &Options::default()), Door::Taken);
    }

    #[test]
    fn a_secret_that_is_a_word_has_to_stand_where_passwords_stand() {
        for (text, secret, expected) in [
            ("host = \"postgres\"", "postgres", false),
            ("[postgres]\nlisten = []", "postgres", false),
            ("password = \"postgres\"", "postgres", true),
            ("url = \"postgres://app:postgres@db/app\"", "postgres", true),
            ("url = \"postgres://postgres@db/app\"", "postgres", false),
            ("\"app\" \"postgres\"", "postgres", true),
            ("db:5432:app:app:postgres", "postgres", true),
            ("postgres\n", "postgres", true),
            ("anything s3cret-of-mine at all", "s3cret-of-mine", true),
            ("anything at all", "s3cret-of-mine", false),
        ] {
            assert_eq!(tells(text, secret), expected, "{text}");
        }
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
