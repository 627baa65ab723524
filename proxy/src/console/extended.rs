//! The extended protocol of the console: PgBouncer has none, but drivers use it. Commands have no parameters, so a statement is a command, and a
//! portal is a command with the formats that its rows are wanted in. Pure.
//!
//! Source: PostgreSQL documentation, "Extended Query". Not here: what a command answers (`answer`).

use std::collections::HashMap;

use sidepool_protocol::postgres::fault::{Fault, SqlState};
use sidepool_protocol::postgres::frame;
use sidepool_protocol::postgres::result::{self, Column, Formats};

use super::command::Command;

/// Most statements and most portals of one session.
const MOST_PREPARED: usize = 100;

/// A prepared statement; `None`: an empty one.
type Statement = Option<Command>;

/// What a session has prepared.
#[derive(Debug, Default)]
pub struct Prepared {
    statements: HashMap<Box<[u8]>, Statement>,
    portals: HashMap<Box<[u8]>, (Statement, Formats)>,
}

/// The columns of what a command gives, and their names; none for what gives no rows.
#[must_use]
pub fn columns(command: &Command) -> Vec<Column> {
    match command {
        Command::Show(show) => show.columns().to_vec(),
        Command::ShowFixed(fixed) => vec![fixed.column()],
        Command::SetFixed
        | Command::Set(..)
        | Command::Reload
        | Command::Pause(_)
        | Command::Resume(_)
        | Command::Suspend
        | Command::Disable(_)
        | Command::Enable(_)
        | Command::Reconnect(_)
        | Command::Kill(_)
        | Command::KillClient(_)
        | Command::WaitClose(_)
        | Command::Shutdown(_) => Vec::new(),
    }
}

impl Prepared {
    /// Parse. `read` makes a command of a text.
    pub fn parse(&mut self, body: &[u8], read: impl FnOnce(&str) -> Result<Command, Fault>) -> Result<(), Fault> {
        let (name, rest) = frame::cstr(body).ok_or_else(malformed)?;
        let (text, _types) = frame::cstr(rest).ok_or_else(malformed)?;
        let text = String::from_utf8_lossy(text);
        let statement = if text.trim().trim_end_matches(';').trim().is_empty() { None } else { Some(read(&text)?) };
        if !name.is_empty() && self.statements.contains_key(name) {
            let name = String::from_utf8_lossy(name);
            return Err(Fault::error(SqlState::DUPLICATE_STATEMENT, format!("prepared statement \"{name}\" already exists")));
        }
        room(self.statements.len(), "prepared statements")?;
        self.statements.insert(name.into(), statement);
        Ok(())
    }

    /// Bind.
    pub fn bind(&mut self, body: &[u8]) -> Result<(), Fault> {
        let (portal, rest) = frame::cstr(body).ok_or_else(malformed)?;
        let (name, rest) = frame::cstr(rest).ok_or_else(malformed)?;
        let statement = self.statement(name)?.clone();
        let (_, rest) = formats(rest)?;
        let (parameters, rest) = number(rest)?;
        if parameters > 0 {
            return Err(Fault::error(SqlState::PROTOCOL_VIOLATION, "commands of the admin console have no parameters"));
        }
        let (formats, _) = formats(rest)?;
        room(self.portals.len(), "portals")?;
        self.portals.insert(portal.into(), (statement, formats));
        Ok(())
    }

    /// Describe.
    pub fn describe(&self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        let (&kind, rest) = body.split_first().ok_or_else(malformed)?;
        let (name, _) = frame::cstr(rest).ok_or_else(malformed)?;
        let (statement, formats) = match kind {
            b'S' => {
                let statement = self.statement(name)?;
                result::no_parameters(out);
                (statement, &Formats::Text)
            }
            b'P' => self.portal(name).map(|(statement, formats)| (statement, formats))?,
            _ => return Err(malformed()),
        };
        let columns = statement.as_ref().map(columns).unwrap_or_default();
        if columns.is_empty() {
            result::no_data(out);
        } else {
            result::row_description(&columns, formats, out);
        }
        Ok(())
    }

    /// Execute: what to run, and how its rows are wanted.
    pub fn execute(&self, body: &[u8]) -> Result<(Statement, Formats), Fault> {
        let (name, _most_rows) = frame::cstr(body).ok_or_else(malformed)?;
        self.portal(name).cloned()
    }

    /// Close.
    pub fn close(&mut self, body: &[u8]) -> Result<(), Fault> {
        let (&kind, rest) = body.split_first().ok_or_else(malformed)?;
        let (name, _) = frame::cstr(rest).ok_or_else(malformed)?;
        match kind {
            b'S' => drop(self.statements.remove(name)),
            b'P' => drop(self.portals.remove(name)),
            _ => return Err(malformed()),
        }
        Ok(())
    }

    /// Sync: the end of a transaction, and with it of all portals.
    pub fn sync(&mut self) {
        self.portals.clear();
    }

    fn statement(&self, name: &[u8]) -> Result<&Statement, Fault> {
        self.statements.get(name).ok_or_else(|| {
            let name = String::from_utf8_lossy(name);
            Fault::error(SqlState::INVALID_STATEMENT_NAME, format!("prepared statement \"{name}\" does not exist"))
        })
    }

