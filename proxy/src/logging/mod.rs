//! Log lines: text or JSON on standard error, or PgBouncer's lines where its log goes; never at the expense of clients.
//!
//! The thread that logs hands the finished line to a queue with a bound (`writer`), so that a terminal or a pipe which is not read stalls
//! nobody; a line that does not fit is dropped and counted. Lines that repeat in a storm are thinned out and counted (`limit`).

mod limit;
pub mod pgbouncer;
pub mod targets;
mod writer;

use std::io;
use std::panic;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sidepool_config::model::{Log, LogFormat, LogLevel};
use tracing_subscriber::filter::{LevelFilter, Targets as Levels};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, reload};

use limit::Limiter;
use targets::{Opened, Targets};
use writer::{Lines, Queue};

/// How long the end of the program waits for lines that are not written yet.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

/// The installed logging. Dropping it writes what is still queued.
pub struct Logging {
    queue: Arc<Queue>,
    limiter: Arc<Limiter>,
    set_level: Box<dyn Fn(LogLevel) + Send + Sync>,
}

impl Logging {
    /// Installs logging for the whole process. `RUST_LOG` overrides the configured level, and is how the lines of libraries are had.
    #[must_use]
    pub fn install(config: &Log) -> Arc<Self> {
        let queue = Queue::start(Opened::stderr());
        let limiter = Arc::new(Limiter::default());
        let (level, set_level) = levels(config.level);
        let format = tracing_subscriber::fmt::layer().with_writer(Lines(Arc::clone(&queue)));
        let format = match config.format {
            LogFormat::Text => format.with_ansi(false).boxed(),
            LogFormat::Json => format.json().flatten_event(true).boxed(),
        };
        // A second installation (tests) keeps the first.
        let _ = tracing_subscriber::registry().with(level).with(limit::Layer(Arc::clone(&limiter))).with(format).try_init();
        panic::set_hook(Box::new(log_panic));
        Arc::new(Self { queue, limiter, set_level })
    }

    /// Installs logging for the whole process in PgBouncer's format and with none of its lines left out. A file that cannot be opened is the
    /// error.
    pub fn install_as_pgbouncer(config: &Log, targets: &Targets) -> io::Result<Arc<Self>> {
        let queue = Queue::start(Opened::open(targets)?);
        let (level, set_level) = levels(config.level);
        let format = tracing_subscriber::fmt::layer().event_format(pgbouncer::Format::new()).with_writer(Lines(Arc::clone(&queue)));
        let _ = tracing_subscriber::registry().with(level).with(format).try_init();
        panic::set_hook(Box::new(log_panic));
        Ok(Arc::new(Self { queue, limiter: Arc::default(), set_level }))
    }

    /// Opens the targets (again) and writes there from now on; where that fails everything stays as it was.
    pub fn redirect(&self, targets: &Targets) -> io::Result<()> {
        self.queue.redirect(Opened::open(targets)?);
        Ok(())
    }

    /// Logging that is not installed, for tests.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn silent() -> Arc<Self> {
        Arc::new(Self { queue: Arc::default(), limiter: Arc::default(), set_level: Box::new(|_| ()) })
    }

    /// Changes the level, unless `RUST_LOG` has set it.
    pub fn set_level(&self, level: LogLevel) {
        (self.set_level)(level);
    }

    /// Waits until a line is left out that has not been reported.
    pub async fn suppressed(&self) {
        self.limiter.suppressed().await;
    }

    /// Says which lines were left out since the last time.
    pub fn report_suppressed(&self) {
        for (place, count) in self.limiter.take_suppressed() {
            tracing::warn!(count, place, "the same log line was left out because it repeated too fast");
        }
    }

    /// Lines that were not written because they repeated, and because the queue was full.
    #[must_use]
    pub fn dropped(&self) -> (u64, u64) {
        (self.limiter.dropped(), self.queue.dropped())
    }

    /// Waits until everything is written, or until waiting longer would hold up the end of the program.
    pub fn flush(&self) {
        self.queue.flush(FLUSH_PATIENCE);
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.flush();
    }
}

type Reloadable = reload::Layer<Levels, tracing_subscriber::Registry>;

/// The filter of levels, and what changes it. `RUST_LOG` wins over the configuration.
fn levels(level: LogLevel) -> (Reloadable, Box<dyn Fn(LogLevel) + Send + Sync>) {
    let overridden = std::env::var("RUST_LOG").ok().and_then(|text| filter_of_environment(&text));
    let is_overridden = overridden.is_some();
    let (layer, handle) = reload::Layer::new(overridden.unwrap_or_else(|| filter(level)));
    let set_level = move |level| {
        if !is_overridden {
            let _ = handle.reload(filter(level));
        }
    };
    (layer, Box::new(set_level))
}

/// Our own lines of this level. Of the libraries below only what is alarming: their debug lines tell nothing of what we do, and are many.
fn filter(level: LogLevel) -> Levels {
    let ours = match level {
        LogLevel::Error => return Levels::new().with_default(LevelFilter::ERROR),
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    Levels::new().with_default(LevelFilter::WARN).with_target("sidepool", ours)
}

/// What `RUST_LOG` says (`debug`, `warn,sidepool=trace`), if it says anything that can be understood.
fn filter_of_environment(text: &str) -> Option<Levels> {
    let levels = Levels::from_str(Some(text).filter(|text| !text.trim().is_empty())?).ok()?;
    // It logs every event of a watched directory: a log file in that directory would go round in circles.
    Some(if text.contains("notify") { levels } else { levels.with_target("notify", LevelFilter::WARN) })
}

/// A panic ends one session or one job; the line says which place in the code is at fault.
fn log_panic(info: &panic::PanicHookInfo<'_>) {
    let text = info.payload().downcast_ref::<&str>().copied().or_else(|| info.payload().downcast_ref::<String>().map(String::as_str));
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(place, "this is a defect in sidepool, please report it: {}", text.unwrap_or("a panic without a text"));
}
