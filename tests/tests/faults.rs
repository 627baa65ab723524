//! Faults: clients and servers that die at any moment, networks that stall. Money is neither made nor lost, and no reply goes astray.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sidepool_tests::conformance::proves;
use sidepool_tests::fault::{Behaviour, FaultProxy};
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::wire::{first_column, first_error};
use sidepool_tests::postgres::{Cluster, Wire, frame, tags};
use sidepool_tests::redis::{RedisServer, Reply};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;
use tokio::task::JoinSet;

/// A small generator, so that a failure can be run again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// A quick way back, so that tests need not wait long.
fn eager(settings: Settings) -> Settings {
    settings.set("postgres.server_connect_backoff", "20ms").set("postgres.server_login_retry", "200ms")
}

async fn bank(cluster: &Cluster) {
    cluster
        .sql("CREATE TABLE account (id int primary key, balance int); INSERT INTO account SELECT n, 1000 FROM generate_series(1, 20) n")
        .await;
    cluster.sql("CREATE TABLE receipt (token text primary key); GRANT ALL ON account, receipt TO app").await;
}

/// One transfer with a receipt, or an error at any step. True: the commit was confirmed.
async fn transfer(wire: &mut Wire, token: &str, dice: &mut Dice) -> Result<bool, ()> {
    let (from, to, amount) = (dice.roll(20) + 1, dice.roll(20) + 1, dice.roll(50));
    let steps = [
        "BEGIN".to_owned(),
        format!("UPDATE account SET balance = balance - {amount} WHERE id = {}", from.min(to)),
        format!("UPDATE account SET balance = balance + {amount} WHERE id = {}", from.max(to)),
        format!("INSERT INTO receipt VALUES ('{token}') RETURNING token"),
        "COMMIT".to_owned(),
    ];
    for (index, step) in steps.iter().enumerate() {
        if dice.roll(200) == 0 {
            // Gone without a word, in the middle of it all.
            return Err(());
        }
        if wire.try_send(&frame::query(step)).await.is_err() {
            return Err(());
        }
        let answer = wire.until_ready().await;
        if !tags(&answer).ends_with('Z') {
            return Err(());
        }
        if first_error(&answer).is_some() {
            let _ = wire.query("ROLLBACK").await;
            return Ok(false);
        }
        if index == 3 {
            assert_eq!(first_column(&answer), [token], "a foreign reply");
        }
    }
    Ok(true)
}

