//! Names of client identities as small numbers, the same on all workers: a pool keeps what it knows of an identity at its number.
//!
//! A number is in use as long as a client has it. There is a bound, and identities beyond it share numbers with others, as chance has it: clients
//! choose their names, and must not choose with whom they share. Number 0 is nobody's: what the proxy itself asks for. Asked for when a client comes and
//! when its identity changes, that of a Redis client at its first command for a shared connection, and whenever it leases one of its own, which few commands
//! need: never per message.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::id::IdentityId;

/// So many numbers there are, and so many identities at a time that need not share.
pub const MOST: u16 = 1023;

/// The identities of a process.
#[derive(Debug, Clone, Default)]
pub struct Identities(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    numbers: HashMap<Arc<str>, IdentityId>,
    /// Of each number from 1: whose it is, and how many clients have it.
    entries: Vec<(Arc<str>, u32)>,
    free: Vec<IdentityId>,
}

impl Identities {
    /// The number of `name`, for one more client; to be given back with [`Identities::part`].
    #[must_use]
    pub fn join(&self, name: &str) -> IdentityId {
        let mut book = self.lock();
        if let Some(known) = book.numbers.get(name).copied() {
            book.entries[place(known)].1 += 1;
            return known;
        }
        let name: Arc<str> = name.into();
        let entry = (Arc::clone(&name), 1);
        let number = match book.free.pop() {
            Some(number) => {
                book.entries[place(number)] = entry;
                number
            }
            None if book.entries.len() < usize::from(MOST) => {
                book.entries.push(entry);
                IdentityId(u16::try_from(book.entries.len()).unwrap_or(MOST))
            }
            None => {
                let number = IdentityId(shared(book.numbers.hasher().hash_one(&name)));
                book.entries[place(number)].1 += 1;
                return number;
            }
        };
        book.numbers.insert(name, number);
        number
    }

    /// One client fewer has this number.
    pub fn part(&self, number: IdentityId) {
        if number == IdentityId::default() {
            return;
        }
        let mut book = self.lock();
        let Book { numbers, entries, free } = &mut *book;
        let (name, clients) = &mut entries[place(number)];
        *clients -= 1;
        if *clients == 0 {
            numbers.remove(name);
            free.push(number);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number for this hash.
fn shared(hash: u64) -> u16 {
    1 + u16::try_from(hash % u64::from(MOST)).unwrap_or(0)
}

fn place(number: IdentityId) -> usize {
    usize::from(number.0) - 1
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn count(identities: &Identities) -> usize {
        identities.lock().numbers.len()
    }

    #[test]
    fn a_number_is_one_identity_s_as_long_as_it_has_clients() {
        let identities = Identities::default();
        let (first, again, other) = (identities.join("a"), identities.join("a"), identities.join("b"));
        assert!(first == again && first != other && first != IdentityId::default());
        identities.part(first);
        assert_eq!(identities.join("a"), first);
        identities.part(first);
        identities.part(again);
        assert_eq!(count(&identities), 1);
        assert_eq!(identities.join("c"), first, "a number is used again");
    }

    #[test]
    fn identities_beyond_the_bound_share_the_numbers_evenly() {
        let identities = Identities::default();
        let join = |index: u16| identities.join(&index.to_string());
        let own: Vec<IdentityId> = (0..MOST).map(join).collect();
        let shared: Vec<IdentityId> = (MOST..3 * MOST).map(join).collect();
        assert_eq!(join(2 * MOST), shared[usize::from(MOST)], "it stays the same");
        identities.part(shared[usize::from(MOST)]);
        assert_eq!(count(&identities), usize::from(MOST));
        assert!(shared.iter().all(|number| own.contains(number)), "none of them is nobody's");
        let different: HashSet<IdentityId> = shared.iter().copied().collect();
        assert!(different.len() > usize::from(MOST) / 2, "{} numbers for {} identities", different.len(), shared.len());
        own.iter().for_each(|number| identities.part(*number));
        assert_eq!(count(&identities), different.len(), "a number is in use as long as a client has it");
        shared.iter().for_each(|number| identities.part(*number));
        assert_eq!(count(&identities), 0);
        assert_eq!(identities.lock().entries.len(), usize::from(MOST));
        assert_ne!(identities.join("new"), IdentityId::default());
    }
}
