//! What a client that is one too many gets to read, byte for byte, over real sockets.

use std::future::Future;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::runtime::{Builder, LocalOptions};

use super::*;
use crate::worker::{Commons, Mailboxes, WorkerId};

const FULL: GateNumbers = GateNumbers {
    open: 7,
    max: 7,
    files: u32::MAX,
    accepted: 9,
    rejected: 2,
    rejected_for_files: 0,
    rejected_for_memory: 0,
    rejected_while_draining: 0,
    accept_errors: 0,
};

fn on_a_worker<F: Future<Output = ()>>(test: impl FnOnce(Rc<Worker>) -> F) {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(async { test(Worker::new(WorkerId(0), Mailboxes::new(Vec::new()), Commons::new(1).expect("randomness"))).await });
}

async fn refused(door: Door, worker: Rc<Worker>) -> (TcpStream, Refusals) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let refusals = Refusals::new(Rc::new(door), Gate::new(5), worker);
    refusals.refuse(Stream::Tcp(listener.accept().await.unwrap().0), Reason::TooMany(FULL), None);
    (client, refusals)
}

async fn everything(mut client: impl tokio::io::AsyncRead + Unpin) -> Vec<u8> {
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    answer
}

fn startup() -> Vec<u8> {
    let parameters = b"user\0alice\0database\0app\0\0";
    let length = u32::try_from(8 + parameters.len()).unwrap();
    [&length.to_be_bytes()[..], &196_608_u32.to_be_bytes(), parameters].concat()
}

fn request(code: u32) -> Vec<u8> {
    [8_u32.to_be_bytes(), code.to_be_bytes()].concat()
}

fn assert_is_too_many_clients(answer: &[u8]) {
    assert_eq!(answer[0], b'E');
    assert_eq!(u32::from_be_bytes(answer[1..5].try_into().unwrap()) as usize, answer.len() - 1, "one whole message");
    let text = String::from_utf8_lossy(&answer[5..]);
    assert!(text.contains("SFATAL\0") && text.contains("C53300\0") && text.contains("7 of 7") && text.contains("\0H"), "{text}");
    assert!(text.ends_with("\0\0"), "the last field and the message are closed");
}

#[test]
fn a_postgres_client_is_told_after_it_has_asked_for_encryption() {
    on_a_worker(async |worker| {
        let (mut client, _refusals) = refused(Door::Postgres, worker).await;
        for code in [GSS_REQUEST, SSL_REQUEST] {
            client.write_all(&request(code)).await.unwrap();
            assert_eq!(client.read_u8().await.unwrap(), b'N');
        }
        client.write_all(&startup()).await.unwrap();
        assert_is_too_many_clients(&everything(client).await);
    });
}

