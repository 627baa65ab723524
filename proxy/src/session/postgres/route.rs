//! Which upstream database a client is led to, as whom: the configuration applied to a user and a database name.
//!
//! Pure. Not here: who may log in (`authenticate`), or the pools themselves (`pools`).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sidepool_config::model::{AuthType, PgDatabase, PgUser, PoolMode, Postgres, SessionState};
use sidepool_config::tls::ServerContext;

use crate::pool::caps::CapKey;
use crate::pool::limits::Limits;
use crate::upstream::postgres::target::Target;

/// The entry that serves every name without an entry of its own.
pub const ANY: &str = "*";

/// The name of the console, which is on no server.
const CONSOLE: &str = "pgbouncer";

/// Most connections of a pool in which users are looked up: a lookup takes a round trip.
const LOOKUP_CONNECTIONS: u32 = 4;

/// How long the connection that listens is kept when nobody does.
const LISTENING_IDLE: Duration = Duration::from_secs(10);

/// What makes a pool one pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolKey {
    /// The name of the entry in the configuration.
    pub entry: Arc<str>,
    /// The database on the server.
    pub dbname: Arc<str>,
    /// The user on the server.
    pub user: Arc<str>,
    /// Who uses it.
    pub purpose: Purpose,
}

/// Who uses a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Clients.
    Clients,
    /// `auth_query`, which must not run on connections that clients have set anything on.
    Lookups,
    /// The connection that listens for all clients of a database.
    Listening,
}

impl PoolKey {
    /// Whether the database was named by a client and not by the configuration.
    #[must_use]
    pub fn is_auto(&self) -> bool {
        &*self.entry == ANY
    }

    /// The database by the name that clients ask for.
    #[must_use]
    pub fn database(&self) -> &Arc<str> {
        if self.is_auto() { &self.dbname } else { &self.entry }
    }

    /// The pool's name in messages and metrics.
    #[must_use]
    pub fn name(&self) -> Arc<str> {
        match self.purpose {
            Purpose::Clients => format!("{}.{}", self.database(), self.user).into(),
            Purpose::Lookups => format!("{}.{}/auth_query", self.database(), self.user).into(),
            Purpose::Listening => format!("{}.{}/listen", self.database(), self.user).into(),
        }
    }

    /// The pool whose clients' logins bring what its connections log in with.
    #[must_use]
    pub fn of_clients(&self) -> Self {
        let purpose = match self.purpose {
            Purpose::Clients | Purpose::Listening => Purpose::Clients,
            Purpose::Lookups => Purpose::Lookups,
        };
        Self { purpose, ..self.clone() }
    }
}

/// How a connection is cleaned that a client has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    /// `server_reset_query`; empty: not at all.
    pub query: Arc<str>,
    /// `server_reset_query_always`: after each transaction, too.
    pub always: bool,
}

/// Where a client is led.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Which pool.
    pub key: PoolKey,
    /// Where its connections lead.
    pub target: Target,
    /// What its server is met with under TLS; `None`: as usual.
    pub tls_context: Option<Arc<ServerContext>>,
    /// Its limits.
    pub limits: Limits,
    /// The limits that it shares with other pools of the database and of the user, and what they are (zero: none).
    pub caps: [(CapKey, u32); 2],
    /// How long opening one of its connections may take.
    pub connect_timeout: Duration,
    /// What asks a connection whether it is alive.
    pub check_query: Arc<str>,
    /// When this client's connections go back.
    pub mode: PoolMode,
    /// How a connection is cleaned that a client has left.
    pub reset: Reset,
    /// How session state follows clients.
    pub session_state: SessionState,
}

/// Which way a client goes: all that it takes to find its pool, if that is there.
#[derive(Debug)]
pub struct Way<'a> {
    config: &'a Postgres,
    database: &'a PgDatabase,
    /// Which pool.
    pub key: PoolKey,
    /// When this client's connections go back.
    pub mode: PoolMode,
}

