//! What the metrics say about shared and leased Redis connections: by class, lane, reason and retry, how deep pipelines are and how much is merged.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Reply};
use sidepool_tests::settings::Settings;

#[tokio::test(flavor = "multi_thread")]
async fn merged_writes_and_deep_pipelines_show() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut wire = pool.redis_wire().await;
    wire.command(&["SET", "k", "v"]).await;
    wire.send(&request(&["GET", "k"]).repeat(100)).await;
    for _ in 0..100 {
        assert_eq!(wire.reply().await.text(), "v");
    }
    wire.command(&["SORT", "absent"]).await;
    let now = pool.scrape().await;
    let of = |name: &str, lane: &str| now.sum(name, &[("pool", "main/default/0/resp2/shared"), ("lane", lane)]);
    let (commands, writes) = (of("sidepool_redis_lane_commands_total", "usual"), of("sidepool_redis_writes_total", "usual"));
    assert!((commands - 101.0).abs() < 0.5, "{commands}");
    assert!((2.0..20.0).contains(&writes), "{writes} writes for 101 commands");
    assert!((of("sidepool_redis_lane_commands_total", "heavy") - 1.0).abs() < 0.5);
    assert!((of("sidepool_redis_writes_total", "heavy") - 1.0).abs() < 0.5);
    let depth = |bound: &str| now.sum("sidepool_redis_pipeline_depth_bucket", &[("pool", "main/default/0/resp2/shared"), ("le", bound)]);
    assert!(depth("1") >= 2.0 && depth("+Inf") > depth("4"), "some were alone and some were not");
    assert!(depth("8192") >= depth("+Inf") - 0.5);
    let class = |class: &str| now.sum("sidepool_redis_commands_total", &[("class", class)]);
    assert!((class("read") - 100.0).abs() < 1.5 && class("write") >= 1.0, "{} {}", class("read"), class("write"));
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_counted_by_what_for() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut wire = pool.redis_wire().await;
    wire.command(&["MULTI"]).await;
    wire.command(&["EXEC"]).await;
    wire.command(&["WATCH", "k"]).await;
    wire.command(&["UNWATCH"]).await;
    wire.command(&["BLPOP", "list", "0.01"]).await;
    assert_eq!(wire.command(&["WAIT", "0", "0"]).await, Reply::Integer(0));
    wire.command(&[&b"SET"[..], b"k", &vec![b'x'; 200_000]]).await;
    wire.command(&["HELLO", "3"]).await;
    wire.command(&["CLIENT", "TRACKING", "ON"]).await;
    let mut other = pool.redis_wire().await;
    other.command(&["MONITOR"]).await;
    let now = pool.scrape().await;
    for reason in ["transaction", "watch", "blocking", "wait", "large", "tracking", "monitor"] {
        let count = now.sum("sidepool_redis_leases_total", &[("reason", reason)]);
        assert!((count - 1.0).abs() < 0.5, "{reason}: {count}");
    }
}
