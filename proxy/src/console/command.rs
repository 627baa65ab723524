//! What an operator types, as a value. Pure.
//!
//! PgBouncer's grammar: one command a message, an optional semicolon, words of letters, digits and underscores in any case, or in double quotes;
//! `SET key = value` and `SET key TO value`. Source: PgBouncer's documentation of the admin console. Not here: what a command does (`answer`).

use sidepool_protocol::postgres::result::{Column, Kind};

use super::show::Show;

/// Longest command word, as PgBouncer.
const MAX_COMMAND_BYTES: usize = 15;

/// Longest argument, as PgBouncer.
const MAX_ARGUMENT_BYTES: usize = 63;

/// Longest value of a SET, as PgBouncer.
const MAX_VALUE_BYTES: usize = 255;

/// The name of a database, or all of them.
pub type Which = Option<Box<str>>;

/// How the process is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// At once.
    Now,
    /// When all servers have been released.
    Servers,
    /// When all clients have left.
    Clients,
}

/// A setting of sessions that drivers set or ask for without being told to; there is one answer to each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fixed {
    /// Its name.
    pub name: &'static str,
    /// The answer.
    pub value: &'static str,
}

impl Fixed {
    /// The column of the answer.
    #[must_use]
    pub const fn column(self) -> Column {
        Column { name: self.name, kind: Kind::Text }
    }
}

/// The settings that have a fixed answer.
pub const FIXED: [Fixed; 6] = [
    Fixed { name: "client_encoding", value: "UTF-8" },
    Fixed { name: "default_transaction_isolation", value: "read committed" },
    Fixed { name: "standard_conforming_strings", value: "on" },
    Fixed { name: "datestyle", value: "ISO" },
    Fixed { name: "timezone", value: "GMT" },
    Fixed { name: "extra_float_digits", value: "2" },
];

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// SHOW, or SELECT.
    Show(Show),
    /// SHOW of a setting with a fixed answer.
    ShowFixed(Fixed),
    /// SET of one: accepted and ignored.
    SetFixed,
    /// SET key = value.
    Set(Box<str>, Box<str>),
    /// RELOAD.
    Reload,
    /// PAUSE.
    Pause(Which),
    /// RESUME.
    Resume(Which),
    /// SUSPEND.
    Suspend,
    /// DISABLE; without a database it is refused.
    Disable(Which),
    /// ENABLE; without a database it is refused.
    Enable(Which),
    /// RECONNECT.
    Reconnect(Which),
    /// KILL.
    Kill(Which),
    /// KILL_CLIENT; `None`: not a number.
    KillClient(Option<u64>),
    /// WAIT_CLOSE.
    WaitClose(Which),
    /// SHUTDOWN.
    Shutdown(Ending),
}

impl Command {
    /// Whether it is for administrators alone.
    #[must_use]
    pub fn needs_admin(&self) -> bool {
        match self {
            Self::Show(show) => *show == Show::Fds,
            Self::ShowFixed(_) | Self::SetFixed => false,
            Self::Set(..)
            | Self::Reload
            | Self::Pause(_)
            | Self::Resume(_)
            | Self::Suspend
            | Self::Disable(_)
            | Self::Enable(_)
            | Self::Reconnect(_)
            | Self::Kill(_)
            | Self::KillClient(_)
            | Self::WaitClose(_)
            | Self::Shutdown(_) => true,
        }
    }
}

/// Why a text is no command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// It is none.
    Syntax,
    /// A word of it is too long, or empty where it must not be.
    Arguments,
}

/// Reads a command.
pub fn parse(text: &str) -> Result<Command, Wrong> {
    let tokens = tokens(text).ok_or(Wrong::Syntax)?;
    let tokens = match tokens.as_slice() {
        [tokens @ .., Token::Semicolon] => tokens,
        tokens => tokens,
    };
    match tokens {
        [Token::Word { text: name, .. }] => command(name, ""),
        [Token::Word { text: name, .. }, Token::Word { text: argument, spaced: true }] => command(name, argument),
        [
            Token::Word { text: set, .. },
            Token::Word { text: key, spaced: true },
            equals,
            Token::Word { text: value, .. } | Token::Text { text: value },
        ] if set.eq_ignore_ascii_case("set") && equals.is_equals() => assignment(key, value),
        _ => Err(Wrong::Syntax),
    }
}

