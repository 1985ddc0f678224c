//! The part of `deny.toml` that `deps` checks, in the format of cargo-deny: licences, denied crates, duplicates and
//! sources.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use cargo_metadata::semver::{Version, VersionReq};
use serde::Deserialize;
use spdx::{Expression, Licensee, ParseMode};

/// One version of a crate in the tree.
#[derive(Clone, Debug)]
pub struct Dependency {
    pub name: String,
    pub version: String,
    pub license: Option<String>,
    pub source: Source,
}

/// Where a crate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Workspace,
    Registry,
    Other(String),
}

#[derive(Deserialize)]
struct File {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    #[serde(default)]
    deny: Vec<Entry>,
    #[serde(default)]
    skip: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "crate")]
    spec: String,
    #[serde(default)]
    reason: String,
}

/// A crate, or some of its versions: `name`, `name@1.2.3` for one version, `name:1.2` for a range.
struct Spec {
    text: String,
    name: String,
    versions: VersionReq,
    reason: String,
}

pub struct Policy {
    allowed: Vec<Licensee>,
    denied: Vec<Spec>,
    skipped: Vec<Spec>,
}

impl Policy {
    pub fn parse(text: &str) -> Result<Self> {
        let file: File = toml::from_str(text)?;
        let licensee = |text: &String| Licensee::parse(text).with_context(|| format!("licence `{text}`"));
        Ok(Self {
            allowed: file.licenses.allow.iter().map(licensee).collect::<Result<_>>()?,
            denied: file.bans.deny.iter().map(Spec::parse).collect::<Result<_>>()?,
            skipped: file.bans.skip.iter().map(Spec::parse).collect::<Result<_>>()?,
        })
    }

    /// Every violation, and every `skip` without use.
    pub fn check(&self, dependencies: &[Dependency]) -> Vec<String> {
        let mut findings = Vec::new();
        for dependency in dependencies {
            let name = format!("{} {}", dependency.name, dependency.version);
            findings.extend(self.license_finding(&name, dependency.license.as_deref()));
            if let Source::Other(source) = &dependency.source {
                findings.push(format!("{name} comes from {source}: depend on a version from the registry"));
            }
            if let Some(spec) = self.denied.iter().find(|spec| spec.fits(dependency)) {
                findings.push(format!(
                    "{name} is denied by `{}` in bans.deny of deny.toml: `cargo tree -i {}` shows who brings it",
                    spec.text, dependency.name
                ));
            }
        }
        self.check_duplicates(dependencies, &mut findings);
        findings
    }

    fn license_finding(&self, name: &str, license: Option<&str>) -> Option<String> {
        let Some(text) = license else {
            return Some(format!("{name} states no licence: replace it"));
        };
        match Expression::parse_mode(text, ParseMode::LAX) {
            Err(error) => Some(format!(
                "{name} states the licence `{text}`, which is no SPDX expression: {}",
                error.reason
            )),
            Ok(expression) => {
                let allowed =
                    expression.evaluate(|required| self.allowed.iter().any(|held| held.satisfies(required)));
                (!allowed).then(|| {
                    format!(
                        "{name} has the licence `{text}`, which licenses.allow of deny.toml does not cover: replace the \
                         crate, or add the licence after review"
                    )
                })
            }
        }
    }

    fn check_duplicates(&self, dependencies: &[Dependency], findings: &mut Vec<String>) {
        let duplicates = duplicates(dependencies);
        let skipped = |dependency: &&Dependency| !self.skipped.iter().any(|spec| spec.fits(dependency));
        let left: Vec<Dependency> = dependencies.iter().filter(skipped).cloned().collect();
        for (name, versions) in self::duplicates(&left) {
            findings.push(format!(
                "{name} is in the tree in the versions {}: update who brings the older one (`cargo tree -i`), or list it \
                 under bans.skip in deny.toml with a reason",
                versions.into_iter().collect::<Vec<_>>().join(", ")
            ));
        }
        for spec in &self.skipped {
            let used = dependencies.iter().any(|d| duplicates.contains_key(d.name.as_str()) && spec.fits(d));
            if !used {
                findings
                    .push(format!("`{}` in bans.skip of deny.toml is no duplicate: remove it", spec.text));
            }
            if spec.reason.trim().is_empty() {
                findings.push(format!("`{}` in bans.skip of deny.toml has no reason: write one", spec.text));
            }
        }
    }
}

impl Spec {
    fn parse(entry: &Entry) -> Result<Self> {
        let text = entry.spec.clone();
        let (name, versions) = match (text.split_once('@'), text.split_once(':')) {
            (Some((name, version)), _) => (name, format!("={version}")),
            (None, Some((name, versions))) => (name, versions.to_owned()),
            (None, None) => (text.as_str(), "*".to_owned()),
        };
        let versions = VersionReq::parse(&versions).with_context(|| format!("crate `{text}`"))?;
        Ok(Self { name: name.to_owned(), versions, reason: entry.reason.clone(), text })
    }

    fn fits(&self, dependency: &Dependency) -> bool {
        self.name == dependency.name
            && (self.versions == VersionReq::STAR
                || Version::parse(&dependency.version).is_ok_and(|version| self.versions.matches(&version)))
    }
}

/// The crates in the tree in several versions.
pub fn duplicates(dependencies: &[Dependency]) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for dependency in dependencies {
        versions.entry(&dependency.name).or_default().insert(&dependency.version);
    }
    versions.retain(|_, versions| versions.len() > 1);
    versions
}
