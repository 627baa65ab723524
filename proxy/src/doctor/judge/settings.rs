//! Settings of a PostgreSQL server that work against a pooler, or with it. Pure. Those that make no difference are not spoken of.

use std::time::Duration;

use super::reach::shown;
use crate::doctor::facts::PgServer;
use crate::doctor::finding::Finding;
use crate::doctor::plan::PgWish;

/// A statement_timeout below this hits what sidepool does itself.
const SHORT: u64 = 1_000;

/// What the settings mean.
#[must_use]
pub fn judge(server: &PgServer, wish: &PgWish) -> Vec<Finding> {
    let mut findings = Vec::new();
    // All in milliseconds; zero is for ever.
    let bound = |name: &str| server.number(name).filter(|millis| *millis > 0);
    if let Some(millis) = bound("idle_session_timeout") {
        findings.push(idle_session(Duration::from_millis(millis), wish));
    }
    if let Some(millis) = bound("idle_in_transaction_session_timeout") {
        findings.push(idle_in_transaction(Duration::from_millis(millis), wish));
    }
    if let Some(millis) = bound("statement_timeout") {
        findings.push(statement(millis));
    }
    if server.settings.get("password_encryption").is_some_and(|value| value == "md5") && wish.needs_scram {
        findings.push(Finding::warning(
            "password_encryption",
            "the server stores new passwords as MD5",
            "clients log in to sidepool by SCRAM, for which auth_query has to find SCRAM verifiers",
            "there: ALTER SYSTEM SET password_encryption = 'scram-sha-256', and give the users their passwords anew",
        ));
    }
    if server.is_on("log_connections") {
        findings
            .push(Finding::good("log_connections", "on: the server logs each connection that a pool opens, and not those of the clients"));
    }
    findings
}

fn idle_session(theirs: Duration, wish: &PgWish) -> Finding {
    const CHECK: &str = "idle_session";
    let ours = wish.idle_timeout.map_or_else(|| "never".to_owned(), |ours| format!("after {}", shown(ours)));
    let found = format!("the server closes idle connections after {} (idle_session_timeout), sidepool {ours}", shown(theirs));
    if wish.idle_timeout.is_some_and(|ours| ours < theirs) {
        return Finding::good(CHECK, found);
    }
    Finding::warning(
        CHECK,
        found,
        "connections end in the pool's hands: the pool is smaller than it seems, and whoever comes first waits for a new one",
        "set server_idle_timeout below it, or switch it off for the pool's role: ALTER ROLE … SET idle_session_timeout = 0",
    )
}

fn idle_in_transaction(theirs: Duration, wish: &PgWish) -> Finding {
    const CHECK: &str = "idle_transaction";
    let ours = wish.idle_transaction_timeout;
    let said = if ours.is_zero() { "never".to_owned() } else { format!("after {}", shown(ours)) };
    let found = format!(
        "the server ends idle transactions after {}, and their connections with them (idle_in_transaction_session_timeout), sidepool {said}",
        shown(theirs)
    );
    if !ours.is_zero() && ours < theirs {
        return Finding::good(CHECK, found);
    }
    Finding::warning(
        CHECK,
        found,
        "each time the pool loses a connection that has to be opened anew",
        "set idle_transaction_timeout below it: sidepool then closes the client and keeps the connection",
    )
}

fn statement(millis: u64) -> Finding {
    const CHECK: &str = "statement_timeout";
    let found = format!("the server ends statements after {}", shown(Duration::from_millis(millis)));
    if millis >= SHORT {
        return Finding::good(CHECK, found);
    }
    Finding::warning(
        CHECK,
        found,
        "it holds for what cleans a connection and asks whether it is alive, too: a busy server loses connections to it",
        "leave it at a second or more for the pool's role, and let clients set shorter ones for themselves",
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::verdicts;
    use super::*;
    use crate::doctor::finding::Verdict;

    #[test]
    fn settings_are_judged_against_ours() {
        use Verdict::{Good, Warning};
        let seconds = Duration::from_secs;
        let table = [
            ("idle_session_timeout", "0", None, seconds(0), None),
            ("idle_session_timeout", "60000", Some(seconds(30)), seconds(0), Some(Good)),
            ("idle_session_timeout", "60000", Some(seconds(60)), seconds(0), Some(Warning)),
            ("idle_session_timeout", "60000", None, seconds(0), Some(Warning)),
            ("idle_in_transaction_session_timeout", "5000", None, seconds(0), Some(Warning)),
            ("idle_in_transaction_session_timeout", "5000", None, seconds(5), Some(Warning)),
            ("idle_in_transaction_session_timeout", "5000", None, seconds(4), Some(Good)),
            ("statement_timeout", "30000", None, seconds(0), Some(Good)),
            ("statement_timeout", "500", None, seconds(0), Some(Warning)),
            ("statement_timeout", "nonsense", None, seconds(0), None),
            ("log_connections", "on", None, seconds(0), Some(Good)),
            ("log_connections", "off", None, seconds(0), None),
            ("password_encryption", "md5", None, seconds(0), None),
        ];
        let check = |name: &str| match name {
            "idle_session_timeout" => "idle_session",
            "idle_in_transaction_session_timeout" => "idle_transaction",
            "log_connections" => "log_connections",
            _ => "statement_timeout",
        };
        for (name, value, idle_timeout, idle_transaction_timeout, verdict) in table {
            let server = PgServer { settings: [(name.to_owned(), value.to_owned())].into(), ..PgServer::default() };
            let wish = PgWish { idle_timeout, idle_transaction_timeout, ..PgWish::default() };
            let found = verdicts(&judge(&server, &wish));
            assert_eq!(found, verdict.map(|verdict| (check(name), verdict)).into_iter().collect::<Vec<_>>(), "{name} = {value}");
        }
        let server = PgServer { settings: [("password_encryption".to_owned(), "md5".to_owned())].into(), ..PgServer::default() };
        let wish = PgWish { needs_scram: true, ..PgWish::default() };
        assert_eq!(verdicts(&judge(&server, &wish)), [("password_encryption", Warning)]);
    }
}
