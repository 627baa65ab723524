//! Reading pods: a missing part is an empty one.

use serde_json::{Map, Value};

/// The name of our container, and of what else we add.
pub(crate) const OWN_NAME: &str = "sidepool";

/// The value at this path of keys.
pub(crate) fn at<'v>(value: &'v Value, path: &[&str]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, key| value.get(key))
}

/// The text at this path of keys.
pub(crate) fn text<'v>(value: &'v Value, path: &[&str]) -> Option<&'v str> {
    at(value, path)?.as_str()
}

/// The list at this path of keys; empty if there is none.
pub(crate) fn list<'v>(value: &'v Value, path: &[&str]) -> &'v [Value] {
    at(value, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The `name` of a thing; empty if it has none.
pub(crate) fn name(value: &Value) -> &str {
    text(value, &["name"]).unwrap_or_default()
}

/// Whether it is an init container that stays: a native sidecar.
pub(crate) fn stays(container: &Value) -> bool {
    text(container, &["restartPolicy"]) == Some("Always")
}

/// The object at this path of keys, made if it is missing. `None` if something else stands in the way.
pub(crate) fn object_mut<'v>(value: &'v mut Value, path: &[&str]) -> Option<&'v mut Map<String, Value>> {
    let mut here = value;
    for key in path {
        let entry = here.as_object_mut()?.entry(*key).or_insert(Value::Null);
        if entry.is_null() {
            *entry = Value::Object(Map::new());
        }
        here = entry;
    }
    here.as_object_mut()
}

/// The list under this key of an object, made if it is missing. `None` if something else stands in the way.
pub(crate) fn list_mut<'v>(object: &'v mut Value, key: &str) -> Option<&'v mut Vec<Value>> {
    let entry = object.as_object_mut()?.entry(key).or_insert(Value::Null);
    if entry.is_null() {
        *entry = Value::Array(Vec::new());
    }
    entry.as_array_mut()
}

/// Where the containers of a pod are.
pub(crate) const LISTS: [&str; 2] = ["initContainers", "containers"];

/// The container of this name, wherever it is.
pub(crate) fn container_mut<'v>(pod: &'v mut Value, wanted: &str) -> Option<&'v mut Value> {
    let spec = pod.get_mut("spec")?.as_object_mut()?;
    let lists = spec.iter_mut().filter(|(key, _)| LISTS.contains(&key.as_str())).filter_map(|(_, list)| list.as_array_mut());
    lists.flatten().find(|container| name(container) == wanted)
}
