//! Messages that the proxy itself originates, appended to a buffer.
//!
//! Backend messages (to a client) are ours. Frontend messages (to an upstream) come from `postgres-protocol`, except the cancel request,
//! whose secret may be longer there than that crate allows.

use super::fault::Fault;
use super::parameters::ParameterSet;
use super::tracker::TransactionStatus;

/// Longest secret of a cancel key (protocol 3.2).
pub const MAX_CANCEL_SECRET_BYTES: usize = 256;

/// ErrorResponse.
pub fn error_response(fault: &Fault, out: &mut Vec<u8>) {
    message(b'E', out, |out| fault_fields(fault, out));
}

/// NoticeResponse.
pub fn notice_response(fault: &Fault, out: &mut Vec<u8>) {
    message(b'N', out, |out| fault_fields(fault, out));
}

/// AuthenticationOk.
pub fn authentication_ok(out: &mut Vec<u8>) {
    message(b'R', out, |out| out.extend(0_i32.to_be_bytes()));
}

/// AuthenticationCleartextPassword.
pub fn authentication_cleartext(out: &mut Vec<u8>) {
    message(b'R', out, |out| out.extend(3_i32.to_be_bytes()));
}

/// AuthenticationMD5Password.
pub fn authentication_md5(salt: [u8; 4], out: &mut Vec<u8>) {
    message(b'R', out, |out| {
        out.extend(5_i32.to_be_bytes());
        out.extend(salt);
    });
}

/// AuthenticationSASL with the mechanisms we offer, best first.
pub fn authentication_sasl(mechanisms: &[&str], out: &mut Vec<u8>) {
    message(b'R', out, |out| {
        out.extend(10_i32.to_be_bytes());
        for mechanism in mechanisms {
            text(mechanism, out);
        }
        out.push(0);
    });
}

