//! How much memory is left before the kernel kills us: what our control group (v1 and v2), and all groups above it, use and may use. What the kernel
//! can take back at once (file pages that nobody has touched lately) is not counted as used.

use std::fs;
use std::path::{Path, PathBuf};

use super::groups::{self, Version};

/// From here on a limit is none: version one writes "no limit" as a very large number.
const NO_LIMIT: u64 = 1 << 60;

/// Memory in use, and the most there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// In use.
    pub used: u64,
    /// The most.
    pub limit: u64,
}

impl Usage {
    /// What of the limit is in use, in hundredths.
    #[must_use]
    pub fn percent(&self) -> u64 {
        self.used.saturating_mul(100) / self.limit.max(1)
    }
}

/// Where to look.
#[derive(Debug, Clone)]
pub struct Gauges {
    root: PathBuf,
    groups: Vec<(Version, PathBuf)>,
}

impl Gauges {
    /// Those of this process.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self::under(Path::new("/"))
    }

    /// The same with the file system rooted at `root`. Groups without a limit may get one later, and are kept.
    #[must_use]
    pub fn under(root: &Path) -> Self {
        Self { root: root.to_owned(), groups: groups::ours(root, "memory", &["sys/fs/cgroup/memory"]) }
    }

    /// The limit that is nearest, `own` among them, which is for what the process itself has in RAM; `None` without any.
    #[must_use]
    pub fn tightest(&self, own: Option<u64>) -> Option<Usage> {
        let own = own.and_then(|limit| Some(Usage { used: resident(&self.root)?, limit }));
        let groups = self.groups.iter().filter_map(|(version, group)| match version {
            Version::One => read(group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            Version::Two => read(group, "memory.max", "memory.current", "inactive_file"),
        });
        own.into_iter().chain(groups).max_by_key(Usage::percent)
    }
}

fn read(group: &Path, limit: &str, usage: &str, reclaimable: &str) -> Option<Usage> {
    let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    let limit = number(limit).filter(|limit| *limit < NO_LIMIT)?;
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix(reclaimable)?.strip_prefix(' '));
    let reclaimable = line.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0);
    Some(Usage { used: number(usage)?.saturating_sub(reclaimable), limit })
}

/// What the process has in RAM.
fn resident(root: &Path) -> Option<u64> {
    resident_bytes(&fs::read_to_string(root.join("proc/self/status")).ok()?)
}

/// The same, from `/proc/self/status`.
#[must_use]
pub fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::quota::fixture;

    fn tightest(files: &[(&str, &str)], own: Option<u64>) -> Option<Usage> {
        Gauges::under(fixture(files).path()).tightest(own)
    }

    #[test]
    fn v2_takes_the_group_that_is_nearest_to_its_limit() {
        let files = [
            ("proc/self/cgroup", "0::/pod/app\n"),
            ("sys/fs/cgroup/pod/memory.max", "1000\n"),
            ("sys/fs/cgroup/pod/memory.current", "950\n"),
            ("sys/fs/cgroup/pod/app/memory.max", "500\n"),
            ("sys/fs/cgroup/pod/app/memory.current", "400\n"),
            ("sys/fs/cgroup/pod/app/memory.stat", "anon 1\ninactive_file 150\nactive_file 3\n"),
        ];
        assert_eq!(tightest(&files, None), Some(Usage { used: 950, limit: 1000 }));
        let alone: Vec<_> = files.into_iter().filter(|(path, _)| !path.starts_with("sys/fs/cgroup/pod/memory")).collect();
        assert_eq!(tightest(&alone, None), Some(Usage { used: 250, limit: 500 }), "file pages can be taken back");
    }

    #[test]
    fn v1_knows_no_limit_as_a_large_number() {
        let files = |limit: &'static str| {
            [
                ("proc/self/cgroup", "5:memory:/docker/abc\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", limit),
                ("sys/fs/cgroup/memory/memory.usage_in_bytes", "300\n"),
                ("sys/fs/cgroup/memory/memory.stat", "inactive_file 7\ntotal_inactive_file 100\n"),
            ]
        };
        assert_eq!(tightest(&files("400\n"), None), Some(Usage { used: 200, limit: 400 }));
        assert_eq!(tightest(&files("9223372036854771712\n"), None), None);
    }

    #[test]
    fn a_limit_of_our_own_is_for_what_the_process_has_in_ram() {
        let files = [("proc/self/status", "Name:\tx\nVmRSS:\t    12 kB\n"), ("proc/self/cgroup", "0::/\n")];
        assert_eq!(tightest(&files, Some(20_000)), Some(Usage { used: 12_288, limit: 20_000 }));
        assert_eq!(tightest(&files, None), None);
        assert_eq!(resident_bytes("Name:\tx\n"), None);
    }
}
