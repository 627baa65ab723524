//! Redis clients that share connections do not notice each other: database, transaction, watch, name and subscriptions are each client's own.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Reply};
use sidepool_tests::settings::Settings;
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread")]
async fn the_selected_database_is_the_clients_own() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut clients = Vec::new();
    for database in 0..8 {
        let mut wire = pool.redis_wire().await;
        assert_eq!(wire.command(&["SELECT", &database.to_string()]).await.text(), "OK");
        assert_eq!(wire.command(&["SET", "where", &format!("database {database}")]).await.text(), "OK");
        clients.push(wire);
    }
    for _ in 0..3 {
        for (database, wire) in clients.iter_mut().enumerate() {
            assert_eq!(wire.command(&["GET", "where"]).await.text(), format!("database {database}"));
        }
    }
    let wire = &mut clients[5];
    assert!(wire.command(&["SELECT", "99"]).await.is_error("ERR"));
    assert!(wire.command(&["SELECT", "no"]).await.is_error("ERR"));
    assert_eq!(wire.command(&["GET", "where"]).await.text(), "database 5", "a failed SELECT changes nothing");
    // In one write: each command runs in the database selected before it.
    let bytes: Vec<u8> =
        (0..8).flat_map(|database| [request(&["SELECT", &database.to_string()]), request(&["GET", "where"])].concat()).collect();
    wire.send(&bytes).await;
    for database in 0..8 {
        assert_eq!(wire.reply().await.text(), "OK");
        assert_eq!(wire.reply().await.text(), format!("database {database}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_the_clients_own() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let (mut first, mut second) = (pool.redis_wire().await, pool.redis_wire().await);
    assert_eq!(first.command(&["MULTI"]).await.text(), "OK");
    assert_eq!(first.command(&["SET", "k", "from the transaction"]).await.text(), "QUEUED");
    assert_eq!(second.command(&["GET", "k"]).await, Reply::Null, "another client is not inside");
    assert_eq!(second.command(&["SET", "k", "before"]).await.text(), "OK");
    assert_eq!(first.command(&["GET", "k"]).await.text(), "QUEUED");
    let replies = first.command(&["EXEC"]).await;
    assert_eq!(replies.elements()[1].text(), "from the transaction");
    assert!(first.command(&["EXEC"]).await.is_error("ERR"), "EXEC without MULTI");
    assert!(second.command(&["DISCARD"]).await.is_error("ERR"), "DISCARD without MULTI");
    first.command(&["MULTI"]).await;
    assert!(first.command(&["MULTI"]).await.is_error("ERR"), "MULTI calls are not nested");
    assert!(first.command(&["NOSUCH"]).await.is_error("ERR"));
    assert!(first.command(&["EXEC"]).await.is_error("EXECABORT"));
    first.command(&["MULTI"]).await;
    first.command(&["SET", "k", "discarded"]).await;
    assert_eq!(first.command(&["DISCARD"]).await.text(), "OK");
    assert_eq!(first.command(&["GET", "k"]).await.text(), "from the transaction");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_inside_a_transaction_leaves_nothing_behind() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.pool_size", 2).set("redis.main.shared_connections", 1)).await;
    for _ in 0..6 {
        let mut leaver = pool.redis_wire().await;
        leaver.command(&["WATCH", "k"]).await;
        leaver.command(&["MULTI"]).await;
        leaver.command(&["SET", "k", "never"]).await;
        drop(leaver);
        let mut other = pool.redis_wire().await;
        other.command(&["WATCH", "unrelated"]).await;
        other.command(&["MULTI"]).await;
        assert_eq!(other.command(&["GET", "k"]).await.text(), "QUEUED");
        assert_eq!(other.command(&["EXEC"]).await, Reply::Array(vec![Reply::Null]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_sees_what_others_do() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let (mut watcher, mut other) = (pool.redis_wire().await, pool.redis_wire().await);
    assert_eq!(watcher.command(&["WATCH", "k"]).await.text(), "OK");
    other.command(&["SET", "k", "changed"]).await;
    watcher.command(&["MULTI"]).await;
    watcher.command(&["SET", "k", "lost"]).await;
    assert_eq!(watcher.command(&["EXEC"]).await, Reply::Null, "the transaction fails");
    assert_eq!(watcher.command(&["GET", "k"]).await.text(), "changed");
    watcher.command(&["WATCH", "k"]).await;
    watcher.command(&["MULTI"]).await;
    watcher.command(&["SET", "k", "won"]).await;
    other.command(&["SET", "another", "key"]).await;
    assert_eq!(watcher.command(&["EXEC"]).await, Reply::Array(vec![Reply::Simple("OK".to_owned())]));
    assert_eq!(other.command(&["GET", "k"]).await.text(), "won");
}

#[tokio::test(flavor = "multi_thread")]
async fn optimistic_locking_loses_no_update() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    pool.redis_wire().await.command(&["SET", "counter", "0"]).await;
    let mut clients = JoinSet::new();
    for _ in 0..12 {
        let mut wire = pool.redis_wire().await;
        clients.spawn(async move {
            let mut done = 0;
            while done < 25 {
                wire.command(&["WATCH", "counter"]).await;
                let value: u64 = wire.command(&["GET", "counter"]).await.text().parse().expect("a number");
                wire.command(&["MULTI"]).await;
                wire.command(&["SET", "counter", &(value + 1).to_string()]).await;
                match wire.command(&["EXEC"]).await {
                    Reply::Array(_) => done += 1,
                    Reply::Null => {}
                    other => panic!("{other:?}"),
                }
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.expect("every client finished");
    }
    assert_eq!(pool.redis_wire().await.command(&["GET", "counter"]).await.text(), "300");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_ids_are_the_clients_own() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let (mut first, mut second) = (pool.redis_wire().await, pool.redis_wire().await);
    assert_eq!(first.command(&["CLIENT", "SETNAME", "first"]).await.text(), "OK");
    assert_eq!(first.command(&["CLIENT", "GETNAME"]).await.text(), "first");
    assert!(["", "(nil)"].contains(&second.command(&["CLIENT", "GETNAME"]).await.text().as_str()));
    assert_ne!(first.command(&["CLIENT", "ID"]).await, second.command(&["CLIENT", "ID"]).await);
    assert!(first.command(&["CLIENT", "SETNAME", "with space"]).await.is_error("ERR"));
    for (name, value) in [("LIB-NAME", "tests"), ("LIB-VER", "1.0")] {
        // Redis 7.0 does not know it; drivers accept either answer.
        let reply = first.command(&["CLIENT", "SETINFO", name, value]).await;
        assert!(reply.text() == "OK" || reply.is_error("ERR"), "{reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_workers_share_one_limit_and_number_clients_apart() {
    let server = RedisServer::start().await;
    let settings = Settings::redis(&server).set("workers", 4).set("redis.main.pool_size", 4).set("redis.main.shared_connections", 1);
    let pool = Pooler::start(settings).await;
    let mut clients = JoinSet::new();
    for client in 0..16 {
        let mut wire = pool.redis_wire().await;
        clients.spawn(async move {
            for round in 0..30 {
                let mark = format!("{client} {round}");
                assert_eq!(wire.command(&["ECHO", &mark]).await.text(), mark);
                wire.command(&["WATCH", "k"]).await;
                wire.command(&["MULTI"]).await;
                wire.command(&["INCR", "n"]).await;
                assert!(matches!(wire.command(&["EXEC"]).await, Reply::Array(_)));
            }
            wire.command(&["CLIENT", "ID"]).await.text()
        });
    }
    let mut ids = std::collections::BTreeSet::new();
    while let Some(id) = clients.join_next().await {
        assert!(ids.insert(id.expect("every client finished")), "an id is given once");
    }
    let mut direct = server.direct().await;
    assert_eq!(direct.command(&["GET", "n"]).await.text(), "480");
    let connected = direct.command(&["INFO", "clients"]).await.text();
    let open = connected.lines().find_map(|line| line.strip_prefix("connected_clients:")).expect("Redis tells");
    assert!(open.trim().parse::<u32>().expect("a number") <= 5, "4 of ours and this one: {open}");
}
