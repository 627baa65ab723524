//! Where a test may put things: temporary directories and free ports of the loopback interface.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::guardian;

/// The directory of this test process; the guardian removes it when the process is gone.
pub fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let root = tempfile::Builder::new().prefix("sidepool-tests-").tempdir().expect("a temporary directory").keep();
        // The database server may run as another user and has to get through.
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o755)).expect("our own directory");
        guardian::begin(&root);
        root
    })
}

/// A new directory under [`root`].
pub fn directory(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let path = root().join(format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir(&path).expect("a new name in our own directory");
    path
}

/// A port nobody listens on. Below the range from which the kernel takes the ports of outgoing connections, so that thousands of clients
/// cannot take it away, and never handed out twice by one process.
pub fn free_port() -> u16 {
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 18_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(211);
    loop {
        let port = FIRST + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(port).expect("below 65536");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
