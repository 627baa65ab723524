//! Unit tests of `hints`.

use super::*;

fn names(text: &str) -> Vec<String> {
    let hints = look(text.as_bytes());
    assert!(!hints.kinds.has(Kinds::UNKNOWN.with(Kinds::BOUND)), "{text}: {hints:?}");
    assert_eq!(hints.kinds.has(Kinds::SETTINGS), !hints.names.is_empty(), "{text}");
    hints.names.iter().map(ToString::to_string).collect()
}

fn kinds(text: &str) -> Kinds {
    look(text.as_bytes()).kinds
}

#[test]
fn what_changes_nothing_gives_no_hint() {
    for text in [
        "",
        ";",
        "SELECT abalance FROM pgbench_accounts WHERE aid = 7",
        "BEGIN",
        "UPDATE t SET a = 1 WHERE b = 2; INSERT INTO t VALUES ('x; SET y = 1')",
        "SELECT temperature, attempt, template, household_id, threshold FROM attempts JOIN advisory_notes",
        "SELECT current_setting('app.tenant_id')",
        "SELECT pg_advisory_xact_lock(1), pg_try_advisory_xact_lock_shared(2)",
        "SET LOCAL work_mem = '4MB'",
        "BEGIN; SET LOCAL app.tenant_id = '1'; SELECT 1; COMMIT",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET CONSTRAINTS ALL DEFERRED",
        "SELECT set_config('app.tenant_id', $1, true)",
        "SELECT set_config('app.tenant_id', coalesce($1, 'a, b')::text, TRUE )",
        "DISCARD PLANS",
    ] {
        let hints = look(text.as_bytes());
        assert!(hints.kinds.is_empty() && hints.names.is_empty(), "{text}: {hints:?}");
    }
}

#[test]
fn a_set_names_its_setting() {
    for (text, name) in [
        ("SET work_mem = '4MB'", "work_mem"),
        ("set\tWork_Mem\nto 4", "work_mem"),
        ("/* a */ SET SESSION statement_timeout TO 1", "statement_timeout"),
        ("SET app.tenant_id = '7'", "app.tenant_id"),
        ("SET \"app\".\"Tenant\" = '7'", "app.tenant"),
        ("SET a . b = 7", "a.b"),
        ("SET TIME ZONE 'UTC'", "timezone"),
        ("SET SESSION TIME ZONE LOCAL", "timezone"),
        ("SET NAMES 'LATIN1'", "client_encoding"),
        ("SET SCHEMA 'x'", "search_path"),
        ("SET ROLE boss", "role"),
        ("SET SESSION ROLE boss", "role"),
        ("SET role = boss", "role"),
        ("RESET ROLE", "role"),
        ("SET XML OPTION DOCUMENT", "xmloption"),
        ("RESET TIME ZONE", "timezone"),
        ("reset app.x", "app.x"),
        ("SELECT 1; SET jit = off; SELECT 2", "jit"),
        ("SELECT set_config('app.x', '1', false)", "app.x"),
        ("SELECT pg_catalog.\"set_config\" ( 'app.x'::text , $1, $2)", "app.x"),
        ("with x as (select SET_CONFIG('app.x', (select max(a) from b), '1'='2')) select 1", "app.x"),
    ] {
        assert_eq!(names(text), [name], "{text}");
        assert!(look(text.as_bytes()).sets || text.contains("onfig") || text.contains("CONFIG"), "{text}");
    }
    for text in ["SET SESSION AUTHORIZATION bob", "RESET SESSION AUTHORIZATION", "SET session_authorization TO bob"] {
        assert_eq!(names(text), ["session_authorization", "role"], "{text}");
    }
    assert_eq!(names("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY").len(), 3);
    assert_eq!(names("SET a.b = 1; SET A.B = 2; SET c = 3"), ["a.b", "c"]);
    assert_eq!(names("BEGIN; SET LOCAL x = 1; SET y = 2"), ["y"]);
}

#[test]
fn what_takes_a_setting_back_is_told_apart() {
    for text in ["RESET work_mem", "SET work_mem TO DEFAULT", "SET work_mem = default", "SET TIME ZONE LOCAL", "RESET ALL"] {
        assert!(kinds(text).has(Kinds::RESETS), "{text}");
    }
    assert!(!kinds("SET work_mem = 4").has(Kinds::RESETS));
    assert!(kinds("SELECT 1; RESET ALL").has(Kinds::RESETS_ALL));
    assert!(!kinds("RESET x").has(Kinds::RESETS_ALL));
}

#[test]
fn what_cannot_be_told_is_unknown() {
    for text in [
        "DO $$ BEGIN PERFORM 1; END $$",
        "CALL p(1)",
        "SELECT 1; CALL p(1)",
        "SELECT set_config(name, value, false) FROM t",
        "SELECT set_config('app.' || 'x', '1', false)",
        "SELECT set_config(E'app.\\x78', '1', false)",
        "SELECT set_config(setting_name => 'app.x', new_value => '1', is_local => false)",
        "SELECT U&\"set\\005fconfig\"('app.x', '1', false)",
        "UPDATE pg_settings SET setting = '1' WHERE name = 'x'",
        "SET \"größe.x\" = 1",
        "SELECT 'a\\'; SET x = 1 --'",
    ] {
        assert!(kinds(text).has(Kinds::UNKNOWN), "{text}");
    }
    let many: String = (0..=MAX_NAMES).map(|index| format!("SET a.b{index} = 1;")).collect();
    let hints = look(many.as_bytes());
    assert!(hints.kinds.has(Kinds::UNKNOWN) && hints.names.len() == MAX_NAMES);
}

