//! Hot reload: by signal, by a changed file, by the symlink swap of a mounted ConfigMap, without file events, and with files that are broken.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::harness::{Sidepool, command, config, file};

const TAKEN_BY_FILE: &str = "sidepool_config_reloads_total{trigger=\"file\",result=\"ok\"}";
const REJECTED_BY_FILE: &str = "sidepool_config_reloads_total{trigger=\"file\",result=\"rejected\"}";
const LAST_SUCCESSFUL: &str = "sidepool_config_last_reload_successful";

#[test]
fn by_signal() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "sidepool.toml", &config("pool_size = 5"));
    let sidepool = Sidepool::with_file(&path);
    sidepool.signal(Signal::HUP);
    sidepool.wait_for_metric("sidepool_config_reloads_total{trigger=\"sighup\",result=\"ok\"}", 1.0);
    let hash = sidepool.metric("sidepool_config_hash");
    file(directory.path(), "sidepool.toml", &config("pool_size = 9"));
    sidepool.signal(Signal::HUP);
    sidepool.wait_for("configuration reloaded");
    assert!(sidepool.lines("pool_size").iter().any(|line| line.contains("5 -> 9")), "{}", sidepool.said());
    assert_ne!(sidepool.metric("sidepool_config_hash"), hash);
}

#[test]
fn by_a_changed_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "sidepool.toml", &config("max_client_conn = 50"));
    let sidepool = Sidepool::with_file(&path);
    file(directory.path(), "sidepool.toml", &config("max_client_conn = 60"));
    sidepool.wait_for_metric(TAKEN_BY_FILE, 1.0);
    assert_eq!(sidepool.metric("sidepool_listener_client_connections_max{listener=\"redis/cache\"}"), 60.0);
}

#[test]
fn by_the_symlink_swap_of_a_configmap_again_and_again() {
    let mount = tempfile::tempdir().unwrap();
    let path = mount.path().join("sidepool.toml");
    swap_in(mount.path(), 0, &config("max_client_conn = 50"));
    symlink("..data/sidepool.toml", &path).unwrap();
    let sidepool = Sidepool::with_file(&path);
    for turn in 1..=3_u32 {
        swap_in(mount.path(), turn, &config(&format!("max_client_conn = {}", 50 + turn)));
        sidepool.wait_for_metric(TAKEN_BY_FILE, f64::from(turn));
    }
    assert_eq!(sidepool.metric("sidepool_listener_client_connections_max{listener=\"redis/cache\"}"), 53.0);
}

#[test]
fn a_broken_file_changes_nothing_until_it_is_mended() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "sidepool.toml", &config("max_client_conn = 50"));
    let sidepool = Sidepool::with_file(&path);
    file(directory.path(), "sidepool.toml", &config("max_client_conn = 60\npool_sice = 4"));
    sidepool.wait_for_metric(REJECTED_BY_FILE, 1.0);
    assert_eq!(sidepool.metric(LAST_SUCCESSFUL), 0.0);
    assert_eq!(sidepool.metric("sidepool_listener_client_connections_max{listener=\"redis/cache\"}"), 50.0, "all or nothing");
    let line = sidepool.wait_for("pool_sice");
    assert!(line.contains("sidepool.toml:7") && line.contains("pool_size"), "{line}");
    let (_, status) = sidepool.get("/statusz");
    assert!(status.contains("pool_sice") && status.replace(' ', "").contains("\"last_reload_successful\":false"), "{status}");
    assert_eq!(sidepool.get("/readyz").0, 200);
    file(directory.path(), "sidepool.toml", &config("max_client_conn = 60\npool_size = 4"));
    sidepool.wait_for_metric(LAST_SUCCESSFUL, 1.0);
    sidepool.wait_for_metric("sidepool_listener_client_connections_max{listener=\"redis/cache\"}", 60.0);
}

#[test]
fn a_file_that_vanishes_is_a_problem_and_nothing_more() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "sidepool.toml", &config(""));
    let sidepool = Sidepool::with_file(&path);
    fs::remove_file(&path).unwrap();
    sidepool.wait_for_metric(REJECTED_BY_FILE, 1.0);
    assert_eq!(sidepool.get("/readyz").0, 200);
    file(directory.path(), "sidepool.toml", &config("pool_size = 3"));
    sidepool.wait_for_metric(LAST_SUCCESSFUL, 1.0);
}

#[test]
fn what_needs_a_restart_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "sidepool.toml", &config(""));
    let sidepool = Sidepool::with_file(&path);
    assert_eq!(sidepool.metric("sidepool_config_restart_pending"), 0.0);
    file(directory.path(), "sidepool.toml", &format!("workers = 4\n{}", config("")));
    sidepool.wait_for_metric("sidepool_config_restart_pending", 1.0);
    assert!(sidepool.wait_for("need a restart").contains("workers"));
    assert!(sidepool.get("/statusz").1.contains("\"workers\""));
}

/// A machine that has no inotify instance left: every sidecar on a node shares one user id, and with it the limit.
#[test]
fn without_file_events_by_looking_at_the_contents() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "sidepool.toml", &config("max_client_conn = 50"));
    let no_inotify = "echo 0 > /proc/sys/user/max_inotify_instances && exec \"$0\" \"$@\"";
    let possible = Command::new("unshare").args(["-Ur", "sh", "-c", no_inotify, "true"]).output();
    if !possible.is_ok_and(|output| output.status.success()) {
        return eprintln!("this machine lets nobody make a user namespace: not tested");
    }
    let binary = command(&[]);
    let mut without = Command::new("unshare");
    without.args(["-Ur", "sh", "-c", no_inotify]).arg(binary.get_program()).arg(&path);
    let sidepool = Sidepool::start_as(without);
    sidepool.wait_for("no events for changed configuration files");
    file(directory.path(), "sidepool.toml", &config("max_client_conn = 60"));
    sidepool.wait_for_metric(TAKEN_BY_FILE, 1.0);
    assert_eq!(sidepool.lines("no events for changed").len(), 1, "said once");
}

/// What the kubelet does: a new directory, a link to it under another name, and a rename over the old link.
fn swap_in(mount: &Path, turn: u32, text: &str) -> PathBuf {
    let directory = mount.join(format!("..2026_{turn}"));
    fs::create_dir(&directory).unwrap();
    file(&directory, "sidepool.toml", text);
    let temporary = mount.join("..data_tmp");
    symlink(directory.file_name().unwrap(), &temporary).unwrap();
    fs::rename(&temporary, mount.join("..data")).unwrap();
    if turn > 0 {
        fs::remove_dir_all(mount.join(format!("..2026_{}", turn - 1))).unwrap();
    }
    directory
}
