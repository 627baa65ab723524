//! Finds out where the upstream servers are said, and plans what changes: the sidecar gets the values as they are, the application an address
//! on loopback. Values of Secrets cannot be seen here: it is the references that move.

use serde_json::{Value, json};
use sidepool_config::environment::{Given, Overrides, from_given};
use sidepool_config::model::{Config, Upstream as Server};

use crate::address::Address;
use crate::options::Options;
use crate::pods::name;
use crate::source::{self, Source};
use crate::wish::{Configured, HostVariables, Protocol, UrlVariable, Wish, protocol_of_scheme, usual_urls};

/// The user and the database of applications that cannot be told the real ones; the sidecar knows what is meant.
const ALIAS: &str = "sidepool";

/// One variable of the application that changes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Edit {
    pub(crate) container: String,
    pub(crate) variable: String,
    pub(crate) value: String,
    /// The entry as it was; `None`: there was none.
    pub(crate) original: Option<Value>,
}

/// Everything that changes about the environment.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) edits: Vec<Edit>,
    /// What the sidecar gets.
    pub(crate) environment: Vec<Value>,
    /// Where it listens.
    pub(crate) protocols: Vec<Protocol>,
    pub(crate) warnings: Vec<String>,
}

/// Why there is no plan.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoPlan {
    /// The pod names no server.
    Nothing(String),
    /// It names one in a way that cannot be right, or cannot be carried out.
    Wrong(String),
}

/// The servers of one protocol, as the sidecar is told of them.
struct Found {
    protocol: Protocol,
    entries: Vec<Value>,
    /// What has to be the same wherever the server is named.
    identity: Value,
    /// Who named it first.
    by: String,
}

struct Planner<'w> {
    wish: &'w Wish,
    plan: Plan,
    found: Vec<Found>,
    needs_alias: bool,
}

/// Plans for these containers of the application.
pub(crate) fn plan(containers: &[&Value], wish: &Wish) -> Result<Plan, NoPlan> {
    let mut planner = Planner { wish, plan: Plan::default(), found: Vec::new(), needs_alias: false };
    planner.said_upstreams().map_err(NoPlan::Wrong)?;
    planner.containers(containers).map_err(NoPlan::Wrong)?;
    planner.conclude(containers)
}

