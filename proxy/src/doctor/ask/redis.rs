//! Sees a Redis server as a pool would: the same way there, the same login; then asks it a few questions. What it does not tell is noted as that.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use sidepool_config::model::{LoadBalance, UpstreamTls};
use sidepool_protocol::redis::encode::Resp;
use sidepool_protocol::redis::handshake::{Habits, Selects};
use sidepool_protocol::redis::reply::Reply;

use super::{PATIENCE, clock_of, login_patience, shown};
use crate::clock;
use crate::doctor::facts::{Denied, Reached, RedisFacts, RedisServer, TlsShown};
use crate::doctor::plan::RedisPlan;
use crate::pool::fault::ConnectFaultKind;
use crate::pool::traits::Connector as _;
use crate::session::redis::server::{password_of, upstream_user};
use crate::session::redis::topics::WAIT_CHANNEL;
use crate::upstream::dial::Dialing;
use crate::upstream::redis::connection::RedisConnection;
use crate::upstream::redis::connector::{self, RedisConnector, Target};

/// The settings that make a difference to a pooler.
const SETTINGS: [&str; 6] = ["maxclients", "maxmemory", "maxmemory-policy", "timeout", "client-output-buffer-limit", "protected-mode"];

/// Commands that sidepool sends of itself, and what for. HELLO, AUTH and RESET are nobody's to deny.
const COMMANDS: [(&str, &[&[u8]]); 6] = [
    ("PING, which asks idle connections whether they are alive", &[b"PING"]),
    ("SELECT, for clients in another database than 0", &[b"SELECT", b"0"]),
    ("COMMAND INFO, for commands that sidepool does not know", &[b"COMMAND", b"INFO", b"get"]),
    ("PUBLISH to channels sidepool:*, for WAIT and for subscriptions that move to a new connection", &[b"PUBLISH", WAIT_CHANNEL, b""]),
    ("SCRIPT EXISTS, for EVALSHA on new connections", &[b"SCRIPT", b"EXISTS", b"0000000000000000000000000000000000000000"]),
    // The last one: a connection that subscribes does nothing else in RESP2.
    ("SUBSCRIBE to channels sidepool:*, for pub/sub", &[b"SUBSCRIBE", b"sidepool:mark:doctor"]),
];

/// So many users are tried beside the server's own: more failed logins might look like an attack.
const MOST_USERS: usize = 16;

/// A channel like those of sidepool, to which nobody listens.
const UNHEARD: &[u8] = b"sidepool:doctor";

/// Sees the server at the end of a way.
pub async fn examine(dialing: Rc<Dialing>, reached: Reached, plan: Rc<RedisPlan>) -> RedisFacts {
    let mut facts = RedisFacts { reached, entered: None, shown: None, others: Vec::new(), untried: 0 };
    if !facts.reached.is_open() {
        return facts;
    }
    let target = target(&dialing, &plan);
    let connector = RedisConnector::new(target.clone(), Rc::default());
    let begun = clock::now();
    let opened = connector.connect().await;
    let took = clock::now().saturating_duration_since(begun);
    let result = match opened {
        Ok(mut connection) => Ok(server(&mut connection, &target).await),
        Err(fault) => {
            if fault.kind == ConnectFaultKind::Tls {
                facts.shown = Some(look(Target { tls: UpstreamTls::Require, ..target.clone() }).await);
            }
            Err(Denied::of(&fault, &format!("Redis at {} answered ", connector::shown(&target.upstream))))
        }
    };
    let concerns_others = result.as_ref().err().is_none_or(is_about_this_user);
    facts.entered = Some((took, result));
    let users = others(&plan);
    for name in users.iter().take(MOST_USERS).filter(|_| concerns_others) {
        let target = Target { user: Arc::from(&**name), password: password_of(&plan.config, name), ..target.clone() };
        let result = become_one(target).await;
        let is_mute = result.as_ref().is_err_and(|denied| denied.kind == ConnectFaultKind::Timeout);
        facts.others.push((name.clone(), result));
        if is_mute {
            // The others would wait as long for as little.
            break;
        }
    }
    facts.untried = users.len() - facts.others.len();
    facts
}

/// Whether another user may well be let in: what is wrong with the way there, or with the server, is wrong for all.
fn is_about_this_user(denied: &Denied) -> bool {
    let code = denied.code.as_deref();
    // DENIED is the protected mode, which asks nobody who they are.
    (denied.kind == ConnectFaultKind::Auth && code != Some("DENIED")) || code == Some("NOPERM")
}

/// The users that clients become, each once, beside the server's own.
fn others(plan: &RedisPlan) -> BTreeSet<String> {
    let own = upstream_user(&plan.config);
    let named = plan.config.users.values().filter_map(|user| user.upstream_user.clone());
    named.filter(|name| name != own).collect()
}

/// Comes in as one of them, and looks what it may do.
async fn become_one(target: Target) -> Result<RedisServer, Denied> {
    let connector = RedisConnector::new(target.clone(), Rc::default());
    let prefix = format!("Redis at {} answered ", connector::shown(&target.upstream));
    let mut connection = connector.connect().await.map_err(|fault| Denied::of(&fault, &prefix))?;
    let mut server = RedisServer { user: Some(target.user.to_string()), ..RedisServer::default() };
    let _ = rights(&mut connection, &target, &mut server).await;
    Ok(server)
}

/// Asks what the user may do, or tries it.
async fn rights(connection: &mut RedisConnection, target: &Target, server: &mut RedisServer) -> Option<()> {
    asked(connection, target, server).await?;
    if !server.is_dry {
        tried(connection, server).await?;
    }
    Some(())
}

