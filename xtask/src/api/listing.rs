//! The lines of the listing: every item that a user of the crate can name.

use std::collections::{BTreeMap, BTreeSet};

use rustdoc_types::{
    Attribute, Crate, Id, Item, ItemEnum, MacroKind, StructKind, Trait, Variant, VariantKind, Visibility,
};

use super::{impls, names::Names, render::Renderer};

/// One item, with the foreign paths in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub text: String,
    pub foreign: BTreeSet<String>,
}

/// The lines of a listing so far, by what they are sorted by.
pub struct Listing<'a> {
    pub renderer: Renderer<'a>,
    lines: BTreeMap<(String, String), BTreeSet<String>>,
}

/// The public API of `krate`, sorted by path. `own` holds the crates of this repository.
pub fn list(krate: &Crate, own: &[String]) -> Vec<Line> {
    let names = Names::new(krate);
    let mut listing = Listing { renderer: Renderer::new(krate, &names, own), lines: BTreeMap::new() };
    for (id, path) in names.all() {
        if let Some(item) = krate.index.get(id) {
            listing.item(path, item);
        }
    }
    for (path, id) in &names.aliases {
        let target = names.of(id).unwrap_or_default();
        listing.push(path, format!("pub use {path} = {target}"));
    }
    for (path, source, id) in &names.foreign {
        let source =
            id.as_ref().and_then(|id| listing.renderer.foreign_path(id)).unwrap_or_else(|| source.clone());
        listing.push(path, format!("pub use {path} = {source}"));
    }
    impls::list(&mut listing);
    listing.lines.into_iter().map(|((_, text), foreign)| Line { text, foreign }).collect()
}

