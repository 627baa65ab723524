//! The tracker against scripts of both sides, each taken from what PostgreSQL itself does.

use super::*;

type T = Tracker<u32>;

fn send(t: &mut T, tags: &str) -> String {
    tags.bytes()
        .map(|b| match t.on_frontend(FrontendTag::from_byte(b).unwrap(), 0) {
            Inbound::Forward => b as char,
            Inbound::Drop => '.',
        })
        .collect()
}

/// Plays server messages; `Z` is ReadyForQuery idle, `!` one in a transaction. Swallowed ones show as `.`.
fn receive(t: &mut T, tags: &str) -> String {
    let mut out = String::new();
    for b in tags.bytes() {
        let outbound = match b {
            b'Z' => t.on_ready(TransactionStatus::Idle).unwrap(),
            b'!' => t.on_ready(TransactionStatus::InTransaction).unwrap(),
            b'E' => t.on_error(|_| {}),
            _ => t.on_backend(BackendTag::from_byte(b).unwrap()).unwrap(),
        };
        out.push(if outbound == Outbound::Forward { b as char } else { '.' });
        while let Some(local) = t.next_local() {
            out.push(if local == Local::ParseComplete { '1' } else { '3' });
        }
    }
    out
}

#[test]
fn a_simple_query_ends_with_ready() {
    let mut t = T::default();
    assert!(t.is_free());
    send(&mut t, "Q");
    assert!(!t.is_free());
    assert_eq!(receive(&mut t, "TDDC"), "TDDC");
    assert!(!t.is_free());
    receive(&mut t, "Z");
    assert!(t.is_free());
}

#[test]
fn inside_a_transaction_the_connection_is_not_free() {
    let mut t = T::default();
    send(&mut t, "Q");
    receive(&mut t, "C!");
    assert!(!t.is_free() && t.is_idle_in_transaction());
    send(&mut t, "Q");
    assert!(!t.is_idle_in_transaction());
    receive(&mut t, "CZ");
    assert!(t.is_free());
}

#[test]
fn a_flush_without_sync_keeps_the_connection() {
    let mut t = T::default();
    send(&mut t, "PBDEH");
    receive(&mut t, "12TDC");
    assert!(!t.is_owed() && !t.is_free());
    send(&mut t, "S");
    receive(&mut t, "Z");
    assert!(t.is_free());
}

#[test]
fn describe_of_a_statement_gives_two_messages() {
    let mut t = T::default();
    send(&mut t, "PDSPDS");
    assert_eq!(receive(&mut t, "1tTZ1tnZ"), "1tTZ1tnZ");
    assert!(t.is_free());
}

#[test]
fn after_an_error_everything_up_to_sync_is_dropped() {
    let mut t = T::default();
    send(&mut t, "PBES");
    let mut dropped = Vec::new();
    t.on_error(|owed| dropped.push(owed));
    assert_eq!(dropped, [Owed::Execute(0), Owed::Bind(0), Owed::Parse(0)]);
    receive(&mut t, "Z");
    assert!(t.is_free());
}

#[test]
fn what_comes_after_an_error_and_before_sync_is_ignored_simple_queries_too() {
    let mut t = T::default();
    send(&mut t, "PB");
    receive(&mut t, "1E");
    assert!(t.is_skipping());
    assert_eq!(send(&mut t, "EQFHdcS"), "......S");
    receive(&mut t, "Z");
    assert!(t.is_free());
}

#[test]
fn two_batches_in_one_pipeline_fail_one_by_one() {
    let mut t = T::default();
    send(&mut t, "PBESPBES");
    assert_eq!(receive(&mut t, "1EZ12CZ"), "1EZ12CZ");
    assert!(t.is_free());
}

#[test]
fn an_error_at_commit_belongs_to_the_sync() {
    let mut t = T::default();
    send(&mut t, "PBES");
    receive(&mut t, "12C");
    assert_eq!(receive(&mut t, "EZ"), "EZ");
    assert!(t.is_free());
}

#[test]
fn own_messages_are_swallowed_and_local_replies_come_in_turn() {
    let mut t = T::default();
    send(&mut t, "B");
    t.owe(Owed::LocalParse(7));
    t.owe(Owed::OwnParse(8));
    send(&mut t, "BES");
    t.owe(Owed::OwnClose(9));
    assert_eq!(t.next_local(), None);
    assert_eq!(receive(&mut t, "212CZ3"), "21.2CZ.");
}

#[test]
fn a_local_reply_that_never_ran_is_dropped_with_the_batch() {
    let mut t = T::default();
    send(&mut t, "B");
    t.owe(Owed::LocalParse(7));
    send(&mut t, "S");
    let mut dropped = Vec::new();
    t.on_error(|owed| dropped.push(owed));
    assert_eq!(dropped, [Owed::LocalParse(7), Owed::Bind(0)]);
    assert_eq!(t.next_local(), None);
}

