//! Sees a PostgreSQL server as a pool would: the same way there, the same login; then asks it a few questions. One connection at a time.

use std::collections::BTreeMap;
use std::rc::Rc;

use sidepool_config::model::{TcpOptions, UpstreamTls};

use super::{PATIENCE, clock_of, login_patience, shown};
use crate::clock;
use crate::doctor::facts::{Denied, LookedUp, PgEntered, PgFacts, PgLogin, PgServer, Reached, TlsShown};
use crate::doctor::plan::{Login, PgPlan};
use crate::pool::fault::{ConnectFault, ConnectFaultKind};
use crate::pool::traits::{Connection as _, Connector as _};
use crate::upstream::dial::Dialing;
use crate::upstream::postgres::connection::PgConnection;
use crate::upstream::postgres::connector::{Learned, PgConnector};
use crate::upstream::postgres::lookup::{LookupFault, look_up};
use crate::upstream::postgres::query::{Row, rows};
use crate::upstream::postgres::quoting::quoted;
use crate::upstream::postgres::target::Target;
use sidepool_protocol::postgres::login::secret::Stored;

/// The most logins that are tried on one server: each takes a moment, and a server may lock out who fails too often.
const MOST_LOGINS: usize = 20;

/// What is asked first.
const SELF: &str = "SELECT pg_catalog.current_setting('server_version_num'), pg_catalog.current_setting('server_version'), \
                    pg_catalog.pg_is_in_recovery(), pg_catalog.date_part('epoch', pg_catalog.clock_timestamp())";

/// Whom the server lets have how many connections: superusers as many as there are.
const LIMITS: &str = "SELECT CASE WHEN rolsuper THEN -1 ELSE rolconnlimit END, CASE WHEN rolsuper THEN -1 ELSE datconnlimit END \
                      FROM pg_catalog.pg_roles, pg_catalog.pg_database \
                      WHERE rolname = session_user AND datname = pg_catalog.current_database()";

/// What no two servers have in common: the cluster alone is not enough, since its standbys have the same.
const IDENTITY: &str = "SELECT system_identifier, pg_catalog.current_setting('port'), \
                        pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time()) FROM pg_catalog.pg_control_system()";

/// The settings that make a difference to a pooler.
const SETTINGS: [&str; 9] = [
    "max_connections",
    "superuser_reserved_connections",
    "reserved_connections",
    "idle_session_timeout",
    "idle_in_transaction_session_timeout",
    "statement_timeout",
    "password_encryption",
    "ssl",
    "log_connections",
];

/// Sees the server at the end of a way.
pub async fn examine(dialing: Rc<Dialing>, reached: Reached, plan: Rc<PgPlan>, tcp: TcpOptions) -> PgFacts {
    let untried = plan.logins.len().saturating_sub(MOST_LOGINS);
    let mut facts = PgFacts { reached, logins: Vec::new(), untried, shown: None, server: None };
    if !facts.reached.is_open() {
        return facts;
    }
    for login in plan.logins.iter().take(MOST_LOGINS) {
        let mut tried = come_in(&dialing, &plan, login, &tcp, &mut facts).await;
        for route in login.guesses.iter().flatten() {
            if !tried.result.as_ref().is_err_and(Denied::is_of_database) {
                break;
            }
            let login = Login { route: route.clone(), ..login.clone() };
            tried = come_in(&dialing, &plan, &login, &tcp, &mut facts).await;
        }
        let is_mute = tried.result.as_ref().is_err_and(|denied| denied.kind == ConnectFaultKind::Timeout);
        facts.logins.push(tried);
        if is_mute {
            // The others would wait as long for as little.
            facts.untried = plan.logins.len() - facts.logins.len();
            break;
        }
    }
    facts
}

/// Tries one login, and has a look at the server if nobody has had one yet.
async fn come_in(dialing: &Dialing, plan: &PgPlan, login: &Login, tcp: &TcpOptions, facts: &mut PgFacts) -> PgLogin {
    let connector = connector(dialing, plan, login, login.route.target.tls, tcp);
    let begun = clock::now();
    let opened = connector.connect().await;
    let took = clock::now().saturating_duration_since(begun);
    let result = match opened {
        Ok(mut connection) => {
            let entered = enter(&mut connection, connector.target(), login).await;
            if facts.server.is_none() {
                facts.server = Some(server(&mut connection, connector.target(), plan).await);
            }
            connection.close();
            Ok(entered)
        }
        Err(fault) => {
            if fault.kind == ConnectFaultKind::Tls && facts.shown.is_none() {
                facts.shown = Some(look(dialing, plan, login, tcp).await);
            }
            let target = connector.target();
            let prefix = format!("server {} (database \"{}\", user \"{}\"): ", target.upstream, target.dbname, target.user);
            Err(Denied::of(&fault, &prefix))
        }
    };
    let Login { route, secret, guesses, .. } = login;
    let (user, dbname, guessed) = (route.target.user.to_string(), route.target.dbname.to_string(), guesses.is_some());
    PgLogin { user, dbname, guessed, secret: *secret, tls: route.target.tls, took, result }
}

