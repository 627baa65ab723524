//! What the proxy keeps in mind about one server connection while messages flow over it: what is owed, which statements are known, what of a
//! message is still to come. It belongs to the connection and not to the client, of whom there are a thousand times as many.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Instant;

use sidepool_protocol::postgres::parameters::ParameterSet;
use sidepool_protocol::postgres::tracker::{Owed, Tracker};

use super::asking::Asking;
use super::dirt::{Dirt, StateRules};
use super::journal::Journal;
use super::pins::Pins;
use super::query::Cleaned;
use super::sequences::Sequences;
use super::spent::Spent;
use super::statements::{Known, ServerStatements, Statement, StatementId};
use crate::transport::backlog::Backlog;

/// What to take back when an announced message never runs.
#[derive(Debug)]
pub enum Note {
    /// Nothing.
    None,
    /// The unnamed statement.
    Unnamed {
        /// The one before it, where this Parse may yet be skipped: then that one still counts.
        before: Option<Vec<u8>>,
        /// The client's count of Parses with this one. Later ones, behind a Sync, are not touched by what happens to this one.
        version: u64,
    },
    /// The client's name, and the server's knowledge where the Parse was sent.
    Named {
        /// What the client calls it.
        name: Box<[u8]>,
        /// The statement, when the server was to learn it.
        id: Option<StatementId>,
    },
    /// A Parse of a name that the client uses already: the server refuses it under the name that it knows.
    Duplicate(Box<[u8]>),
    /// What the server was to learn or forget.
    Server(StatementId),
    /// The unnamed statement that the client closed.
    ClosedUnnamed(Vec<u8>),
    /// A statement that the client closed.
    Closed {
        /// What the client called it.
        name: Box<[u8]>,
        /// The statement.
        statement: Rc<Statement>,
    },
    /// A Bind or Describe of a statement: nothing to take back, but its plan may turn out to be of no use.
    Uses(StatementId),
    /// A Describe of a statement, which tells what its rows look like.
    Shape(Rc<Statement>),
    /// A Bind that is bound to fail, because the rows of this statement have come to look different.
    Changed(StatementId),
    /// What forgets the values that sequences have given to others.
    Forgets,
    /// A simple query in which names of statements were replaced.
    Sql(Box<SqlNote>),
    /// What does not run: in its place stands what the server refuses, and this is what the client is told then.
    Refused(Box<[u8]>),
    /// Something about a statement whose text names another one.
    Text(Box<TextNote>),
}

/// Something about a statement of the extended protocol whose text names another one.
#[derive(Debug)]
pub struct TextNote {
    /// The other one.
    pub uses: Option<StatementId>,
    /// The name that was replaced in the text.
    pub renamed: Option<Renamed>,
    /// What to take back.
    pub back: TakeBack,
}

/// What to take back of a statement whose text names another one, when it never ran.
#[derive(Debug)]
pub enum TakeBack {
    /// Nothing.
    Nothing,
    /// A Parse: what the client calls the statement.
    Name(Box<[u8]>),
    /// A Parse of the unnamed statement; as in [`Note::Unnamed`].
    Unnamed {
        /// The one before it.
        before: Option<Vec<u8>>,
        /// The client's count of Parses with this one.
        version: u64,
    },
    /// A PREPARE: the client's name, and what the server was to learn.
    Prepared {
        /// What the client calls it; none, when the client has taken the name for something else meanwhile.
        name: Option<Box<[u8]>>,
        /// The statement.
        id: StatementId,
    },
    /// A DEALLOCATE: what the client lost.
    Deallocated {
        /// What the client called it.
        name: Box<[u8]>,
        /// The statement.
        statement: Rc<Statement>,
    },
    /// DEALLOCATE ALL or DISCARD ALL.
    AllGone(Box<AllGone>),
}

/// What was known before all statements went.
#[derive(Debug)]
pub struct AllGone {
    /// The client's names.
    pub named: HashMap<Box<[u8]>, Rc<Statement>>,
    /// What the server knew.
    pub known: Known,
}

impl TakeBack {
    /// Whether it changes what a name means.
    fn is_about_a_name(&self) -> bool {
        match self {
            Self::Name(_) | Self::Prepared { .. } | Self::Deallocated { .. } | Self::AllGone(_) => true,
            Self::Nothing | Self::Unnamed { .. } => false,
        }
    }
}

