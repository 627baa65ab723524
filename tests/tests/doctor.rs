//! `sidepool doctor`: real servers with what operators meet, and the finding that names it, in both forms of output.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use sidepool_tests::binary::{Build, path};
use sidepool_tests::dns::{Answer, NameServer};
use sidepool_tests::place;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::Cluster;
use sidepool_tests::postgres::cluster::PASSWORD;
use sidepool_tests::redis::RedisServer;
use sidepool_tests::settings::Settings;
use sidepool_tests::tls::{self, Authority, Files};
use sidepool_tests::wait;

/// What was found: the document, and how the program ended.
struct Found {
    document: Value,
    code: Option<i32>,
}

impl Found {
    /// The findings of a check: the verdict and all its words.
    fn all(&self, check: &str) -> Vec<(String, String)> {
        let findings = self.document["findings"].as_array().expect("a list");
        let text = |finding: &Value, key: &str| finding[key].as_str().expect("a text").to_owned();
        let words = |finding: &Value| ["found", "why", "advice"].map(|key| text(finding, key)).join(" | ");
        findings.iter().filter(|finding| finding["check"] == check).map(|finding| (text(finding, "verdict"), words(finding))).collect()
    }

    /// Asserts that a check has come to this verdict, with all of these words in it.
    fn says(&self, check: &str, verdict: &str, words: &[&str]) {
        let all = self.all(check);
        let fits = |(found, text): &(String, String)| found == verdict && words.iter().all(|word| text.contains(word));
        assert!(all.iter().any(fits), "no {verdict} {words:?} in {all:#?}");
        assert_eq!(self.code, Some(i32::from(self.document["problems"] != 0)), "the exit code says whether anything is broken");
    }

    /// Asserts that nothing is broken.
    fn is_good(&self) {
        assert_eq!((self.code, &self.document["good"]), (Some(0), &Value::Bool(true)), "{:#}", self.document);
    }
}

fn file(settings: &Settings) -> PathBuf {
    let file = place::directory("doctor").join("sidepool.toml");
    std::fs::write(&file, settings.toml()).expect("our own directory");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("our own file");
    file
}

async fn run(words: &[&str]) -> Output {
    let mut command = tokio::process::Command::from(Command::new(path(Build::Checked)));
    let output = command.arg("doctor").args(words).env_remove("DATABASE_URL").env_remove("REDIS_URL").output();
    let output = tokio::time::timeout(std::time::Duration::from_secs(60), output).await.expect("it ends").expect("it starts");
    let printed = [&output.stdout[..], &output.stderr[..]].concat();
    let printed = String::from_utf8_lossy(&printed);
    for secret in [PASSWORD, "hunter2", "tiger3"] {
        assert!(!printed.contains(secret), "a secret is shown:\n{printed}");
    }
    output
}

async fn examine(settings: &Settings, words: &[&str]) -> Found {
    let file = file(settings);
    let output = run(&[&["--json", file.to_str().expect("UTF-8")], words].concat()).await;
    let document = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error} in {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    });
    Found { document, code: output.status.code() }
}

