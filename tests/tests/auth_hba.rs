//! `auth_hba_file` and `auth_ident_file`: each kind of line, the first that fits, changes while it runs; peer over a Unix socket.

use std::path::PathBuf;
use std::process::Command;

use sidepool_tests::conformance::proves;
use sidepool_tests::place;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cluster::{PASSWORD, USER, program};
use sidepool_tests::postgres::{Cluster, Message, Wire};
use sidepool_tests::settings::Settings;
use sidepool_tests::tls::{self, Authority};
use sidepool_tests::wait;

/// A place for the files.
struct Files(PathBuf);

impl Files {
    fn new(hba: &str) -> Self {
        let files = Self(place::directory("hba"));
        files.write("hba.conf", hba);
        files.write("ident.conf", "");
        files
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }

    fn write(&self, name: &str, text: &str) {
        let new = self.0.join(".new");
        std::fs::write(&new, text).expect("our own directory");
        std::fs::rename(&new, self.0.join(name)).expect("the same directory");
    }

    fn settings(&self, cluster: &Cluster) -> Settings {
        Settings::postgres(cluster)
            .set("postgres.auth_type", "hba")
            .set("postgres.auth_hba_file", self.path("hba.conf"))
            .set("postgres.auth_ident_file", self.path("ident.conf"))
    }
}

async fn attempt(pool: &Pooler, user: &str, database: &str, password: &str) -> Result<Wire, Message> {
    Wire::try_login(pool.postgres_port(), &[("user", user), ("database", database)], password).await
}

fn told(error: &Message) -> (String, String) {
    (error.field(b'C').expect("a code"), error.field(b'M').expect("a message"))
}

async fn refused(pool: &Pooler, user: &str, database: &str, password: &str) -> (String, String) {
    told(&attempt(pool, user, database, password).await.err().unwrap_or_else(|| panic!("{user} at {database} comes in")))
}

