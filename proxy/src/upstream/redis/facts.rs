//! What a server says about itself: in its answer to `HELLO` and in its answer to `COMMAND`. Known since the first connection to it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use sidepool_protocol::redis::reply::Reply;

/// What one worker knows of one server.
#[derive(Debug, Default)]
pub struct Facts {
    hello: RefCell<Option<Rc<Hello>>>,
    commands: RefCell<Option<Rc<HashMap<Box<[u8]>, Flags>>>>,
    asked: Cell<u32>,
}

/// What `HELLO` answers that is the server's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// `redis`, `valkey`, …
    pub server: String,
    /// Its version.
    pub version: String,
    /// `standalone`, `cluster` or `sentinel`.
    pub mode: String,
    /// `master` or `replica`.
    pub role: String,
    /// The loaded modules, as the server says it.
    pub modules: Vec<Reply>,
}

/// What `COMMAND` says about a command that the table does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags {
    /// It may be sent down a connection that clients share.
    pub shareable: bool,
    /// It changes nothing.
    pub reads: bool,
}

impl Facts {
    /// What the server answered to `HELLO`, once a connection to it was made.
    pub fn hello(&self) -> Option<Rc<Hello>> {
        self.hello.borrow().clone()
    }

    /// Takes in an answer to `HELLO`.
    pub fn learn_hello(&self, reply: &Reply) {
        let text = |key: &[u8]| reply.value_of(key).and_then(Reply::text).map(|text| String::from_utf8_lossy(text).into_owned());
        let hello = Hello {
            server: text(b"server").unwrap_or_else(|| "redis".to_owned()),
            version: text(b"version").unwrap_or_default(),
            mode: text(b"mode").unwrap_or_else(|| "standalone".to_owned()),
            role: text(b"role").unwrap_or_else(|| "master".to_owned()),
            modules: reply.value_of(b"modules").and_then(Reply::list).map(<[Reply]>::to_vec).unwrap_or_default(),
        };
        let known = self.hello.borrow().as_deref() == Some(&hello);
        if !known {
            // Another version or other modules: other commands.
            *self.commands.borrow_mut() = None;
            self.asked.set(0);
            *self.hello.borrow_mut() = Some(Rc::new(hello));
        }
    }

    /// The flags of a command, by its name in lower case; the outer `None`: ask the server for its commands first.
    pub fn flags(&self, name: &[u8]) -> Option<Option<Flags>> {
        self.commands.borrow().as_ref().map(|commands| commands.get(name).copied())
    }

    /// Takes in an answer to `COMMAND`.
    pub fn learn_commands(&self, reply: &Reply) {
        self.asked.set(self.asked.get() + 1);
        let rows = reply.list().unwrap_or_default();
        let commands = rows.iter().filter_map(|row| {
            let [name, _arity, flags, ..] = row.list()? else { return None };
            let has = |flag: &[u8]| flags.list().unwrap_or_default().iter().any(|held| held.text() == Some(flag));
            // Blocking ones wait; pub/sub ones and those that are both `noscript` and `admin` may change the connection itself.
            let shareable = !has(b"blocking") && !has(b"pubsub") && !(has(b"noscript") && has(b"admin"));
            let name: Box<[u8]> = name.text()?.to_ascii_lowercase().into();
            Some((name, Flags { shareable, reads: has(b"readonly") && shareable }))
        });
        *self.commands.borrow_mut() = Some(Rc::new(commands.collect()));
    }

    /// A command that the server did not list may have come with a module since: whether to ask again. Bounded, because clients choose names.
    pub fn may_ask_again(&self) -> bool {
        self.asked.get() < 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(all: &[&str]) -> Reply {
        Reply::List(all.iter().map(|text| Reply::Text(text.as_bytes().to_vec())).collect())
    }

    #[test]
    fn flags_decide_what_may_be_shared() {
        let facts = Facts::default();
        assert_eq!(facts.flags(b"x"), None);
        let row = |name: &str, flags: &[&str]| Reply::List(vec![Reply::Text(name.into()), Reply::Integer(-2), texts(flags)]);
        facts.learn_commands(&Reply::List(vec![
            row("mod.get", &["readonly", "fast"]),
            row("mod.wait", &["readonly", "blocking"]),
            row("mod.takeover", &["admin", "noscript"]),
            row("MOD.SET", &["write"]),
        ]));
        let flags = |name: &[u8]| facts.flags(name).unwrap();
        assert_eq!(flags(b"mod.get"), Some(Flags { shareable: true, reads: true }));
        assert_eq!(flags(b"mod.wait"), Some(Flags { shareable: false, reads: false }));
        assert_eq!(flags(b"mod.takeover"), Some(Flags { shareable: false, reads: false }));
        assert_eq!(flags(b"mod.set"), Some(Flags { shareable: true, reads: false }));
        assert_eq!(flags(b"nothing"), None);
    }
}
