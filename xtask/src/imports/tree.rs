//! The modules of the crates, each with the names that it declares and imports. Test modules are left out; their files
//! are listed apart.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use syn::{Attribute, File, Item, ItemMod, ItemUse, UseTree, Visibility};

use super::{
    Sources,
    cfg::{is_test_only, path_attribute},
    rooms::Package,
};

pub type ModuleId = usize;

/// A path as it is written: `segments` without generics, `global` with a leading `::`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub global: bool,
    pub segments: Vec<String>,
    pub line: usize,
}

/// One leaf of a `use` tree.
#[derive(Clone, Debug)]
pub struct Import {
    pub path: Written,
    /// The name that the import binds; `None` for a glob.
    pub alias: Option<String>,
    /// A re-export of a facade: no edge, and its users import from the file that defines the item.
    pub transparent: bool,
}

/// What a name of a module stands for.
#[derive(Clone, Debug)]
pub enum Def {
    Item { file: String, kind: Kind },
    Module(ModuleId),
    Import(Import),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Trait,
    Enum(BTreeSet<String>),
    Macro,
    Other,
}

#[derive(Debug)]
pub struct Module {
    pub crate_index: usize,
    pub parent: Option<ModuleId>,
    pub file: String,
    pub names: BTreeMap<String, Vec<Def>>,
    pub globs: Vec<Import>,
    /// The names that `use` declarations inside functions bind: seen by the code of this module alone.
    pub inner: BTreeMap<String, Vec<Def>>,
}

/// All modules of the crates.
#[derive(Default)]
pub struct Tree {
    pub modules: Vec<Module>,
    pub files: BTreeMap<String, (ModuleId, File)>,
    pub test_files: BTreeSet<String>,
    /// The crates with their root modules. A crate sees those before it.
    pub roots: Vec<(String, ModuleId)>,
}

impl Tree {
    /// Reads the crates from their `lib.rs` or `main.rs` on.
    pub fn build(sources: &Sources, crates: &[Package]) -> Result<Self> {
        let mut tree = Self::default();
        for (crate_index, package) in crates.iter().enumerate() {
            let candidates =
                ["lib.rs", "main.rs"].map(|name| format!("{}/{name}", package.src.trim_end_matches('/')));
            let Some(root) = candidates.into_iter().find(|file| sources.contains_key(file)) else {
                bail!("crate `{}` has neither lib.rs nor main.rs in {}", package.name, package.src);
            };
            let id = tree.add_module(crate_index, None, &root);
            tree.roots.push((package.name.clone(), id));
            tree.read_file(sources, id, &root)?;
        }
        Ok(tree)
    }

    fn add_module(&mut self, crate_index: usize, parent: Option<ModuleId>, file: &str) -> ModuleId {
        self.modules.push(Module {
            crate_index,
            parent,
            file: file.to_owned(),
            names: BTreeMap::new(),
            globs: Vec::new(),
            inner: BTreeMap::new(),
        });
        self.modules.len() - 1
    }

    fn read_file(&mut self, sources: &Sources, id: ModuleId, file: &str) -> Result<()> {
        let parsed = syn::parse_file(&sources[file]).with_context(|| format!("failed to parse {file}"))?;
        self.read_items(sources, id, &parsed.items, &folder_of(file), is_facade(file, &parsed))?;
        self.files.insert(file.to_owned(), (id, parsed));
        Ok(())
    }

    fn read_items(
        &mut self,
        sources: &Sources,
        id: ModuleId,
        items: &[Item],
        folder: &str,
        facade: bool,
    ) -> Result<()> {
        for item in items {
            match item {
                Item::Mod(module) => self.read_module(sources, id, module, folder, facade)?,
                item if is_test_only(attributes(item)) => {}
                Item::Use(item) => {
                    for import in imports(item, facade) {
                        self.bind(id, import);
                    }
                }
                Item::Macro(item) => {
                    if let Some(name) = &item.ident {
                        let exported = item.attrs.iter().any(|a| a.path().is_ident("macro_export"));
                        let home = if exported { self.root_of(id) } else { id };
                        let file = self.modules[id].file.clone();
                        self.declare(home, &name.to_string(), Def::Item { file, kind: Kind::Macro });
                    }
                }
                item => {
                    if let Some((name, kind)) = declared(item) {
                        let file = self.modules[id].file.clone();
                        self.declare(id, &name, Def::Item { file, kind });
                    }
                }
            }
        }
        Ok(())
    }

    fn read_module(
        &mut self,
        sources: &Sources,
        parent: ModuleId,
        module: &ItemMod,
        folder: &str,
        facade: bool,
    ) -> Result<()> {
        let name = module.ident.to_string();
        let test_only = is_test_only(&module.attrs);
        let within = format!("{folder}/{name}");
        if let Some((_, items)) = &module.content {
            if !test_only {
                let id = self.add_child(parent, &name, &self.modules[parent].file.clone());
                self.read_items(sources, id, items, &within, facade)?;
            }
            return Ok(());
        }
        let candidates = match path_attribute(&module.attrs) {
            Some(path) => vec![format!("{folder}/{path}")],
            None => vec![format!("{within}.rs"), format!("{within}/mod.rs")],
        };
        let Some(file) = candidates.into_iter().find(|file| sources.contains_key(file)) else {
            bail!("{}: no file for `mod {name};`", self.modules[parent].file);
        };
        if test_only {
            return self.mark_test(sources, &file);
        }
        let id = self.add_child(parent, &name, &file);
        self.read_file(sources, id, &file)
    }

