//! Questions about clients (`CLIENT LIST`, `KILL`, `UNBLOCK`), of which every worker knows its own: each is asked, and the answers are put together.
//!
//! A transaction cannot wait for others between two of its commands: inside `EXEC`, the clients are those of its own worker.

use std::rc::Rc;
use std::sync::Arc;

use sidepool_protocol::redis::command::{Command, Handling, Kind};
use sidepool_protocol::redis::encode::{self, Resp};
use sidepool_protocol::redis::handshake;
use sidepool_protocol::redis::request::{Arguments, parse_integer};
use sidepool_protocol::redis::tracker::Work;
use tokio::sync::oneshot;

use super::client_list::{self, Killed};
use super::end::End;
use super::requests::anew;
use super::run::Session;
use super::server::Server;
use super::steps::{After, Next, Step};
use crate::worker::Worker;

/// A question about clients.
#[derive(Clone)]
pub(super) struct Asked {
    handling: Handling,
    options: Arc<[Vec<u8>]>,
    /// Who asks, and how long its request is.
    me: (u64, usize),
    version: Resp,
}

/// What one worker says.
enum Part {
    Listed(Result<Vec<(u64, String)>, String>),
    Killed(Result<Killed, String>),
    /// The server's number of the connection that the client leases; 0: none.
    Leased(i64),
}

/// What came of a question.
pub(super) enum Told {
    /// This reply.
    Reply(Vec<u8>),
    /// This reply, and the end of who asked.
    End(Vec<u8>),
    /// The server is asked this.
    Ask(Vec<u8>),
}

impl Asked {
    /// What is asked here.
    fn of(session: &Session, whole: &[u8], handling: Handling) -> Self {
        Self {
            handling,
            options: Arguments::new(whole).skip(2).map(<[u8]>::to_vec).collect(),
            me: (session.client.id, whole.len()),
            version: session.version,
        }
    }

    /// What is known of it here.
    fn part(&self, server: &Server) -> Part {
        let options: Vec<&[u8]> = self.options.iter().map(Vec::as_slice).collect();
        match self.handling {
            Handling::ClientList => Part::Listed(client_list::list(server, self.me, &options)),
            Handling::ClientKill => Part::Killed(client_list::kill(server, self.me.0, &options)),
            _unblock => Part::Leased(options.first().and_then(|id| parse_integer(id)).map_or(0, |id| server.leased_by(id))),
        }
    }

    /// Puts together what all have said.
    fn told(&self, parts: Vec<Part>) -> Told {
        let (mut lines, mut killed, mut leased, mut fault) = (Vec::new(), Vec::new(), 0, None);
        for part in parts {
            match part {
                Part::Listed(Ok(more)) => lines.extend(more),
                Part::Killed(Ok(one)) => killed.push(one),
                Part::Leased(id) => leased = leased.max(id),
                Part::Listed(Err(text)) | Part::Killed(Err(text)) => fault = Some(text),
            }
        }
        let mut out = Vec::new();
        match (self.handling, fault) {
            (Handling::ClientList, None) => {
                lines.sort_by_key(|(id, _)| *id);
                encode::text(&mut out, self.version, &lines.into_iter().map(|(_, line)| line).collect::<String>());
            }
            // Whom one does not know, another may.
            (Handling::ClientKill, fault) if fault.is_none() || !killed.is_empty() => return told_of(&killed),
            (_, Some(text)) => encode::error(&mut out, &text),
            (_, None) if leased == 0 => encode::integer(&mut out, 0),
            (_, None) => {
                let leased = leased.to_string();
                let how = self.options.iter().skip(1).map(Vec::as_slice);
                return Told::Ask(anew([&b"CLIENT"[..], b"UNBLOCK", leased.as_bytes()].into_iter().chain(how)));
            }
        }
        Told::Reply(out)
    }

