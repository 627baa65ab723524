//! Where a scenario plays: a server, the pooler in front of it, and the door through which clients come. One for each protocol, so that a
//! scenario need not know which it plays on.

mod postgres;
mod redis;

use sidepool_tests::process::Process;

pub use self::postgres::{PostgresStage, Upstream};
pub use self::redis::RedisStage;
use crate::network::Network;
use crate::tally::Failure;
use crate::witness::Witnesses;

/// Who stands between clients and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Ours.
    Sidepool,
    /// The field's, of the same protocol: PgBouncer, or nutcracker.
    Other,
}

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// As an administrator does: clients are told.
    Told,
    /// As a crash does.
    Crash,
    /// One of its processes is killed, and it throws everybody out and recovers by itself, where it is made like that.
    KillOne,
}

/// How many connections the server saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connects {
    /// In all.
    pub total: u64,
    /// The most within a second, where the server says when they came.
    pub most_per_second: Option<u64>,
}

/// How clients come in and ask.
pub trait Door: Clone + Send + Sync + 'static {
    /// A client that is in.
    type Session: Send;

    /// Connects and logs in.
    fn enter(&self) -> impl Future<Output = Result<Self::Session, Failure>> + Send;

    /// Asks for an answer that contains `token`, which nobody else asks for, and looks whether it does.
    fn ask(session: &mut Self::Session, token: &str) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Whether it can ask again.
    fn is_usable(session: &Self::Session) -> bool;
}

/// A server and a pooler. Played on by one task, so that only its clients need be `Send`.
pub trait Stage: Sized {
    /// Its clients.
    type Door: Door;

    /// Starts both; with a `network` the pooler reaches the server through that.
    fn set(peer: Peer, network: Option<&Network>) -> impl Future<Output = Self>;

    /// The name of who stands between.
    fn peer_name(peer: Peer) -> &'static str;

    /// The way in.
    fn door(&self) -> Self::Door;

    /// The pooler's process.
    fn pooler(&self) -> &Process;

    /// Stops the server.
    fn stop(&mut self, how: Stop) -> impl Future<Output = ()>;

    /// Starts it again.
    fn launch(&mut self) -> impl Future<Output = ()>;

    /// Ends one of the pooler's connections at the server, as its administrator would.
    fn end_one_connection(&mut self) -> impl Future<Output = ()>;

    /// What the server saw of connections.
    fn connects(&mut self) -> impl Future<Output = Connects>;

    /// Clients that watch whether every reply is right.
    fn witnesses(&self) -> impl Future<Output = Witnesses>;

    /// What they have seen, and what the server says to it.
    fn verdict(&self, witnesses: Witnesses) -> impl Future<Output = Vec<String>>;
}
