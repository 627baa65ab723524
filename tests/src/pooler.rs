//! The pooler under test, between the servers and the test's clients.
//!
//! `SIDEPOOL_TESTS_POOLER=pgbouncer` points the same test at Debian's PgBouncer, which shows what a PostgreSQL test says of the field.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use crate::binary::{self, Build};
use crate::place;
use crate::postgres::Wire;
use crate::postgres::cluster::{PASSWORD, USER};
use crate::process::{Process, Signal};
use crate::redis;
use crate::scrape::{self, Scrape};
use crate::settings::Settings;
use crate::wait;

/// Who stands between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Sidepool,
    /// Debian's, for comparison.
    Pgbouncer,
}

/// A running pooler. Ended with the test.
pub struct Pooler {
    kind: Kind,
    settings: Settings,
    directory: PathBuf,
    process: Process,
}

impl Pooler {
    /// Starts sidepool (debug assertions on), or whom the environment names, and waits until it is ready.
    pub async fn start(settings: Settings) -> Self {
        Self::start_as(settings, Build::Checked).await
    }

    /// Starts sidepool as users run it.
    pub async fn start_fast(settings: Settings) -> Self {
        Self::start_as(settings, Build::Fast).await
    }

    /// Starts sidepool on the `sidepool.toml` that the test has put into `directory`; `settings` says where it listens.
    pub async fn start_file(settings: Settings, directory: &Path) -> Self {
        Self::launch(Kind::Sidepool, settings, Build::Checked, directory.to_owned()).await
    }

    /// Starts sidepool with a limit on open files that it cannot raise.
    pub async fn start_with_files(settings: Settings, files: u64) -> Self {
        Self::start_with_soft_files(settings, files, files).await
    }

    /// Starts sidepool with a limit on open files that it can raise.
    pub async fn start_with_soft_files(settings: Settings, soft: u64, files: u64) -> Self {
        let directory = place::directory("pooler");
        write(Kind::Sidepool, &directory, &settings);
        let unlimited = command(Kind::Sidepool, Build::Checked, &directory);
        let mut limited = Command::new("prlimit");
        limited.arg(format!("--nofile={soft}:{files}")).arg(unlimited.get_program()).args(unlimited.get_args());
        limited.env_remove("DATABASE_URL").env_remove("REDIS_URL");
        Self::launch_as(Kind::Sidepool, settings, directory, limited).await
    }

    /// Starts sidepool, as users run it, under a program that observes it: one that becomes the process, or leaves it to be our child.
    pub async fn start_observed(settings: Settings, observer: &[&str]) -> Self {
        let directory = place::directory("pooler");
        write(Kind::Sidepool, &directory, &settings);
        let plain = command(Kind::Sidepool, Build::Fast, &directory);
        let (program, arguments) = observer.split_first().expect("a program");
        let mut observed = Command::new(program);
        observed.args(arguments).arg(plain.get_program()).args(plain.get_args());
        observed.env_remove("DATABASE_URL").env_remove("REDIS_URL");
        Self::launch_as(Kind::Sidepool, settings, directory, observed).await
    }

    async fn start_as(settings: Settings, build: Build) -> Self {
        let kind = match std::env::var("SIDEPOOL_TESTS_POOLER").as_deref() {
            Ok("pgbouncer") => Kind::Pgbouncer,
            Ok("sidepool" | "") | Err(_) => Kind::Sidepool,
            Ok(other) => panic!("SIDEPOOL_TESTS_POOLER is {other:?}: say sidepool or pgbouncer"),
        };
        let directory = place::directory("pooler");
        write(kind, &directory, &settings);
        Self::launch(kind, settings, build, directory).await
    }

    async fn launch(kind: Kind, settings: Settings, build: Build, directory: PathBuf) -> Self {
        let command = command(kind, build, &directory);
        Self::launch_as(kind, settings, directory, command).await
    }

    async fn launch_as(kind: Kind, settings: Settings, directory: PathBuf, command: Command) -> Self {
        let process = Process::spawn(&format!("{kind:?}"), command);
        let mut pooler = Self { kind, settings, directory, process };
        pooler.ready().await;
        pooler
    }

    /// Starts a sidepool that takes over from this one (`--take-over`) with these settings, and gives its process at once: it may fail.
    pub fn try_successor(&self, settings: &Settings) -> Process {
        let directory = place::directory("successor");
        write(Kind::Sidepool, &directory, settings);
        let mut command = command(Kind::Sidepool, Build::Checked, &directory);
        command.arg("--take-over");
        Process::spawn("successor", command)
    }

    /// The same, and waits until it serves.
    pub async fn successor(&self, settings: Settings) -> Self {
        let process = self.try_successor(&settings);
        process.log().line_with(" is ready").await;
        Self { kind: Kind::Sidepool, settings, directory: self.directory.clone(), process }
    }

    /// Who this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its process: log, memory, signals.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its process, to end it.
    pub fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What it was told last.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The file that it was told to read.
    pub fn file(&self) -> PathBuf {
        self.directory.join("sidepool.toml")
    }

