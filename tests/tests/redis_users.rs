//! Redis clients that log in as users of the proxy: who they are to themselves, what they are told when they are nobody, and which user of the
//! server does their work.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Reply, Wire};
use sidepool_tests::settings::Settings;
use tokio::io::AsyncReadExt as _;

/// SHA-256 of `alice-secret`.
const HASH: &str = "0c848abb03307b06cf70cd4e29c157dc81af5e94ab3eb1d0c59a120269572376";

/// A server with the ACL users `reader` and `writer`.
async fn server() -> RedisServer {
    let server = RedisServer::start_with_password("upstream-secret-31").await;
    let mut direct = server.direct().await;
    for user in [
        &[
            "ACL",
            "SETUSER",
            "reader",
            "on",
            ">reader-up",
            "~*",
            "&*",
            "+@read",
            "+@connection",
            "+@transaction",
            "+acl|whoami",
            "+acl|getuser",
        ][..],
        &["ACL", "SETUSER", "writer", "on", ">writer-up", "~*", "&*", "+@all"],
    ] {
        assert_eq!(direct.command(user).await.text(), "OK");
    }
    server
}

fn settings(server: &RedisServer) -> Settings {
    Settings::redis(server)
        .set("redis.main.users.alice.password", format!("#{HASH}"))
        .set("redis.main.users.alice.upstream_user", "reader")
        .set("redis.main.users.alice.upstream_password", "reader-up")
        .set("redis.main.users.bob.password", "bob-secret")
        .set("redis.main.users.bob.upstream_user", "writer")
        .set("redis.main.users.bob.upstream_password", "writer-up")
}

