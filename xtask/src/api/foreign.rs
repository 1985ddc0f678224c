//! The foreign crates of a public API: each is a promise to release a breaking version when that crate does.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::listing::Line;

/// The crates that every API may name.
const STANDARD: [&str; 5] = ["core", "alloc", "std", "proc_macro", "test"];

/// A crate whose types may appear.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Foreign {
    #[serde(rename = "crate")]
    pub name: String,
    pub reason: String,
}

/// The foreign paths by crate, without those that macros of other crates hide from users. Each comes with the first item that names it.
pub fn uses<'a>(listing: &'a [Line], own: &[String]) -> BTreeMap<&'a str, BTreeMap<&'a str, &'a str>> {
    let mut uses: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    for line in listing {
        for path in &line.foreign {
            let name = path.split("::").next().unwrap_or(path);
            let hidden = path.contains("::__private::");
            if !hidden && !STANDARD.contains(&name) && !own.iter().any(|own| own == name) {
                uses.entry(name).or_default().entry(path).or_insert(&line.text);
            }
        }
    }
    uses
}

/// Every crate that is not listed, and every entry that has no use.
pub fn check(package: &str, listing: &[Line], own: &[String], allowed: &[Foreign]) -> Vec<String> {
    let uses = uses(listing, own);
    let listed: BTreeSet<&str> = allowed.iter().map(|entry| entry.name.as_str()).collect();
    let mut findings = Vec::new();
    for (name, paths) in uses.iter().filter(|(name, _)| !listed.contains(*name)) {
        for (path, item) in paths {
            findings.push(format!(
                "{package}: `{path}` of the crate {name} is part of the public API, in `{item}`: remove it from the \
                 signature, or list {name} under `foreign` in xtask/api.toml with a reason"
            ));
        }
    }
    for entry in allowed {
        if !uses.contains_key(entry.name.as_str()) {
            findings.push(format!(
                "{package}: the public API names nothing of {}: remove it from xtask/api.toml",
                entry.name
            ));
        }
        if entry.reason.trim().is_empty() {
            findings.push(format!("{package}: foreign crate {} has no reason: write one", entry.name));
        }
    }
    findings
}
