//! From PgBouncer's command line to a serving process: everything that can stop it, in PgBouncer's order and words.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use sidepool_config::file::{Loaded, Rejected};
use sidepool_config::model::Config;
use sidepool_config::pgbouncer::{self, Set};
use sidepool_config::problem::{Place, Problem};
use tracing::Level;

use super::flags::{self, Asked, Flags};
use super::pidfile::{self, Found};
use super::{LIBRARIES, OWN_VERSION, daemon, identity, socket, version};
use crate::activation::Sockets;
use crate::app;
use crate::app::pgbouncer as process;
use crate::app::source::Source;
use crate::logging::Logging;
use crate::logging::pgbouncer::{FATAL, plain};

/// What every refusal to start ends with.
const EXIT: u8 = 1;

/// A reason not to start that has not been said yet.
struct Fatal(String);

/// Does what the command line asks for.
#[must_use]
pub fn run(program: &str, words: &[OsString]) -> ExitCode {
    match flags::parse(program, words) {
        Asked::Serve(flags) => serve(&flags),
        Asked::Version => print(&format!("{}\n{OWN_VERSION}\n{}\n", version(), LIBRARIES.join("\n"))),
        Asked::Help => print(&flags::help(program)),
        Asked::Wrong(said) => {
            eprintln!("{said}");
            ExitCode::from(EXIT)
        }
    }
}

fn print(text: &str) -> ExitCode {
    // Whoever reads only the beginning (`| head`) has seen what they wanted.
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// Serves until told to end.
#[must_use]
pub fn serve(flags: &Flags) -> ExitCode {
    match try_serve(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Fatal(reason)) => {
            eprint!("{}", plain(FATAL, &reason));
            ExitCode::from(EXIT)
        }
    }
}

fn try_serve(flags: &Flags) -> Result<(), Fatal> {
    let passed = Sockets::take();
    let given = pgbouncer::Flags { verbose: flags.verbose, user: flags.user.clone(), listen: passed.listens() };
    let source = Source::Ini(flags.file.clone(), given);
    let loaded = source.load(&Set::new()).map_err(|rejected| refuse(&rejected))?;
    become_somebody(&loaded.config)?;
    // What the service manager has opened is nobody else's.
    let alone = if passed.listens().is_empty() { alone(flags, &loaded.config)? } else { Alone::Yes };
    if flags.daemon && !daemon::is_daemon() {
        return go_daemon(&loaded.config);
    }
    if daemon::is_daemon() {
        daemon::detach();
    }
    if flags.quiet || daemon::is_daemon() {
        process::be_quiet();
    }
    log_and_serve(source, loaded, alone, passed)
}

fn log_and_serve(source: Source, loaded: Loaded, alone: Alone, passed: Sockets) -> Result<(), Fatal> {
    let targets = loaded.config.pgbouncer.as_deref().map(process::targets).unwrap_or_default();
    let logging = Logging::install_as_pgbouncer(&loaded.config.log, &targets).map_err(|error| {
        let file = targets.file.as_deref().unwrap_or(Path::new(""));
        Fatal(format!("Cannot open logfile: '{}': {error}", file.display()))
    })?;
    if alone == Alone::AfterADeadOne {
        tracing::info!("stale pidfile, removing");
    }
    app::serve(source, loaded, &logging, alone == Alone::TakingOver, passed).map_err(|error| {
        // Said where the log goes, too: standard error may be closed.
        tracing::error!(name: "fatal", "{error}");
        logging.flush();
        Fatal(error.to_string())
    })
}

/// Every problem of the configuration, as PgBouncer's log has it.
fn refuse(rejected: &Rejected) -> Fatal {
    for problem in &rejected.problems {
        let level = if problem.is_error() { Level::ERROR } else { Level::WARN };
        eprint!("{}", plain(crate::logging::pgbouncer::level(&level), &in_words(problem)));
    }
    Fatal("cannot load config file".to_owned())
}

/// A problem as PgBouncer's log has it: what is wrong, then where.
#[must_use]
pub fn in_words(problem: &Problem) -> String {
    let place: &dyn Display = match &problem.place {
        place @ Place::File { line: Some(_), .. } => place,
        Place::File { line: None, .. } | Place::Environment | Place::CommandLine | Place::Console => return problem.message.clone(),
    };
    match parted(&problem.message) {
        Some((what, why)) => format!("{what} in configuration ({place}): {why}"),
        None => format!("{} in configuration ({place})", problem.message),
    }
}

/// What is wrong and why, which the first `; ` outside of a quoted value parts.
fn parted(message: &str) -> Option<(&str, &str)> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in message.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b';' if !quoted && message[at..].starts_with("; ") => return Some((&message[..at], &message[at + 2..])),
            _ => {}
        }
    }
    None
}

fn become_somebody(config: &Config) -> Result<(), Fatal> {
    if let Some(user) = config.pgbouncer.as_ref().and_then(|process| process.user()) {
        identity::become_user(user).map_err(Fatal)?;
    }
    if identity::is_root() {
        return Err(Fatal("PgBouncer should not run as root; set user, or start it as another user".to_owned()));
    }
    Ok(())
}

/// Who was here before us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alone {
    /// Nobody.
    Yes,
    /// One whose pidfile was left behind.
    AfterADeadOne,
    /// One whose sockets we are to take.
    TakingOver,
}

/// Makes sure that no other process is where we are to be, unless it is to be taken over.
fn alone(flags: &Flags, config: &Config) -> Result<Alone, Fatal> {
    let in_use = socket::in_use(config);
    if flags.reboot {
        eprint!("{}", plain("WARNING", "Online restart is deprecated, use so_reuseport instead"));
        can_take_over(config)?;
        if in_use {
            return Ok(Alone::TakingOver);
        }
        eprint!("{}", plain("LOG", "old process not found, try to continue normally"));
    }
    if in_use {
        return Err(Fatal("unix socket is in use, cannot continue".to_owned()));
    }
    let Some(path) = config.pgbouncer.as_ref().and_then(|process| process.pidfile()) else { return Ok(Alone::Yes) };
    match pidfile::check(&path).map_err(Fatal)? {
        Found::Stale => Ok(Alone::AfterADeadOne),
        Found::Nothing => Ok(Alone::Yes),
    }
}

fn can_take_over(config: &Config) -> Result<(), Fatal> {
    let directory = config.pgbouncer.as_ref().map(|process| process.text("unix_socket_dir")).unwrap_or_default();
    match directory.chars().next() {
        None => Err(Fatal("cannot reboot if unix dir not configured".to_owned())),
        Some('@') => Err(Fatal("cannot reboot with abstract Unix socket".to_owned())),
        Some(_) => Ok(()),
    }
}

fn go_daemon(config: &Config) -> Result<(), Fatal> {
    let Some(path) = config.pgbouncer.as_ref().and_then(|process| process.pidfile()) else {
        return Err(Fatal("daemon needs pidfile configured".to_owned()));
    };
    let is_up = |pid: u32| std::fs::read_to_string(&path).is_ok_and(|text| text.trim() == pid.to_string());
    daemon::start(is_up).map_err(Fatal)
}
