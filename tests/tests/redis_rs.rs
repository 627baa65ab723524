//! redis-rs through sidepool: multiplexed connections of both protocol versions, pushes, and a connection manager that lives through a lost server.

use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::streams::{StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands as _, AsyncConnectionConfig, Client, PushKind, Script, Value};
use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::RedisServer;
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

fn client(pool: &Pooler, version: &str) -> Client {
    Client::open(format!("redis://127.0.0.1:{}/?protocol={version}", pool.redis_port())).expect("a URL")
}

/// Without the client's own limits, of a second for connecting and half a second for a reply: some of what is asked here blocks, and machines may be slow.
fn patience() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(Some(wait::PATIENCE))
}

async fn patient(client: &Client) -> MultiplexedConnection {
    client.get_multiplexed_async_connection_with_config(&patience()).await.expect("somebody listens")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_multiplexed_connection_does_all_that_it_does_at_the_server() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    for version in ["resp2", "resp3"] {
        let client = client(&pool, version);
        let (mut one, mut two) = (patient(&client).await, patient(&client).await);
        let () = redis::cmd("FLUSHALL").query_async(&mut one).await.unwrap();
        let numbers: Vec<i64> =
            redis::pipe().cmd("INCR").arg("n").cmd("INCR").arg("n").cmd("INCR").arg("n").query_async(&mut one).await.unwrap();
        assert_eq!(numbers, [1, 2, 3], "{version}");
        let (set, got): (String, i64) = redis::pipe().atomic().set("a", 41).incr("a", 1).query_async(&mut one).await.unwrap();
        assert_eq!((set.as_str(), got), ("OK", 42));
        let script = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
        assert_eq!(script.key("a").arg(8).invoke_async::<i64>(&mut one).await.unwrap(), 50);
        let popped = tokio::spawn(async move { two.blpop::<_, (String, String)>("queue", 30.0).await });
        let () = one.rpush("queue", "job").await.unwrap();
        assert_eq!(popped.await.unwrap().unwrap(), ("queue".to_owned(), "job".to_owned()));
        let _: String = one.xadd("stream", "1-1", &[("field", "value")]).await.unwrap();
        let options = StreamReadOptions::default().block(5000).count(10);
        let read: StreamReadReply = one.xread_options(&["stream"], &["0"], &options).await.unwrap();
        assert_eq!(read.keys[0].ids[0].get::<String>("field").as_deref(), Some("value"));
        let error = one.lpush::<_, _, i64>("a", "x").await.unwrap_err();
        assert_eq!(error.code(), Some("WRONGTYPE"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_come_beside_replies() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let client = client(&pool, "resp3");
    let (sender, mut pushes) = tokio::sync::mpsc::unbounded_channel();
    let config = patience().set_push_sender(sender);
    let mut one = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
    one.subscribe("news").await.unwrap();
    let () = one.publish("news", "today").await.unwrap();
    let () = one.set("k", "and commands as ever").await.unwrap();
    let mut kinds = Vec::new();
    while kinds.last() != Some(&PushKind::Message) {
        let push = wait::soon("a push", pushes.recv()).await.expect("the connection lives");
        if push.kind == PushKind::Message {
            assert_eq!(push.data, [Value::BulkString(b"news".to_vec()), Value::BulkString(b"today".to_vec())]);
        }
        kinds.push(push.kind);
    }
    assert_eq!(kinds, [PushKind::Subscribe, PushKind::Message]);
    assert_eq!(one.get::<_, String>("k").await.unwrap(), "and commands as ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_manager_lives_through_a_restart_of_the_server() {
    let mut server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let config = ConnectionManagerConfig::new().set_response_timeout(Some(wait::PATIENCE)).set_connection_timeout(Some(wait::PATIENCE));
    let mut manager = ConnectionManager::new_with_config(client(&pool, "resp3"), config).await.unwrap();
    let () = manager.set("k", 1).await.unwrap();
    let id: u64 = redis::cmd("CLIENT").arg("ID").query_async(&mut manager).await.unwrap();
    server.stop();
    server.launch().await;
    wait::until("the server answers again", async || manager.set::<_, _, ()>("k", 2).await.ok()).await;
    let same: u64 = redis::cmd("CLIENT").arg("ID").query_async(&mut manager).await.unwrap();
    assert_eq!(id, same, "it never noticed that its connection had gone");
    assert_eq!(manager.get::<_, i64>("k").await.unwrap(), 2);
}
