//! How much memory is left before the kernel kills us: what our control group (v1 and v2), and all groups above it, use and may use. What the kernel
//! takes back before it kills (pages of files, which a database in the same group fills its share with) is not counted as used.

use std::cell::LazyCell;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::groups::{self, Version};
use super::pressure::Step;

/// From here on a limit is none: version one writes "no limit" as a very large number.
const NO_LIMIT: u64 = 1 << 60;

/// What the files that are read here have room in, as a rule.
const ROOM: usize = 4096;

/// Memory in use, and the most there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// In use.
    pub used: u64,
    /// The most.
    pub limit: u64,
}

/// A limit, and how near it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// What is in use of it.
    pub usage: Usage,
    /// What of that this process has.
    pub ours: u64,
}

/// The part of a limit, in hundredths, from which on it makes a difference what this process does.
const REAL_PART: u64 = 10;

impl Usage {
    /// What of the limit is in use, in hundredths.
    #[must_use]
    pub fn percent(&self) -> u64 {
        hundredths(self.used, self.limit)
    }
}

impl Reading {
    /// Whether this process has a real part of the limit.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        hundredths(self.ours, self.usage.limit) >= REAL_PART
    }
}

fn hundredths(part: u64, whole: u64) -> u64 {
    part.saturating_mul(100) / whole.max(1)
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

    /// The limit that asks for most to be done, of those the one that is nearest; `own` is among them, which is for what the process itself has in RAM.
    /// `None` without any.
    #[must_use]
    pub fn tightest(&self, own: Option<u64>) -> Option<Reading> {
        // Only where there is a limit: the kernel counts for it, and this is asked each second of a process that may have nothing else to do.
        let ours = LazyCell::new(|| resident(&self.root));
        let own = own.and_then(|limit| ours.map(|ours| Reading { usage: Usage { used: ours, limit }, ours }));
        let groups = self.groups.iter().filter_map(|(version, group)| {
            let usage = match version {
                Version::One => read(group, "memory.limit_in_bytes", "memory.usage_in_bytes", ["total_inactive_file", "total_active_file"]),
                Version::Two => read(group, "memory.max", "memory.current", ["inactive_file", "active_file"]),
            }?;
            // Where that cannot be read, all of it may be ours.
            Some(Reading { usage, ours: ours.unwrap_or(usage.used) })
        });
        own.into_iter().chain(groups).max_by_key(|reading| (Step::at(Some(*reading), 0), reading.usage.percent()))
    }
}

/// What is in use in a group, but for what is reclaimable, and its limit.
fn read(group: &Path, limit: &str, usage: &str, reclaimable: [&str; 2]) -> Option<Usage> {
    let number = |name: &str| text(&group.join(name))?.trim().parse::<u64>().ok();
    let limit = number(limit).filter(|limit| *limit < NO_LIMIT)?;
    let stat = text(&group.join("memory.stat")).unwrap_or_default();
    let reclaimable: u64 = stat
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| reclaimable.contains(name))
        .filter_map(|(_, bytes)| bytes.trim().parse::<u64>().ok())
        .fold(0, u64::saturating_add);
    Some(Usage { used: number(usage)?.saturating_sub(reclaimable), limit })
}

/// What the process has in RAM.
fn resident(root: &Path) -> Option<u64> {
    resident_bytes(&text(&root.join("proc/self/status"))?)
}

/// A whole file of the kernel. It does not say how large it is: with room for it all it is one call, and not one for each step that a buffer grows by.
fn text(path: &Path) -> Option<String> {
    let mut text = String::with_capacity(ROOM);
    File::open(path).ok()?.read_to_string(&mut text).ok()?;
    Some(text)
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

    fn tightest(files: &[(&str, &str)], own: Option<u64>) -> Option<Reading> {
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
            ("sys/fs/cgroup/pod/app/memory.stat", "anon 1\ninactive_file 100\nactive_file 50\n"),
        ];
        assert_eq!(tightest(&files, None), Some(Reading { usage: Usage { used: 950, limit: 1000 }, ours: 950 }));
        let alone: Vec<_> = files.into_iter().filter(|(path, _)| !path.starts_with("sys/fs/cgroup/pod/memory")).collect();
        assert_eq!(
            tightest(&alone, None),
            Some(Reading { usage: Usage { used: 250, limit: 500 }, ours: 250 }),
            "file pages can be taken back"
        );
    }

    #[test]
    fn a_group_full_of_a_database_s_files_is_not_full_and_one_full_of_others_is_not_ours() {
        let files = |stat: &'static str| {
            [
                ("proc/self/status", "VmRSS:\t    20 kB\n"),
                ("proc/self/cgroup", "0::/slice\n"),
                ("sys/fs/cgroup/slice/memory.max", "1000000\n"),
                ("sys/fs/cgroup/slice/memory.current", "999000\n"),
                ("sys/fs/cgroup/slice/memory.stat", stat),
            ]
        };
        let cached = tightest(&files("anon 100000\ninactive_file 99000\nactive_file 800000\n"), None).expect("there is a limit");
        assert_eq!(cached, Reading { usage: Usage { used: 100_000, limit: 1_000_000 }, ours: 20_480 });
        let full = tightest(&files("anon 999000\n"), None).expect("there is a limit");
        assert_eq!((full.usage.percent(), full.is_ours()), (99, false));
        let own = tightest(&files("anon 999000\n"), Some(20_480)).expect("there is a limit");
        assert_eq!((own.usage.percent(), own.is_ours()), (100, true), "what asks for more comes first");
    }

    #[test]
    fn v1_knows_no_limit_as_a_large_number() {
        let files = |limit: &'static str| {
            [
                ("proc/self/cgroup", "5:memory:/docker/abc\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", limit),
                ("sys/fs/cgroup/memory/memory.usage_in_bytes", "300\n"),
                ("sys/fs/cgroup/memory/memory.stat", "inactive_file 7\ntotal_inactive_file 60\ntotal_active_file 40\n"),
            ]
        };
        assert_eq!(tightest(&files("400\n"), None), Some(Reading { usage: Usage { used: 200, limit: 400 }, ours: 200 }));
        assert_eq!(tightest(&files("9223372036854771712\n"), None), None);
    }

    #[test]
    fn a_limit_of_our_own_is_for_what_the_process_has_in_ram() {
        let files = [("proc/self/status", "Name:\tx\nVmRSS:\t    12 kB\n"), ("proc/self/cgroup", "0::/\n")];
        assert_eq!(tightest(&files, Some(20_000)), Some(Reading { usage: Usage { used: 12_288, limit: 20_000 }, ours: 12_288 }));
        assert_eq!(tightest(&files, None), None);
        assert_eq!(resident_bytes("Name:\tx\n"), None);
    }
}
