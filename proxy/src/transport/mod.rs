//! Bytes in and out: streams of every kind behind one type, and the buffers they are read into.

pub mod backlog;
pub mod buffer;
pub mod ends;
pub mod options;
pub mod ringed;
pub mod socket;
pub mod stream;
pub mod tls;
