//! Typed access to one section of the file. Bounds and known keys come from the table of settings; what does not fit is noted, with its line.

use toml_edit::{Item, Key, TableLike, Value};

use crate::names::Named;
use crate::problem::{listed, nearest, shown};
use crate::reading::{Reading, key_path};
use crate::settings::{Kind, Scope, Setting, pgbouncer_advice, setting, settings_of, subsections};
use crate::units::{format_size, parse_duration, parse_size};

/// One section being read.
pub(crate) struct Section<'r> {
    pub(crate) reading: &'r Reading<'r>,
    /// Its own path: `postgres.databases.app`.
    pub(crate) path: String,
    pub(crate) line: Option<u32>,
    scope: Scope,
    table: &'r dyn TableLike,
}

/// One setting that is present.
pub(crate) struct Field<'r> {
    pub(crate) reading: &'r Reading<'r>,
    pub(crate) path: String,
    pub(crate) line: Option<u32>,
    pub(crate) item: &'r Item,
    pub(crate) setting: &'static Setting,
}

impl<'r> Section<'r> {
    /// Opens a section and reports every key that does not belong.
    pub(crate) fn open(reading: &'r Reading<'r>, scope: Scope, path: String, line: Option<u32>, table: &'r dyn TableLike) -> Self {
        let section = Self { reading, path, line, scope, table };
        for (key, item) in table.iter() {
            let path = key_path(&section.path, key);
            let line = section.line_of(key, item);
            reading.saw(&path, line);
            if setting(scope, key).is_none() && !subsections(scope).contains(&key) {
                reading.error(line, &path, unknown_key(scope, key));
            }
        }
        section
    }

    fn line_of(&self, key: &str, item: &Item) -> Option<u32> {
        let span = self.table.get_key_value(key).and_then(|(key, _)| Key::span(key)).or_else(|| item.span());
        span.map(|span| self.reading.line_at(span.start)).or(self.line)
    }

    /// The setting of this name, if it is present.
    pub(crate) fn field(&self, name: &str) -> Option<Field<'r>> {
        let setting = setting(self.scope, name);
        debug_assert!(setting.is_some(), "{name} is not in the table of settings for {}", self.scope.header());
        let path = key_path(&self.path, name);
        if let Some(item) = self.reading.said(&path) {
            return Some(Field { reading: self.reading, path, line: None, item, setting: setting? });
        }
        let item = self.table.get(name)?;
        let line = self.line_of(name, item);
        Some(Field { reading: self.reading, path, line, item, setting: setting? })
    }

    /// The one sub-section of this name, if it is present.
    pub(crate) fn section(&self, name: &str, scope: Scope) -> Option<Self> {
        let path = key_path(&self.path, name);
        let Some(item) = self.table.get(name) else {
            // Whole sides of the proxy do not come into being by a word on the console.
            let table = self.reading.stand_in(&path).filter(|_| scope == Scope::Log)?;
            return Some(Self::open(self.reading, scope, path, None, table));
        };
        let line = self.line_of(name, item);
        match item.as_table_like() {
            Some(table) => Some(Self::open(self.reading, scope, path, line, table)),
            None => {
                self.reading.error(line, &path, format!("expected the section [{path}], found {}", article(item)));
                None
            }
        }
    }

    /// Every sub-section below the key `name`, each with its own name.
    pub(crate) fn sections(&self, name: &str, scope: Scope) -> Vec<(String, Self)> {
        let Some(item) = self.table.get(name) else { return Vec::new() };
        let (path, line) = (key_path(&self.path, name), self.line_of(name, item));
        let Some(table) = item.as_table_like() else {
            self.reading.error(line, &path, format!("expected sections [{path}.NAME], found {}", article(item)));
            return Vec::new();
        };
        let outer = Self { reading: self.reading, path, line, scope, table };
        let mut found = Vec::new();
        for (name, item) in table.iter() {
            let path = key_path(&outer.path, name);
            let line = outer.line_of(name, item);
            self.reading.saw(&path, line);
            match item.as_table_like() {
                Some(_) if name.is_empty() || name.contains('\0') => self.reading.error(line, &path, "an empty name"),
                Some(table) => found.push((name.to_owned(), Self::open(self.reading, scope, path, line, table))),
                None if setting(scope, name).is_some() => {
                    let message = format!("settings belong in a section with a name: [{}.NAME]", outer.path);
                    self.reading.error(line, &path, message);
                }
                None => self.reading.error(line, &path, format!("expected the section [{path}], found {}", article(item))),
            }
        }
        found
    }

    /// Notes that something is missing here, unless it may have stood on a line that was not readable.
    pub(crate) fn missing(&self, message: impl Into<String>) {
        if self.reading.is_whole() {
            self.reading.error(self.line, &self.path, message);
        }
    }

    pub(crate) fn count(&self, name: &str) -> Option<u32> {
        self.field(name)?.count()
    }

    pub(crate) fn port(&self, name: &str) -> Option<u16> {
        u16::try_from(self.count(name)?).ok()
    }

    pub(crate) fn duration(&self, name: &str) -> Option<std::time::Duration> {
        self.field(name)?.duration()
    }

    pub(crate) fn size(&self, name: &str) -> Option<u64> {
        self.field(name)?.size()
    }

    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        let field = self.field(name)?;
        field.item.as_bool().or_else(|| field.wrong_type("true or false"))
    }

    pub(crate) fn choice<T: Named>(&self, name: &str) -> Option<T> {
        self.field(name)?.choice()
    }

    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.field(name)?.text()
    }

    /// A text that may be empty.
    pub(crate) fn any_text(&self, name: &str) -> Option<String> {
        let field = self.field(name)?;
        if field.item.as_str() == Some("") { Some(String::new()) } else { field.text() }
    }

    pub(crate) fn texts(&self, name: &str) -> Option<Vec<(String, Option<u32>)>> {
        Some(self.field(name)?.texts())
    }
}