/// A portal of a statement whose text names another one, as long as it has not run.
#[derive(Debug)]
pub struct Portal {
    /// What the client calls it.
    pub name: Box<[u8]>,
    /// What its Execute does to the client's names.
    pub effect: Option<Effect>,
    /// The statement that it runs.
    pub uses: Option<StatementId>,
    /// The name that was replaced in its text.
    pub renamed: Option<Renamed>,
}

/// A simple query in which names of statements were replaced.
#[derive(Debug, Default)]
pub struct SqlNote {
    /// What becomes true with the answers to its PREPARE and DEALLOCATE commands, in their order.
    pub effects: VecDeque<Effect>,
    /// Something was sent before it that this server was to learn for it.
    pub prepares: bool,
    /// The statements that it uses.
    pub uses: Vec<StatementId>,
    /// The names that were replaced, in their order.
    pub renamed: Vec<Renamed>,
}

/// What a PREPARE or DEALLOCATE does when it succeeds.
#[derive(Debug)]
pub enum Effect {
    /// Nothing that is kept account of.
    Nothing,
    /// The client has a statement more, and the server knows it.
    Prepared {
        /// What the client calls it.
        name: Box<[u8]>,
        /// The statement.
        statement: Rc<Statement>,
    },
    /// The client has a statement less.
    Deallocated {
        /// What the client called it.
        name: Box<[u8]>,
        /// What the server forgets.
        id: Option<StatementId>,
    },
    /// All are gone.
    AllGone,
}

/// A name that was replaced in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renamed {
    /// What the client wrote, without quotes.
    pub theirs: Box<[u8]>,
    /// What the server was sent.
    pub ours: Box<[u8]>,
    /// Where that begins, in characters of what was sent.
    pub at: usize,
    /// How many characters the client wrote.
    pub characters: usize,
}

impl Note {
    /// Whether it changes what a statement's name means: to this client, or on this connection.
    #[must_use]
    pub fn is_about_a_name(&self) -> bool {
        match self {
            Self::Named { .. } | Self::Duplicate(_) | Self::Server(_) | Self::Closed { .. } => true,
            Self::Text(text) => text.back.is_about_a_name(),
            Self::None
            | Self::Unnamed { .. }
            | Self::ClosedUnnamed(_)
            | Self::Uses(_)
            | Self::Shape(_)
            | Self::Changed(_)
            | Self::Forgets
            | Self::Sql(_)
            | Self::Refused(_) => false,
        }
    }

    /// Whether it is a simple query that may yet change what a name means.
    fn is_naming(&self) -> bool {
        matches!(self, Self::Sql(sql) if sql.prepares || !sql.effects.is_empty())
    }
}

/// What the connection itself listens to, for the client that has it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hearing {
    /// It has been told channels: before it serves others it is asked for them, and forgets them.
    pub carries: bool,
    /// The client's channels may be others than when it was last asked.
    pub changed: bool,
    /// A LISTEN has succeeded since: perhaps one that nobody saw coming.
    pub listened: bool,
    /// The question that is under way has it listen to nothing.
    pub forgets: bool,
}

/// What has been sent to a server since somebody looked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Parse messages of the client.
    pub client_parses: u32,
    /// Parse messages to the server.
    pub server_parses: u32,
    /// Bind messages of the client.
    pub binds: u32,
}

