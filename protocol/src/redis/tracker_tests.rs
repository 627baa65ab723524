//! The pipeline: order, merging, and every kind of loss.

use proptest::prelude::*;

use super::*;
use crate::redis::encode;

fn request(words: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
    encode::command(&mut out, &words);
    out
}

fn ask(pipeline: &mut Pipeline<char>, owner: char, work: Work, all: &[&str]) {
    let bytes: Vec<u8> = all.iter().flat_map(|words| request(words)).collect();
    pipeline.push(&owner, work, all.len() as u32, bytes.len(), false);
    pipeline.extend(&bytes);
}

fn send_all(pipeline: &mut Pipeline<char>) {
    let all = pipeline.unsent().len();
    pipeline.on_sent(all);
}

type Told = Vec<(char, String)>;
type Kept = Vec<(char, u32)>;

/// What each client is told by ourselves, in order, and what is left for the next connection.
fn outcome(pipeline: &mut Pipeline<char>) -> (Told, Kept) {
    let (mut told, mut kept) = (Vec::new(), Vec::new());
    while !pipeline.is_empty() {
        if let Some(own) = pipeline.take_own() {
            told.push((own.owner, String::from_utf8_lossy(&own.text).into_owned()));
        } else {
            let count = pipeline.next_replies();
            kept.push((pipeline.next().unwrap().owner, count));
            pipeline.on_replies(count);
        }
    }
    (told, kept)
}

#[test]
fn neighbours_of_one_client_share_a_slot() {
    let mut pipeline = Pipeline::default();
    ask(&mut pipeline, 'a', Work::Reads, &["GET x"]);
    ask(&mut pipeline, 'a', Work::Reads, &["GET y"]);
    ask(&mut pipeline, 'b', Work::Reads, &["GET z"]);
    ask(&mut pipeline, 'b', Work::Writes, &["SET z 1"]);
    assert_eq!(pipeline.slots(), 3);
    assert_eq!(pipeline.next_replies(), 2);
    send_all(&mut pipeline);
    pipeline.on_replies(1);
    assert_eq!((pipeline.next().unwrap().owner, pipeline.next_replies()), ('a', 1));
    pipeline.on_replies(1);
    assert_eq!(pipeline.next().unwrap().owner, 'b');
}

#[test]
fn own_replies_keep_their_place() {
    let mut pipeline = Pipeline::default();
    ask(&mut pipeline, 'a', Work::Reads, &["GET x"]);
    pipeline.push_own(&'a', b"+OK\r\n", false);
    ask(&mut pipeline, 'a', Work::Reads, &["GET y"]);
    assert!(pipeline.take_own().is_none());
    pipeline.on_replies(1);
    assert_eq!(&*pipeline.take_own().unwrap().text, b"+OK\r\n");
    assert_eq!(pipeline.next_replies(), 1);
}

#[test]
fn what_was_not_sent_moves_on() {
    let mut pipeline = Pipeline::default();
    ask(&mut pipeline, 'a', Work::Writes, &["SET x 1", "SET y 1"]);
    // All but the last byte of the second request: the server cannot have executed it.
    let sent = pipeline.unsent().len() - 1;
    pipeline.on_sent(sent);
    assert_eq!(pipeline.on_loss("UPSTREAM gone"), Loss { moved: 1, replayed: 0, unknown: 1 });
    assert_eq!(pipeline.unsent(), request("SET y 1"));
    assert_eq!(outcome(&mut pipeline), (vec![('a', "-UPSTREAM gone\r\n".into())], vec![('a', 1)]));
}

#[test]
fn reads_are_asked_again_once() {
    let mut pipeline = Pipeline::default();
    ask(&mut pipeline, 'a', Work::Reads, &["GET x", "GET y", "GET z"]);
    send_all(&mut pipeline);
    pipeline.on_replies(1);
    assert_eq!(pipeline.on_loss("UPSTREAM gone"), Loss { moved: 0, replayed: 2, unknown: 0 });
    assert_eq!(pipeline.unsent(), [request("GET y"), request("GET z")].concat());
    send_all(&mut pipeline);
    assert_eq!(pipeline.on_loss("UPSTREAM gone"), Loss { moved: 0, replayed: 0, unknown: 2 });
    assert_eq!(outcome(&mut pipeline).0.len(), 1);
}

