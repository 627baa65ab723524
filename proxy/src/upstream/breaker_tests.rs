//! Tests of the breaker.

use super::*;

const LONGEST: Duration = Duration::from_secs(15);
const STEP: Duration = Duration::from_millis(100);

struct Bench {
    now: Instant,
    breaker: Breaker,
    random: Random,
}

impl Bench {
    fn new() -> Self {
        let now = crate::clock::now();
        Self { now, breaker: Breaker::new(now), random: Random::new(1) }
    }

    fn ended(&mut self, outcome: Outcome) -> Option<Change> {
        self.breaker.ended(self.now, outcome, LONGEST, &mut self.random)
    }

    fn phase(&self) -> Phase {
        self.breaker.phase(self.now)
    }

    fn is_avoided(&self) -> bool {
        self.breaker.avoid_until(self.now).is_some()
    }

    /// Opens it, and returns the pause.
    fn silence(&mut self) -> Duration {
        let Some(Change::Opened(_, pause)) = self.ended(Outcome::Silent) else { panic!("it did not open") };
        pause
    }

    /// Opens it, and lets the pause pass.
    fn silence_and_wait(&mut self) {
        let pause = self.silence();
        self.now += pause;
    }
}

#[test]
fn failures_in_a_row_open_it_and_a_success_in_between_counts() {
    let mut bench = Bench::new();
    for outcome in [Outcome::Failed, Outcome::Failed, Outcome::Worked, Outcome::Failed, Outcome::Failed] {
        assert_eq!(bench.ended(outcome), None);
        assert!(!bench.is_avoided());
    }
    assert!(matches!(bench.ended(Outcome::Failed), Some(Change::Opened(Why::InARow(3), _))));
    assert!(bench.is_avoided());
    assert_eq!(bench.phase(), Phase::Open);
}

#[test]
fn connections_that_are_lost_at_once_open_it_although_every_connect_works() {
    let mut bench = Bench::new();
    let flash = |bench: &mut Bench| {
        bench.ended(Outcome::Worked);
        bench.ended(Outcome::LostEarly)
    };
    assert_eq!((flash(&mut bench), flash(&mut bench)), (None, None));
    let Some(Change::Opened(Why::LostEarly(3), first)) = flash(&mut bench) else { panic!("it did not open") };
    assert!(bench.is_avoided());
    // The probe gets in, and is thrown out: once is enough now, and the pause grows.
    bench.now += first;
    assert!(matches!(flash(&mut bench), Some(Change::Opened(Why::LostEarly(4), pause)) if pause > first));
    // One that lasts makes up for all of them.
    bench.now += LONGEST;
    assert_eq!(bench.ended(Outcome::Worked), Some(Change::Closed));
    bench.ended(Outcome::Lasted);
    assert_eq!((flash(&mut bench), flash(&mut bench)), (None, None));
    // So does time.
    bench.now += WINDOW;
    assert_eq!((flash(&mut bench), flash(&mut bench)), (None, None));
}

#[test]
fn one_silence_opens_it() {
    let mut bench = Bench::new();
    assert!(matches!(bench.ended(Outcome::Silent), Some(Change::Opened(Why::Silent, _))));
}

#[test]
fn a_share_of_failures_within_the_window_opens_it_when_there_were_enough() {
    let mut bench = Bench::new();
    let mut changes = Vec::new();
    for _ in 0..5 {
        for outcome in [Outcome::Worked, Outcome::Failed] {
            changes.push(bench.ended(outcome));
            bench.now += STEP;
        }
    }
    assert!(changes[..9].iter().all(Option::is_none));
    assert!(matches!(changes[9], Some(Change::Opened(Why::Share(5, 10), _))), "{:?}", changes[9]);
    // The same failures over a longer time do not.
    let mut bench = Bench::new();
    for _ in 0..50 {
        for outcome in [Outcome::Worked, Outcome::Failed] {
            assert_eq!(bench.ended(outcome), None);
            bench.now += WINDOW / 8;
        }
    }
    // Nor do they among many that work.
    let mut bench = Bench::new();
    for attempt in 0..300 {
        assert_eq!(bench.ended(if attempt % 3 == 0 { Outcome::Failed } else { Outcome::Worked }), None);
        bench.now += STEP;
    }
}

#[test]
fn after_its_pause_one_probe_at_a_time_finds_out() {
    let mut bench = Bench::new();
    let pause = bench.silence();
    bench.breaker.taken(bench.now);
    assert_eq!(bench.phase(), Phase::Open, "a last resort is no probe");
    bench.now += pause;
    assert!(!bench.is_avoided());
    assert_eq!(bench.phase(), Phase::HalfOpen);
    bench.breaker.taken(bench.now);
    assert!(bench.is_avoided(), "the others pass it by");
    assert_eq!(bench.phase(), Phase::HalfOpen);
    assert_eq!(bench.ended(Outcome::Worked), Some(Change::Closed));
    assert_eq!(bench.phase(), Phase::Closed);
    assert!(!bench.is_avoided());
}

