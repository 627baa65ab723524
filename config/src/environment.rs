//! Configuration without a file: one URL a protocol, from the command line or the environment, and a few overrides.
//!
//! Kubernetes sets `NAME_PORT`, `NAME_SERVICE_HOST` and the like for every service called NAME, so none of the names here ends that way.

use std::collections::BTreeMap;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::checks::{Finding, check};
use crate::file::{Loaded, Rejected, conclude, parse_admin, parse_choice, parse_workers};
use crate::listen::{Protocol, fits, parse_all, postgres_socket};
use crate::model::{Admin, AuthType, Config, Drain, Listen, Log, PgDatabase, Postgres, Redis, Upstream, UpstreamTls, Workers};
use crate::postgres_url::{self, PostgresUrl};
use crate::problem::{Place, Problem};
use crate::read_postgres::DEFAULT_PORT;
use crate::redis_url;
use crate::secret::Secret;
use crate::settings::MOST_CONNECTIONS;
use crate::sources::Sources;
use crate::units::parse_duration;

/// How environment variables are looked up.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The name under which the one Redis server stands in the configuration.
pub const REDIS_NAME: &str = "redis";

/// The last number that a name may have behind it.
const MOST_NUMBERED: u32 = 9;

/// A value with where it was said and under what name, so that an error can name both. Its text is a secret: it may be a URL with a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The value.
    pub text: Secret,
    /// Where it was said.
    pub place: Place,
    /// The variable or the flag.
    pub name: String,
}

/// What may be said beside the URLs; each is read like the setting of the same name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overrides {
    /// Size of every pool.
    pub pool_size: Option<Given>,
    /// Listeners for PostgreSQL clients, separated by commas.
    pub postgres_listen: Option<Given>,
    /// Listeners for Redis clients, separated by commas.
    pub redis_listen: Option<Given>,
    /// The admin listener, or `off`.
    pub admin_listen: Option<Given>,
    /// Worker threads, or `auto`.
    pub workers: Option<Given>,
    /// How PostgreSQL connections are pooled.
    pub pool_mode: Option<Given>,
    /// How long clients may go on after SIGTERM.
    pub drain_timeout: Option<Given>,
    /// Whether clients on this machine may end the process over HTTP.
    pub quitquitquit: Option<Given>,
    /// One more name for the database of the URL.
    pub database_alias: Option<Given>,
    /// The log level.
    pub log_level: Option<Given>,
    /// The log format.
    pub log_format: Option<Given>,
    /// The PostgreSQL user where the URL names none (libpq: `PGUSER`, else the user of the operating system).
    pub default_user: Option<Given>,
    /// The PostgreSQL password where the URL has none (libpq: `PGPASSWORD`).
    pub default_password: Option<Given>,
}

/// The environment variables that are read, with what each of them says.
pub const VARIABLES: &[(&str, &str)] = &[
    ("DATABASE_URL", "the PostgreSQL server: postgres://USER:PASSWORD@HOST:PORT/DBNAME?sslmode=MODE"),
    ("REDIS_URL", "the Redis server: redis://USER:PASSWORD@HOST:PORT/DATABASE"),
    (
        "PGHOST",
        "the host, where DATABASE_URL is missing, with PGPORT, PGDATABASE, PGUSER, PGPASSWORD and PGSSLMODE beside it; each of these and of the two URLs may as well be called NAME_2 to NAME_9: the first counts that is set",
    ),
    ("SIDEPOOL_POOL_MODE", "transaction, session or statement (transaction)"),
    ("SIDEPOOL_POOL_SIZE", "most upstream connections of each pool (20)"),
    ("SIDEPOOL_POSTGRES_LISTEN", "where PostgreSQL clients connect, separated by commas (127.0.0.1:6432)"),
    ("SIDEPOOL_REDIS_LISTEN", "where Redis clients connect, separated by commas (127.0.0.1:6380)"),
    ("SIDEPOOL_ADMIN_LISTEN", "where /metrics and the health endpoints listen, or off (127.0.0.1:9127)"),
    ("SIDEPOOL_DATABASE_ALIAS", "one more name for the database of the URL, for clients that cannot be told its own"),
    ("SIDEPOOL_DRAIN_TIMEOUT", "how long clients may go on after SIGTERM (25s)"),
    ("SIDEPOOL_QUITQUITQUIT", "on: a POST to /quitquitquit of the admin listener from this machine ends sidepool as SIGTERM does (off)"),
    ("SIDEPOOL_WORKERS", "threads that carry traffic, or auto (auto)"),
    ("SIDEPOOL_LOG_LEVEL", "the least severe level that is logged (info)"),
    ("SIDEPOOL_LOG_FORMAT", "text or json (text)"),
];

