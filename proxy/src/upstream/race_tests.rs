//! Tests of when the next address is begun, and of what one that is not waited for says of itself.

use super::*;

const SHARE: Duration = Duration::from_secs(7);

#[test]
fn a_host_that_is_stayed_on_is_not_passed_by_while_it_is_merely_slow_or_wanted_by_many() {
    let now = clock::now();
    for standing in [Standing::Unknown, Standing::Works] {
        assert_eq!(Stage::InLine.head_start(standing, true, SHARE), None, "{standing:?}");
        assert_eq!(Stage::Entering(now).head_start(standing, true, SHARE), Some(SHARE), "{standing:?}");
    }
    assert_eq!(Stage::Connecting(now).head_start(Standing::Works, true, SHARE), Some(SHARE));
    assert_eq!(Stage::Connecting(now).head_start(Standing::Unknown, true, SHARE), Some(ONE_LOST));
    for stage in [Stage::InLine, Stage::Connecting(now), Stage::Entering(now)] {
        assert_eq!(stage.head_start(Standing::Fails, true, SHARE), Some(HEAD_START), "{stage:?}");
    }
    // Where connects are spread, another host is as good.
    assert_eq!(Stage::InLine.head_start(Standing::Works, false, SHARE), Some(HEAD_START));
    assert_eq!(Stage::Entering(now).head_start(Standing::Unknown, false, SHARE), Some(STRANGER));
    assert_eq!(Stage::Entering(now).head_start(Standing::Works, false, SHARE), Some(FRIEND));
    // One that has failed is tried beside another; once it answers, its login has the time of a stranger's.
    assert_eq!(Stage::Connecting(now).head_start(Standing::Fails, false, SHARE), Some(HEAD_START));
    assert_eq!(Stage::Entering(now).head_start(Standing::Fails, false, SHARE), Some(STRANGER));
}

#[test]
fn an_attempt_is_blamed_only_for_the_time_after_its_turn_has_come() {
    let turn = clock::now();
    let later = |millis| turn + Duration::from_millis(millis);
    assert_eq!(Stage::InLine.verdict(later(60_000), SHARE, false), None);
    for stage in [Stage::Connecting(turn), Stage::Entering(turn)] {
        assert_eq!(stage.verdict(later(249), SHARE, false), None, "{stage:?}");
        assert_eq!(stage.verdict(later(250), SHARE, false), Some(Outcome::Silent), "{stage:?}");
        // Of a short time, half is enough.
        assert_eq!(stage.verdict(later(50), Duration::from_millis(100), false), Some(Outcome::Silent), "{stage:?}");
    }
    let host = Upstream::Unix("/x".into());
    assert!(Stage::Entering(turn).complaint(later(300), &host, true).contains("within 300 ms"));
    assert!(Stage::Entering(turn).complaint(later(3), &host, false).contains("too late"));
}

#[test]
fn a_login_that_was_slower_than_another_is_not_held_against_its_address_before_its_share_is_used_up() {
    let turn = clock::now();
    let login = Stage::Entering(turn);
    assert_eq!(login.verdict(turn + Duration::from_millis(1600), SHARE, true), Some(Outcome::Ours));
    assert_eq!(login.verdict(turn + SHARE, SHARE, true), Some(Outcome::Silent));
    assert_eq!(Stage::Connecting(turn).verdict(turn + HEAD_START, SHARE, true), Some(Outcome::Silent));
}
