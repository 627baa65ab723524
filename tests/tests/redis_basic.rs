//! Redis through the proxy: both protocol versions, inline commands, errors, commands that are new to the proxy.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Reply, Wire};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

/// Two servers, one of them behind the proxy, and a client of each: what the bare one answers, the other must answer, too.
async fn pair() -> ([RedisServer; 2], Pooler, Wire, Wire) {
    let servers = [RedisServer::start().await, RedisServer::start().await];
    let pool = Pooler::start(Settings::redis(&servers[1])).await;
    let (direct, proxied) = (servers[0].direct().await, pool.redis_wire().await);
    (servers, pool, direct, proxied)
}

/// Commands that cover every type of reply, in an order that leaves both sides with the same data.
const CONVERSATION: &[&[&str]] = &[
    &["PING"],
    &["PING", "with text"],
    &["ECHO", ""],
    &["SET", "s", "value"],
    &["GET", "s"],
    &["GET", "missing"],
    &["SET", "n", "41"],
    &["INCR", "n"],
    &["INCRBYFLOAT", "n", "0.5"],
    &["INCR", "s"],
    &["APPEND", "s", "\r\nwith\r\nlines"],
    &["GET", "s"],
    &["RPUSH", "l", "a", "b", "c"],
    &["LRANGE", "l", "0", "-1"],
    &["LRANGE", "missing", "0", "-1"],
    &["LPOP", "l", "2"],
    &["LPOP", "missing", "2"],
    &["HSET", "h", "f", "1", "g", "2"],
    &["HGETALL", "h"],
    &["HGET", "h", "none"],
    &["SADD", "set", "x"],
    &["SMEMBERS", "set"],
    &["SISMEMBER", "set", "x"],
    &["ZADD", "z", "1.5", "one", "2", "two"],
    &["ZRANGE", "z", "0", "-1", "WITHSCORES"],
    &["ZSCORE", "z", "one"],
    &["ZMSCORE", "z", "one", "none"],
    &["XADD", "x", "1-1", "field", "value"],
    &["XRANGE", "x", "-", "+"],
    &["XREAD", "COUNT", "1", "STREAMS", "x", "0"],
    &["MSET", "a", "1", "b", "2"],
    &["MGET", "a", "none", "b"],
    &["EVAL", "return {1, 'two', {3}, redis.status_reply('four')}", "0"],
    &["EVAL", "return redis.error_reply('MINE broken')", "0"],
    &["EVAL", "return redis.call('GET', KEYS[1])", "1", "a"],
    &["LPUSH", "s", "wrong type"],
    &["NOSUCHCOMMAND", "x"],
    &["GET"],
    &["GET", "too", "many"],
    &["SET", "s", "v", "NX"],
    &["OBJECT", "ENCODING", "n"],
    &["TYPE", "z"],
    &["DEL", "s", "n", "l", "missing"],
    &["DBSIZE"],
    &["SCAN", "0", "COUNT", "100", "MATCH", "nothing*"],
    &["GETRANGE", "missing", "0", "-1"],
    &["SETRANGE", "a", "5", "zero"],
    &["BITCOUNT", "a"],
    &["GEOADD", "geo", "13.361389", "38.115556", "Palermo"],
    &["GEODIST", "geo", "Palermo", "Palermo"],
    &["PFADD", "hll", "a"],
    &["PFCOUNT", "hll"],
    &["COMMAND", "GETKEYS", "GET", "k"],
    &["COMMAND", "COUNT"],
    &["WAIT", "0", "0"],
    &["FLUSHDB"],
    &["DBSIZE"],
];

