//! By which means of the kernel the workers read and write their sockets: what the configuration wants, and what the kernel allows.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;

use rustix::io::Errno;
use sidepool_config::model::IoBackend;
use sidepool_config::names::Named as _;
use sidepool_ring::Ring;

/// What is in use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Backend {
    /// The means.
    pub used: IoBackend,
    /// Why it is another than was wished.
    pub refused: Option<String>,
}

impl Backend {
    /// Tries what is wished, once, before there are workers. The log has the reason if it cannot be.
    #[must_use]
    pub fn of(wished: IoBackend) -> Self {
        match wished {
            IoBackend::Epoll => Self::default(),
            IoBackend::IoUring => match Ring::try_out() {
                Ok(()) => Self { used: IoBackend::IoUring, refused: None },
                Err(error) => {
                    let reason = Refusal(&error).to_string();
                    tracing::warn!(reason = %error, "io_backend = \"io_uring\" cannot be used, epoll is used instead: {reason}");
                    Self { used: IoBackend::Epoll, refused: Some(reason) }
                }
            },
        }
    }

    /// Its name, as the configuration has it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.used.name()
    }
}

/// Why the kernel gives no ring, in words.
struct Refusal<'a>(&'a io::Error);

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::PERM) => f.write_str("it is forbidden here (kernel.io_uring_disabled, or a seccomp profile)"),
            Some(Errno::NOSYS) => f.write_str("the kernel does not have it, or a seccomp profile hides it"),
            Some(Errno::INVAL) => f.write_str("the kernel is older than 6.1"),
            Some(Errno::NOMEM) => f.write_str("too little memory may be locked (ulimit -l, LimitMEMLOCK)"),
            _ => write!(f, "{}", self.0),
        }
    }
}

/// The ring of a worker, as long as its thread runs; on drop the thread has none any more.
pub(super) struct Worked;

impl Worked {
    /// Gives this thread a ring and has it turned, inside of the thread's runtime. A thread that gets none, though another got one before, goes on with
    /// epoll.
    pub(super) fn begin(used: IoBackend) -> Self {
        if used == IoBackend::IoUring {
            match Ring::new() {
                Ok(ring) => {
                    Ring::set_current(Some(Rc::clone(&ring)));
                    tokio::task::spawn_local(turn(ring));
                }
                Err(error) => tracing::warn!("a worker gets no io_uring, and uses epoll: {error}"),
            }
        }
        Self
    }
}

impl Drop for Worked {
    fn drop(&mut self) {
        Ring::set_current(None);
    }
}

async fn turn(ring: Rc<Ring>) {
    if let Err(error) = or_abort(ring.drive()).await {
        // Its sockets are dead from here on, and nothing can be done for them: the same as a worker that panics.
        tracing::error!("a worker's io_uring has failed: {error}");
        std::process::abort();
    }
}

/// Does work without which the thread is of no use, though it would go on: a panic in it is the end of the process.
async fn or_abort<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    poll_fn(|cx| {
        let _step = Step;
        work.as_mut().poll(cx)
    })
    .await
}

/// As long as a step of such work lasts.
struct Step;

impl Drop for Step {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("what turns a worker's io_uring has panicked: its connections would be silent for ever, so the process ends");
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    use rustix::process::Signal;
    use tokio::runtime::{Builder, LocalOptions};

    use super::*;

    const INSIDE: &str = "SIDEPOOL_TEST_PANICS_INSIDE";

    #[test]
    fn work_that_panics_takes_the_process_along() {
        if std::env::var_os(INSIDE).is_some() {
            let runtime = Builder::new_current_thread().build_local(LocalOptions::default()).unwrap();
            let ended = runtime.block_on(async { tokio::task::spawn_local(or_abort(async { panic!("on purpose") })).await });
            assert!(ended.is_err(), "and the thread goes on");
            return;
        }
        let ourselves = std::env::current_exe().unwrap();
        let name = "runtime::backend::tests::work_that_panics_takes_the_process_along";
        let ended = Command::new(ourselves).args(["--exact", name]).env(INSIDE, "yes").output().unwrap();
        assert_eq!(ended.status.signal(), Some(Signal::ABORT.as_raw()), "{ended:?}");
    }

    #[test]
    fn a_refusal_says_what_to_look_for() {
        let says = |error: Errno| Refusal(&io::Error::from(error)).to_string();
        assert!(says(Errno::PERM).contains("seccomp") && says(Errno::NOSYS).contains("seccomp"));
        assert!(says(Errno::INVAL).contains("6.1"));
        assert!(says(Errno::NOMEM).contains("LimitMEMLOCK"));
        assert!(says(Errno::MFILE).contains("open files"), "{}", says(Errno::MFILE));
    }
}
