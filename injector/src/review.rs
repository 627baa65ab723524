//! The webhook's question and answer: an AdmissionReview in, an AdmissionReview out. The same answer to the same question, dry run or not.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::inject::{Outcome, inject};
use crate::options::Options;
use crate::patch::patch;
use crate::pods::{at, text};

/// The most characters of one warning: API servers cut off what is longer.
const LONGEST_WARNING: usize = 240;

/// The most warnings in one answer.
const MOST_WARNINGS: usize = 12;

/// How it ended, as a label value of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The pod gets its sidecar.
    Injected,
    /// It is none that gets one.
    Skipped,
    /// It has it already.
    Already,
    /// It asks for something that cannot be.
    Rejected,
    /// The question cannot be understood.
    Error,
}

impl Ending {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Injected, Self::Skipped, Self::Already, Self::Rejected, Self::Error];

    /// As a label value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Skipped => "skipped",
            Self::Already => "already",
            Self::Rejected => "rejected",
            Self::Error => "error",
        }
    }
}

/// The answer to a question that could be understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The AdmissionReview to send.
    pub review: Value,
    /// How it ended.
    pub ending: Ending,
    /// Which pod it was about, as far as one can tell before it has a name.
    pub pod: String,
    /// Why, where there is something to say.
    pub why: String,
}

/// Answers the body of a request. The error says what is wrong with the question.
pub fn answer(body: &[u8], options: &Options) -> Result<Answer, String> {
    let review: Value = serde_json::from_slice(body).map_err(|_| "the body is no JSON".to_owned())?;
    let kind = (text(&review, &["apiVersion"]).unwrap_or_default(), text(&review, &["kind"]).unwrap_or_default());
    match kind {
        ("admission.k8s.io/v1", "AdmissionReview") => {}
        ("admission.k8s.io/v1beta1", "AdmissionReview") => {
            return Err("AdmissionReview v1beta1 is not spoken here: set admissionReviewVersions to [v1]".to_owned());
        }
        _ => return Err("the body is no AdmissionReview of admission.k8s.io/v1".to_owned()),
    }
    let uid = text(&review, &["request", "uid"]).filter(|uid| !uid.is_empty()).ok_or("the request has no uid")?;
    if !asks_about_a_new_pod(&review) {
        let why = "only the creation of pods is of interest here: narrow the rules of the webhook".to_owned();
        return Ok(allow(uid, None, Vec::new(), Ending::Skipped, String::new(), why));
    }
    let pod = at(&review, &["request", "object"]).filter(|pod| pod.is_object()).ok_or("the request has no object")?;
    let named = name_of(&review, pod);
    Ok(match inject(pod, options) {
        Outcome::Injected { pod: after, warnings } => {
            let operations = Value::Array(patch(pod, &after)).to_string();
            allow(uid, Some(&operations), warnings, Ending::Injected, named, String::new())
        }
        Outcome::Already => allow(uid, None, Vec::new(), Ending::Already, named, String::new()),
        Outcome::Skipped(why) => allow(uid, None, Vec::new(), Ending::Skipped, named, why),
        Outcome::Rejected(why) => Answer { review: deny(uid, &why), ending: Ending::Rejected, pod: named, why },
    })
}

fn asks_about_a_new_pod(review: &Value) -> bool {
    let request = |key: &str| text(review, &["request", key]);
    let resource = |key: &str| text(review, &["request", "resource", key]).unwrap_or_default();
    let is_pod = (resource("group"), resource("version"), resource("resource")) == ("", "v1", "pods");
    is_pod && request("operation") == Some("CREATE") && request("subResource").unwrap_or_default().is_empty()
}

/// Pods of controllers have only the beginning of a name yet, and their namespace only the request knows.
fn name_of(review: &Value, pod: &Value) -> String {
    let namespace = text(review, &["request", "namespace"]).or_else(|| text(pod, &["metadata", "namespace"])).unwrap_or_default();
    let name = text(pod, &["metadata", "name"]).filter(|name| !name.is_empty());
    match (name, text(pod, &["metadata", "generateName"])) {
        (Some(name), _) => format!("{namespace}/{name}"),
        (None, Some(beginning)) => format!("{namespace}/{beginning}*"),
        (None, None) => format!("{namespace}/"),
    }
}

fn allow(uid: &str, operations: Option<&str>, warnings: Vec<String>, ending: Ending, pod: String, why: String) -> Answer {
    let mut response = json!({ "uid": uid, "allowed": true });
    if let Some(operations) = operations.filter(|operations| *operations != "[]") {
        response["patchType"] = "JSONPatch".into();
        response["patch"] = STANDARD.encode(operations).into();
    }
    if !warnings.is_empty() {
        let warnings: Vec<String> = warnings.iter().take(MOST_WARNINGS).map(|warning| shortened(&format!("sidepool: {warning}"))).collect();
        response["warnings"] = warnings.into();
    }
    Answer { review: envelope(response), ending, pod, why }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST_WARNING) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

fn deny(uid: &str, why: &str) -> Value {
    envelope(json!({ "uid": uid, "allowed": false, "status": { "code": 400, "reason": "Invalid", "message": format!("sidepool: {why}") } }))
}

fn envelope(response: Value) -> Value {
    json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response })
}
