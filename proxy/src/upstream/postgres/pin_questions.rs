//! Questions to a server: is there anything of this kind on the session? SQL expressions, to be put together with others in one query, outside
//! of a transaction. Everything is qualified: the client's own search path is in force. Pure.

use super::pins::Cause;

/// Everything that is in a schema depends on it (that is how DISCARD TEMP finds it), and there is an index for that: what is asked in each
/// catalogue alone finds tables, but not functions, types, collations. The schema itself stays when it is empty.
const TEMPORARY: &str = "pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0::pg_catalog.oid AND EXISTS(SELECT FROM \
                         pg_catalog.pg_depend WHERE refclassid OPERATOR(pg_catalog.=) 2615::pg_catalog.oid AND refobjid \
                         OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema())";

/// Other cursors end with their transaction.
const CURSORS: &str = "EXISTS(SELECT FROM pg_catalog.pg_cursor() c WHERE c.is_holdable)";

/// Those of transactions are gone by now, and nobody waits for one.
const LOCKS: &str = "EXISTS(SELECT FROM pg_catalog.pg_lock_status() l WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory'::pg_catalog.text \
                     AND l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())";

/// Those of the proxy have names of its own.
const STATEMENTS: &str = "EXISTS(SELECT FROM pg_catalog.pg_prepared_statement() p WHERE pg_catalog.strpos(p.name,'sidepool_'::pg_catalog.text) OPERATOR(pg_catalog.<>) 1)";

/// Whether something is prepared in SQL under such a name all the same: by the proxy for a client's PREPARE, or by what nobody could look into, in
/// the place of what others use.
pub const SQUATTERS: &str = "EXISTS(SELECT FROM pg_catalog.pg_prepared_statement() p WHERE p.from_sql AND \
                             pg_catalog.strpos(p.name,'sidepool_'::pg_catalog.text) OPERATOR(pg_catalog.=) 1)";

const CHANNELS: &str = "EXISTS(SELECT FROM pg_catalog.pg_listening_channels())";

/// An expression that is true as long as the session has something that pins it for this cause; `None`: no server can say.
#[must_use]
pub fn exists(cause: Cause) -> Option<&'static str> {
    match cause {
        Cause::TemporaryTables => Some(TEMPORARY),
        Cause::HeldCursors => Some(CURSORS),
        Cause::AdvisoryLocks => Some(LOCKS),
        Cause::Listening => Some(CHANNELS),
        Cause::Statements => Some(STATEMENTS),
        // What a library has done stays.
        Cause::Library => None,
    }
}

/// What the server answers: the text of a boolean, nothing for NULL.
#[must_use]
pub fn is_true(value: Option<&[u8]>) -> bool {
    value == Some(b"t")
}

#[cfg(test)]
mod tests {
    use super::super::statements::NAME_PREFIX;
    use super::*;

    #[test]
    fn statements_of_the_proxy_are_not_meant() {
        let prefix = format!("'{}'", String::from_utf8_lossy(NAME_PREFIX));
        assert!(STATEMENTS.contains(&prefix) && SQUATTERS.contains(&prefix));
    }

    #[test]
    fn questions_can_stand_in_a_list_and_name_nothing_that_a_search_path_could_change() {
        for cause in Cause::ALL {
            let Some(sql) = exists(cause) else { continue };
            assert!(sql.is_ascii() && !sql.contains([';', '\n']) && !sql.contains("  "), "{sql}");
            assert_eq!(sql.matches('(').count(), sql.matches(')').count(), "{sql}");
            for operator in [" = ", " <> ", "="] {
                assert!(!sql.replace("OPERATOR(pg_catalog.=)", "").contains(operator), "{sql}");
            }
            assert_eq!(sql.matches("pg_my_temp_schema").count(), sql.matches("pg_catalog.pg_my_temp_schema").count());
        }
    }

    #[test]
    fn an_answer_is_true_or_it_is_not() {
        assert!(is_true(Some(b"t")));
        assert!(!is_true(Some(b"f")) && !is_true(None) && !is_true(Some(b"")));
    }
}
