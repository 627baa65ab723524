//! A TCP proxy that misbehaves on command: it stalls, cuts, refuses, or answers with bytes of the test's choice.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::wait;

/// What the proxy does with connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behaviour {
    /// Passes everything on.
    Pass,
    /// Passes everything on, at most so many bytes in each direction every so often.
    Narrow(usize, Duration),
    /// Accepts, and passes nothing on until it changes its mind.
    Stall,
    /// Passes on what clients say, and says these bytes every so often instead of what the server says.
    Chatter(Vec<u8>, Duration),
    /// Accepts, and passes nothing of new connections on until it changes its mind; old ones go on.
    StallNew,
    /// Closes new connections at once; old ones go on.
    Refuse,
    /// Answers each new connection with these bytes and then stays silent.
    Answer(Vec<u8>),
}

/// A proxy in front of one port, ended when dropped.
pub struct FaultProxy {
    port: u16,
    behaviour: watch::Sender<Behaviour>,
    cut: watch::Sender<u64>,
    accepted: watch::Receiver<Vec<Instant>>,
    _task: JoinSet<()>,
}

impl FaultProxy {
    /// Starts one in front of `target` on 127.0.0.1, passing everything on at first.
    pub async fn start(target: u16) -> Self {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, crate::place::free_port())), target).await
    }

    /// Starts one at an address of the test's choice.
    pub async fn start_at(address: SocketAddr, target: u16) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let (behaviour, ordered) = watch::channel(Behaviour::Pass);
        let (cut, cuts) = watch::channel(0);
        let (count, accepted) = watch::channel(Vec::new());
        let mut task = JoinSet::new();
        task.spawn(accept(listener, target, ordered, cuts, count));
        Self { port, behaviour, cut, accepted, _task: task }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Behaves like this from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }

    /// Resets every connection that is open now, both ways.
    pub fn cut(&self) {
        self.cut.send_modify(|count| *count += 1);
    }

    /// How many connections it has accepted so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.borrow().len() as u64
    }

    /// When it has accepted them.
    pub fn accepted_at(&self) -> Vec<Instant> {
        self.accepted.borrow().clone()
    }

    /// Waits until it has accepted `count` connections.
    pub async fn has_accepted(&self, count: u64) {
        let mut accepted = self.accepted.clone();
        wait::soon("connections at the fault proxy", accepted.wait_for(|now| now.len() as u64 >= count)).await.expect("the proxy lives");
    }
}

async fn accept(
    listener: TcpListener,
    target: u16,
    behaviour: watch::Receiver<Behaviour>,
    cuts: watch::Receiver<u64>,
    count: watch::Sender<Vec<Instant>>,
) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("a listener goes on");
        count.send_modify(|times| times.push(Instant::now()));
        let mut cuts = cuts.clone();
        cuts.mark_unchanged();
        let behaviour = behaviour.clone();
        connections.spawn(async move {
            tokio::select! {
                // What was held back does not slip through before a cut that was ordered first.
                biased;
                _ = cuts.changed() => {}
                () = carry(stream, target, behaviour) => {}
            }
        });
    }
}

async fn carry(mut client: TcpStream, target: u16, mut behaviour: watch::Receiver<Behaviour>) {
    // A dropped connection is a reset, not a polite end.
    client.set_zero_linger().expect("a TCP socket");
    let first = behaviour.borrow_and_update().clone();
    match first {
        Behaviour::Refuse => return,
        Behaviour::Answer(bytes) => {
            if client.write_all(&bytes).await.is_ok() {
                let _ = behaviour.changed().await;
            }
            return;
        }
        Behaviour::Pass | Behaviour::Narrow(..) | Behaviour::Stall | Behaviour::Chatter(..) | Behaviour::StallNew => {}
    }
    if behaviour.wait_for(|now| !matches!(now, Behaviour::Stall | Behaviour::StallNew)).await.is_err() {
        return;
    }
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, target));
    let Ok(upstream) = TcpStream::connect(address).await else { return };
    for stream in [&client, &upstream] {
        stream.set_nodelay(true).expect("a TCP socket");
    }
    upstream.set_zero_linger().expect("a TCP socket");
    let (from_client, to_client) = client.into_split();
    let (from_upstream, to_upstream) = upstream.into_split();
    let up = pump(from_client, to_upstream, behaviour.clone(), false);
    let down = pump(from_upstream, to_client, behaviour, true);
    tokio::join!(up, down);
}

/// Moves bytes one way (`down`: to the client), holding them while the order is to stall; passes on the end of the stream.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut behaviour: watch::Receiver<Behaviour>, down: bool) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let chatter = match &*behaviour.borrow_and_update() {
            Behaviour::Chatter(bytes, time) if down => Some((bytes.clone(), *time)),
            _says_nothing_itself => None,
        };
        if let Some((bytes, time)) = chatter {
            if to.write_all(&bytes).await.is_err() {
                return;
            }
            tokio::time::sleep(time).await;
            continue;
        }
        let narrow = match &*behaviour.borrow() {
            Behaviour::Narrow(bytes, time) => Some((*bytes, *time)),
            _passes_as_much_as_there_is => None,
        };
        let most = narrow.map_or(buffer.len(), |(bytes, _)| bytes.min(buffer.len()));
        let read = tokio::select! {
            read = from.read(&mut buffer[..most]) => read,
            changed = behaviour.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let Ok(size @ 1..) = read else { break };
        if let Some((bytes, time)) = narrow.filter(|(bytes, _)| size * 10 > *bytes) {
            tokio::time::sleep(time.mul_f64(size as f64 / bytes as f64)).await;
        }
        let stalled = behaviour.wait_for(|now| *now != Behaviour::Stall).await.is_err();
        if stalled || to.write_all(&buffer[..size]).await.is_err() {
            return;
        }
    }
    let _ = tokio::time::timeout(Duration::from_secs(1), to.shutdown()).await;
}
