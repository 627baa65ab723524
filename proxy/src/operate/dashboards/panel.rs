//! What a panel is, and the few shapes of queries that panels are made of: from a family of the catalogue to PromQL and a unit.

use serde_json::{Value, json};

use crate::observe::catalog::{Buckets, Family, Info, Kind};

/// Panels under a heading.
pub(super) struct Row {
    pub(super) title: &'static str,
    pub(super) collapsed: bool,
    pub(super) panels: Vec<Panel>,
}

/// How a panel shows its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// The newest number, large; yellow and red from these percentages on, or from any value above zero.
    Stat(Thresholds),
    /// Lines over time.
    Lines,
    /// Areas on top of each other.
    Stacked,
    /// A distribution over time.
    Heatmap,
    /// The newest values by their labels.
    Table,
}

/// From where on a number is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thresholds {
    /// Never.
    None,
    /// Of a ratio: yellow above 70 %, red above 90 %.
    Full,
    /// Red above zero.
    Any,
    /// Red below one.
    Down,
}

impl Look {
    pub(super) fn plugin(self) -> &'static str {
        match self {
            Self::Stat(_) => "stat",
            Self::Lines | Self::Stacked => "timeseries",
            Self::Heatmap => "heatmap",
            Self::Table => "table",
        }
    }

    pub(super) fn is_instant(self) -> bool {
        matches!(self, Self::Stat(_) | Self::Table)
    }

    pub(super) fn format(self) -> &'static str {
        match self {
            Self::Stat(_) | Self::Lines | Self::Stacked => "time_series",
            Self::Heatmap => "heatmap",
            Self::Table => "table",
        }
    }
}

/// A query and how its series are called.
pub(super) struct Query {
    pub(super) expression: String,
    pub(super) legend: String,
}

/// One panel.
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) kind: Look,
    pub(super) unit: &'static str,
    pub(super) about: String,
    pub(super) queries: Vec<Query>,
}

impl Panel {
    /// A panel whose description is the help of its family, and whose unit is that of its queries.
    pub(super) fn of(family: Family, title: &str, kind: Look, queries: Vec<Query>) -> Self {
        Self { title: title.to_owned(), kind, unit: unit(family), about: family.info().help.to_owned(), queries }
    }

    /// A panel that says something of its own.
    pub(super) fn new(title: &str, kind: Look, unit: &'static str, about: &str, queries: Vec<Query>) -> Self {
        Self { title: title.to_owned(), kind, unit, about: about.to_owned(), queries }
    }

    /// Width and height on a grid of 24 columns.
    pub(super) fn size(&self) -> (u32, u32) {
        match self.kind {
            Look::Stat(_) => (4, 4),
            Look::Lines | Look::Stacked | Look::Heatmap => (8, 8),
            Look::Table => (12, 8),
        }
    }

    pub(super) fn defaults(&self) -> Value {
        let steps = |steps: &[(Option<f64>, &str)]| json!({ "mode": "absolute", "steps": steps.iter().map(|(value, color)| json!({ "value": value, "color": color })).collect::<Vec<_>>() });
        let mut defaults = json!({ "unit": self.unit });
        match self.kind {
            Look::Stat(thresholds) => {
                defaults["thresholds"] = match thresholds {
                    Thresholds::None => steps(&[(None, "blue")]),
                    Thresholds::Full => steps(&[(None, "green"), (Some(0.7), "yellow"), (Some(0.9), "red")]),
                    Thresholds::Any => steps(&[(None, "green"), (Some(0.000_001), "red")]),
                    Thresholds::Down => steps(&[(None, "red"), (Some(1.0), "green")]),
                };
                defaults["noValue"] = json!("–");
            }
            Look::Lines => defaults["custom"] = json!({ "drawStyle": "line", "lineWidth": 1, "fillOpacity": 0, "showPoints": "never" }),
            Look::Stacked => {
                defaults["custom"] = json!({ "drawStyle": "line", "lineWidth": 1, "fillOpacity": 30, "showPoints": "never", "stacking": { "mode": "normal", "group": "A" } });
            }
            Look::Heatmap | Look::Table => {}
        }
        if self.unit == "percentunit" || self.kind == Look::Stacked || self.kind == Look::Lines {
            defaults["min"] = json!(0);
        }
        defaults
    }

    /// Limits are drawn as a red line of their own, not stacked on what they limit.
    pub(super) fn overrides(&self) -> Value {
        let limit = |query: &Query| {
            json!({ "matcher": { "id": "byName", "options": query.legend }, "properties": [
                { "id": "custom.stacking", "value": { "mode": "none" } }, { "id": "custom.fillOpacity", "value": 0 },
                { "id": "color", "value": { "mode": "fixed", "fixedColor": "red" } },
            ] })
        };
        match self.kind {
            Look::Stacked => self.queries.iter().filter(|query| query.legend == LIMIT).map(limit).collect(),
            Look::Stat(_) | Look::Lines | Look::Heatmap | Look::Table => json!([]),
        }
    }

