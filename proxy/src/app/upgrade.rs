//! Where two generations of the program meet: what is given to the next one, what is taken from the last one, and the way back when the next one
//! turns out not to live.

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sidepool_config::model::{Config, Listen};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_local};

use super::bindings::Doors;
use super::{Opened, open};
use crate::admin::facts::Facts;
use crate::handover::channel::{Channel, Doorstep};
use crate::handover::giving::{self, Deserted, Spare, Spares, door_name};
use crate::handover::taking::{self, Inherited, Predecessor};
use crate::listener::accept::Closing;
use crate::listener::bind::Bound;
use crate::listener::gate::Door;

/// Knocks at the process that runs with this configuration. `None` when there is none: then there is nothing to take over.
pub async fn meet(config: &Config) -> io::Result<Option<(Channel, Vec<Inherited>)>> {
    let Some(path) = config.upgrade_path() else {
        let why = "nothing says where the running process is found: set upgrade_socket, here and there";
        return Err(io::Error::new(io::ErrorKind::NotFound, why));
    };
    match Predecessor::meet(&path).await {
        Ok(met) => {
            tracing::info!(path = %path.display(), listeners = met.1.len(), "taking over from the running process");
            Ok(Some(met))
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            tracing::warn!(path = %path.display(), "old process not found, try to continue normally");
            Ok(None)
        }
        Err(error) => Err(io::Error::new(error.kind(), format!("cannot take over at {}: {error}", path.display()))),
    }
}

/// Takes the socket for `listen` out of what was inherited.
pub fn inherited(sockets: &mut Vec<Inherited>, door: Option<&Door>, listen: &Listen) -> Option<std::os::fd::OwnedFd> {
    let (name, address) = (door_name(door), listen.to_string());
    let at = sockets.iter().position(|socket| socket.door == name && socket.address == address)?;
    Some(sockets.swap_remove(at).socket)
}

/// Where the next generation knocks, and what it gets.
pub struct Doorway {
    path: Option<PathBuf>,
    knocking: Option<Knocking>,
    spares: Spares,
}

/// The task that talks to those who knock: the control loop must be able to look elsewhere meanwhile.
struct Knocking {
    task: JoinHandle<()>,
    successor: mpsc::Receiver<Channel>,
}

impl Drop for Knocking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Doorway {
    /// Nobody can knock yet.
    #[must_use]
    pub fn new(config: &Config, spares: Vec<Spare>) -> Self {
        Self { path: config.upgrade_path(), knocking: None, spares: Rc::new(RefCell::new(spares)) }
    }

    /// From now on the next generation can knock; `replacing` the one before us.
    pub fn open(&mut self, replacing: bool) {
        let Some(path) = &self.path else { return };
        let opened = if replacing { Doorstep::replace(path) } else { Doorstep::open(path) };
        match opened {
            Ok(doorstep) => {
                let (sender, successor) = mpsc::channel(1);
                let spares = Rc::clone(&self.spares);
                let task = spawn_local(async move {
                    // Nobody wants it any more when the process ends at this moment.
                    let _ = sender.send(giving::successor(&doorstep, &spares).await).await;
                });
                self.knocking = Some(Knocking { task, successor });
            }
            Err(error) => tracing::warn!(path = %path.display(), %error, "no new process will be able to take over from this one"),
        }
    }

    /// Waits for a process that takes over. May be dropped and called again.
    pub async fn successor(&mut self) -> Channel {
        if let Some(knocking) = &mut self.knocking
            && let Some(channel) = knocking.successor.recv().await
        {
            return channel;
        }
        std::future::pending().await
    }

    /// The sockets close with their listeners.
    pub fn close(&mut self) {
        self.knocking = None;
        self.spares.borrow_mut().clear();
    }

    /// Gives everything to the next generation; returns when this process may end. When the other one dies before it has everybody, this one
    /// listens again and goes on.
    pub async fn give_way(&mut self, facts: &Arc<Facts>, opened: Opened, channel: Channel, bound: Duration) -> io::Result<Option<Opened>> {
        tracing::info!(clients = facts.gates().open(), "a new process serves; giving the clients to it");
        self.knocking = None;
        for listener in opened.listening {
            listener.close(Closing::GiveAway);
        }
        match giving::give_clients(facts, &channel, bound).await {
            Ok(moved) => {
                self.spares.borrow_mut().clear();
                tracing::info!(moved, "the new process has all clients that can move, and the others have left");
                Ok(None)
            }
            Err(Deserted(left_over)) => {
                for id in facts.mailboxes.ids() {
                    facts.mailboxes.post(id, |worker| {
                        *worker.postgres.leavers.borrow_mut() = None;
                        worker.drain.go_on_after_all();
                    });
                }
                let opened = open(facts, self.doors()?, opened.places).await?;
                for client in left_over {
                    taking::place_client(client, facts, &opened.places);
                }
                self.open(false);
                Ok(Some(opened))
            }
        }
    }

    /// The listeners once more.
    fn doors(&self) -> io::Result<Doors> {
        let spares = self.spares.borrow();
        let clients = spares.iter().filter_map(|spare| Some((spare.door.clone()?, spare)));
        clients.map(|(door, spare)| Ok((door, Bound::inherit(&spare.listen, spare.socket.try_clone()?)?))).collect()
    }

    /// The admin listener once more.
    pub fn admin(&self) -> Option<std::net::TcpListener> {
        let spares = self.spares.borrow();
        let socket = spares.iter().find(|spare| spare.door.is_none())?.socket.try_clone().ok()?;
        Some(std::net::TcpListener::from(socket))
    }
}
