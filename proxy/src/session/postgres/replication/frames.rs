//! What a server that replicates is doing, as far as it matters for ending the connection: read off the heads of its messages. Pure.
//!
//! A stream of changes can be cut between any two messages and is taken up again elsewhere; a base backup cannot.

use sidepool_protocol::postgres::frame::{self, HEAD_BYTES};
use sidepool_protocol::postgres::tag::BackendTag;

/// The server's side of a replication connection.
#[derive(Debug, Default)]
pub(super) struct Frames {
    doing: Doing,
    head: [u8; HEAD_BYTES],
    filled: usize,
    remaining: usize,
    /// What came is not in messages: nothing more is known.
    lost: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Doing {
    /// It waits for a command.
    #[default]
    Nothing,
    /// It answers one.
    Answers,
    /// It streams, both ways.
    Streams,
}

impl Frames {
    /// The client said something.
    pub(super) fn asked(&mut self) {
        if self.doing == Doing::Nothing {
            self.doing = Doing::Answers;
        }
    }

    /// The server said this.
    pub(super) fn answered(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.lost {
            let body = self.remaining.min(bytes.len());
            self.remaining -= body;
            bytes = &bytes[body..];
            let head = (HEAD_BYTES - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + head].copy_from_slice(&bytes[..head]);
            self.filled += head;
            bytes = &bytes[head..];
            if self.filled == HEAD_BYTES {
                self.filled = 0;
                match frame::head(&self.head) {
                    Ok(Some(head)) => {
                        self.remaining = head.body;
                        self.note(head.tag);
                    }
                    Ok(None) | Err(_) => self.lost = true,
                }
            }
        }
    }

    /// Whether the connection may be ended here: between two messages, and not in the middle of something that has to be begun again.
    pub(super) fn may_end(&self) -> bool {
        !self.lost && self.filled == 0 && self.remaining == 0 && self.doing != Doing::Answers
    }

    fn note(&mut self, tag: u8) {
        match BackendTag::from_byte(tag) {
            Some(BackendTag::CopyBothResponse) => self.doing = Doing::Streams,
            Some(BackendTag::ReadyForQuery) => self.doing = Doing::Nothing,
            Some(BackendTag::CopyDone | BackendTag::ErrorResponse) if self.doing == Doing::Streams => self.doing = Doing::Answers,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn it_may_end_when_idle_or_streaming_but_not_in_an_answer() {
        let mut frames = Frames::default();
        assert!(frames.may_end());
        frames.asked();
        assert!(!frames.may_end());
        frames.answered(&message(b'W', &[0, 0, 0]));
        assert!(frames.may_end(), "it streams");
        frames.asked();
        assert!(frames.may_end(), "a status update of the client changes nothing");
        frames.answered(&message(b'c', &[]));
        assert!(!frames.may_end());
        frames.answered(&message(b'Z', b"I"));
        assert!(frames.may_end());
    }

    #[test]
    fn every_cut_of_the_bytes_is_the_same() {
        let stream = [message(b'T', &[7; 9]), message(b'Z', b"I"), message(b'W', &[0; 3]), message(b'd', &[1; 40])].concat();
        for cut in 0..stream.len() {
            let mut frames = Frames::default();
            frames.asked();
            frames.answered(&stream[..cut]);
            frames.answered(&stream[cut..]);
            assert!(frames.may_end() && frames.doing == Doing::Streams, "{cut}");
        }
        for (index, _) in stream.iter().enumerate().skip(stream.len() - 44) {
            let mut frames = Frames::default();
            frames.answered(&stream[..index]);
            assert!(!frames.may_end(), "in the middle of a message");
        }
    }

    #[test]
    fn what_is_no_message_is_never_the_right_moment() {
        let mut frames = Frames::default();
        frames.answered(&[b'Z', 0, 0, 0, 0, 1, 2, 3]);
        assert!(!frames.may_end());
    }
}
