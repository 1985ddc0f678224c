//! The dashboards, their variables and the rules: each query runs, returns something plausible, and asks for what exists.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use otel_tasks::telemetry::contract::Instrument;
use serde_json::Value;

use crate::{checks::Checks, contract, dashboards, jaeger::Jaeger, prometheus::Prometheus};

/// The tasks that between them have everything that the task page can show.
const TASKS: [&str; 6] = ["fetcher", "overrun", "silent", "blocker", "clock", "mirror"];

/// One query of one panel.
struct Asked {
    place: String,
    expr: String,
    unit: String,
}

impl Asked {
    fn is_about_leases(&self) -> bool {
        self.expr.contains("task_lease_")
    }
}

fn asked() -> Vec<Asked> {
    let mut asked = Vec::new();
    for (file, dashboard) in dashboards::all() {
        for panel in dashboard["panels"].as_array().into_iter().flatten() {
            let title = panel["title"].as_str().unwrap_or_default();
            let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap_or_default();
            for target in panel["targets"].as_array().into_iter().flatten() {
                asked.push(Asked {
                    place: format!("{file}: {title} {}", target["refId"].as_str().unwrap_or_default()),
                    expr: target["expr"].as_str().unwrap_or_default().to_owned(),
                    unit: unit.to_owned(),
                });
            }
        }
        for mark in dashboard["annotations"]["list"].as_array().into_iter().flatten() {
            let expr = mark["expr"].as_str().unwrap_or_default().to_owned();
            asked.push(Asked { place: format!("{file}: annotation"), expr, unit: "none".into() });
        }
    }
    asked
}

/// A query as Grafana would send it, with everything chosen.
fn sent(expr: &str, service: &str, task: &str) -> String {
    expr.replace("$service", service)
        .replace("$task", task)
        .replace("$instance", ".*")
        .replace("$component", ".*")
        .replace("$category", ".*")
        .replace("$__rate_interval", "1m")
        .replace("$__range", "10m")
}

/// The queries of panels that have returned nothing so far.
pub(crate) struct Panels {
    open: Vec<Asked>,
    proven: usize,
    implausible: Vec<String>,
}

impl Panels {
    /// All but those about leases, which a service of their own has.
    pub(crate) fn new() -> Self {
        Self::with(|asked| !asked.is_about_leases())
    }

    pub(crate) fn of_leases() -> Self {
        Self::with(Asked::is_about_leases)
    }

    fn with(is_wanted: impl Fn(&Asked) -> bool) -> Self {
        let open = asked().into_iter().filter(is_wanted).collect();
        Self { open, proven: 0, implausible: Vec::new() }
    }

    /// Asks what is still open: some panels show what is only there while the service runs, others what is there once it
    /// has gone down.
    pub(crate) fn ask(&mut self, prometheus: &Prometheus, service: &str) -> Result<()> {
        let mut open = Vec::new();
        for asked in std::mem::take(&mut self.open) {
            let tasks: &[&str] = if asked.expr.contains("$task") { &TASKS } else { &[""] };
            let mut found = false;
            for task in tasks {
                let query = sent(&asked.expr, service, task);
                let series = prometheus.query(&query).with_context(|| asked.place.clone())?;
                let finite: Vec<f64> =
                    series.iter().map(|(_, value)| *value).filter(|value| value.is_finite()).collect();
                found |= !finite.is_empty();
                // A clock may be read a moment before a sample that it is compared with.
                let least = if ["next_run", "next_retry"].iter().any(|next| asked.expr.contains(next)) {
                    f64::MIN
                } else {
                    -5.0
                };
                let most = if asked.unit == "percentunit" && !asked.expr.contains("run_time") {
                    1.001
                } else {
                    f64::MAX
                };
                if let Some(value) = finite.iter().find(|value| !(least..=most).contains(*value)) {
                    self.implausible.push(format!("{}: {value} of {query}", asked.place));
                }
            }
            if found {
                self.proven += 1;
            } else {
                open.push(asked);
            }
        }
        self.open = open;
        Ok(())
    }

