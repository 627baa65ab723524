//! A throwaway PostgreSQL cluster: copied from a template that is made once a test process, started on a free port, gone with the test.
//!
//! Not a replica, not TLS, not durable (`fsync = off`). The superuser comes in by the Unix socket; everybody else proves who they are.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tokio_postgres::{Client, Config, NoTls};

use crate::place;
use crate::process::{Process, Signal};
use crate::wait;

/// The role that applications use: SCRAM-SHA-256, owner of the databases `app` and `other`.
pub const USER: &str = "app";
/// Its password.
pub const PASSWORD: &str = "app-secret-0815";

/// Roles by the way they log in over TCP: `app` and `second` (SCRAM), `legacy` (md5), `clear` (clear text), `open` (trust).
const ROLES: &str = "\
CREATE ROLE app LOGIN PASSWORD 'app-secret-0815'
CREATE ROLE second LOGIN PASSWORD 'second-secret' IN ROLE app
CREATE ROLE clear LOGIN PASSWORD 'clear-secret' IN ROLE app
CREATE ROLE open LOGIN IN ROLE app
SET password_encryption = 'md5'
CREATE ROLE legacy LOGIN PASSWORD 'legacy-secret' IN ROLE app
CREATE DATABASE app OWNER app
CREATE DATABASE other OWNER app
";

const HBA: &str = "\
local all all               trust
host  all open   127.0.0.1/32 trust
host  all legacy 127.0.0.1/32 md5
host  all clear  127.0.0.1/32 password
host  all all    127.0.0.1/32 scram-sha-256
";

/// A running cluster.
pub struct Cluster {
    data: PathBuf,
    port: u16,
    options: Vec<String>,
    process: Option<Process>,
}

impl Cluster {
    /// Starts one.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts one with more settings, each `name=value`.
    pub async fn start_with(options: &[&str]) -> Self {
        let data = place::directory("postgres");
        own(&data);
        let copy = Command::new("cp").arg("-a").arg(template().join(".")).arg(&data).status().expect("cp starts");
        assert!(copy.success(), "the template cannot be copied");
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut cluster = Self { data, port: place::free_port(), options, process: None };
        cluster.launch().await;
        cluster
    }

    /// Its TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of its Unix socket.
    pub fn socket_directory(&self) -> &Path {
        &self.data
    }

