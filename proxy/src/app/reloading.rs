//! The one path on which a changed configuration comes into force: read, validate, compare, post to every worker. All or nothing.

use std::fs;
use std::sync::Arc;

use sidepool_config::diff::diff;
use sidepool_config::file::{Loaded, Rejected};
use sidepool_config::model::Config;
use sidepool_config::pgbouncer::Set;
use sidepool_config::sources::{ContentHash, Sources};

use super::held;
use super::pgbouncer;
use super::source::Source;
use crate::admin::exported::Exported;
use crate::admin::facts::{Facts, Outcome, Trigger};
use crate::clock;
use crate::console::control::InForce;
use crate::invocation::start::in_words;
use crate::reload::FileWatch;
use crate::service;

/// Reads and applies. Lives on the control loop, so that two reloads never overlap.
pub struct Reloader {
    source: Source,
    running: Arc<Config>,
    /// The files of the last attempt, whether it was applied or not, and the hash of what was in them.
    sources: Sources,
    attempted: ContentHash,
    watch: FileWatch,
    facts: Arc<Facts>,
    /// What the console has said since the last reload, which forgets it.
    set: Set,
    /// Said, too, but of no use without what belongs to it: a key whose certificate is still to come.
    halves: Set,
}

/// Whether a setting means something only with another one, so that the console cannot change both at once.
fn is_half(name: &str, value: &str) -> bool {
    match name {
        "client_tls_key_file" | "client_tls_cert_file" | "server_tls_key_file" | "server_tls_cert_file" => fs::metadata(value).is_ok(),
        "client_tls_sslmode" => ["allow", "prefer", "require", "verify-ca", "verify-full"].contains(&value),
        _ => false,
    }
}

impl Reloader {
    /// Starts from the configuration that is in force.
    #[must_use]
    pub fn new(source: Source, running: Arc<Config>, sources: Sources, facts: Arc<Facts>) -> Self {
        let watch = FileWatch::start(sources.files());
        let attempted = sources.hash();
        Self { source, running, sources, attempted, watch, facts, set: Set::new(), halves: Set::new() }
    }

    /// Waits until files may have changed. May be dropped and called again.
    pub async fn files_changed(&mut self) {
        self.watch.changed().await;
    }

    /// Reloads if the files' contents are others than at the last attempt.
    pub fn look(&mut self) {
        if self.sources.hash_now() != self.attempted {
            let _ = self.reload(Trigger::File);
        }
    }

    /// Reads the configuration and puts it into force, whole; or leaves the old one in force, whole. Says which.
    pub fn reload(&mut self, trigger: Trigger) -> Outcome {
        service::reloading();
        self.set.clear();
        self.halves.clear();
        let (outcome, sources) = match self.source.load(&self.set) {
            Ok(loaded) => self.accept(loaded),
            Err(rejected) => self.reject(rejected),
        };
        self.facts.reloads().counts[trigger as usize][outcome as usize] += 1;
        self.attempted = sources.hash();
        self.watch.follow(sources.files().chain(self.sources.files()));
        self.sources = sources;
        self.reopen_log();
        service::ready();
        outcome
    }

    /// Puts one setting of PgBouncer into force until the next reload, or says why not. Where the configuration is in no file there is nothing
    /// that it could win over.
    pub fn set(&mut self, name: &str, value: &str) -> Result<InForce, String> {
        if let Source::Given(_) = self.source {
            return Err("settings that were said as URLs cannot be changed: start with a configuration file".to_owned());
        }
        let mut set = self.set.clone();
        set.insert(name.to_owned(), value.to_owned());
        let mut whole = set.clone();
        whole.extend(self.halves.iter().filter(|(half, _)| *half != name).map(|(half, value)| (half.clone(), value.clone())));
        let loaded = match self.source.load(&whole) {
            Ok(loaded) => {
                self.halves.clear();
                self.set = whole;
                loaded
            }
            Err(rejected) if is_half(name, value) => {
                tracing::warn!("{name} is put into force when what belongs to it is set, too: {}", rejected.errors());
                self.halves.insert(name.to_owned(), value.to_owned());
                return Ok(InForce::Later);
            }
            Err(_) => {
                let loaded = self.source.load(&set).map_err(|rejected| rejected.errors())?;
                self.set = set;
                loaded
            }
        };
        let effective = held::effective(&self.running, &loaded.config);
        if *effective != *self.running {
            self.apply(effective);
            self.reopen_log();
        }
        Ok(InForce::Now)
    }

    /// PgBouncer's log file is opened again with each reload, so that it can be moved away.
    fn reopen_log(&self) {
        let Some(process) = &self.running.pgbouncer else { return };
        let targets = pgbouncer::targets(process);
        if let Err(error) = self.facts.logging.redirect(&targets) {
            let file = targets.file.unwrap_or_default();
            tracing::error!("Cannot open logfile: '{}': {error}; the old one is kept", file.display());
        }
    }

    fn accept(&mut self, loaded: Loaded) -> (Outcome, Sources) {
        let Loaded { config, warnings, sources } = loaded;
        for warning in &warnings {
            match &self.running.pgbouncer {
                // What changes nothing has been named at the start.
                Some(_) if warning.is_about_no_line() => {}
                Some(_) => tracing::warn!("{}", in_words(warning)),
                None => tracing::warn!("{warning}"),
            }
        }
        let effective = held::effective(&self.running, &config);
        let pending = held::pending(&self.running, &config);
        if !pending.is_empty() {
            tracing::warn!(keys = pending.join(", "), "these settings have changed and need a restart; until then the old ones hold");
        }
        if *effective == *self.running {
            tracing::info!("configuration read again: nothing to put into force");
        } else {
            self.apply(effective);
        }
        let mut reloads = self.facts.reloads();
        reloads.last_successful = true;
        reloads.last_success = clock::wall();
        reloads.hash = sources.hash();
        reloads.restart_pending = pending;
        reloads.problems = Vec::new();
        drop(reloads);
        (Outcome::Ok, sources)
    }

    fn apply(&mut self, effective: Arc<Config>) {
        let changes = diff(&self.running, &effective);
        for change in &changes {
            tracing::info!("{change}");
        }
        pgbouncer::say_dropped(&self.running, &effective);
        self.facts.logging.set_level(effective.log.level);
        self.facts.gates().apply(&effective);
        *self.facts.exported() = Exported::of(&effective);
        self.facts.memory.set_own_limit(effective.memory_limit);
        for id in self.facts.mailboxes.ids() {
            let config = Arc::clone(&effective);
            self.facts.mailboxes.post(id, move |worker| worker.apply(&config));
        }
        self.running = effective;
        tracing::info!(changes = changes.len(), from = self.source.describe(), "configuration reloaded");
    }

    fn reject(&self, rejected: Rejected) -> (Outcome, Sources) {
        for problem in &rejected.problems {
            match &self.running.pgbouncer {
                Some(_) => tracing::error!("{}", in_words(problem)),
                None => tracing::error!("{problem}"),
            }
        }
        if self.running.pgbouncer.is_some() {
            tracing::warn!("config file loading failed");
        }
        tracing::error!(
            problems = rejected.problems.len(),
            from = self.source.describe(),
            "configuration NOT reloaded; the old one stays in force"
        );
        let mut reloads = self.facts.reloads();
        reloads.last_successful = false;
        reloads.problems = rejected.problems.iter().map(ToString::to_string).collect();
        (Outcome::Rejected, rejected.sources)
    }

    /// The configuration in force.
    #[must_use]
    pub fn running(&self) -> &Config {
        &self.running
    }
}
