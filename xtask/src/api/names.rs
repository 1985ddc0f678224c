//! The public path of every item: the shortest of those by which a user reaches it.

use std::collections::{HashMap, VecDeque};

use rustdoc_types::{Crate, Id, Item, ItemEnum};

/// Where the items of a crate are reached.
#[derive(Default)]
pub struct Names {
    /// The one path that the listing uses.
    canonical: HashMap<Id, String>,
    /// The other paths of an item, which the listing shows as re-exports.
    pub aliases: Vec<(String, Id)>,
    /// Re-exports of items of other crates: the path, the source, and the item.
    pub foreign: Vec<(String, String, Option<Id>)>,
}

impl Names {
    /// Walks the public modules from the root, the shortest paths first.
    pub fn new(krate: &Crate) -> Self {
        let mut names = Self::default();
        let root = krate.index.get(&krate.root).and_then(|item| item.name.clone()).unwrap_or_default();
        names.canonical.insert(krate.root, root.clone());
        let mut open = VecDeque::from([(krate.root, root)]);
        while let Some((id, path)) = open.pop_front() {
            let mut members = Vec::new();
            collect(krate, &id, &mut members, &mut vec![id]);
            members.sort_by(|a, b| a.0.cmp(&b.0));
            for (name, member) in members {
                let path = format!("{path}::{name}");
                match member {
                    Member::Local(id) if names.canonical.contains_key(&id) => names.aliases.push((path, id)),
                    Member::Local(id) => {
                        names.canonical.insert(id, path.clone());
                        if matches!(krate.index.get(&id).map(|item| &item.inner), Some(ItemEnum::Module(_))) {
                            open.push_back((id, path));
                        }
                    }
                    Member::Foreign(source, id) => names.foreign.push((path, source, id)),
                }
            }
        }
        names
    }

    /// The public path of an item of this crate.
    pub fn of(&self, id: &Id) -> Option<&str> {
        self.canonical.get(id).map(String::as_str)
    }

    /// Every item with a public path.
    pub fn all(&self) -> impl Iterator<Item = (&Id, &str)> {
        self.canonical.iter().map(|(id, path)| (id, path.as_str()))
    }
}

enum Member {
    Local(Id),
    Foreign(String, Option<Id>),
}

/// The public members of a module or an enum, with re-exports and globs followed. `within` holds the modules on the
/// way, against globs in a circle.
fn collect(krate: &Crate, id: &Id, members: &mut Vec<(String, Member)>, within: &mut Vec<Id>) {
    let Some(item) = krate.index.get(id) else { return };
    let children: &[Id] = match &item.inner {
        ItemEnum::Module(module) => &module.items,
        ItemEnum::Enum(item) => &item.variants,
        _ => &[],
    };
    for child in children.iter().filter_map(|id| krate.index.get(id)) {
        match &child.inner {
            ItemEnum::Use(import) => match import.id {
                Some(id) if import.is_glob && krate.index.contains_key(&id) => {
                    if !within.contains(&id) {
                        within.push(id);
                        collect(krate, &id, members, within);
                    }
                }
                Some(id) if krate.index.contains_key(&id) => {
                    members.push((import.name.clone(), Member::Local(final_target(krate, id))));
                }
                id => {
                    let name = if import.is_glob { "*".to_owned() } else { import.name.clone() };
                    members.push((name, Member::Foreign(import.source.clone(), id)));
                }
            },
            _ => members.extend(named(child).map(|name| (name, Member::Local(child.id)))),
        }
    }
}

/// The item behind re-exports of re-exports.
fn final_target(krate: &Crate, id: Id) -> Id {
    match krate.index.get(&id).map(|item| &item.inner) {
        Some(ItemEnum::Use(import)) => import.id.map_or(id, |next| final_target(krate, next)),
        _ => id,
    }
}

fn named(item: &Item) -> Option<String> {
    item.name.clone()
}
