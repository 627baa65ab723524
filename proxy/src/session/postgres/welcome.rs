//! What a client is told about its session, and the state that follows it from connection to connection: what the server reports by itself,
//! overlaid with what the client asked for when it connected.
//!
//! Pure, but for what is kept of the last welcome: most clients of a pool ask for the same.

use std::cell::RefCell;
use std::rc::Rc;

use sidepool_config::model::Postgres;
use sidepool_protocol::postgres::encode;
use sidepool_protocol::postgres::fault::{Fault, SqlState};
use sidepool_protocol::postgres::parameters::{ParameterSet, expected_report, is_tracked};
use sidepool_protocol::postgres::startup::{Parameter, Startup};

use super::states::StateTable;

/// What a client is told, and what it then is.
#[derive(Debug)]
pub(super) struct Welcome {
    /// For ParameterStatus.
    pub(super) reported: ParameterSet,
    /// What every connection that serves this client has to carry.
    pub(super) state: ParameterSet,
}

/// A welcome in the form in which it is used: what is sent, and the state that all who are in it have in common.
#[derive(Debug)]
pub(super) struct Greeting {
    /// A ParameterStatus for each parameter that is reported.
    pub(super) told: Box<[u8]>,
    /// The client's state.
    pub(super) state: Rc<ParameterSet>,
}

/// What decides about a welcome.
#[derive(Debug)]
struct Occasion {
    baseline: Rc<ParameterSet>,
    parameters: Vec<Parameter>,
    ignored: Vec<String>,
    tracked: Vec<String>,
}

impl Occasion {
    fn is(&self, startup: &Startup, baseline: &Rc<ParameterSet>, config: &Postgres) -> bool {
        Rc::ptr_eq(&self.baseline, baseline)
            && self.parameters == startup.parameters
            && self.ignored == config.ignore_startup_parameters
            && self.tracked == config.track_extra_parameters
    }
}

/// The last welcome of a pool.
#[derive(Debug, Default)]
pub(super) struct Greetings(RefCell<Option<(Occasion, Rc<Greeting>)>>);

impl Greetings {
    /// The welcome as [`compose`] has it: the last one, where everything is as it was then.
    pub(super) fn greet(
        &self,
        startup: &Startup,
        baseline: &Rc<ParameterSet>,
        config: &Postgres,
        states: &StateTable,
    ) -> Result<Rc<Greeting>, Fault> {
        if let Some((occasion, greeting)) = &*self.0.borrow()
            && occasion.is(startup, baseline, config)
        {
            return Ok(Rc::clone(greeting));
        }
        let Welcome { reported, state } = compose(startup, baseline, config)?;
        let mut told = Vec::new();
        encode::parameter_statuses(&reported, &mut told);
        let greeting = Rc::new(Greeting { told: told.into(), state: states.intern(state) });
        let occasion = Occasion {
            baseline: Rc::clone(baseline),
            parameters: startup.parameters.clone(),
            ignored: config.ignore_startup_parameters.clone(),
            tracked: config.track_extra_parameters.clone(),
        };
        *self.0.borrow_mut() = Some((occasion, Rc::clone(&greeting)));
        Ok(greeting)
    }
}

