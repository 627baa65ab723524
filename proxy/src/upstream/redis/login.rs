//! The dialogue that makes a fresh (or used) connection ready: one write, then one reply for each step.

use std::future::poll_fn;
use std::io;

use sidepool_protocol::redis::encode::Resp;
use sidepool_protocol::redis::handshake::{Login, LoginStep};
use sidepool_protocol::redis::reply::{self, Reply};

use super::facts::Facts;
use crate::pool::fault::{ConnectFault, ConnectFaultKind};
use crate::transport::stream::Stream;

/// Longest answer to a login. A list of commands is about 200 kB.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Logs in. `upstream` is how messages name the server. Gives the server's id for the connection, 0 when it does not say.
pub(super) async fn log_in(stream: &mut Stream, login: &Login, version: Resp, upstream: &str, facts: &Facts) -> Result<i64, ConnectFault> {
    let mut inbox = Vec::new();
    let mut id = 0;
    write_all(stream, &login.bytes).await.map_err(|error| lost(upstream, &error))?;
    // Until `HELLO 3` has worked the server speaks RESP2.
    let mut speaks = if login.steps.first() == Some(&LoginStep::Reset) { version } else { Resp::Two };
    for step in &login.steps {
        if *step == LoginStep::Hello3 {
            speaks = Resp::Three;
        }
        let reply = read_reply(stream, speaks, &mut inbox, upstream).await?;
        match (step, reply) {
            (LoginStep::Reset, Reply::Error(text)) => return Err(refused(upstream, &text, "RESET")),
            (LoginStep::Reset, _) => speaks = Resp::Two,
            // The server wants no password: what RESP3's HELLO accepts in silence is no reason to fail here.
            (LoginStep::Auth, Reply::Error(text)) if text.contains("without any password configured") => {}
            (LoginStep::Auth, Reply::Error(text)) => return Err(refused(upstream, &text, "AUTH")),
            (LoginStep::Hello3, Reply::Error(text)) => return Err(refused(upstream, &text, "HELLO 3")),
            // A server without HELLO is too old for RESP3 and still of use.
            (LoginStep::Ask, Reply::Error(text)) if text.starts_with("ERR unknown command") => {}
            (LoginStep::Ask, Reply::Error(text)) => return Err(refused(upstream, &text, "HELLO")),
            (LoginStep::Select, Reply::Error(text)) => return Err(refused(upstream, &text, "SELECT")),
            (LoginStep::Habit, Reply::Error(text)) => return Err(refused(upstream, &text, "CLIENT NO-EVICT or NO-TOUCH")),
            (LoginStep::Hello3 | LoginStep::Ask, answer) => {
                facts.learn_hello(&answer);
                id = answer.value_of(b"id").and_then(Reply::integer).unwrap_or(0);
            }
            (LoginStep::Auth | LoginStep::Select | LoginStep::Habit, _) => {}
        }
    }
    if inbox.is_empty() { Ok(id) } else { Err(out_of_step(upstream)) }
}

/// Asks one question whose answer is read whole.
pub(super) async fn ask(stream: &mut Stream, question: &[u8], version: Resp, upstream: &str) -> Result<Reply, ConnectFault> {
    let mut replies = ask_many(stream, question, 1, version, upstream).await?;
    replies.pop().ok_or_else(|| out_of_step(upstream))
}

/// Asks several questions at once.
pub(super) async fn ask_many(
    stream: &mut Stream,
    questions: &[u8],
    count: usize,
    version: Resp,
    upstream: &str,
) -> Result<Vec<Reply>, ConnectFault> {
    let mut inbox = Vec::new();
    write_all(stream, questions).await.map_err(|error| lost(upstream, &error))?;
    let mut replies = Vec::with_capacity(count);
    for _ in 0..count {
        replies.push(read_reply(stream, version, &mut inbox, upstream).await?);
    }
    if inbox.is_empty() { Ok(replies) } else { Err(out_of_step(upstream)) }
}

async fn write_all(stream: &mut Stream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match poll_fn(|cx| stream.poll_write(cx, bytes)).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => bytes = &bytes[written..],
        }
    }
    poll_fn(|cx| stream.poll_sent(cx)).await
}

