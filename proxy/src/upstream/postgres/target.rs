//! Where a pool's connections lead and who they log in as. Two equal targets are the same pool; a changed one makes its connections stale.

use std::sync::Arc;

use sidepool_config::model::{Upstream, UpstreamTls};
use sidepool_config::secret::Secret;

use crate::pool::fault::{ConnectFault, ConnectFaultKind};

/// Where a pool's connections lead and who they log in as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The server.
    pub upstream: Upstream,
    /// TLS towards it.
    pub tls: UpstreamTls,
    /// The database there.
    pub dbname: Arc<str>,
    /// The user there.
    pub user: Arc<str>,
    /// Its password: plain, or `md5…` for a server that asks for MD5.
    pub password: Option<Secret>,
}

impl Target {
    /// A fault that names the server.
    pub(super) fn fault(&self, kind: ConnectFaultKind, what: &str) -> ConnectFault {
        let message = format!("server {} (database \"{}\", user \"{}\"): {what}", self.upstream, self.dbname, self.user);
        ConnectFault::new(kind, message)
    }
}
