//! What is set on sockets: options of TCP towards clients and servers, permissions and group of a Unix socket, how many may knock at once.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use sidepool_tests::conformance::proves;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::{Cluster, Wire};
use sidepool_tests::process::Signal;
use sidepool_tests::settings::Settings;
use sidepool_tests::{descriptors, place};
use socket2::{Domain, SockAddr, Socket, Type};

/// Debian's group of that number, of which nobody is a member.
const DAEMON: u32 = 1;

/// The pooler's two sockets of one client: towards it, and towards the server.
async fn pair(pool: &Pooler, cluster: &Cluster) -> (Wire, [Socket; 2]) {
    let mut wire = pool.wire().await;
    wire.query("SELECT 1").await;
    let port = wire.stream().local_addr().expect("an address").port();
    let sockets = [port, cluster.port()].map(|port| descriptors::connected_to(pool.process(), port));
    (wire, sockets)
}

#[tokio::test(flavor = "multi_thread")]
async fn options_of_tcp_are_set_on_both_sides() {
    let _proof = proves(&[
        "setting tcp_keepalive",
        "setting tcp_keepcnt",
        "setting tcp_keepidle",
        "setting tcp_keepintvl",
        "setting tcp_user_timeout",
        "setting tcp_socket_buffer",
    ]);
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster)
        .set("postgres.tcp_keepidle", "77s")
        .set("postgres.tcp_keepintvl", "11s")
        .set("postgres.tcp_keepcnt", 5)
        .set("postgres.tcp_user_timeout", "1234ms")
        .set("postgres.tcp_socket_buffer", 50_000);
    let pool = Pooler::start(settings.clone()).await;
    let (_wire, sockets) = pair(&pool, &cluster).await;
    sockets.iter().for_each(descriptors::assert_options);
    drop(pool);
    let pool = Pooler::start(settings.set("postgres.tcp_keepalive", false)).await;
    let (_wire, sockets) = pair(&pool, &cluster).await;
    assert!(sockets.iter().all(|socket| !socket.keepalive().unwrap()));
}

/// Settings with a Unix socket beside the port, and where it is.
fn with_unix_socket(cluster: &Cluster) -> (Settings, std::path::PathBuf) {
    let directory = place::directory("socket");
    let settings = Settings::postgres(cluster);
    let path = directory.join(format!(".s.PGSQL.{}", settings.postgres_port()));
    let listen = vec![format!("127.0.0.1:{}", settings.postgres_port()), format!("unix:{}", directory.display())];
    (settings.set("postgres.listen", listen), path)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_has_the_permissions_and_the_group_that_are_set() {
    let _proof = proves(&["setting unix_socket_mode", "setting unix_socket_group"]);
    let cluster = Cluster::start().await;
    // Whoever is not root can only give its files to its own group.
    let group = if rustix::process::getuid().is_root() { DAEMON } else { rustix::process::getgid().as_raw() };
    let name = std::fs::read_to_string("/etc/group").expect("a system").lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2).copied() == Some(&group.to_string())).then(|| fields[0].to_owned())
    });
    for named in [group.to_string(), name.expect("the group has a name")] {
        let (settings, path) = with_unix_socket(&cluster);
        let settings = settings.set("postgres.unix_socket_mode", "0710").set("postgres.unix_socket_group", named.clone());
        let _pool = Pooler::start(settings).await;
        let found = std::fs::metadata(path).expect("a socket");
        assert_eq!((found.permissions().mode() & 0o7777, found.gid()), (0o710, group), "{named}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_may_knock_at_once_as_is_set() {
    let _proof = proves(&["setting listen_backlog"]);
    let cluster = Cluster::start().await;
    for backlog in [3, 9] {
        let (settings, path) = with_unix_socket(&cluster);
        let pool = Pooler::start(settings.set("postgres.listen_backlog", backlog)).await;
        // It does not come to answer the door.
        pool.process().signal(Signal::STOP);
        sidepool_tests::wait::until("it to stand still", async || stands_still(pool.process().id()).then_some(())).await;
        let mut knocking = Vec::new();
        let refusal = loop {
            match knock(&path) {
                Ok(socket) => knocking.push(socket),
                Err(error) => break error,
            }
        };
        assert_eq!(refusal.kind(), std::io::ErrorKind::WouldBlock);
        // Linux lets one more in than it is told.
        assert_eq!(i64::try_from(knocking.len()).unwrap(), backlog + 1);
        pool.process().signal(Signal::CONT);
    }
}

fn stands_still(pid: u32) -> bool {
    let mut tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a live process").flatten();
    let state = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        text.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    };
    tasks.all(state)
}

fn knock(path: &Path) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket)
}
