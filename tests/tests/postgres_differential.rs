//! Random scripts of bare messages, sent to the server directly and through the pooler: the answers have to be the same, message by message.
//!
//! `SIDEPOOL_TESTS_SEED` runs one seed, `SIDEPOOL_TESTS_SCRIPTS` another number of scripts. A script that fails is made shorter and printed.

use std::fmt::Write as _;
use std::time::Duration;

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::frame::{
    bind, close, copy_data, copy_done, copy_fail, describe, execute, flush, function_call, parse, query, sync,
};
use sidepool_tests::postgres::{Cluster, Message, Wire};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;
use tokio::task::JoinSet;

/// The row that ends every script.
const END: &str = "that was all";
/// So many of the simple queries are not about prepared statements.
const NAMELESS: usize = 24;
const SIMPLE: [&str; 33] = [
    "SELECT 1",
    "SELECT 1; SELECT 'two', NULL; SELECT 3 WHERE false",
    "SELECT 1; SELECT 1 / 0; SELECT 3",
    "SELEKT",
    "",
    " ; ; ",
    "BEGIN",
    "BEGIN; SAVEPOINT a",
    "COMMIT",
    "ROLLBACK",
    "ROLLBACK; BEGIN",
    "SAVEPOINT a",
    "ROLLBACK TO a",
    "RELEASE a",
    "SELECT 1 / 0",
    "SELECT repeat('x', 20000), generate_series(1, 3)",
    "INSERT INTO sink VALUES (1)",
    "DECLARE c CURSOR FOR SELECT generate_series(1, 9)",
    "FETCH 2 FROM c",
    "COPY (SELECT generate_series(1, 3)) TO STDOUT",
    "COPY (SELECT 1 / (2 - n) FROM generate_series(1, 3) n) TO STDOUT",
    "SELECT 5; COPY (SELECT 1) TO STDOUT; SELECT 6",
    "SET LOCAL DateStyle = 'German'; SELECT '2026-01-02'::date",
    "DEALLOCATE ALL",
    "PREPARE s1 AS SELECT 1",
    "PREPARE s2 (int) AS SELECT 10 / $1",
    "EXECUTE s1",
    "EXECUTE s2(2)",
    "EXECUTE s2(0); SELECT 'never'",
    "DEALLOCATE s1",
    "DEALLOCATE s2; EXECUTE s2(1)",
    "PREPARE s3 AS SELECT 3; EXECUTE s3; DEALLOCATE s3",
    "/* c */ EXPLAIN (COSTS OFF) EXECUTE s1",
];
const EXTENDED: [&str; 18] = [
    "SELECT $1::text",
    "SELECT $1::int + 1",
    "SELECT 1 / $1::int",
    "SELECT n FROM generate_series(1, 5) n",
    "SELECT 1 / (3 - n) FROM generate_series(1, 5) n",
    "SELECT repeat('y', 3000), n FROM generate_series(1, 5) n",
    "INSERT INTO sink VALUES (2)",
    "SELEKT",
    "SELECT nothing FROM nowhere",
    "SELECT 1; SELECT 2",
    "",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT a",
    "ROLLBACK TO a",
    "COPY (SELECT generate_series(1, 3)) TO STDOUT",
    "DECLARE d CURSOR FOR SELECT 1",
];
const COPIES: [&str; 4] = [
    "COPY sink FROM STDIN",
    "COPY sink FROM STDIN; SELECT 'after'",
    "COPY sink FROM STDIN; COPY sink FROM STDIN",
    "SELECT 'before'; COPY sink FROM STDIN; SELECT 1 / 0",
];

/// Numbers that look random, the same ones for the same seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % sides as u64).expect("fewer sides than addresses")
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.roll(of.len())]
    }
}

/// One message or a few that belong together, as bytes and in words.
#[derive(Clone)]
struct Step {
    bytes: Vec<u8>,
    words: String,
}

fn step(bytes: Vec<u8>, words: impl Into<String>) -> Step {
    Step { bytes, words: words.into() }
}

/// What is sent, and how.
#[derive(Clone)]
struct Script {
    seed: u64,
    steps: Vec<Step>,
    /// Each step ends with exactly one ReadyForQuery, which is waited for before the next one is sent.
    one_by_one: bool,
}

