//! Who holds a pool's connections, and for how long: asked of the workers when somebody looks at the status, and by nobody else.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use crate::clock;
use crate::console::gather;
use crate::pool::caps::CapKey;
use crate::session::postgres::cancel::Activity;
use crate::session::postgres::presence::Presence;
use crate::transport::ends::End;
use crate::upstream::postgres::roll::Server;
use crate::worker::{Mailboxes, Worker};

/// So many of those that have held one for longest are named for each pool.
const NAMED: usize = 5;

/// Of a name that a client gave itself so much is shown.
const SHOWN_CHARACTERS: usize = 64;

/// One client that holds a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// For how long.
    pub held: Duration,
    /// As whom it logged in.
    pub user: String,
    /// What it calls itself; may be empty.
    pub application: String,
    /// Where it is.
    pub client: String,
    /// The server's process.
    pub server_pid: u32,
    /// Whether it is idle inside of a transaction.
    pub rests: bool,
    /// Why it keeps the connection past its transactions, if it does.
    pub pinned: Option<String>,
}

impl Holder {
    /// What to call it in a sentence.
    #[must_use]
    pub fn name(&self) -> &str {
        if self.application.is_empty() { &self.user } else { &self.application }
    }
}

/// Those who hold the connections of one pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holders {
    /// How many of them are idle inside of a transaction.
    pub resting: u32,
    /// Some of them: those in a transaction before those that are pinned, and those first that have held theirs for longest.
    pub longest: Vec<Holder>,
}

impl Holders {
    fn add(&mut self, other: Self) {
        self.resting += other.resting;
        self.longest.extend(other.longest);
        self.longest.sort_by_key(|holder| std::cmp::Reverse((holder.pinned.is_none(), holder.held)));
        self.longest.truncate(NAMED);
    }

    /// Whether one more that has held a connection for so long would be among those that are named: those in a transaction before those that keep theirs
    /// in any case.
    fn shows(&self, held: Duration, pinned: bool) -> bool {
        let last = self.longest.get(NAMED - 1);
        last.is_none_or(|last| (!pinned, held) > (last.pinned.is_none(), last.held))
    }
}

/// A limit that several pools have together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// The setting.
    pub setting: &'static str,
    /// The database or user whose limit it is.
    pub of: String,
    /// How many connections there are.
    pub used: u32,
    /// How many there may be.
    pub max: u32,
}

impl Limit {
    /// Whether it is a limit of the pool with this name, which belongs to this user.
    #[must_use]
    pub fn concerns(&self, pool: &str, user: &str) -> bool {
        match self.setting {
            USER => self.of == user,
            _ => pool.strip_prefix(&*self.of).and_then(|rest| rest.strip_prefix('.')).is_some_and(|rest| rest.starts_with(user)),
        }
    }
}

const DATABASE: &str = "max_db_connections";
const USER: &str = "max_user_connections";

/// What the sessions say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sessions {
    /// By the names of the pools.
    pub holders: BTreeMap<String, Holders>,
    /// Those of databases and users.
    pub limits: Vec<Limit>,
}

/// Asks all workers. Those that do not answer are left out.
pub async fn ask(mailboxes: &Mailboxes) -> Sessions {
    let mut sessions = Sessions::default();
    for (holders, limits) in gather::ask_all(mailboxes, |worker| (holders(worker), limits(worker))).await {
        for (pool, more) in holders {
            sessions.holders.entry(pool).or_default().add(more);
        }
        // One ledger for the process: each worker says the same.
        sessions.limits = limits;
    }
    sessions
}

/// Runs on the worker.
fn holders(worker: &Worker) -> BTreeMap<String, Holders> {
    let servers: HashMap<u64, Rc<Server>> = worker.postgres.pools.roll.servers().into_iter().map(|server| (server.id, server)).collect();
    let now = worker.postgres.micros(clock::now());
    let mut pools: HashMap<(&str, &str), Holders> = HashMap::new();
    worker.postgres.cancels.look_at_all(|presence, activity| {
        let Activity::Active(server) = activity else { return };
        let Some(server) = servers.get(&server) else { return };
        let pool = pools.entry((&server.database, &server.user)).or_default();
        pool.resting += u32::from(server.rests.get());
        // Texts are made only of those that are shown.
        let (held, pinned) = (Duration::from_micros(now.saturating_sub(presence.asked())), server.held.get().is_some());
        if pool.shows(held, pinned) {
            pool.add(Holders { resting: 0, longest: vec![holder(presence, server, now)] });
        }
    });
    pools.into_iter().map(|((database, user), holders)| (format!("{database}.{user}"), holders)).collect()
}