/// As clients are led there that say nothing of their own.
fn target(dialing: &Dialing, plan: &RedisPlan) -> Target {
    let config = &plan.config;
    let hosts = std::slice::from_ref(&config.upstream);
    let dialer = dialing.dialer(hosts, LoadBalance::default(), &config.tcp, config.limits.server_login_retry);
    Target {
        upstream: config.upstream.clone(),
        dialer: Rc::new(dialer),
        tls: config.tls,
        tls_context: config.server_tls.context.clone(),
        user: Arc::from(upstream_user(config)),
        password: password_of(config, upstream_user(config)),
        database: config.database,
        selects: Selects::Last,
        version: Resp::Two,
        habits: Habits::default(),
        timeout: login_patience(config.limits.server_connect_timeout),
    }
}

async fn look(target: Target) -> Result<TlsShown, String> {
    let stream = RedisConnector::look(&target).await.map_err(|fault| fault.message.to_string())?;
    shown(&stream).ok_or_else(|| "it speaks in the clear".to_owned())
}

/// What the server says about itself. A question that it does not answer ends the asking: what is known is known.
async fn server(connection: &mut RedisConnection, target: &Target) -> RedisServer {
    let mut server = RedisServer { tls: shown(&connection.stream), ..RedisServer::default() };
    // What is not asked any more, because the connection is lost, stays unseen.
    let _ = questions(connection, target, &mut server).await;
    server
}

async fn questions(connection: &mut RedisConnection, target: &Target, server: &mut RedisServer) -> Option<()> {
    let time = |reply: &Option<Reply>| {
        let list = reply.as_ref()?.list()?;
        let part = |index: usize| std::str::from_utf8(list.get(index)?.text()?).ok()?.parse::<f64>().ok();
        Some(part(0)? + part(1)? / 1e6)
    };
    let (answer, clock) = clock_of(ask(connection, &[b"TIME"]), time).await;
    server.clock = clock;
    answer?;
    server.info = ask(connection, &[b"INFO"]).await?.text().map(fields);
    for name in SETTINGS {
        let reply = ask(connection, &[b"CONFIG", b"GET", name.as_bytes()]).await?;
        let value = reply.value_of(name.as_bytes()).and_then(Reply::text).map(text);
        server.settings.insert(name, value);
    }
    server.user = ask(connection, &[b"ACL", b"WHOAMI"]).await?.text().map(text);
    asked(connection, target, server).await?;
    let resp3 = RedisConnector::ask(connection, &[b"HELLO", b"3"], Resp::Three, PATIENCE).await.ok()?;
    server.speaks_resp3 = Some(!matches!(resp3, Reply::Error(_)));
    if !server.is_dry {
        // Back, so that what follows is read as it is.
        if server.speaks_resp3 == Some(true) {
            RedisConnector::ask(connection, &[b"HELLO", b"2"], Resp::Two, PATIENCE).await.ok()?;
        }
        tried(connection, server).await?;
    }
    Some(())
}

/// Asks whether the user may use our commands (ACL DRYRUN).
async fn asked(connection: &mut RedisConnection, target: &Target, server: &mut RedisServer) -> Option<()> {
    let user = server.user.clone().unwrap_or_else(|| target.user.to_string());
    for (what, words) in COMMANDS {
        let question: Vec<&[u8]> = [&b"ACL"[..], b"DRYRUN", user.as_bytes()].into_iter().chain(words.iter().copied()).collect();
        match ask(connection, &question).await? {
            // Denied, in words.
            Reply::Text(said) if said != b"OK" => server.commands.push((what, Err(text(&said)))),
            Reply::Error(_) => {
                server.commands.clear();
                break;
            }
            Reply::Text(_) | Reply::Nil | Reply::Integer(_) | Reply::List(_) => server.commands.push((what, Ok(()))),
        }
    }
    server.is_dry = !server.commands.is_empty();
    Some(())
}

/// Uses our commands, where the server does not say whether the user may.
async fn tried(connection: &mut RedisConnection, server: &mut RedisServer) -> Option<()> {
    for (what, words) in COMMANDS {
        // Nobody hears what is only tried.
        let words: Vec<&[u8]> = words.iter().map(|word| if *word == WAIT_CHANNEL { UNHEARD } else { word }).collect();
        let denied = match ask(connection, &words).await? {
            Reply::Error(said) if said.starts_with("NOPERM") => Err(said),
            Reply::Error(_) | Reply::Text(_) | Reply::Nil | Reply::Integer(_) | Reply::List(_) => Ok(()),
        };
        server.commands.push((what, denied));
    }
    Some(())
}

async fn ask(connection: &mut RedisConnection, question: &[&[u8]]) -> Option<Reply> {
    RedisConnector::ask(connection, question, Resp::Two, PATIENCE).await.ok()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The lines `name:value` of INFO.
fn fields(bytes: &[u8]) -> BTreeMap<String, String> {
    let text = text(bytes);
    text.lines().filter_map(|line| line.trim_end().split_once(':')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_tried_where_only_this_user_is_refused() {
        let denied = |kind, code: Option<&str>| Denied { kind, code: code.map(str::to_owned), words: String::new() };
        for (kind, code, concerns) in [
            (ConnectFaultKind::Auth, Some("WRONGPASS"), true),
            (ConnectFaultKind::Auth, Some("NOAUTH"), true),
            (ConnectFaultKind::Other, Some("NOPERM"), true),
            (ConnectFaultKind::Auth, Some("DENIED"), false),
            (ConnectFaultKind::Timeout, None, false),
            (ConnectFaultKind::Unavailable, Some("LOADING"), false),
            (ConnectFaultKind::Tls, None, false),
        ] {
            assert_eq!(is_about_this_user(&denied(kind, code)), concerns, "{kind:?} {code:?}");
        }
    }
}
