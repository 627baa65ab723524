//! The ledger of common limits: never above one, nobody forgotten, nobody overtaken for ever, each permit given back once.

use std::sync::mpsc::{Receiver, channel};

use proptest::prelude::*;

use super::*;

fn keys(database: &str, user: &str) -> Keys {
    [CapKey::Database(database.into()), CapKey::User(user.into())]
}

/// A pool as the ledger knows it.
struct Member {
    id: PoolId,
    keys: Keys,
    held: Vec<Permit>,
    offers: Receiver<Permit>,
    offer: std::sync::mpsc::Sender<Permit>,
    press: Press,
    waits: bool,
}

impl Member {
    fn new(caps: &Caps, id: u32, keys: Keys) -> Self {
        let (offer, offers) = channel();
        let press: Press = Arc::new(|| {});
        caps.join(PoolId(id), &keys, Arc::clone(&press));
        Self { id: PoolId(id), keys, held: Vec::new(), offers, offer, press, waits: false }
    }

    /// Asks for one more; true when it is there at once.
    fn take(&mut self, caps: &Caps, now: Instant, reason: OpenReason) -> bool {
        let offer = self.offer.clone();
        let taken = caps.take(now, self.id, reason, Box::new(move |permit| drop(offer.send(permit))));
        self.waits = taken.is_none();
        self.held.extend(taken);
        !self.waits
    }

    /// Collects what it was offered.
    fn collect(&mut self) {
        while let Ok(permit) = self.offers.try_recv() {
            assert!(self.waits, "only who waits is offered one");
            self.waits = false;
            self.held.push(permit);
        }
    }
}

#[test]
fn a_permit_that_is_dropped_goes_to_the_oldest_in_line() {
    let (caps, now) = (Caps::default(), clock::now());
    let mut pools: Vec<Member> = (0..3).map(|id| Member::new(&caps, id, keys("d", &id.to_string()))).collect();
    caps.set_max(&keys("d", "0")[0], 1);
    assert!(pools[0].take(&caps, now, OpenReason::Demand));
    assert!(!pools[1].take(&caps, now, OpenReason::Demand) && !pools[2].take(&caps, now, OpenReason::Demand));
    for (from, to) in [(0, 1), (1, 2)] {
        pools[from].held.clear();
        pools.iter_mut().for_each(Member::collect);
        let held: Vec<usize> = pools.iter().map(|pool| pool.held.len()).collect();
        assert_eq!((held[to], held.iter().sum::<usize>()), (1, 1));
    }
}

#[test]
fn who_keeps_connections_ready_comes_after_who_has_a_client_waiting() {
    let (caps, now) = (Caps::default(), clock::now());
    let mut pools: Vec<Member> = (0..3).map(|id| Member::new(&caps, id, keys("d", &id.to_string()))).collect();
    caps.set_max(&keys("d", "0")[0], 1);
    pools[0].take(&caps, now, OpenReason::Demand);
    pools[1].take(&caps, now, OpenReason::Minimum);
    pools[2].take(&caps, now, OpenReason::Demand);
    pools[0].held.clear();
    pools.iter_mut().for_each(Member::collect);
    assert_eq!((pools[1].held.len(), pools[2].held.len()), (0, 1));
}

#[test]
fn an_offer_that_nobody_takes_goes_to_the_next() {
    let (caps, now) = (Caps::default(), clock::now());
    let mut pools: Vec<Member> = (0..3).map(|id| Member::new(&caps, id, keys("d", "u"))).collect();
    caps.set_max(&keys("d", "u")[1], 1);
    assert!(pools[0].take(&caps, now, OpenReason::Demand));
    // The job is dropped with the worker that it was for.
    assert!(caps.take(now, PoolId(1), OpenReason::Demand, Box::new(drop)).is_none());
    pools[2].take(&caps, now, OpenReason::Demand);
    pools[0].held.clear();
    pools[2].collect();
    assert_eq!(pools[2].held.len(), 1);
}

