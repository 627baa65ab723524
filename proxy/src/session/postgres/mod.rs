//! PostgreSQL sessions.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use self::count::Present;
use self::login::Arrival;
use self::run::{End, Session, Start};
use crate::console;
use crate::handover::message::ClientState;
use crate::transport::stream::Stream;
use crate::worker::Worker;

pub mod account;
mod admitting;
mod alone;
pub mod cancel;
pub mod cancel_lines;
pub mod deadlines;
pub mod entrances;
mod identity;
pub mod inbound;
pub mod keyring;
pub mod listening;
pub mod login;
pub mod lookups;
pub mod matching;
pub mod moving;
mod noting;
pub mod outbound;
pub mod peering;
mod pinning;
pub mod pools;
pub mod prepared;
pub mod presence;
mod reading;
mod referring;
pub mod refusal;
pub mod relay;
pub mod replication;
pub mod route;
pub mod run;
pub mod side;
pub mod states;
pub mod switches;
pub mod verifiers;

mod application_name;
mod auditing;
mod authenticate;
mod carrying;
mod concluding;
mod count;
mod denied;
mod following;
mod heard;
mod hinting;
mod opening;
mod operator;
mod overdue;
mod own_names;
mod own_view;
mod replay;
pub(crate) mod say;
pub mod schema_clock;
mod sequences;
mod shapes;
mod slow_log;
mod sql_names;
mod traced;
mod undo;
mod welcome;

/// Serves one client from its first byte to its last. The caller holds the client's permit for as long as this runs.
pub fn serve(stream: Stream, worker: Rc<Worker>) -> impl Future<Output = ()> {
    Served::Arriving(Box::pin(arrive(stream, worker)))
}

/// A client, as a task. Written by hand because an `async fn` would keep what it awaits a second time: so the task of an idle client is little more
/// than its [`Session`]. The login lies in a box that is gone when it is over.
#[expect(clippy::large_enum_variant, reason = "it is large nearly all the time, and a box would be one more block for each client")]
enum Served<A> {
    Arriving(A),
    Here { present: Present, session: Session },
    Over,
}

impl<A: Future<Output = Option<(Session, Present)>> + Unpin> Future for Served<A> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let served = &mut *self;
        if let Self::Arriving(arriving) = served {
            *served = match ready!(Pin::new(arriving).poll(cx)) {
                Some((session, present)) => {
                    session.begin(cx);
                    Self::Here { present, session }
                }
                None => Self::Over,
            };
        }
        if let Self::Here { session, .. } = served {
            let end = ready!(session.poll(cx));
            if let Self::Here { present, session } = std::mem::replace(served, Self::Over) {
                goes(session, present, end);
            }
        }
        Poll::Ready(())
    }
}

/// A session is over.
fn goes(mut session: Session, present: Present, end: End) {
    session.leave(end);
    let worker = session.worker();
    present.left(&worker, session.presence(), end);
    if end == End::Moved {
        moving::send_away(session, &worker);
    }
}

/// Goes on serving a client that another process has served up to now.
pub fn take_over(stream: Stream, state: ClientState, worker: Rc<Worker>) -> impl Future<Output = ()> {
    Served::Arriving(Box::pin(moving::revive(stream, state, worker)))
}

/// A client that has not logged in yet, for as long as this lives.
struct Arriving<'a>(&'a Cell<u32>);

impl<'a> Arriving<'a> {
    fn new(worker: &'a Worker) -> Self {
        let count = &worker.postgres.arriving;
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// From the first byte to the end of the login, or of what else the client came for.
async fn arrive(stream: Stream, worker: Rc<Worker>) -> Option<(Session, Present)> {
    let arriving = Arriving::new(&worker);
    let arrival = login::login(stream, &worker).await;
    drop(arriving);
    match arrival? {
        Arrival::Session(start) => {
            let start = Start { client: start.client.onto_ring().ok()?, ..start };
            let present = Present::new(&worker, &start);
            Some((Session::new(&worker, start), present))
        }
        Arrival::Replication(replicating, stream, said) => {
            Box::pin(replicating.run(stream, said, &worker)).await;
            None
        }
        Arrival::Console(guest, stream, said) => {
            Box::pin(console::session::serve(&worker, stream, &said, *guest)).await;
            None
        }
        Arrival::Cancel(canceller) => {
            Box::pin(canceller.serve(&worker)).await;
            None
        }
    }
}

#[cfg(test)]
mod rewrite_tests;
#[cfg(test)]
mod simulation;
