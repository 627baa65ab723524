//! The composition root: takes a validated configuration and makes a running proxy of it. Owns the control thread.

pub mod banner;
pub mod bindings;
pub mod held;
pub mod memory;
pub mod operator;
pub mod pgbouncer;
pub mod reloading;
pub mod shutdown;
pub mod source;
pub mod suspend;
pub mod told;
pub mod upgrade;
pub mod watchdog;

use std::io::{self, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use sidepool_config::file::{Loaded, Rejected};
use sidepool_config::model::{self, Config, LogFormat};
use sidepool_config::pgbouncer::{Set, migrate};
use sidepool_config::{reference, render};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_local};

use self::bindings::{Bindings, Doors};
use self::operator::Operator;
use self::reloading::Reloader;
use self::source::Source;
use self::told::Ending;
use self::upgrade::Doorway;
use crate::activation::Sockets;
use crate::admin::exported::Exported;
use crate::admin::facts::Facts;
use crate::admin::http;
use crate::admin::process::ProcessFigures;
use crate::console::control;
use crate::handover::channel::Channel;
use crate::handover::taking::Predecessor;
use crate::invocation::flags::Flags;
use crate::invocation::start;
use crate::listener::accept::{Closing, Listener};
use crate::listener::place::Places;
use crate::logging::Logging;
use crate::runtime::backend::Backend;
use crate::runtime::descriptors::Files;
use crate::runtime::memory::Gauges;
use crate::runtime::{self, Workers, descriptors};
use crate::service;
use crate::session::postgres::peering::Elder;
use crate::signals::{Habits, Signals};
use crate::traces::Traces;
use crate::worker::WorkerId;

/// The configuration cannot be used.
pub const EXIT_CONFIG: u8 = 2;

/// The configuration can be used, but this machine does not let us (a port is taken).
pub const EXIT_START: u8 = 1;

/// How long repeated log lines are counted before it is said how many were left out.
const SUPPRESSION: Duration = Duration::from_secs(1);

/// The sockets that accept clients; dropping them closes all.
pub type Listening = Vec<Closer>;

/// Closes a listener, also when it is dropped.
pub struct Closer {
    closer: oneshot::Sender<Closing>,
    /// Whether it is a Unix socket.
    is_unix: bool,
}

impl Closer {
    /// Closes it like this.
    pub fn close(self, closing: Closing) {
        // One that has ended by itself has nobody in its queue.
        let _ = self.closer.send(closing);
    }
}

/// What listens, and where its clients go.
pub struct Opened {
    listening: Listening,
    places: Places,
}

/// Checks the configuration and says what is wrong with it, or what it comes to.
#[must_use]
pub fn check(source: &Source) -> ExitCode {
    match source.load(&Set::new()) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                println!("{warning}");
            }
            println!("{}: ok", source.describe());
            print!("{}", render::summary(&loaded.config));
            ExitCode::SUCCESS
        }
        Err(rejected) => refuse(source, &rejected),
    }
}

/// Prints a `pgbouncer.ini` as `sidepool.toml`.
#[must_use]
pub fn migrate(file: &Path) -> ExitCode {
    match migrate::file(file) {
        Ok(text) => {
            // Whoever reads only the beginning (`| head`) has seen what they wanted.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(rejected) => refuse(&Source::Ini(file.to_owned(), sidepool_config::pgbouncer::Flags::default()), &rejected),
    }
}

/// Prints the reference of all settings.
#[must_use]
pub fn settings() -> ExitCode {
    // Whoever reads only the beginning (`| head`) has seen what they wanted.
    let _ = io::stdout().write_all(reference::text().as_bytes());
    ExitCode::SUCCESS
}

/// Serves until it is told to end.
#[must_use]
pub fn run(source: Source, take_over: bool) -> ExitCode {
    if let Source::Ini(file, _) = source {
        return start::serve(&Flags { file, reboot: take_over, ..Flags::default() });
    }
    let loaded = match source.load(&Set::new()) {
        Ok(loaded) => loaded,
        Err(rejected) => return refuse(&source, &rejected),
    };
    let passed = Sockets::take();
    let logging = Logging::install(&loaded.config.log);
    match serve(source, loaded, &logging, take_over, passed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logging.flush();
            eprintln!("sidepool: {error}");
            ExitCode::from(EXIT_START)
        }
    }
}

