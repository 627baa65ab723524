//! What it means what was seen of PostgreSQL servers: who gets in, whether there is room for the pools, which kind of server it is. Pure.

use sidepool_config::model::{LoadBalance, Upstream};

use super::reach::{reach, shown};
use super::{clock, counted, login, settings, times, tls};
use crate::doctor::facts::{Denied, LookedUp, PgEntered, PgFacts, PgLogin, PgServer};
use crate::doctor::finding::{Finding, Verdict};
use crate::doctor::plan::{HostList, PgWish};
use crate::pool::fault::ConnectFaultKind;

/// The oldest version that sidepool can be expected to work with.
const OLDEST: u32 = 100_000;

/// The oldest version that the PostgreSQL project still mends (as of November 2025).
const OLDEST_MENDED: u32 = 140_000;

/// Everything about one server. `now` is in seconds since the epoch.
#[must_use]
pub fn server(facts: &PgFacts, wish: &PgWish, now: i64) -> Vec<Finding> {
    let mut findings = reach(&facts.reached);
    if !facts.reached.is_open() {
        return findings;
    }
    findings.extend(logins(facts));
    findings.extend(under_tls(facts, wish, now));
    match &facts.server {
        None => {}
        Some(Err(why)) => findings.push(Finding::unseen(
            "server",
            format!("it does not say what it is: {why}"),
            "is it a PostgreSQL server? sidepool knows poolers and relatives of PostgreSQL only as far as they behave like it",
        )),
        Some(Ok(server)) => {
            findings.push(version(server));
            findings.push(role(server));
            findings.push(room(server, wish));
            findings.extend(limits(facts, wish));
            findings.extend(settings::judge(server, wish));
            findings.push(clock(server.clock));
        }
    }
    findings.extend(facts.logins.iter().filter_map(|login| login.result.as_ref().ok()?.lookup.as_ref()).map(|found| lookup(found, wish)));
    findings
}

/// What is wanted of each server with what is wanted of it by its other names: `localhost`, `127.0.0.1` and a socket may be one.
#[must_use]
pub fn joined(seen: &[(PgFacts, PgWish)]) -> Vec<PgWish> {
    let identity = |facts: &PgFacts| facts.server.as_ref()?.as_ref().ok()?.identity.clone();
    let whole = |(index, (facts, wish)): (usize, &(PgFacts, PgWish))| {
        let mut whole = wish.clone();
        let Some(own) = identity(facts) else { return whole };
        let others = seen.iter().enumerate().filter(|(other, (facts, _))| *other != index && identity(facts).as_ref() == Some(&own));
        for (_, (other, wish)) in others {
            whole.join(&other.reached.upstream, wish);
        }
        whole
    };
    seen.iter().enumerate().map(whole).collect()
}

fn logins(facts: &PgFacts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for login in &facts.logins {
        match &login.result {
            Ok(_) => findings.push(Finding::good("login", format!("as {} to {} in {}", login.user, login.dbname, shown(login.took)))),
            // Said once, as what it is.
            Err(denied) if denied.kind == ConnectFaultKind::Tls => {}
            Err(denied) if login.guessed && denied.is_of_database() => findings.push(unnamed(login, denied)),
            Err(denied) => findings.push(login::postgres(login, denied)),
        }
    }
    if facts.logins.is_empty() {
        findings.push(Finding::unseen(
            "login",
            "the configuration tells of nobody who logs in here before a client comes",
            "name a user in [postgres.users], or in the database, and examine again",
        ));
    }
    if facts.untried > 0 {
        let mute = facts.logins.iter().any(|login| login.result.as_ref().is_err_and(|denied| denied.kind == ConnectFaultKind::Timeout));
        let why = if mute { "it would take as long" } else { "the server might take it for an attack" };
        let found = format!("not tried: {} more, for {why}", counted(facts.untried as u64, "login"));
        findings.push(Finding::unseen("login", found, "see to those above first, and examine again"));
    }
    findings
}

/// Nobody named a database, and what was tried is none for this user.
fn unnamed(login: &PgLogin, denied: &Denied) -> Finding {
    Finding::unseen(
        "login",
        format!("as {}: no database is named, clients name it themselves; to {}: {}", login.user, login.dbname, denied.words),
        "add an entry with the name of a database to [postgres.databases] (or dbname to \"*\"), and examine again",
    )
}

