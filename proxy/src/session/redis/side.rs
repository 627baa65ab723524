//! What one worker knows of the Redis side: the configured servers. Everything about one of them is in `server`.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use sidepool_config::model::Config;

use super::bound::Bounds;
use super::end::End;
use super::server::Server;
use crate::observe::report::PoolReport;
use crate::pool::registry::Directory;
use crate::worker::Worker;

/// What the workers of a process have in common on the Redis side.
#[derive(Clone)]
pub struct RedisCommons {
    /// The cores of the pools, by name.
    pub directory: Directory<Arc<str>>,
    /// How many clients may hold a connection for something that only others can end.
    pub bounds: Bounds,
}

impl RedisCommons {
    /// For a process with so many workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self { directory: Directory::new(workers), bounds: Bounds::default() }
    }
}

/// The Redis state of one worker.
pub struct RedisSide {
    servers: RefCell<BTreeMap<Arc<str>, Rc<Server>>>,
    commons: RedisCommons,
}

impl RedisSide {
    /// A side that serves nothing yet.
    #[must_use]
    pub fn new(commons: RedisCommons) -> Self {
        Self { servers: RefCell::default(), commons }
    }

    /// Takes over from `old` to `new`: at the start (`old` is then empty) and at each reload. Cannot fail: `new` is validated.
    pub fn apply(&self, old: &Config, new: &Arc<Config>, worker: &Rc<Worker>) {
        let mut servers = self.servers.borrow_mut();
        servers.retain(|name, server| {
            let stays = new.redis.contains_key(&**name);
            if !stays {
                server.drain();
            }
            stays
        });
        for (name, config) in &new.redis {
            match servers.get(name.as_str()) {
                Some(server) if old.redis.get(name) != Some(config) => server.apply(Arc::new(config.clone()), worker),
                Some(_unchanged) => {}
                None => {
                    let name: Arc<str> = Arc::from(name.as_str());
                    let server = Server::new(Arc::clone(&name), Arc::new(config.clone()), self.commons.clone());
                    server.listen_to(config, worker);
                    server.warm(worker);
                    servers.insert(name, server);
                }
            }
        }
    }

    /// What the pools have to report to a scrape.
    #[must_use]
    pub fn pools(&self, now: Instant) -> Vec<PoolReport> {
        self.servers.borrow().values().flat_map(|server| server.reports(now)).collect()
    }

    /// A configured server.
    pub fn server(&self, name: &str) -> Option<Rc<Server>> {
        self.servers.borrow().get(name).cloned()
    }

    /// The host `name` leads to these addresses from now on.
    pub fn retire_gone(&self, name: &str, addresses: &[IpAddr]) {
        self.servers.borrow().values().for_each(|server| server.retire_gone(name, addresses));
    }

    /// Closes so many clients, those first that have most to take; who takes its replies is not among them. Answers how many.
    pub fn close_largest(&self, most: usize) -> usize {
        let servers = self.servers.borrow();
        let clients = servers.values().flat_map(|server| server.clients());
        let mut slow: Vec<_> = clients.filter(|client| client.is_alive() && client.backlog() > 0).collect();
        slow.sort_unstable_by_key(|client| Reverse(client.backlog()));
        slow.truncate(most);
        slow.iter().for_each(|client| client.doom(End::Memory));
        slow.len()
    }

    /// All sessions have ended, or are about to be cut: says goodbye to the upstream.
    pub fn drain(&self) {}
}