/// A configuration from URLs given on the command line as `--postgres` and `--redis`.
pub fn from_urls(postgres: Option<&str>, redis: Option<&str>, overrides: &Overrides) -> Result<Loaded, Rejected> {
    let flag = |name, text| Given::on_command_line(name, text);
    from_given(postgres.map(|text| flag("--postgres", text)).as_ref(), redis.map(|text| flag("--redis", text)).as_ref(), overrides)
}

/// A configuration from `DATABASE_URL`, `REDIS_URL` and the `SIDEPOOL_…` variables.
pub fn from_environment(lookup: Lookup<'_>) -> Result<Loaded, Rejected> {
    let [postgres, redis] = Given::servers_in_environment(lookup);
    from_given(postgres.as_ref(), redis.as_ref(), &Overrides::from_environment(lookup))
}

/// A configuration from URLs that may come from different places.
pub fn from_given(postgres: Option<&Given>, redis: Option<&Given>, overrides: &Overrides) -> Result<Loaded, Rejected> {
    let mut assembly = Assembly { overrides, pool_size: None, problems: Vec::new() };
    assembly.pool_size = assembly.value(overrides.pool_size.as_ref(), parse_pool_size);
    let config = Config {
        workers: assembly.value(overrides.workers.as_ref(), parse_workers).unwrap_or(Workers::Auto),
        admin: Admin {
            listen: assembly.value(overrides.admin_listen.as_ref(), parse_admin).unwrap_or(Admin::default().listen),
            quitquitquit: assembly.value(overrides.quitquitquit.as_ref(), parse_switch).unwrap_or_default(),
            ..Admin::default()
        },
        drain: assembly.drain(),
        log: assembly.log(),
        postgres: postgres.and_then(|given| assembly.postgres(given)),
        redis: redis.and_then(|given| assembly.redis(given)).map(|redis| (REDIS_NAME.to_owned(), redis)).into_iter().collect(),
        ..Config::default()
    };
    let mut problems = assembly.problems;
    if postgres.is_none() && redis.is_none() {
        let message = "nothing to do: give a configuration file, --postgres URL, --redis URL, or set DATABASE_URL or REDIS_URL";
        problems.push(Problem::error(Place::CommandLine, "", message));
    } else if problems.iter().all(|problem| !problem.is_error()) {
        problems.extend(relations(&config, overrides));
    }
    conclude(config, problems, Sources::default())
}

fn relations<'o>(config: &Config, overrides: &'o Overrides) -> impl Iterator<Item = Problem> + use<'o> {
    check(config).into_iter().map(|finding| match finding.keys.iter().find_map(|key| overrides.said(key)) {
        Some(given) => given.found(finding),
        None => {
            let key = finding.keys.first().cloned().unwrap_or_default();
            Problem { place: Place::CommandLine, key, message: finding.message, severity: finding.severity }
        }
    })
}

impl Given {
    /// A flag's value.
    #[must_use]
    pub fn on_command_line(name: &str, text: &str) -> Self {
        Self { text: Secret::new(text), place: Place::CommandLine, name: name.to_owned() }
    }

    /// A variable's value, if it is set and not empty.
    #[must_use]
    pub fn in_environment(name: &str, lookup: Lookup<'_>) -> Option<Self> {
        let text = lookup(name).filter(|text| !text.trim().is_empty())?;
        Some(Self { text: Secret::new(text), place: Place::Environment, name: name.to_owned() })
    }

    /// The URLs of the two servers, or the parts of the PostgreSQL one.
    #[must_use]
    pub fn servers_in_environment(lookup: Lookup<'_>) -> [Option<Self>; 2] {
        let postgres = Self::first_in_environment("DATABASE_URL", lookup).or_else(|| Self::from_parts(lookup));
        [postgres, Self::first_in_environment("REDIS_URL", lookup)]
    }

    /// The value of the variable, or of the first of those that are numbered after it: where one of several sources may have it, but which of
    /// them cannot be known beforehand, each gets a name.
    fn first_in_environment(name: &str, lookup: Lookup<'_>) -> Option<Self> {
        let numbered = (2..=MOST_NUMBERED).map(|number| format!("{name}_{number}"));
        Self::in_environment(name, lookup).or_else(|| numbered.into_iter().find_map(|name| Self::in_environment(&name, lookup)))
    }

