//! The command `api`: lists the public API of each published crate, one line an item, and compares the listing with
//! the file in `xtask/api/`. Foreign types in it need an entry in `xtask/api.toml`, and the methods of the types listed
//! there need an example.

mod examples;
mod foreign;
mod impls;
mod listing;
mod names;
mod render;
mod rustdoc;

#[cfg(test)]
mod tests;

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::Deserialize;
use similar::{ChangeTag, TextDiff};

use foreign::Foreign;
pub use rustdoc::run_as_rustdoc;

/// The configuration of the command, `xtask/api.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(rename = "crate")]
    crates: Vec<Published>,
}

/// A published crate.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Published {
    package: String,
    /// The crates whose types may appear in the public API.
    #[serde(default)]
    foreign: Vec<Foreign>,
    /// The types whose public methods need an example, by their public paths.
    #[serde(default)]
    examples: Vec<String>,
}

/// Compares the public API of each crate with its file, or writes the file with `bless`; returns the findings.
pub fn run(root: &Path, bless: bool) -> Result<Vec<String>> {
    let file = root.join("xtask/api.toml");
    let text = fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?;
    let config: Config =
        toml::from_str(&text).with_context(|| format!("failed to read {}", file.display()))?;
    let own: Vec<String> =
        config.crates.iter().map(|published| published.package.replace('-', "_")).collect();

    let mut findings = Vec::new();
    for published in &config.crates {
        let json = rustdoc::build(root, &published.package)?;
        let krate = rustdoc::parse(&json).with_context(|| format!("package {}", published.package))?;
        let listing = listing::list(&krate, &own);
        print_foreign(&published.package, &listing, &own);
        findings.extend(foreign::check(&published.package, &listing, &own, &published.foreign));
        findings.extend(examples::check(&krate, &published.examples));
        let text: String = listing.iter().flat_map(|line| [line.text.as_str(), "\n"]).collect();
        findings.extend(compare(root, &published.package, &text, bless)?);
    }
    Ok(findings)
}

fn print_foreign(package: &str, listing: &[listing::Line], own: &[String]) {
    let uses = foreign::uses(listing, own);
    println!("{package}: {} lines of public API, {} foreign crates", listing.len(), uses.len());
    for (name, paths) in uses {
        println!("  {name}: {}", paths.keys().copied().collect::<Vec<_>>().join(", "));
    }
}

/// Writes the listing, or returns a finding if it differs from the file.
fn compare(root: &Path, package: &str, listing: &str, bless: bool) -> Result<Option<String>> {
    let file = root.join(format!("xtask/api/{package}.txt"));
    if bless {
        fs::create_dir_all(root.join("xtask/api"))?;
        fs::write(&file, listing).with_context(|| format!("failed to write {}", file.display()))?;
        println!("wrote xtask/api/{package}.txt");
        return Ok(None);
    }
    let kept = if file.exists() { fs::read_to_string(&file)? } else { String::new() };
    if kept == listing {
        return Ok(None);
    }
    let difference = difference(&kept, listing);
    print!("{difference}");
    Ok(Some(format!(
        "the public API of {package} differs from xtask/api/{package}.txt in {} lines: if that is intended, run \
         `cargo run --manifest-path xtask/Cargo.toml -- api --bless` and commit the file",
        difference.lines().count()
    )))
}

/// The lines that were removed and added.
fn difference(kept: &str, listing: &str) -> String {
    let mut text = String::new();
    for change in TextDiff::from_lines(kept, listing).iter_all_changes() {
        let sign = match change.tag() {
            ChangeTag::Delete => '-',
            ChangeTag::Insert => '+',
            ChangeTag::Equal => continue,
        };
        text.push(sign);
        text.push_str(change.value().trim_end_matches('\n'));
        text.push('\n');
    }
    text
}
