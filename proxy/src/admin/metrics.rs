//! Fills a scrape: which number goes into which family. Every family of the catalogue is filled here or by a cell that names it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use sidepool_config::model::IoBackend;
use sidepool_config::names::Named as _;

use super::collect::Collected;
use super::exposition::Exposition;
use super::facts::{Facts, Outcome, Trigger};
use super::process::ProcessFigures;
use crate::observe::catalog::Family;
use crate::observe::record::{PoolCounter, PoolGauge, PoolHistogram, Series, WorkerCounter, WorkerHistogram};
use crate::observe::report::{PoolReport, Protocol};
use crate::runtime::memory::Usage;
use crate::upstream::breaker::Phase;
use crate::upstream::dial::HostReport;
use crate::upstream::postgres::pins::Cause;

/// The text of one scrape, in which so many pools are folded.
#[must_use]
pub fn render(facts: &Facts, collected: &Collected, folded: usize, now: Instant) -> String {
    let exported = facts.exported().clone();
    let mut out = Exposition::new(exported.names);
    process(&mut out, facts, collected, now);
    config(&mut out, facts);
    for (section, expiry) in &exported.expiries {
        out.gauge(Family::CertificateNotAfter, &[section, expiry.setting], expiry.not_after as f64);
    }
    out.count(Family::MetricsPoolsFolded, &[], folded as u64);
    listeners(&mut out, facts);
    workers(&mut out, collected);
    hosts(&mut out, facts, now);
    for pool in &collected.pools {
        pool_info(&mut out, pool);
        pool_state(&mut out, pool);
        pool_cells(&mut out, pool);
        otel(&mut out, pool);
    }
    out.render()
}

fn process(out: &mut Exposition, facts: &Facts, collected: &Collected, now: Instant) {
    let figures = ProcessFigures::read();
    out.gauge(Family::BuildInfo, &[env!("CARGO_PKG_VERSION")], 1.0);
    for (name, backend) in IoBackend::NAMES {
        out.count(Family::IoBackend, &[name], u64::from(*backend == facts.backend.used));
    }
    out.counter(Family::ProcessCpuSeconds, &[], nanos(figures.cpu));
    if let Some(bytes) = figures.resident_bytes {
        out.count(Family::ProcessResidentMemory, &[], bytes);
    }
    if let Some(Usage { used, limit }) = facts.memory.usage() {
        out.count(Family::MemoryUsed, &[], used);
        out.count(Family::MemoryLimit, &[], limit);
    }
    out.count(Family::MemoryPressure, &[], facts.memory.step());
    out.counter(Family::MemoryCloses, &[], facts.memory.closed());
    if let Some(open) = figures.open_fds {
        out.count(Family::ProcessOpenFds, &[], open);
    }
    if let Some(max) = figures.max_fds {
        out.count(Family::ProcessMaxFds, &[], max);
    }
    out.gauge(Family::ProcessStartTime, &[], unix_seconds(facts.started_at));
    out.count(Family::Draining, &[], u64::from(facts.is_draining()));
    out.counter(Family::DrainForcedCloses, &[], facts.forced_closes());
    let (repeated, overflowed) = facts.logging.dropped();
    out.counter(Family::LogMessagesDropped, &["repeated"], repeated);
    out.counter(Family::LogMessagesDropped, &["queue_full"], overflowed);
    let traces = facts.traces.numbers();
    out.counter(Family::TracesExported, &[], traces.sent);
    out.counter(Family::TracesDropped, &["queue_full"], traces.overflowed);
    out.counter(Family::TracesDropped, &["export_failed"], traces.unsent);
    out.count(Family::Workers, &[], facts.mailboxes.workers() as u64);
    for (id, owed) in facts.liveness.owed(now) {
        out.gauge(Family::WorkerHeartbeatAge, &[&id.0.to_string()], owed.as_secs_f64());
    }
    for (id, busy) in &collected.busy {
        out.counter(Family::WorkerBusySeconds, &[&id.0.to_string()], nanos(*busy));
    }
}

