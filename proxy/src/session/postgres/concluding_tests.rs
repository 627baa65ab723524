//! Unit tests of `concluding`.

use sidepool_protocol::postgres::hints::look;

use super::*;

fn set(pairs: &[(&str, &str)]) -> ParameterSet {
    let mut set = ParameterSet::default();
    for (name, value) in pairs {
        let _ = set.set(name, value);
    }
    set
}

fn dirt(text: &str) -> Dirt {
    let mut dirt = Dirt::default();
    dirt.add(&look(text.as_bytes()));
    dirt
}

fn answer(values: &[(&str, Option<&str>)], session: Option<&[(&str, &str)]>) -> Answer {
    Answer {
        values: values.iter().map(|(name, value)| ((*name).into(), value.map(Into::into))).collect(),
        session: session.map(|list| list.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()),
        ..Answer::default()
    }
}

/// The state of a client that began with `application_name` `app`, and what is set on its connection.
fn after(text: &str, state: &[(&str, &str)], carried: &[(&str, &str)], answer: &Answer, cleaned: bool) -> (ParameterSet, ParameterSet) {
    let (state, carried, start) = (set(state), set(carried), set(&[("application_name", "app")]));
    let before = Before { state: &state, start: &start, carried: &carried, user: Some("login") };
    let concluded = conclude(before, &dirt(text), answer, cleaned).unwrap();
    (concluded.state, concluded.carried)
}

#[test]
fn what_was_set_is_the_clients() {
    let now = set(&[("app.tenant", "7"), ("work_mem", "4MB")]);
    let found = answer(&[("app.tenant", Some("7")), ("work_mem", Some("4MB"))], None);
    assert_eq!(after("SET app.tenant = 7; SET work_mem = '4MB'", &[], &[], &found, false), (now.clone(), now));
}

#[test]
fn a_setting_that_does_not_exist_is_nobodys() {
    let found = answer(&[("nonsense", None), ("app.gone", Some(""))], None);
    assert_eq!(after("SET nonsense = 1", &[("app.gone", "1")], &[("app.gone", "1")], &found, false), (set(&[]), set(&[])));
}

#[test]
fn a_reset_leads_to_what_the_client_began_with() {
    let found = answer(&[("application_name", Some("")), ("work_mem", Some("4MB"))], Some(&[]));
    let before = [("application_name", "mine"), ("work_mem", "1MB")];
    let (state, carried) = after("RESET application_name; RESET work_mem", &before, &before, &found, false);
    assert_eq!((state, carried), (set(&[("application_name", "app")]), set(&[])));
    // It was taken back.
    let found = answer(&[("work_mem", Some("1MB"))], Some(&[("work_mem", "1MB")]));
    assert_eq!(after("RESET work_mem", &before, &before, &found, false), (set(&before), set(&before)));
}

#[test]
fn a_role_and_a_user_that_are_the_logins_own_are_none() {
    let both = [("role", "boss"), ("session_authorization", "bob")];
    let found = answer(&[("role", Some("boss")), ("session_authorization", Some("bob"))], None);
    assert_eq!(after("SET SESSION AUTHORIZATION bob; SET ROLE boss", &[], &[], &found, false), (set(&both), set(&both)));
    let found = answer(&[("role", Some("none")), ("session_authorization", Some("login"))], Some(&[]));
    assert_eq!(after("RESET SESSION AUTHORIZATION", &both, &both, &found, false), (set(&[]), set(&[])));
    // By default the login may act as another role: then this is a choice.
    let found = answer(&[("role", Some("none"))], None);
    assert_eq!(after("SET ROLE NONE", &[], &[], &found, false), (set(&[("role", "none")]), set(&[("role", "none")])));
}

#[test]
fn after_a_cleaning_the_list_is_all_there_is() {
    let found = answer(
        &[
            ("role", Some("boss")),
            ("session_authorization", Some("login")),
            ("app.x", Some("1")),
            ("app.y", Some("")),
            ("work_mem", Some("4MB")),
        ],
        Some(&[("TimeZone", "UTC"), ("application_name", "mine")]),
    );
    let (state, carried) = after("DO $$$$", &[("work_mem", "1MB"), ("app.y", "2")], &[("work_mem", "1MB")], &found, true);
    assert_eq!(state, set(&[("role", "boss"), ("app.x", "1"), ("TimeZone", "UTC"), ("application_name", "mine")]));
    assert_eq!(carried, set(&[]));
    let found = answer(&[("role", Some("none")), ("application_name", Some(""))], Some(&[]));
    assert_eq!(after("CALL p()", &[("application_name", "x")], &[], &found, true).0, set(&[("application_name", "app")]));
}

#[test]
fn what_the_client_has_set_to_the_servers_own_value_stays_set() {
    let mine = [("application_name", "")];
    let found = answer(&mine.map(|(name, value)| (name, Some(value))), Some(&[]));
    for text in ["CALL p()", "RESET work_mem"] {
        assert_eq!(after(text, &mine, &[], &found, text == "CALL p()").0, set(&mine));
    }
    for text in ["RESET application_name", "RESET ALL"] {
        assert_eq!(after(text, &mine, &[], &found, false).0, set(&[("application_name", "app")]));
    }
}

#[test]
fn too_much_is_an_error() {
    let many: Vec<String> = (0..100).map(|index| format!("app.p{index}")).collect();
    let many: Vec<_> = many.iter().map(|name| (&**name, Some("x"))).collect();
    let nothing = set(&[]);
    let before = Before { state: &nothing, start: &nothing, carried: &nothing, user: None };
    assert_eq!(conclude(before, &dirt(""), &answer(&many, None), false), Err(ParameterError::Full));
}
