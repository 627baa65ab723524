//! Among whom a client waits for connections: what `queue_fairness` tells clients apart by, as a number. It is found out when a client is in and when
//! its `application_name` changes, so that asking for a connection costs nothing more. Not here: what the queue makes of it (`pool::turns`).

use std::rc::Rc;

use sidepool_config::model::QueueFairness;
use sidepool_protocol::postgres::parameters::ParameterSet;

use super::presence::Presence;
use crate::pool::id::IdentityId;
use crate::worker::Worker;

/// Gives a client its identity.
pub(super) fn identify(worker: &Worker, presence: &Presence) {
    let identities = &worker.identities;
    let new = match fairness(worker) {
        QueueFairness::User => identities.join(&presence.who.user),
        QueueFairness::ApplicationName => identities.join(presence.state().get(APPLICATION_NAME).unwrap_or_default()),
        QueueFairness::Address => identities.join(&presence.ends.theirs().to_string()),
        QueueFairness::Listener => {
            let config = worker.config.borrow();
            let listen = config.postgres.as_ref().map_or(&[][..], |postgres| &postgres.listen);
            identities.join(&presence.ends.door(listen))
        }
        QueueFairness::Off => IdentityId::default(),
    };
    identities.part(presence.set_identity(new));
}

/// A client has other parameters now.
pub(super) fn set_state(worker: &Worker, presence: &Presence, state: &Rc<ParameterSet>) {
    let before = presence.state();
    presence.set_state(state);
    let is_named = fairness(worker) == QueueFairness::ApplicationName;
    if is_named && !Rc::ptr_eq(&before, state) && before.get(APPLICATION_NAME) != state.get(APPLICATION_NAME) {
        identify(worker, presence);
    }
}

/// A client is gone.
pub(super) fn forget(worker: &Worker, presence: &Presence) {
    worker.identities.part(presence.set_identity(IdentityId::default()));
}

const APPLICATION_NAME: &str = "application_name";

fn fairness(worker: &Worker) -> QueueFairness {
    worker.config.borrow().postgres.as_ref().map_or(QueueFairness::Off, |postgres| postgres.queue_fairness)
}
