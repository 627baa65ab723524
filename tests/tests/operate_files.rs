//! The files under `deploy/` that are made by sidepool itself: as committed as made, sound for promtool, complete with tests and a runbook.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use serde_yaml_ng::Value;
use sidepool::operate::alerts;
use sidepool_tests::binary::{Build, path};
use sidepool_tests::prometheus::promtool;

fn deploy() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("deploy")
}

fn committed(file: &str) -> String {
    std::fs::read_to_string(deploy().join(file)).unwrap_or_else(|error| panic!("deploy/{file}: {error}"))
}

fn yaml(file: &str) -> Value {
    serde_yaml_ng::from_str(&committed(file)).unwrap_or_else(|error| panic!("deploy/{file}: {error}"))
}

/// Each file and the words that make it.
const MADE: &[(&str, &[&str])] = &[
    ("prometheus/sidepool-alerts.yaml", &["alerts"]),
    ("prometheus/sidepool-prometheusrule.yaml", &["alerts", "--kubernetes"]),
    ("runbook.md", &["alerts", "--runbook"]),
    ("grafana/sidepool.json", &["dashboard"]),
    ("grafana/sidepool-fleet.json", &["dashboard", "--fleet"]),
];

#[test]
fn what_is_committed_is_what_the_commands_print() {
    for (file, words) in MADE {
        let output = Command::new(path(Build::Checked)).args(*words).output().expect("sidepool starts");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        let made = String::from_utf8(output.stdout).expect("text");
        assert!(committed(file) == made, "deploy/{file} is not what the tables say: sidepool {} > deploy/{file}", words.join(" "));
    }
}

#[test]
fn links_lead_where_one_says() {
    let output =
        Command::new(path(Build::Checked)).args(["alerts", "--runbook-url", "https://wiki/sidepool"]).output().expect("sidepool starts");
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(text.matches("runbook_url: 'https://wiki/sidepool#sidepool").count(), alerts::all().count());
}

#[test]
fn promtool_accepts_the_rules_and_their_tests_pass() {
    let place = deploy().join("prometheus");
    let said = promtool(&["check", "rules", "--lint=all", "--lint-fatal", "sidepool-alerts.yaml"], &place)
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(said.contains("SUCCESS"), "{said}");
    let said = promtool(&["test", "rules", "sidepool-alerts.test.yaml"], &place).unwrap_or_else(|error| panic!("{error}"));
    assert!(said.contains("SUCCESS"), "{said}");
}

#[test]
fn each_alert_is_shown_to_fire_and_to_keep_quiet() {
    let tests = yaml("prometheus/sidepool-alerts.test.yaml");
    let (mut fires, mut quiet) = (BTreeSet::new(), BTreeSet::new());
    for test in tests["tests"].as_sequence().expect("tests") {
        for expected in test["promql_expr_test"].as_sequence().into_iter().flatten() {
            let expression = expected["expr"].as_str().expect("an expression");
            let Some(name) = expression.split_once("alertname=\"").and_then(|(_, rest)| rest.split_once('"')).map(|(name, _)| name) else {
                continue;
            };
            let samples = expected["exp_samples"].as_sequence().map_or(0, Vec::len);
            if samples > 0 {
                fires.insert(name.to_owned())
            } else {
                quiet.insert(name.to_owned())
            };
        }
    }
    let all: BTreeSet<String> = alerts::all().map(|alert| alert.name.to_owned()).collect();
    assert_eq!(fires, all, "alerts that a test shows to fire");
    assert_eq!(quiet, all, "alerts that a test shows to keep quiet");
}

#[test]
fn each_alert_has_an_entry_in_the_runbook_and_each_entry_an_alert() {
    let text = committed("runbook.md");
    let entries: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert_eq!(entries, alerts::all().map(|alert| alert.name).collect::<Vec<_>>());
    for entry in text.split("\n### ").skip(1) {
        assert!(entry.contains("\nLook at:\n\n* ") && entry.contains("\nDo:\n\n* "), "{entry}");
    }
}

#[test]
fn examples_of_autoscaling_are_bounded_and_say_nothing_of_exhaustion() {
    for (file, kind, most) in [
        ("autoscaling/horizontal-pod-autoscaler.yaml", "HorizontalPodAutoscaler", "maxReplicas"),
        ("autoscaling/keda.yaml", "ScaledObject", "maxReplicaCount"),
    ] {
        let document = yaml(file);
        assert_eq!(document["kind"], kind);
        assert!(document["spec"][most].as_u64().is_some(), "{file} has no bound");
    }
    let names = yaml("autoscaling/prometheus-adapter.yaml");
    let named: Vec<&str> =
        names["rules"]["custom"].as_sequence().expect("rules").iter().filter_map(|rule| rule["name"]["as"].as_str()).collect();
    let scaled = yaml("autoscaling/horizontal-pod-autoscaler.yaml");
    let wanted: Vec<&str> = scaled["spec"]["metrics"]
        .as_sequence()
        .expect("metrics")
        .iter()
        .filter_map(|metric| metric["pods"]["metric"]["name"].as_str())
        .collect();
    assert_eq!(named, wanted, "what is asked for is what the adapter makes");
    for file in ["autoscaling/prometheus-adapter.yaml", "autoscaling/keda.yaml"] {
        assert!(!committed(file).contains("sidepool_pool_"), "{file}: more replicas do not help an exhausted pool");
    }
}

#[test]
fn the_rule_for_the_operator_holds_the_same_groups() {
    let (plain, wrapped) = (yaml("prometheus/sidepool-alerts.yaml"), yaml("prometheus/sidepool-prometheusrule.yaml"));
    assert_eq!(wrapped["apiVersion"], "monitoring.coreos.com/v1");
    assert_eq!(wrapped["kind"], "PrometheusRule");
    assert_eq!(plain["groups"], wrapped["spec"]["groups"]);
    assert_eq!(plain["groups"].as_sequence().map(Vec::len), Some(alerts::GROUPS.len() + 1));
}
