//! How idle sessions learn that the process is on its way out, at no cost while it is not.
//!
//! The listener registers the waker of each session's *task* once, when the session starts, and takes it back when it ends (16 bytes a session,
//! nothing per message). When the drain begins every task is woken; whoever is idle then asks [`DrainSignal::poll_begun`] and leaves.
//! Not here: when a drain begins and when it is cut short (`app::shutdown`).

use std::cell::{Cell, RefCell};
use std::num::NonZeroU32;
use std::task::{Context, Poll, Waker};

/// How far the process is on its way out. Each stage includes those before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It is not.
    #[default]
    Serving,
    /// A new process has taken over: sessions that can move to it do so at their next quiet moment.
    Moving,
    /// Nobody new is let in.
    NobodyNew,
    /// Who needs a server that it does not have already is sent away.
    NoServers,
    /// Sessions end at their next quiet moment.
    Leaving,
}

/// One worker's drain signal.
#[derive(Default)]
pub struct DrainSignal {
    stage: Cell<Stage>,
    tasks: RefCell<Tasks>,
}

/// Names a registered task: one more than its index, so that having none takes no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskSlot(NonZeroU32);

impl TaskSlot {
    fn of(index: usize) -> Self {
        let number = u32::try_from(index + 1).ok().and_then(NonZeroU32::new);
        Self(number.expect("fewer sessions than file descriptors"))
    }

    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

impl DrainSignal {
    /// Whether sessions shall end at their next quiet moment.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.stage.get() == Stage::Leaving
    }

    /// Whether sessions that cannot move (Redis) shall end at their next quiet moment, because a new process serves them better.
    #[must_use]
    pub fn is_over_for_those_who_cannot_move(&self) -> bool {
        matches!(self.stage.get(), Stage::Moving | Stage::Leaving)
    }

    /// How far the process is on its way out.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage.get()
    }

    /// For a session that is idle: ready once the drain has begun. Registers nothing: the listener has registered the whole task already, so
    /// this must be polled from the session's own task (not from a task that it spawned, and not from within a sub-executor).
    pub fn poll_begun(&self, _cx: &Context<'_>) -> Poll<()> {
        if self.is_draining() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Tells all sessions to leave.
    pub fn begin(&self) {
        self.advance(Stage::Leaving);
    }

    /// Tells all sessions of a stage, if it is a later one.
    pub fn advance(&self, stage: Stage) {
        if stage > self.stage.get() {
            self.stage.set(stage);
            self.wake_all();
        }
    }

    /// The new process is gone before it had everybody: it goes on here as if nothing had happened.
    pub fn go_on_after_all(&self) {
        if self.stage.get() == Stage::Moving {
            self.stage.set(Stage::Serving);
        }
    }

    /// Has every session look around.
    pub fn wake_all(&self) {
        self.tasks.borrow().wake_all();
    }

    /// How many sessions are registered.
    #[must_use]
    pub fn registered(&self) -> usize {
        self.tasks.borrow().taken
    }

    /// Registers a task to be woken when the drain begins.
    pub fn register(&self, waker: &Waker) -> TaskSlot {
        self.tasks.borrow_mut().insert(waker.clone())
    }

    /// Forgets a task.
    pub fn forget(&self, slot: TaskSlot) {
        self.tasks.borrow_mut().remove(slot);
    }
}

/// Wakers in slots that are used again, newest free one first.
#[derive(Default)]
struct Tasks {
    slots: Vec<Slot>,
    first_free: Option<TaskSlot>,
    taken: usize,
}

enum Slot {
    Taken(Waker),
    Free { next: Option<TaskSlot> },
}

impl Tasks {
    fn insert(&mut self, waker: Waker) -> TaskSlot {
        self.taken += 1;
        let Some(free) = self.first_free else {
            self.slots.push(Slot::Taken(waker));
            return TaskSlot::of(self.slots.len() - 1);
        };
        let slot = &mut self.slots[free.index()];
        self.first_free = match slot {
            Slot::Free { next } => *next,
            Slot::Taken(_) => unreachable!("the free list holds free slots"),
        };
        *slot = Slot::Taken(waker);
        free
    }

    fn remove(&mut self, slot: TaskSlot) {
        let entry = &mut self.slots[slot.index()];
        debug_assert!(matches!(entry, Slot::Taken(_)), "a task is forgotten once");
        *entry = Slot::Free { next: self.first_free };
        self.first_free = Some(slot);
        self.taken -= 1;
    }

    fn wake_all(&self) {
        for slot in &self.slots {
            match slot {
                Slot::Taken(waker) => waker.wake_by_ref(),
                Slot::Free { .. } => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn each_registered_task_is_woken_once_and_forgotten_ones_are_not() {
        let signal = DrainSignal::default();
        let counts: Vec<_> = (0..4).map(|_| Arc::new(Count(AtomicUsize::new(0)))).collect();
        let slots: Vec<_> = counts.iter().map(|count| signal.register(&Waker::from(Arc::clone(count)))).collect();
        signal.forget(slots[1]);
        signal.forget(slots[2]);
        assert_eq!(signal.registered(), 2);
        signal.begin();
        signal.begin();
        let woken: Vec<_> = counts.iter().map(|count| count.0.load(Ordering::Relaxed)).collect();
        assert_eq!(woken, [1, 0, 0, 1]);
        assert!(signal.is_draining());
    }

    #[test]
    fn slots_are_used_again_and_hold_nothing_but_the_waker() {
        let signal = DrainSignal::default();
        let waker = Waker::noop();
        let first = signal.register(waker);
        let second = signal.register(waker);
        signal.forget(first);
        assert_eq!(signal.register(waker), first);
        assert_ne!(first, second);
        assert_eq!(size_of::<Slot>(), 16);
    }
}