#[test]
fn a_probe_that_fails_opens_it_again_for_longer_and_one_that_is_dropped_is_followed_by_another() {
    let mut bench = Bench::new();
    bench.silence_and_wait();
    bench.breaker.taken(bench.now);
    let Some(Change::Opened(Why::Probe, pause)) = bench.ended(Outcome::Failed) else { panic!("it did not open") };
    assert!(pause >= FIRST_PAUSE);
    bench.now += pause;
    bench.breaker.taken(bench.now);
    assert!(bench.is_avoided());
    bench.now += PROBE;
    assert!(!bench.is_avoided());
}

#[test]
fn pauses_double_with_jitter_up_to_the_longest() {
    let mut bench = Bench::new();
    let mut whole = FIRST_PAUSE;
    for _ in 0..20 {
        let pause = bench.silence();
        assert!(pause >= whole / 2 && pause <= whole, "{pause:?} of {whole:?}");
        bench.now += pause;
        whole = (whole * 2).min(LONGEST);
    }
    let pauses = |seed| {
        let mut random = Random::new(seed);
        [pause(3, LONGEST, &mut random), pause(3, LONGEST, &mut random)]
    };
    assert_eq!(pauses(7), pauses(7), "the same chance, the same pauses");
    assert_ne!(pauses(7)[0], pauses(7)[1]);
    assert_ne!(pauses(7), pauses(8));
}

#[test]
fn connects_that_fail_together_count_once() {
    let mut bench = Bench::new();
    let pause = bench.silence();
    for _ in 0..50 {
        assert_eq!(bench.ended(Outcome::Silent), None);
    }
    bench.now += pause;
    assert!(bench.silence() <= FIRST_PAUSE * 2);
}

#[test]
fn one_that_flaps_is_left_alone_for_longer_each_time_until_it_works_for_a_while() {
    let mut bench = Bench::new();
    for _ in 0..4 {
        bench.silence_and_wait();
        assert_eq!(bench.ended(Outcome::Worked), Some(Change::Closed));
    }
    let pause = bench.silence();
    assert!(pause >= FIRST_PAUSE * 8, "{pause:?}");
    bench.ended(Outcome::Worked);
    bench.now += WINDOW;
    assert!(bench.silence() <= FIRST_PAUSE);
}

#[test]
fn denials_and_troubles_of_our_own_never_open_it_and_pass_it_over_for_a_moment() {
    for outcome in [Outcome::Denied, Outcome::Ours] {
        let mut bench = Bench::new();
        for _ in 0..40 {
            assert_eq!(bench.ended(outcome), None);
        }
        assert_eq!(bench.phase(), Phase::Closed);
        assert!(bench.is_avoided());
        bench.now += LONGEST;
        assert!(!bench.is_avoided());
        bench.breaker.taken(bench.now);
        assert!(bench.is_avoided(), "one tries it again");
        assert_eq!(bench.ended(Outcome::Worked), None);
        assert!(!bench.is_avoided());
    }
    // Who denies is there.
    let mut bench = Bench::new();
    bench.silence();
    assert_eq!(bench.ended(Outcome::Ours), None);
    assert_eq!(bench.phase(), Phase::Open);
    assert_eq!(bench.ended(Outcome::Denied), Some(Change::Closed));
}

#[test]
fn what_the_server_says_to_one_user_is_not_held_against_it() {
    for (kind, expected) in [
        (ConnectFaultKind::Refused, Outcome::Failed),
        (ConnectFaultKind::Tls, Outcome::Failed),
        (ConnectFaultKind::Unavailable, Outcome::Failed),
        (ConnectFaultKind::Protocol, Outcome::Failed),
        (ConnectFaultKind::Timeout, Outcome::Silent),
        (ConnectFaultKind::Auth, Outcome::Denied),
        (ConnectFaultKind::NoDatabase, Outcome::Denied),
        (ConnectFaultKind::TooMany, Outcome::Denied),
        (ConnectFaultKind::Resolve, Outcome::Ours),
        (ConnectFaultKind::Other, Outcome::Ours),
    ] {
        assert_eq!(Outcome::of(&ConnectFault::new(kind, "x")), expected, "{kind:?}");
    }
    let said = ConnectFault { said: Some("no".into()), ..ConnectFault::new(ConnectFaultKind::Other, "x") };
    assert_eq!(Outcome::of(&said), Outcome::Denied);
}