#[test]
fn a_postgres_client_whose_head_comes_in_pieces_is_told() {
    on_a_worker(async |worker| {
        let (mut client, _refusals) = refused(Door::Postgres, worker).await;
        let startup = startup();
        client.write_all(&startup[..3]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        client.write_all(&startup[3..]).await.unwrap();
        assert_is_too_many_clients(&everything(client).await);
    });
}

#[test]
fn a_redis_client_is_told_at_once() {
    on_a_worker(async |worker| {
        let (client, _refusals) = refused(Door::Redis("cache".into()), worker).await;
        assert_eq!(everything(client).await, b"-ERR max number of clients reached\r\n");
    });
}

#[test]
fn clients_of_unix_sockets_are_told_too() {
    on_a_worker(async |worker| {
        let (mut client, server) = UnixStream::pair().unwrap();
        client.write_all(&startup()).await.unwrap();
        Refusals::new(Rc::new(Door::Postgres), Gate::new(5), worker).refuse(Stream::Unix(server), Reason::TooMany(FULL), None);
        assert_is_too_many_clients(&everything(client).await);
    });
}

#[test]
fn a_startup_that_claims_four_gigabytes_is_told_all_the_same() {
    on_a_worker(async |worker| {
        let (mut client, _refusals) = refused(Door::Postgres, worker).await;
        client.write_all(&[0xff; 32]).await.unwrap();
        let mut answer = vec![0; 5];
        client.read_exact(&mut answer).await.unwrap();
        let length = u32::from_be_bytes(answer[1..5].try_into().unwrap()) as usize - 4;
        answer.resize(5 + length, 0);
        client.read_exact(&mut answer[5..]).await.unwrap();
        assert_is_too_many_clients(&answer);
    });
}

#[test]
fn refusals_have_a_bound_and_silence_ends_them() {
    on_a_worker(async |worker| {
        let refusals = Refusals::new(Rc::new(Door::Postgres), Gate::new(5), worker);
        let mut clients = Vec::new();
        for _ in 0..MOST_AT_A_TIME + 1 {
            let (client, server) = UnixStream::pair().unwrap();
            refusals.refuse(Stream::Unix(server), Reason::TooMany(FULL), None);
            clients.push(client);
        }
        assert_eq!(refusals.under_way.get(), MOST_AT_A_TIME);
        // Those beyond are looked at, the last ones so many at a time.
        for _ in 0..MOST_LOOKED_AT {
            let (client, server) = UnixStream::pair().unwrap();
            refusals.refuse(Stream::Unix(server), Reason::TooMany(FULL), None);
            clients.push(client);
        }
        assert_eq!((refusals.under_way.get(), refusals.looked_at.borrow().len()), (MOST_AT_A_TIME, MOST_LOOKED_AT));
        let one_too_many = clients.remove(MOST_AT_A_TIME as usize);
        assert_eq!(everything(one_too_many).await, b"", "closed without a word");
        assert_eq!(everything(clients.pop().unwrap()).await, b"", "closed when patience is over");
        while refusals.under_way.get() > 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_client_that_is_too_late_is_told_and_waited_for() {
    on_a_worker(async |worker| {
        let gate = Gate::new(5);
        let (mut client, server) = UnixStream::pair().unwrap();
        Refusals::new(Rc::new(Door::Postgres), Gate::new(5), worker).refuse(Stream::Unix(server), Reason::ShuttingDown, gate.enter());
        assert_eq!(gate.numbers().open, 1, "the process does not end before it has been told");
        client.write_all(&startup()).await.unwrap();
        let text = String::from_utf8_lossy(&everything(client).await).into_owned();
        assert!(text.contains("C57P03\0"), "{text}");
        while gate.numbers().open > 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn cancels_that_get_through_have_a_bound() {
    let cancels = Rc::new(Cell::new(0));
    for most in [FEW_LOOKED_AT, MOST_LOOKED_AT] {
        let under_way: Vec<UnderWay> = std::iter::from_fn(|| on_its_way(&cancels, most)).collect();
        assert_eq!(under_way.len(), most);
        drop(under_way);
        assert_eq!(cancels.get(), 0);
    }
}

#[test]
fn a_cancel_beyond_those_that_are_on_their_way_is_closed() {
    on_a_worker(async |worker| {
        let refusals = Refusals::new(Rc::new(Door::Postgres), Gate::new(5), worker);
        refusals.under_way.set(MOST_AT_A_TIME);
        refusals.cancels.set(u32::try_from(MOST_LOOKED_AT).unwrap());
        let (mut client, server) = UnixStream::pair().unwrap();
        refusals.refuse(Stream::Unix(server), Reason::TooMany(FULL), None);
        client.write_all(&[&16_u32.to_be_bytes()[..], &CANCEL_REQUEST.to_be_bytes(), &[7; 8]].concat()).await.unwrap();
        // What is not read makes the close a reset.
        let closed = client.read(&mut [0; 1]).await;
        assert!(closed.as_ref().is_ok_and(|read| *read == 0) || closed.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset));
        assert_eq!(refusals.cancels.get(), u32::try_from(MOST_LOOKED_AT).unwrap());
    });
}