fn command(name: &str, argument: &str) -> Result<Command, Wrong> {
    if name.len() > MAX_COMMAND_BYTES || argument.len() > MAX_ARGUMENT_BYTES {
        return Err(Wrong::Arguments);
    }
    let which = || (!argument.is_empty()).then(|| argument.into());
    let alone = |command| if argument.is_empty() { Ok(command) } else { Err(Wrong::Syntax) };
    match name.to_ascii_lowercase().as_str() {
        "show" | "select" => show(argument),
        "reload" => alone(Command::Reload),
        "suspend" => alone(Command::Suspend),
        "pause" => Ok(Command::Pause(which())),
        "resume" => Ok(Command::Resume(which())),
        "disable" => Ok(Command::Disable(which())),
        "enable" => Ok(Command::Enable(which())),
        "reconnect" => Ok(Command::Reconnect(which())),
        "kill" => Ok(Command::Kill(which())),
        "kill_client" => Ok(Command::KillClient(argument.parse().ok())),
        "wait_close" => Ok(Command::WaitClose(which())),
        "shutdown" => match argument.to_ascii_lowercase().as_str() {
            "" => Ok(Command::Shutdown(Ending::Now)),
            "wait_for_servers" => Ok(Command::Shutdown(Ending::Servers)),
            "wait_for_clients" => Ok(Command::Shutdown(Ending::Clients)),
            _ => Err(Wrong::Syntax),
        },
        _ => Err(Wrong::Syntax),
    }
}

fn show(what: &str) -> Result<Command, Wrong> {
    if let Some(fixed) = fixed(what) {
        return Ok(Command::ShowFixed(fixed));
    }
    Show::ALL.into_iter().find(|show| show.name().eq_ignore_ascii_case(what)).map(Command::Show).ok_or(Wrong::Syntax)
}

fn assignment(key: &str, value: &str) -> Result<Command, Wrong> {
    if key.is_empty() || key.len() > MAX_ARGUMENT_BYTES || value.len() > MAX_VALUE_BYTES {
        return Err(Wrong::Arguments);
    }
    if fixed(key).is_some() {
        return Ok(Command::SetFixed);
    }
    Ok(Command::Set(key.into(), value.into()))
}

fn fixed(name: &str) -> Option<Fixed> {
    FIXED.into_iter().find(|fixed| fixed.name.eq_ignore_ascii_case(name))
}

/// A piece of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A word, bare or in double quotes; whether a space is before it.
    Word {
        text: String,
        spaced: bool,
    },
    /// A text in single quotes.
    Text {
        text: String,
    },
    Equals,
    Semicolon,
}

impl Token {
    fn is_equals(&self) -> bool {
        match self {
            Self::Equals => true,
            Self::Word { text, .. } => text.eq_ignore_ascii_case("to"),
            Self::Text { .. } | Self::Semicolon => false,
        }
    }
}

/// More than any command has.
const MAX_TOKENS: usize = 5;

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        let trimmed = rest.trim_start_matches([' ', '\t', '\n', '\r']);
        let spaced = trimmed.len() < rest.len();
        rest = trimmed;
        let Some(first) = rest.chars().next() else { return Some(tokens) };
        if tokens.len() == MAX_TOKENS {
            return None;
        }
        let (token, length) = match first {
            ';' => (Token::Semicolon, 1),
            '=' => (Token::Equals, 1),
            '"' => quoted(rest, '"').map(|(text, length)| (Token::Word { text, spaced }, length))?,
            '\'' => quoted(rest, '\'').map(|(text, length)| (Token::Text { text }, length))?,
            _ => {
                let length = rest.find(|character: char| !(character.is_ascii_alphanumeric() || character == '_')).unwrap_or(rest.len());
                (Token::Word { text: rest[..length].to_owned(), spaced }, length)
            }
        };
        if length == 0 {
            return None;
        }
        tokens.push(token);
        rest = &rest[length..];
    }
}