#[test]
fn reads_that_have_waited_long_enough_wait_for_no_other_connection() {
    let mut pipeline = Pipeline::default();
    ask(&mut pipeline, 'a', Work::Reads, &["GET x", "GET y"]);
    send_all(&mut pipeline);
    ask(&mut pipeline, 'b', Work::Writes, &["SET x 1"]);
    assert_eq!(pipeline.on_loss("UPSTREAM gone"), Loss { moved: 1, replayed: 2, unknown: 0 });
    ask(&mut pipeline, 'a', Work::Reads, &["GET z"]);
    assert_eq!(pipeline.fail_waited(true, 0, "UPSTREAM late"), 2);
    assert_eq!((pipeline.owed(), pipeline.fail_waited(true, 0, "UPSTREAM late")), (2, 0));
    assert_eq!(pipeline.unsent(), [request("SET x 1"), request("GET z")].concat(), "who came later goes on waiting");
    let late = "-UPSTREAM late\r\n".repeat(2);
    assert_eq!(outcome(&mut pipeline), (vec![('a', late)], vec![('b', 1), ('a', 1)]));
}

#[test]
fn each_request_has_waited_since_it_was_asked() {
    let mut pipeline = Pipeline::default();
    pipeline.at(1_000);
    ask(&mut pipeline, 'a', Work::Reads, &["GET x"]);
    pipeline.at(4_000);
    ask(&mut pipeline, 'a', Work::Reads, &["GET y"]);
    send_all(&mut pipeline);
    ask(&mut pipeline, 'b', Work::Writes, &["SET x 1"]);
    pipeline.at(5_000);
    ask(&mut pipeline, 'b', Work::Writes, &["SET y 1"]);
    assert_eq!(pipeline.on_loss("UPSTREAM gone"), Loss { moved: 2, replayed: 2, unknown: 0 });
    pipeline.at(7_000);
    assert_eq!((pipeline.longest_wait(true), pipeline.longest_wait(false)), (Some(6_000), Some(3_000)));
    assert_eq!(pipeline.fail_waited(true, 4_000, "UPSTREAM late"), 1);
    assert_eq!((pipeline.longest_wait(true), pipeline.fail_waited(false, 4_000, "UPSTREAM late")), (Some(3_000), 0));
    assert_eq!(pipeline.fail_waited(false, 3_000, "UPSTREAM late"), 1);
    assert_eq!(pipeline.unsent(), [request("GET y"), request("SET y 1")].concat());
    let late = || "-UPSTREAM late\r\n".to_owned();
    assert_eq!(outcome(&mut pipeline), (vec![('a', late()), ('b', late())], vec![('a', 1), ('b', 1)]));
}

#[test]
fn nobody_is_told_in_the_middle_of_a_reply_that_others_are_late() {
    let mut pipeline = Pipeline::default();
    ask(&mut pipeline, 'a', Work::Reads, &["GET large"]);
    ask(&mut pipeline, 'b', Work::Reads, &["GET x"]);
    ask(&mut pipeline, 'a', Work::Writes, &["SET x 1"]);
    send_all(&mut pipeline);
    (0..4).for_each(|_| pipeline.on_turn());
    assert_eq!(given_up(pipeline.abandon(4, true)), ["b late"], "half of a's reply has been handed over");
    assert_eq!(given_up(pipeline.abandon(4, false)), ["a late", "a late"], "and now all of it, or nothing");
}

/// Who hears what.
fn given_up(all: Vec<GivenUp<char>>) -> Vec<String> {
    all.into_iter()
        .map(|one| match one {
            GivenUp::Late(late) => format!("{} late", late.owner),
            GivenUp::Own(own) => format!("{} {}", own.owner, String::from_utf8_lossy(&own.text)),
        })
        .collect()
}

