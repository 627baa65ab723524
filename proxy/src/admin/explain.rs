//! What a pool's state means, in words: how it is, and what to do about it. Pure.
//!
//! ```text
//!   drains, paused ─▶ cannot be reached ─▶ the server is full ─▶ blocked by its own limits ─▶ opens connections ─▶ tight ─▶ healthy
//! ```
//! The first that is true is said. Not here: what the whole process has to say (`notices`).

use std::time::Duration;

use super::sessions::{Holder, Holders, Limit};
use crate::observe::report::{PoolState, Protocol, Trouble};
use crate::upstream::postgres::pins::Cause;

/// From so long on a wait for room on shared connections is not what taking turns takes.
const LONG_IN_LINE: Duration = Duration::from_secs(1);

/// What helps those who wait for room.
const SLOW_SERVER: &str =
    "the server answers more slowly than clients ask: send fewer commands at a time, or, of quick ones, raise shared_connections";

/// How bad it is, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// All is well.
    Good,
    /// Worth knowing.
    Notice,
    /// Somebody stopped it.
    Paused,
    /// Clients wait, or are refused.
    Exhausted,
    /// The server cannot be used.
    Down,
}

impl Level {
    /// All of them, the best first.
    pub const ALL: [Self; 5] = [Self::Good, Self::Notice, Self::Paused, Self::Exhausted, Self::Down];

    /// In the status document.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Notice => "notice",
            Self::Paused => "paused",
            Self::Exhausted => "exhausted",
            Self::Down => "down",
        }
    }
}

/// A sentence, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    /// How bad it is.
    pub level: Level,
    /// How it is.
    pub text: String,
    /// What to do about it, where there is something to be done.
    pub advice: Option<String>,
}

impl Words {
    /// A sentence with what to do about it.
    #[must_use]
    pub fn new(level: Level, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level, text: text.into(), advice: Some(advice.into()) }
    }

    /// A sentence about which nothing is to be done.
    #[must_use]
    pub fn plain(level: Level, text: impl Into<String>) -> Self {
        Self { level, text: text.into(), advice: None }
    }
}

/// What is seen of a pool.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Which protocol it speaks.
    pub protocol: Protocol,
    /// When connections come back.
    pub mode: &'static str,
    /// The database, by the name that operators use.
    pub database: &'a str,
    /// Its state.
    pub state: &'a PoolState,
    /// Who holds its connections, as far as is known.
    pub holders: &'a Holders,
    /// The limits that it shares with other pools.
    pub limits: &'a [&'a Limit],
    /// Whether its connections are shared by all clients, so that it is no shortage when all are in use.
    pub shared: bool,
    /// Redis clients that wait because as many wait for somebody else as may.
    pub blocking: u64,
}

/// What there is to say about a pool.
#[must_use]
pub fn explain(seen: &Seen<'_>) -> Words {
    stopped(seen)
        .or_else(|| unreachable(seen))
        .or_else(|| blocked(seen))
        .or_else(|| waiting(seen))
        .or_else(|| tight(seen))
        .unwrap_or_else(|| healthy(seen))
}

fn stopped(seen: &Seen<'_>) -> Option<Words> {
    if seen.state.draining {
        return Some(Words::plain(Level::Notice, format!("drains: nobody new is served; {}", usage(seen))));
    }
    let advice = || format!("RESUME {} on the admin console lets them go on", seen.database);
    seen.state.paused.then(|| Words::new(Level::Paused, format!("paused by an operator; {}", queue(seen.state)), advice()))
}

fn unreachable(seen: &Seen<'_>) -> Option<Words> {
    let state = seen.state;
    let retry = state.retry_in.map(|pause| format!(", tried again in {}", span(pause))).unwrap_or_default();
    let rest = format!("{retry}; {}, {}", usage(seen), queue(state));
    // What failed may be long ago: nobody has needed one more since. Those that are open show that the server is there.
    let matters = state.waiters > 0 || busy(state) + state.idle == 0 && state.trouble != Some(Trouble::Missing);
    let down = |text: &str, advice: &str| {
        if matters {
            return Some(Words::new(Level::Down, format!("{text}{rest}"), advice));
        }
        Some(Words::new(Level::Notice, format!("the last attempt to open one more failed ({text}){rest}"), advice))
    };
    match state.trouble? {
        Trouble::Away => down(
            "the server cannot be reached",
            "look at the server, its address, and the network between; the log has the error of each attempt",
        ),
        Trouble::Starting => down("the server is starting up", "who waits goes on waiting; look at the server's log if it takes long"),
        Trouble::Denied => down("the server refuses the login", "check the user, the password and the server's pg_hba.conf or ACL"),
        Trouble::Missing => down("the server does not have what was asked for", "check the database's name (dbname) on the server"),
        Trouble::Full if state.waiters > 0 => Some(Words::new(
            Level::Exhausted,
            format!("the server has room for {} of {} connections and refuses more{rest}", state.room, state.max),
            "raise the server's max_connections, or lower the pools that share it: together they want more than it has",
        )),
        Trouble::Full => None,
    }
}

