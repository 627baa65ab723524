//! Every scenario, small, through sidepool: nothing that was promised is broken, and whoever can be served is. Figures come from the full size.

use std::time::{Duration, Instant};

use sidepool_scenarios::network::Network;
use sidepool_scenarios::postgres::client::Door as PostgresDoor;
use sidepool_scenarios::report::Report;
use sidepool_scenarios::scale::Scale;
use sidepool_scenarios::scenario::{Order, Scenario};
use sidepool_scenarios::stage::{Door, Peer, PostgresStage, RedisStage, Stage};
use sidepool_scenarios::tally::Failure;

async fn play(scenario: Scenario) -> Option<Report> {
    let order = Order { peer: Peer::Sidepool, scale: Scale::Small, soak: Duration::from_secs(5) };
    match scenario.play(order).await {
        Ok(report) => {
            assert!(report.asked > 0 && report.broken.is_empty(), "{}", report.line());
            assert_eq!((report.closed, report.silent), (0, 0), "everybody is served or told: {}", report.line());
            Some(report)
        }
        Err(reason) => {
            // A network can be cut by root alone.
            eprintln!("{} cannot be played here: {reason}", scenario.name());
            assert!(matches!(scenario, Scenario::Cut5 | Scenario::RedisCut5));
            None
        }
    }
}

/// Plays it and sees to it that everybody is served.
async fn serves_all(scenario: Scenario) -> Report {
    let report = play(scenario).await.expect("it can be played anywhere");
    assert!(report.told.is_empty(), "{}", report.line());
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_logins_is_served_whole() {
    let report = serves_all(Scenario::Burst).await;
    assert!(report.connects <= 20 + 5, "no more connections than the pool may have: {}", report.line());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spike_leaves_nothing_behind() {
    let report = serves_all(Scenario::Spike).await;
    let left = report.figures["files_after"] - report.figures["files_before"];
    assert!(left <= 20.0 + 12.0, "the pool's connections and the witnesses at most: {}", report.line());
}

#[tokio::test(flavor = "multi_thread")]
async fn exhaustion_is_told_and_ends_by_itself() {
    let report = play(Scenario::Exhaustion).await.expect("it can be played anywhere");
    assert!(!report.told.is_empty(), "who waits too long is told: {}", report.line());
    assert!(report.recovery_s.is_some_and(|seconds| seconds < 30.0), "{}", report.line());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_greedy_user_does_not_starve_a_small_one() {
    serves_all(Scenario::Fairness).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_survived() {
    let report = play(Scenario::Restart).await.expect("it can be played anywhere");
    assert!(report.recovery_s.is_some_and(|seconds| seconds < 30.0), "{}", report.line());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_elsewhere_is_followed() {
    let report = play(Scenario::Failover).await.expect("it can be played anywhere");
    assert!(report.recovery_s.is_some_and(|seconds| seconds < 30.0), "{}", report.line());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_written_is_nobodys_trouble() {
    serves_all(Scenario::LogFull).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_network_is_survived() {
    if let Some(report) = play(Scenario::Cut5).await {
        assert!(report.recovery_s.is_some_and(|seconds| seconds < 30.0), "{}", report.line());
    }
}

/// A network to cut, where that is possible: root alone can.
fn network() -> Option<Network> {
    Network::new().inspect_err(|reason| eprintln!("nothing can vanish here: {reason}")).ok()
}

/// Whoever is in the middle of a request when the server vanishes is told, with the defaults.
async fn is_told(network: &Network, request: impl Future<Output = Result<(), Failure>>) {
    network.cut();
    let asked = Instant::now();
    let answer = request.await;
    assert!(matches!(answer, Err(Failure::Told(_))), "{answer:?} after {:?}", asked.elapsed());
    assert!(asked.elapsed() < Duration::from_secs(18), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_vanished_is_told_to_whoever_waits() {
    let Some(network) = network() else { return };
    let stage = PostgresStage::set(Peer::Sidepool, Some(&network)).await;
    let mut session = stage.door().enter().await.expect("it is let in");
    PostgresDoor::ask(&mut session, "before").await.expect("it is served");
    is_told(&network, PostgresDoor::ask(&mut session, "into the void")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_a_server_that_has_vanished_is_told_to_whoever_waits() {
    let Some(network) = network() else { return };
    let stage = RedisStage::set(Peer::Sidepool, Some(&network)).await;
    let mut session = stage.door().session().await.expect("it is let in");
    session.ask(&[&["INCR", "n"]]).await.expect("it is served");
    // What only reads is asked again on another connection, and may wait for one as long as others do.
    is_told(&network, async { session.ask(&[&["INCR", "n"]]).await.map(drop) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_logins_are_thrown_out_and_cost_nobody_a_place() {
    let report = serves_all(Scenario::SlowLogin).await;
    assert!((report.figures["of_them_thrown_out"] - 1.0).abs() < 1e-9, "{}", report.line());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_every_place_is_held_by_slow_logins_real_ones_are_served() {
    let report = serves_all(Scenario::SlowCrowd).await;
    assert!(report.asked > 10, "{}", report.line());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_logins_under_tls_is_served_whole() {
    serves_all(Scenario::TlsBurst).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_hold_up_nobody() {
    serves_all(Scenario::SlowReader).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_the_server_ends_are_replaced() {
    play(Scenario::KillStorm).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_come_and_go_leave_nothing_behind() {
    let report = serves_all(Scenario::Soak).await;
    assert!(report.figures["files_end"] <= report.figures["files_warm"] + 60.0, "{}", report.line());
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_a_burst_is_served_whole() {
    serves_all(Scenario::RedisBurst).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_a_spike_leaves_nothing_behind() {
    serves_all(Scenario::RedisSpike).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_a_restart_is_survived() {
    let report = play(Scenario::RedisRestart).await.expect("it can be played anywhere");
    assert!(report.recovery_s.is_some_and(|seconds| seconds < 30.0), "{}", report.line());
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_a_cut_network_is_survived() {
    if let Some(report) = play(Scenario::RedisCut5).await {
        assert!(report.recovery_s.is_some_and(|seconds| seconds < 30.0), "{}", report.line());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_slow_readers_hold_up_nobody() {
    serves_all(Scenario::RedisSlowReader).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_connections_that_the_server_ends_are_replaced() {
    play(Scenario::RedisKillStorm).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_clients_that_come_and_go_leave_nothing_behind() {
    serves_all(Scenario::RedisSoak).await;
}