impl<'r> Field<'r> {
    /// Notes an error about this setting.
    pub(crate) fn wrong<T>(&self, message: impl Into<String>) -> Option<T> {
        self.reading.error(self.line, &self.path, message);
        None
    }

    pub(crate) fn wrong_type<T>(&self, expected: &str) -> Option<T> {
        self.wrong(format!("expected {expected}, found {}", article(self.item)))
    }

    pub(crate) fn count(&self) -> Option<u32> {
        let Kind::Count { min, max } = self.setting.kind else { return None };
        let Some(number) = self.item.as_integer() else {
            let quoted = self.item.as_str().is_some_and(|text| text.trim().parse::<u32>().is_ok());
            let hint = if quoted { "; write it without quotes" } else { "" };
            return self.wrong(format!("expected a whole number from {min} to {max}, found {}{hint}", article(self.item)));
        };
        match u32::try_from(number) {
            Ok(number) if (min..=max).contains(&number) => Some(number),
            Ok(_) | Err(_) => self.wrong(format!("{number} is out of range: must be from {min} to {max}")),
        }
    }

    fn duration(&self) -> Option<std::time::Duration> {
        let Kind::Duration { zero } = self.setting.kind else { return None };
        if let Some(number) = self.item.as_integer() {
            return self.wrong(format!("a unit is missing: write \"{number}s\" or \"{number}ms\""));
        }
        let Some(text) = self.item.as_str() else { return self.wrong_type("a duration such as \"250ms\" or \"10s\"") };
        match parse_duration(text) {
            Ok(duration) if duration.is_zero() && zero.is_none() => self.wrong("must be more than zero"),
            Ok(duration) => Some(duration),
            Err(error) => self.wrong(format!("{}: {error}", shown(text))),
        }
    }

    fn size(&self) -> Option<u64> {
        let Kind::Size { min } = self.setting.kind else { return None };
        if let Some(number) = self.item.as_integer() {
            return self.wrong(format!("a unit is missing: write \"{number}B\" or \"{number}KiB\""));
        }
        let Some(text) = self.item.as_str() else { return self.wrong_type("a size such as \"64KiB\" or \"100MB\"") };
        match parse_size(text) {
            Ok(size) if size < min => self.wrong(format!("{} is too small: at least \"{}\"", shown(text), format_size(min))),
            Ok(size) => Some(size),
            Err(error) => self.wrong(format!("{}: {error}", shown(text))),
        }
    }

    pub(crate) fn choice<T: Named>(&self) -> Option<T> {
        let names = T::all_names();
        let Some(given) = self.item.as_str() else { return self.wrong_type(&listed(&names)) };
        T::from_name(given).or_else(|| self.wrong(unknown_value(given, &names)))
    }

    pub(crate) fn text(&self) -> Option<String> {
        match self.item.as_str() {
            Some("") => self.wrong("is empty; leave the setting out instead"),
            Some(text) if text.contains('\0') => self.wrong("must not contain a zero byte"),
            Some(text) => Some(text.to_owned()),
            None => self.wrong_type("a string"),
        }
    }

    /// A list of strings, or one string alone, each with its line.
    pub(crate) fn texts(&self) -> Vec<(String, Option<u32>)> {
        if let Some(text) = self.item.as_str() {
            return vec![(text.to_owned(), self.line)];
        }
        let Some(array) = self.item.as_array() else {
            self.wrong_type::<()>("a list of strings");
            return Vec::new();
        };
        let mut texts = Vec::new();
        for value in array {
            let line = value.span().map(|span| self.reading.line_at(span.start)).or(self.line);
            match value {
                Value::String(text) => texts.push((text.value().clone(), line)),
                Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) | Value::Array(_) | Value::InlineTable(_) => {
                    self.reading.error(line, &self.path, format!("expected a list of strings, found in it: {}", value.type_name()));
                }
            }
        }
        texts
    }
}

/// What to say of a value that is none of the allowed ones.
pub(crate) fn unknown_value(given: &str, names: &[&str]) -> String {
    let meant = nearest(given, names.iter().copied()).map(|name| format!("; did you mean \"{name}\"?")).unwrap_or_default();
    format!("{} is not {}{meant}", shown(given), listed(names))
}

fn unknown_key(scope: Scope, key: &str) -> String {
    let names = || settings_of(scope).map(|setting| setting.name).chain(subsections(scope).iter().copied());
    if let Some(advice) = pgbouncer_advice(key).filter(|_| !scope.is_redis()) {
        return format!("unknown key; {advice}");
    }
    let elsewhere = Scope::ALL.into_iter().find(|other| setting(*other, key).is_some() || subsections(*other).contains(&key));
    if let Some(name) = nearest(key, names()) {
        return format!("unknown key; did you mean \"{name}\"?");
    }
    match elsewhere {
        Some(Scope::Root) => format!("unknown key; it belongs at {}", Scope::Root.header()),
        Some(other) => format!("unknown key; it belongs in {}", other.header()),
        None => format!("unknown key; allowed here: {}", names().collect::<Vec<_>>().join(", ")),
    }
}

/// The type of an item with its article, for "expected …, found …".
fn article(item: &Item) -> String {
    let name = item.type_name();
    let article = if name.starts_with(['a', 'i', 'o']) { "an" } else { "a" };
    format!("{article} {name}")
}
