//! The schema of the chart's values knows every setting of sidepool.toml, from the same table as the reader of that file: a typo is refused by Helm already.
//! `SIDEPOOL_UPDATE_SCHEMA=1 cargo test -p sidepool-tests --test deploy_schema` writes it anew.

use serde_json::{Map, Value, json};
use sidepool_config::settings::{Kind, Scope, Setting, settings_of, subsections};
use sidepool_tests::manifests::deploy;

const DURATION: &str = r"^\d+(\.\d+)?(us|ms|s|m|h|d)$";
const SIZE: &str = r"^\d+(\.\d+)?(B|KB|KiB|MB|MiB|GB|GiB)$";

/// What a setting may be. Null takes a default of the chart away.
fn of(setting: &Setting) -> Value {
    let texts = json!({ "anyOf": [{ "type": ["string", "null"] }, { "type": "array", "items": { "type": "string" } }] });
    let mut schema = match setting.kind {
        Kind::Count { min, max } => json!({ "type": ["integer", "null"], "minimum": min, "maximum": max }),
        Kind::Duration { .. } => json!({ "type": ["string", "null"], "pattern": DURATION }),
        Kind::Size { .. } => json!({ "type": ["string", "null"], "pattern": SIZE }),
        Kind::Flag => json!({ "type": ["boolean", "null"] }),
        Kind::Choice(names) => json!({ "enum": names.iter().map(|name| json!(name)).chain([Value::Null]).collect::<Vec<_>>() }),
        Kind::Workers => json!({ "anyOf": [{ "type": ["integer", "null"], "minimum": 1, "maximum": 1024 }, { "const": "auto" }] }),
        Kind::Text => json!({ "type": ["string", "null"], "minLength": 1 }),
        Kind::AnyText { .. } | Kind::Address | Kind::Path | Kind::Mode => json!({ "type": ["string", "null"] }),
        Kind::Texts | Kind::Listen => texts,
        Kind::Secret => {
            let from = |key: &str| json!({ "type": "object", "additionalProperties": false, "required": [key], "properties": { key: { "type": "string" } } });
            json!({ "anyOf": [{ "type": ["string", "null"] }, from("file"), from("env")] })
        }
    };
    schema["description"] = setting.help.into();
    schema
}

/// A section with its settings, and those below it.
fn section(scope: Scope) -> Value {
    let mut known: Map<String, Value> = settings_of(scope).map(|setting| (setting.name.to_owned(), of(setting))).collect();
    for name in subsections(scope) {
        let inner = match (scope, *name) {
            (Scope::Root, "admin") => section(Scope::Admin),
            (Scope::Root, "drain") => section(Scope::Drain),
            (Scope::Root, "log") => section(Scope::Log),
            (Scope::Root, "postgres") => section(Scope::Postgres),
            (Scope::Root, "redis") => named(Scope::Redis),
            (Scope::Postgres, "databases") => named(Scope::PgDatabase),
            (Scope::Postgres, "users") => named(Scope::PgUser),
            (Scope::Postgres, "peers") => named(Scope::PgPeer),
            (Scope::Redis, "users") => named(Scope::RedisUser),
            (scope, name) => panic!("a section {name} in {} that is new", scope.header()),
        };
        known.insert((*name).to_owned(), inner);
    }
    json!({ "type": ["object", "null"], "additionalProperties": false, "properties": known })
}

/// Sections whose names are free.
fn named(scope: Scope) -> Value {
    json!({ "type": ["object", "null"], "additionalProperties": section(scope) })
}

#[test]
fn the_charts_schema_knows_the_settings_as_they_are() {
    let path = deploy().join("helm/sidepool/values.schema.json");
    let mut schema: Value = serde_json::from_str(&std::fs::read_to_string(&path).expect("it is there")).expect("JSON");
    let mut expected = section(Scope::Root);
    expected["type"] = "object".into();
    expected["description"] = "sidepool.toml: the same names and values. `sidepool settings` prints the reference.".into();
    let settings = schema.pointer_mut("/properties/standalone/properties/settings").expect("the chart has settings");
    if std::env::var_os("SIDEPOOL_UPDATE_SCHEMA").is_some() {
        *settings = expected;
        std::fs::write(&path, serde_json::to_string_pretty(&schema).expect("JSON") + "\n").expect("it can be written");
        return;
    }
    assert!(*settings == expected, "the settings changed: write the chart's schema anew, as this file's head says");
}
