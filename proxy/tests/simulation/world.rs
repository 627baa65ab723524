//! One history: a worker with its configuration, a server, some clients, and what must hold at the end.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sidepool::clock;
use sidepool::session::postgres::serve;
use sidepool::transport::stream::Stream;
use sidepool::worker::{Commons, Mailboxes, Worker, WorkerId};
use sidepool_config::model::{AuthType, Config, PgDatabase, PgUser, PoolMode, Postgres, Timeouts, Upstream};
use tokio::net::UnixStream;
use tokio::runtime::Builder;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::timeout;

use crate::client;
use crate::dice::Dice;
use crate::server::Server;

/// In which connections go back to the pool.
pub(crate) use sidepool_config::model::PoolMode as Mode;

/// Longer than anything that goes on by itself may take.
const SETTLED: Duration = Duration::from_secs(300);

/// What clients live in.
pub(crate) struct World {
    pub(crate) mode: PoolMode,
    /// The server never fails.
    pub(crate) calm: bool,
    worker: Rc<Worker>,
    sessions: RefCell<Vec<JoinHandle<()>>>,
}

impl World {
    /// A new connection to the proxy.
    pub(crate) fn connect(&self) -> UnixStream {
        let (theirs, ours) = UnixStream::pair().expect("two sockets");
        self.sessions.borrow_mut().push(spawn_local(serve(Stream::Unix(ours), Rc::clone(&self.worker))));
        theirs
    }
}

/// Plays a history. A calm one has timeouts that nobody reaches, too.
pub(crate) fn play(dice: Dice, calm: bool) {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
    LocalSet::new().block_on(&runtime, unfold(dice, calm));
}

async fn unfold(mut dice: Dice, calm: bool) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&directory.path().join("server"), calm, dice.split());
    let mode = match dice.roll(10) {
        // Whoever waits for a session to end may wait for long.
        0 if !calm => PoolMode::Session,
        1 => PoolMode::Statement,
        _ => PoolMode::Transaction,
    };
    let config = configuration(&server, mode, calm, &mut dice);
    let most = config.postgres.as_ref().map_or(0, |postgres| {
        let limits = &postgres.databases["app"].limits;
        limits.pool_size + limits.reserve_pool_size
    });
    let worker = Worker::new(WorkerId(0), Mailboxes::new(Vec::new()), Commons::new(1).expect("random numbers"));
    worker.apply(&Arc::new(config));
    let world = Rc::new(World { mode, calm, worker: Rc::clone(&worker), sessions: RefCell::default() });
    let clients: Vec<_> = (0..2 + dice.index(7)).map(|number| spawn_local(client::live(Rc::clone(&world), number, dice.split()))).collect();
    for client in clients {
        client.await.expect("what a client expects holds");
    }
    let sessions = world.sessions.take();
    for session in sessions {
        timeout(SETTLED, session).await.expect("a session ends when its client has left").expect("no session panics");
    }
    // Connections are cleaned, cancelled queries end.
    let settled = async {
        while worker.postgres.pools.in_use(clock::now()) > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(SETTLED, settled).await.expect("nothing is lent when everybody has left");
    assert!(server.most() <= most, "{} connections where {most} are allowed", server.most());
    worker.postgres.drain();
    let closed = async {
        while server.open() > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(SETTLED, closed).await.expect("a drained pool closes its connections");
}

fn configuration(server: &Server, mode: PoolMode, calm: bool, dice: &mut Dice) -> Config {
    let mut database = PgDatabase::at(Upstream::Unix(server.path().to_owned()));
    database.pool_mode = mode;
    let limits = &mut database.limits;
    limits.pool_size = 1 + u32::try_from(dice.roll(4)).expect("small");
    limits.reserve_pool_size = u32::try_from(dice.roll(2)).expect("small");
    limits.server_lifetime = Duration::from_secs(60 + dice.roll(600));
    limits.server_idle_timeout = Duration::from_secs(10 + dice.roll(100));
    limits.server_login_retry = Duration::from_secs(5);
    limits.query_wait_timeout = Duration::from_secs(if calm { 0 } else { 20 });
    let mut postgres = Postgres { auth_type: AuthType::Trust, ..Postgres::default() };
    if !calm {
        postgres.timeouts = Timeouts {
            query_timeout: Duration::from_secs(40),
            idle_transaction_timeout: Duration::from_secs(25),
            client_idle_timeout: Duration::from_secs(300),
            ..Timeouts::default()
        };
    }
    postgres.client_login_timeout = Duration::from_secs(60);
    postgres.databases.insert("app".into(), database);
    postgres.users.insert("app".into(), PgUser::default());
    Config { postgres: Some(postgres), ..Config::default() }
}