#[test]
fn a_reply_of_our_own_between_late_ones_keeps_its_place() {
    let mut pipeline = Pipeline::default();
    ask(&mut pipeline, 'a', Work::Reads, &["GET x"]);
    pipeline.push_own(&'a', b"first", false);
    send_all(&mut pipeline);
    (0..2).for_each(|_| pipeline.on_turn());
    ask(&mut pipeline, 'a', Work::Reads, &["GET y"]);
    pipeline.push_own(&'a', b"second", false);
    (0..2).for_each(|_| pipeline.on_turn());
    assert_eq!(given_up(pipeline.abandon(4, false)), ["a late", "a first"], "the other one may still come");
    (0..2).for_each(|_| pipeline.on_turn());
    assert_eq!(given_up(pipeline.abandon(4, false)), ["a late", "a second"]);
    assert!(given_up(pipeline.abandon(4, false)).is_empty());
}

#[test]
fn what_is_known_waits_for_nobody_elses_answer() {
    let mut pipeline = Pipeline::default();
    ask(&mut pipeline, 'a', Work::Reads, &["GET x"]);
    ask(&mut pipeline, 'b', Work::Writes, &["INCR x"]);
    pipeline.push_own(&'a', b"+OK\r\n", false);
    send_all(&mut pipeline);
    assert_eq!(pipeline.on_loss("UPSTREAM gone"), Loss { moved: 0, replayed: 1, unknown: 1 });
    let known: Vec<(char, Box<[u8]>)> = pipeline.take_known().into_iter().map(|own| (own.owner, own.text)).collect();
    assert_eq!(known, [('b', b"-UPSTREAM gone\r\n".as_slice().into())]);
    assert_eq!((pipeline.slots(), pipeline.next_replies()), (2, 1), "a hears its own in turn");
}

#[test]
fn what_moves_on_is_what_it_was() {
    let mut pipeline = Pipeline::default();
    let publish = request("PUBLISH c x");
    pipeline.push_raised(&'a', Work::Writes, publish.len(), false, [2].into());
    pipeline.extend(&publish);
    pipeline.on_turn();
    assert_eq!(pipeline.on_loss("UPSTREAM gone").moved, 1);
    assert_eq!((&*pipeline.next().unwrap().raise, pipeline.age()), (&[2][..], 1));
}

#[test]
fn a_read_is_not_asked_again_behind_its_own_later_write() {
    let mut pipeline = Pipeline::default();
    ask(&mut pipeline, 'a', Work::Reads, &["GET x"]);
    ask(&mut pipeline, 'b', Work::Reads, &["GET x"]);
    ask(&mut pipeline, 'a', Work::Writes, &["INCR x"]);
    ask(&mut pipeline, 'a', Work::Reads, &["GET x"]);
    send_all(&mut pipeline);
    assert_eq!(pipeline.on_loss("UPSTREAM gone"), Loss { moved: 0, replayed: 2, unknown: 2 });
    let gone = "-UPSTREAM gone\r\n".to_owned();
    assert_eq!(outcome(&mut pipeline), (vec![('a', gone.clone()), ('a', gone)], vec![('b', 1), ('a', 1)]));
}

#[test]
fn a_transaction_moves_whole_or_not_at_all() {
    let bytes: Vec<u8> = ["MULTI", "INCR x", "EXEC"].iter().flat_map(|words| request(words)).collect();
    let fresh = || {
        let mut pipeline = Pipeline::default();
        pipeline.push(&'a', Work::Transaction, 3, bytes.len(), false);
        pipeline.extend(&bytes);
        pipeline
    };
    let mut unsent = fresh();
    unsent.on_sent(bytes.len() - 1);
    assert_eq!(unsent.on_loss("UPSTREAM gone").moved, 3);
    assert_eq!(unsent.unsent(), bytes);

    let mut queued = fresh();
    queued.on_sent(bytes.len() - 1);
    queued.on_replies(1);
    assert_eq!(queued.on_loss("UPSTREAM gone").unknown, 2);
    assert!(
        outcome(&mut queued).0[0].1.ends_with("\r\n-EXECABORT Transaction discarded because the connection to the server was lost.\r\n")
    );

    let mut sent = fresh();
    sent.on_sent(bytes.len());
    assert_eq!(sent.on_loss("UPSTREAM gone").unknown, 3);
    assert_eq!(outcome(&mut sent).0[0].1, "-UPSTREAM gone\r\n".repeat(3));
}

