//! What the label and the annotations of a pod ask for. Every mistake is found, said, and answered with what was probably meant.

use std::collections::BTreeMap;

use serde_json::Value;
use sidepool_config::problem::nearest;
use sidepool_config::units::parse_duration;

use crate::options::Options;
use crate::pods::{at, text};

/// The label that asks for the sidecar (`true`) or forbids it (`false`), on a pod or a namespace.
pub const LABEL: &str = "sidepool.dev/inject";

/// Where the injector notes what it has done.
pub const STATUS: &str = "sidepool.dev/status";

const PREFIX: &str = "sidepool.dev/";

/// Every annotation that a pod may have, with what it means.
pub const ANNOTATIONS: &[(&str, &str)] = &[
    ("config", "the whole sidepool.toml, mounted as a file: an edit of the annotation is a reload"),
    ("config-map", "a ConfigMap of the pod's namespace with the key sidepool.toml: an edit is a reload"),
    ("upstream", "the servers, where no container names them: a URL, or [postgres=|redis=]secret/NAME/KEY, separated by commas"),
    ("database", "the database in the application's URL where that comes from a Secret"),
    ("pool-size", "most upstream connections of each pool (20)"),
    ("mode", "transaction, session or statement"),
    ("port", "where PostgreSQL clients connect (6432)"),
    ("redis-port", "where Redis clients connect (6380)"),
    ("admin-port", "where metrics and probes are (9127)"),
    ("env-url", "variables with URLs, separated by commas: NAME, or NAME=SCHEME (DATABASE_URL, REDIS_URL)"),
    ("env-host", "the variable with the PostgreSQL host (PGHOST)"),
    ("env-port", "the variable with its port"),
    ("env-user", "the variable with the user"),
    ("env-password", "the variable with the password"),
    ("env-database", "the variable with the database"),
    ("containers", "the containers to look at, separated by commas (all)"),
    ("image", "the image of the sidecar"),
    ("cpu-request", "processor time that is kept for the sidecar (50m)"),
    ("memory-request", "memory that is kept for it (32Mi)"),
    ("memory-limit", "the most memory that it may have (128Mi)"),
    ("log-level", "error, warn, info, debug or trace"),
    ("native-sidecar", "true or false"),
    ("drain-timeout", "how long clients may go on after the end of the pod has begun (25s)"),
    ("status", "written by the injector"),
];

/// PostgreSQL or Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Postgres,
    Redis,
}

/// A variable that holds a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UrlVariable {
    pub(crate) name: String,
    /// What the application's URL shall begin with where the present one cannot be seen.
    pub(crate) scheme: Option<String>,
    pub(crate) protocol: Protocol,
}

/// The variables that hold the parts of a PostgreSQL address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostVariables {
    pub(crate) host: String,
    pub(crate) port: String,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) database: String,
}

/// Where a server is said to be by the annotation `upstream`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upstream {
    pub(crate) protocol: Protocol,
    /// An entry of `env` but for its name.
    pub(crate) entry: Value,
}

/// Where the configuration of the sidecar is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Configured {
    /// In its environment.
    Environment,
    /// In a ConfigMap.
    ConfigMap(String),
    /// In an annotation of the pod.
    Annotation,
}

/// What a pod asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Whether the pod asks itself, and not only its namespace.
    pub(crate) own: bool,
    pub(crate) configured: Configured,
    pub(crate) upstreams: Vec<Upstream>,
    pub(crate) urls: Option<Vec<UrlVariable>>,
    pub(crate) host: Option<HostVariables>,
    pub(crate) containers: Option<Vec<String>>,
    pub(crate) native: Option<bool>,
    pub(crate) drain_seconds: Option<u64>,
    /// Values that go into the environment of the sidecar as they are.
    pub(crate) plain: BTreeMap<&'static str, String>,
    pub(crate) database: Option<String>,
    /// The options, with what the pod has to say to them.
    pub(crate) options: Options,
}

/// What the label of a pod says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Label {
    Yes,
    No,
    Missing,
}

/// Reads the label.
pub(crate) fn label(pod: &Value) -> Result<Label, String> {
    match at(pod, &["metadata", "labels", LABEL]) {
        None | Some(Value::Null) => Ok(Label::Missing),
        Some(Value::String(text)) if text == "true" => Ok(Label::Yes),
        Some(Value::String(text)) if text == "false" => Ok(Label::No),
        Some(_) => Err(format!("the label {LABEL} must be \"true\" or \"false\", in quotes")),
    }
}

