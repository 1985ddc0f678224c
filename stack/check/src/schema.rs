//! Whether dashboards fit Grafana's published types. The schema is made from them by `stack/types/generate.mjs`.

use anyhow::{Context, Result, bail};
use jsonschema::{ValidationError, Validator, error::ValidationErrorKind};
use serde_json::Value;

use crate::dashboards;

const SCHEMA: &str = include_str!("../dashboard.schema.json");
const COMPOSE: &str = include_str!("../../../docker-compose.yml");

/// One misspelling each, in every place that has a type of its own.
const MISSPELLINGS: [(&str, &str); 13] = [
    (r#""graphTooltip": 1"#, r#""graphTooltips": 1"#),
    (r#""graphTooltip": 1"#, r#""graphTooltip": 7"#),
    (r#""legendFormat""#, r#""legendFormats""#),
    (r#""format": "heatmap""#, r#""format": "heat_map""#),
    (r#""reduceOptions""#, r#""reducerOptions""#),
    (r#""colorMode": "value""#, r#""colorMode": "values""#),
    (r#""displayMode": "list""#, r#""displayMode": "lists""#),
    (r#""fillOpacity": 5"#, r#""fillOpacities": 5"#),
    (r#""showHeader""#, r#""showHeaders""#),
    (r#""cellGap""#, r#""cellGaps""#),
    (r#""includeAll""#, r#""includeAlls""#),
    (r#""iconColor""#, r#""iconColour""#),
    (r#""type": "stat""#, r#""type": "stats""#),
];

/// Checks each dashboard, and that the schema rejects misspellings.
pub(crate) fn check() -> Result<()> {
    let schema: Value = serde_json::from_str(SCHEMA)?;
    let made_from = schema["$comment"].as_str().unwrap_or_default();
    let runs = COMPOSE.split_once("grafana/grafana:").and_then(|(_, rest)| rest.split_whitespace().next());
    let runs = runs.context("docker-compose.yml names no version of Grafana")?;
    if !made_from.contains(&format!("@grafana/schema {runs} ")) {
        bail!("docker-compose.yml runs Grafana {runs}, but the schema is another version's: {made_from}");
    }
    let schema = jsonschema::validator_for(&schema)?;
    for (file, dashboard) in dashboards::all() {
        if let Some(wrong) = first_error(&schema, &dashboard) {
            bail!("{file} does not fit Grafana's types: {wrong}");
        }
        if file == "overview.json" {
            rejects_misspellings(&schema, &serde_json::to_string_pretty(&dashboard)?)?;
        }
    }
    Ok(())
}

fn rejects_misspellings(schema: &Validator, text: &str) -> Result<()> {
    for (right, misspelt) in MISSPELLINGS {
        if !text.contains(right) {
            bail!("the overview has no {right} to misspell");
        }
        if schema.is_valid(&serde_json::from_str(&text.replace(right, misspelt))?) {
            bail!("the schema accepts {misspelt}");
        }
    }
    Ok(())
}

fn first_error(schema: &Validator, dashboard: &Value) -> Option<String> {
    let errors: Vec<_> = schema.iter_errors(dashboard).collect();
    innermost(&errors).map(|(_, text)| text)
}

/// The error that lies deepest. Of the alternatives for a panel, it is the one that has the panel's type.
fn innermost(errors: &[ValidationError<'_>]) -> Option<(usize, String)> {
    let described = errors.iter().map(|error| match error.kind() {
        ValidationErrorKind::AnyOf { context } => context.iter().filter_map(|errors| innermost(errors)).max(),
        _ => Some((error.instance_path().as_str().len(), format!("{}: {error}", error.instance_path()))),
    });
    described.flatten().max()
}