impl Way<'_> {
    /// Whether the configuration names the upstream user.
    #[must_use]
    pub fn has_forced_user(&self) -> bool {
        self.database.user.is_some()
    }

    /// All of it.
    #[must_use]
    pub fn route(&self) -> Route {
        route_of(self.config, self.database, self.key.clone(), self.mode)
    }
}

/// The way of `user` to `database`; `None` when there is no such database.
#[must_use]
pub fn way<'a>(config: &'a Postgres, database: &str, user: &str) -> Option<Way<'a>> {
    let (entry, found) = config.databases.get_key_value(database).or_else(|| config.databases.get_key_value(ANY))?;
    let upstream_user = found.user.as_deref().unwrap_or(user);
    let dbname = found.dbname.as_deref().unwrap_or(database);
    let key = PoolKey { entry: entry.as_str().into(), dbname: dbname.into(), user: upstream_user.into(), purpose: Purpose::Clients };
    Some(Way { config, database: found, key, mode: found.pool_mode_for(config.users.get(user)) })
}

/// The same with all that makes the pool.
#[must_use]
pub fn route(config: &Postgres, database: &str, user: &str) -> Option<Route> {
    way(config, database, user).map(|way| way.route())
}

/// The way that a pool which exists already would be led now; `None` when the configuration leads nobody there any more.
#[must_use]
pub fn route_again(config: &Postgres, key: &PoolKey) -> Option<Route> {
    let database = config.databases.get(&*key.entry)?;
    if key.purpose == Purpose::Listening {
        return listening_route(config, &key.of_clients());
    }
    if key.purpose == Purpose::Lookups {
        let users = config.databases.values().filter_map(|database| database.auth_user.as_deref()).chain(config.auth_user.as_deref());
        let is_used = users.into_iter().any(|user| user == &*key.user);
        return is_used.then(|| lookup_route(config, &key.entry, &key.dbname, &key.user)).flatten().filter(|route| route.key == *key);
    }
    if database.user.as_deref().is_some_and(|user| user != &*key.user) {
        return None;
    }
    if database.user.is_none() && !config.users.contains_key(&*key.user) && !has_others(config, database) {
        return None;
    }
    let default = if key.is_auto() { &*key.dbname } else { &*key.entry };
    if database.dbname.as_deref().unwrap_or(default) != &*key.dbname {
        return None;
    }
    if key.is_auto() && config.databases.contains_key(&*key.dbname) {
        return None;
    }
    let mode = database.pool_mode_for(config.users.get(&*key.user));
    Some(route_of(config, database, key.clone(), mode))
}

/// The pool of the one connection that listens for the clients of this pool; `None` when the configuration leads nobody there any more.
#[must_use]
pub fn listening_route(config: &Postgres, clients: &PoolKey) -> Option<Route> {
    let mut route = route_again(config, clients)?;
    route.key.purpose = Purpose::Listening;
    // A query on it would hear of nothing: it is never idle for long, and never more than one.
    let limits = route.limits;
    route.limits = Limits {
        // While one takes over from another.
        max: 2,
        min: 0,
        reserve: 0,
        idle_timeout: Some(LISTENING_IDLE),
        lifetime: None,
        probe_after: None,
        probe_always: false,
        ..limits
    };
    Some(route)
}

/// How users that the configuration does not list are looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// The pool.
    pub route: Route,
    /// The query.
    pub query: Arc<str>,
}

/// How a client of `database` is looked up; `None`: not at all.
#[must_use]
pub fn lookup(config: &Postgres, database: &str) -> Option<Result<Lookup, Nowhere>> {
    let asked = if database == CONSOLE { None } else { config.database(database) };
    let own = |of: fn(&PgDatabase) -> Option<&str>| asked.and_then(of);
    let user = own(|database| database.auth_user.as_deref()).or(config.auth_user.as_deref())?;
    let query = own(|database| database.auth_query.as_deref()).unwrap_or(&config.auth_query);
    let name = own(|database| database.auth_dbname.as_deref()).or(config.auth_dbname.as_deref());
    let name = name.or(asked.is_some().then_some(database))?;
    if name == CONSOLE {
        return Some(Err(Nowhere(name.into(), "is the reserved one of the console and cannot be used as an auth_dbname")));
    }
    let entry = config.databases.get_key_value(name).or_else(|| config.databases.get_key_value(ANY));
    let found = entry.and_then(|(entry, _)| lookup_route(config, entry, name, user));
    Some(found.map(|route| Lookup { route, query: query.into() }).ok_or_else(|| Nowhere(name.into(), "is not configured")))
}

