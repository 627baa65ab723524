//! The same `pgbouncer.ini` in transaction mode: what the next client finds of the one before, through PgBouncer and through sidepool.

use sidepool_tests::ini::{IniPooler, Program};
use sidepool_tests::postgres::wire::first_error;
use sidepool_tests::postgres::{Cluster, Wire};

const USERS: &str = "\"app\" \"app-secret-0815\"\n";

/// What one client does, and what shows that another one finds it: a number above zero.
const LEFT: [(&str, &str); 5] = [
    ("CREATE TEMP TABLE kept AS SELECT 1", "SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()"),
    ("BEGIN; DECLARE kept CURSOR WITH HOLD FOR SELECT generate_series(1, 9); COMMIT", "SELECT count(*) FROM pg_cursors WHERE is_holdable"),
    ("SELECT pg_advisory_lock(17)", "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"),
    ("SELECT '\\'; PREPARE kept AS SELECT 1", "SELECT count(*) FROM pg_prepared_statement() WHERE name = 'kept'"),
    // Last: nothing but the end of the connection takes it back.
    ("LOAD 'auto_explain'", "SELECT count(*) FROM pg_settings WHERE name = 'auto_explain.log_format'"),
];

async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    cluster.sql("ALTER ROLE app SUPERUSER").await;
    cluster
}

async fn start(program: Program, cluster: &Cluster, settings: &str) -> IniPooler {
    let ini = format!(
        "[databases]\napp = host=127.0.0.1 port={} user=app password=app-secret-0815\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = LISTEN_PORT\nunix_socket_dir = SOCKET_DIRECTORY\nauth_file = USERS_FILE\n\
         auth_type = trust\npool_mode = transaction\n{settings}\n",
        cluster.port()
    );
    IniPooler::start(program, &ini, USERS).await
}

async fn client(pool: &IniPooler) -> Wire {
    Wire::try_login(pool.port(), &[("user", "app"), ("database", "app")], "").await.unwrap_or_else(|error| panic!("{error:?}"))
}

/// How much of each the next client finds while those before it are still there, or when each has gone.
async fn found(pool: &IniPooler, stays: bool) -> Vec<String> {
    let (mut found, mut present) = (Vec::new(), Vec::new());
    for (leave, find) in LEFT {
        let mut first = client(pool).await;
        assert!(first_error(&first.query(leave).await).is_none(), "{leave}");
        present.extend(Some(first).filter(|_| stays));
        found.push(client(pool).await.value(find).await);
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn through_pgbouncer_the_next_client_finds_what_was_left() {
    let cluster = cluster().await;
    for stays in [true, false] {
        let pool = start(Program::Pgbouncer, &cluster, "default_pool_size = 1").await;
        assert!(found(&pool, stays).await.iter().all(|count| count != "0"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn through_sidepool_nobody_does() {
    let cluster = cluster().await;
    let pool = start(Program::Sidepool, &cluster, "default_pool_size = 1").await;
    assert_eq!(found(&pool, false).await, ["0"; 5]);
    // Those who stay keep their connections, up to the bound.
    let pool = start(Program::Sidepool, &cluster, "default_pool_size = 12").await;
    assert_eq!(found(&pool, true).await, ["0"; 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_restores_what_pgbouncer_does() {
    let cluster = cluster().await;
    let pool = start(Program::Sidepool, &cluster, "default_pool_size = 1\nsession_state = off\nmax_prepared_statements = 0").await;
    assert!(found(&pool, true).await.iter().all(|count| count != "0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bounds_of_pins_may_stand_in_the_file() {
    let cluster = cluster().await;
    let pool = start(Program::Sidepool, &cluster, "default_pool_size = 3\nmax_pinned_connections = 1\npin_idle_timeout = 3").await;
    let (mut first, mut second) = (client(&pool).await, client(&pool).await);
    first.query(LEFT[0].0).await;
    let answer = second.query(LEFT[0].0).await;
    assert_eq!(first_error(&answer).and_then(|error| error.field(b'C')).as_deref(), Some("53300"));
    let last = first.until_closed().await.pop().expect("it is told");
    assert_eq!(
        last.field(b'D').as_deref(),
        Some("A server connection was kept for this idle client because of temporary tables. pin_idle_timeout is 3000 ms.")
    );
}
