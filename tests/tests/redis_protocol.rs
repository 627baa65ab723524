//! What is no RESP, what is just so, and what is too much of it: byte for byte what the bare server answers, and nobody else notices.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Reply, Wire};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A request of which the bare server takes the rest of a line that does not end to be too long.
const TOO_LONG: usize = 70_000;

/// All that comes back for `input` and for the client having closed its own direction, up to the end.
async fn answer(port: u16, input: &[u8]) -> Vec<u8> {
    let mut wire = Wire::connect(port).await;
    // Whoever is closed in the middle of what it sends may be told by a reset; what came before counts.
    let _ = wire.stream().write_all(input).await;
    let _ = wire.stream().shutdown().await;
    let mut all = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(read @ 1..) = wait::soon("the end", wire.stream().read(&mut piece)).await {
        all.extend_from_slice(&piece[..read]);
    }
    all
}

/// Compares what `inputs` get from a bare server and through the proxy, and asks whether somebody else noticed.
async fn same(direct: &RedisServer, pool: &Pooler, inputs: &[Vec<u8>]) {
    let mut good = pool.redis_wire().await;
    if let Some(password) = direct.password() {
        good.command(&["AUTH", password]).await;
    }
    for input in inputs {
        let shown = String::from_utf8_lossy(&input[..input.len().min(80)]).into_owned();
        let (expected, got) = (answer(direct.port(), input).await, answer(pool.redis_port(), input).await);
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&expected), "{shown:?}");
        assert_eq!(got, expected, "{shown:?}");
        assert_eq!(good.command(&["PING"]).await.text(), "PONG", "after {shown:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn protocol_errors_are_the_servers_byte_for_byte() {
    let (direct, server) = (RedisServer::start().await, RedisServer::start().await);
    let pool = Pooler::start(Settings::redis(&server)).await;
    let endless = |head: &[u8], byte: u8| [head, &[byte; TOO_LONG][..]].concat();
    let mut inputs = vec![
        endless(b"*", b'1'),
        endless(b"*1\r\n$", b'1'),
        endless(b"*1\r\n", b'$'),
        endless(b"*1\r\n", b'#'),
        endless(b"", b'a'),
        endless(b"PING\r\nPING ", b'a'),
    ];
    let short: &[&[u8]] = &[
        b"PING\r\n*1\r\n:3\r\n",
        b"*1\r\n$4\r\nPING\r\n*x\r\n*1\r\n$4\r\nPING\r\n",
        b"*2147483648\r\n",
        b"*2147483647\r\n$1\r\n#",
        b"*-2147483649\r\nPING\r\n",
        b"*-1\r\n*0\r\nPING\r\n",
        b"*01\r\n$4\r\nPING\r\n",
        b"*+1\r\n",
        b"* 1\r\n",
        b"*\r\n",
        b"*1\n$4\nPING\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$ 4\r\nPING\r\n",
        b"*1\r\n$04\r\nPING\r\n",
        b"*1\r\n$9223372036854775808\r\n",
        b"*1\r\n$0\r\n\r\nPING\r\n",
        b"PING \"a\r\n",
        b"PING 'a\r\nPING\r\n",
        b"PING \"a\"b\r\n",
        b"ECHO \"\\x\"\r\nECHO \"\\x4z\"\r\nECHO \"\\n\\r\\t\\b\\a\\q\"\r\nECHO ''\r\n",
        b"PING\0\r\nPING\r\n",
        b"\0PING\r\n",
        b"Host: example.org\r\nPING\r\n",
        b"POST / HTTP/1.0\r\n\r\nPING\r\n",
        b"*1\r\n$5\r\nhost:\r\nPING\r\n",
        b"$4\r\nPING\r\n",
        b"MULTI\r\nSET a 1\r\n*1\r\n$x\r\n",
        b"WATCH a\r\n*1\r\n$x\r\n",
        b"SUBSCRIBE a\r\n*1\r\n$x\r\n",
        b"*1\r\n$5\r\nMULTI\r\n*3\r\n$3\r\nSET\r\n$1\r\nx\r\n#1\r\n",
    ];
    inputs.extend(short.iter().map(|input| input.to_vec()));
    same(&direct, &pool, &inputs).await;
    let found: Vec<Vec<u8>> =
        (0..=u8::MAX).filter(|byte| *byte != b'$').map(|byte| [b"PING\r\n*1\r\n", &[byte][..], b"4\r\nPING\r\n"].concat()).collect();
    same(&direct, &pool, &found).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_kept_as_short_as_the_server_keeps_them() {
    let (direct, server) = (RedisServer::start_with_password("hidden").await, RedisServer::start_with_password("hidden").await);
    let settings = Settings::redis(&server).without("redis.main.password").set("redis.main.auth_type", "pass-through");
    let pool = Pooler::start(settings).await;
    let inputs: Vec<Vec<u8>> = [
        &b"PING\r\n*10\r\n$4\r\nPING\r\n*11\r\n"[..],
        b"*11\r\n$4\r\nPING\r\n",
        b"*1\r\n$16385\r\n",
        b"*2\r\n$4\r\nAUTH\r\n$16385\r\n",
        b"AUTH hidden\r\n*11\r\n$4\r\nMGET\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n",
        b"GET k\r\nNOSUCHCOMMAND\r\nHELLO 3\r\nQUIT\r\n",
        b"AUTH wrong\r\nGET k\r\n*1\r\n:1\r\n",
    ]
    .map(<[u8]>::to_vec)
    .into();
    same(&direct, &pool, &inputs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_at_a_time_is_as_good_as_all_at_once() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut wire = pool.redis_wire().await;
    let long = "v".repeat(300);
    let conversation: [(&[u8], &str); 8] = [
        (&request(&["SET", "k", &long]), "OK"),
        (&request(&["STRLEN", "k"]), "300"),
        (b"PING\r\n", "PONG"),
        (b"ECHO \"two words\"\n", "two words"),
        (b"MULTI\r\n", "OK"),
        (&request(&["INCR", "n"]), "QUEUED"),
        (b"DISCARD\r\n", "OK"),
        (&request(&["BLPOP", "none", "0.01"]), "(nil)"),
    ];
    for (bytes, expected) in conversation {
        for byte in bytes {
            wire.send(&[*byte]).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(wire.reply().await.text(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_argument_is_as_long_as_the_server_says() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut other = pool.redis_wire().await;
    let limit = |bytes: &'static str| ["CONFIG", "SET", "proto-max-bulk-len", bytes];
    assert_eq!(other.command(&limit("1mb")).await.text(), "OK");
    let head = |length: u64| format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${length}\r\n");
    let mut direct = server.direct().await;
    let mut proxied = pool.redis_wire().await;
    for wire in [&mut direct, &mut proxied] {
        wire.send(head((1 << 20) + 1).as_bytes()).await;
        assert_eq!(wire.reply().await, Reply::Error("ERR Protocol error: invalid bulk length".to_owned()));
        assert_eq!(wire.read().await, None, "it is closed");
    }
    assert_eq!(other.command(&limit("1gb")).await.text(), "OK");
    // More than a server takes that nobody told anything; it is not sent, but it may be.
    let mut large = pool.redis_wire().await;
    large.send(head(700 << 20).as_bytes()).await;
    assert!(large.is_silent().await, "it may go on");
    drop(large);
    assert_eq!(other.command(&["EXISTS", "k"]).await.text(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_limits_of_buffers_cost_only_who_runs_into_them() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.shared_connections", 1)).await;
    let mut other = pool.redis_wire().await;
    for setting in [["client-query-buffer-limit", "1mb"], ["client-output-buffer-limit", "normal 1mb 0 0"]] {
        assert_eq!(other.command(&["CONFIG", "SET", setting[0], setting[1]]).await.text(), "OK");
    }
    // A request that the server does not hold: it closes, and so do we, unless all of it was on its way by then; nothing of it is executed.
    for port in [server.port(), pool.redis_port()] {
        let mut greedy = Wire::connect(port).await;
        let _ = greedy.try_send(&request(&[&b"SET"[..], b"large", &vec![b'x'; 3 << 20]])).await;
        let answer = greedy.read().await;
        assert!(answer.as_ref().is_none_or(|answer| answer.is_error("UPSTREAM")), "{answer:?}");
        assert_eq!(other.command(&["EXISTS", "large"]).await.text(), "0");
    }
    // A reply that the server does not hold: whoever asked is told, the others get theirs.
    let mut greedy = pool.redis_wire().await;
    let script = "local all = {} for one = 1, 20 do all[one] = string.rep('x', 1000000) end return all";
    greedy.send(&request(&["EVAL", script, "0"])).await;
    other.send(&request(&["STRLEN", "none"]).repeat(20)).await;
    assert!(greedy.reply().await.is_error("UPSTREAM"));
    for _ in 0..20 {
        assert_eq!(other.reply().await, Reply::Integer(0));
    }
    assert_eq!(greedy.command(&["PING"]).await.text(), "PONG", "and may ask again");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_too_large_for_a_closed_gate() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.command_policy", "sidecar")).await;
    let large = "+get ".repeat(40_000);
    let mut wire = pool.redis_wire().await;
    for command in [["ACL", "SETUSER", "mallory", &large], ["CONFIG", "SET", "maxmemory", &large], ["MODULE", "LOAD", "m.so", &large]] {
        let refused = wire.command(&command).await;
        assert!(refused.is_error("NOPERM") && refused.text().contains("command_policy"), "{}: {refused:?}", command[0]);
        assert_eq!(wire.command(&["PING"]).await.text(), "PONG", "all of it was taken out of the way");
    }
    assert_eq!(server.direct().await.command(&["ACL", "GETUSER", "mallory"]).await, Reply::Null);
    // Inside a transaction it is a mistake that discards all of it.
    assert_eq!(wire.command(&["MULTI"]).await.text(), "OK");
    assert_eq!(wire.command(&["SET", "k", "v"]).await.text(), "QUEUED");
    assert!(wire.command(&["ACL", "SETUSER", "mallory", &large]).await.is_error("NOPERM"));
    assert!(wire.command(&["EXEC"]).await.is_error("EXECABORT"));
    assert_eq!(wire.command(&["EXISTS", "k"]).await, Reply::Integer(0));
    // What is about the client itself would stay on the connection for whoever is next. It is closed in the middle of what it sends, perhaps.
    let _ = wire.try_send(&request(&["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", &large])).await;
    assert!(wire.reply().await.is_error("ERR"));
    assert_eq!(wire.read().await, None);
}
