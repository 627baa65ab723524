//! What there is to examine: the distinct servers of a configuration, who logs in to each, and how many connections may lead there. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sidepool_config::model::{AuthType, Config, LoadBalance, PgDatabase, Postgres, Redis, Upstream, UpstreamTls};
use sidepool_protocol::postgres::login::secret::Stored;

use super::count::count;
use super::facts::SecretForm;
use crate::runtime::descriptors::{self, KnownPool};
use crate::session::postgres::route::{self, ANY, Route};

/// One login that is to be tried.
#[derive(Debug, Clone)]
pub struct Login {
    /// The way.
    pub route: Route,
    /// In which form its secret is configured.
    pub secret: SecretForm,
    /// The query that looks users up, and whom to ask it for.
    pub lookup: Option<(Arc<str>, String)>,
    /// The entry names no database: the way leads to one that most servers have, and these are for where it is not there.
    pub guesses: Option<Vec<Route>>,
}

/// A PostgreSQL server: one of the hosts of the configuration.
#[derive(Debug, Clone)]
pub struct PgPlan {
    /// Where.
    pub upstream: Upstream,
    /// Who logs in.
    pub logins: Vec<Login>,
    /// What the configuration wants of it.
    pub wish: PgWish,
}

impl PgWish {
    /// Adds what the configuration wants of the same server by another name.
    pub fn join(&mut self, name: &Upstream, other: &Self) {
        self.same.push(name.to_string());
        self.connections = self.connections.saturating_add(other.connections);
        self.listening = self.listening.saturating_add(other.listening);
        let sum = |one: Option<u64>, other: Option<u64>| one.map_or(other, |one| Some(one.saturating_add(other.unwrap_or(0))));
        (self.unknown, self.each_database) = (sum(self.unknown, other.unknown), sum(self.each_database, other.each_database));
        for (name, more) in &other.of_users {
            *self.of_users.entry(name.clone()).or_default() += more;
        }
        for (name, more) in &other.of_databases {
            *self.of_databases.entry(name.clone()).or_default() += more;
        }
    }
}

/// What the configuration wants of a PostgreSQL server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PgWish {
    /// Names of its entries in `databases`.
    pub entries: Vec<String>,
    /// Other names of the same server in the configuration: what is wanted of it there is counted here, too.
    pub same: Vec<String>,
    /// Most connections of all pools that lead there, in one process, those included in which users are looked up.
    pub connections: u64,
    /// Pools that may have one more, which listens for their clients.
    pub listening: u64,
    /// The pools of each further database, where the clients name it.
    pub each_database: Option<u64>,
    /// The same by role.
    pub of_users: BTreeMap<String, u64>,
    /// And by database.
    pub of_databases: BTreeMap<String, u64>,
    /// Pools of users that are not known beforehand come on top: so many connections for each user.
    pub unknown: Option<u64>,
    /// How many processes there are.
    pub replicas: u32,
    /// TLS, the least of its entries.
    pub tls: UpstreamTls,
    /// The longest that a connection may be idle; `None`: for ever.
    pub idle_timeout: Option<Duration>,
    /// How long a client may be idle in a transaction; zero: for ever.
    pub idle_transaction_timeout: Duration,
    /// Whether clients log in by SCRAM with secrets that are looked up.
    pub needs_scram: bool,
}

/// A database with several hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostList {
    /// Its entry.
    pub entry: String,
    /// Its hosts.
    pub hosts: Vec<Upstream>,
    /// Which of them is connected to.
    pub balance: LoadBalance,
}

