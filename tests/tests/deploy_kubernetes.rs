//! The manifests for Kubernetes, as kubectl renders them: they follow its schemas and the restricted Pod Security Standard, fit together, and start
//! a program that takes their flags.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use sidepool_tests::binary::{Build, path};
use sidepool_tests::kubernetes::{against_restricted, validate};
use sidepool_tests::manifests::{self, arguments, deploy, kustomize, overlay, pods, read};
use sidepool_tests::postgres::cluster::{Cluster, PASSWORD};
use sidepool_tests::process::{Process, Signal};
use sidepool_tests::standalone::Standalone;
use sidepool_tests::{place, scrape, wait};

/// Versions of Kubernetes: the oldest that there are native sidecars in, and the newest.
const VERSIONS: &[&str] = &["1.29", "1.33", "1.37"];

fn find<'o>(objects: &'o [Value], kind: &str) -> &'o Value {
    let name =
        if objects.iter().any(|object| object["metadata"]["name"] == "sidepool-injector") { "sidepool-injector" } else { "sidepool" };
    manifests::find(objects, kind, if kind == "Namespace" { "sidepool" } else { name })
}

/// Every directory below `deploy` with a kustomization in it, relative to it.
fn kustomizations() -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![deploy()]);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).expect("it is there") {
            let path = entry.expect("a file").path();
            if path.is_dir() {
                open.push(path);
            } else if path.ends_with("kustomization.yaml") {
                found.push(folder.strip_prefix(deploy()).expect("below it").to_owned());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn all_follow_the_schemas_and_the_restricted_standard() {
    let mut rendered = 0;
    for folder in kustomizations() {
        let kind = &read(&deploy().join(&folder).join("kustomization.yaml"))[0]["kind"];
        // Components and transformers are rendered by the examples.
        if kind == "Component" || folder.starts_with("kustomize/transformers") {
            continue;
        }
        let objects = kustomize(folder.to_str().expect("a plain name"));
        let versions = if folder.ends_with("policy") { &["1.36", "1.37"] } else { VERSIONS };
        validate(&objects, versions);
        for pod in pods(&objects) {
            assert_eq!(against_restricted(pod, &[]), Vec::<String>::new(), "{}", folder.display());
            assert_eq!(pod["spec"]["automountServiceAccountToken"], false);
            for container in pod["spec"]["containers"].as_array().expect("a list") {
                assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
                assert!(container["securityContext"]["runAsUser"].as_u64() > Some(0), "a number that is not 0");
                assert!(container["resources"]["requests"]["cpu"].is_string() && container["resources"]["limits"]["memory"].is_string());
                assert!(["startupProbe", "livenessProbe", "readinessProbe"].iter().all(|probe| container[probe].is_object()));
            }
        }
        rendered += 1;
    }
    assert!(rendered >= 4, "the injector, the policy, the standalone base and its example");
}

#[test]
fn each_file_is_part_of_something_and_each_component_of_the_example() {
    let mut used = BTreeSet::new();
    for folder in kustomizations() {
        let place = deploy().join(&folder);
        let kustomization = read(&place.join("kustomization.yaml")).remove(0);
        let generators = kustomization["configMapGenerator"].as_array().into_iter().flatten().map(|generator| &generator["files"]);
        let lists =
            ["resources", "components", "configurations", "transformers"].map(|list| &kustomization[list]).into_iter().chain(generators);
        let named: Vec<&str> = lists.filter_map(Value::as_array).flatten().filter_map(Value::as_str).collect();
        used.extend(named.iter().map(|name| place.join(name).canonicalize().unwrap_or_else(|error| panic!("{folder:?}: {name}: {error}"))));
        if folder.starts_with("kustomize") {
            let files = std::fs::read_dir(&place).expect("it is there").map(|entry| entry.expect("a file"));
            let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
            let unnamed: Vec<String> = names.filter(|name| name != "kustomization.yaml" && !named.contains(&name.as_str())).collect();
            assert_eq!(unnamed, Vec::<String>::new(), "{}: part of nothing", folder.display());
        }
    }
    for folder in ["components", "transformers"] {
        for part in std::fs::read_dir(deploy().join("kustomize").join(folder)).expect("it is there") {
            let path = part.expect("a directory").path().canonicalize().expect("it is there");
            assert!(used.contains(&path), "{}: nobody renders it", path.display());
        }
    }
}

#[test]
#[should_panic(expected = "replicaz")]
fn a_field_that_does_not_exist_is_seen() {
    let mut deployment = find(&kustomize("kustomize/injector"), "Deployment").clone();
    deployment["spec"]["replicaz"] = 2.into();
    validate(&[deployment], &["1.36"]);
}

#[test]
#[should_panic(expected = "spec.podMetricsEndpoint is not known")]
fn a_field_that_the_operator_does_not_know_is_seen() {
    let objects = kustomize("kustomize/example/standalone");
    let mut monitor = find(&objects, "PodMonitor").clone();
    monitor["spec"]["podMetricsEndpoint"] = json!([]);
    validate(&[monitor], &[]);
}

#[test]
fn the_webhook_is_called_for_who_asks_and_finds_who_answers() {
    let objects = kustomize("kustomize/injector");
    assert_eq!(objects.last().map(|object| &object["kind"]), Some(&json!("MutatingWebhookConfiguration")), "after its own pods");
    let (service, webhooks) = (find(&objects, "Service"), &find(&objects, "MutatingWebhookConfiguration")["webhooks"]);
    let namespace = &find(&objects, "Namespace")["metadata"]["name"];
    let host = format!("{}.{}.svc", service["metadata"]["name"].as_str().expect("a name"), namespace.as_str().expect("a name"));
    let certificate =
        objects.iter().find(|object| object["kind"] == "Certificate" && object["metadata"]["name"] == "sidepool-injector").expect("one");
    assert!(certificate["spec"]["dnsNames"].as_array().expect("names").contains(&json!(host)));
    for webhook in webhooks.as_array().expect("a list") {
        let client = &webhook["clientConfig"]["service"];
        let wanted = json!({ "namespace": namespace, "name": service["metadata"]["name"], "path": "/inject", "port": service["spec"]["ports"][0]["port"] });
        assert_eq!(*client, wanted);
        assert_eq!(webhook["rules"][0]["operations"], json!(["CREATE"]), "pods do not get a sidecar later");
        let chosen =
            (&webhook["failurePolicy"], &webhook["reinvocationPolicy"], &webhook["sideEffects"], &webhook["admissionReviewVersions"]);
        assert_eq!(chosen, (&json!("Fail"), &json!("IfNeeded"), &json!("None"), &json!(["v1"])));
        let spaces = webhook["namespaceSelector"]["matchExpressions"].as_array().expect("a list");
        let left_alone = json!({ "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system", namespace] });
        assert!(spaces.contains(&left_alone), "who would start the injector?");
        let labels = webhook["objectSelector"]["matchExpressions"].as_array().expect("a list");
        assert!(
            labels
                .iter()
                .chain(spaces)
                .any(|label| label["key"] == "sidepool.dev/inject" && label["operator"] != "NotIn" && label["operator"] != "DoesNotExist")
        );
    }
    let labels = &find(&objects, "Deployment")["spec"]["template"]["metadata"]["labels"];
    let selectors = [
        &service["spec"]["selector"],
        &find(&objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        &find(&objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        &find(&objects, "Deployment")["spec"]["selector"]["matchLabels"],
    ];
    assert!(selectors.into_iter().all(|selector| selector == labels));
    assert!(find(&objects, "Deployment")["spec"]["replicas"].as_u64() >= Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_injector_starts_as_its_deployment_says_and_waits_for_its_certificate() {
    let objects = kustomize("kustomize/injector");
    let template = &find(&objects, "Deployment")["spec"]["template"];
    let container = &template["spec"]["containers"][0];
    let (webhook, admin) = (place::free_port(), place::free_port());
    let mut command = Command::new(path(Build::Checked));
    command.args(arguments(container));
    command.args(["--listen", &format!("127.0.0.1:{webhook}"), "--admin-listen", &format!("127.0.0.1:{admin}")]);
    let _process = Process::spawn("injector", command);
    for (probe, status) in [("startupProbe", 200), ("livenessProbe", 200), ("readinessProbe", 503)] {
        let asked = container[probe]["httpGet"]["path"].as_str().expect("a path");
        let answer = wait::until(probe, async || scrape::get(admin, asked).await).await;
        assert_eq!(answer.status, status, "{probe}");
    }
    let help = Command::new(path(Build::Checked)).args(["injector", "--help"]).output().expect("it starts");
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let mounted = container["volumeMounts"][0]["mountPath"].as_str().expect("a path");
    for default in [mounted, "[::]:8443", "[::]:9127"] {
        assert!(help.contains(&format!("[default: {default}]")), "{default} is not what it does without flags");
    }
}

#[test]
fn the_image_of_an_overlay_is_the_one_that_pods_get() {
    let images = json!([{ "name": "sidepool", "newName": "registry.example.com/ours", "newTag": "v9" }]);
    let digest = json!([{ "name": "sidepool", "newName": "registry.example.com/ours", "digest": format!("sha256:{}", "a".repeat(64)) }]);
    for images in [images, digest] {
        let objects = overlay("injector", &[], json!({ "images": images }));
        let container = &find(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0];
        let image = container["image"].as_str().expect("a text");
        assert!(image.starts_with("registry.example.com/ours"), "{image}");
        assert!(arguments(container).contains(&format!("--image={image}")), "{container}");
    }
}

#[test]
fn the_policys_image_is_changed_as_its_kustomization_says() {
    let text = std::fs::read_to_string(deploy().join("kustomize/policy/kustomization.yaml")).expect("it is there");
    let (_, patches) = text.split_once("#   patches:\n").expect("it says how");
    let patches: String = patches.lines().map_while(|line| line.strip_prefix("#   ")).map(|line| format!("{line}\n")).collect();
    let patches: Value = serde_yaml_ng::from_str(&patches).expect("YAML");
    let objects = overlay("policy", &[], json!({ "patches": patches }));
    let variables = &find(&objects, "MutatingAdmissionPolicy")["spec"]["variables"];
    assert_eq!(variables[0], json!({ "name": "image", "expression": "'registry.example.com/sidepool:0.1.0'" }));
    let text = Value::from(objects).to_string();
    assert!(text.contains("image: variables.image,") && !text.contains("\"sidepool:"), "{text}");
}

#[test]
fn the_injector_of_another_namespace_is_called_there() {
    let transformers = [("transformers", vec!["transformers/injector-namespace".to_owned()])];
    let objects = overlay("injector", &transformers, json!({ "namespace": "pools" }));
    let theirs = Value::from(objects).to_string();
    let ours = Value::from(overlay("injector", &[], json!({}))).to_string();
    // The namespace, and nothing else of that name, is another.
    let mut expected = ours;
    for (from, to) in [
        ("\"namespace\":\"sidepool\"", "\"namespace\":\"pools\""),
        ("\"name\":\"sidepool\"}", "\"name\":\"pools\"}"),
        ("\"kube-system\",\"sidepool\"", "\"kube-system\",\"pools\""),
        ("sidepool-injector.sidepool.svc", "sidepool-injector.pools.svc"),
        ("\"sidepool/sidepool-injector\"", "\"pools/sidepool-injector\""),
    ] {
        assert!(expected.contains(from), "{from}");
        expected = expected.replace(from, to);
    }
    assert_eq!(theirs, expected);
}

#[test]
fn a_node_can_be_drained_whatever_the_number_of_replicas() {
    for folder in ["kustomize/injector", "kustomize/standalone"] {
        let spec = find(&kustomize(folder), "PodDisruptionBudget")["spec"].clone();
        assert_eq!((&spec["maxUnavailable"], &spec["minAvailable"]), (&json!(1), &Value::Null), "{folder}");
    }
}

/// The port of a probe or a Service's target: by name, as all of ours are.
fn port(container: &Value, name: &Value) -> u64 {
    let ports = container["ports"].as_array().expect("ports");
    let named = ports.iter().find(|port| port["name"] == *name).unwrap_or_else(|| panic!("there is no port {name}"));
    named["containerPort"].as_u64().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_standalone_pooler_serves_as_its_deployment_says() {
    let cluster = Cluster::start().await;
    let objects = kustomize("kustomize/standalone");
    let standalone = Standalone::new(&objects, "postgres", &cluster);
    let mut process = standalone.start();
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let asked = &standalone.container[probe]["httpGet"];
        assert_eq!(port(&standalone.container, &asked["port"]), 9127);
        let asked = asked["path"].as_str().expect("a path");
        wait::until(probe, async || scrape::get(standalone.admin, asked).await.filter(|answer| answer.status == 200)).await;
    }
    let url = format!("postgres://app:{PASSWORD}@127.0.0.1:{}/app", standalone.postgres);
    let output = Command::new("psql").args([&url, "-Atc", "SELECT 6 * 7"]).output().expect("psql starts");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "42\n", "{}", String::from_utf8_lossy(&output.stderr));
    process.signal(Signal::TERM);
    assert!(process.ended().await.success());
}

#[test]
fn a_replica_has_time_to_drain_and_clients_find_it() {
    for folder in ["kustomize/standalone", "kustomize/example/standalone"] {
        let objects = kustomize(folder);
        let text = find(&objects, "ConfigMap")["data"]["sidepool.toml"].as_str().expect("a text");
        let spec = &find(&objects, "Deployment")["spec"]["template"]["spec"];
        assert!(text.contains("\n[drain]\naccept_for = \"5s\"\ntimeout = \"25s\"\n"), "{text}");
        assert!(spec["terminationGracePeriodSeconds"].as_u64() > Some(25), "longer than drain.timeout");
        let container = &spec["containers"][0];
        assert!(container["lifecycle"].is_null(), "sidepool waits by itself");
        for service in find(&objects, "Service")["spec"]["ports"].as_array().expect("ports") {
            let listens = port(container, &service["targetPort"]);
            assert!(text.contains(&format!("[::]:{listens}\"")), "{listens} in {text}");
        }
        let template = &find(&objects, "Deployment")["spec"]["template"];
        let labels = template["metadata"]["labels"].as_object().expect("labels");
        let chosen = find(&objects, "Service")["spec"]["selector"].as_object().expect("labels");
        assert!(chosen.iter().all(|(key, value)| labels.get(key) == Some(value)));
        let users = spec["volumes"].as_array().expect("volumes").iter().find(|volume| volume["secret"].is_object()).expect("a Secret");
        assert!(text.contains(&format!("/etc/sidepool/secrets/{}/", users["secret"]["secretName"].as_str().expect("a name"))));
    }
}

#[test]
fn the_images_are_of_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    for folder in ["injector", "standalone", "example/standalone", "example/injector"] {
        let kustomization = read(&deploy().join("kustomize").join(folder).join("kustomization.yaml")).remove(0);
        assert_eq!(kustomization["images"][0]["newTag"], version, "{folder}");
    }
    let policy = std::fs::read_to_string(deploy().join("kustomize/policy/policy.yaml")).expect("it is there");
    assert!(policy.contains(&format!("'sidepool:{version}'")));
}
