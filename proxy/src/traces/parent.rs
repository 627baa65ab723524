//! What a statement is a part of: a `traceparent` (W3C, "Trace Context") in a comment, as sqlcommenter and its likes write it.

use memchr::memmem;

/// A span of an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// Its trace.
    pub trace: [u8; 16],
    /// Itself.
    pub span: [u8; 8],
    /// Whether it is recorded.
    pub sampled: bool,
}

/// What stands before the value.
const KEY: &[u8] = b"traceparent=";

/// `00-TRACE-SPAN-FLAGS`.
const LENGTH: usize = 55;

impl Parent {
    /// The one that the text names in a comment.
    #[must_use]
    pub fn in_comment(text: &[u8]) -> Option<Self> {
        let comment = &text[memmem::find(text, b"/*")?..];
        let behind = &comment[memmem::find(comment, KEY)? + KEY.len()..];
        Self::parse(behind.strip_prefix(b"'").unwrap_or(behind))
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let [b'0', b'0', b'-', rest @ ..] = text.get(..LENGTH)? else { return None };
        if rest[32] != b'-' || rest[49] != b'-' {
            return None;
        }
        let (trace, span, [flags]) = (hex(&rest[..32])?, hex(&rest[33..49])?, hex(&rest[50..])?);
        (trace != [0; 16] && span != [0; 8]).then_some(Self { trace, span, sampled: flags & 1 == 1 })
    }
}

/// So many bytes in hexadecimal digits.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let value = |digit: u8| char::from(digit).to_digit(16).filter(|_| !digit.is_ascii_uppercase());
        *byte = u8::try_from(value(pair[0])? * 16 + value(pair[1])?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_comment_names_it() {
        for text in [format!("SELECT 1 /*action='x',traceparent='{PARENT}',x='y'*/"), format!("/* traceparent={PARENT} */ SELECT 1")] {
            let found = Parent::in_comment(text.as_bytes()).unwrap();
            assert_eq!((found.trace[0], found.trace[15], found.span[0], found.sampled), (0x0a, 0x9c, 0xb7, true), "{text}");
        }
        let off = format!("/*traceparent='{}'*/", PARENT.replace("-01", "-00"));
        assert!(!Parent::in_comment(off.as_bytes()).unwrap().sampled);
    }

    #[test]
    fn what_is_none_is_none() {
        let zero = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
        let wrong = [PARENT.replace("00-0", "01-0"), PARENT.replace("-b", "+b"), PARENT.replace("9c", "gc"), PARENT.replace("0af", "0AF")];
        for value in ["", "00", zero, &PARENT[..LENGTH - 1]].into_iter().chain(wrong.iter().map(String::as_str)) {
            assert_eq!(Parent::in_comment(format!("/*traceparent='{value}").as_bytes()), None, "{value}");
        }
        assert_eq!(Parent::in_comment(format!("SELECT 'traceparent={PARENT}'").as_bytes()), None, "it is no comment");
    }
}