fn config(out: &mut Exposition, facts: &Facts) {
    let reloads = facts.reloads();
    out.count(Family::ConfigLastReloadSuccessful, &[], u64::from(reloads.last_successful));
    out.gauge(Family::ConfigLastReloadSuccessTime, &[], unix_seconds(reloads.last_success));
    out.gauge(Family::ConfigHash, &[], reloads.hash.as_metric());
    out.count(Family::ConfigRestartPending, &[], u64::from(!reloads.restart_pending.is_empty()));
    for (trigger, counts) in Trigger::ALL.iter().zip(&reloads.counts) {
        for (outcome, count) in Outcome::ALL.iter().zip(counts) {
            out.counter(Family::ConfigReloads, &[trigger.label(), outcome.label()], *count);
        }
    }
}

fn listeners(out: &mut Exposition, facts: &Facts) {
    for (door, gate) in facts.gates().iter() {
        let numbers = gate.numbers();
        let label = door.label();
        out.counter(Family::ListenerAccepts, &[&label], numbers.accepted);
        out.counter(Family::ListenerRejections, &[&label, "max_client_conn"], numbers.rejected);
        out.counter(Family::ListenerRejections, &[&label, "open_files"], numbers.rejected_for_files);
        out.counter(Family::ListenerRejections, &[&label, "memory"], numbers.rejected_for_memory);
        out.counter(Family::ListenerRejections, &[&label, "draining"], numbers.rejected_while_draining);
        out.counter(Family::ListenerAcceptErrors, &[&label], numbers.accept_errors);
        out.count(Family::ListenerClients, &[&label], numbers.open.into());
        out.count(Family::ListenerClientsMax, &[&label], numbers.most().into());
    }
}

fn workers(out: &mut Exposition, collected: &Collected) {
    let Some(numbers) = &collected.numbers else { return };
    for cell in WorkerCounter::ALL {
        let series = cell.series();
        out.counter(series.family, series.labels, numbers.counters[*cell as usize]);
    }
    for cell in WorkerHistogram::ALL {
        let series = cell.series();
        out.histogram(series.family, series.labels, &numbers.histograms[*cell as usize]);
    }
}

fn hosts(out: &mut Exposition, facts: &Facts, now: Instant) {
    for HostReport { host, addresses, opened } in facts.dialing.hosts(now) {
        for (phase, count) in Phase::ALL.iter().zip(addresses) {
            out.count(Family::UpstreamAddresses, &[&host, phase.label()], count);
        }
        out.counter(Family::UpstreamOpened, &[&host], opened);
    }
}

fn pool_info(out: &mut Exposition, pool: &PoolReport) {
    let info = &pool.info;
    out.gauge(Family::PoolInfo, &[&pool.name, info.protocol.name(), &info.database, &info.user, info.mode, &info.upstream], 1.0);
}

fn pool_state(out: &mut Exposition, pool: &PoolReport) {
    let (name, state) = (&*pool.name, &pool.state);
    let states = [
        ("idle", state.idle),
        ("leased", state.leased),
        ("connecting", state.connecting),
        ("resetting", state.resetting),
        ("probing", state.probing),
        ("closing", state.closing),
    ];
    for (label, count) in states {
        out.count(Family::PoolServerConnections, &[name, label], count.into());
    }
    out.count(Family::PoolServerConnectionsMax, &[name], state.max.into());
    if pool.info.protocol == Protocol::Postgres {
        let all: u32 = states.iter().map(|(_, count)| count).sum();
        out.count(Family::PoolReserve, &[name], state.reserve.into());
        out.count(Family::PoolReserveUsed, &[name], all.saturating_sub(state.max).into());
    }
    out.count(Family::PoolServerConnectionsRoom, &[name], state.room.into());
    out.count(Family::PoolServerConnectionsMin, &[name], state.min.into());
    out.count(Family::ServerLoginsInProgress, &[name], state.connecting.into());
    out.count(Family::ServerUp, &[name], u64::from(state.up));
    out.gauge(Family::PoolUtilization, &[name], utilization(pool));
    out.count(Family::PoolQueueLimit, &[name], state.queue_limit.into());
    out.gauge(Family::PoolWaitingMaxAge, &[name], state.oldest_wait.as_secs_f64());
    out.counter(Family::PoolSaturatedSeconds, &[name], nanos(state.saturated));
    if pool.info.protocol == Protocol::Postgres {
        out.count(Family::PoolPinnedConnections, &[name], state.pinned.into());
        out.count(Family::PoolPinnedConnectionsMax, &[name], state.max_pinned.into());
        for cause in Cause::ALL {
            out.count(Family::PinnedClients, &[name, cause.label()], state.pinned_by[cause as usize].into());
        }
    }
    out.count(Family::PoolPaused, &[name], u64::from(state.paused));
    for (label, count) in client_states(pool) {
        out.count(Family::PoolClientConnections, &[name, label], count);
    }
}

