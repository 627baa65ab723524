//! What was done to a pod: noted in an annotation, so that it can be recognised and undone. No value of a variable is ever in it, nor in the
//! hash: a weak password could be guessed from that.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::container::VOLUME;
use crate::pods::{LISTS, OWN_NAME, container_mut, list, list_mut, name, object_mut, text};
use crate::rewriting::{Edit, Plan};
use crate::wish::STATUS;

/// What begins the names of variables in which the sidecar only keeps what was there before.
const KEPT: &str = "SIDEPOOL_ORIGINAL_";

/// One change of the application's environment, and where the original is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    container: String,
    variable: String,
    /// The variable of the sidecar that has it; `None`: the application had no such entry.
    kept_as: Option<String>,
}

/// A pod as it was before the sidecar came, and what the sidecar was.
pub(crate) struct Undone {
    pub(crate) pod: Value,
    pub(crate) hash: String,
}

/// Changes the environment of the application, and has the sidecar keep what was there. The answer goes into the status.
pub(crate) fn change(pod: &mut Value, own: &mut Value, plan: &Plan) -> Vec<Value> {
    let mut noted = Vec::new();
    for edit in &plan.edits {
        let kept_as = edit.original.as_ref().map(|original| keep(own, original));
        let entry = json!({ "name": edit.variable, "value": edit.value });
        if let Some(environment) = container_mut(pod, &edit.container).and_then(|container| list_mut(container, "env")) {
            match environment.iter_mut().rfind(|entry| name(entry) == edit.variable) {
                Some(old) => *old = entry,
                // In front, so that others may be made of it as they were of the imported one.
                None => environment.insert(0, entry),
            }
        }
        noted.push(Change { container: edit.container.clone(), variable: edit.variable.clone(), kept_as }.to_json());
    }
    noted
}

/// The variable of the sidecar that has what this entry has; made if there is none.
fn keep(own: &mut Value, original: &Value) -> String {
    let nameless = |entry: &Value| {
        let mut entry = entry.clone();
        entry.as_object_mut().map(|entry| entry.shift_remove("name"));
        entry
    };
    let wanted = nameless(original);
    if let Some(entry) = list(own, &["env"]).iter().find(|entry| nameless(entry) == wanted) {
        return name(entry).to_owned();
    }
    let number = list(own, &["env"]).iter().filter(|entry| name(entry).starts_with(KEPT)).count() + 1;
    let mut entry = original.clone();
    entry["name"] = format!("{KEPT}{number}").into();
    if let Some(environment) = list_mut(own, "env") {
        environment.push(entry);
    }
    format!("{KEPT}{number}")
}

/// Stands for everything that the injection consists of, but for the values of variables that came from the application.
pub(crate) fn hash(own: &Value, volume: Option<&Value>, plan: &Plan, noted: &[Value]) -> String {
    let mut shown = own.clone();
    let carried = |entry: &Value| name(entry).starts_with(KEPT) || plan.environment.iter().any(|other| name(other) == name(entry));
    for entry in list_mut(&mut shown, "env").into_iter().flatten() {
        if carried(entry) && entry.get("value").is_some() {
            entry["value"] = Value::Null;
        }
    }
    let digest = Sha256::digest(json!([shown, volume, noted]).to_string());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Notes what was done.
pub(crate) fn note(pod: &mut Value, hash: &str, noted: Vec<Value>) {
    let status = json!({ "version": env!("CARGO_PKG_VERSION"), "hash": hash, "env": noted });
    if let Some(annotations) = object_mut(pod, &["metadata", "annotations"]) {
        annotations.insert(STATUS.to_owned(), status.to_string().into());
    }
}

/// Takes the sidecar out again. `None`: there is none of ours.
pub(crate) fn undo(pod: &Value) -> Result<Option<Undone>, String> {
    let Some(text) = text(pod, &["metadata", "annotations", STATUS]) else { return Ok(None) };
    let own = LISTS.iter().find_map(|key| list(pod, &["spec", key]).iter().find(|container| name(container) == OWN_NAME));
    let mut pod = pod.clone();
    object_mut(&mut pod, &["metadata", "annotations"]).map(|annotations| annotations.shift_remove(STATUS));
    let Some(own) = own.cloned() else {
        // Copied from a running pod, but without the container: it says nothing about this one.
        return Ok(Some(Undone { pod, hash: String::new() }));
    };
    let status: Value =
        serde_json::from_str(text).map_err(|_| format!("the annotation {STATUS} is not as the injector wrote it: remove it"))?;
    for change in list(&status, &["env"]).iter().rev().filter_map(Change::from_json) {
        restore(&mut pod, &own, &change);
    }
    for key in LISTS {
        without(&mut pod, &["spec"], key, OWN_NAME);
    }
    without(&mut pod, &["spec"], "volumes", VOLUME);
    let hash = status["hash"].as_str().unwrap_or_default().to_owned();
    Ok(Some(Undone { pod, hash }))
}

fn restore(pod: &mut Value, own: &Value, change: &Change) {
    let Some(container) = container_mut(pod, &change.container) else { return };
    let kept = change.kept_as.as_ref().and_then(|kept| list(own, &["env"]).iter().find(|entry| name(entry) == kept));
    match kept {
        Some(kept) => {
            let mut original = kept.clone();
            original["name"] = change.variable.clone().into();
            let environment = list_mut(container, "env").into_iter().flatten();
            if let Some(entry) = environment.rev().find(|entry| name(entry) == change.variable) {
                *entry = original;
            }
        }
        None => remove(container, "env", &change.variable),
    }
}

/// Removes what is called so from a list, and the list if it was all.
fn without(pod: &mut Value, path: &[&str], key: &str, called: &str) {
    let Some(parent) = path.iter().try_fold(pod, |value, key| value.get_mut(*key)) else { return };
    remove(parent, key, called);
}

fn remove(parent: &mut Value, key: &str, called: &str) {
    let Some(things) = parent.get_mut(key).and_then(Value::as_array_mut) else { return };
    let before = things.len();
    things.retain(|thing| name(thing) != called);
    if things.is_empty() && before > 0 {
        parent.as_object_mut().map(|parent| parent.shift_remove(key));
    }
}

impl Change {
    fn to_json(&self) -> Value {
        json!({ "container": self.container, "name": self.variable, "as": self.kept_as })
    }

    fn from_json(value: &Value) -> Option<Self> {
        let part = |key: &str| text(value, &[key]).map(str::to_owned);
        Some(Self { container: part("container")?, variable: part("name")?, kept_as: part("as") })
    }
}

/// What is worth saying about a change.
pub(crate) fn said(edit: &Edit) -> String {
    let verb = if edit.original.is_some() { "changed" } else { "set" };
    format!("container {}: {} was {verb} so that it goes through sidepool", edit.container, edit.variable)
}
