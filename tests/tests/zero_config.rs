//! No configuration file: URLs on the command line or in the environment, and what is printed for people.

use std::process::Command;

use sidepool_tests::binary::{Build, path};
use sidepool_tests::place;
use sidepool_tests::postgres::cluster::PASSWORD;
use sidepool_tests::postgres::{Cluster, Wire};
use sidepool_tests::process::Process;
use sidepool_tests::redis::{self, RedisServer};
use sidepool_tests::{scrape, wait};

struct Ports {
    postgres: u16,
    redis: u16,
    admin: u16,
}

/// The listeners are moved off their usual ports: this may run beside a sidepool that has them.
fn base() -> (Command, Ports) {
    let ports = Ports { postgres: place::free_port(), redis: place::free_port(), admin: place::free_port() };
    let mut command = Command::new(path(Build::Checked));
    command.args(["--postgres-listen", &format!("127.0.0.1:{}", ports.postgres)]);
    command.args(["--redis-listen", &format!("127.0.0.1:{}", ports.redis)]);
    command.args(["--admin-listen", &format!("127.0.0.1:{}", ports.admin)]);
    command.env_remove("DATABASE_URL").env_remove("REDIS_URL").current_dir("/");
    (command, ports)
}

async fn works(process: &Process, ports: &Ports) {
    let ready = async || scrape::get(ports.admin, "/readyz").await.filter(|answer| answer.status == 200);
    wait::until("readiness", ready).await;
    let mut wire = Wire::login(ports.postgres, "app", "app", PASSWORD).await;
    assert_eq!(wire.value("SELECT current_user").await, "app");
    let mut client = redis::Wire::connect(ports.redis).await;
    assert_eq!(client.command(&["SET", "k", "v"]).await.text(), "OK");
    for wanted in ["psql", "redis-cli", "/metrics", &ports.postgres.to_string(), &ports.redis.to_string(), "20"] {
        process.log().line_with(wanted).await;
    }
    let printed = process.log().tail(1000);
    for secret in [PASSWORD, "hidden-redis"] {
        assert!(!printed.contains(secret), "a secret is printed:\n{printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn urls_on_the_command_line() {
    let (cluster, server) = (Cluster::start().await, RedisServer::start_with_password("hidden-redis").await);
    let (mut command, ports) = base();
    command.args(["--postgres", &format!("postgres://app:{PASSWORD}@127.0.0.1:{}/app", cluster.port())]);
    command.args(["--redis", &format!("redis://:hidden-redis@127.0.0.1:{}", server.port())]);
    let process = Process::spawn("sidepool", command);
    works(&process, &ports).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn urls_in_the_environment() {
    let (cluster, server) = (Cluster::start().await, RedisServer::start_with_password("hidden-redis").await);
    let (mut command, ports) = base();
    command.env("DATABASE_URL", format!("postgres://app:{PASSWORD}@127.0.0.1:{}/app", cluster.port()));
    command.env("REDIS_URL", format!("redis://:hidden-redis@127.0.0.1:{}", server.port()));
    let process = Process::spawn("sidepool", command);
    works(&process, &ports).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_to_do_is_an_error_that_helps() {
    let (mut command, _) = base();
    let output = command.output().expect("it starts");
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("DATABASE_URL") || text.contains("--postgres"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_named() {
    let cluster = Cluster::start().await;
    let (mut command, _) = base();
    let taken = format!("127.0.0.1:{}", cluster.port());
    command.args(["--postgres", &format!("postgres://app@{taken}/app")]);
    let index = command.get_args().position(|argument| argument == "--postgres-listen").expect("set above");
    let arguments: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
    let mut command = Command::new(path(Build::Checked));
    command.args(&arguments[..=index]).arg(&taken).args(&arguments[index + 2..]);
    let output = command.output().expect("it starts");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains(&taken), "{output:?}");
}
