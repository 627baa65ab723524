//! Unit tests of `asking`.

use sidepool_protocol::postgres::hints::look;

use super::*;

fn question(text: &str, undone: bool, pinned: bool) -> Question {
    let mut dirt = Dirt::default();
    dirt.add(&look(text.as_bytes()));
    if undone {
        dirt.on_undone();
    }
    let mut state = ParameterSet::new();
    state.set("TimeZone", "UTC").unwrap();
    Question { is_utf8: true, ..Question::about(&dirt, &state, vec!["app.seen".into()], pinned) }
}

fn row(columns: &[Option<&[u8]>]) -> Vec<u8> {
    let mut body = u16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
    for column in columns {
        match column {
            Some(value) => {
                body.extend_from_slice(&i32::try_from(value.len()).unwrap().to_be_bytes());
                body.extend_from_slice(value);
            }
            None => body.extend_from_slice(&(-1_i32).to_be_bytes()),
        }
    }
    body
}

#[test]
fn only_what_is_in_question_is_asked() {
    assert!(question("SET LOCAL a.b = 1", false, false).is_empty());
    assert!(question("DROP TABLE x", false, false).is_empty());
    let (sql, _) = question("SET app.tenant = 1", false, false).put();
    assert_eq!(sql, "SELECT pg_catalog.current_setting(E'app.tenant',true)");
    let (sql, _) = question("DECLARE c CURSOR WITH HOLD FOR SELECT 1", false, false).put();
    assert_eq!(sql, "SELECT EXISTS(SELECT FROM pg_catalog.pg_cursor() c WHERE c.is_holdable)");
    assert_eq!(question("DROP TABLE x", false, true).causes.len(), 4);
}

#[test]
fn where_something_may_be_back_at_its_default_the_list_is_asked_for() {
    for (text, undone) in [("RESET work_mem", false), ("SET work_mem = 1", true), ("RESET ALL", false)] {
        let (sql, _) = question(text, undone, false).put();
        assert!(sql.contains("pg_settings") && !sql.contains("RESET"), "{sql}");
    }
    assert_eq!(&*question("RESET ALL", false, false).names[0], "TimeZone");
}

#[test]
fn where_anything_may_have_changed_everything_is_taken_back() {
    let asked = question("DO $$ $$", false, false);
    assert_eq!(asked.names.iter().map(|name| &**name).collect::<Vec<_>>(), ["app.seen", "role", "session_authorization", "TimeZone"]);
    let (sql, asking) = asked.put();
    assert!(sql.ends_with("RESET SESSION AUTHORIZATION;RESET ROLE;RESET ALL") && asking.cleans(), "{sql}");
}

#[test]
fn an_answer_is_understood() {
    let (_, mut asking) = question("RESET app.tenant; SELECT pg_advisory_lock(1)", false, false).put();
    asking.on_row(Some(&row(&[None, Some(b"t")])));
    asking.on_complete();
    asking.on_row(Some(&row(&[Some(b"TimeZone"), Some(b"UTC")])));
    asking.on_row(Some(&row(&[Some(b"transaction_isolation"), Some(b"serializable")])));
    asking.on_complete();
    asking.on_row(Some(b"more than was asked for"));
    let Ended::Answered(answer, false) = asking.end() else { panic!("an answer") };
    assert_eq!(answer.values, [("app.tenant".into(), None)]);
    assert_eq!(answer.session, Some(vec![("TimeZone".into(), "UTC".into())]));
    assert_eq!(answer.pins, [(Cause::AdvisoryLocks, true)]);
}

#[test]
fn in_other_encodings_values_come_in_digits() {
    let mut asked = question("SET app.city = 'x'", false, false);
    asked.is_utf8 = false;
    let (sql, mut asking) = asked.put();
    assert!(sql.contains("convert_to"), "{sql}");
    asking.on_row(Some(&row(&[Some(b"5ac3bc72696368")])));
    let Ended::Answered(answer, _) = asking.end() else { panic!("an answer") };
    assert_eq!(answer.values[0].1.as_deref(), Some("Zürich"));
}

#[test]
fn what_cannot_be_understood_or_kept_is_no_answer() {
    for body in [None, Some(&b""[..]), Some(b"\0\x01\0\0\0\x09short"), Some(b"\0\x01\0\0\0\x01\xff")] {
        let (_, mut asking) = question("SET a.b = 1", false, false).put();
        asking.on_row(body);
        assert!(matches!(asking.end(), Ended::Failed(Error { code, .. }) if code == *b"54000"), "{body:?}");
    }
    let (_, mut asking) = question("RESET a.b", false, false).put();
    asking.on_row(Some(&row(&[Some(b"x")])));
    asking.on_complete();
    let long = vec![b'x'; MAX_ANSWER_BYTES / 8];
    for _ in 0..9 {
        asking.on_row(Some(&row(&[Some(b"work_mem"), Some(&long)])));
    }
    assert!(matches!(asking.end(), Ended::Failed(_)));
}

#[test]
fn a_cancelled_question_is_put_again_a_few_times() {
    let (first, mut asking) = question("SET a.b = 1", false, false).put();
    for _ in 1..MAX_TRIES {
        asking.on_error(b"57014", "canceling statement due to user request");
        let Ended::Again(sql, again) = asking.end() else { panic!("once more") };
        assert_eq!(sql, first);
        asking = again;
    }
    asking.on_error(b"57014", "canceling statement due to user request");
    assert!(matches!(asking.end(), Ended::Failed(_)));
    let (_, mut asking) = question("SET a.b = 1", false, false).put();
    asking.on_error(b"42501", "permission denied");
    asking.on_error(b"57014", "later");
    let Ended::Failed(error) = asking.end() else { panic!("an error") };
    assert_eq!((&error.code, &*error.message), (b"42501", "permission denied"));
}

#[test]
fn channels_are_named_and_forgotten_behind_the_answer() {
    let question = Question { channels: true, forgets: true, is_utf8: true, ..Question::default() };
    let (sql, mut asking) = question.put();
    assert_eq!(sql, "SELECT pg_catalog.pg_listening_channels();UNLISTEN *");
    asking.on_row(Some(&row(&[Some(b"a")])));
    asking.on_row(Some(&row(&[Some(b"\xff")])));
    asking.on_complete();
    asking.on_complete();
    let Ended::Answered(answer, cleaned) = asking.end() else { panic!("no answer") };
    assert_eq!((answer.channels.unwrap(), cleaned), (vec![b"a".as_slice().into(), b"\xff".as_slice().into()], false));
    assert!(Question::default().is_empty() && !Question { channels: true, ..Question::default() }.is_empty());
}
