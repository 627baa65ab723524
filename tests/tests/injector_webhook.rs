//! The webhook as an API server meets it: over TLS, with reviews of every shape, and with a certificate that changes under it.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use sidepool_tests::binary::{Build, path};
use sidepool_tests::kubernetes::{against_restricted, patched, validate};
use sidepool_tests::process::{Process, Signal};
use sidepool_tests::scrape::{self, Answer};
use sidepool_tests::tls::{Authority, Identity, client};
use sidepool_tests::{place, wait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const NAME: &str = "sidepool-injector.sidepool.svc";

struct Injector {
    process: Process,
    port: u16,
    admin: u16,
    authority: Authority,
    certificates: PathBuf,
}

impl Injector {
    /// Without a certificate.
    fn bare(flags: &[&str]) -> Self {
        let (port, admin, certificates) = (place::free_port(), place::free_port(), place::directory("certificates"));
        let mut command = Command::new(path(Build::Checked));
        command.args(["injector", "--listen", &format!("127.0.0.1:{port}"), "--admin-listen", &format!("127.0.0.1:{admin}")]);
        command.arg("--certificates").arg(&certificates).args(flags);
        Self { process: Process::spawn("injector", command), port, admin, authority: Authority::new("cluster"), certificates }
    }

    async fn start(flags: &[&str]) -> Self {
        let injector = Self::bare(flags);
        injector.mount(1, &injector.authority.issue(NAME, &[NAME]));
        injector.is_ready().await;
        injector
    }

    async fn is_ready(&self) {
        wait::until("readiness", async || scrape::get(self.admin, "/readyz").await.filter(|answer| answer.status == 200)).await;
    }

    /// Puts a pair there as the kubelet does: into a directory of its own, to which a link is then turned.
    fn mount(&self, generation: u32, identity: &Identity) {
        let there = |name: &str| self.certificates.join(name);
        let folder = format!("..{generation}");
        std::fs::create_dir(there(&folder)).expect("a new name");
        std::fs::write(there(&folder).join("tls.crt"), &identity.cert).expect("our own");
        std::fs::write(there(&folder).join("tls.key"), &identity.key).expect("our own");
        symlink(&folder, there("..data_tmp")).expect("a link");
        std::fs::rename(there("..data_tmp"), there("..data")).expect("the same directory");
        for name in ["tls.crt", "tls.key"].into_iter().filter(|name| !there(name).exists()) {
            symlink(Path::new("..data").join(name), there(name)).expect("a link");
        }
    }

    /// Sends a request over TLS; `None` where no answer comes back.
    async fn send(&self, head: &str, body: &[u8]) -> Option<Answer> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        let connector = TlsConnector::from(client(&self.authority, None, &["http/1.1"]));
        let name = ServerName::try_from(NAME).expect("a name");
        let mut stream = wait::soon("a handshake", connector.connect(name, stream)).await.ok()?;
        let request = format!(
            "{head} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.ok()?;
        // What is too large is answered before it is all there.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        let _ = wait::soon("an answer", stream.read_to_end(&mut answer)).await;
        let text = String::from_utf8(answer).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
    }

    /// Sends a review and gives the response in it.
    async fn review(&self, review: &Value) -> Value {
        let answer = self.send("POST /inject?timeout=3s", review.to_string().as_bytes()).await.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.body);
        let review: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!((&review["apiVersion"], &review["kind"]), (&json!("admission.k8s.io/v1"), &json!("AdmissionReview")));
        review["response"].clone()
    }

    async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        scrape::metrics(self.admin).await.sum(name, labels)
    }
}

fn review(pod: &Value) -> Value {
    json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": { "group": "", "version": "v1", "kind": "Pod" },
        "resource": { "group": "", "version": "v1", "resource": "pods" },
        "operation": "CREATE",
        "namespace": "shop",
        "userInfo": { "username": "system:serviceaccount:kube-system:replicaset-controller" },
        "object": pod,
        "oldObject": null,
        "dryRun": false,
        "options": { "apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions" },
    } })
}

fn labelled(spec: &Value, annotations: &Value) -> Value {
    let labels = json!({ "app": "web", "sidepool.dev/inject": "true" });
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "generateName": "web-7d4b9c-", "labels": labels, "annotations": annotations }, "spec": spec })
}

fn environment() -> Value {
    json!([{ "name": "DATABASE_URL", "valueFrom": { "secretKeyRef": { "name": "db", "key": "url" } } }])
}

