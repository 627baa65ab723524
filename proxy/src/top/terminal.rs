//! The terminal itself: raw while it is shown, and as it was before however the view ends. Keys, documents and signals come together here.

use std::io::{self, IsTerminal as _, Stdout};
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::execute;
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::document::Document;
use super::fetch::Place;
use super::state::{Key, Next, State};
use super::view::{self, Theme};

/// How soon a key is looked at, and a signal.
const LOOK: Duration = Duration::from_millis(50);

/// How often it is looked whether the terminal is there.
const OVERSIGHT: Duration = Duration::from_millis(500);

/// The exit status when it is not: as of a process that is hung up on.
const GONE: i32 = 129;

/// Shows the sidepool there until the user has seen enough.
pub fn run(place: Place, interval: Duration) -> Result<(), String> {
    let said = |error: io::Error| format!("this is no terminal that could show it ({error}): sidepool top --once prints text");
    let ended = signals().map_err(said)?;
    watch_over(Arc::clone(&ended));
    let mut state = State::new(place.shown());
    let (documents, _again) = fetching(place, interval);
    let theme = Theme { colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) };
    let mut screen = Screen::enter().map_err(said)?;
    show(&mut screen.terminal, &mut state, &documents, &ended, theme).map_err(said)
}

fn show(
    terminal: &mut Terminal<CrosstermBackend<Stdout>>,
    state: &mut State,
    documents: &Receiver<Result<Document, String>>,
    ended: &AtomicBool,
    theme: Theme,
) -> io::Result<()> {
    let mut changed = true;
    while !ended.load(Ordering::Relaxed) {
        for document in documents.try_iter() {
            changed = true;
            match document {
                Ok(document) => state.take(document),
                Err(error) => state.fail(error),
            }
        }
        if changed {
            terminal.draw(|frame| view::draw(frame, state, theme))?;
            changed = false;
        }
        if !event::poll(LOOK)? {
            continue;
        }
        changed = true;
        if let Event::Key(key) = event::read()?
            && let Some(key) = key_of(key)
            && state.press(key) == Next::Quit
        {
            break;
        }
    }
    Ok(())
}

/// Asks again and again, on a thread of its own, so that keys work while sidepool does not answer. Ends when the other end is dropped.
fn fetching(place: Place, interval: Duration) -> (Receiver<Result<Document, String>>, SyncSender<()>) {
    let (sender, receiver) = mpsc::sync_channel(1);
    let (alive, over) = mpsc::sync_channel::<()>(0);
    thread::spawn(move || {
        while sender.send(place.ask()).is_ok() {
            if over.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    });
    (receiver, alive)
}

/// Sees to it that the process ends when its terminal is gone: whoever waits for a key there would be told of one for ever, and turn in circles.
fn watch_over(ended: Arc<AtomicBool>) {
    thread::spawn(move || {
        let mut signalled = 0;
        while !goes_within(OVERSIGHT) && signalled < 2 {
            signalled += u32::from(ended.load(Ordering::Relaxed));
        }
        leave();
        std::process::exit(GONE);
    });
}

/// Whether by then nobody is at the other end of the terminal.
fn goes_within(time: Duration) -> bool {
    let input = io::stdin();
    let timeout = Timespec::try_from(time).unwrap_or_default();
    // Where the input is no terminal, keys come from the one that the process belongs to: nothing is to be seen of it here.
    let mut watched: Vec<PollFd<'_>> = input.is_terminal().then(|| PollFd::new(&input, PollFlags::empty())).into_iter().collect();
    let looked = poll(&mut watched, Some(&timeout));
    looked.is_ok() && watched.iter().any(|input| input.revents().intersects(PollFlags::HUP | PollFlags::ERR))
}

/// Becomes true with the first signal that is to end the process.
fn signals() -> io::Result<Arc<AtomicBool>> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    Ok(ended)
}

fn key_of(key: KeyEvent) -> Option<Key> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    Some(match key.code {
        KeyCode::Char('c') if control => Key::Interrupt,
        KeyCode::Char(letter) if !control => Key::Letter(letter),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Tab => Key::Tab,
        KeyCode::BackTab => Key::BackTab,
        KeyCode::Backspace => Key::Backspace,
        _ => return None,
    })
}

/// The terminal while it is ours; when dropped it is as it was.
struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    fn enter() -> io::Result<Self> {
        enable_raw_mode()?;
        let restore = Restore;
        // A panic's words are for a terminal that can be read.
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            leave();
            before(info);
        }));
        execute!(io::stdout(), EnterAlternateScreen)?;
        let mut terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
        terminal.hide_cursor()?;
        std::mem::forget(restore);
        Ok(Self { terminal })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

/// Restores the terminal when entering fails half-way.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        leave();
    }
}

fn leave() {
    // There is nobody left to tell.
    let _ = disable_raw_mode();
    let _ = execute!(io::stdout(), LeaveAlternateScreen, crossterm::cursor::Show);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_they_are_called() {
        let key = |code, modifiers| key_of(KeyEvent::new(code, modifiers));
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Key::Interrupt));
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::NONE), Some(Key::Letter('c')));
        assert_eq!(key(KeyCode::Char('S'), KeyModifiers::SHIFT), Some(Key::Letter('S')));
        assert_eq!(key(KeyCode::F(1), KeyModifiers::NONE), None);
        assert_eq!(key(KeyCode::Char('z'), KeyModifiers::CONTROL), None);
    }
}
