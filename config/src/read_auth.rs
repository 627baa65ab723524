//! The settings of `[postgres]` that say who may log in, with the files that they name.

use std::sync::Arc;

use crate::auth::files::{self, FileFault};
use crate::auth::ldap;
use crate::model::Postgres;
use crate::problem::{Place, Problem};
use crate::section::Section;

/// Reads what the files and options come to, over `postgres`, which has their paths.
pub(crate) fn rules(section: &Section<'_>, postgres: &mut Postgres) {
    let reading = section.reading;
    let (mut rules, faults) =
        files::read(postgres.auth_hba_file.as_deref(), postgres.auth_ident_file.as_deref(), &mut |path| reading.read_at(path));
    for FileFault { path, line, message, refuses: _ } in faults {
        reading.note(Problem::error(Place::file(&path, line), "", message));
    }
    if let (Some(field), Some(options)) = (section.field("auth_ldap_options"), &postgres.auth_ldap_options) {
        rules.ldap = ldap::parse(options.reveal()).map_or_else(|message| field.wrong(message), Some);
    }
    postgres.auth_rules = Arc::new(rules);
}
