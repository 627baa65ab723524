//! `sidepool doctor`: examines a configuration against the world as it is, and says what is so, why it matters and what to do.
//!
//! ```text
//!   configuration ── plan: which servers, who logs in ──▶ ask: facts ──▶ judge: findings ──▶ show: text or JSON
//! ```
//! It sees servers by the proxy's own names, sockets, TLS and logins, one connection to each at a time, and changes nothing. Seeing and judging are
//! apart: what facts mean is pure.

pub mod ask;
pub mod count;
pub mod facts;
pub mod finding;
pub mod flags;
pub mod judge;
pub mod plan;
pub mod show;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::rc::Rc;

use sidepool_config::file::Loaded;
use sidepool_config::model::{Config, TcpOptions, Upstream};
use sidepool_config::pgbouncer::Set;
use sidepool_config::problem::{Problem, Severity};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::Semaphore;
use tokio::task::spawn_local;

use self::facts::{PgFacts, RedisFacts};
use self::finding::{Finding, Report, Section};
use self::flags::Doctor;
use self::plan::{PgPlan, PgWish, RedisPlan};
use crate::app::source::Source;
use crate::session::postgres::side;
use crate::upstream::dial::Dialing;

/// How many servers are examined at the same time.
const AT_A_TIME: usize = 16;

/// Examines, and prints what was found. 0: nothing is broken; 1: something is, or the configuration cannot be used.
#[must_use]
pub fn run(doctor: &Doctor) -> ExitCode {
    let report = examine(&Source::new(&doctor.from), doctor.replicas);
    let mut out = io::stdout();
    let coloured = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let text = if doctor.json { format!("{:#}\n", show::json(&report)) } else { show::text(&report, coloured) };
    // Whoever reads only the beginning (`| head`) has seen what they wanted.
    let _ = out.write_all(text.as_bytes());
    if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn examine(source: &Source, replicas: u32) -> Report {
    let mut report = Report { source: source.describe(), replicas, sections: Vec::new() };
    let loaded = match source.load(&Set::new()) {
        Ok(loaded) => loaded,
        Err(rejected) => {
            report.sections.push(configuration(&rejected.problems));
            return report;
        }
    };
    report.sections.push(configuration(&loaded.warnings));
    match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => report.sections.extend(runtime.block_on(world(&loaded, replicas))),
        Err(error) => {
            let finding = Finding::problem("runtime", error.to_string(), "sidepool cannot start", "see the limits on files and threads");
            report.sections.push(Section { subject: "This machine".to_owned(), findings: vec![finding] });
        }
    }
    report
}

/// What `sidepool check` says.
fn configuration(problems: &[Problem]) -> Section {
    const CHECK: &str = "check";
    const MEND: &str = "mend it there: sidepool settings says what each setting means and may be";
    let words = |Problem { place, key, message, .. }: &Problem| {
        let colon = if key.is_empty() { "" } else { ": " };
        format!("{place}: {key}{colon}{message}")
    };
    let judge = |problem: &Problem| match problem.severity {
        Severity::Error => Finding::problem(CHECK, words(problem), "sidepool does not start with it, and does not reload it", MEND),
        Severity::Warning => Finding::warning(CHECK, words(problem), "sidepool starts, but perhaps not as it was meant", MEND),
    };
    let mut findings: Vec<Finding> = problems.iter().map(judge).collect();
    if findings.is_empty() {
        findings.push(Finding::good(CHECK, "every setting can be used"));
    }
    Section { subject: "Configuration".to_owned(), findings }
}

