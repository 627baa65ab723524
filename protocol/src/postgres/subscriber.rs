//! The client's side of a connection that does nothing but listen: what it sends, and what the server's words mean.
//!
//! ```text
//!   listen, unlisten, ping ──▶ out ──▶ server ──▶ on_bytes ──▶ Listening | Refused | Heard | Answered
//! ```
//! Each command is a query of its own, so that an error concerns one channel alone. Not here: IO, time, and who wants to hear what.

use std::collections::VecDeque;
use std::sync::Arc;

use super::fault::SqlState;
use super::frame::{self, HEAD_BYTES};
use super::login::upstream_side::ServerError;
use super::statement::put_query;
use super::tag::BackendTag;

/// A channel's name.
pub type Channel = Arc<[u8]>;

/// The longest message that such a connection is sent: a payload has less than 8000 bytes.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// What was asked of the server.
#[derive(Debug)]
enum Asked {
    /// LISTEN, and the caller's number for it.
    Listen(Channel, u64),
    /// Anything of which the end is all that counts.
    Other,
}

/// What the server said.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// From now on notifications on this channel arrive.
    Listening(Channel, u64),
    /// The server does not want that.
    Refused(Channel, u64, Refusal),
    /// A notification: its channel, and the whole message.
    Heard(&'a [u8], &'a [u8]),
}

/// Why the server refused something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub sqlstate: Option<SqlState>,
    /// The words.
    pub message: String,
}

/// A connection that listens.
#[derive(Debug, Default)]
pub struct Subscriber {
    out: Vec<u8>,
    asked: VecDeque<Asked>,
    /// What answered the present command, if it was an error.
    refusal: Option<Refusal>,
    /// The beginning of a message.
    rest: Vec<u8>,
}

impl Subscriber {
    /// Sends SQL of which the answer does not matter, but that there is one.
    pub fn run(&mut self, sql: &str) {
        self.send(sql.as_bytes(), Asked::Other);
    }

    /// Listens to a channel; `number` comes back with the answer.
    pub fn listen(&mut self, channel: &Channel, number: u64) {
        let mut sql = b"LISTEN ".to_vec();
        put_quoted(channel, &mut sql);
        self.send(&sql, Asked::Listen(Arc::clone(channel), number));
    }

    /// Listens to it no more.
    pub fn unlisten(&mut self, channel: &Channel) {
        let mut sql = b"UNLISTEN ".to_vec();
        put_quoted(channel, &mut sql);
        self.send(&sql, Asked::Other);
    }

    fn send(&mut self, sql: &[u8], asked: Asked) {
        put_query(&mut self.out, sql);
        self.asked.push_back(asked);
    }