    fn portal(&self, name: &[u8]) -> Result<&(Statement, Formats), Fault> {
        self.portals.get(name).ok_or_else(|| {
            let name = String::from_utf8_lossy(name);
            Fault::error(SqlState::INVALID_STATEMENT_NAME, format!("portal \"{name}\" does not exist"))
        })
    }
}

fn malformed() -> Fault {
    Fault::error(SqlState::PROTOCOL_VIOLATION, "invalid message format")
}

fn room(taken: usize, what: &str) -> Result<(), Fault> {
    if taken < MOST_PREPARED {
        return Ok(());
    }
    Err(Fault::error(SqlState::CONFIGURATION_LIMIT, format!("too many {what}")).with_detail(format!("The limit is {MOST_PREPARED}.")))
}

fn number(bytes: &[u8]) -> Result<(u16, &[u8]), Fault> {
    let (number, rest) = bytes.split_first_chunk::<2>().ok_or_else(malformed)?;
    Ok((u16::from_be_bytes(*number), rest))
}

/// A list of format codes: none is text for all, one is for all.
fn formats(bytes: &[u8]) -> Result<(Formats, &[u8]), Fault> {
    let (count, rest) = number(bytes)?;
    let (codes, rest) = rest.split_at_checked(usize::from(count) * 2).ok_or_else(malformed)?;
    let mut codes = codes.chunks_exact(2).map(|code| code[1] == 1);
    let formats = match count {
        0 => Formats::Text,
        1 if codes.next() == Some(true) => Formats::Binary,
        1 => Formats::Text,
        _ => Formats::Each(codes.collect()),
    };
    Ok((formats, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::command::parse;

    fn read(text: &str) -> Result<Command, Fault> {
        parse(text).map_err(|_| malformed())
    }

    fn bind(formats: &[u8]) -> Vec<u8> {
        [b"p\0s\0\0\0\0\0", formats].concat()
    }

    #[test]
    fn a_command_is_prepared_described_bound_and_run() {
        let mut prepared = Prepared::default();
        prepared.parse(b"s\0SHOW VERSION;\0\0\0", read).unwrap();
        let mut out = Vec::new();
        prepared.describe(b"Ss\0", &mut out).unwrap();
        assert_eq!((out[0], out[7]), (b't', b'T'));
        prepared.bind(&bind(&[0, 1, 0, 1])).unwrap();
        assert_eq!(prepared.execute(b"p\0\0\0\0\0").unwrap(), (Some(parse("SHOW VERSION").unwrap()), Formats::Binary));
        prepared.sync();
        assert_eq!(prepared.execute(b"p\0\0\0\0\0").unwrap_err().sqlstate, SqlState::INVALID_STATEMENT_NAME);
        prepared.close(b"Ss\0").unwrap();
        assert_eq!(prepared.bind(&bind(&[0, 0])).unwrap_err().sqlstate, SqlState::INVALID_STATEMENT_NAME);
    }

    #[test]
    fn commands_without_rows_have_no_data() {
        let mut prepared = Prepared::default();
        for (text, tag) in
            [("RELOAD", b'n'), ("SET a = b", b'n'), ("SHOW HELP", b'n'), ("", b'n'), ("SHOW timezone", b'T'), ("SHOW POOLS", b'T')]
        {
            prepared.parse(format!("\0{text}\0\0\0").as_bytes(), read).unwrap();
            prepared.bind(b"\0\0\0\0\0\0\0\0").unwrap();
            let mut out = Vec::new();
            prepared.describe(b"P\0", &mut out).unwrap();
            assert_eq!(out[0], tag, "{text}");
        }
    }

    #[test]
    fn formats_are_for_all_or_each() {
        let read = |bytes: &[u8]| formats(bytes).unwrap().0;
        assert_eq!([read(&[0, 0]), read(&[0, 1, 0, 0]), read(&[0, 1, 0, 1])], [Formats::Text, Formats::Text, Formats::Binary]);
        assert_eq!(read(&[0, 2, 0, 1, 0, 0]), Formats::Each([true, false].into()));
    }

    #[test]
    fn what_cannot_be_is_an_error_and_what_is_kept_is_bounded() {
        let mut prepared = Prepared::default();
        assert!(prepared.parse(b"s", read).is_err() && prepared.parse(b"s\0nonsense\0", read).is_err());
        assert!(prepared.bind(b"").is_err() && prepared.execute(b"x\0").is_err() && prepared.close(b"X\0").is_err());
        assert!(prepared.describe(b"", &mut Vec::new()).is_err() && prepared.describe(b"X\0", &mut Vec::new()).is_err());
        prepared.parse(b"s\0RELOAD\0", read).unwrap();
        assert_eq!(prepared.parse(b"s\0RELOAD\0", read).unwrap_err().sqlstate, SqlState::DUPLICATE_STATEMENT);
        for parameters in [&b"\0\x01\0\0"[..], b"\0\0\0\x01\0\0\0\0", b"\0\0\0\0\0\x02\0\0"] {
            assert!(prepared.bind(&[b"p\0s\0", parameters].concat()).is_err(), "{parameters:?}");
        }
        for index in 0..2 * MOST_PREPARED {
            let _ = prepared.parse(format!("s{index}\0RELOAD\0").as_bytes(), read);
            let _ = prepared.bind(format!("p{index}\0s\0\0\0\0\0\0\0").as_bytes());
        }
        assert_eq!((prepared.statements.len(), prepared.portals.len()), (MOST_PREPARED, MOST_PREPARED));
    }
}
