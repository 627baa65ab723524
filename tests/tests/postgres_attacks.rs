//! Clients and servers that do what they should not, at the worst moment: what happens to the others.

use std::time::Duration;

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::frame::{bind, cancel, close, copy_data, execute, parse, query, sync};
use sidepool_tests::postgres::wire::{first_column, first_error};
use sidepool_tests::postgres::{Cluster, Wire, tags};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;
use tokio::task::JoinSet;

async fn start(connections: i64) -> (Cluster, Pooler) {
    let cluster = Cluster::start().await;
    cluster.sql("CREATE TABLE sink (n int); GRANT ALL ON sink TO app").await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.default_pool_size", connections)).await;
    (cluster, pool)
}

async fn named(pool: &Pooler, name: &str) -> Wire {
    let parameters = [("user", "app"), ("database", "app"), ("application_name", name)];
    Wire::try_login(pool.postgres_port(), &parameters, "").await.expect("app comes in")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_copy_data_that_nobody_wants_holds_no_connection() {
    let (_cluster, pool) = start(1).await;
    let (mut sender, mut next) = (pool.wire().await, pool.wire().await);
    let long = copy_data(&vec![b'1'; 300_000]);
    sender.send(&[&query("COPY sink FROM STDIN")[..], &copy_data(b"wrong\n"), &long[..100_000]].concat()).await;
    assert_eq!(tags(&sender.until_ready().await), "GEZ");
    sender.send(&long[100_000..]).await;
    assert_eq!(next.value("SELECT 'free'").await, "free");
    assert_eq!(sender.value("SELECT 'usable'").await, "usable");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_message_that_asks_for_nothing_spoils_no_connection() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 1).set("postgres.pool_mode", "session");
    let pool = Pooler::start(settings).await;
    let mut leaver = pool.wire().await;
    assert_eq!(leaver.value("SELECT 1").await, "1");
    leaver.send(&copy_data(&[b'x'; 1000])[..500]).await;
    drop(leaver);
    assert_eq!(pool.wire().await.value("SELECT 'whole'").await, "whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_to_what_stands_behind_a_failed_copy_reach_nobody_else() {
    let (_cluster, pool) = start(1).await;
    let mut others = JoinSet::new();
    for other in 0..3 {
        let mut wire = pool.wire().await;
        others.spawn(async move {
            for round in 0..60 {
                let wanted = format!("{other} {round}");
                assert_eq!(first_column(&wire.query(&format!("SELECT '{wanted}'")).await), [wanted]);
            }
        });
    }
    for _ in 0..20 {
        let mut sloppy = pool.wire().await;
        let stray = query("SELECT pg_sleep(0.01), 'foreign'");
        sloppy.send(&[query("COPY sink FROM STDIN"), copy_data(b"wrong\n"), stray, sync()].concat()).await;
        let answer = sloppy.until_closed().await;
        assert!(tags(&answer).starts_with("GE"), "{}", tags(&answer));
    }
    while let Some(done) = others.join_next().await {
        done.expect("everybody got their own answers");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_runs_the_unnamed_statement_of_somebody_else() {
    let (_cluster, pool) = start(1).await;
    let (mut owner, mut thief) = (pool.wire().await, pool.wire().await);
    owner.ask(&[parse("", "SELECT 'secret'"), sync()].concat()).await;
    let answer = thief.ask(&[bind("", "", &[]), execute("", 0), sync()].concat()).await;
    assert_eq!(first_error(&answer).and_then(|error| error.field(b'C')).as_deref(), Some("26000"), "{}", tags(&answer));
    assert_eq!(first_column(&owner.ask(&[bind("", "", &[]), execute("", 0), sync()].concat()).await), ["secret"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_longer_than_what_may_be_owed_is_answered_in_full() {
    let (_cluster, pool) = start(1).await;
    let mut wire = pool.wire().await;
    let mut script = [parse("s", "SELECT 1"), sync(), query("SELECT 1")].concat();
    for _ in 0..15_000 {
        script.extend([close(b'S', "s"), parse("s", "SELECT 1")].concat());
    }
    script.extend([bind("", "s", &[]), execute("", 0), sync()].concat());
    wire.send(&script).await;
    wire.until_ready().await;
    wire.until_ready().await;
    let answer = wire.until_ready().await;
    assert_eq!(answer.iter().filter(|message| message.tag == b'3').count(), 15_000);
    assert_eq!(tags(&answer[30_000..]), "2DCZ");
    // The same where every reply is the server's.
    let binds: Vec<u8> = (0..15_000).flat_map(|_| bind("", "s", &[])).chain(sync()).collect();
    assert_eq!(wire.ask(&binds).await.len(), 15_001);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_cancels_hits_those_it_is_meant_for_and_no_session_ends() {
    let (_cluster, pool) = start(2).await;
    let mut clients = JoinSet::new();
    for client in 0..6 {
        // Names that differ: each change of client on a connection is a query of the pooler's own first.
        let name = format!("client '{client}' \\ \"");
        let mut wire = named(&pool, &name).await;
        let (process, key) = wire.cancel_key.clone().expect("a key");
        let port = pool.postgres_port();
        let victim = client % 2 == 0;
        let storm = victim.then(|| {
            tokio::spawn(async move {
                loop {
                    let mut messenger = Wire::connect(port).await;
                    messenger.send(&cancel(process, &key)).await;
                    messenger.until_closed().await;
                }
            })
        });
        clients.spawn(async move {
            for round in 0..60 {
                let answer = wire.query("SELECT current_setting('application_name'), pg_sleep(0.001)").await;
                let code = first_error(&answer).and_then(|error| error.field(b'C'));
                match code.as_deref() {
                    None => {
                        assert_eq!(first_column(&answer).as_slice(), std::slice::from_ref(&name), "{client} {round}: {}", tags(&answer))
                    }
                    Some("57014") if victim => assert_eq!(tags(&answer).chars().last(), Some('Z'), "{client} {round}"),
                    Some(other) => panic!("{client} {round}: {other}"),
                }
            }
            if let Some(storm) = storm {
                storm.abort();
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.expect("all went on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_clients_and_servers_never_mix_up_answers() {
    let (cluster, pool) = start(2).await;
    let mut clients = JoinSet::new();
    for client in 0..6_u32 {
        let port = pool.postgres_port();
        clients.spawn(async move {
            let mut served = 0;
            for round in 0..60_u32 {
                let mut wire = Wire::login(port, "app", "app", "").await;
                for turn in 0..4 {
                    let mine = format!("{client} {round} {turn}");
                    let sql = format!("SELECT '{mine}' FROM generate_series(1, 50)");
                    let request = match (round + turn) % 3 {
                        0 => query(&sql),
                        1 => [parse("", &sql), bind("", "", &[]), execute("", 0), sync()].concat(),
                        _ => [query("BEGIN"), parse("x", &sql), bind("", "x", &[]), execute("", 0), close(b'S', "x"), sync()].concat(),
                    };
                    if wire.try_send(&request).await.is_err() {
                        break;
                    }
                    if turn == 3 && round % 2 == 0 {
                        // Gone with everything in flight.
                        break;
                    }
                    let mut answer = wire.until_ready().await;
                    if (round + turn) % 3 == 2 {
                        answer.extend(wire.until_ready().await);
                        if wire.try_send(&query("COMMIT")).await.is_ok() {
                            wire.until_ready().await;
                        }
                    }
                    assert!(first_column(&answer).iter().all(|row| *row == mine), "{mine}: {:?}", first_column(&answer));
                    served += u32::from(first_column(&answer).len() == 50);
                }
            }
            served
        });
    }
    for _ in 0..15 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        cluster.terminate_connections().await;
    }
    let mut served = 0;
    while let Some(done) = clients.join_next().await {
        served += done.expect("nobody saw another's rows");
    }
    assert!(served > 100, "{served}");
    wait::soon("a whole pool", async { assert_eq!(pool.wire().await.value("SELECT 'alive'").await, "alive") }).await;
}
