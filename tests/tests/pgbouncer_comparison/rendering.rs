//! What clients are told, as lines that can be compared: no times, no process ids, no secrets of a session.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sidepool_tests::postgres::Message;
use sidepool_tests::postgres::frame;

/// How much of an answer is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// All of it.
    Whole,
    /// Of a table its columns and their types, because what is in it is of the moment.
    Columns,
    /// Of a table its columns and the first column of each row.
    FirstColumn,
}

/// Messages, a line each.
pub(crate) fn render(messages: &[Message], detail: Detail) -> String {
    let mut text = String::new();
    for message in messages {
        let line = match message.tag {
            b'T' => format!("columns {}", columns(message)),
            b'D' if detail == Detail::Columns => continue,
            b'D' => format!("row {}", row(message, detail)),
            b'C' => format!("complete {}", message.text()),
            b'E' | b'N' => {
                let field = |kind| message.field(kind).unwrap_or_default();
                let what = if message.tag == b'E' { "error" } else { "notice" };
                format!("{what} {} {} {}", field(b'S'), field(b'C'), field(b'M'))
            }
            b'Z' => format!("ready {}", char::from(message.body[0])),
            b'S' => continue,
            other => format!("message {}", char::from(other)),
        };
        writeln!(text, "{line}").expect("a String takes all");
    }
    if messages.last().is_none_or(|last| last.tag != b'Z') {
        text.push_str("closed\n");
    }
    text
}

/// What was reported at login, a line each.
pub(crate) fn parameters(reported: &BTreeMap<String, String>) -> String {
    reported.iter().map(|(name, value)| format!("parameter {name} = {value}\n")).collect()
}

fn row(message: &Message, detail: Detail) -> String {
    let columns = message.columns().into_iter().map(|column| column.unwrap_or_else(|| "NULL".to_owned()));
    let shown: Vec<String> = if detail == Detail::FirstColumn { columns.take(1).collect() } else { columns.collect() };
    shown.join(" | ")
}

/// Names and type OIDs of a RowDescription.
fn columns(message: &Message) -> String {
    let body = &message.body;
    let mut at = 2;
    let mut columns = Vec::new();
    while at < body.len() {
        let end = at + body[at..].iter().position(|byte| *byte == 0).expect("a name ends with a zero");
        let name = String::from_utf8_lossy(&body[at..end]).into_owned();
        let oid = u32::from_be_bytes(body[end + 7..end + 11].try_into().expect("four bytes"));
        columns.push(format!("{name}:{oid}"));
        at = end + 19;
    }
    columns.join(" ")
}

/// One statement in the extended protocol, unnamed.
pub(crate) fn extended(sql: &str) -> Vec<u8> {
    [frame::parse("", sql), frame::bind("", "", &[]), frame::describe(b'P', ""), frame::execute("", 0), frame::sync()].concat()
}

/// Several statements, separated by `;;`, in one batch of the extended protocol.
pub(crate) fn batch(statements: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for sql in statements.split(";;").map(str::trim) {
        bytes.extend([frame::parse("", sql), frame::bind("", "", &[]), frame::execute("", 0)].concat());
    }
    bytes.extend(frame::sync());
    bytes
}

/// `name:value` pairs; what has no name belongs to the value before it.
pub(crate) fn parameters_of(text: &str) -> Vec<(&str, &str)> {
    let mut starts: Vec<usize> = Vec::new();
    let mut at = 0;
    for word in text.split(' ') {
        let name = word.split_once(':').map(|(name, _)| name);
        if name.is_some_and(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')) {
            starts.push(at);
        }
        at += word.len() + 1;
    }
    let ends = starts.iter().skip(1).copied().chain([text.len() + 1]);
    let pairs = starts.iter().zip(ends).map(|(start, end)| text[*start..end - 1].trim());
    pairs.map(|pair| pair.split_once(':').expect("it has a colon")).collect()
}

/// Severity and text of an error's line; the SQLSTATE is between them.
fn error(line: &str) -> Option<(&str, &str)> {
    let (severity, rest) = line.strip_prefix("error ")?.split_once(' ')?;
    Some((severity, rest.split_once(' ')?.1))
}

/// `ours` with the SQLSTATEs of the same errors in `theirs`.
pub(crate) fn with_codes_of(theirs: &str, ours: &str) -> String {
    let known: Vec<(&str, (&str, &str))> = theirs.lines().filter_map(|line| Some((line, error(line)?))).collect();
    let same = |line: &str| known.iter().find(|(_, what)| error(line) == Some(*what)).map(|(theirs, _)| (*theirs).to_owned());
    ours.lines().map(|line| same(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
}

/// The messages of `items.txt` that both have said.
pub(crate) fn messages_of_both(theirs: &str, ours: &str) -> Vec<&'static str> {
    let said = |text: &str, item: &str| {
        let (head, tail) = item.split_once('X').unwrap_or((item, ""));
        let is_it = |what: &str| if item.contains('X') { what.starts_with(head) && what.ends_with(tail) } else { what == item };
        text.lines().filter_map(error).any(|(_, what)| is_it(what))
    };
    let items = include_str!("../../conformance/items.txt").lines().map(|line| line.split('\t').next().unwrap_or(line));
    items.filter(|item| item.strip_prefix("message ").is_some_and(|text| said(theirs, text) && said(ours, text))).collect()
}
