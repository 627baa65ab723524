//! The server is lost for good, and its name leads to another one three seconds later. What matters: everybody is served there, without anybody's
//! help.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use sidepool_tests::dns::{Answer, NameServer};
use sidepool_tests::fault::{Behaviour, FaultProxy};
use sidepool_tests::postgres::Cluster;

use super::{Order, conclude};
use crate::crowd::{Crowd, Manners};
use crate::report::Report;
use crate::stage::{Peer, PostgresStage, Stage as _, Upstream};
use crate::witness::Witnesses;

const NAME: &str = "db.test.example";
const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const AWAY: Duration = Duration::from_secs(3);

pub(super) async fn play(order: Order) -> Result<Report, String> {
    if order.peer == Peer::Other {
        return Err("PgBouncer asks name servers at port 53 alone".to_owned());
    }
    let names = NameServer::start().await;
    names.say(NAME, Answer::Addresses(1, vec![Ipv4Addr::LOCALHOST]));
    let first_cluster = Cluster::start_with(&["log_connections=on"]).await;
    let first = FaultProxy::start(first_cluster.port()).await;
    let resolv_conf = format!("resolv_conf = {}", names.resolv_conf().display());
    let upstream = Upstream { host: NAME.to_owned(), port: first.port() };
    let stage = PostgresStage::set_at(order.peer, Some(upstream), &[&resolv_conf, "dns_max_ttl = 1"]).await;
    let second = FaultProxy::start_at(SocketAddr::from((SECOND, first.port())), stage.cluster.port()).await;
    // Money stays on the server that is lost: it is no replica that follows.
    let witnesses = Witnesses::of_postgres_replies(&stage.door());
    let mut crowd = Crowd::default();
    crowd.add_many(order.scale.clients(200), &stage.door(), Manners::every(Duration::from_millis(50)));
    tokio::time::sleep(order.scale.seconds(4)).await;
    first.behave(Behaviour::Refuse);
    first.cut();
    drop(first_cluster);
    tokio::time::sleep(AWAY).await;
    names.say(NAME, Answer::Addresses(1, vec![SECOND]));
    let moved = Instant::now();
    crowd.is_served(order.scale.clients(200) * 5, Duration::from_secs(40)).await;
    let tally = crowd.end().await;
    let connects = second.accepted();
    let mut report = conclude(stage, order, witnesses, &tally).await.recovered(tally.recovery(moved));
    report.connects = first.accepted() + connects;
    Ok(report)
}
