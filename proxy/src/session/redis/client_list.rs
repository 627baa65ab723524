//! The proxy's own clients, as `CLIENT LIST`, `INFO` and `KILL` speak of them.

use std::fmt::Write as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use sidepool_protocol::redis::request::parse_integer;

use super::client::Client;
use super::end::End;
use super::server::Server;
use super::shown::Words;
use crate::transport::stream::{Peer, Stream};

/// One client as one line, in the words of Redis 7. What a proxy does not know of its clients (descriptors, parts of their memory) is 0. `asking`: who
/// asks, and how long its request is.
pub fn line(client: &Client, now: Instant, asking: (u64, usize)) -> String {
    let shown = &client.shown;
    let age = now.saturating_duration_since(client.since).as_secs();
    let idle = crate::clock::coarse_seconds().saturating_sub(shown.heard.get());
    let words = shown.words();
    let [channels, patterns, shards] = words.subscriptions;
    let user = shown.user.borrow();
    let (asks, backlog) = (client.id == asking.0, client.backlog());
    let qbuf = if asks { asking.1 } else { 0 };
    let mut out = String::with_capacity(320);
    // Writing to a String does not fail.
    let _ = writeln!(
        out,
        "id={} addr={} laddr={} fd=0 name={} age={age} idle={idle} flags={} db={} sub={channels} psub={patterns} ssub={shards} multi={} qbuf={qbuf} \
         qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll={} omem={backlog} tot-mem={} events={} cmd={} user={} redir={} resp={} lib-name={} \
         lib-ver={}",
        client.id,
        client.with_stream(peer).unwrap_or_default(),
        client.with_stream(local).unwrap_or_default(),
        words.name,
        flags(client, &words),
        shown.database.get(),
        i64::from(shown.multi.get()) - 1,
        u8::from(backlog > 0),
        size_of::<Client>() + IDLE_BYTES + qbuf + backlog,
        if backlog > 0 { "rw" } else { "r" },
        shown.command.get().map_or("NULL", |command| command.name),
        user.as_deref().unwrap_or("default"),
        if shown.state.get().tracking { i64::try_from(words.redirect).unwrap_or(i64::MAX) } else { -1 },
        shown.version.get().number(),
        words.library,
        words.version,
    );
    out
}

/// What an idle session holds beside its client, more or less.
const IDLE_BYTES: usize = 512;

fn flags(client: &Client, words: &Words) -> String {
    let shown = &client.shown;
    let state = shown.state.get();
    let unix = client.with_stream(|stream| matches!(stream.peer(), Peer::Unix)).unwrap_or_default();
    let all = [
        (state.monitor, 'O'),
        (state.replica, 'S'),
        (shown.is_subscribed(), 'P'),
        (shown.multi.get() > 0, 'x'),
        (state.blocked, 'b'),
        (state.tracking, 't'),
        (words.redirect_broken, 'R'),
        (unix, 'U'),
        (state.habits.no_evict, 'e'),
        (state.habits.no_touch, 'T'),
    ];
    let text: String = all.iter().filter(|(is, _)| *is).map(|(_, letter)| *letter).collect();
    if text.is_empty() { "N".to_owned() } else { text }
}

/// `CLIENT LIST`, of the clients of one worker.
pub fn list(server: &Server, asking: (u64, usize), options: &[&[u8]]) -> Result<Vec<(u64, String)>, String> {
    let now = crate::clock::now();
    let chosen: Vec<Rc<Client>> = match options {
        [] => server.clients(),
        [option, kind] if option.eq_ignore_ascii_case(b"type") => of_type(server, kind)?,
        [option, ids @ ..] if option.eq_ignore_ascii_case(b"id") && !ids.is_empty() => {
            let mut chosen = Vec::new();
            for id in ids {
                let id = parse_integer(id).and_then(|id| u64::try_from(id).ok()).ok_or("ERR Invalid client ID")?;
                chosen.extend(server.client(id));
            }
            chosen
        }
        _otherwise => return Err("ERR syntax error".to_owned()),
    };
    Ok(chosen.iter().map(|client| (client.id, line(client, now, asking))).collect())
}

/// Who was killed.
pub enum Killed {
    /// The one that was named by its address.
    One,
    /// The same, and it is who asked.
    OneAndSelf,
    /// So many that fitted the filters.
    Many(i64),
    /// So many, and who asked is among them.
    ManyAndSelf(i64),
}

