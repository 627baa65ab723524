//! The rows of most lists, from plain facts. Pure.
//!
//! Not here: clients and servers (`sockets`), what they have done (`statistics`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sidepool_config::model::{Listen, LoadBalance, PgDatabase, PgUser, PoolMode, Postgres, Upstream};
use sidepool_config::pgbouncer::show::Row;

use super::gather::ConsoleFacts;
use super::guest::CONSOLE_DATABASE;
use super::rows::Rows;
use super::show::Show;
use crate::observe::record::PoolGauge;
use crate::session::postgres::cancel_lines::LineNumbers;
use crate::session::postgres::pools::PoolFacts;
use crate::session::postgres::route::{ANY, PoolKey, Purpose};
use crate::session::postgres::switches::Switches;

/// The pools of the process.
pub(super) type Pools = BTreeMap<PoolKey, PoolFacts>;

/// The mode of the console's own pool.
const CONSOLE_MODE: &str = "statement";

/// What is shown as the pool size of the console itself.
const CONSOLE_POOL_SIZE: u32 = 2;

fn mode(mode: PoolMode) -> &'static str {
    match mode {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
        PoolMode::Statement => "statement",
    }
}

/// How clients are to be spread over several hosts; nothing where there is one.
fn spread(database: Option<&PgDatabase>) -> Option<&'static str> {
    database.filter(|database| database.hosts.len() > 1).map(|database| match database.load_balance_hosts {
        LoadBalance::RoundRobin => "round-robin",
        LoadBalance::Disable => "disable",
    })
}

fn clients(facts: &PoolFacts) -> u32 {
    u32::try_from(facts.numbers.gauges[PoolGauge::Clients as usize]).unwrap_or(0)
}

/// The port that clients connect to, which is also shown where there is none.
pub(super) fn listen_port(config: &Postgres) -> u16 {
    let port = |listen: &Listen| match listen {
        Listen::Tcp(address) => Some(SocketAddr::port(address)),
        Listen::Unix(path) => path.extension()?.to_str()?.parse().ok(),
    };
    config.listen.iter().find_map(port).unwrap_or(0)
}

/// SHOW POOLS.
pub(super) fn pools(rows: &mut Rows<'_>, config: &Postgres, pools: &Pools, console: ConsoleFacts) {
    let mut of_console = Some(console);
    // The one connection that listens for a database's clients is among the servers; a second row of the same names would be taken for another.
    for (key, facts) in pools.iter().filter(|(key, _)| key.purpose != Purpose::Listening) {
        if **key.database() > *CONSOLE_DATABASE
            && let Some(console) = of_console.take()
        {
            console_pool(rows, console);
        }
        let state = &facts.snapshot;
        let wait = state.oldest_wait.unwrap_or_default();
        rows.row()
            .text(key.database())
            .text(&key.user)
            .number(clients(facts).saturating_sub(state.waiters))
            .number(state.waiters)
            .number(facts.cancels)
            .number(facts.waiting_cancels)
            .number(state.leased.saturating_sub(facts.being_cancelled))
            .number(facts.cancels)
            .number(facts.being_cancelled)
            .number(state.idle)
            .number(0)
            .number(state.resetting + state.probing)
            .number(state.connecting)
            .number(wait.as_secs())
            .number(wait.subsec_micros())
            .text(mode(facts.mode))
            .maybe(spread(config.databases.get(&*key.entry)))
            .end();
    }
    if let Some(console) = of_console {
        console_pool(rows, console);
    }
}

fn console_pool(rows: &mut Rows<'_>, console: ConsoleFacts) {
    let mut row = rows.row();
    row.text(CONSOLE_DATABASE).text(CONSOLE_DATABASE).number(console.present);
    for _ in 0..12 {
        row.number(0);
    }
    row.text(CONSOLE_MODE).null().end();
}

