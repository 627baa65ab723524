//! A `pgbouncer.ini` said again as `sidepool.toml`, line by line, each with the place it comes from.
//!
//! This is how the file is loaded and how it is migrated: what the two ways of saying a configuration mean cannot drift apart. Loading needs every
//! line, because the defaults of the two files differ; a migration leaves out those that say what holds anyway.

use super::document::{Document, Entry};
use super::entries;
use super::table::{self, Kind, OWN, SETTINGS, Setting, Use};
use super::value;
use crate::model::USED_ONCE;
use crate::problem::{Place, Problem, listed, shown};
use crate::settings::{self, Scope};
use crate::units::{LONGEST_DURATION, format_duration};
use std::time::Duration;

/// What stands for "no pause", which has no word in TOML.
const SHORTEST_RETRY: Duration = Duration::from_millis(1);

/// One line of the draft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) text: String,
    /// What it comes from; nothing for a default or a section's head.
    pub(crate) place: Option<Place>,
    /// Whether it says what `sidepool.toml` means without it.
    pub(crate) is_default: bool,
}

/// The draft, and what is wrong with values or left out.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub(crate) lines: Vec<Line>,
    pub(crate) problems: Vec<Problem>,
    /// What has no equal here, for people.
    pub(crate) notes: Vec<String>,
}

/// The draft of everything but the listeners, the users of the `auth_file` and what belongs to the process.
pub(crate) fn draft(document: &Document) -> Draft {
    let mut draft = Draft::default();
    draft.head("[postgres]");
    for setting in SETTINGS.iter().chain(OWN) {
        draft.setting(document, setting);
    }
    for (name, entry) in &document.databases {
        entries::database(&mut draft, document, name, entry);
    }
    for (name, entry) in &document.users {
        entries::user(&mut draft, name, entry);
    }
    for (name, entry) in &document.peers {
        entries::peer(&mut draft, name, entry);
    }
    draft
}

impl Draft {
    pub(crate) fn head(&mut self, text: impl Into<String>) {
        self.lines.push(Line { text: text.into(), place: None, is_default: false });
    }

    pub(crate) fn line(&mut self, name: &str, value: impl AsRef<str>, place: Option<&Place>) {
        self.lines.push(Line { text: format!("{name} = {}", value.as_ref()), place: place.cloned(), is_default: false });
    }

    pub(crate) fn wrong(&mut self, place: &Place, message: String) {
        self.problems.push(Problem::error(place.clone(), "", message));
    }

    fn setting(&mut self, document: &Document, setting: &'static Setting) {
        let said = document.settings.get(setting.name);
        let mut text = said.map_or(setting.default.unwrap_or_default(), |said| &said.text);
        if let (Some(said), Err(why)) = (said, check(setting.kind, text)) {
            self.wrong(&said.place, format!("invalid value {} for parameter {}; {why}", shown(text), setting.name));
            text = setting.default.unwrap_or_default();
        }
        if let (Some(_), Use::Nothing(why)) = (said, setting.used) {
            self.notes.push(format!("{} changes nothing: {why}", setting.name));
        }
        if let Some(value) = in_toml(setting, text).or_else(|| backoff(document, setting)) {
            let known = settings::setting(Scope::Postgres, setting.name);
            let is_default = known.is_some_and(|known| known.default == value);
            let place = said.map(|said| said.place.clone());
            self.lines.push(Line { text: format!("{} = {value}", setting.name), place, is_default });
        }
    }

    /// The text as the reader of TOML takes it, with the place of each of its lines.
    pub(crate) fn text(&self) -> String {
        self.lines.iter().flat_map(|line| [line.text.as_str(), "\n"]).collect()
    }
}

/// What is wrong with a value of this kind.
pub(crate) fn check(kind: Kind, text: &str) -> Result<(), String> {
    match kind {
        Kind::Text => Ok(()),
        Kind::Int(min, max) => match value::int(text) {
            Some(number) if (min..=max).contains(&number) => Ok(()),
            Some(_) => Err(format!("it must be from {min} to {max}")),
            None => Err("expected a whole number".to_owned()),
        },
        Kind::Flag => value::int(text).map(drop).ok_or_else(|| "expected 0 or 1".to_owned()),
        Kind::Time => value::seconds(text).map(drop).ok_or_else(|| "expected a time in seconds".to_owned()),
        Kind::Choice(names) if names.iter().any(|name| name.eq_ignore_ascii_case(text)) => Ok(()),
        Kind::Choice(names) => Err(format!("expected {}", listed(names))),
    }
}

/// The value that `[postgres]` has for it; `None` if it has none or it is said in another way.
pub(crate) fn in_toml(setting: &Setting, text: &str) -> Option<String> {
    let seconds = |scale: u64| Some(duration(Duration::from_millis(u64::try_from(value::int(text)?).ok()?.saturating_mul(scale))));
    match setting.name {
        // Said elsewhere, or not by `[postgres]`.
        "auth_file"
        | "conffile"
        | "job_name"
        | "listen_addr"
        | "listen_port"
        | "unix_socket_dir"
        | "log_connections"
        | "log_disconnections"
        | "log_pooler_errors"
        | "log_stats"
        | "logfile"
        | "pidfile"
        | "server_tls_sslmode"
        | "syslog"
        | "syslog_facility"
        | "syslog_ident"
        | "user"
        | "verbose"
        | "metrics_listen"
        | "io_backend"
        | "metrics_names"
        | "metrics_max_pools"
        | "metrics_allowed_hosts"
        | "workers" => None,
        "admin_users"
        | "stats_users"
        | "ignore_startup_parameters"
        | "track_extra_parameters"
        | "session_state_functions"
        | "session_state_names" => Some(list(&value::list(text))),
        "unix_socket_mode" => Some(quoted(&format!("{:04o}", value::int(text)?))),
        "stats_period" | "query_wait_notify" | "tcp_keepidle" | "tcp_keepintvl" => seconds(1000),
        "tcp_user_timeout" => seconds(1),
        "default_pool_size" => Some(size(value::int(text)?).to_string()),
        // No limit, which has no word in TOML.
        "server_lifetime" => Some(lifetime(text)?),
        "server_connect_timeout" | "suspend_timeout" => Some(duration(or_longest(value::seconds(text)?))),
        "server_login_retry" | "dns_max_ttl" | "dns_nxdomain_ttl" => Some(duration(value::seconds(text)?.max(SHORTEST_RETRY))),
        // The first pause is never longer than the longest.
        "server_connect_backoff" => None,
        "server_check_query" | "server_reset_query" | "client_tls13_ciphers" | "server_tls13_ciphers" => Some(quoted(text)),
        _ => plain(setting, text),
    }
}

