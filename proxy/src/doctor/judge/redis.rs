//! What it means what was seen of a Redis server. Pure. A server that does not tell (managed ones switch CONFIG off) is not at fault.

use std::time::Duration;

use sidepool_config::model::{Redis, UpstreamTls};

use super::reach::{reach, shown};
use super::{clock, counted, login, times, tls};
use crate::doctor::facts::{Denied, RedisFacts, RedisServer};
use crate::doctor::finding::Finding;
use crate::doctor::plan::RedisPlan;
use crate::pool::fault::ConnectFaultKind;
use crate::session::redis::server::{password_of, upstream_user};

/// The first version with ACLs, RESP3 and RESET (6.2).
const OLDEST: (u32, u32) = (6, 2);

/// What to do about a server that keeps to itself what INFO tells.
const MUTE: &str = "let the user ask (ACL SETUSER … +info), or look at what the provider documents";

/// What to do about a connection that was lost in the middle.
const LOST: &str = "look at the server's log for why it closed the connection, and examine again";

/// A connection that many clients listen through needs at least this much room, in bytes.
const PUBSUB_ROOM: u64 = 8 << 20;

/// Everything about one server. `now` is in seconds since the epoch.
#[must_use]
pub fn server(facts: &RedisFacts, plan: &RedisPlan, now: i64) -> Vec<Finding> {
    let mut findings = reach(&facts.reached);
    let config = &plan.config;
    match &facts.entered {
        None => {}
        Some((_, Err(denied))) if denied.kind == ConnectFaultKind::Tls => findings.extend(no_tls(facts, denied, now)),
        Some((_, Err(denied))) => {
            findings.push(login::redis(denied, config.user.as_deref(), password_of(config, upstream_user(config)).is_some()))
        }
        Some((took, Ok(server))) => {
            let who = server.user.as_deref().or(config.user.as_deref()).unwrap_or("default");
            findings.push(Finding::good("login", format!("as {who} to database {} in {}", config.database, shown(*took))));
            findings.push(tls::protection(config.tls, server.tls.as_ref(), facts.reached.is_local(), None));
            let end = server.tls.as_ref().and_then(|shown| shown.not_after);
            findings.extend(end.filter(|_| proves(config.tls)).map(|end| tls::expiry("the server's certificate", end, now)));
            findings.extend(entered(server, plan));
        }
    }
    findings.extend(facts.others.iter().flat_map(|(user, result)| other(user, result)));
    if facts.untried > 0 {
        findings.push(untried(facts));
    }
    findings
}

/// There are more users that clients become than were tried.
fn untried(facts: &RedisFacts) -> Finding {
    let is_mute = |denied: &Denied| denied.kind == ConnectFaultKind::Timeout;
    let mute = facts.others.iter().any(|(_, result)| result.as_ref().is_err_and(is_mute));
    let (why, advice) = if facts.others.is_empty() {
        ("the same would happen to them", "see to the login above first, and examine again")
    } else if mute {
        ("it would take as long", "see to the logins above first, and examine again")
    } else {
        ("the server might take it for an attack", "see to the users above, and examine those that are left with a file of their own")
    };
    Finding::unseen("login", format!("not tried: {} more, for {why}", counted(facts.untried as u64, "user")), advice)
}

/// One of the users that clients become upstream.
fn other(user: &str, result: &Result<RedisServer, Denied>) -> Vec<Finding> {
    match result {
        Ok(server) => vec![Finding::good("login", format!("as {user}")), commands(server)],
        Err(denied) => {
            let finding = login::redis(denied, Some(user), true);
            let found = format!("as {user}: {}", finding.found);
            vec![Finding { found, why: "clients that become this user cannot be served".to_owned(), ..finding }]
        }
    }
}

fn proves(mode: UpstreamTls) -> bool {
    match mode {
        UpstreamTls::VerifyCa | UpstreamTls::VerifyFull => true,
        UpstreamTls::Disable | UpstreamTls::Allow | UpstreamTls::Prefer | UpstreamTls::Require => false,
    }
}

fn no_tls(facts: &RedisFacts, denied: &Denied, now: i64) -> Vec<Finding> {
    let mut findings = vec![tls::failed(denied, facts.shown.as_ref(), now)];
    if let Some(Ok(shown)) = &facts.shown {
        findings.extend(shown.not_after.map(|end| tls::expiry("the server's certificate", end, now)));
    }
    findings
}

fn entered(server: &RedisServer, plan: &RedisPlan) -> Vec<Finding> {
    let mut findings = vec![version(server), resp3(server), kind(server)];
    findings.extend(role(server));
    findings.push(room(server, plan));
    findings.push(commands(server));
    findings.push(eviction(server));
    findings.extend(timeout(server, &plan.config));
    findings.push(buffers(server));
    findings.extend(protection(server, &plan.config));
    findings.push(clock(server.clock));
    findings
}

