//! Logs in to a server on an open socket: the IO around `protocol`'s state machine, and its errors in the pool's terms.

use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use sidepool_protocol::postgres::login::binding::EndPoint;
use sidepool_protocol::postgres::login::scram;
use sidepool_protocol::postgres::login::upstream_side::{Progress, ServerError, UpstreamError, UpstreamLogin};

use super::connection::{PgConnection, take_in_idle_news};
use super::derived::PoolKeys;
use super::messages::{Messages, Silence};
use super::passed::Passed;
use super::target::Target;
use crate::pool::fault::{ConnectFault, ConnectFaultKind};
use crate::transport::stream::Stream;
use crate::upstream::dial::Server;

/// Logs in; the connection is ready for its first query. The caller bounds it in time.
pub(super) async fn login(
    mut stream: Stream,
    target: &Target,
    (passed, derived): (&Passed, &PoolKeys),
    server: &Arc<Server>,
) -> Result<PgConnection, ConnectFault> {
    let mut out = BytesMut::new();
    let (secret, keys) = passed.best(target.password.as_ref());
    let password = secret.as_ref().map(|secret| secret.reveal());
    let mut random = [0; 18];
    getrandom::fill(&mut random).map_err(|_| target.fault(ConnectFaultKind::Other, "no random numbers to be had"))?;
    let nonce = scram::nonce(random);
    let Some(login) = UpstreamLogin::begin((&target.user, &target.dbname), &target.startup, password, nonce, &mut out) else {
        return Err(target.fault(ConnectFaultKind::Other, "its user or database name cannot be sent: it has a zero byte"));
    };
    let certificate = stream.tls_peer().and_then(|peer| peer.server_certificate());
    let mut login = login.bound_to(certificate.and_then(|certificate| EndPoint::of(certificate))).with_keys(keys);
    let mut messages = Messages::new(&mut stream);
    let mut welcome = loop {
        messages.send(&mut out).await.map_err(|silence| lost(silence, target))?;
        let message = messages.next().await.map_err(|silence| lost(silence, target))?;
        match login.on_message(message.tag, &message.body, &mut out).map_err(|error| refused(&error, target))? {
            Progress::Read => {}
            Progress::NeedKeys(parameters) => {
                let unprepared = || target.fault(ConnectFaultKind::Other, "the password could not be prepared");
                let secret = secret.as_ref().ok_or_else(unprepared)?;
                let keys = derived.get(secret, parameters).await.map_err(|_| unprepared())?;
                login.on_keys(&keys, &mut out).map_err(|error| refused(&error, target))?;
            }
            Progress::LoggedIn(welcome) => break welcome,
        }
    };
    let rest = messages.rest();
    if take_in_idle_news(&rest, &mut welcome.parameters) != Some(rest.len()) {
        return Err(target.fault(ConnectFaultKind::Protocol, "it went on talking after the login"));
    }
    welcome.parameters.shrink_to_fit();
    let stream = stream.onto_ring().map_err(|error| target.fault(ConnectFaultKind::Other, &error.to_string()))?;
    Ok(PgConnection::new(stream, Rc::new(welcome.parameters), welcome.key, Arc::clone(server)))
}

/// The conversation ended before we were in.
pub(super) fn lost(silence: Silence, target: &Target) -> ConnectFault {
    match silence {
        Silence::Closed => target.fault(ConnectFaultKind::Unavailable, "it closed the connection during login"),
        Silence::Broken(error) => target.fault(ConnectFaultKind::Unavailable, &format!("the connection broke during login: {error}")),
        Silence::NotAMessage(what) => target.fault(ConnectFaultKind::Protocol, &format!("it does not speak PostgreSQL: {what}")),
    }
}

fn refused(error: &UpstreamError, target: &Target) -> ConnectFault {
    let (kind, code, said) = match error {
        UpstreamError::Refused(ServerError { sqlstate, message }) => {
            let code = sqlstate.as_ref().map_or("", |code| code.as_str());
            (kind_of(code), sqlstate.map(|code| code.as_str().into()), Some(message.as_str().into()))
        }
        UpstreamError::NoPassword(_) | UpstreamError::NoKeys | UpstreamError::OtherVerifier | UpstreamError::Unsupported(_) => {
            (ConnectFaultKind::Auth, None, None)
        }
        UpstreamError::Protocol(_) => (ConnectFaultKind::Protocol, None, None),
    };
    ConnectFault { code, said, ..target.fault(kind, &error.to_string()) }
}

/// What a server's code at login means for those who wait. Source: PostgreSQL documentation, "PostgreSQL Error Codes".
fn kind_of(sqlstate: &str) -> ConnectFaultKind {
    match sqlstate {
        // Wrong password, no such role or no line for us in pg_hba.conf, no right to connect.
        "28P01" | "28000" | "42501" => ConnectFaultKind::Auth,
        "3D000" => ConnectFaultKind::NoDatabase,
        "53300" => ConnectFaultKind::TooMany,
        // Starting up or shutting down, just shut down or crashed, out of resources, database being moved.
        "57P03" | "57P01" | "57P02" | "53000" | "53100" | "53200" | "55000" | "55006" => ConnectFaultKind::Unavailable,
        code if code.starts_with("08") => ConnectFaultKind::Protocol,
        _ => ConnectFaultKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::reason::Failure;

    #[test]
    fn codes_at_login_say_whether_waiting_helps() {
        for (code, kind, failure) in [
            ("28P01", ConnectFaultKind::Auth, Failure::Permanent),
            ("28000", ConnectFaultKind::Auth, Failure::Permanent),
            ("3D000", ConnectFaultKind::NoDatabase, Failure::Missing),
            ("53300", ConnectFaultKind::TooMany, Failure::Full),
            ("57P03", ConnectFaultKind::Unavailable, Failure::Transient),
            ("08P01", ConnectFaultKind::Protocol, Failure::Transient),
            ("XX000", ConnectFaultKind::Other, Failure::Transient),
            ("", ConnectFaultKind::Other, Failure::Transient),
        ] {
            assert_eq!(kind_of(code), kind, "{code}");
            assert_eq!(ConnectFault::new(kind, "").failure(), failure, "{code}");
        }
    }
}
