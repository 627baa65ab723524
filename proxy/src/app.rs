//! The composition root: takes a validated configuration and makes a running proxy of it. Owns the control thread.

pub mod banner;
pub mod held;
pub mod operator;
pub mod reloading;
pub mod settings;
pub mod shutdown;
pub mod source;

use std::fmt::Display;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use sidepool_config::file::{Loaded, Rejected};
use sidepool_config::model::{self, Config, Listen, LogFormat};
use sidepool_config::{reference, render};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::oneshot;
use tokio::task::spawn_local;

use self::operator::Operator;
use self::reloading::Reloader;
use self::shutdown::{ShutdownMode, Way};
use self::source::Source;
use crate::admin::facts::{Facts, Trigger};
use crate::admin::http;
use crate::console;
use crate::listener::accept::{Closing, Listener};
use crate::listener::bind::{Bound, Options};
use crate::listener::gate::Door;
use crate::listener::place::Places;
use crate::logging::Logging;
use crate::runtime::{self, Workers, descriptors};
use crate::signals::{Request, Signals};
use crate::worker::WorkerId;

/// The configuration cannot be used.
pub const EXIT_CONFIG: u8 = 2;

/// The configuration can be used, but this machine does not let us (a port is taken).
pub const EXIT_START: u8 = 1;

/// How long repeated log lines are counted before it is said how many were left out.
const SUPPRESSION: Duration = Duration::from_secs(1);

/// The sockets that accept clients; dropping them closes all.
pub type Listening = Vec<oneshot::Sender<Closing>>;

