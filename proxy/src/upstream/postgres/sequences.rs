//! What a session remembers of sequences (`currval`, `lastval`): whose it is, and when it has to be forgotten.
//!
//! Which statements draw from a sequence can often not be seen (a function does, or a column's default); which ask for what was drawn, can. So
//! nothing is done until a client asks, and then only where others have used the connection since it was last cleaned of this. From then on the
//! client begins with nothing on each connection that others have used.
//! Not here: finding the words (`protocol::postgres::hints`), sending (`session::postgres::hinting`).

/// Who has used a connection since its memory of sequences was last cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Users {
    /// Nobody.
    #[default]
    None,
    /// This client alone.
    One(u64),
    /// Several, this one last; it has drawn a value for certain, or not.
    Several(u64, bool),
}

/// Whose values of sequences a session remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sequences {
    users: Users,
    /// The present client has asked for a value.
    asked: bool,
    /// The present client has run something that may have drawn one.
    ran: bool,
}

impl Sequences {
    /// A client gets the connection; true when what others have drawn has to be forgotten before: it is one that `asks` for values.
    #[must_use]
    pub fn on_link(&mut self, client: u64, asks: bool) -> bool {
        (self.asked, self.ran) = (asks, false);
        self.users = match self.users {
            Users::None => Users::One(client),
            Users::One(known) if known == client => Users::One(client),
            Users::Several(last, drew) if last == client => Users::Several(client, drew),
            Users::One(_) | Users::Several(..) => Users::Several(client, false),
        };
        asks && self.forget(client)
    }

    /// The client is about to ask; true when what others have drawn has to be forgotten before. What the client may have drawn itself in the same
    /// transaction, or for certain since it came, is not.
    #[must_use]
    pub fn on_ask(&mut self, client: u64) -> bool {
        self.asked = true;
        !self.ran && self.forget(client)
    }

    fn forget(&mut self, client: u64) -> bool {
        let foreign = matches!(self.users, Users::Several(_, false));
        if foreign {
            self.users = Users::One(client);
        }
        foreign
    }

    /// Something has run that may have drawn a value.
    pub fn on_run(&mut self) {
        self.ran = true;
    }

    /// A value has been drawn, for all that can be seen.
    pub fn on_draw(&mut self) {
        if let Users::Several(_, drew) = &mut self.users {
            *drew = true;
        }
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
        assert!(!sequences.on_link(1, false) && !sequences.on_ask(1) && sequences.is_asked());
        assert!(!sequences.on_link(1, true) && !sequences.on_ask(1));
    }

    #[test]
    fn what_others_have_drawn_is_forgotten_before_it_is_asked_for() {
        let mut sequences = Sequences::default();
        assert!(!sequences.on_link(1, false) && !sequences.on_link(2, false));
        assert!(sequences.on_ask(2) && !sequences.on_ask(2));
        assert!(!sequences.on_link(2, true));
        assert!(sequences.on_link(1, true) && !sequences.on_link(1, true));
    }

    #[test]
    fn what_the_client_has_drawn_itself_is_not_forgotten() {
        let mut sequences = Sequences::default();
        assert!(!sequences.on_link(1, false) && !sequences.on_link(2, false));
        sequences.on_run();
        assert!(!sequences.on_ask(2));
        // In another transaction only what was drawn for certain counts.
        assert!(!sequences.on_link(2, false) || sequences.is_asked());
        sequences.on_draw();
        assert!(!sequences.on_link(2, false) && !sequences.on_ask(2) && !sequences.on_link(2, true));
        assert!(sequences.on_link(1, true));
    }
}
