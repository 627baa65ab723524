//! After a connection with a transaction or a `WATCH` on it was lost: until `EXEC` or `DISCARD` nothing of the transaction may run anywhere.

use sidepool_protocol::redis::command::Handling;
use sidepool_protocol::redis::encode::Resp;

use super::refusal;
use super::run::Session;
use super::steps::Next;

/// What a client lost with its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// Nothing.
    Nothing,
    /// What it watched: a transaction that relies on it must fail as if a watched key had changed.
    Watch,
    /// It is in a transaction that relies on a lost `WATCH`.
    WatchedTransaction,
    /// A transaction that was begun.
    Transaction,
}

impl Session {
    /// Deals with a request of a client that lost something; `None`: that makes no difference to this request.
    pub(super) fn while_lost(&mut self, handling: Option<Handling>) -> Option<Next> {
        match (self.lost, handling) {
            (Lost::Nothing, _) | (_, Some(Handling::Quit)) => None,
            (_, Some(Handling::Reset)) => {
                self.lost = Lost::Nothing;
                None
            }
            (Lost::Watch, Some(Handling::Unwatch)) => Some(self.forgive(b"+OK\r\n")),
            (Lost::Watch, Some(Handling::Watch)) => Some(self.accept(b"+OK\r\n")),
            (Lost::Watch, Some(Handling::Multi)) => {
                self.lost = Lost::WatchedTransaction;
                Some(self.accept(b"+OK\r\n"))
            }
            (Lost::Watch, _) => None,
            (Lost::WatchedTransaction | Lost::Transaction, Some(Handling::Discard)) => Some(self.forgive(b"+OK\r\n")),
            (Lost::WatchedTransaction, Some(Handling::Exec)) => {
                let null: &[u8] = match self.version {
                    Resp::Two => b"*-1\r\n",
                    Resp::Three => b"_\r\n",
                };
                Some(self.forgive(null))
            }
            (Lost::Transaction, Some(Handling::Exec)) => {
                self.lost = Lost::Nothing;
                Some(self.say_error(refusal::EXECABORT_LOST))
            }
            (Lost::WatchedTransaction | Lost::Transaction, Some(Handling::Multi)) => {
                Some(self.say_error("ERR MULTI calls can not be nested"))
            }
            (Lost::WatchedTransaction, _) => Some(self.accept(b"+QUEUED\r\n")),
            (Lost::Transaction, _) => Some(self.say_error(refusal::TRANSACTION_LOST)),
        }
    }

    fn forgive(&mut self, reply: &[u8]) -> Next {
        self.lost = Lost::Nothing;
        self.accept(reply)
    }

    fn accept(&mut self, reply: &[u8]) -> Next {
        self.say(reply);
        Next::Done
    }
}
