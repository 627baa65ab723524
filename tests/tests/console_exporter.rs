//! Debian's `prometheus-pgbouncer-exporter`, unchanged, in front of the admin console: its metrics are those of the traffic.
//!
//! It is of 2015 and asks for two columns by name that PgBouncer has dropped since (with Debian's own PgBouncer it ends at once), so the pooler is
//! told to have them.

use std::process::Command;

use sidepool_tests::conformance::proves;
use sidepool_tests::place;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::{Cluster, Wire};
use sidepool_tests::process::Process;
use sidepool_tests::scrape;
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

/// The value of a series in a scrape.
fn series(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in:\n{text}"));
    line.trim().parse().unwrap_or_else(|_| panic!("{name} is {line:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn debians_exporter_shows_the_traffic() {
    let _proof = proves(&["column SHOW LISTS.list", "column SHOW LISTS.items"]);
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster)
        .set("postgres.stats_users", vec!["watcher".to_owned()])
        .set("postgres.users.watcher.password", "seen")
        .set("postgres.console_old_columns", true);
    let pool = Pooler::start(settings).await;
    let mut client = pool.wire().await;
    for _ in 0..7 {
        client.value("SELECT 1").await;
    }
    let port = place::free_port();
    let mut command = Command::new("prometheus-pgbouncer-exporter");
    command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
    command.args(["--pgbouncer-host", "127.0.0.1", "--pgbouncer-port", &pool.postgres_port().to_string(), "--pgbouncer-user", "watcher"]);
    let _exporter = Process::spawn("exporter", command);
    let text =
        wait::until("the exporter's metrics", async || scrape::get(port, "/metrics").await.filter(|answer| answer.status == 200)).await;
    let text = text.body;
    let of_app = |name: &str| series(&text, &format!("pgbouncer_{name}{{database=\"app\"}}"));
    assert_eq!(of_app("requests_total"), 7.0);
    assert!(of_app("received_bytes_total") > 50.0 && of_app("sent_bytes_total") > 50.0 && of_app("query_microseconds_total") > 0.0);
    assert_eq!(series(&text, "pgbouncer_active_clients{database=\"app\",user=\"app\"}"), 1.0);
    assert_eq!(series(&text, "pgbouncer_waiting_clients{database=\"app\",user=\"app\"}"), 0.0);
    assert_eq!(series(&text, "pgbouncer_active_clients{database=\"pgbouncer\",user=\"pgbouncer\"}"), 1.0);
    assert_eq!((of_app("pool_size"), of_app("reserve_pool")), (5.0, 0.0));
    let list = |name: &str| series(&text, &format!("pgbouncer_{name} "));
    let lists = ["databases", "users", "pools", "used_clients", "used_servers", "login_clients", "dns_names"].map(list);
    assert_eq!(lists, [2.0, 3.0, 2.0, 2.0, 1.0, 0.0, 0.0]);
    assert_eq!(list("free_clients"), 9998.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_present_exporter_asks_is_answered() {
    // prometheus-community/pgbouncer_exporter: simple queries of lib/pq, which says extra_float_digits when it connects; columns by name.
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.stats_users", vec!["app".to_owned()])).await;
    let parameters =
        [("user", "app"), ("database", "pgbouncer"), ("extra_float_digits", "2"), ("datestyle", "ISO, MDY"), ("client_encoding", "UTF8")];
    let mut console = Wire::try_login(pool.postgres_port(), &parameters, "").await.expect("lib/pq comes in");
    use sidepool_tests::console::{number, of, rows};
    for (command, columns) in [
        ("SHOW LISTS;", &["list", "items"][..]),
        (
            "SHOW DATABASES;",
            &[
                "name",
                "host",
                "port",
                "database",
                "force_user",
                "pool_size",
                "reserve_pool_size",
                "pool_mode",
                "max_connections",
                "current_connections",
                "paused",
                "disabled",
            ],
        ),
        (
            "SHOW STATS_TOTALS;",
            &[
                "database",
                "query_count",
                "query_time",
                "bytes_received",
                "bytes_sent",
                "wait_time",
                "xact_count",
                "xact_time",
                "client_parse_count",
                "server_parse_count",
                "bind_count",
                "server_assignment_count",
            ],
        ),
        (
            "SHOW POOLS;",
            &[
                "database",
                "user",
                "cl_active",
                "cl_waiting",
                "cl_active_cancel_req",
                "cl_waiting_cancel_req",
                "sv_active",
                "sv_active_cancel",
                "sv_being_canceled",
                "sv_idle",
                "sv_used",
                "sv_tested",
                "sv_login",
                "maxwait",
            ],
        ),
        ("SHOW CLIENTS;", &["database", "user", "application_name", "state"]),
    ] {
        let rows = rows(&mut console, command).await;
        assert!(!rows.is_empty() && columns.iter().all(|column| rows[0].contains_key(*column)), "{command}: {:?}", rows.first());
    }
    let config = rows(&mut console, "SHOW CONFIG;").await;
    assert_eq!(config[0].len(), 4);
    assert_eq!(number(of(&config, "key", "max_client_conn"), "value"), 10_000);
    assert_eq!(number(of(&config, "key", "max_user_connections"), "value"), 0);
    assert!(console.value("SHOW VERSION;").await.starts_with("PgBouncer 1."));
}
