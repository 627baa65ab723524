//! Where a RESP value ends, found byte by byte: bodies flow past and are never gathered.
//!
//! RESP2 and RESP3, nested to any depth in a constant amount of memory: all that is kept of the nesting is how many elements are still to
//! come. It does not say what a value means; `reply` does, for the few that we read ourselves.
//!
//! ```text
//!            ┌───────────── element done, more to come ─────────────┐
//!            ▼                                                      │
//!          Type ──'+' '-' ':' ',' '#' '_' '('──▶ Line ──'\n'────────┤
//!            ├────'*' '%' '~' '>' '|'──────────▶ Length ─▶ LineEnd ─┤  (announces elements)
//!            └────'$' '!' '='──────────────────▶ Length ─▶ LineEnd ─▶ Payload
//! ```

use super::fault::FrameFault;
use super::limits::REPLY_ELEMENTS_MAX;

/// What came of scanning a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// The piece ended inside a value (or between two).
    More,
    /// A whole value ended after so many bytes of the piece.
    End {
        /// How many bytes of the piece belong to the value.
        used: usize,
        /// What it was.
        value: Value,
    },
}

/// What is known of a value that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value {
    /// Its type byte; that of the value itself where attributes came first.
    pub kind: u8,
    /// Whether it is a null of whatever kind.
    pub null: bool,
}

impl Value {
    /// Whether it answers nothing.
    #[must_use]
    pub fn is_push(&self) -> bool {
        self.kind == b'>'
    }

    /// Whether it is an error.
    #[must_use]
    pub fn is_error(&self) -> bool {
        matches!(self.kind, b'-' | b'!')
    }
}

/// Scans one stream of RESP values, in pieces of any size.
#[derive(Debug, Clone)]
pub struct FrameScanner {
    phase: Phase,
    /// Elements still to come, the one being scanned included; 0 between values.
    outstanding: u64,
    /// Type byte of the value; 0 until known.
    kind: u8,
    null: bool,
    /// Whether the element being scanned is the value itself and not a part of it.
    outermost: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Type,
    Line,
    Length { kind: u8, value: u64, negative: bool, digits: u8 },
    LineEnd { kind: u8, length: Option<u64> },
    Payload { left: u64 },
}

impl Default for FrameScanner {
    fn default() -> Self {
        Self { phase: Phase::Type, outstanding: 0, kind: 0, null: false, outermost: false }
    }
}

