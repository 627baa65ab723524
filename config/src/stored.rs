//! Secrets of users in the forms in which PostgreSQL stores them, looked at from outside: one that was cut or mistyped would silently be taken
//! for a plain password, and its user could not log in. Not here: what is done with them (`protocol::postgres::login`).

/// The most iterations that a verifier may ask for, as at login.
const MAX_ITERATIONS: u32 = 10_000_000;

/// A SHA-256 in Base64.
const KEY_CHARACTERS: usize = 44;

/// What is wrong with a secret that is meant to be a verifier or a digest. Says nothing of what is in it.
pub(crate) fn fault(secret: &str) -> Option<&'static str> {
    if let Some(verifier) = secret.strip_prefix("SCRAM-SHA-256$") {
        let message =
            "begins like a SCRAM verifier but is none: expected SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY, as in pg_authid";
        return (!is_verifier(verifier)).then_some(message);
    }
    // A plain password may begin with "md5" as well: only what can hardly be one is doubted.
    let digest = secret.strip_prefix("md5")?;
    let meant = digest.len() == 32 || (digest.len() >= 24 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let is_digest = digest.len() == 32 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (meant && !is_digest).then_some("begins like an MD5 secret but is none: expected md5 and 32 digits from 0 to 9 and a to f")
}

fn is_verifier(text: &str) -> bool {
    let parts = || {
        let (parameters, keys) = text.split_once('$')?;
        Some((parameters.split_once(':')?, keys.split_once(':')?))
    };
    let Some(((iterations, salt), (stored_key, server_key))) = parts() else { return false };
    let iterations = iterations.parse::<u32>().is_ok_and(|iterations| (1..=MAX_ITERATIONS).contains(&iterations));
    let key = |key: &str| key.len() == KEY_CHARACTERS && is_base64(key);
    iterations && !salt.is_empty() && is_base64(salt) && key(stored_key) && key(server_key)
}

fn is_base64(text: &str) -> bool {
    let digits = text.trim_end_matches('=');
    text.len().is_multiple_of(4)
        && text.len() - digits.len() <= 2
        && digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::fault;
    use crate::file::{load, load_text};

    const GOOD: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn what_postgresql_stores_is_fine_and_so_are_passwords() {
        for good in [GOOD, "md50123456789abcdef0123456789abcdef", "md5", "md5 is broken", "md5cafe", "hunter2", "SCRAM-SHA-256"] {
            assert_eq!(fault(good), None, "{good}");
        }
    }

    #[test]
    fn what_was_cut_or_mistyped_is_not() {
        let cut = (14..GOOD.len()).map(|length| GOOD[..length].to_owned());
        let mistyped = [("4096", "0"), ("4096", "many"), ("W22Z", "W2 Z"), ("$WG5d", ":WG5d"), ("W22ZaJ0SNY7soEsUEjb6gQ==", "")];
        let mistyped = mistyped.iter().map(|(from, to)| GOOD.replace(from, to));
        let digests = ["md50123456789ABCDEF0123456789ABCDEF", "md50123456789abcdef0123456789abcde", "md50123456789abcdef0123456789abcdeg"];
        for bad in cut.chain(mistyped).chain(digests.map(str::to_owned)) {
            assert!(fault(&bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn the_problem_has_its_key_and_line_and_shows_nothing() {
        let text = |users: &str| format!("[postgres]\n{users}[postgres.databases.a]\nhost = \"h\"\n");
        let section = text("[postgres.users.bob]\npassword = \"SCRAM-SHA-256$4096:W22Z\"\n");
        let said = load_text(&section, Path::new("f"), &|_| None).unwrap_err().to_string();
        assert!(said.starts_with("f:3: postgres.users.bob.password: begins like a SCRAM verifier"), "{said}");
        assert!(!said.contains("W22Z"), "{said}");

        let directory = tempfile::tempdir().unwrap();
        let (main, list) = (directory.path().join("s.toml"), directory.path().join("userlist.txt"));
        fs::write(&list, "\"eve\" \"secret\"\n\"bob\" \"md5cafecafecafecafecafecafecafe\"\n").unwrap();
        fs::write(&main, text("auth_file = \"userlist.txt\"\n")).unwrap();
        let said = load(&main, &|_| None).unwrap_err().to_string();
        assert!(said.contains("userlist.txt:2: ") && said.contains("begins like an MD5 secret"), "{said}");
        assert!(!said.contains("cafe"), "{said}");
    }
}
