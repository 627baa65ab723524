//! SUSPEND: every PostgreSQL session sends what it holds to where it belongs and then reads nothing more, until RESUME. One for each worker.
//!
//! While it lasts, a session looks at this flag before it does anything else; it counts itself as long as it still holds something. Not here: who
//! asks for it (`app::suspend`). Redis sessions go on.

use std::cell::Cell;

use tokio::sync::Notify;

/// Whether this worker's PostgreSQL sessions are to keep still.
#[derive(Default)]
pub struct Suspension {
    state: Cell<State>,
    /// Sessions that were seen with something to send since the count began.
    unsent: Cell<usize>,
    resumed: Notify,
}

/// How still they are to keep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    /// Not at all.
    #[default]
    Off,
    /// They send what they hold, and read nothing.
    Flushing,
    /// Who still holds something is closed.
    Closing,
}

impl Suspension {
    /// How still sessions are to keep.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.get()
    }

    /// Changes that. Sessions have to be woken.
    pub fn set(&self, state: State) {
        self.state.set(state);
        self.unsent.set(0);
        if state == State::Off {
            self.resumed.notify_waiters();
        }
    }

    /// A session still holds something.
    pub fn note_unsent(&self) {
        self.unsent.set(self.unsent.get() + 1);
    }

    /// How many did so since the last call.
    #[must_use]
    pub fn take_unsent(&self) -> usize {
        self.unsent.take()
    }

    /// Ready when sessions need not keep still.
    pub async fn over(&self) {
        while self.state.get() != State::Off {
            // On one thread nothing comes between the look and the wait.
            self.resumed.notified().await;
        }
    }
}
