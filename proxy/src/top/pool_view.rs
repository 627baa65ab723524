//! Draws one pool: how it is, the last minutes, who holds its connections, and its numbers. Pure.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Paragraph, Wrap};

use super::document::{Holder, Pool};
use super::rows::{Grid, Row, some, time};
use super::state::State;
use super::view::{Theme, draw_charts, draw_grid};

/// The pool with this name in the whole body of the screen.
pub fn draw(frame: &mut Frame<'_>, area: Rect, state: &State, name: &str, theme: Theme) {
    let Some(pool) = state.pool(name) else { return };
    let [words, charts, facts, holders] =
        Layout::vertical([Constraint::Length(4), Constraint::Length(4), Constraint::Length(6), Constraint::Min(2)]).areas(area);
    frame.render_widget(Paragraph::new(sentence(pool, theme)).wrap(Wrap { trim: true }), words);
    draw_charts(frame, charts, state.history.of(name), pool.connections.max, theme);
    frame.render_widget(Paragraph::new(numbers(pool, theme)), facts);
    let grid = Grid { head: &["held for longest by", "for", "client", "why"], rows: pool.longest.iter().map(holder).collect() };
    draw_grid(frame, holders, &grid, None, theme);
}

/// How a pool is and what to do.
#[must_use]
pub fn sentence(pool: &Pool, theme: Theme) -> Text<'static> {
    let mut lines = vec![Line::from(vec![
        Span::styled(format!("{} {}: ", pool.name, pool.says.level), theme.level(&pool.says.level)),
        Span::raw(pool.says.text.clone()),
    ])];
    lines.extend(pool.says.advice.as_ref().map(|advice| Line::styled(format!("-> {advice}"), theme.quiet())));
    Text::from(lines)
}

fn numbers(pool: &Pool, theme: Theme) -> Text<'static> {
    let of = &pool.connections;
    let clients: Vec<String> = pool.clients.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let refusals = some(pool.refusals.iter());
    let pins = pool.pinned.as_ref().map(|pinned| format!("{} of {}  {}", pinned.connections, pinned.max, some(pinned.reasons.iter())));
    let lanes = pool.redis.as_ref().map(|redis| {
        format!(
            "{} shared, {} leased, {} for pub/sub, {} in flight, {} blocked",
            redis.shared, redis.leased, redis.pubsub, redis.in_flight, redis.blocking_waiting
        )
    });
    let (held_name, held) = pins.map(|pins| ("pinned", pins)).or(lanes.map(|lanes| ("lanes", lanes))).unwrap_or_default();
    let server = format!("{}, {}, {}", pool.upstream, pool.protocol, pool.mode);
    let open = format!(
        "{} in use, {} idle, {} opening, {} cleaned, {} closing; at most {}, reserve {}",
        of.leased,
        of.idle,
        of.connecting,
        of.resetting + of.probing,
        of.closing,
        of.max,
        of.reserve
    );
    let queue = format!("{} of {}, oldest {}", pool.waiters, pool.queue_limit, time(pool.oldest_wait_seconds));
    let refused = if refusals.is_empty() { "none".to_owned() } else { refusals };
    let lines = [
        ("server", server),
        ("connections", open),
        ("clients", clients.join(", ")),
        ("queue", queue),
        ("refused", refused),
        (held_name, held),
    ];
    Text::from_iter(
        lines.into_iter().map(|(name, text)| Line::from(vec![Span::styled(format!("{name:<13}"), theme.quiet()), Span::raw(text)])),
    )
}

fn holder(holder: &Holder) -> Row {
    let name = if holder.application_name.is_empty() { &holder.user } else { &holder.application_name };
    let why = match &holder.pinned {
        Some(pinned) => format!("pinned: {pinned}"),
        None if holder.idle_in_transaction => "idle in transaction".to_owned(),
        None => "active".to_owned(),
    };
    let cells = vec![name.clone(), time(holder.seconds), holder.client.clone(), why];
    Row { name: name.clone(), protocol: String::new(), level: "good".to_owned(), cells }
}
