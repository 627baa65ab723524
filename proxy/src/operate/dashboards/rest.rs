//! A panel for each family that no other panel shows, by its kind: so that what is added to the catalogue is seen.

use std::collections::BTreeSet;

use super::panel::{Look, Panel, Row, own, quantiles, rate, select, sum, unit};
use crate::observe::catalog::{Family, Info, Kind};
use crate::operate::queries;

/// The row.
pub(super) fn row(others: &[Row]) -> Row {
    let shown: BTreeSet<Family> = others
        .iter()
        .flat_map(|row| &row.panels)
        .flat_map(|panel| &panel.queries)
        .flat_map(|query| queries::families(&query.expression).collect::<Vec<_>>())
        .collect();
    let panels = Family::ALL.iter().filter(|family| !shown.contains(family) && !family.is_otel()).map(|family| panel(*family)).collect();
    Row { title: "Everything else", collapsed: true, panels }
}

fn panel(family: Family) -> Panel {
    let Info { name, kind, labels, .. } = *family.info();
    let title = name.trim_start_matches("sidepool_").trim_end_matches("_total").replace('_', " ");
    let queries = match kind {
        Kind::Counter | Kind::CounterSeconds => vec![rate(family, labels)],
        // A moment in time does not add up.
        Kind::Gauge if unit(family) == "dateTimeAsIso" => vec![own(format!("{} * 1000", select(family, "", "")), "{{instance}}")],
        Kind::Gauge => vec![sum(family, labels)],
        Kind::Histogram(_) => quantiles(family, labels),
    };
    Panel::of(family, &title, Look::Lines, queries)
}
