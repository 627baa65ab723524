//! Loads a `pgbouncer.ini`: the document, its draft as `sidepool.toml`, and what no TOML says: listeners, the `auth_file`, the process.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use super::document::{self, Document, Said};
use super::draft::{self, Draft, number, text};
use super::process::Process;
use super::table;
use super::value;
use crate::file::{DRAFT, Loaded, Rejected, check_allowed_host, conclude, load_draft, parse_admin, parse_workers};
use crate::listen::{fits, postgres_socket};
use crate::model::{Admin, AuthType, Config, IoBackend, Listen, Log, LogFormat, LogLevel, MetricsNames, Postgres};
use crate::names::Named as _;
use crate::problem::{Place, Problem, shown};
use crate::sources::Sources;
use crate::userlist;

/// What is said beside the file and wins over it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// How often `-v` was said.
    pub verbose: u32,
    /// `-u`
    pub user: Option<String>,
    /// Where the service manager listens for us already, instead of at `listen_addr` and `unix_socket_dir`; none: it does not.
    pub listen: Vec<Listen>,
}

/// Settings by name with their values, as the console's SET says them.
pub type Set = BTreeMap<String, String>;

/// Reads a `pgbouncer.ini` and every file it names; `set` wins over what they say.
pub fn load(path: &Path, flags: &Flags, set: &Set) -> Result<Loaded, Rejected> {
    let mut sources = Sources::default();
    let (document, problems) = document::read(path, &mut |path| {
        let bytes = sources.read(path)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
    });
    finish(document, problems, sources, flags, set)
}

/// Reads a text as if it stood in the file `path`; what it includes is not there.
pub fn load_text(text: &str, path: &Path) -> Result<Loaded, Rejected> {
    let reader = &mut |named: &Path| if named == path { Ok(text.to_owned()) } else { Err(io::ErrorKind::NotFound.into()) };
    let (document, problems) = document::read(path, reader);
    finish(document, problems, Sources::default(), &Flags::default(), &Set::new())
}

fn finish(mut document: Document, mut problems: Vec<Problem>, sources: Sources, flags: &Flags, set: &Set) -> Result<Loaded, Rejected> {
    overlay(&mut document, flags, set, &mut problems);
    let mut draft = draft::draft(&document);
    problems.append(&mut draft.problems);
    let (mut config, found, mut sources) = load_draft(&draft.text(), sources);
    problems.extend(found.into_iter().map(|problem| skipped_line(&config, from_draft(&document, &draft, problem))));
    problems.extend(draft.notes.into_iter().map(|note| Problem::warning(Place::file(&document.path, None), "", note)));
    let mut loading = Loading { document: &document, problems, sources: &mut sources };
    loading.process(&mut config);
    if let Some(postgres) = &mut config.postgres {
        match flags.listen.as_slice() {
            [] => loading.listen(postgres),
            opened => postgres.listen = opened.to_vec(),
        }
        loading.users(postgres);
    }
    let mut problems = loading.problems;
    problems.sort_by_key(|problem| match &problem.place {
        Place::File { path, line } => (*path != document.path, line.unwrap_or(0)),
        Place::Environment | Place::CommandLine | Place::Console => (true, 0),
    });
    conclude(config, problems, sources)
}

/// What the command line and the console say.
fn overlay(document: &mut Document, flags: &Flags, set: &Set, problems: &mut Vec<Problem>) {
    let mut say = |name: &str, text: String, place: Place| match table::setting(name) {
        Some(setting) => drop(document.settings.insert(setting.name, Said { text, place })),
        None => problems.push(Problem::error(place, "", format!("unknown parameter: pgbouncer/{}", name.escape_debug()))),
    };
    if let Some(user) = &flags.user {
        say("user", user.clone(), Place::CommandLine);
    }
    for (name, text) in set {
        say(name, text.clone(), Place::Console);
    }
    if flags.verbose > 0 {
        let said = number(document, "verbose").unwrap_or(0).saturating_add(i64::from(flags.verbose));
        document.settings.insert("verbose", Said { text: said.to_string(), place: Place::CommandLine });
    }
}

/// A problem that the draft has, at the line that it comes from.
fn from_draft(document: &Document, draft: &Draft, problem: Problem) -> Problem {
    let line = match &problem.place {
        Place::File { path, line } if path.as_path() == Path::new(DRAFT) => *line,
        Place::File { .. } | Place::Environment | Place::CommandLine | Place::Console => return problem,
    };
    let index = line.and_then(|line| usize::try_from(line).ok()?.checked_sub(1));
    let place = index.and_then(|index| draft.lines.get(index)?.place.clone());
    let place = place.unwrap_or_else(|| Place::file(&document.path, None));
    let key = problem.key.strip_prefix("postgres.").unwrap_or(&problem.key);
    let message = if key.is_empty() { problem.message } else { format!("invalid value for parameter {key}; {}", problem.message) };
    Problem { place, key: String::new(), message, severity: problem.severity }
}

/// A line of the HBA or ident file that cannot be read is a warning, as with PgBouncer: it lets nobody in, and the others hold.
fn skipped_line(config: &Config, problem: Problem) -> Problem {
    let files = config.postgres.iter().flat_map(|postgres| [(&postgres.auth_hba_file, "hba"), (&postgres.auth_ident_file, "ident")]);
    let kind = |path| files.clone().find(|(file, _)| file.as_ref() == Some(path)).map(|(_, kind)| kind);
    if let Place::File { path, line: Some(line) } = &problem.place
        && let Some(kind) = kind(path)
    {
        let message = format!("could not parse {kind} config line {line}; {}: this line lets nobody in", problem.message);
        return Problem::warning(problem.place, "", message);
    }
    problem
}