/// Everything that may be in use is, and somebody waits.
fn blocked(seen: &Seen<'_>) -> Option<Words> {
    let state = seen.state;
    if seen.blocking > 0 {
        let who = if seen.blocking == 1 { "client waits" } else { "clients wait" };
        let text = format!("{} {who} because as many hold a connection for a blocking command as may; {}", seen.blocking, usage(seen));
        return Some(Words::new(Level::Exhausted, text, "raise blocking_connections and pool_size, or block for shorter"));
    }
    if state.waiters == 0 {
        return None;
    }
    let full = state.waiters >= state.queue_limit && state.queue_limit > 0;
    let refused = if full { "; the queue is full: who comes now is refused (max_queue_length)" } else { "" };
    let exhausted = |text: String, advice: String| Some(Words::new(Level::Exhausted, text, advice));
    if state.in_line > 0 && (full || state.oldest_wait >= LONG_IN_LINE) {
        return exhausted(format!("{}, {}{refused}", usage(seen), queue(state)), SLOW_SERVER.to_owned());
    }
    if state.waiters > state.in_line && open(state) >= state.max.min(state.room) && state.connecting == 0 {
        return exhausted(format!("{}, {}{refused}{}", usage(seen), queue(state), held(seen)), remedy(seen));
    }
    if let Some(limit) = seen.limits.iter().find(|limit| limit.used >= limit.max) {
        let text = format!(
            "all {} connections of {} are open ({}); {}, {}{refused}",
            limit.max,
            limit.of,
            limit.setting,
            usage(seen),
            queue(state)
        );
        return exhausted(text, format!("raise {}, or look at the other pools that use them", limit.setting));
    }
    full.then(|| Words::new(Level::Exhausted, format!("{}, {}{refused}", usage(seen), queue(state)), remedy(seen)))
}

fn waiting(seen: &Seen<'_>) -> Option<Words> {
    let state = seen.state;
    if state.waiters == 0 {
        return None;
    }
    if state.connecting > 0 {
        let text = format!("{} being opened; {}, {}", connections(state.connecting), usage(seen), queue(state));
        return Some(Words::new(Level::Notice, text, "if that is often so: raise min_pool_size, so that they are open already"));
    }
    if state.in_line > 0 {
        return Some(Words::new(Level::Notice, format!("{}, {}", usage(seen), queue(state)), SLOW_SERVER));
    }
    Some(Words::plain(Level::Notice, format!("{}, {}", usage(seen), queue(state))))
}

fn tight(seen: &Seen<'_>) -> Option<Words> {
    let state = seen.state;
    let notice = |text: String, advice: &str| Some(Words::new(Level::Notice, text, advice));
    if state.trouble == Some(Trouble::Full) {
        let text = format!("the server has room for {} of {} connections; {}, nobody waits", state.room, state.max, usage(seen));
        return notice(text, "raise the server's max_connections, or lower the pools that share it");
    }
    if state.max_pinned > 0 && state.pinned >= state.max_pinned {
        let text = format!("as many connections are pinned as may be: {}; who needs one more is refused", pinned(state));
        return Some(Words::new(Level::Notice, text, pin_remedy(state)));
    }
    if reserve_used(state) > 0 {
        return notice(format!("{}, nobody waits: the reserve is in use", usage(seen)), "raise pool_size if that is often so");
    }
    let most = state.max.min(state.room);
    (!seen.shared && most > 1 && u64::from(busy(state)) * 10 >= u64::from(most) * 9)
        .then(|| Words::plain(Level::Notice, format!("{}, nobody waits{}", usage(seen), held(seen))))
}

fn healthy(seen: &Seen<'_>) -> Words {
    Words::plain(Level::Good, format!("healthy: {}, nobody waits", usage(seen)))
}

