//! What a session remembers of sequences (`currval`, `lastval`): whether it is another client's, and has to be forgotten before it is asked for.
//!
//! Which statements draw from a sequence can often not be seen (a function does, or a column's default); which ask for what was drawn, can. So
//! nothing is done until a client asks, and then only where others have used the connection since it was last cleaned of this.
//! Not here: finding the words (`protocol::postgres::hints`), sending (`session::postgres::sequences`).

/// Who has used a connection since its memory of sequences was last cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Users {
    /// Nobody.
    #[default]
    None,
    /// This client alone.
    One(u64),
    /// Several, this one last.
    Several(u64),
}

/// Whose values of sequences a session remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sequences {
    users: Users,
    /// The present client has asked for a value.
    asked: bool,
    /// The present client has run something that may have drawn one.
    ran: bool,
    /// How often it has been tried to forget them since the present client got the connection, or since that last went well.
    tries: u8,
    /// One of these may not have been answered.
    forgetting: bool,
}

impl Sequences {
    /// A client gets the connection; true: it may ask for values without anything being done before (it `asks`), and so what others have drawn has
    /// to be forgotten now.
    #[must_use]
    pub fn on_link(&mut self, client: u64, asks: bool) -> bool {
        (self.asked, self.ran, self.tries, self.forgetting) = (false, false, 0, false);
        self.users = match self.users {
            Users::None => Users::One(client),
            Users::One(known) if known == client => Users::One(client),
            Users::One(_) | Users::Several(_) => Users::Several(client),
        };
        asks && self.is_foreign()
    }

    /// The client is about to ask, or perhaps (`hidden`); true when what others have drawn has to be forgotten before. With it goes what the client
    /// has drawn itself since it got the connection: nobody can tell one from the other. From then on clients of its kind begin with nothing.
    #[must_use]
    pub fn on_ask(&mut self, hidden: bool) -> bool {
        self.asked |= !hidden || self.ran && self.is_foreign();
        self.is_foreign()
    }

    /// Whether values may be another client's.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        matches!(self.users, Users::Several(_))
    }

    /// All values shall be forgotten.
    pub fn on_try(&mut self) {
        (self.tries, self.forgetting) = (self.tries.saturating_add(1), true);
    }

    /// How often that was tried since it last went well.
    #[must_use]
    pub fn tries(&self) -> u8 {
        self.tries
    }

    /// Whether the server may still have to answer that.
    #[must_use]
    pub fn is_forgetting(&self) -> bool {
        self.forgetting
    }

    /// It has.
    pub fn on_answered(&mut self) {
        self.forgetting = false;
    }

    /// The session has forgotten all values.
    pub fn on_forgotten(&mut self) {
        self.tries = 0;
        if let Users::Several(client) = self.users {
            self.users = Users::One(client);
        }
    }

    /// Something has run that may have drawn a value.
    pub fn on_run(&mut self) {
        self.ran = true;
    }

    /// Whether the present client asks for values.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_nobody_else_used_keeps_what_was_drawn() {
        let mut sequences = Sequences::default();
        assert!(!sequences.on_link(1, false) && !sequences.on_ask(false) && sequences.is_asked());
        assert!(!sequences.on_link(1, true) && !sequences.on_ask(false));
    }

    #[test]
    fn what_others_have_drawn_is_forgotten_before_it_is_asked_for() {
        let mut sequences = Sequences::default();
        assert!(!sequences.on_link(1, false) && !sequences.on_link(2, false));
        assert!(sequences.on_ask(false) && sequences.on_ask(false), "nobody has said that it is forgotten");
        sequences.on_run();
        assert!(sequences.on_ask(false), "whatever the client may have drawn itself");
        sequences.on_forgotten();
        assert!(!sequences.on_ask(false) && !sequences.on_link(2, true));
        assert!(sequences.on_link(1, true));
        sequences.on_forgotten();
        assert!(!sequences.on_link(1, true));
    }

    #[test]
    fn who_may_ask_without_words_is_taken_for_one_who_asks_only_where_it_loses_something() {
        let mut sequences = Sequences::default();
        assert!(!sequences.on_link(1, false) && !sequences.on_ask(true) && !sequences.is_asked());
        sequences.on_run();
        assert!(!sequences.on_ask(true) && !sequences.is_asked(), "all that there may be is its own");
        assert!(!sequences.on_link(2, false) && sequences.on_ask(true) && !sequences.is_asked(), "it has drawn nothing yet");
        sequences.on_run();
        assert!(sequences.on_ask(true) && sequences.is_asked());
    }
}
