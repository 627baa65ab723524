//! SHOW PINS: the server connections that clients keep past their transactions, and why. Made on the worker that has them. Pure.

use std::collections::HashMap;
use std::rc::Rc;

use sidepool_protocol::postgres::result::Formats;

use super::rows::Rows;
use super::show::Show;
use super::sockets::stamp;
use crate::session::postgres::presence::Presence;
use crate::upstream::postgres::roll::{Held, Server, seconds_now};
use crate::worker::Worker;

/// The rows of a worker.
pub(super) fn rows(worker: &Worker, formats: &Formats) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rows = Rows::new(Show::Pins, formats, &mut out);
    let servers = worker.postgres.pools.roll.servers();
    let held: HashMap<u64, (&Rc<Server>, Held)> =
        servers.iter().filter_map(|server| server.held.get().map(|held| (held.client, (server, held)))).collect();
    let now = seconds_now();
    worker.postgres.cancels.look_at_all(|presence, _| {
        if let Some((server, held)) = held.get(&presence.id) {
            put(&mut rows, now, presence, server, *held);
        }
    });
    out
}

fn put(rows: &mut Rows<'_>, now: u32, presence: &Presence, server: &Server, held: Held) {
    rows.row()
        .text(&server.database)
        .text(&server.user)
        .text(&held.pins.to_string())
        .text(&stamp(held.since))
        .number(now.saturating_sub(held.since))
        .number(presence.id)
        .text(&presence.ends.theirs().to_string())
        .text(presence.state().get("application_name").unwrap_or_default())
        .number(server.id)
        .number(server.pid())
        .end();
}
