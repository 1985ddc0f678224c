//! The order of the rooms, as `xtask/rooms.toml` lists it, and what violates it.

use std::collections::BTreeSet;

use anyhow::Result;
use serde::Deserialize;

use super::{
    graph::{Graph, Names},
    tree::Tree,
};

/// The configuration of the command.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rooms {
    /// The crates to read, each after those that it uses.
    pub crates: Vec<Package>,
    /// The levels from bottom to top.
    pub level: Vec<Level>,
    /// Imports that go up all the same.
    #[serde(default)]
    pub allow: Vec<Allow>,
    /// Circles of imports that stay.
    #[serde(default)]
    pub circle: Vec<Circle>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// The name in paths: underscores, no hyphens.
    pub name: String,
    /// The folder of `lib.rs`, from the checkout.
    pub src: String,
}

/// Rooms that do not import each other.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Level {
    pub rooms: Vec<Room>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Room {
    pub name: String,
    /// Files, and folders with a `/` at the end. The longest entry that fits a file decides.
    pub files: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    pub from: String,
    pub to: String,
    pub reason: String,
}

/// Files that may import each other in a circle.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Circle {
    pub files: Vec<String>,
    pub reason: String,
}

/// Where a file belongs.
#[derive(Clone, Copy)]
struct Place<'a> {
    level: usize,
    room: &'a str,
}

impl Rooms {
    pub fn parse(text: &str) -> Result<Self> {
        Ok(toml::from_str(text)?)
    }

    /// The pairs of files of which the first imports from the second, which is not in a lower room.
    pub fn upward<'a>(&self, graph: &'a Graph) -> Vec<(&'a str, &'a str, &'a Names)> {
        let mut upward = Vec::new();
        for (from, targets) in &graph.edges {
            for (to, names) in targets {
                let (Some(here), Some(there)) = (self.place(from), self.place(to)) else { continue };
                if here.room != there.room && there.level >= here.level {
                    upward.push((from.as_str(), to.as_str(), names));
                }
            }
        }
        upward
    }

    /// Every violation, and every entry of the configuration that has no use.
    pub fn check(&self, tree: &Tree, graph: &Graph) -> Vec<String> {
        let mut findings = Vec::new();
        for file in tree.files.keys().filter(|file| self.place(file).is_none()) {
            findings.push(format!("{file} belongs to no room: add it to a room in xtask/rooms.toml"));
        }
        let mut names = BTreeSet::new();
        for room in self.level.iter().flat_map(|level| &level.rooms) {
            if !names.insert(&room.name) {
                findings.push(format!("two rooms are named `{}` in xtask/rooms.toml: rename one", room.name));
            }
            for entry in room.files.iter().filter(|entry| !tree.files.keys().any(|file| fits(entry, file))) {
                findings.push(format!(
                    "room `{}`: no file fits `{entry}`; remove it from xtask/rooms.toml",
                    room.name
                ));
            }
        }
        self.check_edges(graph, &mut findings);
        self.check_circles(graph, &mut findings);
        findings
    }

    /// A circle passes if one entry lists all its files; an entry passes if all its files are in one circle.
    fn check_circles(&self, graph: &Graph, findings: &mut Vec<String>) {
        let circles = graph.circles();
        for circle in &circles {
            let listed = self
                .circle
                .iter()
                .any(|entry| circle.iter().all(|file| entry.files.iter().any(|of| of == file)));
            if !listed {
                findings.push(format!(
                    "a new circle of {} files: {}. Cut one of its imports, which are listed above. If it must stay, list \
                     all its files in one `circle` of xtask/rooms.toml",
                    circle.len(),
                    circle.join(", ")
                ));
            }
        }
        for entry in &self.circle {
            let in_one = |circle: &Vec<&str>| entry.files.iter().all(|file| circle.contains(&file.as_str()));
            if !circles.iter().any(in_one) {
                findings.push(format!(
                    "the files {} of a `circle` in xtask/rooms.toml are not all in one circle: remove those that are in none",
                    entry.files.join(", ")
                ));
            }
            if entry.reason.trim().is_empty() {
                findings.push(format!("the circle of {} has no reason: write one", entry.files.join(", ")));
            }
        }
    }

    fn check_edges(&self, graph: &Graph, findings: &mut Vec<String>) {
        let mut used = vec![false; self.allow.len()];
        for (from, to, names) in self.upward(graph) {
            let entry = self.allow.iter().position(|entry| fits(&entry.from, from) && fits(&entry.to, to));
            if let Some(entry) = entry {
                used[entry] = true;
                continue;
            }
            let (Some(here), Some(there)) = (self.place(from), self.place(to)) else { continue };
            let relation = if there.level == here.level { "beside" } else { "above" };
            for (name, line) in names {
                findings.push(format!(
                    "{from}:{line} imports `{name}` from {to}, but room `{}` is {relation} room `{}`: move the item to a \
                     lower room, or pass it in from above. If it must stay, add it to `allow` in xtask/rooms.toml",
                    there.room, here.room
                ));
            }
        }
        for (entry, used) in self.allow.iter().zip(used) {
            if !used {
                findings.push(format!(
                    "allowed import {} -> {} ({}) does not occur: remove it from xtask/rooms.toml",
                    entry.from, entry.to, entry.reason
                ));
            }
            if entry.reason.trim().is_empty() {
                findings
                    .push(format!("allowed import {} -> {} has no reason: write one", entry.from, entry.to));
            }
        }
    }

    fn place(&self, file: &str) -> Option<Place<'_>> {
        let mut best: Option<(usize, Place<'_>)> = None;
        for (level, rooms) in self.level.iter().enumerate() {
            for room in &rooms.rooms {
                for entry in room.files.iter().filter(|entry| fits(entry, file)) {
                    if best.is_none_or(|(length, _)| entry.len() > length) {
                        best = Some((entry.len(), Place { level, room: &room.name }));
                    }
                }
            }
        }
        best.map(|(_, place)| place)
    }
}

/// Whether `file` is `entry`, or in the folder `entry`.
fn fits(entry: &str, file: &str) -> bool {
    file == entry || (entry.ends_with('/') && file.starts_with(entry))
}
