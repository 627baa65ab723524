//! What is found in texts, and what is left alone.

use super::*;

fn show(text: &str) -> String {
    let Some(found) = commands(text.as_bytes()) else { return "unclear".to_owned() };
    let words = found.iter().map(|command| {
        let rest = &text[command.at.end.min(command.end)..command.end];
        format!("{:?} {} |{}|{}|", command.verb, String::from_utf8_lossy(&command.name), &text[command.at.clone()], rest)
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn single_commands() {
    assert_eq!(show("PREPARE a AS SELECT 1"), "Prepare a |a| AS SELECT 1|");
    assert_eq!(show("prepare Plan_1(int, text) as select $1"), "Prepare plan_1 |Plan_1|(int, text) as select $1|");
    assert_eq!(show("EXECUTE \"A\"\"b\"(1)"), "Execute A\"b |\"A\"\"b\"|(1)|");
    assert_eq!(show(" /* a /* b */ c */ -- x\n execute é;"), "Execute é |é||");
    assert_eq!(show("DEALLOCATE a"), "Deallocate a |a||");
    assert_eq!(show("DEALLOCATE PREPARE a"), "Deallocate a |a||");
    assert_eq!(show("DEALLOCATE prepare"), "Deallocate prepare |prepare||");
    assert_eq!(show("DEALLOCATE ALL"), "DeallocateAll ALL |ALL||");
    assert_eq!(show("DEALLOCATE PREPARE ALL"), "DeallocateAll ALL |ALL||");
    assert_eq!(show("DEALLOCATE \"all\""), "Deallocate all |\"all\"||");
    assert_eq!(show("discard All; DISCARD PLANS; EXECUTE a"), "DeallocateAll All |All|| Execute a |a||");
    assert_eq!(show("EXPLAIN (VERBOSE, FORMAT JSON) EXECUTE sqlx_s_1(NULL)"), "Execute sqlx_s_1 |sqlx_s_1|(NULL)|");
    assert_eq!(show("explain analyze verbose execute q"), "Execute q |q||");
    assert_eq!(show("CREATE TEMP TABLE t (a, b) ON COMMIT DROP AS EXECUTE q(1) WITH DATA"), "Execute q |q|(1) WITH DATA|");
    assert_eq!(show("explain (costs off) create table \"as\" as execute Q"), "Execute q |Q||");
    assert!(names_statement(b"EXECUTE a") && !names_statement(b"COMMIT"));
}

#[test]
fn several_statements() {
    assert_eq!(
        show("PREPARE a AS SELECT ';'; EXECUTE a; SELECT 1; DEALLOCATE a"),
        "Prepare a |a| AS SELECT ';'| Execute a |a|| Deallocate a |a||"
    );
    assert_eq!(show(";; EXECUTE a;;"), "Execute a |a||");
    assert_eq!(show("SELECT (1; EXECUTE a); EXECUTE b"), "Execute b |b||");
}

#[test]
fn strings_hide_what_is_in_them() {
    for text in ["'; EXECUTE b'", "E'\\'; EXECUTE b'", "$$; EXECUTE b$$", "$x$;EXECUTE b;$$ $x$", "\"; EXECUTE b\"", "N'a'';EXECUTE b'"] {
        assert_eq!(show(&format!("EXECUTE a({text})")), format!("Execute a |a|({text})|"), "{text}");
    }
    assert_eq!(show("EXECUTE a('\\'; EXECUTE b')"), "unclear");
    assert_eq!(show("EXECUTE a(E'\u{e9}\\'')"), "unclear");
    assert_eq!(show("EXECUTE a($1, a$b$, 1e5, 2.5)"), "Execute a |a|($1, a$b$, 1e5, 2.5)|");
}

#[test]
fn what_is_none_of_them() {
    for text in [
        "",
        ";",
        "SELECT 1",
        "PREPARE TRANSACTION 'x'",
        "DISCARD TEMP",
        "DISCARD",
        "EXPLAIN SELECT 1",
        "EXECUTE",
        "EXECUTE 'a'",
        "PREPARE",
        "EXPLAIN (EXECUTE a",
        "DELETE FROM execute",
        "CREATE TABLE t (a text DEFAULT 'as execute b')",
        "CREATE TABLE t AS SELECT 1",
        "CREATE VIEW v AS EXECUTE a",
    ] {
        assert_eq!(show(text), "", "{text}");
    }
    assert_eq!(show("PREPARE transaction AS SELECT 1"), "Prepare transaction |transaction| AS SELECT 1|");
    assert_eq!(show("EXECUTE U&\"a\""), "unclear");
    assert_eq!(show("EXECUTE \"\""), "unclear");
    assert_eq!(show(&format!("EXECUTE {}", "a".repeat(64))), "unclear");
}

#[test]
fn a_beginning_tells_as_soon_as_it_can() {
    let texts = [
        ("PREPARE a AS SELECT 1", Start::Names),
        ("  /* c */ deallocate x", Start::Names),
        ("EXPLAIN (a) VERBOSE EXECUTE b", Start::Names),
        ("DISCARD ALL ", Start::Names),
        ("create unlogged table \"as\" (a, b) with (x = 1) as execute b", Start::Names),
        ("EXPLAIN ANALYZE CREATE TABLE IF NOT EXISTS s.t AS EXECUTE b(1)", Start::Names),
    ];
    let others = [
        ("SELECT 1", Start::Other),
        ("EXPLAIN SELECT 1", Start::Other),
        ("DELETE FROM a", Start::Other),
        ("'x'", Start::Other),
        ("ex", Start::Other),
        ("CREATE TABLE t (a int)", Start::Other),
        ("CREATE TABLE t AS SELECT 1", Start::Other),
        ("CREATE FUNCTION f() RETURNS int AS 'EXECUTE b'", Start::Other),
        ("CREATE TABLE t; SELECT 1 AS execute", Start::Other),
        ("COMMIT", Start::Other),
        ("DISCARD SEQUENCES", Start::Other),
        ("-- nothing", Start::Other),
    ];
    for (text, expected) in texts.into_iter().chain(others) {
        assert_eq!(start(text.as_bytes(), true), expected, "{text}");
        let mut decided = None;
        for cut in 0..=text.len() {
            let now = start(&text.as_bytes()[..cut], false);
            if let Some(before) = decided {
                assert_eq!(now, before, "{text} cut at {cut}");
            } else if now != Start::NeedMore {
                assert_eq!(now, expected, "{text} cut at {cut}");
                decided = Some(now);
            }
        }
        assert!((0..=text.len()).all(|cut| may_name(&text.as_bytes()[..cut])) || expected == Start::Other, "{text}");
    }
    assert_eq!(start(b"DELE", false), Start::Other);
    assert_eq!(start(b"DE", false), Start::NeedMore);
}

#[test]
fn several_statements_are_told_from_one_by_what_follows_its_end() {
    for one in ["", "select 1", "select 1;", "select 1 ; \n;;\0"] {
        assert!(!may_be_several(one.as_bytes()), "{one}");
    }
    for several in ["select 1; x", "select ';'", "; x", "select 1;\0x"] {
        assert!(may_be_several(several.as_bytes()), "{several}");
    }
    assert!(begins_with_execute(b"/* a */ Execute b") && !begins_with_execute(b"explain execute b"));
}
