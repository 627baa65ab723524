//! The image, built as its Dockerfile says by buildah where that is at hand, and run without a container engine.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::process::Process;
use crate::{binary, manifests, place};

/// An image that was built, and a container of it that can be run.
pub struct Image {
    store: PathBuf,
    container: String,
}

impl Image {
    /// Builds the last stage of the Dockerfile; what the stage before it makes is there already. `None` where buildah is missing or may do nothing.
    #[must_use]
    pub fn build() -> Option<Self> {
        if manifests::program("buildah").is_none() {
            crate::left_out("buildah");
            return None;
        }
        let mut image = Self { store: place::directory("images"), container: String::new() };
        if !image.buildah(&["from", "scratch"]).status.success() {
            crate::left_out("a machine on which buildah may work");
            return None;
        }
        let deploy = manifests::deploy();
        let content = format!("build={}", binary::image_content().display());
        let file = deploy.join("docker/Dockerfile");
        let words = ["bud", "--isolation", "chroot", "--format", "docker", "--build-context", &content, "--tag", "sidepool", "--file"];
        image.done(&[&words[..], &[path(&file), path(deploy.parent()?)]].concat());
        image.container = image.done(&["from", "--pull-never", "sidepool"]);
        Some(image)
    }

    /// What the image says of itself.
    #[must_use]
    pub fn config(&self) -> Value {
        let all: Value = serde_json::from_str(&self.done(&["inspect", "--type", "image", "sidepool"])).expect("JSON");
        all["Docker"]["config"].clone()
    }

    /// Every file in it, with its size.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let root = PathBuf::from(self.done(&["mount", &self.container]));
        let (mut files, mut open) = (Vec::new(), vec![root.clone()]);
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(&folder).expect("it is there") {
                let path = entry.expect("a file").path();
                let about = path.symlink_metadata().expect("it is there");
                if about.is_dir() {
                    open.push(path);
                } else {
                    files.push((path.strip_prefix(&root).expect("below it").to_owned(), about.len()));
                }
            }
        }
        files.sort();
        files
    }

    /// Runs its program with these arguments until it ends.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("buildah starts")
    }

    /// Starts its program with these arguments.
    #[must_use]
    pub fn start(&self, arguments: &[&str]) -> Process {
        Process::spawn("image", self.command(arguments))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let config = self.config();
        let entrypoint = config["Entrypoint"].as_array().expect("an entry point").iter().filter_map(Value::as_str);
        let mut command = self.bare();
        command.args(["run", "--isolation", "chroot", &self.container, "--"]).args(entrypoint).args(arguments);
        command
    }

    fn bare(&self) -> Command {
        let mut command = Command::new("buildah");
        command.args(["--storage-driver", "vfs", "--root", path(&self.store.join("root")), "--runroot", path(&self.store.join("run"))]);
        command
    }

    fn buildah(&self, arguments: &[&str]) -> Output {
        self.bare().args(arguments).output().expect("buildah starts")
    }

    /// What it prints, which has to end well.
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.buildah(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

/// The process that was started with this among its arguments: its id and its user, as numbers.
#[must_use]
pub fn process_with(argument: &str) -> Option<(i32, u32)> {
    let ids = std::fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    ids.filter_map(|id| {
        let words = std::fs::read(format!("/proc/{id}/cmdline")).ok()?;
        let mut words = words.split(|byte| *byte == 0);
        (words.next()? == b"/sidepool" && words.any(|word| word == argument.as_bytes())).then_some(())?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let user = status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()?;
        Some((id, user))
    })
    .next()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a plain name")
}