/// How long connections are used: with 0 once, where that is for ever in TOML.
fn lifetime(text: &str) -> Option<String> {
    let lifetime = value::seconds(text)?;
    Some(duration(if lifetime.is_zero() { USED_ONCE } else { lifetime }))
}

/// The first pause after a failed connect, which PgBouncer does not have: never longer than the longest.
fn backoff(document: &Document, setting: &Setting) -> Option<String> {
    let seconds = |name| value::seconds(text(document, name)).filter(|time| !time.is_zero());
    let longest = seconds("server_login_retry").unwrap_or(SHORTEST_RETRY).max(SHORTEST_RETRY);
    let first = seconds(setting.name).unwrap_or(longest);
    (setting.name == "server_connect_backoff").then(|| duration(first.min(longest)))
}

fn plain(setting: &Setting, text: &str) -> Option<String> {
    if setting.used != Use::Same {
        return None;
    }
    match setting.kind {
        Kind::Int(..) => Some(value::int(text)?.to_string()),
        Kind::Flag => Some((value::int(text)? != 0).to_string()),
        Kind::Time => Some(duration(value::seconds(text)?)),
        Kind::Choice(_) => Some(quoted(&text.to_ascii_lowercase())),
        Kind::Text => (!text.is_empty()).then(|| quoted(text)),
    }
}

/// No limit is said as the longest duration.
fn or_longest(duration: Duration) -> Duration {
    if duration.is_zero() { LONGEST_DURATION } else { duration }
}

/// A pool's size: 0 is no limit.
pub(crate) fn size(number: i64) -> i64 {
    if number == 0 { i64::from(settings::MOST_CONNECTIONS) } else { number }
}

pub(crate) fn duration(duration: Duration) -> String {
    quoted(&format_duration(duration))
}

/// A text as TOML writes it.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(control))),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

pub(crate) fn list(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", texts.join(", "))
}

/// A key of an entry with its value, checked; a problem if it is none of these.
pub(crate) struct Pairs<'e> {
    pub(crate) entry: &'e Entry,
    /// What PgBouncer calls a key that does not belong here.
    pub(crate) unknown: &'static str,
}

impl Pairs<'_> {
    /// Writes every pair by its rule.
    pub(crate) fn write(&self, draft: &mut Draft, rule: impl Fn(&str) -> Option<Rule>) {
        for (key, text) in last_of_each(&self.entry.pairs) {
            let place = &self.entry.place;
            let Some(rule) = rule(key) else {
                draft.wrong(place, format!("{}: {}", self.unknown, key.escape_debug()));
                continue;
            };
            if let Err(why) = check(rule.kind, text) {
                let text = if rule.is_secret { "***".to_owned() } else { shown(text) };
                draft.wrong(place, format!("invalid value {text} for parameter {key}; {why}"));
                continue;
            }
            if let Some(value) = rule.value(text) {
                draft.line(rule.name, value, Some(place));
            }
        }
    }
}

/// What is said twice holds as said last.
fn last_of_each(pairs: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
    pairs.iter().enumerate().filter(|(at, (key, _))| !pairs[at + 1..].iter().any(|(later, _)| later == key)).map(|(_, (key, text))| {
        let pair: (&str, &str) = (key, text);
        pair
    })
}

/// How a key of an entry is said in TOML.
pub(crate) struct Rule {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// Whether it is a pool's size, of which 0 is no limit.
    pub(crate) is_size: bool,
    pub(crate) is_secret: bool,
    /// Whether somebody else writes it.
    pub(crate) elsewhere: bool,
}

impl Rule {
    pub(crate) fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, is_size: name == "pool_size", is_secret: name == "password", elsewhere: false }
    }

    pub(crate) fn elsewhere(self) -> Self {
        Self { elsewhere: true, ..self }
    }

    fn value(&self, text: &str) -> Option<String> {
        if self.elsewhere {
            return None;
        }
        match self.kind {
            Kind::Int(..) if self.is_size => Some(size(value::int(text)?).to_string()),
            Kind::Time if self.name == "server_lifetime" => lifetime(text),
            kind => plain(&Setting { name: "", kind, default: None, changeable: true, used: Use::Same }, text),
        }
    }
}

/// The value of a setting, said or by default, if it is a number.
pub(crate) fn number(document: &Document, name: &str) -> Option<i64> {
    value::int(text(document, name))
}

/// Whether a setting is on.
pub(crate) fn flag(document: &Document, name: &str) -> bool {
    number(document, name).is_some_and(|number| number != 0)
}

/// The text of a setting, said or by default.
pub(crate) fn text<'d>(document: &'d Document, name: &str) -> &'d str {
    let default = || table::setting(name).and_then(|setting| setting.default).unwrap_or_default();
    document.settings.get(name).map_or_else(default, |said| &said.text)
}
