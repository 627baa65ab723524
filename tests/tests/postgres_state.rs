//! What one client sets follows it and nobody else, kind by kind: two clients, one server connection.

use std::time::Duration;

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cluster::PASSWORD;
use sidepool_tests::postgres::wire::{first_column, first_error};
use sidepool_tests::postgres::{Cluster, Wire, frame};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

/// Roles to become, a function that sets what its caller cannot see, and a superuser.
const SETUP: &str = "CREATE ROLE role_a; CREATE ROLE role_b; GRANT role_a, role_b TO app;
    CREATE ROLE boss SUPERUSER LOGIN PASSWORD 'app-secret-0815'; CREATE ROLE clerk LOGIN;
    CREATE TABLE rows (tenant text); INSERT INTO rows VALUES ('t1'), ('t2');
    ALTER TABLE rows ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON rows USING (tenant = current_setting('app.tenant_id', true));
    GRANT ALL ON rows TO PUBLIC;
    CREATE FUNCTION set_hidden(name text, value text) RETURNS text LANGUAGE sql AS 'SELECT set_config(name, value, false)';
    CREATE PROCEDURE set_secretly(value text) LANGUAGE plpgsql AS $$ BEGIN EXECUTE format('SET work_mem = %L', value); END $$";

async fn setup() -> (Cluster, Settings) {
    let cluster = Cluster::start().await;
    cluster.sql(SETUP).await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 1).set("postgres.users.boss.password", PASSWORD);
    (cluster, settings)
}

async fn events(pool: &Pooler, event: &str) -> f64 {
    pool.scrape().await.sum("sidepool_session_state_total", &[("event", event)])
}

async fn run(wire: &mut Wire, statements: &[&str]) {
    for sql in statements {
        let messages = wire.query(sql).await;
        assert_eq!(first_error(&messages).map(|error| error.field(b'M')), None, "{sql}");
    }
}

