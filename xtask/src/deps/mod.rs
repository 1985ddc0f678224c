//! The command `deps`: the dependency tree of the published crates against the policy in `deny.toml`.
//!
//! The tree is that of users: normal and build dependencies, without those of the tests.

mod policy;
mod tree;

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result};
use cargo_metadata::{CargoOpt, Metadata, MetadataCommand, Package};

use policy::{Dependency, Policy, Source};
use tree::{Features, Platforms, Version};

/// Prints the size of the dependency tree and returns what violates `deny.toml`.
pub fn run(root: &Path) -> Result<Vec<String>> {
    let file = root.join("deny.toml");
    let text = fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?;
    let policy = Policy::parse(&text).with_context(|| format!("failed to read {}", file.display()))?;
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .features(CargoOpt::AllFeatures)
        .other_options(["--locked".to_owned()])
        .exec()?;

    let mut versions = BTreeSet::new();
    let published = published(&metadata);
    for package in &published {
        versions.extend(tree::versions(root, &package.name, Features::All, Platforms::All)?);
    }
    let dependencies = dependencies(&metadata, &versions)?;
    println!("{} crates with all features on all platforms", dependencies.len());
    for (name, versions) in policy::duplicates(&dependencies) {
        println!("  several versions of {name}: {}", versions.into_iter().collect::<Vec<_>>().join(", "));
    }
    for package in &published {
        print_sizes(root, package)?;
    }
    Ok(policy.check(&dependencies))
}

/// The crates of the workspace that are published.
fn published(metadata: &Metadata) -> Vec<&Package> {
    let mut packages = metadata.workspace_packages();
    packages.retain(|package| package.publish.as_ref().is_none_or(|registries| !registries.is_empty()));
    packages
}

/// What cargo says of the crates in the tree.
fn dependencies(metadata: &Metadata, versions: &BTreeSet<Version>) -> Result<Vec<Dependency>> {
    let of = |version: &Version| -> Result<Dependency> {
        let package = metadata
            .packages
            .iter()
            .find(|package| {
                package.name.as_str() == version.name && package.version.to_string() == version.version
            })
            .with_context(|| format!("cargo metadata has no {} {}", version.name, version.version))?;
        let source = match &package.source {
            Some(source) if source.is_crates_io() => Source::Registry,
            Some(source) => Source::Other(source.repr.clone()),
            None if metadata.workspace_members.contains(&package.id) => Source::Workspace,
            None => Source::Other(package.manifest_path.to_string()),
        };
        Ok(Dependency {
            name: version.name.clone(),
            version: version.version.clone(),
            license: package.license.clone(),
            source,
        })
    };
    versions.iter().map(of).collect()
}

/// Prints how many crates each set of features brings on this platform.
fn print_sizes(root: &Path, package: &Package) -> Result<()> {
    println!("{}: crates on this platform", package.name);
    let mut sets = vec![("default", Features::Default), ("none", Features::Only(""))];
    let named = package.features.keys().filter(|feature| *feature != "default");
    sets.extend(named.map(|feature| (feature.as_str(), Features::Only(feature))));
    sets.push(("all", Features::All));
    for (name, features) in sets {
        let versions = tree::versions(root, &package.name, features, Platforms::Host)?;
        let others = versions.iter().filter(|version| version.name != package.name.as_str()).count();
        println!("  {name:20} {others:4}");
    }
    Ok(())
}