fn version(server: &RedisServer) -> Finding {
    let Some(version) = server.info("redis_version") else {
        return Finding::unseen("version", "the server does not say (INFO)", MUTE);
    };
    let name = server.info("valkey_version").map_or_else(|| format!("Redis {version}"), |own| format!("Valkey {own}"));
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let number = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if number < OLDEST {
        return Finding::warning(
            "version",
            name,
            "without RESET (6.2) a connection that a client had for itself is closed and not used again; before 6 there are no users and no RESP3",
            "plan an upgrade of the server",
        );
    }
    Finding::good("version", name)
}

fn resp3(server: &RedisServer) -> Finding {
    match server.speaks_resp3 {
        Some(true) => Finding::good("resp3", "the server speaks RESP2 and RESP3"),
        Some(false) => Finding::warning(
            "resp3",
            "the server speaks RESP2 alone",
            "clients that ask for RESP3 (HELLO 3) are refused",
            "have clients use RESP2, or upgrade the server",
        ),
        None => Finding::unseen("resp3", "not seen: the connection was lost before", LOST),
    }
}

fn kind(server: &RedisServer) -> Finding {
    match server.info("redis_mode") {
        None => Finding::unseen("mode", "the server does not say (INFO)", MUTE),
        Some("cluster") => Finding::warning(
            "mode",
            "it is a node of a cluster",
            "sidepool leads to this one node: commands for keys elsewhere are answered with MOVED, which only cluster clients follow, and past sidepool",
            "use a server (or an endpoint) that is no cluster, or one whose clients follow MOVED",
        ),
        Some("sentinel") => Finding::problem(
            "mode",
            "it is a sentinel",
            "a sentinel has no data",
            "point at the server itself (SENTINEL get-master-addr-by-name), or at a name that follows it",
        ),
        Some(mode) => Finding::good("mode", mode.to_owned()),
    }
}

fn role(server: &RedisServer) -> Option<Finding> {
    Some(match server.info("role")? {
        "slave" | "replica" => {
            let link = server.info("master_link_status").unwrap_or("unknown");
            Finding::warning(
                "role",
                format!("it is a replica (link to its master: {link})"),
                "whoever writes is answered with READONLY",
                "point at the master, unless the clients only read",
            )
        }
        role => Finding::good("role", format!("it is a {role}")),
    })
}

/// Whether there is room for all connections.
fn room(server: &RedisServer, plan: &RedisPlan) -> Finding {
    const CHECK: &str = "maxclients";
    let most = server.setting("maxclients").or(server.info("maxclients")).and_then(|text| text.parse::<u64>().ok());
    let wanted = plan.connections.saturating_mul(plan.replicas.into());
    let in_use = server.info("connected_clients").map_or_else(String::new, |clients| format!(" ({clients} in use now)"));
    let pools = format!("sidepool may open {} ({}{})", counted(wanted, "connection"), plan.connections, times(plan.replicas));
    let users = plan.config.users.len() as u64;
    let per = if users == 0 {
        "for each user and protocol version that clients come with"
    } else {
        "for each protocol version that clients come with"
    };
    let Some(most) = most else {
        return Finding::unseen(
            CHECK,
            format!("{pools} {per}; how many the server lets in it does not say"),
            "compare it with what the provider documents",
        );
    };
    let found = format!("{pools} {per}, the server lets {most} in{in_use}");
    let advice = format!(
        "set pool_size to {} or less, or raise maxclients on the server",
        most / u64::from(plan.replicas.max(1)) / users.max(1) / 2
    );
    let why = "beyond that, connections are refused (max number of clients reached)";
    match wanted {
        wanted if wanted > most => Finding::problem(CHECK, found, why, advice),
        // Clients may come with RESP2 and with RESP3.
        wanted if wanted.saturating_mul(2) > most => Finding::warning(CHECK, found, why, advice),
        _ => Finding::good(CHECK, found),
    }
}

