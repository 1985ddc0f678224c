//! Prometheus, asked over its API.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde_json::Value;

pub(crate) type Labels = BTreeMap<String, String>;

#[derive(Clone)]
pub(crate) struct Prometheus {
    base: String,
}

/// What a query refers to: each series name with the labels it is asked by, and all labels that results are grouped by.
#[derive(Debug, Default)]
pub(crate) struct References {
    pub(crate) series: Vec<(String, BTreeSet<String>)>,
    pub(crate) grouped: BTreeSet<String>,
}

impl Prometheus {
    pub(crate) fn at(port: u16) -> Self {
        Self { base: format!("http://127.0.0.1:{port}/api/v1") }
    }

    fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value> {
        let request = ureq::get(format!("{}/{path}", self.base)).config().http_status_as_error(false).build();
        let mut response = request.query_pairs(parameters.iter().copied()).call()?;
        let mut answer: Value = response.body_mut().with_config().limit(64 << 20).read_json()?;
        if answer["status"] != "success" {
            bail!("{path} {parameters:?}: {answer}");
        }
        Ok(answer["data"].take())
    }

    /// A query's series now, each with its value.
    pub(crate) fn query(&self, query: &str) -> Result<Vec<(Labels, f64)>> {
        let data = self.get("query", &[("query", query)])?;
        if data["resultType"] == "scalar" {
            return Ok(vec![(Labels::new(), value(&data["result"])?)]);
        }
        let series = data["result"].as_array().context("series")?;
        series.iter().map(|series| Ok((labels(&series["metric"])?, value(&series["value"])?))).collect()
    }

    /// The one value of a query; 0 where there is no series.
    pub(crate) fn sum(&self, query: &str) -> Result<f64> {
        Ok(self.query(query)?.first().map_or(0.0, |(_, value)| *value))
    }

    /// The raw samples that a range selector finds, by series.
    pub(crate) fn samples(&self, selector: &str) -> Result<Vec<Vec<(f64, f64)>>> {
        let data = self.get("query", &[("query", selector)])?;
        let series = data["result"].as_array().context("series")?;
        let samples = |series: &Value| -> Result<Vec<(f64, f64)>> {
            let samples = series["values"].as_array().context("samples")?;
            samples.iter().map(|sample| Ok((sample[0].as_f64().context("a time")?, value(sample)?))).collect()
        };
        series.iter().map(samples).collect()
    }

    pub(crate) fn label_values(&self, label: &str, matching: &str) -> Result<BTreeSet<String>> {
        let data = self.get(&format!("label/{label}/values"), &[("match[]", matching)])?;
        Ok(data.as_array().context("values")?.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// The labels of every series that matches.
    pub(crate) fn series(&self, matching: &str) -> Result<Vec<Labels>> {
        let data = self.get("series", &[("match[]", matching)])?;
        data.as_array().context("series")?.iter().map(labels).collect()
    }

    /// The alerts that fire: name and labels.
    pub(crate) fn firing(&self) -> Result<Vec<(String, Labels)>> {
        let data = self.get("alerts", &[])?;
        let alerts = data["alerts"].as_array().context("alerts")?;
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        firing
            .map(|alert| {
                let labels = labels(&alert["labels"])?;
                Ok((labels.get("alertname").cloned().unwrap_or_default(), labels))
            })
            .collect()
    }

    /// The alerting rules: name, expression, labels and annotations, health.
    pub(crate) fn rules(&self) -> Result<Vec<Value>> {
        let data = self.get("rules", &[])?;
        let groups = data["groups"].as_array().context("groups")?;
        Ok(groups.iter().filter_map(|group| group["rules"].as_array()).flatten().cloned().collect())
    }

    /// What a query refers to, as Prometheus itself parses it.
    pub(crate) fn references(&self, query: &str) -> Result<References> {
        let tree = self.get("parse_query", &[("query", query)])?;
        let mut references = References::default();
        collect(&tree, &mut references);
        Ok(references)
    }
}

fn collect(node: &Value, references: &mut References) {
    match node {
        Value::Array(nodes) => nodes.iter().for_each(|node| collect(node, references)),
        Value::Object(fields) => {
            let strings = |value: &Value| -> Vec<String> {
                let strings = value.as_array().into_iter().flatten();
                strings.filter_map(Value::as_str).map(str::to_owned).collect()
            };
            if matches!(node["type"].as_str(), Some("vectorSelector" | "matrixSelector")) {
                let matchers = node["matchers"].as_array().into_iter().flatten();
                let labels = matchers
                    .filter_map(|matcher| matcher["name"].as_str())
                    .filter(|name| *name != "__name__");
                let name = node["name"].as_str().unwrap_or_default().to_owned();
                references.series.push((name, labels.map(str::to_owned).collect()));
            }
            references.grouped.extend(strings(&node["grouping"]));
            references.grouped.extend(strings(&node["matching"]["labels"]));
            fields.values().for_each(|value| collect(value, references));
        }
        _ => {}
    }
}

fn labels(value: &Value) -> Result<Labels> {
    let labels = value.as_object().context("labels")?;
    Ok(labels
        .iter()
        .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect())
}

/// The value of a sample.
fn value(sample: &Value) -> Result<f64> {
    Ok(sample[1].as_str().context("a value")?.parse()?)
}
