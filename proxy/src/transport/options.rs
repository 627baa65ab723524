//! Options of TCP sockets, as configured.

use std::io;
use std::time::Duration;

use sidepool_config::model::TcpOptions;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

/// A server that says nothing is asked whether it is there after this, then every [`KEEPALIVE_INTERVAL`]: a cut network is noticed in a
/// quarter of a minute, and whoever waits for an answer is told. (Where the configuration says nothing.)
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);

/// Between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// How many of them may stay without an answer.
const KEEPALIVE_RETRIES: u32 = 3;

/// How long bytes that we sent to a server may stay unacknowledged: keepalive does not run while there are any.
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);

/// Options of a connection to a client.
pub fn client(stream: &TcpStream, options: &TcpOptions) -> io::Result<()> {
    let socket = SockRef::from(stream);
    if options.socket_buffer > 0 {
        socket.set_recv_buffer_size(options.socket_buffer as usize)?;
        socket.set_send_buffer_size(options.socket_buffer as usize)?;
    }
    apply(stream, options)
}

/// Options of a connection to a server; what is not configured is chosen so that a dead one is noticed soon.
pub fn server(stream: &TcpStream, options: &TcpOptions) -> io::Result<()> {
    let or = |configured: Duration, ours: Duration| if configured.is_zero() { ours } else { configured };
    apply(
        stream,
        &TcpOptions {
            keepcnt: if options.keepcnt == 0 { KEEPALIVE_RETRIES } else { options.keepcnt },
            keepidle: or(options.keepidle, KEEPALIVE_IDLE),
            keepintvl: or(options.keepintvl, KEEPALIVE_INTERVAL),
            user_timeout: or(options.user_timeout, UNACKNOWLEDGED),
            ..options.clone()
        },
    )
}

/// Options that have to be there before the connection is: the size of its buffers is agreed on while it opens.
pub fn before_connect(socket: &TcpSocket, options: &TcpOptions) -> io::Result<()> {
    if options.socket_buffer > 0 {
        socket.set_recv_buffer_size(options.socket_buffer)?;
        socket.set_send_buffer_size(options.socket_buffer)?;
    }
    Ok(())
}

fn apply(stream: &TcpStream, options: &TcpOptions) -> io::Result<()> {
    let TcpOptions { keepalive, keepcnt, keepidle, keepintvl, user_timeout, defer_accept: _, socket_buffer: _ } = options;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    if *keepalive {
        let mut asked = TcpKeepalive::new();
        if !keepidle.is_zero() {
            asked = asked.with_time(*keepidle);
        }
        if !keepintvl.is_zero() {
            asked = asked.with_interval(*keepintvl);
        }
        if *keepcnt > 0 {
            asked = asked.with_retries(*keepcnt);
        }
        socket.set_tcp_keepalive(&asked)?;
    } else {
        socket.set_keepalive(false)?;
    }
    #[cfg(target_os = "linux")]
    if !user_timeout.is_zero() {
        socket.set_tcp_user_timeout(Some(*user_timeout))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn what_is_configured_is_set_and_servers_have_defaults() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let options = TcpOptions { keepidle: Duration::from_secs(77), socket_buffer: 65_536, ..TcpOptions::default() };
        client(&accepted, &options).unwrap();
        server(&stream, &options).unwrap();
        let (ours, theirs) = (SockRef::from(&stream), SockRef::from(&accepted));
        assert!(ours.keepalive().unwrap() && theirs.keepalive().unwrap() && stream.nodelay().unwrap());
        assert_eq!(ours.tcp_keepalive_time().unwrap(), Duration::from_secs(77));
        assert_eq!(ours.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(theirs.tcp_keepalive_time().unwrap(), Duration::from_secs(77));
        assert!(theirs.recv_buffer_size().unwrap() >= 65_536);
        assert_eq!(ours.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED));
        assert_eq!(theirs.tcp_user_timeout().unwrap(), None);
        let quiet = TcpOptions { keepalive: false, ..TcpOptions::default() };
        let again = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        server(&again, &quiet).unwrap();
        assert!(!SockRef::from(&again).keepalive().unwrap());
    }
}
