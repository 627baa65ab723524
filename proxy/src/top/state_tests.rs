//! What keys do, and what is listed.

use super::*;

/// One pool that has run dry, two that are well, Redis; the second of two documents, a second after the first.
pub(crate) fn sample() -> State {
    let document = |at: u64| {
        let more = at * 100;
        let text = format!(
            r#"{{"version":"9.9","uptime_seconds":{up},"unix_seconds":{at},"wait_bounds_seconds":[0.1,1.0],"says":[],
            "databases":[{{"name":"app","protocol":"postgres","waiting":14,"in_use":20,"clients":40,"transactions":{more},"queries":{more}}}],
            "users":[{{"name":"app","protocol":"postgres"}},{{"name":"app","protocol":"redis"}},{{"name":"eve","protocol":"postgres"}}],
            "pools":[
            {{"pool":"app.app","protocol":"postgres","mode":"transaction","upstream":"db:5432","utilization":1.0,"waiters":14,"oldest_wait_seconds":1.2,
              "connections":{{"leased":20,"max":20}},"transactions":{more},"wait_counts":[{more},0,0],"clients":{{"active":20,"waiting":14}},
              "says":{{"level":"exhausted","text":"20 of 20 in use, 14 waiting, oldest 1.2 s","advice":"end transactions sooner"}},
              "longest":[{{"seconds":8.4,"user":"app","application_name":"worker-3","client":"10.0.0.1:5","idle_in_transaction":true}}],
              "pinned":{{"connections":6,"max":10,"reasons":{{"advisory_locks":4,"listening":2,"library":0}}}},"refusals":{{"queue_full":3}}}},
            {{"pool":"app.eve","protocol":"postgres","utilization":0.5,"connections":{{"leased":1,"max":2}},"wait_counts":[0,0,0],"transactions":{far},
              "says":{{"level":"good","text":"healthy: 1 of 2 in use, nobody waits"}}}},
            {{"pool":"cache/shared","protocol":"redis","shared":true,"utilization":1.0,"connections":{{"idle":2,"max":2}},"wait_counts":[0,0,0],
              "says":{{"level":"good","text":"healthy: 2 connections shared by all clients, nobody waits"}},"redis":{{"shared":2,"lane_commands":30,"lane_writes":10}}}}
            ]}}"#,
            up = 120 + at,
            far = at * 300,
        );
        Document::read(&text).unwrap()
    };
    let mut state = State::new("here:1");
    state.take(document(4));
    state.take(document(5));
    state
}

fn names(state: &State) -> Vec<String> {
    state.grid().rows.into_iter().map(|row| row.name).collect()
}

fn press(state: &mut State, keys: &[Key]) {
    for key in keys {
        assert_eq!(state.press(*key), Next::Go);
    }
}

#[test]
fn the_worst_comes_first_and_s_sorts_otherwise() {
    let mut state = sample();
    assert_eq!(names(&state), ["app.app", "app.eve", "cache/shared"]);
    press(&mut state, &[Key::Left]);
    assert_eq!((state.sort, names(&state)[2].as_str()), (Sort::Name, "cache/shared"));
    press(&mut state, &[Key::Letter('S')]);
    assert_eq!((state.sort, names(&state)[0].as_str()), (Sort::Rate, "app.eve"));
    press(&mut state, &[Key::Right, Key::Letter('s'), Key::Letter('s')]);
    assert_eq!(state.sort, Sort::Waiting);
}

#[test]
fn the_cursor_stays_on_its_row_when_the_order_changes() {
    let mut state = sample();
    press(&mut state, &[Key::Down]);
    assert_eq!(state.cursor(&state.grid()), 1);
    press(&mut state, &[Key::Letter('S'), Key::Letter('S')]);
    assert_eq!((state.sort, state.cursor(&state.grid())), (Sort::Rate, 0), "on app.eve as before");
    press(&mut state, &[Key::Up, Key::PageDown, Key::Down]);
    assert_eq!(state.cursor(&state.grid()), 2);
}

#[test]
fn users_of_one_name_in_two_protocols_are_two_rows() {
    let mut state = sample();
    press(&mut state, &[Key::Letter('3')]);
    for row in [1, 2] {
        press(&mut state, &[Key::Down]);
        assert_eq!(state.cursor(&state.grid()), row, "the cursor gets past the second one");
    }
    press(&mut state, &[Key::Up]);
    assert_eq!(state.grid().rows[state.cursor(&state.grid())].cells[0], "app (redis)");
}

