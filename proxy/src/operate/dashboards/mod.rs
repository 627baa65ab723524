//! Grafana dashboards as JSON: what a panel is, how panels are laid out. Which there are is beside this: [`instance`] for one sidepool or a
//! few, [`fleet`] for many. Whatever the catalogue has and no panel of `instance` shows gets a panel of its own at the end, by its kind.

mod fleet;
mod instance;
mod panel;
mod rest;

use serde_json::{Value, json};

use panel::{Panel, Row};

/// The version of Grafana's format.
const SCHEMA: u32 = 39;

/// A dashboard of one sidepool, or a few that a selection leaves.
#[must_use]
pub fn instance() -> String {
    let mut rows = instance::rows();
    rows.push(rest::row(&rows));
    let variables = ["namespace", "job", "instance", "pool"];
    document("sidepool", "sidepool", "Pools, queues, clients and servers of one sidepool, or of a few.", &variables, &rows)
}

/// A dashboard of many, such as the sidecars of a cluster.
#[must_use]
pub fn fleet() -> String {
    let variables = ["namespace", "job"];
    document("sidepool-fleet", "sidepool, fleet", "Many sidepools: which of them need to be looked at.", &variables, &fleet::rows())
}

fn document(uid: &str, title: &str, about: &str, variables: &[&str], rows: &[Row]) -> String {
    let mut list = vec![json!({
        "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0, "refresh": 1,
    })];
    list.extend(variables.iter().map(|name| variable(name)));
    let document = json!({
        "uid": uid, "title": title, "description": about, "tags": ["sidepool"], "schemaVersion": SCHEMA, "version": 1, "editable": true,
        "graphTooltip": 1, "refresh": "30s", "time": { "from": "now-1h", "to": "now" }, "timezone": "browser",
        "templating": { "list": list },
        "links": [{ "title": "sidepool", "type": "dashboards", "tags": ["sidepool"], "asDropdown": false, "includeVars": true, "keepTime": true }],
        "panels": panels(rows),
    });
    format!("{document:#}\n")
}

/// A variable with the values that a label has. "All" matches series without the label, too, as those outside of Kubernetes have no namespace.
fn variable(name: &str) -> Value {
    let narrower: &[&str] = match name {
        "instance" => &["namespace", "job"],
        "pool" => &["namespace", "job", "instance"],
        "job" => &["namespace"],
        _ => &[],
    };
    let metric = if name == "pool" { "sidepool_pool_info" } else { "sidepool_build_info" };
    let selector = narrower.iter().map(|label| format!("{label}=~\"${label}\"")).collect::<Vec<_>>().join(",");
    let query = format!("label_values({metric}{{{selector}}}, {name})");
    json!({
        "name": name, "label": name, "type": "query", "datasource": source(), "query": { "query": query, "refId": name }, "definition": query,
        "refresh": 2, "sort": 1, "multi": true, "includeAll": true, "allValue": ".*", "hide": 0,
        "current": { "text": ["All"], "value": ["$__all"], "selected": true },
    })
}

fn source() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

/// All panels in Grafana's order and places: rows below each other, their panels from the left.
fn panels(rows: &[Row]) -> Vec<Value> {
    let mut placed = Vec::new();
    let (mut id, mut top) = (0, 0);
    for row in rows {
        id += 1;
        let row_id = id;
        let row_top = top;
        top += 1;
        let mut inside = Vec::new();
        let (mut left, mut tallest) = (0, 0);
        for panel in &row.panels {
            let (width, height) = panel.size();
            if left + width > 24 {
                (left, top, tallest) = (0, top + tallest, 0);
            }
            id += 1;
            inside.push(one(panel, id, &json!({ "x": left, "y": top, "w": width, "h": height })));
            left += width;
            tallest = tallest.max(height);
        }
        top = if row.collapsed { row_top + 1 } else { top + tallest };
        let place = json!({ "x": 0, "y": row_top, "w": 24, "h": 1 });
        let (hidden, shown) = if row.collapsed { (inside, Vec::new()) } else { (Vec::new(), inside) };
        placed.push(
            json!({ "id": row_id, "type": "row", "title": row.title, "collapsed": row.collapsed, "gridPos": place, "panels": hidden }),
        );
        placed.extend(shown);
    }
    placed
}

fn one(panel: &Panel, id: u32, place: &Value) -> Value {
    let queries: Vec<Value> = ('A'..='Z')
        .zip(&panel.queries)
        .map(|(letter, query)| {
            json!({
                "refId": letter.to_string(), "datasource": source(), "expr": query.expression, "legendFormat": query.legend, "editorMode": "code",
                "range": !panel.kind.is_instant(), "instant": panel.kind.is_instant(), "format": panel.kind.format(),
            })
        })
        .collect();
    json!({
        "id": id, "type": panel.kind.plugin(), "title": panel.title, "description": panel.about, "gridPos": place, "datasource": source(),
        "targets": queries, "fieldConfig": { "defaults": panel.defaults(), "overrides": panel.overrides() }, "options": panel.options(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::observe::catalog::Family;
    use crate::operate::queries;

    fn every(rows: &[Row]) -> impl Iterator<Item = &Panel> {
        rows.iter().flat_map(|row| &row.panels)
    }

    #[test]
    fn each_panel_says_what_it_shows_and_names_what_exists() {
        let mut rows = instance::rows();
        rows.push(rest::row(&rows));
        rows.extend(fleet::rows());
        for panel in every(&rows) {
            assert!(panel.about.ends_with('.') && !panel.unit.is_empty() && !panel.queries.is_empty(), "{}", panel.title);
            for query in &panel.queries {
                queries::check(&query.expression).unwrap_or_else(|problem| panic!("{}: {problem}", panel.title));
            }
        }
    }

    #[test]
    fn every_family_of_the_catalogue_is_on_the_dashboard() {
        let text = instance();
        let missing: Vec<&str> = Family::ALL
            .iter()
            .filter(|family| !family.is_otel())
            .map(|family| family.info().name)
            .filter(|name| !text.contains(name))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn no_two_panels_lie_on_each_other() {
        for text in [instance(), fleet()] {
            let document: Value = serde_json::from_str(&text).unwrap();
            let mut ids = BTreeSet::new();
            let mut taken = BTreeSet::new();
            for panel in document["panels"].as_array().unwrap() {
                assert!(ids.insert(panel["id"].as_u64().unwrap()));
                let of = |key: &str| panel["gridPos"][key].as_u64().unwrap();
                assert!(of("x") + of("w") <= 24);
                for x in of("x")..of("x") + of("w") {
                    for y in of("y")..of("y") + of("h") {
                        assert!(taken.insert((x, y)), "{} at {x},{y}", panel["title"]);
                    }
                }
            }
        }
    }
}