/// The welcome of a client that logged in with `startup` to a pool whose server reports `baseline`.
///
/// Parameters that the server does not report are taken, too: they are set on each connection that serves the client. What cannot be set in a
/// session, or does not exist, fails there, with the server's own words.
pub(super) fn compose(startup: &Startup, baseline: &ParameterSet, config: &Postgres) -> Result<Welcome, Fault> {
    let mut reported = baseline.clone();
    let mut state = ParameterSet::new();
    let refused = |name: &str, why: String| {
        Fault::fatal(SqlState::INVALID_PARAMETER_VALUE, format!("unsupported startup parameter: {name}"))
            .with_detail(why)
            .with_hint("Take it out of the client's settings, or list it in ignore_startup_parameters.")
    };
    for (name, value) in baseline.iter() {
        if is_tracked(name) || config.track_extra_parameters.iter().any(|extra| extra.eq_ignore_ascii_case(name)) {
            state.set(name, value).map_err(|error| refused(name, error.to_string()))?;
        }
    }
    for (name, value) in &startup.parameters {
        if config.ignore_startup_parameters.iter().any(|ignored| ignored.eq_ignore_ascii_case(name)) {
            continue;
        }
        let value = match baseline.get(name) {
            Some(now) => expected_report(name, value, now),
            None => value.as_ref().into(),
        };
        if reported.get(name).is_some() {
            reported.set(name, &value).map_err(|error| refused(name, error.to_string()))?;
        }
        state.set(name, &value).map_err(|error| refused(name, error.to_string()))?;
    }
    state.shrink_to_fit();
    Ok(Welcome { reported, state })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[(&str, &str)]) -> ParameterSet {
        let mut set = ParameterSet::new();
        for (name, value) in pairs {
            set.set(name, value).unwrap();
        }
        set
    }

    fn startup(parameters: &[(&str, &str)]) -> Startup {
        Startup {
            user: "bob".into(),
            database: "shop".into(),
            replication: None,
            forwarded: Vec::new(),
            parameters: parameters.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            protocol_options: Vec::new(),
        }
    }

    fn baseline() -> ParameterSet {
        set(&[
            ("application_name", ""),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"),
            ("server_version", "15.3"),
            ("TimeZone", "UTC"),
            ("is_superuser", "off"),
        ])
    }

    #[test]
    fn without_wishes_a_client_gets_what_the_server_has() {
        let welcome = compose(&startup(&[]), &baseline(), &Postgres::default()).unwrap();
        assert_eq!(welcome.reported, baseline());
        let tracked = set(&[("application_name", ""), ("client_encoding", "UTF8"), ("DateStyle", "ISO, MDY"), ("TimeZone", "UTC")]);
        assert_eq!(welcome.state, tracked);
    }

    #[test]
    fn the_last_welcome_is_given_again_only_where_nothing_has_changed() {
        let (greetings, states, mut config) = (Greetings::default(), StateTable::default(), Postgres::default());
        let (known, again) = (Rc::new(baseline()), Rc::new(set(&[("TimeZone", "Europe/Zurich")])));
        let greet = |startup: &Startup, baseline: &Rc<ParameterSet>, config: &Postgres| {
            let greeting = greetings.greet(startup, baseline, config, &states).unwrap();
            let Welcome { reported, state } = compose(startup, baseline, config).unwrap();
            let mut told = Vec::new();
            encode::parameter_statuses(&reported, &mut told);
            assert!(*greeting.told == *told && *greeting.state == state);
            greeting
        };
        let first = greet(&startup(&[]), &known, &config);
        assert!(Rc::ptr_eq(&first, &greet(&startup(&[]), &known, &config)));
        assert!(!Rc::ptr_eq(&first, &greet(&startup(&[("application_name", "app")]), &known, &config)));
        assert!(!Rc::ptr_eq(&first, &greet(&startup(&[]), &again, &config)));
        config.track_extra_parameters.push("is_superuser".to_owned());
        greet(&startup(&[]), &again, &config);
        config.ignore_startup_parameters.push("application_name".to_owned());
        greet(&startup(&[("application_name", "app")]), &again, &config);
        assert!(greetings.greet(&startup(&[("a'b", "x")]), &known, &config, &states).is_err());
    }

    #[test]
    fn wishes_are_told_as_the_server_would_and_follow_the_client() {
        // asyncpg, JDBC and node-postgres with their defaults.
        let wishes = [
            ("client_encoding", "'utf-8'"),
            ("DateStyle", "ISO"),
            ("TimeZone", "Europe/Zurich"),
            ("extra_float_digits", "3"),
            ("application_name", "app"),
            ("jit", "off"),
            ("search_path", "tenant"),
        ];
        let welcome = compose(&startup(&wishes), &baseline(), &Postgres::default()).unwrap();
        for (name, value) in
            [("client_encoding", "UTF8"), ("DateStyle", "ISO, MDY"), ("TimeZone", "Europe/Zurich"), ("application_name", "app")]
        {
            assert_eq!(welcome.reported.get(name), Some(value));
            assert_eq!(welcome.state.get(name), Some(value));
        }
        assert_eq!(welcome.reported.get("jit"), None);
        assert_eq!((welcome.state.get("jit"), welcome.state.get("search_path")), (Some("off"), Some("tenant")));
        assert_eq!(welcome.state.get("extra_float_digits"), None);
        assert_eq!(welcome.reported.get("server_version"), Some("15.3"));
    }

    #[test]
    fn what_no_parameter_can_be_called_is_refused() {
        let fault = compose(&startup(&[("a'b", "x")]), &baseline(), &Postgres::default()).unwrap_err();
        assert!(fault.message.contains("a'b") && fault.hint.is_some());
        let many: Vec<String> = (0..100).map(|index| format!("app.p{index}")).collect();
        let many: Vec<_> = many.iter().map(|name| (&**name, "x")).collect();
        assert!(compose(&startup(&many), &baseline(), &Postgres::default()).is_err());
    }
}
