//! What has to hold between the settings that say who may log in.

use super::Findings;
use crate::model::{AuthType, ClientSslMode, ClientTls, Postgres};
use crate::reading::key_path;

/// The name of the console's database.
const CONSOLE: &str = "pgbouncer";

impl Findings {
    /// Everything about logins that does not hold.
    pub(super) fn logins(&mut self, postgres: &Postgres) {
        let rules = &postgres.auth_rules;
        match postgres.auth_type {
            AuthType::Hba if postgres.auth_hba_file.is_none() => {
                self.error(&["postgres.auth_type", "postgres"], "\"hba\" needs an auth_hba_file with the rules");
            }
            AuthType::Ldap if rules.ldap.is_none() && postgres.auth_ldap_options.is_none() => {
                self.error(&["postgres.auth_type", "postgres"], "\"ldap\" needs auth_ldap_options");
            }
            AuthType::Cert if !believes_certificates(&postgres.client_tls) => self.warning(
                &["postgres.auth_type", "postgres"],
                "\"cert\" needs TLS with clients and a client_tls_ca_file: without, no certificate is believed and nobody can log in",
            ),
            AuthType::Any
            | AuthType::Trust
            | AuthType::Plain
            | AuthType::Md5
            | AuthType::ScramSha256
            | AuthType::Cert
            | AuthType::Hba
            | AuthType::Ldap
            | AuthType::Pam => {}
        }
        for (line, map) in rules.hba.without_map(&rules.maps) {
            self.warning(
                &["postgres.auth_ident_file", "postgres.auth_hba_file"],
                format!(
                    "line {line} of auth_hba_file uses the map \"{map}\", which auth_ident_file does not have: nobody can log in by it"
                ),
            );
        }
        self.lookups(postgres);
    }

    fn lookups(&mut self, postgres: &Postgres) {
        let own = postgres.databases.iter().map(|(name, database)| {
            let path = key_path("postgres.databases", name);
            (path, database.auth_dbname.as_deref(), database.auth_query.as_deref())
        });
        let all = std::iter::once(("postgres".to_owned(), postgres.auth_dbname.as_deref(), Some(postgres.auth_query.as_str()))).chain(own);
        for (path, dbname, query) in all {
            let key = format!("{path}.auth_dbname");
            match dbname {
                Some(CONSOLE) => self.error(&[&key], "the console cannot look users up: name a database of a server"),
                Some(name) if postgres.database(name).is_none() => {
                    self.warning(&[&key], format!("there is no database \"{name}\", so no user can be looked up in it"));
                }
                Some(_) | None => {}
            }
            if query.is_some_and(|query| !query.contains("$1")) {
                self.warning(&[&format!("{path}.auth_query")], "does not use $1, the name of the user that is looked up");
            }
        }
    }
}

fn believes_certificates(tls: &ClientTls) -> bool {
    tls.sslmode != ClientSslMode::Disable && tls.ca_file.is_some()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use crate::file::{load, load_text};

    fn problems(settings: &str) -> String {
        let text = format!("[postgres]\n{settings}\n[postgres.users.u]\npassword = \"x\"\n[postgres.databases.a]\nhost = \"h\"\n");
        match load_text(&text, Path::new("f"), &|_| None) {
            Ok(loaded) => loaded.warnings.iter().map(|warning| format!("{warning}\n")).collect(),
            Err(rejected) => rejected.to_string(),
        }
    }

    #[test]
    fn what_a_method_needs_is_asked_for() {
        for (settings, expected) in [
            ("auth_type = \"hba\"", "needs an auth_hba_file"),
            ("auth_type = \"ldap\"", "needs auth_ldap_options"),
            ("auth_type = \"cert\"", "warning: postgres.auth_type: \"cert\" needs TLS with clients"),
            ("auth_type = \"ldap\"\nauth_ldap_options = \"ldapserver=x\"", "f:3: postgres.auth_ldap_options: "),
            ("auth_dbname = \"pgbouncer\"", "the console cannot"),
            ("auth_dbname = \"none\"", "there is no database \"none\""),
            ("auth_query = \"SELECT 1\"", "does not use $1"),
            ("auth_hba_file = \"/nowhere/hba\"", "cannot read /nowhere/hba"),
        ] {
            let found = problems(settings);
            assert!(found.contains(expected), "{settings}: {found}");
        }
        assert_eq!(problems("auth_type = \"pam\""), "");
        assert_eq!(problems("auth_type = \"ldap\"\nauth_ldap_options = \"ldapserver=x ldapprefix=cn=\""), "");
    }

    #[test]
    fn a_wrong_line_of_the_files_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("hba"), "local all all peer map=ops\nhost all all all md6\n").unwrap();
        fs::write(path("ident"), "too short\n").unwrap();
        let text =
            "[postgres]\nauth_type = \"hba\"\nauth_hba_file = \"hba\"\nauth_ident_file = \"ident\"\n[postgres.databases.a]\nhost = \"h\"\n";
        fs::write(path("s.toml"), text).unwrap();
        let rejected = load(&path("s.toml"), &|_| None).unwrap_err();
        let said = rejected.to_string();
        assert!(said.contains("hba:2: unknown method \"md6\"") && said.contains("ident:1: expected three columns"), "{said}");
        assert_eq!(rejected.sources.files().count(), 3, "all are watched");

        fs::write(path("hba"), "local all all peer map=ops\n").unwrap();
        fs::write(path("ident"), "").unwrap();
        let loaded = load(&path("s.toml"), &|_| None).unwrap();
        assert!(loaded.warnings.iter().any(|warning| warning.message.contains("the map \"ops\"")), "{:?}", loaded.warnings);
        let before = loaded.config;
        fs::write(path("hba"), "local all all trust\n").unwrap();
        let after = load(&path("s.toml"), &|_| None).unwrap().config;
        let changes = crate::diff::diff(&before, &after);
        assert!(changes.iter().any(|change| change.key == "postgres.auth_hba_file"), "{changes:?}");
    }
}