impl FrameScanner {
    /// Whether the scanner stands between two values.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.outstanding == 0
    }

    /// The type byte of the value being scanned, once it is known.
    #[must_use]
    pub fn kind(&self) -> Option<u8> {
        (self.kind != 0).then_some(self.kind)
    }

    /// How many bytes the value needs at least beyond what was scanned.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        match self.phase {
            Phase::Payload { left } => left,
            Phase::Type | Phase::Line | Phase::Length { .. } | Phase::LineEnd { .. } => 0,
        }
    }

    /// Scans `piece` up to the end of one value.
    pub fn scan(&mut self, piece: &[u8]) -> Result<Scan, FrameFault> {
        let mut at = 0;
        while at < piece.len() {
            match self.phase {
                Phase::Type => {
                    self.on_type(piece[at])?;
                    if let Some(whole) = short_string(&piece[at..]) {
                        at += whole;
                        if self.element_done() {
                            return Ok(self.ended(at));
                        }
                    } else {
                        at += 1;
                    }
                }
                Phase::Line => match memchr::memchr(b'\n', &piece[at..]) {
                    None => return Ok(Scan::More),
                    Some(end) => {
                        at += end + 1;
                        if self.element_done() {
                            return Ok(self.ended(at));
                        }
                    }
                },
                Phase::Length { kind, value, negative, digits } => {
                    self.on_length(piece[at], kind, value, negative, digits)?;
                    at += 1;
                }
                Phase::LineEnd { kind, length } => {
                    if piece[at] != b'\n' {
                        return Err(FrameFault::LineEnd);
                    }
                    at += 1;
                    if self.on_announced(kind, length)? {
                        return Ok(self.ended(at));
                    }
                }
                Phase::Payload { left } => {
                    let here = (piece.len() - at) as u64;
                    if here < left {
                        self.phase = Phase::Payload { left: left - here };
                        return Ok(Scan::More);
                    }
                    at += usize::try_from(left).unwrap_or(usize::MAX);
                    if self.element_done() {
                        return Ok(self.ended(at));
                    }
                }
            }
        }
        Ok(Scan::More)
    }

    fn on_type(&mut self, byte: u8) -> Result<(), FrameFault> {
        if self.outstanding == 0 {
            self.outstanding = 1;
            self.kind = 0;
            self.null = false;
        }
        // Only an attribute can stand before the value itself, and its parts are counted above 1 while they are scanned.
        self.outermost = self.kind == 0 && self.outstanding == 1 && byte != b'|';
        if self.outermost {
            self.kind = byte;
            self.null = byte == b'_';
        }
        self.phase = match byte {
            b'+' | b'-' | b':' | b',' | b'#' | b'_' | b'(' => Phase::Line,
            b'$' | b'!' | b'=' | b'*' | b'%' | b'~' | b'>' | b'|' => Phase::Length { kind: byte, value: 0, negative: false, digits: 0 },
            other => return Err(FrameFault::Type(other)),
        };
        Ok(())
    }

    fn on_length(&mut self, byte: u8, kind: u8, value: u64, negative: bool, digits: u8) -> Result<(), FrameFault> {
        self.phase = match byte {
            b'0'..=b'9' if digits < 18 => Phase::Length { kind, value: value * 10 + u64::from(byte - b'0'), negative, digits: digits + 1 },
            b'-' if digits == 0 && !negative => Phase::Length { kind, value, negative: true, digits },
            b'\r' if digits > 0 => {
                if negative && (value != 1 || !matches!(kind, b'$' | b'*')) {
                    return Err(FrameFault::Length);
                }
                Phase::LineEnd { kind, length: (!negative).then_some(value) }
            }
            _not_a_length => return Err(FrameFault::Length),
        };
        Ok(())
    }

    /// A length is known; true when the whole value ends with it.
    fn on_announced(&mut self, kind: u8, length: Option<u64>) -> Result<bool, FrameFault> {
        let Some(length) = length else {
            self.null |= self.outermost;
            return Ok(self.element_done());
        };
        let elements = match kind {
            b'$' | b'!' | b'=' => {
                self.phase = Phase::Payload { left: length + 2 };
                return Ok(false);
            }
            b'%' => length * 2,
            // An attribute is followed by the element it belongs to, which is counted already.
            b'|' => length * 2 + 1,
            _array_set_or_push => length,
        };
        self.outstanding += elements;
        if self.outstanding > REPLY_ELEMENTS_MAX {
            return Err(FrameFault::Elements);
        }
        Ok(self.element_done())
    }

    fn element_done(&mut self) -> bool {
        self.phase = Phase::Type;
        self.outstanding -= 1;
        self.outstanding == 0
    }

    fn ended(&self, used: usize) -> Scan {
        Scan::End { used, value: Value { kind: self.kind, null: self.null } }
    }
}

/// How long a string with a length of one digit or two is, if the piece begins with the whole of one.
#[inline]
fn short_string(piece: &[u8]) -> Option<usize> {
    let whole = match piece {
        [b'$', one @ b'0'..=b'9', b'\r', b'\n', ..] => 4 + usize::from(one - b'0') + 2,
        [b'$', ten @ b'0'..=b'9', one @ b'0'..=b'9', b'\r', b'\n', ..] => 5 + 10 * usize::from(ten - b'0') + usize::from(one - b'0') + 2,
        _ => return None,
    };
    (whole <= piece.len()).then_some(whole)
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
