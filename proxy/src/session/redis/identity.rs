//! Among whom a client waits for a connection of its own: what `queue_fairness` tells clients apart by, as a number. Found out when one is leased, which
//! few commands need, and kept for as long as the lease.

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
        let ends = || client.with_stream(Ends::of).unwrap_or(Ends::Unknown);
        let id = match config.queue_fairness {
            QueueFairness::User => identities.join(client.shown.user.borrow().as_deref().unwrap_or_default()),
            QueueFairness::ApplicationName => {
                let words = client.shown.words.borrow();
                identities.join(words.as_ref().map_or("", |words| &words.name))
            }
            QueueFairness::Address => identities.join(&ends().theirs().to_string()),
            QueueFairness::Listener => identities.join(&ends().door(&config.listen)),
            QueueFairness::Off => IdentityId::default(),
        };
        Self { identities: identities.clone(), id }
    }

    /// Its number.
    pub(super) fn id(&self) -> IdentityId {
        self.id
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.identities.part(self.id);
    }
}
