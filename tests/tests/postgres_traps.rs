//! Traps that other poolers fell into, and the tests that keep us out of them. Those without a home elsewhere are here.
//!
//! | trap | test |
//! |---|---|
//! | 1. An error in the middle of a pipeline, and one answer too many | `postgres_traps.rs: each_batch_that_is_refused_is_answered_once_and_no_row_comes_late` |
//! | 2. A simple query behind an error without a Sync | `postgres_traps.rs: a_simple_query_behind_an_error_without_a_sync_is_skipped`, `postgres_protocol.rs: an_error_comes_without_a_sync_when_flushed` |
//! | 3. More clients than connections: nobody is served | `postgres_traps.rs: past_saturation_everybody_is_served`, `limits_pools.rs: a_burst_opens_connections_side_by_side` |
//! | 3. More connections than the limit | `workers.rs: the_limit_is_one_for_all`, `limits_connections.rs: the_limit_holds_under_load_on_two_workers_and_nobody_is_forgotten` |
//! | 3. A connection handed to who has just left | `../../proxy/src/pool/tests/handle.rs: an_acquire_may_be_dropped_at_any_point` |
//! | 4. A wake-up that is lost | `../../proxy/src/pool/tests/explorer.rs: a_planted_lost_wake_up_is_found` |
//! | 5. Both sides write and nobody reads | `postgres_traps.rs: both_sides_may_write_much_at_the_same_time` |
//! | 6. A cancel that hits the next user | `postgres_cancel.rs: a_late_cancel_does_not_hit_the_next_user_of_the_connection`, `restart_cancel.rs: a_cancel_that_waited_does_not_hit_the_next_transaction` |
//! | 6. A storm of cancels | `postgres_attacks.rs: a_storm_of_cancels_hits_those_it_is_meant_for_and_no_session_ends` |
//! | 7. A connection that died while it was idle | `postgres_wounds.rs: a_connection_that_died_idle_costs_nobody_anything`, `faults.rs: an_idle_connection_that_died_is_not_noticed` |
//! | 8. A Parse that fails leaves a mark | `postgres_wounds.rs: a_parse_that_fails_leaves_its_name_free` |
//! | 8. A statement is thrown out while its Bind is on the way | `postgres_traps.rs: a_batch_may_use_more_statements_than_are_kept` |
//! | 8. The unnamed statement throws itself out | `postgres_attacks.rs: nobody_runs_the_unnamed_statement_of_somebody_else` |
//! | 8. Closing a portal closes a statement | `postgres_traps.rs: closing_a_portal_closes_no_statement` |
//! | 8. A cached plan must not change its result type | `postgres_wounds.rs: a_plan_that_ddl_made_useless_is_thrown_away` |
//! | 8. One text, two search paths or roles | `postgres_prepared_ddl.rs: a_search_path_decides_what_a_text_means`, `postgres_traps.rs: a_role_decides_what_a_text_means` |
//! | 8. ParseComplete of what was skipped | `../../proxy/src/session/postgres/rewrite_tests.rs: what_never_ran_is_taken_back_in_reverse` |
//! | 8. Flush without Sync | `postgres_protocol.rs: flush_brings_the_answers_before_the_sync` |
//! | 8. A round trip for each statement | `postgres_traps.rs: a_statement_that_is_known_costs_no_parse` |
//! | 8. DISCARD ALL and DEALLOCATE ALL among other commands | `postgres_prepared_parse.rs: within_a_batch_each_command_sees_those_before_it`, `postgres_prepared_sql.rs: everything_is_answered_as_by_the_server` |
//! | 9. A portal that is open over a Flush | `postgres_traps.rs: an_open_portal_keeps_its_connection` |
//! | 10. A client that dies in the middle of a message | `postgres_traps.rs: who_leaves_in_the_middle_of_a_message_leaves_nothing_of_it_behind` |
//! | 10. Lengths that are negative or absurd | `postgres_traps.rs: lengths_that_no_message_has_end_this_client_alone` |
//! | 10. Long messages are kept in memory | `postgres_large.rs: a_row_of_200_megabytes` |
//! | 11. BEGIN is answered, and then there is no server | `postgres_wounds.rs: a_begin_whose_connection_is_lost_goes_to_another_one` (BEGIN is never answered here) |
//! | 12. Messages that nobody thought of | `postgres_traps.rs: a_function_call_among_batches_is_answered_in_its_place`, `postgres_protocol.rs: an_unknown_message_ends_this_client_alone` |
//! | 13. The server reports something else after an upgrade | `postgres_traps.rs: a_server_that_comes_back_as_another_version_is_shown_as_that` |
//! | 13. SET and RESET that nobody needs | `postgres_traps.rs: a_server_that_comes_back_as_another_version_is_shown_as_that`, `postgres_state.rs: who_sets_nothing_is_never_asked_after` |
//! | 14. An error that sends people to the wrong place | `refusals.rs: a_long_wait_ends_with_an_error_that_says_how_long` |
//! | 15. No descriptors left | `postgres_traps.rs: without_descriptors_nobody_new_comes_in_and_nothing_spins` |
//! | 16. Long messages under TLS | `postgres_client_tls.rs: large_messages_pass_both_ways` |
//! | 17. Metrics of what is gone | `metrics.rs: a_pool_that_goes_takes_its_series_along`, `limits_pools.rs: databases_that_clients_named_are_forgotten_when_nobody_uses_them` |
//! | 18. Names that come to lead elsewhere | `hosts_dns.rs: a_name_that_moves_takes_its_connections_along` |

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cluster::PASSWORD;
use sidepool_tests::postgres::frame::{bind, close, execute, flush, function_call, message, parse, query, startup, sync};
use sidepool_tests::postgres::wire::{first_column, first_error, tags};
use sidepool_tests::postgres::{Cluster, Message, Wire};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// One connection for all.
async fn narrow(cluster: &Cluster, wait: &str) -> Pooler {
    let settings = Settings::postgres(cluster).set("postgres.default_pool_size", 1).set("postgres.query_wait_timeout", wait);
    Pooler::start(settings).await
}

