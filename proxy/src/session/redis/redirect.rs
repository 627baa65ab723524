//! `CLIENT TRACKING … REDIRECT id`: the number is the proxy's, and means something else, or nothing, to the server. In the client's request it is
//! exchanged for one that the server knows, and in the server's replies back again.
//!
//! ```text
//!   client:  REDIRECT 5          server:  REDIRECT 71     71: a connection on which only invalidations arrive (`invalidations`)
//!            redirect 5    ◀──            redirect 71         the client's own connection, where 5 is the client itself
//!                                                             none at all, where 5 is nobody: the server says so
//! ```
//! Not here: how invalidations come to client 5.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use memchr::memmem;
use sidepool_protocol::redis::encode::Resp;
use sidepool_protocol::redis::request::{Arguments, parse_integer};

use super::invalidations::{self, Sink};
use super::relay::{Relay, What};
use super::relay_transaction::Change;
use super::requests::anew;
use super::run::Session;

/// A number that no connection has.
const NOBODY: i64 = i64::MAX;

/// Where a client's invalidations go.
pub(super) struct Redirect {
    /// The number that the server knows.
    upstream: i64,
    /// The number that clients know.
    target: u64,
    /// Where they arrive; `None`: on the client's own connection.
    sink: Option<Sink>,
    /// One came after the target had left.
    broken: bool,
}

/// A request in the server's numbers, and what it means.
pub(super) struct Redirected {
    request: Vec<u8>,
    on: bool,
    redirect: Option<Box<Redirect>>,
}

/// The numbers of clients are being found out.
pub(super) type Redirecting = std::pin::Pin<Box<dyn Future<Output = Result<Redirected, String>>>>;

impl fmt::Debug for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redirect").field("upstream", &self.upstream).field("target", &self.target).finish_non_exhaustive()
    }
}

impl PartialEq for Redirect {
    fn eq(&self, other: &Self) -> bool {
        (self.upstream, self.target) == (other.upstream, other.target)
    }
}

impl Eq for Redirect {}

impl Relay {
    /// Finds out what a request with `REDIRECT` means to the server; nothing more is sent before that. False: not before all that is owed has come.
    pub(super) fn redirect_to(&mut self, session: &Session, whole: &[u8]) -> bool {
        if !self.multi && !self.owed.is_empty() {
            return false;
        }
        self.redirecting = Some(Box::pin(session.redirected(whole)));
        true
    }

    /// Sends the request once its numbers are known; whether they are now.
    pub(super) fn poll_redirecting(&mut self, session: &mut Session, cx: &mut Context<'_>) -> bool {
        let Some(Poll::Ready(redirected)) = self.redirecting.as_mut().map(|redirecting| redirecting.as_mut().poll(cx)) else {
            return false;
        };
        self.redirecting = None;
        match redirected {
            Ok(Redirected { request, on, redirect }) => {
                let change = Box::new(Change::Tracking(on, redirect));
                (self.dirty, self.settling) = (true, true);
                self.send(session, &request, if self.multi { What::Queued(Some(change)) } else { What::Changed(change) });
            }
            Err(line) => {
                self.poisoned |= self.multi;
                self.answer_error(session, line);
                self.say_own(session);
            }
        }
        true
    }

    /// The server has switched tracking on or off.
    pub(super) fn track(&mut self, session: &Session, on: bool, redirect: Option<Box<Redirect>>) {
        self.tracking = on;
        self.kept = on || self.channels > 0 || self.listens;
        let before = std::mem::replace(&mut self.redirect, redirect.filter(|_| on));
        retire(session, before);
        let target = self.redirect.as_ref().map_or(0, |redirect| redirect.target);
        session.client.shown.rename(|words| (words.redirect, words.redirect_broken) = (target, false));
    }

    /// Hands invalidations on; whether there were any. An error: the connection on which they arrive is lost.
    pub(super) fn poll_invalidations(&mut self, session: &Session, cx: &mut Context<'_>) -> Result<bool, ()> {
        let Some(redirect) = &mut self.redirect else { return Ok(false) };
        let Some(sink) = &mut redirect.sink else { return Ok(false) };
        let Poll::Ready(in_vain) = sink.poll(&session.server, &session.worker, redirect.target, cx)? else { return Ok(false) };
        if in_vain > 0 && !std::mem::replace(&mut redirect.broken, true) {
            session.client.shown.rename(|words| words.redirect_broken = true);
        }
        if session.version == Resp::Three {
            let push = format!(">2\r\n$21\r\ntracking-redir-broken\r\n:{}\r\n", redirect.target);
            (0..in_vain).for_each(|_| session.client.deliver_message(push.as_bytes()));
        }
        Ok(true)
    }

