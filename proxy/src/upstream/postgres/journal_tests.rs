//! What the journal reports of what it is told, with times that the tests choose.

use sidepool_config::model::SlowLog;

use super::*;
use crate::clock;

struct Bench {
    journal: Journal,
    start: Instant,
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Bench {
    fn new(statement: u64, transaction: u64) -> Self {
        let start = clock::now();
        Self { journal: Journal::new(SlowLog { statement: ms(statement), transaction: ms(transaction) }, start, 1), start }
    }

    fn at(&mut self, time: u64) -> &mut Journal {
        let limits = self.journal.limits;
        self.journal.set_now(self.start + ms(time), limits);
        &mut self.journal
    }

    /// What is reported, in short.
    fn told(&mut self) -> Vec<String> {
        let reports = self.journal.take_reports();
        reports
            .into_iter()
            .map(|report| match report {
                Report::Slow(Ran { waited, took, outcome, tag, text, others, .. }) => {
                    let texts: Vec<_> =
                        [text].iter().chain(&others).map(|text| String::from_utf8_lossy(text.bytes().0).into_owned()).collect();
                    let (text, tag) = (texts.join("; "), String::from_utf8_lossy(&tag));
                    format!("{text} waited {} took {} {} {tag}", waited.as_millis(), took.as_millis(), outcome.label())
                }
                Report::Long(Transaction { took, idle, statements, last, .. }) => {
                    let last = String::from_utf8_lossy(last.bytes().0).into_owned();
                    format!("long {} idle {} statements {statements} last {last}", took.as_millis(), idle.as_millis())
                }
                Report::Traced(Transaction { took, .. }, ran, parent) => {
                    let texts: Vec<_> = ran.iter().map(|ran| String::from_utf8_lossy(ran.text.bytes().0).into_owned()).collect();
                    format!("traced {} {texts:?} parent {}", took.as_millis(), parent.is_some())
                }
            })
            .collect()
    }
}

fn text(text: &str) -> Text {
    Text::copy(text.as_bytes(), false)
}

#[test]
fn a_simple_query_counts_from_when_it_was_sent_and_its_wait_apart() {
    let mut bench = Bench::new(100, 0);
    bench.journal.has_waited(ms(60), None);
    bench.at(10).on_query(text("a"));
    bench.at(60).on_complete(b"SELECT 1\0");
    bench.at(60).on_ready(TransactionStatus::Idle, false);
    assert_eq!(bench.told(), ["a waited 60 took 50 completed SELECT 1"]);
    bench.at(100).on_query(text("b"));
    bench.at(199).on_ready(TransactionStatus::Idle, false);
    assert_eq!(bench.told(), [""; 0], "the wait was the first one's");
    bench.at(200).on_query(text("c"));
    bench.at(300).on_error(b"57014");
    bench.at(300).on_ready(TransactionStatus::Idle, false);
    assert_eq!(bench.told(), ["c waited 0 took 100 failed 57014"]);
}

#[test]
fn in_a_pipeline_each_counts_from_the_end_of_the_one_before() {
    let mut bench = Bench::new(100, 0);
    for name in ["a", "b", "c"] {
        bench.at(0).on_bind(b"", text(name));
        bench.at(0).on_execute(b"");
    }
    bench.at(0).on_sync();
    bench.at(90).on_complete(b"SELECT 1\0");
    bench.at(200).on_complete(b"SELECT 2\0");
    bench.at(250).on_complete(b"SELECT 3\0");
    bench.at(400).on_ready(TransactionStatus::Idle, false);
    assert_eq!(bench.told(), ["b waited 0 took 110 completed SELECT 2"]);
}

#[test]
fn what_comes_through_together_is_told_together() {
    let mut bench = Bench::new(100, 0);
    for name in ["a", "b", "c"] {
        bench.at(0).on_bind(b"", text(name));
        bench.at(0).on_execute(b"");
    }
    bench.at(0).on_sync();
    bench.at(150).on_complete(b"SELECT 1\0");
    bench.at(150).on_complete(b"SELECT 2\0");
    bench.at(150).on_error(b"22012");
    bench.at(150).on_ready(TransactionStatus::Idle, false);
    assert_eq!(bench.told(), ["a; b; c waited 0 took 150 failed 22012"]);
}

#[test]
fn what_an_error_skips_is_nobodys_time() {
    let mut bench = Bench::new(100, 0);
    for name in ["a", "b"] {
        bench.at(0).on_bind(b"p", text(name));
        bench.at(0).on_execute(b"p");
    }
    bench.at(0).on_sync();
    bench.at(0).on_query(text("c"));
    bench.at(150).on_error(b"22012");
    bench.at(300).on_ready(TransactionStatus::Idle, true);
    bench.at(310).on_ready(TransactionStatus::Idle, false);
    assert_eq!(bench.told(), ["a waited 0 took 150 failed 22012", "c waited 0 took 160 completed "]);
}

#[test]
fn a_transaction_is_told_once_with_its_pauses() {
    let mut bench = Bench::new(0, 100);
    bench.at(0).on_query(text("BEGIN"));
    bench.at(1).on_ready(TransactionStatus::InTransaction, false);
    bench.at(51).on_query(text("a"));
    bench.at(61).on_ready(TransactionStatus::InTransaction, false);
    let open = bench.journal.transaction(bench.start + ms(91)).unwrap();
    assert_eq!((open.took, open.idle, open.statements), (ms(91), ms(80), 2));
    bench.at(111).on_query(text("COMMIT"));
    bench.at(120).on_ready(TransactionStatus::Idle, false);
    assert_eq!(bench.told(), ["long 120 idle 100 statements 3 last COMMIT"]);
    bench.at(500).on_query(text("b"));
    bench.at(510).on_ready(TransactionStatus::Idle, false);
    assert_eq!(bench.told(), [""; 0], "the pause between transactions is no part of either");
}

#[test]
fn one_slow_statement_is_one_line() {
    let mut bench = Bench::new(100, 100);
    bench.at(0).on_query(text("a"));
    bench.at(150).on_ready(TransactionStatus::Idle, false);
    assert_eq!(bench.told(), ["a waited 0 took 150 completed "]);
    let mut bench = Bench::new(0, 100);
    bench.at(0).on_query(text("a"));
    bench.at(150).on_ready(TransactionStatus::Idle, false);
    assert_eq!(bench.told(), ["long 150 idle 0 statements 1 last a"]);
}

#[test]
fn who_leaves_in_the_middle_is_told_of() {
    let mut bench = Bench::new(100, 100);
    bench.at(0).on_query(text("BEGIN"));
    bench.at(1).on_ready(TransactionStatus::InTransaction, false);
    bench.at(10).on_query(text("a"));
    bench.at(200).abandon();
    assert_eq!(bench.told(), ["a waited 0 took 190 abandoned ", "long 200 idle 9 statements 2 last a"]);
    bench.at(300).abandon();
    assert_eq!(bench.told(), [""; 0]);
}

#[test]
fn what_is_kept_is_bounded() {
    let mut bench = Bench::new(100, 0);
    for _ in 0..=MOST_UNITS {
        bench.at(0).on_query(Text::copy(&[b'x'; 2 * TEXT_BYTES], false));
    }
    assert!(bench.journal.units.is_empty(), "too many are not looked at");
    bench.at(900).on_ready(TransactionStatus::Idle, true);
    bench.at(900).on_query(text("too late"));
    bench.at(1900).on_ready(TransactionStatus::Idle, false);
    assert_eq!(bench.told(), [""; 0]);
    bench.at(2000).on_query(text("again"));
    bench.at(2100).on_ready(TransactionStatus::Idle, false);
    assert_eq!(bench.told(), ["again waited 0 took 100 completed "]);
    for name in 0..=u32::try_from(MOST_NAMES).unwrap() {
        bench.journal.on_parse(&name.to_be_bytes(), text("s"));
        bench.journal.on_bind(&name.to_be_bytes(), text("p"));
    }
    assert_eq!((bench.journal.named.texts.len(), bench.journal.portals.texts.len()), (1, 1));
    assert_eq!(Text::copy(&[b'x'; 2 * TEXT_BYTES], false).bytes(), (&[b'x'; TEXT_BYTES][..], true));
}

#[test]
fn bytes_are_bounded_too() {
    let mut bench = Bench::new(100, 0);
    let long = Text::copy(&[b'x'; TEXT_BYTES], false);
    for name in 0..u32::try_from(MOST_NAMES).unwrap() {
        bench.journal.on_parse(&name.to_be_bytes(), long.clone());
        bench.journal.on_parse(b"same", long.clone());
        let names = &bench.journal.named;
        let held: usize = names.texts.values().map(Text::held).sum();
        assert!(held == names.held && held <= MOST_TEXT_BYTES, "{held}");
    }
    bench.journal.on_bind(&[b'n'; NAME_BYTES + 1], text("p"));
    bench.journal.on_bind(&[b'n'; NAME_BYTES], text("p"));
    assert_eq!(bench.journal.portals.texts.len(), 1, "a longer name is not kept");
    for _ in 0..2 * MOST_TEXT_BYTES / TEXT_BYTES {
        bench.at(0).on_query(long.clone());
    }
    assert_eq!(bench.journal.held, MOST_TEXT_BYTES);
    for _ in 0..2 * MOST_TEXT_BYTES / TEXT_BYTES {
        bench.at(0).on_ready(TransactionStatus::Idle, true);
    }
    assert_eq!((bench.journal.held, bench.journal.units.len()), (0, 0));
    for _ in 0..=TEXT_BYTES {
        bench.at(0).on_bind(b"", long.clone());
        bench.at(0).on_execute(b"");
    }
    bench.at(500).on_error(&[b'5'; 2 * TAG_BYTES]);
    assert!(bench.told().is_empty(), "there were too many");
    bench.at(500).on_ready(TransactionStatus::Idle, false);
    for _ in 0..100 {
        bench.at(500).on_execute(b"nobody knows");
    }
    for _ in 0..100 {
        bench.at(900).on_error(&[b'5'; 2 * TAG_BYTES]);
    }
    let reports = bench.journal.take_reports();
    let [Report::Slow(ran)] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!((ran.tag.len(), ran.others.len(), ran.statements), (TAG_BYTES, MOST_TRACED, 100));
}

#[test]
fn a_wait_is_not_counted_for_what_comes_long_after_it() {
    let mut bench = Bench::new(100, 0);
    bench.journal.has_waited(ms(200), None);
    bench.at(0).on_bind(b"", text("skipped"));
    bench.at(0).on_execute(b"");
    bench.at(0).on_sync();
    // Its Parse failed.
    bench.at(10).on_ready(TransactionStatus::Idle, false);
    bench.at(60_000).on_query(text("a"));
    bench.at(60_010).on_ready(TransactionStatus::Idle, false);
    assert_eq!(bench.told(), [""; 0]);
}

#[test]
fn one_slow_statement_that_is_abandoned_is_one_line() {
    let mut bench = Bench::new(100, 100);
    bench.at(0).on_query(text("a"));
    bench.at(150).abandon();
    assert_eq!(bench.told(), ["a waited 0 took 150 abandoned "]);
}

#[test]
fn one_transaction_in_so_many_is_traced_and_what_an_application_traces() {
    let mut bench = Bench::new(0, 0);
    let run = |bench: &mut Bench, sql: &str| {
        bench.at(0).on_query(text("BEGIN"));
        bench.at(1).on_ready(TransactionStatus::InTransaction, false);
        bench.at(2).on_query(text(sql));
        bench.at(9).on_ready(TransactionStatus::Idle, false);
        bench.told()
    };
    assert_eq!(run(&mut bench, "nobody asks"), [""; 0]);
    bench.journal.sample(Some(1));
    assert_eq!(run(&mut bench, "a"), ["traced 9 [\"BEGIN\", \"a\"] parent false"]);
    bench.journal.sample(Some(10));
    let traced: usize = (0..2000).map(|_| run(&mut bench, "a").len()).sum();
    assert!((100..300).contains(&traced), "{traced}");
    bench.journal.sample(Some(1_000_000_000));
    let with = |flags: &str| format!("SELECT 1 /*traceparent='00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}'*/");
    assert_eq!(run(&mut bench, &with("01")).len(), 1);
    bench.journal.sample(Some(1));
    assert_eq!(run(&mut bench, &with("00")), [""; 0], "the application does not want it");
}
