//! Bytes as what an operator sends to the admin console: any text is a command or none, whatever is prepared can be described and run, and what is
//! kept is bounded.

use sidepool::console::command::{self, Command, Wrong};
use sidepool::console::extended::Prepared;
use sidepool_protocol::postgres::fault::{Fault, SqlState};
use sidepool_protocol::postgres::result;

/// Runs the target: the whole as one command, then as messages of the extended protocol.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(found) = command::parse(&text) {
        let again = command::parse(&format!(" {text} \n"));
        assert_eq!(again.as_ref(), Ok(&found), "space around it changes nothing");
        if let Command::Set(key, value) = &found {
            assert!(!key.is_empty() && key.len() < 64 && value.len() < 256);
        }
        result::row_description(&sidepool::console::extended::columns(&found), &result::Formats::Binary, &mut Vec::new());
    }
    messages(data);
}

fn messages(mut data: &[u8]) {
    let mut prepared = Prepared::default();
    while let [tag, length, rest @ ..] = data {
        let (body, after) = rest.split_at(usize::from(*length).min(rest.len()));
        data = after;
        let mut out = Vec::new();
        match tag % 6 {
            0 => drop(prepared.parse(body, read)),
            1 => drop(prepared.bind(body)),
            2 => drop(prepared.describe(body, &mut out)),
            3 => {
                if let Ok((Some(command), formats)) = prepared.execute(body) {
                    result::row_description(&sidepool::console::extended::columns(&command), &formats, &mut out);
                }
            }
            4 => drop(prepared.close(body)),
            _ => prepared.sync(),
        }
    }
}

fn read(text: &str) -> Result<Command, Fault> {
    let wrong = |_: Wrong| Fault::error(SqlState::PROTOCOL_VIOLATION, "no command");
    command::parse(text).map_err(wrong)
}
