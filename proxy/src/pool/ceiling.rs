//! What a server that has no room for more connections leaves of a pool's size: as many as it let in, and then one more at a time. Forgotten when the
//! server has not refused one for a while, or when the pool has its full size again, with its reserve. Pure.

use std::time::{Duration, Instant};

/// How long a refusal is remembered.
const MEMORY: Duration = Duration::from_secs(60);

/// The ceiling of one pool.
#[derive(Debug, Clone, Default)]
pub(super) struct Ceiling(Option<Room>);

#[derive(Debug, Clone, Copy)]
struct Room {
    connections: u32,
    until: Instant,
}

impl Ceiling {
    /// The server let in so many connections and no more.
    pub(super) fn refused(&mut self, now: Instant, connections: u32) {
        self.0 = Some(Room { connections, until: now + MEMORY });
    }

    /// The server let another one in: now there are so many, of at most `max`.
    pub(super) fn admitted(&mut self, connections: u32, max: u32) {
        if let Some(room) = &mut self.0 {
            room.connections = room.connections.max(connections);
            if room.connections >= max {
                self.0 = None;
            }
        }
    }

    /// Forgets what is long ago. Answers when to look again.
    pub(super) fn expire(&mut self, now: Instant) -> Option<Instant> {
        self.0 = self.0.filter(|room| now < room.until);
        self.until()
    }

    /// Until when it is remembered.
    pub(super) fn until(&self) -> Option<Instant> {
        self.0.map(|room| room.until)
    }

    /// Nothing is known of the server.
    pub(super) fn forget(&mut self) {
        self.0 = None;
    }

    /// How many connections there is room for, of at most `max`.
    pub(super) fn room(&self, max: u32) -> u32 {
        self.0.map_or(max, |room| room.connections.min(max))
    }

    /// Whether that is less than `max`.
    pub(super) fn is_low(&self, max: u32) -> bool {
        self.room(max) < max
    }

    /// How many there may be, with the one that finds out whether there is more room.
    pub(super) fn limit(&self, max: u32) -> u32 {
        self.0.map_or(max, |room| room.connections.saturating_add(1).min(max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_grows_one_by_one_and_is_forgotten() {
        let now = crate::clock::now();
        let mut ceiling = Ceiling::default();
        assert_eq!((ceiling.room(10), ceiling.limit(10)), (10, 10));
        ceiling.refused(now, 4);
        assert_eq!((ceiling.room(10), ceiling.limit(10), ceiling.limit(3)), (4, 5, 3));
        ceiling.admitted(5, 10);
        assert_eq!((ceiling.room(10), ceiling.limit(10)), (5, 6));
        assert_eq!(ceiling.expire(now + MEMORY / 2), Some(now + MEMORY));
        assert_eq!((ceiling.expire(now + MEMORY), ceiling.room(10)), (None, 10));
        ceiling.refused(now, 9);
        ceiling.admitted(10, 10);
        assert_eq!(ceiling.until(), None);
    }
}
