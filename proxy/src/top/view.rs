//! Draws the state: a frame of text, made to fit into 80 columns and 24 lines. Pure.

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Cell, Paragraph, Row, Sparkline, Table, TableState, Wrap};

use super::history::Past;
use super::plain::{is_left, widths};
use super::pool_view;
use super::rows::{Grid, count, time};
use super::state::{Screen, State, Tab};

/// Whether colours are wanted. Nothing is said by colour alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Theme {
    /// They are.
    pub colours: bool,
}

impl Theme {
    /// How a level looks.
    #[must_use]
    pub fn level(self, level: &str) -> Style {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        match level {
            "down" | "exhausted" => self.with(bold, Color::Red),
            "paused" => self.with(bold, Color::Blue),
            "notice" => self.with(Style::new(), Color::Yellow),
            _ => self.with(Style::new(), Color::Green),
        }
    }

    /// What is of less interest.
    #[must_use]
    pub fn quiet(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// What names something.
    #[must_use]
    pub fn title(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn trace(self) -> Style {
        self.with(Style::new(), Color::Cyan)
    }

    fn with(self, style: Style, colour: Color) -> Style {
        if self.colours { style.fg(colour) } else { style }
    }
}

/// The whole screen.
pub fn draw(frame: &mut Frame<'_>, state: &State, theme: Theme) {
    let [top, summary, body, bottom] =
        Layout::vertical([Constraint::Length(1), Constraint::Length(2), Constraint::Min(4), Constraint::Length(1)]).areas(frame.area());
    title(frame, top, state, theme);
    bottom_line(frame, bottom, state, theme);
    if !state.is_known() {
        let text = state.error.as_ref().map_or_else(|| "asking…".to_owned(), |error| format!("no answer yet: {error}"));
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), summary);
        return;
    }
    let (level, text) = state.summary();
    frame.render_widget(Paragraph::new(text).style(theme.level(&level)).wrap(Wrap { trim: true }), summary);
    match &state.screen {
        Screen::Help => help(frame, body, theme),
        Screen::Pool(name) => pool_view::draw(frame, body, state, name, theme),
        Screen::List | Screen::Filter => list(frame, body, state, theme),
    }
}

fn title(frame: &mut Frame<'_>, area: Rect, state: &State, theme: Theme) {
    let document = &state.document;
    let left = vec![
        Span::styled("sidepool", theme.title()),
        Span::raw(format!(" {}  ", document.version)),
        Span::styled(format!("{}  up {}", state.place, time(document.uptime_seconds)), theme.quiet()),
    ];
    let right = match (&state.error, state.paused) {
        (Some(_), _) => Span::styled("no answer", theme.level("down")),
        (None, true) => Span::styled("held", theme.level("paused")),
        (None, false) => Span::styled("live", theme.level("good")),
    };
    frame.render_widget(Line::from(left), area);
    frame.render_widget(Paragraph::new(right).alignment(Alignment::Right), area);
}

fn bottom_line(frame: &mut Frame<'_>, area: Rect, state: &State, theme: Theme) {
    let line = match (&state.screen, &state.error) {
        (Screen::Filter, _) => Line::from(format!("/{}▏ enter keeps, esc clears", state.filter)),
        (_, Some(error)) => Line::styled(error.clone(), theme.level("down")),
        (Screen::Pool(_), None) => Line::styled("esc back  ↑↓ other pools  space hold  ? help  q quit", theme.quiet()),
        (Screen::Help, None) => Line::styled("any key goes back", theme.quiet()),
        (Screen::List, None) => Line::styled("enter look into  / filter  s sort  tab next list  space hold  ? help  q quit", theme.quiet()),
    };
    frame.render_widget(line, area);
}

fn list(frame: &mut Frame<'_>, area: Rect, state: &State, theme: Theme) {
    let [charts, tabs, table, words] =
        Layout::vertical([Constraint::Length(4), Constraint::Length(1), Constraint::Min(3), Constraint::Length(3)]).areas(area);
    let most = state.document.pools.iter().map(|pool| pool.connections.max).sum();
    draw_charts(frame, charts, &state.history.all, most, theme);
    let mut names = Vec::new();
    for (index, tab) in Tab::ALL.into_iter().enumerate() {
        let style = if tab == state.tab { Style::new().add_modifier(Modifier::REVERSED) } else { theme.quiet() };
        names.extend([Span::styled(format!(" {} {} ", index + 1, tab.name()), style), Span::raw(" ")]);
    }
    frame.render_widget(Line::from(names), tabs);
    let filter = if state.filter.is_empty() { String::new() } else { format!("/{}  ", state.filter) };
    let sort = format!("{filter}{}", state.sort.name());
    frame.render_widget(Paragraph::new(Span::styled(sort, theme.quiet())).alignment(Alignment::Right), tabs);
    let grid = state.grid();
    draw_grid(frame, table, &grid, Some(state.cursor(&grid)), theme);
    let selected = grid.rows.get(state.cursor(&grid)).and_then(|row| state.pool(&row.name));
    if let Some(pool) = selected.filter(|_| !matches!(state.tab, Tab::Databases | Tab::Users)) {
        frame.render_widget(Paragraph::new(pool_view::sentence(pool, theme)).wrap(Wrap { trim: true }), words);
    }
}

