//! Messages that a client sends, as bytes. Written out by hand, so that tests can also send what no driver would.

use bytes::{BufMut as _, BytesMut};

/// A message of any tag: the length is put in.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend_from_slice(&length(body.len() + 4));
    bytes.extend_from_slice(body);
    bytes
}

/// StartupMessage of protocol 3.0 with these parameters.
pub fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = vec![0, 3, 0, 0];
    for (name, value) in parameters {
        body.extend_from_slice(&text(name));
        body.extend_from_slice(&text(value));
    }
    body.push(0);
    untagged(&body)
}

/// SSLRequest.
pub fn ssl_request() -> Vec<u8> {
    untagged(&80_877_103_i32.to_be_bytes())
}

/// CancelRequest.
pub fn cancel(process: i32, key: &[u8]) -> Vec<u8> {
    let mut body = 80_877_102_i32.to_be_bytes().to_vec();
    body.extend_from_slice(&process.to_be_bytes());
    body.extend_from_slice(key);
    untagged(&body)
}

/// Query.
pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &text(sql))
}

/// Parse, with no parameter types given.
pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    let mut body = text(name);
    body.extend_from_slice(&text(sql));
    body.extend_from_slice(&[0, 0]);
    message(b'P', &body)
}

/// Bind with text parameters and text results.
pub fn bind(portal: &str, statement: &str, parameters: &[&str]) -> Vec<u8> {
    let mut body = BytesMut::new();
    body.put_slice(&text(portal));
    body.put_slice(&text(statement));
    body.put_i16(0);
    body.put_i16(i16::try_from(parameters.len()).expect("few parameters"));
    for parameter in parameters {
        body.put_slice(&length(parameter.len()));
        body.put_slice(parameter.as_bytes());
    }
    body.put_i16(0);
    message(b'B', &body)
}

/// Describe of a statement (`S`) or a portal (`P`).
pub fn describe(kind: u8, name: &str) -> Vec<u8> {
    message(b'D', &[&[kind], text(name).as_slice()].concat())
}

/// Execute, with a limit of rows (0: none).
pub fn execute(portal: &str, rows: i32) -> Vec<u8> {
    message(b'E', &[text(portal).as_slice(), &rows.to_be_bytes()].concat())
}

/// Close of a statement (`S`) or a portal (`P`).
pub fn close(kind: u8, name: &str) -> Vec<u8> {
    message(b'C', &[&[kind], text(name).as_slice()].concat())
}

/// Sync.
pub fn sync() -> Vec<u8> {
    message(b'S', &[])
}

/// Flush.
pub fn flush() -> Vec<u8> {
    message(b'H', &[])
}

/// Terminate.
pub fn terminate() -> Vec<u8> {
    message(b'X', &[])
}

/// PasswordMessage.
pub fn password(secret: &str) -> Vec<u8> {
    message(b'p', &text(secret))
}

/// CopyData.
pub fn copy_data(data: &[u8]) -> Vec<u8> {
    message(b'd', data)
}

/// CopyDone.
pub fn copy_done() -> Vec<u8> {
    message(b'c', &[])
}

/// CopyFail.
pub fn copy_fail(reason: &str) -> Vec<u8> {
    message(b'f', &text(reason))
}

/// FunctionCall with text arguments and a text result.
pub fn function_call(oid: u32, arguments: &[&str]) -> Vec<u8> {
    let mut body = BytesMut::new();
    body.put_u32(oid);
    body.put_i16(0);
    body.put_i16(i16::try_from(arguments.len()).expect("few arguments"));
    for argument in arguments {
        body.put_slice(&length(argument.len()));
        body.put_slice(argument.as_bytes());
    }
    body.put_i16(0);
    message(b'F', &body)
}

fn untagged(body: &[u8]) -> Vec<u8> {
    [length(body.len() + 4).as_slice(), body].concat()
}

fn text(value: &str) -> Vec<u8> {
    [value.as_bytes(), &[0]].concat()
}

fn length(value: usize) -> [u8; 4] {
    i32::try_from(value).expect("below 2 GB").to_be_bytes()
}
