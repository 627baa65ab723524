//! The Helm chart, rendered by the real helm where it is at hand: sound in every shape, strict about its values, the twin of the kustomizations, and what
//! comes out of it works.

use std::collections::BTreeSet;
use std::process::Command;

use base64::Engine as _;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use sidepool_tests::binary::{Build, path};
use sidepool_tests::kubernetes::{against_restricted, validate};
use sidepool_tests::manifests::{arguments, chart, deploy, documents, find, helm, kustomize, kustomize_with, names, pods, read};
use sidepool_tests::postgres::cluster::{Cluster, PASSWORD};
use sidepool_tests::process::{Process, Signal};
use sidepool_tests::standalone::Standalone;
use sidepool_tests::tls::client_that_believes;
use sidepool_tests::{place, scrape, wait};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// All that there is.
const ALL: &[&str] = &[
    "--set=injector.enabled=true,injector.certificate.mode=cert-manager,policy.enabled=true",
    "--set=standalone.autoscaling.enabled=true,standalone.networkPolicy.enabled=true",
    "--set=monitoring.podMonitor.enabled=true,monitoring.prometheusRule.enabled=true,monitoring.dashboards.enabled=true",
];

/// Other shapes: what is rendered has to be sound in each.
const SHAPES: &[&[&str]] = &[
    &[],
    ALL,
    &["--set=injector.enabled=true,standalone.enabled=false"],
    &[
        "--set=injector.enabled=true,injector.certificate.mode=existing,injector.certificate.secretName=mine",
        "--set-string=injector.certificate.caBundle=-----BEGIN CERTIFICATE-----",
    ],
    &[
        "--set=injector.enabled=true,injector.sidecar.memoryLimit=256Mi,runAs=1000,image.pullPolicy=Always,injector.certificate.mode=cert-manager,injector.certificate.issuerRef.name=ours",
    ],
    &[
        "--set=runAs=null,image.repository=registry.example.com/sidepool,image.tag=v9,injector.enabled=true,imagePullSecrets[0].name=registry",
    ],
    &[
        "--set=image.digest=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef,standalone.service.type=LoadBalancer,fullnameOverride=pool",
    ],
    &[
        "--set=standalone.settings.redis.cache.listen=0.0.0.0:6380,standalone.settings.redis.cache.host=redis,standalone.settings.redis.cache.password.file=/etc/sidepool/secrets/redis/password,standalone.secrets={sidepool-users,redis}",
    ],
    &[
        "--set=standalone.nodeSelector.disk=ssd,standalone.priorityClassName=high,standalone.podLabels.team=a,standalone.podAnnotations.note=b,standalone.extraArgs={--log-level=debug},standalone.env[0].name=A,standalone.env[0].value=b",
    ],
];

