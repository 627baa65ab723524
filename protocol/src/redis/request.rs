//! What a client asks: where each request ends and which command it is, in both forms that Redis takes (multibulk and inline).
//!
//! Nothing is copied. The scanner can be asked again with more bytes and goes on where it stopped, so that a request that comes in small
//! pieces costs no more than one that comes whole. Every check is Redis's own, with its limits and its order.

use std::ops::Range;

use super::fault::RequestFault;
use super::inline;
use super::limits::{ARGUMENT_BYTES_BEFORE_LOGIN, ARGUMENT_BYTES_MAX, ARGUMENTS_BEFORE_LOGIN, ARGUMENTS_MAX, LINE_BYTES_MAX};

/// What stands at the front of the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scanned {
    /// A part of a request.
    Incomplete {
        /// How many bytes it has at least, from its first.
        needs: u64,
    },
    /// Something that asks for nothing and is answered with nothing.
    Nothing {
        /// How long it is.
        length: usize,
    },
    /// A whole request in multibulk form.
    Request(Request),
    /// A whole request in inline form: split it with [`inline::split`].
    Inline {
        /// Where its text is.
        text: Range<usize>,
        /// How long it is with its line end.
        length: usize,
    },
}

/// A whole request in multibulk form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// How many bytes it has.
    pub length: usize,
    /// How many arguments, the name included. At least 1.
    pub arguments: u64,
    /// Where the name of the command is.
    pub name: Range<usize>,
    /// Whether every line end is as the specification has it. Redis does not look, other servers may: encode anew what is not canonical.
    pub canonical: bool,
}

/// Finds requests at the front of a byte stream.
#[derive(Debug, Clone, Default)]
pub struct RequestScanner {
    /// How many bytes of the current request are understood.
    at: usize,
    /// Arguments still to come.
    left: u64,
    arguments: u64,
    name_start: usize,
    name_length: usize,
    irregular: bool,
    known: Known,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Known {
    #[default]
    Nothing,
    Arguments,
    ArgumentLength(u64),
}

impl RequestScanner {
    /// Scans `bytes`, which begin with the first byte of a request and may be longer than at the last call.
    /// `stranger`: the client must still authenticate.
    pub fn scan(&mut self, bytes: &[u8], stranger: bool) -> Result<Scanned, RequestFault> {
        if self.known == Known::Nothing {
            match bytes.first() {
                None => return Ok(Scanned::Incomplete { needs: 1 }),
                Some(b'*') => {
                    let Some((count, next)) = self.number(bytes, 1, RequestFault::MultibulkLine)? else {
                        return Ok(Scanned::Incomplete { needs: bytes.len() as u64 + 1 });
                    };
                    let Some(count) = count.filter(|count| *count <= ARGUMENTS_MAX as i64) else {
                        return Err(RequestFault::MultibulkLength);
                    };
                    if count <= 0 {
                        *self = Self::default();
                        return Ok(Scanned::Nothing { length: next });
                    }
                    if stranger && count.unsigned_abs() > ARGUMENTS_BEFORE_LOGIN {
                        return Err(RequestFault::UnauthenticatedMultibulkLength);
                    }
                    self.at = next;
                    self.left = count.unsigned_abs();
                    self.arguments = self.left;
                    self.known = Known::Arguments;
                }
                Some(_inline) => return inline::scan(bytes),
            }
        }
        self.arguments_of(bytes, stranger)
    }

    /// The name of the request that came back as [`Scanned::Incomplete`], once it is there.
    #[must_use]
    pub fn name<'b>(&self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        (self.known != Known::Nothing && self.left < self.arguments).then(|| &bytes[self.name_start..self.name_start + self.name_length])
    }

    /// How many arguments the request has that came back as [`Scanned::Incomplete`], once that is known.
    #[must_use]
    pub fn arguments(&self) -> Option<u64> {
        (self.known != Known::Nothing).then_some(self.arguments)
    }

    /// How many bytes of the request that came back as [`Scanned::Incomplete`] are understood, the announced rest of an argument included.
    #[must_use]
    pub fn understood(&self) -> u64 {
        match self.known {
            Known::Nothing => 0,
            Known::Arguments => self.at as u64,
            Known::ArgumentLength(length) => self.at as u64 + length,
        }
    }

    fn arguments_of(&mut self, bytes: &[u8], stranger: bool) -> Result<Scanned, RequestFault> {
        while self.left > 0 {
            let length = match self.known {
                Known::ArgumentLength(length) => length,
                Known::Nothing | Known::Arguments => {
                    match bytes.get(self.at) {
                        None => return Ok(Scanned::Incomplete { needs: self.at as u64 + 1 }),
                        Some(b'$') => {}
                        Some(other) => {
                            // Redis complains when the whole line is there.
                            let line = Self::line_end(bytes, self.at, RequestFault::BulkLine)?;
                            return line.map_or(Ok(Scanned::Incomplete { needs: bytes.len() as u64 + 1 }), |_end| {
                                Err(RequestFault::ExpectedDollar(*other))
                            });
                        }
                    }
                    let Some((length, next)) = self.number(bytes, self.at + 1, RequestFault::BulkLine)? else {
                        return Ok(Scanned::Incomplete { needs: bytes.len() as u64 + 1 });
                    };
                    let length = length.and_then(|length| u64::try_from(length).ok()).filter(|length| *length <= ARGUMENT_BYTES_MAX);
                    let Some(length) = length else { return Err(RequestFault::BulkLength) };
                    if stranger && length > ARGUMENT_BYTES_BEFORE_LOGIN {
                        return Err(RequestFault::UnauthenticatedBulkLength);
                    }
                    self.at = next;
                    self.known = Known::ArgumentLength(length);
                    length
                }
            };
            let end = self.at as u64 + length + 2;
            if (bytes.len() as u64) < end {
                return Ok(Scanned::Incomplete { needs: end });
            }
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if self.left == self.arguments {
                (self.name_start, self.name_length) = (self.at, length);
            }
            self.at += length + 2;
            self.irregular |= &bytes[self.at - 2..self.at] != b"\r\n";
            self.left -= 1;
            self.known = Known::Arguments;
        }
        let request = Request {
            length: self.at,
            arguments: self.arguments,
            name: self.name_start..self.name_start + self.name_length,
            canonical: !self.irregular,
        };
        *self = Self::default();
        Ok(Scanned::Request(request))
    }

