//! Among whom a client waits, for a connection of its own or for room on a shared one: what `queue_fairness` tells clients apart by, as a number. Found out
//! when one is leased, and for as long as that; and when the client first comes to a lane, until it leaves or is somebody else.

use sidepool_config::model::{QueueFairness, Redis};

use super::client::Client;
use crate::pool::id::IdentityId;
use crate::pool::identities::Identities;
use crate::transport::ends::Ends;

/// A client's part in its identity; ends when dropped.
pub(super) struct Named {
    identities: Identities,
    id: IdentityId,
}

impl Named {
    /// That of `client`.
    pub(super) fn new(identities: &Identities, config: &Redis, client: &Client) -> Self {
        Self { identities: identities.clone(), id: join(identities, config, client) }
    }

    /// Its number.
    pub(super) fn id(&self) -> IdentityId {
        self.id
    }
}

/// The number of `client`'s identity, to be given back.
pub(super) fn join(identities: &Identities, config: &Redis, client: &Client) -> IdentityId {
    let ends = || client.with_stream(Ends::of).unwrap_or(Ends::Unknown);
    match config.queue_fairness {
        QueueFairness::User => identities.join(client.shown.user.borrow().as_deref().unwrap_or_default()),
        QueueFairness::ApplicationName => {
            let words = client.shown.words.borrow();
            identities.join(words.as_ref().map_or("", |words| &words.name))
        }
        QueueFairness::Address => identities.join(&ends().theirs().to_string()),
        QueueFairness::Listener => identities.join(&ends().door(&config.listen)),
        QueueFairness::Off => IdentityId::default(),
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.identities.part(self.id);
    }
}