#[test]
fn the_linter_has_nothing_against_it_and_its_version_is_ours() {
    let about = read(&deploy().join("helm/sidepool/Chart.yaml")).remove(0);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!((&about["version"], &about["appVersion"], &about["kubeVersion"]), (&json!(version), &json!(version), &json!(">=1.29.0-0")));
    let Some(output) = helm(&["lint", "--strict"]) else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn every_shape_follows_the_schemas_and_the_restricted_standard() {
    for shape in SHAPES {
        let Some(objects) = chart(shape) else { return };
        // The policy is of newer versions than the rest.
        let (policies, others): (Vec<Value>, Vec<Value>) = objects
            .iter()
            .cloned()
            .partition(|object| object["kind"].as_str().is_some_and(|kind| kind.starts_with("MutatingAdmissionPolicy")));
        validate(&others, &["1.29", "1.33", "1.37"]);
        validate(&policies, &["1.36", "1.37"]);
        for pod in pods(&objects) {
            assert_eq!(against_restricted(pod, &[]), Vec::<String>::new(), "{shape:?}");
            assert_eq!(pod["spec"]["automountServiceAccountToken"], false);
            assert_eq!(pod["spec"]["enableServiceLinks"], false);
            assert_eq!(pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"], true);
        }
    }
}

#[test]
fn wrong_values_are_refused_with_what_is_wrong() {
    for (value, complaint) in [
        ("standalone.replicaz=3", "at '/standalone': additional properties 'replicaz' not allowed"),
        ("standalone.replicas=0", "at '/standalone/replicas': minimum: got 0, want 1"),
        ("image.pullPolicy=Sometimes", "value must be one of 'Always', 'IfNotPresent', 'Never'"),
        ("runAs=0", "at '/runAs'"),
        ("standalone.settings.postgress.listen=x", "additional properties 'postgress' not allowed"),
        (
            "standalone.settings.postgres.default_pool_siz=3",
            "at '/standalone/settings/postgres': additional properties 'default_pool_siz' not allowed",
        ),
        (
            "standalone.settings.postgres.default_pool_size=0",
            "at '/standalone/settings/postgres/default_pool_size': minimum: got 0, want 1",
        ),
        ("standalone.settings.postgres.pool_mode=sesion", "value must be one of 'transaction', 'session', 'statement'"),
        ("standalone.settings.drain.timeout=25", "at '/standalone/settings/drain/timeout'"),
        (
            "standalone.settings.postgres.listen=127.0.0.1:6432",
            "must have an address that other pods and the kubelet reach, such as 0.0.0.0:6432",
        ),
        ("standalone.settings.admin.listen=off", "standalone.settings.admin.listen must have an address"),
        ("standalone.settings.postgres=null", "names no server: say postgres or redis"),
        ("injector.enabled=true,injector.certificate.mode=existing", "injector.certificate.caBundle: the authority's certificate (PEM)"),
        ("injector.certificate.mode=mine", "value must be one of 'generated', 'cert-manager', 'existing'"),
    ] {
        let Some(output) = helm(&["template", "sidepool", "--set", value]) else { return };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(complaint), "{value}: {said}");
    }
    let old = helm(&["template", "sidepool", "--kube-version", "1.28.0"]).expect("it was there before");
    assert!(String::from_utf8_lossy(&old.stderr).contains("requires kubeVersion: >=1.29.0-0"));
    let old = helm(&["template", "sidepool", "--kube-version", "1.33.0", "--set", "policy.enabled=true"]).expect("it was there before");
    assert!(String::from_utf8_lossy(&old.stderr).contains("policy.enabled needs Kubernetes 1.36"));
}

/// Without what only one of both can say: labels of the chart, the namespace, comments and the order of lines in a configuration.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(key, _)| {
                let key = key.as_str();
                !key.starts_with("helm.sh/") && !key.starts_with("app.kubernetes.io/") && key != "grafana_dashboard"
            });
            let plain = kept.map(|(key, value)| {
                let value = match (key.as_str(), value.as_str()) {
                    ("sidepool.toml", Some(text)) => settings(text),
                    // kubectl breaks the lines of folded text in its own way.
                    ("expression", Some(text)) => text.split_whitespace().collect::<Vec<_>>().join(" ").into(),
                    _ => plain(value),
                };
                (key.clone(), value)
            });
            // A map of which nothing is left is no map; that of a selector of all pods says so by its key.
            Value::Object(
                plain.filter(|(key, value)| *value != json!({}) || matches!(key.as_str(), "podSelector" | "selfSigned")).collect(),
            )
        }
        Value::Array(list) => Value::Array(list.iter().map(plain).collect()),
        other => other.clone(),
    }
}

/// Each setting with its section in front; without names that the namespace is part of.
fn settings(text: &str) -> Value {
    let mut section = "";
    let mut all = BTreeSet::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if line.starts_with('[') {
            section = line;
        } else if !(section == "[admin]" && line.starts_with("allowed_hosts = ")) {
            all.insert(format!("{section} {}", line.replace(", ", ",")));
        }
    }
    json!(all)
}

/// Both are the same objects.
fn are_twins(ours: &[Value], theirs: &[Value]) {
    assert_eq!(names(ours), names(theirs));
    for object in ours {
        let (kind, name) = (object["kind"].as_str().expect("a kind"), object["metadata"]["name"].as_str().expect("a name"));
        let (mut one, mut other) = (plain(object), plain(find(theirs, kind, name)));
        for side in [&mut one, &mut other] {
            side["metadata"].as_object_mut().expect("a map").remove("namespace");
        }
        assert_eq!(one, other, "{kind} {name}");
    }
}

