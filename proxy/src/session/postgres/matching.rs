//! Brings a server connection into the session state that its next client expects, in one query, or in none where it is already there.
//!
//! Pure: three sets of parameters in, SQL out. The SQL is plain ASCII whatever the values hold, so that no client encoding can read a quote
//! into the middle of a character. Not here: what a client's state is (`state`), or sending (`run`).

use std::fmt::Write as _;

use sidepool_protocol::postgres::parameters::{ParameterSet, same_value};

/// The query that makes a connection with these `reported` parameters and `overrides` look as `desired`; `None` when it does already. When the
/// overrides are `doubtful` (somebody ran SET or RESET since), they are set anew.
#[must_use]
pub fn plan(desired: &ParameterSet, reported: &ParameterSet, overrides: &ParameterSet, doubtful: bool) -> Option<String> {
    let mut sql = String::new();
    for (name, _) in overrides.iter() {
        if desired.get(name).is_none() {
            let _ = write!(sql, "RESET {};", quoted_name(name));
        }
    }
    let mut columns = String::new();
    for (name, value) in desired.iter() {
        let carried = overrides.get(name).filter(|_| !doubtful).or_else(|| reported.get(name));
        if !carried.is_some_and(|carried| same_value(name, value, carried)) {
            columns.push_str(if columns.is_empty() { "SELECT " } else { "," });
            let _ = write!(columns, "pg_catalog.set_config({},{},false)", quoted(name), quoted(value));
        }
    }
    sql.push_str(&columns);
    (!sql.is_empty()).then_some(sql)
}

/// A string constant in ASCII (PostgreSQL documentation, "String Constants with C-Style Escapes" and "with Unicode Escapes").
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 3);
    out.push_str("E'");
    for character in text.chars() {
        match character {
            '\'' => out.push_str("''"),
            '\\' => out.push_str("\\\\"),
            ' '..='~' => out.push(character),
            _ => {
                let _ = write!(out, "\\U{:08X}", u32::from(character));
            }
        }
    }
    out.push('\'');
    out
}

/// A setting's name, each part of it quoted. Names come from the server or from our own earlier `set_config`, and are ASCII.
fn quoted_name(name: &str) -> String {
    name.split('.').map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[(&str, &str)]) -> ParameterSet {
        let mut set = ParameterSet::default();
        for (name, value) in pairs {
            let _ = set.set(name, value);
        }
        set
    }

    #[test]
    fn equal_state_needs_no_query() {
        let state = set(&[("DateStyle", "ISO, MDY"), ("TimeZone", "UTC")]);
        assert_eq!(plan(&state, &state, &set(&[]), false), None);
        assert_eq!(plan(&set(&[]), &state, &set(&[]), false), None);
    }

    #[test]
    fn differences_are_set_in_one_query() {
        let sql =
            plan(&set(&[("TimeZone", "UTC"), ("search_path", "a, b")]), &set(&[("TimeZone", "Asia/Tokyo")]), &set(&[]), false).unwrap();
        assert_eq!(sql, "SELECT pg_catalog.set_config(E'search_path',E'a, b',false),pg_catalog.set_config(E'TimeZone',E'UTC',false)");
    }

    #[test]
    fn what_another_client_set_is_reset() {
        let sql = plan(&set(&[]), &set(&[]), &set(&[("app.tenant", "1"), ("work_mem", "4MB")]), false).unwrap();
        assert_eq!(sql, "RESET \"app\".\"tenant\";RESET \"work_mem\";");
    }

    #[test]
    fn an_override_that_fits_stays() {
        let state = set(&[("work_mem", "4MB")]);
        assert_eq!(plan(&state, &set(&[]), &state, false), None);
    }

    #[test]
    fn doubtful_overrides_are_set_anew() {
        let state = set(&[("work_mem", "4MB")]);
        assert!(plan(&state, &set(&[]), &state, true).is_some());
    }

    #[test]
    fn values_cannot_leave_their_quotes() {
        assert_eq!(quoted("a'b\\c"), "E'a''b\\\\c'");
        assert_eq!(quoted("é\n\u{1F600}"), "E'\\U000000E9\\U0000000A\\U0001F600'");
        assert_eq!(quoted_name("a\"b.c"), "\"a\"\"b\".\"c\"");
    }
}