#[tokio::test(flavor = "multi_thread")]
async fn good_servers_are_said_to_be_good_for_people_and_for_machines() {
    let (cluster, redis) = (Cluster::start().await, RedisServer::start_with_password("hunter2").await);
    let settings =
        Settings::postgres(&cluster).and_redis(&redis).set("postgres.max_client_conn", 100).set("redis.main.max_client_conn", 100);
    let found = examine(&settings, &[]).await;
    found.is_good();
    found.says("login", "ok", &["as app to app"]);
    found.says("login", "ok", &["as default to database 0"]);
    found.says("max_connections", "ok", &["5 connections", "97"]);
    found.says("maxclients", "ok", &["20 connections", "10000"]);
    found.says("resp3", "ok", &[]);
    found.says("acl", "ok", &["ACL DRYRUN"]);
    assert_eq!(found.all("clock").iter().map(|(verdict, _)| verdict.as_str()).collect::<Vec<_>>(), ["ok", "ok"]);
    wait::until("nothing to be left open", async || (cluster.connections().await == 0).then_some(())).await;

    let output = run(&[file(&settings).to_str().expect("UTF-8")]).await;
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success() && !text.contains('\x1b'), "{text}");
    for line in
        ["Configuration", &format!("PostgreSQL 127.0.0.1:{} (app)", cluster.port()), &format!("Redis 127.0.0.1:{} (main)", redis.port())]
    {
        assert!(text.lines().any(|shown| shown == line), "no line {line:?} in\n{text}");
    }
    assert!(text.lines().any(|line| line.starts_with("  ✓ ok       max_connections")), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 110), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_that_are_too_large_for_their_server_are_a_problem() {
    let cluster = Cluster::start_with(&["max_connections=20", "superuser_reserved_connections=3"]).await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 8);
    examine(&settings, &[]).await.is_good();
    let found = examine(&settings, &["--replicas", "3"]).await;
    found.says("max_connections", "problem", &["24 connections", "3 replicas", "lets 17 in", "at most 5", "to 27"]);
    // Whose connections they are makes a difference.
    let _others = [cluster.superuser("app").await, cluster.superuser("app").await];
    let found = examine(&settings, &["--replicas", "2"]).await;
    found.says("max_connections", "warning", &["16 connections", "2 of them by others"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_databases_clients_name_is_seen_all_the_same() {
    let cluster = Cluster::start().await;
    let settings = Settings::new()
        .set("postgres.listen", vec![format!("127.0.0.1:{}", place::free_port())])
        .set("postgres.databases.\"*\".host", "127.0.0.1")
        .set("postgres.databases.\"*\".port", i64::from(cluster.port()))
        .set("postgres.users.app.password", PASSWORD);
    let found = examine(&settings, &[]).await;
    found.is_good();
    found.says("login", "ok", &["as app to postgres"]);
    found.says("version", "ok", &["PostgreSQL"]);
    found.says("max_connections", "ok", &["20 more for each further database", "97"]);
    // Not everybody may go there: then to the database that is called like the user.
    cluster.sql("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC").await;
    examine(&settings, &[]).await.says("login", "ok", &["as app to app"]);
    cluster
        .sql("REVOKE CONNECT ON DATABASE app FROM PUBLIC; ALTER DATABASE app OWNER TO CURRENT_USER; REVOKE ALL ON DATABASE app FROM app")
        .await;
    let found = examine(&settings, &[]).await;
    found.says("login", "unseen", &["no database is named", "[postgres.databases]"]);
    found.is_good();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_names_of_one_server_are_counted_together() {
    let cluster = Cluster::start_with(&["max_connections=20", "superuser_reserved_connections=3"]).await;
    let settings = Settings::postgres(&cluster)
        .set("postgres.default_pool_size", 9)
        .set("postgres.databases.more.host", "localhost")
        .set("postgres.databases.more.port", i64::from(cluster.port()))
        .set("postgres.databases.more.dbname", "app");
    let found = examine(&settings, &[]).await;
    found.says("max_connections", "problem", &["18 connections", "localhost", "is the same server"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_says_of_a_superuser_that_a_limit_holds_for_it() {
    let cluster = Cluster::start().await;
    cluster.sql("ALTER ROLE app SUPERUSER CONNECTION LIMIT 1; ALTER DATABASE app CONNECTION LIMIT 1").await;
    let found = examine(&Settings::postgres(&cluster), &[]).await;
    assert!(found.all("limit").is_empty());
    found.is_good();
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_a_role_and_of_a_database_count() {
    let cluster = Cluster::start().await;
    cluster.sql("ALTER ROLE app CONNECTION LIMIT 4; ALTER DATABASE app CONNECTION LIMIT 6").await;
    let found = examine(&Settings::postgres(&cluster), &[]).await;
    found.says("limit", "problem", &["role app may have 4 connections", "may open 5", "ALTER ROLE \"app\" CONNECTION LIMIT 5"]);
    found.says("limit", "ok", &["database app may have 6 connections"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_hears_why_and_what_to_do() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster);
    for (settings, words) in [
        (settings.clone().set("postgres.users.app.password", "tiger3"), &["28P01", "ALTER ROLE \"app\" PASSWORD"][..]),
        (settings.clone().set("postgres.databases.app.dbname", "none"), &["3D000", "CREATE DATABASE \"none\""]),
        (settings.clone().set("postgres.databases.app.sslmode", "require"), &["does not offer TLS", "ssl = on"]),
    ] {
        let found = examine(&settings, &[]).await;
        let check = if words[0].contains("TLS") { "tls" } else { "login" };
        found.says(check, "problem", words);
    }
    cluster.allow("host all app 127.0.0.1/32 reject").await;
    examine(&settings, &[]).await.says("login", "problem", &["28000", "pg_hba.conf"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_brings_its_own_password_cannot_be_tried_and_that_is_no_problem() {
    let cluster = Cluster::start().await;
    let sql = "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'";
    let verifier: String = cluster.superuser("app").await.query_one(sql, &[]).await.expect(sql).get(0);
    let settings = Settings::postgres(&cluster).set("postgres.auth_type", "scram-sha-256").set("postgres.users.app.password", verifier);
    let found = examine(&settings, &[]).await;
    found.says("login", "unseen", &["a SCRAM verifier"]);
    found.is_good();
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_looked_at() {
    let cluster = Cluster::start().await;
    let (authority, other) = (Authority::new("the authority"), Authority::new("another"));
    let files = Files::new(&[("ca.crt", &authority.pem()), ("other.crt", &other.pem())]);
    let settings = Settings::postgres(&cluster).set("postgres.databases.app.sslmode", "verify-full");
    let believing = |name: &str| settings.clone().set("postgres.server_tls_ca_file", files.path(name));
    tls::encrypt(&cluster, &authority.issue("db", &["127.0.0.1"]), &authority).await;
    let found = examine(&believing("ca.crt"), &[]).await;
    found.is_good();
    found.says("tls", "ok", &["TLSv1.3", "names the host"]);
    examine(&believing("other.crt"), &[]).await.says("tls", "problem", &["certificate verify failed", "server_tls_ca_file"]);

    tls::encrypt(&cluster, &authority.issue("db", &["db.example"]), &authority).await;
    examine(&believing("ca.crt"), &[]).await.says("tls", "problem", &["not valid for", "verify-ca"]);

    tls::encrypt(&cluster, &authority.issue_for_days("db", &["127.0.0.1"], 20), &authority).await;
    examine(&believing("ca.crt"), &[]).await.says("certificate", "warning", &["the server's certificate ends in 20 days"]);

    tls::encrypt(&cluster, &authority.issue_expired("db", &["127.0.0.1"]), &authority).await;
    let found = examine(&believing("ca.crt"), &[]).await;
    found.says("tls", "problem", &["a new certificate"]);
    found.says("certificate", "problem", &["has ended"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_and_a_name_that_leads_nowhere_are_told_apart() {
    let (mut cluster, names) = (Cluster::start().await, NameServer::start().await);
    names.lead("db.test.example", &["127.0.0.1"]);
    names.say("silent.test.example", Answer::Failure);
    let settings = Settings::postgres(&cluster).set("postgres.resolv_conf", names.resolv_conf().display().to_string());
    let at = |host: &str| settings.clone().set("postgres.databases.app.host", host);
    let found = examine(&at("db"), &[]).await;
    found.is_good();
    found.says("dns", "ok", &["db leads to 127.0.0.1"]);
    examine(&at("none"), &[]).await.says("dns", "problem", &["none leads nowhere", "no such host name"]);
    examine(&at("silent"), &[]).await.says("dns", "problem", &["silent leads nowhere"]);
    cluster.stop();
    let found = examine(&at("db"), &[]).await;
    found.says("connect", "problem", &["refused", "listen_addresses"]);
    assert!(found.all("login").is_empty(), "the rest follows from that");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_the_server_that_work_against_a_pooler_are_found() {
    // It holds for what the doctor asks, too: as long as it may be and still be too short.
    let options = ["idle_session_timeout=60s", "idle_in_transaction_session_timeout=5s", "statement_timeout=900ms", "log_connections=on"];
    let cluster = Cluster::start_with(&options).await;
    let found = examine(&Settings::postgres(&cluster), &[]).await;
    found.is_good();
    found.says("idle_session", "warning", &["server_idle_timeout"]);
    found.says("idle_transaction", "warning", &["idle_transaction_timeout"]);
    found.says("statement_timeout", "warning", &["900 ms"]);
    found.says("log_connections", "ok", &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_users_up_is_tried() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.auth_type", "scram-sha-256").set("postgres.auth_user", "app");
    let found = examine(&settings, &[]).await;
    found.says("auth_query", "problem", &["permission denied", "SECURITY DEFINER"]);
    let asking = |query: &str| settings.clone().set("postgres.auth_query", query);
    examine(&asking("SELECT 'x' WHERE $1 = 'app'"), &[]).await.says("auth_query", "problem", &["2 columns"]);
    examine(&asking("SELECT 'x', 'y' WHERE $1 = 'nobody'"), &[]).await.says("auth_query", "warning", &["finds no user app"]);
    let sql = "CREATE FUNCTION find(name) RETURNS TABLE (u name, s text) LANGUAGE sql SECURITY DEFINER AS \
               'SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1'";
    cluster.sql(sql).await;
    let found = examine(&asking("SELECT * FROM find($1)"), &[]).await;
    found.says("auth_query", "ok", &["a SCRAM verifier for app"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_of_redis_that_lacks_rights_is_found_with_and_without_dryrun() {
    let redis = RedisServer::start().await;
    let mut direct = redis.direct().await;
    let user = |rules: &[&'static str]| [&["ACL", "SETUSER", "app", "reset", "on", ">tiger3", "~*"], rules].concat();
    let settings = Settings::redis(&redis).set("redis.main.user", "app").set("redis.main.password", "tiger3");
    let rules = ["+@all", "-publish", "&*"];
    assert_eq!(direct.command(&user(&rules)).await.text(), "OK");
    let found = examine(&settings, &[]).await;
    found.says("acl", "warning", &["app may not: PUBLISH", "ACL DRYRUN", "ACL SETUSER app +publish"]);
    // Without the right to ask, and to see settings: the commands are tried, and the rest is not seen.
    let rules = ["+@all", "-ping", "-acl", "-config", "-info", "&*"];
    assert_eq!(direct.command(&user(&rules)).await.text(), "OK");
    let found = examine(&settings, &[]).await;
    found.says("acl", "problem", &["PING", "tried"]);
    found.says("maxclients", "unseen", &["20 connections"]);
    found.says("maxmemory-policy", "unseen", &[]);
    let rules = ["+@all", "-acl", "-config", "&*"];
    assert_eq!(direct.command(&user(&rules)).await.text(), "OK");
    let found = examine(&settings, &[]).await;
    found.is_good();
    found.says("acl", "ok", &["tried"]);
    found.says("maxclients", "ok", &["10000"]);
    assert_eq!(direct.command(&user(&["+@all", "off"])).await.text(), "OK");
    examine(&settings, &[]).await.says("login", "problem", &["WRONGPASS", "ACL LIST"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_user_of_redis_that_clients_become_is_tried() {
    let redis = RedisServer::start().await;
    let mut direct = redis.direct().await;
    for (name, more) in [("writer", "+@all"), ("reader", "-publish")] {
        let rules = ["ACL", "SETUSER", name, "reset", "on", ">tiger3", "~*", "&*", "+@all", more];
        assert_eq!(direct.command(&rules).await.text(), "OK");
    }
    let user = |settings: Settings, name: &str, upstream: &str, password: &str| {
        let section = format!("redis.main.users.{name}");
        let settings = settings.set(&format!("{section}.password"), "theirs").set(&format!("{section}.upstream_user"), upstream);
        settings.set(&format!("{section}.upstream_password"), password)
    };
    let settings = user(user(Settings::redis(&redis), "one", "writer", "tiger3"), "two", "reader", "tiger3");
    let found = examine(&settings, &[]).await;
    found.is_good();
    found.says("login", "ok", &["as writer"]);
    found.says("acl", "ok", &["writer may do all"]);
    found.says("acl", "warning", &["reader may not: PUBLISH", "ACL SETUSER reader +publish"]);
    let found = examine(&user(settings.clone(), "three", "gone", "hunter2"), &[]).await;
    found.says("login", "problem", &["as gone: ", "WRONGPASS", "clients that become this user cannot be served", "ACL LIST"]);
    found.says("login", "ok", &["as reader"]);
    let own = |name: &str| settings.clone().set("redis.main.user", name).set("redis.main.password", "wrong");
    let found = examine(&own("gone"), &[]).await;
    found.says("login", "problem", &["WRONGPASS"]);
    found.says("login", "ok", &["as writer"]);
    // The proxy logs in with the password that goes with the user, whoever says it.
    examine(&own("writer"), &[]).await.says("login", "ok", &["as writer"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_redis_server_is_and_has_room_for_is_seen() {
    let redis = RedisServer::start_with_password("hunter2").await;
    let mut direct = redis.direct().await;
    for setting in [["maxclients", "30"], ["timeout", "60"], ["maxmemory", "100mb"], ["maxmemory-policy", "allkeys-lru"]] {
        assert_eq!(direct.command(&[&["CONFIG", "SET"], &setting[..]].concat()).await.text(), "OK", "{setting:?}");
    }
    assert_eq!(direct.command(&["CONFIG", "SET", "client-output-buffer-limit", "normal 1mb 0 0"]).await.text(), "OK");
    let settings = Settings::redis(&redis);
    let found = examine(&settings, &["--replicas", "2"]).await;
    found.says("maxclients", "problem", &["40 connections", "lets 30 in"]);
    found.says("timeout", "warning", &["server_idle_timeout"]);
    found.says("output-buffers", "warning", &["normal connections are cut"]);
    found.says("maxmemory-policy", "ok", &["allkeys-lru"]);
    found.says("role", "ok", &["master"]);
    direct.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    examine(&settings, &[]).await.says("role", "warning", &["a replica", "READONLY"]);
    examine(&settings.without("redis.main.password"), &[]).await.says("login", "unseen", &["asks for a password"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn this_machine_is_looked_at() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.max_client_conn", 1_000_000);
    let found = examine(&settings, &[]).await;
    found.says("files", "warning", &["max_client_conn"]);
    let readable = file(&settings);
    std::fs::set_permissions(&readable, std::fs::Permissions::from_mode(0o644)).expect("our own file");
    let output = run(&[readable.to_str().expect("UTF-8")]).await;
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.contains("everybody on this machine may read"), "{text}");

    let nowhere = settings.clone().set("postgres.listen", vec!["unix:/nowhere".to_owned()]);
    examine(&nowhere, &[]).await.says("listen", "problem", &["/nowhere"]);
    let public = settings.clone().set("admin.listen", format!("0.0.0.0:{}", settings.admin_port()));
    examine(&public, &[]).await.says("admin", "warning", &["127.0.0.1:9127"]);
    let taken = std::net::TcpListener::bind(("127.0.0.1", settings.postgres_port())).expect("a free port");
    examine(&settings, &[]).await.says("listen", "problem", &["is in use", "ss -ltnp"]);
    drop(taken);
    let pooler = Pooler::start(settings.clone().set("postgres.max_client_conn", 100)).await;
    let found = examine(&settings, &[]).await;
    found.says("listen", "ok", &["a sidepool runs here"]);
    found.is_good();
    drop(pooler);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_be_used_is_told_as_check_does() {
    let settings = Settings::new().set("postgres.nonsense", 1);
    let found = examine(&settings, &[]).await;
    found.says("check", "problem", &["postgres.nonsense"]);
    let output = run(&["/nowhere/sidepool.toml"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("/nowhere/sidepool.toml"));
    assert_eq!(run(&["--replicas", "0", "/nowhere/sidepool.toml"]).await.status.code(), Some(2), "no such number of replicas");
}

#[tokio::test(flavor = "multi_thread")]
async fn urls_and_a_pgbouncer_ini_are_examined_too() {
    let cluster = Cluster::start().await;
    let url = format!("postgres://app:{PASSWORD}@127.0.0.1:{}/app", cluster.port());
    let listen = format!("127.0.0.1:{}", place::free_port());
    let output = run(&["--postgres", &url, "--postgres-listen", &listen, "--admin-listen", "off"]).await;
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success() && text.contains("as app to app"), "{text}");

    let directory = place::directory("doctor");
    let list = directory.join("userlist.txt");
    let (ini, users) = Settings::postgres(&cluster).pgbouncer(list.to_str().expect("UTF-8"));
    std::fs::write(directory.join("pgbouncer.ini"), ini).expect("our own directory");
    std::fs::write(&list, users).expect("our own directory");
    std::fs::set_permissions(&list, std::fs::Permissions::from_mode(0o644)).expect("our own file");
    let output = run(&[directory.join("pgbouncer.ini").to_str().expect("UTF-8")]).await;
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success() && text.contains("as app to app"), "{text}");
    assert!(text.contains("may read") && text.contains("userlist.txt"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_nothing_is_given_up_once() {
    let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = mute.local_addr().expect("it is bound").port();
    let settings = Settings::new()
        .set("postgres.listen", vec![format!("127.0.0.1:{}", place::free_port())])
        .set("postgres.server_connect_timeout", "1s")
        .set("postgres.databases.app.host", "127.0.0.1")
        .set("postgres.databases.app.port", i64::from(port))
        .set("postgres.users.one.password", "tiger3")
        .set("postgres.users.two.password", "tiger3");
    let found = examine(&settings, &[]).await;
    found.says("connect", "ok", &[]);
    found.says("login", "problem", &["as one to app", "no answer came in time"]);
    found.says("login", "unseen", &["1 login more"]);
}
