//! `sidepool top`: a live view of a running sidepool in a terminal, over its admin listener.
//!
//! ```text
//!   fetch: a thread asks /statusz ──▶ document ──▶ state (history, what is selected) ──▶ view: a frame of text
//!   terminal: keys ──────────────────────────────▶ state                            └─▶ plain: text for pipes (--once)
//! ```
//! Pure: `document`, `history`, `state`, `view`, `plain`.

pub mod document;
pub mod fetch;
pub mod flags;
pub mod history;
pub mod plain;
pub mod pool_view;
pub mod rows;
pub mod state;
pub mod terminal;
pub mod view;

use std::sync::mpsc;

use flags::Top;

/// Shows it until the user has seen enough, or once.
pub fn run(flags: &Top) -> Result<(), String> {
    let place = fetch::Place::of(&flags.admin)?;
    if flags.once {
        let first = place.ask()?;
        // Rates are differences: it takes two documents to know one.
        let (_never, pause) = mpsc::channel::<()>();
        let _ = pause.recv_timeout(flags.interval);
        let mut state = state::State::new(place.shown());
        state.take(first);
        state.take(place.ask()?);
        print(&plain::text(&state));
        return Ok(());
    }
    terminal::run(place, flags.interval)
}

/// To standard output; whoever reads only the beginning has seen enough.
fn print(text: &str) {
    use std::io::Write as _;
    let _ = std::io::stdout().write_all(text.as_bytes());
}
