//! The edges of the graph: every `use` and every path in the code, also in the tokens of macros and attributes.

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Arm, Attribute, Expr, Field, FieldValue, ImplItem, Item, ItemMod, ItemUse, Local, Macro, Meta, Path,
    Stmt, TraitItem, Variant,
    visit::{self, Visit},
};

use super::{
    cfg::is_test_only,
    graph::Graph,
    resolve::Target,
    tree::{Def, Import, ModuleId, Tree, Written, attributes, imports, is_facade},
};

/// The imports of all files of `tree`.
pub fn edges(tree: &mut Tree) -> Graph {
    for (file, inner) in inner_imports(tree) {
        let id = tree.files[&file].0;
        for import in inner {
            match import.alias.clone() {
                Some(alias) => tree.modules[id].inner.entry(alias).or_default().push(Def::Import(import)),
                None => tree.modules[id].globs.push(import),
            }
        }
    }
    let mut graph = Graph::default();
    for (file, (module, parsed)) in &tree.files {
        let facade = is_facade(file, parsed);
        Walk { tree, graph: &mut graph, module: *module, file, facade }.visit_file(parsed);
    }
    graph
}

/// The `use` declarations inside functions, by file.
fn inner_imports(tree: &Tree) -> Vec<(String, Vec<Import>)> {
    struct Inner(Vec<Import>);
    impl Visit<'_> for Inner {
        fn visit_item_mod(&mut self, module: &ItemMod) {
            if !is_test_only(&module.attrs) {
                visit::visit_item_mod(self, module);
            }
        }

        fn visit_stmt(&mut self, statement: &Stmt) {
            if let Stmt::Item(Item::Use(item)) = statement {
                self.0.extend(imports(item, false));
            }
            visit::visit_stmt(self, statement);
        }
    }
    let of_file = |(file, (_, parsed)): (&String, &(ModuleId, syn::File))| {
        let mut inner = Inner(Vec::new());
        inner.visit_file(parsed);
        (file.clone(), inner.0)
    };
    tree.files.iter().map(of_file).collect()
}

/// The walk through the code of one file.
struct Walk<'a> {
    tree: &'a Tree,
    graph: &'a mut Graph,
    module: ModuleId,
    file: &'a str,
    facade: bool,
}

impl Walk<'_> {
    fn import(&mut self, import: &Import) {
        if import.transparent {
            return;
        }
        let Some(name) = import.path.segments.last() else { return };
        if import.alias.is_none() {
            for (file, name) in self.tree.traits_of_glob(self.module, import) {
                self.graph.add(self.file, &file, &name, import.path.line);
            }
        }
        let targets = self.tree.resolve(self.module, &import.path);
        // A module is imported for what is in it: the paths through it are the edges.
        if targets.iter().any(|target| matches!(target, Target::Module(_))) {
            return;
        }
        for target in targets {
            if let Target::Item { file, .. } = target {
                self.graph.add(self.file, &file, name, import.path.line);
            }
        }
    }

    /// Adds the edge of a path in the code.
    fn path(&mut self, path: &Written) {
        let Some(head) = path.segments.first() else { return };
        if !path.global && self.tree.is_counted_import(self.module, head) {
            return;
        }
        for target in self.tree.resolve(self.module, path) {
            if let Target::Item { file, used, .. } = target {
                self.graph.add(self.file, &file, &path.segments[used - 1], path.line);
            }
        }
    }

    /// Adds the edges of the paths among tokens that are not parsed.
    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let is = |at: usize, mark: char| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == mark);
        let mut at = 0;
        while at < tokens.len() {
            if let TokenTree::Group(group) = &tokens[at] {
                self.tokens(group.stream());
            }
            let TokenTree::Ident(first) = &tokens[at] else {
                at += 1;
                continue;
            };
            let before = |mark| at.checked_sub(1).is_some_and(|before| is(before, mark));
            // `value.name` and `$name` are no paths; `$crate` is one.
            let is_path = !before('.') && (!before('$') || first == "crate");
            let global = at > 1 && is(at - 1, ':') && is(at - 2, ':') && (at == 2 || !is(at - 3, '>'));
            let mut path =
                Written { global, segments: vec![first.to_string()], line: first.span().start().line };
            at += 1;
            while is(at, ':') && is(at + 1, ':') {
                let Some(TokenTree::Ident(next)) = tokens.get(at + 2) else { break };
                path.segments.push(next.to_string());
                at += 3;
            }
            if is_path {
                self.path(&path);
            }
        }
    }
}

