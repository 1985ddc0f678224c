//! The command `imports`: which file imports from which, and whether each import goes down.
//!
//! ```text
//! sources ──> tree (modules, names) ──> resolve ──> paths (edges) ──> graph (circles)
//!                                                        └─────────> rooms (findings)
//! ```

mod cfg;
mod graph;
mod paths;
mod resolve;
mod rooms;
mod tree;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use graph::Graph;
use rooms::Rooms;
use tree::Tree;

/// The texts of the Rust files by their path from the checkout.
pub type Sources = BTreeMap<String, String>;

/// Prints the figures of the imports and returns what violates `xtask/rooms.toml`.
pub fn run(root: &Path) -> Result<Vec<String>> {
    let file = root.join("xtask/rooms.toml");
    let text = fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?;
    let rooms = Rooms::parse(&text).with_context(|| format!("failed to read {}", file.display()))?;

    let mut sources = Sources::new();
    for package in &rooms.crates {
        read_folder(root, &root.join(&package.src), &mut sources)?;
    }
    let (graph, tree, findings) = check(&sources, &rooms)?;
    print_figures(&graph, &tree, &rooms, &sources);
    Ok(findings)
}

/// The imports of `sources`, and what violates the order of `rooms`.
fn check(sources: &Sources, rooms: &Rooms) -> Result<(Graph, Tree, Vec<String>)> {
    let mut tree = Tree::build(sources, &rooms.crates)?;
    let graph = paths::edges(&mut tree);
    let mut findings: Vec<String> = sources
        .keys()
        .filter(|file| !tree.files.contains_key(*file) && !tree.test_files.contains(*file))
        .map(|file| format!("{file} belongs to no module: declare it with `mod`, or delete the file"))
        .collect();
    findings.extend(rooms.check(&tree, &graph));
    Ok((graph, tree, findings))
}

fn print_figures(graph: &Graph, tree: &Tree, rooms: &Rooms, sources: &Sources) {
    println!("{} files, {} edges", tree.files.len(), graph.edge_count());
    println!(
        "{} pairs of files import upwards or sideways, allowed ones included",
        rooms.upward(graph).len()
    );
    let circles = graph.circles();
    println!("{} circles of imports", circles.len());
    for circle in &circles {
        println!("  {} files: {}", circle.len(), circle.join(", "));
        for (from, to, names) in graph.inside(circle) {
            println!("    {from} -> {to}: {}", names.join(", "));
        }
    }
    for package in &rooms.crates {
        let folder = format!("{}/", package.src.trim_end_matches('/'));
        let mut lengths: Vec<(usize, &str)> = tree
            .files
            .keys()
            .filter(|file| file.starts_with(&folder))
            .map(|file| (sources[file].lines().count(), file.as_str()))
            .collect();
        lengths.sort_unstable();
        if let (Some((lines, file)), Some((median, _))) = (lengths.last(), lengths.get(lengths.len() / 2)) {
            println!(
                "{}: {} files, largest {file} ({lines} lines), median {median} lines",
                package.name,
                lengths.len()
            );
        }
    }
}

/// Adds every Rust file under `folder`, by its path from `root`.
fn read_folder(root: &Path, folder: &Path, sources: &mut Sources) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("failed to read {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            read_folder(root, &path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root)?.to_string_lossy().replace('\\', "/");
            sources.insert(name, fs::read_to_string(&path)?);
        }
    }
    Ok(())
}