    /// libpq's variables as a URL. User and password are defaults anyway.
    fn from_parts(lookup: Lookup<'_>) -> Option<Self> {
        let part = |name| Some(Self::first_in_environment(name, lookup)?.text.reveal().trim().to_owned());
        let encoded = |text: String| utf8_percent_encode(&text, NON_ALPHANUMERIC).to_string();
        let host = Self::first_in_environment("PGHOST", lookup)?;
        let mut url = "postgres://".to_owned();
        match host.text.reveal().trim() {
            address if address.contains(':') && !address.starts_with('[') => url.push_str(&format!("[{address}]")),
            directory if directory.starts_with('/') => url.push_str(&encoded(directory.to_owned())),
            name => url.push_str(name),
        }
        part("PGPORT").into_iter().for_each(|port| url.push_str(&format!(":{port}")));
        part("PGDATABASE").into_iter().for_each(|database| url.push_str(&format!("/{}", encoded(database))));
        part("PGSSLMODE").into_iter().for_each(|mode| url.push_str(&format!("?sslmode={}", encoded(mode))));
        Some(Self { text: Secret::new(url), ..host })
    }

    /// Its value, read like the setting.
    pub(crate) fn read<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, Problem> {
        parse(self.text.reveal().trim()).map_err(|message| self.error(message))
    }

    pub(crate) fn error(&self, message: impl Into<String>) -> Problem {
        Problem::error(self.place.clone(), &self.name, message)
    }

    /// What `check` has found about it.
    pub(crate) fn found(&self, finding: Finding) -> Problem {
        Problem { place: self.place.clone(), key: self.name.clone(), message: finding.message, severity: finding.severity }
    }
}

impl Overrides {
    /// The overrides that the environment has.
    #[must_use]
    pub fn from_environment(lookup: Lookup<'_>) -> Self {
        let variable = |name| Given::in_environment(name, lookup);
        Self {
            pool_size: variable("SIDEPOOL_POOL_SIZE"),
            postgres_listen: variable("SIDEPOOL_POSTGRES_LISTEN"),
            redis_listen: variable("SIDEPOOL_REDIS_LISTEN"),
            admin_listen: variable("SIDEPOOL_ADMIN_LISTEN"),
            workers: variable("SIDEPOOL_WORKERS"),
            pool_mode: variable("SIDEPOOL_POOL_MODE"),
            drain_timeout: variable("SIDEPOOL_DRAIN_TIMEOUT"),
            quitquitquit: variable("SIDEPOOL_QUITQUITQUIT"),
            database_alias: variable("SIDEPOOL_DATABASE_ALIAS"),
            log_level: variable("SIDEPOOL_LOG_LEVEL"),
            log_format: variable("SIDEPOOL_LOG_FORMAT"),
            default_user: Given::first_in_environment("PGUSER", lookup).or_else(|| ["USER", "LOGNAME"].into_iter().find_map(variable)),
            default_password: Given::first_in_environment("PGPASSWORD", lookup),
        }
    }

    /// These, and where they say nothing, `others`.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            pool_size: self.pool_size.or(others.pool_size),
            postgres_listen: self.postgres_listen.or(others.postgres_listen),
            redis_listen: self.redis_listen.or(others.redis_listen),
            admin_listen: self.admin_listen.or(others.admin_listen),
            workers: self.workers.or(others.workers),
            pool_mode: self.pool_mode.or(others.pool_mode),
            drain_timeout: self.drain_timeout.or(others.drain_timeout),
            quitquitquit: self.quitquitquit.or(others.quitquitquit),
            database_alias: self.database_alias.or(others.database_alias),
            log_level: self.log_level.or(others.log_level),
            log_format: self.log_format.or(others.log_format),
            default_user: self.default_user.or(others.default_user),
            default_password: self.default_password.or(others.default_password),
        }
    }

    /// What was said here in the place of the setting with this key in a file.
    pub(crate) fn said(&self, key: &str) -> Option<&Given> {
        let (section, name) = key.rsplit_once('.').unwrap_or_default();
        match (section, name) {
            ("admin", "listen") => self.admin_listen.as_ref(),
            ("drain", "timeout") => self.drain_timeout.as_ref(),
            ("postgres", "listen") => self.postgres_listen.as_ref(),
            (_, "listen") => self.redis_listen.as_ref(),
            (_, "pool_size" | "default_pool_size") => self.pool_size.as_ref(),
            (_, _) => None,
        }
    }
}

/// A configuration being put together.
struct Assembly<'o> {
    overrides: &'o Overrides,
    pool_size: Option<u32>,
    problems: Vec<Problem>,
}

