//! How many cores we may really use: the CPU quota of our control group (v1 and v2) and the CPUs that we may run on, whichever is less.

use std::fs;
use std::path::Path;

use rustix::thread::sched_getaffinity;

use super::groups::{self, Version};

/// The most workers that are started unasked.
const MOST: f64 = 64.0;

/// Cores that this process may use.
#[must_use]
pub fn available() -> f64 {
    let affinity = sched_getaffinity(None).map_or(1, |set| set.count());
    available_under(Path::new("/"), f64::from(affinity))
}

/// How many workers suit that many cores. Up to two cores one worker: it needs no synchronisation at all, and the second core is wanted by the
/// kernel's network stack and by the application. Beyond that one for each whole core.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a small positive number")]
pub fn workers_for(cores: f64) -> u16 {
    if cores <= 2.0 { 1 } else { cores.floor().min(MOST) as u16 }
}

/// The same as [`available`] with the file system rooted at `root`.
fn available_under(root: &Path, affinity: f64) -> f64 {
    let groups = groups::ours(root, "cpu", &["sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct"]);
    let quotas = groups.iter().filter_map(|(version, group)| match version {
        Version::One => quota_v1(group),
        Version::Two => quota_v2(group),
    });
    quotas.fold(affinity, f64::min)
}

fn quota_v2(group: &Path) -> Option<f64> {
    let text = fs::read_to_string(group.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    ratio(quota, period)
}

fn quota_v1(group: &Path) -> Option<f64> {
    let read = |name: &str| fs::read_to_string(group.join(name)).ok();
    ratio(read("cpu.cfs_quota_us")?.trim(), read("cpu.cfs_period_us")?.trim())
}

/// Cores, or `None` without a limit (`max` in v2, `-1` in v1).
fn ratio(quota: &str, period: &str) -> Option<f64> {
    let quota: f64 = quota.parse().ok()?;
    let period: f64 = period.parse().ok()?;
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

/// A directory with these files, as the root of a file system.
#[cfg(test)]
pub(super) fn fixture(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(files: &[(&str, &str)], affinity: f64) -> f64 {
        available_under(fixture(files).path(), affinity)
    }

    #[test]
    fn v2_takes_the_lowest_on_the_way_up() {
        let files = [
            ("proc/self/cgroup", "0::/kubepods/pod1/app\n"),
            ("sys/fs/cgroup/kubepods/cpu.max", "800000 100000\n"),
            ("sys/fs/cgroup/kubepods/pod1/cpu.max", "250000 100000\n"),
            ("sys/fs/cgroup/kubepods/pod1/app/cpu.max", "max 100000\n"),
        ];
        assert_eq!(cores(&files, 16.0), 2.5);
        assert_eq!(cores(&files, 2.0), 2.0, "fewer CPUs than quota");
    }

    #[test]
    fn v2_in_a_container_of_its_own_namespace() {
        assert_eq!(cores(&[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/cpu.max", "50000 100000\n")], 8.0), 0.5);
    }

    #[test]
    fn v1_in_a_container_that_does_not_see_its_own_path() {
        let files = [
            ("proc/self/cgroup", "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "300000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
        ];
        assert_eq!(cores(&files, 8.0), 3.0);
    }

    #[test]
    fn no_limit_and_nonsense_leave_the_affinity() {
        assert_eq!(cores(&[], 6.0), 6.0);
        let unlimited = [
            ("proc/self/cgroup", "1:cpu:/\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ];
        assert_eq!(cores(&unlimited, 6.0), 6.0);
        assert_eq!(cores(&[("proc/self/cgroup", "0::/\nrubbish"), ("sys/fs/cgroup/cpu.max", "rubbish")], 6.0), 6.0);
    }

    #[test]
    fn one_worker_up_to_two_cores() {
        let counts = [0.1, 1.0, 2.0, 2.5, 3.0, 8.9, 1000.0].map(workers_for);
        assert_eq!(counts, [1, 1, 1, 2, 3, 8, 64]);
    }

    #[test]
    fn this_machine_has_at_least_a_bit_of_a_core() {
        assert!(available() > 0.0);
    }
}
