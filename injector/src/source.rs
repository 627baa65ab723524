//! Where a variable of a container has its value from, and how the sidecar comes to the same value under another name.

use serde_json::{Value, json};

use crate::pods::{list, name, text};

/// How deep variables may be made of variables.
const DEEPEST: usize = 8;

/// What begins the names of variables that the sidecar needs only to put others together.
const PREFIX: &str = "SIDEPOOL_FROM_";

/// Where a variable has its value from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Source {
    /// It stands there.
    Literal(String),
    /// It is put together from other variables.
    Composite(String),
    /// A Secret, a ConfigMap, …: the `valueFrom`.
    Reference(Value),
    /// One of these may have it, the first that does wins: the `valueFrom` of each.
    Imported(Vec<Value>),
}

/// The entry of `env` that counts, with its place: of several with one name it is the last.
pub(crate) fn entry<'c>(container: &'c Value, variable: &str) -> Option<(usize, &'c Value)> {
    list(container, &["env"]).iter().enumerate().rfind(|(_, entry)| name(entry) == variable)
}

/// Where a variable has its value from, if the container has it or may have it.
pub(crate) fn of(container: &Value, variable: &str) -> Option<Source> {
    let Some((_, entry)) = entry(container, variable) else {
        let imported = imported(container, variable);
        return (!imported.is_empty()).then_some(Source::Imported(imported));
    };
    if let Some(from) = entry.get("valueFrom").filter(|from| !from.is_null()) {
        return Some(Source::Reference(from.clone()));
    }
    let value = text(entry, &["value"]).filter(|value| !value.is_empty())?;
    Some(if value.contains("$(") { Source::Composite(value.to_owned()) } else { Source::Literal(value.to_owned()) })
}

/// What `envFrom` may have under this name. A later one wins over an earlier one, so it stands first.
fn imported(container: &Value, variable: &str) -> Vec<Value> {
    let references = list(container, &["envFrom"]).iter().rev().filter_map(|from| {
        let key = variable.strip_prefix(text(from, &["prefix"]).unwrap_or_default()).filter(|key| !key.is_empty())?;
        let (kind, map) = [("secretKeyRef", "secretRef"), ("configMapKeyRef", "configMapRef")]
            .into_iter()
            .find_map(|(kind, field)| Some((kind, text(from, &[field, "name"])?)))?;
        Some((kind, map.to_owned(), key.to_owned()))
    });
    let references: Vec<_> = references.collect();
    let several = references.len() > 1;
    let reference = |(kind, map, key): (&'static str, String, String)| {
        let mut reference = json!({ "name": map, "key": key });
        if several {
            reference["optional"] = Value::Bool(true);
        }
        json!({ kind: reference })
    };
    references.into_iter().map(reference).collect()
}

/// The entries of `env` that give the sidecar the value of `variable` under the name `target` (the first of `target`, `target_2`, … that is set).
pub(crate) fn carry(container: &Value, variable: &str, source: &Source, target: &str) -> Result<Vec<Value>, String> {
    match source {
        Source::Literal(value) => Ok(vec![json!({ "name": target, "value": value })]),
        Source::Reference(from) => Ok(vec![json!({ "name": target, "valueFrom": from })]),
        Source::Imported(references) if references.len() > 9 => {
            Err(format!("{variable} may come from one of {} sources of envFrom: say which with sidepool.dev/upstream", references.len()))
        }
        Source::Imported(references) => {
            let numbered = |(index, from): (usize, &Value)| match index {
                0 => json!({ "name": target, "valueFrom": from }),
                _ => json!({ "name": format!("{target}_{}", index + 1), "valueFrom": from }),
            };
            Ok(references.iter().enumerate().map(numbered).collect())
        }
        Source::Composite(value) => {
            let mut entries = Vec::new();
            let before = entry(container, variable).map_or(0, |(index, _)| index);
            let value = compose(container, value, before, &mut entries, DEEPEST).map_err(|error| format!("{variable} {error}"))?;
            entries.push(json!({ "name": target, "value": value }));
            Ok(entries)
        }
    }
}

