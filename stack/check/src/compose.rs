//! What docker-compose.yml promises: no port beyond loopback, no password, each image by its version.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

const SERVICES: [&str; 5] = ["bot", "collector", "grafana", "jaeger", "prometheus"];

/// Checks the output of `docker compose config --format json`.
pub(crate) fn check(config: &str) -> Result<()> {
    let config: Value = serde_json::from_str(config)?;
    let services = config["services"].as_object().context("no services")?;
    let mut names: Vec<_> = services.keys().map(String::as_str).collect();
    names.sort_unstable();
    ensure!(names == SERVICES, "the services are {names:?}");
    for (name, service) in services {
        for port in service["ports"].as_array().into_iter().flatten() {
            ensure!(port["host_ip"] == "127.0.0.1", "{name} listens beyond loopback: {port}");
        }
        for key in service["environment"].as_object().into_iter().flat_map(|variables| variables.keys()) {
            ensure!(!key.contains("PASSWORD"), "{name} has a password: {key}");
        }
        if service["build"].is_null() {
            let image = service["image"].as_str().context("no image")?;
            ensure!(is_pinned(image), "the image of {name} has no full version: {image}");
        }
    }
    println!("docker-compose.yml: {} services, nothing beyond loopback, no passwords", services.len());
    Ok(())
}

/// Whether the tag is a version of three numbers.
fn is_pinned(image: &str) -> bool {
    let tag = image.rsplit_once(':').map_or("", |(_, tag)| tag);
    let numbers: Vec<_> = tag.strip_prefix('v').unwrap_or(tag).split('.').collect();
    numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u32>().is_ok())
}