impl Planner<'_> {
    fn options(&self) -> &Options {
        &self.wish.options
    }

    fn port(&self, protocol: Protocol) -> u16 {
        match protocol {
            Protocol::Postgres => self.options().port,
            Protocol::Redis => self.options().redis_port,
        }
    }

    fn has_file(&self) -> bool {
        self.wish.configured != Configured::Environment
    }

    /// What the annotation `upstream` says.
    fn said_upstreams(&mut self) -> Result<(), String> {
        if self.has_file() && !self.wish.upstreams.is_empty() {
            return Err("sidepool.dev/upstream: say it in the configuration file, as there is one".to_owned());
        }
        for upstream in &self.wish.upstreams {
            let mut entry = upstream.entry.clone();
            if let Some(url) = entry["value"].as_str() {
                let warnings = check(url, upstream.protocol, self.port(upstream.protocol))?;
                self.plan.warnings.extend(warnings.into_iter().map(|warning| format!("sidepool.dev/upstream: {warning}")));
            }
            entry["name"] = target(upstream.protocol).into();
            self.found.push(Found {
                protocol: upstream.protocol,
                entries: vec![entry],
                identity: Value::Null,
                by: "sidepool.dev/upstream".to_owned(),
            });
        }
        Ok(())
    }

    fn containers(&mut self, containers: &[&Value]) -> Result<(), String> {
        let wish = self.wish;
        // Nobody has said what to look for: what everybody calls it, where it can be seen.
        let is_said = wish.urls.is_some() || wish.host.is_some();
        let urls = wish.urls.clone().unwrap_or_else(|| if is_said { Vec::new() } else { usual_urls() });
        for variable in &urls {
            self.everywhere(containers, &variable.name, is_said, |planner, container, source| {
                planner.url(container, variable, source, is_said)
            })?;
        }
        if let Some(host) = &wish.host {
            self.everywhere(containers, &host.host, true, |planner, container, source| planner.host(container, host, source))?;
        } else if !is_said && !self.plan.edits.iter().any(|edit| edit.variable == "DATABASE_URL") {
            let host = HostVariables::libpq();
            self.everywhere(containers, &host.host, false, |planner, container, source| planner.host(container, &host, source))?;
        }
        Ok(())
    }

    /// Does it in all containers that have the variable. One that was asked for has to be in one of them at least.
    fn everywhere(
        &mut self,
        containers: &[&Value],
        variable: &str,
        is_said: bool,
        mut act: impl FnMut(&mut Self, &Value, &Source) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut any = false;
        for container in containers {
            let source = source::of(container, variable).filter(|source| is_said || !matches!(source, Source::Imported(_)));
            let Some(source) = source else { continue };
            any = true;
            act(self, container, &source).map_err(|error| format!("container {}: {error}", name(container)))?;
        }
        if is_said && !any {
            let names: Vec<&str> = containers.iter().map(|container| name(container)).collect();
            return Err(format!("no container ({}) has the variable {variable}", names.join(", ")));
        }
        Ok(())
    }

    fn url(&mut self, container: &Value, variable: &UrlVariable, source: &Source, is_said: bool) -> Result<(), String> {
        let (text, shows_all) = match source {
            Source::Literal(text) => (Some(text.as_str()), true),
            Source::Composite(text) => (Some(text.as_str()), false),
            Source::Reference(_) | Source::Imported(_) => (None, false),
        };
        let address = text.and_then(Address::parse);
        let seen = address.as_ref().and_then(|address| protocol_of_scheme(address.scheme));
        if shows_all && seen.is_none() {
            // DATABASE_URL may be that of another kind of database.
            let message = format!("{} is no URL of PostgreSQL or Redis", variable.name);
            return if is_said { Err(message) } else { Ok(()) };
        }
        let protocol = seen.unwrap_or(variable.protocol);
        let port = self.port(protocol);
        let value = match (&address, seen) {
            (Some(address), Some(_)) if self.has_file() => address.with_host_only(port),
            (Some(address), Some(_)) => {
                self.needs_alias |= protocol == Protocol::Postgres && address.path.is_some_and(|path| path.contains('$'));
                address.on_loopback(port, ALIAS, self.wish.database.as_deref().unwrap_or(ALIAS))
            }
            _ if self.has_file() && !is_said => {
                self.plan.warnings.push(format!("{} is a Secret's and stays as it is: point it to 127.0.0.1:{port} there", variable.name));
                return Ok(());
            }
            _ if self.has_file() => {
                return Err(format!(
                    "{} is a Secret's: the configuration file cannot take it over, and what else it says is not seen",
                    variable.name
                ));
            }
            _ => self.unseen(protocol, variable.scheme.as_deref(), port),
        };
        if !self.has_file() {
            self.take_url(container, variable, source, protocol)?;
        }
        self.serve(protocol);
        self.edit(container, &variable.name, value);
        Ok(())
    }

    /// What an application gets whose URL is not to be seen.
    fn unseen(&mut self, protocol: Protocol, scheme: Option<&str>, port: u16) -> String {
        match protocol {
            Protocol::Redis => {
                let with_tls = |scheme: &&str| ["rediss", "valkeys"].contains(scheme);
                let scheme = scheme.filter(|scheme| !with_tls(scheme)).unwrap_or("redis");
                format!("{scheme}://127.0.0.1:{port}")
            }
            Protocol::Postgres => {
                self.needs_alias |= self.wish.database.is_none();
                let database = self.wish.database.as_deref().unwrap_or(ALIAS);
                let user = format!("{ALIAS}@");
                match scheme.unwrap_or("postgresql") {
                    jdbc if jdbc.starts_with("jdbc:") => format!("{jdbc}://127.0.0.1:{port}/{database}?user={ALIAS}"),
                    scheme => format!("{scheme}://{user}127.0.0.1:{port}/{database}"),
                }
            }
        }
    }

    /// The sidecar gets the URL.
    fn take_url(&mut self, container: &Value, variable: &UrlVariable, source: &Source, protocol: Protocol) -> Result<(), String> {
        if self.is_said_by_annotation(protocol) {
            return Ok(());
        }
        let (source, identity) = match source {
            Source::Literal(text) => {
                let url = text.strip_prefix("jdbc:").unwrap_or(text);
                let warnings = check(url, protocol, self.port(protocol)).map_err(|error| format!("{} {error}", variable.name))?;
                self.plan.warnings.extend(warnings.into_iter().map(|warning| format!("{}: {warning}", variable.name)));
                let address = Address::parse(url);
                (Source::Literal(url.to_owned()), address.map(|address| json!([address.userinfo, address.host])))
            }
            other => (other.clone(), None),
        };
        let entries = source::carry(container, &variable.name, &source, target(protocol))?;
        let identity = identity.unwrap_or_else(|| Value::Array(entries.clone()));
        self.found(Found { protocol, entries, identity, by: format!("{} of container {}", variable.name, name(container)) })
    }

    fn host(&mut self, container: &Value, variables: &HostVariables, host: &Source) -> Result<(), String> {
        let port = self.port(Protocol::Postgres);
        if let Source::Literal(text) = host {
            if text.starts_with('/') {
                return Err(format!("{}: a Unix socket of another container cannot be reached", variables.host));
            }
            if text.contains(',') {
                return Err(format!("{}: several hosts take a configuration file (config-map)", variables.host));
            }
        }
        if !self.has_file() && !self.is_said_by_annotation(Protocol::Postgres) {
            let mut entries = source::carry(container, &variables.host, host, "PGHOST")?;
            let parts = [
                (&variables.port, "PGPORT"),
                (&variables.user, "PGUSER"),
                (&variables.password, "PGPASSWORD"),
                (&variables.database, "PGDATABASE"),
            ];
            let ssl = "PGSSLMODE".to_owned();
            for (variable, part) in parts.into_iter().chain([(&ssl, "PGSSLMODE")]) {
                if let Some(source) = source::of(container, variable) {
                    let more = source::carry(container, variable, &as_optional(source), part)?;
                    more.into_iter().for_each(|entry| {
                        if !entries.contains(&entry) {
                            entries.push(entry)
                        }
                    });
                }
            }
            let identity = Value::Array(entries.clone());
            let by = format!("{} of container {}", variables.host, name(container));
            self.found(Found { protocol: Protocol::Postgres, entries, identity, by })?;
        }
        self.serve(Protocol::Postgres);
        self.edit(container, &variables.host, "127.0.0.1".to_owned());
        self.edit(container, &variables.port, port.to_string());
        if source::of(container, "PGSSLMODE").is_some() {
            self.edit(container, "PGSSLMODE", "disable".to_owned());
        }
        Ok(())
    }

    fn is_said_by_annotation(&self, protocol: Protocol) -> bool {
        self.wish.upstreams.iter().any(|upstream| upstream.protocol == protocol)
    }

    fn found(&mut self, found: Found) -> Result<(), String> {
        let Some(before) = self.found.iter().find(|before| before.protocol == found.protocol) else {
            self.found.push(found);
            return Ok(());
        };
        if before.identity == found.identity {
            return Ok(());
        }
        Err(format!(
            "{} and {} are two servers or two users of one, or it cannot be seen that they are not: name the containers in sidepool.dev/containers, \
             the one server in sidepool.dev/upstream, or several in a configuration file (sidepool.dev/config-map)",
            before.by, found.by
        ))
    }

    fn serve(&mut self, protocol: Protocol) {
        if !self.plan.protocols.contains(&protocol) {
            self.plan.protocols.push(protocol);
        }
    }

    fn edit(&mut self, container: &Value, variable: &str, value: String) {
        let original = source::entry(container, variable).map(|(_, entry)| entry.clone());
        self.plan.edits.push(Edit { container: name(container).to_owned(), variable: variable.to_owned(), value, original });
    }

    fn conclude(mut self, containers: &[&Value]) -> Result<Plan, NoPlan> {
        for found in &self.found {
            if !self.plan.protocols.contains(&found.protocol) {
                self.plan.protocols.push(found.protocol);
            }
            for entry in &found.entries {
                match self.plan.environment.iter().find(|other| name(other) == name(entry)) {
                    None => self.plan.environment.push(entry.clone()),
                    Some(other) if other == entry => {}
                    Some(_) => {
                        let wrong =
                            format!("the sidecar would need two values of {}: say the servers in sidepool.dev/upstream", name(entry));
                        return Err(NoPlan::Wrong(wrong));
                    }
                }
            }
        }
        if self.plan.protocols.is_empty() && !self.has_file() {
            let imports = containers.iter().any(|container| container.get("envFrom").is_some());
            let hint = if imports { ", where envFrom hides it" } else { "" };
            return Err(NoPlan::Nothing(format!(
                "no container names a PostgreSQL or Redis server in DATABASE_URL, REDIS_URL or PGHOST: say which variable does in \
                 sidepool.dev/env-url or sidepool.dev/env-host{hint}, or the server itself in sidepool.dev/upstream"
            )));
        }
        if self.needs_alias && self.wish.database.is_none() {
            self.plan.environment.push(json!({ "name": "SIDEPOOL_DATABASE_ALIAS", "value": ALIAS }));
        }
        self.plan.protocols.sort_unstable();
        Ok(self.plan)
    }
}

