//! The image: what it holds, what it says of itself, and that it serves and ends as Kubernetes and Docker expect.

use std::process::Command;

use rustix::process::{Pid, kill_process};
use serde_json::json;
use sidepool_tests::image::{Image, process_with};
use sidepool_tests::postgres::cluster::{Cluster, PASSWORD};
use sidepool_tests::process::Signal;
use sidepool_tests::{place, wait};

#[test]
fn it_holds_one_program_and_the_authorities_and_says_what_it_is() {
    let Some(image) = Image::build() else { return };
    let files = image.files();
    let names: Vec<&str> = files.iter().filter_map(|(path, _)| path.to_str()).collect();
    assert_eq!(names, ["etc/ssl/certs/ca-certificates.crt", "sidepool"]);
    let config = image.config();
    assert_eq!(config["User"], "65532:65532", "a number, so that runAsNonRoot can be checked");
    assert_eq!(config["Entrypoint"], json!(["/sidepool"]));
    assert_eq!(config["StopSignal"], "SIGTERM");
    assert_eq!(config["Healthcheck"]["Test"], json!(["CMD", "/sidepool", "healthcheck"]));
    let label = |name: &str| config["Labels"][format!("org.opencontainers.image.{name}")].clone();
    assert_eq!((label("title"), label("version")), (json!("sidepool"), json!(env!("CARGO_PKG_VERSION"))));
    assert_eq!(label("licenses"), "MIT OR Apache-2.0");
    let ports: Vec<&String> = config["ExposedPorts"].as_object().expect("ports").keys().collect();
    assert_eq!(ports, ["6380/tcp", "6432/tcp", "9127/tcp"]);
    let version = image.run(&["--version"]);
    assert_eq!(String::from_utf8_lossy(&version.stdout), format!("sidepool {}\n", env!("CARGO_PKG_VERSION")));
    let size: u64 = files.iter().map(|(_, size)| size).sum();
    println!("the image holds {size} bytes");
    // What the tests build is not optimised. To look at what is shipped: deploy/docker/static target/shipped/out, and
    // SIDEPOOL_IMAGE_CONTENT=target/shipped SIDEPOOL_IMAGE_RELEASE=1 cargo test --test image.
    let most = if std::env::var_os("SIDEPOOL_IMAGE_RELEASE").is_some() { 15_000_000 } else { 60_000_000 };
    assert!(size < most, "{size} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_as_a_nobody_is_healthy_and_ends_well() {
    let Some(image) = Image::build() else { return };
    let cluster = Cluster::start().await;
    let (postgres, admin) = (place::free_port(), place::free_port());
    let (listen, admin_listen) = (format!("--postgres-listen=127.0.0.1:{postgres}"), format!("--admin-listen=127.0.0.1:{admin}"));
    let url = format!("--postgres=postgres://app:{PASSWORD}@127.0.0.1:{}/app", cluster.port());
    let mut process = image.start(&[&url, &listen, &admin_listen]);
    let (id, user) = wait::until("the program to start", async || process_with(&admin_listen)).await;
    assert_eq!(user, 65532);

    let target = format!("--url=http://127.0.0.1:{admin}");
    let ready = image.run(&["wait", &target]);
    assert!(ready.status.success(), "{}{}", String::from_utf8_lossy(&ready.stderr), process.log().tail(20));
    assert!(image.run(&["healthcheck", &target]).status.success());
    let output = Command::new("psql").args([&format!("postgres://app@127.0.0.1:{postgres}/app"), "-Atc", "SELECT 6 * 7"]).output();
    let output = output.expect("psql starts");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "42\n", "{}", String::from_utf8_lossy(&output.stderr));

    kill_process(Pid::from_raw(id).expect("not zero"), Signal::TERM).expect("it runs");
    assert!(process.ended().await.success(), "{}", process.log().tail(20));
    assert!(!image.run(&["healthcheck", &target]).status.success(), "nobody is there");
}
