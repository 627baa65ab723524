//! Passwords that the operating system checks (PAM), with service files of the test's own: Debian's pam_wrapper leads libpam to them, so that
//! nothing of the machine is touched. What both can, Debian's PgBouncer shows beside ours.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sidepool_tests::conformance::proves;
use sidepool_tests::ini::{IniPooler, Program};
use sidepool_tests::postgres::cluster::{PASSWORD, USER};
use sidepool_tests::postgres::{Cluster, Message, Wire, frame};
use sidepool_tests::{binary, place, wait};

/// Debian's modules for tests.
fn module(name: &str) -> PathBuf {
    let found = std::fs::read_dir("/usr/lib").expect("a system").flatten().map(|entry| entry.path().join("pam_wrapper").join(name));
    found.into_iter().find(|path| path.exists()).expect("libpam-wrapper is installed")
}

/// pam_wrapper gives each process one of a few directories by chance, and takes one for left over whose process has not yet written its number:
/// of two that begin at once, one may lose its files. So the tests of this file take turns.
static TURN: Mutex<()> = Mutex::new(());

/// A directory of service files, and one of theirs.
struct Services {
    directory: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Services {
    fn new() -> Self {
        binary::with_pam();
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Self { directory: place::directory("pam"), _turn: turn }
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.directory.join(name);
        std::fs::write(&path, text).expect("our own directory");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("our own file");
        path
    }

    /// A service that knows these users, each with a password.
    fn with_users(self, service: &str, users: &[(&str, &str)]) -> Self {
        let lines: String = users.iter().map(|(user, password)| format!("{user}:{password}:{service}\n")).collect();
        let list = self.write(&format!("{service}.users"), &lines, 0o644);
        let line = |kind: &str| format!("{kind} required {} passdb={}\n", module("pam_matrix.so").display(), list.display());
        self.write(service, &format!("{}{}", line("auth"), line("account")), 0o644);
        self
    }

    /// A service that runs a script, which is told the password.
    fn with_script(self, service: &str, script: &str) -> Self {
        let path = self.write(&format!("{service}.sh"), &format!("#!/bin/sh\n{script}\n"), 0o755);
        self.write(
            service,
            &format!("auth required pam_exec.so expose_authtok {}\naccount required pam_permit.so\n", path.display()),
            0o644,
        );
        self
    }

    async fn pooler(&self, program: Program, cluster: &Cluster, auth: &str, hba: &str) -> IniPooler {
        let ini = format!(
            "[databases]\napp = host=127.0.0.1 port={} dbname=app\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = LISTEN_PORT\n\
             unix_socket_dir = SOCKET_DIRECTORY\nauth_hba_file = SOCKET_DIRECTORY/hba.conf\n{auth}\n",
            cluster.port()
        );
        let directory = self.directory.to_string_lossy();
        let environment = [("LD_PRELOAD", "libpam_wrapper.so"), ("PAM_WRAPPER", "1"), ("PAM_WRAPPER_SERVICE_DIR", &*directory)];
        IniPooler::start_in(&environment, program, &ini, "", &[("hba.conf", hba)]).await
    }
}

impl Drop for Services {
    /// What pam_wrapper leaves behind of a process that was killed.
    fn drop(&mut self) {
        let entries = std::fs::read_dir("/tmp").expect("a system").flatten().map(|entry| entry.path());
        for left in entries.filter(|path| path.extension().is_some() && path.file_stem().is_some_and(|stem| stem == "pam")) {
            let process = std::fs::read_to_string(left.join("pid")).unwrap_or_default();
            if !process.trim().is_empty() && !Path::new("/proc").join(process.trim()).exists() {
                // Whoever else runs this test may be faster.
                let _ = std::fs::remove_dir_all(left);
            }
        }
    }
}

async fn attempt(port: u16, user: &str, password: &str) -> Result<Wire, Message> {
    Wire::try_login(port, &[("user", user), ("database", "app")], password).await
}

async fn comes_in(port: u16, what: &str) {
    let mut wire = attempt(port, USER, PASSWORD).await.unwrap_or_else(|error| panic!("{what}: {:?}", error.field(b'M')));
    assert_eq!(wire.value("SELECT current_user").await, USER, "{what}: and its password goes on to the database");
}

async fn stays_out(port: u16, user: &str, password: &str, message: &str) {
    let error = attempt(port, user, password).await.err().unwrap_or_else(|| panic!("{user} comes in"));
    assert_eq!(error.field(b'M').as_deref(), Some(message), "{user}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operating_system_says_who_comes_in() {
    let _proof = proves(&["message PAM authentication failed", "setting auth_type"]);
    let cluster = Cluster::start().await;
    let services = Services::new().with_users("pgbouncer", &[(USER, PASSWORD), ("second", "other")]);
    let ours = services.pooler(Program::Sidepool, &cluster, "auth_type = pam", "").await;
    let theirs = services.pooler(Program::Pgbouncer, &cluster, "auth_type = pam", "").await;
    for (pooler, what) in [(&ours, "sidepool"), (&theirs, "PgBouncer")] {
        comes_in(pooler.port(), what).await;
        for (user, password) in [(USER, "wrong"), (USER, "other"), ("nobody", PASSWORD)] {
            stays_out(pooler.port(), user, password, "PAM authentication failed").await;
        }
    }
    stays_out(ours.port(), USER, "", "PAM authentication failed").await;
    assert!(!ours.process().log().tail(1000).contains(PASSWORD), "no secret in the log");
    ours.process().log().line_with("pam_authenticate() failed: ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_the_file_names_the_service_and_modules_learn_who_asks() {
    let cluster = Cluster::start().await;
    let seen = place::directory("seen");
    std::fs::set_permissions(&seen, std::fs::Permissions::from_mode(0o777)).expect("our own directory");
    let script = format!(
        "read password; echo \"$PAM_SERVICE $PAM_USER $PAM_RHOST\" > {0}/new; mv {0}/new {0}/it; [ \"$password\" = {PASSWORD} ]",
        seen.display()
    );
    let services = Services::new().with_users("pgbouncer", &[(USER, "unused")]).with_script("db", &script);
    let hba = "host all app 127.0.0.1/32 pam pamservice=db\nlocal all app pam pamservice=db\nhost all second all pam\n";
    let pooler = services.pooler(Program::Sidepool, &cluster, "auth_type = hba", hba).await;
    comes_in(pooler.port(), "a line").await;
    assert_eq!(told(&seen), "db app 127.0.0.1\n");
    stays_out(pooler.port(), USER, "wrong", "PAM authentication failed").await;
    stays_out(pooler.port(), "second", PASSWORD, "PAM authentication failed").await;
    let mut config = tokio_postgres::Config::new();
    config.host_path(pooler.directory()).port(pooler.port()).user(USER).password(PASSWORD).dbname("app");
    drop(config.connect(tokio_postgres::NoTls).await.expect("it comes in over the Unix socket"));
    assert_eq!(told(&seen), "db app unix\n");
}

fn told(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("it")).expect("the script has run")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_hangs_or_crashes_harms_one_login_alone() {
    let cluster = Cluster::start().await;
    let seen = place::directory("seen");
    std::fs::set_permissions(&seen, std::fs::Permissions::from_mode(0o777)).expect("our own directory");
    // The parent of the script is the program that asks; pam_exec takes care that the script outlives it.
    let hang = format!("echo $PPID > {0}/new; mv {0}/new {0}/it; while kill -0 $PPID; do sleep 0.1; done", seen.display());
    let services =
        Services::new().with_users("pgbouncer", &[(USER, PASSWORD)]).with_script("hangs", &hang).with_script("crashes", "kill -ABRT $PPID");
    let hba = "host all hanging all pam pamservice=hangs\nhost all crashing all pam pamservice=crashes\nhost all all all pam\n";
    // It holds for each login of this test: longer than a crowded machine takes to start what is asked.
    let pooler = services.pooler(Program::Sidepool, &cluster, "auth_type = hba\nclient_login_timeout = 10", hba).await;
    let mut hanging = Wire::connect(pooler.port()).await;
    hanging.send(&frame::startup(&[("user", "hanging"), ("database", "app")])).await;
    hanging.read().await.expect("it is asked for its password");
    hanging.send(&frame::password(PASSWORD)).await;
    let program = wait::until("the module to hang", async || std::fs::read_to_string(seen.join("it")).ok()).await;
    comes_in(pooler.port(), "meanwhile").await;
    stays_out(pooler.port(), "crashing", PASSWORD, "bouncer config error").await;
    pooler.process().log().line_with("PAM cannot be asked (signal: 6").await;
    comes_in(pooler.port(), "afterwards").await;
    let end = hanging.until_closed().await;
    assert_eq!(end.first().and_then(|message| message.field(b'M')).as_deref(), Some("client_login_timeout"));
    let process = Path::new("/proc").join(program.trim());
    wait::until("the program to be killed", async || (!process.exists()).then_some(())).await;
}
