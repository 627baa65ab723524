//! The binary: a table of contents. Everything is in the library.

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use sidepool::app::{self, source::Source};
use sidepool::cli::{Cli, Command, Target};
use sidepool::doctor;
use sidepool::injector::command;
use sidepool::invocation::{flags, start};
use sidepool::manual;
use sidepool::operate;
use sidepool::probe;
use sidepool::top;

fn main() -> ExitCode {
    let mut words = env::args_os();
    let program = words.next().unwrap_or_default().to_string_lossy().into_owned();
    let words: Vec<OsString> = words.collect();
    if flags::wanted(&program, &words) {
        return start::run(&program, &words);
    }
    let cli = Cli::parse();
    match cli.command {
        None => app::run(Source::new(&cli.from), cli.from.take_over),
        Some(Command::Check(from)) => app::check(&Source::new(&from)),
        Some(Command::Doctor(flags)) => doctor::run(&flags),
        Some(Command::Migrate { file }) => app::migrate(&file),
        Some(Command::Settings) => app::settings(),
        Some(Command::Injector(flags)) => command::injector(&flags),
        Some(Command::Inject(flags)) => command::inject(&flags),
        Some(Command::Completions { shell }) => manual::completions(shell),
        Some(Command::Man) => manual::page(),
        Some(Command::Healthcheck(Target { url })) => say(probe::healthcheck(&url)),
        Some(Command::Top(flags)) => say(top::run(&flags)),
        Some(Command::Alerts(alerts)) => operate::print(&operate::alerts_text(&alerts)),
        Some(Command::Dashboard { fleet }) => operate::print(&operate::dashboard_text(fleet)),
        Some(Command::Wait { target: Target { url }, timeout }) => say(probe::wait(&url, timeout)),
    }
}

fn say(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("sidepool: {message}");
            ExitCode::FAILURE
        }
    }
}
