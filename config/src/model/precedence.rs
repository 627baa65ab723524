//! What holds for whom on the PostgreSQL side where several places may say it: the user's own word, the database's, or what all have.

use super::postgres::{Peer, PgDatabase, PgUser, PoolMode, Postgres};
use super::{PoolLimits, SlowLog, Timeouts};

impl PgDatabase {
    /// The limits of the pool of this database and user: the user's own beat the database's.
    #[must_use]
    pub fn limits_for(&self, user: Option<&PgUser>) -> PoolLimits {
        let pool_size = user.and_then(|user| user.pool_size).unwrap_or(self.limits.pool_size);
        PoolLimits {
            pool_size,
            min_pool_size: self.limits.min_pool_size.min(pool_size),
            reserve_pool_size: user.and_then(|user| user.reserve_pool_size).unwrap_or(self.limits.reserve_pool_size),
            query_wait_timeout: user.and_then(|user| user.query_wait_timeout).unwrap_or(self.limits.query_wait_timeout),
            ..self.limits.clone()
        }
    }

    /// The mode for this user: the user's own beats the database's.
    #[must_use]
    pub fn pool_mode_for(&self, user: Option<&PgUser>) -> PoolMode {
        user.and_then(|user| user.pool_mode).unwrap_or(self.pool_mode)
    }
}

impl Postgres {
    /// How many cancels may be on their way to a peer.
    #[must_use]
    pub fn pool_size_of(&self, peer: &Peer) -> u32 {
        peer.pool_size.unwrap_or(self.base.limits.pool_size)
    }

    /// Users without a secret are known by their section alone only where nothing else could know them; `file` has those of the `auth_file`.
    pub(crate) fn mark_unlisted(&mut self, file: Option<&[String]>) {
        let looks_up = self.auth_user.is_some() || self.databases.values().any(|database| database.auth_user.is_some());
        if file.is_some() || looks_up {
            for (name, user) in &mut self.users {
                user.unlisted = user.password.is_none() && !file.is_some_and(|file| file.contains(name));
            }
        }
    }

    /// The database that serves this name: its own entry, or `*`.
    #[must_use]
    pub fn database(&self, name: &str) -> Option<&PgDatabase> {
        self.databases.get(name).or_else(|| self.databases.get("*"))
    }

    /// What takes so long for a client of this user in this database that the log says so.
    #[must_use]
    pub fn slow_log_for(&self, database: &str, user: Option<&PgUser>) -> SlowLog {
        let all = self.database(database).map_or(self.base.slow_log, |database| database.slow_log);
        user.map_or(all, |user| all.with(&user.slow_log))
    }

    /// The timeouts of a user's clients: its own beat those that all users have.
    #[must_use]
    pub fn timeouts_for(&self, user: Option<&PgUser>) -> Timeouts {
        user.map_or_else(|| self.timeouts.clone(), |user| self.timeouts.with(&user.timeouts))
    }
}
