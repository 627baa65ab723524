//! The figures that every Prometheus client library shows about its process, read from the kernel.

use std::fs;
use std::time::Duration;

use crate::clock;
use crate::runtime::descriptors;
use crate::runtime::memory::resident_bytes;

/// The figures. What cannot be read is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessFigures {
    /// CPU time used.
    pub cpu: Duration,
    /// Memory in RAM.
    pub resident_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_fds: Option<u64>,
    /// The most there may be; `None`: no limit.
    pub max_fds: Option<u64>,
}

impl ProcessFigures {
    /// Reads them.
    #[must_use]
    pub fn read() -> Self {
        Self {
            cpu: clock::process_cpu(),
            resident_bytes: fs::read_to_string("/proc/self/status").ok().and_then(|status| resident_bytes(&status)),
            open_fds: fs::read_dir("/proc/self/fd").ok().and_then(|entries| u64::try_from(entries.count()).ok()),
            max_fds: descriptors::limit(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_this_process() {
        let figures = ProcessFigures::read();
        assert!(figures.resident_bytes.unwrap() > 1_000_000);
        assert!(figures.open_fds.unwrap() >= 3);
        assert!(figures.cpu > Duration::ZERO && clock::thread_cpu() <= ProcessFigures::read().cpu);
    }
}
