//! File descriptors: every client and every upstream connection is one, and the default soft limit of 1,024 is no limit anybody chose. Where the
//! hard limit is near, clients must not use up what the pools need to serve them.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sidepool_config::model::{Config, PgDatabase, Postgres, Redis};

/// Kept for what is neither a client nor a server connection: scrapes, refusals under way, the log, names, files that are read again.
const SPARE: u64 = 16;

/// Raises the soft limit to the hard limit, and says what the limit is now. `None`: there is none.
pub fn raise_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(limit = limit.current, %error, "cannot raise the limit on open files");
            limit.current
        }
    }
}

/// How many file descriptors may be open. `None`: no limit.
#[must_use]
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// How many files may be open, and how many were before the first client came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Files {
    /// The most there may be.
    pub limit: u64,
    /// Those the process needs for itself.
    pub own: u64,
}

/// Who may have how many of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// All clients together.
    pub clients: u64,
    /// Kept for connections to servers.
    pub servers: u64,
}

impl Files {
    /// The files are shared out like this: servers have what all pools may need as far as the configuration tells, but never more than half of
    /// what there is to share, and clients the rest.
    #[must_use]
    pub fn shares(self, config: &Config) -> Shares {
        let rest = self.limit.saturating_sub(self.own).saturating_sub(SPARE);
        let servers = server_connections(config).min(rest / 2);
        Shares { clients: rest - servers, servers }
    }
}

/// As many connections to servers as there may be: each user that is known has a pool of each database, and each peer one.
fn server_connections(config: &Config) -> u64 {
    let postgres = config.postgres.iter().map(postgres_connections);
    // Databases beyond the one that clients start in are not counted: few use them.
    let redis = config.redis.values().map(redis_connections);
    postgres.chain(redis).fold(0, u64::saturating_add)
}

/// The same for one Redis server.
#[must_use]
pub fn redis_connections(redis: &Redis) -> u64 {
    (redis.users.len().max(1) as u64).saturating_mul(redis.limits.pool_size.into())
}

fn postgres_connections(postgres: &Postgres) -> u64 {
    let pools = known_pools(postgres).map(|pool| pool.connections);
    let peers = postgres.peers.values().map(|peer| u64::from(peer.pool_size.unwrap_or(postgres.base.limits.pool_size)));
    pools.chain(peers).fold(0, u64::saturating_add)
}

/// A pool that the configuration tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownPool<'a> {
    /// The entry of `databases`.
    pub entry: &'a str,
    /// What it says.
    pub database: &'a PgDatabase,
    /// The user on the server; `None`: whoever comes, and each has a pool.
    pub user: Option<&'a str>,
    /// Its size with its reserve.
    pub connections: u64,
}

/// The pools of clients: each user that is known has one of each database.
pub fn known_pools(postgres: &Postgres) -> impl Iterator<Item = KnownPool<'_>> {
    postgres.databases.iter().flat_map(|(entry, database)| {
        let pool = |name: Option<&'_ str>| {
            let user = name.and_then(|name| postgres.users.get(name));
            let size = user.and_then(|user| user.pool_size).unwrap_or(database.limits.pool_size);
            let reserve = user.and_then(|user| user.reserve_pool_size).unwrap_or(database.limits.reserve_pool_size);
            u64::from(size) + u64::from(reserve)
        };
        let users: Vec<Option<&str>> = match &database.user {
            Some(user) => vec![Some(user.as_str())],
            None if postgres.users.is_empty() => vec![None],
            None => postgres.users.keys().map(|user| Some(user.as_str())).collect(),
        };
        users.into_iter().map(move |user| KnownPool { entry, database, user, connections: pool(user) })
    })
}

#[cfg(test)]
mod tests {
    use sidepool_config::model::{Peer, PgUser, Redis, Upstream};

    use super::*;

    #[test]
    fn servers_have_what_the_pools_need_and_at_most_half() {
        let mut database = PgDatabase::at(Upstream::Unix("/nowhere".into()));
        database.limits.pool_size = 20;
        database.limits.reserve_pool_size = 5;
        let postgres = Postgres { databases: [("app".into(), database)].into(), ..Postgres::default() };
        let config = Config { postgres: Some(postgres), ..Config::default() };
        let shares = |limit| Files { limit, own: 10 }.shares(&config);
        assert_eq!(shares(1026), Shares { clients: 975, servers: 25 });
        assert_eq!(shares(66), Shares { clients: 20, servers: 20 });
        assert_eq!(shares(5), Shares { clients: 0, servers: 0 });
        assert_eq!(Files { limit: 1026, own: 10 }.shares(&Config::default()), Shares { clients: 1000, servers: 0 });
    }

    #[test]
    fn all_pools_are_counted() {
        let nowhere = || Upstream::Unix("/nowhere".into());
        let mut database = PgDatabase::at(nowhere());
        (database.limits.pool_size, database.limits.reserve_pool_size) = (20, 5);
        let forced = PgDatabase { user: Some("b".into()), ..database.clone() };
        let large = PgUser { pool_size: Some(50), reserve_pool_size: Some(0), ..PgUser::default() };
        let postgres = Postgres {
            databases: [("app".into(), database), ("forced".into(), forced)].into(),
            users: [("a".into(), PgUser::default()), ("b".into(), large)].into(),
            peers: [(2, Peer { upstream: nowhere(), pool_size: Some(3) })].into(),
            ..Postgres::default()
        };
        assert_eq!(postgres_connections(&postgres), (25 + 50) + 50 + 3);
        let mut redis = Redis::at(nowhere());
        redis.limits.pool_size = 30;
        let config = Config { postgres: Some(postgres), redis: [("cache".into(), redis)].into(), ..Config::default() };
        assert_eq!(server_connections(&config), 128 + 30);
    }
}
