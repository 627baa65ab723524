//! Where a pool's connections lead and who they log in as. Two equal targets are the same pool; a changed one makes its connections stale.

use std::sync::Arc;

use sidepool_config::model::{LoadBalance, Upstream, UpstreamTls};
use sidepool_config::secret::Secret;

use crate::pool::fault::{ConnectFault, ConnectFaultKind};

/// Where a pool's connections lead and who they log in as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The server that is meant: the first of `hosts`, or the one that a connection leads to.
    pub upstream: Upstream,
    /// All servers that may be connected to.
    pub hosts: Vec<Upstream>,
    /// Which of them is.
    pub balance: LoadBalance,
    /// TLS towards it.
    pub tls: UpstreamTls,
    /// The database there.
    pub dbname: Arc<str>,
    /// The user there.
    pub user: Arc<str>,
    /// Its password: plain, or `md5…` for a server that asks for MD5.
    pub password: Option<Secret>,
    /// Parameters that the session there starts with.
    pub startup: Vec<(String, String)>,
    /// What is run on each new connection.
    pub connect_query: Option<String>,
}

impl Target {
    /// For tests: the database `shop` there, as `bob`, who needs no password.
    #[cfg(test)]
    pub(crate) fn of_bob(upstream: Upstream) -> Self {
        Self {
            hosts: vec![upstream.clone()],
            upstream,
            balance: LoadBalance::RoundRobin,
            tls: UpstreamTls::Disable,
            dbname: "shop".into(),
            user: "bob".into(),
            password: None,
            startup: Vec::new(),
            connect_query: None,
        }
    }

    /// All servers in one word.
    #[must_use]
    pub fn shown_hosts(&self) -> String {
        self.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    /// The same, with this server meant.
    #[must_use]
    pub(super) fn at(&self, upstream: &Upstream) -> Self {
        Self { upstream: upstream.clone(), ..self.clone() }
    }

    /// A fault that names the server.
    pub(super) fn fault(&self, kind: ConnectFaultKind, what: &str) -> ConnectFault {
        let message = format!("server {} (database \"{}\", user \"{}\"): {what}", self.upstream, self.dbname, self.user);
        ConnectFault::new(kind, message)
    }
}