async fn read_reply(stream: &mut Stream, version: Resp, inbox: &mut Vec<u8>, upstream: &str) -> Result<Reply, ConnectFault> {
    loop {
        match reply::decode(version, inbox) {
            Ok(Some((reply, used))) => {
                inbox.drain(..used);
                return Ok(reply);
            }
            Ok(None) if inbox.len() < ANSWER_BYTES_MAX => {}
            Ok(None) | Err(_) => return Err(out_of_step(upstream)),
        }
        let mut piece = [0; 4096];
        match poll_fn(|cx| stream.poll_read(cx, &mut piece)).await {
            Ok(0) => return Err(lost(upstream, &io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => inbox.extend_from_slice(&piece[..read]),
            Err(error) => return Err(lost(upstream, &error)),
        }
    }
}

fn lost(upstream: &str, error: &io::Error) -> ConnectFault {
    ConnectFault::new(ConnectFaultKind::Unavailable, format!("Redis at {upstream} closed the connection during login: {error}"))
}

fn out_of_step(upstream: &str) -> ConnectFault {
    ConnectFault::new(ConnectFaultKind::Protocol, format!("Redis at {upstream} answered a login with something that is not RESP"))
}

/// What a server's refusal means. The text is the server's own; what it repeats of ours is cut: the words behind AUTH are secrets.
pub(super) fn refused(upstream: &str, text: &str, to: &str) -> ConnectFault {
    // A server on which AUTH or HELLO is renamed answers: ERR unknown command 'AUTH', with args beginning with: 'app' 'its password'
    let text = text.split_once(", with args").map_or(text, |(said, _)| said);
    let word = text.split(' ').next().unwrap_or_default();
    let kind = match word {
        "NOAUTH" | "WRONGPASS" | "DENIED" => ConnectFaultKind::Auth,
        "LOADING" | "MASTERDOWN" | "BUSY" | "TRYAGAIN" | "CLUSTERDOWN" => ConnectFaultKind::Unavailable,
        "NOPROTO" => ConnectFaultKind::Protocol,
        _plain if text.contains("max number of clients") => ConnectFaultKind::TooMany,
        _plain if text.contains("DB index is out of range") || text.contains("SELECT is not allowed in cluster mode") => {
            ConnectFaultKind::NoDatabase
        }
        // Before Redis 6 a wrong password is a plain error.
        _plain if text.contains("invalid password") => ConnectFaultKind::Auth,
        _plain => ConnectFaultKind::Other,
    };
    let mut fault = ConnectFault::new(kind, format!("Redis at {upstream} answered {to} with: {text}"));
    fault.code = Some(word.into());
    // What a client can make something of, it is told in the server's words.
    if kind == ConnectFaultKind::Unavailable || word == "NOPERM" {
        fault.said = Some(text.into());
    }
    fault
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart() {
        for (text, kind) in [
            ("NOAUTH Authentication required.", ConnectFaultKind::Auth),
            ("WRONGPASS invalid username-password pair or user is disabled.", ConnectFaultKind::Auth),
            ("LOADING Redis is loading the dataset in memory", ConnectFaultKind::Unavailable),
            ("ERR max number of clients reached", ConnectFaultKind::TooMany),
            ("ERR DB index is out of range", ConnectFaultKind::NoDatabase),
            ("NOPROTO unsupported protocol version", ConnectFaultKind::Protocol),
            ("ERR something else", ConnectFaultKind::Other),
        ] {
            let fault = refused("here:6379", text, "AUTH");
            assert_eq!(fault.kind, kind, "{text}");
            assert_eq!(fault.code.as_deref(), text.split(' ').next());
        }
    }

    #[test]
    fn what_a_server_repeats_of_a_login_is_not_told() {
        for text in [
            "ERR unknown command 'AUTH', with args beginning with: 'app' 'hunter2' ",
            "ERR unknown command `AUTH`, with args beginning with: `app`, `hunter2`, ",
        ] {
            let fault = refused("here:6379", text, "AUTH");
            assert!(fault.message.contains("unknown command") && !fault.message.contains("hunter2"), "{}", fault.message);
            assert!(!fault.words().contains("hunter2"));
        }
    }
}
