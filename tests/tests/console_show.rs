//! What the admin console shows, to psql and to drivers: who may look, every list with its columns, and numbers that are those of the traffic.

use std::process::Stdio;

use sidepool::console::show::Show;
use sidepool_tests::conformance::proves;
use sidepool_tests::console::{Row, column_names, number, of, rows, rows_of_all, value};
use sidepool_tests::place;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::wire::{first_error, tags};
use sidepool_tests::postgres::{Cluster, Wire, frame};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;
use tokio::process::Command;

fn settings(cluster: &Cluster) -> Settings {
    Settings::postgres(cluster)
        .set("postgres.admin_users", vec!["app".to_owned()])
        .set("postgres.stats_users", vec!["watcher".to_owned()])
        .set("postgres.users.watcher.password", "seen")
        .set("postgres.users.other.password", "no")
}

async fn console(pool: &Pooler, user: &str) -> Wire {
    Wire::login(pool.postgres_port(), user, "pgbouncer", "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lists_say_who_may_come_and_what_they_may() {
    let _proof = proves(&["setting admin_users", "setting stats_users"]);
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster)).await;
    let mut admin = console(&pool, "app").await;
    let told = |name: &str| admin.parameters.get(name).cloned().unwrap_or_default();
    assert_eq!((told("server_version"), told("is_superuser"), told("TimeZone")), ("1.25.2/bouncer".into(), "on".into(), "GMT".into()));
    assert_eq!(tags(&admin.query("SHOW FDS").await), "TDCZ", "where clients come in");
    let mut watcher = console(&pool, "watcher").await;
    assert_eq!(tags(&watcher.query("SHOW VERSION;").await), "TDCZ");
    for forbidden in ["SHOW FDS", "PAUSE", "RELOAD", "SET verbose = 1", "KILL", "SHUTDOWN", "SUSPEND", "KILL_CLIENT 1"] {
        let answer = watcher.query(forbidden).await;
        let error = first_error(&answer).unwrap_or_else(|| panic!("{forbidden}: {}", tags(&answer)));
        assert_eq!((error.field(b'S').unwrap(), error.field(b'C').unwrap()), ("ERROR".into(), "08P01".into()), "{forbidden}");
        assert_eq!(error.field(b'M').unwrap(), "admin access needed", "{forbidden}");
    }
    let refused = Wire::try_login(pool.postgres_port(), &[("user", "other"), ("database", "pgbouncer")], "").await.err().expect("no");
    assert_eq!((refused.field(b'S').unwrap(), refused.field(b'M').unwrap()), ("FATAL".into(), "not allowed".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_asked_for_as_everywhere() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster).set("postgres.auth_type", "scram-sha-256")).await;
    let parameters = [("user", "watcher"), ("database", "pgbouncer"), ("extra_float_digits", "2"), ("client_encoding", "UTF8")];
    let refused = Wire::try_login(pool.postgres_port(), &parameters, "wrong").await.err().expect("no");
    assert_eq!(refused.field(b'C').unwrap(), "28P01");
    Wire::try_login(pool.postgres_port(), &parameters, "seen").await.expect("the right one");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_has_its_columns() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster)).await;
    let mut client = pool.wire().await;
    client.value("SELECT 1").await;
    let mut admin = console(&pool, "app").await;
    let mut proof = proves(&["command SHOW HELP"]);
    for show in Show::ALL {
        // Lists that never have a row here prove nothing.
        if ![Show::Help, Show::DnsHosts, Show::DnsZones].contains(&show) {
            let name = show.name().to_uppercase();
            proof.add(&format!("command SHOW {name}"));
            show.columns().iter().for_each(|column| proof.add(&format!("column SHOW {name}.{}", column.name)));
        }
        for command in [format!("SHOW {}", show.name()), format!("select {};", show.name().to_uppercase())] {
            let messages = admin.query(&command).await;
            assert_eq!(messages[messages.len() - 2].text(), "SHOW", "{command}");
            match messages.iter().find(|message| message.tag == b'T') {
                Some(description) => {
                    let wanted: Vec<&str> = show.columns().iter().map(|column| column.name).collect();
                    assert_eq!(column_names(&description.body), wanted, "{command}");
                }
                None => {
                    assert_eq!((show, tags(&messages).as_str()), (Show::Help, "NCZ"));
                    assert_eq!(messages[0].field(b'M').unwrap(), "Console usage");
                    assert!(messages[0].field(b'D').unwrap().contains("SHUTDOWN WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS"));
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sockets_of_the_process_are_shown_with_whose_they_are() {
    let cluster = Cluster::start().await;
    let directory = place::directory("fds");
    let settings = settings(&cluster);
    let listen = vec![format!("127.0.0.1:{}", settings.postgres_port()), format!("unix:{}", directory.display())];
    let pool = Pooler::start(settings.set("postgres.listen", listen).set("workers", 2)).await;
    let (mut busy, mut idle) = (pool.wire().await, pool.wire().await);
    busy.query("BEGIN").await;
    idle.query("SET DateStyle = 'German'").await;
    let mut admin = console(&pool, "app").await;
    let shown = rows_of_all(&mut admin, "SHOW FDS").await;
    let number_of = |row: &Row, column: &str| i32::try_from(number(row, column)).expect("a descriptor");
    let target = |row: &Row| std::fs::read_link(format!("/proc/{}/fd/{}", pool.process().id(), number(row, "fd"))).expect("it is open");
    assert!(shown.iter().all(|row| target(row).to_string_lossy().starts_with("socket:")));
    let of_task = |task: &str| shown.iter().filter(|row| value(row, "task") == task).collect::<Vec<_>>();
    let places: Vec<&str> = of_task("pooler").iter().map(|row| value(row, "addr")).collect();
    assert!(places.len() == 2 && places.contains(&"127.0.0.1") && places.contains(&"unix"), "{places:?}");
    assert!(of_task("pooler").iter().all(|row| number(row, "port") == u64::from(pool.postgres_port()) && value(row, "user") == "(null)"));
    let at = |wire: &mut Wire| u64::from(wire.stream().local_addr().expect("an address").port());
    let client = |wire: &mut Wire| of_task("client").into_iter().find(|row| number(row, "port") == at(wire)).expect("the client").clone();
    let (busy, idle) = (client(&mut busy), client(&mut idle));
    assert_eq!((value(&busy, "user"), value(&busy, "database"), value(&idle, "datestyle")), ("app", "app", "German, DMY"));
    assert_eq!((value(&idle, "client_encoding"), value(&idle, "std_strings"), value(&idle, "password")), ("UTF8", "on", "(null)"));
    let server = of_task("server").into_iter().find(|row| number_of(row, "link") == number_of(&busy, "fd")).expect("its server");
    assert_eq!((number_of(&busy, "link"), number_of(&idle, "link")), (number_of(server, "fd"), 0));
    assert_eq!(number(server, "port"), u64::from(cluster.port()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_has_a_mode_where_it_names_one_and_memory_has_pgbouncers_names() {
    let cluster = Cluster::start().await;
    let pool =
        Pooler::start(settings(&cluster).database("postgres", &cluster).set("postgres.databases.postgres.pool_mode", "transaction")).await;
    let mut client = pool.wire().await;
    client.ask(&[frame::parse("s", "SELECT 1"), frame::sync()].concat()).await;
    let mut admin = console(&pool, "app").await;
    let databases = rows(&mut admin, "SHOW DATABASES").await;
    let mode = |name: &str| value(of(&databases, "name", name), "pool_mode").to_owned();
    assert_eq!([mode("app"), mode("postgres"), mode("pgbouncer")], ["(null)", "transaction", "statement"]);
    let memory = rows(&mut admin, "SHOW MEM").await;
    let used = |name: &str| number(of(&memory, "name", &format!("{name}_cache")), "used");
    let counted = ["client", "server", "server_prepared_statement", "pool", "peer"].map(used);
    assert_eq!(counted, [2, 1, 1, 2, 0]);
    assert_eq!(memory.len(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_and_servers_are_shown_as_they_are() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster).set("postgres.default_pool_size", 1)).await;
    let parameters = [("user", "app"), ("database", "app"), ("application_name", "holder")];
    let mut holder = Wire::try_login(pool.postgres_port(), &parameters, "").await.expect("a client");
    let mut waiter = pool.wire().await;
    let _idle = pool.wire().await;
    let mut admin = console(&pool, "app").await;
    let pid = {
        let messages = holder.query("BEGIN; SELECT pg_backend_pid()").await;
        messages.iter().find(|message| message.tag == b'D').expect("a row").columns()[0].clone().expect("a number")
    };
    waiter.send(&frame::query("SELECT 2")).await;
    let clients = wait::until("a waiting client", async || {
        Some(rows(&mut admin, "SHOW CLIENTS").await).filter(|rows| rows.iter().any(|row| value(row, "state") == "waiting"))
    })
    .await;
    let states: Vec<_> = {
        let mut states: Vec<_> = clients.iter().map(|row| (value(row, "database").to_owned(), value(row, "state").to_owned())).collect();
        states.sort();
        states
    };
    let wanted = [("app", "active"), ("app", "idle"), ("app", "waiting"), ("pgbouncer", "idle")];
    assert_eq!(states, wanted.map(|(database, state)| (database.to_owned(), state.to_owned())));
    let active = of(&clients, "state", "active");
    assert_eq!((value(active, "application_name"), value(active, "addr"), value(active, "type")), ("holder", "127.0.0.1", "C"));
    assert_eq!(value(active, "local_port"), pool.postgres_port().to_string());
    assert!(value(active, "connect_time").ends_with(" UTC") && number(of(&clients, "state", "waiting"), "wait_us") > 0);
    let servers = rows(&mut admin, "SHOW SERVERS").await;
    assert_eq!(servers.len(), 1);
    let server = &servers[0];
    assert_eq!((value(server, "state"), value(server, "remote_pid")), ("active", pid.as_str()));
    assert_eq!((value(server, "link"), value(active, "link")), (value(active, "ptr"), value(server, "ptr")));
    assert_eq!((value(server, "application_name"), value(server, "port")), ("holder", cluster.port().to_string().as_str()));
    let sockets = rows(&mut admin, "SHOW SOCKETS").await;
    assert_eq!(sockets.iter().filter(|row| value(row, "type") == "S" && value(row, "state") == "sv_active").count(), 1);
    let pools = rows(&mut admin, "SHOW POOLS").await;
    let app = of(&pools, "database", "app");
    let numbers = ["cl_active", "cl_waiting", "sv_active", "sv_idle"].map(|column| number(app, column));
    assert_eq!((numbers, value(app, "pool_mode")), ([2, 1, 1, 0], "transaction"));
    holder.query("COMMIT").await;
    assert_eq!(tags(&waiter.until_ready().await), "TDCZ");
    let servers = rows(&mut admin, "SHOW SERVERS").await;
    assert_eq!((value(&servers[0], "state"), value(&servers[0], "link")), ("idle", ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_name_clients_and_servers_one_after_the_other() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster)).await;
    let mut admin = console(&pool, "app").await;
    let first = number(&rows(&mut admin, "SHOW CLIENTS").await[0], "id");
    let mut client = pool.wire().await;
    client.value("SELECT 1").await;
    let mut ids: Vec<u64> = rows(&mut admin, "SHOW SOCKETS").await.iter().map(|row| number(row, "id")).collect();
    ids.sort_unstable();
    assert_eq!(ids, [first, first + 1, first + 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_longer_than_what_is_fetched_at_a_time_is_whole() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster)).await;
    let mut clients = Vec::new();
    for _ in 0..600 {
        clients.push(pool.wire().await);
    }
    let mut admin = console(&pool, "app").await;
    let mut ids: Vec<u64> = rows(&mut admin, "SHOW CLIENTS").await.iter().map(|row| number(row, "id")).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 601);
    assert_eq!(admin.query("KILL app").await[0].text(), "KILL");
    assert_eq!(rows(&mut admin, "SHOW CLIENTS").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn averages_are_taken_over_the_last_periods() {
    let _proof = proves(&["setting stats_period"]);
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster).set("postgres.stats_period", "1s")).await;
    let mut client = pool.wire().await;
    let mut admin = console(&pool, "app").await;
    let mut asked = 0;
    // Less than one a second is none.
    wait::until("queries in the averages", async || {
        for _ in 0..100 {
            client.value("SELECT 1").await;
        }
        asked += 100;
        let stats = rows(&mut admin, "SHOW STATS").await;
        (number(of(&stats, "database", "app"), "avg_query_count") > 0).then_some(())
    })
    .await;
    wait::until("the averages to be zero again", async || {
        let stats = rows(&mut admin, "SHOW STATS_AVERAGES").await;
        (number(of(&stats, "database", "app"), "query_count") == 0).then_some(())
    })
    .await;
    assert_eq!(number(of(&rows(&mut admin, "SHOW STATS").await, "database", "app"), "total_query_count"), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_are_those_of_the_traffic() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster)).await;
    let mut client = pool.wire().await;
    for _ in 0..5 {
        client.value("SELECT 1").await;
    }
    for statement in ["BEGIN", "SELECT pg_sleep(0.02)", "COMMIT"] {
        client.query(statement).await;
    }
    let parse = [frame::parse("s", "SELECT 1"), frame::bind("", "s", &[]), frame::execute("", 0), frame::sync()].concat();
    client.ask(&parse).await;
    let mut other = pool.wire().await;
    other.ask(&parse).await;
    let mut admin = console(&pool, "app").await;
    let totals = rows(&mut admin, "SHOW STATS_TOTALS").await;
    let app = of(&totals, "database", "app");
    let counted = ["xact_count", "query_count", "client_parse_count", "server_parse_count", "bind_count", "client_login_count"];
    assert_eq!(counted.map(|column| number(app, column)), [8, 10, 2, 1, 2, 2]);
    assert_eq!(number(app, "server_assignment_count"), 8, "one for each transaction");
    assert!(number(app, "xact_time") >= 20_000 && number(app, "bytes_received") > 100 && number(app, "bytes_sent") > 100);
    let ours = of(&totals, "database", "pgbouncer");
    assert_eq!((number(ours, "query_count"), number(ours, "client_login_count")), (1, 1));
    let stats = rows(&mut admin, "SHOW STATS").await;
    let app = of(&stats, "database", "app");
    assert_eq!((number(app, "total_query_count"), number(app, "total_client_parse_count")), (10, 2));
    assert!(number(app, "avg_xact_time") > 0 && number(app, "avg_xact_time") <= number(app, "total_xact_time"));
    let all = rows(&mut admin, "SHOW TOTALS").await;
    assert_eq!(number(of(&all, "name", "total_query_count"), "value"), 10 + 3);
    let lists = rows(&mut admin, "SHOW LISTS").await;
    let count = |name: &str| number(of(&lists, "list", name), "items");
    assert_eq!((count("databases"), count("pools"), count("used_clients"), count("used_servers")), (2, 2, 3, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn drivers_prepare_their_commands() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster)).await;
    let driver = pool.try_client("app", "pgbouncer", "").await.expect("the console takes drivers");
    // tokio-postgres wants all values in binary.
    let row = driver.query_one("SHOW VERSION", &[]).await.expect("a row");
    assert!(row.get::<_, &str>("version").starts_with("PgBouncer 1."));
    let pools = driver.query("SHOW POOLS", &[]).await.expect("rows");
    assert_eq!((pools[0].get::<_, &str>("database"), pools[0].get::<_, i32>("cl_active")), ("pgbouncer", 1));
    assert_eq!(pools[0].get::<_, Option<&str>>("load_balance_hosts"), None);
    assert!(driver.query("SHOW nothing", &[]).await.expect_err("no such list").to_string().contains("db error"));
    driver.execute("SET client_encoding = 'UTF8'", &[]).await.expect("it is ignored");
    assert_eq!(driver.query("SHOW STATE", &[]).await.expect("it goes on after an error").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_commands_are_told_so_and_harm_nobody() {
    let _proof = proves(&["command SHOW client_encoding"]);
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster)).await;
    let mut admin = console(&pool, "app").await;
    for (command, message) in [
        ("nonsense", "invalid command 'nonsense', use SHOW HELP;"),
        ("", "invalid command '', use SHOW HELP;"),
        (";", "invalid command ';', use SHOW HELP;"),
        ("SHOW POOLS; SHOW POOLS", "invalid command 'SHOW POOLS; SHOW POOLS', use SHOW HELP;"),
        ("PAUSE nowhere", "no such database: nowhere"),
        ("PAUSE pgbouncer", "cannot pause admin db: pgbouncer"),
        ("RESUME", "pooler is not paused/suspended"),
        ("RESUME app", "database app is not paused"),
        ("DISABLE", "a database is required"),
        ("KILL_CLIENT x", "invalid client pointer supplied"),
        ("KILL_CLIENT 999999", "client not found"),
        ("SET no_such_setting = 1", "SET failed"),
    ] {
        let answer = admin.query(command).await;
        assert_eq!(tags(&answer), "EZ", "{command}");
        assert_eq!(answer[0].field(b'M').unwrap(), message, "{command}");
    }
    assert_eq!((admin.value("SHOW timezone").await, admin.value("SHOW client_encoding").await), ("GMT".into(), "UTF-8".into()));
    let ignored = admin.query("SET extra_float_digits = 3").await;
    assert_eq!((tags(&ignored).as_str(), ignored[0].field(b'M').unwrap().as_str()), ("NCZ", "SET ignored"));
    admin.send(&frame::message(b'F', b"\0\0\0\0")).await;
    let last = admin.until_closed().await;
    assert_eq!(last[0].field(b'S').unwrap(), "FATAL");
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_comes_as_the_own_user_over_the_unix_socket() {
    let cluster = Cluster::start().await;
    let directory = place::directory("console");
    let port = place::free_port();
    let listen = vec![format!("127.0.0.1:{port}"), format!("unix:{}", directory.display())];
    let settings = settings(&cluster).set("postgres.auth_type", "scram-sha-256").set("postgres.listen", listen);
    let _pool = Pooler::start(settings).await;
    let run = async |user: &str, command: &str| {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-A", "-t", "-h"]).arg(&directory).args(["-p", &port.to_string(), "-U", user, "-c", command, "pgbouncer"]);
        psql.env("PGPASSWORD", "wrong").stdin(Stdio::null()).kill_on_drop(true);
        let output = wait::soon("psql", psql.output()).await.expect("psql is installed");
        (output.status.success(), format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
    };
    let (good, text) = run("pgbouncer", "SHOW VERSION").await;
    assert!(good && text.starts_with("PgBouncer 1."), "{text}");
    let (good, text) = run("pgbouncer", "SHOW HELP").await;
    assert!(good && text.contains("NOTICE:  Console usage"), "{text}");
    let (good, text) = run("pgbouncer", "SHOW CLIENTS").await;
    assert!(good && text.contains(&format!("|unix|{port}|unix|{port}|")), "{text}");
    let (good, text) = run("app", "SHOW VERSION").await;
    assert!(!good && text.contains("password"), "{text}");
}
