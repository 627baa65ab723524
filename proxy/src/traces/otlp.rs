//! Traces as a request of OTLP over HTTP in JSON (OpenTelemetry, "OTLP Specification" and "Semantic Conventions for Database Calls"). Pure.
//!
//! ```text
//!   transaction ─┬─ wait for a connection ── connect
//!                ├─ statement
//!                └─ statement
//!
//!   GET, PIPELINE, MULTI … ── wait for a connection ── connect
//! ```

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{Statement, Trace, Work};

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
struct Span<'a> {
    name: &'a str,
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
    let (name, kind, more) = whole_of(&trace.work);
    let whole_span = Span { name, kind, began, took: trace.waited + trace.took };
    let parent = trace.parent.map(|parent| hex(&parent.span));
    let mut spans = vec![written(&id, (root.clone(), parent), &whole_span, &common, more)];
    let mut child = |parent: &str, span: &Span<'_>, more: Vec<Value>| {
        let own = number::<8>(random)?;
        spans.push(written(&id, (own.clone(), Some(parent.to_owned())), span, &common, more));
        Some((own, spans.len() - 1))
    };
    if !trace.waited.is_zero() {
        let wait = Span { name: "wait for a connection", kind: INTERNAL, began, took: trace.waited };
        let (wait, _) = child(&root, &wait, Vec::new())?;
        if let Some((began, took)) = trace.opening {
            child(&wait, &Span { name: "connect", kind: CLIENT, began, took }, Vec::new())?;
        }
    }
    let mut failed = Vec::new();
    for statement in statements(&trace.work) {
        let Statement { began, took, failed: sqlstate, text: said } = statement;
        let mut more: Vec<Value> = said.as_deref().map(|said| text("db.query.text", said)).into_iter().collect();
        if let Some(sqlstate) = sqlstate {
            more.extend([text("db.response.status_code", sqlstate), text("error.type", sqlstate)]);
        }
        let (_, place) = child(&root, &Span { name: "statement", kind: CLIENT, began: *began, took: *took }, more)?;
        failed.extend(sqlstate.is_some().then_some(place));
    }
    for place in failed {
        spans[place]["status"] = json!({ "code": ERROR });
    }
    Some(spans)
}

/// What the span of all of it is called, of which kind it is, and what it says beside what all say.
fn whole_of(work: &Work) -> (&str, u32, Vec<Value>) {
    match work {
        Work::Transaction { idle, ran, .. } => {
            let idle = json!({ "key": "sidepool.transaction.idle_ms", "value": { "doubleValue": idle.as_secs_f64() * 1000.0 } });
            ("transaction", INTERNAL, vec![whole("sidepool.transaction.statements", (*ran).into()), idle])
        }
        Work::Commands { operation, count } => {
            let mut more = vec![text("db.operation.name", operation)];
            more.extend((*count > 1).then(|| whole("db.operation.batch.size", (*count).into())));
            (operation, CLIENT, more)
        }
    }
}

fn statements(work: &Work) -> &[Statement] {
    match work {
        Work::Transaction { statements, .. } => statements,
        Work::Commands { .. } => &[],
    }
}

fn system(work: &Work) -> &'static str {
    match work {
        Work::Transaction { .. } => "postgresql",
        Work::Commands { .. } => "redis",
    }
}

/// What all spans of a trace say.
fn common(trace: &Trace) -> Vec<Value> {
    let (address, port) = &trace.server;
    let mut attributes = vec![
        text("db.system.name", system(&trace.work)),
        text("db.namespace", &trace.namespace),
        text("db.client.connection.pool.name", &trace.pool),
        text("server.address", address),
    ];
    attributes.extend(port.map(|port| whole("server.port", port.into())));
    attributes
}

fn written(trace: &str, (id, parent): (String, Option<String>), span: &Span<'_>, common: &[Value], more: Vec<Value>) -> Value {
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
