//! Jaeger, asked over its API.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use serde_json::Value;

#[derive(Clone)]
pub(crate) struct Jaeger {
    base: String,
}

/// A span as Jaeger shows it.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) operation: String,
    /// Microseconds since 1970, and how many it took.
    pub(crate) start: u64,
    pub(crate) duration: u64,
    pub(crate) instance: String,
    /// The parent; the trace and span that each link leads to.
    pub(crate) parent: Option<String>,
    pub(crate) links: Vec<(String, String)>,
    tags: Vec<(String, Value)>,
}

impl Span {
    pub(crate) fn tag(&self, key: &str) -> Option<String> {
        let (_, value) = self.tags.iter().find(|(name, _)| name == key)?;
        Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }
}

impl Jaeger {
    pub(crate) fn at(port: u16) -> Self {
        Self { base: format!("http://127.0.0.1:{port}/api") }
    }

    fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value> {
        let request = ureq::get(format!("{}/{path}", self.base)).config().http_status_as_error(false).build();
        let mut response = request.query_pairs(parameters.iter().copied()).call()?;
        let mut answer: Value = response.body_mut().with_config().limit(256 << 20).read_json()?;
        match answer["errors"].as_array() {
            Some(errors) if !errors.is_empty() => bail!("{path} {parameters:?}: {errors:?}"),
            _ => Ok(answer["data"].take()),
        }
    }

    pub(crate) fn services(&self) -> Result<BTreeSet<String>> {
        let data = self.get("services", &[])?;
        Ok(data.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect())
    }

    pub(crate) fn operations(&self, service: &str) -> Result<BTreeSet<String>> {
        let data = self.get(&format!("services/{service}/operations"), &[])?;
        Ok(data.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// Every span of the traces of one instance of a service in which an operation has all these tags; of all its instances, where
    /// none is named.
    pub(crate) fn spans(
        &self,
        (service, instance): (&str, &str),
        operation: &str,
        tags: &[(&str, &str)],
    ) -> Result<Vec<Span>> {
        let tags: serde_json::Map<String, Value> =
            tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
        let tags = Value::Object(tags).to_string();
        let parameters = [
            ("service", service),
            ("operation", operation),
            ("tags", &tags),
            ("limit", "100000"),
            ("lookback", "1h"),
        ];
        let mut spans = all_spans(&self.get("traces", &parameters)?)?;
        spans.retain(|span| instance.is_empty() || span.instance == instance);
        Ok(spans)
    }

    /// What a search finds whose parameters are already as an address has them.
    pub(crate) fn search(&self, query: &str) -> Result<Vec<Span>> {
        all_spans(&self.get(&format!("traces?{query}"), &[])?)
    }

    /// The runs of one task of a service, and nothing else of their traces.
    pub(crate) fn runs(&self, of: (&str, &str), task: &str) -> Result<Vec<Span>> {
        let mut spans = self.spans(of, "task.run", &[("task.name", task)])?;
        spans.retain(|span| span.operation == "task.run" && span.tag("task.name").as_deref() == Some(task));
        Ok(spans)
    }
}

fn all_spans(traces: &Value) -> Result<Vec<Span>> {
    let mut spans = Vec::new();
    for trace in traces.as_array().context("traces")? {
        for span in trace["spans"].as_array().into_iter().flatten() {
            spans.push(read(span, &trace["processes"])?);
        }
    }
    Ok(spans)
}

fn read(span: &Value, processes: &Value) -> Result<Span> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pairs = |value: &Value| -> Vec<(String, Value)> {
        value.as_array().into_iter().flatten().map(|tag| (text(&tag["key"]), tag["value"].clone())).collect()
    };
    let process = &processes[span["processID"].as_str().context("a process")?];
    let instance = pairs(&process["tags"]).into_iter().find(|(key, _)| key == "service.instance.id");
    let (mut parent, mut links) = (None, Vec::new());
    for reference in span["references"].as_array().into_iter().flatten() {
        let id = text(&reference["spanID"]);
        match reference["refType"].as_str() {
            Some("CHILD_OF") => parent = Some(id),
            _ => links.push((text(&reference["traceID"]), id)),
        }
    }
    Ok(Span {
        trace: text(&span["traceID"]),
        id: text(&span["spanID"]),
        operation: text(&span["operationName"]),
        start: span["startTime"].as_u64().context("a start")?,
        duration: span["duration"].as_u64().context("a duration")?,
        instance: instance.map_or(String::new(), |(_, value)| text(&value)),
        parent,
        links,
        tags: pairs(&span["tags"]),
    })
}
