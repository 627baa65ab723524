//! What is injected works: the sidecar is started as its container says, in front of real servers, and `psql` and `redis-cli` run with the
//! environment that the application gets.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::Ipv6Addr;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use sidepool_tests::binary::{Build, path};
use sidepool_tests::kubernetes::{environment, validate};
use sidepool_tests::postgres::cluster::{Cluster, PASSWORD};
use sidepool_tests::process::{Process, Signal};
use sidepool_tests::redis::RedisServer;
use sidepool_tests::scrape::{self, Answer};
use sidepool_tests::{place, wait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A pod after `sidepool inject -f -`, with listeners off the usual ports.
struct Pod {
    document: Value,
    admin: u16,
}

fn inject(flags: &[&str], document: &str) -> std::process::Output {
    let mut command = Command::new(path(Build::Checked));
    command.args(["inject", "-f", "-"]).args(flags).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    child.stdin.take().expect("piped").write_all(document.as_bytes()).expect("it reads");
    child.wait_with_output().expect("it ends")
}

impl Pod {
    fn inject(container: &Value, annotations: &Value) -> Self {
        let admin = place::free_port();
        let mut document = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web", "annotations": annotations }, "spec": { "containers": [container] } });
        document["metadata"]["labels"] = json!({ "sidepool.dev/inject": "true" });
        for (name, port) in [("port", place::free_port()), ("redis-port", place::free_port()), ("admin-port", admin)] {
            document["metadata"]["annotations"][format!("sidepool.dev/{name}")] = port.to_string().into();
        }
        let output = inject(&[], &document.to_string());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let document: Value = serde_json::from_slice(&output.stdout).expect("JSON, as it was given");
        validate(std::slice::from_ref(&document), &["1.31"]);
        Self { document, admin }
    }

    fn container(&self, name: &str) -> &Value {
        let lists = ["initContainers", "containers"].into_iter().filter_map(|list| self.document["spec"][list].as_array());
        lists.flatten().find(|container| container["name"] == name).expect("it is there")
    }

    /// Starts the sidecar as a kubelet would, and waits for its startup probe.
    async fn start(&self, secrets: &BTreeMap<&str, String>) -> Process {
        let own = self.container("sidepool");
        let mut command = Command::new(path(Build::Checked));
        command.args(own["args"].as_array().into_iter().flatten().filter_map(Value::as_str));
        command.env_clear().envs(environment(own, secrets)).current_dir("/");
        let process = Process::spawn("sidepool", command);
        let probe = own["startupProbe"]["httpGet"]["path"].as_str().expect("a path");
        wait::until("the startup probe", async || scrape::get(self.admin, probe).await.filter(|answer| answer.status == 200)).await;
        process
    }

    /// Runs a program of the application.
    fn run(&self, secrets: &BTreeMap<&str, String>, program: &str, arguments: &[&str]) -> String {
        let app = environment(self.container("app"), secrets);
        let arguments = arguments.iter().map(|argument| app.get(argument.trim_start_matches('$')).map_or(*argument, String::as_str));
        let mut command = Command::new(program);
        // An image without a user of that number: nothing says who it is.
        command.args(arguments).env_clear().env("PATH", std::env::var("PATH").expect("a path")).env("PGCONNECT_TIMEOUT", "20").envs(&app);
        let output = command.stdin(Stdio::null()).output().expect(program);
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

const WHO: &str = "SELECT current_user || ' ' || current_database()";

fn secrets(cluster: &Cluster, server: &RedisServer) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("db/url", format!("postgres://app:{PASSWORD}@127.0.0.1:{}/app", cluster.port())),
        ("db/DATABASE_URL", format!("postgres://app:{PASSWORD}@127.0.0.1:{}/app", cluster.port())),
        ("db/password", PASSWORD.to_owned()),
        ("cache/url", format!("redis://:hidden@127.0.0.1:{}/3", server.port())),
    ])
}