/// SHOW DATABASES.
pub(super) fn databases(rows: &mut Rows<'_>, config: &Postgres, switches: &Switches, pools: &Pools, console: ConsoleFacts) {
    // Databases of the entry `*` are listed when somebody uses them, or something was said of them.
    let used = pools.keys().filter(|key| key.is_auto()).map(|key| &**key.database());
    let switched = switches.paused_databases.iter().chain(&switches.disabled_databases).map(|name| &**name);
    let names: BTreeSet<&str> = config.databases.keys().map(String::as_str).chain(used).chain(switched).chain([CONSOLE_DATABASE]).collect();
    for name in names.into_iter().filter(|name| *name != ANY) {
        if name == CONSOLE_DATABASE {
            console_database(rows, config, console);
        } else if let Some(database) = config.databases.get(name).or_else(|| config.databases.get(ANY)) {
            let own = || pools.iter().filter(|(key, _)| &**key.database() == name).map(|(_, facts)| facts);
            let connections: u32 = own().map(|facts| facts.snapshot.connections()).sum();
            let (host, port) = place(database);
            let limits = &database.limits;
            let most = |own: u32, of_all: u32| if own > 0 { own } else { of_all };
            let is_old = rows.show() == Show::OldDatabases;
            let mut row = rows.row();
            row.text(name)
                .text(&host)
                .number(port)
                .text(database.dbname.as_deref().unwrap_or(name))
                .maybe(database.user.as_deref())
                .number(limits.pool_size)
                .number(limits.min_pool_size)
                .number(limits.reserve_pool_size)
                .number(limits.server_lifetime.as_secs())
                .maybe(database.names_its_mode.then(|| mode(database.pool_mode)))
                .maybe(spread(Some(database)))
                .number(most(database.max_db_connections, config.max_db_connections))
                .number(connections)
                .number(most(database.max_db_client_connections, config.max_db_client_connections))
                .number(own().map(clients).sum::<u32>())
                .number(switches.paused_databases.contains(name))
                .number(switches.is_disabled(name));
            if is_old {
                row.number(limits.reserve_pool_size);
            }
            row.end();
        }
    }
}

fn console_database(rows: &mut Rows<'_>, config: &Postgres, console: ConsoleFacts) {
    let is_old = rows.show() == Show::OldDatabases;
    let mut row = rows.row();
    row.text(CONSOLE_DATABASE)
        .null()
        .number(listen_port(config))
        .text(CONSOLE_DATABASE)
        .text(CONSOLE_DATABASE)
        .number(CONSOLE_POOL_SIZE)
        .number(0)
        .number(0)
        .number(3600)
        .text(CONSOLE_MODE)
        .null()
        .number(0)
        .number(0)
        .number(config.max_db_client_connections)
        .number(console.present)
        .number(0)
        .number(0);
    if is_old {
        row.number(0);
    }
    row.end();
}

/// The hosts of a database as its entry in the configuration lists them, and their port.
fn place(database: &PgDatabase) -> (String, u16) {
    let hosts: Vec<String> = database.hosts.iter().map(|upstream| host(upstream).0).collect();
    (hosts.join(","), database.hosts.first().map_or(0, |upstream| host(upstream).1))
}

fn host(upstream: &Upstream) -> (String, u16) {
    match upstream {
        Upstream::Tcp { host, port } => (host.clone(), *port),
        Upstream::Unix(path) => {
            let port = path.extension().and_then(|port| port.to_str()?.parse().ok()).unwrap_or(0);
            (path.parent().unwrap_or(path).display().to_string(), port)
        }
    }
}

/// SHOW USERS. `logged_in` has how many clients each user has.
pub(super) fn users(rows: &mut Rows<'_>, config: &Postgres, pools: &Pools, logged_in: &BTreeMap<Box<str>, u32>) {
    let nobody = PgUser::default();
    let names: BTreeSet<&str> = config.users.keys().map(String::as_str).chain([CONSOLE_DATABASE]).collect();
    for name in names {
        let user = config.users.get(name).unwrap_or(&nobody);
        let connections: u32 = pools.iter().filter(|(key, _)| &*key.user == name).map(|(_, facts)| facts.snapshot.connections()).sum();
        rows.row()
            .text(name)
            .text(&padded(user.pool_size))
            .text(&padded(user.reserve_pool_size))
            .maybe(user.pool_mode.map(mode))
            .number(user.max_user_connections.unwrap_or(config.max_user_connections))
            .number(connections)
            .number(user.max_user_client_connections.unwrap_or(config.max_user_client_connections))
            .number(logged_in.get(name).copied().unwrap_or(0))
            .end();
    }
}

