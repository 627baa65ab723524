//! Now and then a connection that nobody should have left anything on is asked for everything all the same: hints see no function that changes
//! a session behind its caller's back.
//!
//! ```text
//!   due ─▶ look ─▶ as expected ─────────────────────────────▶ given back
//!              └─ not ─▶ take everything back, look again ─▶ still there: so begins every session of this pool (ALTER ROLE … SET, connect_query)
//!                                                         └─ gone: a surprise: counted, logged by its name, the connection reset
//! ```
//! Whose it was cannot be told any more, so it follows nobody.

use std::rc::Rc;
use std::task::Context;

use sidepool_protocol::postgres::parameters::{ParameterSet, same_value};

use super::following::Own;
use super::matching::{ROLE, USER};
use super::run::{End, Phase, Session};
use crate::observe::record::PoolCounter;
use crate::pool::reason::Condition;
use crate::upstream::postgres::asking::{Answer, Asking, Audit, CLEANING, Ended, Question};
use crate::upstream::postgres::connection::PgConnection;
use crate::upstream::postgres::dirt::StateRules;

/// What was found, and what it was: a setting and its value, or what pins.
type Suspect = (Box<str>, Box<str>);

impl Session {
    /// Whether one is due to a connection of which nothing is in doubt.
    #[inline]
    pub(super) fn is_audit_due(&mut self) -> bool {
        let Phase::Linked(lease) = &mut self.phase else { return false };
        let since = lease.since();
        let link = &mut lease.link;
        let Some(rules) = &link.rules else { return false };
        let last = *link.audited.get_or_insert(since);
        !rules.audit.is_zero() && last.checked_add(rules.audit).is_some_and(|due| since >= due) && link.pins.is_empty()
    }

    /// The question that is due.
    pub(super) fn audit(&mut self) -> Option<Question> {
        let Phase::Linked(lease) = &mut self.phase else { return None };
        let rules = lease.link.rules.clone()?;
        lease.link.audited = Some(lease.since());
        Some(question(&rules, &lease.parameters, Audit::Look))
    }

    /// An audit is through. What is suspect is looked at again, or the connection is gone, back to its pool.
    pub(super) fn after_audit(&mut self, cx: &mut Context<'_>, asking: Asking, stage: Audit) -> Result<(), End> {
        let Phase::Linked(lease) = &mut self.phase else { return Ok(()) };
        let rules = lease.link.rules.clone().unwrap_or_default();
        let PgConnection { link, parameters, baseline, .. } = &mut **lease;
        let Ended::Answered(answer, _) = asking.end() else {
            // Nothing is known of it now.
            self.throw_back(&[]);
            return Ok(());
        };
        link.squatted |= answer.squatted;
        let mut found = suspects(&answer, &link.carried, parameters, baseline.get(USER));
        found.retain(|suspect| !rules.is_usual(suspect));
        match stage {
            Audit::Look if found.is_empty() => {}
            Audit::Look => {
                link.applied = None;
                link.carried = Rc::default();
                let (sql, asking) = question(&rules, parameters, Audit::Confirm(found)).put();
                let connect_query = self.pool.connector().target().connect_query.clone();
                let own = Own::one(CLEANING).and_connect(connect_query.as_deref());
                link.asking = Some(Box::new(asking.behind(own.count())));
                self.send_own(cx, own.and(&sql))?;
            }
            Audit::Confirm(before) => {
                let (usual, gone): (Vec<Suspect>, Vec<Suspect>) = before.into_iter().partition(|suspect| found.contains(suspect));
                // What pins is still there, too, and no session begins with it.
                let (pins, usual): (Vec<Suspect>, Vec<Suspect>) = usual.into_iter().partition(|(_, value)| &**value == PINS);
                usual.into_iter().for_each(|suspect| rules.expect(suspect));
                let surprises: Vec<Suspect> = gone.into_iter().chain(pins).collect();
                if !surprises.is_empty() {
                    self.throw_back(&surprises);
                }
            }
        }
        Ok(())
    }