#[tokio::test(flavor = "multi_thread")]
async fn money_is_neither_made_nor_lost() {
    let mut cluster = Cluster::start().await;
    bank(&cluster).await;
    let pool = Arc::new(Pooler::start(eager(Settings::postgres(&cluster))).await);
    let over = Arc::new(AtomicBool::new(false));
    let confirmed = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for client in 0..24 {
        let (pool, over, confirmed) = (Arc::clone(&pool), Arc::clone(&over), Arc::clone(&confirmed));
        clients.spawn(async move {
            let mut dice = Dice(0x9E37_79B9_7F4A_7C15 ^ (client + 1));
            let mut receipts = Vec::new();
            let mut round = 0;
            while !over.load(Ordering::Relaxed) {
                let parameters = [("user", "app"), ("database", "app")];
                let Ok(mut wire) = Wire::try_login(pool.postgres_port(), &parameters, "").await else { continue };
                while !over.load(Ordering::Relaxed) {
                    round += 1;
                    let token = format!("{client}-{round}");
                    match transfer(&mut wire, &token, &mut dice).await {
                        Ok(true) => {
                            confirmed.fetch_add(1, Ordering::Relaxed);
                            receipts.push(token);
                        }
                        Ok(false) => {}
                        Err(()) => break,
                    }
                }
            }
            receipts
        });
    }
    let more = async |what: &str| {
        let before = confirmed.load(Ordering::Relaxed);
        wait::until(what, async || (confirmed.load(Ordering::Relaxed) > before + 100).then_some(())).await;
    };
    more("transfers").await;
    for _ in 0..5 {
        cluster.terminate_connections().await;
        more("transfers after the connections were terminated").await;
    }
    for _ in 0..2 {
        cluster.stop();
        cluster.launch().await;
        more("transfers after a restart").await;
    }
    over.store(true, Ordering::Relaxed);
    let mut receipts = Vec::new();
    while let Some(done) = clients.join_next().await {
        receipts.extend(done.expect("no client saw a foreign reply"));
    }
    let admin = cluster.superuser("app").await;
    let total: i64 = admin.query_one("SELECT sum(balance) FROM account", &[]).await.expect("a sum").get(0);
    assert_eq!(total, 20_000);
    let kept: i64 = admin.query_one("SELECT count(*) FROM receipt WHERE token = ANY($1)", &[&receipts]).await.expect("a count").get(0);
    assert_eq!(usize::try_from(kept).ok(), Some(receipts.len()), "a confirmed commit is there");
    wait::until("nobody to be left in a transaction", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
        let open: i64 = admin.query_one(sql, &[]).await.expect("a count").get(0);
        (open == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_replies_never_go_astray() {
    let mut server = RedisServer::start().await;
    let settings = Settings::redis(&server).set("redis.main.server_connect_backoff", "20ms").set("redis.main.server_login_retry", "200ms");
    let pool = Arc::new(Pooler::start(settings).await);
    let over = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for client in 0..40 {
        let (pool, over, answered) = (Arc::clone(&pool), Arc::clone(&over), Arc::clone(&answered));
        clients.spawn(async move {
            let mut dice = Dice(0xD1B5_4A32_D192_ED03 ^ (client + 1));
            let mut round = 0;
            while !over.load(Ordering::Relaxed) {
                let mut wire = pool.redis_wire().await;
                while !over.load(Ordering::Relaxed) {
                    let tokens: Vec<String> = (0..1 + dice.roll(6)).map(|index| format!("{client}-{round}-{index}")).collect();
                    round += 1;
                    let bytes: Vec<u8> = tokens.iter().flat_map(|token| sidepool_tests::redis::wire::request(&["ECHO", token])).collect();
                    if wire.try_send(&bytes).await.is_err() || dice.roll(60) == 0 {
                        break;
                    }
                    let mut closed = false;
                    for token in &tokens {
                        match wire.read().await {
                            None => closed = true,
                            Some(Reply::Error(_)) => {}
                            Some(reply) => {
                                assert_eq!(&reply.text(), token, "a foreign reply");
                                answered.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                    if closed {
                        break;
                    }
                }
            }
        });
    }
    let more = async |what: &str| {
        let before = answered.load(Ordering::Relaxed);
        wait::until(what, async || (answered.load(Ordering::Relaxed) > before + 500).then_some(())).await;
    };
    more("replies").await;
    for _ in 0..5 {
        server.direct().await.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        more("replies after the connections were killed").await;
    }
    for _ in 0..2 {
        server.stop();
        server.launch().await;
        more("replies after a restart").await;
    }
    over.store(true, Ordering::Relaxed);
    while let Some(done) = clients.join_next().await {
        done.expect("no client saw a foreign reply");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_that_died_is_not_noticed() {
    let (cluster, server) = (Cluster::start().await, RedisServer::start().await);
    let pool = Pooler::start(Settings::postgres(&cluster).and_redis(&server)).await;
    let (mut wire, mut redis) = (pool.wire().await, pool.redis_wire().await);
    for round in 0..5 {
        assert_eq!(wire.value("SELECT 'well'").await, "well", "round {round}");
        assert_eq!(redis.command(&["ECHO", "well"]).await.text(), "well", "round {round}");
        cluster.terminate_connections().await;
        server.direct().await.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        wait::until("the server to be rid of us", async || (cluster.connections().await == 0).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_named_and_waited_for() {
    let mut cluster = Cluster::start().await;
    let settings = eager(Settings::postgres(&cluster));
    let mut pool = Pooler::start(settings.clone()).await;
    let mut wire = pool.wire().await;
    assert_eq!(wire.value("SELECT 1").await, "1");
    pool.reload(settings.set("postgres.query_wait_timeout", "2s")).await;
    cluster.stop();
    let answer = wire.query("SELECT 1").await;
    let error = first_error(&answer).expect("nobody can answer that");
    let text = String::from_utf8_lossy(&error.body).into_owned();
    assert!(text.contains("app"), "the error names the pool: {text}");
    let answer = scrape_status(&pool).await;
    assert_eq!(answer, 200, "readiness does not depend on the server");
    cluster.launch().await;
    let (port, parameters) = (pool.postgres_port(), [("user", "app"), ("database", "app")]);
    wait::until("service", async || {
        let mut wire = Wire::try_login(port, &parameters, "").await.ok()?;
        first_error(&wire.query("SELECT 1").await).is_none().then_some(())
    })
    .await;
}

async fn scrape_status(pool: &Pooler) -> u16 {
    sidepool_tests::scrape::get(pool.settings().admin_port(), "/readyz").await.expect("an answer").status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_that_stalls_ends_at_its_time_limit_and_others_go_on() {
    let _proof = proves(&["setting server_connect_timeout"]);
    let cluster = Cluster::start().await;
    let stalling = FaultProxy::start(cluster.port()).await;
    stalling.behave(Behaviour::Stall);
    let settings = eager(Settings::postgres(&cluster))
        .set("postgres.server_connect_timeout", "1s")
        .set("postgres.query_wait_timeout", "60s")
        .set("postgres.databases.slow.host", "127.0.0.1")
        .set("postgres.databases.slow.port", i64::from(stalling.port()))
        .set("postgres.databases.slow.dbname", "app");
    let pool = Pooler::start(settings).await;
    let port = pool.postgres_port();
    let slow = tokio::spawn(async move {
        let mut wire = Wire::try_login(port, &[("user", "app"), ("database", "slow")], "").await?;
        let answer = wire.query("SELECT 'at last'").await;
        Ok::<_, sidepool_tests::postgres::Message>(first_column(&answer).join(""))
    });
    stalling.has_accepted(1).await;
    let mut good = pool.wire().await;
    assert_eq!(good.value("SELECT 'unharmed'").await, "unharmed");
    stalling.has_accepted(2).await;
    stalling.behave(Behaviour::Pass);
    let answer = wait::soon("the slow one", slow).await.expect("no panic");
    assert_eq!(answer.ok().as_deref(), Some("at last"), "a later attempt succeeds within the wait");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lies_is_cut_off() {
    let cluster = Cluster::start().await;
    let liar = FaultProxy::start(cluster.port()).await;
    let settings = eager(Settings::postgres(&cluster))
        .set("postgres.databases.app.port", i64::from(liar.port()))
        .set("postgres.server_connect_timeout", "500ms")
        .set("postgres.query_wait_timeout", "1s");
    let pool = Pooler::start(settings).await;
    let lies: [&[u8]; 6] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"R\xff\xff\xff\xff\x00\x00\x00\x00",
        b"R\x00\x00\x00\x08\x00\x00\x00\x63",
        b"Z\x00\x00\x00\x05I",
        b"E\x00\x00\x00\x05\x00",
        b"\x00\x00\x00\x00\x00\x00\x00\x00",
    ];
    for lie in lies {
        liar.behave(Behaviour::Answer(lie.to_vec()));
        let told = match Wire::try_login(pool.postgres_port(), &[("user", "app"), ("database", "app")], "").await {
            Err(error) => Some(error),
            Ok(mut wire) => first_error(&wire.query("SELECT 1").await).cloned(),
        };
        assert!(told.is_some(), "{lie:?} is not believed");
    }
    liar.behave(Behaviour::Pass);
    let port = pool.postgres_port();
    wait::until("service", async || {
        let mut wire = Wire::try_login(port, &[("user", "app"), ("database", "app")], "").await.ok()?;
        first_error(&wire.query("SELECT 1").await).is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_in_the_middle_of_rows_is_an_error_for_its_client_alone() {
    let cluster = Cluster::start().await;
    let network = FaultProxy::start(cluster.port()).await;
    let settings = eager(Settings::postgres(&cluster)).set("postgres.databases.app.port", i64::from(network.port()));
    let pool = Pooler::start(settings).await;
    let mut idle = pool.wire().await;
    for round in 0..5 {
        let mut victim = pool.wire().await;
        victim.send(&frame::query("SELECT repeat('x', 1000) FROM generate_series(1, 1000000)")).await;
        for _ in 0..10 {
            victim.read().await.expect("rows come");
        }
        network.cut();
        let rest = wait::within(Duration::from_secs(60), "the end of the victim", victim.until_ready()).await;
        let complete = rest.iter().any(|message| message.tag == b'C');
        assert!(!complete, "half a result is not a whole one");
        assert_eq!(idle.value("SELECT 'unharmed'").await, "unharmed", "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_connection_cut_under_a_transaction_never_runs_half_of_it() {
    let server = RedisServer::start().await;
    let network = FaultProxy::start(server.port()).await;
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.port", i64::from(network.port()))).await;
    let mut wire = pool.redis_wire().await;
    wire.command(&["SET", "a", "old"]).await;
    wire.command(&["WATCH", "a"]).await;
    wire.command(&["MULTI"]).await;
    wire.command(&["SET", "a", "new"]).await;
    network.cut();
    // The rest of the transaction must not run as plain commands on a fresh connection.
    let mut answers = Vec::new();
    for command in [&["SET", "b", "outside"][..], &["EXEC"]] {
        if wire.try_send(&sidepool_tests::redis::wire::request(command)).await.is_err() {
            break;
        }
        match wire.read().await {
            Some(reply) => answers.push(reply),
            None => break,
        }
    }
    assert!(answers.last().is_none_or(|reply| matches!(reply, Reply::Error(_))), "{answers:?}");
    let mut other = pool.redis_wire().await;
    wait::until("service", async || (other.command(&["GET", "a"]).await.text() == "old").then_some(())).await;
    assert_eq!(other.command(&["EXISTS", "b"]).await, Reply::Integer(0));
}