/// A number at the right of nine places, or nothing.
fn padded(number: Option<u32>) -> String {
    number.map(|number| format!("{number:>9}")).unwrap_or_default()
}

/// How many there are of what.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) databases: usize,
    pub(super) users: usize,
    pub(super) peers: usize,
    pub(super) pools: usize,
    pub(super) clients: u64,
    pub(super) login_clients: u64,
    pub(super) free_clients: u64,
    pub(super) servers: u64,
    pub(super) dns_names: usize,
    pub(super) dns_pending: usize,
}

/// SHOW LISTS.
pub(super) fn lists(rows: &mut Rows<'_>, counts: Counts) {
    let small = |count: usize| count as u64;
    for (name, count) in [
        ("databases", small(counts.databases)),
        ("users", small(counts.users)),
        ("peers", small(counts.peers)),
        ("pools", small(counts.pools)),
        ("peer_pools", small(counts.peers)),
        ("free_clients", counts.free_clients),
        ("used_clients", counts.clients),
        ("login_clients", counts.login_clients),
        ("free_servers", 0),
        ("used_servers", counts.servers),
        ("dns_names", small(counts.dns_names)),
        ("dns_zones", 0),
        ("dns_queries", small(counts.dns_pending)),
        ("dns_pending", small(counts.dns_pending)),
    ] {
        rows.row().text(name).number(count).end();
    }
}

/// SHOW PEERS.
pub(super) fn peers(rows: &mut Rows<'_>, config: &Postgres) {
    for (id, peer) in &config.peers {
        let (host, port) = host(&peer.upstream);
        rows.row().number(*id).text(&host).number(port).number(config.pool_size_of(peer)).end();
    }
}

/// SHOW PEER_POOLS: each cancel on its way to a peer is a connection of its own, which needs no login.
pub(super) fn peer_pools(rows: &mut Rows<'_>, config: &Postgres, cancels: impl Fn(u16) -> LineNumbers) {
    for id in config.peers.keys() {
        let LineNumbers { active, waiting } = cancels(*id);
        rows.row().number(*id).number(active).number(waiting).number(active).number(0).end();
    }
}

/// SHOW STATE.
pub(super) fn state(rows: &mut Rows<'_>, switches: &Switches) {
    let active = !switches.paused && !switches.suspended;
    for (key, is_so) in [("active", active), ("paused", switches.paused && !switches.suspended), ("suspended", switches.suspended)] {
        rows.row().text(key).text(if is_so { "yes" } else { "no" }).end();
    }
}

/// SHOW DNS_HOSTS. A name has no port, which PgBouncer shows as 0.
pub(super) fn dns_hosts(rows: &mut Rows<'_>, hosts: &[(String, Duration, Vec<IpAddr>)]) {
    for (name, ttl, addresses) in hosts {
        let addresses: Vec<String> = addresses.iter().map(|address| SocketAddr::new(*address, 0).to_string()).collect();
        rows.row().text(name).number(ttl.as_secs()).text(&addresses.join(",")).end();
    }
}

/// SHOW CONFIG.
pub(super) fn config(rows: &mut Rows<'_>, settings: &[Row]) {
    for setting in settings {
        let changeable = if setting.changeable { "yes" } else { "no" };
        rows.row().text(setting.key).maybe(setting.value.as_deref()).maybe(setting.default).text(changeable).end();
    }
}

/// SHOW MEM: how much one of each takes, and how many there are. Memory comes from one allocator, so nothing is kept free for any of them.
pub(super) fn mem(rows: &mut Rows<'_>, kinds: &[(&str, usize, u64)]) {
    for (name, size, used) in kinds {
        let total = (*size as u64).saturating_mul(*used);
        rows.row().text(name).number(*size as u64).number(*used).number(0).number(total).end();
    }
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