#[tokio::test(flavor = "multi_thread")]
async fn each_reply_is_the_servers_in_both_versions() {
    let (_servers, _pool, mut direct, mut proxied) = pair().await;
    for version in ["2", "3"] {
        for wire in [&mut direct, &mut proxied] {
            assert!(!matches!(wire.command(&["HELLO", version]).await, Reply::Error(_)));
        }
        for command in CONVERSATION {
            let (expected, got) = (direct.command(command).await, proxied.command(command).await);
            assert_eq!(expected, got, "RESP{version} {command:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_side_by_side() {
    let (_servers, pool, _direct, mut old) = pair().await;
    let mut new = pool.redis_wire().await;
    assert!(matches!(new.command(&["HELLO", "3"]).await, Reply::Map(_)));
    assert_eq!(old.command(&["HSET", "h", "f", "v"]).await, Reply::Integer(1));
    let (field, value) = (Reply::Bulk(b"f".to_vec()), Reply::Bulk(b"v".to_vec()));
    for _ in 0..3 {
        assert_eq!(old.command(&["HGETALL", "h"]).await, Reply::Array(vec![field.clone(), value.clone()]));
        assert_eq!(new.command(&["HGETALL", "h"]).await, Reply::Map(vec![(field.clone(), value.clone())]));
    }
    assert!(matches!(new.command(&["HELLO", "2"]).await, Reply::Array(_)), "back again");
    assert!(matches!(new.command(&["HGETALL", "h"]).await, Reply::Array(_)));
    assert!(new.command(&["HELLO", "4"]).await.is_error("NOPROTO"));
    assert!(matches!(new.command(&["HELLO"]).await, Reply::Array(_)), "without a version it only tells");
}

#[tokio::test(flavor = "multi_thread")]
async fn hello_tells_what_drivers_look_for() {
    let (_servers, _pool, mut direct, mut proxied) = pair().await;
    let names = |reply: &Reply| match reply {
        Reply::Map(pairs) => pairs.iter().map(|(name, _)| name.text()).collect::<Vec<_>>(),
        other => panic!("a map: {other:?}"),
    };
    let value = |reply: &Reply, name: &str| match reply {
        Reply::Map(pairs) => pairs.iter().find(|(key, _)| key.text() == name).map(|(_, value)| value.text()),
        other => panic!("a map: {other:?}"),
    };
    let (expected, got) = (direct.command(&["HELLO", "3"]).await, proxied.command(&["HELLO", "3"]).await);
    assert_eq!(names(&expected), names(&got));
    for name in ["server", "version", "proto", "mode", "role"] {
        assert_eq!(value(&expected, name), value(&got, name), "{name}");
    }
    let id = value(&got, "id").expect("an id");
    assert_eq!(proxied.command(&["CLIENT", "ID"]).await.text(), id, "the same id each time");
}

#[tokio::test(flavor = "multi_thread")]
async fn inline_commands() {
    let (_servers, _pool, mut direct, mut proxied) = pair().await;
    let lines: [&[u8]; 8] = [
        b"PING\r\n",
        b"SET inline \"two words\"\r\n",
        b"GET inline\n",
        b"  GET   inline  \r\n",
        b"\r\n\r\nPING\r\n",
        b"SET k \"\\x41\\n\"\r\n",
        b"GET k\r\n",
        b"ECHO 'it\\'s'\r\n",
    ];
    for line in lines {
        direct.send(line).await;
        proxied.send(line).await;
        assert_eq!(direct.reply().await, proxied.reply().await, "{:?}", String::from_utf8_lossy(line));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_input_is_answered_as_redis_does_and_reaches_nobody() {
    let (servers, pool, ..) = pair().await;
    let mut good = pool.redis_wire().await;
    let inputs: [&[u8]; 10] = [
        b"*1\r\n:1\r\n",
        b"*2\r\n$3\r\nGET\r\n$-5\r\nx\r\n",
        b"*2\r\n$3\r\nGET\r\n$99999999999999\r\n",
        b"*9999999999\r\n",
        b"*abc\r\n",
        b"*1\r\n$abc\r\n",
        b"*1\r\n$600000000\r\n",
        b"SET \"unbalanced\r\n",
        b"*3\r\n$3\r\nSET\r\n*1\r\n$1\r\nx\r\n",
        b"*1\r\n+PING\r\n",
    ];
    for input in inputs {
        let what = String::from_utf8_lossy(input).into_owned();
        let (mut direct_bad, mut proxied_bad) = (Wire::connect(servers[0].port()).await, pool.redis_wire().await);
        direct_bad.send(input).await;
        proxied_bad.send(input).await;
        let expected = direct_bad.reply().await;
        assert_eq!(proxied_bad.read().await, Some(expected), "{what:?}");
        assert_eq!(direct_bad.read().await, None);
        assert_eq!(proxied_bad.read().await, None, "{what:?} ends the connection");
        assert_eq!(good.command(&["PING"]).await.text(), "PONG", "after {what:?}");
    }
    // HTTP is turned away as Redis does: without an answer.
    let mut http = pool.redis_wire().await;
    http.send(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(wait::soon("the end", http.read()).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_garbled_start_and_one_byte_at_a_time() {
    let (_servers, _pool, _direct, mut proxied) = pair().await;
    for byte in request(&["SET", "drip", "drop"]) {
        proxied.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(proxied.reply().await.text(), "OK");
    proxied.send(b"*0\r\n*-1\r\n").await;
    assert_eq!(proxied.command(&["GET", "drip"]).await.text(), "drop", "empty requests have no reply");
}

#[tokio::test(flavor = "multi_thread")]
async fn quit_comes_after_what_was_asked_before() {
    let (_servers, _pool, _direct, mut proxied) = pair().await;
    proxied.send(&[request(&["SET", "k", "v"]), request(&["GET", "k"]), request(&["QUIT"]), request(&["GET", "k"])].concat()).await;
    let replies = [proxied.reply().await.text(), proxied.reply().await.text(), proxied.reply().await.text()];
    assert_eq!(replies, ["OK", "v", "OK"]);
    assert_eq!(proxied.read().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn reset_starts_anew() {
    let (_servers, _pool, _direct, mut proxied) = pair().await;
    proxied.command(&["HELLO", "3"]).await;
    assert_eq!(proxied.command(&["SELECT", "3"]).await.text(), "OK");
    assert_eq!(proxied.command(&["SET", "k", "in three"]).await.text(), "OK");
    assert_eq!(proxied.command(&["MULTI"]).await.text(), "OK");
    assert_eq!(proxied.command(&["RESET"]).await.text(), "RESET");
    assert_eq!(proxied.command(&["GET", "k"]).await, Reply::Null, "database 0 again");
    assert!(matches!(proxied.command(&["HGETALL", "none"]).await, Reply::Array(_)), "RESP2 again");
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_unix_sockets_and_listening_on_one() {
    let server = RedisServer::start().await;
    let socket = sidepool_tests::place::directory("socket").join("redis.sock");
    let settings = Settings::new()
        .set("redis.main.listen", vec![format!("unix:{}", socket.display())])
        .set("redis.main.host", server.socket().to_string_lossy().into_owned());
    let _pool = Pooler::start(settings).await;
    let client = redis::Client::open(format!("unix://{}", socket.display())).expect("a URL");
    let mut connection = client.get_multiplexed_async_connection().await.expect("the socket is there");
    let answer: String = redis::cmd("ECHO").arg("through sockets").query_async(&mut connection).await.expect("an answer");
    assert_eq!(answer, "through sockets");
}
