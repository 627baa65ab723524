//! Requests as a person types them: one line, split at blanks, with quotes (Redis: `processInlineBuffer`, `sdssplitargs`).

use super::fault::RequestFault;
use super::limits::LINE_BYTES_MAX;
use super::request::Scanned;

/// Finds an inline request at the front of `bytes`.
pub(super) fn scan(bytes: &[u8]) -> Result<Scanned, RequestFault> {
    // Redis searches for the line end as C does in a string: not beyond a zero byte.
    let Some(end) = memchr::memchr2(b'\n', 0, bytes).filter(|end| bytes[*end] == b'\n') else {
        if bytes.len() > LINE_BYTES_MAX {
            return Err(RequestFault::InlineTooBig);
        }
        return Ok(Scanned::Incomplete { needs: bytes.len() as u64 + 1 });
    };
    let text = if end > 0 && bytes[end - 1] == b'\r' { 0..end - 1 } else { 0..end };
    let length = end + 1;
    if bytes[text.clone()].iter().all(|byte| is_blank(*byte)) {
        return Ok(Scanned::Nothing { length });
    }
    Ok(Scanned::Inline { text, length })
}

/// Splits the text of an inline request into its arguments. Never gives an empty list.
pub fn split(text: &[u8]) -> Result<Vec<Vec<u8>>, RequestFault> {
    let mut arguments = Vec::new();
    let mut at = 0;
    loop {
        while text.get(at).is_some_and(|byte| is_blank(*byte)) {
            at += 1;
        }
        if at >= text.len() {
            return Ok(arguments);
        }
        let (argument, next) = one(text, at)?;
        arguments.push(argument);
        at = next;
    }
}

/// Whether this is the first word of a request that a web browser sends. Redis closes without a word.
#[must_use]
pub fn is_http(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}

fn one(text: &[u8], mut at: usize) -> Result<(Vec<u8>, usize), RequestFault> {
    let mut argument = Vec::new();
    let mut quote = None;
    loop {
        let Some(byte) = text.get(at).copied().filter(|byte| *byte != 0) else {
            return if quote.is_some() { Err(RequestFault::UnbalancedQuotes) } else { Ok((argument, text.len())) };
        };
        match (quote, byte) {
            (Some(b'"'), b'\\') => at += escape(&text[at..], &mut argument),
            (Some(b'\''), b'\\') if text.get(at + 1) == Some(&b'\'') => {
                argument.push(b'\'');
                at += 2;
            }
            (Some(open), byte) if byte == open => {
                if text.get(at + 1).is_some_and(|next| !is_blank(*next)) {
                    return Err(RequestFault::UnbalancedQuotes);
                }
                return Ok((argument, at + 1));
            }
            (None, b'"' | b'\'') => {
                quote = Some(byte);
                at += 1;
            }
            (None, byte) if is_blank(byte) => return Ok((argument, at)),
            (_inside_or_not, byte) => {
                argument.push(byte);
                at += 1;
            }
        }
    }
}

/// Adds what an escape in double quotes stands for; gives its length.
fn escape(text: &[u8], argument: &mut Vec<u8>) -> usize {
    if let [_, b'x', high, low, ..] = text
        && let (Some(high), Some(low)) = (char::from(*high).to_digit(16), char::from(*low).to_digit(16))
    {
        argument.push((high * 16 + low) as u8);
        return 4;
    }
    let Some(byte) = text.get(1) else {
        argument.push(b'\\');
        return 1;
    };
    argument.push(match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => *other,
    });
    2
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 11 | 12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_as_redis_does() {
        let split = |text: &str| {
            split(text.as_bytes()).map(|all| all.into_iter().map(|one| String::from_utf8_lossy(&one).into_owned()).collect::<Vec<_>>())
        };
        assert_eq!(split("set a b"), Ok(vec!["set".into(), "a".into(), "b".into()]));
        assert_eq!(split("  get\t\ta  "), Ok(vec!["get".into(), "a".into()]));
        assert_eq!(split(r#"set "a b" 'c\'d'"#), Ok(vec!["set".into(), "a b".into(), "c'd".into()]));
        assert_eq!(split(r#"echo "\x41\n\q""#), Ok(vec!["echo".into(), "A\nq".into()]));
        assert_eq!(split(r#"echo a"b c""#), Ok(vec!["echo".into(), "ab c".into()]));
        assert_eq!(split(r#""""#), Ok(vec![String::new()]));
        for unbalanced in [r#"echo "a"#, r#"echo "a"b"#, "echo 'a", r"echo 'a\'", r#"echo "a\"#] {
            assert_eq!(split(unbalanced), Err(RequestFault::UnbalancedQuotes), "{unbalanced}");
        }
    }

    #[test]
    fn blank_lines_ask_for_nothing() {
        assert_eq!(scan(b"\r\n"), Ok(Scanned::Nothing { length: 2 }));
        assert_eq!(scan(b"   \n"), Ok(Scanned::Nothing { length: 4 }));
        assert_eq!(scan(b"PING\r\nx"), Ok(Scanned::Inline { text: 0..4, length: 6 }));
        assert_eq!(scan(&[b'a'; LINE_BYTES_MAX]), Ok(Scanned::Incomplete { needs: LINE_BYTES_MAX as u64 + 1 }));
        assert_eq!(scan(&[b'a'; LINE_BYTES_MAX + 1]), Err(RequestFault::InlineTooBig));
        assert_eq!(scan(b"PING\0\r\nPING\r\n"), Ok(Scanned::Incomplete { needs: 14 }));
    }
}
