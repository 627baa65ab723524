//! Who may use the admin console, and as what: the way in to the database `pgbouncer`.
//!
//! As with PgBouncer: who runs as the process's own user and comes over a Unix socket as `pgbouncer` needs no password; others prove who they are
//! as for any database, and have to be listed in `admin_users` or `stats_users`. Not here: what they can do there (`console`).

use sidepool_config::model::Postgres;
use sidepool_protocol::postgres::encode;
use sidepool_protocol::postgres::fault::{Fault, SqlState};
use sidepool_protocol::postgres::startup::Startup;
use sidepool_protocol::postgres::tracker::TransactionStatus;
use tokio::io::AsyncWriteExt as _;

use super::account::{Exceeded, Member};
use super::authenticate::Keeper;
use super::cancel::ConsoleTicket;
use super::denied::Denied;
use super::login::{Reached, no_random};
use super::opening::Farewell;
use crate::console::guest::{CONSOLE_DATABASE, Guest, PARAMETERS, Rank};
use crate::transport::ends::Ends;
use crate::transport::stream::Stream;
use crate::worker::Worker;

/// The user that needs no password over a Unix socket, and the name under which the console's pool is shown.
const OWN_USER: &str = "pgbouncer";

/// Whether the client asks for the console.
#[must_use]
pub(super) fn is_wanted(startup: &Startup) -> bool {
    &*startup.database == CONSOLE_DATABASE
}

/// Lets the client in, and welcomes it. `out` holds what has to be said before.
pub(super) async fn admit(reached: &mut Reached<'_>, keeper: &Keeper<'_>, mut out: Vec<u8>) -> Result<Guest, Farewell> {
    let (worker, startup) = (keeper.worker, keeper.startup);
    let rank = if is_our_own_user(reached.speaker.stream, &startup.user) {
        encode::authentication_ok(&mut out);
        super::say::our_own_user(worker, reached.id, reached.speaker.stream, startup);
        Rank::Admin
    } else {
        let admitted = keeper.authenticate(&mut reached.speaker, &mut out).await?;
        rank(keeper.config, &admitted.user).ok_or_else(|| Farewell::Refused(not_allowed(), Denied::Console))?
    };
    let member = enter(worker, keeper.config, startup, rank)?;
    let ticket = ConsoleTicket::new(worker).map_err(|_| no_random())?;
    for (name, value) in PARAMETERS {
        encode::parameter_status(name, value, &mut out);
    }
    encode::backend_key_data(ticket.key().process_id(), &ticket.key().secret(), &mut out);
    encode::ready_for_query(TransactionStatus::Idle, &mut out);
    reached.speaker.stream.write_all(&out).await?;
    let application_name = startup.parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case("application_name"));
    Ok(Guest {
        id: reached.id,
        user: startup.user.clone(),
        rank,
        ends: Ends::of(reached.speaker.stream),
        connected: reached.connected,
        tls: reached.speaker.stream.tls_description().unwrap_or_default().into(),
        application_name: application_name.map(|(_, value)| value.clone()).unwrap_or_default(),
        ticket,
        member,
    })
}

/// Counts the client. An administrator gets in however many there are, and so can do something about it.
fn enter(worker: &Worker, config: &Postgres, startup: &Startup, rank: Rank) -> Result<Member, Exceeded> {
    let accounts = &worker.postgres.accounts;
    match rank {
        Rank::Admin => Ok(accounts.enter_anyway(config, CONSOLE_DATABASE, &startup.user)),
        Rank::Stats => accounts.enter(config, CONSOLE_DATABASE, &startup.user),
    }
}

fn is_our_own_user(stream: &Stream, user: &str) -> bool {
    let peer = stream.unix_peer().and_then(|(_, user)| user);
    user == OWN_USER && peer == Some(rustix::process::geteuid().as_raw())
}

fn rank(config: &Postgres, user: &str) -> Option<Rank> {
    let is_in = |list: &[String]| list.iter().any(|listed| listed == user);
    if is_in(&config.admin_users) {
        Some(Rank::Admin)
    } else if is_in(&config.stats_users) {
        Some(Rank::Stats)
    } else {
        None
    }
}

fn not_allowed() -> Fault {
    Fault::fatal(SqlState::PROTOCOL_VIOLATION, "not allowed")
        .with_detail("The database \"pgbouncer\" is the admin console.")
        .with_hint("List the user in admin_users, or in stats_users for SHOW alone.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_say_who_is_what() {
        let config =
            Postgres { admin_users: vec!["a".into(), "b".into()], stats_users: vec!["s".into(), "a".into()], ..Postgres::default() };
        assert_eq!(
            ["a", "b", "s", "x", ""].map(|user| rank(&config, user)),
            [Some(Rank::Admin), Some(Rank::Admin), Some(Rank::Stats), None, None]
        );
        assert_eq!(rank(&Postgres::default(), ""), None);
    }
}