fn batch(sql: &str) -> Vec<u8> {
    [parse("", sql), bind("", "", &[]), execute("", 0), sync()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_batch_that_is_refused_is_answered_once_and_no_row_comes_late() {
    let cluster = Cluster::start().await;
    let mut pool = narrow(&cluster, "60s").await;
    let (mut holder, mut client) = (pool.wire().await, pool.wire().await);
    holder.query("BEGIN").await;
    let patient = pool.settings().clone();
    pool.reload(patient.clone().set("postgres.query_wait_timeout", "300ms")).await;
    client.send(&[batch("SELECT 'one'"), batch("SELECT 'two'"), query("SELECT 'three'")].concat()).await;
    for _ in 0..3 {
        let answer = client.until_ready().await;
        assert_eq!(tags(&answer), "EZ");
        assert_eq!(answer[0].field(b'C').as_deref(), Some("53300"));
    }
    // Only those three are to wait in vain.
    pool.reload(patient).await;
    holder.query("COMMIT").await;
    assert_eq!(client.value("SELECT 'four'").await, "four");
    assert!(client.is_silent().await, "nothing of what was refused comes after all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_call_among_batches_is_answered_in_its_place() {
    let cluster = Cluster::start().await;
    let pool = narrow(&cluster, "10s").await;
    let mut direct = Wire::login(cluster.port(), "open", "app", "").await;
    let mut pooled = pool.wire().await;
    let messages = [batch("SELECT 'before'"), function_call(1317, &["four"]), batch("SELECT 'after'")].concat();
    for _ in 0..2 {
        let (there, here) = (three(&mut direct, &messages).await, three(&mut pooled, &messages).await);
        assert_eq!(there, here);
    }
    // An error in front of it: the server skips to the Sync, which comes behind it.
    let messages = [parse("", "SELEKT"), function_call(1317, &["four"]), sync(), batch("SELECT 'after'"), query("SELECT 1")].concat();
    let (there, here) = (three(&mut direct, &messages).await, three(&mut pooled, &messages).await);
    assert_eq!(there.iter().map(|message| message.tag).collect::<Vec<_>>(), here.iter().map(|message| message.tag).collect::<Vec<_>>());
}

/// What is answered up to the third ReadyForQuery.
async fn three(wire: &mut Wire, messages: &[u8]) -> Vec<Message> {
    wire.send(messages).await;
    let mut answers = wire.until_ready().await;
    answers.extend(wire.until_ready().await);
    answers.extend(wire.until_ready().await);
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_in_the_middle_of_a_message_leaves_nothing_of_it_behind() {
    let cluster = Cluster::start().await;
    let pool = narrow(&cluster, "10s").await;
    let long = format!("SELECT '{}'", "x".repeat(100_000));
    let begun = [parse("", "SELECT $1::text"), bind("", "", &[&"y".repeat(100_000)])].concat();
    let halves = [query(&long)[..60_000].to_vec(), query(&long)[..10].to_vec(), begun[..50_000].to_vec(), query("SELECT 1")[..3].to_vec()];
    for half in halves {
        let mut leaver = pool.wire().await;
        leaver.send(&half).await;
        drop(leaver);
        let mut other = pool.wire().await;
        assert_eq!(other.value("SELECT 'mine'").await, "mine");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_while_the_server_is_awaited_is_not_waited_for() {
    let cluster = Cluster::start().await;
    // Where nobody listens, which is tried again and again.
    let settings = Settings::postgres(&cluster).set("postgres.databases.app.port", 1).set("postgres.client_login_timeout", "60s");
    let pool = Pooler::start(settings).await;
    let mut client = Wire::connect(pool.postgres_port()).await;
    client.send(&startup(&[("user", "app"), ("database", "app")])).await;
    pool.metrics_show("the client waiting", |now| now.sum("sidepool_pool_client_connections", &[("state", "waiting")]) >= 1.0).await;
    drop(client);
    pool.metrics_show("nobody waiting", |now| now.sum("sidepool_pool_client_connections", &[("state", "waiting")]) < 1.0).await;
    pool.process().log().line_with("client left during login").await;
}

#[test]
fn the_table_names_tests_that_exist() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let own = std::fs::read_to_string(folder.join("postgres_traps.rs")).expect("this file");
    let mut named = 0;
    for cell in own.lines().take_while(|line| line.starts_with("//!")).flat_map(|line| line.split('`').skip(1).step_by(2)) {
        let (file, test) = cell.split_once(": ").expect("a file and a test");
        let text = std::fs::read_to_string(folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(text.contains(&format!("fn {test}(")), "{test} is not in {file}");
        named += 1;
    }
    assert!(named > 30, "{named}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_simple_query_behind_an_error_without_a_sync_is_skipped() {
    let cluster = Cluster::start().await;
    let pool = narrow(&cluster, "10s").await;
    let mut direct = Wire::login(cluster.port(), "app", "app", PASSWORD).await;
    let mut pooled = pool.wire().await;
    // What a driver does that wraps a batch into savepoints.
    for failing in [parse("", "SELEKT"), [parse("", "SELECT 1 / 0"), bind("", "", &[]), execute("", 0)].concat(), bind("", "nobody", &[])] {
        for wire in [&mut direct, &mut pooled] {
            wire.query("BEGIN").await;
            let messages =
                [query("SAVEPOINT s"), failing.clone(), query("ROLLBACK TO SAVEPOINT s"), query("SELECT 'skipped'"), flush()].concat();
            assert_eq!(tags(&wire.ask(&messages).await), "CZ");
            while wire.read().await.expect("the error comes at once, and not only with the Sync").tag != b'E' {}
            assert!(wire.is_silent().await);
            let answer = wire.ask(&sync()).await;
            assert_eq!((tags(&answer), answer[0].text()), ("Z".to_owned(), "E".to_owned()));
            assert_eq!(tags(&wire.query("ROLLBACK TO SAVEPOINT s").await), "CZ");
            assert_eq!(wire.value("SELECT 'goes on'").await, "goes on");
            wire.query("COMMIT").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn past_saturation_everybody_is_served() {
    let cluster = Cluster::start().await;
    for connections in [1, 3] {
        let settings =
            Settings::postgres(&cluster).set("postgres.default_pool_size", connections).set("postgres.query_wait_timeout", "60s");
        let pool = Pooler::start(settings).await;
        let mut clients = JoinSet::new();
        for client in 0..60 {
            let mut wire = pool.wire().await;
            clients.spawn(async move {
                let mut longest = Duration::ZERO;
                for round in 0..20 {
                    let asked = Instant::now();
                    assert_eq!(wire.value(&format!("SELECT '{client}/{round}'")).await, format!("{client}/{round}"));
                    longest = longest.max(asked.elapsed());
                }
                longest
            });
        }
        while let Some(longest) = clients.join_next().await {
            let longest = longest.expect("everybody gets all answers");
            assert!(longest < Duration::from_secs(20), "with {connections} connections somebody waited for {longest:?}");
        }
        assert!(cluster.connections().await <= 4, "the limit holds");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_may_write_much_at_the_same_time() {
    const BATCHES: usize = 150;
    let cluster = Cluster::start().await;
    let pool = narrow(&cluster, "10s").await;
    let mut wire = pool.wire().await;
    let long = "y".repeat(200_000);
    let one = [parse("", "SELECT $1 || repeat('x', 200000)"), bind("", "", &[&long]), execute("", 0), sync()].concat();
    let (mut from, mut to) = wire.stream().split();
    let writes = async {
        for _ in 0..BATCHES {
            to.write_all(&one).await.expect("it takes everything in the end");
        }
    };
    let reads = async {
        let (mut rows, mut head) = (0, [0; 5]);
        let mut readies = 0;
        while readies < BATCHES {
            from.read_exact(&mut head).await.expect("an answer");
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize - 4;
            let mut body = vec![0; length];
            from.read_exact(&mut body).await.expect("all of it");
            rows += usize::from(head[0] == b'D' && length > 400_000);
            readies += usize::from(head[0] == b'Z');
        }
        rows
    };
    let (rows, ()) = wait::within(Duration::from_secs(120), "the end of both streams", async { tokio::join!(reads, writes) }).await;
    assert_eq!(rows, BATCHES);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_may_use_more_statements_than_are_kept() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 1).set("postgres.max_prepared_statements", 2);
    let pool = Pooler::start(settings).await;
    let mut wire = pool.wire().await;
    let names: Vec<String> = (0..6).map(|index| format!("s{index}")).collect();
    let parses: Vec<u8> = names.iter().flat_map(|name| parse(name, &format!("SELECT '{name}'"))).collect();
    wire.ask(&[parses, sync()].concat()).await;
    for _ in 0..3 {
        let runs = names.iter().chain(names.iter().rev()).flat_map(|name| [bind("", name, &[]), execute("", 0)].concat());
        let answer = wire.ask(&[runs.collect(), sync()].concat()).await;
        let expected: Vec<String> = names.iter().chain(names.iter().rev()).cloned().collect();
        assert_eq!(first_column(&answer), expected, "{:?}", first_error(&answer));
        // An error in the middle: what was to be thrown out, and what was to come, is known rightly all the same.
        wire.ask(&[bind("", "s3", &[]), execute("", 0), parse("", "SELEKT"), bind("", "s4", &[]), bind("", "s5", &[]), sync()].concat())
            .await;
        let kept: u32 = wire.value("SELECT count(*) FROM pg_prepared_statement()").await.parse().expect("a number");
        assert!(kept <= 2, "{kept}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_a_portal_closes_no_statement() {
    let cluster = Cluster::start().await;
    let pool = narrow(&cluster, "10s").await;
    let mut wire = pool.wire().await;
    wire.ask(&[parse("same", "SELECT 'still there'"), sync()].concat()).await;
    for _ in 0..2 {
        let answer = wire
            .ask(&[bind("same", "same", &[]), close(b'P', "same"), bind("same", "same", &[]), execute("same", 0), sync()].concat())
            .await;
        assert_eq!((tags(&answer), first_column(&answer)), ("232DCZ".to_owned(), vec!["still there".to_owned()]));
        // A portal that never was.
        assert_eq!(tags(&wire.ask(&[close(b'P', "same"), sync()].concat()).await), "3Z");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_decides_what_a_text_means() {
    let cluster = Cluster::start().await;
    cluster
        .sql(
            "CREATE ROLE one; CREATE ROLE two; GRANT one, two TO app; CREATE SCHEMA one AUTHORIZATION one; CREATE SCHEMA two AUTHORIZATION two; \
             CREATE TABLE one.t (v int); CREATE TABLE two.t (v text); INSERT INTO one.t VALUES (1); INSERT INTO two.t VALUES ('x'); \
             ALTER TABLE one.t OWNER TO one; ALTER TABLE two.t OWNER TO two",
        )
        .await;
    let pool = narrow(&cluster, "10s").await;
    let (mut one, mut two) = (pool.wire().await, pool.wire().await);
    one.query("SET ROLE one").await;
    two.query("SET ROLE two").await;
    for (wire, value) in [(&mut one, "1"), (&mut two, "x")] {
        let answer =
            wire.ask(&[parse("q", "SELECT v FROM t WHERE v = $1"), bind("", "q", &[value]), execute("", 0), sync()].concat()).await;
        assert_eq!(first_column(&answer), [value], "{:?}", first_error(&answer));
    }
    for (wire, value) in [(&mut one, "1"), (&mut two, "x")] {
        assert_eq!(first_column(&wire.ask(&[bind("", "q", &[value]), execute("", 0), sync()].concat()).await), [value]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_known_costs_no_parse() {
    let cluster = Cluster::start().await;
    let pool = narrow(&cluster, "10s").await;
    let mut clients = [pool.wire().await, pool.wire().await, pool.wire().await];
    let parses = async || pool.scrape().await.sum("sidepool_parses_total", &[("side", "server")]);
    let before = parses().await;
    for round in 0..10 {
        for wire in &mut clients {
            if round == 0 {
                assert_eq!(tags(&wire.ask(&[parse("s", "SELECT 1"), sync()].concat()).await), "1Z");
            }
            assert_eq!(tags(&wire.ask(&[bind("", "s", &[]), execute("", 0), sync()].concat()).await), "2DCZ");
        }
    }
    assert_eq!(parses().await - before, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_portal_keeps_its_connection() {
    let cluster = Cluster::start().await;
    let pool = narrow(&cluster, "30s").await;
    let (mut reader, mut other) = (pool.wire().await, pool.wire().await);
    reader.send(&[parse("", "SELECT generate_series(1, 5)"), bind("p", "", &[]), execute("p", 2), flush()].concat()).await;
    for tag in *b"12DDs" {
        assert_eq!(reader.read().await.map(|message| message.tag), Some(tag));
    }
    other.send(&query("SELECT 'in between'")).await;
    assert!(other.is_silent().await, "the only connection is not free");
    reader.send(&[execute("p", 2), flush()].concat()).await;
    for tag in *b"DDs" {
        assert_eq!(reader.read().await.map(|message| message.tag), Some(tag));
    }
    let answer = reader.ask(&[execute("p", 0), sync()].concat()).await;
    assert_eq!((tags(&answer), first_column(&answer)), ("DCZ".to_owned(), vec!["5".to_owned()]));
    assert_eq!(first_column(&other.until_ready().await), ["in between"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_that_no_message_has_end_this_client_alone() {
    let cluster = Cluster::start().await;
    let pool = narrow(&cluster, "10s").await;
    let mut other = pool.wire().await;
    for tag in *b"QPBdS" {
        for length in [-1, 0, 3, i32::MIN, i32::MAX, 0x4000_0004] {
            let mut wire = pool.wire().await;
            let bad = [&[tag][..], &length.to_be_bytes(), &[b'x'; 64]].concat();
            wire.send(&[query("SELECT 1"), bad].concat()).await;
            let answer = wire.until_closed().await;
            assert_eq!(first_error(&answer).and_then(|error| error.field(b'C')).as_deref(), Some("08P01"), "{length}");
            assert_eq!(other.value("SELECT 'unharmed'").await, "unharmed");
        }
    }
}

/// A server that lets everybody in, answers each query with nothing, tells the test of it, and goes away when told to. Each connection finds the next
/// version.
async fn aging_server(versions: [&'static str; 2]) -> (u16, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for connection in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            tokio::spawn(serve_as(stream, versions[usize::from(connection > 0)], tell.clone()));
        }
    });
    (port, told)
}

async fn serve_as(mut stream: TcpStream, version: &str, tell: mpsc::UnboundedSender<String>) -> std::io::Result<()> {
    let status = |name: &str, value: &str| message(b'S', format!("{name}\0{value}\0").as_bytes());
    let mut buffer = [0; 4096];
    let _ = stream.read(&mut buffer).await?;
    let reported = [status("server_version", version), status("client_encoding", "UTF8"), status("application_name", "app")];
    stream.write_all(&[message(b'R', &[0; 4]), reported.concat(), message(b'Z', b"I")].concat()).await?;
    loop {
        let read = stream.read(&mut buffer).await?;
        let said = String::from_utf8_lossy(&buffer[..read]).into_owned();
        if read == 0 || said.contains("go away") {
            return Ok(());
        }
        let _ = tell.send(said);
        stream.write_all(&[message(b'C', b"SELECT 0\0"), message(b'Z', b"I")].concat()).await?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_as_another_version_is_shown_as_that() {
    let (port, mut told) = aging_server(["15.1", "16.2"]).await;
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.databases.app.port", i64::from(port)).set("postgres.default_pool_size", 1);
    let pool = Pooler::start(settings).await;
    let (mut old, mut leaver) = (pool.wire().await, pool.wire().await);
    assert_eq!(old.parameters["server_version"], "15.1");
    for _ in 0..2 {
        old.query("SELECT 1").await;
        leaver.query("SELECT 1").await;
    }
    leaver.send(&query("go away")).await;
    leaver.until_closed().await;
    old.query("SELECT 2").await;
    assert_eq!(pool.wire().await.parameters["server_version"], "16.2");
    let mut queries = Vec::new();
    while let Ok(query) = told.try_recv() {
        queries.push(query);
    }
    let needless: Vec<&String> = queries.iter().filter(|said| !said.contains("SELECT")).collect();
    assert!(queries.len() >= 4 && needless.is_empty(), "clients that are all the same need no SET: {needless:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_nobody_new_comes_in_and_nothing_spins() {
    let cluster = Cluster::start().await;
    let pool = narrow(&cluster, "10s").await;
    let mut inside = pool.wire().await;
    assert_eq!(inside.value("SELECT 1").await, "1");
    let limit = pool.process().open_files() + 3;
    let pid = pool.process().id().to_string();
    let set = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={limit}:")]).status().expect("prlimit is installed");
    assert!(set.success());
    let mut knocking = Vec::new();
    for _ in 0..20 {
        knocking.push(TcpStream::connect(("127.0.0.1", pool.postgres_port())).await.expect("the kernel takes it"));
    }
    assert_eq!(inside.value("SELECT 'unharmed'").await, "unharmed");
    let before = pool.process().cpu_seconds();
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(2) {
        assert_eq!(inside.value("SELECT 'unharmed'").await, "unharmed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let spent = pool.process().cpu_seconds() - before;
    assert!(spent < 0.5, "{spent} s of CPU time in 2 s");
    drop(knocking);
    let mut new = wait::soon("a place for somebody new", pool.wire()).await;
    assert_eq!(new.value("SELECT 'back'").await, "back");
}