/// The state of the flow over one server connection.
#[derive(Debug, Default)]
pub struct Link {
    /// What is owed.
    pub tracker: Tracker<Note>,
    /// Which statements the server knows.
    pub statements: ServerStatements,
    /// What the server has not taken yet.
    pub to_server: Backlog,
    /// The start of a small message of which the rest has not come.
    pub carry: Vec<u8>,
    /// That is a ReadyForQuery of the server and what is behind it: it waits for a notification.
    pub held: bool,
    /// The server waits for the rest of a message of the client: anything else that is sent would be taken for that.
    pub half_sent: bool,
    /// How much of the server's present message is still to come.
    pub remaining: usize,
    /// Whether that message goes on to the client.
    pub forward: bool,
    /// The session state that this connection is known to carry; compared by pointer.
    pub applied: Option<Rc<ParameterSet>>,
    /// What was set on this connection.
    pub carried: Rc<ParameterSet>,
    /// Somebody ran SET or RESET since, so that `carried` may not hold.
    pub doubtful: bool,
    /// The proxy's own query that brings the session state is under way; the client's messages wait for it.
    pub matching: bool,
    /// The first of them was sent behind it.
    pub ahead: bool,
    /// Whether nothing behind it runs when it fails.
    pub exits: Exits,
    /// By which rules state follows the client; `None`: only what the server reports does.
    pub rules: Option<Rc<StateRules>>,
    /// What the client may have changed since the server was asked.
    pub dirt: Dirt,
    /// When it was last asked for everything, or first used.
    pub audited: Option<Instant>,
    /// Whose values of sequences the session remembers.
    pub sequences: Sequences,
    /// The server is being asked; the client's messages wait for it.
    pub asking: Option<Box<Asking>>,
    /// How many queries of the proxy itself are through since the first of those that are owed was sent.
    pub own_done: u8,
    /// Which of them may fail.
    pub own_may_fail: Option<u8>,
    /// So much is owed that the server was asked to flush.
    pub flush_asked: bool,
    /// A batch that was to change what is known of statements has been sent, and has not been answered: it may yet fail and change nothing.
    pub unsettled: bool,
    /// The server has said that it closes the connection.
    pub farewell: bool,
    /// Why the connection is the client's own past the end of its transaction.
    pub pins: Pins,
    /// What others use may be prepared otherwise, under the same name: it is thrown away before anybody gets the connection.
    pub squatted: bool,
    /// What the connection itself listens to.
    pub hearing: Hearing,
    /// For which of them the pool knows it to be pinned.
    pub counted: Pins,
    /// The pool keeps a place among the pinned ones for what is certain to be left at the end of the transaction.
    pub promised: bool,
    /// What has been sent, for the statistics.
    pub counts: Counts,
    /// How long it took.
    pub spent: Spent,
    /// What is run, with times, where somebody asks.
    pub journal: Option<Box<Journal>>,
    /// A simple query has been sent that may change what a name means.
    pub naming: bool,
    /// A statement that the server had from before was used since somebody last cleared this.
    pub reused: bool,
    /// Of the present query: something has run, so that a BEGIN in it is not the first.
    pub ran: bool,
    /// The last thing that ran was a BEGIN, and nothing had run before it.
    pub begun: bool,
    /// The transaction has created, altered or dropped something.
    pub schema_changed: bool,
    /// What the client sent and may be sent once more.
    pub replay: Replay,
    /// Portals of statements whose text names another one.
    pub portals: Vec<Portal>,
    /// Databases that a statement which has just been sent wants nobody else to be connected to.
    pub wanted_alone: Vec<Box<[u8]>>,
    /// The error that answered the proxy's own preparations for a simple query.
    pub own_error: Option<Box<[u8]>>,
}

/// Whether a server ends the session at an error when it is told to (`exit_on_error`): then nothing runs that was sent behind what failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Exits {
    /// Nobody knows.
    #[default]
    Unknown,
    /// It is being asked.
    Asked,
    /// Yes.
    Yes,
    /// No.
    No,
}

/// A small batch that uses prepared statements, as the client sent it, as long as none of it has been answered: when the server refuses it because
/// a plan is of no use any more, it is sent again with the statement prepared anew, and the client never learns.
#[derive(Debug, Default)]
pub struct Replay {
    /// The messages. Empty: nothing can be sent again.
    pub bytes: Vec<u8>,
    /// The batch asks what its rows look like, so that it does not matter when they look different from before.
    pub described: bool,
    /// It is the first one in a transaction that the client began by the message in `begin`.
    pub in_block: bool,
    /// A short simple query by which the client may have begun the present transaction.
    pub begin: Vec<u8>,
}

impl Replay {
    /// The longest batch that is kept.
    pub const MAX_BYTES: usize = 4096;
}

/// What the next message of the client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hold {
    /// Nothing.
    #[default]
    No,
    /// The end of each batch and query that may yet change what its names mean.
    Names,
    /// What a server says of the rows of a statement that it has just been told.
    Shape,
    /// All answers.
    All,
    /// The connection that listens for all clients.
    Channels,
}

