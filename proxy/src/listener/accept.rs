//! The accept loop of one socket, and the task that a client becomes.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project::{pin_project, pinned_drop};
use tokio::sync::oneshot;
use tokio::task::spawn_local;

use super::bind::Bound;
use super::gate::{Door, Gate, Permit};
use super::place::{Place, Places};
use super::refuse::{Reason, Refusals};
use super::socket::Socket;
use crate::clock;
use crate::drain::TaskSlot;
use crate::observe::record::WorkerCounter;
use crate::session;
use crate::session::postgres::moving::Leaver;
use crate::transport::stream::Stream;
use crate::worker::Worker;

/// First pause after an accept that failed for want of something; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// A descriptor may come free at any moment, so never longer than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How many are accepted, or turn out to be gone, before everybody else has had a turn: in a burst those who are at work shall hardly notice.
const AT_A_TIME: u64 = 16;

/// How many clients are still told, or served, when a listener closes.
const MOST_IN_THE_QUEUE: usize = 256;

/// What becomes of those who have connected, but have not been accepted, when a listener closes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Closing {
    /// They are told that they come too late. Also when nobody says anything.
    #[default]
    TurnAway,
    /// They are the last ones to be served.
    ServeTheRest,
    /// They are another process's, which has the socket, too.
    GiveAway,
}

/// One listening socket with all that its accept loop needs. Made on the control thread, run on a worker.
pub struct Listener {
    /// The socket.
    pub bound: Bound,
    /// Whose clients come in here.
    pub door: Door,
    /// How many there may be.
    pub gate: Arc<Gate>,
    /// Where they go.
    pub places: Places,
    /// Closes the listener, also when its other end is dropped.
    pub close: oneshot::Receiver<Closing>,
}

impl Listener {
    /// Starts accepting on this worker.
    pub fn start(self, worker: &Rc<Worker>) -> io::Result<()> {
        let socket = Socket::attach(self.bound)?;
        let door = Rc::new(self.door);
        let refusals = Refusals::new(Rc::clone(&door), Arc::clone(&self.gate), Rc::clone(worker));
        let mut acceptor = Acceptor { socket, door, gate: self.gate, places: self.places, worker: Rc::clone(worker), refusals };
        let close = self.close;
        let entrance =
            (*acceptor.door == Door::Postgres).then(|| worker.postgres.entrances.open(acceptor.socket.descriptor(), acceptor.socket.at()));
        spawn_local(async move {
            let closing = tokio::select! {
                closing = close => closing.unwrap_or_default(),
                () = acceptor.run(async || acceptor.socket.accept().await) => Closing::default(),
            };
            acceptor.close(closing).await;
            drop(entrance);
            if closing == Closing::GiveAway {
                acceptor.socket.give_away();
            }
        });
        Ok(())
    }
}

struct Acceptor {
    socket: Socket,
    door: Rc<Door>,
    gate: Arc<Gate>,
    places: Places,
    worker: Rc<Worker>,
    refusals: Refusals,
}

