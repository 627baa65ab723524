//! The screens as they are drawn.

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::top::state::Key;
use crate::top::state::tests::sample;

fn screen(state: &State, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, state, Theme { colours: true })).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}

fn has(lines: &[String], wanted: &str) {
    assert!(lines.iter().any(|line| line.contains(wanted)), "{wanted}\n{}", lines.join("\n"));
}

#[test]
fn the_list_fits_into_80_by_24() {
    let lines = screen(&sample(), 80, 24);
    assert!(lines[0].starts_with("sidepool 9.9  here:1  up 2 min 5 s") && lines[0].ends_with("live"), "{}", lines[0]);
    assert_eq!(lines[1], "Pool app.app: 20 of 20 in use, 14 waiting, oldest 1.2 s");
    for wanted in ["in use 21/24", "waiting 14", "wait p99 99 ms", "per second", "1 Pools", "worst first", "█"] {
        has(&lines, wanted);
    }
    has(&lines, "app.app       exhausted   20/20       14   1.2 s     99 ms    100");
    has(&lines, "app.app exhausted: 20 of 20 in use, 14 waiting, oldest 1.2 s");
    has(&lines, "-> end transactions sooner");
    assert!(lines[23].ends_with("q quit"), "{}", lines[23]);
}

#[test]
fn one_pool_fits_too() {
    let mut state = sample();
    state.press(Key::Enter);
    let lines = screen(&state, 80, 24);
    for wanted in [
        "db:5432, postgres, transaction",
        "20 in use, 0 idle",
        "queue full 3",
        "6 of 10  advisory locks 4, listening 2",
        "worker-3",
        "8.4 s",
        "idle in transaction",
    ] {
        has(&lines, wanted);
    }
    for key in [Key::Down, Key::Down] {
        state.press(key);
    }
    has(&screen(&state, 80, 24), "2 shared, 0 leased");
}

#[test]
fn help_filter_pause_and_silence_are_shown() {
    let mut state = sample();
    state.press(Key::Letter('?'));
    has(&screen(&state, 80, 24), "another list: pools, databases");
    for key in [Key::Letter('q'), Key::Letter('/'), Key::Letter('e')] {
        state.press(key);
    }
    let lines = screen(&state, 80, 24);
    assert!(lines[23].starts_with("/e"), "{}", lines[23]);
    state.press(Key::Enter);
    state.press(Key::Letter(' '));
    assert!(screen(&state, 80, 24)[0].ends_with("held"));
    state.fail("here:1: connection refused".to_owned());
    let lines = screen(&state, 80, 24);
    assert!(lines[0].ends_with("no answer") && lines[23] == "here:1: connection refused", "{lines:?}");
}

#[test]
fn before_the_first_answer_and_in_a_tiny_window_nothing_breaks() {
    let mut state = State::new("there:2");
    has(&screen(&state, 80, 24), "asking…");
    state.fail("there:2: refused".to_owned());
    has(&screen(&state, 80, 24), "no answer yet: there:2: refused");
    for (width, height) in [(1, 1), (20, 5), (40, 10), (300, 90)] {
        screen(&sample(), width, height);
    }
}

#[test]
fn without_colours_nothing_has_one() {
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    terminal.draw(|frame| draw(frame, &sample(), Theme { colours: false })).unwrap();
    assert!(terminal.backend().buffer().content().iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
}
