//! How many connections a configuration may open to one server, and whose they are. Pure. Pools share the limits of their database and of their user.

use std::collections::{BTreeMap, BTreeSet};

use sidepool_config::model::{PgDatabase, PoolMode, Postgres, Upstream};

use super::plan::PgWish;
use crate::runtime::descriptors::KnownPool;
use crate::session::postgres::route::{self, ANY};

/// A part of the sum: the entry, the user if it is known, and how many connections there may be.
type Part<'a> = (&'a str, Option<&'a str>, u64);

/// Counts. `pools` are those of clients.
pub fn count(config: &Postgres, pools: &[KnownPool<'_>], upstream: &Upstream, wish: &mut PgWish) {
    let here: Vec<&KnownPool<'_>> = pools.iter().filter(|pool| pool.database.hosts.contains(upstream)).collect();
    let lookups = lookups(config, upstream);
    let clients = here.iter().map(|pool| (pool.entry, pool.user, pool.connections));
    let parts: Vec<Part<'_>> =
        clients.chain(lookups.iter().map(|(entry, user, most)| (entry.as_str(), Some(user.as_str()), *most))).collect();
    let (by_entry, by_user) = (by_entry(config, &parts), by_user(config, &parts));
    wish.connections = by_entry.values().sum::<u64>().min(by_user.values().sum());
    wish.of_users = by_user.into_iter().filter_map(|(user, sum)| Some((user?.to_owned(), sum))).collect();
    for (entry, sum) in by_entry {
        let name = config.databases.get(entry).and_then(|database| database.dbname.as_deref()).or((entry != ANY).then_some(entry));
        if let Some(name) = name {
            *wish.of_databases.entry(name.to_owned()).or_default() += sum;
        }
    }
    wish.listening = here.iter().filter(|pool| database_mode(config, pool) != PoolMode::Session).count() as u64;
    let leads_here = |entry: &str| wish.entries.iter().any(|name| name == entry);
    for (entry, database) in config.databases.iter().filter(|(entry, _)| leads_here(entry)) {
        let names_none = entry == ANY && database.dbname.is_none();
        let size = u64::from(database.limits.pool_size) + u64::from(database.limits.reserve_pool_size);
        if names_none {
            let known = here.iter().filter(|pool| pool.entry == ANY).map(|pool| pool.connections).sum();
            wish.each_database = Some(most(database.max_db_connections, known));
        }
        if database.user.is_some() || !route::has_others(config, database) {
            continue;
        }
        if database.max_db_connections == 0 || names_none {
            *wish.unknown.get_or_insert_default() += size;
        } else {
            // However many come, they share what the database may have.
            let known = parts.iter().filter(|(name, _, _)| name == entry).map(|(_, _, sum)| sum).sum::<u64>();
            let rest = u64::from(database.max_db_connections).saturating_sub(known);
            wish.connections += rest;
            *wish.of_databases.entry(database.dbname.clone().unwrap_or_else(|| entry.clone())).or_default() += rest;
        }
    }
}

/// Zero is no limit.
fn most(limit: u32, sum: u64) -> u64 {
    if limit == 0 { sum } else { sum.min(limit.into()) }
}

fn of_user(config: &Postgres, user: Option<&str>) -> u32 {
    user.and_then(|user| config.users.get(user)?.max_user_connections).unwrap_or(config.max_user_connections)
}

fn of_entry(config: &Postgres, entry: &str) -> u32 {
    config.databases.get(entry).map_or(0, |database| database.max_db_connections)
}

/// By entry: of each user no more than it may have anywhere, and no more than the database may have.
fn by_entry<'a>(config: &Postgres, parts: &[Part<'a>]) -> BTreeMap<&'a str, u64> {
    let mut pairs: BTreeMap<(&str, Option<&str>), u64> = BTreeMap::new();
    for (entry, user, sum) in parts {
        *pairs.entry((entry, *user)).or_default() += sum;
    }
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for ((entry, user), sum) in pairs {
        *sums.entry(entry).or_default() += most(of_user(config, user), sum);
    }
    sums.into_iter().map(|(entry, sum)| (entry, most(of_entry(config, entry), sum))).collect()
}

/// By user: of each database no more than it may have at all, and no more than the user may have.
fn by_user<'a>(config: &Postgres, parts: &[Part<'a>]) -> BTreeMap<Option<&'a str>, u64> {
    let mut pairs: BTreeMap<(Option<&str>, &str), u64> = BTreeMap::new();
    for (entry, user, sum) in parts {
        *pairs.entry((*user, entry)).or_default() += sum;
    }
    let mut sums: BTreeMap<Option<&str>, u64> = BTreeMap::new();
    for ((user, entry), sum) in pairs {
        *sums.entry(user).or_default() += most(of_entry(config, entry), sum);
    }
    sums.into_iter().map(|(user, sum)| (user, most(of_user(config, user), sum))).collect()
}

