//! What the dashboards are made of. Only what Grafana's schema knows is written; `schema.rs` checks it.

use otel_tasks::telemetry::contract::Instrument;
use serde_json::{Value, json};

use crate::contract;

/// The uid of the provisioned data source.
const PROMETHEUS: &str = "otel-tasks-prometheus";

/// How a panel shows what it asks for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Shape {
    /// One figure per series; the colour changes at these values.
    Stat(Option<[f64; 2]>),
    Lines,
    /// Lines on top of each other, for what adds up.
    Stacked,
    Heatmap,
    /// One band per series.
    States,
    Table,
}

pub(crate) struct Target {
    pub(crate) expr: String,
    pub(crate) legend: String,
}

pub(crate) struct Panel {
    title: &'static str,
    description: String,
    unit: &'static str,
    shape: Shape,
    targets: Vec<Target>,
    width: u32,
    height: u32,
    /// Where a click leads: the traces of one task, or all of them.
    traces_of: Traces,
    columns: Vec<Column>,
}

#[derive(Clone, Copy, PartialEq)]
enum Traces {
    /// The task of the page's own variable.
    OfVariable,
    /// The task that a series or row is about.
    OfSeries,
    All,
}

/// A column of a table: the target it comes from, its title and unit.
pub(crate) struct Column {
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
}

impl Panel {
    /// A panel about these instruments, which its description names in the contract's own words.
    pub(crate) fn new(
        title: &'static str,
        shape: Shape,
        unit: &'static str,
        says: &str,
        of: &[Instrument],
    ) -> Self {
        let instruments =
            of.iter().map(|instrument| format!("\n\n`{}`: {}", instrument.name, instrument.description));
        let (width, height) = match shape {
            Shape::Stat(_) => (3, 4),
            Shape::Table => (24, 10),
            Shape::Lines | Shape::Stacked | Shape::Heatmap | Shape::States => (12, 8),
        };
        Self {
            title,
            description: format!("{says}{}", instruments.collect::<String>()),
            unit,
            shape,
            targets: Vec::new(),
            width,
            height,
            traces_of: Traces::All,
            columns: Vec::new(),
        }
    }

    pub(crate) fn query(mut self, expr: impl Into<String>, legend: impl Into<String>) -> Self {
        self.targets.push(Target { expr: expr.into(), legend: legend.into() });
        self
    }

    /// A column of a table: one figure per task.
    pub(crate) fn column(mut self, title: &'static str, unit: &'static str, expr: String) -> Self {
        self.columns.push(Column { title, unit });
        self.query(expr, "")
    }

    pub(crate) fn size(mut self, width: u32, height: u32) -> Self {
        (self.width, self.height) = (width, height);
        self
    }

    /// Each series is about one task, named by its label.
    pub(crate) fn by_task(mut self) -> Self {
        self.traces_of = Traces::OfSeries;
        self
    }

    pub(crate) fn of_the_chosen_task(mut self) -> Self {
        self.traces_of = Traces::OfVariable;
        self
    }

    pub(crate) fn render(&self, id: usize, x: u32, y: u32) -> Value {
        let instant = matches!(self.shape, Shape::Stat(_) | Shape::Table);
        let targets: Vec<Value> = self
            .targets
            .iter()
            .enumerate()
            .map(|(i, target)| {
                json!({
                    "refId": char::from(b'A' + i as u8).to_string(),
                    "datasource": datasource(),
                    "expr": target.expr,
                    "legendFormat": target.legend,
                    "instant": instant,
                    "range": !instant,
                    "format": match self.shape {
                        Shape::Heatmap => "heatmap",
                        Shape::Table => "table",
                        _ => "time_series",
                    },
                })
            })
            .collect();
        let mut panel = json!({
            "id": id,
            "type": self.kind(),
            "title": self.title,
            "description": self.description,
            "datasource": datasource(),
            "gridPos": { "x": x, "y": y, "w": self.width, "h": self.height },
            "targets": targets,
            "fieldConfig": { "defaults": self.field_defaults(), "overrides": self.overrides() },
            "options": self.options(),
            "links": [link("Traces in Jaeger", self.traces_url(), true)],
        });
        if self.shape == Shape::Table {
            panel["transformations"] = self.transformations();
        }
        panel
    }

    pub(crate) fn width(&self) -> u32 {
        self.width
    }

    pub(crate) fn height(&self) -> u32 {
        self.height
    }

