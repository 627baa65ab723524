//! Opens a socket to an upstream server: name resolution, every address in turn, socket options. The same for both protocols.
//!
//! Not here: TLS, logging in, trying again (the pool does).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sidepool_config::model::Upstream;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream, lookup_host};

use crate::pool::fault::{ConnectFault, ConnectFaultKind};
use crate::transport::stream::Stream;

/// A silent peer is asked whether it is there after this, then every [`KEEPALIVE_INTERVAL`]: a cut network is noticed in half a minute.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);

/// Between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// How many of them may stay without an answer.
const KEEPALIVE_RETRIES: u32 = 3;

/// How long bytes that we sent may stay unacknowledged: keepalive does not run while there are any.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Most addresses of one name that are tried in one attempt.
const MAX_ADDRESSES: usize = 16;

/// Connects to `upstream`. The caller bounds the whole in time; `patience` is its bound, of which one dead address may not take everything.
pub async fn dial(upstream: &Upstream, patience: Duration) -> Result<Stream, ConnectFault> {
    match upstream {
        Upstream::Unix(path) => match UnixStream::connect(path).await {
            Ok(stream) => Ok(Stream::Unix(stream)),
            Err(error) => Err(fault_of(&error, upstream)),
        },
        Upstream::Tcp { host, port } => {
            let addresses = resolve(host, *port).await.map_err(|why| {
                ConnectFault::new(ConnectFaultKind::Resolve, format!("cannot resolve the name of the server {}: {why}", upstream))
            })?;
            dial_any(&addresses, upstream, patience).await
        }
    }
}

/// The addresses of a name. The operating system's resolver runs on a thread of its own.
async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let mut addresses: Vec<SocketAddr> = lookup_host((host, port)).await.map_err(|error| error.to_string())?.take(MAX_ADDRESSES).collect();
    addresses.dedup();
    if addresses.is_empty() { Err("it has no address".to_owned()) } else { Ok(addresses) }
}

async fn dial_any(addresses: &[SocketAddr], upstream: &Upstream, patience: Duration) -> Result<Stream, ConnectFault> {
    let mut last = ConnectFault::new(ConnectFaultKind::Resolve, format!("the server {} has no address", upstream));
    for (index, address) in addresses.iter().enumerate() {
        let connecting = TcpStream::connect(address);
        let is_last = index + 1 == addresses.len();
        let result = if is_last || patience.is_zero() {
            connecting.await
        } else {
            let share = patience / u32::try_from(addresses.len()).unwrap_or(1);
            match tokio::time::timeout(share, connecting).await {
                Ok(result) => result,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        };
        match result.and_then(|stream| prepare(&stream).map(|()| stream)) {
            Ok(stream) => return Ok(Stream::Tcp(stream)),
            Err(error) => last = fault_of(&error, upstream),
        }
    }
    Err(last)
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(())
}

/// A failed dial in the pool's terms. Out of descriptors is our own trouble, and waiting helps.
fn fault_of(error: &io::Error, upstream: &Upstream) -> ConnectFault {
    let kind = match error.kind() {
        io::ErrorKind::TimedOut => ConnectFaultKind::Timeout,
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown
        | io::ErrorKind::NotFound
        | io::ErrorKind::PermissionDenied => ConnectFaultKind::Refused,
        _ => ConnectFaultKind::Other,
    };
    ConnectFault::new(kind, format!("cannot connect to the server {}: {error}", upstream))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, UnixListener};

    fn tcp(host: &str, port: u16) -> Upstream {
        Upstream::Tcp { host: host.to_owned(), port }
    }

    #[tokio::test]
    async fn it_connects_by_address_name_and_path() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "localhost"] {
            let stream = dial(&tcp(host, port), Duration::from_secs(5)).await.unwrap();
            let Stream::Tcp(stream) = stream else { panic!() };
            assert!(stream.nodelay().unwrap());
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let _listener = UnixListener::bind(&path).unwrap();
        assert!(matches!(dial(&Upstream::Unix(path), Duration::ZERO).await, Ok(Stream::Unix(_))));
    }

    #[tokio::test]
    async fn a_dead_address_is_followed_by_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive = listener.local_addr().unwrap();
        let dead = {
            let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
            gone.local_addr().unwrap()
        };
        let upstream = tcp("db", 1);
        assert!(dial_any(&[dead, alive], &upstream, Duration::from_secs(5)).await.is_ok());
        let fault = dial_any(&[dead, dead], &upstream, Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(fault.kind, ConnectFaultKind::Refused);
        assert!(fault.message.contains("db:1"), "{}", fault.message);
    }

    #[tokio::test]
    async fn what_is_not_there_is_named() {
        let fault = dial(&Upstream::Unix("/nowhere/socket".into()), Duration::ZERO).await.unwrap_err();
        assert_eq!(fault.kind, ConnectFaultKind::Refused);
        assert!(fault.message.contains("/nowhere/socket"));
        let fault = dial(&tcp("no-such-host.invalid", 5432), Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(fault.kind, ConnectFaultKind::Resolve);
    }
}