/// The pools in which users are looked up there: the entry, the user, the size.
fn lookups(config: &Postgres, upstream: &Upstream) -> Vec<(String, String, u64)> {
    let found = config.databases.keys().filter(|entry| *entry != ANY || !config.zero_config);
    let found = found.filter_map(|entry| route::lookup(config, entry)?.ok()).filter(|lookup| lookup.route.target.hosts.contains(upstream));
    let pools: BTreeSet<_> = found.map(|lookup| (lookup.route.key.clone(), lookup.route.limits.max)).collect();
    pools.into_iter().map(|(key, most)| (key.entry.to_string(), key.user.to_string(), u64::from(most))).collect()
}

fn database_mode(config: &Postgres, pool: &KnownPool<'_>) -> PoolMode {
    let database: &PgDatabase = pool.database;
    database.pool_mode_for(pool.user.and_then(|user| config.users.get(user)))
}

#[cfg(test)]
mod tests {
    use sidepool_config::model::{AuthType, PgUser};

    use super::super::plan::postgres;
    use super::*;

    fn config(entries: &[&str]) -> Postgres {
        let database = || PgDatabase::at(Upstream::Tcp { host: "a".to_owned(), port: 5432 });
        let users = [("bob".to_owned(), PgUser { pool_size: Some(7), ..PgUser::default() }), ("eve".to_owned(), PgUser::default())];
        Postgres {
            databases: entries.iter().map(|entry| ((*entry).to_owned(), database())).collect(),
            users: users.into(),
            ..Postgres::default()
        }
    }

    fn wish(config: &Postgres) -> PgWish {
        postgres(config, 1)[0].wish.clone()
    }

    #[test]
    fn users_that_are_not_known_beforehand_have_pools_of_all_entries() {
        let mut config = config(&["one", "two"]);
        for (auth, unknown) in [(AuthType::ScramSha256, None), (AuthType::Ldap, Some(40)), (AuthType::Pam, Some(40))] {
            config.auth_type = auth;
            assert_eq!(wish(&config).unknown, unknown, "{auth:?}");
        }
        config.databases.get_mut("one").unwrap().user = Some("app".to_owned());
        assert_eq!(wish(&config).unknown, Some(20), "the other's user is always the same");
        config.databases.get_mut("two").unwrap().max_db_connections = 50;
        let wish = wish(&config);
        assert_eq!((wish.unknown, wish.connections, &wish.of_databases["two"]), (None, 20 + 50, &50), "they share what it may have");
    }

    #[test]
    fn each_database_that_clients_name_has_pools() {
        let mut config = config(&[ANY]);
        assert_eq!((wish(&config).connections, wish(&config).each_database), (27, Some(27)));
        config.databases.get_mut(ANY).unwrap().max_db_connections = 10;
        assert_eq!((wish(&config).connections, wish(&config).each_database), (10, Some(10)));
        config.databases.get_mut(ANY).unwrap().dbname = Some("shop".to_owned());
        assert_eq!((wish(&config).each_database, &wish(&config).of_databases["shop"]), (None, &10));
    }

    #[test]
    fn limits_of_the_one_bound_the_sums_of_the_other() {
        let mut config = config(&["one", "two"]);
        config.databases.get_mut("one").unwrap().max_db_connections = 10;
        assert_eq!(wish(&config).of_users["eve"], 10 + 20);
        config.max_user_connections = 5;
        let wish = wish(&config);
        assert_eq!((wish.of_users["eve"], wish.of_databases["one"], wish.of_databases["two"]), (5, 10, 10));
    }

    #[test]
    fn pools_that_listen_and_look_up_have_connections_of_their_own() {
        let mut config = config(&["one", "two"]);
        assert_eq!((wish(&config).connections, wish(&config).listening), (54, 4));
        config.users.get_mut("bob").unwrap().pool_mode = Some(PoolMode::Session);
        assert_eq!(wish(&config).listening, 2, "those hear for themselves");
        (config.auth_user, config.auth_dbname) = (Some("finder".to_owned()), Some("one".to_owned()));
        let wish = wish(&config);
        assert_eq!((wish.connections, wish.of_users["finder"], wish.of_databases["one"]), (58, 4, 31), "both look up in one pool");
    }
}
