//! What the view knows and what keys do to it. Pure: documents and keys go in, what is to be shown comes out.
//!
//! ```text
//!   list ── / ──▶ filter (typing)      list ── enter ──▶ one pool      any ── ? ──▶ help
//!     ▲◀── enter, esc ──┘                ▲◀── esc ──────────┘            ▲◀─ any key ─┘
//! ```

use super::document::{Document, Pool};
use super::history::History;
use super::rows::{self, Grid};

/// The longest filter.
const LONGEST_FILTER: usize = 64;

/// So far the cursor goes at once.
const PAGE: isize = 10;

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Key {
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Enter,
    Escape,
    Tab,
    BackTab,
    Backspace,
    Letter(char),
    /// Control and C.
    Interrupt,
}

/// What is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Tab {
    Pools,
    Databases,
    Users,
    Pins,
    Redis,
}

impl Tab {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [Self::Pools, Self::Databases, Self::Users, Self::Pins, Self::Redis];

    /// What it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pools => "Pools",
            Self::Databases => "Databases",
            Self::Users => "Users",
            Self::Pins => "Pins",
            Self::Redis => "Redis lanes",
        }
    }
}

/// By what pools are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Those first that are worst off.
    Worst,
    /// Those first with most clients waiting.
    Waiting,
    /// Those first that are fullest.
    Use,
    /// Those first with the longest waits.
    Wait,
    /// Those first that do most.
    Rate,
    /// By name.
    Name,
}

impl Sort {
    /// All of them, in order.
    pub const ALL: [Self; 6] = [Self::Worst, Self::Waiting, Self::Use, Self::Wait, Self::Rate, Self::Name];

    /// What it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Worst => "worst first",
            Self::Waiting => "waiting",
            Self::Use => "in use",
            Self::Wait => "wait p99",
            Self::Rate => "per second",
            Self::Name => "name",
        }
    }
}

/// What the screen is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Screen {
    /// A list.
    List,
    /// A list whose filter is being typed.
    Filter,
    /// One pool, by its name.
    Pool(String),
    /// The keys.
    Help,
}

/// Whether it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It does.
    Go,
    /// The user has seen enough.
    Quit,
}

/// What the view knows.
#[derive(Debug, Clone)]
pub struct State {
    /// Who is watched.
    pub place: String,
    /// The last document.
    pub document: Document,
    /// The one before it, and how many seconds lie between.
    pub before: Option<(Document, f64)>,
    /// The last minutes.
    pub history: History,
    /// Why there is no news.
    pub error: Option<String>,
    /// What is listed.
    pub tab: Tab,
    /// By what pools are sorted.
    pub sort: Sort,
    /// Which rows are shown: those that have this in their names.
    pub filter: String,
    /// What the screen is for.
    pub screen: Screen,
    /// Whether documents are left unread.
    pub paused: bool,
    /// Which row the cursor is on, by its name and protocol; none: on the first.
    selected: Option<(String, String)>,
    known: bool,
}

impl State {
    /// Nothing is known yet of the sidepool there.
    #[must_use]
    pub fn new(place: &str) -> Self {
        Self {
            place: place.to_owned(),
            document: Document::default(),
            before: None,
            history: History::default(),
            error: None,
            tab: Tab::Pools,
            sort: Sort::Worst,
            filter: String::new(),
            screen: Screen::List,
            paused: false,
            selected: None,
            known: false,
        }
    }

    /// Whether there was a document.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// A document has come.
    pub fn take(&mut self, document: Document) {
        self.error = None;
        if self.paused {
            return;
        }
        let gap = document.unix_seconds - self.document.unix_seconds;
        // What has run for less long than before has begun anew, and its counters with it.
        let goes_on = self.known && gap > 0.0 && document.uptime_seconds >= self.document.uptime_seconds;
        let gap = goes_on.then_some(gap);
        self.history.take(&document, gap);
        let old = std::mem::replace(&mut self.document, document);
        self.before = gap.map(|gap| (old, gap));
        self.known = true;
        if matches!(&self.screen, Screen::Pool(name) if self.pool(name).is_none()) {
            self.screen = Screen::List;
        }
    }

    /// None has come, for this reason.
    pub fn fail(&mut self, error: String) {
        self.error = Some(error);
    }

    /// A key was pressed.
    pub fn press(&mut self, key: Key) -> Next {
        if key == Key::Interrupt {
            return Next::Quit;
        }
        match self.screen {
            Screen::Filter => self.press_in_filter(key),
            Screen::Help => self.screen = Screen::List,
            Screen::List | Screen::Pool(_) => return self.press_in_list(key),
        }
        Next::Go
    }

