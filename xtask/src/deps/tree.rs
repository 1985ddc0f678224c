//! Which versions of which crates a build takes, as `cargo tree` resolves them.
//!
//! The graph of `cargo metadata` is no substitute: it switches on the features that dev-dependencies ask for.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context, Result, bail, ensure};

/// A version of a crate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub name: String,
    pub version: String,
}

/// The features of a build.
#[derive(Clone, Copy, Debug)]
pub enum Features<'a> {
    Default,
    All,
    /// These without the default ones; empty for none.
    Only(&'a str),
}

/// The platforms of a build.
#[derive(Clone, Copy, Debug)]
pub enum Platforms {
    Host,
    All,
}

/// The normal and build dependencies of `package`, and the package itself.
pub fn versions(
    root: &Path,
    package: &str,
    features: Features<'_>,
    platforms: Platforms,
) -> Result<BTreeSet<Version>> {
    let mut command = crate::cargo();
    command.args(["tree", "--locked", "--quiet", "--package", package, "--edges", "normal,build"]);
    command.args(["--prefix", "none", "--format", "{p}", "--manifest-path"]).arg(root.join("Cargo.toml"));
    match features {
        Features::Default => {}
        Features::All => drop(command.arg("--all-features")),
        Features::Only(names) => drop(command.args(["--no-default-features", "--features", names])),
    }
    if let Platforms::All = platforms {
        command.args(["--target", "all"]);
    }
    let output = command.output().context("failed to start cargo tree")?;
    ensure!(
        output.status.success(),
        "cargo tree of {package} failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// The crates of the lines `name v1.2.3 (...)`.
pub fn parse(text: &str) -> Result<BTreeSet<Version>> {
    let mut versions = BTreeSet::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut words = line.split_whitespace();
        match (words.next(), words.next().and_then(|word| word.strip_prefix('v'))) {
            (Some(name), Some(version)) => {
                versions.insert(Version { name: name.to_owned(), version: version.to_owned() });
            }
            _ if line.starts_with('[') => {}
            _ => bail!("cargo tree wrote a line that is no crate: {line}"),
        }
    }
    Ok(versions)
}
