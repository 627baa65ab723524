//! The rules of what is known of names, with times and answers made up.

use super::*;

const TERMS: Terms = Terms { max_ttl: Duration::from_secs(15), nxdomain_ttl: Duration::from_secs(5) };

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn answer(ttl: u64, last: &[u8]) -> Result<Answer, Arc<str>> {
    Ok(Answer { addresses: last.iter().map(|last| ip(*last)).collect(), ttl: Duration::from_secs(ttl) })
}

fn after(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn an_answer_holds_for_its_time_but_not_longer_than_is_believed() {
    let (now, mut cache) = (crate::clock::now(), Cache::new(TERMS));
    assert_eq!(cache.look(now, "db"), Known::Ask(None));
    assert!(cache.begin(now, "db"));
    assert!(!cache.begin(now, "db"), "somebody asks already");
    assert_eq!(cache.pending(), 1);
    cache.answer(now, "db", answer(4, &[1, 2]));
    let Known::Fresh(addresses) = cache.look(now + after(3), "db") else { panic!() };
    assert_eq!(*addresses, [ip(1), ip(2)]);
    assert!(matches!(cache.look(now + after(4), "db"), Known::Ask(Some(_))));
    cache.answer(now, "db", answer(3600, &[1]));
    assert!(matches!(cache.look(now + after(14), "db"), Known::Fresh(_)));
    assert!(matches!(cache.look(now + after(15), "db"), Known::Ask(_)));
    cache.answer(now, "db", answer(0, &[1]));
    assert!(matches!(cache.look(now, "db"), Known::Fresh(_)), "a second at least");
    cache.answer(now, "db", answer(10, &[1]));
    cache.set_terms(now, Terms { max_ttl: after(2), ..TERMS });
    assert!(matches!(cache.look(now + after(3), "db"), Known::Ask(_)));
}

#[test]
fn a_name_that_fails_is_not_asked_again_at_once_and_keeps_its_last_answer() {
    let (now, mut cache) = (crate::clock::now(), Cache::new(TERMS));
    assert_eq!(cache.answer(now, "db", Err("no such name".into())), Change::None);
    assert!(matches!(cache.look(now + after(4), "db"), Known::Failed(_)));
    assert_eq!(cache.look(now + after(5), "db"), Known::Ask(None));
    cache.answer(now, "db", answer(1, &[1]));
    assert_eq!(cache.answer(now, "db", Err("no server".into())), Change::Stale);
    assert_eq!(cache.answer(now, "db", Err("no server".into())), Change::None, "said once");
    assert!(matches!(cache.look(now, "db"), Known::Fresh(_)));
    assert_eq!(cache.answer(now, "db", answer(1, &[1])), Change::None);
}

#[test]
fn records_that_rotate_are_not_gone() {
    let (now, mut cache) = (crate::clock::now(), Cache::new(TERMS));
    cache.answer(now, "db", answer(1, &[1, 2, 3]));
    assert_eq!(cache.answer(now, "db", answer(1, &[3, 1, 2])), Change::None);
    // A few of many at a time.
    assert_eq!(cache.answer(now, "db", answer(1, &[1, 2])), Change::None);
    assert_eq!(cache.answer(now, "db", answer(1, &[2, 3])), Change::None);
    assert_eq!(cache.answer(now, "db", answer(1, &[3, 1])), Change::None);
}

#[test]
fn an_address_that_stays_away_is_gone_and_a_move_is_seen_at_once() {
    let (now, mut cache) = (crate::clock::now(), Cache::new(TERMS));
    cache.answer(now, "db", answer(1, &[1, 2]));
    assert_eq!(cache.answer(now, "db", answer(1, &[1])), Change::None);
    assert_eq!(cache.answer(now, "db", answer(1, &[1])), Change::None);
    let Change::Gone(kept) = cache.answer(now, "db", answer(1, &[1])) else { panic!() };
    assert_eq!(*kept, [ip(1)]);
    let Change::Gone(kept) = cache.answer(now, "db", answer(1, &[9])) else { panic!() };
    assert_eq!(*kept, [ip(9)]);
}

#[test]
fn names_that_pools_lead_to_are_asked_again() {
    let (now, mut cache) = (crate::clock::now(), Cache::new(TERMS));
    cache.watch(now, "db");
    assert_eq!((cache.next_due(), cache.due(now).len()), (None, 0), "not before somebody asked for the first time");
    cache.answer(now, "db", answer(4, &[1]));
    assert_eq!(cache.next_due(), Some(now + after(4)));
    assert_eq!(cache.due(now + after(4)), [Box::<str>::from("db")]);
    cache.begin(now, "db");
    assert!(cache.due(now + after(4)).is_empty(), "under way");
    cache.answer(now, "db", answer(4, &[1]));
    cache.unwatch("db");
    assert_eq!(cache.next_due(), None);
    assert_eq!(cache.hosts(now), [Host { name: "db".into(), ttl: after(4), addresses: vec![ip(1)] }]);
}

#[test]
fn the_number_of_names_is_bounded_and_watched_ones_stay() {
    let (mut now, mut cache) = (crate::clock::now(), Cache::new(TERMS));
    cache.watch(now, "kept");
    for index in 0..2 * MAX_NAMES {
        now += Duration::from_millis(1);
        cache.answer(now, &format!("db{index}"), answer(1, &[1]));
    }
    assert_eq!(cache.entries.len(), MAX_NAMES);
    assert!(cache.entries.contains_key("kept"));
    let many: Vec<u8> = (0..=255).collect();
    cache.answer(now, "many", answer(1, &many));
    let Known::Fresh(addresses) = cache.look(now, "many") else { panic!() };
    assert_eq!(addresses.len(), MAX_ADDRESSES);
}
