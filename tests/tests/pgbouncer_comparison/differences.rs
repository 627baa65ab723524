//! Where sidepool answers otherwise than PgBouncer 1.18 on purpose, and why.
//!
//! One thing is not listed line by line: PgBouncer gives every error of its own the SQLSTATE 08P01, sidepool the one that PostgreSQL has for such a
//! case (28P01, 3D000, 53300, 57014 …), because drivers act on it. Errors are compared by their severity and their text.

/// One kind of line that differs.
#[derive(Debug)]
pub(crate) struct Difference {
    /// The scenario, or how its name begins.
    scenario: &'static str,
    /// The start of the line: `- ` for PgBouncer's, `+ ` for ours.
    line: &'static str,
    /// Why.
    why: &'static str,
}

impl Difference {
    /// Whether this is about that line of that scenario.
    pub(crate) fn covers(&self, scenario: &str, line: &str) -> bool {
        scenario.starts_with(self.scenario) && line.starts_with(self.line)
    }

    /// In words.
    pub(crate) fn describe(&self) -> String {
        format!("{}: {} ({})", self.scenario, self.line, self.why)
    }
}

const fn differs(scenario: &'static str, line: &'static str, why: &'static str) -> Difference {
    Difference { scenario, line, why }
}

const STAYS: &str = "whoever waits in vain gets an error and may try again; PgBouncer closes the connection";
const NEWER: &str = "the lists are those of PgBouncer 1.25";
const APPLIED: &str = "parameters that the server knows are applied like SET";

/// All of them.
pub(crate) const DIFFERENCES: &[Difference] = &[
    differs("logins", "- parameter DateStyle = German", "PgBouncer echoes the client's spelling"),
    differs("logins", "+ parameter DateStyle = German, DMY", "the server's own value is reported"),
    differs("logins", "- error FATAL 08P01 database \"no_such_database\" does not exist", "PgBouncer names the server's database"),
    differs("logins", "+ error FATAL 3D000 database \"missing\" does not exist", "the database is named as the client knows it"),
    differs("a wait", "- error FATAL 08P01 query_wait_timeout", STAYS),
    differs("a wait", "- closed", STAYS),
    differs("a wait", "+ error ERROR 53300 query_wait_timeout", STAYS),
    differs("a wait", "+ ready I", STAYS),
    differs("at most", "- error FATAL 08P01 query_wait_timeout", STAYS),
    differs("at most", "- closed", STAYS),
    differs("at most", "+ error ERROR 53300 query_wait_timeout", STAYS),
    differs("at most", "+ ready I", STAYS),
    differs(
        "notices and notifications",
        "- message A",
        "what a client sends to itself comes like all it listens for, right behind the transaction",
    ),
    differs("settings that", "- error FATAL 08P01 query_wait_timeout", STAYS),
    differs("settings that", "- closed", STAYS),
    differs("settings that", "+ error ERROR 53300 query_wait_timeout", STAYS),
    differs("settings that", "+ ready I", STAYS),
    differs("console logins", "- parameter server_version = 1.18.0/bouncer", NEWER),
    differs("console logins", "+ parameter server_version = 1.25.2/bouncer", NEWER),
    differs("console", "- columns database:25", NEWER),
    differs("console", "+ columns database:25", NEWER),
    differs("console tables", "- columns name:25 ", NEWER),
    differs("console tables", "+ columns name:25 ", NEWER),
    differs("console tables", "- columns type:25", NEWER),
    differs("console tables", "+ columns type:25", NEWER),
    differs("console", "+ columns key:25 value:25", "SHOW STATE is newer than 1.18"),
    differs(
        "console tables",
        "+ row ",
        "settings, totals and lists of 1.25 are there, and pools with a forced user before their first client",
    ),
    differs("console", "- error ERROR 08P01 invalid command 'SHOW STATE'", "SHOW STATE is newer than 1.18"),
    differs("console commands", "+ row ", "SHOW STATE is newer than 1.18"),
    differs("console", "+ complete SHOW", "SHOW STATE is newer than 1.18"),
    differs("startup parameters", "- error FATAL 08P01 unsupported startup parameter: geqo", APPLIED),
    differs("startup parameters", "- error FATAL 08P01 unsupported startup parameter: options", APPLIED),
    differs("startup parameters", "- closed", APPLIED),
    differs("startup parameters", "+ welcome", APPLIED),
    differs("startup parameters", "+ error FATAL 0A000 unsupported options startup parameter", "the text of 1.25"),
    differs("rules for hosts", "- error FATAL 08P01 login rejected", "1.18 has one text for all, and does not know the address \"all\""),
    differs("rules for hosts", "- closed", "1.18 does not know the address \"all\""),
    differs("rules for hosts", "+ welcome", "the address \"all\" is that of 1.25"),
    differs("rules for hosts", "+ error FATAL 28000 no authentication method is found", "the text of 1.25"),
    differs("a message that is none", "- error FATAL 08P01 unknown pkt", "PgBouncer does not say which"),
    differs("a message that is none", "+ error FATAL 08P01 invalid frontend message type 121", "PostgreSQL's own text, with the type"),
    differs(
        "a cleaning after each transaction",
        "- row 4MB",
        "the connection is cleaned, and the client keeps what it set (session_state = follow)",
    ),
    differs(
        "a cleaning after each transaction",
        "+ row 1MB",
        "the connection is cleaned, and the client keeps what it set (session_state = follow)",
    ),
];
