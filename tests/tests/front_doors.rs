//! The three front doors of the README as somebody new tries them: what is shown there is what is printed, to the letter; `…` stands for what differs.

use std::path::Path;
use std::process::Command;

use sidepool_tests::binary::{Build, path};
use sidepool_tests::manifests::{chart, deploy, find, read};
use sidepool_tests::postgres::cluster::{Cluster, PASSWORD};
use sidepool_tests::process::Process;
use sidepool_tests::redis::RedisServer;
use sidepool_tests::{place, scrape, wait};

fn readme() -> String {
    std::fs::read_to_string(deploy().parent().expect("the workspace").join("README.md")).expect("a README")
}

/// What is shown after a prompt with this command: up to the next prompt, or the end of the block.
fn shown(readme: &str, command: &str) -> String {
    let (_, block) = readme.split_once(&format!("$ {command}\n")).unwrap_or_else(|| panic!("{command} is not in the README"));
    let end = block.find("\n$ ").map_or(usize::MAX, |at| at + 1).min(block.find("```").expect("the block's end"));
    block[..end].to_owned()
}

/// Each part between two `…` is printed, one after the other.
fn is_printed(shown: &str, printed: &str) {
    let mut rest = printed;
    for part in shown.split('…') {
        // A line of nothing but dots.
        let part = part.strip_prefix('\n').unwrap_or(part);
        let at = rest.find(part).unwrap_or_else(|| panic!("{part:?} does not come next in\n{printed}"));
        rest = &rest[at + part.len()..];
    }
}

/// A command of the README in a directory of its own, with this machine's binary for `sidepool`.
fn said(directory: &Path, command: &str) -> String {
    let binary = path(Build::Checked).parent().expect("a directory");
    let search = format!("{}:{}", binary.display(), std::env::var("PATH").expect("a path"));
    let output = Command::new("sh").args(["-c", command]).current_dir(directory).env("PATH", search).output().expect("sh starts");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_without_a_file_and_what_prometheus_sees_of_it() {
    let (cluster, server) = (Cluster::start().await, RedisServer::start_with_password("secret").await);
    let readme = readme();
    let command = readme.lines().find_map(|line| line.strip_prefix("$ sidepool --postgres ")).expect("the first door");
    // The ports that people get are taken on a machine on which tests run.
    let ports = [("6432", place::free_port()), ("6380", place::free_port()), ("9127", place::free_port())];
    let here = |text: &str| ports.iter().fold(text.to_owned(), |text, (there, here)| text.replace(there, &here.to_string()));
    let words = format!("--postgres {command}")
        .replace("app:secret@db.internal", &format!("app:{PASSWORD}@127.0.0.1:{}", cluster.port()))
        .replace("cache.internal:6379", &format!("127.0.0.1:{}", server.port()));
    let mut started = Command::new(path(Build::Checked));
    started.args(words.split(' ')).args(["--postgres-listen", &here("127.0.0.1:6432"), "--redis-listen", &here("127.0.0.1:6380")]);
    started.args(["--admin-listen", &here("127.0.0.1:9127")]);
    let process = Process::spawn("sidepool", started);
    wait::until("the last line", async || process.log().tail(50).contains("\nworkers ").then_some(())).await;
    let text = shown(&readme, &format!("sidepool --postgres {command}"));
    is_printed(&here(&text), &process.log().tail(50));

    // What it says can be typed: a query, a command, and the third door.
    let place = place::directory("door");
    let typed = |line: &str| here(text.lines().map(str::trim).find(|shown| shown.starts_with(line)).expect(line));
    assert_eq!(said(&place, &format!("{} -Atc 'SELECT 6 * 7'", typed("psql"))), "42\n");
    assert_eq!(said(&place, &format!("{} PING", typed("redis-cli"))), "PONG\n");
    // A worker that answers late is left out of what it has never been in.
    let series = "sidepool_pool_utilization_ratio{pool=\"app.app\"}";
    let admin = ports[2].1;
    wait::until("the pool in the metrics", async || scrape::get(admin, "/metrics").await.filter(|answer| answer.body.contains(series)))
        .await;
    let command = readme.lines().find_map(|line| line.strip_prefix("$ curl ")).expect("the third door");
    is_printed(&here(&shown(&readme, &format!("curl {command}"))), &said(&place, &here(&format!("curl {command}"))));
}

#[test]
fn a_configuration_is_checked_before_it_is_used() {
    let readme = readme();
    let (_, toml) = readme.split_once("```toml\n# sidepool.toml\n").expect("the second door");
    let toml = format!("# sidepool.toml\n{}", toml.split_once("```").expect("its end").0);
    let place = place::directory("door");
    for name in ["app-db", "alice"] {
        std::fs::write(place.join(name), "secret\n").expect("our own directory");
    }
    std::fs::write(place.join("sidepool.toml"), toml.replace("/run/secrets", &place.display().to_string())).expect("our own directory");
    for command in readme.lines().filter_map(|line| line.strip_prefix("$ ")).filter(|line| line.contains("sidepool check ")) {
        assert_eq!(said(&place, command), shown(&readme, command), "{command}");
    }
}

#[test]
fn the_chart_is_installed_as_the_readme_says_and_has_the_values_that_it_names() {
    let readme = readme();
    let mut rendered = 0;
    for line in readme.lines().filter_map(|line| line.strip_prefix("helm install sidepool deploy/helm/sidepool ")) {
        let words: Vec<&str> = line.split(" #").next().expect("a command").split_whitespace().map(|word| word.trim_matches('\'')).collect();
        let words: Vec<&str> = words.into_iter().filter(|word| *word != "--create-namespace").collect();
        let Some(objects) = chart(&words) else { continue };
        rendered += 1;
        if line.contains("injector") {
            assert_eq!(find(&objects, "MutatingWebhookConfiguration", "sidepool-injector")["webhooks"].as_array().map(Vec::len), Some(2));
            assert!(objects.iter().all(|object| object["metadata"]["name"] != "sidepool"), "nothing else");
        } else {
            let text = &find(&objects, "ConfigMap", "sidepool")["data"]["sidepool.toml"];
            assert!(text.as_str().is_some_and(|text| text.contains("host = \"db.internal\"")));
        }
    }
    assert!(rendered == 0 || rendered == 2, "both lines, or no helm");

    let values = read(&deploy().join("helm/sidepool/values.yaml")).remove(0);
    let (_, table) = readme.split_once("| value of the chart |").expect("the table");
    for row in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let named = row.split('|').nth(1).expect("a column").split('`').skip(1).step_by(2);
        for name in named {
            let found = name.split('.').try_fold(&values, |value, key| value.get(key));
            assert!(found.is_some(), "there is no value {name}");
        }
    }
}
