//! Sockets on a ring, with the other end in the test's hands.

use std::future::{Future, poll_fn};
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::runtime::{Builder, LocalOptions};

use crate::{Ring, RingSocket};

mod leaving;

/// Runs a test on a ring that is driven. `None`: this machine allows none.
fn on_a_ring<F: Future<Output = ()> + 'static>(test: impl FnOnce(Rc<Ring>) -> F) {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(async {
        let ring = match Ring::new() {
            Ok(ring) => ring,
            Err(error) => return eprintln!("LEFT OUT: no io_uring here: {error}"),
        };
        let driver = tokio::task::spawn_local(Rc::clone(&ring).drive());
        let kept = Rc::clone(&ring);
        tokio::time::timeout(tokio::time::Duration::from_secs(30), tokio::task::spawn_local(test(ring))).await.expect("it hangs").unwrap();
        // Whatever was dropped is closed.
        for _ in 0..100 {
            if kept.sockets() == 0 {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(kept.sockets(), 0);
        assert!(!driver.is_finished());
    });
}

fn pair(ring: &Rc<Ring>) -> (RingSocket, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (RingSocket::new(ring, OwnedFd::from(ours)), theirs)
}

fn tcp_pair(ring: &Rc<Ring>) -> (RingSocket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    (RingSocket::new(ring, OwnedFd::from(ours)), theirs)
}

async fn read(socket: &mut RingSocket, most: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; most];
    let read = poll_fn(|cx| socket.poll_read(cx, &mut buffer)).await?;
    buffer.truncate(read);
    Ok(buffer)
}

async fn read_exactly(socket: &mut RingSocket, length: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < length {
        let piece = read(socket, length - all.len()).await.unwrap();
        assert!(!piece.is_empty(), "it ended after {}", all.len());
        all.extend(piece);
    }
    all
}

async fn write_all(socket: &mut RingSocket, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = poll_fn(|cx| socket.poll_write(cx, bytes)).await?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// Runs something that blocks beside the ring.
async fn beside<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 251) as u8).collect()
}

