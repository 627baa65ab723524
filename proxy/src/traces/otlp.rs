//! Traces as a request of OTLP over HTTP in JSON (OpenTelemetry, "OTLP Specification" and "Semantic Conventions for Database Calls"). Pure.
//!
//! ```text
//!   transaction ─┬─ wait for a connection
//!                ├─ statement
//!                └─ statement
//! ```

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{Statement, Trace};

/// SPAN_KIND_INTERNAL.
const INTERNAL: u32 = 1;

/// SPAN_KIND_CLIENT.
const CLIENT: u32 = 3;

/// STATUS_CODE_ERROR.
const ERROR: u32 = 2;

/// The body of a request. `random` fills in numbers; a trace for which there are none is left out.
pub(super) fn request(traces: &[Trace], mut random: impl FnMut(&mut [u8]) -> bool) -> Vec<u8> {
    let spans: Vec<Value> = traces.iter().filter_map(|trace| spans(trace, &mut random)).flatten().collect();
    let version = env!("CARGO_PKG_VERSION");
    let resource = json!({ "attributes": [text("service.name", "sidepool"), text("service.version", version)] });
    let scope = json!({ "name": "sidepool", "version": version });
    json!({ "resourceSpans": [{ "resource": resource, "scopeSpans": [{ "scope": scope, "spans": spans }] }] }).to_string().into_bytes()
}

/// What a span is called, of which kind it is, and when it was.
struct Span {
    name: &'static str,
    kind: u32,
    began: SystemTime,
    took: Duration,
}

fn number<const N: usize>(random: &mut impl FnMut(&mut [u8]) -> bool) -> Option<String> {
    let mut bytes = [0; N];
    random(&mut bytes).then(|| hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn spans(trace: &Trace, random: &mut impl FnMut(&mut [u8]) -> bool) -> Option<Vec<Value>> {
    let id = match trace.parent {
        Some(parent) => hex(&parent.trace),
        None => number::<16>(random)?,
    };
    let root = number::<8>(random)?;
    let common = common(trace);
    // The wait comes before the first statement is sent.
    let began = trace.began.checked_sub(trace.waited).unwrap_or(trace.began);
    let whole_span = Span { name: "transaction", kind: INTERNAL, began, took: trace.waited + trace.took };
    let idle = json!({ "key": "sidepool.transaction.idle_ms", "value": { "doubleValue": trace.idle.as_secs_f64() * 1000.0 } });
    let more = vec![whole("sidepool.transaction.statements", trace.ran.into()), idle];
    let parent = trace.parent.map(|parent| hex(&parent.span));
    let mut spans = vec![written(&id, (root.clone(), parent), &whole_span, &common, more)];
    if !trace.waited.is_zero() {
        let wait = Span { name: "wait for a connection", kind: INTERNAL, began, took: trace.waited };
        spans.push(written(&id, (number::<8>(random)?, Some(root.clone())), &wait, &common, Vec::new()));
    }
    for Statement { began, took, failed, text: said } in &trace.statements {
        let mut more: Vec<Value> = said.as_deref().map(|said| text("db.query.text", said)).into_iter().collect();
        if let Some(sqlstate) = failed {
            more.extend([text("db.response.status_code", sqlstate), text("error.type", sqlstate)]);
        }
        let span = Span { name: "statement", kind: CLIENT, began: *began, took: *took };
        let mut span = written(&id, (number::<8>(random)?, Some(root.clone())), &span, &common, more);
        if failed.is_some() {
            span["status"] = json!({ "code": ERROR });
        }
        spans.push(span);
    }
    Some(spans)
}

/// What all spans of a trace say.
fn common(trace: &Trace) -> Vec<Value> {
    let (address, port) = &trace.server;
    let mut attributes = vec![
        text("db.system.name", "postgresql"),
        text("db.namespace", &trace.database),
        text("db.client.connection.pool.name", &trace.pool),
        text("server.address", address),
    ];
    attributes.extend(port.map(|port| whole("server.port", port.into())));
    attributes
}

fn written(trace: &str, (id, parent): (String, Option<String>), span: &Span, common: &[Value], more: Vec<Value>) -> Value {
    let attributes: Vec<Value> = common.iter().cloned().chain(more).collect();
    let mut value = json!({
        "traceId": trace,
        "spanId": id,
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": nanos(span.began),
        "endTimeUnixNano": nanos(span.began + span.took),
        "attributes": attributes,
    });
    if let Some(parent) = parent {
        value["parentSpanId"] = parent.into();
    }
    value
}

/// Numbers of 64 bits are texts in JSON.
fn nanos(time: SystemTime) -> String {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos()).to_string()
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

fn whole(key: &str, value: u64) -> Value {
    json!({ "key": key, "value": { "intValue": value.to_string() } })
}