#[test]
fn a_block_is_unknown_but_for_the_names_in_it() {
    let hints = look(b"DO $$ BEGIN SET app.a = '1'; PERFORM set_config('app.b', '2', false); EXECUTE 'SET LOCAL app.c = 3'; END $$");
    assert!(hints.kinds.has(Kinds::UNKNOWN));
    for name in ["app.a", "app.b"] {
        assert!(hints.names.iter().any(|known| &**known == name), "{name}: {hints:?}");
    }
}

#[test]
fn other_kinds_are_told_by_their_words() {
    for (text, kind) in [
        ("CREATE TEMP TABLE t (a int)", Kinds::TEMPORARY),
        ("SELECT * INTO temporary x FROM y", Kinds::TEMPORARY),
        ("CREATE TABLE pg_temp.x (a int)", Kinds::TEMPORARY),
        ("SELECT * FROM pg_temp_3.x", Kinds::TEMPORARY),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", Kinds::CURSORS),
        ("SELECT pg_advisory_lock(1)", Kinds::LOCKS),
        ("SELECT pg_advisory_unlock_all()", Kinds::LOCKS),
        ("LOAD 'x'", Kinds::LIBRARIES),
        ("SELECT setseed(0.5)", Kinds::SEED),
        ("SET SEED TO 0.5", Kinds::SEED),
        ("SELECT lastval()", Kinds::SEQUENCES),
        ("SELECT CurrVal('s')", Kinds::SEQUENCES),
        ("ALTER ROLE bob SET work_mem = '1MB'", Kinds::DEFAULTS),
        ("ALTER DATABASE x RESET ALL", Kinds::DEFAULTS),
        ("SELECT 1; alter user x in database y set a.b = 1; select 2", Kinds::DEFAULTS),
        ("DROP TABLE x", Kinds::ENDS),
        ("CLOSE ALL", Kinds::ENDS),
        ("DEALLOCATE x", Kinds::ENDS),
        ("DISCARD ALL", Kinds::ENDS),
    ] {
        assert_eq!(kinds(text), kind, "{text}");
    }
    assert_eq!(kinds("ALTER TABLE x SET (fillfactor = 1)"), Kinds::NONE);
    assert_eq!(kinds("SELECT nextval('s'), setval('s', 1)"), Kinds::NONE);
    assert_eq!(kinds("ALTER ROLE x PASSWORD 'SET'; UPDATE a SET b = 1"), Kinds::NONE);
}

#[test]
fn names_are_found_among_bound_values() {
    let bind = |values: &[Option<&[u8]>]| {
        let mut body = vec![0, 1, 0, 0];
        body.extend_from_slice(&u16::try_from(values.len()).unwrap().to_be_bytes());
        for value in values {
            match value {
                Some(value) => {
                    body.extend_from_slice(&i32::try_from(value.len()).unwrap().to_be_bytes());
                    body.extend_from_slice(value);
                }
                None => body.extend_from_slice(&(-1_i32).to_be_bytes()),
            }
        }
        body.extend_from_slice(&[0, 0]);
        body
    };
    assert!(kinds("SELECT set_config($1, $2, false)").has(Kinds::BOUND));
    assert!(kinds("SELECT set_config($1::text, $2, $3)").has(Kinds::BOUND));
    let found = bound_names(&bind(&[Some(b"app.Tenant"), None, Some(b"17"), Some(b"a b")])).unwrap();
    assert_eq!(found.names.iter().map(|name| &**name).collect::<Vec<_>>(), ["app.tenant"]);
    let whole = bind(&[Some(b"app.x"), Some(b"y")]);
    for cut in 0..whole.len() - 2 {
        assert_eq!(bound_names(&whole[..cut]), None, "{cut}");
    }
}

#[test]
fn names_in_quotes_are_found() {
    let names = |text: &str| quoted_names(text.as_bytes()).names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names("SELECT f('App.tenant_id', '1.5', 'x', 'a b.c'); CALL p($$'app.other'$$)"), ["app.tenant_id", "app.other"]);
    assert!(names("SELECT a.b FROM c.d").is_empty());
    let many: String = (0..2 * MAX_NAMES).map(|index| format!("'a.b{index}',")).collect();
    assert_eq!(quoted_names(many.as_bytes()).names.len(), MAX_NAMES);
}

#[test]
fn functions_are_found_by_name() {
    let functions = Functions::new(&["set_tenant", "", "login_as"]);
    assert!(functions.are_in(b"SELECT app.Set_Tenant(7)") && !functions.are_in(b"SELECT 1"));
    assert!(Functions::default().is_empty() && Functions::new::<&str>(&[]).is_empty() && !functions.is_empty());
    assert!(!Functions::default().are_in(b"set_tenant"));
}

#[test]
fn large_objects_leave_nothing_behind() {
    assert!(is_large_object(952) && !is_large_object(2077));
}

proptest::proptest! {
    #[test]
    fn no_text_is_too_much(text in "(?i)(set|reset|set_config|do|alter role|;| |'|\"|\\(|\\)|,|=|to|local|session|a\\.b|\\$1|\\$\\$|--|/\\*|true){0,30}") {
        let hints = look(text.as_bytes());
        assert!(hints.names.len() <= MAX_NAMES);
    }

    #[test]
    fn no_bytes_are_too_much(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        assert!(look(&text).names.len() <= MAX_NAMES);
        assert!(bound_names(&text).is_none_or(|hints| hints.names.len() <= MAX_NAMES));
    }
}
