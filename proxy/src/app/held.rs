//! What a reload leaves as it is, because only a restart can change it: sockets, threads, the log's format.

use std::sync::Arc;

use sidepool_config::diff::{Class, diff};
use sidepool_config::model::{Config, Postgres};

/// The configuration to put into force when `loaded` was read while `running` is in force: `loaded`, except for what needs a restart.
#[must_use]
pub fn effective(running: &Config, loaded: &Config) -> Arc<Config> {
    let mut effective = loaded.clone();
    effective.workers = running.workers;
    effective.admin.listen = running.admin.listen;
    effective.log.format = running.log.format;
    effective.pgbouncer = match (&running.pgbouncer, &loaded.pgbouncer) {
        (Some(running), Some(loaded)) => Some(Box::new(running.held(loaded))),
        (running, _) => running.clone(),
    };
    effective.postgres = match (&running.postgres, effective.postgres) {
        (Some(running), Some(mut postgres)) => {
            postgres.listen.clone_from(&running.listen);
            keep_sessions(running, &mut postgres);
            Some(postgres)
        }
        // A side that comes or goes takes its listeners along.
        (running, _) => running.clone(),
    };
    effective.redis = running
        .redis
        .iter()
        .map(|(name, running)| {
            let mut redis = loaded.redis.get(name).unwrap_or(running).clone();
            redis.listen.clone_from(&running.listen);
            (name.clone(), redis)
        })
        .collect();
    Arc::new(effective)
}

/// Contexts made of the same files are the old ones, so that the TLS sessions that were begun under them can be resumed.
fn keep_sessions(running: &Postgres, loaded: &mut Postgres) {
    if loaded.client_tls == running.client_tls {
        loaded.client_tls.clone_from(&running.client_tls);
    }
    if loaded.server_tls == running.server_tls {
        loaded.server_tls.clone_from(&running.server_tls);
    }
}

/// The keys that differ between what runs and what was read, and that need a restart.
#[must_use]
pub fn pending(running: &Config, loaded: &Config) -> Vec<String> {
    if let (Some(running), Some(loaded)) = (&running.pgbouncer, &loaded.pgbouncer) {
        return running.pending(loaded).into_iter().map(str::to_owned).collect();
    }
    let changes = diff(running, loaded).into_iter();
    changes
        .filter(|change| match change.class {
            Class::NeedsRestart => true,
            Class::Live | Class::NewSessions => false,
        })
        .map(|change| change.key)
        .collect()
}

#[cfg(test)]
mod tests {
    use sidepool_config::file::load_text;
    use std::path::Path;

    use super::*;

    fn config(text: &str) -> Config {
        load_text(text, Path::new("sidepool.toml"), &|_| None).unwrap().config
    }

    #[test]
    fn what_needs_a_restart_is_held_back_and_named() {
        let running = config("[redis.cache]\nurl = \"redis://h\"\nlisten = \"127.0.0.1:7001\"\npool_size = 5\n");
        let loaded = config(
            "workers = 3\n[redis.cache]\nurl = \"redis://h\"\nlisten = \"127.0.0.1:7002\"\npool_size = 9\n\
             [redis.more]\nurl = \"redis://m\"\nlisten = \"127.0.0.1:7003\"\n",
        );
        let effective = effective(&running, &loaded);
        assert_eq!(effective.redis["cache"].limits.pool_size, 9, "live");
        assert_eq!(effective.redis["cache"].listen, running.redis["cache"].listen, "held back");
        assert_eq!(effective.redis.len(), 1);
        assert_eq!(pending(&effective, &loaded), ["redis.cache.listen", "redis.more", "workers"]);
        assert_eq!(*super::effective(&running, &running), running);
    }
}