/// The PostgreSQL servers.
#[must_use]
pub fn postgres(config: &Postgres, replicas: u32) -> Vec<PgPlan> {
    let mut plans: BTreeMap<Upstream, PgPlan> = BTreeMap::new();
    let names = config.databases.iter().filter(|(entry, _)| *entry != ANY || !config.zero_config);
    for (entry, database) in names {
        let timeouts = &config.timeouts;
        for host in &database.hosts {
            let plan = plans.entry(host.clone()).or_insert_with(|| {
                let wish = PgWish { replicas, tls: database.tls, idle_timeout: Some(Duration::ZERO), ..PgWish::default() };
                PgPlan { upstream: host.clone(), logins: Vec::new(), wish }
            });
            let wish = &mut plan.wish;
            wish.entries.push(entry.clone());
            wish.tls = least(wish.tls, database.tls);
            let idle = database.limits.server_idle_timeout;
            wish.idle_timeout = wish.idle_timeout.filter(|_| !idle.is_zero()).map(|longest| longest.max(idle));
            wish.idle_transaction_timeout = timeouts.idle_transaction_timeout;
            let lookup = route::lookup(config, entry).and_then(Result::ok);
            wish.needs_scram |= lookup.is_some() && config.auth_type == AuthType::ScramSha256;
            for login in logins(config, entry) {
                add(&mut plan.logins, login);
            }
        }
        // It may run elsewhere than where its clients go.
        if let Some((lookup, guesses)) = lookup(config, entry) {
            let user = config.users.keys().next().cloned().unwrap_or_else(|| lookup.route.key.user.to_string());
            for host in lookup.route.target.hosts.clone() {
                if let Some(plan) = plans.get_mut(&host) {
                    let login = Login { guesses: guesses.clone(), ..login(lookup.route.clone()) };
                    add(&mut plan.logins, Login { lookup: Some((Arc::clone(&lookup.query), user.clone())), ..login });
                }
            }
        }
    }
    let pools: Vec<KnownPool<'_>> = descriptors::known_pools(config).filter(|pool| pool.entry != ANY || !config.zero_config).collect();
    for plan in plans.values_mut() {
        count(config, &pools, &plan.upstream, &mut plan.wish);
    }
    plans.into_values().collect()
}

/// The databases that have several hosts.
#[must_use]
pub fn lists(config: &Postgres) -> Vec<HostList> {
    let several = config.databases.iter().filter(|(_, database)| database.hosts.len() > 1);
    several
        .map(|(entry, database)| HostList { entry: entry.clone(), hosts: database.hosts.clone(), balance: database.load_balance_hosts })
        .collect()
}

/// The mode that protects less.
fn least(one: UpstreamTls, other: UpstreamTls) -> UpstreamTls {
    const ORDER: [UpstreamTls; 6] = [
        UpstreamTls::Disable,
        UpstreamTls::Allow,
        UpstreamTls::Prefer,
        UpstreamTls::Require,
        UpstreamTls::VerifyCa,
        UpstreamTls::VerifyFull,
    ];
    ORDER.into_iter().find(|mode| [one, other].contains(mode)).unwrap_or(one)
}

/// The logins of an entry that the configuration tells of.
fn logins(config: &Postgres, entry: &str) -> Vec<Login> {
    let Some(database) = config.databases.get(entry) else { return Vec::new() };
    let users: Vec<&str> = match &database.user {
        Some(user) => vec![user],
        None => config.users.keys().map(String::as_str).collect(),
    };
    if names_none(entry, database) {
        let guessed = |user: &&str| {
            let mut ways = guesses(config, user).into_iter().filter_map(|name| route::route(config, name, user));
            let first = ways.next()?;
            Some(Login { guesses: Some(ways.collect()), ..login(first) })
        };
        return users.iter().filter_map(guessed).collect();
    }
    let name = if entry == ANY { database.dbname.as_deref().unwrap_or(ANY) } else { entry };
    users.into_iter().filter_map(|user| route::route(config, name, user)).map(login).collect()
}

/// Whether it is the clients who name the databases on the server.
fn names_none(entry: &str, database: &PgDatabase) -> bool {
    entry == ANY && database.dbname.is_none()
}

/// Databases that a server is likely to have, and that no other entry serves.
fn guesses<'a>(config: &Postgres, user: &'a str) -> Vec<&'a str> {
    ["postgres", user].into_iter().filter(|name| !config.databases.contains_key(*name)).collect()
}

