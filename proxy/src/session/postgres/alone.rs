//! Makes way for DROP DATABASE and its like: PostgreSQL refuses them while anybody is connected to the database, and idle connections of the
//! pools are nobody's.
//!
//! PostgreSQL itself waits for a few seconds for the others to go, so nothing waits here. A connection that a client uses is that client's
//! matter: it is closed when the client is done with it. New ones are opened when somebody asks for them.

use std::rc::Rc;

use crate::pool::handle::Pool;
use crate::upstream::postgres::connector::PgConnector;
use crate::worker::Worker;

/// Has connections to these databases on the pool's servers closed as soon as nobody uses them, on all workers.
pub(super) fn make_room(worker: &Rc<Worker>, pool: &Rc<Pool<PgConnector>>, databases: &[Box<[u8]>]) {
    let connector = pool.connector();
    for database in databases.iter().filter_map(|name| std::str::from_utf8(name).ok()) {
        tracing::info!(pool = %pool.name(), database, "connections to the database are closed when idle: a statement wants it alone");
        let hosts = &connector.target().hosts;
        worker.postgres.pools.leave_alone(database, hosts);
        for other in worker.mailboxes.ids().filter(|id| *id != worker.id) {
            let (database, hosts) = (database.to_owned(), hosts.clone());
            // A worker that has ended has no connections.
            worker.mailboxes.post(other, move |worker| worker.postgres.pools.leave_alone(&database, &hosts));
        }
    }
}