struct Loading<'l> {
    document: &'l Document,
    problems: Vec<Problem>,
    sources: &'l mut Sources,
}

impl Loading<'_> {
    fn place(&self, name: &str) -> Place {
        self.document.settings.get(name).map_or_else(|| Place::file(&self.document.path, None), |said| said.place.clone())
    }

    fn wrong(&mut self, name: &str, message: impl Into<String>) {
        let place = self.place(name);
        self.problems.push(Problem::error(place, "", message));
    }

    /// What concerns the process as a whole.
    fn process(&mut self, config: &mut Config) {
        let document = self.document;
        let flag = |name| draft::flag(document, name);
        config.log = Log {
            level: match number(document, "verbose").unwrap_or(0) {
                ..=0 => LogLevel::Info,
                1 => LogLevel::Debug,
                2.. => LogLevel::Trace,
            },
            format: LogFormat::Text,
            connections: flag("log_connections"),
            disconnections: flag("log_disconnections"),
            pooler_errors: flag("log_pooler_errors"),
            stats: flag("log_stats"),
        };
        let listen = match text(document, "metrics_listen") {
            "" => None,
            said => parse_admin(said).unwrap_or_else(|message| {
                self.wrong("metrics_listen", format!("invalid value for parameter metrics_listen; {message}"));
                None
            }),
        };
        let allowed_hosts = value::list(text(document, "metrics_allowed_hosts"));
        for message in allowed_hosts.iter().filter_map(|host| check_allowed_host(host).err()) {
            self.wrong("metrics_allowed_hosts", format!("invalid value for parameter metrics_allowed_hosts; {message}"));
        }
        config.admin = Admin {
            listen,
            metrics_names: MetricsNames::from_name(&text(document, "metrics_names").to_ascii_lowercase()).unwrap_or_default(),
            metrics_max_pools: number(document, "metrics_max_pools").and_then(|count| u32::try_from(count).ok()).unwrap_or(0),
            quitquitquit: false,
            allowed_hosts,
        };
        config.io_backend = IoBackend::from_name(&text(document, "io_backend").to_ascii_lowercase()).unwrap_or_default();
        match parse_workers(text(document, "workers")) {
            Ok(workers) => config.workers = workers,
            Err(message) => self.wrong("workers", format!("invalid value for parameter workers; {message}")),
        }
        let settings = document.settings.iter().map(|(name, said)| (*name, said.text.clone())).collect();
        config.pgbouncer = Some(Box::new(Process { conffile: document.path.clone(), settings }));
    }

    fn listen(&mut self, postgres: &mut Postgres) {
        let port = number(self.document, "listen_port").and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
        let mut listens = Vec::new();
        for host in value::list(text(self.document, "listen_addr")) {
            match addresses(&host, port) {
                Ok(found) => listens.extend(found.into_iter().map(Listen::Tcp)),
                Err(error) => self.wrong("listen_addr", format!("invalid value {} for parameter listen_addr; {error}", shown(&host))),
            }
        }
        listens.dedup();
        let directory = text(self.document, "unix_socket_dir");
        if !directory.is_empty() {
            let path = postgres_socket(Path::new(directory), port);
            match fits(&path) {
                Ok(()) => listens.push(Listen::Unix(path)),
                Err(message) => self.wrong("unix_socket_dir", format!("invalid value for parameter unix_socket_dir; {message}")),
            }
        }
        if listens.is_empty() && self.problems.iter().all(|problem| !problem.is_error()) {
            self.wrong("listen_addr", "nowhere to listen on; set listen_addr or unix_socket_dir");
        }
        postgres.listen = listens;
    }

    /// The users of the `auth_file`. One that cannot be read lets nobody in, but is no reason not to start, as with PgBouncer.
    fn users(&mut self, postgres: &mut Postgres) {
        let named = text(self.document, "auth_file");
        let is_needed = match postgres.auth_type {
            AuthType::Any | AuthType::Pam => false,
            AuthType::Trust | AuthType::Plain | AuthType::Md5 | AuthType::ScramSha256 | AuthType::Cert | AuthType::Hba | AuthType::Ldap => {
                true
            }
        };
        if !is_needed {
            return;
        }
        if named.is_empty() {
            return postgres.mark_unlisted(None);
        }
        let path = PathBuf::from(named);
        let contents = self.sources.read(&path).and_then(|bytes| {
            String::from_utf8(bytes.to_vec()).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
        });
        let contents = match contents {
            Ok(contents) => contents,
            Err(error) => {
                let place = self.place("auth_file");
                self.problems.push(Problem::warning(place, "", format!("could not open auth_file {named}: {error}")));
                return postgres.mark_unlisted(Some(&[]));
            }
        };
        let (users, wrong) = userlist::parse(&contents);
        let wrong =
            wrong.into_iter().map(|(line, why)| Problem::warning(Place::file(&path, Some(line)), "", format!("broken auth file; {why}")));
        self.problems.extend(wrong);
        let names: Vec<String> = users.keys().cloned().collect();
        for (name, password) in users {
            postgres.users.entry(name).or_default().password = password;
        }
        postgres.mark_unlisted(Some(&names));
    }
}

/// Where a name of `listen_addr` is: `*` is every address there is.
fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if host == "*" {
        return Ok(vec![
            SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
            SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
        ]);
    }
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let mut found: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    found.sort_unstable();
    found.dedup();
    Ok(found)
}
