//! From a path as it is written to the file that defines the item, through renames, re-exports and globs.

use std::collections::BTreeSet;

use super::tree::{Def, Import, Kind, ModuleId, Tree, Written};

/// What a path leads to. `used` is the number of its segments up to the item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Module(ModuleId),
    Item { file: String, kind: Kind, used: usize },
}

/// The names that are being looked up, against imports that lead to themselves.
type Seen = BTreeSet<(ModuleId, String)>;

impl Tree {
    /// What `path` leads to from the code of `module`; empty for other crates, local variables and the prelude.
    pub fn resolve(&self, module: ModuleId, path: &Written) -> Vec<Target> {
        self.follow(module, path, true, &mut Seen::new())
    }

    /// The traits that the glob `import` brings into `module`, each with its file: a trait's methods are used without
    /// its name.
    pub fn traits_of_glob(&self, module: ModuleId, import: &Import) -> BTreeSet<(String, String)> {
        let mut traits = BTreeSet::new();
        let mut open: Vec<Target> = self.resolve(module, &import.path);
        let mut seen = BTreeSet::new();
        while let Some(target) = open.pop() {
            let Target::Module(id) = target else { continue };
            if !seen.insert(id) {
                continue;
            }
            for name in self.modules[id].names.keys() {
                for found in self.look_up(id, name, false, &mut Seen::new()) {
                    if let Target::Item { file, kind: Kind::Trait, .. } = found {
                        traits.insert((file, name.clone()));
                    }
                }
            }
            open.extend(self.modules[id].globs.iter().flat_map(|glob| self.resolve(id, &glob.path)));
        }
        traits
    }

    /// Whether `name` is bound in `module` by imports that are edges themselves, and leads to items alone.
    pub fn is_counted_import(&self, module: ModuleId, name: &str) -> bool {
        let scope = &self.modules[module];
        let mut defs = scope.names.get(name).into_iter().chain(scope.inner.get(name)).flatten().peekable();
        defs.peek().is_some()
            && defs.all(|def| matches!(def, Def::Import(import) if !import.transparent))
            && !self
                .look_up(module, name, true, &mut Seen::new())
                .iter()
                .any(|target| matches!(target, Target::Module(_)))
    }

    /// The one file that defines the macro `name` of the crate of `module`, for macros in textual scope.
    pub fn textual_macro(&self, module: ModuleId, name: &str) -> Option<&str> {
        let of_crate = self.modules[module].crate_index;
        let modules = self.modules.iter().filter(|other| other.crate_index == of_crate);
        let mut files =
            modules.flat_map(|other| other.names.get(name)).flatten().filter_map(|def| match def {
                Def::Item { file, kind: Kind::Macro } => Some(file.as_str()),
                _ => None,
            });
        let file = files.next()?;
        files.next().is_none().then_some(file)
    }

    fn follow(&self, module: ModuleId, path: &Written, own: bool, seen: &mut Seen) -> Vec<Target> {
        let Some((head, rest)) = path.segments.split_first() else { return Vec::new() };
        let mut targets = match head.as_str() {
            _ if path.global => self.crate_root(module, head),
            "crate" => vec![Target::Module(self.root_of(module))],
            "self" => vec![Target::Module(module)],
            "super" => self.modules[module].parent.map(Target::Module).into_iter().collect(),
            head => {
                let found = self.look_up(module, head, own, seen);
                if found.is_empty() { self.crate_root(module, head) } else { found }
            }
        };
        for (number, segment) in rest.iter().enumerate() {
            targets = self.step(&targets, segment, number + 2, seen);
        }
        targets
    }

    /// What `segment` is in the targets so far.
    fn step(&self, targets: &[Target], segment: &str, used: usize, seen: &mut Seen) -> Vec<Target> {
        let modules: Vec<ModuleId> = targets
            .iter()
            .filter_map(|target| match target {
                Target::Module(id) => Some(*id),
                Target::Item { .. } => None,
            })
            .collect();
        if modules.is_empty() {
            // A variant, an associated item: it is in the file of its type.
            return targets.to_vec();
        }
        let mut next = Vec::new();
        for id in modules {
            if segment == "super" {
                next.extend(self.modules[id].parent.map(Target::Module));
                continue;
            }
            let mut found = self.look_up(id, segment, false, seen);
            if found.is_empty() {
                // A macro call makes items that cannot be seen here.
                let file = self.modules[id].file.clone();
                found.push(Target::Item { file, kind: Kind::Other, used });
            }
            for target in &mut found {
                if let Target::Item { used: so_far, .. } = target {
                    *so_far = used;
                }
            }
            next.extend(found);
        }
        next
    }

    /// What `name` stands for in `module`. `own`: the code of the module itself asks, so imports in functions count.
    fn look_up(&self, module: ModuleId, name: &str, own: bool, seen: &mut Seen) -> Vec<Target> {
        let scope = &self.modules[module];
        if !seen.insert((module, name.to_owned())) {
            // `pub use layer::layer;`: the first `layer` is the module, not the import itself.
            let child = scope.names.get(name).into_iter().flatten().filter_map(|def| match def {
                Def::Module(id) => Some(Target::Module(*id)),
                _ => None,
            });
            return child.collect();
        }
        let inner = scope.inner.get(name).filter(|_| own);
        let mut found = Vec::new();
        for def in scope.names.get(name).into_iter().chain(inner).flatten() {
            match def {
                Def::Item { file, kind } => {
                    found.push(Target::Item { file: file.clone(), kind: kind.clone(), used: 1 });
                }
                Def::Module(id) => found.push(Target::Module(*id)),
                Def::Import(import) => found.extend(self.follow(module, &import.path, own, seen)),
            }
        }
        if found.is_empty() {
            for glob in &scope.globs {
                for target in self.follow(module, &glob.path, own, seen) {
                    match target {
                        Target::Module(id) => found.extend(self.look_up(id, name, false, seen)),
                        Target::Item { file, kind: Kind::Enum(variants), .. } if variants.contains(name) => {
                            found.push(Target::Item { file, kind: Kind::Other, used: 1 });
                        }
                        Target::Item { .. } => {}
                    }
                }
            }
        }
        seen.remove(&(module, name.to_owned()));
        for target in &mut found {
            if let Target::Item { used, .. } = target {
                *used = 1;
            }
        }
        found
    }

    /// The root of the crate `name`, if the crate of `module` sees it.
    fn crate_root(&self, module: ModuleId, name: &str) -> Vec<Target> {
        let before = &self.roots[..self.modules[module].crate_index.min(self.roots.len())];
        before.iter().filter(|(other, _)| other == name).map(|(_, id)| Target::Module(*id)).collect()
    }
}
