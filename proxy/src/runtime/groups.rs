//! Where the limits of our control group stand, in both versions of the interface. Not here: what they say (`quota`, `memory`).

use std::fs;
use std::path::{Path, PathBuf};

/// Which interface a directory belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// One hierarchy for each controller.
    One,
    /// One for all.
    Two,
}

/// Our group and all groups above it, in every hierarchy of `controller`; `mounts` are the places of those of version one. In a container the path may
/// not exist below the mount (the mount *is* the group): then only the existing part of the way counts.
pub(super) fn ours(root: &Path, controller: &str, mounts: &[&str]) -> Vec<(Version, PathBuf)> {
    let membership = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut found = Vec::new();
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            for mount in ["sys/fs/cgroup", "sys/fs/cgroup/unified"] {
                climb(&root.join(mount), path, Version::Two, &mut found);
            }
        } else if controllers.split(',').any(|name| name == controller) {
            for mount in mounts {
                climb(&root.join(mount), path, Version::One, &mut found);
            }
        }
    }
    found
}

fn climb(mount: &Path, path: &str, version: Version, found: &mut Vec<(Version, PathBuf)>) {
    let mut group: PathBuf = mount.join(path);
    while group.starts_with(mount) {
        if group.is_dir() {
            found.push((version, group.clone()));
        }
        if !group.pop() {
            break;
        }
    }
}
