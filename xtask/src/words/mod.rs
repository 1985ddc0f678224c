//! The command `words`: counts words and phrases that `xtask/words.toml` replaces by plainer ones, sentences that are too long,
//! and docs that begin with a clause, in doc comments, comments, messages and Markdown.
//!
//! A file that the configuration lists under `not_yet` is counted. Any other must be clean.

mod prose;
mod rules;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use rules::{Counts, Rules, covers};

/// Prints the counts and returns the places that break a rule in a file that must be clean.
pub fn run(root: &Path) -> Result<Vec<String>> {
    let file = root.join("xtask/words.toml");
    let text = fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?;
    let rules = Rules::parse(&text).with_context(|| format!("failed to read {}", file.display()))?;

    let mut texts = BTreeMap::new();
    for entry in &rules.read {
        let before = texts.len();
        read(root, &root.join(entry), &mut texts)?;
        ensure!(texts.len() > before, "{entry} of xtask/words.toml holds no text: correct the entry");
    }
    let (counts, findings) = check(&rules, &texts);
    let clean = texts.keys().filter(|file| !rules.is_not_yet(file)).count();
    println!("{} of {} files must be clean", clean, texts.len());
    println!("{:>6} {:>8}  rule", "clean", "not yet");
    for rule in rules.names() {
        let [clean, not_yet] = counts.of(&rule);
        println!("{clean:>6} {not_yet:>8}  {rule}");
    }
    Ok(findings)
}

/// The counts, and the places in files that must be clean. An entry of `not_yet` without such a place is a finding too.
fn check(rules: &Rules, texts: &BTreeMap<String, String>) -> (Counts, Vec<String>) {
    let mut counts = Counts::default();
    let mut findings = Vec::new();
    let mut needed = vec![false; rules.not_yet.len()];
    for (file, text) in texts {
        let is_not_yet = rules.is_not_yet(file);
        for place in rules.check(file, text) {
            counts.add(&place.rule, is_not_yet);
            if is_not_yet {
                for (entry, needed) in rules.not_yet.iter().zip(&mut needed) {
                    *needed |= covers(entry, file);
                }
            } else {
                findings.push(format!("{file}:{}: {}", place.line, place.advice));
            }
        }
    }
    for (entry, _) in rules.not_yet.iter().zip(needed).filter(|(_, needed)| !needed) {
        findings.push(format!("{entry} is clean: remove it from `not_yet` in xtask/words.toml"));
    }
    (counts, findings)
}

/// Reads the Rust and Markdown files at `path` and below it.
fn read(root: &Path, path: &Path, texts: &mut BTreeMap<String, String>) -> Result<()> {
    let failed = || format!("failed to read {}", path.display());
    if path.is_dir() {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path).with_context(failed)? {
            entries.push(entry?.path());
        }
        return entries.iter().try_for_each(|entry| read(root, entry, texts));
    }
    if path.extension().is_some_and(|end| end == "rs" || end == "md") {
        let name: PathBuf = path.strip_prefix(root).unwrap_or(path).to_owned();
        texts.insert(name.to_string_lossy().into_owned(), fs::read_to_string(path).with_context(failed)?);
    }
    Ok(())
}
