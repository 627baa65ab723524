//! Sockets that the service manager opens for us (systemd's socket activation): no client is refused while sidepool is not there yet, or is
//! started anew.

use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::chown;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use rustix::io::{FdFlags, fcntl_setfd};
use sidepool_tests::binary::{self, Build};
use sidepool_tests::conformance::proves;
use sidepool_tests::ini::IniPooler;
use sidepool_tests::postgres::cluster::{PASSWORD, USER};
use sidepool_tests::postgres::{Cluster, Wire};
use sidepool_tests::process::{Process, Signal};
use sidepool_tests::settings::Settings;
use sidepool_tests::{place, wait};

const NOBODY: u32 = 65534;

/// Starts sidepool on this file as systemd would, with two listening sockets.
fn activate(file: &Path, tcp: &TcpListener, unix: &UnixListener, as_nobody: bool) -> Process {
    for socket in [tcp.as_fd(), unix.as_fd()] {
        fcntl_setfd(socket, FdFlags::empty()).expect("our own socket");
    }
    let (tcp, unix) = (tcp.as_raw_fd(), unix.as_raw_fd());
    let mut command = Command::new("bash");
    // Out of the way first: they may be 3 and 4 the other way round.
    let script = format!("exec 8<&{tcp} 9<&{unix}; exec 3<&8 4<&9 8<&- 9<&-; LISTEN_FDS=2 LISTEN_PID=$$ exec \"$0\" \"$1\"");
    command.arg("-c").arg(script).arg(binary::path(Build::Checked)).arg(file);
    if as_nobody && rustix::process::getuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    Process::spawn("sidepool", command)
}

/// Two sockets as systemd opens them; the Unix one in a directory of its own.
fn sockets() -> (TcpListener, UnixListener, u16, std::path::PathBuf) {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = tcp.local_addr().expect("an address").port();
    let directory = place::directory("activated");
    let unix = UnixListener::bind(directory.join(format!(".s.PGSQL.{port}"))).expect("our own directory");
    (tcp, unix, port, directory)
}

async fn both_ways_lead_in(port: u16, directory: &Path) {
    let mut wire = Wire::login(port, USER, "app", PASSWORD).await;
    assert_eq!(wire.value("SELECT 'tcp'").await, "tcp");
    let mut config = tokio_postgres::Config::new();
    config.host_path(directory).port(port).user(USER).password(PASSWORD).dbname("app");
    drop(wait::soon("a login", config.connect(tokio_postgres::NoTls)).await.expect("it comes in over the Unix socket"));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_ini_they_take_the_place_of_the_addresses() {
    let _proof = proves(&["feature systemd socket activation"]);
    let cluster = Cluster::start().await;
    let unused = place::free_port();
    let ini = format!(
        "[databases]\napp = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {unused}\n\
         unix_socket_dir = SOCKET_DIRECTORY\nauth_type = plain\nauth_file = USERS_FILE\n",
        cluster.port()
    );
    let directory = IniPooler::directory_with(&ini);
    if rustix::process::getuid().is_root() {
        chown(&directory, Some(NOBODY), Some(NOBODY)).expect("root may give away its files");
    }
    let (tcp, unix, port, socket) = sockets();
    // A client that is there before we are. It waits for us, and not for the compiler.
    binary::path(Build::Checked);
    let mut early = Some(tokio::spawn(Wire::login(port, USER, "app", PASSWORD)));
    for round in 0..2 {
        let mut pooler = activate(&directory.join("pgbouncer.ini"), &tcp, &unix, true);
        both_ways_lead_in(port, &socket).await;
        if let Some(early) = early.take() {
            early.await.expect("it was served");
        }
        assert!(tokio::net::TcpStream::connect(("127.0.0.1", unused)).await.is_err(), "listen_addr does not count");
        let from = pooler.log().len();
        pooler.signal(Signal::HUP);
        pooler.log().line_with_after(from, "configuration").await;
        assert!(!pooler.log().lines().iter().any(|line| line.contains("need a restart")), "nor is it a change");
        if round == 0 {
            assert_eq!(pooler.log().lines().iter().filter(|line| line.contains("listening on")).count(), 2);
        }
        pooler.end_by(Signal::QUIT);
        assert!(socket.join(format!(".s.PGSQL.{port}")).exists(), "the file is the manager's");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_toml_each_is_used_where_it_is_configured() {
    let cluster = Cluster::start().await;
    let (tcp, unix, port, socket) = sockets();
    let directory = place::directory("activation");
    let settings = Settings::postgres(&cluster).set("postgres.auth_type", "plain");
    let own = settings.postgres_port();
    let listen = vec![format!("127.0.0.1:{own}"), format!("127.0.0.1:{port}")];
    let file = directory.join("sidepool.toml");
    let write = |settings: Settings| std::fs::write(&file, settings.toml()).expect("our own directory");
    write(settings.clone().set("postgres.listen", listen.clone()));
    let mut pooler = activate(&file, &tcp, &unix, false);
    pooler.log().line_with("which is not configured: it is closed").await;
    pooler.log().line_with(" is ready").await;
    for port in [own, port] {
        assert_eq!(Wire::login(port, USER, "app", PASSWORD).await.value("SELECT 1").await, "1");
    }
    pooler.end_by(Signal::QUIT);
    let listen = [listen, vec![format!("unix:{}/.s.PGSQL.{port}", socket.display())]].concat();
    write(settings.set("postgres.listen", listen));
    let pooler = activate(&file, &tcp, &unix, false);
    pooler.log().line_with(" is ready").await;
    both_ways_lead_in(port, &socket).await;
    assert!(!pooler.log().lines().iter().any(|line| line.contains("not configured")));
}