    /// Where PostgreSQL clients connect.
    pub fn postgres_port(&self) -> u16 {
        self.settings.postgres_port()
    }

    /// Where Redis clients connect.
    pub fn redis_port(&self) -> u16 {
        self.settings.redis_port()
    }

    /// A driver's connection as user `app` to database `app`.
    pub async fn client(&self) -> Client {
        self.try_client(USER, "app", PASSWORD).await.expect("user app comes in")
    }

    /// A driver's connection, or the driver's error.
    pub async fn try_client(&self, user: &str, database: &str, password: &str) -> Result<Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.postgres_port()).user(user).dbname(database).password(password);
        let (client, connection) = wait::soon("a login through the pooler", config.connect(NoTls)).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// A raw connection as user `app` to database `app`.
    pub async fn wire(&self) -> Wire {
        Wire::login(self.postgres_port(), USER, "app", PASSWORD).await
    }

    /// A raw Redis connection that has said nothing yet.
    pub async fn redis_wire(&self) -> redis::Wire {
        redis::Wire::connect(self.redis_port()).await
    }

    /// A driver's Redis connection.
    pub async fn redis_client(&self) -> ::redis::aio::MultiplexedConnection {
        let client = ::redis::Client::open(format!("redis://127.0.0.1:{}", self.redis_port())).expect("a URL");
        wait::soon("a Redis connection", client.get_multiplexed_async_connection()).await.expect("the proxy answers")
    }

    /// Its metrics now. A worker that does not answer within a second is shown with its numbers of before, or not at all: then it is asked again.
    pub async fn scrape(&self) -> Scrape {
        let mut tries = 3;
        loop {
            let begun = Instant::now();
            let scrape = scrape::metrics(self.settings.admin_port()).await;
            tries -= 1;
            if begun.elapsed() < Duration::from_secs(1) || tries == 0 {
                return scrape;
            }
        }
    }

    /// Waits until its metrics satisfy `condition`.
    pub async fn metrics_show(&self, what: &str, condition: impl Fn(&Scrape) -> bool) -> Scrape {
        wait::until(what, async || Some(self.scrape().await).filter(&condition)).await
    }

    /// Writes these settings in place of the present ones, and says nothing.
    pub fn write(&mut self, settings: Settings) {
        write(self.kind, &self.directory, &settings);
        self.settings = settings;
    }

    /// Replaces the settings, sends HUP and waits until the reload is in force.
    pub async fn reload(&mut self, settings: Settings) {
        let before = self.scrape().await.sum("sidepool_config_reloads_total", &[("result", "ok")]);
        self.write(settings);
        self.process.signal(Signal::HUP);
        self.metrics_show("the reload in the metrics", |now| now.sum("sidepool_config_reloads_total", &[("result", "ok")]) > before).await;
        // Workers answer a scrape behind what was put into force before it.
        self.scrape().await;
    }

    /// Sends TERM and waits for the end.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.process.signal(Signal::TERM);
        self.process.ended().await
    }

    /// Waits until it accepts clients; fails with its last words when it ends instead.
    async fn ready(&mut self) {
        let (admin, port) = (self.settings.admin_port(), self.settings.postgres_port());
        wait::until("the pooler to be ready", async || {
            if let Some(status) = self.process.poll_end() {
                panic!("the pooler ended at once ({status})");
            }
            match self.kind {
                Kind::Sidepool => scrape::get(admin, "/readyz").await.filter(|answer| answer.status == 200).map(drop),
                Kind::Pgbouncer => tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok().map(drop),
            }
        })
        .await;
    }
}

/// Writes the configuration; each file is replaced as a whole.
fn write(kind: Kind, directory: &Path, settings: &Settings) {
    let put = |name: &str, text: String| {
        let new = directory.join(format!(".{name}.new"));
        std::fs::write(&new, text).expect("our own directory");
        std::fs::rename(&new, directory.join(name)).expect("the same directory");
    };
    match kind {
        Kind::Sidepool => put("sidepool.toml", settings.toml()),
        Kind::Pgbouncer => {
            let (ini, users) = settings.pgbouncer(&directory.join("userlist.txt").to_string_lossy());
            put("userlist.txt", users);
            put("pgbouncer.ini", ini);
        }
    }
}

fn command(kind: Kind, build: Build, directory: &Path) -> Command {
    match kind {
        Kind::Sidepool => {
            let mut command = Command::new(binary::path(build));
            command.arg(directory.join("sidepool.toml")).env_remove("DATABASE_URL").env_remove("REDIS_URL");
            command
        }
        Kind::Pgbouncer => {
            let mut command = Command::new("/usr/sbin/pgbouncer");
            command.arg(directory.join("pgbouncer.ini"));
            if rustix::process::getuid().is_root() {
                // It refuses to run as root, as PostgreSQL does; `nobody` may read what is not secret here.
                chown(directory, Some(65534), Some(65534)).expect("root may give away its files");
                for name in ["pgbouncer.ini", "userlist.txt"] {
                    std::fs::set_permissions(directory.join(name), std::fs::Permissions::from_mode(0o644)).expect("our own file");
                }
                command.uid(65534).gid(65534);
            }
            command
        }
    }
}
