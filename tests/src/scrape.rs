//! What the admin listener says: plain HTTP requests, and metrics in Prometheus' text format taken apart.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::wait;

/// An HTTP answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The header lines.
    pub head: String,
    /// What follows them.
    pub body: String,
}

/// Fetches `path` from 127.0.0.1; `None` when nobody answers.
pub async fn get(port: u16, path: &str) -> Option<Answer> {
    say(port, &format!("GET {path}"), &["Host: localhost"]).await
}

/// Says `what` (a method and a path) to 127.0.0.1 with these header lines; `None` when nobody answers.
pub async fn say(port: u16, what: &str, headers: &[&str]) -> Option<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let request = format!("{what} HTTP/1.0\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut text = String::new();
    wait::soon("an HTTP answer", stream.read_to_string(&mut text)).await.ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// Fetches and takes apart `/metrics`.
pub async fn metrics(port: u16) -> Scrape {
    let answer = get(port, "/metrics").await.expect("the admin listener answers");
    assert_eq!(answer.status, 200, "{}", answer.body);
    Scrape::parse(&answer.body)
}

/// One sample: a name, its labels, a value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The metric's name, with `_bucket`, `_sum` or `_count` for a histogram.
    pub name: String,
    /// Its labels in the order they came.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: f64,
}

/// All samples of one scrape.
#[derive(Debug, Clone)]
pub struct Scrape {
    /// In the order they came.
    pub samples: Vec<Sample>,
    /// The lines with `# HELP` and `# TYPE`.
    pub comments: Vec<String>,
}

impl Scrape {
    /// Takes the text apart; panics on what Prometheus would not accept.
    pub fn parse(text: &str) -> Self {
        let (comments, lines): (Vec<&str>, Vec<&str>) =
            text.lines().filter(|line| !line.is_empty()).partition(|line| line.starts_with('#'));
        Self { samples: lines.into_iter().map(sample).collect(), comments: comments.into_iter().map(str::to_owned).collect() }
    }

    /// The sum of all samples of `name` that have these labels; 0 when there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|sample| sample.value).sum()
    }

    /// Whether there is a sample of `name` (or, for a histogram, of its count).
    pub fn has(&self, name: &str) -> bool {
        let count = format!("{name}_count");
        self.samples.iter().any(|sample| sample.name == name || sample.name == count)
    }

    /// The samples of `name` that have these labels.
    pub fn matching<'a>(&'a self, name: &'a str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = &'a Sample> {
        let wanted = move |sample: &&Sample| {
            let has = |(key, value): &(&str, &str)| sample.labels.iter().any(|(name, content)| name == key && content == value);
            sample.name == name && labels.iter().all(has)
        };
        self.samples.iter().filter(wanted)
    }
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("a sample has a value: {line}"));
    let (name, labels) = match series.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}').unwrap_or_else(|| panic!("an open brace: {line}"))),
        None => (series, ""),
    };
    let label = |pair: &str| {
        let (key, value) = pair.split_once("=\"").unwrap_or_else(|| panic!("label {pair:?} in {line}"));
        (key.to_owned(), value.to_owned())
    };
    let labels = labels.strip_suffix('"').unwrap_or(labels).split("\",").filter(|pair| !pair.is_empty()).map(label).collect();
    let value = value.parse().unwrap_or_else(|_| panic!("a number: {line}"));
    Sample { name: name.to_owned(), labels, value }
}
