//! Bytes as the first of a PostgreSQL client: what is taken keeps its bounds, every refusal can be told, and passing over options changes nothing
//! about packets that have good ones.

use sidepool_protocol::postgres::encode;
use sidepool_protocol::postgres::startup::{self, HEAD_BYTES, MAX_NAME_BYTES, MAX_PACKET_BYTES, Opening};

/// Runs the target.
pub fn run(data: &[u8]) {
    message(data);
    let Some((head, rest)) = data.split_first_chunk::<HEAD_BYTES>() else { return };
    match startup::opening(*head) {
        Ok(Opening::Ssl | Opening::Gss | Opening::DirectTls) => {}
        Ok(Opening::Cancel(remaining)) => {
            let rest = &rest[..remaining.min(rest.len())];
            if let Some((_, secret)) = startup::cancel_key(rest) {
                assert!(secret.len() >= 4 && secret.len() + 4 == rest.len());
            }
        }
        Ok(Opening::Startup { remaining, .. }) => {
            assert!(remaining <= MAX_PACKET_BYTES);
            message(&rest[..remaining.min(rest.len())]);
        }
        Err(stranger) => {
            assert!(!stranger.label().is_empty());
            encode::error_response(&stranger.fault(), &mut Vec::new());
        }
    }
}

fn message(rest: &[u8]) {
    let (strict, lenient) = (startup::startup(rest, false), startup::startup(rest, true));
    for error in [strict.as_ref().err(), lenient.as_ref().err()].into_iter().flatten() {
        encode::error_response(&error.fault(), &mut Vec::new());
    }
    if let Ok(strict) = strict {
        assert_eq!(Ok(&strict), lenient.as_ref());
    }
    if let Ok(startup) = lenient {
        for name in [&startup.user, &startup.database] {
            assert!((1..=MAX_NAME_BYTES).contains(&name.len()) && !name.contains('\0'));
        }
        for (name, value) in &startup.parameters {
            assert!(!name.is_empty() && !name.contains('\0') && !value.contains('\0'));
        }
    }
}
