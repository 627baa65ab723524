//! What is said of each kind of exhaustion, and of health.

use super::*;

fn state() -> PoolState {
    PoolState { max: 20, room: 20, leased: 3, idle: 2, queue_limit: 128, reserve: 5, max_pinned: 10, up: true, ..PoolState::default() }
}

fn exhausted() -> PoolState {
    PoolState { leased: 20, idle: 0, waiters: 14, oldest_wait: Duration::from_millis(1200), ..state() }
}

fn worker_3() -> Holder {
    Holder {
        held: Duration::from_millis(8400),
        user: "app".to_owned(),
        application: "worker-3".to_owned(),
        client: "127.0.0.1:5555".to_owned(),
        server_pid: 7,
        rests: false,
        pinned: None,
    }
}

struct Case {
    protocol: Protocol,
    mode: &'static str,
    state: PoolState,
    holders: Holders,
    limits: Vec<Limit>,
    shared: bool,
    blocking: u64,
}

impl Case {
    fn of(state: PoolState) -> Self {
        let holders = Holders { resting: 0, longest: vec![worker_3()] };
        Self { protocol: Protocol::Postgres, mode: "transaction", state, holders, limits: Vec::new(), shared: false, blocking: 0 }
    }

    fn words(&self) -> Words {
        let limits: Vec<&Limit> = self.limits.iter().collect();
        let Self { protocol, mode, ref state, ref holders, limits: _, shared, blocking } = *self;
        explain(&Seen { protocol, mode, database: "app", state, holders, limits: &limits, shared, blocking })
    }

    /// That the level is this one, and that text and advice have these words.
    fn says(&self, level: Level, text: &str, advice: &str) {
        let words = self.words();
        assert_eq!(words.level, level, "{words:?}");
        assert_eq!(words.text, text);
        assert!(words.advice.as_deref().unwrap_or_default().contains(advice), "{words:?}");
    }
}

#[test]
fn health_is_said_too() {
    let words = Case::of(state()).words();
    assert_eq!(words, Words::plain(Level::Good, "healthy: 3 of 20 in use, nobody waits"));
}

#[test]
fn who_is_in_the_way_is_named_when_all_are_in_use() {
    Case::of(exhausted()).says(
        Level::Exhausted,
        "20 of 20 in use, 14 waiting, oldest 1.2 s; longest transaction 8.4 s by worker-3 (127.0.0.1:5555)",
        "shorten the longest transactions",
    );
    let mut nameless = Case::of(exhausted());
    nameless.holders.longest[0].application.clear();
    nameless.holders.longest[0].client.clear();
    nameless.says(Level::Exhausted, "20 of 20 in use, 14 waiting, oldest 1.2 s; longest transaction 8.4 s by app", "pool_size");
    nameless.holders = Holders::default();
    nameless.says(Level::Exhausted, "20 of 20 in use, 14 waiting, oldest 1.2 s", "pool_size");
}

#[test]
fn what_to_do_depends_on_what_they_are_in_use_for() {
    let mut resting = Case::of(exhausted());
    resting.holders.resting = 17;
    resting.says(
        Level::Exhausted,
        "20 of 20 in use, 14 waiting, oldest 1.2 s; 17 of them idle in transaction; longest transaction 8.4 s by worker-3 (127.0.0.1:5555)",
        "idle_transaction_timeout",
    );
    let mut pinned = Case::of(PoolState { pinned: 10, ..exhausted() });
    pinned.state.pinned_by[Cause::AdvisoryLocks as usize] = 8;
    pinned.state.pinned_by[Cause::Listening as usize] = 2;
    let text = "20 of 20 in use, 14 waiting, oldest 1.2 s; 10 pinned (session-level advisory locks: 8, LISTEN: 2); longest transaction 8.4 s by worker-3 (127.0.0.1:5555)";
    pinned.says(Level::Exhausted, text, "pg_advisory_xact_lock");
    let session = Case { mode: "session", ..Case::of(exhausted()) };
    session.says(
        Level::Exhausted,
        "20 of 20 in use, 14 waiting, oldest 1.2 s; longest session with a connection 8.4 s by worker-3 (127.0.0.1:5555)",
        "pool_mode = transaction",
    );
    let redis = Case { protocol: Protocol::Redis, mode: "multiplexed", holders: Holders::default(), ..Case::of(exhausted()) };
    redis.says(Level::Exhausted, "20 of 20 in use, 14 waiting, oldest 1.2 s", "blocking commands each take one");
}