#[test]
fn the_buffer_is_given_back() {
    let mut pipeline = Pipeline::default();
    let value = "x".repeat(1000);
    for _ in 0..1000 {
        ask(&mut pipeline, 'a', Work::Writes, &[&format!("SET k {value}")]);
    }
    send_all(&mut pipeline);
    for _ in 0..1000 {
        pipeline.on_replies(1);
    }
    assert!(pipeline.is_empty());
    assert!(pipeline.requests.capacity() <= COMPACT_BYTES);
}

proptest! {
    /// Whatever happens, each client is told exactly as many replies as it asked for, in its order, and no write is sent twice.
    #[test]
    fn every_debt_is_paid_once(steps in prop::collection::vec((0_u8..5, 0_u8..3, 1_u32..4, 0_usize..120), 1..60)) {
        let mut pipeline: Pipeline<u8> = Pipeline::default();
        let mut asked = [0_u64; 3];
        let mut paid = [0_u64; 3];
        let mut number = 0_u64;
        let mut executed: HashSet<u64> = HashSet::new();
        let mut wire: Vec<u8> = Vec::new();
        for (time, (step, owner, count, bytes)) in (0..).zip(steps) {
            pipeline.at(time);
            match step {
                0 | 1 => for _ in 0..count {
                    number += 1;
                    let words = if step == 0 { format!("GET {number}") } else { format!("SET {number}") };
                    let bytes = request(&words);
                    pipeline.push(&owner, if step == 0 { Work::Reads } else { Work::Writes }, 1, bytes.len(), false);
                    pipeline.extend(&bytes);
                    asked[usize::from(owner)] += 1;
                },
                2 => {
                    let take = bytes.min(pipeline.unsent().len());
                    wire.extend_from_slice(&pipeline.unsent()[..take]);
                    pipeline.on_sent(take);
                }
                3 => {
                    // The server executes what is whole, and its answers arrive.
                    let (whole, used) = complete_before(&wire, wire.len());
                    for _ in 0..whole {
                        while let Some(own) = pipeline.take_own() { paid[usize::from(own.owner)] += u64::from(own.replies); }
                        paid[usize::from(pipeline.next().unwrap().owner)] += 1;
                        pipeline.on_replies(1);
                    }
                    execute(&wire[..used], &mut executed)?;
                    wire.drain(..used);
                }
                _ => {
                    // The server may have executed all it got; nobody will know.
                    let (_, used) = complete_before(&wire, wire.len());
                    execute(&wire[..used], &mut executed)?;
                    wire.clear();
                    pipeline.on_loss("UPSTREAM gone");
                    if bytes % 2 == 0 {
                        pipeline.fail_waited(bytes % 4 == 0, count, "UPSTREAM down");
                    }
                    if bytes % 3 == 0 {
                        for own in pipeline.take_known() { paid[usize::from(own.owner)] += u64::from(own.replies); }
                    }
                }
            }
        }
        pipeline.fail_all("UPSTREAM down");
        while let Some(own) = pipeline.take_own() { paid[usize::from(own.owner)] += u64::from(own.replies); }
        prop_assert!(pipeline.is_empty());
        prop_assert_eq!(asked, paid);
    }
}

fn execute(bytes: &[u8], executed: &mut HashSet<u64>) -> Result<(), TestCaseError> {
    let mut at = 0;
    while at < bytes.len() {
        let length = request_length(&bytes[at..]);
        let text = String::from_utf8_lossy(&bytes[at..at + length]).into_owned();
        let number: u64 = text.split("\r\n").nth(4).unwrap().parse().unwrap();
        if text.contains("SET") {
            prop_assert!(executed.insert(number), "{} was executed twice", number);
        }
        at += length;
    }
    Ok(())
}
