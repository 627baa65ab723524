//! SHOW FDS: which socket of the process is whose. Made on the worker that has them. Secrets and cancel keys are not shown: sockets are handed to
//! a new process by other means (`handover`).

use std::collections::HashMap;

use sidepool_protocol::postgres::parameters::ParameterSet;
use sidepool_protocol::postgres::result::Formats;

use super::rows::Rows;
use super::show::Show;
use crate::session::postgres::cancel::Activity;
use crate::transport::ends::End;
use crate::worker::Worker;

/// What clients and servers are shown of their parameters.
const PARAMETERS: [&str; 4] = ["client_encoding", "standard_conforming_strings", "DateStyle", "TimeZone"];

/// One socket.
struct Socket<'a> {
    descriptor: i32,
    task: &'static str,
    user: Option<&'a str>,
    database: Option<&'a str>,
    at: End,
    /// The socket that it is joined with for now; 0: none.
    link: i32,
    parameters: Option<&'a ParameterSet>,
}

impl Socket<'_> {
    fn put(&self, rows: &mut Rows<'_>, port: u16) {
        let mut row = rows.row();
        row.number(self.descriptor).text(self.task).maybe(self.user).maybe(self.database);
        row.text(&self.at.to_string()).number(self.at.port().unwrap_or(port)).number(0).number(self.link);
        for name in PARAMETERS {
            row.maybe(self.parameters.and_then(|parameters| parameters.get(name)));
        }
        row.null().null().null().end();
    }
}

/// The rows of a worker's sockets: where clients come in, the clients, the servers.
pub(super) fn all(worker: &Worker, formats: &Formats, port: u16) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rows = Rows::new(Show::Fds, formats, &mut out);
    let side = &worker.postgres;
    for (descriptor, at) in side.entrances.all() {
        Socket { descriptor, task: "pooler", user: None, database: None, at, link: 0, parameters: None }.put(&mut rows, port);
    }
    let servers = side.pools.roll.servers();
    let by_number: HashMap<u64, i32> = servers.iter().map(|server| (server.id, server.descriptor.get())).collect();
    let mut used: HashMap<u64, i32> = HashMap::new();
    side.cancels.look_at_all(|presence, activity| {
        let server = match activity {
            Activity::Active(server) => Some(server),
            Activity::Idle | Activity::Waiting => None,
        };
        used.extend(server.map(|server| (server, presence.descriptor)));
        Socket {
            descriptor: presence.descriptor,
            task: "client",
            user: Some(&presence.who.user),
            database: Some(&presence.who.database),
            at: presence.ends.theirs(),
            link: server.and_then(|server| by_number.get(&server).copied()).unwrap_or(0),
            parameters: Some(&presence.state()),
        }
        .put(&mut rows, port);
    });
    for server in servers.iter().filter(|server| server.descriptor.get() >= 0) {
        Socket {
            descriptor: server.descriptor.get(),
            task: "server",
            user: Some(&server.user),
            database: Some(&server.database),
            at: server.ends.borrow().theirs(),
            link: used.get(&server.id).copied().unwrap_or(0),
            parameters: server.applied.borrow().as_deref(),
        }
        .put(&mut rows, port);
    }
    out
}
