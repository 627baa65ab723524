//! Sockets that are dropped, or taken off the ring, with something under way; and rings that end.

use std::future::poll_fn;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::{beside, on_a_ring, pair, pattern, read, settle, tcp_pair, write_all};
use crate::lingering::Lingering;
use crate::{Ring, RingSocket};

#[test]
fn dropped_with_requests_under_way_it_is_closed() {
    on_a_ring(|ring| async move {
        let (mut socket, mut theirs) = pair(&ring);
        assert!(poll_fn(|cx| Poll::Ready(socket.poll_read(cx, &mut [0; 8]).is_pending())).await);
        settle().await;
        theirs.set_nonblocking(true).unwrap();
        assert_eq!(theirs.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(socket);
        settle().await;
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0, "the other end hears of it");
        // And so with something that the other end does not take, in either way of sending it.
        for size in [4_096, 50_000] {
            let (mut socket, theirs) = pair(&ring);
            let written = write_until_full(&mut socket, &[1; 2_000_000], size).await;
            assert!(written > 0 && ring.sockets() == 1);
            drop(socket);
            settle().await;
            assert_eq!(ring.sockets(), usize::from(size == 4_096), "only what was accepted is waited for");
            drop(theirs);
            settle().await;
            assert_eq!(ring.sockets(), 0);
        }
    });
}

/// Writes, `piece` bytes at a time, until nothing more is accepted; answers how much was.
async fn write_until_full(socket: &mut RingSocket, bytes: &[u8], piece: usize) -> usize {
    let (mut written, mut stuck) = (0, 0);
    while stuck < 20 {
        let rest = &bytes[written..(written + piece).min(bytes.len())];
        match poll_fn(|cx| Poll::Ready(socket.poll_write(cx, rest))).await {
            Poll::Ready(more) => (written, stuck) = (written + more.unwrap(), 0),
            Poll::Pending => {
                // What was accepted goes to the kernel, which takes what it can.
                stuck += 1;
                settle().await;
            }
        }
    }
    written
}

#[test]
fn whoever_reads_slowly_gets_all_that_was_accepted_though_the_socket_is_dropped() {
    on_a_ring(|ring| async move {
        let all = pattern(20_000_000);
        for over_tcp in [false, true] {
            let (mut socket, mut theirs): (_, Box<dyn io::Read + Send>) = if over_tcp {
                let (socket, theirs) = tcp_pair(&ring);
                theirs.shutdown(std::net::Shutdown::Write).unwrap();
                (socket, Box::new(theirs))
            } else {
                let (socket, theirs) = pair(&ring);
                theirs.shutdown(std::net::Shutdown::Write).unwrap();
                (socket, Box::new(theirs))
            };
            socket.with_socket(|socket| rustix::net::sockopt::set_socket_send_buffer_size(socket, 8_192)).unwrap().unwrap();
            let written = write_until_full(&mut socket, &all, 1_000).await;
            assert!(written > 4_096 && written < all.len());
            assert!(poll_fn(|cx| Poll::Ready(socket.poll_sent(cx).is_pending())).await, "the kernel has not taken all of it");
            drop(socket);
            settle().await;
            assert_eq!(ring.sockets(), 1);
            let got = beside(move || {
                let (mut got, mut piece) = (Vec::<u8>::new(), [0; 777]);
                loop {
                    match theirs.read(&mut piece).unwrap() {
                        0 => return got,
                        more => got.extend(&piece[..more]),
                    }
                }
            });
            let got = got.await;
            assert_eq!(got.len(), written, "tcp: {over_tcp}");
            assert!(got == all[..written]);
        }
    });
}

#[test]
fn whoever_has_nothing_more_to_say_and_does_not_read_is_waited_for_in_quiet() {
    on_a_ring(|ring| async move {
        for size in [1_000, 50_000] {
            let (mut socket, mut theirs) = pair(&ring);
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
            let all = pattern(20_000_000);
            let written = write_until_full(&mut socket, &all, size).await;
            let before = ring.turns.get();
            for _ in 0..1_000 {
                tokio::task::yield_now().await;
            }
            assert!(ring.turns.get() - before < 5, "{} turns", ring.turns.get() - before);
            // It goes on when they read.
            let reading = beside(move || {
                let mut got = vec![0; written];
                theirs.read_exact(&mut got).map(|()| (got, theirs))
            });
            let rest = all[written..].chunks(size).next().unwrap();
            let (wrote, got) = tokio::join!(write_all(&mut socket, rest), reading);
            wrote.unwrap();
            let (got, mut theirs) = got.unwrap();
            assert!(got == all[..written]);
            drop(socket);
            let mut got = Vec::new();
            settle().await;
            theirs.read_to_end(&mut got).unwrap();
            assert!(got == rest);
        }
    });
}

