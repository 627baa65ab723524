//! One generation of the program gives way to the next without dropping a client: the new process knocks at the private socket of the old one
//! and gets the listening sockets, and then the clients, one by one, at their idle moments. All or nothing: until the new one says that it
//! serves, the old one carries on as if nothing had happened.

pub mod channel;
pub mod giving;
pub mod message;
pub mod taking;
