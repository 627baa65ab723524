//! SHOW CLIENTS, SERVERS, SOCKETS and ACTIVE_SOCKETS: one row for each connection. Made on the worker that has it, a few at a time. Pure.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use sidepool_protocol::postgres::cancel_key::KEY_BYTES;
use sidepool_protocol::postgres::result::{Formats, Row};
use sidepool_protocol::postgres::startup::Replication;

use super::guest::CONSOLE_DATABASE;
use super::rows::Rows;
use super::show::Show;
use crate::clock;
use crate::session::postgres::cancel::Activity;
use crate::session::postgres::presence::Presence;
use crate::transport::ends::Ends;
use crate::upstream::postgres::roll::{Server, Stage, seconds_now};
use crate::worker::Worker;

/// What is needed to show times and ports.
#[derive(Debug, Clone, Copy)]
struct Frame {
    /// Now, in seconds since the epoch.
    seconds: u32,
    /// Now, as clients note it.
    micros: u64,
    /// For what has no port of its own.
    port: u16,
}

impl Frame {
    fn of(worker: &Worker, port: u16) -> Self {
        Self { seconds: seconds_now(), micros: worker.postgres.micros(clock::now()), port }
    }

    /// How long ago a client asked.
    fn since(&self, asked: u64) -> Duration {
        Duration::from_micros(self.micros.saturating_sub(asked))
    }

    /// When it asked, in seconds since the epoch; without an answer, when it connected.
    fn at(&self, asked: u64, connected: u32) -> u32 {
        let ago = u32::try_from(self.since(asked).as_secs()).unwrap_or(u32::MAX);
        if asked == 0 { connected } else { self.seconds.saturating_sub(ago) }
    }
}

/// One connection.
struct Socket<'a> {
    kind: &'static str,
    replication: Option<Replication>,
    user: &'a str,
    database: &'a str,
    state: &'static str,
    ends: &'a Ends,
    connected: u32,
    asked: u32,
    wait: Duration,
    close_needed: bool,
    id: u64,
    link: Option<u64>,
    pid: u32,
    tls: &'a str,
    application_name: &'a str,
    statements: u32,
}

impl Socket<'_> {
    fn put(&self, rows: &mut Rows<'_>, frame: Frame) {
        let show = rows.show();
        let mut row = rows.row();
        let state: &str = self.state;
        row.text(self.kind).text(self.user).text(self.database).text(self.replication.map_or("none", Replication::label));
        if matches!(show, Show::Sockets | Show::ActiveSockets) {
            row.text(&format!("{}_{}", if self.kind == "C" { "cl" } else { "sv" }, if state == "new" { "login" } else { state }));
        } else {
            row.text(state);
        }
        for end in [self.ends.theirs(), self.ends.ours()] {
            row.text(&end.to_string()).number(end.port().unwrap_or(frame.port));
        }
        row.text(&stamp(self.connected)).text(&stamp(self.asked)).number(self.wait.as_secs()).number(self.wait.subsec_micros());
        row.number(self.close_needed).text(&pointer(self.id)).text(&self.link.map(pointer).unwrap_or_default()).number(self.pid);
        row.text(self.tls).text(self.application_name).number(self.statements).number(self.id);
        if matches!(show, Show::Sockets | Show::ActiveSockets) {
            no_buffers(&mut row);
        }
        row.end();
    }
}

/// A connection that is idle holds no buffer, and what is in the others is gone by the time that somebody reads of it.
fn no_buffers(row: &mut Row<'_>) {
    for _ in 0..7 {
        row.number(0);
    }
}

/// A connection's number where PgBouncer shows a place in memory.
fn pointer(id: u64) -> String {
    format!("0x{id:012x}")
}

/// A time of day as PgBouncer shows it.
pub(super) fn stamp(seconds: u32) -> String {
    let (days, rest) = (i64::from(seconds / 86_400), seconds % 86_400);
    // Days since 0000-03-01, in eras of 400 years: the leap day comes last in a year, and each era has as many days as every other.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", rest / 3600, rest / 60 % 60, rest % 60)
}

