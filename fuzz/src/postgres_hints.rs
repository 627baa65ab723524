//! Texts of SQL, and the values of a Bind: whatever they are, what may have changed is bounded, and a SET in front of them is never overlooked.

use sidepool_protocol::postgres::hints::{Kinds, MAX_NAMES, bound_names, look};

/// The body of the target.
pub fn run(input: &[u8]) {
    assert!(look(input).names.len() <= MAX_NAMES);
    assert!(bound_names(input).is_none_or(|hints| hints.names.len() <= MAX_NAMES));
    let before = look(&[b"SET app.x = 1; ", input].concat());
    assert!(before.kinds.has(Kinds::UNKNOWN) || before.names.iter().any(|name| &**name == "app.x"), "{before:?}");
    let called = look(&[b"SELECT set_config('app.x', '1', false), ", input].concat());
    assert!(called.kinds.has(Kinds::UNKNOWN) || called.names.iter().any(|name| &**name == "app.x"), "{called:?}");
}
