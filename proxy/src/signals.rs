//! Unix signals as events of the control thread: our own table, and PgBouncer's where its configuration file is in use.
//!
//! | signal | our own | PgBouncer's |
//! |---|---|---|
//! | HUP | reload | reload |
//! | TERM | drain; again: at once | wait for clients; again: at once |
//! | INT | drain; again: at once | wait for servers; again: at once |
//! | QUIT | (ends the process) | at once |
//! | USR1, USR2 | (end the process) | pause, resume |

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::shutdown::{ShutdownMode, Way};

/// Whose meaning signals have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habits {
    /// Our own.
    Own,
    /// PgBouncer's.
    Pgbouncer,
}

/// A signal that is listened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// SIGHUP
    Hangup,
    /// SIGTERM
    Terminate,
    /// SIGINT
    Interrupt,
    /// SIGQUIT
    Quit,
    /// SIGUSR1
    User1,
    /// SIGUSR2
    User2,
}

/// What an operator asks for by signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Read the configuration again.
    Reload,
    /// End, in this way; asked a second time: at once.
    Shutdown(Way),
    /// Give out no more connections.
    Pause,
    /// Give them out again.
    Resume,
}

impl Name {
    /// What it asks for.
    #[must_use]
    pub fn request(self, habits: Habits) -> Request {
        let way = |mode| match habits {
            Habits::Own => Way::Drain,
            Habits::Pgbouncer => Way::Mode(mode),
        };
        match self {
            Self::Hangup => Request::Reload,
            Self::Terminate => Request::Shutdown(way(ShutdownMode::WaitForClients)),
            Self::Interrupt => Request::Shutdown(way(ShutdownMode::WaitForServers)),
            Self::Quit => Request::Shutdown(Way::Mode(ShutdownMode::Immediate)),
            Self::User1 => Request::Pause,
            Self::User2 => Request::Resume,
        }
    }

    /// Its name.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Hangup => "SIGHUP",
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::Quit => "SIGQUIT",
            Self::User1 => "SIGUSR1",
            Self::User2 => "SIGUSR2",
        }
    }
}

/// The signals that the program listens to.
#[derive(Debug)]
pub struct Signals {
    habits: Habits,
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    /// QUIT, USR1, USR2: only where they have a meaning of their own.
    more: Option<Box<[Signal; 3]>>,
}

impl Signals {
    /// Listens from now on.
    pub fn install(habits: Habits) -> io::Result<Self> {
        let more = match habits {
            Habits::Own => None,
            Habits::Pgbouncer => {
                Some(Box::new([signal(SignalKind::quit())?, signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?]))
            }
        };
        Ok(Self {
            habits,
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            more,
        })
    }

    /// Whose meaning they have.
    #[must_use]
    pub fn habits(&self) -> Habits {
        self.habits
    }

    /// The next one. May be dropped and called again without losing any.
    pub async fn next(&mut self) -> Name {
        let more = async {
            match self.more.as_deref_mut() {
                None => std::future::pending().await,
                Some([quit, user1, user2]) => tokio::select! {
                    _ = quit.recv() => Name::Quit,
                    _ = user1.recv() => Name::User1,
                    _ = user2.recv() => Name::User2,
                },
            }
        };
        tokio::select! {
            _ = self.hangup.recv() => Name::Hangup,
            _ = self.terminate.recv() => Name::Terminate,
            _ = self.interrupt.recv() => Name::Interrupt,
            name = more => name,
        }
    }
}
