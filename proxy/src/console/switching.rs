//! PAUSE, RESUME, KILL, DISABLE, ENABLE and RECONNECT as changes of what is switched, with PgBouncer's reasons where one is refused. Pure.

use sidepool_protocol::postgres::fault::{Fault, SqlState};

use super::command::Which;
use super::guest::CONSOLE_DATABASE;
use crate::session::postgres::switches::Switches;

/// A change of what is switched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Switch {
    /// No more grants.
    Pause(Which),
    /// Grants again.
    Resume(Which),
    /// Pause, and close the clients.
    Kill(Which),
    /// No more logins.
    Disable(Which),
    /// Logins again.
    Enable(Which),
    /// New connections in place of the old ones.
    Reconnect(Which),
    /// Nothing but a look whether the database can be waited for.
    Wait(Which),
}

/// What can be known of databases without asking the workers.
pub struct Known<'a> {
    /// Whether there is such a database, or can be.
    pub exists: &'a dyn Fn(&str) -> bool,
    /// The databases that have pools now.
    pub in_use: &'a [Box<str>],
    /// Whether the process is on its way out.
    pub ending: bool,
}

/// A refusal in the console's words: the command fails, the session goes on.
#[must_use]
pub fn refused(message: String) -> Fault {
    Fault::error(SqlState::PROTOCOL_VIOLATION, message)
}

impl Switch {
    /// Changes `switches`, or says why not.
    pub fn turn(&self, switches: &mut Switches, known: &Known<'_>) -> Result<(), Fault> {
        match self {
            Self::Pause(which) => {
                not_paused(switches)?;
                match find(which, known, "pause", "admin db")? {
                    Some(database) => drop(switches.paused_databases.insert(database.into())),
                    None => switches.paused = true,
                }
            }
            Self::Kill(which) => {
                not_paused(switches)?;
                match find(which, known, "kill", "admin db")? {
                    Some(database) => drop(switches.paused_databases.insert(database.into())),
                    None => switches.paused_databases.extend(known.in_use.iter().cloned()),
                }
            }
            Self::Resume(None) if known.ending => return Err(refused("pooler is shutting down".into())),
            Self::Resume(None) if switches.paused || switches.suspended => (switches.paused, switches.suspended) = (false, false),
            Self::Resume(None) => return Err(refused("pooler is not paused/suspended".into())),
            Self::Resume(Some(database)) => {
                if !switches.paused_databases.remove(database) {
                    let is_there = &**database == CONSOLE_DATABASE || (known.exists)(database);
                    return Err(refused(if is_there { format!("database {database} is not paused") } else { unknown(database) }));
                }
            }
            Self::Disable(which) => {
                let database = named(find(which, known, "disable", "admin db")?)?;
                switches.disabled_databases.insert(database.into());
            }
            Self::Enable(which) => {
                let database = named(find(which, known, "enable", "admin db")?)?;
                switches.disabled_databases.remove(database);
            }
            Self::Reconnect(which) => drop(find(which, known, "reconnect", "admin db")?),
            Self::Wait(which) => drop(find(which, known, "wait in", "admin db")?),
        }
        Ok(())
    }

    /// Whether it concerns this database.
    #[must_use]
    pub fn concerns(&self, database: &str) -> bool {
        match self {
            Self::Pause(which)
            | Self::Resume(which)
            | Self::Kill(which)
            | Self::Disable(which)
            | Self::Enable(which)
            | Self::Reconnect(which)
            | Self::Wait(which) => which.as_deref().is_none_or(|which| which == database),
        }
    }
}

fn not_paused(switches: &Switches) -> Result<(), Fault> {
    if switches.paused || switches.suspended { Err(refused("already suspended/paused".into())) } else { Ok(()) }
}

fn find<'a>(which: &'a Which, known: &Known<'_>, verb: &str, what: &str) -> Result<Option<&'a str>, Fault> {
    match which.as_deref() {
        None => Ok(None),
        Some(CONSOLE_DATABASE) => Err(refused(format!("cannot {verb} {what}: {CONSOLE_DATABASE}"))),
        Some(database) if (known.exists)(database) => Ok(Some(database)),
        Some(database) => Err(refused(unknown(database))),
    }
}