    /// The connection is reset before anybody uses it.
    fn throw_back(&mut self, surprises: &[Suspect]) {
        if !surprises.is_empty() {
            self.pool.record().add(PoolCounter::StateSurprise, 1);
            let names = surprises.iter().map(|(name, _)| &**name).collect::<Vec<_>>().join(", ");
            tracing::warn!(pool = %self.pool.name(), settings = names, "session state was changed that nothing had hinted at: list the functions that do it in session_state_functions, or set session_state = \"always\"");
        }
        let Phase::Linked(mut lease) = std::mem::replace(&mut self.phase, Phase::Idle) else { return };
        lease.link.dirt.add_unknown();
        self.ticket.idle();
        lease.release(Condition::Dirty);
    }
}

/// The value of a suspect that is no setting.
const PINS: &str = "\0";

fn question(rules: &StateRules, parameters: &ParameterSet, stage: Audit) -> Question {
    Question {
        is_utf8: parameters.get("client_encoding").is_none_or(|encoding| encoding == "UTF8"),
        ..Question::audit(rules.custom(), stage)
    }
}

/// What is otherwise than it should be on a connection with these parameters, on which this was set.
fn suspects(answer: &Answer, carried: &ParameterSet, reported: &ParameterSet, user: Option<&str>) -> Vec<Suspect> {
    let mut found: Vec<Suspect> = Vec::new();
    for (name, value) in answer.session.iter().flatten() {
        let is = |known: Option<&str>| known.is_some_and(|known| same_value(name, known, value));
        if !is(carried.get(name)) && !is(reported.get(name)) {
            found.push((name.clone(), value.clone()));
        }
    }
    for (name, value) in &answer.values {
        let value = value.as_deref().unwrap_or_default();
        let expected = match &**name {
            ROLE => carried.get(name).unwrap_or("none"),
            USER => carried.get(name).or(user).unwrap_or(value),
            _ => carried.get(name).unwrap_or_default(),
        };
        if value != expected && !found.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
            found.push((name.clone(), value.into()));
        }
    }
    let pins = answer.pins.iter().filter(|(_, is)| *is);
    found.extend(pins.map(|(cause, _)| (cause.label().into(), PINS.into())));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::postgres::pins::Cause;

    fn set(pairs: &[(&str, &str)]) -> ParameterSet {
        let mut set = ParameterSet::new();
        for (name, value) in pairs {
            set.set(name, value).unwrap();
        }
        set
    }

    fn names(list: &[(&str, &str)], values: &[(&str, Option<&str>)], carried: &[(&str, &str)]) -> Vec<String> {
        let answer = Answer {
            session: Some(list.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()),
            values: values.iter().map(|(name, value)| ((*name).into(), value.map(Into::into))).collect(),
            pins: vec![(Cause::AdvisoryLocks, values.is_empty()), (Cause::HeldCursors, false)],
            ..Answer::default()
        };
        let found = suspects(&answer, &set(carried), &set(&[("TimeZone", "UTC")]), Some("app"));
        found.into_iter().map(|(name, _)| name.into()).collect()
    }

    #[test]
    fn what_was_carried_or_is_reported_is_expected() {
        let carried = [("work_mem", "4MB"), ("app.tenant", "1"), ("role", "boss")];
        let values = [("app.tenant", Some("1")), ("app.other", Some("")), ("app.never", None), ("role", Some("boss")), (USER, Some("app"))];
        assert!(names(&[("work_mem", "4MB"), ("TimeZone", "UTC")], &values, &carried).is_empty());
        assert!(names(&[], &[("role", Some("none"))], &[]).is_empty());
    }

    #[test]
    fn everything_else_is_suspect() {
        let values = [("app.tenant", Some("2")), ("role", Some("boss")), (USER, Some("eve"))];
        let found = names(&[("work_mem", "1MB"), ("jit", "off")], &values, &[("app.tenant", "1"), ("work_mem", "4MB")]);
        assert_eq!(found, ["work_mem", "jit", "app.tenant", "role", USER]);
        assert_eq!(names(&[], &[], &[]), ["advisory_locks"]);
    }
}
