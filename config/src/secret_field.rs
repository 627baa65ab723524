//! Secrets as settings: a text, `{ file = "PATH" }` or `{ env = "NAME" }`. No message here ever repeats what was read.

use std::path::Path;

use toml_edit::Item;

use crate::problem::nearest;
use crate::secret::Secret;
use crate::section::{Field, Section};

/// The longest secret: PgBouncer's own limit, which fits every token in use.
const LONGEST_SECRET_BYTES: usize = 65_530;

impl Section<'_> {
    /// A secret, from wherever the setting says it is.
    pub(crate) fn secret(&self, name: &str) -> Option<Secret> {
        self.field(name)?.secret()
    }
}

impl Field<'_> {
    fn secret(&self) -> Option<Secret> {
        if let Some(text) = self.item.as_str() {
            return self.checked(text, "it");
        }
        let Some(table) = self.item.as_table_like() else {
            return self.wrong_type("a string, { file = \"PATH\" } or { env = \"NAME\" }");
        };
        let mut known = true;
        for (key, _) in table.iter().filter(|(key, _)| !["file", "env"].contains(key)) {
            let meant = nearest(key, ["file", "env"]).map(|name| format!("; did you mean \"{name}\"?")).unwrap_or_default();
            self.wrong::<()>(format!("unknown key \"{}\" in a secret: allowed are file and env{meant}", key.escape_debug()));
            known = false;
        }
        match (table.get("file").map(Item::as_str), table.get("env").map(Item::as_str)) {
            (Some(file), None) => self.secret_of_file(file),
            (None, Some(env)) => self.secret_of_variable(env),
            (Some(_), Some(_)) => self.wrong("say either file or env, not both"),
            (None, None) if known => self.wrong("expected a string, { file = \"PATH\" } or { env = \"NAME\" }"),
            (None, None) => None,
        }
    }

    fn secret_of_file(&self, file: Option<&str>) -> Option<Secret> {
        let Some(file) = file.filter(|file| !file.is_empty()) else { return self.wrong("file: expected a path in quotes") };
        let (path, contents) = self.reading.read_file(Path::new(file));
        let contents = match contents {
            Ok(contents) => contents,
            Err(error) => return self.wrong(format!("cannot read the secret file {}: {error}", path.display())),
        };
        let Ok(text) = std::str::from_utf8(&contents) else {
            return self.wrong(format!("the secret file {} is not UTF-8 text", path.display()));
        };
        let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
        self.checked(text, &format!("the secret file {}", path.display()))
    }

    fn secret_of_variable(&self, name: Option<&str>) -> Option<Secret> {
        let Some(name) = name.filter(|name| !name.is_empty()) else { return self.wrong("env: expected a variable's name in quotes") };
        match self.reading.variable(name) {
            Some(text) => self.checked(&text, &format!("the environment variable {name}")),
            None => self.wrong(format!("the environment variable {name} is not set")),
        }
    }

    fn checked(&self, text: &str, whence: &str) -> Option<Secret> {
        if text.is_empty() {
            return self.wrong(format!("{whence} is empty; leave the setting out for no secret"));
        }
        if text.contains('\0') {
            return self.wrong(format!("{whence} contains a zero byte"));
        }
        if text.len() > LONGEST_SECRET_BYTES {
            return self.wrong(format!("{whence} is longer than {LONGEST_SECRET_BYTES} bytes"));
        }
        Some(Secret::new(text))
    }
}
