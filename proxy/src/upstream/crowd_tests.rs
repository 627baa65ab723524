//! Tests of who connects to an address when.

use super::*;

fn new() -> State {
    State::new(Place::Unix("/x".into()), 1)
}

fn fault(kind: ConnectFaultKind) -> ConnectFault {
    ConnectFault::new(kind, "x")
}

fn ask(state: &mut State, now: Instant, ticket: u64) -> Answer {
    state.poll(now, ticket, Waker::noop()).0
}

/// How many of so many that ask are let in.
fn admitted(state: &mut State, now: Instant, count: usize) -> Vec<u64> {
    let tickets: Vec<u64> = (0..count).map(|_| state.ask(Past::Clear)).collect();
    tickets.into_iter().filter(|ticket| matches!(ask(state, now, *ticket), Answer::Enter)).collect()
}

fn down(now: Instant) -> State {
    let mut state = new();
    state.failed(now, &fault(ConnectFaultKind::Timeout), Reached::Nobody, Past::Clear);
    state
}

#[test]
fn an_address_that_works_is_connected_to_by_so_many_at_once_and_no_more() {
    let (now, mut state) = (clock::now(), new());
    let first = admitted(&mut state, now, MOST + 10);
    assert_eq!(first.len(), MOST);
    assert_eq!(state.line.len(), 10);
    state.rise(first[0]);
    let next = state.line[0].0;
    assert!(matches!(ask(&mut state, now, next + 1), Answer::Wait(None)), "first come first served");
    assert!(matches!(ask(&mut state, now, next), Answer::Enter));
    // Those that hang are in nobody's way.
    assert!(matches!(ask(&mut state, now, next + 1), Answer::Wait(Some(at)) if at == now + SLOW));
    assert!(matches!(ask(&mut state, now + SLOW, next + 1), Answer::Enter));
}

#[test]
fn while_it_is_down_one_tries_with_pauses_and_tells_the_others() {
    let (mut now, mut state) = (clock::now(), new());
    for _ in 0..IN_A_ROW - 1 {
        assert!(state.failed(now, &fault(ConnectFaultKind::Refused), Reached::Nobody, Past::Clear).is_empty() && !state.is_down);
    }
    state.failed(now, &fault(ConnectFaultKind::Refused), Reached::Nobody, Past::Clear);
    assert!(state.is_down);
    let (start, mut tries) = (now, 0);
    while now < start + Duration::from_secs(10) {
        let tickets: Vec<u64> = (0..200).map(|_| state.ask(Past::Clear)).collect();
        let Answer::Wait(Some(at)) = ask(&mut state, now, tickets[0]) else { panic!("it waits for the pause") };
        assert!(at > now && at <= now + LONGEST_PAUSE);
        now = at;
        assert!(matches!(ask(&mut state, now, tickets[0]), Answer::Enter));
        assert!(matches!(ask(&mut state, now, tickets[1]), Answer::Wait(Some(_))), "one at a time");
        state.failed(now, &fault(ConnectFaultKind::Refused), Reached::Nobody, Past::Clear);
        state.rise(tickets[0]);
        assert!(tickets[1..].iter().all(|ticket| matches!(ask(&mut state, now, *ticket), Answer::Told(_))));
        assert!(state.line.is_empty() && state.told.is_empty() && state.seats.is_empty());
        tries += 1;
    }
    assert!(tries <= 10 * 8 + 5, "{tries} in ten seconds, by 200 pools");
}

#[test]
fn when_it_works_again_a_few_come_and_then_more() {
    let now = clock::now();
    let mut state = down(now);
    let now = now + LONGEST_PAUSE;
    let probe = admitted(&mut state, now, 1);
    assert_eq!(admitted(&mut state, now, 20).len(), 0);
    state.worked(now);
    state.rise(probe[0]);
    let next: Vec<u64> = state.line.iter().map(|(ticket, _)| *ticket).collect();
    let entered: Vec<u64> = next.iter().copied().filter(|ticket| matches!(ask(&mut state, now, *ticket), Answer::Enter)).collect();
    assert_eq!(entered, next[..AT_FIRST]);
    for ticket in &entered {
        state.worked(now);
        state.rise(*ticket);
    }
    let more = next.iter().filter(|ticket| matches!(ask(&mut state, now, **ticket), Answer::Enter)).count();
    assert_eq!(more, 2 * AT_FIRST);
}