fn refuse(source: &Source, rejected: &Rejected) -> ExitCode {
    for problem in &rejected.problems {
        eprintln!("{problem}");
    }
    let plural = if rejected.problems.len() == 1 { "" } else { "s" };
    eprintln!("sidepool: {} problem{plural} in {}", rejected.problems.len(), source.describe());
    ExitCode::from(EXIT_CONFIG)
}

/// Serves until it is told to end, with the log installed.
pub fn serve(source: Source, loaded: Loaded, logging: &Arc<Logging>, take_over: bool, passed: Sockets) -> io::Result<()> {
    let Loaded { config, warnings, sources } = loaded;
    for warning in &warnings {
        match &config.pgbouncer {
            Some(_) => tracing::warn!("{}", start::in_words(warning)),
            None => tracing::warn!("{warning}"),
        }
    }
    let max_fds = descriptors::raise_limit();
    let as_pgbouncer = config.pgbouncer.is_some();
    if as_pgbouncer {
        pgbouncer::say_limits(&config);
    }
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let met = if take_over { runtime.block_on(upgrade::meet(&config))? } else { None };
    let (old, inherited) = met.unzip();
    let Bindings { doors, admin, mut shown, spares } = bindings::bind(&config, inherited.unwrap_or_default(), passed)?;
    let backend = Backend::of(config.io_backend);
    let workers = Workers::start(runtime::worker_count(config.workers), backend.used)?;
    shown.workers = model::Workers::Count(u16::try_from(workers.mailboxes().workers()).unwrap_or(u16::MAX));
    let config = Arc::new(config);
    let dialing = workers.commons().postgres.dialing.clone();
    let traces = workers.commons().postgres.traces.clone();
    let facts = Facts::new(workers.mailboxes().clone(), Arc::clone(logging), sources.hash(), dialing, traces.clone(), backend);
    if let (Some(limit), Some(own)) = (max_fds, ProcessFigures::read().open_fds) {
        facts.gates().set_files(Files { limit, own });
    }
    facts.gates().apply(&config);
    *facts.exported() = Exported::of(&config);
    facts.memory.set_own_limit(config.memory_limit);
    facts.quit.allow(config.admin.quitquitquit);
    let doorway = Doorway::new(&config, spares);
    let commons = workers.commons();
    let (orders, elder) = (commons.control.clone(), commons.postgres.elder.clone());
    let banner = if as_pgbouncer { Vec::new() } else { banner::lines(&shown, max_fds) };
    let control = Control { facts, orders, admin, doors, banner, shown, old, doorway, elder, traces };
    runtime.block_on(control.run(Arc::clone(&config), |facts| Reloader::new(source, config, sources, facts)))?;
    workers.stop();
    if !as_pgbouncer {
        tracing::info!("the end");
    }
    Ok(())
}

/// Everything the control thread has in hand when it begins.
struct Control {
    facts: Arc<Facts>,
    orders: control::Control,
    admin: Option<TcpListener>,
    doors: Doors,
    banner: Vec<String>,
    /// The configuration with the addresses that are really bound.
    shown: Config,
    /// Who served before us, if we take over.
    old: Option<Channel>,
    doorway: Doorway,
    elder: Elder,
    traces: Traces,
}