/// A quoted text and how many bytes it takes; the quote itself is doubled in it.
fn quoted(text: &str, quote: char) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        if character != quote {
            value.push(character);
        } else if characters.next_if(|(_, next)| *next == quote).is_some() {
            value.push(quote);
        } else {
            return Some((value, at + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_in_all_their_forms() {
        let which = |name: &str| Some(name.into());
        for (text, wanted) in [
            ("SHOW POOLS", Command::Show(Show::Pools)),
            ("show pools;", Command::Show(Show::Pools)),
            ("\n select\tStats_Totals ; \r\n", Command::Show(Show::StatsTotals)),
            ("SHOW TimeZone", Command::ShowFixed(FIXED[4])),
            ("RELOAD", Command::Reload),
            ("PAUSE", Command::Pause(None)),
            ("pause app", Command::Pause(which("app"))),
            ("PAUSE \"my-app\"", Command::Pause(which("my-app"))),
            ("PAUSE \"a\"\"b\"", Command::Pause(which("a\"b"))),
            ("resume", Command::Resume(None)),
            ("suspend;", Command::Suspend),
            ("DISABLE", Command::Disable(None)),
            ("ENABLE x", Command::Enable(which("x"))),
            ("reconnect", Command::Reconnect(None)),
            ("KILL app", Command::Kill(which("app"))),
            ("KILL_CLIENT 17", Command::KillClient(Some(17))),
            ("KILL_CLIENT", Command::KillClient(None)),
            ("KILL_CLIENT x", Command::KillClient(None)),
            ("WAIT_CLOSE", Command::WaitClose(None)),
            ("SHUTDOWN", Command::Shutdown(Ending::Now)),
            ("shutdown wait_for_servers", Command::Shutdown(Ending::Servers)),
            ("SHUTDOWN WAIT_FOR_CLIENTS;", Command::Shutdown(Ending::Clients)),
        ] {
            assert_eq!(parse(text), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn settings_are_set_with_words_and_texts() {
        let set = |key: &str, value: &str| Ok(Command::Set(key.into(), value.into()));
        assert_eq!(parse("SET a=b"), set("a", "b"));
        assert_eq!(parse("set a TO 'it''s'"), set("a", "it's"));
        assert_eq!(parse("set \"A\" = \"b c\" ;"), set("A", "b c"));
        assert_eq!(parse("set a=''"), set("a", ""));
        for ignored in ["SET client_encoding = 'x'", "set DateStyle to ISO", "SET extra_float_digits = 3"] {
            assert_eq!(parse(ignored), Ok(Command::SetFixed), "{ignored}");
        }
    }

    #[test]
    fn what_is_no_command() {
        for text in [
            "",
            ";",
            "  ",
            "SHOW",
            "SHOW nothing",
            "SELECT 1",
            "nonsense",
            "SHOW POOLS POOLS",
            "SHOW POOLS;;",
            "SHOW \"pools",
            "RELOAD x",
            "SUSPEND x",
            "SHUTDOWN later",
            "SET a",
            "SET a =",
            "SET a = b c",
            "SET 'a' = b",
            "PAUSE a-b",
            "é",
            "PAUSE 'a'",
            "SHOWPOOLS",
            "BEGIN",
            "SHOW POOLS -- x",
        ] {
            assert_eq!(parse(text), Err(Wrong::Syntax), "{text}");
        }
        for text in [format!("PAUSE {}", "x".repeat(64)), "x".repeat(16), format!("SET a = {}", "x".repeat(256)), "SET \"\" = x".to_owned()]
        {
            assert_eq!(parse(&text), Err(Wrong::Arguments), "{text}");
        }
        assert!(parse(&format!("PAUSE {}", "x".repeat(63))).is_ok());
    }

    #[test]
    fn only_looking_is_for_everybody() {
        for (text, admin) in
            [("SHOW POOLS", false), ("SHOW FDS", true), ("SHOW timezone", false), ("SET timezone = x", false), ("PAUSE", true)]
        {
            assert_eq!(parse(text).map(|command| command.needs_admin()), Ok(admin), "{text}");
        }
    }
}
