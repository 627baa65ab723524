//! Bytes as a history of clients that share lanes, with real sockets on both sides: what each client sends and when, and what becomes of the
//! server's connections (replies in pieces, cut before, in the middle of and after a reply, something that is no reply). Each client is told
//! exactly as often as it asked, in its order, and nothing that belongs to another.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sidepool::session::redis;
use sidepool::transport::stream::Stream;
use sidepool::worker::{Commons, Mailboxes, Worker, WorkerId};
use sidepool_protocol::redis::encode;
use sidepool_protocol::redis::request::{Arguments, RequestScanner, Scanned};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::LocalSet;

const CLIENTS: usize = 3;

/// More of a history adds nothing but time.
const STEPS_MAX: usize = 48;

/// What becomes of a server's connection at the next request.
type Moods = Rc<RefCell<VecDeque<u8>>>;

/// Runs the target.
pub fn run(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (steps, moods) = data.split_at(data.len().min(STEPS_MAX * 2));
    let moods: Moods = Rc::new(RefCell::new(moods.iter().copied().take(STEPS_MAX).collect()));
    let history = LocalSet::new();
    let work = history.run_until(async { tokio::time::timeout(Duration::from_secs(20), live(steps, moods)).await });
    assert!(runtime.block_on(work).is_ok(), "somebody waits for ever");
}

async fn live(steps: &[u8], moods: Moods) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    let server = tokio::task::spawn_local(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::task::spawn_local(serve(connection, Rc::clone(&moods)));
        }
    });
    let worker = worker(port);
    let mut clients = Vec::new();
    for client in 0..CLIENTS {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        tokio::task::spawn_local(redis::serve(Stream::Unix(ours), Arc::from("fuzz"), Rc::clone(&worker)));
        let plan: Vec<u8> =
            steps.chunks(2).filter(|step| usize::from(step[0]) % CLIENTS == client).map(|step| step[step.len() - 1]).collect();
        clients.push(tokio::task::spawn_local(talk(theirs, client, plan)));
    }
    for client in clients {
        client.await.expect("a client's replies are its own");
    }
    server.abort();
}

fn worker(port: u16) -> Rc<Worker> {
    let text = format!(
        "[redis.fuzz]\nhost = \"127.0.0.1\"\nport = {port}\nauth_type = \"inject\"\npool_size = 4\nserver_connect_backoff = \"1ms\"\n"
    );
    let config = sidepool_config::file::load_text(&text, "fuzz.toml".as_ref(), &|_| None).expect("a configuration").config;
    let (sender, _receiver) = tokio::sync::mpsc::unbounded_channel();
    let worker = Worker::new(WorkerId(0), Mailboxes::new(vec![sender]), Commons::new(1).expect("what workers have in common"));
    worker.apply(&Arc::new(config));
    worker
}

/// A client: pipelines of numbered questions, read after each other or only at the end.
async fn talk(mut stream: UnixStream, client: usize, plan: Vec<u8>) {
    let (mut asked, mut told) = (0, 0);
    let mut inbox = Vec::new();
    for step in plan {
        let mut bytes = Vec::new();
        for _ in 0..=step % 4 {
            ask(&mut bytes, client, asked, step >> 4 == 1);
            asked += 1;
        }
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
        while step & 4 == 0 && told < asked {
            match hear(&mut stream, &mut inbox).await {
                Some(reply) => check(&reply, client, &mut told),
                None => return,
            }
        }
    }
    while told < asked {
        match hear(&mut stream, &mut inbox).await {
            Some(reply) => check(&reply, client, &mut told),
            // It may be closed in the middle of a reply, and then hears no more.
            None => return,
        }
    }
    assert!(inbox.is_empty(), "{client} hears more than it asked for");
}

fn ask(bytes: &mut Vec<u8>, client: usize, number: u64, writes: bool) {
    let mark = format!("{client}.{number}");
    let word: &[u8] = if writes { b"LPUSH" } else { b"ECHO" };
    match writes {
        true => encode::command(bytes, &[word, b"list", mark.as_bytes()]),
        false => encode::command(bytes, &[word, mark.as_bytes()]),
    }
}

fn check(reply: &str, client: usize, told: &mut u64) {
    let expected = format!("{client}.{told}");
    assert!(
        reply == expected || reply.starts_with("-UPSTREAM") || reply.starts_with("-POOLEXHAUSTED"),
        "{reply:?} instead of {expected:?}"
    );
    *told += 1;
}

/// The next reply: the text of a bulk, or a line as it came.
async fn hear(stream: &mut UnixStream, inbox: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = inbox.windows(2).position(|pair| pair == b"\r\n") {
            let line = String::from_utf8_lossy(&inbox[..end]).into_owned();
            let length = line.strip_prefix('$').map(|length| length.parse::<usize>().expect("a length"));
            match length {
                None => {
                    inbox.drain(..end + 2);
                    return Some(line);
                }
                Some(length) if inbox.len() >= end + 2 + length + 2 => {
                    let text = String::from_utf8_lossy(&inbox[end + 2..end + 2 + length]).into_owned();
                    inbox.drain(..end + 2 + length + 2);
                    return Some(text);
                }
                Some(_not_all) => {}
            }
        }
        if matches!(stream.read_buf(inbox).await, Ok(0) | Err(_)) {
            return None;
        }
    }
}

/// A server's connection.
async fn serve(mut stream: TcpStream, moods: Moods) {
    let (mut inbox, mut entered) = (Vec::new(), false);
    loop {
        while let Ok(Scanned::Request(request)) = RequestScanner::default().scan(&inbox, false) {
            let words: Vec<Vec<u8>> = Arguments::new(&inbox[..request.length]).map(<[u8]>::to_vec).collect();
            inbox.drain(..request.length);
            let mut reply = Vec::new();
            match words[0].as_slice() {
                b"HELLO" => reply.extend_from_slice(b"*2\r\n$2\r\nid\r\n:1\r\n"),
                b"ECHO" | b"LPUSH" => {
                    entered = true;
                    let mark = words.last().expect("a mark");
                    reply.extend_from_slice(format!("${}\r\n", mark.len()).as_bytes());
                    reply.extend_from_slice(mark);
                    reply.extend_from_slice(b"\r\n");
                }
                _ => reply.extend_from_slice(b"+OK\r\n"),
            }
            let mood = if entered { moods.borrow_mut().pop_front().unwrap_or(0) } else { 0 };
            let half = reply.len() / 2;
            let sent = match mood % 16 {
                1 => return,
                2 => {
                    let _ = stream.write_all(&reply[..half]).await;
                    return;
                }
                3 => {
                    let _ = stream.write_all(&reply).await;
                    return;
                }
                4 => {
                    let _ = stream.write_all(b"?\r\n").await;
                    return;
                }
                5..8 => {
                    let first = stream.write_all(&reply[..half]).await;
                    tokio::task::yield_now().await;
                    match first {
                        Ok(()) => stream.write_all(&reply[half..]).await,
                        error => error,
                    }
                }
                8 => {
                    tokio::task::yield_now().await;
                    stream.write_all(&reply).await
                }
                _ => stream.write_all(&reply).await,
            };
            if sent.is_err() {
                return;
            }
        }
        if matches!(stream.read_buf(&mut inbox).await, Ok(0) | Err(_)) {
            return;
        }
    }
}
