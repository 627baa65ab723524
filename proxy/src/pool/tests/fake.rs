//! A connector without sockets: the test decides what each connect, reset and probe does, and sees what became of each connection.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::LocalOptions;

use crate::pool::fault::{ConnectFault, ConnectFaultKind};
use crate::pool::handle::{Pool, PoolSetup};
use crate::pool::id::IdentityId;
use crate::pool::limits::Limits;
use crate::pool::reason::CloseReason;
use crate::pool::registry::{CoreRef, Directory, PoolId, PoolTable};
use crate::pool::traits::{Connection, Connector};
use crate::worker::{Mailboxes, WorkerId};

pub(super) const ANYONE: IdentityId = IdentityId(0);

/// The server: how many connections it has, and how it behaves.
#[derive(Default)]
pub(super) struct Server {
    /// Connections opened so far.
    pub(super) opened: AtomicU32,
    /// Connections open now.
    pub(super) open: AtomicU32,
}

/// An open connection, counted by the server until it is dropped.
pub(super) struct Fake {
    pub(super) number: u32,
    server: Arc<Server>,
    /// What the server says to it while it is idle.
    news: Rc<News>,
}

/// What a connection hears while it is idle.
#[derive(Default)]
pub(super) struct News {
    said: Cell<Option<CloseReason>>,
    waker: RefCell<Option<Waker>>,
}

impl News {
    pub(super) fn say(&self, reason: CloseReason) {
        self.said.set(Some(reason));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// As [`News::say`], with nobody noticing.
    pub(super) fn say_silently(&self, reason: CloseReason) {
        self.said.set(Some(reason));
    }
}

impl Fake {
    fn new(number: u32, server: Arc<Server>) -> Self {
        server.open.fetch_add(1, Ordering::SeqCst);
        Self { number, server, news: Rc::default() }
    }

    pub(super) fn news(&self) -> Rc<News> {
        Rc::clone(&self.news)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Connection for Fake {
    type Parcel = (u32, Arc<Server>);

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        *self.news.waker.borrow_mut() = Some(cx.waker().clone());
        self.news.said.get().map_or(Poll::Pending, Poll::Ready)
    }

    fn detach(self) -> io::Result<Self::Parcel> {
        Ok((self.number, Arc::clone(&self.server)))
    }

    fn attach((number, server): Self::Parcel) -> io::Result<Self> {
        Ok(Self::new(number, server))
    }

    fn close(self) {}
}

/// Opens [`Fake`]s.
#[derive(Clone, Default)]
pub(super) struct FakeConnector {
    pub(super) server: Arc<Server>,
    /// How long a connect takes.
    pub(super) connect_takes: Duration,
    /// How long a reset takes.
    pub(super) reset_takes: Duration,
    /// What connects fail with.
    pub(super) fault: Rc<Cell<Option<ConnectFaultKind>>>,
}

impl Connector for FakeConnector {
    type Connection = Fake;

    async fn connect(&self) -> Result<Fake, ConnectFault> {
        if !self.connect_takes.is_zero() {
            tokio::time::sleep(self.connect_takes).await;
        }
        match self.fault.get() {
            Some(kind) => Err(ConnectFault::new(kind, "the fake server says no")),
            None => Ok(Fake::new(self.server.opened.fetch_add(1, Ordering::SeqCst), Arc::clone(&self.server))),
        }
    }

    async fn reset(&self, _connection: &mut Fake) -> Result<(), ConnectFault> {
        tokio::time::sleep(self.reset_takes).await;
        Ok(())
    }

    async fn probe(&self, _connection: &mut Fake) -> Result<(), ConnectFault> {
        Err(ConnectFault::new(ConnectFaultKind::Timeout, "no answer"))
    }
}

/// A pool of one worker. The connector's cells stay with the test.
pub(super) fn pool(limits: Limits, connector: &FakeConnector) -> Rc<Pool<FakeConnector>> {
    let (id, core) = Directory::new(1).join(crate::clock::now(), "", limits, 1);
    handle(id, core, connector.clone(), WorkerId(0), Mailboxes::new(Vec::new()), &PoolTable::default())
}

/// A worker's handle.
pub(super) fn handle(
    id: PoolId,
    core: CoreRef,
    connector: FakeConnector,
    worker: WorkerId,
    mailboxes: Mailboxes,
    table: &PoolTable,
) -> Rc<Pool<FakeConnector>> {
    Pool::new(PoolSetup { name: "app".into(), id, core, worker, mailboxes, record: Rc::default(), shared: None }, connector, table)
}

/// Runs a test on a worker's kind of runtime, with time that passes when everybody sleeps.
pub(super) fn run<F: Future<Output = ()>>(test: F) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build_local(LocalOptions::default()).expect("a runtime");
    runtime.block_on(test);
}

/// Lets all tasks that can run do so.
pub(super) async fn turn() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}