/// The rows of these clients of a worker.
pub(super) fn clients(worker: &Worker, clients: &[[u8; KEY_BYTES]], show: Show, formats: &Formats, port: u16) -> Vec<u8> {
    let mut out = Vec::new();
    let frame = Frame::of(worker, port);
    let mut rows = Rows::new(show, formats, &mut out);
    worker.postgres.cancels.look_at(clients, |presence, activity| client(&mut rows, frame, presence, activity));
    out
}

fn client(rows: &mut Rows<'_>, frame: Frame, presence: &Presence, activity: Activity) {
    let (state, link) = match activity {
        Activity::Idle => ("idle", None),
        Activity::Waiting => ("waiting", None),
        Activity::Active(server) => ("active", Some(server)),
    };
    if rows.show() == Show::ActiveSockets && activity == Activity::Idle {
        return;
    }
    let parameters = presence.state();
    let asked = presence.asked();
    Socket {
        kind: "C",
        replication: presence.who.replication,
        user: &presence.who.user,
        database: &presence.who.database,
        // PgBouncer's list of sockets knows no idle clients.
        state: if state == "idle" && rows.show() == Show::Sockets { "active" } else { state },
        ends: &presence.ends,
        connected: presence.connected,
        asked: frame.at(asked, presence.connected),
        wait: if activity == Activity::Waiting { frame.since(asked) } else { Duration::ZERO },
        close_needed: presence.fate().is_some(),
        id: presence.id,
        link,
        pid: presence.ends.process(),
        tls: &presence.who.tls,
        application_name: parameters.get("application_name").unwrap_or_default(),
        statements: presence.statements.get(),
    }
    .put(rows, frame);
}

/// The rows of a worker's guests of the console.
pub(super) fn guests(worker: &Worker, show: Show, formats: &Formats, port: u16) -> Vec<u8> {
    let mut out = Vec::new();
    let frame = Frame::of(worker, port);
    let mut rows = Rows::new(show, formats, &mut out);
    for guest in worker.guests.present() {
        Socket {
            kind: "C",
            replication: None,
            user: &guest.user,
            database: CONSOLE_DATABASE,
            state: if show == Show::Clients { "idle" } else { "active" },
            ends: &guest.ends,
            connected: guest.connected,
            asked: guest.asked.get(),
            wait: Duration::ZERO,
            close_needed: false,
            id: guest.id,
            link: None,
            pid: guest.ends.process(),
            tls: &guest.tls,
            application_name: &guest.application_name,
            statements: 0,
        }
        .put(&mut rows, frame);
    }
    out
}

/// The rows of a worker's server connections.
pub(super) fn servers(worker: &Worker, show: Show, formats: &Formats, port: u16) -> Vec<u8> {
    let mut out = Vec::new();
    let frame = Frame::of(worker, port);
    let mut rows = Rows::new(show, formats, &mut out);
    // Connections do not know their clients: whoever looks finds out, and nobody else pays for it.
    let mut used: HashMap<u64, (u64, u64)> = HashMap::new();
    worker.postgres.cancels.look_at_all(|presence, activity| {
        if let Activity::Active(server) = activity {
            used.insert(server, (presence.id, presence.asked()));
        }
    });
    for server in worker.postgres.pools.roll.servers() {
        self::server(&mut rows, frame, &server, used.get(&server.id).copied());
    }
    out
}

