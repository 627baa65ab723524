//! The floor of the benchmark: relays that do nothing but copy, each one loop around `epoll`. What the kernel takes for the sockets of a pooler is all
//! that they cost, so no pooler that uses sockets in this way can cost less.
//!
//! They are no poolers: they believe whatever they are told, keep no session apart from another, count nothing, and end at the first fault.

mod line;
mod postgres;
mod redis;
mod scram;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Parser;

/// Relays that do nothing but copy, on loopback
#[derive(Parser)]
enum Floor {
    /// In front of PostgreSQL, which has to trust the user
    Postgres(Postgres),
    /// In front of Redis
    Redis {
        /// Where clients come in
        port: u16,
        /// Where the server listens
        server: u16,
    },
}

/// In front of PostgreSQL.
#[derive(clap::Args)]
struct Postgres {
    /// Where clients come in
    port: u16,
    /// Where the server listens
    server: u16,
    /// How many connections it opens, at once
    #[arg(long, default_value_t = 20)]
    pool_size: usize,
    /// As whom
    #[arg(long)]
    user: String,
    /// To which database
    #[arg(long)]
    database: String,
    /// Clients come in by a Unix socket in this folder as well
    #[arg(long)]
    socket_folder: Option<PathBuf>,
    /// The server is reached by its Unix socket in this folder
    #[arg(long)]
    server_folder: Option<PathBuf>,
    /// Clients log in by SCRAM, with a password of which this is the verifier; without it everybody may come in
    #[arg(long)]
    verifier: Option<String>,
}

fn main() -> io::Result<()> {
    match Floor::parse() {
        Floor::Postgres(options) => postgres::run(&options),
        Floor::Redis { port, server } => redis::run(loopback(port), loopback(server)),
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
