//! `CLIENT …`: what a client asks about itself or about the proxy's other clients is answered here; upstream numbers never show.

use sidepool_config::model::{QueueFairness, RedisAuth};
use sidepool_protocol::redis::command::{Command, Handling, Kind};
use sidepool_protocol::redis::encode;
use sidepool_protocol::redis::handshake;
use sidepool_protocol::redis::request::Arguments;
use sidepool_protocol::redis::tracker::Work;

use super::client_list;
use super::requests::anew;
use super::run::Session;
use super::steps::{Next, Replies, Step};

impl Session {
    pub(super) fn virtual_command(&mut self, whole: &[u8], command: &Command) -> Next {
        let arguments: Vec<&[u8]> = Arguments::new(whole).skip(2).collect();
        let arity = |name: &str| handshake::wrong_arity(&format!("client|{name}"));
        match (command.handling, arguments.as_slice()) {
            (Handling::SetName, [name]) => self.set_name_checked(name),
            (Handling::SetName, _) => self.say_error(arity("setname")),
            (Handling::GetName, []) => self.get_name(),
            (Handling::GetName, _) => self.say_error(arity("getname")),
            (Handling::SetInfo, [option, value]) => self.set_info(option, value),
            (Handling::SetInfo, _) => self.say_error(arity("setinfo")),
            (Handling::ClientId, []) => self.say_integer(i64::try_from(self.client.id).unwrap_or(i64::MAX)),
            (Handling::ClientId, _) => self.say_error(arity("id")),
            (Handling::GetRedir, []) => self.say_integer(-1),
            (Handling::GetRedir, _) => self.say_error(arity("getredir")),
            (Handling::ClientInfo, []) => {
                let line = client_list::line(&self.client, crate::clock::now(), (self.client.id, whole.len()));
                self.say_text(&line)
            }
            (Handling::ClientInfo, _) => self.say_error(arity("info")),
            (Handling::ClientList | Handling::ClientKill | Handling::ClientUnblock, _) => self.about_clients(whole, command),
            (Handling::ReplyMode, [mode]) => self.reply_mode(mode),
            (Handling::ReplyMode, _) => self.say_error(arity("reply")),
            (Handling::Switch, [mode]) if mode.eq_ignore_ascii_case(b"on") || mode.eq_ignore_ascii_case(b"off") => self.step(Step::Switch),
            (Handling::Switch, [_]) => self.say_error("ERR syntax error"),
            (Handling::Switch, _) => self.say_error(handshake::wrong_arity(command.name)),
            (Handling::Accept, _) => self.say_ok(),
            (Handling::WhoAmI, []) if self.is_mapped() => self.who_am_i(),
            (Handling::AboutUser, _) => {
                let whole = self.upstream_words(whole);
                self.share(&whole, Work::Writes, Kind::Admin, false)
            }
            (_not_virtual, _) => self.share(whole, Work::Writes, Kind::Connection, false),
        }
    }

    /// Whether users are known here.
    pub(super) fn is_mapped(&self) -> bool {
        self.server.config().auth() == RedisAuth::Map
    }

    /// Where users are known here, a client is who it says it is, whoever that is to the server.
    fn who_am_i(&mut self) -> Next {
        let mut out = Vec::new();
        encode::bulk(&mut out, self.account.as_ref().map_or("default", |account| &account.name).as_bytes());
        self.say(&out);
        Next::Done
    }

    /// The same question about a user, who is asked about itself by its own name, in the server's words.
    pub(super) fn upstream_words(&self, whole: &[u8]) -> Vec<u8> {
        let account = self.account.as_ref().filter(|_| self.is_mapped());
        let words = Arguments::new(whole).enumerate();
        anew(words.map(|(place, word)| match &account {
            Some(account) if place == 2 && word == account.name.as_bytes() => account.upstream.as_bytes(),
            Some(_) | None => word,
        }))
    }

    pub(super) fn say_ok(&mut self) -> Next {
        self.say(b"+OK\r\n");
        Next::Done
    }

    fn say_integer(&mut self, value: i64) -> Next {
        let mut out = Vec::new();
        encode::integer(&mut out, value);
        self.say(&out);
        Next::Done
    }

    fn say_text(&mut self, text: &str) -> Next {
        let mut out = Vec::with_capacity(text.len() + 32);
        encode::text(&mut out, self.version, text);
        self.say(&out);
        Next::Done
    }

    fn set_name_checked(&mut self, name: &[u8]) -> Next {
        if let Err(line) = handshake::check_name(name) {
            return self.say_error(&line);
        }
        self.set_name(name);
        self.say_ok()
    }

    pub(super) fn set_name(&self, name: &[u8]) {
        let name = String::from_utf8_lossy(name);
        self.client.shown.rename(|words| words.name = name.into());
        self.rejoin_identity(QueueFairness::ApplicationName);
    }

    fn get_name(&mut self) -> Next {
        let mut out = Vec::new();
        match &*self.client.shown.words().name {
            "" => encode::null(&mut out, self.version),
            name => encode::bulk(&mut out, name.as_bytes()),
        }
        self.say(&out);
        Next::Done
    }

    /// Accepted for any version of the server: it is the proxy's client, and what it says of itself is not passed on.
    fn set_info(&mut self, option: &[u8], value: &[u8]) -> Next {
        let names = option.eq_ignore_ascii_case(b"lib-name");
        if !names && !option.eq_ignore_ascii_case(b"lib-ver") {
            return self.say_error(format!("ERR Unrecognized option '{}'", String::from_utf8_lossy(option)));
        }
        if handshake::check_name(value).is_err() {
            let option = String::from_utf8_lossy(option).to_ascii_lowercase();
            return self.say_error(format!("ERR {option} cannot contain spaces, newlines or special characters."));
        }
        let value = String::from_utf8_lossy(value).into();
        self.client.shown.rename(|words| if names { words.library = value } else { words.version = value });
        self.say_ok()
    }

    fn reply_mode(&mut self, mode: &[u8]) -> Next {
        if mode.eq_ignore_ascii_case(b"on") {
            self.replies = Replies::On;
            return self.say_ok();
        }
        if mode.eq_ignore_ascii_case(b"off") {
            self.replies = Replies::Off;
            return Next::Done;
        }
        if mode.eq_ignore_ascii_case(b"skip") {
            if self.replies == Replies::On {
                self.replies = Replies::Skip;
            }
            return Next::Done;
        }
        self.say_error("ERR syntax error")
    }

    /// `CLIENT TRACKING`: off is what a shared connection is; on needs a connection of its own.
    pub(super) fn tracking(&mut self, whole: &[u8]) -> Next {
        let mode = Arguments::new(whole).nth(2);
        match mode {
            Some(mode) if mode.eq_ignore_ascii_case(b"off") && Arguments::new(whole).count() == 3 => self.say_ok(),
            Some(_) | None => self.step(Step::Lease),
        }
    }
}