impl Script {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let one_by_one = dice.roll(3) == 0;
        let count = 1 + dice.roll(12);
        let steps = (0..count)
            .map(|_| match one_by_one {
                true if dice.roll(3) == 0 => simple(&mut dice),
                true => batch(&mut dice),
                false => anything(&mut dice, seed),
            })
            .collect();
        Self { seed, steps, one_by_one }
    }

    /// Whatever the script has left open ends here.
    fn end() -> Vec<u8> {
        let ends = [copy_fail("the end"), sync(), query("ROLLBACK"), query("DEALLOCATE ALL"), query(&format!("SELECT '{END}'"))];
        ends.concat()
    }

    /// Whether something other than data and their end is sent behind COPY data: when the COPY fails, nobody in between can tell what of it the
    /// server has answered.
    fn is_doubtful(&self) -> bool {
        !self.one_by_one && self.steps.iter().any(|step| step.words.contains("FROM STDIN") && step.words.contains("CopyData"))
    }

    fn words(&self) -> String {
        let mut words = format!("seed {}{}:\n", self.seed, if self.one_by_one { ", one by one" } else { "" });
        for step in &self.steps {
            writeln!(words, "  {}", step.words).expect("a String takes all");
        }
        words
    }
}

fn simple(dice: &mut Dice) -> Step {
    let sql = dice.pick(&SIMPLE);
    step(query(sql), format!("Query {sql:?}"))
}

/// Extended messages up to their Sync.
fn batch(dice: &mut Dice) -> Step {
    let mut whole = step(Vec::new(), "");
    for _ in 0..dice.roll(7) {
        let sql = dice.pick(&EXTENDED);
        let next = extended(dice, sql);
        whole.bytes.extend(next.bytes);
        write!(whole.words, "{}, ", next.words).expect("a String takes all");
    }
    whole.bytes.extend(sync());
    whole.words.push_str("Sync");
    whole
}

fn extended(dice: &mut Dice, sql: &str) -> Step {
    let statement = dice.pick(&["", "", "s1", "s2", "s3"]);
    let portal = dice.pick(&["", "", "", "p1", "p2"]);
    match dice.roll(12) {
        0..=2 => step(parse(statement, sql), format!("Parse {statement:?} {sql:?}")),
        3..=5 => {
            let parameters: &[&str] = [&[][..], &[], &["0"], &["7"], &["x"]][dice.roll(5)];
            step(bind(portal, statement, parameters), format!("Bind {portal:?} {statement:?} {parameters:?}"))
        }
        6 => step(describe(b'S', statement), format!("Describe statement {statement:?}")),
        7 => step(describe(b'P', portal), format!("Describe portal {portal:?}")),
        8 | 9 => {
            let rows = [0, 0, 1, 2][dice.roll(4)];
            step(execute(portal, rows), format!("Execute {portal:?} {rows}"))
        }
        10 => step(close(b'S', statement), format!("Close statement {statement:?}")),
        _ => step(close(b'P', portal), format!("Close portal {portal:?}")),
    }
}

/// Any message at any time.
fn anything(dice: &mut Dice, seed: u64) -> Step {
    match dice.roll(20) {
        0..=2 => {
            let sql = dice.pick(&SIMPLE[..NAMELESS]);
            step(query(sql), format!("Query {sql:?}"))
        }
        3 | 4 => {
            // Behind a batch without its Sync the names of statements in SQL are not followed.
            let named = simple(dice);
            step([sync(), named.bytes].concat(), format!("Sync, {}", named.words))
        }
        5..=10 => {
            // A text of its own: one that the server knows already is not parsed again, not even inside of a transaction that failed.
            let sql = format!("{} -- {seed} {}", dice.pick(&EXTENDED), dice.roll(1000));
            extended(dice, &sql)
        }
        11 | 12 => batch_of_own(dice, seed),
        13 => step(sync(), "Sync"),
        14 => step(flush(), "Flush"),
        15 => {
            let (oid, arguments): (u32, &[&str]) = [(1317, &["four"][..]), (154, &["1", "0"]), (999_999, &[])][dice.roll(3)];
            step(function_call(oid, arguments), format!("FunctionCall {oid} {arguments:?}"))
        }
        16 => stray_copy(dice),
        _ => copy(dice),
    }
}

fn batch_of_own(dice: &mut Dice, seed: u64) -> Step {
    let sql = format!("{} -- {seed} {}", dice.pick(&EXTENDED), dice.roll(1000));
    let bytes = [parse("", &sql), bind("", "", &[]), describe(b'P', ""), execute("", 0), sync()].concat();
    step(bytes, format!("Parse Bind Describe Execute Sync {sql:?}"))
}

fn stray_copy(dice: &mut Dice) -> Step {
    match dice.roll(3) {
        0 => step(copy_data(b"5\n"), "CopyData"),
        1 => step(copy_done(), "CopyDone"),
        _ => step(copy_fail("no"), "CopyFail"),
    }
}

