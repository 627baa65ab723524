//! One client's way in, from its first byte to ReadyForQuery:
//!
//! ```text
//!   opening ─▶ authenticate ─▶ route ─▶ baseline of the pool ─▶ welcome ─▶ Arrival::Session
//!      │ CancelRequest               │ no such database: told only now
//!      ▼                             ▼
//!   Arrival::Cancel               refused: SQLSTATE, message, one log line
//! ```
//! All of it within `client_login_timeout`. Not here: what comes after (`run`).

use std::cell::{Cell, OnceCell};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sidepool_config::model::{Config, PoolMode, Postgres, TcpOptions};
use sidepool_protocol::postgres::cancel_key::CancelKey;
use sidepool_protocol::postgres::encode;
use sidepool_protocol::postgres::fault::{Fault, Severity, SqlState};
use sidepool_protocol::postgres::parameters::ParameterSet;
use sidepool_protocol::postgres::startup::{self, NEWEST_MINOR, Startup, Stranger};
use sidepool_protocol::postgres::tracker::TransactionStatus;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::account::Member;
use super::application_name;
use super::authenticate::Keeper;
use super::cancel::{self, CancelTicket, Outcome};
use super::count::turned_away;
use super::deadlines::Overdue;
use super::denied::Denied;
use super::heard::Heard;
use super::inbound::Rules;
use super::opening::{self, Farewell, Speaker, Wish};
use super::operator;
use super::pools::PgPool;
use super::presence::{Presence, Who};
use super::refusal;
use super::replication::{Refused, Replicating};
use super::route::{self, PoolKey};
use super::run::Start;
use super::say;
use crate::arrivals::Newcomer;
use crate::clock;
use crate::console::guest::Guest;
use crate::drain::Stage;
use crate::observe::record::{PoolCounter, WorkerCounter, WorkerHistogram};
use crate::pool::acquire::AcquireError;
use crate::pool::fault::ConnectFaultKind;
use crate::transport::options;
use crate::transport::stream::Stream;
use crate::upstream::postgres::roll;
use crate::worker::Worker;

/// How long a client that is sent away has to take our last words.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// How much of what such a client still sends is read: a socket closed with something unread in it throws our last words away.
const FAREWELL_BYTES: usize = 64 * 1024;

/// Room for what follows the parameters: BackendKeyData and ReadyForQuery.
const BEHIND_PARAMETERS: usize = 32;

/// What became of a new connection.
pub enum Arrival {
    /// A session.
    Session(Start),
    /// A replication connection, and what the client has said already.
    Replication(Box<Replicating>, Stream, Vec<u8>),
    /// A request to cancel what another client does.
    Cancel(Canceller),
    /// An operator, and what it has said already.
    Console(Box<Guest>, Stream, Vec<u8>),
}

/// Somebody who asks to cancel what another client does; its connection is to be closed when that is done.
pub struct Canceller {
    key: Option<CancelKey>,
    stream: Stream,
    id: u64,
    connected: u32,
}

impl Canceller {
    /// Carries the request out.
    pub async fn serve(self, worker: &Rc<Worker>) {
        let outcome = match self.key {
            Some(key) => cancel::deliver(worker, key).await,
            None => Outcome::Malformed,
        };
        say::cancelled(&worker.config.borrow(), self.id, self.connected, &self.stream, outcome);
    }
}