/// AuthenticationSASLContinue.
pub fn authentication_sasl_continue(data: &[u8], out: &mut Vec<u8>) {
    message(b'R', out, |out| {
        out.extend(11_i32.to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// AuthenticationSASLFinal.
pub fn authentication_sasl_final(data: &[u8], out: &mut Vec<u8>) {
    message(b'R', out, |out| {
        out.extend(12_i32.to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// ParameterStatus.
pub fn parameter_status(name: &str, value: &str, out: &mut Vec<u8>) {
    message(b'S', out, |out| {
        text(name, out);
        text(value, out);
    });
}

/// A ParameterStatus for each parameter of the set.
pub fn parameter_statuses(parameters: &ParameterSet, out: &mut Vec<u8>) {
    for (name, value) in parameters.iter() {
        parameter_status(name, value, out);
    }
}

/// BackendKeyData.
pub fn backend_key_data(process_id: i32, secret: &[u8], out: &mut Vec<u8>) {
    message(b'K', out, |out| {
        out.extend(process_id.to_be_bytes());
        out.extend_from_slice(secret);
    });
}

/// ReadyForQuery.
pub fn ready_for_query(status: TransactionStatus, out: &mut Vec<u8>) {
    message(b'Z', out, |out| {
        out.push(match status {
            TransactionStatus::Idle => b'I',
            TransactionStatus::InTransaction => b'T',
            TransactionStatus::Failed => b'E',
        });
    });
}

/// NegotiateProtocolVersion: the newest minor version we speak, and the `_pq_.` options we do not know.
pub fn negotiate_protocol_version<'a>(minor: u16, unknown_options: impl ExactSizeIterator<Item = &'a str>, out: &mut Vec<u8>) {
    message(b'v', out, |out| {
        out.extend((3 << 16 | i32::from(minor)).to_be_bytes());
        out.extend(i32::try_from(unknown_options.len()).unwrap_or(i32::MAX).to_be_bytes());
        for option in unknown_options {
            text(option, out);
        }
    });
}

/// CancelRequest, as sent on a connection of its own.
pub fn cancel_request(process_id: i32, secret: &[u8], out: &mut Vec<u8>) {
    let secret = &secret[..secret.len().min(MAX_CANCEL_SECRET_BYTES)];
    let length = 12 + i32::try_from(secret.len()).unwrap_or(0);
    out.extend(length.to_be_bytes());
    out.extend((1234 << 16 | 5678_i32).to_be_bytes());
    out.extend(process_id.to_be_bytes());
    out.extend_from_slice(secret);
}

/// The fields that PostgreSQL always sends (S V C M), and detail and hint where there are any.
fn fault_fields(fault: &Fault, out: &mut Vec<u8>) {
    let mut field = |code: u8, value: &str| {
        out.push(code);
        text(value, out);
    };
    field(b'S', fault.severity.as_str());
    field(b'V', fault.severity.as_str());
    field(b'C', fault.sqlstate.as_str());
    field(b'M', &fault.message);
    if let Some(detail) = &fault.detail {
        field(b'D', detail);
    }
    if let Some(hint) = &fault.hint {
        field(b'H', hint);
    }
    out.push(0);
}

/// A tag, a length that is filled in afterwards, and the body.
fn message(tag: u8, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let start = out.len();
    out.extend([0; 4]);
    body(out);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// A zero-terminated string. What comes from a peer may hold a zero byte itself: the string ends there.
fn text(value: &str, out: &mut Vec<u8>) {
    let end = memchr::memchr(0, value.as_bytes()).unwrap_or(value.len());
    out.extend_from_slice(&value.as_bytes()[..end]);
    out.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::fault::SqlState;

    fn bytes(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out);
        out
    }

    #[test]
    fn an_error_has_all_fields_in_order() {
        let fault = Fault::fatal(SqlState::INVALID_PASSWORD, "no").with_detail("d\0x").with_hint("h");
        let body = b"SFATAL\0VFATAL\0C28P01\0Mno\0Dd\0Hh\0\0";
        let mut wanted = vec![b'E', 0, 0, 0, 4 + u8::try_from(body.len()).unwrap()];
        wanted.extend_from_slice(body);
        assert_eq!(bytes(|out| error_response(&fault, out)), wanted);
        assert_eq!(bytes(|out| notice_response(&fault, out))[0], b'N');
    }

    #[test]
    fn authentication_requests() {
        assert_eq!(bytes(authentication_ok), b"R\0\0\0\x08\0\0\0\0");
        assert_eq!(bytes(authentication_cleartext), b"R\0\0\0\x08\0\0\0\x03");
        assert_eq!(bytes(|out| authentication_md5(*b"salt", out)), b"R\0\0\0\x0c\0\0\0\x05salt");
        assert_eq!(bytes(|out| authentication_sasl(&["A", "B"], out)), b"R\0\0\0\x0d\0\0\0\x0aA\0B\0\0");
        assert_eq!(bytes(|out| authentication_sasl_continue(b"x", out)), b"R\0\0\0\x09\0\0\0\x0bx");
        assert_eq!(bytes(|out| authentication_sasl_final(b"x", out)), b"R\0\0\0\x09\0\0\0\x0cx");
    }

    #[test]
    fn what_follows_a_login() {
        assert_eq!(bytes(|out| parameter_status("a", "b", out)), b"S\0\0\0\x08a\0b\0");
        assert_eq!(bytes(|out| backend_key_data(1, &[2, 3, 4, 5], out)), b"K\0\0\0\x0c\0\0\0\x01\x02\x03\x04\x05");
        assert_eq!(bytes(|out| ready_for_query(TransactionStatus::Idle, out)), b"Z\0\0\0\x05I");
        assert_eq!(bytes(|out| negotiate_protocol_version(0, ["_pq_.x"].into_iter(), out)), b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0");
    }

    #[test]
    fn a_cancel_request_carries_keys_of_any_allowed_length() {
        assert_eq!(bytes(|out| cancel_request(7, &[1, 2, 3, 4], out)), b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x07\x01\x02\x03\x04");
        assert_eq!(bytes(|out| cancel_request(7, &[9; 300], out)).len(), 12 + MAX_CANCEL_SECRET_BYTES);
    }
}
