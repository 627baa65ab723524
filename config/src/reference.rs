//! The reference of all settings as text, made from the one table: for `sidepool settings` and for the README.

use std::fmt::Write as _;

use crate::diff::Class;
use crate::environment::VARIABLES;
use crate::settings::{Kind, Scope, Setting, settings_of};

/// The reference for a terminal.
#[must_use]
pub fn text() -> String {
    let mut text = String::new();
    for scope in Scope::ALL {
        let _ = writeln!(text, "{}", scope.header());
        for setting in settings_of(scope) {
            let _ = writeln!(text, "  {} = {}", setting.name, default_of(scope, setting));
            let _ = writeln!(text, "      {}", setting.help);
            let _ = writeln!(text, "      {}; a change is {}", allowed(setting.kind), reload(setting.reload));
        }
        text.push('\n');
    }
    let _ = writeln!(text, "environment, when there is no configuration file");
    for (name, help) in VARIABLES {
        let _ = writeln!(text, "  {name}\n      {help}");
    }
    text
}

/// The reference as Markdown tables, one a section.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::new();
    for scope in Scope::ALL {
        let title = if scope == Scope::Root { "At the top of the file".to_owned() } else { format!("`{}`", scope.header()) };
        let _ = writeln!(text, "### {title}\n\n| setting | default | allowed | reload | meaning |\n|---|---|---|---|---|");
        for setting in settings_of(scope) {
            let default = default_of(scope, setting);
            let default = if default == NO_DEFAULT || default == INHERITED { default } else { format!("`{default}`") };
            let allowed = allowed(setting.kind);
            let _ = writeln!(text, "| `{}` | {default} | {allowed} | {} | {} |", setting.name, reload(setting.reload), setting.help);
        }
        text.push('\n');
    }
    let _ = writeln!(text, "### Environment, when there is no configuration file\n\n| variable | meaning (default) |\n|---|---|");
    for (name, help) in VARIABLES {
        let _ = writeln!(text, "| `{name}` | {help} |");
    }
    text
}

const NO_DEFAULT: &str = "(none)";
const INHERITED: &str = "(from the section above)";

fn default_of(scope: Scope, setting: &Setting) -> String {
    match setting.default {
        _ if scope.inherits(setting) => INHERITED.to_owned(),
        "" => NO_DEFAULT.to_owned(),
        default => default.to_owned(),
    }
}

fn reload(class: Class) -> &'static str {
    match class {
        Class::Live => "live",
        Class::NewSessions => "for new sessions",
        Class::NeedsRestart => "after a restart",
    }
}