async fn world(loaded: &Loaded, replicas: u32) -> Vec<Section> {
    let config = &loaded.config;
    let local = ask::local::look(loaded);
    let now = local.now;
    let mut sections = vec![Section { subject: "This machine".to_owned(), findings: judge::local::machine(&local, config) }];
    let dialing = Rc::new(Dialing::default());
    let seats = Rc::new(Semaphore::new(AT_A_TIME));
    let plans = config.postgres.as_ref().map(|postgres| plan::postgres(postgres, replicas)).unwrap_or_default();
    let plans: Vec<Rc<PgPlan>> = plans.into_iter().map(Rc::new).collect();
    if let Some(postgres) = &config.postgres {
        dialing.dns.configure(side::names(postgres));
    }
    let tcp = config.postgres.as_ref().map(|postgres| postgres.tcp.clone()).unwrap_or_default();
    let servers: Vec<_> = plans.iter().map(|plan| spawn_local(postgres(&dialing, &seats, Rc::clone(plan), tcp.clone()))).collect();
    let redises: Vec<Rc<RedisPlan>> = plan::redis(config, replicas).into_iter().map(Rc::new).collect();
    let lanes: Vec<_> = redises.iter().map(|plan| spawn_local(redis(&dialing, &seats, Rc::clone(plan)))).collect();
    let mut seen: Vec<(PgFacts, PgWish)> = Vec::with_capacity(servers.len());
    for (plan, server) in plans.iter().zip(servers) {
        let Ok(Some(facts)) = server.await else { continue };
        seen.push((facts, plan.wish.clone()));
    }
    for ((facts, _), wish) in seen.iter().zip(judge::postgres::joined(&seen)) {
        let findings = judge::postgres::server(facts, &wish, now);
        sections.push(Section { subject: subject(&facts.reached.upstream, &wish.entries), findings });
    }
    let seen: Vec<PgFacts> = seen.into_iter().map(|(facts, _)| facts).collect();
    sections.extend(lists(config, &seen));
    for (plan, server) in redises.iter().zip(lanes) {
        let Ok(Some(facts)) = server.await else { continue };
        let subject = format!("Redis {} ({})", plan.config.upstream, plan.name);
        sections.push(Section { subject, findings: judge::redis::server(&facts, plan, now) });
    }
    sections
}

/// How a server is called.
fn subject(upstream: &Upstream, entries: &[String]) -> String {
    const MOST: usize = 5;
    let more = if entries.len() > MOST { ", …" } else { "" };
    let names: Vec<&str> = entries.iter().take(MOST).map(String::as_str).collect();
    format!("PostgreSQL {upstream} ({}{more})", names.join(", "))
}

fn lists(config: &Config, seen: &[PgFacts]) -> Option<Section> {
    let lists = config.postgres.as_ref().map(plan::lists).unwrap_or_default();
    let findings: Vec<Finding> = lists.iter().map(|list| judge::postgres::list(list, seen)).collect();
    (!findings.is_empty()).then(|| Section { subject: "PostgreSQL databases with several hosts".to_owned(), findings })
}

fn postgres(
    dialing: &Rc<Dialing>,
    seats: &Rc<Semaphore>,
    plan: Rc<PgPlan>,
    tcp: TcpOptions,
) -> impl Future<Output = Option<PgFacts>> + use<> {
    let (dialing, seats) = (Rc::clone(dialing), Rc::clone(seats));
    async move {
        let _seat = seats.acquire().await.ok()?;
        let reached = ask::reach::reach(Rc::clone(&dialing), plan.upstream.clone(), tcp.clone()).await;
        Some(ask::postgres::examine(dialing, reached, plan, tcp).await)
    }
}

fn redis(dialing: &Rc<Dialing>, seats: &Rc<Semaphore>, plan: Rc<RedisPlan>) -> impl Future<Output = Option<RedisFacts>> + use<> {
    let (dialing, seats) = (Rc::clone(dialing), Rc::clone(seats));
    async move {
        let _seat = seats.acquire().await.ok()?;
        let reached = ask::reach::reach(Rc::clone(&dialing), plan.config.upstream.clone(), plan.config.tcp.clone()).await;
        Some(ask::redis::examine(dialing, reached, plan).await)
    }
}