#[test]
fn an_own_query_is_swallowed_whole_error_included() {
    let mut t = T::default();
    t.owe(Owed::OwnQuery);
    send(&mut t, "Q");
    assert_eq!(receive(&mut t, "TDCEZTDCZ"), ".....TDCZ");
}

#[test]
fn copy_in_by_simple_query() {
    let mut t = T::default();
    send(&mut t, "Q");
    receive(&mut t, "G");
    assert_eq!(send(&mut t, "ddSHc"), "ddSHc");
    assert_eq!(receive(&mut t, "CZ"), "CZ");
    assert!(t.is_free());
}

#[test]
fn libpq_sends_sync_before_and_after_copy_data() {
    let mut t = T::default();
    send(&mut t, "PBDES");
    receive(&mut t, "12nG");
    send(&mut t, "dcS");
    assert_eq!(receive(&mut t, "CZ"), "CZ");
    assert!(t.is_free());
}

#[test]
fn copy_data_sent_before_the_server_asks() {
    let mut t = T::default();
    send(&mut t, "PBESddcS");
    receive(&mut t, "12GC");
    assert!(!t.is_free());
    receive(&mut t, "Z");
    assert!(t.is_free());
}

#[test]
fn copy_data_for_a_copy_that_failed_is_ignored() {
    let mut t = T::default();
    send(&mut t, "Q");
    send(&mut t, "ddc");
    receive(&mut t, "EZ");
    assert!(t.is_free());
}

#[test]
fn a_query_inside_copy_data_ends_the_copy_and_is_eaten() {
    let mut t = T::default();
    send(&mut t, "Q");
    receive(&mut t, "G");
    send(&mut t, "Q");
    assert_eq!(receive(&mut t, "EZ"), "EZ");
    assert!(t.is_free());
}

#[test]
fn nobody_knows_what_a_copy_that_fails_leaves_of_the_messages_behind_its_data() {
    for (before, after) in [("Q", "dQ"), ("Q", "dS"), ("QdQ", ""), ("QdS", ""), ("PBEdS", ""), ("PBES", "ddP")] {
        let mut t = T::default();
        send(&mut t, before);
        receive(&mut t, if before.starts_with('Q') { "G" } else { "12G" });
        send(&mut t, after);
        assert_eq!(receive(&mut t, "E"), "E");
        assert!(!t.is_free(), "{before} {after}");
        assert!(t.on_ready(TransactionStatus::Idle).is_err(), "{before} {after}");
    }
}

#[test]
fn a_copy_that_goes_well_has_ignored_the_syncs_in_it() {
    let mut t = T::default();
    send(&mut t, "Q");
    receive(&mut t, "G");
    send(&mut t, "dSdc");
    assert_eq!(receive(&mut t, "CZ"), "CZ");
    assert!(t.is_free());
}

#[test]
fn an_error_in_extended_copy_skips_to_the_sync_after_it() {
    let mut t = T::default();
    send(&mut t, "PBES");
    receive(&mut t, "12G");
    send(&mut t, "d");
    receive(&mut t, "E");
    assert_eq!(send(&mut t, "dcS"), "..S");
    receive(&mut t, "Z");
    assert!(t.is_free());
}

#[test]
fn portal_suspended_answers_an_execute() {
    let mut t = T::default();
    send(&mut t, "PBEEHS");
    assert_eq!(receive(&mut t, "12DsDCZ"), "12DsDCZ");
}

#[test]
fn an_unasked_answer_is_a_desync() {
    let mut t = T::default();
    assert!(t.on_backend(BackendTag::DataRow).is_err());
    assert!(t.on_ready(TransactionStatus::Idle).is_err());
    send(&mut t, "B");
    assert!(t.on_backend(BackendTag::ParseComplete).is_err());
}

#[test]
fn news_may_come_at_any_time() {
    let mut t = T::default();
    assert_eq!(receive(&mut t, "SNA"), "SNA");
    assert_eq!(receive(&mut t, "E"), "E");
    assert!(t.is_free());
}

#[test]
fn a_function_call_ends_with_ready() {
    let mut t = T::default();
    send(&mut t, "F");
    assert_eq!(receive(&mut t, "VZ"), "VZ");
    assert!(t.is_free());
}

#[test]
fn multi_statement_queries_have_many_results() {
    let mut t = T::default();
    send(&mut t, "QQ");
    assert_eq!(receive(&mut t, "TDCCICZTDCEZ"), "TDCCICZTDCEZ");
    assert!(t.is_free());
}