/// How users of an entry are looked up, and where else if the database is a guess that fails.
fn lookup(config: &Postgres, entry: &str) -> Option<(route::Lookup, Option<Vec<Route>>)> {
    let database = config.databases.get(entry)?;
    if !names_none(entry, database) || database.auth_dbname.is_some() || config.auth_dbname.is_some() {
        return Some((route::lookup(config, entry)?.ok()?, None));
    }
    let user = database.auth_user.as_deref().or(config.auth_user.as_deref())?;
    let mut found = guesses(config, user).into_iter().filter_map(|name| route::lookup(config, name)?.ok());
    Some((found.next()?, Some(found.map(|lookup| lookup.route).collect())))
}

fn login(route: Route) -> Login {
    let secret = match route.target.password.as_ref().map(|password| Stored::read(password.reveal())) {
        None => SecretForm::None,
        Some(Stored::Plain(_) | Stored::Md5(_)) => SecretForm::Usable,
        Some(Stored::Scram(_)) => SecretForm::Verifier,
    };
    Login { route, secret, lookup: None, guesses: None }
}

/// Two entries with the same user and database are one login.
fn add(logins: &mut Vec<Login>, login: Login) {
    match logins.iter_mut().find(|known| known.route.target == login.route.target) {
        Some(known) => known.lookup = known.lookup.take().or(login.lookup),
        None => logins.push(login),
    }
}

/// A Redis server: one of the configuration's, by its name there.
#[derive(Debug, Clone)]
pub struct RedisPlan {
    /// Its name.
    pub name: String,
    /// Its settings.
    pub config: Redis,
    /// Most connections of one process.
    pub connections: u64,
    /// How many processes there are.
    pub replicas: u32,
}

/// The Redis servers.
#[must_use]
pub fn redis(config: &Config, replicas: u32) -> Vec<RedisPlan> {
    let plan = |(name, redis): (&String, &Redis)| RedisPlan {
        name: name.clone(),
        config: redis.clone(),
        connections: descriptors::redis_connections(redis),
        replicas,
    };
    config.redis.iter().map(plan).collect()
}

#[cfg(test)]
mod tests {
    use sidepool_config::model::PgUser;
    use sidepool_config::secret::Secret;

    use super::*;

    fn host(name: &str) -> Upstream {
        Upstream::Tcp { host: name.to_owned(), port: 5432 }
    }

    fn config() -> Postgres {
        let mut config = Postgres::default();
        let mut forced = PgDatabase { user: Some("app".into()), password: Some(Secret::new("pw")), ..PgDatabase::at(host("a")) };
        forced.hosts.push(host("b"));
        config.databases.insert("forced".into(), forced);
        config.databases.insert("own".into(), PgDatabase { tls: UpstreamTls::VerifyFull, ..PgDatabase::at(host("a")) });
        config.users.insert("bob".into(), PgUser { password: Some(Secret::new("x")), pool_size: Some(7), ..PgUser::default() });
        config.users.insert("eve".into(), PgUser::default());
        config
    }

