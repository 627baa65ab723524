//! What becomes of a request that is not queued with its neighbours, and the steps that a session takes for some.

/// `CLIENT REPLY`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replies {
    /// As ever.
    On,
    /// None.
    Off,
    /// None for the next request.
    Skip,
}

/// What becomes of one request.
pub(super) enum Next {
    /// It is dealt with.
    Done,
    /// Again, when all earlier replies have been handed over.
    Hold,
    /// When the others on the lane have had their share.
    Later,
    /// It waits for something else than the client; it stays at the front of `carry`.
    Step(Step),
}

/// Work that waits for something else than the client. The request that asked for it stands at the front of `carry`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A connection of its own, for as long as that is needed.
    Lease,
    /// A question about clients, some of whom are other workers'.
    Others,
    /// `SUBSCRIBE` and its kin.
    Subscribe,
    /// Something was not executed and is asked again. Nothing stands at the front of `carry` for it.
    Redo,
    /// `UNSUBSCRIBE` and its kin.
    Unsubscribe,
    /// Ask the server what this command is.
    Unknown,
    /// Ask the server whether somebody may do something who has not logged in.
    Knock,
    /// Ask the server what it makes of `AUTH` or `HELLO … AUTH`.
    Verify,
    /// `HELLO`, before anything is known of the server.
    Introduce,
    /// `SELECT` of a database that may not exist.
    Select(u32),
    /// `CLIENT NO-EVICT` and its kin.
    Switch,
    /// The session is over.
    End,
}

impl Step {
    /// Whether the request at the front of `carry` is answered by the step itself, once and for all.
    pub(super) fn answers(self) -> bool {
        match self {
            Self::Others | Self::Subscribe | Self::Unsubscribe | Self::Select(_) | Self::Switch => true,
            Self::Lease | Self::Redo | Self::Unknown | Self::Knock | Self::Verify | Self::Introduce | Self::End => false,
        }
    }
}

/// Whether the session goes on after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// It does.
    GoOn,
    /// It is over.
    End,
}