/// What a setting of this kind may be, in words.
#[must_use]
pub fn allowed(kind: Kind) -> String {
    match kind {
        Kind::Count { min, max } => format!("{min} to {max}"),
        Kind::Duration { zero: Some(meaning) } => format!("a duration (\"250ms\", \"10s\", \"5m\", \"1h\"); \"0s\": {meaning}"),
        Kind::Duration { zero: None } => "a duration above zero (\"250ms\", \"10s\", \"5m\", \"1h\")".to_owned(),
        Kind::Size { min: _ } => "a size (\"512B\", \"64KiB\", \"100MB\")".to_owned(),
        Kind::Flag => "true or false".to_owned(),
        Kind::Choice(names) => names.join(", "),
        Kind::Workers => "1 to 1024, or \"auto\"".to_owned(),
        Kind::Text => "text".to_owned(),
        Kind::AnyText { empty } => format!("text; \"\": {empty}"),
        Kind::Mode => "permission bits, in octal".to_owned(),
        Kind::Texts => "a list of texts".to_owned(),
        Kind::Listen => "a list of addresses (\"127.0.0.1:6432\", \"unix:/run/sidepool\")".to_owned(),
        Kind::Address => "an address, or \"off\"".to_owned(),
        Kind::Path => "a path, relative to this file".to_owned(),
        Kind::Secret => "text, { file = \"PATH\" } or { env = \"NAME\" }".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::file::load_text;
    use crate::model::{AuthType, LogFormat, LogLevel, PoolMode, UpstreamTls};
    use crate::names::Named;
    use crate::settings::{SETTINGS, setting};

    /// The header of a section, and what it needs to be complete.
    fn section(scope: Scope) -> (&'static str, &'static str) {
        match scope {
            Scope::Root => ("", ""),
            Scope::Admin => ("admin", ""),
            Scope::Drain => ("drain", ""),
            Scope::Log => ("log", ""),
            Scope::Postgres => ("postgres", ""),
            Scope::PgDatabase => ("postgres.databases.a", "host = \"h\"\n"),
            Scope::PgUser => ("postgres.users.u", "password = \"p\"\n"),
            Scope::PgPeer => ("postgres.peers.7", "host = \"h\"\n"),
            Scope::Redis => ("redis.a", "host = \"h\"\n"),
            Scope::RedisUser => ("redis.a.users.u", "password = \"p\"\n"),
        }
    }

    /// A file with every section in it; `line` says what each setting is set to.
    fn file(line: impl Fn(Scope, &Setting) -> Option<String>) -> String {
        let mut text = String::new();
        for scope in Scope::ALL {
            let (header, needed) = section(scope);
            if !header.is_empty() {
                let _ = writeln!(text, "[{header}]");
            }
            let lines: Vec<(&str, String)> = settings_of(scope).filter_map(|setting| Some((setting.name, line(scope, setting)?))).collect();
            for (name, value) in &lines {
                let _ = writeln!(text, "{name} = {value}");
            }
            if !lines.iter().any(|(name, _)| needed.starts_with(name)) {
                text.push_str(needed);
            }
        }
        text
    }

    #[test]
    fn every_default_in_the_table_is_the_one_in_force() {
        let read = |text: &str| load_text(text, Path::new("f"), &|_| None).unwrap_or_else(|rejected| panic!("{rejected}\n{text}")).config;
        let silent = file(|_, _| None);
        let spelled = file(|scope, setting| (!scope.inherits(setting) && !setting.default.is_empty()).then(|| setting.default.to_owned()));
        assert_eq!(read(&silent), read(&spelled));
        assert!(spelled.lines().count() > silent.lines().count() + 30);
    }

    #[test]
    fn the_parser_reads_every_setting_of_the_table() {
        // No setting may be a date, so the parser has to complain about each and every one that it reads.
        let text = file(|_, _| Some("1979-05-27".to_owned()));
        let rejected = load_text(&text, Path::new("f"), &|_| None).unwrap_err();
        for scope in Scope::ALL {
            for setting in settings_of(scope) {
                let header = section(scope).0;
                let key = if header.is_empty() { setting.name.to_owned() } else { format!("{header}.{}", setting.name) };
                let found = rejected.problems.iter().find(|problem| problem.key == key);
                let found = found.unwrap_or_else(|| panic!("{key} is in the table but the parser does not read it"));
                assert!(found.message.starts_with("expected "), "{found}");
            }
        }
    }

    #[test]
    fn the_names_in_the_table_are_those_of_the_enums() {
        let table = [
            (Scope::Postgres, "pool_mode", PoolMode::all_names()),
            (Scope::Postgres, "auth_type", AuthType::all_names()),
            (Scope::PgDatabase, "sslmode", UpstreamTls::all_names()),
            (Scope::Log, "level", LogLevel::all_names()),
            (Scope::Log, "format", LogFormat::all_names()),
        ];
        for (scope, name, names) in table {
            assert_eq!(setting(scope, name).unwrap().kind, Kind::Choice(names.leak()), "{name}");
        }
    }

    #[test]
    fn no_setting_stands_in_the_table_twice_and_each_is_in_both_references() {
        for scope in Scope::ALL {
            let names: Vec<_> = settings_of(scope).map(|setting| setting.name).collect();
            let distinct: std::collections::BTreeSet<_> = names.iter().collect();
            assert_eq!(names.len(), distinct.len(), "{}", scope.header());
        }
        let (text, markdown) = (text(), markdown());
        for setting in SETTINGS {
            assert!(text.contains(setting.help) && markdown.contains(setting.help), "{}", setting.name);
            assert!(setting.help.ends_with('.') && !setting.help.contains('|'), "{}", setting.name);
        }
        assert!(markdown.contains("| `default_pool_size` | `20` | 1 to 100000 | live |"), "{markdown}");
        assert!(text.contains("  pool_size = (from the section above)\n"), "{text}");
    }
}
