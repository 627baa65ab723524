//! The manifests for Kubernetes: they follow its schemas, fit together, and start a program that takes their flags.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize as _;
use serde_json::{Value, json};
use sidepool_tests::binary::{Build, path};
use sidepool_tests::kubernetes::{against_restricted, validate};
use sidepool_tests::process::Process;
use sidepool_tests::{place, scrape, wait};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kustomize").join(name)
}

fn documents(text: &str) -> Vec<Value> {
    serde_yaml_ng::Deserializer::from_str(text).map(|document| Value::deserialize(document).expect("YAML")).collect()
}

fn read(path: &Path) -> Vec<Value> {
    documents(&std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

/// All objects of a base, in the order in which they are applied.
fn base(name: &str) -> Vec<Value> {
    let folder = folder(name);
    let kustomization = read(&folder.join("kustomization.yaml")).remove(0);
    let resources: Vec<&str> = kustomization["resources"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    let mut files: Vec<String> = std::fs::read_dir(&folder)
        .expect("it is there")
        .map(|entry| entry.expect("a file").file_name().to_string_lossy().into_owned())
        .collect();
    files.retain(|file| file != "kustomization.yaml" && !resources.contains(&file.as_str()));
    assert_eq!(files, Vec::<String>::new(), "files that are part of nothing");
    resources.iter().flat_map(|file| read(&folder.join(file))).collect()
}

fn find<'o>(objects: &'o [Value], kind: &str) -> &'o Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("there is no {kind}"))
}

fn names(objects: &[Value]) -> Vec<String> {
    let mut names: Vec<String> = objects.iter().map(|object| format!("{} {}", object["kind"], object["metadata"]["name"])).collect();
    names.sort();
    names
}

/// Schemas of cert-manager's are its own.
fn of_kubernetes(objects: &[Value]) -> Vec<Value> {
    objects
        .iter()
        .filter(|object| !object["apiVersion"].as_str().is_some_and(|version| version.starts_with("cert-manager.io/")))
        .cloned()
        .collect()
}

#[test]
fn all_follow_the_schemas() {
    let injector = base("injector");
    validate(&of_kubernetes(&injector), &["1.30", "1.33", "1.36"]);
    validate(&base("policy"), &["1.36"]);
    // Where kubectl is at hand: what it renders is the same objects, and follows the schemas as well.
    for name in ["injector", "policy"] {
        let Ok(output) = Command::new("kubectl").arg("kustomize").arg(folder(name)).output() else { continue };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let rendered = documents(&String::from_utf8_lossy(&output.stdout));
        assert_eq!(names(&rendered), names(&base(name)));
        validate(&of_kubernetes(&rendered), &["1.36"]);
    }
}

#[test]
#[should_panic(expected = "replicaz")]
fn a_field_that_does_not_exist_is_seen() {
    let mut deployment = find(&base("injector"), "Deployment").clone();
    deployment["spec"]["replicaz"] = 2.into();
    validate(&[deployment], &["1.36"]);
}

#[test]
fn the_webhook_is_called_for_who_asks_and_finds_who_answers() {
    let objects = base("injector");
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
    let objects = base("injector");
    let template = &find(&objects, "Deployment")["spec"]["template"];
    assert_eq!(against_restricted(template, &[]), Vec::<String>::new());
    let container = &template["spec"]["containers"][0];
    let (webhook, admin) = (place::free_port(), place::free_port());
    let mut command = Command::new(path(Build::Checked));
    command.args(container["args"].as_array().expect("a list").iter().filter_map(Value::as_str));
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
fn the_images_are_of_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(read(&folder("injector").join("kustomization.yaml"))[0]["images"][0]["newTag"], version);
    for file in ["injector/deployment.yaml", "policy/policy.yaml"] {
        let text = std::fs::read_to_string(folder(file)).expect("it is there");
        assert!(text.contains(&format!("sidepool:{version}")), "{file}");
    }
}