impl Assembly<'_> {
    fn value<T>(&mut self, given: Option<&Given>, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let given = given?;
        given.read(parse).map_err(|problem| self.problems.push(problem)).ok()
    }

    fn log(&mut self) -> Log {
        let defaults = Log::default();
        Log {
            level: self.value(self.overrides.log_level.as_ref(), parse_choice).unwrap_or(defaults.level),
            format: self.value(self.overrides.log_format.as_ref(), parse_choice).unwrap_or(defaults.format),
            ..defaults
        }
    }

    fn drain(&mut self) -> Drain {
        let timeout = self.value(self.overrides.drain_timeout.as_ref(), |text| parse_duration(text).map_err(|error| error.to_string()));
        let defaults = Drain::default();
        Drain { timeout: timeout.unwrap_or(defaults.timeout), ..defaults }
    }

    fn listen(&mut self, given: Option<&Given>, protocol: Protocol) -> Vec<Listen> {
        self.value(given, |text| parse_listens(text, protocol)).unwrap_or_else(|| vec![protocol.default_listen()])
    }

    fn notes(&mut self, given: &Given, notes: &[String]) {
        self.problems.extend(notes.iter().map(|note| Problem::warning(given.place.clone(), &given.name, note.clone())));
    }

    fn postgres(&mut self, given: &Given) -> Option<Postgres> {
        let url = self.value(Some(given), postgres_url::parse)?;
        self.notes(given, &url.notes);
        let Some(user) = url.user.clone().or_else(|| Some(self.overrides.default_user.as_ref()?.text.reveal().to_owned())) else {
            self.problems.push(given.error("names no user: write postgres://USER:PASSWORD@HOST/DBNAME, or set PGUSER"));
            return None;
        };
        let upstream = match postgres_upstream(&url) {
            Ok(upstream) => upstream,
            Err(message) => {
                self.problems.push(given.error(message));
                return None;
            }
        };
        let dbname = url.dbname.unwrap_or_else(|| user.clone());
        let mut any = PgDatabase::at(upstream);
        any.user = Some(user);
        any.password = url.password.or_else(|| Some(self.overrides.default_password.as_ref()?.text.clone()));
        any.tls = url.tls.unwrap_or_default();
        any.limits.pool_size = self.pool_size.unwrap_or(any.limits.pool_size);
        any.pool_mode = self.value(self.overrides.pool_mode.as_ref(), parse_choice).unwrap_or(any.pool_mode);
        let named = PgDatabase { dbname: Some(dbname.clone()), ..any.clone() };
        let mut databases = BTreeMap::from([("*".to_owned(), any), (dbname, named.clone())]);
        if let Some(alias) = self.overrides.database_alias.as_ref() {
            databases.insert(alias.text.reveal().trim().to_owned(), named);
        }
        Some(Postgres {
            listen: self.listen(self.overrides.postgres_listen.as_ref(), Protocol::Postgres),
            auth_type: AuthType::Any,
            databases,
            zero_config: true,
            ..Postgres::default()
        })
    }

    fn redis(&mut self, given: &Given) -> Option<Redis> {
        let url = self.value(Some(given), redis_url::parse)?;
        self.notes(given, &url.notes);
        if url.user.is_some() && url.password.is_none() {
            self.problems.push(given.error("has a user without a password: write redis://:PASSWORD@HOST for a password alone"));
        }
        let mut redis = Redis::at(url.upstream);
        (redis.tls, redis.user, redis.password) = (url.tls.unwrap_or(UpstreamTls::Disable), url.user, url.password);
        redis.database = url.database.unwrap_or_default();
        redis.limits.pool_size = self.pool_size.unwrap_or(redis.limits.pool_size);
        redis.listen = self.listen(self.overrides.redis_listen.as_ref(), Protocol::Redis);
        Some(redis)
    }
}

/// Reads addresses that are separated by commas.
pub(crate) fn parse_listens(text: &str, protocol: Protocol) -> Result<Vec<Listen>, String> {
    let (listens, wrong) = parse_all(text.split(','), protocol);
    let messages: Vec<String> = wrong.into_iter().map(|(_, message)| message).collect();
    if messages.is_empty() { Ok(listens) } else { Err(messages.join("; ")) }
}

/// Reads `on` or `off`.
fn parse_switch(text: &str) -> Result<bool, String> {
    match text {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err("must be on or off".to_owned()),
    }
}

/// Reads the size of a pool.
pub(crate) fn parse_pool_size(text: &str) -> Result<u32, String> {
    let size = text.parse().ok().filter(|size| (1..=MOST_CONNECTIONS).contains(size));
    size.ok_or_else(|| format!("must be a whole number from 1 to {MOST_CONNECTIONS}"))
}

/// Where libpq would connect: the host of the URL, or the one local machine that is certain to be meant.
fn postgres_upstream(url: &PostgresUrl) -> Result<Upstream, String> {
    let port = url.port.unwrap_or(DEFAULT_PORT);
    match url.host.as_deref() {
        Some(host) if host.starts_with('/') => {
            let path = postgres_socket(std::path::Path::new(host), port);
            fits(&path).map(|()| Upstream::Unix(path))
        }
        Some(host) => Ok(Upstream::Tcp { host: host.to_owned(), port }),
        None => Ok(Upstream::Tcp { host: "localhost".to_owned(), port }),
    }
}
