//! The bounds of what a client may send, as Redis has them by default.

/// Most arguments of one request: Redis takes any 32-bit number; so do we, because requests are streamed and never gathered.
pub const ARGUMENTS_MAX: u64 = i32::MAX as u64;
/// Longest argument that can be announced. Where the server's limit is (`proto-max-bulk-len`) only the server knows: it answers, and we hold no more of
/// an argument than what may be gathered of a request.
pub const ARGUMENT_BYTES_MAX: u64 = i64::MAX as u64;
/// Longest inline request, and longest line that announces a number (`PROTO_INLINE_MAX_SIZE`).
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// Most arguments before a client has authenticated.
pub const ARGUMENTS_BEFORE_LOGIN: u64 = 10;
/// Longest argument before a client has authenticated.
pub const ARGUMENT_BYTES_BEFORE_LOGIN: u64 = 16 * 1024;
/// Most elements that one reply may still announce; a server that says more is not to be believed.
pub const REPLY_ELEMENTS_MAX: u64 = u32::MAX as u64 * 16;

const _: () = assert!(ARGUMENT_BYTES_BEFORE_LOGIN < ARGUMENT_BYTES_MAX && ARGUMENTS_BEFORE_LOGIN < ARGUMENTS_MAX);