#[test]
fn who_waits_for_two_limits_is_not_overtaken_for_ever() {
    let (caps, now) = (Caps::default(), clock::now());
    let long_ago = now.checked_sub(PATIENCE).expect("the machine runs for longer than that");
    let mut both = Member::new(&caps, 0, keys("d", "u"));
    let mut database = [Member::new(&caps, 1, keys("d", "v")), Member::new(&caps, 2, keys("d", "w"))];
    let mut user = [Member::new(&caps, 3, keys("e", "u")), Member::new(&caps, 4, keys("f", "u"))];
    caps.set_max(&both.keys[0], 1);
    caps.set_max(&both.keys[1], 1);
    assert!(database[0].take(&caps, now, OpenReason::Demand) && user[0].take(&caps, now, OpenReason::Demand));
    assert!(!both.take(&caps, long_ago, OpenReason::Demand));
    assert!(!database[1].take(&caps, now, OpenReason::Demand) && !user[1].take(&caps, now, OpenReason::Demand));
    database[0].held.clear();
    database[1].collect();
    assert!(database[1].held.is_empty(), "the place is kept for the one that has waited for long");
    user[0].held.clear();
    both.collect();
    assert_eq!(both.held.len(), 1);
}

#[test]
fn what_concerns_nobody_any_more_is_forgotten() {
    let (caps, now) = (Caps::default(), clock::now());
    for id in 0..100 {
        let mut pool = Member::new(&caps, id, keys(&id.to_string(), "u"));
        caps.set_max(&pool.keys[0], 5);
        pool.take(&caps, now, OpenReason::Demand);
        caps.part(pool.id, &pool.keys, &pool.press);
    }
    let ledger = caps.lock();
    assert_eq!((ledger.caps.len(), ledger.holders.len(), ledger.line.len()), (0, 0, 0));
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Take(usize, bool),
    Drop(usize),
    Leave(usize),
    Max(usize, u32),
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6_usize, prop::bool::weighted(0.8)).prop_map(|(pool, demand)| Step::Take(pool, demand)),
        4 => (0..6_usize).prop_map(Step::Drop),
        1 => (0..6_usize).prop_map(Step::Leave),
        1 => (0..4_usize, 0..4_u32).prop_map(|(cap, max)| Step::Max(cap, max)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_limit_is_passed_and_nobody_is_forgotten(history in prop::collection::vec(steps(), 1..80)) {
        let (caps, now) = (Caps::default(), clock::now());
        let names = [("d", "u"), ("d", "v"), ("e", "u"), ("e", "v"), ("d", "u"), ("e", "u")];
        let mut pools: Vec<Member> =
            (0..).zip(names).map(|(id, (database, user))| Member::new(&caps, id, keys(database, user))).collect();
        let limits = [CapKey::Database("d".into()), CapKey::Database("e".into()), CapKey::User("u".into()), CapKey::User("v".into())];
        let mut most = [0_u32; 4];
        for step in history {
            let before: Vec<u32> = limits.iter().map(|key| caps.numbers(key).0).collect();
            match step {
                Step::Take(pool, demand) => {
                    if !pools[pool].waits {
                        pools[pool].take(&caps, now, if demand { OpenReason::Demand } else { OpenReason::Minimum });
                    }
                }
                Step::Drop(pool) => drop(pools[pool].held.pop()),
                Step::Leave(pool) => {
                    caps.leave(pools[pool].id);
                    pools[pool].collect();
                    pools[pool].waits = false;
                }
                Step::Max(cap, max) => {
                    most[cap] = max;
                    caps.set_max(&limits[cap], max);
                }
            }
            pools.iter_mut().for_each(Member::collect);
            for (cap, key) in limits.iter().enumerate() {
                let used = u32::try_from(pools.iter().filter(|pool| pool.keys.contains(key)).map(|pool| pool.held.len()).sum::<usize>()).unwrap();
                prop_assert_eq!(caps.numbers(key), (used, most[cap]), "each permit is counted once");
                prop_assert!(most[cap] == 0 || used <= most[cap].max(before[cap]), "no more than there may be");
            }
            for pool in pools.iter().filter(|pool| pool.waits) {
                let full = pool.keys.iter().any(|key| {
                    let (used, max) = caps.numbers(key);
                    max > 0 && used >= max
                });
                prop_assert!(full, "nobody waits for nothing");
            }
        }
        pools.iter_mut().for_each(|pool| pool.held.clear());
        pools.iter_mut().for_each(Member::collect);
        drop(pools);
        for key in &limits {
            prop_assert_eq!(caps.numbers(key).0, 0, "nothing is left when all is given back");
        }
    }
}