fn from_secret(name: &str, secret: &str, key: &str) -> Value {
    json!({ "name": name, "valueFrom": { "secretKeyRef": { "name": secret, "key": key } } })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubelet_comes_by_ipv6_as_by_ipv4() {
    let (cluster, server) = (Cluster::start().await, RedisServer::start_with_password("hidden").await);
    let secrets = secrets(&cluster, &server);
    let pod = Pod::inject(&json!({ "name": "app", "image": "app", "env": [from_secret("DATABASE_URL", "db", "url")] }), &json!({}));
    let _process = pod.start(&secrets).await;
    // Where the kernel has no IPv6 nobody comes by it, and the sidecar serves all the same: that it has started was seen by IPv4.
    let has_v6 = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let answer = async {
        let mut stream = TcpStream::connect((Ipv6Addr::LOCALHOST, pod.admin)).await.ok()?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer.starts_with("HTTP/1.1 200"))
    };
    assert_eq!(answer.await, has_v6.then_some(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn urls_of_secrets_that_nobody_has_seen() {
    let (cluster, server) = (Cluster::start().await, RedisServer::start_with_password("hidden").await);
    let secrets = secrets(&cluster, &server);
    let env = json!([from_secret("DATABASE_URL", "db", "url"), from_secret("REDIS_URL", "cache", "url")]);
    let pod = Pod::inject(&json!({ "name": "app", "image": "app", "env": env }), &json!({ "sidepool.dev/pool-size": "3" }));
    let mut process = pod.start(&secrets).await;
    assert_eq!(pod.run(&secrets, "psql", &["$DATABASE_URL", "-Atc", WHO]), "app app");
    assert_eq!(pod.run(&secrets, "redis-cli", &["-u", "$REDIS_URL", "SET", "k", "v"]), "OK");
    let mut direct = server.direct().await;
    direct.command(&["SELECT", "3"]).await;
    assert_eq!(direct.command(&["GET", "k"]).await.text(), "v", "the database of the URL");
    for secret in [PASSWORD, "hidden"] {
        assert!(!process.log().tail(1000).contains(secret) && !pod.container("app").to_string().contains(secret));
    }
    // No client is left: the end of the pod waits for nobody.
    let begun = std::time::Instant::now();
    process.signal(Signal::TERM);
    assert!(process.ended().await.success());
    assert!(begun.elapsed().as_secs() < 20, "it is no drain timeout (of 25 s) that ends it");
}

#[tokio::test(flavor = "multi_thread")]
async fn literals_and_urls_that_are_put_together() {
    let (cluster, server) = (Cluster::start().await, RedisServer::start_with_password("hidden").await);
    let secrets = secrets(&cluster, &server);
    let composed = format!("postgres://app:$(PASSWORD)@127.0.0.1:{}/app?sslmode=disable", cluster.port());
    let redis = format!("redis://:hidden@127.0.0.1:{}/2", server.port());
    let env = json!([from_secret("PASSWORD", "db", "password"), { "name": "DATABASE_URL", "value": composed }, { "name": "REDIS_URL", "value": redis }]);
    let pod = Pod::inject(&json!({ "name": "app", "image": "app", "env": env }), &json!({}));
    let _process = pod.start(&secrets).await;
    assert_eq!(pod.run(&secrets, "psql", &["$DATABASE_URL", "-Atc", WHO]), "app app");
    assert_eq!(pod.run(&secrets, "redis-cli", &["-u", "$REDIS_URL", "PING"]), "PONG");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_from_one_of_several_sources() {
    let (cluster, server) = (Cluster::start().await, RedisServer::start_with_password("hidden").await);
    let secrets = secrets(&cluster, &server);
    let imports = json!([{ "secretRef": { "name": "db" } }, { "configMapRef": { "name": "app" } }]);
    let pod = Pod::inject(
        &json!({ "name": "app", "image": "app", "envFrom": imports }),
        &json!({ "sidepool.dev/env-url": "DATABASE_URL", "sidepool.dev/database": "app" }),
    );
    let _process = pod.start(&secrets).await;
    assert_eq!(pod.run(&secrets, "psql", &["$DATABASE_URL", "-Atc", WHO]), "app app");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_libpq() {
    let (cluster, server) = (Cluster::start().await, RedisServer::start_with_password("hidden").await);
    let secrets = secrets(&cluster, &server);
    let env = json!([
        { "name": "PGHOST", "value": "127.0.0.1" },
        { "name": "PGPORT", "value": cluster.port().to_string() },
        { "name": "PGUSER", "value": "app" },
        { "name": "PGDATABASE", "value": "app" },
        from_secret("PGPASSWORD", "db", "password"),
    ]);
    let pod = Pod::inject(&json!({ "name": "app", "image": "app", "env": env }), &json!({}));
    let _process = pod.start(&secrets).await;
    assert_eq!(pod.run(&secrets, "psql", &["-Atc", WHO]), "app app");
    assert_eq!(pod.run(&secrets, "psql", &["-Atc", "SELECT inet_server_port()"]), cluster.port().to_string(), "through the sidecar");
    // A scrape that a worker answers too late is without its numbers.
    let counted = async || (scrape::metrics(pod.admin).await.sum("sidepool_queries_total", &[]) >= 2.0).then_some(());
    wait::until("both queries to be counted", counted).await;
}

async fn ask(port: u16, method: &str) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    stream.write_all(format!("{method} /quitquitquit HTTP/1.0\r\n\r\n").as_bytes()).await.expect("it reads");
    let mut text = String::new();
    wait::soon("an answer", stream.read_to_string(&mut text)).await.expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("an HTTP answer");
    Answer {
        status: head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a code"),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_on_an_old_cluster_ends_its_sidecar() {
    let (cluster, server) = (Cluster::start().await, RedisServer::start_with_password("hidden").await);
    let secrets = secrets(&cluster, &server);
    let container = json!({ "name": "app", "image": "app", "env": [from_secret("DATABASE_URL", "db", "url")] });
    let native = Pod::inject(&container, &json!({}));
    let process = native.start(&secrets).await;
    let answer = ask(native.admin, "POST").await;
    assert!(answer.status == 403 && answer.body.contains("SIDEPOOL_QUITQUITQUIT"), "{answer:?}");
    drop(process);
    let ordinary = Pod::inject(&container, &json!({ "sidepool.dev/native-sidecar": "false" }));
    let mut process = ordinary.start(&secrets).await;
    let hook = ordinary.container("sidepool")["lifecycle"]["postStart"]["exec"]["command"].clone();
    let hook: Vec<&str> = hook.as_array().expect("a command").iter().filter_map(Value::as_str).collect();
    assert!(Command::new(path(Build::Checked)).args(&hook[1..]).status().expect("it starts").success(), "{hook:?}");
    assert_eq!(ordinary.run(&secrets, "psql", &["$DATABASE_URL", "-Atc", WHO]), "app app");
    assert_eq!(ask(ordinary.admin, "GET").await.status, 405);
    assert_eq!(ask(ordinary.admin, "POST").await.status, 200);
    assert!(process.ended().await.success());
}

#[test]
fn a_file_that_asks_for_what_cannot_be_gives_nothing_but_reasons() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, annotations: {sidepool.dev/mod: x}}\nspec: {containers: [{name: app}]}\n";
    let output = inject(&[], pod);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    assert!(said.contains("Pod/a: there is no annotation sidepool.dev/mod: did you mean sidepool.dev/mode?"), "{said}");
    let other = "# a comment\nkind: Service\n";
    let output = inject(&["--diff"], other);
    assert!(output.status.success() && output.stdout.is_empty());
    assert_eq!(String::from_utf8_lossy(&inject(&[], other).stdout), other);
}

#[test]
fn the_example_of_the_readme_is_true_to_the_letter() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = std::fs::read_to_string(root.join("README.md")).expect("a README");
    let (_, block) = readme.split_once("```console\n$ sidepool inject ").expect("the example");
    let (command, shown) = block.split_once("```").expect("its end").0.split_once('\n').expect("a line");
    let output = Command::new(path(Build::Checked)).arg("inject").args(command.split(' ')).current_dir(&root).output().expect("it starts");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in shown.split("…\n").filter(|part| !part.is_empty()) {
        assert!(printed.contains(part), "{part}is not in\n{printed}");
    }
    let annotations = sidepool_injector::wish::ANNOTATIONS.iter().map(|(name, _)| *name).filter(|name| *name != "status");
    let missing: Vec<&str> = annotations.filter(|name| !readme.contains(&format!("`{name}`"))).collect();
    assert_eq!(missing, Vec::<&str>::new(), "annotations that the README does not name");
}