/// "20 of 20 in use".
fn usage(seen: &Seen<'_>) -> String {
    let state = seen.state;
    if seen.shared {
        return format!("{} shared by all clients", connections(open(state)));
    }
    let reserve = match reserve_used(state) {
        0 => String::new(),
        used => format!(" and {used} of {} in reserve", state.reserve),
    };
    format!("{} of {}{reserve} in use", busy(state).min(state.max), state.max)
}

/// "14 waiting, oldest 1.2 s".
fn queue(state: &PoolState) -> String {
    match state.waiters {
        0 => "nobody waits".to_owned(),
        waiters if state.in_line == 0 => format!("{waiters} waiting, oldest {}", span(state.oldest_wait)),
        waiters => format!("{waiters} waiting ({} for room on them), oldest {}", state.in_line, span(state.oldest_wait)),
    }
}

/// Who holds what others wait for.
fn held(seen: &Seen<'_>) -> String {
    let mut text = String::new();
    if seen.holders.resting > 0 {
        text.push_str(&format!("; {} of them idle in transaction", seen.holders.resting));
    }
    if seen.state.pinned > 0 {
        text.push_str(&format!("; {}", pinned(seen.state)));
    }
    let longest = &seen.holders.longest;
    if let Some(holder) = longest.iter().find(|holder| holder.pinned.is_none()) {
        let what = if seen.mode == "session" { "session with a connection" } else { "transaction" };
        text.push_str(&format!("; longest {what} {}", by(holder)));
    } else if let Some(holder) = longest.first() {
        text.push_str(&format!("; {} for {}", holder.pinned.as_deref().unwrap_or("pinned"), by(holder)));
    }
    text
}

/// "8.4 s by worker-3 (127.0.0.1:5555)".
fn by(holder: &Holder) -> String {
    let place = if holder.client.is_empty() { String::new() } else { format!(" ({})", holder.client) };
    format!("{} by {}{place}", span(holder.held), holder.name())
}

/// What would make room.
fn remedy(seen: &Seen<'_>) -> String {
    let (state, leased) = (seen.state, seen.state.leased.max(1));
    if seen.protocol == Protocol::Redis {
        return "raise pool_size, or hold connections for shorter: MULTI, WATCH and blocking commands each take one".to_owned();
    }
    if seen.mode == "session" {
        return "in session mode each client keeps its connection until it leaves: use pool_mode = transaction, or raise pool_size"
            .to_owned();
    }
    if state.pinned * 2 >= leased {
        return pin_remedy(state);
    }
    if seen.holders.resting * 2 >= leased {
        return "clients keep transactions open while they do something else: end them sooner, or set idle_transaction_timeout".to_owned();
    }
    "shorten the longest transactions; raise pool_size only if the server can do more at a time".to_owned()
}

fn pin_remedy(state: &PoolState) -> String {
    let most = Cause::ALL.into_iter().max_by_key(|cause| state.pinned_by[*cause as usize]).unwrap_or(Cause::TemporaryTables);
    format!("{}; SHOW PINS names the clients", most.remedy())
}

/// "3 pinned (advisory locks 2, LISTEN 1)".
fn pinned(state: &PoolState) -> String {
    let of = |cause: Cause| (state.pinned_by[cause as usize], cause.words());
    let causes: Vec<String> =
        Cause::ALL.into_iter().map(of).filter(|(count, _)| *count > 0).map(|(count, words)| format!("{words}: {count}")).collect();
    if causes.is_empty() { format!("{} pinned", state.pinned) } else { format!("{} pinned ({})", state.pinned, causes.join(", ")) }
}

fn busy(state: &PoolState) -> u32 {
    state.leased + state.resetting + state.probing
}

/// How many connections a pool has, whatever they are doing.
#[must_use]
pub fn open(state: &PoolState) -> u32 {
    busy(state) + state.idle + state.connecting + state.closing
}

fn reserve_used(state: &PoolState) -> u32 {
    open(state).saturating_sub(state.max).min(state.reserve)
}

fn connections(count: u32) -> String {
    if count == 1 { "1 connection".to_owned() } else { format!("{count} connections") }
}

/// A time as people say it.
#[must_use]
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match time.as_secs() {
        0 if time < Duration::from_millis(1) => format!("{} µs", time.as_micros()),
        0 => format!("{} ms", time.as_millis()),
        1..=59 => format!("{seconds:.1} s"),
        60..=3599 => format!("{} min {} s", time.as_secs() / 60, time.as_secs() % 60),
        _ => format!("{} h {} min", time.as_secs() / 3600, time.as_secs() / 60 % 60),
    }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