#[test]
fn a_probe_that_hangs_is_joined_by_another_and_that_has_a_bound_for_a_while() {
    let now = clock::now();
    let mut state = down(now);
    let first = now + LONGEST_PAUSE;
    // Some hang for ever: nothing bounds a connect, and no end of one is told.
    let mut now = first;
    let step = SLOW * 9 / 10;
    let mut most = 0;
    for _ in 0..200 {
        admitted(&mut state, now, 1);
        let fresh = state.seats.iter().filter(|(_, since)| now - *since < UNBOUNDED_SHARE).count();
        most = most.max(fresh);
        now += step;
        state.line.clear();
    }
    assert!(most <= MOST_HANGING, "{most}");
    // As many as may hang: the next one comes when the first has hung for long.
    let mut state = down(now);
    let now = now + LONGEST_PAUSE;
    let since = |index: u32| now - SLOW - Duration::from_millis(u64::from(index));
    state.seats = (0..MOST_HANGING).map(|index| (index as u64 + 1000, since(u32::try_from(index).unwrap()))).collect();
    let oldest = since(u32::try_from(MOST_HANGING).unwrap() - 1);
    let ticket = state.ask(Past::Clear);
    assert!(matches!(ask(&mut state, now, ticket), Answer::Wait(Some(at)) if at == oldest + UNBOUNDED_SHARE));
    assert!(matches!(ask(&mut state, oldest + UNBOUNDED_SHARE, ticket), Answer::Enter));
    let ticket = state.ask(Past::Clear);
    state.leave_line(ticket);
    assert!(state.line.is_empty());
}

#[test]
fn nobody_in_line_hears_whose_connect_failed() {
    let (now, mut state) = (clock::now(), new());
    let ticket = state.ask(Past::Clear);
    let full = ConnectFault {
        code: Some("XX000".into()),
        said: Some("no pg_hba.conf entry for user \"alice\", database \"a\"".into()),
        credentials: Some(7),
        ..ConnectFault::new(ConnectFaultKind::Timeout, "the server of database \"a\" for user \"alice\"")
    };
    state.failed(now, &full, Reached::Nobody, Past::Clear);
    let Answer::Told(told) = ask(&mut state, now, ticket) else { panic!("it is told") };
    assert_eq!(&*told.message, "another connect to unix:/x has just failed: timeout");
    assert!(told.kind == ConnectFaultKind::Timeout && told.code.is_none() && told.said.is_none() && told.credentials.is_none());
    let starting = ConnectFault { code: Some("57P03".into()), said: full.said, ..fault(ConnectFaultKind::Unavailable) };
    let told = hearsay(&state.place, &starting);
    assert_eq!((told.code.as_deref(), told.said.as_deref(), told.failure()), (Some("57P03"), None, starting.failure()));
    let loading = ConnectFault { code: Some("LOADING".into()), ..fault(ConnectFaultKind::Unavailable) };
    assert!(hearsay(&state.place, &loading).words().starts_with("LOADING "), "clients of Redis know the word");
}

#[test]
fn what_comes_of_logins_makes_connects_fewer_and_is_told_to_nobody() {
    let (now, mut state) = (clock::now(), new());
    // Logins that hang: a few at a time, and never none.
    for _ in 0..20 {
        assert!(state.failed(now, &fault(ConnectFaultKind::Timeout), Reached::Somebody, Past::Clear).is_empty());
    }
    assert!(!state.is_down && state.width == AT_FIRST);
    // Something answers and closes, or serves nobody: one at a time with pauses.
    let tickets: Vec<u64> = (0..9).map(|_| state.ask(Past::Clear)).collect();
    for _ in 0..IN_A_ROW {
        state.failed(now, &fault(ConnectFaultKind::Unavailable), Reached::Somebody, Past::Clear);
    }
    assert!(state.is_down && state.told.is_empty() && state.line.len() == tickets.len());
    assert!(matches!(ask(&mut state, now, tickets[0]), Answer::Wait(Some(at)) if at <= now + LONGEST_PAUSE));
    // Then one hangs in its login: somebody is there.
    state.failed(now, &fault(ConnectFaultKind::Timeout), Reached::Somebody, Past::Clear);
    assert!(!state.is_down && state.width == AT_FIRST);
    // A server that starts up says so to all.
    let starting = ConnectFault { code: Some("57P03".into()), ..fault(ConnectFaultKind::Unavailable) };
    (0..IN_A_ROW).for_each(|_| drop(state.failed(now, &starting, Reached::Somebody, Past::Clear)));
    assert!(state.is_down && state.told.len() == tickets.len());
    // Where others were let in lately, one database's trouble is its own.
    let mut state = new();
    state.worked(now);
    (0..10).for_each(|_| drop(state.failed(now, &fault(ConnectFaultKind::Unavailable), Reached::Somebody, Past::Clear)));
    assert!(!state.is_down);
}

#[test]
fn failures_that_lie_far_apart_are_not_counted_together() {
    let (mut now, mut state) = (clock::now(), new());
    for _ in 0..10 {
        state.failed(now, &fault(ConnectFaultKind::Refused), Reached::Nobody, Past::Clear);
        now += REMEMBERED;
    }
    assert!(!state.is_down);
}

