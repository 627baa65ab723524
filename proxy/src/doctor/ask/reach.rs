//! The way to a host: what its name leads to, and who answers there. Names and sockets are those of the proxy.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sidepool_config::model::{LoadBalance, TcpOptions, Upstream};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::PATIENCE;
use crate::clock;
use crate::doctor::facts::Reached;
use crate::pool::fault::ConnectFault;
use crate::transport::stream::Stream;
use crate::upstream::dial::{Dialing, Server, name_of};
use crate::upstream::roster::Place;

/// Looks for a host, and knocks at each of its addresses.
pub async fn reach(dialing: Rc<Dialing>, upstream: Upstream, tcp: TcpOptions) -> Reached {
    let name = match name_of(&upstream) {
        Some(name) => Some(resolve(&dialing, name).await),
        None => None,
    };
    let places: Vec<Place> = match (&upstream, &name) {
        (Upstream::Unix(path), _) => vec![Place::Unix(path.clone())],
        (Upstream::Tcp { port, .. }, Some((_, Ok(addresses)))) => {
            addresses.iter().map(|address| Place::Tcp(SocketAddr::new(*address, *port))).collect()
        }
        (Upstream::Tcp { .. }, Some((_, Err(_)))) => Vec::new(),
        (Upstream::Tcp { host, port }, None) => {
            host.parse().map(|address| Place::Tcp(SocketAddr::new(address, *port))).into_iter().collect()
        }
    };
    let knocking: Vec<_> = places.into_iter().map(|place| spawn_local(knock(Rc::clone(&dialing), place, tcp.clone()))).collect();
    let mut addresses = Vec::with_capacity(knocking.len());
    for knocked in knocking {
        addresses.extend(knocked.await.ok());
    }
    Reached { upstream, name, addresses }
}

async fn resolve(dialing: &Dialing, name: &str) -> (Duration, Result<Vec<std::net::IpAddr>, String>) {
    let begun = clock::now();
    let answer = match timeout(PATIENCE, dialing.dns.addresses(name)).await {
        Ok(Ok(addresses)) => Ok(addresses.to_vec()),
        Ok(Err(why)) => Err(why.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    };
    (clock::now().saturating_duration_since(begun), answer)
}

async fn knock(dialing: Rc<Dialing>, place: Place, tcp: TcpOptions) -> (Place, Duration, Result<(), String>) {
    let alone = match &place {
        Place::Tcp(address) => Upstream::Tcp { host: address.ip().to_string(), port: address.port() },
        Place::Unix(path) => Upstream::Unix(path.clone()),
    };
    let dialer = dialing.dialer(std::slice::from_ref(&alone), LoadBalance::Disable, &tcp, PATIENCE);
    let begun = clock::now();
    let come_in = async |stream: Stream, _server: &Arc<Server>| {
        drop(stream);
        Ok::<(), ConnectFault>(())
    };
    let answer = match timeout(PATIENCE, dialer.connect(PATIENCE, come_in)).await {
        Ok(answer) => answer.map_err(|fault| {
            let text = fault.words();
            text.strip_prefix(&format!("cannot connect to the server {alone}: ")).unwrap_or(text).to_owned()
        }),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    };
    (place, clock::now().saturating_duration_since(begun), answer)
}
