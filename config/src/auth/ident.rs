//! `auth_ident_file`: which system users (over a Unix socket) and which names in certificates may log in as which database users.
//!
//! One `map system-user database-user` a line, as in PostgreSQL's `pg_ident.conf`; `all` as database user stands for every one. Regular
//! expressions are not known here, as they are not in PgBouncer. Not here: where a map is used (`hba`).

use super::words::{self, Fault, Field, Word};

/// All maps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Maps(Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    map: String,
    system_user: String,
    /// `None`: every one.
    user: Option<String>,
}

impl Maps {
    /// Whether somebody known as `system_user` may log in as `user`: by the map of this name, or without a map under the same name.
    #[must_use]
    pub fn allow(&self, map: Option<&str>, system_user: &str, user: &str) -> bool {
        let Some(map) = map else { return system_user == user };
        let fits = |entry: &Entry| {
            entry.map == map && entry.system_user == system_user && entry.user.as_deref().is_none_or(|allowed| allowed == user)
        };
        self.0.iter().any(fits)
    }

    /// Whether there is a map of this name.
    #[must_use]
    pub fn has(&self, map: &str) -> bool {
        self.0.iter().any(|entry| entry.map == map)
    }

    /// How many lines there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Reads the maps, and what is wrong. A line that is skipped allows nothing.
#[must_use]
pub fn parse(text: &str) -> (Maps, Vec<Fault>) {
    let (mut maps, mut faults) = (Vec::new(), Vec::new());
    for (line, fields) in words::lines(text) {
        match fields.map_err(str::to_owned).and_then(|fields| entry(&fields)) {
            Ok(entry) => maps.push(entry),
            Err(message) => faults.push(Fault::new(line, message)),
        }
    }
    (Maps(maps), faults)
}

fn entry(fields: &[Field]) -> Result<Entry, String> {
    let [map, system_user, user] = fields else {
        return Err("expected three columns: the map, the system user and the database user".to_owned());
    };
    let one = |field: &Field| match field.as_slice() {
        [word] if word.text.is_empty() => Err("an empty name".to_owned()),
        [word] => Ok(word.clone()),
        _ => Err("expected one name in each column, found a list".to_owned()),
    };
    let (map, system_user, user): (Word, Word, Word) = (one(map)?, one(system_user)?, one(user)?);
    if [&system_user, &user].iter().any(|word| !word.quoted && word.text.starts_with('/')) {
        return Err("regular expressions are not supported: write one line for each name".to_owned());
    }
    if user.file().is_some() || (!user.quoted && user.text.starts_with('+')) {
        return Err("roles (+name) and files (@name) are not supported: write one line for each name".to_owned());
    }
    let user = (!user.is("all")).then_some(user.text);
    Ok(Entry { map: map.text, system_user: system_user.text, user })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_says_who_may_be_whom() {
        let text = "# maps\nops root postgres\nops root admin\nops \"Jo Doe\" jo\nany www all\nquoted www \"all\"\n";
        let (maps, faults) = parse(text);
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!(maps.len(), 5);
        assert!(maps.allow(Some("ops"), "root", "postgres") && maps.allow(Some("ops"), "root", "admin"));
        assert!(maps.allow(Some("ops"), "Jo Doe", "jo") && maps.allow(Some("any"), "www", "whoever"));
        assert!(!maps.allow(Some("ops"), "root", "root") && !maps.allow(Some("ops"), "www", "postgres"));
        assert!(maps.allow(Some("quoted"), "www", "all") && !maps.allow(Some("quoted"), "www", "other"));
        assert!(!maps.allow(Some("none"), "root", "root"), "a map that is not there allows nobody");
        assert!(maps.has("ops") && !maps.has("none"));
    }

    #[test]
    fn without_a_map_names_have_to_be_equal() {
        let maps = Maps::default();
        assert!(maps.allow(None, "bob", "bob") && !maps.allow(None, "bob", "Bob"));
        assert!(maps.is_empty());
    }

    #[test]
    fn other_lines_are_faults_with_their_numbers() {
        let (maps, faults) = parse("a b\na b c d\na /^x$ c\na b +role\na b,c d\n\"a b c\nm s u\na \"\" c");
        assert_eq!(maps.len(), 1);
        assert_eq!(faults.iter().map(|fault| fault.line).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 8]);
    }
}