#[test]
fn what_concerns_one_pool_says_nothing_of_the_address() {
    let (now, mut state) = (clock::now(), new());
    for kind in [ConnectFaultKind::Tls, ConnectFaultKind::Protocol, ConnectFaultKind::Auth, ConnectFaultKind::NoDatabase] {
        for _ in 0..10 {
            state.failed(now, &fault(kind), Reached::Nobody, Past::Clear);
        }
    }
    let busy = ConnectFault { code: Some("55006".into()), ..fault(ConnectFaultKind::Unavailable) };
    (0..10).for_each(|_| drop(state.failed(now, &busy, Reached::Nobody, Past::Clear)));
    assert!(!state.is_down);
    // One login that hangs, while others are let in.
    state.failed(now, &fault(ConnectFaultKind::Timeout), Reached::Nobody, Past::Clear);
    assert!(!state.is_down);
    state.failed(now + ANSWERED, &fault(ConnectFaultKind::Timeout), Reached::Nobody, Past::Clear);
    assert!(state.is_down);
    let mut state = down(now);
    state.failed(now, &fault(ConnectFaultKind::Auth), Reached::Nobody, Past::Clear);
    assert!(!state.is_down, "somebody is there");
}

#[tokio::test]
async fn whoever_leaves_the_line_or_the_address_makes_way() {
    let crowds = Crowds::default();
    let place = Place::Unix("/x".into());
    let crowd = crowds.before(&place, || 1).unwrap();
    let mut seats = Vec::new();
    for _ in 0..MOST {
        seats.push(crowd.turn(Past::Clear).await.unwrap());
    }
    let mut left = Box::pin(crowd.turn(Past::Clear));
    let mut next = Box::pin(crowd.turn(Past::Clear));
    poll_fn(|cx| {
        assert!(left.as_mut().poll(cx).is_pending() && next.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
    drop(left);
    seats.pop();
    let seat = tokio::time::timeout(SLOW / 2, next).await.expect("it is woken").unwrap();
    drop((seat, seats));
    assert!(crowd.lock().seats.is_empty() && crowd.lock().line.is_empty());
}

#[test]
fn addresses_in_mind_are_bounded_and_those_that_are_of_no_interest_make_way() {
    let crowds = Crowds::default();
    let place = |number: usize| Place::Unix(number.to_string().into());
    let kept: Vec<_> = (0..MOST_ADDRESSES).map(|number| crowds.before(&place(number), || 1).unwrap()).collect();
    assert!(crowds.before(&place(MOST_ADDRESSES), || 1).is_none());
    kept[0].failed(&fault(ConnectFaultKind::Timeout), Reached::Nobody, Past::Clear);
    drop(kept);
    assert!(crowds.before(&place(MOST_ADDRESSES), || 1).is_some());
    assert_eq!(crowds.0.lock().unwrap().len(), 2, "the one that is down is remembered");
}

#[test]
fn a_pool_whose_logins_come_to_nothing_stands_behind_the_others_and_slows_them_down_once() {
    let (now, mut state) = (clock::now(), new());
    for kind in [ConnectFaultKind::Timeout, ConnectFaultKind::Unavailable] {
        state.failed(now, &fault(kind), Reached::Somebody, Past::Clear);
        (0..50).for_each(|_| drop(state.failed(now, &fault(ConnectFaultKind::Unavailable), Reached::Somebody, Past::Troubled)));
        assert!(!state.is_down, "one pool's trouble is not the server's");
    }
    // Many of them hang, and have for long. The first that comes without trouble is let in before them, and all have room again.
    (0..20).for_each(|_| drop(state.failed(now, &fault(ConnectFaultKind::Timeout), Reached::Somebody, Past::Troubled)));
    assert_eq!(state.width, AT_FIRST);
    let troubled: Vec<u64> = (0..9).map(|_| state.ask(Past::Troubled)).collect();
    let clear = state.ask(Past::Clear);
    assert!(matches!(ask(&mut state, now, troubled[0]), Answer::Wait(None)));
    assert!(matches!(ask(&mut state, now, clear), Answer::Enter));
    assert!(matches!(ask(&mut state, now, troubled[0]), Answer::Enter));
    assert!(matches!(ask(&mut state, now, troubled[1]), Answer::Wait(Some(_))));
    state.worked(now);
    assert!(troubled[1..].iter().all(|ticket| matches!(ask(&mut state, now, *ticket), Answer::Enter)));
    // While others are let in, hanging makes nothing narrow.
    state.failed(now, &fault(ConnectFaultKind::Timeout), Reached::Somebody, Past::Clear);
    assert_eq!(state.width, MOST);
}

#[test]
fn who_leaves_the_line_wakes_another_only_as_the_first() {
    let (now, mut state) = (clock::now(), down(clock::now()));
    let tickets: Vec<u64> = (0..3).map(|_| state.ask(Past::Clear)).collect();
    tickets.iter().for_each(|ticket| drop(ask(&mut state, now, *ticket)));
    assert!(state.leave_line(tickets[1]).is_none());
    assert!(state.leave_line(tickets[0]).is_some());
    assert!(state.leave_line(tickets[0]).is_none(), "it has left");
    assert_eq!(state.line.len(), 1);
}
