//! Why a server did not let somebody in, and what to do about it. Pure.

use crate::doctor::facts::{Denied, PgLogin, SecretForm};
use crate::doctor::finding::Finding;
use crate::pool::fault::ConnectFaultKind;

const CHECK: &str = "login";

/// What is said of a server that takes a connection and no notice of it.
const SILENCE: &str = "the connection was taken, and then no answer came in time";

/// A PostgreSQL login that did not work.
#[must_use]
pub fn postgres(login: &PgLogin, denied: &Denied) -> Finding {
    let PgLogin { user, dbname, secret, .. } = login;
    let who = format!("as {user} to {dbname}");
    let code = denied.code.as_deref().unwrap_or_default();
    // Words of ours say it themselves.
    let said = if denied.kind == ConnectFaultKind::Timeout {
        SILENCE.to_owned()
    } else if code.is_empty() || denied.words.contains(code) {
        denied.words.clone()
    } else {
        format!("{} (SQLSTATE {code})", denied.words)
    };
    if denied.kind == ConnectFaultKind::Auth && code.is_empty() && *secret != SecretForm::Usable {
        let (form, advice) = match secret {
            SecretForm::Verifier => (
                "a SCRAM verifier",
                "sidepool logs in with what a client's own login brings; min_pool_size has to wait for the first client",
            ),
            SecretForm::None | SecretForm::Usable => {
                ("no password", "sidepool logs in with what a client's own login brings, or give a password")
            }
        };
        return Finding::unseen(CHECK, format!("{who} cannot be tried: the configuration has {form}"), advice);
    }
    let words = denied.words.to_lowercase();
    let advice = match code {
        "28P01" => format!("see that the password of {user} here is the one on the server; there: ALTER ROLE \"{user}\" PASSWORD '…'"),
        "28000" if words.contains("no pg_hba.conf entry") && words.contains("no encryption") => {
            "the server lets nobody in without TLS: set sslmode = require, or better verify-full; or add a line for this machine to its pg_hba.conf"
                .to_owned()
        }
        "28000" if words.contains("no pg_hba.conf entry") => {
            format!(
                "add a line for this machine to the server's pg_hba.conf (host {dbname} {user} ADDRESS scram-sha-256), then SELECT pg_reload_conf()"
            )
        }
        "28000" if words.contains("does not exist") => format!("there: CREATE ROLE \"{user}\" LOGIN PASSWORD '…'; or mend the name here"),
        "28000" if words.contains("not permitted to log in") => format!("there: ALTER ROLE \"{user}\" LOGIN"),
        "28000" => "see what pg_hba.conf on the server says of this machine, user and database".to_owned(),
        "3D000" => format!("there: CREATE DATABASE \"{dbname}\"; or say with dbname what it is called there"),
        "42501" => format!("there: GRANT CONNECT ON DATABASE \"{dbname}\" TO \"{user}\""),
        "53300" if words.contains("for role") => format!("there: ALTER ROLE \"{user}\" CONNECTION LIMIT …; or make the pools smaller"),
        "53300" if words.contains("for database") => {
            format!("there: ALTER DATABASE \"{dbname}\" CONNECTION LIMIT …; or make the pools smaller")
        }
        "53300" => "others use up max_connections: make their pools smaller, or raise it".to_owned(),
        "57P03" => "the server starts up, shuts down or is a standby that lets nobody read: try again when it is up".to_owned(),
        "08P01" | "22023" | "42704" => {
            "the server does not know a parameter that connections are opened with: look at the database's settings".to_owned()
        }
        _ => match denied.kind {
            ConnectFaultKind::Protocol => "see that it is a PostgreSQL server that listens there".to_owned(),
            ConnectFaultKind::Timeout => "see that it is a PostgreSQL server that listens there; then look at its load and its log".to_owned(),
            ConnectFaultKind::Auth => "the server asks for another kind of proof: look at its pg_hba.conf".to_owned(),
            ConnectFaultKind::Refused
            | ConnectFaultKind::Resolve
            | ConnectFaultKind::Tls
            | ConnectFaultKind::TooMany
            | ConnectFaultKind::Unavailable
            | ConnectFaultKind::NoDatabase
            | ConnectFaultKind::Other => "look at the server's log: it says more".to_owned(),
        },
    };
    Finding::problem(CHECK, format!("{who}: {said}"), "clients of this pool cannot be served", advice)
}

