//! Where the configuration comes from, so that it can be read again from there.

use std::path::PathBuf;

use sidepool_config::environment::{Given, Overrides, from_given};
use sidepool_config::file::{Loaded, Rejected, load_set};
use sidepool_config::pgbouncer::{self, Flags, Set};

use crate::cli::From;

/// Where the configuration comes from.
pub enum Source {
    /// A file, and the flags that win over it.
    File(PathBuf, Box<Overrides>),
    /// A `pgbouncer.ini`, and what was given beside it.
    Ini(PathBuf, Flags),
    /// URLs and a few settings, from the command line or the environment.
    Given(Box<UrlsGiven>),
}

/// URLs and a few settings.
pub struct UrlsGiven {
    postgres: Option<Given>,
    redis: Option<Given>,
    overrides: Overrides,
}

impl Source {
    /// As said on the command line. The environment has a say only where the command line names neither a file nor a URL; settings of the
    /// environment hold where the command line does not give them.
    #[must_use]
    pub fn new(from: &From) -> Self {
        let flag = |name, text: &Option<String>| text.as_deref().map(|text| Given::on_command_line(name, text));
        let flags = Overrides {
            pool_size: flag("--pool-size", &from.pool_size),
            postgres_listen: flag("--postgres-listen", &from.postgres_listen),
            redis_listen: flag("--redis-listen", &from.redis_listen),
            admin_listen: flag("--admin-listen", &from.admin_listen),
            workers: flag("--workers", &from.workers),
            log_level: flag("--log-level", &from.log_level),
            log_format: flag("--log-format", &from.log_format),
            ..Overrides::default()
        };
        if let Some(file) = from.file.as_ref().or(from.config.as_ref()) {
            if file.extension().is_some_and(|extension| extension == "ini") {
                return Self::Ini(file.clone(), Flags::default());
            }
            return Self::File(file.clone(), Box::new(flags));
        }
        let said = [flag("--postgres", &from.postgres), flag("--redis", &from.redis)];
        let [postgres, redis] = if said.iter().any(Option::is_some) { said } else { Given::servers_in_environment(&variable) };
        let overrides = flags.or(Overrides::from_environment(&variable));
        Self::Given(Box::new(UrlsGiven { postgres, redis, overrides }))
    }

    /// Reads it (again); `set` is what SET has said since, which wins.
    pub fn load(&self, set: &Set) -> Result<Loaded, Rejected> {
        match self {
            Self::File(path, flags) => load_set(path, &variable, flags, set),
            Self::Ini(path, flags) => pgbouncer::load(path, flags, set),
            Self::Given(given) => from_given(given.postgres.as_ref(), given.redis.as_ref(), &given.overrides),
        }
    }

    /// What to call it in a sentence.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::File(path, _) | Self::Ini(path, _) => path.display().to_string(),
            Self::Given(_) => "the command line and the environment".to_owned(),
        }
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
