//! A real Prometheus: scrapes what the test names, evaluates rules, answers queries.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::place;
use crate::process::Process;
use crate::{scrape, wait};

/// One number of an answer, with its labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Number {
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

/// A running Prometheus. Ended with the test.
pub struct Prometheus {
    port: u16,
    _process: Process,
}

impl Prometheus {
    /// Starts one that scrapes the ports (of 127.0.0.1) every second as job `sidepool`, with these files of rules, and waits until it has.
    pub async fn start(ports: &[u16], rules: &[PathBuf]) -> Self {
        let place = place::directory("prometheus");
        let targets: Vec<String> = ports.iter().map(|port| format!("'127.0.0.1:{port}'")).collect();
        let rules: Vec<String> = rules.iter().map(|path| format!("'{}'", path.display())).collect();
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{}]\n\
             scrape_configs: [{{job_name: sidepool, static_configs: [{{targets: [{}]}}]}}]\n",
            rules.join(", "),
            targets.join(", ")
        );
        std::fs::write(place.join("prometheus.yml"), config).expect("our own directory");
        let port = place::free_port();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", place.join("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", place.join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let prometheus = Self { port, _process: Process::spawn("prometheus", command) };
        wait::until("Prometheus to have scraped", async || {
            let up = prometheus.query("up == 1").await.ok()?;
            (up.len() == ports.len()).then_some(())
        })
        .await;
        prometheus
    }

    /// Asks a query for its numbers at this moment, or gives Prometheus' own words about what is wrong with it.
    pub async fn query(&self, query: &str) -> Result<Vec<Number>, String> {
        let answer = self.get(&format!("/api/v1/query?query={}", utf8_percent_encode(query, NON_ALPHANUMERIC))).await?;
        let data = &answer["data"];
        match data["resultType"].as_str() {
            Some("vector") => Ok(data["result"].as_array().into_iter().flatten().map(number).collect()),
            Some("scalar") => Ok(vec![Number { labels: BTreeMap::new(), value: value(&data["result"]) }]),
            other => Err(format!("a result of type {other:?}")),
        }
    }

    /// The one number that a query gives, if it gives any.
    pub async fn value(&self, query: &str) -> Option<f64> {
        self.query(query).await.expect(query).first().map(|number| number.value)
    }

    /// Every rule with what became of it: as Prometheus' API has it.
    pub async fn rules(&self) -> Vec<Value> {
        let answer = self.get("/api/v1/rules").await.expect("the rules");
        let groups = answer["data"]["groups"].as_array().expect("groups");
        groups.iter().flat_map(|group| group["rules"].as_array().expect("rules")).cloned().collect()
    }

    async fn get(&self, path: &str) -> Result<Value, String> {
        let answer = scrape::get(self.port, path).await.ok_or("Prometheus does not answer")?;
        let body: Value = serde_json::from_str(&answer.body).map_err(|error| format!("{error}: {}", answer.body))?;
        if body["status"] == "success" { Ok(body) } else { Err(body["error"].to_string()) }
    }
}

/// Runs promtool; gives what it prints, as an error if it is not content.
pub fn promtool(arguments: &[&str], place: &Path) -> Result<String, String> {
    let output = Command::new("promtool").args(arguments).current_dir(place).output().expect("promtool");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(text) } else { Err(text) }
}

fn number(of: &Value) -> Number {
    let labels = of["metric"].as_object().into_iter().flatten();
    let labels = labels.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect();
    Number { labels, value: value(&of["value"]) }
}

/// `[TIME, "VALUE"]`
fn value(pair: &Value) -> f64 {
    pair[1].as_str().and_then(|text| text.parse().ok()).expect("a value")
}