/// Reads the annotations. The error names everything that is wrong.
pub(crate) fn read(pod: &Value, own: bool, options: &Options) -> Result<Wish, String> {
    let mut reader = Reader { given: BTreeMap::new(), problems: Vec::new() };
    reader.gather(pod);
    let own = own || reader.given.keys().any(|name| name != "status");
    let wish = reader.wish(own, options);
    if reader.problems.is_empty() { Ok(wish) } else { Err(reader.problems.join("; ")) }
}

struct Reader {
    given: BTreeMap<String, String>,
    problems: Vec<String>,
}

impl Reader {
    fn gather(&mut self, pod: &Value) {
        let known = || ANNOTATIONS.iter().map(|(name, _)| *name);
        let labels = at(pod, &["metadata", "labels"]).and_then(Value::as_object).into_iter().flatten();
        for (key, _) in labels.filter(|(key, _)| *key != LABEL) {
            let Some(name) = key.strip_prefix(PREFIX) else { continue };
            let hint = match nearest(name, known().chain(["inject"])) {
                Some("inject") => format!("did you mean the label {LABEL}?"),
                Some(near) => format!("did you mean the annotation {PREFIX}{near}?"),
                None => format!("the only one is {LABEL}"),
            };
            self.problems.push(format!("there is no label {key}: {hint}"));
        }
        let annotations = at(pod, &["metadata", "annotations"]).and_then(Value::as_object).into_iter().flatten();
        for (key, value) in annotations {
            let Some(name) = key.strip_prefix(PREFIX) else { continue };
            if name == "inject" {
                self.problems.push(format!("{key} is a label, not an annotation: write it under metadata.labels"));
            } else if !known().any(|known| known == name) {
                let hint = nearest(name, known()).map_or_else(
                    || format!("there are {}", known().collect::<Vec<_>>().join(", ")),
                    |near| format!("did you mean {PREFIX}{near}?"),
                );
                self.problems.push(format!("there is no annotation {key}: {hint}"));
            } else if let Some(text) = value.as_str() {
                self.given.insert(name.to_owned(), text.trim().to_owned());
            } else {
                self.problems.push(format!("{key}: must be a text, in quotes"));
            }
        }
    }

    fn wish(&mut self, own: bool, options: &Options) -> Wish {
        let mut options = options.clone();
        self.ports(&mut options);
        self.take("image", word, &mut options.image);
        self.take("cpu-request", quantity, &mut options.resources.cpu_request);
        self.take("memory-request", quantity, &mut options.resources.memory_request);
        self.take("memory-limit", quantity, &mut options.resources.memory_limit);
        let mut plain = BTreeMap::new();
        if let Some(size) = self.value("pool-size", |text| number(text, 1, 100_000).map(|size| size.to_string())) {
            plain.insert("SIDEPOOL_POOL_SIZE", size);
        }
        if let Some(mode) = self.value("mode", |text| choice(text, &["transaction", "session", "statement"])) {
            plain.insert("SIDEPOOL_POOL_MODE", mode);
        }
        if let Some(level) = self.value("log-level", |text| choice(text, &["error", "warn", "info", "debug", "trace"])) {
            plain.insert("SIDEPOOL_LOG_LEVEL", level);
        }
        let drain = self.value("drain-timeout", |text| match parse_duration(text) {
            Ok(time) => Ok((text.to_owned(), time.as_secs())),
            Err(error) => Err(error.to_string()),
        });
        let drain_seconds = drain.map(|(text, seconds)| {
            plain.insert("SIDEPOOL_DRAIN_TIMEOUT", text);
            seconds
        });
        let configured = self.configured();
        if configured != Configured::Environment {
            for (name, annotation) in
                [("SIDEPOOL_POOL_SIZE", "pool-size"), ("SIDEPOOL_POOL_MODE", "mode"), ("SIDEPOOL_DRAIN_TIMEOUT", "drain-timeout")]
            {
                if plain.contains_key(name) {
                    self.problems.push(format!("{PREFIX}{annotation}: say it in the configuration file, as there is one"));
                }
            }
        }
        Wish {
            own,
            configured,
            upstreams: self.value("upstream", upstreams).unwrap_or_default(),
            urls: self.value("env-url", |text| words(text)?.into_iter().map(url_variable).collect()),
            host: self.host(),
            containers: self.value("containers", |text| Ok(words(text)?.into_iter().map(str::to_owned).collect())),
            native: self.value("native-sidecar", |text| choice(text, &["true", "false"]).map(|text| text == "true")),
            drain_seconds,
            plain,
            database: self.value("database", database),
            options,
        }
    }

