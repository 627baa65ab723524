//! Names of servers: several addresses, answers that change, name servers that fail.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use sidepool_tests::conformance::proves;
use sidepool_tests::dns::{Answer, NameServer};
use sidepool_tests::fault::FaultProxy;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::{Cluster, Wire};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

const WHICH: &str = "SELECT current_setting('port')";

/// Two servers: the first at 127.0.0.1, the second at 127.0.0.2 and the same port.
struct Two {
    one: Cluster,
    two: Cluster,
    _door: FaultProxy,
}

impl Two {
    async fn start() -> Self {
        let (one, two) = (Cluster::start().await, Cluster::start().await);
        let door = FaultProxy::start_at(SocketAddr::from(([127, 0, 0, 2], one.port())), two.port()).await;
        Self { one, two, _door: door }
    }
}

fn by_name(cluster: &Cluster, names: &NameServer, host: &str) -> Settings {
    Settings::postgres(cluster)
        .set("postgres.resolv_conf", names.resolv_conf().display().to_string())
        .set("postgres.databases.app.host", host)
        .set("postgres.pool_mode", "session")
        .set("postgres.server_connect_backoff", "50ms")
        .set("postgres.dns_nxdomain_ttl", "1s")
}

async fn which(pool: &Pooler) -> String {
    pool.wire().await.value(WHICH).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_with_two_addresses_leads_to_both() {
    let (servers, names) = (Two::start().await, NameServer::start().await);
    names.lead("db.test.example", &["127.0.0.1", "127.0.0.2"]);
    // The search domain of resolv.conf is added.
    let pool = Pooler::start(by_name(&servers.one, &names, "db")).await;
    let (mut wires, mut seen): (Vec<Wire>, _) = (Vec::new(), BTreeSet::new());
    for _ in 0..4 {
        let mut wire = pool.wire().await;
        seen.insert(wire.value(WHICH).await);
        wires.push(wire);
    }
    assert_eq!(seen, BTreeSet::from([servers.one.port().to_string(), servers.two.port().to_string()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_moves_takes_its_connections_along() {
    let _proof = proves(&["setting dns_max_ttl", "setting resolv_conf"]);
    let (servers, names) = (Two::start().await, NameServer::start().await);
    names.lead("db.example", &["127.0.0.1"]);
    let pool = Pooler::start(by_name(&servers.one, &names, "db.example")).await;
    assert_eq!(which(&pool).await, servers.one.port().to_string());
    // One that is in use when the name moves, and one that is idle.
    let mut busy = pool.wire().await;
    let mut other = pool.wire().await;
    assert_eq!(busy.value(WHICH).await, servers.one.port().to_string());
    other.value(WHICH).await;
    drop(other);
    names.lead("db.example", &["127.0.0.2"]);
    // Nobody connects: the name is asked for again all the same.
    wait::until("the idle connection to be closed", async || (servers.one.connections().await == 1).then_some(())).await;
    assert_eq!(busy.value(WHICH).await, servers.one.port().to_string(), "who is served stays");
    assert_eq!(which(&pool).await, servers.two.port().to_string());
    drop(busy);
    wait::until("the other one to be closed", async || (servers.one.connections().await == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_rotate_close_nothing() {
    let (servers, names) = (Two::start().await, NameServer::start().await);
    names.lead("db.example", &["127.0.0.1", "127.0.0.2"]);
    let pool = Pooler::start(by_name(&servers.one, &names, "db.example")).await;
    let (mut first, mut second) = (pool.wire().await, pool.wire().await);
    let pids = [first.value("SELECT pg_backend_pid()").await, second.value("SELECT pg_backend_pid()").await];
    drop((first, second));
    for turn in 0..4 {
        let order = if turn % 2 == 0 { ["127.0.0.2", "127.0.0.1"] } else { ["127.0.0.1", "127.0.0.2"] };
        names.lead("db.example", &order);
        names.is_asked("db.example", 1).await;
    }
    let (mut first, mut second) = (pool.wire().await, pool.wire().await);
    let again = [first.value("SELECT pg_backend_pid()").await, second.value("SELECT pg_backend_pid()").await];
    assert_eq!(BTreeSet::from(pids), BTreeSet::from(again));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_answer_the_last_good_one_counts() {
    let (servers, names) = (Two::start().await, NameServer::start().await);
    names.lead("db.example", &["127.0.0.1"]);
    // Here it does keep silent.
    let impatient = names.impatient_resolv_conf().display().to_string();
    let pool = Pooler::start(by_name(&servers.one, &names, "db.example").set("postgres.resolv_conf", impatient)).await;
    let mut first = pool.wire().await;
    first.value(WHICH).await;
    for answer in [Answer::Failure, Answer::NoSuchName, Answer::Silence] {
        names.say("db.example", answer);
        names.is_asked("db.example", 1).await;
        let mut wire = pool.wire().await;
        assert_eq!(wire.value(WHICH).await, servers.one.port().to_string());
        // Cut, so that the next client needs a new connection.
        drop(wire);
        drop(std::mem::replace(&mut first, pool.wire().await));
        first.value(WHICH).await;
        servers.one.terminate_connections().await;
        first = pool.wire().await;
        first.value(WHICH).await;
    }
    pool.process().log().line_with("cannot be resolved any more").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_question_serves_all_who_wait_for_it() {
    let (servers, names) = (Two::start().await, NameServer::start().await);
    names.say("db.example", Answer::Addresses(60, vec!["127.0.0.1".parse().unwrap()]));
    let pool = Pooler::start(by_name(&servers.one, &names, "db.example").set("workers", 2)).await;
    let logins = (0..8).map(|_| pool.wire());
    let mut wires = Vec::new();
    for login in logins {
        wires.push(login.await);
    }
    for wire in wires.iter_mut().take(4) {
        wire.value(WHICH).await;
    }
    assert_eq!(names.asked("db.example"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_does_not_exist_is_said_and_found_when_it_does() {
    let _proof = proves(&["setting dns_nxdomain_ttl"]);
    let (servers, names) = (Two::start().await, NameServer::start().await);
    // Time enough for the name server to say so.
    let settings = by_name(&servers.one, &names, "db.example").set("postgres.query_wait_timeout", "3s");
    let mut pool = Pooler::start(settings.clone()).await;
    let login = [("user", "app"), ("database", "app")];
    let error = Wire::try_login(pool.postgres_port(), &login, "").await.err().expect("nobody is there");
    let told = format!("{:?} {:?}", error.field(b'M'), error.field(b'D'));
    assert!(told.contains("db.example") && told.contains("no such host name"), "{told}");
    names.lead("db.example", &["127.0.0.2"]);
    pool.reload(settings.set("postgres.query_wait_timeout", "30s")).await;
    assert_eq!(which(&pool).await, servers.two.port().to_string());
}
