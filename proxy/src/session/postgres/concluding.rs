//! What a server's answer makes of a client's state, and of what is known to be set on the connection.
//!
//! A setting that is back at the server's default is back at what the client began with: what its startup message asked for, or nothing at all.
//! Pure. Not here: the question (`upstream::postgres::asking`), or bringing a connection into a state (`matching`).

use sidepool_protocol::postgres::parameters::{ParameterError, ParameterSet};

use super::matching::{ROLE, USER};
use crate::upstream::postgres::asking::Answer;
use crate::upstream::postgres::dirt::Dirt;

/// What was known before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before<'a> {
    /// The client's state.
    pub(super) state: &'a ParameterSet,
    /// What the client began with.
    pub(super) start: &'a ParameterSet,
    /// What was set on the connection.
    pub(super) carried: &'a ParameterSet,
    /// The user that the connection logged in as.
    pub(super) user: Option<&'a str>,
}

/// What is known now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Concluded {
    /// The client's state.
    pub(super) state: ParameterSet,
    /// What is set on the connection.
    pub(super) carried: ParameterSet,
}

/// Concludes from an answer. `cleaned`: everything was taken back on the connection behind the answer.
pub(super) fn conclude(before: Before<'_>, dirt: &Dirt, answer: &Answer, cleaned: bool) -> Result<Concluded, ParameterError> {
    let mut state = before.state.clone();
    let mut carried = before.carried.clone();
    if cleaned {
        for (name, value) in answer.session.iter().flatten() {
            state.set(name, value)?;
        }
    }
    for (name, value) in &answer.values {
        let known = value.as_deref().filter(|value| !is_default(before, dirt, answer, cleaned, name, value));
        match known {
            Some(value) => {
                state.set(name, value)?;
                carried.set(name, value)?;
            }
            None => {
                match before.start.get(name) {
                    Some(value) => state.set(name, value)?,
                    None => state.remove(name),
                };
                carried.remove(name);
            }
        }
    }
    if cleaned {
        carried = ParameterSet::new();
    }
    state.shrink_to_fit();
    Ok(Concluded { state, carried })
}

/// Whether this is the server's own value of a setting.
fn is_default(before: Before<'_>, dirt: &Dirt, answer: &Answer, cleaned: bool, name: &str, value: &str) -> bool {
    if name.eq_ignore_ascii_case(ROLE) {
        // The default may be a role; then a reset leads there, and only SET ROLE NONE to none.
        let untouched = before.state.get(ROLE).is_none() && (cleaned || dirt.is_undone());
        value == "none" && (untouched || dirt.has_resets())
    } else if name.eq_ignore_ascii_case(USER) {
        before.user == Some(value)
    } else if name.contains('.') && value.is_empty() {
        // What was set once is never NULL again.
        dirt.has_resets() || before.start.get(name).is_none()
    } else {
        let listed = |list: &Vec<(Box<str>, Box<str>)>| list.iter().any(|(listed, _)| listed.eq_ignore_ascii_case(name));
        // What the client has set to the server's own value may never have been set on this connection.
        let unchanged = before.state.get(name) == Some(value) && (!dirt.may_reset(name) || dirt.may_not_be_reset());
        !name.contains('.') && !unchanged && answer.session.as_ref().is_some_and(|list| !listed(list))
    }
}

#[cfg(test)]
#[path = "concluding_tests.rs"]
mod tests;