fn under_tls(facts: &PgFacts, wish: &PgWish, now: i64) -> Vec<Finding> {
    let denied = facts.logins.iter().filter_map(|login| login.result.as_ref().err());
    if let Some(denied) = denied.clone().find(|denied| denied.kind == ConnectFaultKind::Tls) {
        let mut findings = vec![tls::failed(denied, facts.shown.as_ref(), now)];
        if let Some(Ok(shown)) = &facts.shown {
            findings.extend(shown.not_after.map(|end| tls::expiry("the server's certificate", end, now)));
        }
        return findings;
    }
    let entered = |login: &PgLogin| login.result.as_ref().ok().map(|entered: &PgEntered| (login.tls, entered.tls.clone()));
    // The login that is protected least.
    let Some((mode, shown)) = facts.logins.iter().filter_map(entered).min_by_key(|(mode, _)| *mode != wish.tls) else { return Vec::new() };
    let offers = facts.server.as_ref().and_then(|server| server.as_ref().ok()).map(|server| server.is_on("ssl"));
    let mut findings = vec![tls::protection(mode, shown.as_ref(), facts.reached.is_local(), offers)];
    findings.extend(shown.and_then(|shown| shown.not_after).map(|end| {
        let finding = tls::expiry("the server's certificate", end, now);
        // Where nobody looks at it, nobody minds.
        let minds = matches!(mode, sidepool_config::model::UpstreamTls::VerifyCa | sidepool_config::model::UpstreamTls::VerifyFull);
        if minds || finding.verdict != Verdict::Problem { finding } else { Finding { verdict: Verdict::Warning, ..finding } }
    }));
    findings
}

fn version(server: &PgServer) -> Finding {
    let found = format!("PostgreSQL {}", server.version);
    let advice = "plan an upgrade of the server";
    match server.version_number {
        ..OLDEST => Finding::warning("version", found, "sidepool is made for servers from version 10 on (SCRAM, protocol details)", advice),
        OLDEST..OLDEST_MENDED => Finding::warning("version", found, "the PostgreSQL project mends it no more", advice),
        _ => Finding::good("version", found),
    }
}

fn role(server: &PgServer) -> Finding {
    if server.in_recovery {
        return Finding::warning(
            "role",
            "it is a standby (in recovery)",
            "whoever writes here is refused (SQLSTATE 25006), and notifications do not come",
            "point the database at the primary, unless its clients only read",
        );
    }
    Finding::good("role", "it is a primary")
}

/// Whether there is room for all pools.
fn room(server: &PgServer, wish: &PgWish) -> Finding {
    const CHECK: &str = "max_connections";
    let Some(most) = server.number("max_connections") else {
        let advice = "ask it (SHOW max_connections), or look at what the provider documents";
        return Finding::unseen(CHECK, "the server does not say how many connections it lets in", advice);
    };
    let kept = ["superuser_reserved_connections", "reserved_connections"].iter().filter_map(|name| server.number(name)).sum::<u64>();
    let usable = most.saturating_sub(kept);
    let replicas = u64::from(wish.replicas);
    let wanted = wish.connections.saturating_mul(replicas);
    let others = server.in_use.map_or(0, |(_, others)| others);
    let used = server.in_use.map_or_else(String::new, |(all, _)| format!("; {all} in use now"));
    let pools =
        format!("the pools may open {} here ({}{}{})", counted(wanted, "connection"), wish.connections, times(wish.replicas), more(wish));
    let pools =
        if wish.same.is_empty() { pools } else { format!("{pools}, together with {}, which is the same server", wish.same.join(", ")) };
    let server_has = format!("the server lets {usable} in ({most} less {kept} kept for superusers and others{used})");
    let found = format!("{pools}, {server_has}");
    let why = "under load connections cannot be opened (SQLSTATE 53300), and clients wait for connections that never come";
    let fits = usable.saturating_sub(others) / replicas.max(1);
    let advice = format!(
        "make the pools smaller (together at most {fits} in one process: default_pool_size, max_db_connections, fewer users or databases), \
         or raise max_connections to {} or more (each one costs the server memory)",
        wanted.saturating_add(kept + others)
    );
    if wanted > usable {
        return Finding::problem(CHECK, found, why, advice);
    }
    if wanted.saturating_add(others) > usable {
        let found = format!("{found}, {others} of them by others");
        return Finding::warning(CHECK, found, why, advice);
    }
    let fits_with = |more: u64| wanted.saturating_add(others).saturating_add(more.saturating_mul(replicas)) <= usable;
    if !fits_with(wish.unknown.unwrap_or(0)) {
        let bound = format!("bound all users together with max_db_connections (at most {fits} in one process)");
        return Finding::warning(CHECK, found, why, format!("{bound}, or name one upstream user for the database"));
    }
    if !fits_with(wish.each_database.unwrap_or(0)) {
        let bound =
            format!("name the databases instead of \"*\", or bound each with max_db_connections (all at most {fits} in one process)");
        return Finding::warning(CHECK, found, why, bound);
    }
    if !fits_with(wish.listening) {
        let found = format!("{found}; with {} that listens for clients there are more", counted(wish.listening, "connection"));
        return Finding::warning(CHECK, found, why, advice);
    }
    Finding::good(CHECK, found)
}