#[test]
fn whoever_reads_nothing_is_not_waited_for_for_ever() {
    on_a_ring(|ring| async move {
        let (mut socket, mut theirs) = pair(&ring);
        let written = write_until_full(&mut socket, &pattern(20_000_000), 1_000).await;
        tokio::time::pause();
        drop(socket);
        let mut seconds = 0;
        while ring.sockets() > 0 {
            tokio::time::sleep(tokio::time::Duration::from_secs(1)).await;
            seconds += 1;
        }
        assert!((10..=21).contains(&seconds), "{seconds}");
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).unwrap();
        assert!(!got.is_empty() && got.len() < written);
    });
}

#[test]
fn only_so_many_are_waited_for() {
    on_a_ring(|ring| async move {
        let mut theirs = Vec::new();
        ring.state.borrow_mut().lingering = Lingering::of_at_most(20);
        for _ in 0..30 {
            let (mut socket, their) = pair(&ring);
            socket.with_socket(|socket| rustix::net::sockopt::set_socket_send_buffer_size(socket, 1)).unwrap().unwrap();
            write_until_full(&mut socket, &[0; 40_000], 1_000).await;
            drop(socket);
            theirs.push(their);
        }
        settle().await;
        assert_eq!(ring.sockets(), 20);
        drop(theirs);
    });
}

#[test]
fn what_was_accepted_behind_what_is_under_way_is_sent() {
    on_a_ring(|ring| async move {
        let mut pairs: Vec<_> = (0..100).map(|_| pair(&ring)).collect();
        // So many that the first of them are handed over before anybody has waited, and nothing is known of how that went.
        for (socket, _) in &mut pairs {
            write_all(socket, b"answer, ").await.unwrap();
        }
        for (mut socket, mut theirs) in pairs {
            write_all(&mut socket, b"and goodbye").await.unwrap();
            drop(socket);
            settle().await;
            let mut got = Vec::new();
            theirs.read_to_end(&mut got).unwrap();
            assert_eq!(got, b"answer, and goodbye");
        }
    });
}

#[test]
fn it_leaves_the_ring_only_with_nothing_left_on_it() {
    on_a_ring(|ring| async move {
        let (mut socket, mut theirs) = pair(&ring);
        assert!(poll_fn(|cx| Poll::Ready(socket.poll_read(cx, &mut [0; 8]).is_pending())).await);
        settle().await;
        theirs.write_all(b"early").unwrap();
        settle().await;
        assert!(!socket.come_to_rest(Waker::noop()), "there is something to be read");
        assert_eq!(read(&mut socket, 8).await.unwrap(), b"early");
        assert!(poll_fn(|cx| Poll::Ready(socket.poll_read(cx, &mut [0; 8]).is_pending())).await);
        settle().await;
        write_all(&mut socket, b"bye").await.unwrap();
        let mut ours = UnixStream::from(socket.leave().unwrap());
        ours.set_nonblocking(false).unwrap();
        let mut got = [0; 3];
        theirs.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"bye");
        theirs.write_all(b"late").unwrap();
        let mut late = [0; 4];
        ours.read_exact(&mut late).unwrap();
        assert_eq!(&late, b"late");
    });
}

/// How often it was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn who_cannot_leave_yet_is_woken_when_he_can_and_not_before() {
    on_a_ring(|ring| async move {
        let (mut socket, mut theirs) = pair(&ring);
        let written = write_until_full(&mut socket, &[7; 2_000_000], 1_000).await;
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        for _ in 0..3 {
            assert!(socket.poll_read(&mut cx, &mut [0; 8]).is_pending());
            settle().await;
            assert!(!socket.come_to_rest(&waker), "it has something to send");
            settle().await;
        }
        assert_eq!(woken.0.load(Ordering::Relaxed), 0, "or it would ask again and again");
        let mut got = vec![0; written];
        theirs.set_nonblocking(true).unwrap();
        let mut read = 0;
        while read < written {
            match theirs.read(&mut got[read..]) {
                Ok(more) => read += more,
                Err(_) => settle().await,
            }
        }
        settle().await;
        assert!(woken.0.load(Ordering::Relaxed) > 0);
        assert!(socket.come_to_rest(&waker));
    });
}

#[test]
fn a_ring_ends_with_requests_under_way() {
    let Ok(ring) = Ring::new() else { return eprintln!("LEFT OUT: no io_uring here") };
    let (mut socket, mut theirs) = pair(&ring);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(socket.poll_read(&mut cx, &mut [0; 8]).is_pending());
    ring.turn().unwrap();
    drop(ring);
    // Nobody turns it any more; the goodbye is sent all the same.
    assert!(matches!(socket.poll_write(&mut cx, b"bye"), Poll::Ready(Ok(3))));
    drop(socket);
    let mut got = Vec::new();
    theirs.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"bye");
}