    /// What is to be sent; the caller takes out what was.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Whether everything has been sent and answered.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.out.is_empty() && self.asked.is_empty() && self.rest.is_empty()
    }

    /// Whether the server owes an answer.
    #[must_use]
    pub fn is_owed(&self) -> bool {
        !self.asked.is_empty()
    }

    /// The server has said this. An error ends the connection.
    pub fn on_bytes(&mut self, bytes: &[u8], mut on_event: impl FnMut(Event<'_>)) -> Result<(), String> {
        if self.rest.is_empty() {
            let used = self.on_messages(bytes, &mut on_event)?;
            self.rest.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        let mut input = std::mem::take(&mut self.rest);
        input.extend_from_slice(bytes);
        let used = self.on_messages(&input, &mut on_event)?;
        input.drain(..used);
        self.rest = input;
        Ok(())
    }

    fn on_messages(&mut self, input: &[u8], on_event: &mut impl FnMut(Event<'_>)) -> Result<usize, String> {
        let mut at = 0;
        while let Some(head) = frame::head(&input[at..]).map_err(|bad| bad.to_string())? {
            if head.message_bytes() > MAX_MESSAGE_BYTES {
                return Err(format!("it sent a message of {} bytes", head.message_bytes()));
            }
            let Some(message) = input[at..].get(..head.message_bytes()) else { break };
            let tag = BackendTag::from_byte(head.tag).ok_or_else(|| format!("it sent an unknown message 0x{:02x}", head.tag))?;
            self.on_message(tag, message, on_event)?;
            at += head.message_bytes();
        }
        Ok(at)
    }

    fn on_message(&mut self, tag: BackendTag, message: &[u8], on_event: &mut impl FnMut(Event<'_>)) -> Result<(), String> {
        let body = &message[HEAD_BYTES..];
        match tag {
            BackendTag::NotificationResponse => {
                let (channel, _) = body.get(4..).and_then(frame::cstr).ok_or("it sent a malformed notification")?;
                on_event(Event::Heard(channel, message));
            }
            BackendTag::ReadyForQuery => {
                let asked = self.asked.pop_front().ok_or("it answered what nobody asked")?;
                match (asked, self.refusal.take()) {
                    (Asked::Listen(channel, number), None) => on_event(Event::Listening(channel, number)),
                    (Asked::Listen(channel, number), Some(refusal)) => on_event(Event::Refused(channel, number, refusal)),
                    (Asked::Other, _) => {}
                }
            }
            BackendTag::ErrorResponse => {
                let ServerError { sqlstate, message } = ServerError::read(body);
                // Unasked: it says goodbye.
                if self.asked.is_empty() {
                    return Err(message);
                }
                self.refusal = Some(Refusal { sqlstate, message });
            }
            BackendTag::ParameterStatus
            | BackendTag::NoticeResponse
            | BackendTag::CommandComplete
            | BackendTag::EmptyQueryResponse
            | BackendTag::RowDescription
            | BackendTag::DataRow => {}
            BackendTag::ParseComplete
            | BackendTag::BindComplete
            | BackendTag::CloseComplete
            | BackendTag::CopyData
            | BackendTag::CopyDone
            | BackendTag::CopyInResponse
            | BackendTag::CopyOutResponse
            | BackendTag::CopyBothResponse
            | BackendTag::BackendKeyData
            | BackendTag::NoData
            | BackendTag::Authentication
            | BackendTag::PortalSuspended
            | BackendTag::ParameterDescription
            | BackendTag::FunctionCallResponse
            | BackendTag::NegotiateProtocolVersion => return Err(format!("it sent an unexpected {tag:?}")),
        }
        Ok(())
    }
}

/// A name in quotes. (Zero bytes cannot be in a name that was read from a text.)
pub fn put_quoted(name: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in name {
        if *byte == b'"' {
            out.push(b'"');
        }
        out.push(*byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        [&[tag], u32::try_from(body.len() + 4).unwrap().to_be_bytes().as_slice(), body].concat()
    }

    fn ready() -> Vec<u8> {
        message(b'Z', b"I")
    }

    fn heard(subscriber: &mut Subscriber, bytes: &[u8]) -> Vec<String> {
        let mut events = Vec::new();
        let show = |event: Event<'_>| match event {
            Event::Listening(channel, number) => format!("listening {} {number}", String::from_utf8_lossy(&channel)),
            Event::Refused(channel, _, refusal) => format!("refused {}: {}", String::from_utf8_lossy(&channel), refusal.message),
            Event::Heard(channel, message) => format!("heard {} {}", String::from_utf8_lossy(channel), message.len()),
        };
        subscriber.on_bytes(bytes, |event| events.push(show(event))).unwrap();
        events
    }

    #[test]
    fn each_answer_belongs_to_its_command() {
        let mut subscriber = Subscriber::default();
        let (a, b): (Channel, Channel) = (b"a".as_slice().into(), b"B \"b\"".as_slice().into());
        subscriber.run("SET x = 1");
        subscriber.listen(&a, 1);
        subscriber.listen(&b, 2);
        subscriber.unlisten(&a);
        let sent = std::mem::take(subscriber.out());
        assert!(String::from_utf8_lossy(&sent).contains("LISTEN \"B \"\"b\"\"\"\0"), "{sent:?}");
        assert!(subscriber.is_owed() && !subscriber.is_quiet());
        let error = message(b'E', b"SERROR\0C25006\0Mread only\0\0");
        let bytes = [message(b'C', b"SET\0"), ready(), message(b'C', b"LISTEN\0"), ready(), error, ready(), ready()].concat();
        assert_eq!(heard(&mut subscriber, &bytes), ["listening a 1", "refused B \"b\": read only"]);
        assert!(subscriber.is_quiet());
    }

    #[test]
    fn notifications_are_found_wherever_the_bytes_are_cut() {
        let notification = message(b'A', b"\0\0\0\x07a\0payload\0");
        let bytes = [notification.clone(), message(b'N', b"\0"), notification].concat();
        for cut in 0..bytes.len() {
            let mut subscriber = Subscriber::default();
            let mut events = heard(&mut subscriber, &bytes[..cut]);
            events.extend(heard(&mut subscriber, &bytes[cut..]));
            assert_eq!(events, ["heard a 19", "heard a 19"]);
            assert!(subscriber.is_quiet());
        }
    }

    #[test]
    fn what_does_not_belong_there_ends_it() {
        let long = [b"A".as_slice(), &100_000_u32.to_be_bytes()].concat();
        for bytes in
            [ready(), message(b'E', b"SFATAL\0C57P01\0Mbye\0\0"), message(b'A', b"\0\0"), message(b'G', b""), message(b'?', b""), long]
        {
            assert!(Subscriber::default().on_bytes(&bytes, |_| {}).is_err(), "{bytes:?}");
        }
    }
}
