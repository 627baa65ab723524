//! `CLIENT TRACKING … REDIRECT` through the proxy: invalidations never go to a connection that is not the client's to name.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::RedisServer;
use sidepool_tests::settings::Settings;

#[tokio::test(flavor = "multi_thread")]
async fn a_redirection_is_refused_wherever_it_is_asked_for() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let redirect = ["CLIENT", "TRACKING", "ON", "REDIRECT", "1"];
    let mut wire = pool.redis_wire().await;
    let refused = wire.command(&redirect).await;
    assert!(refused.is_error("ERR") && refused.text().contains("RESP3"), "{refused:?}");
    for before in [&["WATCH", "w"][..], &["UNWATCH"], &["CLIENT", "TRACKING", "ON"]] {
        wire.command(before).await;
        assert_eq!(wire.command(&redirect).await, refused, "after {before:?}");
    }
    wire.command(&["MULTI"]).await;
    assert_eq!(wire.command(&redirect).await, refused);
    assert!(wire.command(&["EXEC"]).await.is_error("EXECABORT"));
    assert_eq!(wire.command(&["PING"]).await.text(), "PONG");
}