/// What is in use or not available for use, over the most there may be.
#[must_use]
pub fn utilization(pool: &PoolReport) -> f64 {
    let state = &pool.state;
    let busy = state.leased + state.connecting + state.resetting + state.probing;
    f64::from(busy) / f64::from(state.max.max(1))
}

/// Clients by state, derived at the scrape so that the data path counts a client when it comes and when it goes, and never in between.
#[must_use]
pub fn client_states(pool: &PoolReport) -> [(&'static str, u64); 3] {
    let gauge = |gauge: PoolGauge| u64::try_from(pool.numbers.gauges[gauge as usize]).unwrap_or(0);
    let all = gauge(PoolGauge::Clients);
    let waiting = u64::from(pool.state.waiters);
    let holding = match pool.info.protocol {
        Protocol::Postgres => u64::from(pool.state.leased),
        // Shared connections are leased by nobody in particular.
        Protocol::Redis => gauge(PoolGauge::RedisLeased),
    };
    let active = holding.min(all.saturating_sub(waiting));
    [("idle", all.saturating_sub(waiting).saturating_sub(active)), ("active", active), ("waiting", waiting)]
}

fn pool_cells(out: &mut Exposition, pool: &PoolReport) {
    let shown = |series: &Series| pool.info.protocol.has(series.scope);
    for cell in PoolCounter::ALL {
        let series = cell.series();
        if shown(&series) {
            out.counter(series.family, &with_pool(pool, series.labels), pool.numbers.counters[*cell as usize]);
        }
    }
    for cell in PoolGauge::ALL {
        let series = cell.series();
        if shown(&series) && *cell != PoolGauge::Clients {
            let value = u64::try_from(pool.numbers.gauges[*cell as usize]).unwrap_or(0);
            out.count(series.family, &with_pool(pool, series.labels), value);
        }
    }
    for cell in PoolHistogram::ALL {
        let series = cell.series();
        if shown(&series) {
            out.histogram(series.family, &with_pool(pool, series.labels), &pool.numbers.histograms[*cell as usize]);
        }
    }
}

/// The nine that OpenTelemetry has names for.
fn otel(out: &mut Exposition, pool: &PoolReport) {
    let (name, state) = (&*pool.name, &pool.state);
    let used = state.leased + state.connecting + state.resetting + state.probing + state.closing;
    out.count(Family::OtelCount, &[name, "idle"], state.idle.into());
    out.count(Family::OtelCount, &[name, "used"], used.into());
    out.count(Family::OtelIdleMax, &[name], state.max.into());
    out.count(Family::OtelIdleMin, &[name], state.min.into());
    out.count(Family::OtelMax, &[name], state.max.into());
    out.count(Family::OtelPending, &[name], state.waiters.into());
    out.counter(Family::OtelTimeouts, &[name], pool.numbers.counters[PoolCounter::RefusedWaitTimeout as usize]);
    let histogram = |histogram: PoolHistogram| &pool.numbers.histograms[histogram as usize];
    out.histogram(Family::OtelCreateTime, &[name], histogram(PoolHistogram::Connect));
    out.histogram(Family::OtelWaitTime, &[name], histogram(PoolHistogram::Wait));
    out.histogram(Family::OtelUseTime, &[name], histogram(PoolHistogram::Use));
}

fn with_pool<'a>(pool: &'a PoolReport, labels: &'a [&'a str]) -> Vec<&'a str> {
    std::iter::once(&*pool.name).chain(labels.iter().copied()).collect()
}

fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
