//! Log lines as PgBouncer writes them, for tools that match on them: `TIME ZONE [PID] LEVEL C-0x…: db/user@host:port what happened`.
//!
//! Those who log say what happened by the *name* of the event and by its fields; here is the one place that knows PgBouncer's words for it. An
//! event without a name that is known here is its message with its other fields behind it.
//!
//! | field | meaning |
//! |---|---|
//! | `client`, `server` | the number of the connection: who the line is about |
//! | `database`, `user`, `peer` | what stands behind it |
//! | `age` | whole seconds since the connection was opened |

use std::fmt::{self, Write as _};

use jiff::Zoned;
use jiff::tz::TimeZone;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::clock;

/// The format.
pub(super) struct Format {
    zone: TimeZone,
}

impl Format {
    pub(super) fn new() -> Self {
        Self { zone: TimeZone::system() }
    }

    fn time(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let Ok(now) = jiff::Timestamp::try_from(clock::wall()) else { return Ok(()) };
        let now: Zoned = now.to_zoned(self.zone.clone());
        write!(out, "{}", now.strftime("%Y-%m-%d %H:%M:%S.%3f %Z"))
    }
}

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut said = Said::default();
        event.record(&mut said);
        self.time(&mut out)?;
        let metadata = event.metadata();
        let level = if metadata.name() == "fatal" { FATAL } else { level(metadata.level()) };
        write!(out, " [{}] {level} ", std::process::id())?;
        line(event.metadata().name(), &said, &mut out)?;
        out.write_char('\n')
    }
}

/// The level of what ends the process.
pub const FATAL: &str = "FATAL";

/// A line for when no log is installed yet.
#[must_use]
pub fn plain(level: &str, text: &str) -> String {
    let mut line = String::new();
    // A String takes all.
    let _ = Format::new().time(&mut line);
    let _ = writeln!(line, " [{}] {level} {}", std::process::id(), one_line(text));
    line
}

/// PgBouncer's name of a level.
#[must_use]
pub fn level(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "LOG",
        Level::DEBUG => "DEBUG",
        Level::TRACE => "NOISE",
    }
}

/// What an event says.
#[derive(Default)]
struct Said {
    client: Option<u64>,
    server: Option<u64>,
    db: String,
    user: String,
    peer: String,
    age: Option<u64>,
    message: String,
    /// Every other field.
    more: Vec<(&'static str, String)>,
}

impl Said {
    fn put(&mut self, field: &Field, text: String) {
        match field.name() {
            "message" => self.message = text,
            "database" => self.db = text,
            "user" => self.user = text,
            "peer" => self.peer = text,
            name => self.more.push((name, text)),
        }
    }

    fn field(&self, name: &str) -> &str {
        self.more.iter().find(|(known, _)| *known == name).map_or("", |(_, text)| text)
    }
}

impl Visit for Said {
    fn record_u64(&mut self, field: &Field, number: u64) {
        match field.name() {
            "client" => self.client = Some(number),
            "server" => self.server = Some(number),
            "age" => self.age = Some(number),
            _ => self.put(field, number.to_string()),
        }
    }