    /// Asks all workers.
    async fn everywhere(self, worker: Rc<Worker>, name: Arc<str>) -> Told {
        let mut parts = Vec::new();
        for id in worker.mailboxes.ids() {
            let (sender, receiver) = oneshot::channel();
            let (asked, name) = (self.clone(), Arc::clone(&name));
            worker.mailboxes.post(id, move |worker| {
                if let Some(server) = worker.redis.server(&name) {
                    // Whoever asked may have gone.
                    let _ = sender.send(asked.part(&server));
                }
            });
            parts.push(receiver);
        }
        let mut answers = Vec::new();
        for part in parts {
            // A worker that has just ended has no clients.
            answers.extend(part.await.ok());
        }
        self.told(answers)
    }
}

fn told_of(killed: &[Killed]) -> Told {
    let (mut count, mut with_self, mut by_address) = (0, false, false);
    for killed in killed {
        match killed {
            Killed::One | Killed::OneAndSelf => by_address = true,
            Killed::Many(more) | Killed::ManyAndSelf(more) => count += more,
        }
        with_self |= matches!(killed, Killed::OneAndSelf | Killed::ManyAndSelf(_));
    }
    let mut out = Vec::new();
    if by_address {
        encode::simple(&mut out, "OK")
    } else {
        encode::integer(&mut out, count)
    }
    if with_self { Told::End(out) } else { Told::Reply(out) }
}

impl Session {
    /// Answers a question about clients, or says what is wrong with it.
    pub(super) fn about_clients(&mut self, whole: &[u8], command: &Command) -> Next {
        if let Some(line) = wrong(whole, command) {
            return self.say_error(&line);
        }
        if self.worker.mailboxes.workers() > 1 { self.step(Step::Others) } else { self.about_our_clients(whole, command.handling) }
    }

    /// The same, of the clients of this worker alone.
    pub(super) fn about_our_clients(&mut self, whole: &[u8], handling: Handling) -> Next {
        let asked = Asked::of(self, whole, handling);
        let told = asked.told(vec![asked.part(&self.server)]);
        self.tell(told)
    }

    /// Asks all workers what a question about clients comes to.
    pub(super) fn ask_others(&self, whole: &[u8], handling: Handling) -> impl Future<Output = Told> + use<> {
        Asked::of(self, whole, handling).everywhere(Rc::clone(&self.worker), Arc::clone(&self.server.name))
    }

    /// The question about clients at the front of `carry`.
    pub(super) async fn others(&mut self) -> After {
        let Some(handling) = self.front_handling() else { return After::GoOn };
        let Some(whole) = self.take_front() else { return After::GoOn };
        let asking = self.ask_others(&whole, handling);
        let Some(told) = self.wait_for(asking).await else { return After::End };
        match self.tell(told) {
            Next::Done => {}
            // There is no room on the shared connection: it is asked again when there is.
            Next::Hold | Next::Later | Next::Step(_) => drop(self.carry.splice(0..0, whole)),
        }
        self.fresh = true;
        After::GoOn
    }

    fn tell(&mut self, told: Told) -> Next {
        match told {
            Told::Reply(reply) => self.say(&reply),
            Told::End(reply) => {
                self.say(&reply);
                self.closing = Some(End::Killed);
            }
            Told::Ask(request) => return self.share(&request, Work::Writes, Kind::Connection, false),
        }
        Next::Done
    }
}

/// What is wrong with a question about clients before anybody is asked.
pub(super) fn wrong(whole: &[u8], command: &Command) -> Option<String> {
    let options: Vec<&[u8]> = Arguments::new(whole).skip(2).collect();
    match (command.handling, options.as_slice()) {
        (Handling::ClientKill, []) => Some(handshake::wrong_arity(command.name)),
        (Handling::ClientUnblock, [id] | [id, _]) => {
            let how = options.get(1).is_none_or(|how| how.eq_ignore_ascii_case(b"timeout") || how.eq_ignore_ascii_case(b"error"));
            match (how, parse_integer(id)) {
                (false, _) => Some("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR".to_owned()),
                (true, None) => Some("ERR value is not an integer or out of range".to_owned()),
                (true, Some(_)) => None,
            }
        }
        (Handling::ClientUnblock, _) => Some(handshake::wrong_arity(command.name)),
        (_list_or_kill, _) => None,
    }
}
