//! Redis sessions.

use std::rc::Rc;
use std::sync::Arc;

use crate::transport::stream::Stream;
use crate::worker::Worker;

pub mod side;

/// Serves one client of the configured server `name` from its first byte to its last. The caller holds the client's permit for as long as this runs.
pub async fn serve(stream: Stream, name: Arc<str>, worker: Rc<Worker>) {
    let _ = (stream, name, worker);
}
