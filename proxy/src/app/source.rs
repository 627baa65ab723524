//! Where the configuration comes from, so that it can be read again from there.

use std::path::PathBuf;

use sidepool_config::environment::{Given, Overrides, from_given};
use sidepool_config::file::{Loaded, Rejected, load};
use sidepool_config::model::Workers;
use sidepool_config::problem::{Place, Problem};

use crate::cli::From;

/// Where the configuration comes from.
pub enum Source {
    /// A file, and a number of workers that wins over it.
    File(PathBuf, Option<String>),
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
        if let Some(file) = from.file.as_ref().or(from.config.as_ref()) {
            return Self::File(file.clone(), from.workers.clone());
        }
        let flag = |name, text: &Option<String>| text.as_deref().map(|text| Given::on_command_line(name, text));
        let said = [flag("--postgres", &from.postgres), flag("--redis", &from.redis)];
        let [postgres, redis] = if said.iter().any(Option::is_some) {
            said
        } else {
            ["DATABASE_URL", "REDIS_URL"].map(|name| Given::in_environment(name, &variable))
        };
        let environment = Overrides::from_environment(&variable);
        let overrides = Overrides {
            pool_size: flag("--pool-size", &from.pool_size).or(environment.pool_size),
            postgres_listen: flag("--postgres-listen", &from.postgres_listen).or(environment.postgres_listen),
            redis_listen: flag("--redis-listen", &from.redis_listen).or(environment.redis_listen),
            admin_listen: flag("--admin-listen", &from.admin_listen).or(environment.admin_listen),
            workers: flag("--workers", &from.workers).or(environment.workers),
            log_level: flag("--log-level", &from.log_level).or(environment.log_level),
            log_format: flag("--log-format", &from.log_format).or(environment.log_format),
            default_user: environment.default_user,
            default_password: environment.default_password,
        };
        Self::Given(Box::new(UrlsGiven { postgres, redis, overrides }))
    }

    /// Reads it (again).
    pub fn load(&self) -> Result<Loaded, Rejected> {
        match self {
            Self::File(path, workers) => {
                let mut loaded = load(path, &variable)?;
                if let Some(text) = workers {
                    loaded.config.workers =
                        parse_workers(text).map_err(|problem| Rejected { problems: vec![problem], sources: loaded.sources.clone() })?;
                }
                Ok(loaded)
            }
            Self::Given(given) => from_given(given.postgres.as_ref(), given.redis.as_ref(), &given.overrides),
        }
    }

    /// What to call it in a sentence.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::File(path, _) => path.display().to_string(),
            Self::Given(_) => "the command line and the environment".to_owned(),
        }
    }
}

fn parse_workers(text: &str) -> Result<Workers, Problem> {
    if text == "auto" {
        return Ok(Workers::Auto);
    }
    match text.parse() {
        Ok(count @ 1..=1024) => Ok(Workers::Count(count)),
        Ok(_) | Err(_) => {
            Err(Problem::error(Place::CommandLine, "--workers", format!("`{text}` is neither auto nor a number from 1 to 1024")))
        }
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
