//! The sources of scripts that went through here, so that `EVALSHA` works after a failover to a server that has never seen them. Bounded: the oldest
//! are forgotten.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;

use sha1::{Digest as _, Sha1};

/// Most scripts that are kept.
const KEPT_MAX: usize = 1024;
/// Longest sources, all together.
const BYTES_MAX: usize = 8 * 1024 * 1024;

type Name = [u8; 20];

/// What one worker knows of the scripts of one server.
#[derive(Default)]
pub struct Scripts(RefCell<Kept>);

#[derive(Default)]
struct Kept {
    by_name: HashMap<Name, Rc<[u8]>>,
    known: HashSet<Rc<[u8]>>,
    order: VecDeque<Name>,
    bytes: usize,
}

impl Scripts {
    /// A source went by.
    pub fn saw(&self, source: &[u8]) {
        let kept = &mut *self.0.borrow_mut();
        if source.len() > BYTES_MAX || kept.known.contains(source) {
            return;
        }
        while kept.order.len() >= KEPT_MAX || kept.bytes + source.len() > BYTES_MAX {
            let Some(oldest) = kept.order.pop_front().and_then(|name| kept.by_name.remove(&name)) else { break };
            kept.bytes -= oldest.len();
            kept.known.remove(&oldest);
        }
        let (name, source): (Name, Rc<[u8]>) = (Sha1::digest(source).into(), Rc::from(source));
        kept.bytes += source.len();
        kept.known.insert(Rc::clone(&source));
        kept.by_name.insert(name, source);
        kept.order.push_back(name);
    }

    /// The source of a script by its name as `EVALSHA` takes it: 40 hexadecimal digits.
    pub fn source(&self, name: &[u8]) -> Option<Rc<[u8]>> {
        let mut key = Name::default();
        if name.len() != key.len() * 2 {
            return None;
        }
        for (byte, pair) in key.iter_mut().zip(name.chunks_exact(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16);
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        self.0.borrow().by_name.get(&key).cloned()
    }

    /// The server was told to forget them all.
    pub fn forget(&self) {
        *self.0.borrow_mut() = Kept::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_found_by_its_name_in_any_case() {
        let scripts = Scripts::default();
        scripts.saw(b"return 1");
        for name in ["e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "E0E1F9FABFC9D4800C877A703B823AC0578FF8DB"] {
            assert_eq!(scripts.source(name.as_bytes()).as_deref(), Some(&b"return 1"[..]));
        }
        assert_eq!(scripts.source(b"e0e1"), None);
        assert_eq!(scripts.source(&[b'x'; 40]), None);
        scripts.forget();
        assert_eq!(scripts.source(b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db"), None);
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let scripts = Scripts::default();
        for number in 0..KEPT_MAX * 2 {
            scripts.saw(format!("return {number}").as_bytes());
        }
        scripts.saw(&vec![b'-'; BYTES_MAX + 1]);
        let kept = scripts.0.borrow();
        assert!(kept.order.len() == KEPT_MAX && kept.known.len() == KEPT_MAX && kept.by_name.len() == KEPT_MAX && kept.bytes < BYTES_MAX);
    }
}
