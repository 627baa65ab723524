//! What a service manager is told (systemd's `Type=notify` and `WatchdogSec`), and whether the unit that is shipped is sound.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use sidepool_tests::binary::{self, Build};
use sidepool_tests::postgres::Cluster;
use sidepool_tests::process::{Process, Signal};
use sidepool_tests::settings::Settings;
use sidepool_tests::{place, wait};
use tokio::net::UnixDatagram;

/// The next thing that the manager hears.
async fn heard(manager: &UnixDatagram) -> String {
    let mut said = [0; 256];
    let length = wait::soon("word for the manager", manager.recv(&mut said)).await.expect("a datagram");
    String::from_utf8_lossy(&said[..length]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manager_hears_that_it_is_ready_alive_reading_anew_and_ending() {
    let cluster = Cluster::start().await;
    let directory = place::directory("service");
    let file = directory.join("sidepool.toml");
    std::fs::write(&file, Settings::postgres(&cluster).toml()).expect("our own directory");
    let socket = directory.join("notify");
    let manager = UnixDatagram::bind(&socket).expect("our own directory");
    let mut command = Command::new(binary::path(Build::Checked));
    command.arg(&file).env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", Duration::from_millis(200).as_micros().to_string());
    let mut sidepool = Process::spawn("sidepool", command);

    // Signs of life may come in between.
    let next = async || loop {
        let said = heard(&manager).await;
        if said != "WATCHDOG=1" {
            return said;
        }
    };
    assert_eq!(next().await, "READY=1");
    while heard(&manager).await != "WATCHDOG=1" {}
    assert_eq!(heard(&manager).await, "WATCHDOG=1", "again and again");
    sidepool.signal(Signal::HUP);
    assert!(next().await.starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(next().await, "READY=1");
    sidepool.signal(Signal::TERM);
    assert_eq!(next().await, "STOPPING=1");
    assert!(sidepool.ended().await.success());
}

fn shipped(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

/// What a program says, which has to end well.
fn output(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

/// The Debian package, made with the binary under test, and a directory of its own with the files in it.
fn package() -> (&'static PathBuf, PathBuf) {
    static PACKAGE: OnceLock<PathBuf> = OnceLock::new();
    let package = PACKAGE.get_or_init(|| {
        let directory = place::directory("package");
        let made = output(Command::new(shipped("debian/build")).arg("--binary").arg(binary::path(Build::Fast)).arg(&directory));
        PathBuf::from(made.lines().last().expect("the package's name"))
    });
    let root = place::directory("unpacked");
    output(Command::new("dpkg-deb").arg("--extract").arg(package).arg(&root));
    (package, root)
}

#[test]
fn the_debian_package_holds_all_that_it_should_and_works() {
    let (package, root) = package();
    let field = |name: &str| output(Command::new("dpkg-deb").arg("--field").arg(package).arg(name)).trim().to_owned();
    assert_eq!(field("Package"), "sidepool");
    assert_eq!(field("Version"), env!("CARGO_PKG_VERSION"));
    let listed = output(Command::new("dpkg-deb").arg("--contents").arg(package));
    let line = |path: &str| listed.lines().find(|line| line.ends_with(path)).unwrap_or_else(|| panic!("{path} is not in\n{listed}"));
    assert!(line("./etc/sidepool/sidepool.toml").starts_with("-rw-r----- root/root"), "it may hold secrets");
    assert!(line("./usr/bin/sidepool").starts_with("-rwxr-xr-x root/root"));
    let scripts = root.join("scripts");
    output(Command::new("dpkg-deb").arg("--control").arg(package).arg(&scripts));
    assert_eq!(std::fs::read_to_string(scripts.join("conffiles")).expect("a list"), "/etc/sidepool/sidepool.toml\n");
    for script in ["postinst", "prerm", "postrm"] {
        output(Command::new("sh").arg("-n").arg(scripts.join(script)));
    }

    let sidepool = root.join("usr/bin/sidepool");
    output(Command::new(&sidepool).arg("check").arg(root.join("etc/sidepool/sidepool.toml")));
    let page = output(Command::new("gzip").args(["--decompress", "--stdout"]).arg(root.join("usr/share/man/man1/sidepool.1.gz")));
    let completions = std::fs::read_to_string(root.join("usr/share/bash-completion/completions/sidepool")).expect("completions");
    for command in ["check", "settings", "migrate", "healthcheck", "wait", "man", "completions"] {
        assert!(page.contains(&format!("sidepool\\-{command}")), "{command} is not in the manual page");
        assert!(completions.contains(&format!("sidepool,{command})")), "{command} is not completed");
    }
    output(Command::new("bash").arg("-n").arg(root.join("usr/share/bash-completion/completions/sidepool")));
}

#[test]
fn the_unit_is_sound_and_gives_little_away() {
    let (_, root) = package();
    // All that it starts has to be there.
    for program in ["bin/kill", "usr/lib/systemd/systemd"] {
        let path = root.join(program);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("our own directory");
        std::fs::copy("/bin/true", path).expect("our own directory");
    }
    let unit = root.join("usr/lib/systemd/system/sidepool.service");
    let said =
        output(Command::new("systemd-analyze").args(["verify", "--man=no", "--recursive-errors=no"]).arg("--root").arg(&root).arg(&unit));
    assert_eq!(said, "");
    // 0 is all that systemd can take away from a process, 100 nothing.
    output(Command::new("systemd-analyze").args(["security", "--offline=true", "--threshold=15", "--no-pager"]).arg(&unit));
}