/// The database in which users are to be looked up is of no use, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nowhere(Box<str>, &'static str);

impl fmt::Display for Nowhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "authentication database \"{}\" {}", self.0, self.1)
    }
}

/// The pool in which `user` looks others up, in the database that the entry calls `name`.
fn lookup_route(config: &Postgres, entry: &str, name: &str, user: &str) -> Option<Route> {
    let found = config.databases.get(entry)?;
    let dbname = found.dbname.as_deref().unwrap_or(name);
    let key = PoolKey { entry: entry.into(), dbname: dbname.into(), user: user.into(), purpose: Purpose::Lookups };
    let mut route = route_of(config, found, key, PoolMode::Session);
    if found.user.as_deref() != Some(user) {
        // The database's password is that of another user.
        route.target.password = config.users.get(user).and_then(|user| user.password.clone());
    }
    route.limits.max = route.limits.max.clamp(1, LOOKUP_CONNECTIONS);
    (route.limits.min, route.limits.reserve) = (0, 0);
    Some(route)
}

/// Whether somebody may log in to this database whom the configuration does not list.
#[must_use]
pub fn has_others(config: &Postgres, database: &PgDatabase) -> bool {
    let looked_up = database.auth_user.is_some() || config.auth_user.is_some();
    looked_up
        || match config.auth_type {
            AuthType::Ldap | AuthType::Pam => true,
            AuthType::Hba => config.auth_rules.hba.ask_others(),
            AuthType::Any | AuthType::Trust | AuthType::Plain | AuthType::Md5 | AuthType::ScramSha256 | AuthType::Cert => false,
        }
}

/// The pools that exist before a client asks for them: those of which the configuration says all.
pub fn known_routes(config: &Postgres) -> impl Iterator<Item = Route> {
    let named = config.databases.iter().filter(|(entry, _)| *entry != ANY);
    named.filter_map(|(entry, database)| route(config, entry, database.user.as_deref()?))
}

fn route_of(config: &Postgres, database: &PgDatabase, key: PoolKey, mode: PoolMode) -> Route {
    let upstream_user: Option<&PgUser> = config.users.get(&*key.user);
    let forced_user = database.user.is_some();
    let sizes = database.limits_for(upstream_user);
    let checked = config.server_check_query.is_some();
    let common = Limits::from(&sizes);
    let limits = Limits {
        min_always: forced_user,
        // How long a client waits is its own user's affair: each says so when it asks.
        wait_timeout: Some(database.limits.query_wait_timeout),
        notify_after: Some(config.query_wait_notify),
        probe_after: common.probe_after.filter(|_| checked),
        probe_always: common.probe_always && checked,
        ..common
    };
    let password = database.password.clone().or_else(|| upstream_user?.password.clone());
    let target = Target {
        upstream: database.hosts[0].clone(),
        hosts: database.hosts.clone(),
        balance: database.load_balance_hosts,
        tls: database.tls,
        dbname: Arc::clone(&key.dbname),
        user: Arc::clone(&key.user),
        password,
        startup: database.startup.clone(),
        connect_query: database.connect_query.clone(),
    };
    let check_query = config.server_check_query.as_deref().unwrap_or_default().into();
    let tls_context = database.server_tls.as_deref().unwrap_or(&config.server_tls).context.clone();
    let reset = Reset { query: config.server_reset_query.as_str().into(), always: config.server_reset_query_always };
    let connect_timeout = sizes.server_connect_timeout;
    let database_name = if key.is_auto() { &key.dbname } else { &key.entry };
    let of_user = upstream_user.and_then(|user| user.max_user_connections).unwrap_or(config.max_user_connections);
    let caps = [(CapKey::Database(Arc::clone(database_name)), database.max_db_connections), (CapKey::User(Arc::clone(&key.user)), of_user)];
    Route {
        key,
        target,
        tls_context,
        caps,
        limits,
        connect_timeout,
        check_query,
        mode,
        reset,
        session_state: database.session_state.clone(),
    }
}

