//! The benchmark (`tests/bench`) itself: a short load of each kind from end to end, and what it writes. What it measures is not looked at: a figure of one
//! second on a busy machine says nothing.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use sidepool_tests::binary::{self, Build};
use sidepool_tests::{left_out, place, wait};
use tokio::process::Command;

/// Two clients here, four there: each kind of load once.
const LOADS: &str = "S2 U2 C2 S2+tls+server-tls C2+tls+rsa+resumed START CLIENTS4@200 POOLS10@200 WORKERS2 GET2";

/// The usual ones, and the floor.
const TARGETS: &str = "pgbouncer,nutcracker,sidepool,floor,direct";

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_load_is_measured_and_told() {
    let is_there = |folder: &str| Path::new(folder).join("pgbouncer").exists();
    if !["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"].into_iter().any(is_there) {
        return left_out("PgBouncer");
    }
    let folder = place::directory("bench");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/run");
    let mut command = Command::new(script);
    command.args(["--rounds", "1", "--seconds", "1", "--scale", "1", "--loads", LOADS, "--targets", TARGETS]);
    command.env("FLOOR", binary::floor());
    command.arg("--json").arg(folder.join("figures.json")).arg("--markdown").arg(folder.join("tables.md")).arg("--svg").arg(&folder);
    command.env("BINARY", binary::path(Build::Checked)).env_remove("PGBOUNCER").stdin(Stdio::null()).kill_on_drop(true);
    let output = wait::within(Duration::from_secs(300), "the benchmark", command.output()).await.expect("it starts");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");

    let figures: Value = serde_json::from_slice(&std::fs::read(folder.join("figures.json")).expect("figures")).expect("JSON");
    let results = figures["results"].as_array().expect("results");
    let names: Vec<&str> = results.iter().filter_map(|result| result["load"].as_str()).collect();
    assert_eq!(names, LOADS.split(' ').collect::<Vec<_>>(), "{said}");
    for result in results {
        let name = result["load"].as_str().expect("a name");
        match name {
            "CLIENTS4@200" | "POOLS10@200" | "WORKERS2" => is_a_series(result),
            "START" => {
                for figure in ["start_ms", "rss_start_mb", "binary_mb"] {
                    assert!(number(&result["targets"]["sidepool"]["figures"][figure]["median"]) > 0.0, "{figure}: {result:#}");
                }
            }
            _ => {
                assert!(number(&result["targets"]["sidepool"]["figures"]["cpu_us"]["median"]) > 0.0, "{result:#}");
                assert_eq!(result["targets"]["sidepool"]["samples"].as_array().map(Vec::len), Some(1));
            }
        }
        if ["S2", "U2", "C2", "GET2"].contains(&name) {
            assert!(number(&result["targets"]["floor"]["figures"]["cpu_us"]["median"]) > 0.0, "{result:#}");
        }
        if name.starts_with('C') && name.ends_with("resumed") {
            for target in ["sidepool", "pgbouncer"] {
                assert_eq!(number(&result["targets"][target]["figures"]["resumed"]["median"]), 1.0, "{target}: {result:#}");
            }
        }
    }
    let to_direct = |load: &str, figure: &str| {
        let result = results.iter().find(|result| result["load"] == load).expect("it was run");
        number(&result["targets"]["sidepool"]["ratios_to_direct"][figure]["median"])
    };
    assert!(to_direct("S2", "p50_ms") > 0.0 && to_direct("GET2", "total_cpu_us") > 0.0);

    let aims = figures["aims"].as_array().expect("aims");
    assert_eq!(
        aims.iter().map(|aim| aim["load"].as_str()).collect::<Vec<_>>(),
        [Some("START"); 3],
        "the only one of these loads with an aim"
    );
    assert!(aims.iter().all(|aim| aim["met"].is_boolean() && number(&aim["measured"]["median"]) > 0.0), "{aims:#?}");
    let tables = std::fs::read_to_string(folder.join("tables.md")).expect("tables");
    for row in ["| `START` | size of the program | ≤ 15 MB |", "| `S2` | sidepool / pgbouncer |", "| `POOLS10@200` | sidepool |"] {
        assert!(tables.contains(row), "{row}:\n{tables}");
    }
    for picture in ["cpu_us", "scaling_clients", "scaling_pools", "scaling_workers"] {
        let svg = std::fs::read_to_string(folder.join(format!("{picture}.svg"))).expect(picture);
        assert!(
            svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>") && svg.contains("prefers-color-scheme:dark"),
            "{picture}: {svg}"
        );
    }
}

/// Points in their order with figures of both poolers, and how flat they are.
fn is_a_series(result: &Value) {
    let points = result["points"].as_array().expect("points");
    let at: Vec<u64> = points.iter().filter_map(|point| point["at"].as_u64()).collect();
    assert!(at.len() >= 2 && at.is_sorted() && at[0] == 1, "{at:?}");
    for target in ["sidepool", "pgbouncer"] {
        for point in points {
            assert!(number(&point["targets"][target]["figures"]["cpu_us"]["median"]) > 0.0, "{target}: {point:#}");
        }
        let scaling = &result["scaling"][target];
        assert!(
            at.contains(&scaling["reference"].as_u64().expect("a point")) && at.contains(&scaling["worst_at"].as_u64().expect("a point"))
        );
        assert!(number(&scaling["growth"]["median"]) > 0.0 && number(&scaling["span"]["median"]) >= 1.0, "{scaling:#}");
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}