/// What comes on top that is not known beforehand.
fn more(wish: &PgWish) -> String {
    let users = wish.unknown.map(|size| format!(", and {size} more for each user that is not listed"));
    let databases = wish.each_database.map(|size| format!(", and {size} more for each further database"));
    let listening = (wish.listening > 0).then(|| format!(", and up to {} more while clients LISTEN", wish.listening));
    [users, databases, listening].into_iter().flatten().collect()
}

/// What the roles and the databases may have at most.
fn limits(facts: &PgFacts, wish: &PgWish) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    let mut judge = |kind: &str, name: &str, limit: i64, wanted: Option<&u64>| {
        let (Ok(limit), Some(wanted)) = (u64::try_from(limit), wanted) else { return };
        let wanted = wanted.saturating_mul(wish.replicas.into());
        let found = format!("{} {name} may have {}, its pools may open {wanted}", kind.to_lowercase(), counted(limit, "connection"));
        let finding = if wanted > limit {
            let why = "beyond the limit connections cannot be opened (SQLSTATE 53300)";
            let advice = format!("there: ALTER {kind} \"{name}\" CONNECTION LIMIT {wanted}; or make its pools smaller");
            Finding::problem("limit", found, why, advice)
        } else {
            Finding::good("limit", found)
        };
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    };
    for login in &facts.logins {
        let Ok(PgEntered { limits: Some((of_role, of_database)), .. }) = &login.result else { continue };
        judge("ROLE", &login.user, *of_role, wish.of_users.get(&login.user));
        judge("DATABASE", &login.dbname, *of_database, wish.of_databases.get(&login.dbname));
    }
    findings
}

fn lookup(found: &Result<LookedUp, String>, wish: &PgWish) -> Finding {
    const CHECK: &str = "auth_query";
    let why = "users that are looked up cannot log in";
    match found {
        Err(words) if words.contains("permission denied") => Finding::problem(
            CHECK,
            words.clone(),
            why,
            "let auth_user call a SECURITY DEFINER function that reads pg_shadow for it, and name that in auth_query (README, Logins)",
        ),
        Err(words) => Finding::problem(CHECK, words.clone(), why, "run the query by hand as auth_user, with the name of a user as $1"),
        Ok(LookedUp { user, secret: None }) => Finding::warning(
            CHECK,
            format!("it runs, and finds no user {user}"),
            "a user that it does not find cannot log in",
            "see that the query finds users that may log in",
        ),
        Ok(LookedUp { user, secret: Some(kind) }) if wish.needs_scram && *kind != "a SCRAM verifier" => Finding::warning(
            CHECK,
            format!("it runs, and has {kind} for {user}"),
            "auth_type scram-sha-256 needs a SCRAM verifier for each user, or a plain password",
            "there: SET password_encryption = 'scram-sha-256', and give the users their passwords anew",
        ),
        Ok(LookedUp { user, secret: Some(kind) }) => Finding::good(CHECK, format!("it runs, and has {kind} for {user}")),
    }
}

/// What the hosts of a list are to each other.
#[must_use]
pub fn list(list: &HostList, servers: &[PgFacts]) -> Finding {
    const CHECK: &str = "hosts";
    let facts = |host: &Upstream| servers.iter().find(|server| server.reached.upstream == *host);
    let role = |host: &Upstream| facts(host)?.server.as_ref()?.as_ref().ok().map(|server| server.in_recovery);
    let (mut primaries, mut standbys, mut unseen) = (0, 0, 0);
    for host in &list.hosts {
        match role(host) {
            Some(false) => primaries += 1,
            Some(true) => standbys += 1,
            None => unseen += 1,
        }
    }
    let found = format!(
        "database {}: {}, {}, {unseen} that could not be asked",
        list.entry,
        if primaries == 1 { "1 primary".to_owned() } else { format!("{primaries} primaries") },
        counted(standbys, "standby")
    );
    match (primaries, standbys, list.balance) {
        (1.., 1.., LoadBalance::RoundRobin) => Finding::warning(
            CHECK,
            found,
            "each in turn is connected to: some connections can write and some cannot",
            "set load_balance_hosts = \"disable\" with the primary first, or make a database of its own of the standbys",
        ),
        (2.., _, _) => Finding::warning(
            CHECK,
            found,
            "two primaries do not have the same data, unless they are two names of one server",
            "see that all hosts belong to one cluster",
        ),
        (_, _, LoadBalance::RoundRobin | LoadBalance::Disable) if unseen > 0 => {
            Finding::unseen(CHECK, found, "see to the hosts that could not be asked, above, and examine again")
        }
        (_, _, LoadBalance::RoundRobin | LoadBalance::Disable) => Finding::good(CHECK, found),
    }
}

#[cfg(test)]
#[path = "postgres_tests.rs"]
mod tests;