#[test]
fn what_is_typed_behind_a_slash_filters() {
    let mut state = sample();
    press(&mut state, &[Key::Letter('/'), Key::Letter('E'), Key::Letter('v'), Key::Letter('q'), Key::Backspace]);
    assert_eq!((names(&state), &*state.filter), (vec!["app.eve".to_owned()], "Ev"));
    press(&mut state, &[Key::Enter, Key::Enter]);
    assert_eq!(state.screen, Screen::Pool("app.eve".to_owned()));
    press(&mut state, &[Key::Escape, Key::Escape]);
    assert_eq!((names(&state).len(), state.screen.clone()), (3, Screen::List));
    press(&mut state, &[Key::Letter('/')]);
    press(&mut state, &[Key::Letter('x'); 2 * LONGEST_FILTER]);
    assert_eq!(state.filter.len(), LONGEST_FILTER);
    press(&mut state, &[Key::Escape]);
    assert!(state.filter.is_empty());
}

#[test]
fn one_goes_into_a_pool_and_to_the_next_and_back() {
    let mut state = sample();
    press(&mut state, &[Key::Enter]);
    assert_eq!(state.screen, Screen::Pool("app.app".to_owned()));
    press(&mut state, &[Key::Down]);
    assert_eq!(state.screen, Screen::Pool("app.eve".to_owned()));
    let empty = Document { unix_seconds: 99.0, uptime_seconds: 999.0, ..Document::default() };
    state.take(empty);
    assert_eq!(state.screen, Screen::List, "a pool that is gone is not shown");
    press(&mut state, &[Key::Enter, Key::Up]);
    assert_eq!(state.screen, Screen::List);
}

#[test]
fn tabs_are_other_lists_and_a_database_leads_to_its_pools() {
    let mut state = sample();
    press(&mut state, &[Key::Tab]);
    assert_eq!(state.grid().rows[0].cells, ["app", "14", "20", "40", "100", "100"]);
    press(&mut state, &[Key::BackTab, Key::Letter('4')]);
    assert_eq!(state.grid().rows[0].cells, ["app.app", "6", "10", "advisory locks 4, listening 2"]);
    press(&mut state, &[Key::Letter('5')]);
    assert_eq!(state.grid().rows[0].cells, ["cache/shared", "2", "0", "0", "0", "3.0", "0"]);
    press(&mut state, &[Key::Letter('3'), Key::Down, Key::Down, Key::Enter]);
    assert_eq!((state.tab, names(&state)), (Tab::Pools, vec!["app.eve".to_owned()]));
}

#[test]
fn a_pause_leaves_what_is_there() {
    let mut state = sample();
    press(&mut state, &[Key::Letter(' ')]);
    state.fail("refused".to_owned());
    state.take(Document { unix_seconds: 9.0, uptime_seconds: 999.0, ..Document::default() });
    assert_eq!((state.document.pools.len(), state.error.as_deref()), (3, None));
    press(&mut state, &[Key::Letter(' ')]);
    state.take(Document { unix_seconds: 9.0, uptime_seconds: 999.0, ..Document::default() });
    assert_eq!((state.document.pools.len(), state.summary().1.as_str()), (0, "No pool yet: nobody has connected."));
}

#[test]
fn help_goes_with_any_key_and_q_ends_it() {
    let mut state = sample();
    press(&mut state, &[Key::Letter('?'), Key::Letter('q')]);
    assert_eq!(state.screen, Screen::List);
    assert_eq!((state.press(Key::Letter('q')), state.press(Key::Interrupt)), (Next::Quit, Next::Quit));
}

#[test]
fn the_summary_names_the_worst() {
    let mut state = sample();
    assert_eq!(state.summary(), ("exhausted".to_owned(), "Pool app.app: 20 of 20 in use, 14 waiting, oldest 1.2 s".to_owned()));
    state.document.pools[1].says.level = "down".to_owned();
    assert!(state.summary().1.starts_with("2 of 3 pools need a look. app.eve: "));
    state.document.pools.truncate(0);
    state.document.says.push(super::super::document::Words { level: "exhausted".to_owned(), text: "files".to_owned(), advice: None });
    assert_eq!(state.summary().1, "files");
}
