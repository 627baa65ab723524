//! One connection to Redis for all clients: the requests of a round go out in one write, and the replies back in their order.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::line::{Door, Line, Poll};

/// The numbers of the door and of the server; behind them those of clients.
const DOOR: usize = 0;
const SERVER: usize = 1;
const FIRST_CLIENT: usize = 2;

/// How much is read at a time.
const READ_BYTES: usize = 64 * 1024;

pub(crate) fn run(at: SocketAddr, server: SocketAddr) -> io::Result<()> {
    let door = Door::Tcp(TcpListener::bind(at)?);
    let mut server = Line::tcp(server)?.unblock()?;
    let mut poll = Poll::new()?;
    poll.add_door(&door, DOOR)?;
    poll.add(&server, SERVER)?;
    let mut relay = Relay::default();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        for at in 0..poll.wait()? {
            match poll.ready(at) {
                DOOR => {
                    let client = door.accept()?;
                    poll.add(&client, FIRST_CLIENT + relay.clients.len())?;
                    relay.clients.push(Some(client));
                }
                SERVER => relay.read_server(&mut server, &mut buffer)?,
                number => relay.read_client(number - FIRST_CLIENT, &mut buffer)?,
            }
        }
        server.send(&relay.requests);
        relay.requests.clear();
    }
}

#[derive(Default)]
struct Relay {
    /// By number. One that has left leaves its place, which nobody else gets.
    clients: Vec<Option<Line>>,
    /// Whose reply is next.
    owed: VecDeque<usize>,
    /// Of this round.
    requests: Vec<u8>,
    /// Not whole yet.
    replies: Vec<u8>,
}

impl Relay {
    fn read_client(&mut self, number: usize, buffer: &mut [u8]) -> io::Result<()> {
        while let Some(client) = &mut self.clients[number]
            && let Some(read) = client.read(buffer)
        {
            if read.is_empty() {
                self.clients[number] = None;
                break;
            }
            let mut rest = read;
            while !rest.is_empty() {
                let request = length(rest).ok_or_else(|| io::Error::other("a request in two pieces is more than a floor knows"))?;
                rest = &rest[request..];
                self.owed.push_back(number);
            }
            self.requests.extend_from_slice(read);
            if read.len() < READ_BYTES {
                break;
            }
        }
        Ok(())
    }

    fn read_server(&mut self, server: &mut Line, buffer: &mut [u8]) -> io::Result<()> {
        while let Some(read) = server.read(buffer) {
            if read.is_empty() {
                return Err(io::Error::other("Redis has left"));
            }
            self.replies.extend_from_slice(read);
            let passed = pass(&self.replies, &mut self.owed, &mut self.clients);
            self.replies.drain(..passed);
            if read.len() < READ_BYTES {
                break;
            }
        }
        Ok(())
    }
}

/// Gives each client its replies, those that follow each other in one write; says how much of them was whole.
fn pass(replies: &[u8], owed: &mut VecDeque<usize>, clients: &mut [Option<Line>]) -> usize {
    let mut from = 0;
    while let Some(first) = length(&replies[from..])
        && let Some(to) = owed.pop_front()
    {
        let mut end = from + first;
        while owed.front() == Some(&to)
            && let Some(next) = length(&replies[end..])
        {
            owed.pop_front();
            end += next;
        }
        if let Some(client) = &mut clients[to] {
            client.send(&replies[from..end]);
        }
        from = end;
    }
    from
}

/// How long the first value is, if it is there as a whole.
fn length(bytes: &[u8]) -> Option<usize> {
    let line = bytes.iter().position(|byte| *byte == b'\n')? + 1;
    let number = || std::str::from_utf8(bytes[1..line].trim_ascii_end()).ok()?.parse::<i64>().ok();
    match bytes[0] {
        b'$' => {
            let Ok(size) = usize::try_from(number()?) else { return Some(line) };
            Some(line + size + 2).filter(|end| *end <= bytes.len())
        }
        b'*' => (0..number()?).try_fold(line, |at, _| Some(at + length(&bytes[at..])?)),
        _ => Some(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_as_long_as_it_says_and_known_only_as_a_whole() {
        for value in ["+OK\r\n", ":1\r\n", "$3\r\nabc\r\n", "$-1\r\n", "*0\r\n", "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", "*1\r\n*1\r\n:1\r\n"] {
            assert_eq!(length(format!("{value}more").as_bytes()), Some(value.len()), "{value:?}");
            for short in 0..value.len() {
                assert_eq!(length(&value.as_bytes()[..short]), None, "{:?}", &value[..short]);
            }
        }
    }
}