    fn add_child(&mut self, parent: ModuleId, name: &str, file: &str) -> ModuleId {
        let id = self.add_module(self.modules[parent].crate_index, Some(parent), file);
        self.declare(parent, name, Def::Module(id));
        id
    }

    /// Notes a file of tests, and the files of its own modules.
    fn mark_test(&mut self, sources: &Sources, file: &str) -> Result<()> {
        self.test_files.insert(file.to_owned());
        let parsed = syn::parse_file(&sources[file]).with_context(|| format!("failed to parse {file}"))?;
        for item in &parsed.items {
            if let Item::Mod(module) = item {
                let within = format!("{}/{}", folder_of(file), module.ident);
                for candidate in [format!("{within}.rs"), format!("{within}/mod.rs")] {
                    if module.content.is_none() && sources.contains_key(&candidate) {
                        self.mark_test(sources, &candidate)?;
                    }
                }
            }
        }
        Ok(())
    }

    pub fn root_of(&self, id: ModuleId) -> ModuleId {
        self.modules[id].parent.map_or(id, |parent| self.root_of(parent))
    }

    fn declare(&mut self, id: ModuleId, name: &str, def: Def) {
        self.modules[id].names.entry(name.to_owned()).or_default().push(def);
    }

    fn bind(&mut self, id: ModuleId, import: Import) {
        match import.alias.clone() {
            Some(alias) => self.declare(id, &alias, Def::Import(import)),
            None => self.modules[id].globs.push(import),
        }
    }
}

/// The folder that holds the child modules of `file`.
fn folder_of(file: &str) -> String {
    let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
    match name {
        "mod.rs" | "lib.rs" | "main.rs" => folder.to_owned(),
        name => format!("{folder}/{}", name.trim_end_matches(".rs")),
    }
}

/// Whether the re-exports of `file` are no imports of its own: a parent module, or a file of re-exports alone.
pub fn is_facade(file: &str, parsed: &File) -> bool {
    let parent = ["mod.rs", "lib.rs", "main.rs"].iter().any(|name| file.ends_with(&format!("/{name}")));
    parent
        || parsed
            .items
            .iter()
            .all(|item| matches!(item, Item::Mod(_)) || matches!(item, Item::Use(u) if is_public(&u.vis)))
}

fn is_public(visibility: &Visibility) -> bool {
    !matches!(visibility, Visibility::Inherited)
}

/// The leaves of a `use` declaration.
pub fn imports(item: &ItemUse, facade: bool) -> Vec<Import> {
    let mut leaves = Vec::new();
    let start = Written { global: item.leading_colon.is_some(), segments: Vec::new(), line: 0 };
    flatten(&item.tree, &start, facade && is_public(&item.vis), &mut leaves);
    leaves
}

fn flatten(tree: &UseTree, prefix: &Written, transparent: bool, leaves: &mut Vec<Import>) {
    let with = |ident: &syn::Ident| {
        let mut path = prefix.clone();
        path.line = ident.span().start().line;
        if ident != "self" || path.segments.is_empty() {
            path.segments.push(ident.to_string());
        }
        path
    };
    let mut leaf = |path: Written, alias: Option<String>| leaves.push(Import { path, alias, transparent });
    match tree {
        UseTree::Path(part) => flatten(&part.tree, &with(&part.ident), transparent, leaves),
        UseTree::Name(name) => {
            let path = with(&name.ident);
            let alias = path.segments.last().cloned();
            leaf(path, alias);
        }
        UseTree::Rename(name) => leaf(with(&name.ident), Some(name.rename.to_string())),
        UseTree::Glob(star) => {
            let line = star.star_token.spans[0].start().line;
            leaf(Written { line, ..prefix.clone() }, None);
        }
        UseTree::Group(group) => {
            for tree in &group.items {
                flatten(tree, prefix, transparent, leaves);
            }
        }
    }
}

fn declared(item: &Item) -> Option<(String, Kind)> {
    let (name, kind) = match item {
        Item::Const(item) => (&item.ident, Kind::Other),
        Item::Enum(item) => {
            (&item.ident, Kind::Enum(item.variants.iter().map(|variant| variant.ident.to_string()).collect()))
        }
        Item::Fn(item) => (&item.sig.ident, Kind::Other),
        Item::Static(item) => (&item.ident, Kind::Other),
        Item::Struct(item) => (&item.ident, Kind::Other),
        Item::Trait(item) => (&item.ident, Kind::Trait),
        Item::TraitAlias(item) => (&item.ident, Kind::Trait),
        Item::Type(item) => (&item.ident, Kind::Other),
        Item::Union(item) => (&item.ident, Kind::Other),
        _ => return None,
    };
    Some((name.to_string(), kind))
}

/// The attributes of an item.
pub fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