/// Lets a client in; `None` when that did not work out, in which case everybody has been told.
pub async fn login(mut stream: Stream, worker: &Rc<Worker>) -> Option<Arrival> {
    let started = clock::now();
    let (id, connected) = (worker.postgres.numbers.next(), roll::seconds_now());
    let config = Arc::clone(&worker.config.borrow());
    let Some(postgres) = &config.postgres else {
        let fault = Fault::fatal(SqlState::CANNOT_CONNECT_NOW, "sidepool serves PostgreSQL no longer");
        Box::pin(bid_farewell(stream, &fault.into())).await;
        return None;
    };
    set_options(&stream, postgres);
    let bound = postgres.client_login_timeout;
    // Whether it is the server that we wait for, and not the client.
    let server_wait = Cell::new(false);
    // Who it says it is, which is said of it in the log even when its time is up.
    let startup = OnceCell::new();
    let arrival = worker.postgres.arrivals.enter();
    let mut heard = Heard::default();
    let speaker = Speaker { stream: &mut stream, heard: &mut heard, buffers: &worker.buffers, arrival: &arrival };
    let reached = Reached { speaker, id, connected, startup: &startup, server_wait: &server_wait };
    let result = {
        // Pinned here, so that there is one of it, and it is not moved.
        let entered = pin!(unless_sent_away(&arrival, enter(reached, worker, &config, postgres)));
        if bound.is_zero() {
            entered.await
        } else {
            timeout(bound, entered).await.unwrap_or_else(|_| Err(too_late(bound, server_wait.get())))
        }
    };
    drop(arrival);
    let farewell = match result {
        Ok(Entered::Cancel(key)) => return Some(Arrival::Cancel(Canceller { key, stream, id, connected })),
        Ok(Entered::Replication(replicating)) => {
            count(worker, started, WorkerCounter::PostgresLoginOk);
            return Some(Arrival::Replication(replicating, stream, heard.rest()));
        }
        Ok(Entered::Console(guest)) => {
            count(worker, started, WorkerCounter::PostgresLoginOk);
            return Some(Arrival::Console(guest, stream, heard.rest()));
        }
        Ok(Entered::Session(inside)) => {
            count(worker, started, WorkerCounter::PostgresLoginOk);
            return Some(Arrival::Session(inside.start(stream, heard.rest(), postgres)));
        }
        Err(farewell) => farewell,
    };
    if !matches!(farewell, Farewell::Silent) {
        count(worker, started, turned_away(worker, &farewell));
    }
    let who = startup.get().map_or(("", ""), |startup: &Startup| (&*startup.user, &*startup.database));
    if !say::not_let_in(&config, id, connected, &stream, who, &farewell) {
        log(&farewell, &stream, who, started);
    }
    if farewell.denied() == Some(Denied::CrowdedOut) {
        // Its place is needed at once.
        let _ = timeout(Duration::ZERO, stream.write_all(&last_words(&farewell))).await;
    } else {
        Box::pin(bid_farewell(stream, &farewell)).await;
    }
    None
}

/// The login, unless the client has to make room for others before it is in.
async fn unless_sent_away(arrival: &Newcomer, login: impl Future<Output = Result<Entered, Farewell>>) -> Result<Entered, Farewell> {
    tokio::select! {
        biased;
        result = login => result,
        () = arrival.sent_away() => Err(crowded_out()),
    }
}

/// A client that has reached us.
pub(super) struct Reached<'a> {
    pub(super) speaker: Speaker<'a>,
    /// Its number.
    pub(super) id: u64,
    /// When, in seconds since the epoch.
    pub(super) connected: u32,
    /// Who it says it is.
    startup: &'a OnceCell<Startup>,
    /// Whether it is the server that we wait for, and not the client.
    server_wait: &'a Cell<bool>,
}

impl Reached<'_> {
    /// What others see of it, now that it is in.
    fn presence(&self, worker: &Worker, user: Box<str>, startup: &Startup, state: Rc<ParameterSet>) -> Presence {
        let who = Who {
            user,
            database: startup.database.clone(),
            tls: self.speaker.stream.tls_description().unwrap_or_default().into(),
            replication: startup.replication,
        };
        let side = &worker.postgres;
        Presence::new(self.id, side.names.intern(who), self.speaker.stream, self.connected, state)
    }
}

/// Connections inherit the listener's options; what is configured comes on top.
fn set_options(stream: &Stream, postgres: &Postgres) {
    if let Stream::Tcp(socket) = stream
        && postgres.tcp != TcpOptions::default()
        && let Err(error) = options::client(socket, &postgres.tcp)
    {
        tracing::warn!(peer = %stream.peer(), %error, "the tcp_ settings could not be applied to a client's connection");
    }
}

/// Where a login leads.
enum Entered {
    Cancel(Option<CancelKey>),
    Console(Box<Guest>),
    Session(Box<Inside>),
    Replication(Box<Replicating>),
}

/// A client that is in and has been welcomed.
struct Inside {
    pool: Rc<PgPool>,
    mode: PoolMode,
    ticket: CancelTicket,
    member: Member,
}