#[test]
fn who_keeps_a_connection_in_any_case_is_in_no_transaction() {
    let mut case = Case::of(exhausted());
    let listener = || Holder { held: Duration::from_secs(11_000), pinned: Some("LISTEN".to_owned()), ..worker_3() };
    case.holders.longest = vec![listener()];
    let text = "20 of 20 in use, 14 waiting, oldest 1.2 s; LISTEN for 3 h 3 min by worker-3 (127.0.0.1:5555)";
    case.says(Level::Exhausted, text, "");
    case.holders.longest = vec![listener(), worker_3()];
    let text = "20 of 20 in use, 14 waiting, oldest 1.2 s; longest transaction 8.4 s by worker-3 (127.0.0.1:5555)";
    case.says(Level::Exhausted, text, "");
}

#[test]
fn an_attempt_that_failed_once_is_no_outage() {
    let calm = PoolState { trouble: Some(Trouble::Away), ..state() };
    Case::of(calm).says(
        Level::Notice,
        "the last attempt to open one more failed (the server cannot be reached); 3 of 20 in use, nobody waits",
        "network",
    );
    Case::of(PoolState { leased: 0, idle: 0, ..calm }).says(
        Level::Down,
        "the server cannot be reached; 0 of 20 in use, nobody waits",
        "network",
    );
    let typo = PoolState { trouble: Some(Trouble::Missing), leased: 0, idle: 0, ..state() };
    assert_eq!(Case::of(typo).words().level, Level::Notice, "somebody asked for a database that does not exist");
}

#[test]
fn the_reserve_is_named() {
    let both = Case { holders: Holders::default(), ..Case::of(PoolState { leased: 23, ..exhausted() }) };
    both.says(Level::Exhausted, "20 of 20 and 3 of 5 in reserve in use, 14 waiting, oldest 1.2 s", "");
    Case::of(PoolState { leased: 21, idle: 0, ..state() }).says(
        Level::Notice,
        "20 of 20 and 1 of 5 in reserve in use, nobody waits: the reserve is in use",
        "pool_size",
    );
}

#[test]
fn a_full_queue_refuses() {
    let full = Case { holders: Holders::default(), ..Case::of(PoolState { waiters: 128, ..exhausted() }) };
    full.says(
        Level::Exhausted,
        "20 of 20 in use, 128 waiting, oldest 1.2 s; the queue is full: who comes now is refused (max_queue_length)",
        "",
    );
}

#[test]
fn limits_of_several_pools_are_named_when_they_are_what_is_in_the_way() {
    let mut case = Case::of(PoolState { leased: 13, ..exhausted() });
    case.limits = vec![
        Limit { setting: "max_user_connections", of: "app".to_owned(), used: 10, max: 50 },
        Limit { setting: "max_db_connections", of: "app".to_owned(), used: 30, max: 30 },
    ];
    case.says(
        Level::Exhausted,
        "all 30 connections of app are open (max_db_connections); 13 of 20 in use, 14 waiting, oldest 1.2 s",
        "raise max_db_connections",
    );
}