async fn login(pool: &Pooler, user: &str, password: &str) -> Wire {
    let mut wire = pool.redis_wire().await;
    assert_eq!(wire.command(&["AUTH", user, password]).await.text(), "OK");
    wire
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hashed_secret_lets_in_whoever_knows_it_and_nobody_else() {
    let server = server().await;
    let pool = Pooler::start(settings(&server)).await;
    let mut wire = pool.redis_wire().await;
    for wrong in ["", "alice", "reader-up", HASH, &format!("#{HASH}")] {
        assert!(wire.command(&["AUTH", "alice", wrong]).await.is_error("WRONGPASS"), "{wrong}");
    }
    assert_eq!(wire.command(&["AUTH", "alice", "alice-secret"]).await.text(), "OK");
    assert_eq!(wire.command(&["GET", "k"]).await, Reply::Null);
    assert!(matches!(pool.redis_wire().await.command(&["HELLO", "3", "AUTH", "alice", "alice-secret"]).await, Reply::Map(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_who_it_logged_in_as_and_acts_as_the_servers_user() {
    let server = server().await;
    let pool = Pooler::start(settings(&server)).await;
    let (mut alice, mut bob) = (login(&pool, "alice", "alice-secret").await, login(&pool, "bob", "bob-secret").await);
    for (wire, name) in [(&mut alice, "alice"), (&mut bob, "bob")] {
        assert_eq!(wire.command(&["ACL", "WHOAMI"]).await.text(), name);
        assert!(wire.command(&["CLIENT", "INFO"]).await.text().contains(&format!(" user={name} ")));
        let about = wire.command(&["ACL", "GETUSER", name]).await;
        assert_eq!(about.elements()[0].text(), "flags", "its own rights, by its own name: {about:?}");
        assert_eq!(wire.command(&["MULTI"]).await.text(), "OK");
        assert_eq!(wire.command(&["ACL", "WHOAMI"]).await.text(), "QUEUED");
        assert_eq!(wire.command(&["EXEC"]).await.elements()[0].text(), name);
    }
    assert_eq!(bob.command(&["SET", "k", "v"]).await.text(), "OK");
    let refused = alice.command(&["SET", "k", "v"]).await;
    let mut reader = Wire::connect(server.port()).await;
    reader.command(&["AUTH", "reader", "reader-up"]).await;
    assert_eq!(refused, reader.command(&["SET", "k", "v"]).await, "the server's own words");
    assert!(refused.is_error("NOPERM"));
    // In a transaction, another user's rights hold from its AUTH on.
    for words in [&["MULTI"][..], &["AUTH", "bob", "bob-secret"], &["SET", "k", "by bob"], &["AUTH", "bob", "wrong"]] {
        alice.command(words).await;
    }
    // The server judges what is queued by who queued it.
    assert!(alice.command(&["EXEC"]).await.is_error("EXECABORT"));
    assert_eq!(bob.command(&["MULTI"]).await.text(), "OK");
    for words in [&["AUTH", "alice", "alice-secret"][..], &["ACL", "WHOAMI"], &["AUTH", "nobody", "x"]] {
        assert_eq!(bob.command(words).await.text(), "QUEUED");
    }
    let answered = bob.command(&["EXEC"]).await;
    assert_eq!(answered.elements()[..2].iter().map(Reply::text).collect::<Vec<_>>(), ["OK", "alice"]);
    assert!(answered.elements()[2].is_error("WRONGPASS"));
    assert!(bob.command(&["SET", "k", "v"]).await.is_error("NOPERM"), "it is alice from now on");
}

/// Everything the other side says to these requests, up to its end.
async fn said(port: u16, requests: &[&[&str]]) -> Vec<u8> {
    let mut wire = Wire::connect(port).await;
    let all: Vec<u8> = requests.iter().flat_map(|words| request(words)).chain(request(&["QUIT"])).collect();
    wire.send(&all).await;
    let mut out = Vec::new();
    sidepool_tests::wait::soon("the end", wire.stream().read_to_end(&mut out)).await.expect("it closes");
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_nobody_is_told_so_in_the_servers_bytes() {
    let server = RedisServer::start_with_password("a-secret").await;
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.users.default.password", "a-secret")).await;
    let open = RedisServer::start().await;
    let passing = Pooler::start(Settings::redis(&open)).await;
    let conversations: [&[&[&str]]; 12] = [
        &[&["GET", "k"], &["NOSUCH"], &["CLIENT", "GETNAME"], &["SUBSCRIBE", "a"], &["MULTI"], &["EXEC"], &["RESET"], &["PING"]],
        &[&["HELLO", "3"], &["HELLO"], &["HELLO", "2"]],
        &[&["HELLO", "9"], &["HELLO", "x"], &["HELLO", "3", "FOO"], &["HELLO", "3", "SETNAME", "a"], &["PING"]],
        &[&["AUTH"], &["AUTH", "wrong"], &["AUTH", "default", "wrong"], &["AUTH", "nobody", "a-secret"], &["AUTH", "a", "b", "c"]],
        &[&["HELLO", "3", "AUTH", "default"], &["HELLO", "3", "AUTH", "default", "wrong"], &["HELLO", "2", "AUTH", "x", "y"], &["PING"]],
        &[&["AUTH", "a-secret"], &["GET", "k"], &["RESET"], &["GET", "k"]],
        &[&["AUTH", "default", "a-secret"], &["AUTH", "wrong"], &["GET", "k"], &["ACL", "WHOAMI"], &["RESET"], &["ACL", "WHOAMI"]],
        &[&["SELECT", "3"], &["AUTH", "a-secret"], &["SELECT", "3"], &["SELECT", "99"], &["SELECT", "-1"], &["SELECT", "x"]],
        &[&["AUTH", "a-secret"], &["HELLO", "3", "AUTH", "default", "wrong"], &["GET", "k"]],
        &[&["RESET", "x"], &["AUTH", "a-secret"], &["RESET", "x"], &["GET", "k"]],
        &[&["AUTH", ""], &["AUTH", "default", ""]],
        &[&["COMMAND", "COUNT"], &["ACL", "WHOAMI"], &["INFO"]],
    ];
    for conversation in conversations {
        for (server, pool) in [(server.port(), &pool), (open.port(), &passing)] {
            let (expected, got) = (said(server, conversation).await, said(pool.redis_port(), conversation).await);
            let shown = |bytes: &[u8]| without_ids(&String::from_utf8_lossy(bytes));
            if !shown(&expected).contains("redis_version:") {
                assert_eq!(shown(&got), shown(&expected), "{conversation:?}");
            }
        }
    }
}

/// Numbers of clients differ.
fn without_ids(text: &str) -> String {
    let mut lines: Vec<&str> = text.split("\r\n").collect();
    for at in 0..lines.len().saturating_sub(1) {
        if lines[at] == "id" {
            lines[at + 1] = ":";
        }
    }
    lines.join("\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_question_about_oneself_is_answered_in_order_while_watching() {
    let server = server().await;
    let pool = Pooler::start(settings(&server)).await;
    let mut wire = login(&pool, "alice", "alice-secret").await;
    let words: [&[&str]; 5] = [&["WATCH", "k"], &["ACL", "WHOAMI"], &["ACL", "WHOAMI", "extra"], &["PING"], &["ACL", "WHOAMI"]];
    wire.send(&words.map(request).concat()).await;
    assert_eq!(wire.reply().await.text(), "OK");
    assert_eq!(wire.reply().await.text(), "alice");
    assert!(wire.reply().await.is_error("ERR"));
    assert_eq!(wire.reply().await.text(), "PONG");
    assert_eq!(wire.reply().await.text(), "alice");
}