fn server(rows: &mut Rows<'_>, frame: Frame, server: &Rc<Server>, client: Option<(u64, u64)>) {
    if rows.show() == Show::ActiveSockets && client.is_none() {
        return;
    }
    let state = match server.stage.get() {
        Stage::New => "new",
        Stage::Tested => "tested",
        Stage::Open if server.cancels() > 0 => "being_canceled",
        Stage::Open if client.is_some() => "active",
        Stage::Open => "idle",
    };
    let (applied, ends, tls) = (server.applied.borrow(), server.ends.borrow(), server.tls.borrow());
    Socket {
        kind: "S",
        replication: None,
        user: &server.user,
        database: &server.database,
        state,
        ends: &ends,
        connected: server.connected,
        asked: client.map_or(server.connected, |(_, asked)| frame.at(asked, server.connected)),
        wait: Duration::ZERO,
        close_needed: server.close_needed.get(),
        id: server.id,
        link: client.map(|(client, _)| client),
        pid: server.pid(),
        tls: &tls,
        application_name: applied.as_ref().and_then(|state| state.get("application_name")).unwrap_or_default(),
        statements: server.statements.get(),
    }
    .put(rows, frame);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::rows::read;

    const FRAME: Frame = Frame { seconds: 1_000_000_000, micros: 7_500_000, port: 6432 };

    fn socket<'a>(ends: &'a Ends, kind: &'static str, state: &'static str) -> Socket<'a> {
        Socket {
            kind,
            replication: Some(Replication::Physical),
            user: "bob",
            database: "app",
            state,
            ends,
            connected: 999_999_990,
            asked: 999_999_995,
            wait: Duration::from_micros(2_000_003),
            close_needed: true,
            id: 161,
            link: Some(162),
            pid: 77,
            tls: "TLSv1.3",
            application_name: "psql",
            statements: 5,
        }
    }

    #[test]
    fn a_row_has_its_values_in_the_right_columns() {
        let ends = Ends::V4("10.0.0.1:5000".parse().unwrap(), "10.0.0.2:6432".parse().unwrap());
        let rows = read(Show::Clients, |rows| socket(&ends, "C", "waiting").put(rows, FRAME));
        let row: Vec<_> =
            Show::Clients.columns().iter().zip(&rows[0]).map(|(column, value)| (column.name, value.as_deref().unwrap())).collect();
        assert_eq!(
            row,
            [
                ("type", "C"),
                ("user", "bob"),
                ("database", "app"),
                ("replication", "physical"),
                ("state", "waiting"),
                ("addr", "10.0.0.1"),
                ("port", "5000"),
                ("local_addr", "10.0.0.2"),
                ("local_port", "6432"),
                ("connect_time", "2001-09-09 01:46:30 UTC"),
                ("request_time", "2001-09-09 01:46:35 UTC"),
                ("wait", "2"),
                ("wait_us", "3"),
                ("close_needed", "1"),
                ("ptr", "0x0000000000a1"),
                ("link", "0x0000000000a2"),
                ("remote_pid", "77"),
                ("tls", "TLSv1.3"),
                ("application_name", "psql"),
                ("prepared_statements", "5"),
                ("id", "161"),
            ]
        );
    }

    #[test]
    fn sockets_say_which_side_and_have_seven_columns_more() {
        let of = |kind, state| read(Show::Sockets, |rows| socket(&Ends::Unix(77, 0), kind, state).put(rows, FRAME)).remove(0);
        let row = of("S", "new");
        assert_eq!(
            (row.len(), row[4].as_deref(), row[5].as_deref(), row[6].as_deref()),
            (28, Some("sv_login"), Some("unix"), Some("6432"))
        );
        assert_eq!(of("C", "active")[4].as_deref(), Some("cl_active"));
    }

    #[test]
    fn times_are_dates() {
        for (seconds, wanted) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_000_000_000, "2001-09-09 01:46:40 UTC"),
            (1_735_689_599, "2024-12-31 23:59:59 UTC"),
            (u32::MAX, "2106-02-07 06:28:15 UTC"),
        ] {
            assert_eq!(stamp(seconds), wanted);
        }
        assert_eq!((FRAME.at(0, 5), FRAME.at(2_500_000, 5)), (5, 999_999_995));
    }
}