fn without(objects: Vec<Value>, left_out: &[(&str, &str)]) -> Vec<Value> {
    let is_left_out = |object: &Value| left_out.iter().any(|(kind, name)| object["kind"] == *kind && object["metadata"]["name"] == *name);
    objects.into_iter().filter(|object| !is_left_out(object)).collect()
}

const TEST: (&str, &str) = ("Pod", "sidepool-test");

#[test]
fn without_values_it_is_the_twin_of_the_standalone_base() {
    let Some(objects) = chart(&[]) else { return };
    are_twins(&without(objects, &[TEST]), &kustomize("kustomize/standalone"));
}

#[test]
fn with_everything_it_is_the_twin_of_all_kustomizations() {
    let Some(objects) = chart(ALL) else { return };
    let mut theirs = kustomize_with("standalone", &["monitoring", "autoscaling", "network-policy"]);
    // Helm makes namespaces by a flag.
    theirs.extend(without(kustomize("kustomize/injector"), &[("Namespace", "sidepool")]));
    theirs.extend(kustomize("kustomize/policy"));
    are_twins(&without(objects, &[TEST]), &theirs);
}

#[test]
fn the_grace_period_is_made_of_the_drain() {
    for (timeout, grace) in [("25s", 30), ("2m", 125), ("1500ms", 7), ("0.5h", 1805), ("1d", 86405)] {
        let Some(objects) = chart(&[&format!("--set=standalone.settings.drain.timeout={timeout}")]) else { return };
        let spec = &find(&objects, "Deployment", "sidepool")["spec"]["template"]["spec"];
        assert_eq!(spec["terminationGracePeriodSeconds"], grace, "{timeout}");
    }
}

/// What the chart makes of these values, which come from a file.
fn of_values(values: &Value) -> Option<Vec<Value>> {
    let file = place::directory("values").join("values.json");
    std::fs::write(&file, values.to_string()).expect("our own directory");
    chart(&[&format!("--values={}", file.display())])
}

#[test]
fn metrics_are_for_the_inside_of_the_cluster_alone() {
    for kind in ["LoadBalancer", "NodePort"] {
        let Some(objects) = chart(&[&format!("--set=standalone.service.type={kind}")]) else { return };
        let service = &find(&objects, "Service", "sidepool")["spec"];
        assert_eq!((&service["type"], service["ports"].as_array().map(Vec::len)), (&json!(kind), Some(1)));
        assert_eq!(service["ports"][0]["name"], "postgres");
        let inside = &find(&objects, "Service", "sidepool-metrics")["spec"];
        assert_eq!((&inside["type"], &inside["ports"][0]["port"]), (&Value::Null, &json!(9127)));
        assert_eq!(inside["selector"], service["selector"]);
        let test = find(&objects, TEST.0, TEST.1);
        assert_eq!(test["spec"]["containers"][0]["args"][1], "--url=http://sidepool-metrics:9127");
        let set = format!("--set=standalone.service.type={kind}");
        let output = helm(&["install", "sidepool", "--dry-run=client", &set]).expect("it was there before");
        let notes = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(notes.contains("port-forward service/sidepool-metrics 9127:metrics"), "{notes}");
    }
}

#[test]
fn a_cancel_request_comes_to_the_replica_of_its_query() {
    let Some(objects) = chart(&[]) else { return };
    assert_eq!(find(&objects, "Service", "sidepool")["spec"]["sessionAffinity"], "ClientIP");
    let objects = chart(&["--set=standalone.service.sessionAffinity=None"]).expect("it was there before");
    assert_eq!(find(&objects, "Service", "sidepool")["spec"]["sessionAffinity"], Value::Null);
}

#[test]
fn each_port_has_a_name_of_its_own_that_kubernetes_takes() {
    // The third one would be called what the second one is.
    let names = ["sessions_a", "sessions_b", "session-2", "ümlaut", "a.b", "x--y", "n-4"];
    let servers: serde_json::Map<String, Value> = (6380..)
        .zip(names)
        .map(|(port, name)| (name.to_owned(), json!({ "listen": format!("0.0.0.0:{port}"), "host": "redis" })))
        .collect();
    let Some(objects) = of_values(&json!({ "standalone": { "settings": { "redis": servers } } })) else { return };
    let ports = find(&objects, "Service", "sidepool")["spec"]["ports"].as_array().expect("ports");
    let called: BTreeSet<&str> = ports.iter().map(|port| port["name"].as_str().expect("a name")).collect();
    assert_eq!((called.len(), ports.len()), (names.len() + 2, names.len() + 2), "{called:?}");
    let fits = |name: &&str| {
        let characters = name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        characters && name.len() <= 15 && !name.contains("--") && !name.starts_with('-') && !name.ends_with('-')
    };
    assert!(called.iter().all(fits), "{called:?}");
}

