//! How many really listen: the server counts a connection that listens for many clients as one. Numbers in its replies are raised by those it does
//! not see, and patterns are matched as it matches them.

use super::encode;

/// The reply with its numbers, in their order, raised by `by`; numbers beyond those stay. A reply that is not as expected stays whole.
#[must_use]
pub fn raise(reply: &[u8], by: &[u32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(reply.len() + 8);
    let (mut at, mut by) = (0, by.iter());
    while let Some(end) = memchr::memchr(b'\n', &reply[at..]).map(|end| at + end + 1) {
        let line = &reply[at..end];
        let number = line.get(1..line.len().saturating_sub(2)).and_then(|text| std::str::from_utf8(text).ok()?.parse::<i64>().ok());
        match (line[0], number) {
            (b':', Some(number)) => encode::integer(&mut out, number + by.next().map_or(0, |more| i64::from(*more))),
            (b'$', Some(length)) => {
                let rest = end + usize::try_from(length).map_or(0, |length| length + 2);
                let Some(whole) = reply.get(at..rest) else { return reply.to_vec() };
                out.extend_from_slice(whole);
                at = rest;
                continue;
            }
            (_other, _) => out.extend_from_slice(line),
        }
        at = end;
    }
    out
}

/// Whether a channel fits a pattern of `PSUBSCRIBE`.
#[must_use]
pub fn fits(pattern: &[u8], name: &[u8]) -> bool {
    // Where to go on after the last star, when what follows it does not fit.
    let mut again: Option<(usize, usize)> = None;
    let (mut at, mut of) = (0, 0);
    loop {
        let step = match (pattern.get(at), name.get(of)) {
            (None, None) => return true,
            (Some(b'*'), _) => {
                again = Some((at + 1, of));
                at += 1;
                continue;
            }
            (Some(_), Some(byte)) => one(&pattern[at..], *byte),
            (None, Some(_)) | (Some(_), None) => None,
        };
        match (step, again) {
            (Some(used), _) => (at, of) = (at + used, of + 1),
            (None, Some((star, from))) if from < name.len() => {
                again = Some((star, from + 1));
                (at, of) = (star, from + 1);
            }
            (None, _) => return false,
        }
    }
}

/// How much of the pattern stands for this byte; `None`: it does not fit.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [b'[', rest @ ..] => {
            let (negated, rest) = match rest {
                [b'^', rest @ ..] => (true, rest),
                all => (false, all),
            };
            let (mut at, mut found) = (0, false);
            loop {
                match &rest[at..] {
                    [] => break,
                    [b'\\', escaped, ..] => (found, at) = (found | (*escaped == byte), at + 2),
                    [b']', ..] => {
                        at += 1;
                        break;
                    }
                    [first, b'-', last, ..] => {
                        let (low, high) = (*first.min(last), *first.max(last));
                        (found, at) = (found | (low..=high).contains(&byte), at + 3);
                    }
                    [other, ..] => (found, at) = (found | (*other == byte), at + 1),
                }
            }
            (found != negated).then_some(1 + usize::from(negated) + at)
        }
        [other, ..] => (*other == byte).then_some(1),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_raised_and_names_are_not() {
        assert_eq!(raise(b":1\r\n", &[3]), b":4\r\n");
        assert_eq!(raise(b"*4\r\n$2\r\n:1\r\n:1\r\n$1\r\nb\r\n:0\r\n", &[2]), b"*4\r\n$2\r\n:1\r\n:3\r\n$1\r\nb\r\n:0\r\n");
        assert_eq!(raise(b"-NOPERM no\r\n", &[2]), b"-NOPERM no\r\n");
        assert_eq!(raise(b"$9\r\nab", &[2]), b"$9\r\nab");
    }

    #[test]
    fn patterns_fit_as_in_redis() {
        for (pattern, name, expected) in [
            ("news.*", "news.art", true),
            ("news.*", "new.art", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("*a*b", "xaxxb", true),
            ("*a*b", "xaxxbc", false),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("", "", true),
            ("*", "", true),
            ("[", "a", false),
        ] {
            assert_eq!(fits(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