/// `CLIENT KILL`, asked by client `me`, who is left to close itself behind its reply.
pub fn kill(server: &Server, me: u64, options: &[&[u8]]) -> Result<Killed, String> {
    if let [address] = options {
        let address = String::from_utf8_lossy(address);
        let found = server.clients().into_iter().find(|client| client.with_stream(peer).as_deref() == Some(&*address));
        return match found {
            None => Err("ERR No such client".to_owned()),
            Some(client) if client.id == me => Ok(Killed::OneAndSelf),
            Some(client) => {
                client.doom(End::Killed);
                Ok(Killed::One)
            }
        };
    }
    let mut chosen = server.clients();
    let mut skip_me = true;
    let mut rest = options;
    while let [filter, value, more @ ..] = rest {
        skip_me = apply_filter(server, &mut chosen, filter, value)?.unwrap_or(skip_me);
        rest = more;
    }
    if !rest.is_empty() {
        return Err("ERR syntax error".to_owned());
    }
    let count = chosen.iter().filter(|client| client.id != me || !skip_me).count() as i64;
    let mut includes_me = false;
    for client in chosen {
        if client.id == me {
            includes_me = !skip_me;
        } else {
            client.doom(End::Killed);
        }
    }
    Ok(if includes_me { Killed::ManyAndSelf(count) } else { Killed::Many(count) })
}

/// Narrows `chosen`; gives the value of `SKIPME` where that is the filter.
fn apply_filter(server: &Server, chosen: &mut Vec<Rc<Client>>, filter: &[u8], value: &[u8]) -> Result<Option<bool>, String> {
    let text = String::from_utf8_lossy(value);
    match filter.to_ascii_lowercase().as_slice() {
        b"id" => {
            let id = parse_integer(value).filter(|id| *id > 0).ok_or("ERR client-id should be greater than 0")?;
            chosen.retain(|client| i64::try_from(client.id) == Ok(id));
        }
        b"addr" => chosen.retain(|client| client.with_stream(peer).as_deref() == Some(&*text)),
        b"laddr" => chosen.retain(|client| client.with_stream(local).as_deref() == Some(&*text)),
        b"user" => {
            if !server.knows_user(&text) {
                return Err(format!("ERR No such user '{text}'"));
            }
            chosen.retain(|client| client.shown.user.borrow().as_deref() == Some(&*text));
        }
        b"type" => {
            let of_type = of_type(server, value)?;
            chosen.retain(|client| of_type.iter().any(|other| other.id == client.id));
        }
        b"maxage" => {
            let age = parse_integer(value).and_then(|age| u64::try_from(age).ok()).ok_or("ERR maxage is not an integer or out of range")?;
            let now = crate::clock::now();
            chosen.retain(|client| now.saturating_duration_since(client.since) >= Duration::from_secs(age));
        }
        b"skipme" => {
            return match value.to_ascii_lowercase().as_slice() {
                b"yes" => Ok(Some(true)),
                b"no" => Ok(Some(false)),
                _neither => Err("ERR syntax error".to_owned()),
            };
        }
        _no_such_filter => return Err("ERR syntax error".to_owned()),
    }
    Ok(None)
}

fn of_type(server: &Server, kind: &[u8]) -> Result<Vec<Rc<Client>>, String> {
    let replica = |client: &Rc<Client>| client.shown.state.get().replica;
    let subscribed = |client: &Rc<Client>| !replica(client) && client.shown.is_subscribed();
    match kind.to_ascii_lowercase().as_slice() {
        b"normal" => Ok(server.clients().into_iter().filter(|client| !subscribed(client) && !replica(client)).collect()),
        b"pubsub" => Ok(server.clients().into_iter().filter(subscribed).collect()),
        b"replica" | b"slave" => Ok(server.clients().into_iter().filter(replica).collect()),
        b"master" => Ok(Vec::new()),
        _no_such_type => Err(format!("ERR Unknown client type '{}'", String::from_utf8_lossy(kind))),
    }
}

fn peer(stream: &Stream) -> String {
    match stream.peer() {
        Peer::Tcp(address) => address.to_string(),
        Peer::Unix => UNIX.to_owned(),
        Peer::Gone => String::new(),
    }
}

fn local(stream: &Stream) -> String {
    stream.local_address().map_or_else(|| UNIX.to_owned(), |address| address.to_string())
}

/// A Unix socket has no address that would mean anything to anybody.
const UNIX: &str = "unix:0";
