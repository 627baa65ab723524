//! `sidepool.toml`: read whole, with every problem in it reported at once.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use toml_edit::{Document, TableLike};

use crate::checks::check;
use crate::environment::{Lookup, Overrides};
use crate::listen::{Protocol, parse_all, parse_tcp};
use crate::model::{Admin, Config, Drain, Listen, Log, Workers};
use crate::names::Named;
use crate::overriding;
use crate::pgbouncer::Set;
use crate::problem::{Place, Problem, Severity, shown};
use crate::read_postgres::postgres;
use crate::read_redis::redis;
use crate::reading::Reading;
use crate::section::{Section, unknown_value};
use crate::settings::Scope;
use crate::sources::Sources;

/// The most threads that `workers` may ask for.
const MOST_WORKERS: u16 = 1024;

/// The most listeners of one kind.
const MOST_LISTENERS: usize = 64;

/// A configuration that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What is probably not meant.
    pub warnings: Vec<Problem>,
    /// The files it came from.
    pub sources: Sources,
}

/// A configuration that cannot be used. `Display` gives every problem on a line of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Everything that is wrong, warnings included.
    pub problems: Vec<Problem>,
    /// The files it came from, so that mending one of them can be noticed.
    pub sources: Sources,
}

/// Reads a configuration file and every file that it names. `lookup` gives environment variables.
pub fn load(path: &Path, lookup: Lookup<'_>) -> Result<Loaded, Rejected> {
    load_over(path, lookup, &Overrides::default())
}

/// Reads a configuration file beside which something was said that wins over it.
pub fn load_over(path: &Path, lookup: Lookup<'_>, overrides: &Overrides) -> Result<Loaded, Rejected> {
    load_set(path, lookup, overrides, &Set::new())
}

/// Reads a configuration file beside which something was said on the command line, and on the console, in PgBouncer's words.
pub fn load_set(path: &Path, lookup: Lookup<'_>, overrides: &Overrides, set: &Set) -> Result<Loaded, Rejected> {
    let mut sources = Sources::default();
    let refuse =
        |line, message: String, sources| Err(Rejected { problems: vec![Problem::error(Place::file(path, line), "", message)], sources });
    let contents = match sources.read(path) {
        Ok(contents) => contents,
        Err(error) => return refuse(None, format!("cannot be read: {error}"), sources),
    };
    match std::str::from_utf8(&contents) {
        Ok(text) => read(text, path, sources, lookup, overrides, set),
        Err(error) => {
            let newlines = contents.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count();
            refuse(u32::try_from(newlines + 1).ok(), "is not UTF-8 text".to_owned(), sources)
        }
    }
}

/// Reads a configuration from text, as if it stood in the file `path`.
pub fn load_text(text: &str, path: &Path, lookup: Lookup<'_>) -> Result<Loaded, Rejected> {
    load_text_over(text, path, lookup, &Overrides::default())
}

/// Reads a configuration from text beside which something was said that wins over it.
pub fn load_text_over(text: &str, path: &Path, lookup: Lookup<'_>, overrides: &Overrides) -> Result<Loaded, Rejected> {
    read(text, path, Sources::default(), lookup, overrides, &Set::new())
}

fn read(text: &str, path: &Path, sources: Sources, lookup: Lookup<'_>, overrides: &Overrides, set: &Set) -> Result<Loaded, Rejected> {
    let (mut reading, document) = Reading::start(text, path, sources, lookup);
    reading.set(set);
    let mut config = read_document(&reading, &document);
    for problem in overriding::apply(&mut config, overrides, reading.is_whole()) {
        reading.note(problem);
    }
    // Relations between values are only worth a word once the values themselves are known.
    if reading.is_whole() {
        for finding in check(&config) {
            let given = finding.keys.iter().find(|key| overrides.said(key).is_some() || reading.has(key)).or(finding.keys.first());
            let key = given.map(String::as_str).unwrap_or_default();
            if let Some(said) = overrides.said(key) {
                reading.note(said.found(finding));
                continue;
            }
            match finding.severity {
                Severity::Error => reading.error(reading.line_of(key), key, finding.message),
                Severity::Warning => reading.warning(reading.line_of(key), key, finding.message),
            }
        }
    }
    let (problems, sources) = reading.finish();
    conclude(config, problems, sources)
}