impl Link {
    /// Whether the connection may serve somebody else: nothing is owed, nothing half-way in either direction, nothing left behind.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.is_quiet() && self.pins.is_empty()
    }

    /// Whether nothing is owed, and nothing half-way in either direction.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.tracker.is_free() && self.remaining == 0 && self.carry.is_empty() && self.to_server.is_empty() && !self.farewell
    }

    /// Whether the next message of the server answers the question after the session's state.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.asking.as_ref().is_some_and(|asking| asking.at() == self.own_done) && self.tracker.is_own_query_next()
    }

    /// Whether the client's messages wait for queries of the proxy itself.
    #[must_use]
    pub fn is_occupied(&self) -> bool {
        self.matching || self.asking.is_some()
    }

    /// Whether what is held back has to wait on.
    #[must_use]
    pub fn holds(&mut self, hold: Hold) -> bool {
        // A COPY that has begun meanwhile goes on only with what the client sends next, whatever that is.
        if !self.tracker.is_plain() {
            return false;
        }
        match hold {
            Hold::No | Hold::Channels => false,
            Hold::Shape => self.tracker.owes_own_describe(),
            Hold::Names => self.tracker.owes_sync() || self.is_naming(),
            Hold::All => self.tracker.is_owed(),
        }
    }

    /// Whether a simple query is unanswered that may change what a name means.
    pub fn is_naming(&mut self) -> bool {
        self.naming = self.naming && self.tracker.owed().any(|owed| matches!(owed, Owed::Query(note) if note.is_naming()));
        self.naming
    }

    /// What a reset has left of the session that nobody else may get, in words.
    #[must_use]
    pub fn left_by(&self, cleaned: Cleaned) -> Option<String> {
        let pins = cleaned.leaves(self.pins);
        if !pins.is_empty() {
            return Some(pins.words());
        }
        if self.squatted && !cleaned.all && !cleaned.statements {
            return Some("statements of others, prepared otherwise under their names".to_owned());
        }
        (!cleaned.all && !self.dirt.is_clean()).then(|| "what a client may have set".to_owned())
    }

    /// The session was reset, as far as `cleaned` says, and nothing is left of it that nobody else may get.
    pub fn take_in_reset(&mut self, cleaned: Cleaned) {
        debug_assert_eq!(self.left_by(cleaned), None);
        if cleaned.all {
            *self = Self::default();
            return;
        }
        let mut statements = std::mem::take(&mut self.statements);
        if cleaned.statements {
            statements.forget_named();
        }
        statements.unnamed = None;
        let (carried, sequences) = (Rc::clone(&self.carried), self.sequences);
        // Whatever else the query did, what was set or drawn may still be.
        *self = Self { statements, carried, sequences, doubtful: true, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::super::pins::Cause;
    use super::*;

    fn used() -> Link {
        let mut link = Link { doubtful: true, ..Link::default() };
        let _ = (link.sequences.on_link(1, false), link.sequences.on_link(2, false));
        link.statements.insert(StatementId::new(1), 9);
        link
    }

    #[test]
    fn a_reset_leaves_what_it_does_not_clean() {
        let all = Cleaned { all: true, ..Cleaned::default() };
        let mut link = used();
        link.take_in_reset(all);
        assert!(link.statements.is_empty() && !link.doubtful && !link.sequences.is_foreign());
        let mut link = used();
        link.take_in_reset(Cleaned::default());
        assert!(link.statements.len() == 1 && link.doubtful && link.applied.is_none() && link.sequences.is_foreign());
        let statements = Cleaned { statements: true, ..Cleaned::default() };
        link.pins.add(Cause::Statements);
        assert_eq!(link.left_by(Cleaned::default()).as_deref(), Some("statements prepared in SQL under its own names"));
        link.take_in_reset(statements);
        assert!(link.statements.is_empty() && link.pins.is_empty());
        link.pins.add(Cause::Listening);
        assert!(link.left_by(statements).is_some());
        link.take_in_reset(Cleaned { listening: true, ..statements });
        assert!(link.pins.is_empty());
        link.squatted = true;
        assert!(link.left_by(Cleaned::default()).is_some() && link.left_by(statements).is_none());
        link.dirt.add_unknown();
        assert!(link.left_by(statements).is_some() && link.left_by(all).is_none());
        link.pins.add(Cause::Library);
        assert!(link.left_by(all).is_some(), "nothing but its end unloads a library");
    }
}