/// The four charts: of all pools, or of one.
pub fn draw_charts(frame: &mut Frame<'_>, area: Rect, past: &Past, most: u64, theme: Theme) {
    let now = |values: &VecDeque<u64>| values.back().copied().unwrap_or(0);
    let charts = [
        (format!("in use {}/{}", now(&past.in_use), count(most)), &past.in_use, Some(most.max(1))),
        (format!("waiting {}", count(now(&past.waiting))), &past.waiting, None),
        (format!("wait p99 {}", time(past.p99_now())), &past.p99, None),
        (format!("per second {}", count(past.rate_now())), &past.rate, None),
    ];
    let columns = Layout::horizontal([Constraint::Fill(1); 4]).spacing(2).split(area);
    for ((name, values, limit), column) in charts.into_iter().zip(columns.iter()) {
        let [head, graph] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(*column);
        frame.render_widget(Line::from(name), head);
        let newest: Vec<u64> = values.iter().copied().skip(values.len().saturating_sub(usize::from(graph.width))).collect();
        let line = Sparkline::default().data(&newest).style(theme.trace());
        frame.render_widget(if let Some(limit) = limit { line.max(limit) } else { line }, graph);
    }
}

/// A list as a table, with the cursor on a row.
pub fn draw_grid(frame: &mut Frame<'_>, area: Rect, grid: &Grid, cursor: Option<usize>, theme: Theme) {
    let mut room: Vec<usize> = widths(grid);
    // What is too wide for the screen takes it from the first column, which has the longest words.
    let gaps = 2 * room.len().saturating_sub(1);
    let excess = (room.iter().sum::<usize>() + gaps).saturating_sub(usize::from(area.width));
    if let Some(first) = room.first_mut() {
        *first = first.saturating_sub(excess).max(12);
    }
    let align = |column: usize, text: &str, width: usize| {
        if is_left(grid, column) { text.to_owned() } else { format!("{text:>width$}") }
    };
    let cells = |cells: &[String], style: Style| {
        let shown = cells.iter().enumerate().map(|(column, text)| {
            let style = if grid.head[column] == "state" { style } else { Style::new() };
            Cell::from(Span::styled(align(column, text, room[column]), style))
        });
        Row::new(shown.collect::<Vec<_>>())
    };
    let head: Vec<String> = grid.head.iter().map(|name| (*name).to_owned()).collect();
    let rows: Vec<Row<'_>> = grid.rows.iter().map(|row| cells(&row.cells, theme.level(&row.level))).collect();
    if rows.is_empty() {
        frame.render_widget(Text::styled("\nnothing to show", theme.quiet()), area);
        return;
    }
    let constraints = room.iter().map(|width| Constraint::Length(u16::try_from(*width).unwrap_or(u16::MAX)));
    let table = Table::new(rows, constraints)
        .header(cells(&head, Style::new()).style(theme.quiet()))
        .column_spacing(2)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, &mut TableState::default().with_selected(cursor));
}

fn help(frame: &mut Frame<'_>, area: Rect, theme: Theme) {
    let keys = [
        ("↑ ↓  j k", "choose a row; page up and page down go further"),
        ("enter", "look into a pool; from a database or user to its pools"),
        ("esc", "back; in a list: no filter"),
        ("tab  1 … 5", "another list: pools, databases, users, pins, Redis lanes"),
        ("s  ← →", "sort the pools: worst first, waiting, in use, wait p99, per second, name"),
        ("/", "filter by name, server or state (down, exhausted, paused, notice, good)"),
        ("space", "hold what is shown, or go on"),
        ("q", "quit"),
    ];
    let line =
        |(key, text): (&'static str, &'static str)| Line::from(vec![Span::styled(format!("{key:<12}"), theme.title()), Span::raw(text)]);
    frame.render_widget(Paragraph::new(keys.into_iter().map(line).collect::<Vec<_>>()).wrap(Wrap { trim: false }), area);
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