/// Reads a text that was made of another configuration file, as if it were the file [`DRAFT`]. Names of files are relative to where the program
/// runs, and relations between values are not looked at: whoever made it knows them.
pub(crate) fn load_draft(text: &str, sources: Sources) -> (Config, Vec<Problem>, Sources) {
    let (reading, document) = Reading::start(text, Path::new(DRAFT), sources, &|_| None);
    let config = read_document(&reading, &document);
    let (problems, sources) = reading.finish();
    (config, problems, sources)
}

/// The name of a configuration that stands in no file.
pub(crate) const DRAFT: &str = "draft";

/// The configuration, unless one of the problems is an error.
pub(crate) fn conclude(config: Config, problems: Vec<Problem>, sources: Sources) -> Result<Loaded, Rejected> {
    if problems.iter().any(Problem::is_error) {
        return Err(Rejected { problems, sources });
    }
    Ok(Loaded { config, warnings: problems, sources })
}

fn read_document(reading: &Reading<'_>, document: &Document<String>) -> Config {
    let table: &dyn TableLike = document.as_table();
    let root = Section::open(reading, Scope::Root, String::new(), None, table);
    let redis_sections = root.sections("redis", Scope::Redis);
    Config {
        workers: workers(&root).unwrap_or_default(),
        io_backend: root.choice("io_backend").unwrap_or_default(),
        memory_limit: root.size("memory_limit"),
        upgrade_socket: root.path("upgrade_socket"),
        admin: root.section("admin", Scope::Admin).map_or_else(Admin::default, |section| admin(&section)),
        drain: root.section("drain", Scope::Drain).map_or_else(Drain::default, |section| drain(&section)),
        log: root.section("log", Scope::Log).map_or_else(Log::default, |section| log(&section)),
        postgres: root.section("postgres", Scope::Postgres).map(|section| postgres(&section)),
        redis: redis_sections.iter().map(|(name, section)| (name.clone(), redis(section))).collect::<BTreeMap<_, _>>(),
        pgbouncer: None,
    }
}

fn workers(root: &Section<'_>) -> Option<Workers> {
    let field = root.field("workers")?;
    let parsed = match (field.item.as_integer(), field.item.as_str()) {
        (Some(number), _) => parse_workers(&number.to_string()),
        (None, Some(text)) if text.trim().parse::<i64>().is_ok() => Err("is a number in quotes; write it without them".to_owned()),
        (None, Some(text)) => parse_workers(text),
        (None, None) => return field.wrong_type("a number of threads or \"auto\""),
    };
    parsed.map_or_else(|message| field.wrong(message), Some)
}

/// Reads a number of workers, or `auto`.
pub(crate) fn parse_workers(text: &str) -> Result<Workers, String> {
    match text.parse::<i64>() {
        Ok(number) => match u16::try_from(number) {
            Ok(number) if (1..=MOST_WORKERS).contains(&number) => Ok(Workers::Count(number)),
            Ok(_) | Err(_) => Err(format!("{number} is out of range: must be from 1 to {MOST_WORKERS}, or \"auto\"")),
        },
        Err(_) if text == "auto" => Ok(Workers::Auto),
        Err(_) => Err(format!("{} is neither \"auto\" nor a number from 1 to {MOST_WORKERS}", shown(text))),
    }
}

fn admin(section: &Section<'_>) -> Admin {
    let listen = section.field("listen").and_then(|field| match parse_admin(&field.text()?) {
        Ok(listen) => Some(listen),
        Err(message) => field.wrong(message),
    });
    let defaults = Admin::default();
    Admin {
        listen: listen.unwrap_or(defaults.listen),
        metrics_names: section.choice("metrics_names").unwrap_or(defaults.metrics_names),
        metrics_max_pools: section.count("metrics_max_pools").unwrap_or(defaults.metrics_max_pools),
        quitquitquit: section.flag("quitquitquit").unwrap_or(defaults.quitquitquit),
        allowed_hosts: allowed_hosts(section),
    }
}