impl Inside {
    fn start(self, client: Stream, said: Vec<u8>, postgres: &Postgres) -> Start {
        self.pool.pool.record().add(PoolCounter::BytesFromClient, said.len() as u64);
        Start {
            client,
            said,
            pool: Rc::clone(&self.pool.pool),
            mode: self.mode,
            keeps_statements: postgres.max_prepared_statements > 0,
            rules: Rules { max_packet: postgres.max_packet_size, simple_queries: !postgres.disable_pqexec },
            ticket: self.ticket,
            member: self.member,
        }
    }
}

async fn enter(mut reached: Reached<'_>, worker: &Rc<Worker>, config: &Config, postgres: &Postgres) -> Result<Entered, Farewell> {
    let wish = opening::wish(&mut reached.speaker, &postgres.client_tls).await;
    if let Some(peer) = reached.speaker.stream.tls_peer() {
        worker.record.add(peer.counter(), 1);
    }
    let (packet, minor) = match wish? {
        Wish::Cancel(key) => return Ok(Entered::Cancel(key)),
        Wish::Startup(packet, minor) => (packet, minor),
    };
    let ignores_options = postgres.ignore_startup_parameters.iter().any(|name| name == "options");
    let mut startup = startup::startup(&packet, ignores_options)?;
    drop(packet);
    say::attempt(config, reached.id, reached.speaker.stream, &startup);
    if postgres.application_name_add_host {
        application_name::add_host(&mut startup, reached.speaker.stream);
    }
    let startup = reached.startup.get_or_init(|| startup);
    admit(&mut reached, worker, config, postgres, startup, minor).await
}

/// From the start-up message to the welcome.
async fn admit(
    reached: &mut Reached<'_>,
    worker: &Rc<Worker>,
    config: &Config,
    postgres: &Postgres,
    startup: &Startup,
    minor: u16,
) -> Result<Entered, Farewell> {
    let mut out = Vec::new();
    if minor > NEWEST_MINOR || !startup.protocol_options.is_empty() {
        encode::negotiate_protocol_version(NEWEST_MINOR, startup.protocol_options.iter().map(|option| &**option), &mut out);
    }
    let side = &worker.postgres;
    let keeper = Keeper { worker, config: postgres, startup };
    if operator::is_wanted(startup) {
        return Box::pin(operator::admit(reached, &keeper, out)).await.map(|guest| Entered::Console(Box::new(guest)));
    }
    let admitted = keeper.authenticate(&mut reached.speaker, &mut out).await?;
    // Over TCP those who were in the queue when the listener closed are still served.
    let last = if matches!(reached.speaker.stream, Stream::Unix(_)) { Stage::Moving } else { Stage::NobodyNew };
    if worker.drain.stage() > last {
        return Err(Farewell::Refused(refusal::closed(), Denied::Draining));
    }
    let Found { pool, key, mode, member } = find_pool(worker, config, postgres, startup, &admitted.user)?;
    if *key.user == *admitted.user && (admitted.secret.is_some() || admitted.keys.is_some()) {
        pool.pass(admitted.secret, admitted.keys);
    }
    reached.server_wait.set(true);
    if let Some(kind) = startup.replication {
        let presence = reached.presence(worker, admitted.user, startup, side.states.intern(ParameterSet::new()));
        let ticket = CancelTicket::new(worker, &pool.pool, presence).map_err(|_| no_random())?;
        let replicating =
            Box::pin(Replicating::open(&pool.pool, startup, kind, ticket, member)).await.map_err(|refused| match refused {
                Refused::Pool(error) => no_baseline(&error, &key, startup),
                Refused::Server(fault) => Farewell::Refused(refusal::server_refused(&key.name(), &fault), Denied::Upstream),
            })?;
        replicating.welcome(&mut out);
        reached.speaker.stream.write_all(&out).await?;
        return Ok(Entered::Replication(Box::new(replicating)));
    }
    let bounds = member.account().bounds();
    let baseline = tokio::select! {
        biased;
        baseline = pool.baseline(member.account().patience()) => baseline,
        // Nobody is let in for who does not wait any more. What it has asked already is the session's to deal with, even if it says no more.
        () = reached.speaker.stream.left(), if reached.speaker.heard.bytes().is_empty() => return Err(Farewell::Left),
        // Who waits for a server waits as for a query.
        () = over(bounds.query) => {
            return Err(Farewell::Refused(refusal::overdue(Overdue::QueuedQuery, &bounds), Denied::QueryTimeout));
        }
    };
    reached.server_wait.set(false);
    let baseline = match baseline {
        Ok(baseline) => baseline,
        Err(error) => {
            drop(pool);
            side.pools.forget_if_unused(&key);
            return Err(no_baseline(&error, &key, startup));
        }
    };
    let greeting = pool.greetings.greet(startup, &baseline, postgres, &side.states)?;
    let presence = reached.presence(worker, admitted.user, startup, Rc::clone(&greeting.state));
    let ticket = CancelTicket::new(worker, &pool.pool, presence).map_err(|_| no_random())?;
    out.reserve_exact(greeting.told.len() + BEHIND_PARAMETERS);
    out.extend_from_slice(&greeting.told);
    let key = ticket.key();
    encode::backend_key_data(key.process_id(), &key.secret(), &mut out);
    encode::ready_for_query(TransactionStatus::Idle, &mut out);
    reached.speaker.stream.write_all(&out).await?;
    Ok(Entered::Session(Box::new(Inside { pool, mode, ticket, member })))
}