    pub(crate) fn tell(self, kind: &str, checks: &Checks) {
        let empty: Vec<String> =
            self.open.iter().map(|asked| format!("{}: {}", asked.place, asked.expr)).collect();
        checks.none(&format!("each query {kind}of each panel returned data ({})", self.proven), &empty);
        checks.none(&format!("and none {kind}anything implausible"), &self.implausible);
    }
}

/// Each variable of each dashboard has something to choose from.
pub(crate) fn variables(prometheus: &Prometheus, service: &str, checks: &Checks) -> Result<()> {
    let mut wrong = Vec::new();
    let mut count = 0;
    for (file, dashboard) in dashboards::all() {
        for variable in dashboard["templating"]["list"].as_array().into_iter().flatten() {
            if variable["type"] != "query" {
                continue;
            }
            let (selector, label) = label_values(variable)?;
            let values = prometheus.label_values(label, &sent(selector, service, ""))?;
            let name = variable["name"].as_str().unwrap_or_default();
            let wanted = match name {
                "service" => service,
                "component" => "network",
                "category" => "gateway",
                "task" => "fetcher",
                "jaeger_service" => service,
                _ => "",
            };
            if values.is_empty() || !wanted.is_empty() && !values.contains(wanted) {
                wrong.push(format!("{file}: {name}: {values:?}"));
            }
            count += 1;
        }
    }
    checks.none(&format!("each variable has values ({count})"), &wrong);
    Ok(())
}

/// Each panel says what it shows and in which unit, and leads to traces: each link is the search that Jaeger's page would send to
/// its API, and finds runs of the task that it is about.
pub(crate) fn panels_are_whole(jaeger: &Jaeger, service: &str, checks: &Checks) -> Result<()> {
    const TASK: &str = "fetcher";
    let (mut wrong, mut panels, mut links) = (Vec::new(), 0, BTreeSet::new());
    for (file, dashboard) in dashboards::all() {
        for panel in
            dashboard["panels"].as_array().into_iter().flatten().filter(|panel| panel["type"] != "row")
        {
            panels += 1;
            let said = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
            let fields = &panel["fieldConfig"];
            let whole =
                said(&panel["title"]) && said(&panel["description"]) && said(&fields["defaults"]["unit"]);
            let own = urls(&panel["links"]);
            if !whole || own.is_empty() {
                wrong.push(format!("{file}: {}", panel["title"]));
            }
            links.extend(own);
            links.extend(urls(&fields["defaults"]["links"]));
            for property in fields["overrides"].as_array().into_iter().flatten() {
                links.extend(urls(&property["properties"][0]["value"]));
            }
        }
    }
    checks.none(&format!("each of {panels} panels has its title, words, unit and link"), &wrong);
    let mut wrong = Vec::new();
    links.retain(|link| link.starts_with("${jaeger}/search?"));
    for link in &links {
        let about_a_task = link.contains("&tags=");
        let sent = ["${task:raw}", "${__field.labels.task_name}", "${__data.fields.task_name}"]
            .iter()
            .fold(link.replace("${jaeger_service}", service), |link, variable| link.replace(variable, TASK));
        let (_, query) = sent.split_once('?').context("a query")?;
        let found = jaeger.search(query)?;
        let runs = found.iter().filter(|span| span.operation == "task.run");
        let others = runs.filter(|run| about_a_task && run.tag("task.name").as_deref() != Some(TASK)).count();
        if found.is_empty() || others > 0 || query.contains("${") {
            wrong.push(format!("{link}: {} spans, {others} of other tasks", found.len()));
        }
    }
    checks.none(&format!("each link to Jaeger finds the traces that it is about ({})", links.len()), &wrong);
    Ok(())
}

fn urls(links: &Value) -> Vec<String> {
    let links = links.as_array().into_iter().flatten();
    links.filter_map(|link| link["url"].as_str()).map(str::to_owned).collect()
}