impl Control {
    async fn run(self, config: Arc<Config>, reloader: impl FnOnce(Arc<Facts>) -> Reloader) -> io::Result<()> {
        let Self { facts, orders, admin, doors, banner, shown, old, mut doorway, elder, traces } = self;
        let takes_over = old.is_some();
        let habits = if config.pgbouncer.is_some() { Habits::Pgbouncer } else { Habits::Own };
        let mut signals = Signals::install(habits)?;
        for id in facts.mailboxes.ids() {
            let config = Arc::clone(&config);
            facts.mailboxes.post(id, move |worker| worker.apply(&config));
        }
        let predecessor = match old {
            Some(channel) => Some(Predecessor::ready(channel, elder).await?),
            None => None,
        };
        let mut opened = open(&facts, doors, Places::new(facts.mailboxes.workers())).await?;
        let mut admin = admin.map(|listener| serve_admin(listener, &facts));
        doorway.open(predecessor.is_some());
        if let Some(predecessor) = predecessor {
            predecessor.serving().await?;
            spawn_local(predecessor.take_clients(Arc::clone(&facts), opened.places.clone()));
        }
        spawn_local(report_suppressed(Arc::clone(&facts.logging)));
        spawn_local(traces.export());
        spawn_local(memory::watch(Arc::clone(&facts), Gauges::of_this_process()));
        spawn_local(watchdog::feed(Arc::clone(&facts)));
        let mut reloader = reloader(Arc::clone(&facts));
        let mut operator = Operator::new(orders, Arc::clone(&facts));
        facts.set_started();
        // Removed at the very end, when it is dropped.
        let _pidfile = pgbouncer::write_pidfile(&config, takes_over)?;
        match habits {
            Habits::Own => announce(&banner, config.log.format),
            Habits::Pgbouncer => pgbouncer::say_up(&shown),
        }
        service::ready();
        drop((config, shown));

        loop {
            match told::until_told_to_end(&mut signals, &mut reloader, &mut operator, &mut doorway).await {
                Ending::Way(way) => {
                    service::stopping();
                    doorway.close();
                    let bounds = reloader.running().drain.clone();
                    tokio::select! {
                        () = shutdown::leave(&facts, opened.listening, way, &bounds) => {}
                        () = told::told_again(&mut signals, &mut reloader, &mut operator) => cut(&facts),
                    }
                    return Ok(());
                }
                Ending::Successor(channel) => {
                    if let Some(admin) = admin.take() {
                        admin.abort();
                    }
                    let timeout = reloader.running().drain.timeout;
                    let back = tokio::select! {
                        back = doorway.give_way(&facts, opened, channel, timeout) => back?,
                        () = told::told_again(&mut signals, &mut reloader, &mut operator) => {
                            cut(&facts);
                            None
                        }
                    };
                    let Some(back) = back else { return Ok(()) };
                    opened = back;
                    admin = doorway.admin().map(|listener| serve_admin(listener, &facts));
                }
            }
        }
    }
}

fn serve_admin(listener: TcpListener, facts: &Arc<Facts>) -> JoinHandle<()> {
    let facts = Arc::clone(facts);
    spawn_local(async move {
        if let Err(error) = http::serve(listener, facts).await {
            tracing::error!(%error, "the admin listener has ended");
        }
    })
}

fn cut(facts: &Facts) {
    facts.add_forced_closes(facts.gates().open());
    tracing::warn!(clients = facts.gates().open(), "told to end a second time: cutting all clients");
}

/// Gives each listener to a worker, and waits until it listens there.
async fn open(facts: &Arc<Facts>, doors: Doors, places: Places) -> io::Result<Opened> {
    let mut listening = Vec::with_capacity(doors.len());
    for ((door, bound), id) in doors.into_iter().zip(facts.mailboxes.ids().collect::<Vec<WorkerId>>().into_iter().cycle()) {
        let (closer, close) = oneshot::channel();
        let gate = Arc::clone(facts.gates().get(&door).ok_or_else(|| io::Error::other("a listener without a gate"))?);
        let is_unix = bound.address().is_none();
        let listener = Listener { bound, door, gate, places: places.clone(), close };
        let (sender, started) = oneshot::channel();
        facts.mailboxes.post(id, move |worker| {
            // Nobody waits for the answer any more only if the start was given up.
            let _ = sender.send(listener.start(worker));
        });
        started.await.map_err(|_| io::Error::other("a worker has ended while starting"))??;
        listening.push(Closer { closer, is_unix });
    }
    Ok(Opened { listening, places })
}

async fn report_suppressed(logging: Arc<Logging>) {
    loop {
        logging.suppressed().await;
        tokio::time::sleep(SUPPRESSION).await;
        logging.report_suppressed();
    }
}

fn announce(lines: &[String], format: LogFormat) {
    for line in lines {
        match format {
            LogFormat::Text => println!("{line}"),
            LogFormat::Json => tracing::info!("{}", line.trim_start()),
        }
    }
}
