//! Several hosts of one database: connections are spread, a dead host does not hold up the others, and without load balancing one is stayed on.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::{Duration, Instant};

use sidepool_tests::conformance::proves;
use sidepool_tests::fault::{Behaviour, FaultProxy};
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::{Cluster, Wire};
use sidepool_tests::scrape::{self, Scrape};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

/// Which server a session is on.
const WHICH: &str = "SELECT current_setting('port')";

/// Sidepool in front of these ports on 127.0.0.1, one client each in session mode, so that each has a connection of its own.
fn over(cluster: &Cluster, hosts: &str) -> Settings {
    Settings::postgres(cluster)
        .set("postgres.databases.app.host", hosts)
        .set("postgres.pool_mode", "session")
        .set("postgres.server_connect_backoff", "50ms")
}

async fn servers(pool: &Pooler, clients: usize) -> (Vec<Wire>, Vec<String>) {
    let (mut wires, mut seen) = (Vec::new(), Vec::new());
    for _ in 0..clients {
        let mut wire = pool.wire().await;
        seen.push(wire.value(WHICH).await);
        wires.push(wire);
    }
    (wires, seen)
}

fn distinct(seen: &[String]) -> BTreeSet<&str> {
    seen.iter().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_spread_over_all_hosts() {
    let _proof = proves(&["setting [databases] host", "setting [databases] port"]);
    let (one, two) = (Cluster::start().await, Cluster::start().await);
    let hosts = format!("127.0.0.1,127.0.0.1:{},{}", two.port(), one.socket_directory().display());
    let pool = Pooler::start(over(&one, &hosts)).await;
    let (_wires, seen) = servers(&pool, 5).await;
    assert_eq!(distinct(&seen).len(), 2, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_host_does_not_hold_up_the_others() {
    let (one, two) = (Cluster::start().await, Cluster::start().await);
    // Refused, silent at the login, and alive.
    let refused = FaultProxy::start(one.port()).await;
    refused.behave(Behaviour::Refuse);
    let silent = FaultProxy::start(one.port()).await;
    silent.behave(Behaviour::Stall);
    let hosts = format!("127.0.0.1:{},127.0.0.1:{},127.0.0.1:{}", refused.port(), silent.port(), two.port());
    // A host that is to be stayed on has its share of the time for a login; where connects are spread, another is as good.
    for (policy, timeout) in [("round-robin", "60s"), ("disable", "3s")] {
        let settings = over(&one, &hosts).set("postgres.databases.app.load_balance_hosts", policy).set("postgres.default_pool_size", 20);
        let pool = Pooler::start(settings.set("postgres.server_connect_timeout", timeout)).await;
        let started = Instant::now();
        let (_wires, seen) = servers(&pool, 20).await;
        assert_eq!(distinct(&seen), BTreeSet::from([&*two.port().to_string()]));
        // The silent one costs a moment once, and is then passed over: nobody waits for it again. Its share of the timeout is twenty seconds, or one for
        // each client.
        assert!(started.elapsed() < Duration::from_secs(12), "{policy}: {:?}", started.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_worked_and_is_silent_now_does_not_hold_up_the_others() {
    let (one, two) = (Cluster::start().await, Cluster::start().await);
    let first = FaultProxy::start(one.port()).await;
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", first.port(), two.port());
    let settings = over(&one, &hosts).set("postgres.default_pool_size", 20).set("postgres.server_connect_timeout", "60s");
    let pool = Pooler::start(settings).await;
    let (wires, seen) = servers(&pool, 4).await;
    assert_eq!(distinct(&seen).len(), 2);
    first.behave(Behaviour::StallNew);
    let started = Instant::now();
    let (_more, seen) = servers(&pool, 4).await;
    assert_eq!(distinct(&seen), BTreeSet::from([&*two.port().to_string()]));
    // Far less than the share of the timeout that the silent one could take.
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    drop(wires);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_comes_back_is_used_again() {
    let (one, two) = (Cluster::start().await, Cluster::start().await);
    let proxy = FaultProxy::start(one.port()).await;
    proxy.behave(Behaviour::Refuse);
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", proxy.port(), two.port());
    let pool = Pooler::start(over(&one, &hosts).set("postgres.server_login_retry", "300ms")).await;
    let (wires, seen) = servers(&pool, 3).await;
    assert_eq!(distinct(&seen).len(), 1);
    drop(wires);
    proxy.behave(Behaviour::Pass);
    wait::until("the first host to be used again", async || {
        // So that new connections are needed.
        two.terminate_connections().await;
        let (_wires, seen) = servers(&pool, 2).await;
        (distinct(&seen).len() == 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_keeps_failing_is_ejected_shown_and_brought_back_by_a_probe() {
    let (one, two) = (Cluster::start().await, Cluster::start().await);
    let proxy = FaultProxy::start(one.port()).await;
    proxy.behave(Behaviour::Refuse);
    let (bad, good) = (format!("127.0.0.1:{}", proxy.port()), format!("127.0.0.1:{}", two.port()));
    let pool =
        Pooler::start(over(&one, &format!("{bad},{good}")).set("postgres.server_login_retry", "2s").set("postgres.default_pool_size", 20))
            .await;
    let addresses = |now: &Scrape, host: &str, state: &str| now.sum("sidepool_upstream_addresses", &[("host", host), ("state", state)]);
    let opened = |now: &Scrape, host: &str| now.sum("sidepool_upstream_address_opens_total", &[("host", host)]);
    // Every client is served by the other host, although half of the connects begin with the one that breaks off.
    let (wires, seen) = servers(&pool, 10).await;
    assert_eq!(distinct(&seen), BTreeSet::from([&*two.port().to_string()]));
    let now = pool.scrape().await;
    assert!(opened(&now, &bad) >= 1.0 && opened(&now, &good) < 0.5);
    assert!((addresses(&now, &good, "closed") - 1.0).abs() < 0.5 && addresses(&now, &bad, "closed") < 0.5);
    pool.process().log().line_with("connects in a row failed").await;
    let (begun, tried) = (Instant::now(), proxy.accepted());
    let (more, _) = servers(&pool, 5).await;
    let accepted = proxy.accepted();
    // The pause after a probe that failed is half a second at least, and so there may be a second one within the first second.
    let probes = 1 + begun.elapsed().as_millis() / 500;
    assert!(u128::from(accepted) <= u128::from(tried) + probes, "it is avoided but for a probe: {accepted} after {tried}");
    let status = scrape::get(pool.settings().admin_port(), "/statusz").await.expect("it answers").body;
    assert!(status.contains(&format!("\"{bad}\"")) && status.contains("\"half_open\""), "{status}");
    drop((wires, more));
    proxy.behave(Behaviour::Pass);
    wait::until("the host to be used again", async || {
        // So that new connections are needed.
        two.terminate_connections().await;
        let (_wires, seen) = servers(&pool, 2).await;
        (distinct(&seen).len() == 2).then_some(())
    })
    .await;
    pool.metrics_show("the host to be as good as the other", |now| (addresses(now, &bad, "closed") - 1.0).abs() < 0.5).await;
    pool.process().log().line_with("a server address works again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_load_balancing_one_host_is_stayed_on() {
    let _proof = proves(&["setting [databases] load_balance_hosts"]);
    let (one, two) = (Cluster::start().await, Cluster::start().await);
    let first = FaultProxy::start(one.port()).await;
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", first.port(), two.port());
    let pool = Pooler::start(over(&one, &hosts).set("postgres.databases.app.load_balance_hosts", "disable")).await;
    let (wires, seen) = servers(&pool, 4).await;
    assert_eq!(distinct(&seen), BTreeSet::from([&*one.port().to_string()]));
    drop(wires);
    // Only when it fails is the next one gone to, and then stayed on although the first is back.
    first.behave(Behaviour::Refuse);
    first.cut();
    wait::until("the connections to be gone", async || (one.connections().await == 0).then_some(())).await;
    let (wires, seen) = servers(&pool, 2).await;
    assert_eq!(distinct(&seen), BTreeSet::from([&*two.port().to_string()]));
    first.behave(Behaviour::Pass);
    let (_more, seen) = servers(&pool, 2).await;
    assert_eq!(distinct(&seen), BTreeSet::from([&*two.port().to_string()]));
    drop(wires);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_goes_to_the_server_that_runs_the_query() {
    let (one, two) = (Cluster::start().await, Cluster::start().await);
    let hosts = format!("127.0.0.1,127.0.0.1:{}", two.port());
    let pool = Pooler::start(over(&one, &hosts)).await;
    let (mut wires, seen) = servers(&pool, 4).await;
    assert_eq!(distinct(&seen).len(), 2);
    for wire in &mut wires {
        let (process, secret) = wire.cancel_key.clone().expect("a key");
        wire.send(&sidepool_tests::postgres::frame::query("SELECT pg_sleep(60)")).await;
        // It has to run before it can be cancelled; a cancel that comes too early does nothing.
        let mut answer = pin!(wire.until_ready());
        let answer = wait::until("the cancel to hit", async || {
            let mut cancel = Wire::connect(pool.postgres_port()).await;
            cancel.send(&sidepool_tests::postgres::frame::cancel(process, &secret)).await;
            tokio::time::timeout(Duration::from_millis(300), answer.as_mut()).await.ok()
        })
        .await;
        let error = sidepool_tests::postgres::wire::first_error(&answer).expect("an error");
        assert_eq!(error.field(b'C').as_deref(), Some("57014"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_changes_moves_the_connections() {
    let (one, two) = (Cluster::start().await, Cluster::start().await);
    let settings = over(&one, "127.0.0.1");
    let mut pool = Pooler::start(settings.clone()).await;
    let (wires, _) = servers(&pool, 2).await;
    drop(wires);
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", two.port(), two.port());
    pool.reload(settings.set("postgres.databases.app.host", hosts)).await;
    let (_wires, seen) = servers(&pool, 3).await;
    assert_eq!(distinct(&seen), BTreeSet::from([&*two.port().to_string()]));
    wait::until("the old connections to be gone", async || (one.connections().await == 0).then_some(())).await;
}