/// A COPY of rows to the server, with an end or without.
fn copy(dice: &mut Dice) -> Step {
    let mut whole = if dice.roll(2) == 0 {
        let sql = dice.pick(&COPIES);
        step(query(sql), format!("Query {sql:?}"))
    } else {
        let bytes = [parse("", COPIES[0]), bind("", "", &[]), execute("", 0)].concat();
        step(bytes, format!("Parse Bind Execute {:?}", COPIES[0]))
    };
    let add = |whole: &mut Step, bytes: Vec<u8>, words: &str| {
        whole.bytes.extend(bytes);
        write!(whole.words, ", {words}").expect("a String takes all");
    };
    for _ in 0..dice.roll(4) {
        match dice.roll(8) {
            0 => add(&mut whole, copy_data(b"wrong\n"), "CopyData wrong"),
            1 => add(&mut whole, sync(), "Sync"),
            2 => add(&mut whole, flush(), "Flush"),
            _ => add(&mut whole, copy_data(b"1\n2\n"), "CopyData"),
        }
    }
    match dice.roll(6) {
        0 => {}
        1 => add(&mut whole, copy_fail("no"), "CopyFail"),
        2 => add(&mut whole, [copy_done(), copy_done()].concat(), "CopyDone, CopyDone"),
        _ => add(&mut whole, copy_done(), "CopyDone"),
    }
    if dice.roll(2) == 0 {
        add(&mut whole, sync(), "Sync");
    }
    whole
}

/// What a message says, without what may differ: positions in the server's source, and what the pooler calls statements.
fn essence(message: &Message) -> Option<String> {
    Some(match message.tag {
        b'S' => return None,
        b'E' | b'N' => {
            let field = |kind| message.field(kind).unwrap_or_default();
            let text = field(b'M');
            let text = match text.split_once("prepared statement \"").and_then(|(before, rest)| Some((before, rest.split_once('"')?.1))) {
                Some((before, after)) => format!("{before}prepared statement ?{after}"),
                None => text,
            };
            // A message of the pooler's own may stand before the one that is one too many.
            let text = if text.starts_with("unexpected message type") { String::new() } else { text };
            format!("{} {} {} {text}", char::from(message.tag), field(b'V'), field(b'C'))
        }
        tag => format!("{} {}", char::from(tag), String::from_utf8_lossy(&message.body[..message.body.len().min(60)])),
    })
}

/// Plays the script; the answer ends with the script, or early when the server ends the connection.
async fn play(wire: &mut Wire, script: &Script, cuts: &mut Dice) -> Vec<String> {
    let mut answer: Vec<String> = Vec::new();
    let patience = wait::PATIENCE;
    if script.one_by_one {
        for step in &script.steps {
            if wire.try_send(&step.bytes).await.is_err() {
                break;
            }
            loop {
                match tokio::time::timeout(patience, wire.read_patiently()).await {
                    Err(_) => return answer.into_iter().chain(["silence".to_owned()]).collect(),
                    Ok(None) => return answer.into_iter().chain(["closed".to_owned()]).collect(),
                    Ok(Some(message)) => {
                        answer.extend(essence(&message));
                        if message.tag == b'Z' {
                            break;
                        }
                    }
                }
            }
        }
    }
    let mut bytes: Vec<u8> = match script.one_by_one {
        true => Vec::new(),
        false => script.steps.iter().flat_map(|step| step.bytes.clone()).collect(),
    };
    bytes.extend(Script::end());
    let pieces = cuts.roll(6);
    let mut rest = &bytes[..];
    for _ in 0..pieces {
        let (piece, after) = rest.split_at(cuts.roll(rest.len() + 1));
        // A server that has ended the connection does not take everything; what it said before it did is there to be read.
        let _ = wire.try_send(piece).await;
        tokio::time::sleep(Duration::from_micros(cuts.roll(1500) as u64)).await;
        rest = after;
    }
    let _ = wire.try_send(rest).await;
    let mut last_row = false;
    loop {
        match tokio::time::timeout(patience, wire.read_patiently()).await {
            Err(_) => answer.push("silence".to_owned()),
            Ok(None) => answer.push("closed".to_owned()),
            Ok(Some(message)) => {
                answer.extend(essence(&message));
                last_row |= message.tag == b'D' && message.columns() == [Some(END.to_owned())];
                if !(last_row && message.tag == b'Z') {
                    continue;
                }
            }
        }
        return answer;
    }
}