    fn ports(&mut self, options: &mut Options) {
        self.take("port", port, &mut options.port);
        self.take("redis-port", port, &mut options.redis_port);
        self.take("admin-port", port, &mut options.admin_port);
        let ports = [("port", options.port), ("redis-port", options.redis_port), ("admin-port", options.admin_port)];
        for (index, (name, port)) in ports.iter().enumerate() {
            if let Some((other, _)) = ports[..index].iter().find(|(_, other)| other == port) {
                self.problems.push(format!("{PREFIX}{name} and {PREFIX}{other} are both {port}"));
            }
        }
    }

    fn configured(&mut self) -> Configured {
        let map = self.value("config-map", word);
        match (map, self.given.contains_key("config")) {
            (Some(_), true) => {
                self.problems.push(format!("{PREFIX}config and {PREFIX}config-map exclude each other"));
                Configured::Annotation
            }
            (Some(name), false) => Configured::ConfigMap(name),
            (None, true) => Configured::Annotation,
            (None, false) => Configured::Environment,
        }
    }

    fn host(&mut self) -> Option<HostVariables> {
        let host = self.value("env-host", variable);
        let mut part = |annotation: &str, ending: &str, libpq: &str| {
            let usual = match host.as_deref() {
                Some("PGHOST") | None => libpq.to_owned(),
                Some(host) => format!("{}{ending}", host.strip_suffix("HOST").unwrap_or(host)),
            };
            let given = self.value(annotation, variable);
            if given.is_some() && host.is_none() {
                self.problems.push(format!("{PREFIX}{annotation} goes with {PREFIX}env-host, which is missing"));
            }
            given.unwrap_or(usual)
        };
        let (port, user) = (part("env-port", "PORT", "PGPORT"), part("env-user", "USER", "PGUSER"));
        let (password, database) = (part("env-password", "PASSWORD", "PGPASSWORD"), part("env-database", "NAME", "PGDATABASE"));
        host.map(|host| HostVariables { host, port, user, password, database })
    }

    fn take<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>, into: &mut T) {
        if let Some(value) = self.value(name, parse) {
            *into = value;
        }
    }

    fn value<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.given.get(name)?;
        parse(text).map_err(|message| self.problems.push(format!("{PREFIX}{name}: {message}"))).ok()
    }
}

impl HostVariables {
    /// Those of libpq.
    pub(crate) fn libpq() -> Self {
        let [host, port, user, password, database] = ["PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE"].map(str::to_owned);
        Self { host, port, user, password, database }
    }
}

fn words(text: &str) -> Result<Vec<&str>, String> {
    let words: Vec<&str> = text.split(',').map(str::trim).collect();
    if words.iter().any(|word| word.is_empty()) { Err("an empty name".to_owned()) } else { Ok(words) }
}

fn word(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(char::is_whitespace) { Err("must be one word".to_owned()) } else { Ok(text.to_owned()) }
}

fn number(text: &str, least: u32, most: u32) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("must be a whole number from {least} to {most}"))
}

fn port(text: &str) -> Result<u16, String> {
    // 1024 and up: our container may not bind the ports below.
    number(text, 1024, 65535).map(|port| u16::try_from(port).unwrap_or(u16::MAX))
}

fn choice(text: &str, allowed: &[&str]) -> Result<String, String> {
    if allowed.contains(&text) {
        return Ok(text.to_owned());
    }
    let hint = nearest(text, allowed.iter().copied()).map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
    Err(format!("must be one of {}{hint}", allowed.join(", ")))
}

/// A quantity as Kubernetes writes it.
fn quantity(text: &str) -> Result<String, String> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let known = ["", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"].contains(&unit);
    let amount: Option<f64> = digits.parse().ok();
    match amount.filter(|amount| known && *amount > 0.0 && amount.is_finite()) {
        Some(_) => Ok(text.to_owned()),
        None => Err("must be an amount such as 50m or 64Mi".to_owned()),
    }
}

