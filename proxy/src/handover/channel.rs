//! The private socket between two generations of the program: messages with descriptors beside them, only between processes of one user.
//!
//! It is a Unix socket of the kind that keeps messages apart (SOCK_SEQPACKET), so that a descriptor cannot come off its message.

use std::fs;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, recvmsg, sendmsg, socket_with, sockopt,
};
use rustix::process::geteuid;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};

use super::message::{MAX_MESSAGE_BYTES, Message};

/// How many successors may knock at a time.
const BACKLOG: i32 = 4;

/// Before descriptors that the kernel did not want to carry are offered again.
const PAUSE: Duration = Duration::from_millis(5);

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// One end of a conversation. (The runtime's streams poll any Unix socket; what is read and written here are whole messages.)
pub struct Channel(UnixStream);

impl Channel {
    /// Knocks at the process that listens at `path`. Must be called on a runtime.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Self::new(UnixStream::from_std(socket.into())?)
    }

    fn new(socket: UnixStream) -> io::Result<Self> {
        let uid = sockopt::socket_peercred(&socket)?.uid;
        if uid != geteuid() && !uid.is_root() {
            return Err(io::Error::new(
                ErrorKind::PermissionDenied,
                format!("the process at the other end belongs to user {}", uid.as_raw()),
            ));
        }
        Ok(Self(socket))
    }

    /// Sends a message, with a descriptor beside it.
    pub async fn send(&self, message: &Message, beside: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let bytes = message.encode().map_err(io::Error::other)?;
        loop {
            match self.0.async_io(Interest::WRITABLE, || send_now(self.0.as_fd(), &bytes, beside)).await {
                // So many descriptors are on their way that the kernel wants some of them taken out first.
                Err(error) if error.raw_os_error() == Some(Errno::TOOMANYREFS.raw_os_error()) => tokio::time::sleep(PAUSE).await,
                sent => return sent,
            }
        }
    }

    /// The next message, with what came beside it; `None` when the other side has gone. May be dropped and called again.
    pub async fn receive(&self) -> io::Result<Option<(Message, Option<OwnedFd>)>> {
        self.0.async_io(Interest::READABLE, || receive_now(self.0.as_fd())).await
    }
}

fn send_now(socket: BorrowedFd<'_>, bytes: &[u8], beside: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let rights = beside.map(|fd| [fd]);
    if let Some(rights) = &rights
        && !ancillary.push(SendAncillaryMessage::ScmRights(rights))
    {
        return Err(ErrorKind::InvalidInput.into());
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive_now(socket: BorrowedFd<'_>) -> io::Result<Option<(Message, Option<OwnedFd>)>> {
    let mut bytes = vec![0; MAX_MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let beside = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
        _ => None,
    });
    if received.bytes == 0 {
        return Ok(None);
    }
    let message = Message::decode(&bytes[..received.bytes]).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    Ok(Some((message, beside)))
}

/// Where a successor knocks. The file goes when this is dropped, unless somebody else's has taken its place.
pub struct Doorstep {
    socket: UnixListener,
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Doorstep {
    /// Listens at `path`, for processes of our own user alone. Must be called on a runtime.
    pub fn open(path: &Path) -> io::Result<Self> {
        remove_stale(path)?;
        Self::bind(path, path)
    }

    /// The same in the place of the process that we take over from, so that there is never nobody there.
    pub fn replace(path: &Path) -> io::Result<Self> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}", std::process::id()));
        let beside = PathBuf::from(beside);
        remove_stale(&beside)?;
        Self::bind(&beside, path)
    }

    fn bind(first: &Path, path: &Path) -> io::Result<Self> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)?;
        bind(&socket, &SocketAddrUnix::new(first)?)?;
        fs::set_permissions(first, fs::Permissions::from_mode(0o600))?;
        listen(&socket, BACKLOG)?;
        let file = fs::symlink_metadata(first)?;
        if first != path {
            fs::rename(first, path)?;
        }
        Ok(Self { socket: UnixListener::from_std(socket.into())?, path: path.to_owned(), device: file.dev(), inode: file.ino() })
    }

    /// The next one that knocks. One of another user is an error; the next one may be ours.
    pub async fn knock(&self) -> io::Result<Channel> {
        Channel::new(self.socket.accept().await?.0)
    }
}

impl Drop for Doorstep {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|now| now.dev() == self.device && now.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket file");
        }
    }
}

/// Removes the socket of a process that is gone. Anything else at that path is left alone.
fn remove_stale(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "there is a file at this path which is not a socket"));
    }
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)?;
    match connect(&socket, &SocketAddrUnix::new(path)?).map_err(io::Error::from) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Ok(()) => Err(io::Error::new(ErrorKind::AddrInUse, "another process listens on this socket")),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[tokio::test]
    async fn messages_and_descriptors_come_through_together() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("upgrade");
        let doorstep = Doorstep::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let ours = Channel::connect(&path).unwrap();
        let theirs = doorstep.knock().await.unwrap();
        let (mut near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.send(&Message::Ready, None).await.unwrap();
        ours.send(&Message::Client(1), Some(far.as_fd())).await.unwrap();
        drop((far, ours));
        assert!(matches!(theirs.receive().await.unwrap(), Some((Message::Ready, None))));
        let Some((Message::Client(1), Some(moved))) = theirs.receive().await.unwrap() else { panic!() };
        std::os::unix::net::UnixStream::from(moved).write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        near.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        assert!(theirs.receive().await.unwrap().is_none(), "gone");
        drop(doorstep);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_in_use_and_a_file_are_left_alone_and_a_stale_socket_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("upgrade");
        let doorstep = Doorstep::open(&path).unwrap();
        assert_eq!(Doorstep::open(&path).err().map(|error| error.kind()), Some(ErrorKind::AddrInUse));
        drop(doorstep);
        let successor = Doorstep::replace(&path).unwrap();
        assert!(Channel::connect(&path).is_ok());
        // As a process that was killed leaves it.
        fs::rename(&path, directory.path().join("elsewhere")).unwrap();
        drop(successor);
        fs::rename(directory.path().join("elsewhere"), &path).unwrap();
        drop(Doorstep::open(&path).unwrap());
        fs::write(&path, "data").unwrap();
        assert_eq!(Doorstep::open(&path).err().map(|error| error.kind()), Some(ErrorKind::AlreadyExists));
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    }
}
