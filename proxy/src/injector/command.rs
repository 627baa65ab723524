//! Carries out `sidepool injector` and `sidepool inject`.

use std::io::{self, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sidepool_config::model::{Log, LogFormat, LogLevel};
use sidepool_config::names::Named as _;
use sidepool_injector::manifests::{Injected, inject_text};
use sidepool_injector::options::Options;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio::task::spawn_local;

use super::certificate::{Certificate, follow};
use super::flags::{Inject, Injector};
use super::metrics::Numbers;
use super::server::{Shared, admin, serve};
use crate::admin::http;
use crate::app::{EXIT_CONFIG, EXIT_START};
use crate::logging::Logging;
use crate::service;
use crate::signals::{Habits, Request, Signals};

/// Serves the webhook until it is told to end.
#[must_use]
pub fn injector(flags: &Injector) -> ExitCode {
    let prepared = flags.sidecar.options().and_then(|options| Ok((options, log(flags)?)));
    let (options, log) = match prepared {
        Ok(prepared) => prepared,
        Err(message) => return fail(&message, EXIT_CONFIG),
    };
    let logging = Logging::install(&log);
    match run(flags, options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logging.flush();
            fail(&error.to_string(), EXIT_START)
        }
    }
}

fn fail(message: &str, code: u8) -> ExitCode {
    eprintln!("sidepool: {message}");
    ExitCode::from(code)
}

fn run(flags: &Injector, options: Options) -> io::Result<()> {
    let (tls, plain) = (bind(flags.listen)?, bind(flags.admin_listen)?);
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let (certificate, numbers) = (Arc::new(Certificate::default()), Arc::new(Numbers::default()));
        let mut signals = Signals::install(Habits::Own)?;
        let directory = flags.certificates.clone();
        spawn_local(follow(directory, Arc::clone(&certificate), Arc::clone(&numbers)));
        let shared = Arc::new(Shared { options, certificate, numbers, ending: AtomicBool::new(false) });
        spawn_local(http::accept(plain, admin(Arc::clone(&shared))));
        let (over, end) = watch::channel(false);
        let serving = spawn_local(serve(tls, Arc::clone(&shared), end));
        tracing::info!(listen = %flags.listen, admin = %flags.admin_listen, image = shared.options.image, "the injector is up");
        service::ready();
        until_told_to_end(&mut signals).await;
        service::stopping();
        shared.ending.store(true, Ordering::Relaxed);
        tracing::info!(accept_for_s = flags.accept_for.as_secs(), "ending");
        tokio::select! {
            () = tokio::time::sleep(flags.accept_for) => {}
            () = until_told_to_end(&mut signals) => {}
        }
        let _ = over.send(true);
        serving.await.map_err(io::Error::other)?
    })
}

async fn until_told_to_end(signals: &mut Signals) {
    loop {
        match signals.next().await.request(signals.habits()) {
            Request::Shutdown(_) => return,
            // The certificate is watched, and there is nothing else to read again.
            Request::Reload | Request::Pause | Request::Resume => {}
        }
    }
}

fn bind(address: std::net::SocketAddr) -> io::Result<TcpListener> {
    http::bind(address).map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
}

fn log(flags: &Injector) -> Result<Log, String> {
    let level = LogLevel::from_name(&flags.log_level);
    let format = LogFormat::from_name(&flags.log_format);
    Ok(Log {
        level: level.ok_or("--log-level: must be error, warn, info, debug or trace")?,
        format: format.ok_or("--log-format: must be text or json")?,
        ..Log::default()
    })
}

/// Puts sidecars into files: the manifests go to standard output, what there is to say of them to standard error.
#[must_use]
pub fn inject(flags: &Inject) -> ExitCode {
    let options = match flags.sidecar.options() {
        Ok(options) => options,
        Err(message) => return fail(&message, EXIT_CONFIG),
    };
    let mut all = Vec::new();
    for file in &flags.files {
        let injected = read(file).map_err(|error| error.to_string()).and_then(|text| inject_text(&text, &options));
        match injected {
            Ok(injected) => all.push(injected),
            Err(error) => return fail(&format!("{}: {error}", file.display()), EXIT_CONFIG),
        }
    }
    for note in all.iter().flat_map(|injected| &injected.notes) {
        eprintln!("{note}");
    }
    let rejected: Vec<&String> = all.iter().flat_map(|injected| &injected.rejected).collect();
    for why in &rejected {
        eprintln!("sidepool: {why}");
    }
    if !rejected.is_empty() {
        return ExitCode::from(EXIT_CONFIG);
    }
    let text = if flags.diff { all.iter().map(|injected| injected.diff.as_str()).collect() } else { joined(&all) };
    // Whoever reads only the beginning (`| head`) has seen what they wanted.
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn read(file: &Path) -> io::Result<String> {
    if file != Path::new("-") {
        return std::fs::read_to_string(file);
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

fn joined(all: &[Injected]) -> String {
    let mut text = String::new();
    for injected in all {
        if !text.is_empty() && !injected.text.starts_with("---") {
            text.push_str("---\n");
        }
        text.push_str(&injected.text);
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
    }
    text
}