/// Whether the server ended both: one that closes with something unread may take its last words with it.
fn both_closed(expected: &[String], got: &[String]) -> bool {
    let (Some((closed, expected)), Some((same, got))) = (expected.split_last(), got.split_last()) else { return false };
    let common = expected.len().min(got.len());
    closed == "closed" && same == closed && expected[..common] == got[..common]
}

/// Whether the pooler ended the client's connection after an error, and said the same as the server until then.
fn gives_up(expected: &[String], got: &[String]) -> bool {
    let Some((end, same)) = got.split_last_chunk::<2>().map(|(same, end)| (end, same)) else { return false };
    let error = same.last().is_some_and(|last| last.starts_with("E ERROR"));
    error && expected.starts_with(same) && end[0].contains("the server sent ReadyForQuery") && end[1] == "closed"
}

/// A client of the server, and one of the pooler.
struct Pair {
    server: u16,
    pooler: u16,
    wires: Option<(Wire, Wire)>,
}

impl Pair {
    /// What differs, in words.
    async fn difference(&mut self, script: &Script) -> Option<String> {
        let login = async |port| Wire::login(port, "app", "app", "app-secret-0815").await;
        let (mut direct, mut pooled) = match self.wires.take() {
            Some(wires) => wires,
            None => (login(self.server).await, login(self.pooler).await),
        };
        let mut cuts = Dice(script.seed);
        let expected = play(&mut direct, script, &mut Dice(script.seed)).await;
        let got = play(&mut pooled, script, &mut cuts).await;
        if expected == got || both_closed(&expected, &got) || script.is_doubtful() && gives_up(&expected, &got) {
            if got.last().is_some_and(|last| last.starts_with('Z')) {
                self.wires = Some((direct, pooled));
            }
            return None;
        }
        let same = expected.iter().zip(&got).take_while(|(a, b)| a == b).count();
        let around = |lines: &[String]| lines[same.saturating_sub(2)..lines.len().min(same + 4)].join("\n    ");
        Some(format!("the first {same} messages agree\n  server:\n    {}\n  pooler:\n    {}\n", around(&expected), around(&got)))
    }

    /// The same with as few steps as still differ.
    async fn shorten(&mut self, mut script: Script, mut difference: String) -> String {
        let mut at = 0;
        while at < script.steps.len() {
            let mut shorter = script.clone();
            shorter.steps.remove(at);
            self.wires = None;
            match self.difference(&shorter).await {
                Some(still) => (script, difference) = (shorter, still),
                None => at += 1,
            }
        }
        format!("{}{difference}", script.words())
    }

    async fn compare(&mut self, seeds: impl Iterator<Item = u64>) -> Vec<String> {
        let mut failures = Vec::new();
        for seed in seeds {
            let script = Script::new(seed);
            if let Some(difference) = self.difference(&script).await {
                failures.push(self.shorten(script, difference).await);
                if failures.len() >= 3 {
                    break;
                }
            }
        }
        failures
    }
}

/// `clients` at a time on `connections`, all of them with scripts of their own.
async fn differential(connections: i64, clients: u64, first: u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let cluster = Cluster::start().await;
    // Nothing is ever in the table, so that no script depends on another.
    cluster
        .sql(
            "CREATE TABLE sink (n int); GRANT ALL ON sink TO app; \
             CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
             CREATE TRIGGER swallow BEFORE INSERT ON sink FOR EACH ROW EXECUTE FUNCTION swallow()",
        )
        .await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", connections).set("postgres.max_prepared_statements", 5);
    let pool = Pooler::start(settings).await;
    let scripts = number("SIDEPOOL_TESTS_SCRIPTS").unwrap_or(150);
    let seeds = number("SIDEPOOL_TESTS_SEED").map_or(first..first + scripts, |seed| seed..seed + 1);
    let mut pairs = JoinSet::new();
    for client in 0..clients {
        let mut pair = Pair { server: cluster.port(), pooler: pool.postgres_port(), wires: None };
        let seeds = seeds.clone().filter(move |seed| seed % clients == client);
        pairs.spawn(async move { pair.compare(seeds).await });
    }
    let mut failures = Vec::new();
    while let Some(found) = pairs.join_next().await {
        failures.extend(found.expect("no panic"));
    }
    assert!(failures.is_empty(), "{} scripts differ:\n{}", failures.len(), failures.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn alone_on_one_connection() {
    differential(1, 1, 1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_clients_on_one_connection() {
    differential(1, 3, 2_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_clients_on_two_connections() {
    differential(2, 3, 3_000).await;
}