    #[test]
    fn servers_are_told_apart_by_host_and_know_who_comes() {
        let plans = postgres(&config(), 3);
        let shown: Vec<_> = plans
            .iter()
            .map(|plan| {
                let who: Vec<String> = plan.logins.iter().map(|login| login.route.key.name().to_string()).collect();
                (plan.upstream.to_string(), who, plan.wish.connections)
            })
            .collect();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            shown,
            [
                ("a:5432".to_owned(), names(&["forced.app", "own.bob", "own.eve"]), 20 + 7 + 20),
                ("b:5432".to_owned(), names(&["forced.app"]), 20)
            ]
        );
        assert_eq!(plans[0].wish.of_users, [("app".to_owned(), 20), ("bob".to_owned(), 7), ("eve".to_owned(), 20)].into());
        assert_eq!(plans[0].wish.of_databases, [("forced".to_owned(), 20), ("own".to_owned(), 27)].into());
        assert_eq!((plans[0].wish.tls, plans[0].wish.replicas), (UpstreamTls::Disable, 3));
        let secrets: Vec<_> = plans[0].logins.iter().map(|login| login.secret).collect();
        assert_eq!(secrets, [SecretForm::Usable, SecretForm::Usable, SecretForm::None]);
        assert_eq!(lists(&config()).iter().map(|list| (&*list.entry, list.hosts.len())).collect::<Vec<_>>(), [("forced", 2)]);
    }

    #[test]
    fn limits_of_databases_and_users_count() {
        let mut config = config();
        config.databases.get_mut("own").unwrap().max_db_connections = 10;
        assert_eq!(postgres(&config, 1)[0].wish.connections, 20 + 10);
        config.max_user_connections = 5;
        assert_eq!(postgres(&config, 1)[0].wish.connections, 15);
        config.users.get_mut("bob").unwrap().max_user_connections = Some(6);
        assert_eq!(postgres(&config, 1)[0].wish.connections, 5 + 10, "bob may have 6, but the database no more than 10");
    }

    #[test]
    fn whoever_looks_others_up_logs_in_too() {
        let mut config = config();
        config.auth_user = Some("finder".into());
        let plans = postgres(&config, 1);
        let finder = plans[0].logins.iter().find(|login| login.lookup.is_some()).unwrap();
        assert_eq!(&*finder.route.key.user, "finder");
        assert_eq!(finder.lookup.as_ref().unwrap().1, "bob", "somebody who should be there");
        assert!(plans[0].wish.needs_scram && plans[0].wish.unknown == Some(20));
        assert_eq!(plans[0].wish.connections, 20 + 7 + 20 + 2 * 4, "those that look up are connections, too");
    }

    #[test]
    fn urls_alone_make_one_login() {
        let mut config = config();
        config.zero_config = true;
        config.databases.insert(ANY.into(), PgDatabase { user: Some("app".into()), ..PgDatabase::at(host("a")) });
        assert!(postgres(&config, 1)[0].logins.iter().all(|login| &*login.route.key.entry != ANY));
        config.zero_config = false;
        let plans = postgres(&config, 1);
        assert_eq!(plans[0].wish.connections, 20 + 7 + 20 + 20);
        config.databases.get_mut(ANY).unwrap().dbname = Some("one".into());
        assert!(postgres(&config, 1)[0].logins.iter().any(|login| &*login.route.key.dbname == "one" && login.guesses.is_none()));
    }

    #[test]
    fn where_clients_name_the_database_one_is_guessed() {
        let mut config = config();
        config.databases.clear();
        config.databases.insert(ANY.into(), PgDatabase::at(host("a")));
        config.auth_user = Some("finder".into());
        let shown = |config: &Postgres| {
            let plans = postgres(config, 1);
            let dbname = |route: &Route| route.key.dbname.to_string();
            let login = |login: &Login| {
                let guesses: Vec<String> = login.guesses.as_ref().expect("they are guesses").iter().map(dbname).collect();
                (login.route.key.user.to_string(), dbname(&login.route), guesses.join(","))
            };
            plans[0].logins.iter().map(login).collect::<Vec<_>>()
        };
        let table = |rows: &[(&str, &str, &str)]| {
            rows.iter().map(|(user, first, rest)| ((*user).to_owned(), (*first).to_owned(), (*rest).to_owned())).collect::<Vec<_>>()
        };
        let all = [("bob", "postgres", "bob"), ("eve", "postgres", "eve"), ("finder", "postgres", "finder")];
        assert_eq!(shown(&config), table(&all));
        config.databases.insert("postgres".into(), PgDatabase { user: Some("app".into()), ..PgDatabase::at(host("z")) });
        assert_eq!(shown(&config), table(&[("bob", "bob", ""), ("eve", "eve", ""), ("finder", "finder", "")]), "that one is elsewhere");
    }
}
