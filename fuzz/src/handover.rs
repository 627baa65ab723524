//! Bytes as what another generation of the program says: messages come back as they were sent, and a client's state comes in parts or not at
//! all.

use sidepool::handover::message::{Assembly, Message};

/// Runs the target. The input is a series of messages, each after its length (two bytes).
pub fn run(data: &[u8]) {
    let (mut rest, mut coming) = (data, None::<Assembly>);
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length)).min(after.len());
        let (bytes, after) = after.split_at(length);
        rest = after;
        let Ok(message) = Message::decode(bytes) else { continue };
        if let Ok(again) = message.encode() {
            assert_eq!(Message::decode(&again).as_ref(), Ok(&message));
        }
        match message {
            Message::Client(size) => coming = Assembly::new(size).ok(),
            Message::Part(part) => {
                let assembled = coming.as_mut().map(|assembly| assembly.add(&part));
                if let Some(Ok(Some(state))) = assembled {
                    assert!(state.messages().is_some(), "what came in can go out again");
                    coming = None;
                }
            }
            _ => {}
        }
    }
}
