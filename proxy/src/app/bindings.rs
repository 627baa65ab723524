//! Every socket that is listened on: bound here, opened by the service manager, or taken over from the process before.

use std::fmt::Display;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;

use sidepool_config::model::{Config, Listen};

use super::upgrade::inherited as take;
use crate::activation::Sockets;
use crate::admin::http;
use crate::handover::giving::Spare;
use crate::handover::taking::Inherited;
use crate::listener::bind::{Bound, Options};
use crate::listener::gate::Door;

/// Sockets with what comes in there.
pub(super) type Doors = Vec<(Door, Bound)>;

/// Everything that is bound.
pub(super) struct Bindings {
    pub(super) doors: Doors,
    pub(super) admin: Option<TcpListener>,
    /// All of them once more, for a process that takes over.
    pub(super) spares: Vec<Spare>,
    /// The configuration with the addresses that the kernel chose where it was asked to (port 0): for people alone, because to a reload the
    /// configured ones are what counts.
    pub(super) shown: Config,
}

/// Binds every listener, but for those that were inherited from the process that we take over from, or passed to us.
pub(super) fn bind(config: &Config, mut inherited: Vec<Inherited>, mut passed: Sockets) -> io::Result<Bindings> {
    let (mut doors, mut spares) = (Vec::new(), Vec::new());
    let mut shown = config.clone();
    let mut open = |door: Door, listens: &mut Vec<Listen>, options: &Options| -> io::Result<()> {
        for listen in std::mem::take(listens) {
            let bound = match (take(&mut inherited, Some(&door), &listen), passed.get(&listen)) {
                (Some(socket), _) => Bound::inherit(&listen, socket),
                (None, Some(socket)) => Bound::passed(&listen, socket),
                (None, None) => Bound::bind(&listen, options),
            };
            let bound = match bound {
                Ok(bound) => bound,
                Err(error) if options.may_be_without(&listen, &error) => {
                    tracing::warn!("cannot listen on {listen}: {error}; going on without IPv6");
                    continue;
                }
                Err(error) => return Err(cannot_listen(&listen, &error)),
            };
            spares.push(Spare { door: Some(door.clone()), listen: listen.clone(), socket: bound.spare()? });
            listens.push(bound.address().map_or(listen, Listen::Tcp));
            doors.push((door.clone(), bound));
        }
        Ok(())
    };
    if let Some(postgres) = &mut shown.postgres {
        let options = Options::from(&*postgres);
        open(Door::Postgres, &mut postgres.listen, &options)?;
    }
    for (name, redis) in &mut shown.redis {
        open(Door::Redis(name.as_str().into()), &mut redis.listen, &Options::default())?;
    }
    let admin = config.admin.listen.map(|address| bind_admin(address, &mut inherited, &mut passed)).transpose()?;
    passed.warn_of_the_rest();
    if let (Some(listener), Some(address)) = (&admin, config.admin.listen) {
        shown.admin.listen = Some(listener.local_addr()?);
        spares.push(Spare { door: None, listen: Listen::Tcp(address), socket: listener.as_fd().try_clone_to_owned()? });
    }
    Ok(Bindings { doors, admin, spares, shown })
}

fn bind_admin(address: SocketAddr, inherited: &mut Vec<Inherited>, passed: &mut Sockets) -> io::Result<TcpListener> {
    let listen = Listen::Tcp(address);
    if let Some(socket) = take(inherited, None, &listen).or_else(|| passed.get(&listen)) {
        let listener = TcpListener::from(socket);
        listener.set_nonblocking(true)?;
        return Ok(listener);
    }
    http::bind(address).map_err(|error| cannot_listen(&address, &error))
}

fn cannot_listen(address: &dyn Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
}
