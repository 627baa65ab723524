//! Redis logins: credentials are injected for applications that have none, and asked of those who must have them.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Reply};
use sidepool_tests::settings::Settings;

#[tokio::test(flavor = "multi_thread")]
async fn an_application_without_a_password_works() {
    let server = RedisServer::start_with_password("upstream-secret-31").await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut silent = pool.redis_wire().await;
    assert_eq!(silent.command(&["SET", "k", "v"]).await.text(), "OK");
    for login in [&["AUTH", "anything"][..], &["AUTH", "default", "anything"], &["HELLO", "3", "AUTH", "default", "anything"]] {
        let mut wire = pool.redis_wire().await;
        let answer = wire.command(login).await;
        assert!(!matches!(answer, Reply::Error(_)), "{login:?}: {answer:?}");
        assert_eq!(wire.command(&["GET", "k"]).await.text(), "v");
    }
    assert!(!pool.process().log().tail(1000).contains("upstream-secret-31"), "the log holds no secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_must_log_in() {
    let server = RedisServer::start_with_password("upstream-secret-31").await;
    let settings = Settings::redis(&server)
        .set("redis.main.users.default.password", "client-secret")
        .set("redis.main.users.app.password", "app-secret");
    let pool = Pooler::start(settings).await;
    let mut wire = pool.redis_wire().await;
    assert!(wire.command(&["GET", "k"]).await.is_error("NOAUTH"));
    assert!(wire.command(&["HELLO", "3"]).await.is_error("NOAUTH"));
    assert!(wire.command(&["AUTH", "wrong"]).await.is_error("WRONGPASS"));
    assert!(wire.command(&["AUTH", "stranger", "client-secret"]).await.is_error("WRONGPASS"));
    assert!(wire.command(&["AUTH", "upstream-secret-31"]).await.is_error("WRONGPASS"), "the upstream's secret opens nothing here");
    assert!(wire.command(&["GET", "k"]).await.is_error("NOAUTH"));
    assert_eq!(wire.command(&["AUTH", "client-secret"]).await.text(), "OK");
    let durations = pool.scrape().await.sum("sidepool_client_login_seconds_count", &[("protocol", "redis")]);
    assert_eq!(durations, 1.0, "one login, however many wrong tries came before it");
    assert_eq!(wire.command(&["SET", "k", "v"]).await.text(), "OK");
    assert!(wire.command(&["AUTH", "wrong"]).await.is_error("WRONGPASS"));
    assert_eq!(wire.command(&["GET", "k"]).await.text(), "v", "a failed AUTH changes nothing");
    let mut app = pool.redis_wire().await;
    assert!(matches!(app.command(&["HELLO", "3", "AUTH", "app", "app-secret"]).await, Reply::Map(_)));
    assert_eq!(app.command(&["GET", "k"]).await.text(), "v");
    assert_eq!(app.command(&["RESET"]).await.text(), "RESET");
    assert!(app.command(&["GET", "k"]).await.is_error("NOAUTH"), "RESET logs out");
    let mut pipelined = pool.redis_wire().await;
    pipelined.send(&[request(&["GET", "k"]), request(&["AUTH", "client-secret"]), request(&["GET", "k"])].concat()).await;
    assert!(pipelined.reply().await.is_error("NOAUTH"));
    assert_eq!(pipelined.reply().await.text(), "OK");
    assert_eq!(pipelined.reply().await.text(), "v");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_us_is_told_without_the_secret() {
    let server = RedisServer::start_with_password("upstream-secret-31").await;
    let settings = Settings::redis(&server).set("redis.main.password", "outdated-8472").set("redis.main.query_wait_timeout", "2s");
    let pool = Pooler::start(settings).await;
    let mut wire = pool.redis_wire().await;
    let Reply::Error(text) = wire.command(&["GET", "k"]).await else { panic!("nobody can answer that") };
    assert!(text.contains("main"), "the error names the pool: {text}");
    assert!(!text.contains("outdated-8472"), "{text}");
    assert!(!pool.process().log().tail(1000).contains("outdated-8472"), "the log holds no secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_secret_is_used_after_a_reload() {
    let server = RedisServer::start_with_password("first-secret").await;
    let settings = Settings::redis(&server);
    let mut pool = Pooler::start(settings.clone()).await;
    let mut wire = pool.redis_wire().await;
    assert_eq!(wire.command(&["SET", "k", "v"]).await.text(), "OK");
    let mut direct = server.direct().await;
    assert_eq!(direct.command(&["CONFIG", "SET", "requirepass", "second-secret"]).await.text(), "OK");
    pool.reload(settings.set("redis.main.password", "second-secret")).await;
    assert!(matches!(direct.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await, Reply::Integer(_)));
    sidepool_tests::wait::until("the new secret to work", async || (wire.command(&["GET", "k"]).await.text() == "v").then_some(())).await;
}