impl Acceptor {
    /// Accepts for ever. An accept that fails costs a pause, never the listener.
    async fn run(&self, accept: impl AsyncFn() -> io::Result<Stream>) {
        let (mut pause, mut seen) = (FIRST_PAUSE, 0_u64);
        loop {
            match accept().await {
                Ok(stream) => {
                    pause = FIRST_PAUSE;
                    if *self.door == Door::Postgres {
                        self.worker.suspension.over().await;
                    }
                    self.admit(stream);
                }
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => {
                    self.gate.count_accept_error();
                    tracing::warn!(listener = self.door.label(), %error, pause_ms = pause.as_millis(), "cannot accept clients; trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            // Those who are gone again count, too: nothing else would ever interrupt them.
            seen += 1;
            // Who is to make room does so before the next one comes.
            if seen.is_multiple_of(AT_A_TIME) || self.gate.numbers().is_over() {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Those who are connected already as far as they know, and whom closing the socket would cut without a word.
    async fn close(&self, closing: Closing) {
        if closing == Closing::GiveAway {
            return;
        }
        // Ready at its first poll or not at all; the bound is for clients that keep coming.
        for _ in 0..MOST_IN_THE_QUEUE {
            let Ok(Ok(stream)) = tokio::time::timeout(Duration::ZERO, self.socket.accept()).await else { return };
            match closing {
                // The permit holds up the end of the process until they have been told.
                Closing::TurnAway => self.refusals.refuse(stream, Reason::ShuttingDown, self.gate.enter_too_late()),
                Closing::ServeTheRest | Closing::GiveAway => self.admit(stream),
            }
        }
    }

    fn admit(&self, stream: Stream) {
        if self.gate.refuses_for_memory() {
            return self.refusals.refuse(stream, Reason::Memory, None);
        }
        let Some(permit) = self.gate.enter_or(|| make_room(&self.worker, &self.door)) else {
            self.make_room_elsewhere();
            let gate = self.gate.numbers();
            let reason = if gate.files < gate.max { "open_files" } else { "max_client_conn" };
            tracing::warn!(
                name: "too_many_clients",
                listener = self.door.label(),
                clients = gate.open,
                max = gate.most(),
                reason,
                "too many clients: refused one ({})",
                if gate.files < gate.max { "the limit on open files" } else { "max_client_conn" }
            );
            self.refusals.refuse(stream, Reason::TooMany(gate), None);
            return;
        };
        let place = self.places.take(self.worker.id);
        if place.worker() == self.worker.id {
            start(stream, &self.door, Seat { permit, place }, &self.worker);
        } else {
            self.hand_over(stream, Seat { permit, place });
        }
    }

    /// Those who wait for nothing but their clients may live with other workers: the next one finds room.
    fn make_room_elsewhere(&self) {
        for id in self.worker.mailboxes.ids().filter(|id| *id != self.worker.id) {
            let door = Door::clone(&self.door);
            self.worker.mailboxes.post(id, move |worker| _ = make_room(worker, &door));
        }
    }

    fn hand_over(&self, stream: Stream, seat: Seat) {
        let parcel = match stream.detach() {
            Ok(parcel) => parcel,
            Err(error) => {
                tracing::warn!(listener = self.door.label(), %error, "cannot hand a client to another worker");
                return;
            }
        };
        let door = Door::clone(&self.door);
        self.worker.mailboxes.post(seat.place.worker(), move |worker| match Stream::attach(parcel) {
            Ok(stream) => start(stream, &door, seat, worker),
            Err(error) => tracing::warn!(listener = door.label(), %error, "cannot take a client over from another worker"),
        });
    }
}

/// Sends a client away that has not proven who it is and keeps us waiting. False if there is none on this worker.
fn make_room(worker: &Worker, door: &Door) -> bool {
    let now = clock::now();
    match door {
        Door::Postgres => worker.postgres.arrivals.make_room(now),
        Door::Redis(name) => worker.redis.server(name).is_some_and(|server| server.arrivals.make_room(now)),
    }
}

/// What a client holds for as long as it is connected.
struct Seat {
    #[expect(dead_code, reason = "kept for its drop")]
    permit: Permit,
    place: Place,
}

/// Goes on serving a PostgreSQL client that another process has accepted.
pub fn adopt(worker: &Rc<Worker>, client: Leaver, permit: Permit, place: Place) {
    let stream = match Stream::attach(client.socket) {
        Ok(stream) => stream,
        Err(error) => return tracing::warn!(%error, "cannot take a client over from another process"),
    };
    let session = session::postgres::take_over(stream, client.state, Rc::clone(worker));
    spawn_local(Client::new(session, Seat { permit, place }, worker, WorkerCounter::PostgresPanics));
}

/// Starts a session as a task of this worker.
fn start(stream: Stream, door: &Door, seat: Seat, worker: &Rc<Worker>) {
    match door {
        Door::Postgres => {
            let session = session::postgres::serve(stream, Rc::clone(worker));
            spawn_local(Client::new(session, seat, worker, WorkerCounter::PostgresPanics));
        }
        Door::Redis(name) => {
            let session = session::redis::serve(stream, Arc::clone(name), Rc::clone(worker));
            spawn_local(Client::new(session, seat, worker, WorkerCounter::RedisPanics));
        }
    }
}

/// Errors that concern one client, which is gone already: the next accept may work at once.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// A session with its rights. Written by hand because an `async` block would keep the session's arguments a second time.
#[pin_project(PinnedDrop)]
struct Client<F> {
    #[pin]
    session: F,
    seat: Seat,
    worker: Rc<Worker>,
    drain: Option<TaskSlot>,
    panics: WorkerCounter,
}

impl<F> Client<F> {
    fn new(session: F, seat: Seat, worker: &Rc<Worker>, panics: WorkerCounter) -> Self {
        Self { session, seat, worker: Rc::clone(worker), drain: None, panics }
    }
}

impl<F: Future<Output = ()>> Future for Client<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.drain.is_none() {
            *this.drain = Some(this.worker.drain.register(cx.waker()));
        }
        this.session.poll(cx)
    }
}

#[pinned_drop]
impl<F> PinnedDrop for Client<F> {
    fn drop(self: Pin<&mut Self>) {
        let this = self.project();
        if let Some(slot) = this.drain.take() {
            this.worker.drain.forget(slot);
        }
        if std::thread::panicking() {
            this.worker.record.add(*this.panics, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::runtime::{Builder, LocalOptions};

    use super::*;
    use crate::observe::record::WorkerRecord;
    use crate::worker::{Commons, Mailboxes, WorkerId};

    fn count(record: &WorkerRecord) -> u64 {
        record.numbers().counters[WorkerCounter::PostgresPanics as usize]
    }

    #[test]
    fn a_session_that_panics_takes_only_itself_along() {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        let gate = Gate::new(10);
        let places = Places::new(1);
        let seat = || Seat { permit: gate.enter().unwrap(), place: places.take(WorkerId(0)) };
        runtime.block_on(async {
            let worker = Worker::new(WorkerId(0), Mailboxes::new(Vec::new()), Commons::new(1).unwrap());
            let served = Rc::new(Cell::new(false));
            let note = Rc::clone(&served);
            let good = async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                note.set(true);
            };
            let good = spawn_local(Client::new(good, seat(), &worker, WorkerCounter::PostgresPanics));
            let bad = spawn_local(Client::new(async { panic!("on purpose") }, seat(), &worker, WorkerCounter::PostgresPanics));
            assert!(bad.await.unwrap_err().is_panic());
            assert_eq!((gate.numbers().open, worker.drain.registered(), count(&worker.record)), (1, 1, 1));
            good.await.unwrap();
            assert!(served.get());
            assert_eq!((gate.numbers().open, worker.drain.registered(), count(&worker.record)), (0, 0, 1));
        });
    }

    #[test]
    fn a_burst_of_clients_leaves_everybody_else_his_turn() {
        const CLIENTS: u64 = 100;
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        let gate = Gate::new(1000);
        runtime.block_on(async {
            let worker = Worker::new(WorkerId(0), Mailboxes::new(Vec::new()), Commons::new(1).unwrap());
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            let address = listener.local_addr().unwrap();
            // All of them are there before the first is accepted.
            let _clients: Vec<_> = (0..CLIENTS).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
            let (_open, close) = oneshot::channel();
            let (gate, places) = (Arc::clone(&gate), Places::new(1));
            let listener = Listener { bound: Bound::Tcp(listener), door: Door::Postgres, gate: Arc::clone(&gate), places, close };
            listener.start(&worker).unwrap();
            let (mut before, mut most) = (0, 0);
            while before < CLIENTS {
                tokio::task::yield_now().await;
                let now = gate.numbers().accepted;
                (before, most) = (now, most.max(now - before));
            }
            assert!((1..=AT_A_TIME).contains(&most), "{most} between two turns of somebody else");
        });
    }

    #[test]
    fn a_burst_of_clients_that_are_gone_already_does_so_too() {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let worker = Worker::new(WorkerId(0), Mailboxes::new(Vec::new()), Commons::new(1).unwrap());
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            let (socket, door, gate) = (Socket::attach(Bound::Tcp(listener)).unwrap(), Rc::new(Door::Postgres), Gate::new(10));
            let refusals = Refusals::new(Rc::clone(&door), Arc::clone(&gate), Rc::clone(&worker));
            let acceptor = Acceptor { socket, door, gate, places: Places::new(1), worker, refusals };
            let gone = Cell::new(0);
            let accept = async || {
                gone.set(gone.get() + 1);
                match gone.get() {
                    ..=100 => Err(io::ErrorKind::ConnectionAborted.into()),
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = acceptor.run(accept) => unreachable!("it accepts for ever"),
                () = std::future::ready(()) => {}
            }
            assert_eq!(gone.get(), AT_A_TIME);
        });
    }

    #[test]
    fn idle_sessions_learn_of_a_drain() {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        let gate = Gate::new(10);
        let places = Places::new(1);
        runtime.block_on(async {
            let worker = Worker::new(WorkerId(0), Mailboxes::new(Vec::new()), Commons::new(1).unwrap());
            let sessions: Vec<_> = (0..5)
                .map(|_| {
                    let idle = Rc::clone(&worker);
                    let session = async move { std::future::poll_fn(|cx| idle.drain.poll_begun(cx)).await };
                    let seat = Seat { permit: gate.enter().unwrap(), place: places.take(WorkerId(0)) };
                    spawn_local(Client::new(session, seat, &worker, WorkerCounter::PostgresPanics))
                })
                .collect();
            tokio::task::yield_now().await;
            assert_eq!(worker.drain.registered(), 5);
            worker.drain.begin();
            for session in sessions {
                tokio::time::timeout(Duration::from_secs(10), session).await.expect("woken").unwrap();
            }
            assert_eq!(gate.numbers().open, 0);
        });
    }

    #[test]
    fn what_an_idle_client_costs_is_little() {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let worker = Worker::new(WorkerId(0), Mailboxes::new(Vec::new()), Commons::new(1).unwrap());
            let stream = || Stream::Unix(tokio::net::UnixStream::pair().unwrap().0);
            let postgres = size_of_val(&session::postgres::serve(stream(), Rc::clone(&worker)));
            let redis = size_of_val(&session::redis::serve(stream(), "cache".into(), worker));
            // tokio aligns a task to 128 bytes and adds 80 of its own: this is what fits in three such steps.
            let most = 3 * 128 - 80 - size_of::<Client<()>>();
            assert!(postgres <= most && redis <= most, "the futures have {postgres} and {redis} bytes, where {most} fit");
        });
    }

    #[test]
    fn what_a_client_costs_beside_its_session_is_little() {
        assert!(size_of::<Client<()>>() <= 56, "{}", size_of::<Client<()>>());
    }
}
