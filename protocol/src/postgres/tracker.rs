//! Who owes what on one upstream connection: the queue of replies that the server (or the proxy itself) still has to give.
//!
//! ```text
//!   client ──▶ on_frontend ──▶ owed: [Query] [Parse] [Bind] [LocalParse] [Execute] [Sync] ──▶ on_backend ──▶ client
//!                 │ Drop after an error, until Sync            │ head answered: popped           │ Swallow what the proxy asked for
//! ```
//! The connection is free when nothing is owed, no batch is open, and the server said it is outside of a transaction. Rules (PostgreSQL
//! documentation, "Extended Query" and "COPY Operations"; `PostgresMain` where the text is silent):
//! * After an error in an extended batch the server ignores everything up to the next Sync, simple queries included.
//! * While the server takes COPY data, it ignores Sync and Flush; any message that is not COPY data ends the COPY with an error and is eaten.
//! * COPY data outside of a COPY is ignored.
//!
//! Not here: bytes, statement names, sockets. `N` is what the caller wants to remember with an entry, to take it back when it never ran.

use std::collections::VecDeque;

use super::tag::{BackendTag, FrontendTag};

/// Where the server said it is, in its last ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    /// `I`: outside.
    Idle,
    /// `T`: inside.
    InTransaction,
    /// `E`: inside one that failed.
    Failed,
}

impl TransactionStatus {
    /// Reads the status byte of ReadyForQuery.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::InTransaction),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }
}

/// A reply that is owed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owed<N> {
    /// A simple query: ends with ReadyForQuery.
    Query(N),
    /// A function call: ends with ReadyForQuery.
    FunctionCall,
    /// A Sync: ends with ReadyForQuery.
    Sync,
    /// A simple query of the proxy itself: everything up to ReadyForQuery is swallowed.
    OwnQuery,
    /// A Parse of the client.
    Parse(N),
    /// A Parse that the proxy put before a Bind or Describe; its reply is swallowed.
    OwnParse(N),
    /// A Parse that needs no server: the proxy answers when its turn comes.
    LocalParse(N),
    /// A Bind.
    Bind(N),
    /// A Describe.
    Describe(N),
    /// A Describe of the proxy itself; its reply is swallowed.
    OwnDescribe(N),
    /// An Execute.
    Execute(N),
    /// A Close of the client.
    Close,
    /// A Bind of the proxy itself; its reply is swallowed.
    OwnBind,
    /// An Execute of the proxy itself; its reply is swallowed.
    OwnExecute(N),
    /// A Close of the proxy itself; its reply is swallowed.
    OwnClose(N),
    /// A Sync of the proxy itself, behind its own messages alone; its reply is swallowed, and so is an error in them.
    OwnSync,
    /// A Close that needs no server: the proxy answers when its turn comes.
    LocalClose(N),
    /// COPY data that was sent before the server asked for any.
    CopyData,
    /// The end of such data.
    CopyEnd,
}

impl<N> Owed<N> {
    /// Whether the server has no part in it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::LocalParse(_) | Self::LocalClose(_) | Self::CopyData | Self::CopyEnd => true,
            Self::Query(_)
            | Self::FunctionCall
            | Self::Sync
            | Self::OwnQuery
            | Self::Parse(_)
            | Self::OwnParse(_)
            | Self::Bind(_)
            | Self::Describe(_)
            | Self::Execute(_)
            | Self::Close
            | Self::OwnBind
            | Self::OwnDescribe(_)
            | Self::OwnExecute(_)
            | Self::OwnClose(_)
            | Self::OwnSync => false,
        }
    }
}

/// What to do with a message of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inbound {
    /// Send it on.
    Forward,
    /// The server would ignore it: so do we.
    Drop,
}

/// What to do with a message of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outbound {
    /// Send it on.
    Forward,
    /// The client did not ask for it.
    Swallow,
}

/// A reply that the proxy gives in the server's place, now that its turn has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Local {
    /// ParseComplete.
    ParseComplete,
    /// CloseComplete.
    CloseComplete,
}

/// The server answered what nobody asked: the two sides no longer agree about who owes what, and the connection is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Desync {
    /// What came.
    pub tag: BackendTag,
}

impl std::fmt::Display for Desync {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the server sent {:?}, which nothing that was asked of it allows", self.tag)
    }
}

