//! A dashboard: its variables, its rows, the places of its panels.

use otel_tasks::telemetry::contract;
use serde_json::{Value, json};

use super::panel::{Panel, datasource, m};

/// Grafana's grid.
const COLUMNS: u32 = 24;

pub(crate) struct Row {
    pub(crate) title: &'static str,
    pub(crate) panels: Vec<Panel>,
}

/// A variable that is filled from a label's values.
pub(crate) struct Variable {
    name: &'static str,
    label: &'static str,
    description: &'static str,
    query: String,
    many: bool,
    hidden: bool,
}

impl Variable {
    fn new(name: &'static str, label: &'static str, description: &'static str, query: String) -> Self {
        Self { name, label, description, query, many: true, hidden: false }
    }

    fn render(&self) -> Value {
        let mut variable = json!({
            "type": "query",
            "name": self.name,
            "label": self.label,
            "description": self.description,
            "datasource": datasource(),
            "query": { "query": self.query, "refId": "StandardVariableQuery" },
            "definition": self.query,
            // What there is changes with what is looked at.
            "refresh": 2,
            "sort": 1,
            "multi": self.many,
            "includeAll": self.many,
            "hide": if self.hidden { 2 } else { 0 },
            "options": [],
        });
        if self.many {
            // Whoever has no component is among all.
            variable["allValue"] = json!(".*");
            variable["current"] = json!({ "text": ["All"], "value": ["$__all"] });
        }
        variable
    }
}

/// The variables that every page has: which services and which instances of them.
fn fleet() -> Vec<Variable> {
    let any = m(contract::RUN_ACTIVE);
    let mut service = Variable::new(
        "service",
        "Service",
        "`job`: [service.namespace/]service.name",
        format!("label_values({any}, job)"),
    );
    service.many = false;
    let instance = Variable::new(
        "instance",
        "Instance",
        "`instance`: service.instance.id",
        format!("label_values({any}{{job=\"$service\"}}, instance)"),
    );
    let mut jaeger = Variable::new(
        "jaeger_service",
        "Service in Jaeger",
        "service.name, which Jaeger keeps without its namespace",
        format!("label_values({any}{{job=\"$service\"}}, service_name)"),
    );
    (jaeger.many, jaeger.hidden) = (false, true);
    vec![service, instance, jaeger]
}

/// The variables of the page about a task.
pub(crate) fn chosen_task() -> Vec<Variable> {
    let of = format!("{}{{job=\"$service\", instance=~\"$instance\"", m(contract::RUN_ACTIVE));
    let component = Variable::new(
        "component",
        "Component",
        "The part of the program that owns the task",
        format!("label_values({of}}}, task_component)"),
    );
    let category = Variable::new(
        "category",
        "Category",
        "What the task is",
        format!("label_values({of}, task_component=~\"$component\"}}, task_category)"),
    );
    let mut task = Variable::new(
        "task",
        "Task",
        "The task's name",
        format!(
            "label_values({of}, task_component=~\"$component\", task_category=~\"$category\"}}, task_name)"
        ),
    );
    task.many = false;
    vec![component, category, task]
}

pub(crate) fn page(uid: &str, title: &str, description: &str, more: Vec<Variable>, rows: Vec<Row>) -> Value {
    let mut variables: Vec<Value> = fleet().iter().chain(&more).map(Variable::render).collect();
    variables.push(json!({
        "type": "textbox",
        "name": "jaeger",
        "label": "Jaeger",
        "description": "Where Jaeger's pages are, as this browser reaches them",
        "query": "http://127.0.0.1:16686",
        "current": { "text": "http://127.0.0.1:16686", "value": "http://127.0.0.1:16686" },
        "options": [],
        "hide": 0,
    }));
    json!({
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["otel-tasks"],
        "schemaVersion": 41,
        "version": 1,
        "editable": false,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": { "from": "now-1h", "to": "now" },
        "timezone": "browser",
        "templating": { "list": variables },
        "annotations": { "list": [restarts()] },
        "links": [{
            "title": "otel-tasks",
            "type": "dashboards",
            "tags": ["otel-tasks"],
            "asDropdown": false,
            "includeVars": true,
            "keepTime": true,
            "targetBlank": false,
            "icon": "external link",
            "tooltip": "",
            "url": "",
        }],
        "panels": placed(rows),
    })
}

/// Marks on every graph: a task was restarted.
fn restarts() -> Value {
    let restarts = m(contract::RESTARTS);
    json!({
        "name": "Restarts",
        "datasource": datasource(),
        "enable": true,
        "hide": false,
        "iconColor": "orange",
        "expr": format!(
            "sum by (task_name, task_restart_reason) (increase({restarts}{{job=\"$service\", instance=~\"$instance\"}}[$__rate_interval])) > 0.5"
        ),
        "titleFormat": "{{task_name}} restarted",
        "textFormat": "{{task_restart_reason}}",
    })
}

fn placed(rows: Vec<Row>) -> Vec<Value> {
    let (mut panels, mut y) = (Vec::new(), 0);
    for row in rows {
        let id = panels.len() + 1;
        panels.push(json!({
            "id": id, "type": "row", "title": row.title, "collapsed": false, "panels": [],
            "gridPos": { "x": 0, "y": y, "w": COLUMNS, "h": 1 },
        }));
        y += 1;
        let (mut x, mut tallest) = (0, 0);
        for panel in row.panels {
            if x + panel.width() > COLUMNS {
                (x, y, tallest) = (0, y + tallest, 0);
            }
            panels.push(panel.render(panels.len() + 1, x, y));
            x += panel.width();
            tallest = tallest.max(panel.height());
        }
        y += tallest;
    }
    panels
}