fn said(code: &str, message: &str) -> (String, String) {
    (code.to_owned(), message.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_line_that_fits_says_how() {
    let _proof = proves(&[
        "setting auth_hba_file",
        "setting auth_type",
        "message login rejected",
        "message no authentication method is found",
        "message \"trust\" authentication failed",
    ]);
    let cluster = Cluster::start().await;
    let files = Files::new(
        "host app rejected 127.0.0.1/32 reject\n\
         host app app 127.0.0.0/8 scram-sha-256\n\
         host app second 127.0.0.1 255.255.255.255 password\n\
         host app legacy all md5\n\
         host \"app\" open all trust\n\
         host app stranger all trust\n\
         local all all peer\n\
         host other app 10.0.0.0/8 trust\n\
         hostssl other app all trust\n",
    );
    let mut settings = files.settings(&cluster).database("other", &cluster);
    for (user, password) in [("rejected", "x"), ("second", "second-secret"), ("legacy", "legacy-secret"), ("open", "")] {
        settings = match password {
            "" => settings.set(&format!("postgres.users.{user}.pool_size"), 2),
            _ => settings.set(&format!("postgres.users.{user}.password"), password),
        };
    }
    let pool = Pooler::start(settings).await;
    for (user, password) in [(USER, PASSWORD), ("second", "second-secret"), ("legacy", "legacy-secret"), ("open", "whatever")] {
        let mut wire = attempt(&pool, user, "app", password).await.unwrap_or_else(|error| panic!("{user}: {:?}", told(&error)));
        assert_eq!(wire.value("SELECT current_user").await, user);
    }
    assert_eq!(refused(&pool, "rejected", "app", "x").await, said("28000", "login rejected"));
    assert_eq!(refused(&pool, USER, "app", "wrong").await, said("28P01", "SASL authentication failed"));
    assert_eq!(refused(&pool, "second", "app", "wrong").await, said("28P01", "password authentication failed"));
    assert_eq!(refused(&pool, "legacy", "app", "wrong").await, said("28P01", "password authentication failed"));
    assert_eq!(refused(&pool, "stranger", "app", "").await, said("28000", "\"trust\" authentication failed"));
    let nothing = said("28000", "no authentication method is found");
    assert_eq!(refused(&pool, USER, "other", PASSWORD).await, nothing, "from elsewhere, or under TLS");
    assert_eq!(refused(&pool, USER, "nowhere", PASSWORD).await, nothing);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_rules_hold_at_once_and_broken_ones_change_nothing() {
    let cluster = Cluster::start().await;
    let files = Files::new("host all all all reject\n");
    let pool = Pooler::start(files.settings(&cluster)).await;
    assert_eq!(refused(&pool, USER, "app", PASSWORD).await.1, "login rejected");
    files.write("hba.conf", "host all @users all scram-sha-256\n");
    files.write("users", "app # the only one\n");
    let mut wire = wait::until("the new rules", async || attempt(&pool, USER, "app", PASSWORD).await.ok()).await;
    files.write("users", "eve\n");
    wait::until("a changed list", async || attempt(&pool, USER, "app", PASSWORD).await.err()).await;
    assert_eq!(wire.value("SELECT 'who is in stays in'").await, "who is in stays in");
    files.write("hba.conf", "host all all all scram\n");
    pool.process().log().line_with("hba.conf:1: unknown method \"scram\"").await;
    assert_eq!(refused(&pool, USER, "app", PASSWORD).await.1, "no authentication method is found", "the old rules hold");
    files.write("hba.conf", "host all all all trust\n");
    wait::until("the mended rules", async || attempt(&pool, USER, "app", "").await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_of_the_other_end_of_a_unix_socket_may_come_in() {
    let _proof = proves(&["message unix socket login rejected", "setting auth_ident_file"]);
    let cluster = Cluster::start().await;
    let files = Files::new("local all second peer\nlocal all all peer map=ops\n");
    let directory = place::directory("socket");
    let settings = files.settings(&cluster);
    let port = settings.postgres_port();
    let listen = vec![format!("127.0.0.1:{port}"), format!("unix:{}", directory.display())];
    let settings = settings.set("postgres.listen", listen).set("postgres.users.second.password", "second-secret");
    let pool = Pooler::start(settings).await;
    let me = system_user();
    let login = async |user: &str| {
        let mut config = tokio_postgres::Config::new();
        config.host_path(&directory).port(port).user(user).dbname("app");
        let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        client.query_one("SELECT current_user::text", &[]).await.map(|row| row.get::<_, String>(0))
    };
    let refusal = |error: tokio_postgres::Error| error.as_db_error().map(|error| error.message().to_owned()).unwrap_or_default();
    assert_eq!(refusal(login(USER).await.expect_err("no map")), "unix socket login rejected");
    files.write("ident.conf", &format!("# nobody else\nops {me} {USER}\nops {me} stranger\n"));
    let came = wait::until("the new map", async || login(USER).await.ok()).await;
    assert_eq!(came, USER);
    assert_eq!(refusal(login("second").await.expect_err("another name, and no map in its line")), "unix socket login rejected");
    assert_eq!(refusal(login("stranger").await.expect_err("mapped, but unknown")), "unix socket login rejected");
    assert_eq!(refused(&pool, USER, "app", PASSWORD).await.1, "no authentication method is found", "over TCP");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_holder_of_a_certificate_may_come_in() {
    let _proof = proves(&["setting auth_ident_file", "message certificate authentication failed"]);
    let cluster = Cluster::start().await;
    let authority = Authority::new("the authority");
    let certificates = tls::Files::new(&[("ca.crt", &authority.pem())]);
    for (name, identity) in [
        ("server", authority.issue("localhost", &["localhost"])),
        ("app", authority.issue(USER, &[])),
        ("staff", authority.issue("Jo Doe", &[])),
    ] {
        certificates.put(&format!("{name}.crt"), &identity.cert);
        certificates.put(&format!("{name}.key"), &identity.key);
    }
    let files = Files::new("hostssl other all all cert map=people\nhostssl all all all cert\nhostnossl all all all reject\n");
    files.write("ident.conf", "people \"Jo Doe\" app\n");
    let settings = files
        .settings(&cluster)
        .database("other", &cluster)
        .set("postgres.client_tls_sslmode", "allow")
        .set("postgres.client_tls_ca_file", certificates.path("ca.crt"))
        .set("postgres.client_tls_key_file", certificates.path("server.key"))
        .set("postgres.client_tls_cert_file", certificates.path("server.crt"));
    let by_setting = settings.clone().set("postgres.auth_type", "cert");
    let pool = Pooler::start(settings).await;
    let psql = async |pool: &Pooler, database: &str, with: &str| {
        let given = match with {
            "" => "sslmode=require".to_owned(),
            "plain" => "sslmode=disable".to_owned(),
            name => format!(
                "sslmode=require sslcert={} sslkey={}",
                certificates.path(&format!("{name}.crt")),
                certificates.path(&format!("{name}.key"))
            ),
        };
        let connection = format!("host=127.0.0.1 port={} user={USER} dbname={database} {given}", pool.postgres_port());
        let mut psql = Command::new(program("psql"));
        psql.args(["-X", "-A", "-t", "-c", "SELECT current_user", &connection]).env_remove("PGSSLMODE").env("HOME", "/nonexistent");
        let output = wait::soon("psql", tokio::task::spawn_blocking(move || psql.output().expect("psql starts"))).await.expect("it ends");
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    assert_eq!(psql(&pool, "app", "app").await.trim(), USER);
    assert_eq!(psql(&pool, "other", "staff").await.trim(), USER, "by the map");
    for (database, with) in [("app", "staff"), ("other", "app"), ("app", "")] {
        let said = psql(&pool, database, with).await;
        assert!(said.contains("certificate authentication failed"), "{database} {with}: {said}");
    }
    assert!(psql(&pool, "app", "plain").await.contains("login rejected"));
    drop(pool);
    let pool = Pooler::start(by_setting).await;
    assert_eq!(psql(&pool, "app", "app").await.trim(), USER);
    for with in ["staff", "", "plain"] {
        let said = psql(&pool, "app", with).await;
        assert!(said.contains("certificate authentication failed"), "{with}: {said}");
    }
}

/// The name of the user that the tests run as.
fn system_user() -> String {
    let output = Command::new("id").arg("-un").output().expect("every Unix has it");
    String::from_utf8(output.stdout).expect("a name").trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn users_that_vanish_from_the_file_come_in_no_more() {
    let _proof = proves(&["setting auth_file", "message SASL authentication failed"]);
    let cluster = Cluster::start().await;
    let directory = place::directory("users");
    let list = directory.join("userlist.txt");
    let write = |text: &str| {
        std::fs::write(directory.join(".new"), text).expect("our own directory");
        std::fs::rename(directory.join(".new"), &list).expect("the same directory");
    };
    write(&format!("\"app\" \"{PASSWORD}\"\n\"second\" \"second-secret\"\n"));
    let settings = Settings::postgres(&cluster).without("postgres.users.app").set("postgres.auth_type", "scram-sha-256");
    let pool = Pooler::start(settings.set("postgres.auth_file", list.to_string_lossy().into_owned())).await;
    drop(attempt(&pool, "second", "app", "second-secret").await.unwrap_or_else(|error| panic!("{:?}", told(&error))));
    write(&format!("\"app\" \"{PASSWORD}\"\n"));
    let gone = said("28P01", "SASL authentication failed");
    wait::until("the user to be gone", async || {
        attempt(&pool, "second", "app", "second-secret").await.err().filter(|error| told(error) == gone)
    })
    .await;
    drop(attempt(&pool, USER, "app", PASSWORD).await.unwrap_or_else(|error| panic!("{:?}", told(&error))));
}
