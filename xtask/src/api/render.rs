//! Types, generics and bounds as text, with full paths. The renderer notes the foreign paths that it writes.

use std::{cell::RefCell, collections::BTreeSet};

use rustdoc_types::{
    Abi, AssocItemConstraintKind, Crate, Function, FunctionHeader, FunctionSignature, GenericArg,
    GenericArgs, GenericBound, GenericParamDef, GenericParamDefKind, Generics, Path, PolyTrait,
    PreciseCapturingArg, Term, TraitBoundModifier, Type, WherePredicate,
};

use super::names::Names;

pub struct Renderer<'a> {
    pub krate: &'a Crate,
    pub names: &'a Names,
    /// The crates of this repository. What they define is named by crate and item: their modules are private.
    own: &'a [String],
    foreign: RefCell<BTreeSet<String>>,
}

impl<'a> Renderer<'a> {
    pub fn new(krate: &'a Crate, names: &'a Names, own: &'a [String]) -> Self {
        Self { krate, names, own, foreign: RefCell::default() }
    }

    /// The foreign paths that were written since the last call.
    pub fn take_foreign(&self) -> BTreeSet<String> {
        self.foreign.take()
    }

    /// Notes the full path of an item of another crate, and returns it.
    pub fn foreign_path(&self, id: &rustdoc_types::Id) -> Option<String> {
        let summary = self.krate.paths.get(id).filter(|summary| summary.crate_id != 0)?;
        let path = match summary.path.as_slice() {
            [krate, .., item] if self.own.contains(krate) => format!("{krate}::{item}"),
            path => path.join("::"),
        };
        self.foreign.borrow_mut().insert(path.clone());
        Some(path)
    }

    pub fn path(&self, path: &Path) -> String {
        let name = match self.names.of(&path.id) {
            Some(name) => name.to_owned(),
            None => self.foreign_path(&path.id).unwrap_or_else(|| path.path.clone()),
        };
        format!("{name}{}", self.args(path.args.as_deref()))
    }

    fn args(&self, args: Option<&GenericArgs>) -> String {
        match args {
            None => String::new(),
            Some(GenericArgs::ReturnTypeNotation) => "(..)".to_owned(),
            Some(GenericArgs::Parenthesized { inputs, output }) => {
                let inputs: Vec<String> = inputs.iter().map(|input| self.ty(input)).collect();
                format!("({}){}", inputs.join(", "), self.output(output.as_ref()))
            }
            Some(GenericArgs::AngleBracketed { args, constraints }) => {
                let args = args.iter().map(|arg| match arg {
                    GenericArg::Lifetime(name) => name.clone(),
                    GenericArg::Type(ty) => self.ty(ty),
                    GenericArg::Const(constant) => constant.expr.clone(),
                    GenericArg::Infer => "_".to_owned(),
                });
                let constraints = constraints.iter().map(|constraint| {
                    let name = format!("{}{}", constraint.name, self.args(constraint.args.as_deref()));
                    match &constraint.binding {
                        AssocItemConstraintKind::Equality(term) => format!("{name} = {}", self.term(term)),
                        AssocItemConstraintKind::Constraint(bounds) => {
                            format!("{name}: {}", self.bounds(bounds))
                        }
                    }
                });
                let all: Vec<String> = args.chain(constraints).collect();
                if all.is_empty() { String::new() } else { format!("<{}>", all.join(", ")) }
            }
        }
    }

    fn term(&self, term: &Term) -> String {
        match term {
            Term::Type(ty) => self.ty(ty),
            Term::Constant(constant) => constant.expr.clone(),
        }
    }

    pub fn ty(&self, ty: &Type) -> String {
        match ty {
            Type::ResolvedPath(path) => self.path(path),
            Type::DynTrait(dynamic) => {
                let mut parts: Vec<String> =
                    dynamic.traits.iter().map(|bound| self.poly_trait(bound)).collect();
                parts.extend(dynamic.lifetime.clone());
                format!("dyn {}", parts.join(" + "))
            }
            Type::Generic(name) | Type::Primitive(name) => name.clone(),
            Type::FunctionPointer(pointer) => format!(
                "{}{}fn{}",
                self.binder(&pointer.generic_params),
                header(&pointer.header),
                self.signature(&pointer.sig, false)
            ),
            Type::Tuple(types) => {
                let parts: Vec<String> = types.iter().map(|ty| self.ty(ty)).collect();
                if let [single] = parts.as_slice() {
                    format!("({single},)")
                } else {
                    format!("({})", parts.join(", "))
                }
            }
            Type::Slice(ty) => format!("[{}]", self.ty(ty)),
            Type::Array { type_, len } => format!("[{}; {len}]", self.ty(type_)),
            Type::Pat { type_, .. } => self.ty(type_),
            Type::ImplTrait(bounds) => format!("impl {}", self.bounds(bounds)),
            Type::Infer => "_".to_owned(),
            Type::RawPointer { is_mutable, type_ } => {
                format!("*{} {}", if *is_mutable { "mut" } else { "const" }, self.ty(type_))
            }
            Type::BorrowedRef { lifetime, is_mutable, type_ } => {
                let lifetime = lifetime.as_ref().map_or(String::new(), |name| format!("{name} "));
                let inner = self.ty(type_);
                // `&dyn A + B` needs its parentheses.
                let several =
                    matches!(&**type_, Type::DynTrait(_) | Type::ImplTrait(_)) && inner.contains(" + ");
                let inner = if several { format!("({inner})") } else { inner };
                format!("&{lifetime}{}{inner}", if *is_mutable { "mut " } else { "" })
            }
            Type::QualifiedPath { name, args, self_type, trait_ } => {
                let this = self.ty(self_type);
                let args = self.args(args.as_deref());
                match trait_ {
                    Some(of) if !of.path.is_empty() => format!("<{this} as {}>::{name}{args}", self.path(of)),
                    _ => format!("{this}::{name}{args}"),
                }
            }
        }
    }