    fn record_str(&mut self, field: &Field, text: &str) {
        self.put(field, text.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

/// The number of a connection as PgBouncer shows the address of one: in its log and in the console's columns `ptr` and `link`.
#[must_use]
pub fn pointer(number: u64) -> String {
    format!("0x{number:012x}")
}

fn line(name: &str, said: &Said, out: &mut dyn fmt::Write) -> fmt::Result {
    prefix(said, out)?;
    let is_known = words(name, said, out)?;
    if !is_known {
        out.write_str(&one_line(&said.message))?;
        if said.client.is_none() && said.server.is_none() && !said.db.is_empty() {
            write!(out, " database={}", one_line(&said.db))?;
        }
        for (name, text) in &said.more {
            write!(out, " {name}={}", one_line(text))?;
        }
    }
    Ok(())
}

/// Whom the line is about.
fn prefix(said: &Said, out: &mut dyn fmt::Write) -> fmt::Result {
    let (kind, number) = match (said.client, said.server) {
        (Some(client), _) => ('C', client),
        (None, Some(server)) => ('S', server),
        (None, None) => return Ok(()),
    };
    let or = |text: &str, other: &str| one_line(if text.is_empty() { other } else { text });
    write!(out, "{kind}-{}: {}/{}@{} ", pointer(number), or(&said.db, "(nodb)"), or(&said.user, "(nouser)"), said.peer)
}

/// PgBouncer's words for an event; false if it has none.
fn words(name: &str, said: &Said, out: &mut dyn fmt::Write) -> Result<bool, fmt::Error> {
    let age = said.age.unwrap_or_default();
    match name {
        "login_attempt" => write!(
            out,
            "login attempt: db={} user={} tls={} replication={}",
            one_line(&said.db),
            one_line(&said.user),
            said.field("tls"),
            said.field("replication")
        )?,
        "closing" => write!(out, "closing because: {} (age={age}s)", one_line(said.field("reason")))?,
        "pooler_error" => write!(out, "pooler error: {}", one_line(&said.message))?,
        "server_tls" => write!(out, "SSL established: {}", said.field("tls"))?,
        "server_connected" => match said.field("from") {
            "" => out.write_str("new connection to server")?,
            from => write!(out, "new connection to server (from {from})")?,
        },
        "connect_failed" => connect_failed(said, out)?,
        "too_many_clients" => out.write_str("pooler error: no more connections allowed (max_client_conn)")?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// A server that said no, or none that could say anything.
fn connect_failed(said: &Said, out: &mut dyn fmt::Write) -> fmt::Result {
    let message = one_line(&said.message);
    let message = message.strip_prefix("cannot open an upstream connection: ").unwrap_or(&message);
    // That it is closed is another line.
    match (said.field("kind"), said.field("said")) {
        ("refused" | "timeout" | "tls" | "protocol" | "resolve", _) => out.write_str(message)?,
        (_, "") => write!(out, "server login failed: {message}")?,
        // The server's words come first, as there; where that was follows.
        (_, words) => write!(out, "server login failed: FATAL {}: {message}", one_line(words))?,
    }
    write!(out, " (pool {})", one_line(said.field("pool")))
}

/// Control characters of others must not make lines of their own.
fn one_line(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    text.chars().flat_map(|character| if character.is_control() { character.escape_default().collect() } else { vec![character] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> Said {
        Said { client: Some(0x2a), db: "app".to_owned(), peer: "127.0.0.1:5".to_owned(), age: Some(3), ..Said::default() }
    }

    fn written(name: &str, said: &Said) -> String {
        let mut out = String::new();
        line(name, said, &mut out).unwrap();
        out
    }

    #[test]
    fn known_events_are_in_pgbouncers_words() {
        let more = vec![("tls", "no".to_owned()), ("replication", "no".to_owned()), ("reason", "client close request".to_owned())];
        let said = Said { user: "bob".to_owned(), more, ..said() };
        let prefix = "C-0x00000000002a: app/bob@127.0.0.1:5 ";
        assert_eq!(written("login_attempt", &said), format!("{prefix}login attempt: db=app user=bob tls=no replication=no"));
        assert_eq!(written("closing", &said), format!("{prefix}closing because: client close request (age=3s)"));
        let server = Said { client: None, server: Some(1), more: vec![("from", "127.0.0.1:9".to_owned())], ..said };
        assert_eq!(
            written("server_connected", &server),
            "S-0x000000000001: app/bob@127.0.0.1:5 new connection to server (from 127.0.0.1:9)"
        );
    }

    #[test]
    fn other_events_are_their_message_and_fields_on_one_line() {
        let said = Said { message: "what\nhappened".to_owned(), more: vec![("n", "1".to_owned())], ..said() };
        assert_eq!(written("event proxy/src/x.rs:1", &said), "C-0x00000000002a: app/(nouser)@127.0.0.1:5 what\\nhappened n=1");
        let said = Said { client: None, ..said };
        assert_eq!(written("", &said), "what\\nhappened database=app n=1");
    }

    #[test]
    fn the_time_has_milliseconds_and_a_zone() {
        let mut out = String::new();
        Format { zone: TimeZone::UTC }.time(&mut out).unwrap();
        let shape: String = out.chars().map(|character| if character.is_ascii_digit() { '9' } else { character }).collect();
        assert_eq!(shape, "9999-99-99 99:99:99.999 UTC");
    }
}