/// Whether the server reads COPY data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copy {
    /// No.
    No,
    /// Yes: it asked, and the end has not been sent.
    In,
    /// It streams both ways (replication): nothing is counted any more.
    Both,
}

/// The queue of one upstream connection.
#[derive(Debug)]
pub struct Tracker<N> {
    owed: VecDeque<Owed<N>>,
    /// An error ended the batch; the client's messages are ignored until its Sync.
    skipping: bool,
    /// Extended messages were sent since the last Sync.
    batch_open: bool,
    copy: Copy,
    /// The COPY under way was sent data.
    data_sent: bool,
    /// Something else was sent into the COPY behind data: the server ignores or eats it, unless the data made it give up before.
    doubtful: bool,
    status: TransactionStatus,
}

impl<N> Default for Tracker<N> {
    fn default() -> Self {
        let status = TransactionStatus::Idle;
        Self { owed: VecDeque::new(), skipping: false, batch_open: false, copy: Copy::No, data_sent: false, doubtful: false, status }
    }
}

impl<N> Tracker<N> {
    /// Whether the connection may serve somebody else.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.owed.is_empty() && !self.batch_open && !self.doubtful && self.copy == Copy::No && self.status == TransactionStatus::Idle
    }

    /// Whether the server still has something to answer.
    #[must_use]
    pub fn is_owed(&self) -> bool {
        !self.owed.is_empty()
    }

    /// Whether the client is the one to speak next: nothing is owed, inside of a transaction.
    #[must_use]
    pub fn is_idle_in_transaction(&self) -> bool {
        self.owed.is_empty() && self.status != TransactionStatus::Idle
    }

    /// Where the server said it is.
    #[must_use]
    pub fn status(&self) -> TransactionStatus {
        self.status
    }

    /// Whether an error ended the batch, so that nothing but Sync counts.
    #[must_use]
    pub fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// Whether messages mean what they usually do: no error is being skipped, no COPY is under way.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        !self.skipping && self.copy == Copy::No
    }

    /// Whether the next ReadyForQuery ends a query of the proxy itself.
    #[must_use]
    pub fn is_own_query_next(&self) -> bool {
        matches!(self.owed.front(), Some(Owed::OwnQuery))
    }

    /// Whether the stream is a two-way COPY, which ends only with the connection.
    #[must_use]
    pub fn is_copy_both(&self) -> bool {
        self.copy == Copy::Both
    }

    /// What is owed, the next one first.
    pub fn owed(&self) -> impl Iterator<Item = &Owed<N>> {
        self.owed.iter()
    }

    /// Whether a Sync is owed: a batch that has ended on the client's side and not yet on the server's.
    #[must_use]
    pub fn owes_sync(&self) -> bool {
        self.owed.iter().any(|owed| matches!(owed, Owed::Sync))
    }

    /// Whether a Describe of the proxy itself is owed.
    #[must_use]
    pub fn owes_own_describe(&self) -> bool {
        self.owed.iter().any(|owed| matches!(owed, Owed::OwnDescribe(_)))
    }

    /// Whether something that is owed may run a statement, and so change the status of the transaction.
    #[must_use]
    pub fn runs_something(&self) -> bool {
        self.owed.iter().any(|owed| matches!(owed, Owed::Execute(_) | Owed::Query(_) | Owed::FunctionCall))
    }

    /// Whether the present batch has an unanswered entry that the caller remembers something for which `matters`.
    #[must_use]
    pub fn batch_has(&self, matters: impl Fn(&N) -> bool) -> bool {
        let mut batch = self.owed.iter().rev().take_while(|owed| !matches!(owed, Owed::Sync));
        batch.any(|owed| match owed {
            Owed::Parse(note)
            | Owed::OwnParse(note)
            | Owed::LocalParse(note)
            | Owed::OwnExecute(note)
            | Owed::OwnClose(note)
            | Owed::LocalClose(note)
            | Owed::Query(note)
            | Owed::Bind(note)
            | Owed::Describe(note)
            | Owed::OwnDescribe(note)
            | Owed::Execute(note) => matters(note),
            Owed::FunctionCall
            | Owed::Sync
            | Owed::OwnQuery
            | Owed::OwnBind
            | Owed::OwnSync
            | Owed::Close
            | Owed::CopyData
            | Owed::CopyEnd => false,
        })
    }

    /// What was noted with the simple query that the server is answering now.
    pub fn query_note_mut(&mut self) -> Option<&mut N> {
        match self.owed.front_mut() {
            Some(Owed::Query(note)) => Some(note),
            _ => None,
        }
    }

    /// Whether extended messages were sent since the last Sync.
    #[must_use]
    pub fn is_batch_open(&self) -> bool {
        self.batch_open
    }

    /// Takes the one request that is left over for the proxy's own: what still comes of it is swallowed. False, and nothing changes, when more
    /// than the end of one request is owed.
    pub fn disown(&mut self) -> bool {
        let only = matches!((self.owed.front(), self.owed.len()), (Some(Owed::Sync | Owed::Query(_)), 1));
        if only && !self.skipping {
            self.owed[0] = Owed::OwnQuery;
            return true;
        }
        false
    }

    /// How many replies are owed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.owed.len()
    }

    /// Whether no reply is owed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// A message of the client that the proxy does not handle itself. Parse and Close of statements come through [`Self::owe`] where the proxy rewrites them.
    pub fn on_frontend(&mut self, tag: FrontendTag, note: N) -> Inbound {
        let owed = match tag {
            FrontendTag::CopyData if self.skipping => return Inbound::Drop,
            FrontendTag::CopyData => {
                self.data_sent = true;
                self.remember_early(Owed::CopyData);
                return Inbound::Forward;
            }
            FrontendTag::CopyDone | FrontendTag::CopyFail => return self.on_copy_end(),
            FrontendTag::Flush | FrontendTag::Terminate | FrontendTag::Password => {
                return if self.skipping { Inbound::Drop } else { Inbound::Forward };
            }
            FrontendTag::Query => Owed::Query(note),
            FrontendTag::FunctionCall => Owed::FunctionCall,
            FrontendTag::Sync => Owed::Sync,
            FrontendTag::Parse => Owed::Parse(note),
            FrontendTag::Bind => Owed::Bind(note),
            FrontendTag::Describe => Owed::Describe(note),
            FrontendTag::Execute => Owed::Execute(note),
            FrontendTag::Close => Owed::Close,
        };
        self.owe(owed)
    }

    /// Something is asked of the server, or promised by the proxy in its turn.
    pub fn owe(&mut self, owed: Owed<N>) -> Inbound {
        let is_sync = matches!(owed, Owed::Sync);
        if self.skipping {
            if !is_sync {
                return Inbound::Drop;
            }
            self.skipping = false;
        }
        match self.copy {
            Copy::No => {}
            // The server is reading COPY data: Sync means nothing to it, anything else ends the COPY with an error and is eaten.
            Copy::In => {
                if !is_sync {
                    self.copy = Copy::No;
                }
                self.doubtful |= self.data_sent;
                return Inbound::Forward;
            }
            Copy::Both => return Inbound::Forward,
        }
        self.batch_open = match owed {
            Owed::Sync | Owed::OwnSync | Owed::Query(_) | Owed::FunctionCall => false,
            Owed::OwnQuery | Owed::CopyData | Owed::CopyEnd => self.batch_open,
            Owed::Parse(_)
            | Owed::OwnParse(_)
            | Owed::LocalParse(_)
            | Owed::Bind(_)
            | Owed::Describe(_)
            | Owed::Execute(_)
            | Owed::Close
            | Owed::OwnBind
            | Owed::OwnDescribe(_)
            | Owed::OwnExecute(_)
            | Owed::OwnClose(_)
            | Owed::LocalClose(_) => true,
        };
        self.owed.push_back(owed);
        Inbound::Forward
    }

    /// CopyDone or CopyFail.
    fn on_copy_end(&mut self) -> Inbound {
        if self.skipping {
            return Inbound::Drop;
        }
        match self.copy {
            Copy::In => self.copy = Copy::No,
            Copy::Both => {}
            Copy::No => self.remember_early(Owed::CopyEnd),
        }
        Inbound::Forward
    }

    /// Sent ahead of the server's question, perhaps: remembered while something owed could still become a COPY.
    fn remember_early(&mut self, owed: Owed<N>) {
        let repeated = matches!((self.owed.back(), &owed), (Some(Owed::CopyData), Owed::CopyData));
        if self.copy == Copy::No && !repeated && self.owed.iter().any(|owed| matches!(owed, Owed::Query(_) | Owed::Execute(_))) {
            self.owed.push_back(owed);
        }
    }

    /// Whether it is the proxy's own turn: [`Tracker::next_local`] has something to do.
    #[must_use]
    #[inline]
    pub fn has_local(&self) -> bool {
        self.owed.front().is_some_and(Owed::is_local)
    }

    /// The proxy's own replies whose turn has come; call until `None` after each message of either side.
    pub fn next_local(&mut self) -> Option<Local> {
        loop {
            let local = match self.owed.front()? {
                Owed::LocalParse(_) => Some(Local::ParseComplete),
                Owed::LocalClose(_) => Some(Local::CloseComplete),
                // Its COPY never began, so the server ignored it.
                Owed::CopyData | Owed::CopyEnd => None,
                Owed::Query(_)
                | Owed::FunctionCall
                | Owed::Sync
                | Owed::OwnQuery
                | Owed::Parse(_)
                | Owed::OwnParse(_)
                | Owed::Bind(_)
                | Owed::Describe(_)
                | Owed::Execute(_)
                | Owed::Close
                | Owed::OwnBind
                | Owed::OwnDescribe(_)
                | Owed::OwnExecute(_)
                | Owed::OwnClose(_)
                | Owed::OwnSync => return None,
            };
            self.owed.pop_front();
            if local.is_some() {
                return local;
            }
        }
    }

    /// A message of the server other than ErrorResponse and ReadyForQuery.
    pub fn on_backend(&mut self, tag: BackendTag) -> Result<Outbound, Desync> {
        let desync = Err(Desync { tag });
        match tag {
            BackendTag::NoticeResponse | BackendTag::ParameterStatus | BackendTag::NotificationResponse => Ok(Outbound::Forward),
            BackendTag::DataRow
            | BackendTag::CopyData
            | BackendTag::CopyDone
            | BackendTag::CopyOutResponse
            | BackendTag::ParameterDescription
            | BackendTag::FunctionCallResponse => match self.owed.front() {
                Some(Owed::OwnQuery | Owed::OwnDescribe(_)) => Ok(Outbound::Swallow),
                Some(_) => Ok(Outbound::Forward),
                None => desync,
            },
            BackendTag::CopyInResponse => self.on_copy_in(),
            BackendTag::CopyBothResponse => {
                self.copy = Copy::Both;
                Ok(Outbound::Forward)
            }
            BackendTag::RowDescription => match self.owed.front() {
                Some(Owed::Describe(_)) => self.pop(Outbound::Forward),
                Some(Owed::OwnDescribe(_)) => self.pop(Outbound::Swallow),
                Some(Owed::Query(_) | Owed::Execute(_)) => Ok(Outbound::Forward),
                Some(Owed::OwnQuery) => Ok(Outbound::Swallow),
                _ => desync,
            },
            BackendTag::NoData => match self.owed.front() {
                Some(Owed::Describe(_)) => self.pop(Outbound::Forward),
                Some(Owed::OwnDescribe(_)) => self.pop(Outbound::Swallow),
                _ => desync,
            },
            BackendTag::CommandComplete | BackendTag::EmptyQueryResponse | BackendTag::PortalSuspended => {
                self.doubtful = false;
                match self.owed.front() {
                    Some(Owed::Execute(_)) => self.pop(Outbound::Forward),
                    Some(Owed::Query(_)) => Ok(Outbound::Forward),
                    Some(Owed::OwnQuery) => Ok(Outbound::Swallow),
                    Some(Owed::OwnExecute(_)) => self.pop(Outbound::Swallow),
                    _ if self.copy == Copy::Both => Ok(Outbound::Forward),
                    _ => desync,
                }
            }
            BackendTag::ParseComplete => match self.owed.front() {
                Some(Owed::Parse(_)) => self.pop(Outbound::Forward),
                Some(Owed::OwnParse(_)) => self.pop(Outbound::Swallow),
                _ => desync,
            },
            BackendTag::BindComplete => match self.owed.front() {
                Some(Owed::Bind(_)) => self.pop(Outbound::Forward),
                Some(Owed::OwnBind) => self.pop(Outbound::Swallow),
                _ => desync,
            },
            BackendTag::CloseComplete => match self.owed.front() {
                Some(Owed::Close) => self.pop(Outbound::Forward),
                Some(Owed::OwnClose(_)) => self.pop(Outbound::Swallow),
                _ => desync,
            },
            BackendTag::ErrorResponse
            | BackendTag::ReadyForQuery
            | BackendTag::BackendKeyData
            | BackendTag::Authentication
            | BackendTag::NegotiateProtocolVersion => desync,
        }
    }

    fn pop(&mut self, outbound: Outbound) -> Result<Outbound, Desync> {
        self.owed.pop_front();
        Ok(outbound)
    }

    /// The server wants COPY data for the head of the queue. What was sent behind it has a new meaning.
    fn on_copy_in(&mut self) -> Result<Outbound, Desync> {
        if !matches!(self.owed.front(), Some(Owed::Query(_) | Owed::Execute(_))) {
            return Err(Desync { tag: BackendTag::CopyInResponse });
        }
        self.copy = Copy::In;
        self.data_sent = false;
        while self.copy == Copy::In
            && let Some(next) = self.owed.remove(1)
        {
            // Sync is ignored; the end of the data, or anything that does not belong there, ends the COPY.
            match next {
                Owed::CopyData => self.data_sent = true,
                Owed::CopyEnd => self.copy = Copy::No,
                Owed::Sync | Owed::OwnSync => self.doubtful |= self.data_sent,
                Owed::Query(_)
                | Owed::FunctionCall
                | Owed::OwnQuery
                | Owed::Parse(_)
                | Owed::OwnParse(_)
                | Owed::LocalParse(_)
                | Owed::Bind(_)
                | Owed::Describe(_)
                | Owed::Execute(_)
                | Owed::Close
                | Owed::OwnBind
                | Owed::OwnDescribe(_)
                | Owed::OwnExecute(_)
                | Owed::OwnClose(_)
                | Owed::LocalClose(_) => {
                    self.copy = Copy::No;
                    self.doubtful |= self.data_sent;
                }
            }
        }
        if matches!(self.owed.front(), Some(Owed::Execute(_))) && !self.owed.iter().any(|owed| matches!(owed, Owed::Sync)) {
            self.batch_open = true;
        }
        Ok(Outbound::Forward)
    }

    /// The server reports an error. `dropped` is given every entry that now never runs, the last one first,
    /// so that what they did can be undone in order.
    pub fn on_error(&mut self, mut dropped: impl FnMut(Owed<N>)) -> Outbound {
        match self.owed.front() {
            // Unasked: the server says goodbye.
            None => Outbound::Forward,
            Some(Owed::Query(_) | Owed::FunctionCall | Owed::Sync) => {
                self.copy = Copy::No;
                Outbound::Forward
            }
            Some(Owed::OwnQuery | Owed::OwnSync) => Outbound::Swallow,
            Some(_) => {
                self.copy = Copy::No;
                let sync = self.owed.iter().position(|owed| matches!(owed, Owed::Sync | Owed::OwnSync));
                self.owed.drain(..sync.unwrap_or(self.owed.len())).rev().for_each(&mut dropped);
                if sync.is_none() {
                    self.skipping = true;
                    self.batch_open = true;
                }
                if matches!(self.owed.front(), Some(Owed::OwnSync)) { Outbound::Swallow } else { Outbound::Forward }
            }
        }
    }

    /// ReadyForQuery.
    pub fn on_ready(&mut self, status: TransactionStatus) -> Result<Outbound, Desync> {
        let outbound = match self.owed.front() {
            // Nobody can tell how many more answers there will be.
            _ if self.doubtful => return Err(Desync { tag: BackendTag::ReadyForQuery }),
            Some(Owed::Query(_) | Owed::FunctionCall | Owed::Sync) => Outbound::Forward,
            Some(Owed::OwnQuery | Owed::OwnSync) => Outbound::Swallow,
            _ => return Err(Desync { tag: BackendTag::ReadyForQuery }),
        };
        self.status = status;
        self.copy = Copy::No;
        self.pop(outbound)
    }
}

#[cfg(test)]
#[path = "tracker_tests.rs"]
mod tests;