    fn kind(&self) -> &'static str {
        match self.shape {
            Shape::Stat(_) => "stat",
            Shape::Lines | Shape::Stacked => "timeseries",
            Shape::Heatmap => "heatmap",
            Shape::States => "state-timeline",
            Shape::Table => "table",
        }
    }

    /// Where the panel's own link leads: a series' label is not known there.
    fn traces_url(&self) -> String {
        match self.traces_of {
            Traces::OfVariable => search(Some("${task:raw}")),
            Traces::OfSeries | Traces::All => search(None),
        }
    }

    fn field_defaults(&self) -> Value {
        let mut defaults = json!({
            "unit": self.unit,
            "color": { "mode": "palette-classic" },
            "custom": match self.shape {
                Shape::Stacked => json!({ "fillOpacity": 30, "lineWidth": 1, "stacking": { "mode": "normal", "group": "A" } }),
                Shape::Lines => json!({ "fillOpacity": 5, "lineWidth": 1 }),
                Shape::States => json!({ "fillOpacity": 70, "lineWidth": 0 }),
                _ => json!({}),
            },
        });
        if let Shape::Stat(steps) = self.shape {
            let mut colours = vec![json!({ "color": "green", "value": null })];
            if let Some([warning, critical]) = steps {
                colours.push(json!({ "color": "orange", "value": warning }));
                colours.push(json!({ "color": "red", "value": critical }));
            }
            defaults["color"] = json!({ "mode": "thresholds" });
            defaults["thresholds"] = json!({ "mode": "absolute", "steps": colours });
            defaults["noValue"] = json!("0");
        }
        if self.shape == Shape::States {
            defaults["mappings"] = json!([
                { "type": "value", "options": { "0": { "text": "no", "color": "transparent" }, "1": { "text": "yes", "color": "blue" } } },
            ]);
        }
        match self.traces_of {
            Traces::OfVariable => {
                defaults["links"] = json!([link("Traces in Jaeger", search(Some("${task:raw}")), true)])
            }
            Traces::OfSeries if self.shape != Shape::Table => {
                defaults["links"] =
                    json!([link("Traces in Jaeger", search(Some("${__field.labels.task_name}")), true)]);
            }
            _ => {}
        }
        defaults
    }

    fn overrides(&self) -> Value {
        if self.shape != Shape::Table {
            return json!([]);
        }
        let by_name = |name: &str, id: &str, value: Value| json!({ "matcher": { "id": "byName", "options": name }, "properties": [{ "id": id, "value": value }] });
        let mut overrides: Vec<Value> =
            self.columns.iter().map(|column| by_name(column.title, "unit", column.unit.into())).collect();
        let of_row = search(Some("${__data.fields.task_name}"));
        let page = "/d/otel-tasks-task?var-service=${__data.fields.job}&var-instance=${__data.fields.instance}&var-task=${__data.fields.task_name}";
        let links =
            json!([link("Traces in Jaeger", of_row, true), link("The task's page", page.to_owned(), false)]);
        overrides.push(by_name("task_name", "links", links));
        Value::Array(overrides)
    }

    fn options(&self) -> Value {
        match self.shape {
            Shape::Stat(_) => json!({
                "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
                "colorMode": "value",
                "graphMode": "none",
                "textMode": "auto",
                "wideLayout": true,
                "showPercentChange": false,
                "percentChangeColorMode": "standard",
                "justifyMode": "auto",
                "orientation": "auto",
            }),
            Shape::Lines | Shape::Stacked => json!({
                "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": [] },
                "tooltip": { "mode": "multi", "sort": "desc" },
            }),
            Shape::Heatmap => json!({
                "calculate": false,
                "cellGap": 1,
                "yAxis": { "unit": self.unit },
                "color": { "mode": "scheme", "scheme": "Spectral", "steps": 64, "exponent": 0.5, "fill": "dark-orange", "reverse": false },
                "legend": { "show": true },
                "tooltip": { "mode": "single", "yHistogram": false, "showColorScale": true },
                "exemplars": { "color": "orange" },
                "rowsFrame": { "layout": "auto" },
                "showValue": "never",
                "filterValues": { "le": 1e-9 },
            }),
            Shape::States => json!({
                "mergeValues": true,
                "showValue": "never",
                "rowHeight": 0.9,
                "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": [] },
                "tooltip": { "mode": "single", "sort": "none" },
            }),
            Shape::Table => json!({
                "showHeader": true,
                "cellHeight": "sm",
                "sortBy": [{ "displayName": self.columns.first().map_or("", |column| column.title), "desc": true }],
            }),
        }
    }

    /// One row per task, one column per query.
    fn transformations(&self) -> Value {
        let mut names = serde_json::Map::new();
        for (i, column) in self.columns.iter().enumerate() {
            names.insert(format!("Value #{}", char::from(b'A' + i as u8)), column.title.into());
        }
        json!([
            { "id": "merge", "options": {} },
            { "id": "organize", "options": { "excludeByName": { "Time": true }, "indexByName": {}, "renameByName": names } },
        ])
    }
}

pub(crate) fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": PROMETHEUS })
}

/// A link of a panel, a series or a page; every field of it, as Grafana's type asks.
pub(crate) fn link(title: &str, url: String, new_tab: bool) -> Value {
    json!({
        "title": title,
        "url": url,
        "type": "link",
        "icon": "external link",
        "tooltip": "",
        "tags": [],
        "asDropdown": false,
        "targetBlank": new_tab,
        "includeVars": false,
        "keepTime": false,
    })
}

/// Jaeger's search for the runs of a task, or of all.
pub(crate) fn search(task: Option<&str>) -> String {
    use otel_tasks::telemetry::contract::{SPAN_RUN, key};
    // Jaeger takes a service without its namespace: what follows the last slash of a job.
    let url = format!("${{jaeger}}/search?service=${{jaeger_service}}&operation={SPAN_RUN}");
    match task {
        // The tags are JSON, and its braces and quotes are escaped for the address.
        Some(task) => format!("{url}&tags=%7B%22{}%22%3A%22{task}%22%7D", key::NAME),
        None => url,
    }
}

/// The metric of an instrument.
pub(crate) fn m(instrument: Instrument) -> String {
    contract::metric(&instrument)
}
