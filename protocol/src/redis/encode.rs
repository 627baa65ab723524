//! What the proxy says itself, appended to a buffer: commands to a server, replies to a client.

/// Appends a command in multibulk form.
pub fn command(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    head(out, b'*', arguments.len() as i64);
    for argument in arguments {
        bulk(out, argument);
    }
}

/// Appends a bulk string.
pub fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    head(out, b'$', bytes.len() as i64);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Appends an error line. `text` begins with the error's own prefix; line ends in it become blanks.
pub fn error(out: &mut Vec<u8>, text: impl AsRef<[u8]>) {
    out.push(b'-');
    out.extend(text.as_ref().iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
    out.extend_from_slice(b"\r\n");
}

/// Appends a simple string.
pub fn simple(out: &mut Vec<u8>, text: &str) {
    out.push(b'+');
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends an integer.
pub fn integer(out: &mut Vec<u8>, value: i64) {
    head(out, b':', value);
}

/// Appends an array's head.
pub fn array(out: &mut Vec<u8>, elements: usize) {
    head(out, b'*', elements as i64);
}

/// Appends a map's head as the RESP version has it: a map, or an array of twice as many.
pub fn map(out: &mut Vec<u8>, version: Resp, pairs: usize) {
    match version {
        Resp::Two => head(out, b'*', pairs as i64 * 2),
        Resp::Three => head(out, b'%', pairs as i64),
    }
}

/// Appends a null as the RESP version has it.
pub fn null(out: &mut Vec<u8>, version: Resp) {
    out.extend_from_slice(match version {
        Resp::Two => b"$-1\r\n",
        Resp::Three => b"_\r\n",
    });
}

/// Appends the head of an out-of-band message as the RESP version has it.
pub fn push(out: &mut Vec<u8>, version: Resp, elements: usize) {
    match version {
        Resp::Two => head(out, b'*', elements as i64),
        Resp::Three => head(out, b'>', elements as i64),
    }
}

/// Appends a text for people: verbatim in RESP3.
pub fn text(out: &mut Vec<u8>, version: Resp, text: &str) {
    match version {
        Resp::Two => bulk(out, text.as_bytes()),
        Resp::Three => {
            head(out, b'=', text.len() as i64 + 4);
            out.extend_from_slice(b"txt:");
            out.extend_from_slice(text.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

fn head(out: &mut Vec<u8>, kind: u8, mut value: i64) {
    out.push(kind);
    if value < 0 {
        out.push(b'-');
        value = value.saturating_neg();
    }
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

/// The version of the protocol that a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Resp {
    /// RESP2: what every connection begins with.
    #[default]
    Two,
    /// RESP3: after `HELLO 3`.
    Three,
}

impl Resp {
    /// The number that `HELLO` takes.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Two => 2,
            Self::Three => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use redis_protocol::resp3::decode::complete::decode;
    use redis_protocol::resp3::types::OwnedFrame;

    use super::*;

    fn made(make: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        make(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_form_is_as_specified() {
        assert_eq!(made(|out| command(out, &[b"GET", b"a"])), "*2\r\n$3\r\nGET\r\n$1\r\na\r\n");
        assert_eq!(made(|out| error(out, "ERR a\r\nb")), "-ERR a  b\r\n");
        assert_eq!(made(|out| integer(out, -12)), ":-12\r\n");
        assert_eq!(made(|out| integer(out, 0)), ":0\r\n");
        assert_eq!(made(|out| map(out, Resp::Two, 7)), "*14\r\n");
        assert_eq!(made(|out| map(out, Resp::Three, 7)), "%7\r\n");
        assert_eq!(made(|out| text(out, Resp::Three, "ab")), "=6\r\ntxt:ab\r\n");
    }

    #[test]
    fn the_oracle_reads_what_we_write() {
        let bytes = made(|out| command(out, &[b"SET", b"k", b"v\r\n"])).into_bytes();
        let (frame, used) = decode(&bytes).unwrap().unwrap();
        assert_eq!(used, bytes.len());
        assert!(matches!(frame, OwnedFrame::Array { data, .. } if data.len() == 3));
    }
}