#[cfg(test)]
mod tests {
    use sidepool_config::model::Upstream;
    use sidepool_config::secret::Secret;

    use super::*;

    fn database(host: &str) -> PgDatabase {
        PgDatabase::at(Upstream::Tcp { host: host.to_owned(), port: 5432 })
    }

    fn config() -> Postgres {
        let mut config = Postgres::default();
        let forced =
            PgDatabase { user: Some("app".into()), password: Some(Secret::new("pw")), dbname: Some("real".into()), ..database("a") };
        config.databases.insert("forced".into(), forced);
        config.databases.insert("own".into(), database("b"));
        config.databases.insert(ANY.into(), database("c"));
        let bob =
            PgUser { password: Some(Secret::new("bobs")), pool_mode: Some(PoolMode::Session), pool_size: Some(3), ..PgUser::default() };
        config.users.insert("bob".into(), bob);
        config
    }

    #[test]
    fn a_forced_user_makes_one_pool_for_all() {
        let config = config();
        let (bob, eve) = (route(&config, "forced", "bob").unwrap(), route(&config, "forced", "eve").unwrap());
        assert_eq!(bob.key, eve.key);
        assert_eq!((&*bob.key.dbname, &*bob.key.user, &*bob.key.name()), ("real", "app", "forced.app"));
        assert_eq!(bob.target.password, Some(Secret::new("pw")));
        assert_eq!((bob.mode, eve.mode), (PoolMode::Session, PoolMode::Transaction));
        assert_eq!(bob.limits.max, 20);
    }

    #[test]
    fn without_one_each_user_has_a_pool_with_its_own_secret_and_size() {
        let route = route(&config(), "own", "bob").unwrap();
        assert_eq!((&*route.key.dbname, &*route.key.user, route.limits.max), ("own", "bob", 3));
        assert_eq!(route.target.password, Some(Secret::new("bobs")));
        assert!(!route.key.is_auto());
    }

    #[test]
    fn other_names_go_to_the_fallback_or_nowhere() {
        let mut config = config();
        let found = route(&config, "else", "bob").unwrap();
        assert!(found.key.is_auto());
        assert_eq!((&*found.key.dbname, &*found.key.name()), ("else", "else.bob"));
        config.databases.remove(ANY);
        assert_eq!(route(&config, "else", "bob"), None);
    }

    #[test]
    fn a_pool_keeps_its_way_as_long_as_the_configuration_has_it() {
        let mut config = config();
        for database in ["forced", "own", "else"] {
            let found = route(&config, database, "bob").unwrap();
            let again = route_again(&config, &found.key).unwrap();
            assert_eq!((&again.key, &again.target, &again.limits), (&found.key, &found.target, &found.limits));
        }
        let keys = ["forced", "own", "else"].map(|database| route(&config, database, "bob").unwrap().key);
        config.databases.get_mut("forced").unwrap().dbname = None;
        config.databases.insert("else".into(), database("d"));
        config.users.remove("bob");
        assert!(keys.iter().all(|key| route_again(&config, key).is_none()));
    }

    #[test]
    fn a_new_secret_makes_another_target() {
        let mut config = config();
        let before = route(&config, "own", "bob").unwrap();
        config.users.get_mut("bob").unwrap().password = Some(Secret::new("new"));
        let after = route_again(&config, &before.key).unwrap();
        assert_ne!(before.target, after.target);
    }

    #[test]
    fn pools_of_forced_users_are_known_beforehand() {
        let config = config();
        let known: Vec<_> = known_routes(&config).map(|route| route.key.name()).collect();
        assert_eq!(known, ["forced.app".into()]);
    }
}
