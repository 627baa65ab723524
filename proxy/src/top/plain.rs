//! The view as plain text: for scripts, pipes and messages to colleagues. Pure.

use std::fmt::Write as _;

use super::rows::{self, Grid};
use super::state::{State, Tab};

/// Everything, one list below the other; lists without rows are left out.
#[must_use]
pub fn text(state: &State) -> String {
    let (_, summary) = state.summary();
    let document = &state.document;
    let mut out = format!("sidepool {} at {}, up {}\n{summary}\n", document.version, state.place, rows::time(document.uptime_seconds));
    for words in &document.says {
        line(&mut out, &format!("{}: {}", words.level, words.text), words.advice.as_deref());
    }
    for tab in Tab::ALL {
        let grid = rows::grid(state, tab);
        if !grid.rows.is_empty() {
            out.push('\n');
            put(&mut out, &grid);
        }
    }
    let explained: Vec<_> = rows::sorted(state, state.sort).into_iter().filter(|pool| pool.says.level != "good").collect();
    if !explained.is_empty() {
        out.push('\n');
    }
    for pool in explained {
        line(&mut out, &format!("{}: {}", pool.name, pool.says.text), pool.says.advice.as_deref());
    }
    out
}

fn line(out: &mut String, text: &str, advice: Option<&str>) {
    // Writing to a String does not fail.
    let _ = writeln!(out, "{text}");
    if let Some(advice) = advice {
        let _ = writeln!(out, "  -> {advice}");
    }
}

/// How wide each column has to be.
#[must_use]
pub fn widths(grid: &Grid) -> Vec<usize> {
    let width = |text: &str| text.chars().count();
    let of = |(index, name): (usize, &&str)| grid.rows.iter().map(|row| width(&row.cells[index])).chain([width(name)]).max().unwrap_or(0);
    grid.head.iter().enumerate().map(of).collect()
}

/// Whether a column begins at the left.
#[must_use]
pub fn is_left(grid: &Grid, column: usize) -> bool {
    column == 0 || ["why", "state"].contains(&grid.head[column])
}

fn put(out: &mut String, grid: &Grid) {
    let widths = widths(grid);
    let heads = grid.head.iter().map(|name| (*name).to_owned()).collect();
    for cells in std::iter::once(&heads).chain(grid.rows.iter().map(|row| &row.cells)) {
        let mut text = String::new();
        for (column, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            let _ = if is_left(grid, column) { write!(text, "{gap}{cell:<width$}") } else { write!(text, "{gap}{cell:>width$}") };
        }
        let _ = writeln!(out, "{}", text.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::state::tests::sample;

    #[test]
    fn everything_is_said_in_lines() {
        let text = text(&sample());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "sidepool 9.9 at here:1, up 2 min 5 s");
        assert_eq!(lines[1], "Pool app.app: 20 of 20 in use, 14 waiting, oldest 1.2 s");
        for line in [
            "pool          state      in use  waiting  oldest  wait p99  per s",
            "app.app       exhausted   20/20       14   1.2 s     99 ms    100",
            "cache/shared  good          0/2        0       -         -      0",
            "app.app       6       10  advisory locks 4, listening 2",
            "app.app: 20 of 20 in use, 14 waiting, oldest 1.2 s",
            "  -> end transactions sooner",
        ] {
            assert!(lines.contains(&line), "{line}\n{text}");
        }
    }
}
