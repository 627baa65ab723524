//! The connections that live on one worker and that nobody holds, by the names the core gave them.

use tokio::task::AbortHandle;

use super::id::ConnId;

/// What stands under a name.
enum Place<C> {
    /// A task opens it.
    Opening(AbortHandle),
    /// It is open. Boxed, so that handing it on moves a pointer.
    Here(Box<C>),
}

/// The connections of one pool that are on one worker and not leased.
pub(super) struct Table<C> {
    places: Vec<Option<(u32, Place<C>)>>,
}

impl<C> Default for Table<C> {
    fn default() -> Self {
        Self { places: Vec::new() }
    }
}

impl<C> Table<C> {
    /// Notes the task that opens a connection.
    pub(super) fn opening(&mut self, id: ConnId, task: AbortHandle) {
        self.put(id, Place::Opening(task));
    }

    /// Keeps an open connection.
    pub(super) fn keep(&mut self, id: ConnId, conn: Box<C>) {
        self.put(id, Place::Here(conn));
    }

    /// Takes a connection out. If it was still being opened, that ends.
    pub(super) fn take(&mut self, id: ConnId) -> Option<Box<C>> {
        let place = self.places.get_mut(id.slot as usize)?;
        if place.as_ref().is_none_or(|(generation, _)| *generation != id.generation) {
            return None;
        }
        match place.take() {
            Some((_, Place::Here(conn))) => Some(conn),
            Some((_, Place::Opening(task))) => {
                task.abort();
                None
            }
            None => None,
        }
    }

    /// The open connection of this name.
    pub(super) fn get(&mut self, id: ConnId) -> Option<&mut C> {
        match self.places.get_mut(id.slot as usize)? {
            Some((generation, Place::Here(conn))) if *generation == id.generation => Some(conn),
            Some(_) | None => None,
        }
    }

    /// All open connections.
    pub(super) fn all(&mut self) -> impl Iterator<Item = (ConnId, &mut C)> {
        (0_u32..).zip(&mut self.places).filter_map(|(slot, place)| match place {
            Some((generation, Place::Here(conn))) => Some((ConnId { slot, generation: *generation }, &mut **conn)),
            Some((_, Place::Opening(_))) | None => None,
        })
    }

    /// Takes everything out.
    pub(super) fn clear(&mut self) -> Vec<Box<C>> {
        self.places
            .drain(..)
            .filter_map(|place| match place? {
                (_, Place::Here(conn)) => Some(conn),
                (_, Place::Opening(task)) => {
                    task.abort();
                    None
                }
            })
            .collect()
    }

    fn put(&mut self, id: ConnId, place: Place<C>) {
        let slot = id.slot as usize;
        if self.places.len() <= slot {
            self.places.resize_with(slot + 1, || None);
        }
        self.places[slot] = Some((id.generation, place));
    }
}