pub(super) fn no_random() -> Fault {
    Fault::fatal(SqlState::INTERNAL_ERROR, "no random numbers to be had")
}

/// Where a client is led, and the right to be there.
struct Found {
    pool: Rc<PgPool>,
    key: PoolKey,
    mode: PoolMode,
    member: Member,
}

/// The pool that the client is led to. Whether the database exists is said only to those who have proven who they are.
fn find_pool(worker: &Rc<Worker>, config: &Config, postgres: &Postgres, startup: &Startup, user: &str) -> Result<Found, Farewell> {
    // A reload may have happened while the client was asked: then the new configuration counts, as far as it still has the place.
    let current = Arc::clone(&worker.config.borrow());
    let postgres = if std::ptr::eq(&*current, config) { postgres } else { current.postgres.as_ref().unwrap_or(postgres) };
    let Some(way) = route::way(postgres, &startup.database, user) else {
        let fault = Fault::fatal(SqlState::INVALID_CATALOG_NAME, format!("no such database: {}", startup.database))
            .with_hint("sidepool serves the databases listed under [postgres.databases] of its configuration.");
        return Err(Farewell::Refused(fault, Denied::UnknownDatabase));
    };
    if postgres.auth_type == sidepool_config::model::AuthType::Any && !way.has_forced_user() {
        let fault = Fault::fatal(SqlState::INVALID_AUTHORIZATION, "bouncer config error")
            .with_detail(format!("Database \"{}\" needs a configured upstream user.", startup.database))
            .with_hint("With auth_type \"any\" nobody proves who they are, so each database has to name the user that all clients become.");
        return Err(Farewell::Refused(fault, Denied::Internal));
    }
    if worker.postgres.pools.switches().is_disabled(way.key.database()) {
        let fault = Fault::fatal(SqlState::PROTOCOL_VIOLATION, format!("database \"{}\" is disabled", startup.database))
            .with_hint("An operator has disabled it (DISABLE on the admin console); ENABLE lets clients in again.");
        return Err(Farewell::Refused(fault, Denied::DatabaseDisabled));
    }
    let member = worker.postgres.accounts.enter(postgres, &startup.database, user)?;
    match worker.postgres.pools.at_the_end_of(&way, worker) {
        Ok(pool) => Ok(Found { pool, key: way.key, mode: way.mode, member }),
        Err(_) => {
            let fault = Fault::fatal(SqlState::CONFIGURATION_LIMIT, "too many different databases are in use")
                .with_detail(format!(
                    "At most {} databases served by the entry \"*\" can be in use at a time.",
                    super::pools::MAX_AUTO_POOLS
                ))
                .with_hint("List the databases in the configuration.");
            Err(Farewell::Refused(fault, Denied::TooManyDatabases))
        }
    }
}

/// The first connection of the pool could not be had, and without it nobody knows what to welcome the client with.
fn no_baseline(error: &AcquireError, key: &PoolKey, startup: &Startup) -> Farewell {
    if error.fault.as_ref().is_some_and(|fault| fault.kind == ConnectFaultKind::NoDatabase) {
        let fault = Fault::fatal(SqlState::INVALID_CATALOG_NAME, format!("database \"{}\" does not exist", startup.database))
            .with_detail(format!("The server has no database \"{}\".", key.dbname));
        return Farewell::Refused(fault, Denied::NoServerDatabase);
    }
    let fault = Fault { severity: Severity::Fatal, ..refusal::no_connection(&key.name(), error) };
    Farewell::Refused(fault, error.refusal.reason.into())
}

