//! Clients that change process while they are connected: a session is taken apart at an idle moment, and put together again where its socket
//! arrives. What travels is what the client could notice the lack of: its parameters, its prepared statements, its cancel key.
//!
//! Not here: how it travels (`handover`). Clients with a server connection, under TLS, or in the middle of something stay where they are.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use sidepool_config::secret::Secret;
use sidepool_protocol::postgres::cancel_key::CancelKey;
use sidepool_protocol::postgres::encode;
use sidepool_protocol::postgres::fault::{Fault, SqlState};
use sidepool_protocol::postgres::login::keys::ScramKeys;
use sidepool_protocol::postgres::parameters::ParameterSet;
use tokio::io::AsyncWriteExt as _;

use super::cancel::CancelTicket;
use super::count::Present;
use super::inbound::Rules;
use super::prepared::{ClientStatements, StatementTable};
use super::presence::{Presence, Who};
use super::refusal;
use super::route::{self, Route};
use super::run::{Session, Start};
use crate::handover::message::{CancelBytes, ClientState, MovedStatement};
use crate::transport::stream::{Parcel, Stream};
use crate::upstream::postgres::link::Hold;
use crate::upstream::postgres::roll;
use crate::worker::Worker;

/// A client on its way to another process.
pub struct Leaver {
    /// Its socket.
    pub socket: Parcel,
    /// What has to be known of it.
    pub state: ClientState,
}

impl Session {
    /// Whether this idle client can be served by another process from here on: nothing is half-way, and its socket has no secrets (TLS).
    pub(super) fn is_movable(&mut self, waker: &Waker) -> bool {
        self.pending.is_empty()
            && self.to_client.is_empty()
            && self.body.remaining == 0
            && !self.skipping
            && self.hold == Hold::No
            // What is notified between its two LISTENs would be lost.
            && !self.ticket.listens()
            && self.worker.postgres.leavers.borrow().is_some()
            && self.client.is_at_rest(waker)
    }
}

/// Takes an idle session apart and puts it on its way.
pub(super) fn send_away(session: Session, worker: &Worker) {
    let state = state_of(&session);
    let socket = match session.client.detach() {
        Ok(socket) => socket,
        Err(error) => return tracing::warn!(%error, "a client is lost on its way to the new process"),
    };
    // The entry in the registry of cancels goes with the session; from here on the other process knows the key.
    if let Some(leavers) = &*worker.postgres.leavers.borrow() {
        // Fails only when the process ends at this moment.
        let _ = leavers.send(Leaver { socket, state });
    }
}

fn state_of(session: &Session) -> ClientState {
    let statements = session.statements.as_ref();
    let credential = session.pool.connector().passed().held();
    let (secret, keys) = credential.map_or((None, None), |credential| (credential.secret, credential.keys));
    let text = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    ClientState {
        user: session.ticket.presence().who.user.to_string(),
        database: session.ticket.presence().who.database.to_string(),
        key: CancelBytes(session.ticket.key().bytes()),
        parameters: session.state().iter().map(text).collect(),
        statements: statements.map(|statements| statements.export()).unwrap_or_default(),
        unnamed: statements.and_then(|statements| statements.unnamed.clone()),
        secret: secret.map(|secret| secret.reveal().to_owned()),
        keys: keys.map(|keys| keys.to_bytes().to_vec()),
    }
}

/// Puts a session together whose client another process has served up to now. A client that has no place in this configuration is told why.
pub(super) async fn revive(stream: Stream, state: ClientState, worker: Rc<Worker>) -> Option<(Session, Present)> {
    match prepare(&state, &worker) {
        Ok((route, parameters)) => {
            let presence = presence(&stream, &worker, state.user.into(), state.database.into(), parameters);
            let Ok(pool) = worker.postgres.pools.get(&route, &worker) else {
                return say_farewell(stream, &refusal::closed()).await;
            };
            if state.secret.is_some() || state.keys.is_some() {
                pool.pass(state.secret.map(Secret::new), state.keys.and_then(|keys| ScramKeys::from_bytes(&keys)));
            }
            let Ok(ticket) = CancelTicket::with_key(&worker, &pool.pool, CancelKey::from_bytes(state.key.0), presence) else {
                return say_farewell(stream, &refusal::closed()).await;
            };
            let config = Arc::clone(&worker.config.borrow());
            let postgres = config.postgres.as_ref()?;
            // It has been a client all along, however many there may be now.
            let member = worker.postgres.accounts.enter_anyway(postgres, &ticket.presence().who.database, &ticket.presence().who.user);
            let start = Start {
                client: stream.onto_ring().ok()?,
                said: Vec::new(),
                pool: Rc::clone(&pool.pool),
                mode: route.mode,
                keeps_statements: postgres.max_prepared_statements > 0,
                rules: Rules { max_packet: postgres.max_packet_size, simple_queries: !postgres.disable_pqexec },
                ticket,
                member,
            };
            let present = Present::new(&worker, &start);
            let mut session = Session::new(&worker, start);
            session.statements = statements(&worker.postgres.statements, &state.statements, state.unnamed);
            Some((session, present))
        }
        Err(fault) => {
            tracing::warn!(peer = %stream.peer(), user = ?state.user, database = ?state.database, "a client cannot be taken over: {fault}");
            say_farewell(stream, &fault).await
        }
    }
}

/// What others see of the client here: from now on, for what was before is the other process's.
fn presence(stream: &Stream, worker: &Worker, user: Box<str>, database: Box<str>, parameters: ParameterSet) -> Presence {
    let side = &worker.postgres;
    let tls = stream.tls_description().unwrap_or_default().into();
    let who = side.names.intern(Who { user, database, tls, replication: None });
    Presence::new(side.numbers.next(), who, stream, roll::seconds_now(), side.states.intern(parameters))
}

async fn say_farewell<T>(mut stream: Stream, fault: &Fault) -> Option<T> {
    let mut words = Vec::new();
    encode::error_response(fault, &mut words);
    // It may have gone; then nobody has to be told.
    let _ = stream.write_all(&words).await;
    None
}

fn prepare(state: &ClientState, worker: &Worker) -> Result<(Route, ParameterSet), Fault> {
    let config = Arc::clone(&worker.config.borrow());
    let route = config.postgres.as_ref().and_then(|postgres| route::route(postgres, &state.database, &state.user));
    let route = route.ok_or_else(|| Fault::fatal(SqlState::INVALID_CATALOG_NAME, format!("no such database: {}", state.database)))?;
    let mut parameters = ParameterSet::new();
    for (name, value) in &state.parameters {
        let refused = |error| Fault::fatal(SqlState::INVALID_PARAMETER_VALUE, format!("unsupported parameter: {name}: {error}"));
        parameters.set(name, value).map_err(refused)?;
    }
    Ok((route, parameters))
}

fn statements(table: &StatementTable, named: &[(Vec<u8>, MovedStatement)], unnamed: Option<Vec<u8>>) -> Option<Box<ClientStatements>> {
    if named.is_empty() && unnamed.is_none() {
        return None;
    }
    Some(Box::new(ClientStatements::import(table, named, unnamed)))
}
