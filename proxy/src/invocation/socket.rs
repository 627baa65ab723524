//! Whether another process answers at our Unix socket.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;

use sidepool_config::model::{Config, Listen};

/// True if somebody listens on one of the configured Unix sockets.
pub(crate) fn in_use(config: &Config) -> bool {
    let listens = config.postgres.iter().flat_map(|postgres| &postgres.listen);
    let mut paths = listens.filter_map(|listen| match listen {
        Listen::Tcp(_) => None,
        Listen::Unix(path) => Some(path),
    });
    paths.any(|path| connect(path))
}

fn connect(path: &Path) -> bool {
    match path.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(name) => SocketAddr::from_abstract_name(name).and_then(|address| UnixStream::connect_addr(&address)).is_ok(),
        None => UnixStream::connect(path).is_ok(),
    }
}
