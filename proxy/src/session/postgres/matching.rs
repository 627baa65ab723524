//! Brings a server connection into the session state that its next client expects, in one query, or in none where it is already there.
//!
//! ```text
//!   the login is a superuser's   back to it → RESET what is too much → SET what differs → session authorization → role
//!   it is not                                RESET what is too much → role → SET what differs
//! ```
//! A superuser may set everything, and a role that it takes on perhaps nothing; for others the role may be what gives the right. Pure: sets of
//! parameters in, SQL out. Not here: what a client's state is (`concluding`), or sending (`relay`).

use std::fmt::Write as _;

use sidepool_protocol::postgres::parameters::{ParameterSet, same_value};

use crate::upstream::postgres::quoting::{quoted, quoted_name};

/// The role that the session acts as.
pub(super) const ROLE: &str = "role";

/// The user that the session counts as.
pub(super) const USER: &str = "session_authorization";

/// What is known of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// What the server reports.
    pub reported: &'a ParameterSet,
    /// What was set on it.
    pub carried: &'a ParameterSet,
    /// Somebody ran SET or RESET since, so that `carried` may not hold.
    pub doubtful: bool,
    /// The login is a superuser's.
    pub superuser: bool,
}

/// The query that makes a connection look as `desired`; `None` when it does already.
#[must_use]
pub fn plan(desired: &ParameterSet, found: Found<'_>) -> Option<String> {
    let mut resets = String::new();
    for (name, _) in found.carried.iter().filter(|(name, _)| !is_identity(name)) {
        if desired.get(name).is_none() {
            let _ = write!(resets, "RESET {};", quoted_name(name));
        }
    }
    let mut sets = String::new();
    for (name, value) in desired.iter().filter(|(name, _)| !is_identity(name)) {
        let carried = found.reported.get(name).or_else(|| found.carried.get(name).filter(|_| !found.doubtful));
        if !carried.is_some_and(|carried| same_value(name, value, carried)) {
            sets.push_str(if sets.is_empty() { "SELECT " } else { "," });
            put_set(name, value, &mut sets);
        }
    }
    let (before, after) = ([USER, ROLE].map(|name| found.carried.get(name)), [USER, ROLE].map(|name| desired.get(name)));
    let changes = before != after || found.doubtful && before.iter().chain(&after).any(Option::is_some);
    let mut sql = String::new();
    if found.superuser {
        let away = before.iter().any(Option::is_some);
        let back = away && (changes || !resets.is_empty() || !sets.is_empty());
        if back {
            sql.push_str("RESET SESSION AUTHORIZATION;RESET ROLE;");
        }
        sql.push_str(&resets);
        sql.push_str(&sets);
        if back || changes {
            put_identity(after, &mut sql);
        }
    } else {
        sql.push_str(&resets);
        if changes {
            if before[0].is_some() {
                sql.push_str("RESET SESSION AUTHORIZATION;");
            }
            if before.iter().any(Option::is_some) {
                sql.push_str("RESET ROLE;");
            }
            put_identity(after, &mut sql);
        }
        if !sets.is_empty() {
            separate(&mut sql);
            sql.push_str(&sets);
        }
    }
    (!sql.is_empty()).then_some(sql)
}

/// Whether something that was set has to go back to what it is by default.
#[must_use]
pub(super) fn resets(desired: &ParameterSet, found: Found<'_>) -> bool {
    found.carried.iter().any(|(name, _)| desired.get(name).is_none())
}

/// Whether the setting is one of the two that say who the session is.
fn is_identity(name: &str) -> bool {
    name.eq_ignore_ascii_case(ROLE) || name.eq_ignore_ascii_case(USER)
}

fn put_identity(identity: [Option<&str>; 2], sql: &mut String) {
    for (name, value) in [USER, ROLE].into_iter().zip(identity) {
        if let Some(value) = value {
            separate(sql);
            sql.push_str("SELECT ");
            put_set(name, value, sql);
        }
    }
}

fn separate(sql: &mut String) {
    if !sql.is_empty() && !sql.ends_with(';') {
        sql.push(';');
    }
}

fn put_set(name: &str, value: &str, sql: &mut String) {
    let _ = write!(sql, "pg_catalog.set_config({},{},false)", quoted(name), quoted(value));
}

#[cfg(test)]
#[path = "matching_tests.rs"]
mod tests;
