//! Several processes as one: a cancel request reaches its query whichever process it comes in at (row P8).

use std::collections::BTreeSet;
use std::time::Duration;

use sidepool_tests::conformance::proves;
use sidepool_tests::console::{number, rows};
use sidepool_tests::place;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cancel::{cancel_at, is_cancelled, runs};
use sidepool_tests::postgres::{Cluster, Wire, frame};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

/// A process that listens on `shared` with the others and on a port of its own, where its peers reach it.
fn settings(cluster: &Cluster, id: u16, shared: u16) -> Settings {
    let settings = Settings::postgres(cluster);
    let listen = [shared, settings.postgres_port()].map(|port| format!("127.0.0.1:{port}")).to_vec();
    settings.set("postgres.listen", listen).set("postgres.so_reuseport", true).set("postgres.peer_id", i64::from(id))
}

fn with_peers(settings: Settings, peers: &[(u16, u16)]) -> Settings {
    peers.iter().fold(settings, |settings, (id, port)| {
        let section = format!("postgres.peers.{id}");
        settings.set(&format!("{section}.host"), "127.0.0.1").set(&format!("{section}.port"), i64::from(*port))
    })
}

/// So many processes on one port, each with all as its peers (a list that names oneself is what people share between machines).
async fn fleet(cluster: &Cluster, count: u16) -> (u16, Vec<Pooler>) {
    let shared = place::free_port();
    let members: Vec<Settings> = (1..=count).map(|id| settings(cluster, id, shared)).collect();
    let peers: Vec<(u16, u16)> = (1..=count).zip(members.iter().map(Settings::postgres_port)).collect();
    let mut fleet = Vec::new();
    for member in members {
        fleet.push(Pooler::start(with_peers(member, &peers)).await);
    }
    (shared, fleet)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_says_whose_it_is_where_pgbouncer_says_it() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(settings(&cluster, 0x0102, place::free_port())).await;
    let (process, secret) = pool.wire().await.cancel_key.expect("a key");
    let key = [process.to_be_bytes().as_slice(), &secret].concat();
    assert_eq!((key.len(), key[0] & 0x80, key[1], key[2], key[7] & 3), (8, 0, 0x02, 0x01, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_is_sent_on_to_the_peer_that_made_the_key() {
    let _proof = proves(&["setting peer_id", "setting [peers] host", "setting [peers] port"]);
    let cluster = Cluster::start().await;
    let (_, fleet) = fleet(&cluster, 3).await;
    let mut client = fleet[0].wire().await;
    for other in &fleet[1..] {
        client.send(&frame::query("SELECT pg_sleep(60), 'far'")).await;
        runs(&cluster, "far").await;
        cancel_at(other.postgres_port(), &client).await;
        is_cancelled(&mut client).await;
    }
    assert_eq!(client.value("SELECT 'usable'").await, "usable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_reached_over_its_unix_socket() {
    let cluster = Cluster::start().await;
    let directory = place::directory("peer");
    let first = Settings::postgres(&cluster).set("postgres.peer_id", 1);
    let listen = vec![format!("127.0.0.1:{}", first.postgres_port()), format!("unix:{}", directory.display())];
    let port = i64::from(first.postgres_port());
    let first = Pooler::start(first.set("postgres.listen", listen)).await;
    let peer = directory.to_string_lossy().into_owned();
    let second = Settings::postgres(&cluster).set("postgres.peer_id", 2);
    let second = Pooler::start(second.set("postgres.peers.1.host", peer).set("postgres.peers.1.port", port)).await;
    let mut client = first.wire().await;
    client.send(&frame::query("SELECT pg_sleep(60), 'unix'")).await;
    runs(&cluster, "unix").await;
    cancel_at(second.postgres_port(), &client).await;
    is_cancelled(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_shared_port_it_does_not_matter_whom_the_kernel_picks() {
    let _proof = proves(&["setting so_reuseport"]);
    let cluster = Cluster::start().await;
    let (shared, fleet) = fleet(&cluster, 3).await;
    let mut clients = Vec::new();
    for _ in 0..12 {
        clients.push(Wire::login(shared, "app", "app", "").await);
    }
    let owners: BTreeSet<u8> = clients.iter().map(|client| client.cancel_key.clone().expect("a key").0.to_be_bytes()[1]).collect();
    assert!(owners.len() > 1, "the kernel spreads clients over the processes: {owners:?}");
    for round in 0..3 {
        for (index, client) in clients.iter_mut().enumerate() {
            let text = format!("SELECT pg_sleep(60), 'round {round} client {index}'");
            client.send(&frame::query(&text)).await;
            runs(&cluster, &text[8..]).await;
            cancel_at(shared, client).await;
            is_cancelled(client).await;
        }
    }
    drop(fleet);
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_point_at_each_other_do_not_send_a_cancel_round_for_ever() {
    let cluster = Cluster::start().await;
    let shared = place::free_port();
    let (first, second) = (settings(&cluster, 1, shared), settings(&cluster, 2, shared));
    let (first_port, second_port) = (first.postgres_port(), second.postgres_port());
    let first = Pooler::start(with_peers(first, &[(9, second_port)])).await;
    let second = Pooler::start(with_peers(second, &[(9, first_port)])).await;
    let mut messenger = Wire::connect(first.postgres_port()).await;
    messenger.send(&frame::cancel(0x0009_0042, &[1, 2, 3, 0xFF])).await;
    messenger.until_closed().await;
    // Three times over the fence: to the second, back, and to the second again, who gives it up.
    second.process().log().line_with("TTL was exhausted").await;
    assert_eq!(second.process().log().tail(100).matches("TTL was exhausted").count(), 1);
    assert!(!first.process().log().tail(100).contains("TTL was exhausted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_gone_costs_its_own_cancels_only() {
    let cluster = Cluster::start().await;
    let settings = with_peers(settings(&cluster, 1, place::free_port()), &[(2, place::free_port())]);
    let pool = Pooler::start(settings).await;
    let mut messenger = Wire::connect(pool.postgres_port()).await;
    messenger.send(&frame::cancel(0x0002_0042, &[1, 2, 3, 0xFF])).await;
    assert!(messenger.until_closed().await.is_empty());
    pool.process().log().line_with("sending cancel request failed: peer").await;
    let mut client = pool.wire().await;
    client.send(&frame::query("SELECT pg_sleep(60), 'near'")).await;
    runs(&cluster, "near").await;
    cancel_at(pool.postgres_port(), &client).await;
    is_cancelled(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_slow_gets_so_many_cancels_at_a_time() {
    let _proof = proves(&["setting [peers] pool_size"]);
    let cluster = Cluster::start().await;
    let peer = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = peer.local_addr().expect("an address").port();
    let settings = with_peers(settings(&cluster, 1, place::free_port()), &[(7, port)]);
    let settings = settings.set("postgres.admin_users", vec!["app".to_owned()]);
    let pool = Pooler::start(settings.set("postgres.peers.7.pool_size", 2).set("postgres.cancel_wait_timeout", "60s")).await;
    // Keys of peer 7, with all the hops they may make.
    let messengers = (1..=3).map(async |number| {
        let mut messenger = Wire::connect(pool.postgres_port()).await;
        messenger.send(&frame::cancel(i32::from_be_bytes([0, 7, 0, number]), &[1, 2, 3, 3])).await;
        messenger
    });
    let mut waiting = Vec::new();
    for messenger in messengers {
        waiting.push(messenger.await);
    }
    let first = wait::soon("a cancel", peer.accept()).await.expect("a connection");
    let _second = wait::soon("another one", peer.accept()).await.expect("a connection");
    let mut admin = Wire::login(pool.postgres_port(), "app", "pgbouncer", "").await;
    wait::until("two cancels and one that waits", async || {
        let pools = rows(&mut admin, "SHOW PEER_POOLS").await;
        let columns = ["peer_id", "cl_active_cancel_req", "cl_waiting_cancel_req", "sv_active_cancel", "sv_login"];
        (columns.map(|column| number(&pools[0], column)) == [7, 2, 1, 2, 0]).then_some(())
    })
    .await;
    assert!(tokio::time::timeout(Duration::from_millis(500), peer.accept()).await.is_err(), "the third waits its turn");
    drop(first);
    wait::soon("the third one", peer.accept()).await.expect("a connection");
}