/// Checks the configuration and says what is wrong with it, or what it comes to.
#[must_use]
pub fn check(source: &Source) -> ExitCode {
    match source.load() {
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

/// Prints the reference of all settings.
#[must_use]
pub fn settings() -> ExitCode {
    // Whoever reads only the beginning (`| head`) has seen what they wanted.
    let _ = io::stdout().write_all(reference::text().as_bytes());
    ExitCode::SUCCESS
}

/// Serves until it is told to end.
#[must_use]
pub fn run(source: Source) -> ExitCode {
    let loaded = match source.load() {
        Ok(loaded) => loaded,
        Err(rejected) => return refuse(&source, &rejected),
    };
    let logging = Logging::install(&loaded.config.log);
    match serve(source, loaded, &logging) {
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

fn serve(source: Source, loaded: Loaded, logging: &Arc<Logging>) -> io::Result<()> {
    let Loaded { config, warnings, sources } = loaded;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let max_fds = descriptors::raise_limit();
    let Bindings { doors, admin, mut shown } = bind(&config)?;
    let workers = Workers::start(runtime::worker_count(config.workers))?;
    shown.workers = model::Workers::Count(u16::try_from(workers.mailboxes().workers()).unwrap_or(u16::MAX));
    let config = Arc::new(config);
    let facts = Facts::new(workers.mailboxes().clone(), Arc::clone(logging), sources.hash());
    facts.gates().apply(&config);
    let control = Control { facts, control: workers.control().clone(), admin, doors, banner: banner::lines(&shown, max_fds) };
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(control.run(Arc::clone(&config), |facts| Reloader::new(source, config, sources, facts)))?;
    workers.stop();
    tracing::info!("the end");
    Ok(())
}

type Doors = Vec<(Door, Bound)>;

/// Everything that is bound.
struct Bindings {
    doors: Doors,
    admin: Option<TcpListener>,
    /// The configuration with the addresses that the kernel chose where it was asked to (port 0): for people alone, because to a reload the
    /// configured ones are what counts.
    shown: Config,
}

/// Binds every listener.
fn bind(config: &Config) -> io::Result<Bindings> {
    let mut doors = Vec::new();
    let mut shown = config.clone();
    let mut open = |door: Door, listens: &mut Vec<Listen>, options: &Options| -> io::Result<()> {
        for listen in listens {
            let bound = Bound::bind(listen, options).map_err(|error| cannot_listen(&*listen, &error))?;
            if let Some(address) = bound.address() {
                *listen = Listen::Tcp(address);
            }
            doors.push((door.clone(), bound));
        }
        Ok(())
    };
    if let Some(postgres) = &mut shown.postgres {
        let options = Options::from(&*postgres);
        open(Door::Postgres, &mut postgres.listen, &options)?;
    }
    for (name, redis) in &mut shown.redis {
        open(Door::Redis(name.as_str().into()), &mut redis.listen, &Options::default())?;
    }
    let admin = config.admin.listen.map(bind_admin).transpose()?;
    if let Some(listener) = &admin {
        shown.admin.listen = Some(listener.local_addr()?);
    }
    Ok(Bindings { doors, admin, shown })
}

fn bind_admin(address: SocketAddr) -> io::Result<TcpListener> {
    http::bind(address).map_err(|error| cannot_listen(&address, &error))
}

fn cannot_listen(address: &dyn Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
}

/// Everything the control thread has in hand when it begins.
struct Control {
    facts: Arc<Facts>,
    control: console::control::Control,
    admin: Option<TcpListener>,
    doors: Doors,
    banner: Vec<String>,
}

impl Control {
    async fn run(self, config: Arc<Config>, reloader: impl FnOnce(Arc<Facts>) -> Reloader) -> io::Result<()> {
        let Self { facts, control, admin, doors, banner } = self;
        let mut signals = Signals::install()?;
        for id in facts.mailboxes.ids() {
            let config = Arc::clone(&config);
            facts.mailboxes.post(id, move |worker| worker.apply(&config));
        }
        let listening = open(&facts, doors).await?;
        if let Some(listener) = admin {
            let facts = Arc::clone(&facts);
            spawn_local(async move {
                if let Err(error) = http::serve(listener, facts).await {
                    tracing::error!(%error, "the admin listener has ended");
                }
            });
        }
        spawn_local(report_suppressed(Arc::clone(&facts.logging)));
        let mut reloader = reloader(Arc::clone(&facts));
        let mut operator = Operator::new(control, Arc::clone(&facts));
        facts.set_started();
        announce(&banner, config.log.format);
        drop(config);

        let way = until_told_to_end(&mut signals, &mut reloader, &mut operator).await;
        let bounds = reloader.running().drain.clone();
        tokio::select! {
            () = shutdown::leave(&facts, listening, way, &bounds) => {}
            () = told_again(&mut signals, &mut reloader, &mut operator) => {
                facts.add_forced_closes(facts.gates().open());
                tracing::warn!(clients = facts.gates().open(), "told to end a second time: cutting all clients");
            }
        }
        Ok(())
    }
}

/// Gives each listener to a worker, and waits until it listens there.
async fn open(facts: &Arc<Facts>, doors: Doors) -> io::Result<Listening> {
    let places = Places::new(facts.mailboxes.workers());
    let mut listening = Vec::with_capacity(doors.len());
    for ((door, bound), id) in doors.into_iter().zip(facts.mailboxes.ids().collect::<Vec<WorkerId>>().into_iter().cycle()) {
        let (closer, close) = oneshot::channel();
        let gate = Arc::clone(facts.gates().get(&door).ok_or_else(|| io::Error::other("a listener without a gate"))?);
        let listener = Listener { bound, door, gate, places: places.clone(), close };
        let (sender, started) = oneshot::channel();
        facts.mailboxes.post(id, move |worker| {
            // Nobody waits for the answer any more only if the start was given up.
            let _ = sender.send(listener.start(worker));
        });
        started.await.map_err(|_| io::Error::other("a worker has ended while starting"))??;
        listening.push(closer);
    }
    Ok(listening)
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

async fn until_told_to_end(signals: &mut Signals, reloader: &mut Reloader, operator: &mut Operator) -> Way {
    loop {
        tokio::select! {
            request = signals.next() => match request {
                Request::Reload => drop(reloader.reload(Trigger::Signal)),
                Request::Shutdown => return Way::Drain,
            },
            () = reloader.files_changed() => reloader.look(),
            work = operator.next() => if let Some(mode) = operator.work(work, reloader).await {
                return Way::Mode(mode);
            },
        }
    }
}

async fn told_again(signals: &mut Signals, reloader: &mut Reloader, operator: &mut Operator) {
    loop {
        tokio::select! {
            request = signals.next() => match request {
                Request::Reload => tracing::info!("not reloading: on the way out"),
                Request::Shutdown => return,
            },
            // The process is on its way already; only "at once" changes that.
            work = operator.next() => if operator.work(work, reloader).await == Some(ShutdownMode::Immediate) {
                return;
            },
        }
    }
}