    /// The number on the line that begins at `from`, and where the next line begins. Outer `None`: not all there; inner: not a number.
    #[inline]
    fn number(&mut self, bytes: &[u8], from: usize, endless: RequestFault) -> Result<Option<(Option<i64>, usize)>, RequestFault> {
        match short_number(bytes, from) {
            Some((value, next)) => Ok(Some((Some(i64::from(value)), next))),
            None => self.long_number(bytes, from, endless),
        }
    }

    fn long_number(&mut self, bytes: &[u8], from: usize, endless: RequestFault) -> Result<Option<(Option<i64>, usize)>, RequestFault> {
        let mut value: i64 = 0;
        let mut at = from;
        // Nearly every number is a few digits with a line end behind them.
        while let Some(digit @ b'0'..=b'9') = bytes.get(at)
            && at - from < 9
        {
            value = value * 10 + i64::from(digit - b'0');
            at += 1;
        }
        if at > from && at + 1 < bytes.len() && bytes[at] == b'\r' && (bytes[from] != b'0' || at == from + 1) {
            self.irregular |= bytes[at + 1] != b'\n';
            return Ok(Some((Some(value), at + 2)));
        }
        Ok(Self::line_end(bytes, from, endless)?.map(|end| {
            self.irregular |= bytes[end + 1] != b'\n';
            (parse_integer(&bytes[from..end]), end + 2)
        }))
    }

    /// Where the line that begins at `from` ends, if it is all there. Redis searches as C does in a string: not beyond a zero byte.
    fn line_end(bytes: &[u8], from: usize, endless: RequestFault) -> Result<Option<usize>, RequestFault> {
        match memchr::memchr2(b'\r', 0, &bytes[from..]).map(|end| from + end).filter(|end| bytes[*end] == b'\r') {
            None if bytes.len() - from > LINE_BYTES_MAX => Err(endless),
            None => Ok(None),
            Some(end) => Ok((end + 1 < bytes.len()).then_some(end)),
        }
    }
}

/// The arguments of a whole request, name first. Only for bytes that [`RequestScanner`] called a [`Request`], or the beginning of such: then it ends with
/// the last argument that is all there.
#[derive(Debug, Clone)]
pub struct Arguments<'b> {
    bytes: &'b [u8],
    at: usize,
    left: u64,
}

impl<'b> Arguments<'b> {
    /// Walks over `bytes`, the whole of a request.
    #[must_use]
    pub fn new(bytes: &'b [u8]) -> Self {
        let (left, at) = line_number(bytes, 1);
        Self { bytes, at, left }
    }
}

impl<'b> Iterator for Arguments<'b> {
    type Item = &'b [u8];

    fn next(&mut self) -> Option<&'b [u8]> {
        self.left = self.left.checked_sub(1)?;
        let (length, start) = line_number(self.bytes, self.at + 1);
        let end = start + usize::try_from(length).ok()?;
        let argument = self.bytes.get(start..end)?;
        self.at = end + 2;
        Some(argument)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        (left, Some(left))
    }
}

/// A number of one digit or two, as most are, with a line end as the specification has it; and where the next line begins.
#[inline]
fn short_number(bytes: &[u8], from: usize) -> Option<(u8, usize)> {
    match bytes.get(from..)? {
        [one @ b'1'..=b'9', b'\r', b'\n', ..] => Some((one - b'0', from + 3)),
        [ten @ b'1'..=b'9', one @ b'0'..=b'9', b'\r', b'\n', ..] => Some(((ten - b'0') * 10 + (one - b'0'), from + 4)),
        _ => None,
    }
}

#[inline]
fn line_number(bytes: &[u8], from: usize) -> (u64, usize) {
    if let Some((value, next)) = short_number(bytes, from) {
        return (u64::from(value), next);
    }
    let rest = bytes.get(from..).unwrap_or_default();
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let value = rest[..digits].iter().fold(0_u64, |value, digit| value.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
    (value, from + digits + 2)
}

/// A whole number exactly as Redis reads one: no sign but `-`, no zero in front, nothing around it.
#[must_use]
pub fn parse_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        all => (false, all),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [] | [b'0', ..] => return None,
        _some_digits => {}
    }
    let mut value: i64 = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        let digit = i64::from(digit - b'0');
        value = value.checked_mul(10)?;
        value = if negative { value.checked_sub(digit)? } else { value.checked_add(digit)? };
    }
    Some(value)
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