    /// The client's connection is given back, or lost: then the target may have missed something, and is closed as by a server that is gone.
    pub(super) fn end_redirect(&mut self, session: &Session, lost: bool) {
        let redirect = self.redirect.take();
        if let Some(Redirect { target, sink: Some(sink), .. }) = redirect.as_deref()
            && lost
        {
            sink.close_target(session, *target);
        } else {
            retire(session, redirect);
        }
    }

    /// A reply of the server in the numbers that clients know.
    pub(super) fn in_our_numbers<'a>(&self, reply: &'a [u8]) -> Cow<'a, [u8]> {
        match &self.redirect {
            Some(redirect) => Cow::Owned(redirect.in_our_numbers(reply)),
            None => Cow::Borrowed(reply),
        }
    }
}

/// What has been sent already still arrives.
fn retire(session: &Session, redirect: Option<Box<Redirect>>) {
    if let Some(Redirect { target, sink: Some(sink), .. }) = redirect.map(|redirect| *redirect) {
        sink.retire(session, target);
    }
}

impl Redirect {
    /// In all these replies the number stands before any words of the client.
    fn in_our_numbers(&self, reply: &[u8]) -> Vec<u8> {
        let number = format!(":{}\r\n", self.upstream);
        let Some(at) = memmem::find(reply, number.as_bytes()) else { return reply.to_vec() };
        let before = if self.broken { with_broken(&reply[..at]) } else { reply[..at].to_vec() };
        [&before[..], format!(":{}\r\n", self.target).as_bytes(), &reply[at + number.len()..]].concat()
    }
}

/// The beginning of `CLIENT TRACKINGINFO` up to the number, with the flag that the server cannot know of. Of anything else, nothing changes.
fn with_broken(head: &[u8]) -> Vec<u8> {
    const FLAGS: &[u8] = b"$5\r\nflags\r\n";
    const NEXT: &[u8] = b"$8\r\nredirect\r\n";
    let count = memmem::find(head, FLAGS).map(|at| at + FLAGS.len() + 1);
    let (Some(count), Some(flags)) = (count, head.strip_suffix(NEXT)) else { return head.to_vec() };
    let Some(digits) = flags.get(count..).and_then(|rest| memchr::memchr(b'\r', rest)) else { return head.to_vec() };
    let Some(flagged) = parse_integer(&flags[count..count + digits]) else { return head.to_vec() };
    let more = (flagged + 1).to_string();
    [&flags[..count], more.as_bytes(), &flags[count + digits..], b"$15\r\nbroken_redirect\r\n", NEXT].concat()
}

impl Session {
    /// What a request with `REDIRECT` means to the server. Only what is redirected needs a second connection.
    fn redirected(&self, whole: &[u8]) -> impl Future<Output = Result<Redirected, String>> + use<> {
        let (server, worker, key) = (Rc::clone(&self.server), Rc::clone(&self.worker), self.key());
        let (me, leased, whole) = (self.client.id, self.client.shown.leased.get(), whole.to_vec());
        async move {
            let words: Vec<&[u8]> = Arguments::new(&whole).collect();
            let on = words.get(2).is_some_and(|mode| mode.eq_ignore_ascii_case(b"on"));
            let named = places(&words).first().and_then(|place| parse_integer(words[*place]));
            let target = named.and_then(|id| u64::try_from(id).ok()).unwrap_or(0);
            let there = match target {
                0 => None,
                target if target == me => return Ok(Redirected::new(&words, on, Some((leased, target, None)))),
                target => invalidations::find(&worker, Arc::clone(&server.name), target).await,
            };
            let (Some(there), Some(key)) = (there, key) else { return Ok(Redirected::new(&words, on, None)) };
            if !on {
                return Ok(Redirected::new(&words, on, Some((leased, target, None))));
            }
            let sink = Sink::open(&server, &worker, key, there).await?;
            Ok(Redirected::new(&words, on, Some((sink.id(), target, Some(sink)))))
        }
    }
}

