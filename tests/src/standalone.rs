//! A standalone sidepool started as the container of a Deployment says, on this machine: with its arguments, and with the configuration of its ConfigMap.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::binary::{Build, path};
use crate::manifests::find;
use crate::place;
use crate::postgres::cluster::{Cluster, PASSWORD};
use crate::process::Process;

/// The name of the Secret with the users, which is a directory in the pod.
pub const USERS: &str = "sidepool-users";

/// What a Deployment called `sidepool` and a ConfigMap of that name say, and where their ports are here.
pub struct Standalone {
    /// The container.
    pub container: Value,
    /// The configuration, with the paths and addresses of this machine.
    pub settings: String,
    /// Where clients of PostgreSQL come.
    pub postgres: u16,
    /// Where probes come.
    pub admin: u16,
    directory: PathBuf,
}

impl Standalone {
    /// With the server that the configuration calls `server`.
    #[must_use]
    pub fn new(objects: &[Value], server: &str, cluster: &Cluster) -> Self {
        let directory = place::directory("standalone");
        std::fs::write(directory.join("userlist.txt"), format!("\"app\" \"{PASSWORD}\"\n")).expect("our own directory");
        let (postgres, admin) = (place::free_port(), place::free_port());
        let written = find(objects, "ConfigMap", "sidepool")["data"]["sidepool.toml"].as_str().expect("a text").to_owned();
        let mut settings = written.clone();
        for (there, here) in [
            ("0.0.0.0:9127".to_owned(), format!("127.0.0.1:{admin}")),
            ("0.0.0.0:6432".to_owned(), format!("127.0.0.1:{postgres}")),
            (format!("/etc/sidepool/secrets/{USERS}"), directory.display().to_string()),
            (format!("host = \"{server}\""), "host = \"127.0.0.1\"".to_owned()),
            ("port = 5432".to_owned(), format!("port = {}", cluster.port())),
        ] {
            assert!(settings.contains(&there), "{there} is not in\n{written}");
            settings = settings.replace(&there, &here);
        }
        let deployment = find(objects, "Deployment", "sidepool");
        let container = deployment["spec"]["template"]["spec"]["containers"][0].clone();
        Self { container, settings, postgres, admin, directory }
    }

    /// Starts it.
    #[must_use]
    pub fn start(&self) -> Process {
        let file = self.directory.join("sidepool.toml");
        std::fs::write(&file, &self.settings).expect("our own directory");
        let arguments = self.container["args"].as_array().expect("arguments").iter().filter_map(Value::as_str);
        let mounted = "/etc/sidepool/config/sidepool.toml";
        let arguments: Vec<String> = arguments.map(|argument| argument.replace(mounted, &file.display().to_string())).collect();
        assert!(arguments.concat().contains("sidepool.toml"), "{arguments:?}");
        let mut command = Command::new(path(Build::Checked));
        command.args(arguments).env_clear().current_dir("/");
        Process::spawn("standalone", command)
    }
}
