//! A load balancer before the server (a real HAProxy) that accepts and cuts: it has no server behind it, or closes connections soon after they were
//! opened. What it accepts says nothing; what becomes of it does.

use std::time::{Duration, Instant};

use sidepool_tests::haproxy::Haproxy;
use sidepool_tests::place;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::Cluster;
use sidepool_tests::redis::{RedisServer, Reply};
use sidepool_tests::settings::Settings;

/// Longer than a login takes, and much shorter than a second: connections that last that long are no connections.
const SHORT: Duration = Duration::from_millis(300);

/// For so long connects are counted, once it is known that they are lost.
const WATCHED: Duration = Duration::from_secs(3);

/// Connects of a pool within a second at most: had it opened one as soon as the last was lost, there were hundreds.
const MOST_A_SECOND: u64 = 15;

/// Counts connects for a while.
async fn is_tried_with_pauses(balancer: &Haproxy) {
    let (begun, before) = (Instant::now(), balancer.accepted().await);
    tokio::time::sleep(WATCHED).await;
    let tried = balancer.accepted().await - before;
    let watched = begun.elapsed();
    println!("{tried} connects in {watched:?}");
    assert!(tried <= MOST_A_SECOND * watched.as_secs(), "{tried} connects in {watched:?}");
}

fn over(cluster: &Cluster, balancer: &Haproxy, other: &Cluster) -> Settings {
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", balancer.port(), other.port());
    Settings::postgres(cluster).set("postgres.databases.app.host", hosts).set("workers", 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balancer_without_a_server_is_avoided_and_no_client_hears_of_it() {
    let (one, two) = (Cluster::start().await, Cluster::start().await);
    let balancer = Haproxy::start(place::free_port(), Duration::from_secs(30)).await;
    let pool = Pooler::start(over(&one, &balancer, &two).set("postgres.pool_mode", "session").set("postgres.default_pool_size", 20)).await;
    let mut wires = Vec::new();
    for _ in 0..10 {
        let mut wire = pool.wire().await;
        assert_eq!(wire.value("SELECT current_setting('port')").await, two.port().to_string());
        wires.push(wire);
    }
    pool.process().log().line_with("connects in a row failed").await;
    let host = format!("127.0.0.1:{}", balancer.port());
    pool.metrics_show("the open breaker", |now| now.sum("sidepool_upstream_address_opens_total", &[("host", &host)]) > 0.5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balancer_that_cuts_what_it_let_in_is_avoided() {
    let (one, two) = (Cluster::start().await, Cluster::start().await);
    let balancer = Haproxy::start(one.port(), SHORT).await;
    let pool = Pooler::start(over(&one, &balancer, &two).set("postgres.min_pool_size", 4)).await;
    let mut wire = pool.wire().await;
    pool.process().log().line_with("were lost as soon as they were open").await;
    is_tried_with_pauses(&balancer).await;
    for round in 0..20 {
        assert_eq!(wire.value(&format!("SELECT {round}")).await, round.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_redis_connection_that_is_cut_in_use_counts_as_well() {
    let server = RedisServer::start().await;
    let balancer = Haproxy::start(server.port(), SHORT).await;
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.port", i64::from(balancer.port())).set("workers", 1)).await;
    let host = format!("127.0.0.1:{}", balancer.port());
    let opened = async || pool.scrape().await.sum("sidepool_upstream_address_opens_total", &[("host", &host)]);
    let mut wire = pool.redis_wire().await;
    // No byte goes either way for longer than the balancer waits.
    let long = "local begun = redis.call('TIME') repeat local now = redis.call('TIME') \
                until (now[1] - begun[1]) * 1000000 + now[2] - begun[2] > 600000 return 1";
    let mut asked = 0;
    while opened().await < 0.5 {
        assert!(asked < 10, "it was cut ten times");
        asked += 1;
        let answer = wire.command(&["EVAL", long, "0"]).await;
        // A balancer that stood still meanwhile finds the answer there, and cuts nothing.
        assert!(answer.is_error("UPSTREAM") || answer == Reply::Integer(1), "whether it ran, nobody can know: {answer:?}");
    }
    pool.process().log().line_with("were lost as soon as they were open").await;
    is_tried_with_pauses(&balancer).await;
    assert_eq!(wire.command(&["ECHO", "x"]).await.text(), "x", "it is asked again when its pause is over");
}