impl Redirected {
    fn new(words: &[&[u8]], on: bool, to: Option<(i64, u64, Option<Sink>)>) -> Self {
        let redirect = to.map(|(upstream, target, sink)| Box::new(Redirect { upstream, target, sink, broken: false }));
        let number = redirect.as_ref().map_or(NOBODY, |redirect| redirect.upstream);
        Self { request: with_number(words, number), on, redirect }
    }
}

/// The request with another number. What is none is the server's to refuse.
fn with_number(words: &[&[u8]], number: i64) -> Vec<u8> {
    let (places, number) = (places(words), number.to_string());
    anew(words.iter().enumerate().map(|(at, word)| match places.contains(&at) && parse_integer(word).is_some() {
        true => number.as_bytes(),
        false => word,
    }))
}

/// Whether invalidations are to go to another client.
pub(super) fn is_redirected(whole: &[u8]) -> bool {
    !places(&Arguments::new(whole).collect::<Vec<_>>()).is_empty()
}

/// Where the numbers of clients stand.
fn places(words: &[&[u8]]) -> Vec<usize> {
    let (mut places, mut at) = (Vec::new(), 3);
    while at + 1 < words.len() {
        let redirects = words[at].eq_ignore_ascii_case(b"redirect");
        if redirects {
            places.push(at + 1);
        }
        at += if redirects || words[at].eq_ignore_ascii_case(b"prefix") { 2 } else { 1 };
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirect(broken: bool) -> Redirect {
        Redirect { upstream: 71, target: 5, sink: None, broken }
    }

    #[test]
    fn a_prefix_of_that_name_redirects_nothing() {
        let redirected = |words: &str| is_redirected(&anew(words.split(' ').map(str::as_bytes)));
        assert!(redirected("CLIENT TRACKING ON REDIRECT 5"));
        assert!(redirected("client tracking on bcast prefix a Redirect 5 noloop"));
        assert!(redirected("CLIENT TRACKING OFF REDIRECT 5"));
        for other in
            ["CLIENT TRACKING ON", "CLIENT TRACKING", "CLIENT TRACKING ON BCAST PREFIX REDIRECT PREFIX b", "CLIENT TRACKING ON REDIRECT"]
        {
            assert!(!redirected(other), "{other}");
        }
    }

    #[test]
    fn the_server_is_told_its_own_number_and_no_other() {
        let changed = |words: &str| with_number(&words.split(' ').map(str::as_bytes).collect::<Vec<_>>(), 71);
        let plain = |words: &str| anew(words.split(' ').map(str::as_bytes));
        assert_eq!(
            changed("CLIENT TRACKING ON PREFIX 5 REDIRECT 5 REDIRECT 6"),
            plain("CLIENT TRACKING ON PREFIX 5 REDIRECT 71 REDIRECT 71")
        );
        assert_eq!(changed("CLIENT TRACKING ON REDIRECT x"), plain("CLIENT TRACKING ON REDIRECT x"));
    }

    #[test]
    fn replies_say_the_proxys_number() {
        assert_eq!(redirect(false).in_our_numbers(b":71\r\n"), b":5\r\n");
        assert_eq!(redirect(true).in_our_numbers(b":71\r\n"), b":5\r\n");
        assert_eq!(redirect(false).in_our_numbers(b":-1\r\n"), b":-1\r\n");
        let info = b"%3\r\n$5\r\nflags\r\n~1\r\n$2\r\non\r\n$8\r\nredirect\r\n:71\r\n$8\r\nprefixes\r\n~0\r\n";
        let ours = b"%3\r\n$5\r\nflags\r\n~1\r\n$2\r\non\r\n$8\r\nredirect\r\n:5\r\n$8\r\nprefixes\r\n~0\r\n";
        assert_eq!(redirect(false).in_our_numbers(info), ours);
        let broken = b"%3\r\n$5\r\nflags\r\n~2\r\n$2\r\non\r\n$15\r\nbroken_redirect\r\n$8\r\nredirect\r\n:5\r\n$8\r\nprefixes\r\n~0\r\n";
        assert_eq!(redirect(true).in_our_numbers(info), broken);
    }
}