/// The value with each `$(NAME)` under a name of ours; what that needs is added to `entries`. Only what stands before it in `env` counts.
fn compose(container: &Value, value: &str, before: usize, entries: &mut Vec<Value>, depth: usize) -> Result<String, String> {
    let mut composed = String::new();
    let mut rest = value;
    while let Some(at) = rest.find('$') {
        let (plain, behind) = rest.split_at(at);
        composed.push_str(plain);
        if let Some(after) = behind.strip_prefix("$$") {
            composed.push_str("$$");
            rest = after;
        } else if let Some((variable, after)) = behind.strip_prefix("$(").and_then(|inside| inside.split_once(')')) {
            composed.push_str(&format!("$({})", needed(container, variable, before, entries, depth)?));
            rest = after;
        } else {
            composed.push('$');
            rest = &behind[1..];
        }
    }
    composed.push_str(rest);
    Ok(composed)
}

/// Brings one variable along that another is made of. The answer is its name in the sidecar.
fn needed(container: &Value, variable: &str, before: usize, entries: &mut Vec<Value>, depth: usize) -> Result<String, String> {
    let own = format!("{PREFIX}{variable}");
    if entries.iter().any(|entry| name(entry) == own) {
        return Ok(own);
    }
    if depth == 0 {
        return Err("is made of variables that are made of variables, too often".to_owned());
    }
    let defined = list(container, &["env"])[..before].iter().enumerate().rfind(|(_, entry)| name(entry) == variable);
    if let Some((index, found)) = defined {
        let mut carried = found.clone();
        carried["name"] = Value::String(own.clone());
        if let Some(value) = text(found, &["value"]) {
            carried["value"] = Value::String(compose(container, value, index, entries, depth - 1)?);
        }
        entries.push(carried);
        return Ok(own);
    }
    match &imported(container, variable)[..] {
        [from] => {
            entries.push(json!({ "name": own, "valueFrom": from }));
            Ok(own)
        }
        // Every container of the namespace has those.
        [] if variable.ends_with("_SERVICE_HOST") || variable.ends_with("_SERVICE_PORT") => Ok(variable.to_owned()),
        [] => Err(format!("is made of $({variable}), which is not defined before it")),
        [_, _, ..] => Err(format!("is made of $({variable}), which may come from several sources of envFrom")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_import_wins_and_an_entry_of_its_own_over_all() {
        let container = json!({
            "env": [{ "name": "A", "value": "old" }, { "name": "A", "value": "new" }, { "name": "EMPTY" }],
            "envFrom": [
                { "configMapRef": { "name": "first" } },
                { "prefix": "DB_", "secretRef": { "name": "prefixed" } },
                { "secretRef": { "name": "last" } },
            ],
        });
        assert_eq!(of(&container, "A"), Some(Source::Literal("new".to_owned())));
        assert_eq!(of(&container, "EMPTY"), None);
        let key = |kind: &str, name: &str, key: &str| json!({ kind: { "name": name, "key": key, "optional": true } });
        let wanted =
            vec![key("secretKeyRef", "last", "DB_URL"), key("secretKeyRef", "prefixed", "URL"), key("configMapKeyRef", "first", "DB_URL")];
        let source = of(&container, "DB_URL").unwrap();
        assert_eq!(source, Source::Imported(wanted));
        let names: Vec<String> = carry(&container, "DB_URL", &source, "T").unwrap().iter().map(|entry| name(entry).to_owned()).collect();
        assert_eq!(names, ["T", "T_2", "T_3"]);
    }

    #[test]
    fn a_composed_value_brings_along_what_it_is_made_of() {
        let container = json!({ "env": [
            { "name": "PASS", "valueFrom": { "secretKeyRef": { "name": "db", "key": "pass" } } },
            { "name": "CREDENTIALS", "value": "app:$(PASS)" },
            { "name": "URL", "value": "postgres://$(CREDENTIALS)@h/x$$(PASS)$" },
            { "name": "LATE", "value": "x" },
            { "name": "BAD", "value": "$(LATER)" },
            { "name": "LATER", "value": "x" },
        ] });
        let entries = |variable: &str| carry(&container, variable, &of(&container, variable).unwrap(), "T");
        let wanted = json!([
            { "name": "SIDEPOOL_FROM_PASS", "valueFrom": { "secretKeyRef": { "name": "db", "key": "pass" } } },
            { "name": "SIDEPOOL_FROM_CREDENTIALS", "value": "app:$(SIDEPOOL_FROM_PASS)" },
            { "name": "T", "value": "postgres://$(SIDEPOOL_FROM_CREDENTIALS)@h/x$$(PASS)$" },
        ]);
        assert_eq!(Value::Array(entries("URL").unwrap()), wanted);
        assert!(entries("BAD").unwrap_err().contains("$(LATER)"));
    }
}