fn variable(text: &str) -> Result<String, String> {
    let fits = |character: char| character.is_ascii_alphanumeric() || "_-.".contains(character);
    if text.is_empty() || text.starts_with(|first: char| first.is_ascii_digit()) || !text.chars().all(fits) {
        return Err("must be the name of a variable".to_owned());
    }
    Ok(text.to_owned())
}

fn database(text: &str) -> Result<String, String> {
    // It becomes part of a URL as it is.
    let fits = |character: char| character.is_ascii_alphanumeric() || "_-.~%".contains(character);
    if text.is_empty() || !text.chars().all(fits) {
        return Err("must be the name of a database; what is neither letter, digit, _, - nor . is written %XX".to_owned());
    }
    Ok(text.to_owned())
}

/// Which protocol a scheme stands for.
pub(crate) fn protocol_of_scheme(scheme: &str) -> Option<Protocol> {
    let scheme = scheme.strip_prefix("jdbc:").unwrap_or(scheme);
    match scheme.split('+').next().unwrap_or_default() {
        "postgres" | "postgresql" => Some(Protocol::Postgres),
        "redis" | "rediss" | "valkey" | "valkeys" => Some(Protocol::Redis),
        _ => None,
    }
}

/// `NAME` or `NAME=SCHEME`.
fn url_variable(text: &str) -> Result<UrlVariable, String> {
    let (name, scheme) = text.split_once('=').map_or((text, None), |(name, scheme)| (name, Some(scheme)));
    let name = variable(name)?;
    let protocol = match scheme {
        Some(scheme) => protocol_of_scheme(scheme).ok_or_else(|| format!("{name}: no scheme of PostgreSQL or Redis is behind the ="))?,
        None if ["REDIS", "VALKEY"].iter().any(|word| name.to_ascii_uppercase().contains(word)) => Protocol::Redis,
        None => Protocol::Postgres,
    };
    Ok(UrlVariable { name, scheme: scheme.map(str::to_owned), protocol })
}

/// The variables that are looked for where nobody says which.
pub(crate) fn usual_urls() -> Vec<UrlVariable> {
    ["DATABASE_URL", "REDIS_URL"].into_iter().filter_map(|name| url_variable(name).ok()).collect()
}

fn upstreams(text: &str) -> Result<Vec<Upstream>, String> {
    let mut found: Vec<Upstream> = Vec::new();
    for word in words(text)? {
        let one = upstream(word)?;
        if found.iter().any(|other| other.protocol == one.protocol) {
            return Err("two servers of one protocol: that takes a configuration file (config-map)".to_owned());
        }
        found.push(one);
    }
    Ok(found)
}

fn upstream(word: &str) -> Result<Upstream, String> {
    if let Some((scheme, rest)) = word.split_once("://") {
        let protocol = protocol_of_scheme(scheme).ok_or("must begin with postgres:// or redis://")?;
        if rest.split('/').next().is_some_and(|authority| authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))) {
            return Err("has a password, and annotations are no secret: put the URL into a Secret and write secret/NAME/KEY".to_owned());
        }
        return Ok(Upstream { protocol, entry: serde_json::json!({ "value": word }) });
    }
    let (protocol, path) = match word.split_once('=') {
        Some(("postgres", path)) => (Protocol::Postgres, path),
        Some(("redis", path)) => (Protocol::Redis, path),
        Some(_) => return Err("before the = stands postgres or redis".to_owned()),
        None => (Protocol::Postgres, word),
    };
    let parts: Vec<&str> = path.split('/').collect();
    let kind = match parts.first() {
        Some(&"secret") => "secretKeyRef",
        Some(&"config-map") => "configMapKeyRef",
        Some(_) | None => return Err("must be a URL, secret/NAME/KEY or config-map/NAME/KEY".to_owned()),
    };
    let [_, name, key] = parts[..] else { return Err("must be a URL, secret/NAME/KEY or config-map/NAME/KEY".to_owned()) };
    Ok(Upstream { protocol, entry: serde_json::json!({ "valueFrom": { kind: { "name": name, "key": key } } }) })
}

/// Whether the pod was made by the kubelet from a file of its own: nobody can change it.
pub(crate) fn is_static(pod: &Value) -> bool {
    text(pod, &["metadata", "annotations", "kubernetes.io/config.mirror"]).is_some()
}