fn commands(server: &RedisServer) -> Finding {
    const CHECK: &str = "acl";
    let how = if server.is_dry { "asked with ACL DRYRUN" } else { "tried" };
    let who = server.user.as_deref().unwrap_or("the user");
    if server.commands.is_empty() {
        return Finding::unseen(CHECK, format!("what {who} may do could not be seen"), LOST);
    }
    let denied: Vec<&(&str, Result<(), String>)> = server.commands.iter().filter(|(_, answer)| answer.is_err()).collect();
    if denied.is_empty() {
        return Finding::good(CHECK, format!("{who} may do all that sidepool does itself ({how})"));
    }
    let words: Vec<&str> = denied.iter().map(|(what, _)| *what).collect();
    // The command with its subcommand, as a rule writes them: `script|exists`.
    let is_name = |word: &&str| word.chars().all(|letter| letter.is_ascii_uppercase());
    let name = |what: &str| {
        what.split([',', ' ']).take_while(is_name).filter(|word| !word.is_empty()).collect::<Vec<_>>().join("|").to_lowercase()
    };
    let rules: Vec<String> = words.iter().map(|what| format!("+{}", name(what))).collect();
    let found = format!("{who} may not: {} ({how})", words.join("; "));
    let advice = format!("there: ACL SETUSER {who} {} &sidepool:*", rules.join(" "));
    // Without PING no connection that was idle is used again.
    if words.iter().any(|what| what.starts_with("PING")) {
        return Finding::problem(CHECK, found, "idle connections count as dead, and are opened anew again and again", advice);
    }
    Finding::warning(CHECK, found, "what needs it fails for clients, or is done in a dearer way", advice)
}

fn eviction(server: &RedisServer) -> Finding {
    const CHECK: &str = "maxmemory-policy";
    let policy = server.setting("maxmemory-policy").or(server.info("maxmemory_policy"));
    let memory = server.setting("maxmemory").or(server.info("maxmemory")).and_then(|text| text.parse::<u64>().ok());
    match (policy, memory) {
        (None, _) => Finding::unseen(CHECK, "the server does not say", "look at what the provider documents"),
        (Some(policy), Some(0)) => Finding::good(CHECK, format!("{policy}; maxmemory is not set, so nothing is evicted")),
        (Some("noeviction"), _) => Finding::good(CHECK, "noeviction: when memory is full, writes are answered with OOM"),
        (Some(policy), _) => {
            Finding::good(CHECK, format!("{policy}: when memory is full, keys go; right for a cache, wrong for queues and locks"))
        }
    }
}

fn timeout(server: &RedisServer, config: &Redis) -> Option<Finding> {
    const CHECK: &str = "timeout";
    let theirs = Duration::from_secs(server.setting("timeout")?.parse().ok()?);
    if theirs.is_zero() {
        return Some(Finding::good(CHECK, "the server does not close idle connections"));
    }
    let ours = config.limits.server_idle_timeout;
    let said = if ours.is_zero() { "never".to_owned() } else { format!("after {}", shown(ours)) };
    let found = format!("the server closes idle connections after {}, sidepool {said}", shown(theirs));
    if !ours.is_zero() && ours < theirs {
        return Some(Finding::good(CHECK, found));
    }
    Some(Finding::warning(
        CHECK,
        found,
        "connections end in the pool's hands, and whoever comes first waits for a new one",
        "set server_idle_timeout below it, or CONFIG SET timeout 0 on the server",
    ))
}

fn buffers(server: &RedisServer) -> Finding {
    const CHECK: &str = "output-buffers";
    const SETTING: &str = "client-output-buffer-limit";
    let Some(text) = server.setting(SETTING) else {
        let advice = "look at what the provider documents: connections that many share should not be cut (\"normal 0 0 0\")";
        return Finding::unseen(CHECK, "the server does not say (client-output-buffer-limit)", advice);
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    let limit = |class: &str| {
        let four = words.chunks_exact(4).find(|four| four[0] == class)?;
        let number = |index: usize| four[index].parse::<u64>().ok();
        Some((number(1)?, number(2)?))
    };
    let advice = format!("there: CONFIG SET {SETTING} \"normal 0 0 0 pubsub 32mb 8mb 60\"");
    if let Some((hard, soft)) = limit("normal").filter(|(hard, soft)| *hard > 0 || *soft > 0) {
        return Finding::warning(
            CHECK,
            format!("normal connections are cut at {hard} bytes (soft: {soft})"),
            "many clients share a connection: one large answer cuts all of them",
            advice,
        );
    }
    if let Some((hard, _)) = limit("pubsub").filter(|(hard, _)| (1..PUBSUB_ROOM).contains(hard)) {
        return Finding::warning(
            CHECK,
            format!("connections that subscribe are cut at {hard} bytes"),
            "all subscribers of a worker share a connection: a burst of messages cuts all of them",
            advice,
        );
    }
    Finding::good(CHECK, text.to_owned())
}

fn protection(server: &RedisServer, config: &Redis) -> Option<Finding> {
    let mode = server.setting("protected-mode")?;
    if mode == "no" && config.password.is_none() {
        return Some(Finding::warning(
            "protected-mode",
            "off, and the server let us in without a password",
            "whoever reaches the server owns its data",
            "give the server a password (requirepass, or ACL users), and sidepool the same",
        ));
    }
    Some(Finding::good("protected-mode", mode.to_owned()))
}

#[cfg(test)]
#[path = "redis_tests.rs"]
mod tests;
