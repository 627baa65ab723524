//! `auth_hba_file` as a value: rules in their order, of which the first that fits a login says how it is to prove who it is.
//!
//! Pure. Not here: reading the file (`read_hba`), or carrying a method out (the proxy's session).

use std::net::IpAddr;

use super::address::Address;
use super::ident::Maps;
use super::ldap::Ldap;
pub use super::read_hba::parse;

/// The service that PAM is asked for where nothing else is said.
pub const PAM_SERVICE: &str = "pgbouncer";

/// The rules, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules(pub(super) Vec<Rule>);

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its number in the file, from 1.
    pub line: u32,
    pub(super) kind: Kind,
    pub(super) databases: Databases,
    pub(super) users: Names,
    pub(super) addresses: Address,
    /// How the login proves who it is.
    pub method: Method,
}

/// How a login proves who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// Not at all.
    Trust,
    /// In no way.
    Reject,
    /// By an MD5 digest, or SCRAM where the stored secret is a verifier.
    Md5,
    /// By a clear-text password.
    Password,
    /// By SCRAM-SHA-256.
    ScramSha256,
    /// By who owns the process at the other end of the Unix socket, through a map.
    Peer(Option<String>),
    /// By the name in its certificate, through a map.
    Cert(Option<String>),
    /// By a password that an LDAP server knows.
    Ldap(Box<Ldap>),
    /// By a password that the operating system checks, as this service of PAM.
    Pam(Box<str>),
}

/// Which connections a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Local,
    Host,
    HostTls,
    HostPlain,
}

/// Which databases a rule is for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Databases {
    pub(super) names: Names,
    pub(super) same_user: bool,
    pub(super) replication: bool,
}

/// Some names, or every one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Names {
    pub(super) all: bool,
    /// Sorted.
    pub(super) names: Vec<String>,
}

/// A login, as far as rules look at it.
#[derive(Debug, Clone, Copy)]
pub struct Approach<'a> {
    /// Where it comes from.
    pub origin: Origin,
    /// The database that it asks for.
    pub database: &'a str,
    /// Who it says it is.
    pub user: &'a str,
    /// Whether it asks for physical replication, which has no database.
    pub replication: bool,
}

/// Where a login comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From this machine, over a Unix socket.
    Local,
    /// Over TCP.
    Tcp {
        /// From here.
        address: IpAddr,
        /// Under TLS.
        tls: bool,
    },
}

impl Rules {
    /// The first rule that fits.
    #[must_use]
    pub fn find(&self, approach: &Approach<'_>) -> Option<&Rule> {
        self.0.iter().find(|rule| rule.fits(approach))
    }

    /// Whether any of them asks an LDAP server or the operating system, who know users that we do not.
    #[must_use]
    pub fn ask_others(&self) -> bool {
        self.0.iter().any(|rule| matches!(rule.method, Method::Ldap(_) | Method::Pam(_)))
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The lines that name a map which is not there, each with the name: nobody can log in by them.
    pub fn without_map<'a>(&'a self, maps: &'a Maps) -> impl Iterator<Item = (u32, &'a str)> {
        self.0.iter().filter_map(|rule| match &rule.method {
            Method::Peer(Some(map)) | Method::Cert(Some(map)) if !maps.has(map) => Some((rule.line, map.as_str())),
            Method::Peer(_)
            | Method::Cert(_)
            | Method::Trust
            | Method::Reject
            | Method::Md5
            | Method::Password
            | Method::ScramSha256
            | Method::Ldap(_)
            | Method::Pam(_) => None,
        })
    }
}

impl Rule {
    fn fits(&self, approach: &Approach<'_>) -> bool {
        let from_there = match (self.kind, approach.origin) {
            (Kind::Local, Origin::Local) => true,
            (Kind::Host, Origin::Tcp { address, .. })
            | (Kind::HostTls, Origin::Tcp { address, tls: true })
            | (Kind::HostPlain, Origin::Tcp { address, tls: false }) => self.addresses.holds(address),
            (Kind::Local, Origin::Tcp { .. })
            | (Kind::Host | Kind::HostTls | Kind::HostPlain, Origin::Local)
            | (Kind::HostTls, Origin::Tcp { tls: false, .. })
            | (Kind::HostPlain, Origin::Tcp { tls: true, .. }) => false,
        };
        from_there && self.databases.hold(approach) && self.users.hold(approach.user)
    }
}

impl Databases {
    fn hold(&self, approach: &Approach<'_>) -> bool {
        // As in PostgreSQL: `all` does not stand for replication, and replication is in no database.
        if approach.replication {
            return self.replication;
        }
        (self.same_user && approach.database == approach.user) || self.names.hold(approach.database)
    }
}

impl Names {
    pub(super) fn new(all: bool, mut names: Vec<String>) -> Self {
        names.sort_unstable();
        names.dedup();
        Self { all, names }
    }

    fn hold(&self, name: &str) -> bool {
        self.all || self.names.binary_search_by(|known| known.as_str().cmp(name)).is_ok()
    }
}