fn named(database: Option<&str>) -> Result<&str, Fault> {
    database.ok_or_else(|| refused("a database is required".into()))
}

fn unknown(database: &str) -> String {
    format!("no such database: {database}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(switches: &mut Switches, switch: Switch) -> Result<(), String> {
        let exists = |name: &str| ["a", "b"].contains(&name);
        let known = Known { exists: &exists, in_use: &["b".into()], ending: false };
        switch.turn(switches, &known).map_err(|fault| fault.message.into_owned())
    }

    fn a() -> Which {
        Some("a".into())
    }

    #[test]
    fn pauses_end_as_they_began() {
        let mut switches = Switches::default();
        assert_eq!(turn(&mut switches, Switch::Resume(None)), Err("pooler is not paused/suspended".into()));
        assert_eq!(turn(&mut switches, Switch::Pause(None)), Ok(()));
        for again in [Switch::Pause(None), Switch::Pause(a()), Switch::Kill(None)] {
            assert_eq!(turn(&mut switches, again), Err("already suspended/paused".into()));
        }
        assert_eq!(turn(&mut switches, Switch::Resume(a())), Err("database a is not paused".into()));
        assert_eq!(turn(&mut switches, Switch::Resume(None)), Ok(()));
        assert_eq!(switches, Switches::default());
    }

    #[test]
    fn databases_are_paused_one_by_one() {
        let mut switches = Switches::default();
        assert_eq!(turn(&mut switches, Switch::Pause(a())), Ok(()));
        assert_eq!(turn(&mut switches, Switch::Pause(a())), Ok(()), "once more does no harm");
        assert_eq!(turn(&mut switches, Switch::Kill(None)), Ok(()));
        assert!(switches.is_paused("a") && switches.is_paused("b") && !switches.paused, "those in use");
        assert_eq!(turn(&mut switches, Switch::Resume(a())), Ok(()));
        assert!(!switches.is_paused("a"));
    }

    #[test]
    fn databases_that_are_none_or_ours() {
        let mut switches = Switches::default();
        let (ours, none): (Which, Which) = (Some("pgbouncer".into()), Some("x".into()));
        for (switch, verb) in [
            (Switch::Pause as fn(Which) -> Switch, "pause"),
            (Switch::Kill, "kill"),
            (Switch::Disable, "disable"),
            (Switch::Enable, "enable"),
            (Switch::Reconnect, "reconnect"),
            (Switch::Wait, "wait in"),
        ] {
            assert_eq!(turn(&mut switches, switch(ours.clone())), Err(format!("cannot {verb} admin db: pgbouncer")));
            assert_eq!(turn(&mut switches, switch(none.clone())), Err("no such database: x".into()));
        }
        assert_eq!(turn(&mut switches, Switch::Resume(none)), Err("no such database: x".into()));
        for switch in [Switch::Disable(None), Switch::Enable(None)] {
            assert_eq!(turn(&mut switches, switch), Err("a database is required".into()));
        }
        assert_eq!(switches, Switches::default());
    }

    #[test]
    fn disabled_is_not_paused() {
        let mut switches = Switches::default();
        assert_eq!(turn(&mut switches, Switch::Disable(a())), Ok(()));
        assert!(switches.is_disabled("a") && !switches.is_paused("a"));
        assert_eq!(turn(&mut switches, Switch::Enable(a())), Ok(()));
        assert_eq!(switches, Switches::default());
    }

    #[test]
    fn on_the_way_out_nothing_is_resumed() {
        let known = Known { exists: &|_| true, in_use: &[], ending: true };
        let mut switches = Switches { paused: true, ..Switches::default() };
        let fault = Switch::Resume(None).turn(&mut switches, &known).unwrap_err();
        assert_eq!((&*fault.message, switches.paused), ("pooler is shutting down", true));
    }
}
