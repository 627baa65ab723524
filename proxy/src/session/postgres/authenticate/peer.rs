//! Who is at the other end of a Unix socket, as the kernel says: a user of the operating system, by name.

use nix::unistd::{Uid, User};
use sidepool_config::auth::ident::Maps;

use crate::transport::stream::Stream;

/// Whether the process at the other end belongs to somebody who may be `user`.
pub(super) async fn may_be(stream: &Stream, maps: &Maps, map: Option<&str>, user: &str) -> bool {
    let Some(uid) = stream.peer_uid() else { return false };
    // Names may come from a directory on the network.
    let name = tokio::task::spawn_blocking(move || User::from_uid(Uid::from_raw(uid))).await;
    match name {
        Ok(Ok(Some(found))) => maps.allow(map, &found.name, user),
        Ok(Ok(None)) => false,
        Ok(Err(error)) => {
            tracing::warn!(uid, %error, "the name of a client's system user cannot be had");
            false
        }
        Err(_) => false,
    }
}
