//! The sources of scripts that went through here, so that `EVALSHA` works after a failover to a server that has never seen them: each new
//! connection brings along what its server does not have, before anybody uses it. Bounded: the oldest are forgotten.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use sha1::{Digest as _, Sha1};
use sidepool_protocol::redis::encode::{self, Resp};
use sidepool_protocol::redis::reply::Reply;

use super::login;
use crate::pool::fault::ConnectFault;
use crate::transport::stream::Stream;

/// Most scripts that are kept.
const KEPT_MAX: usize = 1024;
/// Longest sources, all together.
const BYTES_MAX: usize = 8 * 1024 * 1024;

type Name = [u8; 20];

/// What one worker knows of the scripts of one server.
#[derive(Debug, Default)]
pub struct Scripts(RefCell<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_name: HashMap<Name, Arc<[u8]>>,
    known: HashSet<Arc<[u8]>>,
    order: VecDeque<Name>,
    bytes: usize,
}

impl Scripts {
    /// A source went by. Gives it back if it is new.
    pub fn saw(&self, source: &[u8]) -> Option<Arc<[u8]>> {
        let kept = &mut *self.0.borrow_mut();
        if source.len() > BYTES_MAX || kept.known.contains(source) {
            return None;
        }
        while kept.order.len() >= KEPT_MAX || kept.bytes + source.len() > BYTES_MAX {
            let Some(oldest) = kept.order.pop_front().and_then(|name| kept.by_name.remove(&name)) else { break };
            kept.bytes -= oldest.len();
            kept.known.remove(&oldest);
        }
        let (name, source): (Name, Arc<[u8]>) = (Sha1::digest(source).into(), Arc::from(source));
        kept.bytes += source.len();
        kept.known.insert(Arc::clone(&source));
        kept.by_name.insert(name, Arc::clone(&source));
        kept.order.push_back(name);
        Some(source)
    }

    /// The source of a script by its name as `EVALSHA` takes it: 40 hexadecimal digits.
    pub fn source(&self, name: &[u8]) -> Option<Arc<[u8]>> {
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

    /// Loads what the server at the other end does not have: one question, and one write for all that is missing. A server that does not let us, or
    /// cannot now, is no reason to do without it.
    pub(super) async fn bring(&self, stream: &mut Stream, version: Resp, upstream: &str) -> Result<(), ConnectFault> {
        let names: Vec<Name> = self.0.borrow().order.iter().copied().collect();
        if names.is_empty() {
            return Ok(());
        }
        let shown: Vec<String> = names.iter().map(hex).collect();
        let question: Vec<&[u8]> = [&b"SCRIPT"[..], b"EXISTS"].into_iter().chain(shown.iter().map(String::as_bytes)).collect();
        let mut bytes = Vec::new();
        encode::command(&mut bytes, &question);
        let there = login::ask(stream, &bytes, version, upstream).await?;
        let absent = names.iter().zip(there.list().unwrap_or_default()).filter(|(_, there)| there.integer() == Some(0));
        let sources: Vec<Arc<[u8]>> = absent.filter_map(|(name, _)| self.0.borrow().by_name.get(name).cloned()).collect();
        if sources.is_empty() {
            return Ok(());
        }
        bytes.clear();
        for source in &sources {
            encode::command(&mut bytes, &[b"SCRIPT", b"LOAD", source]);
        }
        let answers = login::ask_many(stream, &bytes, sources.len(), version, upstream).await?;
        let refused = answers.iter().filter(|answer| matches!(answer, Reply::Error(_))).count();
        tracing::info!(upstream, loaded = sources.len() - refused, refused, "the Redis server did not have scripts that clients use");
        Ok(())
    }

    /// The server was told to forget them all.
    pub fn forget(&self) {
        *self.0.borrow_mut() = Kept::default();
    }
}

fn hex(name: &Name) -> String {
    use std::fmt::Write as _;
    name.iter().fold(String::with_capacity(name.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_found_by_its_name_in_any_case() {
        let scripts = Scripts::default();
        assert_eq!(scripts.saw(b"return 1").as_deref(), Some(&b"return 1"[..]));
        assert_eq!(scripts.saw(b"return 1"), None, "it is no news");
        assert_eq!(scripts.0.borrow().order.iter().map(hex).collect::<Vec<_>>(), ["e0e1f9fabfc9d4800c877a703b823ac0578ff8db"]);
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
