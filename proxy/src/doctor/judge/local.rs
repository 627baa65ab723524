//! What it means what was seen of this machine. Pure.

use std::net::SocketAddr;

use sidepool_config::model::{ClientSslMode, Config};

use super::{counted, tls};
use crate::doctor::facts::{Door, LocalFacts};
use crate::doctor::finding::Finding;
use crate::runtime::descriptors::Files;

/// What the process has before the first client (README, Measured).
const BASE_BYTES: u64 = 7 << 20;

/// What an idle client costs: of PostgreSQL in the clear, of Redis, and either under TLS (README, Measured), rounded up.
const CLIENT_BYTES: u64 = 1_200;
const REDIS_BYTES: u64 = 700;
const TLS_BYTES: u64 = 5_000;

/// From this part of the limit on, in hundredths, clients are slowed down.
const CALM: u64 = 80;

/// Everything about this machine.
#[must_use]
pub fn machine(facts: &LocalFacts, config: &Config) -> Vec<Finding> {
    let mut findings = vec![files(facts, config), memory(facts, config)];
    findings.extend(doors(facts));
    findings.extend(admin(facts));
    findings.extend(facts.certificates.iter().map(|(setting, end)| tls::expiry(&format!("what {setting} names"), *end, facts.now)));
    findings.push(secrets(facts));
    findings
}

/// How many clients there may be, of all listeners together.
fn clients(config: &Config) -> u64 {
    let postgres = config.postgres.iter().map(|postgres| u64::from(postgres.max_client_conn));
    postgres.chain(config.redis.values().map(|redis| u64::from(redis.max_client_conn))).sum()
}

fn files(facts: &LocalFacts, config: &Config) -> Finding {
    const CHECK: &str = "files";
    let clients = clients(config);
    let Some(limit) = facts.files else { return Finding::good(CHECK, "as many files may be open as the kernel has") };
    let shares = Files { limit, own: facts.own_files }.shares(config);
    let needed = limit.saturating_sub(shares.clients).saturating_add(clients);
    let found = format!(
        "{limit} files may be open: {} for servers and {} for clients, of which there may be {clients}",
        shares.servers, shares.clients
    );
    if shares.clients >= clients {
        return Finding::good(CHECK, found);
    }
    Finding::warning(
        CHECK,
        found,
        format!("from client {} on, clients are refused", shares.clients + 1),
        format!(
            "raise the hard limit to {needed} or more (LimitNOFILE in a unit, ulimits in compose, --ulimit nofile), or lower max_client_conn"
        ),
    )
}

fn memory(facts: &LocalFacts, config: &Config) -> Finding {
    const CHECK: &str = "memory";
    let cost = |plain: u64, mode: ClientSslMode| if mode == ClientSslMode::Disable { plain } else { TLS_BYTES };
    let postgres = config.postgres.iter().map(|side| u64::from(side.max_client_conn) * cost(CLIENT_BYTES, side.client_tls.sslmode));
    let redis = config.redis.values().map(|side| u64::from(side.max_client_conn) * cost(REDIS_BYTES, side.client_tls.sslmode));
    let needed = postgres.chain(redis).sum::<u64>() + BASE_BYTES;
    let megabytes = |bytes: u64| bytes.div_ceil(1 << 20);
    let idle = format!("{} take {} MiB while they are idle", counted(clients(config), "client"), megabytes(needed));
    let Some(limit) = facts.memory else { return Finding::good(CHECK, format!("{idle}; there is no limit")) };
    let found = format!("{idle}; the limit is {} MiB", megabytes(limit));
    if needed.saturating_mul(100) <= limit.saturating_mul(CALM) {
        return Finding::good(CHECK, found);
    }
    Finding::warning(
        CHECK,
        found,
        "near the limit clients are slowed down (80 %), refused (88 %) and closed (94 %)",
        format!("give it {} MiB or more, or lower max_client_conn", megabytes(needed * 100 / CALM + (16 << 20))),
    )
}

fn doors(facts: &LocalFacts) -> Vec<Finding> {
    const CHECK: &str = "listen";
    let judge = |shown: String, door: &Door| match door {
        Door::Free => Finding::good(CHECK, format!("{shown} is free")),
        Door::Taken if facts.runs => Finding::good(CHECK, format!("{shown} is in use, and a sidepool runs here")),
        Door::Taken if facts.has_unit || facts.admin.is_none() => Finding::warning(
            CHECK,
            format!("{shown} is in use, maybe by a running sidepool or by systemd for it (sidepool.socket): that cannot be seen from here"),
            "if it is neither, sidepool cannot start",
            "see who listens there (ss -ltnp, ss -lxp), or set admin.listen, where a running sidepool answers",
        ),
        Door::Taken => Finding::problem(
            CHECK,
            format!("{shown} is in use"),
            "sidepool cannot start",
            "see who listens there (ss -ltnp, ss -lxp), and stop it or choose another address",
        ),
        Door::Impossible(why) if why.contains("ermission denied") => Finding::problem(
            CHECK,
            format!("cannot listen on {shown}: {why}"),
            "sidepool cannot start",
            "choose a port from 1024 on or a directory of this user, or give the right (AmbientCapabilities=CAP_NET_BIND_SERVICE, RuntimeDirectory=)",
        ),
        Door::Impossible(why) => Finding::problem(
            CHECK,
            format!("cannot listen on {shown}: {why}"),
            "sidepool cannot start",
            "choose an address of this machine, or a path in a directory that is there",
        ),
    };
    let admin = facts.admin.iter().map(|(address, door)| judge(format!("{address} (admin)"), door));
    facts.doors.iter().map(|(listen, door)| judge(listen.to_string(), door)).chain(admin).collect()
}

fn admin(facts: &LocalFacts) -> Option<Finding> {
    const CHECK: &str = "admin";
    let (address, _) = facts.admin.as_ref()?;
    if is_private(*address) {
        return Some(Finding::good(CHECK, format!("metrics and health at {address}, on this machine or a private network")));
    }
    if facts.in_kubernetes {
        return Some(Finding::good(CHECK, format!("metrics and health at {address}, for the kubelet and Prometheus")));
    }
    Some(Finding::warning(
        CHECK,
        format!("metrics and health at {address}, for everybody who reaches this machine"),
        "it tells the names of databases, users and servers, and of clients the address, the application name and the process id, and asks nobody who they are",
        "set admin.listen to 127.0.0.1:9127, or to the address of a network that only operators and Prometheus reach",
    ))
}

/// Whether an address is of this machine or of a network that is not public.
fn is_private(address: SocketAddr) -> bool {
    match address {
        SocketAddr::V4(address) => address.ip().is_loopback() || address.ip().is_private() || address.ip().is_link_local(),
        SocketAddr::V6(address) => address.ip().is_loopback() || address.ip().is_unique_local() || address.ip().is_unicast_link_local(),
    }
}

fn secrets(facts: &LocalFacts) -> Finding {
    const CHECK: &str = "secrets";
    if facts.readable.is_empty() {
        return Finding::good(
            CHECK,
            format!("{} looked at: none with secrets that everybody may read", counted(facts.looked_at as u64, "file")),
        );
    }
    let list: Vec<String> = facts.readable.iter().map(|path| path.display().to_string()).collect();
    Finding::warning(
        CHECK,
        format!("everybody on this machine may read {}", list.join(", ")),
        "there are passwords, verifiers or keys in it",
        format!("chmod o-rwx {}", list.join(" ")),
    )
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
