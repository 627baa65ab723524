//! Redis clients that log in as themselves: the server decides about each, once, and what it says is what the client hears.

use std::time::Instant;

use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Reply, Wire};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

async fn behind(server: &RedisServer) -> Pooler {
    let settings = Settings::new();
    let listen = vec![format!("127.0.0.1:{}", settings.redis_port())];
    let settings = settings.set("redis.main.listen", listen).set("redis.main.host", "127.0.0.1");
    Pooler::start(settings.set("redis.main.port", i64::from(server.port()))).await
}

async fn create(direct: &mut Wire, rules: &[&str]) {
    assert_eq!(direct.command(&[&["ACL", "SETUSER"], rules].concat()).await.text(), "OK");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_server_stays_open_and_says_so() {
    let server = RedisServer::start().await;
    let pool = behind(&server).await;
    let (mut direct, mut proxied) = (server.direct().await, pool.redis_wire().await);
    // The first of all, and larger than what a stranger may send.
    let value = "x".repeat(20_000);
    assert_eq!(proxied.command(&["SET", "k", &value]).await.text(), "OK");
    for words in [&["AUTH", "something"][..], &["AUTH", "nobody", "x"], &["AUTH", "default", "any"], &["AUTH"], &["ACL", "WHOAMI"]] {
        assert_eq!(proxied.command(words).await, direct.command(words).await, "{words:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_server_is_as_closed_through_the_proxy() {
    let server = RedisServer::start_with_password("the-secret-71").await;
    let pool = behind(&server).await;
    let (mut direct, mut proxied) = (Wire::connect(server.port()).await, pool.redis_wire().await);
    let conversation: [&[&str]; 9] = [
        &["GET", "k"],
        &["HELLO", "3"],
        &["AUTH", "wrong"],
        &["AUTH", "nobody", "the-secret-71"],
        &["GET", "k"],
        &["AUTH", "the-secret-71"],
        &["SET", "k", "v"],
        &["AUTH", "wrong"],
        &["GET", "k"],
    ];
    for words in conversation {
        assert_eq!(proxied.command(words).await, direct.command(words).await, "{words:?}");
    }
    for wire in [&mut direct, &mut proxied] {
        assert_eq!(wire.command(&["RESET"]).await.text(), "RESET");
        assert!(wire.command(&["GET", "k"]).await.is_error("NOAUTH"), "RESET logs out");
        assert!(matches!(wire.command(&["HELLO", "3", "AUTH", "default", "the-secret-71"]).await, Reply::Map(_)));
    }
    assert!(!pool.process().log().tail(1000).contains("the-secret-71"), "the log holds no secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_have_their_own_rights_and_never_each_others_connections() {
    let server = RedisServer::start().await;
    let mut direct = server.direct().await;
    create(&mut direct, &["reader", "on", ">r", "~*", "+@read", "+acl|whoami"]).await;
    create(&mut direct, &["writer", "on", ">w", "~*", "+@all"]).await;
    let pool = behind(&server).await;
    let (mut reader, mut writer) = (pool.redis_wire().await, pool.redis_wire().await);
    assert_eq!(reader.command(&["AUTH", "reader", "r"]).await.text(), "OK");
    assert_eq!(writer.command(&["AUTH", "writer", "w"]).await.text(), "OK");
    for round in 0..20 {
        assert_eq!(writer.command(&["SET", "k", &round.to_string()]).await.text(), "OK");
        assert!(reader.command(&["SET", "k", "no"]).await.is_error("NOPERM"));
        assert_eq!(reader.command(&["GET", "k"]).await.text(), round.to_string());
        assert_eq!(reader.command(&["ACL", "WHOAMI"]).await.text(), "reader");
    }
    // A user who may not SELECT keeps the database that was selected before it logged in.
    let mut elsewhere = pool.redis_wire().await;
    elsewhere.command(&["SELECT", "3"]).await;
    assert_eq!(elsewhere.command(&["AUTH", "reader", "r"]).await.text(), "OK");
    assert_eq!(elsewhere.command(&["GET", "k"]).await, Reply::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_login_is_asked_about_once_and_many_wrong_ones_seldom() {
    let server = RedisServer::start_with_password("the-secret-71").await;
    let pool = behind(&server).await;
    let mut direct = server.direct().await;
    direct.command(&["CONFIG", "RESETSTAT"]).await;
    let (mut clients, begun) = (Vec::new(), Instant::now());
    for _ in 0..60 {
        let mut wire = pool.redis_wire().await;
        wire.send(&[request(&["AUTH", "the-secret-71"]), request(&["PING"])].concat()).await;
        clients.push(wire);
    }
    for wire in &mut clients {
        assert_eq!(wire.reply().await.text(), "OK");
        assert_eq!(wire.reply().await.text(), "PONG");
    }
    for _ in 0..60 {
        assert!(pool.redis_wire().await.command(&["AUTH", "guess"]).await.is_error("WRONGPASS"));
    }
    let info = direct.command(&["INFO", "stats"]).await.text();
    let line = info.lines().find_map(|line| line.strip_prefix("total_connections_received:")).expect("Redis tells");
    let connections: u64 = line.trim().parse().expect("a number");
    // What was refused is asked about again after a while.
    let most = 12 + begun.elapsed().as_secs();
    assert!(connections < most, "{connections} connections for 120 logins");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_user_is_out_and_comes_in_again_when_it_is_back() {
    let server = RedisServer::start().await;
    let mut direct = server.direct().await;
    create(&mut direct, &["app", "on", ">old", "~*", "+@all"]).await;
    let pool = behind(&server).await;
    let mut app = pool.redis_wire().await;
    assert_eq!(app.command(&["AUTH", "app", "old"]).await.text(), "OK");
    assert_eq!(app.command(&["SET", "k", "v"]).await.text(), "OK");
    direct.command(&["ACL", "DELUSER", "app"]).await;
    // The server has closed the user's connections; the proxy finds out with the next one.
    wait::until("the client to be closed", async || {
        if app.try_send(&request(&["GET", "k"])).await.is_err() { Some(()) } else { app.read().await.is_none().then_some(()) }
    })
    .await;
    let mut late = pool.redis_wire().await;
    assert!(late.command(&["AUTH", "app", "old"]).await.is_error("WRONGPASS"), "what was known of it is forgotten");
    create(&mut direct, &["app", "on", ">new", "~*", "+@all"]).await;
    assert_eq!(late.command(&["AUTH", "app", "new"]).await.text(), "OK");
    assert_eq!(late.command(&["GET", "k"]).await.text(), "v");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_is_made_anew_at_once_keeps_who_came_in_by_its_new_password() {
    let server = RedisServer::start().await;
    let mut direct = server.direct().await;
    let pool = behind(&server).await;
    make_anew(&mut direct, &["0"]).await;
    let mut old = app(&pool, "0").await;
    assert_eq!(old.command(&["SET", "k", "v"]).await.text(), "OK");
    for round in 1..10 {
        let password = round.to_string();
        make_anew(&mut direct, &[&password]).await;
        let mut new = app(&pool, &password).await;
        // By a shared connection and by one of its own at the same time.
        let mut other = app(&pool, &password).await;
        new.send(&request(&["GET", "k"])).await;
        other.send(&request(&["WATCH", "k"])).await;
        assert_eq!(new.reply().await.text(), "v", "round {round}");
        assert_eq!(other.reply().await.text(), "OK", "round {round}");
        assert_eq!(wait::soon("the end of the old one", old.read()).await, None, "whose password is gone");
        assert!(pool.redis_wire().await.command(&["AUTH", "app", &(round - 1).to_string()]).await.is_error("WRONGPASS"));
        old = new;
    }
}

const RIGHTS: [&str; 3] = ["~*", "&*", "+@all"];

/// Makes the user `app` with these passwords, anew where it exists: the server then closes its connections.
async fn make_anew(direct: &mut Wire, passwords: &[&str]) {
    direct.command(&["ACL", "DELUSER", "app"]).await;
    let passwords: Vec<String> = passwords.iter().map(|password| format!(">{password}")).collect();
    let rules: Vec<&str> = ["app", "on"].into_iter().chain(passwords.iter().map(String::as_str)).chain(RIGHTS).collect();
    create(direct, &rules).await;
}

async fn app(pool: &Pooler, password: &str) -> Wire {
    let mut wire = pool.redis_wire().await;
    assert_eq!(wire.command(&["AUTH", "app", password]).await.text(), "OK", "{password}");
    wire
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_nothing_but_subscribe_finds_out_that_a_password_is_gone() {
    let server = RedisServer::start().await;
    let mut direct = server.direct().await;
    let pool = behind(&server).await;
    make_anew(&mut direct, &["0"]).await;
    let mut old = app(&pool, "0").await;
    assert_eq!(old.command(&["SUBSCRIBE", "news"]).await.elements()[1].text(), "news");
    for password in ["1", "2", "3"] {
        make_anew(&mut direct, &[password]).await;
        let mut new = app(&pool, password).await;
        assert_eq!(new.command(&["SUBSCRIBE", "news"]).await.elements()[1].text(), "news");
        assert_eq!(old.read().await, None, "whose password is gone");
        assert_eq!(direct.command(&["PUBLISH", "news", password]).await, Reply::Integer(1));
        assert_eq!(new.reply().await.elements()[2].text(), password);
        old = new;
    }
    direct.command(&["ACL", "DELUSER", "app"]).await;
    assert_eq!(old.read().await, None, "as the server closes a deleted user's connections");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_refusal_that_many_wait_for_is_the_end_of_one_password() {
    let server = RedisServer::start().await;
    let mut direct = server.direct().await;
    let pool = behind(&server).await;
    for (before, password) in [("0", "1"), ("2", "3"), ("4", "5")] {
        make_anew(&mut direct, &[before]).await;
        let mut old = app(&pool, before).await;
        assert_eq!(old.command(&["WATCH", "k"]).await.text(), "OK");
        assert_eq!(old.command(&["UNWATCH"]).await.text(), "OK");
        make_anew(&mut direct, &[password]).await;
        let mut clients = Vec::new();
        for _ in 0..8 {
            clients.push(app(&pool, password).await);
        }
        for wire in &mut clients {
            wire.send(&request(&["WATCH", "k"])).await;
        }
        for (number, wire) in clients.iter_mut().enumerate() {
            assert_eq!(wire.reply().await.text(), "OK", "client {number} with password {password}");
        }
        assert_eq!(old.read().await, None, "whose password is gone");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_of_a_forgotten_password_outlives_the_user_that_it_came_in_as() {
    let server = RedisServer::start().await;
    let mut direct = server.direct().await;
    let pool = behind(&server).await;
    // More than are kept.
    let passwords = ["1", "2", "3", "4", "5", "6"];
    make_anew(&mut direct, &passwords).await;
    let mut clients = Vec::new();
    for password in passwords {
        clients.push(app(&pool, password).await);
    }
    for wire in &mut clients {
        assert_eq!(wire.command(&["SET", "k", "v"]).await.text(), "OK", "all are good");
    }
    make_anew(&mut direct, &["6"]).await;
    let mut last = clients.pop().expect("six came");
    assert_eq!(last.command(&["GET", "k"]).await.text(), "v");
    for (number, wire) in clients.iter_mut().enumerate() {
        assert_eq!(wire.read().await, None, "client {} of 6", number + 1);
    }
    assert_eq!(last.command(&["GET", "k"]).await.text(), "v");
}