impl Visit<'_> for Walk<'_> {
    fn visit_item(&mut self, item: &Item) {
        if !is_test_only(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &ItemMod) {
        let Some((_, items)) = &module.content else { return };
        let outer = self.module;
        let defs = self.tree.modules[outer].names.get(&module.ident.to_string()).into_iter().flatten();
        let mut inline = defs.filter_map(|def| match def {
            Def::Module(id) if self.tree.modules[*id].file == self.file => Some(*id),
            _ => None,
        });
        // A module inside a function has no entry: its paths are read as those of the module around it.
        self.module = inline.next_back().unwrap_or(outer);
        for item in items {
            self.visit_item(item);
        }
        self.module = outer;
    }

    fn visit_item_use(&mut self, item: &ItemUse) {
        for import in imports(item, self.facade) {
            self.import(&import);
        }
    }

    fn visit_path(&mut self, path: &Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        let line = path.segments.first().map_or(0, |segment| segment.ident.span().start().line);
        self.path(&Written { global: path.leading_colon.is_some(), segments, line });
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &Macro) {
        if let Some(name) = call.path.get_ident() {
            let written =
                Written { global: false, segments: vec![name.to_string()], line: name.span().start().line };
            if self.tree.resolve(self.module, &written).is_empty()
                && let Some(file) = self.tree.textual_macro(self.module, &name.to_string())
            {
                self.graph.add(self.file, file, &name.to_string(), written.line);
            }
        }
        self.visit_path(&call.path);
        self.tokens(call.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &Attribute) {
        let plain = ["cfg", "doc", "allow", "expect", "warn", "deny"];
        if let Meta::List(list) = &attribute.meta
            && !plain.iter().any(|name| list.path.is_ident(name))
        {
            self.visit_path(&list.path);
            self.tokens(list.tokens.clone());
        } else if let Meta::Path(path) = &attribute.meta {
            self.visit_path(path);
        }
    }

    fn visit_impl_item(&mut self, item: &ImplItem) {
        let attributes = match item {
            ImplItem::Const(item) => &item.attrs,
            ImplItem::Fn(item) => &item.attrs,
            ImplItem::Type(item) => &item.attrs,
            ImplItem::Macro(item) => &item.attrs,
            _ => return,
        };
        if !is_test_only(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_trait_item(&mut self, item: &TraitItem) {
        let attributes = match item {
            TraitItem::Const(item) => &item.attrs,
            TraitItem::Fn(item) => &item.attrs,
            TraitItem::Type(item) => &item.attrs,
            TraitItem::Macro(item) => &item.attrs,
            _ => return,
        };
        if !is_test_only(attributes) {
            visit::visit_trait_item(self, item);
        }
    }

    fn visit_field(&mut self, field: &Field) {
        if !is_test_only(&field.attrs) {
            visit::visit_field(self, field);
        }
    }

    fn visit_variant(&mut self, variant: &Variant) {
        if !is_test_only(&variant.attrs) {
            visit::visit_variant(self, variant);
        }
    }

    fn visit_field_value(&mut self, field: &FieldValue) {
        if !is_test_only(&field.attrs) {
            visit::visit_field_value(self, field);
        }
    }

    fn visit_arm(&mut self, arm: &Arm) {
        if !is_test_only(&arm.attrs) {
            visit::visit_arm(self, arm);
        }
    }

    fn visit_local(&mut self, local: &Local) {
        if !is_test_only(&local.attrs) {
            visit::visit_local(self, local);
        }
    }

    fn visit_expr(&mut self, expression: &Expr) {
        let attributes: &[Attribute] = match expression {
            Expr::Block(e) => &e.attrs,
            Expr::Call(e) => &e.attrs,
            Expr::If(e) => &e.attrs,
            Expr::MethodCall(e) => &e.attrs,
            Expr::Match(e) => &e.attrs,
            Expr::Return(e) => &e.attrs,
            Expr::Struct(e) => &e.attrs,
            Expr::Unsafe(e) => &e.attrs,
            Expr::Assign(e) => &e.attrs,
            Expr::ForLoop(e) => &e.attrs,
            _ => &[],
        };
        if !is_test_only(attributes) {
            visit::visit_expr(self, expression);
        }
    }
}