    fn press_in_filter(&mut self, key: Key) {
        match key {
            Key::Letter(letter) if self.filter.len() < LONGEST_FILTER => self.filter.push(letter),
            Key::Backspace => drop(self.filter.pop()),
            Key::Escape => {
                self.filter.clear();
                self.screen = Screen::List;
            }
            Key::Enter => self.screen = Screen::List,
            Key::Up => self.step(-1),
            Key::Down => self.step(1),
            Key::Letter(_) | Key::Left | Key::Right | Key::PageUp | Key::PageDown | Key::Tab | Key::BackTab | Key::Interrupt => {}
        }
    }

    fn press_in_list(&mut self, key: Key) -> Next {
        match key {
            Key::Letter('q') => return Next::Quit,
            Key::Letter('?' | 'h') => self.screen = Screen::Help,
            Key::Letter(' ') => self.paused = !self.paused,
            Key::Letter('/') => self.screen = Screen::Filter,
            Key::Letter('s') | Key::Right => self.sort = cycle(&Sort::ALL, self.sort, 1),
            Key::Letter('S') | Key::Left => self.sort = cycle(&Sort::ALL, self.sort, -1),
            Key::Tab => self.turn_to(cycle(&Tab::ALL, self.tab, 1)),
            Key::BackTab => self.turn_to(cycle(&Tab::ALL, self.tab, -1)),
            Key::Letter(digit @ '1'..='5') => self.turn_to(Tab::ALL[digit as usize - '1' as usize]),
            Key::Up | Key::Letter('k') => self.step(-1),
            Key::Down | Key::Letter('j') => self.step(1),
            Key::PageUp => self.step(-PAGE),
            Key::PageDown => self.step(PAGE),
            Key::Enter => self.enter(),
            Key::Escape if self.screen == Screen::List => self.filter.clear(),
            Key::Escape | Key::Backspace => self.screen = Screen::List,
            Key::Letter(_) | Key::Interrupt => {}
        }
        Next::Go
    }

    fn turn_to(&mut self, tab: Tab) {
        (self.tab, self.screen, self.selected) = (tab, Screen::List, None);
    }

    /// Moves the cursor; in the screen of one pool, to the next one.
    fn step(&mut self, by: isize) {
        let grid = self.grid();
        let Some(last) = grid.rows.len().checked_sub(1) else { return };
        let to = self.cursor(&grid).saturating_add_signed(by).min(last);
        let row = &grid.rows[to];
        if let Screen::Pool(shown) = &mut self.screen {
            shown.clone_from(&row.name);
        }
        self.selected = Some((row.name.clone(), row.protocol.clone()));
    }

    fn enter(&mut self) {
        let grid = self.grid();
        let Some(row) = grid.rows.get(self.cursor(&grid)) else { return };
        let name = row.name.clone();
        match self.tab {
            Tab::Pools | Tab::Pins | Tab::Redis => self.screen = Screen::Pool(name),
            // Its pools.
            Tab::Databases | Tab::Users => {
                self.turn_to(Tab::Pools);
                self.filter = name;
            }
        }
    }

    /// The rows that are listed.
    #[must_use]
    pub fn grid(&self) -> Grid {
        rows::grid(self, self.tab)
    }

    /// On which row of these the cursor is.
    #[must_use]
    pub fn cursor(&self, grid: &Grid) -> usize {
        let is_selected =
            |(name, protocol): &(String, String)| grid.rows.iter().position(|row| row.name == *name && row.protocol == *protocol);
        self.selected.as_ref().and_then(is_selected).unwrap_or(0)
    }

    /// The pool with this name.
    #[must_use]
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.document.pools.iter().find(|pool| pool.name == name)
    }

    /// How it is, in one sentence.
    #[must_use]
    pub fn summary(&self) -> (String, String) {
        let bad = |level: &str| rows::severity(level) >= rows::severity("paused");
        let worst: Vec<&Pool> = rows::sorted(self, Sort::Worst).into_iter().filter(|pool| bad(&pool.says.level)).collect();
        let of_process = self.document.says.first().filter(|words| bad(&words.level));
        match (worst.as_slice(), of_process) {
            ([], Some(words)) => (words.level.clone(), words.text.clone()),
            ([], None) if self.document.pools.is_empty() => ("good".to_owned(), "No pool yet: nobody has connected.".to_owned()),
            ([], None) => ("good".to_owned(), "All is well.".to_owned()),
            ([one], _) => (one.says.level.clone(), format!("Pool {}: {}", one.name, one.says.text)),
            ([first, ..], _) => {
                let text =
                    format!("{} of {} pools need a look. {}: {}", worst.len(), self.document.pools.len(), first.name, first.says.text);
                (first.says.level.clone(), text)
            }
        }
    }
}

/// The next of `all`, or the one before.
fn cycle<T: Copy + PartialEq>(all: &[T], now: T, by: isize) -> T {
    let index = all.iter().position(|one| *one == now).unwrap_or(0);
    all[(index.cast_signed() + by).rem_euclid(all.len().cast_signed()).unsigned_abs()]
}

#[cfg(test)]
#[path = "state_tests.rs"]
pub(crate) mod tests;