/// The variable in which sidepool finds the URL.
fn target(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Postgres => "DATABASE_URL",
        Protocol::Redis => "REDIS_URL",
    }
}

/// What an import may lack, it may lack in the sidecar as well.
fn as_optional(source: Source) -> Source {
    let Source::Imported(mut references) = source else { return source };
    for reference in references.iter_mut().filter_map(Value::as_object_mut).flat_map(|map| map.values_mut()) {
        reference["optional"] = Value::Bool(true);
    }
    Source::Imported(references)
}

/// Whether sidepool will take this URL; if not, why. The answer is what it would warn of.
fn check(url: &str, protocol: Protocol, own_port: u16) -> Result<Vec<String>, String> {
    let given = Given::on_command_line("", url);
    let loaded = match protocol {
        Protocol::Postgres => from_given(Some(&given), None, &Overrides::default()),
        Protocol::Redis => from_given(None, Some(&given), &Overrides::default()),
    };
    let loaded = loaded.map_err(|rejected| {
        let messages: Vec<String> =
            rejected.problems.into_iter().filter(|problem| problem.is_error()).map(|problem| problem.message).collect();
        messages.join("; ")
    })?;
    match server(&loaded.config) {
        Some(Server::Unix(_)) => return Err("names a Unix socket, and one of another container cannot be reached".to_owned()),
        Some(Server::Tcp { host, port }) if *port == own_port && ["127.0.0.1", "localhost", "::1"].contains(&host.as_str()) => {
            return Err(format!("names port {port} of this pod, which will be sidepool's own: choose another (sidepool.dev/port)"));
        }
        Some(Server::Tcp { .. }) | None => {}
    }
    Ok(loaded.warnings.into_iter().map(|warning| warning.message).collect())
}

fn server(config: &Config) -> Option<&Server> {
    let redis = config.redis.values().next().map(|redis| &redis.upstream);
    redis.or_else(|| config.postgres.as_ref()?.databases.get("*")?.hosts.first())
}