#[test]
fn a_user_of_ten_digits_is_a_number() {
    let Some(objects) = of_values(&json!({ "runAs": 1_000_700_000, "injector": { "enabled": true } })) else { return };
    for pod in pods(&objects) {
        let context = &pod["spec"]["containers"][0]["securityContext"];
        assert_eq!((&context["runAsUser"], &context["runAsGroup"]), (&json!(1_000_700_000), &json!(1_000_700_000)));
    }
    let spec = |name: &str| find(&objects, "Deployment", name)["spec"]["template"]["spec"].clone();
    assert_eq!(spec("sidepool")["securityContext"]["fsGroup"], 1_000_700_000);
    assert!(arguments(&spec("sidepool-injector")["containers"][0]).contains(&"--run-as=1000700000".to_owned()));
}

#[test]
fn a_database_may_be_called_like_the_place_of_a_secret() {
    for name in ["env", "file"] {
        let databases = json!({ "*": null, name: { "host": "db", "password": { "env": "PASSWORD" } } });
        let Some(objects) = of_values(&json!({ "standalone": { "settings": { "postgres": { "databases": databases } } } })) else { return };
        let text = find(&objects, "ConfigMap", "sidepool")["data"]["sidepool.toml"].as_str().expect("a text");
        assert!(text.contains(&format!("[postgres.databases.{name}]\nhost = \"db\"\npassword = {{ env = \"PASSWORD\" }}\n")), "{text}");
    }
}

#[test]
fn its_own_test_may_ask_for_metrics_when_only_prometheus_may() {
    let only = json!([{ "namespaceSelector": { "matchLabels": { "name": "monitoring" } } }]);
    let values = json!({ "standalone": { "networkPolicy": { "enabled": true, "metrics": only } } });
    let Some(objects) = of_values(&values) else { return };
    let from = find(&objects, "NetworkPolicy", "sidepool")["spec"]["ingress"][1]["from"].as_array().expect("peers");
    let labels = find(&objects, TEST.0, TEST.1)["metadata"]["labels"].as_object().expect("labels");
    let chosen = from.iter().filter_map(|peer| peer["podSelector"]["matchLabels"].as_object());
    assert!(chosen.flatten().all(|(key, value)| labels.get(key) == Some(value)) && from.len() == 2, "{from:?}");
}

#[test]
fn settings_become_a_file_that_sidepool_takes() {
    let directory = place::directory("chart");
    std::fs::write(directory.join("userlist.txt"), "\"app\" \"secret\"\n").expect("our own directory");
    std::fs::write(directory.join("password"), "secret").expect("our own directory");
    let here = directory.display();
    let values = json!({ "standalone": { "settings": {
        "workers": "auto",
        "memory_limit": "200MiB",
        "postgres": {
            "auth_file": format!("{here}/userlist.txt"),
            "listen": ["0.0.0.0:5432", "unix:/tmp"],
            "max_packet_size": 2_147_483_647,
            "server_check_query": "SELECT 1 < 2 AND 'a&b' <> \"\\\\\"",
            "track_extra_parameters": ["IntervalStyle", "search_path"],
            "databases": { "*": null, "shop.eu": { "host": "db.internal", "user": "app", "password": { "file": format!("{here}/password") } } },
            "users": { "alice": { "pool_size": 3, "password": { "file": format!("{here}/password") } } },
        },
        "redis": { "a_rather_long_name": { "listen": "0.0.0.0:6380", "host": "redis" }, "b": { "listen": "0.0.0.0:6381", "host": "redis" } },
    } } });
    let Some(objects) = of_values(&values) else { return };
    let text = find(&objects, "ConfigMap", "sidepool")["data"]["sidepool.toml"].as_str().expect("a text");
    let file = directory.join("sidepool.toml");
    std::fs::write(&file, text).expect("our own directory");
    let output = Command::new(path(Build::Checked)).arg("check").arg(&file).output().expect("it starts");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && !said.contains("warning"), "{said}\n{text}");
    assert!(said.contains("shop.eu  ->  db.internal:5432") && !said.contains("->  postgres:5432"), "{said}");
    let ports: Vec<(Value, Value)> = find(&objects, "Service", "sidepool")["spec"]["ports"]
        .as_array()
        .expect("ports")
        .iter()
        .map(|port| (port["name"].clone(), port["port"].clone()))
        .collect();
    let expected = [("postgres", 5432), ("redis-a-rather", 6380), ("redis-b", 6381), ("metrics", 9127)];
    assert_eq!(ports, expected.map(|(name, port)| (json!(name), json!(port))));
}

