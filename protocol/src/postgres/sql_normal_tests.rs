//! What comes out of statements, as a table; and that any bytes are taken.

use super::Normal;

fn normal(text: impl AsRef<[u8]>) -> String {
    Normal::new(text.as_ref(), false, 1024).to_string()
}

#[test]
fn values_go_and_everything_else_stays() {
    for (text, expected) in [
        ("SELECT 1", "SELECT ?"),
        ("select 'it''s' , \"a\"\"b\" from T", "select ? , \"a\"\"b\" from T"),
        ("SELECT\n\t*  FROM t\r\n WHERE a='x'", "SELECT * FROM t WHERE a=?"),
        ("SELECT 1 -- one\n + /* two /* nested */ */ 2", "SELECT ? + ?"),
        ("/*traceparent='00-aa'*/ SELECT 1 /* end", "SELECT ?"),
        ("SELECT E'a\\'b' FROM t", "SELECT ? FROM t"),
        ("SELECT e'\\\\', 'x'", "SELECT ?, ?"),
        ("SELECT U&'d\\0061t' UESCAPE '!', U&\"name\"", "SELECT ? UESCAPE ?, U&\"name\""),
        ("SELECT B'01', x'1F', N'n'", "SELECT ?, ?, ?"),
        ("SELECT 'a'\n 'b'", "SELECT ?"),
        ("SELECT $$a 'b' $x$ $$, $tag$ $$ $tag$", "SELECT ?, ?"),
        ("DO $$BEGIN PERFORM 1; END$$", "DO ?"),
        ("SELECT 1.5, .5, 1e10, 1.5e-10, 1E+5, 0x1F, 1_000, -3", "SELECT ?, ?, ?, ?, ?, ?, ?, -?"),
        ("SELECT t.c, t1.c2, \"t\".c3, t.\"5\"", "SELECT t.c, t1.c2, \"t\".c3, t.\"5\""),
        ("SELECT '1'::int, 2::text, $1::int8, CAST('x' AS date)", "SELECT ?::int, ?::text, $1::int8, CAST(? AS date)"),
        ("SELECT DATE '2020-01-01', interval '1 day'", "SELECT DATE ?, interval ?"),
        ("SELECT * FROM t WHERE a = $1 AND b > $12", "SELECT * FROM t WHERE a = $1 AND b > $12"),
        ("SELECT a->'k', a #>> '{x}', a ? 'k'", "SELECT a->?, a #>> ?, a ? ?"),
        ("BEGIN; UPDATE t SET a = b WHERE c = 3; COMMIT", "BEGIN; UPDATE t SET a = b WHERE c = ?; COMMIT"),
        ("SELECT größe FROM täble WHERE ü = 'ü'", "SELECT größe FROM täble WHERE ü = ?"),
        ("COPY t FROM STDIN WITH (FORMAT csv, DELIMITER ';')", "COPY t FROM STDIN WITH (FORMAT csv, DELIMITER ?)"),
        ("", ""),
        ("  ;  ", ";"),
        ("SELECT 1\0", "SELECT ?"),
    ] {
        assert_eq!(normal(text), expected, "{text}");
    }
}

#[test]
fn lists_are_one_value() {
    for (text, expected) in [
        ("SELECT * FROM t WHERE a IN (1, 2,3)", "SELECT * FROM t WHERE a IN (?)"),
        ("SELECT * FROM t WHERE a NOT IN ($1,$2, $3) AND b = 1", "SELECT * FROM t WHERE a NOT IN ($1) AND b = ?"),
        ("SELECT * FROM t WHERE a IN ('x')", "SELECT * FROM t WHERE a IN (?)"),
        ("SELECT * FROM t WHERE a IN (SELECT 1, 2)", "SELECT * FROM t WHERE a IN (SELECT ?, ?)"),
        ("SELECT * FROM t WHERE a IN (1, b, 2)", "SELECT * FROM t WHERE a IN (?, b, ?)"),
        ("SELECT * FROM t WHERE (a, b) IN ((1, 2), (3, 4))", "SELECT * FROM t WHERE (a, b) IN ((?, ?), (?, ?))"),
        ("SELECT ARRAY[1, 2, 3], x[1]", "SELECT ARRAY[?], x[?]"),
        ("SELECT f(1, 2)", "SELECT f(?, ?)"),
        ("INSERT INTO t VALUES (1, 'a'), (2, f(3)), (4, 'b') RETURNING id", "INSERT INTO t VALUES (?, ?) RETURNING id"),
        ("INSERT INTO t (a, b) VALUES ($1, now()), ($2, now())", "INSERT INTO t (a, b) VALUES ($1, now())"),
    ] {
        assert_eq!(normal(text), expected, "{text}");
    }
}