/// Waits until so much time is over; where there is no bound, for ever.
async fn over(bound: Option<Duration>) {
    match bound {
        Some(bound) => tokio::time::sleep(bound).await,
        None => std::future::pending().await,
    }
}

fn too_late(bound: Duration, server_wait: bool) -> Farewell {
    let (message, denied) = match server_wait {
        true => ("client_login_timeout (server down)", Denied::LoginTimeoutServer),
        false => ("client_login_timeout", Denied::LoginTimeout),
    };
    let fault = Fault::fatal(SqlState::PROTOCOL_VIOLATION, message)
        .with_detail(format!("The login was not finished within {} ms.", bound.as_millis()));
    Farewell::Refused(fault, denied)
}

fn crowded_out() -> Farewell {
    let fault = Fault::fatal(SqlState::TOO_MANY_CONNECTIONS, "the login took long and its place was needed")
        .with_detail("There were as many connections as there may be, and this one kept sidepool waiting longest for its next message.")
        .with_hint("Connect again; raise max_client_conn or max_client_logins if that happens to clients that are not slow.");
    Farewell::Refused(fault, Denied::CrowdedOut)
}

fn count(worker: &Worker, started: Instant, result: WorkerCounter) {
    worker.record.add(result, 1);
    worker.record.observe(WorkerHistogram::PostgresLogin, clock::now().saturating_duration_since(started));
}

/// One line for each client that did not get in. Names come from the client, so they are escaped.
fn log(farewell: &Farewell, stream: &Stream, (user, database): (&str, &str), started: Instant) {
    let (peer, reason) = (stream.peer(), farewell.label());
    let ms = clock::now().saturating_duration_since(started).as_millis();
    match farewell {
        Farewell::Silent => tracing::debug!(%peer, reason, "client left without a word"),
        Farewell::Left => tracing::info!(%peer, user, database, ms, reason, "client left during login"),
        Farewell::Broken(error) => tracing::info!(%peer, user, database, ms, reason, %error, "client lost during login"),
        Farewell::Handshake(error) => tracing::warn!(%peer, ms, reason, %error, "TLS handshake with a client failed"),
        Farewell::Stranger(stranger) => tracing::warn!(%peer, reason, "not a PostgreSQL client: {stranger}"),
        Farewell::Refused(fault, _) => {
            tracing::warn!(%peer, user, database, ms, reason, sqlstate = %fault.sqlstate, "login refused: {fault}")
        }
    }
}

/// Tells the client why, in words that it understands, and closes so that they arrive.
async fn bid_farewell(mut stream: Stream, farewell: &Farewell) {
    let words = last_words(farewell);
    if words.is_empty() {
        return;
    }
    let farewell = async {
        stream.write_all(&words).await?;
        stream.shutdown().await?;
        let mut unread = FAREWELL_BYTES;
        let mut buffer = [0; 512];
        while unread > 0 {
            match stream.read(&mut buffer).await? {
                0 => break,
                read => unread = unread.saturating_sub(read),
            }
        }
        io::Result::Ok(())
    };
    // A client that does not listen has been closed all the same.
    let _ = timeout(FAREWELL_TIMEOUT, farewell).await;
}

fn last_words(farewell: &Farewell) -> Vec<u8> {
    let mut words = Vec::new();
    match farewell {
        Farewell::Silent | Farewell::Left | Farewell::Broken(_) | Farewell::Handshake(_) => {}
        Farewell::Refused(fault, _) => encode::error_response(fault, &mut words),
        Farewell::Stranger(stranger) => match stranger {
            Stranger::Http => words.extend_from_slice(
                b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nThis port speaks PostgreSQL, not HTTP.\n",
            ),
            // A fatal handshake_failure alert, which every TLS library reports.
            Stranger::Tls => words.extend_from_slice(&[0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x28]),
            Stranger::Redis => words.extend_from_slice(b"-ERR this port speaks PostgreSQL, not Redis\r\n"),
            Stranger::Length(_) | Stranger::Version(..) | Stranger::RequestLength(_) => encode::error_response(&stranger.fault(), &mut words),
        },
    }
    words
}

#[cfg(test)]
#[path = "login_tests.rs"]
mod tests;