/// A client runs the statements and then sees the value; another one never sees anything but the other value, and neither loses its own.
async fn follows(pool: &Pooler, statements: &[&str], question: &str, own: &str, others: &str) {
    let (mut one, mut other) = (pool.wire().await, pool.wire().await);
    assert_eq!(other.value(question).await, others, "before {statements:?}");
    run(&mut one, statements).await;
    for _ in 0..2 {
        assert_eq!(other.value(question).await, others, "{statements:?}: the other client");
        assert_eq!(one.value(question).await, own, "{statements:?}: the client itself");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_follow_the_client_that_set_them_however_it_did() {
    let (_cluster, settings) = setup().await;
    let pool = Pooler::start(settings).await;
    let work_mem = "SHOW work_mem";
    for statements in [
        &["SET work_mem = '7MB'"][..],
        &["SET SESSION work_mem TO '7MB'"],
        &["SELECT set_config('work_mem', '7MB', false)"],
        &["SELECT pg_catalog.set_config('work_mem'::text, '7MB'::text, false) FROM generate_series(1, 2)"],
        &["BEGIN", "SET work_mem = '7MB'", "COMMIT"],
        &["BEGIN", "SET work_mem = '7MB'", "SET LOCAL work_mem = '9MB'", "COMMIT"],
        &["SELECT 1; SET work_mem = '7MB'; SELECT 2"],
        &["BEGIN", "SAVEPOINT a", "SET work_mem = '7MB'", "SAVEPOINT b", "SET work_mem = '8MB'", "ROLLBACK TO b", "COMMIT"],
        &["DO $$ BEGIN SET work_mem = '7MB'; END $$"],
        &["CALL set_secretly('7MB')"],
        &["UPDATE pg_settings SET setting = '7MB' WHERE name = 'work_mem'"],
        &["PREPARE p AS SELECT set_config('work_mem', $1, false)", "EXECUTE p('7MB')"],
        &["SELECT set_config(name, '7MB', false) FROM pg_settings WHERE name = 'work_mem'"],
    ] {
        follows(&pool, statements, work_mem, "7MB", "4MB").await;
    }
    for statements in [
        &["BEGIN", "SET work_mem = '7MB'", "ROLLBACK"][..],
        &["BEGIN", "SET LOCAL work_mem = '7MB'", "COMMIT"],
        &["BEGIN", "SELECT set_config('work_mem', '7MB', true)", "COMMIT"],
        &["SET work_mem = '7MB'", "RESET work_mem"],
        &["SET work_mem = '7MB'", "SET work_mem TO DEFAULT"],
        &["SET work_mem = '7MB'", "RESET ALL"],
        &["SET work_mem = '7MB'", "DISCARD ALL"],
        &["BEGIN", "SAVEPOINT a", "SET work_mem = '7MB'", "ROLLBACK TO a", "COMMIT"],
    ] {
        follows(&pool, statements, work_mem, "4MB", "4MB").await;
    }
    follows(
        &pool,
        &["SET app.tenant_id = 'it''s \\ \"7\" é'"],
        "SELECT coalesce(current_setting('app.tenant_id', true), '')",
        "it's \\ \"7\" é",
        "",
    )
    .await;
    follows(
        &pool,
        &["SET search_path = '$user', \"Odd One\", public"],
        "SHOW search_path",
        "\"$user\", \"Odd One\", public",
        "\"$user\", public",
    )
    .await;
    follows(&pool, &["SET TIME ZONE 'Asia/Tokyo'"], "SHOW timezone", "Asia/Tokyo", "Etc/UTC").await;
    follows(&pool, &["SET default_transaction_read_only = on"], "SHOW default_transaction_read_only", "on", "off").await;
    let characteristics = &["SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE"];
    follows(&pool, characteristics, "SHOW default_transaction_isolation", "serializable", "read committed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_follow_the_client_that_took_them() {
    let (_cluster, settings) = setup().await;
    let pool = Pooler::start(settings).await;
    for statements in [
        &["SET ROLE role_a"][..],
        &["SET role = 'role_a'"],
        &["SELECT set_config('role', 'role_a', false)"],
        &["BEGIN", "SET ROLE role_a", "COMMIT"],
        &["SET ROLE role_b", "SET ROLE role_a"],
        &["SET ROLE role_a", "BEGIN", "SET ROLE role_b", "ROLLBACK"],
        &["DO $$ BEGIN SET ROLE role_a; END $$"],
        &["SET ROLE role_a", "RESET ALL"],
    ] {
        follows(&pool, statements, "SELECT current_user", "role_a", "app").await;
    }
    for statements in [
        &["SET ROLE role_a", "RESET ROLE"][..],
        &["SET ROLE role_a", "SET ROLE NONE"],
        &["SET ROLE role_a", "DISCARD ALL"],
        &["BEGIN", "SET ROLE role_a", "ROLLBACK"],
        &["BEGIN", "SET LOCAL ROLE role_a", "COMMIT"],
    ] {
        follows(&pool, statements, "SELECT current_user", "app", "app").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn session_authorization_role_and_a_superusers_settings_are_restored_in_an_order_that_works() {
    let (_cluster, settings) = setup().await;
    let pool = Pooler::start(settings).await;
    let wire = async || Wire::login(pool.postgres_port(), "boss", "app", PASSWORD).await;
    let (mut one, mut other, mut third) = (wire().await, wire().await, wire().await);
    run(&mut one, &["SET log_min_duration_statement = '7min'", "SET SESSION AUTHORIZATION app", "SET ROLE role_a"]).await;
    run(&mut third, &["SET ROLE role_b"]).await;
    let who = "SELECT session_user || ' ' || current_user || ' ' || current_setting('log_min_duration_statement')";
    for _ in 0..3 {
        assert_eq!(other.value(who).await, "boss boss -1");
        assert_eq!(one.value(who).await, "app role_a 7min");
        assert_eq!(third.value(who).await, "boss role_b -1");
    }
    run(&mut one, &["RESET SESSION AUTHORIZATION"]).await;
    assert_eq!(other.value(who).await, "boss boss -1");
    assert_eq!(one.value(who).await, "boss boss 7min");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_its_own_rows_and_no_others() {
    let (_cluster, settings) = setup().await;
    let pool = Pooler::start(settings).await;
    let rows = "SELECT coalesce(string_agg(tenant, ','), '') FROM rows";
    follows(&pool, &["SET app.tenant_id = 't1'"], rows, "t1", "").await;
    let (mut first, mut second) = (pool.wire().await, pool.wire().await);
    run(&mut first, &["SET app.tenant_id = 't1'"]).await;
    run(&mut second, &["SET app.tenant_id = 't2'"]).await;
    for _ in 0..3 {
        assert_eq!(first.value(rows).await, "t1");
        assert_eq!(second.value(rows).await, "t2");
    }
    run(&mut second, &["RESET app.tenant_id"]).await;
    assert_eq!((first.value(rows).await, second.value(rows).await), ("t1".into(), String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_among_the_values_of_a_prepared_statement_are_found() {
    let (_cluster, settings) = setup().await;
    let pool = Pooler::start(settings).await;
    let (mut one, mut other) = (pool.wire().await, pool.wire().await);
    let set = |name: &str, parse: bool, values: &[&str]| {
        let parse = if parse { frame::parse(name, "SELECT set_config($1, $2, $3::text::bool)") } else { Vec::new() };
        [parse, frame::bind("", name, values), frame::execute("", 0), frame::sync()].concat()
    };
    for (round, name) in ["", "named"].into_iter().enumerate() {
        let (first, second) = (format!("a{round}"), format!("b{round}"));
        assert_eq!(first_column(&one.ask(&set(name, true, &["app.tenant_id", &first, "false"])).await), [&*first]);
        assert_eq!(other.value("SELECT coalesce(current_setting('app.tenant_id', true), '')").await, "");
        assert_eq!(one.value("SHOW app.tenant_id").await, first);
        // The statement is known, and bound again.
        assert_eq!(first_column(&one.ask(&set(name, name.is_empty(), &["app.tenant_id", &second, "false"])).await), [&*second]);
        assert_eq!(other.value("SELECT coalesce(current_setting('app.tenant_id', true), '')").await, "");
        assert_eq!(one.value("SHOW app.tenant_id").await, second);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_leads_back_to_what_the_client_began_with() {
    let (_cluster, settings) = setup().await;
    let pool = Pooler::start(settings).await;
    let parameters = [
        ("user", "app"),
        ("database", "app"),
        ("application_name", "mine"),
        ("timezone", "Asia/Tokyo"),
        ("options", "-c work_mem=6MB -c app.tenant_id=t9"),
    ];
    let mut one = Wire::try_login(pool.postgres_port(), &parameters, PASSWORD).await.expect("a login");
    let mut other = pool.wire().await;
    let all = "SELECT concat_ws(' ', current_setting('application_name'), current_setting('timezone'), current_setting('work_mem'), \
               current_setting('app.tenant_id', true))";
    let start = "mine Asia/Tokyo 6MB t9";
    assert_eq!(one.value(all).await, start);
    let others = other.value(all).await;
    assert!(others.contains("4MB") && !others.contains("Tokyo"), "{others}");
    let change = "SET application_name = 'x'; SET timezone = 'Etc/GMT-1'; SET work_mem = '1MB'; SET app.tenant_id = 't1'";
    let single = "RESET application_name; RESET timezone; RESET work_mem; RESET app.tenant_id";
    for back in
        [single, "RESET ALL", "DISCARD ALL", "SET application_name TO DEFAULT; SET timezone = DEFAULT; RESET work_mem; RESET app.tenant_id"]
    {
        run(&mut one, &[change]).await;
        assert_eq!(other.value(all).await, others);
        assert_eq!(one.value(all).await, "x Etc/GMT-1 1MB t1");
        run(&mut one, &[back]).await;
        assert_eq!(other.value(all).await, others, "{back}");
        assert_eq!(one.value(all).await, start, "{back}");
    }
    // What fails behind it, before anybody has looked, takes nothing of it back.
    let default = others.split(' ').nth(1).expect("a time zone");
    for (back, zone) in [("RESET ALL", "Etc/GMT-1"), ("RESET timezone", "Etc/GMT-1"), ("RESET ALL", default), ("RESET timezone", default)] {
        run(&mut one, &[&format!("SET timezone = '{zone}'")]).await;
        one.send(&[frame::query(back), frame::query("SELECT 1 / 0")].concat()).await;
        let failed = [first_error(&one.until_ready().await).is_some(), first_error(&one.until_ready().await).is_some()];
        assert_eq!(failed, [false, true]);
        assert_eq!(one.value(all).await, start, "{back}, and an error");
    }
    run(&mut one, &[&format!("SET timezone = '{default}'"), "BEGIN", "RESET ALL", "ROLLBACK"]).await;
    assert_eq!(one.value("SHOW timezone").await, default, "what is rolled back has not happened");
    run(&mut one, &["RESET timezone"]).await;
    run(&mut one, &["BEGIN", "RESET ALL", "ROLLBACK"]).await;
    assert_eq!((other.value(all).await, one.value(all).await), (others, start.to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_that_hide_changes_are_listed_or_asked_after_always() {
    let (_cluster, settings) = setup().await;
    let listed = settings.clone().set("postgres.session_state_functions", vec!["set_hidden".to_owned()]);
    for settings in
        [listed, settings.set("postgres.session_state", "always").set("postgres.session_state_names", vec!["app.tenant_id".to_owned()])]
    {
        let pool = Pooler::start(settings).await;
        follows(&pool, &["SELECT set_hidden('work_mem', '7MB')"], "SHOW work_mem", "7MB", "4MB").await;
        follows(&pool, &["SELECT set_hidden('role', 'role_a')"], "SELECT current_user", "role_a", "app").await;
        let tenant = "SELECT coalesce(current_setting('app.tenant_id', true), '')";
        follows(&pool, &["SELECT set_hidden('app.tenant_id', 't1')"], tenant, "t1", "").await;
        // A name that nobody has ever said does not follow, but it does not stay either.
        let nobodys = "SELECT coalesce(current_setting('app.' || 'unheard_of', true), '')";
        follows(&pool, &["SELECT set_hidden('app.' || 'unheard_of', 'x')"], nobodys, "", "").await;
        assert_eq!(events(&pool, "lost").await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn switched_off_it_is_as_with_pgbouncer() {
    let (_cluster, settings) = setup().await;
    let pool = Pooler::start(settings.set("postgres.session_state", "off")).await;
    let (mut one, mut other) = (pool.wire().await, pool.wire().await);
    run(&mut one, &["SET work_mem = '7MB'", "SET ROLE role_a", "SET application_name = 'mine'"]).await;
    assert_eq!(other.value("SELECT current_user || ' ' || current_setting('work_mem')").await, "role_a 7MB");
    assert_eq!(other.value("SHOW application_name").await, "");
    assert_eq!(one.value("SHOW application_name").await, "mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_connect_query_sets_is_there_for_everybody_whatever_clients_reset() {
    let (_cluster, settings) = setup().await;
    let pool = Pooler::start(settings.set("postgres.databases.app.connect_query", "SET work_mem = '3MB'; SET app.region = 'eu'")).await;
    let all = "SELECT current_setting('work_mem') || ' ' || current_setting('app.region', true)";
    for statements in
        [&["SET work_mem = '7MB'"][..], &["SET work_mem = '7MB'", "SET ROLE role_a"], &["DO $$ BEGIN SET work_mem = '7MB'; END $$"]]
    {
        follows(&pool, statements, all, "7MB eu", "3MB eu").await;
    }
    for statements in [&["RESET ALL"][..], &["DISCARD ALL"], &["RESET work_mem"]] {
        let (mut one, mut other) = (pool.wire().await, pool.wire().await);
        run(&mut one, statements).await;
        assert_eq!(other.value(all).await, "3MB eu", "{statements:?}");
        assert!(first_error(&one.query(all).await).is_none(), "{statements:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_can_be_carried_is_refused_and_not_leaked() {
    let (_cluster, settings) = setup().await;
    let pool = Pooler::start(settings).await;
    let (mut many, mut long, mut other) = (pool.wire().await, pool.wire().await, pool.wire().await);
    for index in 0..100 {
        many.try_send(&frame::query(&format!("SET app.p{index} = 'x'"))).await.ok();
        let answer = many.until_ready().await;
        if let Some(error) = first_error(&answer) {
            assert!(index > 40 && error.field(b'M').is_some_and(|message| message.contains("64 session parameters")), "{index}: {error:?}");
            break;
        }
        assert!(index < 99, "64 parameters are the most");
    }
    run(&mut long, &[&format!("SET app.long = '{}'", "x".repeat(9_000))]).await;
    assert_eq!(
        other.value("SELECT coalesce(current_setting('app.long', true), '') || coalesce(current_setting('app.p1', true), '')").await,
        ""
    );
    assert_eq!(long.value("SELECT length(current_setting('app.long'))").await, "9000");
    long.send(&frame::query(&format!("SET app.long = '{}'", "x".repeat(11_000)))).await;
    let told = long.until_closed().await;
    assert!(first_error(&told).and_then(|error| error.field(b'H')).is_some(), "{told:?}");
    assert_eq!(other.value("SELECT coalesce(current_setting('app.long', true), '')").await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_cannot_be_taken_again_closes_the_client_with_the_reason() {
    let (cluster, settings) = setup().await;
    let pool = Pooler::start(settings).await;
    let (mut one, mut other) = (pool.wire().await, pool.wire().await);
    run(&mut one, &["SET ROLE role_a"]).await;
    assert_eq!(other.value("SELECT current_user").await, "app");
    cluster.sql("REVOKE role_a FROM app").await;
    let told = one.query("SELECT current_user").await;
    let error = first_error(&told).expect("an error");
    assert!(error.field(b'M').is_some_and(|message| message.contains("role_a")), "{error:?}");
    assert!(first_column(&told).is_empty());
    assert_eq!(other.value("SELECT current_user").await, "app");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sets_nothing_is_never_asked_after() {
    let (_cluster, settings) = setup().await;
    let pool = Pooler::start(settings).await;
    let mut wire = pool.wire().await;
    for sql in [
        "SELECT 1",
        "BEGIN; SET LOCAL work_mem = '1MB'; COMMIT",
        "SELECT set_config('app.tenant_id', 't1', true)",
        "BEGIN; SELECT 2; ROLLBACK",
    ] {
        run(&mut wire, &[sql]).await;
        let request = [frame::parse("", sql), frame::bind("", "", &[]), frame::execute("", 0), frame::sync()].concat();
        if !sql.contains(';') {
            wire.ask(&request).await;
        }
    }
    assert_eq!(events(&pool, "asked").await, 0.0);
    run(&mut wire, &["SET work_mem = '1MB'"]).await;
    run(&mut pool.wire().await, &["SELECT 1"]).await;
    assert_eq!(events(&pool, "asked").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_for_random_numbers_is_nobody_elses() {
    let (_cluster, settings) = setup().await;
    let pool = Pooler::start(settings).await;
    let (mut one, mut other) = (pool.wire().await, pool.wire().await);
    let mut drawn = Vec::new();
    for seed in ["SELECT setseed(0.5)", "SET SEED TO 0.5", "SELECT setseed(0.5) FROM generate_series(1, 2)"] {
        run(&mut one, &[seed]).await;
        drawn.push(other.value("SELECT random()").await);
    }
    drawn.sort();
    drawn.dedup();
    assert_eq!(drawn.len(), 3, "{drawn:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn new_defaults_of_a_role_are_those_of_all_connections() {
    let (_cluster, settings) = setup().await;
    let pool = Pooler::start(settings.set("postgres.default_pool_size", 3)).await;
    let mut clients = [pool.wire().await, pool.wire().await, pool.wire().await];
    for client in &mut clients {
        run(client, &["BEGIN", "SELECT 1"]).await;
    }
    for client in &mut clients {
        run(client, &["COMMIT"]).await;
    }
    let mut boss = Wire::login(pool.postgres_port(), "boss", "app", PASSWORD).await;
    run(&mut boss, &["ALTER ROLE app SET work_mem = '5MB'"]).await;
    wait::until("every connection to be a new one", async || {
        let mut seen = Vec::new();
        for client in &mut clients {
            run(client, &["BEGIN"]).await;
            seen.push(client.value("SHOW work_mem").await);
        }
        for client in &mut clients {
            run(client, &["COMMIT"]).await;
        }
        (seen == ["5MB"; 3]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_in_pieces_calls_by_number_and_unnamed_statements_of_before_hide_nothing() {
    let (_cluster, settings) = setup().await;
    for capacity in [0, 200] {
        let pool = Pooler::start(settings.clone().set("postgres.max_prepared_statements", capacity)).await;
        let (mut one, mut other) = (pool.wire().await, pool.wire().await);
        let mut check = async |one: &mut Wire, what: &str| {
            assert_eq!(other.value("SHOW work_mem").await, "4MB", "{capacity} {what}");
            assert_eq!(one.value("SHOW work_mem").await, "7MB", "{capacity} {what}");
            run(one, &["RESET ALL"]).await;
        };
        let long = format!("SELECT '{}' FROM set_config('work_mem', '7MB', false)", "x".repeat(300_000));
        assert!(first_error(&one.query(&long).await).is_none());
        check(&mut one, "a long text").await;
        // Word by word.
        let request = frame::query("SET work_mem = '7MB'");
        for byte in request.chunks(3) {
            one.send(byte).await;
        }
        one.until_ready().await;
        check(&mut one, "in pieces").await;
        // set_config by its number, with three texts.
        let mut body = 2078_i32.to_be_bytes().to_vec();
        body.extend_from_slice(&[0, 0, 0, 3]);
        for value in ["work_mem", "7MB", "false"] {
            body.extend_from_slice(&i32::try_from(value.len()).expect("short").to_be_bytes());
            body.extend_from_slice(value.as_bytes());
        }
        body.extend_from_slice(&[0, 0]);
        assert!(first_error(&one.ask(&frame::message(b'F', &body)).await).is_none());
        check(&mut one, "by number").await;
        if capacity > 0 {
            // Parsed in one transaction, run in another.
            one.ask(&[frame::parse("", "SET work_mem = '7MB'"), frame::sync()].concat()).await;
            assert!(first_error(&one.ask(&[frame::bind("", "", &[]), frame::execute("", 0), frame::sync()].concat()).await).is_none());
            check(&mut one, "parsed before").await;
        }
        // Without a Sync until later, and pipelined with what follows.
        let batch = [frame::parse("", "SET work_mem = '7MB'"), frame::bind("", "", &[]), frame::execute("", 0)].concat();
        one.send(&batch).await;
        one.send(&[frame::flush(), frame::sync(), frame::query("SELECT 1"), frame::query("SELECT 2")].concat()).await;
        for _ in 0..3 {
            one.until_ready().await;
        }
        check(&mut one, "pipelined").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_is_cancelled_is_put_again_and_one_without_an_answer_closes_the_client() {
    let (_cluster, settings) = setup().await;
    let pool = Pooler::start(settings).await;
    let mut other = pool.wire().await;
    // Cancels that come too late meet the question after the state, and do no harm.
    for round in 0..40 {
        let mut one = pool.wire().await;
        let (process, key) = one.cancel_key.clone().expect("a key");
        one.send(&frame::query(&format!("SET app.tenant_id = 't{round}'"))).await;
        let mut canceller = Wire::connect(pool.postgres_port()).await;
        canceller.send(&frame::cancel(process, &key)).await;
        let cancelled = first_error(&one.until_ready().await).is_some();
        assert_eq!(other.value("SELECT coalesce(current_setting('app.tenant_id', true), '')").await, "");
        let seen = one.value("SELECT coalesce(current_setting('app.tenant_id', true), '')").await;
        assert_eq!(seen, if cancelled { String::new() } else { format!("t{round}") });
    }
    assert_eq!(events(&pool, "lost").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_finds_what_nothing_hinted_at_counts_it_and_takes_it_back() {
    let (cluster, settings) = setup().await;
    let names = vec!["app.tenant_id".to_owned()];
    let audited = settings.set("postgres.session_state_audit", "1ms").set("postgres.session_state_names", names);
    let pool = Pooler::start(audited.clone()).await;
    let (mut one, mut other) = (pool.wire().await, pool.wire().await);
    let all = "SELECT current_setting('work_mem') || ' ' || current_user || ' ' || coalesce(current_setting('app.tenant_id', true), '')";
    let mut surprises = 0.0;
    for hidden in ["set_hidden('work_mem', '7MB')", "set_hidden('role', 'role_a')", "set_hidden('app.tenant_id', 't1')"] {
        assert_eq!(other.value(all).await, "4MB app ");
        // The clock that is looked at is that of the last lease.
        tokio::time::sleep(Duration::from_millis(5)).await;
        run(&mut one, &[&format!("SELECT {hidden}")]).await;
        assert_eq!(other.value(all).await, "4MB app ", "{hidden}");
        surprises += 1.0;
        assert_eq!(events(&pool, "surprise").await, surprises, "{hidden}");
    }
    drop((one, other, pool));
    // What every session of a pool begins with is no surprise.
    cluster.sql("ALTER ROLE app SET role = 'role_b'").await;
    let usual = audited.set("postgres.databases.app.connect_query", "SET work_mem = '3MB'; SET app.tenant_id = 't2'");
    let pool = Pooler::start(usual).await;
    let (mut one, mut other) = (pool.wire().await, pool.wire().await);
    for _ in 0..5 {
        assert_eq!((one.value(all).await, other.value(all).await), ("3MB role_b t2".into(), "3MB role_b t2".into()));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(events(&pool, "surprise").await, 0.0);
    assert!(events(&pool, "asked").await >= 1.0);
}