#[test]
fn no_secret_comes_through() {
    for text in [
        "ALTER ROLE bob PASSWORD 'hunter2'",
        "ALTER ROLE bob WITH ENCRYPTED PASSWORD 'hunter2' VALID UNTIL 'infinity'",
        "ALTER USER bob PASSWORD E'hunter2\\''",
        "CREATE USER bob PASSWORD $$hunter2$$",
        "CREATE ROLE bob LOGIN PASSWORD hunter2",
        "CREATE ROLE bob LOGIN PASSWORD \"hunter2\"",
        "create role bob password'hunter2'",
        "ALTER ROLE bob PASSWORD 'hunter2",
        "ALTER ROLE bob PASSWORD $x$hunter2",
        "ALTER ROLE bob PASSWORD 'it\\'s hunter2'",
        "CREATE USER MAPPING FOR bob SERVER s OPTIONS (user 'bob', password 'hunter2')",
        "CREATE SUBSCRIPTION s CONNECTION 'host=h password=hunter2' PUBLICATION p",
        "ALTER ROLE bob PASSWORD it@hunter2",
        "ALTER ROLE bob PASSWORD 'it's hunter2'",
        "ALTER ROLE bob PASSWORD 'it' s hunter2'",
        "ALTER ROLE bob PASSWORD 'it' 's' hunter2'",
        "ALTER ROLE bob PASSWORD 'it'/**/hunter2'",
        "ALTER ROLE bob PASSWORD 'it'--s\n hunter2'",
        "ALTER ROLE bob PASSWORD NULL@hunter2",
        "ALTER ROLE bob PASSWORD NULL hunter2",
        "ALTER ROLE bob PASSWORD $hunter2",
        "ALTER ROLE bob PASSWORD $hunter2 VALID UNTIL 'y'",
        "ALTER ROLE bob PASSWORD $1hunter2",
        "ALTER ROLE bob PASSWORD 1 hunter2",
        "ALTER ROLE bob PASSWORD = 'x' hunter2",
        "ALTER GROUP bob PASSWORD U&'x' hunter2",
        "SELECT 1$$ hunter2 $$",
        "SELECT $hunter2 ",
        "SET app.token = $hunter2 ",
        "SET app.token = $hunter2 x",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET app.token TO hunter2 AS 'SELECT 1'",
        "CREATE OR REPLACE PROCEDURE f() LANGUAGE sql SET app.token = hunter2 AS 'SELECT 1'",
        "SET app.token = hunter2",
        "SET LOCAL app.token TO \"hunter2\", hunter2",
        "ALTER ROLE bob SET app.token TO hunter2",
        "SELECT 1; SET app.token = hunter2",
        "SELECT set_config('app.token', 'hunter2', false) -- hunter2",
        "/* hunter2 */ SELECT 1 /* hunter2",
    ] {
        assert!(!normal(text).contains("hunter2"), "{text}: {}", normal(text));
    }
    for (text, expected) in [
        ("ALTER ROLE bob PASSWORD NULL", "ALTER ROLE bob PASSWORD NULL"),
        ("ALTER ROLE bob PASSWORD NULL LOGIN", "ALTER ROLE bob PASSWORD NULL LOGIN"),
        ("ALTER ROLE bob PASSWORD p@ssw0rd", "ALTER ROLE bob PASSWORD ?…"),
        ("ALTER ROLE bob PASSWORD 'x'", "ALTER ROLE bob PASSWORD ?"),
        ("ALTER ROLE bob PASSWORD 'x' -- it's his", "ALTER ROLE bob PASSWORD ?"),
        ("ALTER ROLE bob PASSWORD $$x$$ ; SELECT a", "ALTER ROLE bob PASSWORD ? ; SELECT a"),
        ("ALTER ROLE bob PASSWORD 'x'; SELECT a", "ALTER ROLE bob PASSWORD ?; SELECT a"),
        ("SET app.token = p@ss-w0rd, b", "SET app.token = ?, ?"),
        ("ALTER TABLE t SET (fillfactor = 70)", "ALTER TABLE t SET (fillfactor = ?)"),
        (
            "CREATE TABLE t (a int REFERENCES u ON DELETE SET NULL, CHECK (a = b))",
            "CREATE TABLE t (a int REFERENCES u ON DELETE SET NULL, CHECK (a = b))",
        ),
    ] {
        assert_eq!(normal(text), expected, "{text}");
    }
    assert_eq!(normal("ALTER ROLE bob PASSWORD 'x' VALID UNTIL 'y'"), "ALTER ROLE bob PASSWORD ? VALID UNTIL ?");
    assert_eq!(normal("SET search_path TO a, b; SELECT c"), "SET search_path TO ?, ?; SELECT c");
    assert_eq!(normal("CREATE TABLE t (password text)"), "CREATE TABLE t (password text)");
}

#[test]
fn what_is_cut_or_unclear_ends() {
    assert_eq!(normal("SELECT 'abc"), "SELECT ?…");
    assert_eq!(normal("SELECT 'a\\' or not"), "SELECT ?…");
    assert_eq!(normal("SELECT \"abc"), "SELECT ?…");
    assert_eq!(Normal::new(b"SELECT a", true, 1024).to_string(), "SELECT a…");
    assert_eq!(Normal::new(b"SELECT a FROM t WHERE x IN (1, 2, 3,", true, 1024).to_string(), "SELECT a FROM t WHERE x IN (?…");
    assert_eq!(Normal::new(b"SELECT abcdef, ghi", false, 16).to_string(), "SELECT abcdef,…");
    let long = format!("SELECT {}", "a, ".repeat(10_000));
    assert!(normal(&long).len() < 1100);
}

#[test]
fn any_bytes_are_one_line() {
    let alphabet = b"'\"$\\;-/*()[],.&?=19aeEuUxX_ \n\0\x80\xff";
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..20_000 {
        let mut text = Vec::new();
        for _ in 0..round % 40 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.push(alphabet[usize::try_from(state >> 33).unwrap() % alphabet.len()]);
        }
        let line = normal(&text);
        assert!(!line.contains(char::is_control), "{text:?}: {line:?}");
        // Cutting it anywhere shows no more.
        for cut in 0..text.len() {
            let _ = Normal::new(&text[..cut], true, 64).to_string();
        }
    }
}
