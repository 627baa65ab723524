//! Why a server connection is one client's own past the end of its transaction: because of state that lives on the connection and that no other
//! connection can be given.
//!
//! A set of causes is one byte, so that whether there is any is one comparison. Not here: how many connections may be pinned at a time, and what
//! becomes of one (`session`).

use std::fmt;

/// What pins a connection: a log field and a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Temporary tables, views or sequences.
    TemporaryTables,
    /// Cursors WITH HOLD.
    HeldCursors,
    /// Advisory locks of the session.
    AdvisoryLocks,
    /// A library that was loaded with LOAD: nothing but the end of the connection unloads it.
    Library,
    /// Statements that were prepared in SQL under the client's own name.
    Statements,
    /// The client listens for notifications.
    Listening,
}

impl Cause {
    /// All of them, in the order in which they are named.
    pub const ALL: [Self; 6] =
        [Self::TemporaryTables, Self::HeldCursors, Self::AdvisoryLocks, Self::Library, Self::Statements, Self::Listening];

    /// In metrics and logs.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::TemporaryTables => "temporary_tables",
            Self::HeldCursors => "held_cursors",
            Self::AdvisoryLocks => "advisory_locks",
            Self::Library => "library",
            Self::Statements => "statements",
            Self::Listening => "listening",
        }
    }

    /// In what clients and operators are told.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::TemporaryTables => "temporary tables",
            Self::HeldCursors => "cursors WITH HOLD",
            Self::AdvisoryLocks => "session-level advisory locks",
            Self::Library => "a loaded library",
            Self::Statements => "statements prepared in SQL under its own names",
            Self::Listening => "LISTEN",
        }
    }

    /// What ends it, for whoever is told that it must.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::TemporaryTables => "DROP temporary tables when they are no longer needed, or create them with ON COMMIT DROP",
            Self::HeldCursors => "CLOSE cursors WITH HOLD when they are no longer needed",
            Self::AdvisoryLocks => "unlock them when they are no longer needed, or use pg_advisory_xact_lock",
            Self::Library => "let the server load it (session_preload_libraries)",
            Self::Statements => "DEALLOCATE ALL when they are no longer needed, or prepare statements by the driver's own means",
            Self::Listening => "UNLISTEN when notifications are no longer needed",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of causes.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Pins(u8);

impl Pins {
    /// No cause.
    pub const NONE: Self = Self(0);

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether this is one.
    #[must_use]
    pub fn has(self, cause: Cause) -> bool {
        self.0 & cause.bit() != 0
    }

    /// With one more.
    pub fn add(&mut self, cause: Cause) {
        self.0 |= cause.bit();
    }

    /// Without this one.
    pub fn remove(&mut self, cause: Cause) {
        self.0 &= !cause.bit();
    }

    /// With this one, or without it.
    pub fn set(&mut self, cause: Cause, is: bool) {
        if is { self.add(cause) } else { self.remove(cause) }
    }

    /// Whether others wait in vain for it to end while its client is idle. To listen is to be idle.
    #[must_use]
    pub fn is_waited_for(self) -> bool {
        !self.without(Self(Cause::Listening.bit())).is_empty()
    }

    /// One bit for each cause, by its place in [`Cause::ALL`].
    #[must_use]
    pub fn bits(self) -> u8 {
        self.0
    }

    /// In what clients and operators are told.
    #[must_use]
    pub fn words(self) -> String {
        let words: Vec<&str> = self.iter().map(Cause::words).collect();
        words.join(", ")
    }

    /// Those that are not among `others`.
    #[must_use]
    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Those in the set, in the order of [`Cause::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Cause> {
        Cause::ALL.into_iter().filter(move |cause| self.has(*cause))
    }
}

impl FromIterator<Cause> for Pins {
    fn from_iter<T: IntoIterator<Item = Cause>>(causes: T) -> Self {
        let mut pins = Self::NONE;
        causes.into_iter().for_each(|cause| pins.add(cause));
        pins
    }
}

/// The labels, with commas between them.
impl fmt::Display for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, cause) in self.iter().enumerate() {
            write!(f, "{}{}", if i == 0 { "" } else { "," }, cause.label())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_added_in_a_fixed_order() {
        let mut pins = Pins::NONE;
        assert!(pins.is_empty() && pins.to_string().is_empty());
        pins.add(Cause::Listening);
        pins.add(Cause::TemporaryTables);
        pins.add(Cause::Listening);
        assert_eq!(pins.to_string(), "temporary_tables,listening");
        assert_eq!(pins.iter().collect::<Vec<_>>(), [Cause::TemporaryTables, Cause::Listening]);
        assert_eq!(pins.without([Cause::Listening].into_iter().collect()).to_string(), "temporary_tables");
        pins.remove(Cause::Listening);
        pins.set(Cause::TemporaryTables, false);
        assert_eq!(pins, Pins::NONE);
    }

    #[test]
    fn each_cause_is_one_of_its_own() {
        for (i, cause) in Cause::ALL.into_iter().enumerate() {
            let pins: Pins = [cause].into_iter().collect();
            assert_eq!(pins.iter().collect::<Vec<_>>(), [cause]);
            assert!(Cause::ALL[..i].iter().all(|other| other.label() != cause.label() && other.words() != cause.words()));
        }
    }
}