    pub(super) fn options(&self) -> Value {
        match self.kind {
            Look::Stat(_) => json!({ "reduceOptions": { "calcs": ["lastNotNull"] }, "colorMode": "value", "graphMode": "none" }),
            Look::Lines | Look::Stacked => {
                json!({ "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true }, "tooltip": { "mode": "multi", "sort": "desc" } })
            }
            Look::Heatmap => json!({
                "calculate": false, "cellGap": 1, "color": { "mode": "scheme", "scheme": "Spectral", "steps": 64 },
                "yAxis": { "unit": self.unit }, "tooltip": { "show": true, "yHistogram": false },
            }),
            Look::Table => json!({ "showHeader": true }),
        }
    }
}

/// What the series of a limit is called.
pub(super) const LIMIT: &str = "limit";

/// The family's name with the selection of the dashboard, and `more` conditions.
pub(super) fn select(family: Family, suffix: &str, more: &str) -> String {
    let info = family.info();
    let pool = if info.labels.contains(&"pool") { ",pool=~\"$pool\"" } else { "" };
    let more = if more.is_empty() { String::new() } else { format!(",{more}") };
    format!("{}{suffix}{{namespace=~\"$namespace\",job=~\"$job\",instance=~\"$instance\"{pool}{more}}}", info.name)
}

/// The sum of a gauge by labels.
pub(super) fn sum(family: Family, by: &[&str]) -> Query {
    folded("sum", family, by)
}

/// The largest of a gauge by labels.
pub(super) fn max(family: Family, by: &[&str]) -> Query {
    folded("max", family, by)
}

/// A gauge folded by labels with any operator.
pub(super) fn folded(operator: &str, family: Family, by: &[&str]) -> Query {
    Query { expression: format!("{operator}{} ({})", grouping(by), select(family, "", "")), legend: legend(by) }
}

/// How fast a counter grows, by labels.
pub(super) fn rate(family: Family, by: &[&str]) -> Query {
    Query { expression: format!("sum{} (rate({}[$__rate_interval]))", grouping(by), select(family, "", "")), legend: legend(by) }
}

/// A quantile of a histogram.
pub(super) fn quantile(family: Family, of_hundred: u32, by: &[&str]) -> Query {
    let labels: Vec<&str> = by.iter().copied().chain(["le"]).collect();
    let quantile = f64::from(of_hundred) / 100.0;
    let expression =
        format!("histogram_quantile({quantile}, sum{} (rate({}[$__rate_interval])))", grouping(&labels), select(family, "_bucket", ""));
    Query { expression, legend: format!("p{of_hundred} {}", legend(by)).trim_end().to_owned() }
}

/// The three quantiles that tell how a distribution is shaped.
pub(super) fn quantiles(family: Family, by: &[&str]) -> Vec<Query> {
    [50, 95, 99].map(|of_hundred| quantile(family, of_hundred, by)).into()
}

/// A histogram over time.
pub(super) fn heat(family: Family) -> Vec<Query> {
    vec![Query {
        expression: format!("sum by (le) (rate({}[$__rate_interval]))", select(family, "_bucket", "")),
        legend: "{{le}}".to_owned(),
    }]
}

/// The same query under another name.
pub(super) fn named(query: Query, legend: &str) -> Query {
    Query { legend: legend.to_owned(), ..query }
}

/// A query of one's own.
pub(super) fn own(expression: String, legend: &str) -> Query {
    Query { expression, legend: legend.to_owned() }
}

fn grouping(by: &[&str]) -> String {
    if by.is_empty() { String::new() } else { format!(" by ({})", by.join(", ")) }
}

fn legend(by: &[&str]) -> String {
    by.iter().map(|label| format!("{{{{{label}}}}}")).collect::<Vec<_>>().join(" ")
}

/// Grafana's unit for what a family's queries give: rates of counters, values of gauges, bounds of histograms.
pub(super) fn unit(family: Family) -> &'static str {
    let Info { name, kind, .. } = family.info();
    match kind {
        // Seconds a second: a share of the time, or how many at once.
        Kind::CounterSeconds => "short",
        Kind::Counter if name.ends_with("_bytes_total") => "Bps",
        Kind::Counter => "cps",
        Kind::Histogram(Buckets::Wait | Buckets::Work | Buckets::Opening) => "s",
        Kind::Histogram(Buckets::Count) => "short",
        Kind::Gauge if name.ends_with("_timestamp_seconds") || name.ends_with("_start_time_seconds") => "dateTimeAsIso",
        Kind::Gauge if name.ends_with("_seconds") => "s",
        Kind::Gauge if name.ends_with("_bytes") => "bytes",
        Kind::Gauge if name.ends_with("_ratio") => "percentunit",
        Kind::Gauge => "short",
    }
}