/// Lets the ring do what it has been told.
async fn settle() {
    for _ in 0..4 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn what_is_sent_comes_and_what_is_said_is_read() {
    on_a_ring(|ring| async move {
        let (mut unix, mut their_unix) = pair(&ring);
        let (mut tcp, mut their_tcp) = tcp_pair(&ring);
        for round in 0..200_u32 {
            let said = format!("round {round}");
            their_unix.write_all(said.as_bytes()).unwrap();
            their_tcp.write_all(said.as_bytes()).unwrap();
            assert_eq!(read_exactly(&mut unix, said.len()).await, said.as_bytes());
            assert_eq!(read_exactly(&mut tcp, said.len()).await, said.as_bytes());
            for socket in [&mut unix, &mut tcp] {
                // Both halves go as one.
                write_all(socket, b"and ").await.unwrap();
                write_all(socket, said.as_bytes()).await.unwrap();
                poll_fn(|cx| socket.poll_sent(cx)).await.unwrap();
            }
            let mut answer = vec![0; said.len() + 4];
            their_unix.read_exact(&mut answer).unwrap();
            assert_eq!(answer, format!("and {said}").as_bytes());
            their_tcp.read_exact(&mut answer).unwrap();
            assert_eq!(answer, format!("and {said}").as_bytes());
        }
    });
}

#[test]
fn nothing_is_taken_of_what_is_only_looked_for() {
    on_a_ring(|ring| async move {
        let (mut socket, mut theirs) = pair(&ring);
        assert!(socket.may_be_read(), "nobody would say otherwise");
        assert!(socket.poll_readable(&mut Context::from_waker(Waker::noop())).is_pending());
        settle().await;
        assert!(!socket.may_be_read());
        theirs.write_all(b"x").unwrap();
        poll_fn(|cx| socket.poll_readable(cx)).await;
        assert!(socket.may_be_read());
        assert_eq!(read(&mut socket, 10).await.unwrap(), b"x");
        assert!(!socket.may_be_read());
    });
}

#[test]
fn whoever_left_unnoticed_may_be_read() {
    on_a_ring(|ring| async move {
        // One that was never asked for anything, and one that a system call has just read.
        let (fresh, theirs) = pair(&ring);
        drop(theirs);
        assert!(fresh.may_be_read());
        let (mut busy, mut theirs) = tcp_pair(&ring);
        for _ in 0..3 {
            beside({
                let mut theirs = theirs.try_clone().unwrap();
                move || theirs.write_all(&[7; 60_000]).unwrap()
            })
            .await;
            assert_eq!(read_exactly(&mut busy, 60_000).await, [7; 60_000]);
        }
        theirs.write_all(b"last").unwrap();
        assert_eq!(read(&mut busy, 100).await.unwrap(), b"last");
        theirs.shutdown(std::net::Shutdown::Both).unwrap();
        settle().await;
        assert!(busy.may_be_read());
        assert_eq!(read(&mut busy, 100).await.unwrap(), b"");
    });
}

#[test]
fn no_room_to_read_into_is_not_the_end() {
    on_a_ring(|ring| async move {
        let (mut socket, mut theirs) = pair(&ring);
        theirs.write_all(&[7; 10_000]).unwrap();
        for _ in 0..3 {
            poll_fn(|cx| socket.poll_readable(cx)).await;
            assert_eq!(read(&mut socket, 0).await.unwrap(), b"");
            assert!(!socket.has_ended());
            assert_eq!(read_exactly(&mut socket, 3_000).await, [7; 3_000]);
        }
    });
}

#[test]
fn news_of_nothing_is_forgotten() {
    on_a_ring(|ring| async move {
        let (mut socket, mut theirs) = pair(&ring);
        assert!(socket.poll_readable(&mut Context::from_waker(Waker::noop())).is_pending());
        settle().await;
        // Ends the request, of which only a system call would tell that nothing has come.
        assert!(socket.come_to_rest(Waker::noop()) && socket.may_be_read());
        socket.found_nothing();
        assert!(socket.poll_readable(&mut Context::from_waker(Waker::noop())).is_pending());
        theirs.write_all(b"x").unwrap();
        poll_fn(|cx| socket.poll_readable(cx)).await;
        assert_eq!(read(&mut socket, 8).await.unwrap(), b"x");
    });
}

#[test]
fn who_has_a_ring_can_use_it() {
    // Where one is refused, so is the trial; that it notices a ring that is of no use is tested with the whole program.
    assert_eq!(Ring::try_out().map_err(|error| error.kind()), Ring::new().map(drop).map_err(|error| error.kind()));
}

#[test]
fn all_that_has_come_is_taken_in_one_turn() {
    // Newer kernels (6.13) do a little of the work with each system call, and say nothing of the rest.
    let Ok(ring) = Ring::new() else { return eprintln!("LEFT OUT: no io_uring here") };
    let mut pairs: Vec<_> = (0..300).map(|_| pair(&ring)).collect();
    let mut cx = Context::from_waker(Waker::noop());
    for (socket, _) in &mut pairs {
        assert!(socket.poll_read(&mut cx, &mut [0; 8]).is_pending());
    }
    ring.turn().unwrap();
    for (_, theirs) in &mut pairs {
        theirs.write_all(b"hello").unwrap();
    }
    ring.turn().unwrap();
    let heard = pairs.iter().filter(|(socket, _)| socket.may_be_read()).count();
    assert_eq!(heard, pairs.len());
}

#[test]
fn much_goes_through_in_order_against_a_slow_reader() {
    on_a_ring(|ring| async move {
        for over_tcp in [false, true] {
            let all = pattern(3_000_000);
            let (mut socket, reader): (_, Box<dyn io::Read + Send>) = if over_tcp {
                let (socket, theirs) = tcp_pair(&ring);
                (socket, Box::new(theirs))
            } else {
                let (socket, theirs) = pair(&ring);
                (socket, Box::new(theirs))
            };
            let mut reader = reader;
            let length = all.len();
            let reading = tokio::task::spawn_blocking(move || {
                let mut got = vec![0; length];
                for piece in got.chunks_mut(10_007) {
                    reader.read_exact(piece).unwrap();
                }
                got
            });
            // Little pieces and large ones in turn.
            let mut rest = &all[..];
            for size in [1, 100, 5_000, 3, 70_000, 4_096, 200_000].into_iter().cycle() {
                let size = size.min(rest.len());
                write_all(&mut socket, &rest[..size]).await.unwrap();
                rest = &rest[size..];
                if rest.is_empty() {
                    break;
                }
            }
            assert!(reading.await.unwrap() == all, "tcp: {over_tcp}");
        }
    });
}

#[test]
fn much_is_read_in_order_whatever_the_buffer() {
    on_a_ring(|ring| async move {
        for room in [1_000, 8_192, 65_536] {
            let (mut socket, mut theirs) = tcp_pair(&ring);
            let all = pattern(2_000_000);
            let sent = all.clone();
            let writing = tokio::task::spawn_blocking(move || {
                for piece in sent.chunks(33_333) {
                    theirs.write_all(piece).unwrap();
                }
            });
            let mut got = Vec::new();
            loop {
                let piece = read(&mut socket, room).await.unwrap();
                if piece.is_empty() {
                    break;
                }
                got.extend(piece);
            }
            writing.await.unwrap();
            assert!(got == all, "a buffer of {room}");
        }
    });
}

#[test]
fn a_socket_that_nobody_reads_is_not_emptied() {
    on_a_ring(|ring| async move {
        let (mut lazy, mut theirs) = pair(&ring);
        theirs.write_all(b"first").unwrap();
        assert_eq!(read(&mut lazy, 100).await.unwrap(), b"first");
        theirs.set_nonblocking(true).unwrap();
        // What the ring takes off it, beyond what the socket itself holds, is bounded.
        let (mut written, piece) = (0, vec![7; 4096]);
        let mut stuck = 0;
        while stuck < 50 {
            match theirs.write(&piece) {
                Ok(more) => (written, stuck) = (written + more, 0),
                Err(_) => {
                    stuck += 1;
                    settle().await;
                }
            }
        }
        assert!(written < 2_000_000, "{written}");
        // Others are served all the same.
        let (mut other, mut their_other) = pair(&ring);
        their_other.write_all(b"hello").unwrap();
        assert_eq!(read(&mut other, 100).await.unwrap(), b"hello");
        assert_eq!(read_exactly(&mut lazy, written).await.len(), written);
        theirs.write_all(b"last").unwrap();
        assert_eq!(read(&mut lazy, 100).await.unwrap(), b"last");
    });
}

#[test]
fn more_sockets_speak_at_once_than_there_are_buffers() {
    on_a_ring(|ring| async move {
        // More than there are buffers at first, more than the queue of requests holds, and none of them is read meanwhile.
        let mut pairs: Vec<_> = (0..400).map(|_| pair(&ring)).collect();
        for (socket, _) in &mut pairs {
            assert!(poll_fn(|cx| Poll::Ready(socket.poll_read(cx, &mut [0; 8]).is_pending())).await);
        }
        settle().await;
        for round in 0..3_u8 {
            for (at, (_, theirs)) in pairs.iter_mut().enumerate() {
                theirs.write_all(&[at as u8, round]).unwrap();
            }
            settle().await;
            for (at, (socket, _)) in pairs.iter_mut().enumerate() {
                assert_eq!(read_exactly(socket, 2).await, [at as u8, round]);
                write_all(socket, &[round; 100]).await.unwrap();
            }
            settle().await;
            for (_, theirs) in &mut pairs {
                let mut got = [0; 100];
                theirs.read_exact(&mut got).unwrap();
                assert_eq!(got, [round; 100]);
            }
        }
    });
}

#[test]
fn the_end_comes_after_what_was_said_before_it() {
    on_a_ring(|ring| async move {
        let (mut socket, mut theirs) = tcp_pair(&ring);
        assert!(poll_fn(|cx| Poll::Ready(socket.poll_read(cx, &mut [0; 8]).is_pending())).await);
        settle().await;
        theirs.write_all(b"question").unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        poll_fn(|cx| socket.poll_readable(cx)).await;
        assert_eq!(read(&mut socket, 4).await.unwrap(), b"ques");
        assert_eq!(read(&mut socket, 100).await.unwrap(), b"tion");
        assert_eq!(read(&mut socket, 100).await.unwrap(), b"");
        assert!(socket.has_ended());
        write_all(&mut socket, b"answer").await.unwrap();
        drop(socket);
        let got = beside(move || {
            let mut got = Vec::new();
            theirs.read_to_end(&mut got).map(|_| got)
        });
        assert_eq!(got.await.unwrap(), b"answer", "what was accepted is sent, and then it is closed");
    });
}

#[test]
fn who_is_gone_is_an_error() {
    on_a_ring(|ring| async move {
        let (mut socket, theirs) = tcp_pair(&ring);
        assert!(poll_fn(|cx| Poll::Ready(socket.poll_read(cx, &mut [0; 8]).is_pending())).await);
        settle().await;
        // Closed with something unread, it is reset.
        write_all(&mut socket, b"unread").await.unwrap();
        poll_fn(|cx| socket.poll_sent(cx)).await.unwrap();
        drop(theirs);
        assert!(read(&mut socket, 8).await.is_err());
        assert!(socket.has_ended());
        let mut broke = false;
        for _ in 0..100 {
            broke = broke || write_all(&mut socket, b"more").await.is_err();
            settle().await;
        }
        assert!(broke);
    });
}

#[test]
fn last_words_are_read_though_nothing_can_be_sent_any_more() {
    on_a_ring(|ring| async move {
        for asked in [false, true] {
            let (mut socket, mut theirs) = pair(&ring);
            if asked {
                assert!(poll_fn(|cx| Poll::Ready(socket.poll_read(cx, &mut [0; 8]).is_pending())).await);
                settle().await;
            }
            theirs.write_all(b"last words").unwrap();
            drop(theirs);
            // With a system call, and without.
            let sent = write_all(&mut socket, &[0; 5_000]).await.is_ok() && poll_fn(|cx| socket.poll_sent(cx)).await.is_ok();
            assert!(!sent, "asked: {asked}");
            assert_eq!(read(&mut socket, 4).await.unwrap(), b"last");
            assert_eq!(read(&mut socket, 16).await.unwrap(), b" words");
            assert!(!matches!(read(&mut socket, 16).await, Ok(more) if !more.is_empty()));
            assert!(socket.has_ended());
        }
        // Nobody has asked, and what was accepted fails later.
        let (mut socket, mut theirs) = pair(&ring);
        theirs.write_all(b"last words").unwrap();
        drop(theirs);
        write_all(&mut socket, b"hello?").await.unwrap();
        assert!(poll_fn(|cx| socket.poll_sent(cx)).await.is_err());
        assert!(!socket.has_ended());
        assert_eq!(read(&mut socket, 16).await.unwrap(), b"last words");
    });
}
