//! Unit tests of `matching`.

use super::*;

fn set(pairs: &[(&str, &str)]) -> ParameterSet {
    let mut set = ParameterSet::default();
    for (name, value) in pairs {
        let _ = set.set(name, value);
    }
    set
}

fn plan_of(desired: &[(&str, &str)], reported: &[(&str, &str)], carried: &[(&str, &str)], doubtful: bool) -> Option<String> {
    let (reported, carried) = (set(reported), set(carried));
    plan(&set(desired), Found { reported: &reported, carried: &carried, doubtful, superuser: false })
}

fn as_superuser(desired: &[(&str, &str)], carried: &[(&str, &str)]) -> Option<String> {
    plan(&set(desired), Found { reported: &set(&[]), carried: &set(carried), doubtful: false, superuser: true })
}

#[test]
fn equal_state_needs_no_query() {
    let state = [("DateStyle", "ISO, MDY"), ("TimeZone", "UTC")];
    assert_eq!(plan_of(&state, &state, &[], false), None);
    assert_eq!(plan_of(&[], &state, &[], false), None);
    let state = [("role", "boss"), ("session_authorization", "bob"), ("work_mem", "4MB")];
    assert_eq!(plan_of(&state, &[], &state, false), None);
    assert_eq!(as_superuser(&state, &state), None);
}

#[test]
fn differences_are_set_in_one_query() {
    let sql = plan_of(&[("TimeZone", "UTC"), ("search_path", "a, b")], &[("TimeZone", "Asia/Tokyo")], &[], false).unwrap();
    assert_eq!(sql, "SELECT pg_catalog.set_config(E'search_path',E'a, b',false),pg_catalog.set_config(E'TimeZone',E'UTC',false)");
}

#[test]
fn what_another_client_set_is_reset() {
    let sql = plan_of(&[], &[], &[("app.tenant", "1"), ("work_mem", "4MB")], false).unwrap();
    assert_eq!(sql, "RESET \"app\".\"tenant\";RESET \"work_mem\";");
}

#[test]
fn what_fits_stays_and_what_is_doubtful_is_set_anew() {
    let state = [("work_mem", "4MB")];
    assert_eq!(plan_of(&state, &[], &state, false), None);
    assert!(plan_of(&state, &[], &state, true).is_some());
}

#[test]
fn what_the_server_reports_counts_more_than_what_was_set() {
    assert_eq!(plan_of(&[("TimeZone", "UTC")], &[("TimeZone", "UTC")], &[("TimeZone", "Asia/Tokyo")], false), None);
}

#[test]
fn a_role_is_taken_back_and_given_before_settings_where_it_may_give_the_right() {
    let sql = plan_of(&[("role", "boss"), ("log_statement", "all")], &[], &[], false).unwrap();
    assert_eq!(sql, "SELECT pg_catalog.set_config(E'role',E'boss',false);SELECT pg_catalog.set_config(E'log_statement',E'all',false)");
    let sql = plan_of(&[], &[], &[("role", "boss"), ("log_statement", "all")], false).unwrap();
    assert_eq!(sql, "RESET \"log_statement\";RESET ROLE;");
    let sql = plan_of(&[("role", "other")], &[], &[("role", "boss")], false).unwrap();
    assert_eq!(sql, "RESET ROLE;SELECT pg_catalog.set_config(E'role',E'other',false)");
}

#[test]
fn a_superuser_sets_everything_before_it_becomes_somebody_else() {
    let state = [("log_statement", "all"), ("role", "weak"), ("session_authorization", "bob")];
    assert_eq!(
        as_superuser(&state, &[("role", "boss")]).unwrap(),
        "RESET SESSION AUTHORIZATION;RESET ROLE;SELECT pg_catalog.set_config(E'log_statement',E'all',false);\
         SELECT pg_catalog.set_config(E'session_authorization',E'bob',false);SELECT pg_catalog.set_config(E'role',E'weak',false)"
    );
    // The identity stays, and is in the way of a setting.
    let sql = as_superuser(&[("role", "weak"), ("work_mem", "1MB")], &[("role", "weak")]).unwrap();
    assert!(sql.starts_with("RESET SESSION AUTHORIZATION;RESET ROLE;") && sql.ends_with("E'weak',false)"), "{sql}");
    assert_eq!(as_superuser(&[], &state).unwrap(), "RESET SESSION AUTHORIZATION;RESET ROLE;RESET \"log_statement\";");
}

#[test]
fn whether_something_goes_back_is_known() {
    let (reported, carried) = (set(&[]), set(&[("work_mem", "1MB")]));
    let found = Found { reported: &reported, carried: &carried, doubtful: false, superuser: false };
    assert!(resets(&set(&[]), found) && !resets(&set(&[("work_mem", "2MB")]), found));
}
