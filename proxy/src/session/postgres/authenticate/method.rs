//! Which method a login is to use, and the words with which each one fails.

use sidepool_config::auth::hba::{Approach, Method, Origin, PAM_SERVICE};
use sidepool_config::auth::ident::Maps;
use sidepool_config::model::{AuthType, Postgres};
use sidepool_protocol::postgres::fault::{Fault, SqlState};
use sidepool_protocol::postgres::startup::{Replication, Startup};

use crate::session::postgres::denied::Denied;
use crate::session::postgres::opening::Farewell;
use crate::transport::stream::{Peer, Stream};

/// How this login has to prove who it is; `None`: not at all, and it need not exist.
pub(super) fn choose(config: &Postgres, stream: &Stream, startup: &Startup) -> Result<Option<Method>, Farewell> {
    Ok(Some(match config.auth_type {
        AuthType::Any => return Ok(None),
        AuthType::Trust => Method::Trust,
        AuthType::Plain => Method::Password,
        AuthType::Md5 => Method::Md5,
        AuthType::ScramSha256 => Method::ScramSha256,
        AuthType::Cert => Method::Cert(None),
        AuthType::Ldap => match &config.auth_rules.ldap {
            Some(ldap) => Method::Ldap(Box::new(ldap.clone())),
            None => return Err(misconfigured(false)),
        },
        AuthType::Pam => Method::Pam(PAM_SERVICE.into()),
        AuthType::Hba => {
            let origin = origin(stream).ok_or(Farewell::Left)?;
            let approach = Approach {
                origin,
                database: &startup.database,
                user: &startup.user,
                replication: startup.replication == Some(Replication::Physical),
            };
            let rule = config.auth_rules.hba.find(&approach).ok_or_else(no_rule)?;
            tracing::debug!(line = rule.line, user = ?startup.user, database = ?startup.database, "login goes by auth_hba_file");
            rule.method.clone()
        }
    }))
}

fn origin(stream: &Stream) -> Option<Origin> {
    match stream.peer() {
        Peer::Tcp(address) => Some(Origin::Tcp { address: address.ip(), tls: stream.tls_peer().is_some() }),
        Peer::Unix => Some(Origin::Local),
        Peer::Gone => None,
    }
}

/// Where a client comes from, as PAM is told: an address without a port, or `unix` as in PgBouncer.
pub(super) fn host(stream: &Stream) -> String {
    match stream.peer() {
        Peer::Tcp(address) => address.ip().to_canonical().to_string(),
        peer @ (Peer::Unix | Peer::Gone) => peer.to_string(),
    }
}

/// Whether the client has shown a certificate, which TLS believed, of somebody who may be `user`.
pub(super) fn holds_certificate(stream: &Stream, maps: &Maps, map: Option<&str>, user: &str) -> bool {
    stream.tls_peer().and_then(|peer| peer.common_name()).is_some_and(|name| maps.allow(map, &name, user))
}

fn refused(message: &'static str) -> Fault {
    Fault::fatal(SqlState::INVALID_AUTHORIZATION, message)
}

fn no_rule() -> Farewell {
    let hint = "No line of auth_hba_file fits this address, database and user.";
    refused("no authentication method is found").with_hint(hint).into()
}

pub(super) fn rejected() -> Fault {
    refused("login rejected").with_hint("A line of auth_hba_file rejects this address, database and user.")
}

pub(super) fn not_trusted() -> Fault {
    refused("\"trust\" authentication failed").with_hint(
        "With \"trust\" a user needs no password but must be known: to auth_file or auth_query, or without those to [postgres.users].",
    )
}

pub(super) fn no_such_user() -> Fault {
    refused("no such user").with_hint("Neither the configuration nor auth_query knows this user.")
}

pub(super) fn not_the_peer() -> Fault {
    refused("unix socket login rejected")
        .with_hint("With \"peer\" the user of the operating system has to have this name, or a map in auth_ident_file that allows it.")
}

pub(super) fn no_certificate() -> Fault {
    refused("certificate authentication failed").with_hint(
        "With \"cert\" the common name of the client's certificate has to be this user, or a map in auth_ident_file has to allow it.",
    )
}

pub(super) fn no_ldap() -> Fault {
    Fault::fatal(SqlState::INVALID_PASSWORD, "LDAP authentication failed")
}

pub(super) fn no_pam() -> Fault {
    Fault::fatal(SqlState::INVALID_PASSWORD, "PAM authentication failed")
}

/// The client has done nothing wrong, and learns nothing of what is.
pub(super) fn disabled(database: &str) -> Farewell {
    let fault = Fault::fatal(SqlState::UNABLE_TO_CONNECT, format!("authentication database \"{database}\" is disabled"))
        .with_hint("An operator has disabled it on the admin console (DISABLE); it is where the passwords of users are looked up.");
    Farewell::Refused(fault, Denied::AuthUnavailable)
}

pub(super) fn misconfigured(transient: bool) -> Farewell {
    let (code, hint) = match transient {
        true => (SqlState::UNABLE_TO_CONNECT, "The user could not be looked up now: retry later. sidepool's log says why."),
        false => (SqlState::INTERNAL_ERROR, "Something about authentication is not configured rightly: sidepool's log says what."),
    };
    Farewell::Refused(Fault::fatal(code, "bouncer config error").with_hint(hint), Denied::AuthUnavailable)
}
