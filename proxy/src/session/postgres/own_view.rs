//! The view `pg_prepared_statements` as a client sees it: its own statements, by its own names, and nobody else's.
//!
//! In a query that asks for the view, the proxy puts a table of that name in front (`WITH`), made out of the view and of the names. Statements that
//! the server does not know yet are prepared before. Not here: where it stands in a text (`protocol::postgres::sql_listing`).

use std::rc::Rc;

use sidepool_protocol::postgres::sql_listing::{self, Edit, VIEW};
use sidepool_protocol::postgres::sql_tokens::MAX_LOOKED_BYTES;

use super::prepared::ClientStatements;
use super::sql_names::characters;
use crate::upstream::postgres::link::Renamed;
use crate::upstream::postgres::quoting::quoted;
use crate::upstream::postgres::statements::{NAME_PREFIX, Statement};

/// The most statements that are shown: the newest ones.
const MAX_SHOWN: usize = 500;

/// What the client gets instead of the view.
pub(super) struct OwnView {
    /// Where it goes.
    pub(super) edits: Vec<Edit>,
    /// The statements that have to be there.
    pub(super) statements: Vec<Rc<Statement>>,
    table: String,
}

impl OwnView {
    /// What a text needs that asks for the view. `most`: how many statements the server may keep.
    pub(super) fn of(text: &[u8], client: Option<&ClientStatements>, most: usize) -> Option<Self> {
        if text.len() > MAX_LOOKED_BYTES || !sql_listing::may_list(text) {
            return None;
        }
        let edits = sql_listing::edits(text);
        if edits.is_empty() {
            return None;
        }
        // No server has one whose text names another one.
        let named = client.into_iter().flat_map(|client| &client.named).filter(|(_, statement)| !statement.refers());
        let mut named: Vec<_> = named.filter_map(|(name, statement)| Some((std::str::from_utf8(name).ok()?, statement))).collect();
        named.sort_by_key(|(_, statement)| std::cmp::Reverse(statement.id()));
        named.truncate(most.min(MAX_SHOWN));
        let table = table(&named);
        Some(Self { edits, statements: named.into_iter().map(|(_, statement)| Rc::clone(statement)).collect(), table })
    }

    /// What stands in the place of an edit.
    pub(super) fn text(&self, edit: &Edit) -> String {
        match edit {
            Edit::With(_) => format!("WITH {} ", self.table),
            Edit::Table(_) => format!("{}, ", self.table),
            Edit::Schema(_) => String::new(),
        }
    }

    /// The whole text with all edits, and the first of them.
    pub(super) fn put(&self, text: &[u8]) -> (Vec<u8>, Option<Renamed>) {
        let (mut out, mut copied, mut first) = (Vec::new(), 0, None);
        for edit in &self.edits {
            out.extend_from_slice(&text[copied..edit.at().start]);
            let ours = self.text(edit);
            first = first.or_else(|| Some(renamed(&out, ours.as_bytes(), &text[edit.at()])));
            out.extend_from_slice(ours.as_bytes());
            copied = edit.at().end;
        }
        out.extend_from_slice(&text[copied..]);
        (out, first)
    }
}

/// An edit, for positions in errors. `before` is what was sent before it, `theirs` what it replaces.
pub(super) fn renamed(before: &[u8], ours: &[u8], theirs: &[u8]) -> Renamed {
    Renamed { theirs: Box::default(), ours: ours.into(), at: characters(before), characters: characters(theirs) }
}

/// A table of the columns that the view has, whatever they are, with names and texts as the client knows them. What has no name of ours the
/// client has made unseen, on a connection that it keeps for that.
fn table(named: &[(&str, &Rc<Statement>)]) -> String {
    let server_name = |statement: &Statement| String::from_utf8_lossy(statement.id().server_name().as_bytes()).into_owned();
    let names = named.iter().map(|(name, statement)| format!("({},{})", quoted(&server_name(statement)), quoted(name)));
    let names = std::iter::once("('','')".to_owned()).chain(names).collect::<Vec<_>>().join(",");
    let ours = quoted(&String::from_utf8_lossy(NAME_PREFIX));
    format!(
        "{VIEW} AS (SELECT (pg_catalog.jsonb_populate_record(p,pg_catalog.jsonb_build_object('name',coalesce(m.theirs,p.name),'statement',\
         coalesce(pg_catalog.replace(p.statement,p.name,pg_catalog.quote_ident(m.theirs)),p.statement)))).* FROM pg_catalog.{VIEW} p \
         LEFT JOIN (VALUES {names}) m(ours,theirs) ON p.name OPERATOR(pg_catalog.=) m.ours \
         WHERE m.ours IS NOT NULL OR pg_catalog.strpos(p.name,{ours}) OPERATOR(pg_catalog.<>) 1 \
         ORDER BY coalesce(m.theirs,p.name))"
    )
}

#[cfg(test)]
mod tests {
    use super::super::prepared::StatementTable;
    use super::super::schema_clock::SchemaClock;
    use super::*;
    use crate::worker::WorkerId;

    #[test]
    fn only_the_newest_statements_are_shown_and_no_more_than_a_connection_keeps() {
        let table = StatementTable::new(WorkerId(0), SchemaClock::default());
        let mut client = ClientStatements::default();
        for index in 0..MAX_SHOWN + 2 {
            let body = format!("select {index}\0\0\0");
            client.named.insert(format!("s{index}").into_bytes().into(), table.intern(body.as_bytes(), ""));
        }
        for (most, shown) in [(10_000, MAX_SHOWN), (3, 3)] {
            let view = OwnView::of(b"SELECT name FROM pg_prepared_statements", Some(&client), most).unwrap();
            let names = |index: usize| view.table.contains(&format!(",{})", quoted(&format!("s{index}"))));
            assert_eq!(view.statements.len(), shown);
            assert!(names(MAX_SHOWN + 1) && names(MAX_SHOWN + 2 - shown) && !names(MAX_SHOWN + 1 - shown), "{shown}");
        }
    }
}