fn connector(dialing: &Dialing, plan: &PgPlan, login: &Login, tls: UpstreamTls, tcp: &TcpOptions) -> PgConnector {
    let hosts = vec![plan.upstream.clone()];
    let route = &login.route;
    let target = Target { upstream: plan.upstream.clone(), hosts, tls, connect_query: None, ..route.target.clone() };
    let dialer = dialing.dialer(&target.hosts, target.balance, tcp, route.limits.backoff_max);
    let connector = PgConnector::new(target, dialer, login_patience(route.connect_timeout), Learned::default());
    connector.set_context(route.tls_context.clone());
    connector
}

/// What the server shows to those who look at nothing.
async fn look(dialing: &Dialing, plan: &PgPlan, login: &Login, tcp: &TcpOptions) -> Result<TlsShown, String> {
    let connector = connector(dialing, plan, login, UpstreamTls::Require, tcp);
    let stream = connector.look().await.map_err(|fault| fault.message.to_string())?;
    shown(&stream).ok_or_else(|| "it speaks in the clear".to_owned())
}

/// What one who came in sees of itself.
async fn enter(connection: &mut PgConnection, target: &Target, login: &Login) -> PgEntered {
    let tls = shown(&connection.stream);
    let number = |row: &Row, index: usize| row.get(index)?.as_deref()?.parse::<i64>().ok();
    let limits = ask(LIMITS, connection, target).await.ok().and_then(|rows| {
        let row = rows.first()?;
        number(row, 0).zip(number(row, 1))
    });
    let lookup = match &login.lookup {
        None => None,
        Some((query, user)) => Some(look_someone_up(query, user, connection, target).await),
    };
    PgEntered { tls, limits, lookup }
}

async fn look_someone_up(query: &str, user: &str, connection: &mut PgConnection, target: &Target) -> Result<LookedUp, String> {
    let found = match tokio::time::timeout(PATIENCE, look_up(query, user, connection, target)).await {
        Ok(Ok(found)) => found,
        Ok(Err(LookupFault::Query(why))) => return Err(why),
        Ok(Err(LookupFault::Connection(fault))) => return Err(fault.words().to_owned()),
        Err(_) => return Err(format!("no answer within {} s", PATIENCE.as_secs())),
    };
    let kind = |secret: Option<&str>| match secret.map(Stored::read) {
        None => "no password",
        Some(Stored::Plain(_)) => "a plain password",
        Some(Stored::Md5(_)) => "an MD5 secret",
        Some(Stored::Scram(_)) => "a SCRAM verifier",
    };
    let secret = found.map(|found| kind(found.secret.as_ref().map(|secret| secret.reveal())));
    Ok(LookedUp { user: user.to_owned(), secret })
}

/// What the server says about itself.
async fn server(connection: &mut PgConnection, target: &Target, plan: &PgPlan) -> Result<PgServer, String> {
    let text = |row: &Row, index: usize| row.get(index).cloned().flatten().unwrap_or_default();
    let theirs = |answer: &Result<Vec<Row>, String>| answer.as_ref().ok()?.first().and_then(|row| text(row, 3).parse().ok());
    let (answer, clock) = clock_of(ask(SELF, connection, target), theirs).await;
    let row = answer?.into_iter().next().ok_or("it answers with nothing")?;
    let names: Vec<String> = SETTINGS.iter().map(|name| quoted(name)).collect();
    let sql = format!("SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN ({})", names.join(","));
    let settings = ask(&sql, connection, target).await.unwrap_or_default();
    let settings: BTreeMap<String, String> = settings.iter().map(|row| (text(row, 0), text(row, 1))).collect();
    let users: Vec<String> = plan.logins.iter().map(|login| quoted(&login.route.target.user)).collect();
    let sql = format!(
        "SELECT count(*), count(*) FILTER (WHERE usename NOT IN ({})) FROM pg_catalog.pg_stat_activity \
         WHERE usesysid IS NOT NULL AND datid IS NOT NULL AND (backend_type IS NULL OR backend_type = 'client backend')",
        users.join(",")
    );
    // What others' sessions are is hidden from most roles. One of them is this very connection.
    let in_use = ask(&sql, connection, target).await.ok().and_then(|rows| {
        let row = rows.first()?;
        Some((text(row, 0).parse::<u64>().ok()?.saturating_sub(1), text(row, 1).parse().ok()?))
    });
    let identity = ask(IDENTITY, connection, target).await.ok().and_then(|rows| {
        let row = rows.into_iter().next()?;
        row.into_iter().collect::<Option<Vec<_>>>().map(|parts| parts.join("/"))
    });
    Ok(PgServer {
        identity,
        version_number: text(&row, 0).parse().unwrap_or(0),
        version: text(&row, 1),
        in_recovery: text(&row, 2) == "t",
        clock,
        settings,
        in_use,
    })
}

async fn ask(sql: &str, connection: &mut PgConnection, target: &Target) -> Result<Vec<Row>, String> {
    let words = |fault: ConnectFault| fault.words().to_owned();
    match tokio::time::timeout(PATIENCE, rows(sql, connection, target)).await {
        Ok(answer) => answer.map_err(words)?.map_err(words),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}