#[test]
fn the_status_page_is_served_by_the_short_name_in_the_cluster() {
    let own = "--set=standalone.settings.admin.allowed_hosts={status.example.com}";
    for (arguments, expected) in [
        (&[] as &[&str], "allowed_hosts = [\"sidepool.sidepool\"]"),
        // Who has a Service of their own.
        (&["--set=standalone.service.type=NodePort"], "allowed_hosts = [\"sidepool-metrics.sidepool\"]"),
        (&[own], "allowed_hosts = [\"status.example.com\"]"),
    ] {
        let Some(objects) = chart(arguments) else { return };
        let text = find(&objects, "ConfigMap", "sidepool")["data"]["sidepool.toml"].as_str().expect("a text");
        assert!(text.lines().any(|line| line == expected), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_installs_serves_and_passes_its_own_test() {
    let Some(objects) = chart(&[]) else { return };
    let cluster = Cluster::start().await;
    let standalone = Standalone::new(&objects, "postgres", &cluster);
    let mut process = standalone.start();
    wait::until("readiness", async || scrape::get(standalone.admin, "/readyz").await.filter(|answer| answer.status == 200)).await;
    let url = format!("postgres://app:{PASSWORD}@127.0.0.1:{}/app", standalone.postgres);
    let output = Command::new("psql").args([&url, "-Atc", "SELECT 6 * 7"]).output().expect("psql starts");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "42\n", "{}", String::from_utf8_lossy(&output.stderr));
    // As `helm test` would, with this machine in place of the Service.
    let test = find(&objects, TEST.0, TEST.1);
    assert_eq!(test["metadata"]["annotations"]["helm.sh/hook"], "test");
    let here = format!("http://127.0.0.1:{}", standalone.admin);
    let arguments = arguments(&test["spec"]["containers"][0]).into_iter().map(|argument| argument.replace("http://sidepool:9127", &here));
    let output = Command::new(path(Build::Checked)).args(arguments).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    process.signal(Signal::TERM);
    assert!(process.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_trusts_the_certificate_that_helm_makes() {
    let Some(objects) = chart(&["--set=injector.enabled=true"]) else { return };
    let decoded = |text: &Value| base64::engine::general_purpose::STANDARD.decode(text.as_str().expect("base64")).expect("base64");
    let secret = find(&objects, "Secret", "sidepool-injector-generated");
    let webhooks = find(&objects, "MutatingWebhookConfiguration", "sidepool-injector")["webhooks"].as_array().expect("two");
    assert!(webhooks.iter().all(|webhook| webhook["clientConfig"]["caBundle"] == secret["data"]["ca.crt"]));

    let directory = place::directory("tls");
    for name in ["tls.crt", "tls.key"] {
        std::fs::write(directory.join(name), decoded(&secret["data"][name])).expect("our own directory");
    }
    let container = &find(&objects, "Deployment", "sidepool-injector")["spec"]["template"]["spec"]["containers"][0];
    let (port, admin) = (place::free_port(), place::free_port());
    let mut command = Command::new(path(Build::Checked));
    command.args(arguments(container)).arg("--certificates").arg(&directory);
    command.args(["--listen", &format!("127.0.0.1:{port}"), "--admin-listen", &format!("127.0.0.1:{admin}")]);
    let _process = Process::spawn("injector", command);
    wait::until("readiness", async || scrape::get(admin, "/readyz").await.filter(|answer| answer.status == 200)).await;
    let authority = String::from_utf8(decoded(&webhooks[0]["clientConfig"]["caBundle"])).expect("PEM");
    let service = &webhooks[0]["clientConfig"]["service"];
    let host = format!("{}.{}.svc", service["name"].as_str().expect("a name"), service["namespace"].as_str().expect("a name"));
    let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    let connector = TlsConnector::from(client_that_believes(&authority, None, &["http/1.1"]));
    wait::soon("a handshake", connector.connect(ServerName::try_from(host).expect("a name"), stream)).await.expect("trust");
}

#[test]
fn each_mode_of_the_certificate_has_a_secret_of_its_own_so_that_an_upgrade_may_change_it() {
    let mounted = |mode: &str, more: &str| {
        let set = format!("--set=injector.enabled=true,injector.certificate.mode={mode}{more}");
        let objects = chart(&[&set])?;
        let volumes = find(&objects, "Deployment", "sidepool-injector")["spec"]["template"]["spec"]["volumes"].clone();
        let names: Vec<&str> =
            volumes.as_array().expect("volumes").iter().filter_map(|volume| volume["secret"]["secretName"].as_str()).collect();
        let made: Vec<&str> =
            objects.iter().filter(|object| object["kind"] == "Secret").filter_map(|object| object["metadata"]["name"].as_str()).collect();
        let asked = objects.iter().find(|object| object["kind"] == "Certificate" && object["metadata"]["name"] == "sidepool-injector");
        assert_eq!(names.len(), 1, "{mode}");
        // What Helm makes and what cert-manager makes never have one name: neither takes over what the other has left.
        assert!(made.iter().all(|made| *made == names[0]), "{made:?}");
        assert!(asked.is_none_or(|certificate| certificate["spec"]["secretName"] == names[0]));
        Some(names[0].to_owned())
    };
    let Some(generated) = mounted("generated", "") else { return };
    let existing = mounted("existing", ",injector.certificate.secretName=mine,injector.certificate.caBundle=-----BEGIN CERTIFICATE-----")
        .expect("helm is there");
    let of_manager = mounted("cert-manager", "").expect("helm is there");
    assert_eq!([&*generated, &*existing, &*of_manager], ["sidepool-injector-generated", "mine", "sidepool-injector"]);
}

#[test]
fn releases_of_different_names_share_nothing_in_a_namespace_and_take_nothing_of_each_other() {
    let set = "--set=injector.enabled=true,monitoring.podMonitor.enabled=true,monitoring.prometheusRule.enabled=true,monitoring.dashboards.enabled=true";
    let names = |release: &str| {
        let output = helm(&["template", release, "--namespace", "sidepool", "--kube-version", "1.36.0", set])?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let objects = documents(&String::from_utf8_lossy(&output.stdout));
        let selectors = objects.iter().filter(|object| object["kind"] == "Deployment").map(|object| object["spec"]["selector"].to_string());
        let all = objects.iter().map(|object| format!("{}/{}", object["kind"], object["metadata"]["name"]));
        Some(all.chain(selectors).collect::<BTreeSet<_>>())
    };
    let (Some(one), Some(two)) = (names("sidepool"), names("other")) else { return };
    assert!(one.len() > 10 && one.is_disjoint(&two), "{:?}", one.intersection(&two).collect::<Vec<_>>());
}

#[test]
fn what_is_said_after_an_installation_can_be_done() {
    let Some(output) = helm(&["install", "sidepool", "--dry-run=client", "--namespace", "shop", "--set", "injector.enabled=true"]) else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let notes = said.split("NOTES:\n").nth(1).expect("notes");
    for line in [
        "kubectl --namespace shop create secret generic sidepool-users --from-literal=userlist.txt='\"USER\" \"PASSWORD\"'",
        "psql \"host=sidepool.shop port=6432 user=USER dbname=DATABASE\"",
        "kubectl --namespace shop port-forward service/sidepool 9127:metrics",
        "kubectl --namespace shop rollout restart deployment/sidepool",
        "helm --namespace shop test sidepool",
        "kubectl label namespace NAMESPACE sidepool.dev/inject=true",
        "rollout status deployment/sidepool-injector",
    ] {
        assert!(notes.contains(line), "{line} is not in\n{notes}");
    }
}