impl Listing<'_> {
    /// Adds a line that is sorted under `path`.
    pub fn push(&mut self, path: &str, text: String) {
        let foreign = self.renderer.take_foreign();
        self.lines.entry((path.to_owned(), text)).or_default().extend(foreign);
    }

    fn item(&mut self, path: &str, item: &Item) {
        // The members come first: a line takes the foreign paths that were written since the line before it.
        self.members(path, item);
        let r = &self.renderer;
        let text = match &item.inner {
            ItemEnum::Module(_) => format!("mod {path}"),
            ItemEnum::Struct(of) => {
                let hidden = match &of.kind {
                    StructKind::Tuple(fields) if fields.contains(&None) => " (private fields)",
                    StructKind::Plain { has_stripped_fields: true, .. } => " { private fields }",
                    StructKind::Plain { .. } => " {}",
                    StructKind::Unit | StructKind::Tuple(_) => "",
                };
                format!("struct {path}{}{}{hidden}", r.generics(&of.generics), r.where_clause(&of.generics))
            }
            ItemEnum::Union(of) => {
                format!("union {path}{}{}", r.generics(&of.generics), r.where_clause(&of.generics))
            }
            ItemEnum::Enum(of) => {
                format!("enum {path}{}{}", r.generics(&of.generics), r.where_clause(&of.generics))
            }
            // Reached by a glob over the enum; listed with it.
            ItemEnum::Variant(_) => return,
            ItemEnum::Function(function) => r.function(path, function),
            ItemEnum::Trait(of) => self.trait_text(path, of),
            ItemEnum::TypeAlias(alias) => format!(
                "type {path}{}{} = {}",
                r.generics(&alias.generics),
                r.where_clause(&alias.generics),
                r.ty(&alias.type_)
            ),
            ItemEnum::Constant { type_, const_ } => {
                let value = const_.value.as_ref().unwrap_or(&const_.expr);
                format!("const {path}: {}{}", r.ty(type_), value_text(value))
            }
            ItemEnum::Static(of) => {
                format!("static {}{path}: {}", if of.is_mutable { "mut " } else { "" }, r.ty(&of.type_))
            }
            ItemEnum::Macro(_) => format!("macro {path}!"),
            ItemEnum::ProcMacro(of) => {
                let helpers = if of.helpers.is_empty() {
                    String::new()
                } else {
                    format!(" with {}", of.helpers.join(", "))
                };
                match of.kind {
                    MacroKind::Bang => format!("proc macro {path}!{helpers}"),
                    MacroKind::Attr => format!("proc macro #[{path}]{helpers}"),
                    MacroKind::Derive => format!("proc macro #[derive({path})]{helpers}"),
                }
            }
            _ => format!("{:?} {path}", item.inner.item_kind()),
        };
        self.push(path, format!("{}pub {text}", marks(item)));
    }

    /// Adds the lines of the fields, variants and associated items.
    fn members(&mut self, path: &str, item: &Item) {
        match &item.inner {
            ItemEnum::Struct(of) => match &of.kind {
                StructKind::Unit => {}
                StructKind::Tuple(fields) => {
                    self.fields(path, &fields.iter().flatten().copied().collect::<Vec<_>>())
                }
                StructKind::Plain { fields, .. } => self.fields(path, fields),
            },
            ItemEnum::Union(of) => self.fields(path, &of.fields),
            ItemEnum::Enum(of) => {
                for variant in of.variants.iter().filter_map(|id| self.renderer.krate.index.get(id)) {
                    self.variant(path, variant);
                }
            }
            ItemEnum::Trait(of) => self.associated(path, &of.items, true),
            _ => {}
        }
    }

    fn trait_text(&self, path: &str, of: &Trait) -> String {
        let r = &self.renderer;
        let bounds = if of.bounds.is_empty() { String::new() } else { format!(": {}", r.bounds(&of.bounds)) };
        let mut text = if of.is_unsafe { "unsafe trait " } else { "trait " }.to_owned();
        text.push_str(&format!("{path}{}{bounds}{}", r.generics(&of.generics), r.where_clause(&of.generics)));
        if !of.is_dyn_compatible {
            text.push_str(" (not dyn compatible)");
        }
        text
    }

    fn fields(&mut self, path: &str, fields: &[Id]) {
        for item in fields.iter().filter_map(|id| self.renderer.krate.index.get(id)) {
            if let (ItemEnum::StructField(ty), Some(name)) = (&item.inner, &item.name) {
                let path = format!("{path}::{name}");
                let text = format!("{}pub {path}: {}", marks(item), self.renderer.ty(ty));
                self.push(&path, text);
            }
        }
    }

    fn variant(&mut self, of: &str, item: &Item) {
        let (ItemEnum::Variant(Variant { kind, discriminant }), Some(name)) = (&item.inner, &item.name)
        else {
            return;
        };
        let path = format!("{of}::{name}");
        let index = &self.renderer.krate.index;
        let mut text = format!("{}{path}", marks(item));
        match kind {
            VariantKind::Plain => {}
            VariantKind::Tuple(fields) => {
                let types: Vec<String> = fields
                    .iter()
                    .map(|id| match id.and_then(|id| index.get(&id)).map(|item| &item.inner) {
                        Some(ItemEnum::StructField(ty)) => self.renderer.ty(ty),
                        _ => "_".to_owned(),
                    })
                    .collect();
                text.push_str(&format!("({})", types.join(", ")));
            }
            VariantKind::Struct { fields, has_stripped_fields } => {
                text.push_str(if *has_stripped_fields { " { private fields }" } else { " {}" });
                self.fields(&path, fields);
            }
        }
        if let Some(value) = discriminant {
            text.push_str(&format!(" = {}", value.value));
        }
        self.push(&path, text);
    }

    /// The functions, constants and types of a trait or of an inherent `impl`.
    pub fn associated(&mut self, of: &str, items: &[Id], of_trait: bool) {
        for item in items.iter().filter_map(|id| self.renderer.krate.index.get(id)) {
            let r = &self.renderer;
            let Some(name) = &item.name else { continue };
            let path = format!("{of}::{name}");
            let (text, has_default) = match &item.inner {
                ItemEnum::Function(function) => (r.function(&path, function), function.has_body),
                ItemEnum::AssocConst { type_, value } => {
                    let text = value.as_ref().map_or(String::new(), |value| value_text(value));
                    (format!("const {path}: {}{text}", r.ty(type_)), value.is_some())
                }
                ItemEnum::AssocType { generics, bounds, type_ } => {
                    let bounds =
                        if bounds.is_empty() { String::new() } else { format!(": {}", r.bounds(bounds)) };
                    let default = type_.as_ref().map_or(String::new(), |ty| format!(" = {}", r.ty(ty)));
                    let generics = (r.generics(generics), r.where_clause(generics));
                    (format!("type {path}{}{bounds}{}{default}", generics.0, generics.1), type_.is_some())
                }
                _ => continue,
            };
            let visible = of_trait || item.visibility == Visibility::Public;
            if visible {
                let kind = if of_trait && !has_default { "pub required " } else { "pub " };
                self.push(&path, format!("{}{kind}{text}", marks(item)));
            } else {
                self.renderer.take_foreign();
            }
        }
    }
}

/// ` = value`, if rustdoc knows the value.
fn value_text(value: &str) -> String {
    if value == "_" { String::new() } else { format!(" = {value}") }
}

/// The attributes that are part of the API.
fn marks(item: &Item) -> String {
    let mut marks = String::new();
    for attribute in &item.attrs {
        match attribute {
            Attribute::NonExhaustive => marks.push_str("#[non_exhaustive] "),
            Attribute::MustUse { .. } => marks.push_str("#[must_use] "),
            Attribute::Repr(repr) => marks.push_str(&format!("#[repr({:?})] ", repr.kind).to_lowercase()),
            _ => {}
        }
    }
    if item.deprecation.is_some() {
        marks.push_str("#[deprecated] ");
    }
    marks
}
