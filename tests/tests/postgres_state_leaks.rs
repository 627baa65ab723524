//! Nothing leaks: many clients on few connections set and take back everything a session can have, at random, in every way there is, and each of
//! them always sees what it would see alone. The same run through Debian's PgBouncer shows that the test can see leaks.

#[path = "postgres_state_leaks/client.rs"]
mod client;
#[path = "postgres_state_leaks/model.rs"]
mod model;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sidepool_tests::ini::{IniPooler, Program};
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::Cluster;
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;
use tokio::task::JoinSet;

use self::client::{Client, Plan, Seen, defaults};

const SETUP: &str = "CREATE ROLE role_a; CREATE ROLE role_b; GRANT role_a, role_b TO app;
    CREATE TABLE tenant_rows (tenant text, number int);
    INSERT INTO tenant_rows SELECT 't' || tenant, number FROM generate_series(1, 4) tenant, generate_series(1, 10) number;
    ALTER TABLE tenant_rows ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON tenant_rows USING (tenant = current_setting('app.tenant_id', true));
    GRANT ALL ON tenant_rows TO PUBLIC;
    CREATE FUNCTION set_hidden(name text, value text) RETURNS text LANGUAGE sql AS 'SELECT set_config(name, value, false)';
    ALTER FUNCTION set_hidden SET SCHEMA pg_catalog";

/// What clients begin with.
const STARTS: [&[(&str, &str)]; 3] =
    [&[], &[("work_mem", "9MB"), ("timezone", "Europe/Berlin"), ("app.other", "from the start")], &[("application_name", "started")]];

async fn play(plan: &Plan, clients: u64, starts: &[&[(&'static str, &'static str)]]) -> Seen {
    let mut all = JoinSet::new();
    for seed in 0..clients {
        let startup = starts[usize::try_from(seed).expect("few") % starts.len()].to_vec();
        all.spawn(Client::run(Plan { startup, ..plan.clone() }, seed + 1));
    }
    let mut seen = Seen::default();
    while let Some(one) = all.join_next().await {
        seen.add(one.expect("a client that ran to its end"));
    }
    seen
}

async fn cluster() -> Cluster {
    let cluster = Cluster::start_with(&["allow_system_table_mods=on"]).await;
    cluster.sql(SETUP).await;
    cluster
}

fn settings(cluster: &Cluster) -> Settings {
    Settings::postgres(cluster).set("postgres.default_pool_size", 3).set("postgres.session_state_functions", vec!["set_hidden".to_owned()])
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_session_is_ever_seen_by_another_in_a_hundred_thousand_checks() {
    let cluster = cluster().await;
    let pool = Pooler::start(settings(&cluster)).await;
    let defaults = defaults(cluster.port()).await;
    let plan = Plan { port: pool.postgres_port(), startup: Vec::new(), defaults, hides: true, leaves: true, rounds: 280 };
    let seen = play(&plan, 24, &STARTS).await;
    println!("{} values compared, {} looks for rows of others, {} connections left", seen.checks, seen.rows, seen.lost);
    assert!(seen.leaks.is_empty(), "{} leaks, such as\n{}", seen.leaks.len(), seen.leaks[..seen.leaks.len().min(5)].join("\n"));
    assert!(seen.checks >= 100_000 && seen.rows >= 10_000 && seen.lost > 50, "{} {} {}", seen.checks, seen.rows, seen.lost);
    // One that was told goodbye is seen for a moment longer.
    wait::until("three connections at most", async || (cluster.connections().await <= 3).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_leaks_while_servers_are_killed_and_workers_share_them() {
    let cluster = cluster().await;
    let pool = Pooler::start(settings(&cluster).set("workers", 2)).await;
    let defaults = defaults(cluster.port()).await;
    let plan = Plan { port: pool.postgres_port(), startup: Vec::new(), defaults, hides: true, leaves: true, rounds: 60 };
    let ended = Arc::new(AtomicBool::new(false));
    let (killed, seen) = tokio::join!(
        async {
            let admin = cluster.superuser("app").await;
            let mut killed = 0;
            // On a slow machine more would leave too little to compare.
            while !ended.load(Ordering::Relaxed) && killed < 150 {
                let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app' ORDER BY random() LIMIT 1";
                killed += admin.query(sql, &[]).await.expect(sql).len();
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
            killed
        },
        async {
            let seen = play(&plan, 16, &STARTS).await;
            ended.store(true, Ordering::Relaxed);
            seen
        }
    );
    println!("{} values compared, {killed} servers killed, {} connections lost", seen.checks, seen.lost);
    assert!(seen.leaks.is_empty(), "{} leaks, such as\n{}", seen.leaks.len(), seen.leaks[..seen.leaks.len().min(5)].join("\n"));
    assert!(killed > 5 && seen.lost > 5 && seen.checks > 10_000, "{killed} {} {}", seen.lost, seen.checks);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_clients_see_leaks_through_pgbouncer() {
    let cluster = cluster().await;
    let ini = format!(
        "[databases]\napp = host=127.0.0.1 port={} dbname=app user=app password=app-secret-0815\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
         listen_port = LISTEN_PORT\nunix_socket_dir = SOCKET_DIRECTORY\nauth_type = trust\nauth_file = USERS_FILE\n\
         pool_mode = transaction\ndefault_pool_size = 3\n",
        cluster.port()
    );
    let defaults = defaults(cluster.port()).await;
    let plan = |port| Plan { port, startup: Vec::new(), defaults: defaults.clone(), hides: true, leaves: false, rounds: 30 };
    let users = "\"app\" \"app-secret-0815\"\n";
    let theirs = IniPooler::start(Program::Pgbouncer, &ini, users).await;
    let seen = play(&plan(theirs.port()), 12, &[&[]]).await;
    println!("PgBouncer: {} leaks in {} values", seen.leaks.len(), seen.checks);
    assert!(seen.leaks.len() > 200, "{} leaks in {} checks", seen.leaks.len(), seen.checks);
    assert!(seen.leaks.iter().any(|leak| leak.starts_with("role ")) && seen.leaks.iter().any(|leak| leak.starts_with("tenant ")));
    // The same file, and the same clients.
    let ours = IniPooler::start(Program::Sidepool, &format!("{ini}session_state_functions = set_hidden\n"), users).await;
    let seen = play(&plan(ours.port()), 12, &[&[]]).await;
    assert!(seen.leaks.is_empty(), "{} leaks, such as\n{}", seen.leaks.len(), seen.leaks[..seen.leaks.len().min(5)].join("\n"));
}