#[test]
fn a_server_that_is_away_full_or_refuses_is_said_as_what_it_is() {
    let with = |trouble, waiters| {
        let retry_in = Some(Duration::from_millis(400));
        let state = PoolState { trouble: Some(trouble), up: false, retry_in, room: 12, leased: 12, idle: 0, waiters, ..exhausted() };
        Case::of(state)
    };
    let rest = ", tried again in 400 ms; 12 of 20 in use, 14 waiting, oldest 1.2 s";
    with(Trouble::Away, 14).says(Level::Down, &format!("the server cannot be reached{rest}"), "network");
    with(Trouble::Starting, 14).says(Level::Down, &format!("the server is starting up{rest}"), "waits");
    with(Trouble::Denied, 14).says(Level::Down, &format!("the server refuses the login{rest}"), "password");
    with(Trouble::Missing, 14).says(Level::Down, &format!("the server does not have what was asked for{rest}"), "dbname");
    let full = format!("the server has room for 12 of 20 connections and refuses more{rest}");
    with(Trouble::Full, 14).says(Level::Exhausted, &full, "max_connections");
    let calm = "the server has room for 12 of 20 connections; 12 of 20 in use, nobody waits";
    with(Trouble::Full, 0).says(Level::Notice, calm, "max_connections");
}

#[test]
fn who_has_stopped_it_is_said() {
    Case::of(PoolState { paused: true, ..exhausted() }).says(
        Level::Paused,
        "paused by an operator; 14 waiting, oldest 1.2 s",
        "RESUME app",
    );
    Case::of(PoolState { draining: true, ..state() }).says(Level::Notice, "drains: nobody new is served; 3 of 20 in use", "");
}

#[test]
fn connections_that_are_being_opened_are_no_exhaustion() {
    let opening = PoolState { leased: 3, idle: 0, connecting: 2, waiters: 4, oldest_wait: Duration::from_millis(20), ..state() };
    Case::of(opening).says(Level::Notice, "2 connections being opened; 3 of 20 in use, 4 waiting, oldest 20 ms", "min_pool_size");
    let between = PoolState { connecting: 0, waiters: 1, oldest_wait: Duration::from_micros(90), ..opening };
    Case::of(between).says(Level::Notice, "3 of 20 in use, 1 waiting, oldest 90 µs", "");
}

#[test]
fn what_is_tight_is_worth_knowing() {
    Case { holders: Holders::default(), ..Case::of(PoolState { leased: 18, ..state() }) }.says(
        Level::Notice,
        "18 of 20 in use, nobody waits",
        "",
    );
    let mut pinned = Case::of(PoolState { pinned: 10, leased: 10, ..state() });
    pinned.state.pinned_by[Cause::TemporaryTables as usize] = 10;
    let text = "as many connections are pinned as may be: 10 pinned (temporary tables: 10); who needs one more is refused";
    pinned.says(Level::Notice, text, "ON COMMIT DROP");
}

#[test]
fn shared_connections_are_no_shortage_and_blocking_commands_may_be() {
    let mut shared = Case::of(PoolState { leased: 2, max: 2, room: 2, idle: 0, ..state() });
    (shared.protocol, shared.shared) = (Protocol::Redis, true);
    shared.says(Level::Good, "healthy: 2 connections shared by all clients, nobody waits", "");
    (shared.state.waiters, shared.state.in_line, shared.state.oldest_wait) = (8, 8, Duration::from_millis(3));
    let text = "2 connections shared by all clients, 8 waiting (8 for room on them), oldest 3 ms";
    shared.says(Level::Notice, text, "shared_connections");
    shared.state.oldest_wait = Duration::from_secs(3);
    let text = "2 connections shared by all clients, 8 waiting (8 for room on them), oldest 3.0 s";
    shared.says(Level::Exhausted, text, "send fewer commands");
    let mut blocking = Case { protocol: Protocol::Redis, blocking: 3, ..Case::of(state()) };
    let text = "3 clients wait because as many hold a connection for a blocking command as may; 3 of 20 in use";
    blocking.says(Level::Exhausted, text, "blocking_connections");
    blocking.blocking = 1;
    assert!(blocking.words().text.starts_with("1 client waits"));
}

#[test]
fn times_are_said_as_people_do() {
    let spans =
        [(0, "0 µs"), (999, "999 µs"), (45_000, "45 ms"), (1_250_000, "1.2 s"), (125_000_000, "2 min 5 s"), (7_500_000_000, "2 h 5 min")];
    for (micros, words) in spans {
        assert_eq!(span(Duration::from_micros(micros)), words);
    }
}
