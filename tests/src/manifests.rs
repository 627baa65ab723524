//! The manifests under `deploy/` as kubectl and helm render them, and how to find one's way in them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde::Deserialize as _;
use serde_json::Value;

use crate::kubernetes::installed;
use crate::place;

/// Where all that is shipped is.
#[must_use]
pub fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("deploy")
}

/// A program that `tests/drivers/install` gets where it can (`kubectl`, `helm`), else that of the machine; `None` where there is neither.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let ours = installed().join("programs").join(name);
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(ours).chain(std::env::split_paths(&path).map(|folder| folder.join(name))).find(|place| place.is_file())
}

/// The documents of a YAML file.
#[must_use]
pub fn documents(text: &str) -> Vec<Value> {
    let all = serde_yaml_ng::Deserializer::from_str(text).map(|document| Value::deserialize(document).expect("YAML"));
    all.filter(|document| !document.is_null()).collect()
}

/// The documents of a file.
#[must_use]
pub fn read(path: &Path) -> Vec<Value> {
    documents(&std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

/// What `kubectl apply -k` would apply, in its order.
#[must_use]
pub fn kustomize(folder: &str) -> Vec<Value> {
    kustomize_at(&deploy().join(folder))
}

/// The base and these components, as a kustomization of somebody's own would name them.
#[must_use]
pub fn kustomize_with(base: &str, components: &[&str]) -> Vec<Value> {
    overlay(base, &[("components", components.iter().map(|component| format!("components/{component}")).collect())], serde_json::json!({}))
}

/// The base under a kustomization of somebody's own: lists of directories of ours, and what else it says.
#[must_use]
pub fn overlay(base: &str, lists: &[(&str, Vec<String>)], mut says: Value) -> Vec<Value> {
    let place = place::directory("kustomization").canonicalize().expect("it is there");
    // Directories elsewhere can be named, but by relative paths only.
    let up = "../".repeat(place.components().count() - 1);
    let there = |folder: &str| format!("{up}{}", deploy().join("kustomize").join(folder).strip_prefix("/").expect("absolute").display());
    says["kind"] = "Kustomization".into();
    says["resources"] = vec![there(base)].into();
    for (list, folders) in lists {
        says[*list] = folders.iter().map(|folder| there(folder)).collect::<Vec<_>>().into();
    }
    std::fs::write(place.join("kustomization.yaml"), says.to_string()).expect("our own directory");
    kustomize_at(&place)
}

fn kustomize_at(folder: &Path) -> Vec<Value> {
    let kubectl = program("kubectl").expect("kubectl: tests/drivers/install gets it on x86-64; elsewhere install it");
    let output = Command::new(kubectl).arg("kustomize").arg(folder).output().expect("kubectl starts");
    assert!(output.status.success(), "{}: {}", folder.display(), String::from_utf8_lossy(&output.stderr));
    documents(&String::from_utf8_lossy(&output.stdout))
}

/// Runs `helm` with the chart's directory as the last argument; `None` where there is no helm.
#[must_use]
pub fn helm(arguments: &[&str]) -> Option<Output> {
    let Some(helm) = program("helm") else {
        crate::left_out("helm: tests/drivers/install gets it on x86-64");
        return None;
    };
    let mut command = Command::new(helm);
    command.args(arguments).arg(deploy().join("helm/sidepool")).env("HELM_CACHE_HOME", place::root());
    Some(command.output().expect("helm starts"))
}

/// What `helm install` of this name and with these values would apply.
#[must_use]
pub fn chart(arguments: &[&str]) -> Option<Vec<Value>> {
    let output = helm(&[&["template", "sidepool", "--namespace", "sidepool", "--kube-version", "1.36.0"], arguments].concat())?;
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(documents(&String::from_utf8_lossy(&output.stdout)))
}

/// The object of this kind and name.
#[must_use]
pub fn find<'o>(objects: &'o [Value], kind: &str, name: &str) -> &'o Value {
    let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

/// `Kind name` of each, sorted.
#[must_use]
pub fn names(objects: &[Value]) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut names: Vec<String> =
        objects.iter().map(|object| format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]))).collect();
    names.sort();
    names
}

/// The pods that these objects make: the template of each Deployment, and pods as they are.
#[must_use]
pub fn pods(objects: &[Value]) -> Vec<&Value> {
    objects
        .iter()
        .filter_map(|object| match object["kind"].as_str()? {
            "Deployment" => Some(&object["spec"]["template"]),
            "Pod" => Some(object),
            _ => None,
        })
        .collect()
}

/// What a container's program is started with: `$(NAME)` of its arguments is taken from its environment, as the kubelet does.
#[must_use]
pub fn arguments(container: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let list = |key: &str| container[key].as_array().cloned().unwrap_or_default();
    let environment = list("env");
    let expanded = |argument: &Value| {
        environment.iter().fold(text(argument), |argument, entry| match entry["value"].as_str() {
            Some(value) => argument.replace(&format!("$({})", text(&entry["name"])), value),
            None => argument,
        })
    };
    list("args").iter().map(expanded).collect()
}
