//! What Kubernetes would make of an object, without a cluster: its schemas, the restricted Pod Security rules, the environment that a container
//! is started with, and JSON Patches applied by somebody else's code.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};

/// Where the scripts in other languages are.
#[must_use]
pub fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("drivers")
}

/// Where `tests/drivers/install` has put what they need; it is run when a test first asks, and does nothing when all is there.
#[must_use]
pub fn installed() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let output = Command::new(scripts().join("install")).output().expect("bash starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let ourselves = std::env::current_exe().expect("we know where we are");
        ourselves.ancestors().nth(3).expect("cargo's layout").join("drivers")
    })
}

/// Fails unless each object follows the schemas of these versions, or those of whose it is, with no field that they do not know.
pub fn validate(objects: &[Value], versions: &[&str]) {
    let (own, others): (Vec<Value>, Vec<Value>) = objects.iter().cloned().partition(|object| {
        let group = object["apiVersion"].as_str().unwrap_or_default().split_once('/').map_or("", |(group, _)| group);
        !group.contains('.') || group.ends_with(".k8s.io")
    });
    let mut command = Command::new(installed().join("venv/bin/python"));
    command.arg(scripts().join("python/manifests.py")).args(versions).env("PYTHONDONTWRITEBYTECODE", "1");
    found_nothing(command, own);
    if !others.is_empty() {
        let mut command = Command::new("node");
        command.arg(scripts().join("javascript/manifests.mjs")).arg(installed().join("javascript"));
        found_nothing(command, others);
    }
}

/// Fails with what a validator has found in these objects.
fn found_nothing(mut command: Command, objects: Vec<Value>) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it is installed");
    child.stdin.take().expect("piped").write_all(Value::from(objects).to_string().as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// What somebody else's code makes of a JSON Patch.
#[must_use]
pub fn patched(before: &Value, operations: &Value) -> Value {
    let operations: json_patch::Patch = serde_json::from_value(operations.clone()).expect("a JSON Patch");
    let mut after = before.clone();
    json_patch::patch(&mut after, &operations).expect("a patch that fits");
    after
}

/// What the restricted Pod Security Standard has against a pod; `only` names the containers that are looked at, nobody for all.
#[must_use]
pub fn against_restricted(pod: &Value, only: &[&str]) -> Vec<String> {
    let spec = &pod["spec"];
    let mut found = Vec::new();
    for host in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec[host] == true {
            found.push(host.to_owned());
        }
    }
    let kinds = ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret", "name"];
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        let keys = volume.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
        found.extend(keys.filter(|key| !kinds.contains(key)).map(|key| format!("volume {key}")));
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in spec[list].as_array().into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or_default();
            if only.is_empty() || only.contains(&name) {
                found.extend(against_container(container, &spec["securityContext"]).into_iter().map(|what| format!("{name}: {what}")));
            }
        }
    }
    found
}

fn against_container(container: &Value, pod: &Value) -> Vec<&'static str> {
    let own = &container["securityContext"];
    let either = |key: &str| if own[key].is_null() { pod[key].clone() } else { own[key].clone() };
    let mut found = Vec::new();
    let mut unless = |fine: bool, what| {
        if !fine {
            found.push(what);
        }
    };
    unless(own["allowPrivilegeEscalation"] == false, "allowPrivilegeEscalation is not false");
    unless(own["privileged"] != true, "privileged");
    unless(either("runAsNonRoot") == true, "runAsNonRoot is not true");
    unless(either("runAsUser") != 0, "runAsUser is 0");
    unless(own["capabilities"]["drop"].as_array().is_some_and(|drop| drop.contains(&json!("ALL"))), "capabilities are not dropped");
    let added = own["capabilities"]["add"].as_array().cloned().unwrap_or_default();
    unless(added.iter().all(|capability| capability == "NET_BIND_SERVICE"), "capabilities are added");
    let profile = either("seccompProfile")["type"].clone();
    unless(profile == "RuntimeDefault" || profile == "Localhost", "no seccomp profile");
    let ports = container["ports"].as_array().cloned().unwrap_or_default();
    unless(ports.iter().all(|port| port["hostPort"].is_null() || port["hostPort"] == 0), "a port of the host");
    unless(own["procMount"].is_null() || own["procMount"] == "Default", "procMount");
    found
}

/// The environment that a container is started with. `secrets` has what Secrets and ConfigMaps hold, by `name/key`.
#[must_use]
pub fn environment(container: &Value, secrets: &BTreeMap<&str, String>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for entry in container["env"].as_array().into_iter().flatten() {
        let name = entry["name"].as_str().expect("a name").to_owned();
        let value = match (&entry["valueFrom"], entry["value"].as_str()) {
            (Value::Null, value) => Some(expanded(value.unwrap_or_default(), &all)),
            (from, _) => referenced(from, secrets),
        };
        all.extend(value.map(|value| (name, value)));
    }
    all
}

fn referenced(from: &Value, secrets: &BTreeMap<&str, String>) -> Option<String> {
    let reference =
        ["secretKeyRef", "configMapKeyRef"].into_iter().find_map(|kind| from.get(kind)).expect("a reference that is known here");
    let place = format!("{}/{}", reference["name"].as_str().expect("a name"), reference["key"].as_str().expect("a key"));
    let value = secrets.get(place.as_str()).cloned();
    assert!(value.is_some() || reference["optional"] == true, "there is no {place}: the container would not start");
    value
}

/// `$(NAME)` filled in where it is defined already, `$$` halved.
fn expanded(value: &str, defined: &BTreeMap<String, String>) -> String {
    let (mut text, mut rest) = (String::new(), value);
    while let Some(at) = rest.find('$') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let known =
            rest.strip_prefix("$(").and_then(|inside| inside.split_once(')')).and_then(|(name, after)| Some((defined.get(name)?, after)));
        if let Some((value, after)) = known {
            text.push_str(value);
            rest = after;
        } else {
            text.push('$');
            rest = rest.strip_prefix("$$").unwrap_or(&rest[1..]);
        }
    }
    text + rest
}
