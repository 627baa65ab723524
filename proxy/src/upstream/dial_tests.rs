//! Tests of dialing, with listeners of our own as servers.

use super::*;
use tokio::net::{TcpListener, UnixListener};

const PATIENCE: Duration = Duration::from_secs(5);

fn tcp(host: &str, port: u16) -> Upstream {
    Upstream::Tcp { host: host.to_owned(), port }
}

fn dialer(hosts: &[Upstream], policy: LoadBalance) -> Dialer {
    Dialing::default().dialer(hosts, policy, &TcpOptions::default(), Duration::from_secs(15))
}

async fn dial(dialer: &Dialer) -> Result<(Stream, Arc<Server>), ConnectFault> {
    dialer.connect(PATIENCE, async |stream, server| Ok((stream, Arc::clone(server)))).await
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A port that nobody listens on.
async fn dead_port() -> u16 {
    listener().await.1
}

/// Where nobody answers: a listener whose queue is full. Kept in the vector.
async fn silent() -> (Vec<TcpStream>, TcpListener, u16) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut filling = Vec::new();
    while let Ok(Ok(stream)) = timeout(Duration::from_millis(100), TcpStream::connect(address)).await {
        filling.push(stream);
    }
    (filling, listener, address.port())
}

#[tokio::test]
async fn it_connects_by_address_name_and_path() {
    let (_listener, port) = listener().await;
    for host in ["127.0.0.1", "localhost"] {
        let (stream, server) = dial(&dialer(&[tcp(host, port)], LoadBalance::RoundRobin)).await.unwrap();
        let Stream::Tcp(stream) = stream else { panic!() };
        assert!(stream.nodelay().unwrap());
        assert_eq!(server.place, Place::Tcp(SocketAddr::from(([127, 0, 0, 1], port))));
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let _listener = UnixListener::bind(&path).unwrap();
    let dialer = dialer(&[Upstream::Unix(path)], LoadBalance::RoundRobin);
    let (stream, server) = dial(&dialer).await.unwrap();
    assert!(matches!(stream, Stream::Unix(_)));
    assert!(dialer.again(&server).await.is_ok());
}

#[tokio::test]
async fn hosts_take_turns_and_a_dead_one_is_followed_by_the_next() {
    let ((_one, first), (_two, second), dead) = (listener().await, listener().await, dead_port().await);
    let dialer = dialer(&[tcp("127.0.0.1", first), tcp("127.0.0.1", dead), tcp("127.0.0.1", second)], LoadBalance::RoundRobin);
    let mut seen = Vec::new();
    for _ in 0..6 {
        let (_, server) = dial(&dialer).await.unwrap();
        let Place::Tcp(address) = &server.place else { panic!() };
        seen.push(address.port());
    }
    assert!(seen.contains(&first) && seen.contains(&second) && !seen.contains(&dead), "{seen:?}");
}

#[tokio::test]
async fn a_silent_host_costs_a_moment_once() {
    let ((_filling, _silent, silent), (_listener, alive)) = (silent().await, listener().await);
    let dialer = dialer(&[tcp("127.0.0.1", silent), tcp("127.0.0.1", alive)], LoadBalance::RoundRobin);
    let started = clock::now();
    dial(&dialer).await.unwrap();
    let first = clock::now() - started;
    assert!(first >= HEAD_START && first < PATIENCE / 2, "{first:?}");
    let mut again = Duration::MAX;
    // A machine that stands still for a moment does not do so three times.
    for _ in 0..3 {
        let started = clock::now();
        for _ in 0..4 {
            dial(&dialer).await.unwrap();
        }
        again = again.min(clock::now() - started);
    }
    assert!(again < HEAD_START, "it is remembered: {again:?}");
}

#[tokio::test]
async fn a_silent_host_that_answers_again_is_noticed_soon() {
    let mut after = Duration::MAX;
    for _ in 0..3 {
        after = after.min(until_it_is_noticed().await);
        // The system alone would ask again after seven seconds. Where it is asked late once, on a machine that stands still, it is asked again.
        if after < Duration::from_secs(2) {
            return;
        }
    }
    panic!("{after:?} after it was back");
}

/// How long a host that was silent has been back when somebody who waits for it is let in.
async fn until_it_is_noticed() -> Duration {
    let (filling, listener, port) = silent().await;
    let dialer = dialer(&[tcp("127.0.0.1", port)], LoadBalance::RoundRobin);
    let back = KNOCK + Duration::from_millis(500);
    let serve = async {
        sleep(back).await;
        drop(filling);
        let mut accepted = Vec::new();
        loop {
            accepted.push(listener.accept().await.unwrap());
        }
    };
    let started = clock::now();
    let connect = dialer.connect(Duration::from_secs(15), async |stream, _| Ok(stream));
    let connected = tokio::select! { connected = connect => connected, () = serve => unreachable!("it serves for ever") };
    connected.unwrap();
    (clock::now() - started).saturating_sub(back)
}

#[tokio::test]
async fn a_host_that_does_not_let_us_in_is_followed_by_the_next() {
    let ((_one, first), (_two, second)) = (listener().await, listener().await);
    let dialer = dialer(&[tcp("127.0.0.1", first), tcp("127.0.0.1", second)], LoadBalance::Disable);
    let enter = async |_: Stream, server: &Arc<Server>| match server.upstream == tcp("127.0.0.1", first) {
        true => Err(ConnectFault::new(ConnectFaultKind::Unavailable, "starting up")),
        false => Ok(()),
    };
    assert!(dialer.connect(PATIENCE, enter).await.is_ok());
    // One that hangs in the login has its share of the time, and no more.
    let hang = async |_: Stream, server: &Arc<Server>| match server.upstream == tcp("127.0.0.1", second) {
        true => std::future::pending().await,
        false => Ok(()),
    };
    assert!(timeout(PATIENCE, dialer.connect(Duration::from_millis(400), hang)).await.unwrap().is_ok());
}

#[tokio::test]
async fn the_fault_that_is_told_is_the_one_with_hope() {
    let ((_one, first), dead) = (listener().await, dead_port().await);
    let refuse = async |_: Stream, _: &Arc<Server>| Err::<(), _>(ConnectFault::new(ConnectFaultKind::Auth, "no"));
    let both = dialer(&[tcp("127.0.0.1", dead), tcp("127.0.0.1", first)], LoadBalance::RoundRobin);
    assert_eq!(both.connect(PATIENCE, refuse).await.unwrap_err().kind, ConnectFaultKind::Refused);
    let one = dialer(&[tcp("127.0.0.1", first)], LoadBalance::RoundRobin);
    assert_eq!(one.connect(PATIENCE, refuse).await.unwrap_err().kind, ConnectFaultKind::Auth);
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let fault = dial(&dialer(&[Upstream::Unix("/nowhere/socket".into())], LoadBalance::RoundRobin)).await.unwrap_err();
    assert_eq!(fault.kind, ConnectFaultKind::Refused);
    assert!(fault.message.contains("/nowhere/socket"));
    let fault = dial(&dialer(&[tcp("no-such-host.invalid", 5432)], LoadBalance::RoundRobin)).await.unwrap_err();
    assert_eq!(fault.kind, ConnectFaultKind::Resolve);
    assert!(fault.message.contains("no-such-host.invalid:5432"), "{}", fault.message);
}

#[tokio::test]
async fn of_one_host_what_the_server_said_is_told_and_of_several_that_waiting_may_help() {
    let (_listener, port) = listener().await;
    let refused = |host: &[Upstream]| {
        let dialer = dialer(host, LoadBalance::Disable);
        async move {
            let wrong_password = async |_: Stream, _: &Arc<Server>| -> Result<(), _> {
                Err(ConnectFault { said: Some("no".into()), ..ConnectFault::new(ConnectFaultKind::Auth, "wrong password") })
            };
            dialer.connect(PATIENCE, wrong_password).await.unwrap_err()
        }
    };
    // Nobody listens at ::1, where a server's name may lead, too.
    assert_eq!(refused(&[tcp("localhost", port)]).await.kind, ConnectFaultKind::Auth);
    let mut kept = None;
    for (kind, expected) in [
        (ConnectFaultKind::Refused, ConnectFaultKind::Refused),
        (ConnectFaultKind::Auth, ConnectFaultKind::Auth),
        (ConnectFaultKind::Timeout, ConnectFaultKind::Auth),
        (ConnectFaultKind::NoDatabase, ConnectFaultKind::NoDatabase),
    ] {
        keep_telling(&mut kept, ConnectFault::new(kind, "x"));
        assert_eq!(kept.as_ref().map(|kept| kept.kind), Some(expected));
    }
    let elsewhere = dead_port().await;
    assert_eq!(refused(&[tcp("127.0.0.1", port), tcp("127.0.0.1", elsewhere)]).await.kind, ConnectFaultKind::Refused);
}

#[tokio::test]
async fn lists_that_are_used_differently_are_remembered_apart() {
    let (dialing, hosts) = (Dialing::default(), [tcp("127.0.0.1", 1), tcp("127.0.0.1", 2)]);
    let dialer = |policy| dialing.dialer(&hosts, policy, &TcpOptions::default(), Duration::from_secs(15));
    let (spread, stays) = (dialer(LoadBalance::RoundRobin), dialer(LoadBalance::Disable));
    let (spread_again, stays_again) = (dialer(LoadBalance::RoundRobin), dialer(LoadBalance::Disable));
    assert!(Arc::ptr_eq(&spread.roster, &spread_again.roster) && Arc::ptr_eq(&stays.roster, &stays_again.roster));
    assert!(!Arc::ptr_eq(&spread.roster, &stays.roster));
}

#[tokio::test]
async fn an_only_address_that_does_not_answer_is_known_to_be_silent() {
    let ((_filling, _silent, silent), (_listener, hangs)) = (silent().await, listener().await);
    for port in [silent, hangs] {
        let dialer = dialer(&[tcp("127.0.0.1", port)], LoadBalance::RoundRobin);
        let patience = Duration::from_millis(300);
        let hang = async |_: Stream, _: &Arc<Server>| std::future::pending::<Result<(), ConnectFault>>().await;
        // As the pools bound it.
        let ended = timeout(patience, dialer.connect(patience, hang)).await;
        let phases: Vec<Phase> = lock(&dialer.roster).phases(clock::now(), 0).map(|(_, phase)| phase).collect();
        assert_eq!(phases, [Phase::Open]);
        assert!(ended.is_ok_and(|ended| ended.is_err_and(|fault| fault.kind == ConnectFaultKind::Timeout)));
    }
}

#[tokio::test]
async fn what_is_counted_of_a_host_outlives_the_lists_it_is_in() {
    let (dialing, dead) = (Dialing::default(), tcp("127.0.0.1", dead_port().await));
    let dialer = |hosts: &[Upstream]| dialing.dialer(hosts, LoadBalance::RoundRobin, &TcpOptions::default(), Duration::from_secs(15));
    let opened = || dialing.hosts(clock::now()).into_iter().map(|report| (report.host, report.opened)).collect::<Vec<_>>();
    let alone = dialer(std::slice::from_ref(&dead));
    let several = dialer(&[dead.clone(), tcp("127.0.0.1", dead_port().await)]);
    for _ in 0..3 {
        assert!(dial(&several).await.is_err());
    }
    assert_eq!(opened().iter().map(|(_, opened)| opened).sum::<u64>(), 2);
    drop(several);
    assert_eq!(opened(), [(dead.to_string(), 1)]);
    let several = dialer(&[dead.clone(), tcp("127.0.0.1", 9)]);
    assert_eq!(opened()[0].1.max(opened()[1].1), 1);
    drop((alone, several));
    assert_eq!(opened(), []);
}
