//! The same injection into files: several documents of YAML or JSON, workloads of every kind and lists of them. What holds no pod passes
//! through as it was written, comments and all.

use serde::Deserialize as _;
use serde_json::Value;
use similar::TextDiff;

use crate::inject::{Outcome, inject};
use crate::options::Options;
use crate::pods::{list_mut, text};

/// What came of some text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Injected {
    /// The text with sidecars.
    pub text: String,
    /// What changed, as a unified diff of the changed documents; empty if nothing did.
    pub diff: String,
    /// What there is to say of each workload.
    pub notes: Vec<String>,
    /// Workloads that ask for something that cannot be.
    pub rejected: Vec<String>,
}

/// Puts sidecars into all workloads of `input`. The error names a document that cannot be read.
pub fn inject_text(input: &str, options: &Options) -> Result<Injected, String> {
    let mut injected = Injected::default();
    for (index, part) in documents(input).into_iter().enumerate() {
        let before = read(part.text).map_err(|error| format!("document {}: {error}", index + 1))?;
        let mut after = before.clone();
        document(&mut after, options, &mut injected);
        injected.text.push_str(part.separator);
        if after == before {
            injected.text.push_str(part.text);
            continue;
        }
        let is_json = part.text.trim_start().starts_with('{');
        let (old, new) = (write(&before, is_json)?, write(&after, is_json)?);
        let title = title(&before);
        let diff = TextDiff::from_lines(&old, &new)
            .unified_diff()
            .context_radius(3)
            .header(&format!("a/{title}"), &format!("b/{title}"))
            .to_string();
        injected.diff.push_str(&diff);
        injected.text.push_str(&new);
    }
    Ok(injected)
}

/// One document, and the line that stands before it.
struct Part<'t> {
    separator: &'t str,
    text: &'t str,
}

/// Takes a text apart at its `---` lines. In block scalars no line can begin like that: they are indented.
fn documents(input: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut separator, mut start, mut at) = ("", 0, 0);
    for line in input.split_inclusive('\n') {
        let bare = line.trim_end();
        if bare == "---" || bare.starts_with("--- #") {
            if at > start || !separator.is_empty() {
                parts.push(Part { separator, text: &input[start..at] });
            }
            separator = &input[at..at + line.len()];
            start = at + line.len();
        }
        at += line.len();
    }
    parts.push(Part { separator, text: &input[start..] });
    parts
}

fn read(text: &str) -> Result<Value, String> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| error.to_string());
    }
    let mut documents = serde_yaml_ng::Deserializer::from_str(text);
    match documents.next() {
        Some(document) => Value::deserialize(document).map_err(|error| error.to_string()),
        None => Ok(Value::Null),
    }
}

fn write(value: &Value, is_json: bool) -> Result<String, String> {
    if is_json {
        return serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|error| error.to_string());
    }
    serde_yaml_ng::to_string(value).map_err(|error| error.to_string())
}

fn title(document: &Value) -> String {
    format!("{}/{}", text(document, &["kind"]).unwrap_or_default(), text(document, &["metadata", "name"]).unwrap_or_default())
}

fn document(document: &mut Value, options: &Options, injected: &mut Injected) {
    let title = title(document);
    let path: &[&str] = match (group(document), text(document, &["kind"]).unwrap_or_default()) {
        ("", "Pod") => &[],
        ("" | "apps" | "batch", "ReplicationController" | "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job") => {
            &["spec", "template"]
        }
        ("batch", "CronJob") => &["spec", "jobTemplate", "spec", "template"],
        // List, PodList, DeploymentList, …
        (_, kind) if kind.ends_with("List") => {
            for item in list_mut(document, "items").into_iter().flatten() {
                self::document(item, options, injected);
            }
            return;
        }
        _ => return,
    };
    let Some(pod) = path.iter().try_fold(document, |value, key| value.get_mut(*key)) else { return };
    match inject(pod, options) {
        Outcome::Injected { pod: after, warnings } => {
            *pod = after;
            injected.notes.push(format!("{title}: injected"));
            injected.notes.extend(warnings.into_iter().map(|warning| format!("{title}: {warning}")));
        }
        Outcome::Already => injected.notes.push(format!("{title}: has it already")),
        Outcome::Skipped(why) => injected.notes.push(format!("{title}: skipped: {why}")),
        Outcome::Rejected(why) => injected.rejected.push(format!("{title}: {why}")),
    }
}

fn group(document: &Value) -> &str {
    text(document, &["apiVersion"]).unwrap_or_default().split_once('/').map_or("", |(group, _)| group)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
# what stays as it is
apiVersion: v1
kind: Service
metadata: {name: web}   # as written
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  template:
    metadata:
      labels:
        app: web
    spec:
      containers:
      - name: app
        image: web:1
        env:
        - name: DATABASE_URL
          valueFrom:
            secretKeyRef:
              name: db
              key: url
---
# empty
";

    #[test]
    fn workloads_change_and_all_else_stays_as_written() {
        let injected = inject_text(FILE, &Options::default()).unwrap();
        assert_eq!(injected.rejected, Vec::<String>::new());
        assert!(
            injected.text.starts_with("# what stays as it is\napiVersion: v1\nkind: Service\nmetadata: {name: web}   # as written\n---\n")
        );
        assert!(injected.text.ends_with("---\n# empty\n"));
        assert!(
            injected.diff.contains("+      - name: sidepool\n") && injected.diff.contains("--- a/Deployment/web\n"),
            "{}",
            injected.diff
        );
        assert!(!injected.diff.contains("\n-  name: web"), "{}", injected.diff);
        let again = inject_text(&injected.text, &Options::default()).unwrap();
        assert_eq!((again.text, again.diff), (injected.text, String::new()));
    }

    #[test]
    fn lists_and_cron_jobs_and_json() {
        let pod = r#"{"metadata":{},"spec":{"containers":[{"name":"a","env":[{"name":"REDIS_URL","value":"redis://h"}]}]}}"#;
        let cron = format!(
            r#"{{"apiVersion":"batch/v1","kind":"CronJob","metadata":{{"name":"c"}},"spec":{{"jobTemplate":{{"spec":{{"template":{pod}}}}}}}}}"#
        );
        let list = format!(r#"{{"apiVersion":"v1","kind":"List","items":[{cron},{{"kind":"ConfigMap"}}]}}"#);
        let injected = inject_text(&list, &Options::default()).unwrap();
        assert_eq!(injected.notes[0], "CronJob/c: injected");
        assert!(injected.text.starts_with("{\n") && injected.text.contains("\"redis://127.0.0.1:6380\""), "{}", injected.text);
        assert!(inject_text("a: [", &Options::default()).unwrap_err().starts_with("document 1: "));
        assert_eq!(inject_text("", &Options::default()).unwrap().text, "");
    }
}
