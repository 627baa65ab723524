//! What there is to examine: the distinct servers of a configuration, who logs in to each, and how many connections may lead there. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sidepool_config::model::{AuthType, Config, LoadBalance, Postgres, Redis, Upstream, UpstreamTls};
use sidepool_protocol::postgres::login::secret::Stored;

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

/// What the configuration wants of a PostgreSQL server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PgWish {
    /// Names of its entries in `databases`.
    pub entries: Vec<String>,
    /// Most connections of all pools that lead there, in one process.
    pub connections: u64,
    /// The same by role.
    pub of_users: BTreeMap<String, u64>,
    /// And by database.
    pub of_databases: BTreeMap<String, u64>,
    /// Pools of users that are not known beforehand come on top, each of this size.
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
            if lookup.is_some() && database.user.is_none() {
                wish.unknown = Some(u64::from(database.limits.pool_size) + u64::from(database.limits.reserve_pool_size));
            }
            for login in logins(config, entry) {
                add(&mut plan.logins, login);
            }
        }
        // It may run elsewhere than where its clients go.
        if let Some(Ok(lookup)) = route::lookup(config, entry) {
            let user = config.users.keys().next().cloned().unwrap_or_else(|| lookup.route.key.user.to_string());
            for host in lookup.route.target.hosts.clone() {
                if let Some(plan) = plans.get_mut(&host) {
                    add(&mut plan.logins, login(lookup.route.clone(), Some((Arc::clone(&lookup.query), user.clone()))));
                }
            }
        }
    }
    let pools: Vec<KnownPool<'_>> = descriptors::known_pools(config).filter(|pool| pool.entry != ANY || !config.zero_config).collect();
    for plan in plans.values_mut() {
        count(config, &pools, plan);
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

/// The logins of an entry that the configuration tells of. An entry `*` without a name of its own leads nowhere by itself.
fn logins(config: &Postgres, entry: &str) -> Vec<Login> {
    let Some(database) = config.databases.get(entry) else { return Vec::new() };
    let name = if entry == ANY { database.dbname.as_deref() } else { Some(entry) };
    let Some(name) = name else { return Vec::new() };
    let users: Vec<&str> = match &database.user {
        Some(user) => vec![user],
        None => config.users.keys().map(String::as_str).collect(),
    };
    users.into_iter().filter_map(|user| route::route(config, name, user)).map(|route| login(route, None)).collect()
}

fn login(route: Route, lookup: Option<(Arc<str>, String)>) -> Login {
    let secret = match route.target.password.as_ref().map(|password| Stored::read(password.reveal())) {
        None => SecretForm::None,
        Some(Stored::Plain(_) | Stored::Md5(_)) => SecretForm::Usable,
        Some(Stored::Scram(_)) => SecretForm::Verifier,
    };
    Login { route, secret, lookup }
}

/// Two entries with the same user and database are one login.
fn add(logins: &mut Vec<Login>, login: Login) {
    match logins.iter_mut().find(|known| known.route.target == login.route.target) {
        Some(known) => known.lookup = known.lookup.take().or(login.lookup),
        None => logins.push(login),
    }
}

/// How many connections there may be: the sum of the pools, but no more than databases and users may have.
fn count(config: &Postgres, pools: &[KnownPool<'_>], plan: &mut PgPlan) {
    let leads_here = pools.iter().filter(|pool| pool.database.hosts.contains(&plan.upstream));
    let (mut by_entry, mut by_user): (BTreeMap<&str, u64>, BTreeMap<Option<&str>, u64>) = (BTreeMap::new(), BTreeMap::new());
    let mut by_name: BTreeMap<&str, u64> = BTreeMap::new();
    for pool in leads_here {
        *by_entry.entry(pool.entry).or_default() += pool.connections;
        *by_user.entry(pool.user).or_default() += pool.connections;
    }
    let most = |limit: u32, sum: u64| if limit == 0 { sum } else { sum.min(limit.into()) };
    for (entry, sum) in &mut by_entry {
        let Some(database) = config.databases.get(*entry) else { continue };
        *sum = most(database.max_db_connections, *sum);
        let name = database.dbname.as_deref().or((*entry != ANY).then_some(*entry));
        *by_name.entry(name.unwrap_or(ANY)).or_default() += *sum;
    }
    for (user, sum) in &mut by_user {
        let own = user.and_then(|user| config.users.get(user)?.max_user_connections);
        *sum = most(own.unwrap_or(config.max_user_connections), *sum);
    }
    plan.wish.connections = by_entry.values().sum::<u64>().min(by_user.values().sum());
    plan.wish.of_users = by_user.into_iter().filter_map(|(user, sum)| Some((user?.to_owned(), sum))).collect();
    plan.wish.of_databases = by_name.into_iter().filter(|(name, _)| *name != ANY).map(|(name, sum)| (name.to_owned(), sum)).collect();
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
    use sidepool_config::model::{PgDatabase, PgUser};
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
        assert_eq!(postgres(&config, 1)[0].wish.connections, 16);
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
    }

    #[test]
    fn urls_alone_make_one_login() {
        let mut config = config();
        config.zero_config = true;
        config.databases.insert(ANY.into(), PgDatabase { user: Some("app".into()), ..PgDatabase::at(host("a")) });
        assert!(postgres(&config, 1)[0].logins.iter().all(|login| &*login.route.key.entry != ANY));
        config.zero_config = false;
        let plans = postgres(&config, 1);
        assert!(plans[0].logins.iter().all(|login| &*login.route.key.entry != ANY), "it names no database");
        assert_eq!(plans[0].wish.connections, 20 + 7 + 20 + 20);
        config.databases.get_mut(ANY).unwrap().dbname = Some("one".into());
        assert!(postgres(&config, 1)[0].logins.iter().any(|login| &*login.route.key.dbname == "one"));
    }
}
