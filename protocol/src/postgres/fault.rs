//! A refusal in PostgreSQL's terms: severity, SQLSTATE, message, detail, hint. What the proxy says to a client when it says no.
//!
//! Not here: how it is put into bytes (`encode`).

use std::borrow::Cow;
use std::fmt;

/// A five-character error code.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// `00000`: all is well.
    pub const SUCCESSFUL_COMPLETION: Self = Self(*b"00000");
    /// `01000`: something to watch.
    pub const WARNING: Self = Self(*b"01000");
    /// `08P01`: somebody broke the protocol.
    pub const PROTOCOL_VIOLATION: Self = Self(*b"08P01");
    /// `08006`: the connection to the upstream is lost.
    pub const CONNECTION_FAILURE: Self = Self(*b"08006");
    /// `08001`: the upstream cannot be reached.
    pub const UNABLE_TO_CONNECT: Self = Self(*b"08001");
    /// `0A000`: we do not do that.
    pub const FEATURE_NOT_SUPPORTED: Self = Self(*b"0A000");
    /// `22021`: bytes that are not text in the announced encoding.
    pub const CHARACTER_NOT_IN_REPERTOIRE: Self = Self(*b"22021");
    /// `22023`: a parameter has a value that cannot be.
    pub const INVALID_PARAMETER_VALUE: Self = Self(*b"22023");
    /// `26000`: no such prepared statement.
    pub const INVALID_STATEMENT_NAME: Self = Self(*b"26000");
    /// `28000`: not allowed in, for a reason other than the password.
    pub const INVALID_AUTHORIZATION: Self = Self(*b"28000");
    /// `28P01`: wrong password (or a user that does not exist: the two look the same).
    pub const INVALID_PASSWORD: Self = Self(*b"28P01");
    /// `3D000`: no such database.
    pub const INVALID_CATALOG_NAME: Self = Self(*b"3D000");
    /// `25P02`: the transaction has failed, only its end is accepted.
    pub const IN_FAILED_TRANSACTION: Self = Self(*b"25P02");
    /// `42P05`: a prepared statement of that name exists.
    pub const DUPLICATE_STATEMENT: Self = Self(*b"42P05");
    /// `53200`: out of memory.
    pub const OUT_OF_MEMORY: Self = Self(*b"53200");
    /// `53300`: too many connections.
    pub const TOO_MANY_CONNECTIONS: Self = Self(*b"53300");
    /// `53400`: a configured limit is reached.
    pub const CONFIGURATION_LIMIT: Self = Self(*b"53400");
    /// `54000`: larger than we allow.
    pub const PROGRAM_LIMIT_EXCEEDED: Self = Self(*b"54000");
    /// `55000`: not at this time.
    pub const NOT_IN_PREREQUISITE_STATE: Self = Self(*b"55000");
    /// `57014`: cancelled.
    pub const QUERY_CANCELED: Self = Self(*b"57014");
    /// `57P01`: shut down by an operator.
    pub const ADMIN_SHUTDOWN: Self = Self(*b"57P01");
    /// `57P03`: not ready to take connections.
    pub const CANNOT_CONNECT_NOW: Self = Self(*b"57P03");
    /// `57P05`: idle for too long.
    pub const IDLE_SESSION_TIMEOUT: Self = Self(*b"57P05");
    /// `XX000`: our own mistake.
    pub const INTERNAL_ERROR: Self = Self(*b"XX000");

    /// The code that a server sent; `None` when it is not five upper-case letters and digits.
    #[must_use]
    pub fn parse(code: &[u8]) -> Option<Self> {
        let code: [u8; 5] = code.try_into().ok()?;
        code.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit()).then_some(Self(code))
    }

    /// The five characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// The connection closes.
    Fatal,
    /// The statement or transaction fails, the connection goes on.
    Error,
    /// Something to watch.
    Warning,
    /// Something to know.
    Notice,
}

impl Severity {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fatal => "FATAL",
            Self::Error => "ERROR",
            Self::Warning => "WARNING",
            Self::Notice => "NOTICE",
        }
    }
}

/// What the proxy says to a client when it says no. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// How bad it is.
    pub severity: Severity,
    /// The code that programs look at.
    pub sqlstate: SqlState,
    /// What happened, in one line.
    pub message: Cow<'static, str>,
    /// The facts.
    pub detail: Option<Cow<'static, str>>,
    /// What to do about it.
    pub hint: Option<Cow<'static, str>>,
}

impl Fault {
    /// A fault after which the connection closes.
    pub fn fatal(sqlstate: SqlState, message: impl Into<Cow<'static, str>>) -> Self {
        Self { severity: Severity::Fatal, sqlstate, message: message.into(), detail: None, hint: None }
    }

    /// A fault after which the connection goes on.
    pub fn error(sqlstate: SqlState, message: impl Into<Cow<'static, str>>) -> Self {
        Self { severity: Severity::Error, ..Self::fatal(sqlstate, message) }
    }

    /// Adds the facts.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity.as_str(), self.sqlstate, self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_five_letters_or_digits() {
        assert_eq!(SqlState::parse(b"28P01"), Some(SqlState::INVALID_PASSWORD));
        for wrong in [&b""[..], b"28P0", b"28P011", b"28p01", b"28 01", b"\xff\xff\xff\xff\xff"] {
            assert_eq!(SqlState::parse(wrong), None);
        }
    }

    #[test]
    fn display_has_code_message_and_facts() {
        let fault = Fault::fatal(SqlState::INVALID_CATALOG_NAME, "no such database: x").with_detail("d").with_hint("h");
        assert_eq!(fault.to_string(), "FATAL 3D000: no such database: x (d)");
    }
}