fn holder(presence: &Presence, server: &Server, now: u64) -> Holder {
    let state = presence.state();
    Holder {
        held: Duration::from_micros(now.saturating_sub(presence.asked())),
        user: shown(&presence.who.user),
        application: shown(state.get("application_name").unwrap_or_default()),
        client: match presence.ends.theirs() {
            End::Tcp(address) => address.to_string(),
            End::Unix => format!("process {}", presence.ends.process()),
            End::Unknown => String::new(),
        },
        server_pid: server.pid(),
        rests: server.rests.get(),
        pinned: server.held.get().map(|held| held.pins.words()),
    }
}

fn limits(worker: &Worker) -> Vec<Limit> {
    let limit = |(key, used, max)| match key {
        CapKey::Database(name) => Limit { setting: DATABASE, of: name.to_string(), used, max },
        CapKey::User(name) => Limit { setting: USER, of: name.to_string(), used, max },
    };
    worker.postgres.pools.shared_limits().into_iter().map(limit).collect()
}

/// A name that a client chose, made fit for a line of text.
fn shown(name: &str) -> String {
    let visible = |character: char| if character.is_control() { '\u{b7}' } else { character };
    let mut text: String = name.chars().take(SHOWN_CHARACTERS).map(visible).collect();
    if name.chars().nth(SHOWN_CHARACTERS).is_some() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(seconds: u64) -> Holder {
        Holder {
            held: Duration::from_secs(seconds),
            user: "bob".to_owned(),
            application: String::new(),
            client: "10.0.0.1:5000".to_owned(),
            server_pid: 7,
            rests: false,
            pinned: None,
        }
    }

    #[test]
    fn of_many_those_are_named_that_hold_theirs_for_longest() {
        let mut all = Holders::default();
        for seconds in [3, 9, 1, 7, 5, 2, 8] {
            all.add(Holders { resting: 1, longest: vec![holder(seconds)] });
        }
        assert_eq!(all.resting, 7);
        assert_eq!(all.longest.iter().map(|holder| holder.held.as_secs()).collect::<Vec<_>>(), [9, 8, 7, 5, 3]);
        assert!(!all.shows(Duration::from_secs(2), false) && all.shows(Duration::from_secs(4), false));
        assert!(!all.shows(Duration::from_secs(4000), true), "who keeps its connection in any case says little");
        all.add(Holders { resting: 0, longest: vec![Holder { pinned: Some("LISTEN".to_owned()), ..holder(4000) }] });
        assert_eq!(all.longest[0].held.as_secs(), 9);
    }

    #[test]
    fn a_limit_concerns_the_pools_of_its_database_or_user() {
        let limit = |setting, of: &str| Limit { setting, of: of.to_owned(), used: 1, max: 2 };
        assert!(limit(DATABASE, "app").concerns("app.bob", "bob") && limit(DATABASE, "app").concerns("app.bob/auth_query", "bob"));
        assert!(!limit(DATABASE, "app").concerns("app.two.bob", "bob") && !limit(DATABASE, "app").concerns("application.bob", "bob"));
        assert!(limit(USER, "bob").concerns("any.bob", "bob") && !limit(USER, "bob").concerns("bob.eve", "eve"));
    }

    #[test]
    fn names_of_clients_are_one_short_line() {
        assert_eq!(shown("worker-3"), "worker-3");
        assert_eq!(shown("a\x1b[2Jb\n"), "a·[2Jb·");
        assert_eq!(shown(&"é".repeat(99)).chars().count(), SHOWN_CHARACTERS + 1);
    }
}
