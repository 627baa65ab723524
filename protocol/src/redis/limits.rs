//! The bounds of what a client may send, as Redis has them by default.

/// Most arguments of one request: Redis takes any 32-bit number; so do we, because requests are streamed and never gathered.
pub const ARGUMENTS_MAX: u64 = i32::MAX as u64;
/// Longest argument (`proto-max-bulk-len`).
pub const ARGUMENT_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Longest inline request, and longest line that announces a number (`PROTO_INLINE_MAX_SIZE`).
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// Most arguments before a client has authenticated.
pub const ARGUMENTS_BEFORE_LOGIN: u64 = 10;
/// Longest argument before a client has authenticated.
pub const ARGUMENT_BYTES_BEFORE_LOGIN: u64 = 16 * 1024;
/// Most elements that one reply may still announce; a server that says more is not to be believed.
pub const REPLY_ELEMENTS_MAX: u64 = u32::MAX as u64 * 16;

const _: () = assert!(ARGUMENT_BYTES_BEFORE_LOGIN < ARGUMENT_BYTES_MAX && ARGUMENTS_BEFORE_LOGIN < ARGUMENTS_MAX);
