//! What the whole process has to say, beside its pools: limits that are reached, a configuration that is not in force, hosts that are left alone. Pure.

use std::time::Duration;

use super::explain::{Level, Words, span};
use super::facts::Reloads;
use super::liveness::STUCK_AFTER;
use crate::listener::gate::GateNumbers;
use crate::runtime::backend::Backend;
use crate::runtime::memory::Usage;
use crate::upstream::breaker::Phase;
use crate::upstream::dial::HostReport;
use crate::worker::WorkerId;

/// The configuration: broken, or waiting for a restart.
#[must_use]
pub fn of_config(reloads: &Reloads) -> Vec<Words> {
    let mut found = Vec::new();
    if !reloads.last_successful {
        let problems = if reloads.problems.is_empty() { String::new() } else { format!(": {}", reloads.problems.join("; ")) };
        let text = format!("the configuration that was read last is not in force, the one before it is{problems}");
        found.push(Words::new(Level::Exhausted, text, "sidepool check FILE names every problem with its line"));
    }
    if !reloads.restart_pending.is_empty() {
        let text = format!("changed settings wait for a restart: {}", reloads.restart_pending.join(", "));
        found.push(Words::new(Level::Notice, text, "until then the old ones hold"));
    }
    found
}

/// A listener, by its name: as many clients as may be.
#[must_use]
pub fn of_listener(name: &str, numbers: &GateNumbers) -> Option<Words> {
    let (open, most) = (numbers.open, numbers.most());
    let (setting, advice) = if numbers.files < numbers.max {
        ("the limit on open files", "raise it (ulimit -n, LimitNOFILE)")
    } else {
        ("max_client_conn", "raise it, or look for clients that open too many connections")
    };
    if open >= most {
        let text = format!("{name}: {open} of {most} clients, more are refused ({setting})");
        return Some(Words::new(Level::Exhausted, text, advice));
    }
    (u64::from(open) * 10 >= u64::from(most) * 9)
        .then(|| Words::new(Level::Notice, format!("{name}: {open} of {most} clients ({setting})"), advice))
}

/// Memory: whether something is done because it runs out.
#[must_use]
pub fn of_memory(usage: Option<Usage>, step: u64) -> Option<Words> {
    let Usage { used, limit } = usage?;
    let share = used.saturating_mul(100) / limit.max(1);
    let text = || format!("memory runs out: {share} % of the limit is in use");
    (step > 0)
        .then(|| Words::new(Level::Exhausted, text(), "raise the memory limit; new clients are refused or idle ones closed meanwhile"))
}

/// The means by which connections are read and written: whether they are others than was wished.
#[must_use]
pub fn of_backend(backend: &Backend) -> Option<Words> {
    let reason = backend.refused.as_ref()?;
    let text = format!("io_backend is {}, not io_uring: {reason}", backend.name());
    Some(Words::new(Level::Notice, text, "allow io_uring (the seccomp profile, kernel.io_uring_disabled), or set io_backend = \"epoll\""))
}

/// Files: whether few are left.
#[must_use]
pub fn of_files(open: Option<u64>, max: Option<u64>) -> Option<Words> {
    let (open, max) = (open?, max?);
    let text = || format!("{open} of {max} files are open");
    (open.saturating_mul(10) >= max.saturating_mul(9))
        .then(|| Words::new(Level::Notice, text(), "raise the limit (ulimit -n, LimitNOFILE)"))
}

/// A host of which addresses are left alone.
#[must_use]
pub fn of_host(host: &HostReport) -> Option<Words> {
    let of = |phase: Phase| host.addresses[phase as usize];
    let (open, all) = (of(Phase::Open) + of(Phase::HalfOpen), host.addresses.iter().sum::<u64>());
    let text = || format!("{}: {open} of {all} addresses are left alone for a while because connecting to them failed", host.host);
    let level = if open == all { Level::Down } else { Level::Notice };
    (open > 0).then(|| Words::new(level, text(), "look at the server there; it is tried again by itself"))
}

/// A worker that owes an answer.
#[must_use]
pub fn of_worker(id: WorkerId, owed: Duration) -> Option<Words> {
    let text = || format!("worker {} has not answered for {}", id.0, span(owed));
    (owed >= STUCK_AFTER).then(|| Words::new(Level::Down, text(), "/livez says so too: whoever watches it restarts the process"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(open: u32, max: u32, files: u32) -> GateNumbers {
        GateNumbers {
            open,
            max,
            files,
            accepted: 0,
            rejected: 0,
            rejected_for_files: 0,
            rejected_for_memory: 0,
            rejected_while_draining: 0,
            accept_errors: 0,
        }
    }

    #[test]
    fn a_listener_is_full_or_nearly() {
        assert_eq!(of_listener("postgres", &gate(89, 100, 200)), None);
        let nearly = of_listener("postgres", &gate(90, 100, 200)).unwrap();
        assert_eq!((nearly.level, &*nearly.text), (Level::Notice, "postgres: 90 of 100 clients (max_client_conn)"));
        let full = of_listener("postgres", &gate(50, 100, 50)).unwrap();
        assert_eq!((full.level, &*full.text), (Level::Exhausted, "postgres: 50 of 50 clients, more are refused (the limit on open files)"));
    }

    #[test]
    fn memory_and_files_are_named_before_they_are_gone() {
        assert_eq!(of_memory(Some(Usage { used: 99, limit: 100 }), 0), None);
        assert!(of_memory(Some(Usage { used: 93, limit: 100 }), 1).unwrap().text.contains("93 %"));
        assert_eq!((of_memory(None, 1), of_files(None, Some(1)), of_files(Some(8), Some(10))), (None, None, None));
        assert!(of_files(Some(9), Some(10)).unwrap().text.starts_with("9 of 10 files"));
    }

    #[test]
    fn hosts_and_workers_that_do_not_answer_are_named() {
        let mut host = HostReport { host: "db:5432".to_owned(), addresses: [2, 0, 0], opened: 0 };
        assert_eq!(of_host(&host), None);
        host.addresses[Phase::Closed as usize] = 1;
        host.addresses[Phase::Open as usize] = 1;
        let one = of_host(&host).unwrap();
        assert!(one.level == Level::Notice && one.text.starts_with("db:5432: 1 of 2 addresses"), "{one:?}");
        host.addresses[Phase::Closed as usize] = 0;
        assert_eq!(of_host(&host).unwrap().level, Level::Down);
        assert_eq!(of_worker(WorkerId(1), Duration::from_secs(1)), None);
        assert_eq!(of_worker(WorkerId(1), Duration::from_secs(6)).unwrap().text, "worker 1 has not answered for 6.0 s");
    }
}
