//! Sockets of a process that we started, as copies of our own: what is set on them can be read exactly.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use socket2::Socket;

use crate::process::Process;

/// The sockets that the process has open now.
pub fn sockets(process: &Process) -> Vec<Socket> {
    let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw).expect("a process id");
    let handle = pidfd_open(pid, PidfdFlags::empty()).expect("a live process of ours");
    let entries = fs::read_dir(format!("/proc/{}/fd", process.id())).expect("a live process").flatten();
    let of_sockets =
        entries.filter(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:")));
    let numbers = of_sockets.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers.filter_map(|number| copy(&handle, number)).collect()
}

/// A copy; `None` if it is closed by now.
fn copy(handle: &OwnedFd, number: i32) -> Option<Socket> {
    pidfd_getfd(handle.as_fd(), number, PidfdGetfdFlags::empty()).ok().map(Socket::from)
}

/// The one whose other end is this TCP port.
pub fn connected_to(process: &Process, port: u16) -> Socket {
    let is_it = |socket: &Socket| socket.peer_addr().ok().and_then(|address| address.as_socket()).is_some_and(|peer| peer.port() == port);
    sockets(process).into_iter().find(is_it).unwrap_or_else(|| panic!("no socket that leads to port {port}"))
}

/// That a connection has the options that tests of the `tcp_*` settings ask for: 77 s, 11 s, 5 times, 1,234 ms, buffers of 50,000 bytes.
pub fn assert_options(socket: &Socket) {
    assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(77));
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(11));
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), 5);
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_millis(1234)));
    // Linux doubles what it is asked for.
    assert_eq!((socket.recv_buffer_size().unwrap(), socket.send_buffer_size().unwrap()), (100_000, 100_000));
}