    fn poly_trait(&self, bound: &PolyTrait) -> String {
        format!("{}{}", self.binder(&bound.generic_params), self.path(&bound.trait_))
    }

    fn binder(&self, params: &[GenericParamDef]) -> String {
        let params: Vec<String> = params.iter().map(|param| self.param(param)).collect();
        if params.is_empty() { String::new() } else { format!("for<{}> ", params.join(", ")) }
    }

    pub fn bounds(&self, bounds: &[GenericBound]) -> String {
        let parts: Vec<String> = bounds
            .iter()
            .map(|bound| match bound {
                GenericBound::TraitBound { trait_, generic_params, modifier } => {
                    let mark = match modifier {
                        TraitBoundModifier::None => "",
                        TraitBoundModifier::Maybe => "?",
                        TraitBoundModifier::MaybeConst => "[const] ",
                    };
                    format!("{mark}{}{}", self.binder(generic_params), self.path(trait_))
                }
                GenericBound::Outlives(lifetime) => lifetime.clone(),
                GenericBound::Use(captured) => {
                    let names: Vec<&str> = captured
                        .iter()
                        .map(|arg| match arg {
                            PreciseCapturingArg::Lifetime(name) | PreciseCapturingArg::Param(name) => {
                                name.as_str()
                            }
                        })
                        .collect();
                    format!("use<{}>", names.join(", "))
                }
            })
            .collect();
        parts.join(" + ")
    }

    fn param(&self, param: &GenericParamDef) -> String {
        let name = &param.name;
        match &param.kind {
            GenericParamDefKind::Lifetime { outlives } if outlives.is_empty() => name.clone(),
            GenericParamDefKind::Lifetime { outlives } => format!("{name}: {}", outlives.join(" + ")),
            GenericParamDefKind::Type { bounds, default, .. } => {
                let bounds =
                    if bounds.is_empty() { String::new() } else { format!(": {}", self.bounds(bounds)) };
                let default = default.as_ref().map_or(String::new(), |ty| format!(" = {}", self.ty(ty)));
                format!("{name}{bounds}{default}")
            }
            GenericParamDefKind::Const { type_, default } => {
                let default = default.as_ref().map_or(String::new(), |value| format!(" = {value}"));
                format!("const {name}: {}{default}", self.ty(type_))
            }
        }
    }

    /// `<T: Bound>`, without the parameters that stand for `impl Trait` arguments.
    pub fn generics(&self, generics: &Generics) -> String {
        let synthetic = |param: &&GenericParamDef| {
            !matches!(param.kind, GenericParamDefKind::Type { is_synthetic: true, .. })
        };
        let params: Vec<String> =
            generics.params.iter().filter(synthetic).map(|param| self.param(param)).collect();
        if params.is_empty() { String::new() } else { format!("<{}>", params.join(", ")) }
    }

    /// ` where T: Bound`.
    pub fn where_clause(&self, generics: &Generics) -> String {
        let predicates: Vec<String> = generics
            .where_predicates
            .iter()
            .map(|predicate| match predicate {
                WherePredicate::BoundPredicate { type_, bounds, generic_params } => {
                    format!("{}{}: {}", self.binder(generic_params), self.ty(type_), self.bounds(bounds))
                }
                WherePredicate::LifetimePredicate { lifetime, outlives } => {
                    format!("{lifetime}: {}", outlives.join(" + "))
                }
                WherePredicate::EqPredicate { lhs, rhs } => format!("{} = {}", self.ty(lhs), self.term(rhs)),
            })
            .collect();
        if predicates.is_empty() { String::new() } else { format!(" where {}", predicates.join(", ")) }
    }

    /// A function from its keywords to its `where` clause.
    pub fn function(&self, path: &str, function: &Function) -> String {
        format!(
            "{}fn {path}{}{}{}",
            header(&function.header),
            self.generics(&function.generics),
            self.signature(&function.sig, true),
            self.where_clause(&function.generics)
        )
    }

    fn signature(&self, signature: &FunctionSignature, named: bool) -> String {
        let mut inputs: Vec<String> = signature
            .inputs
            .iter()
            .map(|(name, ty)| match (name.as_str(), self.ty(ty)) {
                ("self", ty) if ty == "Self" => "self".to_owned(),
                ("self", ty) if ty.starts_with('&') && ty.ends_with("Self") => {
                    format!("{}self", ty.trim_end_matches("Self"))
                }
                (name, ty) if named && !name.is_empty() => format!("{name}: {ty}"),
                (_, ty) => ty,
            })
            .collect();
        if signature.is_c_variadic {
            inputs.push("...".to_owned());
        }
        format!("({}){}", inputs.join(", "), self.output(signature.output.as_ref()))
    }

    fn output(&self, output: Option<&Type>) -> String {
        output.map_or(String::new(), |ty| format!(" -> {}", self.ty(ty)))
    }
}

fn header(header: &FunctionHeader) -> String {
    let mut text = String::new();
    for (is, word) in
        [(header.is_const, "const "), (header.is_async, "async "), (header.is_unsafe, "unsafe ")]
    {
        if is {
            text.push_str(word);
        }
    }
    match &header.abi {
        Abi::Rust => {}
        Abi::C { .. } => text.push_str("extern \"C\" "),
        other => text.push_str(&format!("extern \"{other:?}\" ")),
    }
    text
}
