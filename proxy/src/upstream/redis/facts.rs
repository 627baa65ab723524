//! What a server says about itself: in its answer to `HELLO` and, for commands that sidepool does not know,
//! in its answers to `COMMAND INFO`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use sidepool_protocol::redis::reply::Reply;

use super::scripts::Scripts;

/// What one worker knows of one server.
#[derive(Debug, Default)]
pub struct Facts {
    hello: RefCell<Option<Rc<Hello>>>,
    commands: RefCell<HashMap<Box<[u8]>, Flags>>,
    /// The scripts it should have.
    pub scripts: Scripts,
}

/// Most commands that are remembered. Clients choose the names, servers have some hundreds.
const COMMANDS_MAX: usize = 4096;

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

/// What `COMMAND INFO` says about a command that the table does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags {
    /// It may be sent down a connection that clients share.
    pub shareable: bool,
    /// It changes nothing.
    pub reads: bool,
    /// It may wait for somebody else.
    pub blocks: bool,
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
            self.commands.borrow_mut().clear();
            *self.hello.borrow_mut() = Some(Rc::new(hello));
        }
    }

    /// The flags of a command, by its name in lower case; `None`: ask the server.
    pub fn flags(&self, name: &[u8]) -> Option<Flags> {
        self.commands.borrow().get(name).copied()
    }

    /// Takes in an answer to `COMMAND INFO`. What the server does not have is not remembered: a module may bring it.
    pub fn learn_commands(&self, reply: &Reply) {
        let mut commands = self.commands.borrow_mut();
        for row in reply.list().unwrap_or_default() {
            let Some([name, _arity, flags, ..]) = row.list() else { continue };
            let has = |flag: &[u8]| flags.list().unwrap_or_default().iter().any(|held| held.text() == Some(flag));
            // Blocking ones wait; pub/sub ones and those that are both `noscript` and `admin` may change the connection itself.
            let takes_over = has(b"noscript") && has(b"admin");
            let blocks = has(b"blocking");
            let shareable = !blocks && !has(b"pubsub") && !takes_over;
            let Some(name) = name.text() else { continue };
            if commands.len() < COMMANDS_MAX {
                commands.insert(name.to_ascii_lowercase().into(), Flags { shareable, reads: has(b"readonly") && shareable, blocks });
            }
        }
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
        let flags = |name: &[u8]| facts.flags(name);
        assert_eq!(flags(b"mod.get"), Some(Flags { shareable: true, reads: true, blocks: false }));
        assert_eq!(flags(b"mod.wait"), Some(Flags { shareable: false, reads: false, blocks: true }));
        assert_eq!(flags(b"mod.takeover"), Some(Flags { shareable: false, reads: false, blocks: false }));
        assert_eq!(flags(b"mod.set"), Some(Flags { shareable: true, reads: false, blocks: false }));
        assert_eq!(flags(b"nothing"), None);
    }
}