    /// Its process; panics when it is stopped.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("the cluster runs")
    }

    /// A direct connection of the superuser, past every pooler.
    pub async fn superuser(&self, database: &str) -> Client {
        let mut config = Config::new();
        config.host_path(&self.data).port(self.port).user("postgres").dbname(database);
        let (client, connection) = config.connect(NoTls).await.expect("the superuser comes in");
        tokio::spawn(connection);
        client
    }

    /// Runs SQL as the superuser in database `app`.
    pub async fn sql(&self, statements: &str) {
        self.superuser("app").await.batch_execute(statements).await.expect(statements);
    }

    /// How many client connections there are in all databases that are not the superuser's.
    pub async fn connections(&self) -> i64 {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename <> 'postgres'";
        self.superuser("app").await.query_one(sql, &[]).await.expect(sql).get(0)
    }

    /// How many connections replicate.
    pub async fn walsenders(&self) -> i64 {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'";
        self.superuser("app").await.query_one(sql, &[]).await.expect(sql).get(0)
    }

    /// Has it read its configuration again: whoever connects from now on is let in by what stands there.
    pub async fn reload(&self) {
        let (log, from) = (self.process().log(), self.process().log().len());
        self.sql("SELECT pg_reload_conf()").await;
        log.line_with_after(from, "reloading configuration files").await;
    }

    /// Puts a line in front of `pg_hba.conf`.
    pub async fn allow(&self, line: &str) {
        let path = self.data.join("pg_hba.conf");
        let rest = std::fs::read_to_string(&path).expect("the cluster has it");
        std::fs::write(&path, format!("{line}\n{rest}")).expect("ours to write");
        self.reload().await;
        let sql = "SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL";
        assert_eq!(self.superuser("app").await.query_one(sql, &[]).await.expect(sql).get::<_, i64>(0), 0, "{line}");
    }

    /// The server processes of all connections that are not the superuser's.
    pub async fn pids(&self) -> Vec<i32> {
        let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename <> 'postgres'";
        self.superuser("app").await.query(sql, &[]).await.expect(sql).iter().map(|row| row.get(0)).collect()
    }

    /// Ends every connection that is not the superuser's, as an administrator would, and waits until those are gone. Gives their number.
    pub async fn terminate_connections(&self) -> usize {
        let admin = self.superuser("app").await;
        let sql =
            "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename <> 'postgres'";
        let ended: Vec<i32> = admin.query(sql, &[]).await.expect(sql).iter().map(|row| row.get(0)).collect();
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY($1)";
        wait::until("the connections to be gone", async || {
            let left: i64 = admin.query_one(sql, &[&ended]).await.expect(sql).get(0);
            (left == 0).then_some(())
        })
        .await;
        ended.len()
    }

    /// Stops it at once, as a crash would for its clients.
    pub fn stop(&mut self) {
        self.stop_by(Signal::QUIT);
    }

    /// Stops it by this signal: `INT` tells its clients before.
    pub fn stop_by(&mut self, signal: Signal) {
        if let Some(mut process) = self.process.take() {
            process.end_by(signal);
        }
    }

    /// Whether it was stopped.
    pub fn is_stopped(&self) -> bool {
        self.process.is_none()
    }

    /// Starts it again on the same port.
    pub async fn launch(&mut self) {
        let mut command = as_server_user(&program("postgres"));
        command.arg("-D").arg(&self.data).arg("-k").arg(&self.data).arg("-p").arg(self.port.to_string());
        let quick = ["fsync=off", "full_page_writes=off", "max_connections=100", "shared_buffers=16MB"];
        let fixed = ["listen_addresses=127.0.0.1", "autovacuum=off", "logging_collector=off"];
        for option in quick.into_iter().chain(fixed).chain(self.options.iter().map(String::as_str)) {
            command.arg("-c").arg(option);
        }
        let process = Process::spawn("postgres", command).ended_by(Signal::QUIT);
        process.log().line_with("ready to accept connections").await;
        self.process = Some(process);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
        // The guardian would do it later; thousands of tests should not have to fit on the disk together.
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

/// The path of one of PostgreSQL's own programs: the newest version installed, wherever Debian or the path has it.
pub fn program(name: &str) -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin").join(name))))
        .filter(|(_, path)| path.exists())
        .collect();
    found.sort();
    found.pop().map_or_else(|| PathBuf::from(name), |(_, path)| path)
}

fn template() -> &'static Path {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let data = place::directory("postgres-template");
        own(&data);
        let mut initdb = as_server_user(&program("initdb"));
        initdb.arg("-D").arg(&data).args(["-U", "postgres", "--no-sync", "--auth=trust", "--encoding=UTF8"]);
        run(initdb.args(["--locale=C.UTF-8", "--wal-segsize=1"]));
        std::fs::write(data.join("pg_hba.conf"), HBA).expect("the template is ours to write");
        let roles = data.join("roles.sql");
        std::fs::write(&roles, ROLES).expect("the template is ours to write");
        let mut single = as_server_user(&program("postgres"));
        single.args(["--single", "-F", "-D"]).arg(&data).arg("postgres");
        run(single.stdin(std::fs::File::open(&roles).expect("just written")));
        data
    })
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !text.contains("ERROR"), "{command:?}:\n{text}");
}

/// PostgreSQL refuses to run as root: then it runs as `postgres`, or as `nobody` where that user is missing.
fn server_user() -> Option<(u32, u32)> {
    if !rustix::process::getuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("every Unix has it");
    let find = |name: &str| {
        let fields: Vec<&str> = users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == name)?;
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    };
    find("postgres").or_else(|| find("nobody"))
}

fn as_server_user(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").env("LC_ALL", "C.UTF-8");
    if let Some((user, group)) = server_user() {
        command.uid(user).gid(group);
    }
    command
}

fn own(directory: &Path) {
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700)).expect("a directory of ours");
    if let Some((user, group)) = server_user() {
        chown(directory, Some(user), Some(group)).expect("root may give away its files");
    }
}