/// A Redis login that did not work. `user`: the configured one.
#[must_use]
pub fn redis(denied: &Denied, user: Option<&str>, has_password: bool) -> Finding {
    let words = &denied.words;
    let code = denied.code.as_deref().unwrap_or_default();
    if code == "NOAUTH" && !has_password {
        let advice = "nothing, if clients log in as themselves (auth_type pass-through); else give a password";
        return Finding::unseen(CHECK, "the server asks for a password, and the configuration has none", advice);
    }
    let name = user.unwrap_or("default");
    let advice = match code {
        "WRONGPASS" => format!("see that user {name} is on (ACL LIST on the server) and that its password there is the one here"),
        "NOAUTH" => format!("see that the password of user {name} is right"),
        "DENIED" => {
            "the server's protected mode lets nobody in from outside: give it a password (requirepass) and set protected-mode no".to_owned()
        }
        "NOPERM" => format!("there: ACL SETUSER {name} +hello +select +ping"),
        "NOPROTO" => "the server does not speak this version of RESP".to_owned(),
        "LOADING" | "MASTERDOWN" | "BUSY" | "CLUSTERDOWN" | "TRYAGAIN" => "wait until the server is ready".to_owned(),
        _ => match denied.kind {
            ConnectFaultKind::Auth => format!("see that the password of user {name} is right"),
            ConnectFaultKind::TooMany => "raise maxclients on the server, or make the pools smaller".to_owned(),
            ConnectFaultKind::NoDatabase => "the server has no such database (databases in redis.conf; a cluster has only 0)".to_owned(),
            ConnectFaultKind::Protocol => {
                "see that it is a Redis server that listens there, and whether it wants TLS (rediss://, or sslmode)".to_owned()
            }
            ConnectFaultKind::Timeout => {
                "see whether it wants TLS (rediss://, or sslmode) or speaks none, and that it is a Redis server; then look at its load"
                    .to_owned()
            }
            ConnectFaultKind::Unavailable => {
                "the server closes the connection: it may want TLS (rediss://, or sslmode), or be in protected mode".to_owned()
            }
            ConnectFaultKind::Refused | ConnectFaultKind::Resolve | ConnectFaultKind::Tls | ConnectFaultKind::Other => {
                "look at the server's log: it says more".to_owned()
            }
        },
    };
    let said = if denied.kind == ConnectFaultKind::Timeout { SILENCE } else { words };
    Finding::problem(CHECK, said, "no client can be served", advice)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sidepool_config::model::UpstreamTls;

    use super::*;
    use crate::doctor::finding::Verdict;

    fn denied(kind: ConnectFaultKind, code: &str, words: &str) -> Denied {
        Denied { kind, code: (!code.is_empty()).then(|| code.to_owned()), words: words.to_owned() }
    }

    fn judged(secret: SecretForm, denied: &Denied) -> Finding {
        let login = PgLogin {
            user: "bob".to_owned(),
            dbname: "shop".to_owned(),
            guessed: false,
            secret,
            tls: UpstreamTls::Disable,
            took: Duration::ZERO,
            result: Err(denied.clone()),
        };
        postgres(&login, denied)
    }

    #[test]
    fn each_code_of_postgresql_has_its_advice() {
        for (kind, code, words, advice) in [
            (ConnectFaultKind::Auth, "28P01", "password authentication failed for user \"bob\"", "ALTER ROLE \"bob\" PASSWORD"),
            (ConnectFaultKind::Auth, "28000", "no pg_hba.conf entry for host \"x\", SSL encryption", "pg_reload_conf"),
            (ConnectFaultKind::Auth, "28000", "no pg_hba.conf entry for host \"x\", no encryption", "verify-full"),
            (ConnectFaultKind::Auth, "28000", "role \"bob\" does not exist", "CREATE ROLE"),
            (ConnectFaultKind::Auth, "28000", "role \"bob\" is not permitted to log in", "ALTER ROLE \"bob\" LOGIN"),
            (ConnectFaultKind::Auth, "28000", "Ident authentication failed", "pg_hba.conf"),
            (ConnectFaultKind::NoDatabase, "3D000", "database \"shop\" does not exist", "CREATE DATABASE \"shop\""),
            (ConnectFaultKind::Auth, "42501", "permission denied for database", "GRANT CONNECT"),
            (ConnectFaultKind::TooMany, "53300", "too many connections for role \"bob\"", "ALTER ROLE"),
            (ConnectFaultKind::TooMany, "53300", "too many connections for database \"shop\"", "ALTER DATABASE"),
            (ConnectFaultKind::TooMany, "53300", "sorry, too many clients already", "max_connections"),
            (ConnectFaultKind::Unavailable, "57P03", "the database system is starting up", "when it is up"),
            (ConnectFaultKind::Protocol, "08P01", "unsupported startup parameter", "parameter"),
            (ConnectFaultKind::Protocol, "", "it does not speak PostgreSQL", "a PostgreSQL server"),
            (ConnectFaultKind::Timeout, "", "no answer came in time", "look at its load"),
            (ConnectFaultKind::Auth, "", "the server asks for GSSAPI, which is not supported", "another kind of proof"),
            (ConnectFaultKind::Other, "XX000", "oops", "log"),
        ] {
            let finding = judged(SecretForm::Usable, &denied(kind, code, words));
            assert!(finding.verdict == Verdict::Problem && finding.advice.contains(advice), "{code} {words}: {finding:?}");
            assert!(finding.found.contains(words) && finding.found.contains(code) && finding.found.contains("as bob to shop"));
        }
    }

    #[test]
    fn who_brings_its_own_secret_cannot_be_tried() {
        let no = denied(ConnectFaultKind::Auth, "", "wrong password type");
        assert_eq!(judged(SecretForm::Verifier, &no).verdict, Verdict::Unseen);
        assert_eq!(judged(SecretForm::None, &no).verdict, Verdict::Unseen);
        let refused = denied(ConnectFaultKind::Auth, "28000", "no pg_hba.conf entry");
        assert_eq!(judged(SecretForm::Verifier, &refused).verdict, Verdict::Problem, "that has nothing to do with the secret");
    }

    #[test]
    fn each_word_of_redis_has_its_advice() {
        for (kind, code, words, advice) in [
            (ConnectFaultKind::Auth, "WRONGPASS", "AUTH with: WRONGPASS invalid", "ACL LIST"),
            (ConnectFaultKind::Auth, "NOAUTH", "HELLO with: NOAUTH", "password of user app"),
            (ConnectFaultKind::Auth, "DENIED", "DENIED Redis is running in protected mode", "protected-mode"),
            (ConnectFaultKind::Other, "NOPERM", "SELECT with: NOPERM", "ACL SETUSER app"),
            (ConnectFaultKind::Unavailable, "LOADING", "LOADING", "ready"),
            (ConnectFaultKind::TooMany, "ERR", "ERR max number of clients reached", "maxclients"),
            (ConnectFaultKind::NoDatabase, "ERR", "ERR DB index is out of range", "databases"),
            (ConnectFaultKind::Protocol, "", "not RESP", "rediss"),
            (ConnectFaultKind::Protocol, "NOPROTO", "NOPROTO", "version of RESP"),
            (ConnectFaultKind::Timeout, "", "did not answer", "TLS"),
            (ConnectFaultKind::Unavailable, "", "closed the connection", "TLS"),
            (ConnectFaultKind::Auth, "ERR", "ERR invalid password", "password of user app"),
            (ConnectFaultKind::Other, "ERR", "ERR odd", "log"),
        ] {
            let finding = redis(&denied(kind, code, words), Some("app"), true);
            assert!(finding.verdict == Verdict::Problem && finding.advice.contains(advice), "{code} {words}: {finding:?}");
        }
        assert_eq!(redis(&denied(ConnectFaultKind::Auth, "NOAUTH", "x"), None, false).verdict, Verdict::Unseen);
    }
}