fn allowed_hosts(section: &Section<'_>) -> Vec<String> {
    let Some(field) = section.field("allowed_hosts") else { return Vec::new() };
    let mut hosts = Vec::new();
    for (host, line) in field.texts() {
        match check_allowed_host(&host) {
            Ok(()) => hosts.push(host),
            Err(message) => section.reading.error(line, &field.path, message),
        }
    }
    hosts
}

/// Whether this is a name by which the admin listener can be asked. What never matches is refused.
pub(crate) fn check_allowed_host(host: &str) -> Result<(), String> {
    let said = shown(host);
    if host == "*" {
        return Ok(());
    }
    if host.contains("://") || host.contains('/') {
        return Err(format!("{said} is a URL: write the name of the host alone, as in \"status.example.com\""));
    }
    if host.contains('*') {
        return Err(format!("{said} is a pattern: write each name out, or \"*\" for any name"));
    }
    if host.contains(':') {
        return Err(format!(
            "{said} has a port, or is an address: write the name alone, which holds for every port; addresses are always allowed"
        ));
    }
    let is_name = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if !is_name || host.trim_end_matches('.').is_empty() {
        return Err(format!("{said} is no name of a host: write it as browsers send it, as in \"status.example.com\""));
    }
    Ok(())
}

/// Reads the admin listener: an address, or `off`.
pub(crate) fn parse_admin(text: &str) -> Result<Option<std::net::SocketAddr>, String> {
    match text {
        "off" => Ok(None),
        other if other.starts_with("unix:") => Err("the admin listener is HTTP over TCP: an address with a port, or \"off\"".to_owned()),
        other => parse_tcp(other).map(Some),
    }
}

fn drain(section: &Section<'_>) -> Drain {
    let defaults = Drain::default();
    Drain {
        accept_for: section.duration("accept_for").unwrap_or(defaults.accept_for),
        timeout: section.duration("timeout").unwrap_or(defaults.timeout),
    }
}

fn log(section: &Section<'_>) -> Log {
    let defaults = Log::default();
    let connections = section.flag("connections").unwrap_or(defaults.connections);
    Log {
        level: section.choice("level").unwrap_or(defaults.level),
        format: section.choice("format").unwrap_or(defaults.format),
        connections,
        disconnections: section.flag("disconnections").unwrap_or(connections),
        pooler_errors: section.flag("pooler_errors").unwrap_or(defaults.pooler_errors),
        stats: section.flag("stats").unwrap_or(defaults.stats),
    }
}

/// Reads one of the closed values from plain text.
pub(crate) fn parse_choice<T: Named>(text: &str) -> Result<T, String> {
    T::from_name(text).ok_or_else(|| unknown_value(text, &T::all_names()))
}

impl Section<'_> {
    /// The data listeners of this section, if it says any.
    pub(crate) fn listen(&self, protocol: Protocol) -> Option<Vec<Listen>> {
        let field = self.field("listen")?;
        let texts = field.texts();
        if texts.is_empty() {
            return field
                .item
                .as_array()
                .filter(|array| array.is_empty())
                .and_then(|_| field.wrong(format!("is empty; leave it out to listen on {}", protocol.default_listen())));
        }
        if texts.len() > MOST_LISTENERS {
            return field.wrong(format!("has {} addresses; at most {MOST_LISTENERS} are possible", texts.len()));
        }
        let (listens, wrong) = parse_all(texts.iter().map(|(text, _)| text.as_str()), protocol);
        for (index, message) in wrong {
            let line = texts.get(index).map_or(field.line, |(_, line)| *line);
            self.reading.error(line, &field.path, message);
        }
        Some(listens)
    }
}

impl Rejected {
    /// What is wrong, in one line and without where.
    #[must_use]
    pub fn errors(&self) -> String {
        let errors: Vec<&str> = self.problems.iter().filter(|problem| problem.is_error()).map(|problem| problem.message.as_str()).collect();
        errors.join("; ")
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Rejected {}