fn operations(response: &Value) -> Value {
    let Some(patch) = response["patch"].as_str() else { return json!([]) };
    assert_eq!(response["patchType"], "JSONPatch");
    let bytes = base64::engine::general_purpose::STANDARD.decode(patch).expect("base64");
    serde_json::from_slice(&bytes).expect("JSON")
}

/// Pods that get their sidecar, by what is special about them.
fn pods() -> Vec<(&'static str, Value)> {
    let app = json!({ "name": "app", "image": "app:1", "env": environment() });
    let even = json!({ "limits": { "cpu": "1", "memory": "1Gi" }, "requests": { "cpu": "1", "memory": "1Gi" } });
    let guaranteed = json!({ "name": "app", "image": "app:1", "env": environment(), "resources": even });
    let import =
        json!({ "name": "app", "image": "app:1", "envFrom": [{ "secretRef": { "name": "db" } }, { "configMapRef": { "name": "app" } }] });
    let mesh = json!([
        { "name": "istio-init", "image": "istio:1" },
        { "name": "istio-proxy", "image": "istio:1", "restartPolicy": "Always" },
        { "name": "migrate", "image": "app:1", "env": environment() },
    ]);
    let mut named = labelled(&json!({ "containers": [app] }), &json!({}));
    named["metadata"]["name"] = "web".into();
    let mut bare = named.clone();
    bare["metadata"].as_object_mut().expect("an object").remove("annotations");
    let mut by_namespace = bare.clone();
    by_namespace["metadata"] = json!({ "generateName": "web-" });
    let limits = json!({ "sidepool.dev/memory-limit": "64Mi", "sidepool.dev/pool-size": "5", "sidepool.dev/mode": "session" });
    vec![
        ("a name", named),
        ("no annotations", bare),
        ("nothing but a beginning of a name", by_namespace),
        (
            "of a controller",
            labelled(&json!({ "containers": [app], "volumes": [{ "name": "tmp", "emptyDir": {} }] }), &json!({ "a/b": "~" })),
        ),
        ("a mesh and a migration", labelled(&json!({ "initContainers": mesh, "containers": [app] }), &json!({}))),
        ("of a Job", labelled(&json!({ "restartPolicy": "Never", "containers": [app] }), &json!({}))),
        ("guaranteed", labelled(&json!({ "containers": [guaranteed] }), &json!({}))),
        ("imports", labelled(&json!({ "containers": [import] }), &json!({ "sidepool.dev/env-url": "DATABASE_URL" }))),
        ("limits", labelled(&json!({ "containers": [app] }), &limits)),
        (
            "a file in a ConfigMap",
            labelled(&json!({ "containers": [{ "name": "app", "image": "app:1" }] }), &json!({ "sidepool.dev/config-map": "pools" })),
        ),
        (
            "a file in an annotation",
            labelled(&json!({ "containers": [{ "name": "app", "image": "app:1" }] }), &json!({ "sidepool.dev/config": "workers = 1" })),
        ),
        (
            "an ordinary container",
            labelled(&json!({ "restartPolicy": "Never", "containers": [app] }), &json!({ "sidepool.dev/native-sidecar": "false" })),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_every_shape_get_a_sidecar_that_kubernetes_takes() {
    let injector = Injector::start(&[]).await;
    let mut results = Vec::new();
    for (what, pod) in pods() {
        let response = injector.review(&review(&pod)).await;
        assert_eq!((&response["uid"], &response["allowed"]), (&json!("705ab4f5-6393-11e8-b7cc-42010a800002"), &json!(true)), "{what}");
        let after = patched(&pod, &operations(&response));
        assert_ne!(after, pod, "{what}");
        assert_eq!(against_restricted(&after, &["sidepool"]), Vec::<String>::new(), "{what}");
        for key in ["securityContext", "serviceAccountName", "restartPolicy"] {
            assert_eq!(after["spec"][key], pod["spec"][key], "{what}: the pod's own {key}");
        }
        // Asked again, as after other webhooks, and for a dry run: nothing more, and the same.
        assert_eq!(operations(&injector.review(&review(&after)).await), json!([]), "{what}");
        let mut dry = review(&pod);
        dry["request"]["dryRun"] = true.into();
        assert_eq!(injector.review(&dry).await, response, "{what}");
        results.push(after);
    }
    let asked = results.len();
    validate(&results, &["1.29", "1.31", "1.34", "1.36"]);
    let injected = injector.metric("sidepool_injector_requests_total", &[("result", "injected")]).await;
    let already = injector.metric("sidepool_injector_requests_total", &[("result", "already")]).await;
    assert_eq!((injected, already), (2.0 * asked as f64, asked as f64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_restricted_stays_so_and_a_careless_one_is_seen() {
    let injector = Injector::start(&[]).await;
    let context = json!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } });
    let mut pod = labelled(
        &json!({ "containers": [{ "name": "app", "image": "app:1", "env": environment(), "securityContext": context }] }),
        &json!({}),
    );
    pod["spec"]["securityContext"] = json!({ "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } });
    let after = patched(&pod, &operations(&injector.review(&review(&pod)).await));
    assert_eq!(against_restricted(&after, &[]), Vec::<String>::new());
    let careless = labelled(&json!({ "containers": [{ "name": "app", "image": "app:1" }] }), &json!({}));
    assert_eq!(against_restricted(&careless, &[]).len(), 4, "what tells them apart");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typo_is_denied_and_what_is_not_meant_is_let_through() {
    let injector = Injector::start(&["--kubernetes-version", "v1.33.1"]).await;
    let app = json!({ "containers": [{ "name": "app", "image": "app:1", "env": environment() }] });
    let response = injector.review(&review(&labelled(&app, &json!({ "sidepool.dev/pool-sise": "5" })))).await;
    assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(400)));
    let message = response["status"]["message"].as_str().unwrap_or_default();
    assert_eq!(message, "sidepool: there is no annotation sidepool.dev/pool-sise: did you mean sidepool.dev/pool-size?");
    let pod = labelled(&app, &json!({}));
    let changed = |key: &str, value: Value| {
        let mut review = review(&pod);
        review["request"][key] = value;
        review
    };
    let mut other = pod.clone();
    other["metadata"]["labels"]["sidepool.dev/inject"] = "false".into();
    let mut windows = pod.clone();
    (windows["metadata"], windows["spec"]["os"]) = (json!({}), json!({ "name": "windows" }));
    let mut host = pod.clone();
    (host["metadata"], host["spec"]["hostNetwork"]) = (json!({}), true.into());
    let let_through = [
        changed("operation", "UPDATE".into()),
        changed("subResource", "ephemeralcontainers".into()),
        changed("resource", json!({ "group": "apps", "version": "v1", "resource": "deployments" })),
        review(&other),
        review(&windows),
        review(&host),
    ];
    for review in &let_through {
        let response = injector.review(review).await;
        assert_eq!((&response["allowed"], &response["patch"]), (&json!(true), &Value::Null), "{review}");
    }
    let warned = injector.review(&review(&pod)).await;
    assert!(
        warned["warnings"].as_array().is_some_and(|warnings| warnings[0].as_str().is_some_and(|text| text.starts_with("sidepool: "))),
        "{warned}"
    );
    assert_eq!(injector.metric("sidepool_injector_requests_total", &[("result", "skipped")]).await, 6.0);
    assert_eq!(injector.metric("sidepool_injector_requests_total", &[("result", "rejected")]).await, 1.0);
    injector.process.log().line_with("did you mean sidepool.dev/pool-size?").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_understood_is_said_to_be_so() {
    let injector = Injector::start(&[]).await;
    let pod = labelled(&json!({ "containers": [] }), &json!({}));
    let without = |key: &str| {
        let mut review = review(&pod);
        review["request"].as_object_mut().expect("an object").remove(key);
        review.to_string()
    };
    let old = review(&pod).to_string().replace("admission.k8s.io/v1", "admission.k8s.io/v1beta1");
    let table = [
        ("POST /inject", "{".to_owned(), 400, "no JSON"),
        ("POST /inject", String::new(), 400, "no JSON"),
        ("POST /inject", "[]".to_owned(), 400, "no AdmissionReview"),
        ("POST /inject", old, 400, "v1beta1 is not spoken here"),
        ("POST /inject", without("uid"), 400, "no uid"),
        ("POST /inject", without("object"), 400, "no object"),
        ("POST /inject", format!("\"{}\"", "x".repeat(5 << 20)), 413, "too large"),
        ("GET /inject", String::new(), 405, ""),
        ("POST /", String::new(), 404, ""),
    ];
    for (head, body, status, wanted) in table {
        let answer = injector.send(head, body.as_bytes()).await.unwrap_or_else(|| panic!("{head} {wanted}: no answer"));
        assert_eq!(answer.status, status, "{head} {wanted}");
        assert!(answer.body.contains(wanted), "{wanted:?} is not in {:?}", answer.body);
    }
    let deep = format!("{{\"apiVersion\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(injector.send("POST /inject", deep.as_bytes()).await.map(|answer| answer.status), Some(400));
    assert_eq!(injector.metric("sidepool_injector_requests_total", &[("result", "error")]).await, 8.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_once_it_has_a_certificate_and_follows_it() {
    let injector = Injector::bare(&[]);
    let answer = wait::until("the admin listener", async || scrape::get(injector.admin, "/readyz").await).await;
    assert_eq!((answer.status, answer.body.as_str()), (503, "no certificate yet\n"));
    assert_eq!(scrape::get(injector.admin, "/livez").await.map(|answer| answer.status), Some(200));
    assert!(injector.send("POST /inject", b"").await.is_none(), "there is nothing to speak TLS with");
    injector.mount(1, &injector.authority.issue_expired(NAME, &[NAME]));
    injector.is_ready().await;
    let first = injector.metric("sidepool_injector_cert_not_after_timestamp_seconds", &[]).await;
    assert!(injector.send("POST /inject", b"").await.is_none(), "it has run out");
    injector.mount(2, &injector.authority.issue(NAME, &[NAME]));
    wait::until("the new certificate", async || injector.send("POST /inject", b"").await).await;
    let second = injector.metric("sidepool_injector_cert_not_after_timestamp_seconds", &[]).await;
    assert!(first < 1e9 && second > 4e9, "{first} {second}");
    // A key that belongs to another certificate: the old pair stays.
    let failed = async || injector.metric("sidepool_injector_cert_loads_total", &[("result", "failed")]).await;
    let before = failed().await;
    assert!(before >= 1.0, "there was none at first");
    let (cert, key) = (injector.authority.issue(NAME, &[NAME]).cert, injector.authority.issue(NAME, &[NAME]).key);
    injector.mount(3, &Identity { cert, key });
    injector.process.log().line_with("cannot be used; the old one stays").await;
    assert_eq!(injector.send("POST /inject", b"").await.map(|answer| answer.status), Some(400));
    assert_eq!(failed().await, before + 1.0, "this one");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_say_nothing_hold_nobody_up_for_long() {
    let injector = Injector::start(&[]).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(("127.0.0.1", injector.port)).await.expect("the queue has room"));
    }
    let pod = labelled(&json!({ "containers": [{ "name": "app", "image": "app:1", "env": environment() }] }), &json!({}));
    assert_eq!(injector.review(&review(&pod)).await["allowed"], true);
    assert!(injector.metric("sidepool_injector_handshake_failures_total", &[]).await >= 72.0, "of 128 at a time");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_answers_until_the_end_and_ends_with_zero() {
    let mut injector = Injector::start(&["--accept-for", "60s"]).await;
    injector.process.signal(Signal::TERM);
    wait::until("it to be taken out", async || scrape::get(injector.admin, "/readyz").await.filter(|answer| answer.status == 503)).await;
    assert_eq!(injector.send("POST /inject", b"").await.map(|answer| answer.status), Some(400), "the API server has not heard yet");
    injector.process.signal(Signal::TERM);
    assert!(injector.process.ended().await.success(), "told twice, it waits no longer");
    let mut injector = Injector::start(&["--accept-for", "1s"]).await;
    injector.process.signal(Signal::TERM);
    assert!(injector.process.ended().await.success(), "it ends by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_has_nothing_to_say() {
    let injector = Injector::start(&[]).await;
    let text = scrape::get(injector.admin, "/metrics").await.expect("an answer").body;
    let mut promtool =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("promtool");
    std::io::Write::write_all(&mut promtool.stdin.take().expect("piped"), text.as_bytes()).expect("promtool reads");
    let output = promtool.wait_with_output().expect("promtool ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_that_makes_no_sense_is_refused_at_the_start() {
    for (flags, wanted) in
        [(["--run-as", "0"], "never as root"), (["--log-level", "loud"], "--log-level"), (["--kubernetes-version", "x"], "1.31")]
    {
        let output = Command::new(path(Build::Checked)).arg("injector").args(flags).output().expect("it starts");
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(wanted), "{output:?}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let flags = ["injector", "--listen", &address, "--admin-listen", "127.0.0.1:0"];
    let output = tokio::process::Command::new(path(Build::Checked)).args(flags).output();
    let output = wait::within(Duration::from_secs(10), "it to give up", output).await.expect("it starts");
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains(&address), "{output:?}");
}