/// The selector and the label of `label_values(selector, label)`.
fn label_values(variable: &Value) -> Result<(&str, &str)> {
    let query = variable["query"]["query"].as_str().context("a query")?;
    let inner = query
        .strip_prefix("label_values(")
        .and_then(|rest| rest.strip_suffix(')'))
        .context("label_values")?;
    let (selector, label) = inner.rsplit_once(", ").context("two arguments")?;
    Ok((selector, label))
}

/// Every metric and label that is asked for exists, and every instrument is asked for.
pub(crate) fn contract(prometheus: &Prometheus, checks: &Checks) -> Result<()> {
    let known = contract::known();
    let mut queries: BTreeMap<String, String> = BTreeMap::new();
    for asked in asked() {
        queries.insert(sent(&asked.expr, "bot", "x"), asked.place);
    }
    for (file, dashboard) in dashboards::all() {
        for variable in dashboard["templating"]["list"].as_array().into_iter().flatten() {
            if variable["type"] == "query" {
                let (selector, label) = label_values(variable)?;
                queries.insert(
                    format!("count by ({label}) ({})", sent(selector, "bot", "x")),
                    format!("{file}: variable"),
                );
            }
        }
    }
    for rule in prometheus.rules()? {
        let query = rule["query"].as_str().context("a query")?.to_owned();
        queries.insert(query, rule["name"].as_str().unwrap_or_default().to_owned());
    }
    let (mut wrong, mut used) = (Vec::new(), BTreeSet::new());
    for (query, place) in &queries {
        let references = prometheus.references(query).with_context(|| place.clone())?;
        let mut labels: BTreeSet<&String> = BTreeSet::new();
        for (name, asked_by) in &references.series {
            let Some(of_series) = known.get(name) else {
                wrong.push(format!("{place}: there is no {name}"));
                continue;
            };
            labels.extend(of_series);
            used.insert(name.clone());
            for label in asked_by.iter().filter(|label| !of_series.contains(*label)) {
                wrong.push(format!("{place}: {name} has no label {label}"));
            }
        }
        for label in references.grouped.iter().filter(|label| !labels.contains(label)) {
            wrong.push(format!("{place}: nothing in it has a label {label}"));
        }
    }
    checks.none(&format!("each metric and label of {} queries exists", queries.len()), &wrong);
    let unused = contract::instruments()
        .filter(|instrument| contract::series(instrument).iter().all(|name| !used.contains(name)));
    let unused: Vec<String> = unused.map(|instrument| instrument.name.to_owned()).collect();
    let count = contract::instruments().count();
    checks.none(&format!("each instrument of the contract is shown ({count})"), &unused);
    Ok(())
}

/// What Prometheus holds of a service under these names is the contract: every name, with no label that it does not say.
pub(crate) fn names(
    prometheus: &Prometheus,
    service: &str,
    prefix: &str,
    instruments: &[Instrument],
    checks: &Checks,
) -> Result<()> {
    let known = contract::known();
    let ours = format!("{{__name__=~\"{prefix}.*\", job=\"{service}\"}}");
    let held = prometheus.label_values("__name__", &ours)?;
    let expected: BTreeSet<String> = instruments.iter().flat_map(contract::series).collect();
    let difference: Vec<String> = held.symmetric_difference(&expected).cloned().collect();
    checks.none(
        &format!("{service}: every instrument is there under its translated name ({})", expected.len()),
        &difference,
    );
    let mut wrong = BTreeSet::new();
    for labels in prometheus.series(&ours)? {
        let name = labels.get("__name__").context("a name")?;
        let of_series = known.get(name).with_context(|| name.clone())?;
        for label in labels.keys().filter(|label| *label != "__name__" && !of_series.contains(*label)) {
            wrong.insert(format!("{name} has the label {label}"));
        }
    }
    checks.none(
        &format!("{service}: no series has a label that the contract does not say"),
        &wrong.into_iter().collect::<Vec<_>>(),
    );
    Ok(())
}
