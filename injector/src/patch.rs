//! The difference of two documents as a JSON Patch (RFC 6902): what is equal is not named, lists change in their middle.

use serde_json::{Map, Value, json};

/// What turns `before` into `after`.
#[must_use]
pub fn patch(before: &Value, after: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    compare(before, after, "", &mut operations);
    operations
}

fn compare(before: &Value, after: &Value, path: &str, operations: &mut Vec<Value>) {
    match (before, after) {
        _ if before == after => {}
        (Value::Object(before), Value::Object(after)) => objects(before, after, path, operations),
        (Value::Array(before), Value::Array(after)) => lists(before, after, path, operations),
        _ => operations.push(json!({ "op": "replace", "path": path, "value": after })),
    }
}

fn objects(before: &Map<String, Value>, after: &Map<String, Value>, path: &str, operations: &mut Vec<Value>) {
    for (key, old) in before {
        let path = child(path, key);
        match after.get(key) {
            Some(new) => compare(old, new, &path, operations),
            None => operations.push(json!({ "op": "remove", "path": path })),
        }
    }
    for (key, new) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
        operations.push(json!({ "op": "add", "path": child(path, key), "value": new }));
    }
}

/// What both begin and end with stays; between them elements are compared one by one, and the rest is taken out or put in.
fn lists(before: &[Value], after: &[Value], path: &str, operations: &mut Vec<Value>) {
    let same = |(old, new): &(&Value, &Value)| old == new;
    let head = before.iter().zip(after).take_while(same).count();
    let tail = before[head..].iter().rev().zip(after[head..].iter().rev()).take_while(same).count();
    let (old, new) = (&before[head..before.len() - tail], &after[head..after.len() - tail]);
    for (index, (old, new)) in old.iter().zip(new).enumerate() {
        compare(old, new, &format!("{path}/{}", head + index), operations);
    }
    let common = old.len().min(new.len());
    for index in (common..old.len()).rev() {
        operations.push(json!({ "op": "remove", "path": format!("{path}/{}", head + index) }));
    }
    for (index, value) in new.iter().enumerate().skip(common) {
        operations.push(json!({ "op": "add", "path": format!("{path}/{}", head + index), "value": value }));
    }
}

fn child(path: &str, key: &str) -> String {
    format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn document() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            (0..5_i32).prop_map(|n| json!(n)),
            "[a-c/~]{0,3}".prop_map(|s| json!(s))
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
                prop::collection::vec(("[a-c/~]{1,2}", inner), 0..5).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn another_implementation_makes_the_same_of_it(before in document(), after in document()) {
            let operations: json_patch::Patch = serde_json::from_value(Value::Array(patch(&before, &after))).unwrap();
            let mut patched = before;
            json_patch::patch(&mut patched, &operations).unwrap();
            prop_assert_eq!(patched, after);
        }
    }

    #[test]
    fn an_insertion_is_one_operation() {
        let (before, after) = (json!({ "a/b": [1, 2] }), json!({ "a/b": [1, 9, 2] }));
        assert_eq!(patch(&before, &after), [json!({ "op": "add", "path": "/a~1b/1", "value": 9 })]);
        assert!(patch(&after, &after).is_empty());
    }
}
