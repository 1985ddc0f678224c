//! The implementations: inherent ones by their items, traits by one line each.
//!
//! Blanket implementations are left out. Auto traits are listed only if they are negative or conditional, and only
//! `Send`, `Sync` and `Unpin`.

use std::collections::BTreeSet;

use rustdoc_types::{GenericParamDefKind, Id, Impl, ItemEnum, Type};

use super::listing::Listing;

/// Auto traits that users rely on.
const AUTO: [&str; 3] = ["Send", "Sync", "Unpin"];

/// Traits that a derive implements beside its own, and that nobody can name on a stable toolchain.
const UNNAMED: [&str; 1] = ["StructuralPartialEq"];

/// Adds the lines of all implementations of public types and traits.
pub fn list(listing: &mut Listing<'_>) {
    let krate = listing.renderer.krate;
    for item in krate.index.values().filter(|item| item.crate_id == 0) {
        let ItemEnum::Impl(implementation) = &item.inner else { continue };
        if implementation.blanket_impl.is_some() || !is_public(listing, implementation) {
            continue;
        }
        let Some(of) = &implementation.trait_ else {
            if let Some(path) = own_path(listing, &implementation.for_) {
                listing.associated(&path, &implementation.items, false);
            }
            continue;
        };
        let name = of.path.rsplit("::").next().unwrap_or(&of.path);
        let conditional = !implementation.generics.where_predicates.is_empty()
            || implementation.generics.params.iter().any(
                |param| matches!(&param.kind, GenericParamDefKind::Type { bounds, .. } if !bounds.is_empty()),
            );
        let noise = implementation.is_synthetic
            && !(AUTO.contains(&name) && (implementation.is_negative || conditional));
        if noise || UNNAMED.contains(&name) {
            continue;
        }
        let text = text(listing, implementation);
        // Implementations are listed after the items of their type.
        let path = own_path(listing, &implementation.for_)
            .or_else(|| listing.renderer.names.of(&of.id).map(str::to_owned))
            .unwrap_or_default();
        listing.push(&format!("{path}::~"), text);
    }
}

fn text(listing: &Listing<'_>, implementation: &Impl) -> String {
    let r = &listing.renderer;
    let mut text = if implementation.is_unsafe { "unsafe impl" } else { "impl" }.to_owned();
    text.push_str(&r.generics(&implementation.generics));
    text.push_str(if implementation.is_negative { " !" } else { " " });
    if let Some(of) = &implementation.trait_ {
        text.push_str(&format!("{} for ", r.path(of)));
    }
    text.push_str(&r.ty(&implementation.for_));
    text.push_str(&r.where_clause(&implementation.generics));
    let mut types: Vec<String> = implementation
        .items
        .iter()
        .filter_map(|id| r.krate.index.get(id))
        .filter_map(|item| match (&item.inner, &item.name) {
            (ItemEnum::AssocType { type_: Some(ty), generics, .. }, Some(name)) => {
                Some(format!("type {name}{} = {}", r.generics(generics), r.ty(ty)))
            }
            _ => None,
        })
        .collect();
    types.sort();
    if !types.is_empty() {
        text.push_str(&format!(" {{ {} }}", types.join("; ")));
    }
    text
}

/// The public path of the type, through references and boxes.
fn own_path(listing: &Listing<'_>, ty: &Type) -> Option<String> {
    match ty {
        Type::ResolvedPath(path) => listing.renderer.names.of(&path.id).map(str::to_owned),
        Type::BorrowedRef { type_, .. } => own_path(listing, type_),
        _ => None,
    }
}

/// Whether a user can name the type and the trait: no item of this crate in them is private.
fn is_public(listing: &Listing<'_>, implementation: &Impl) -> bool {
    let mut ids = BTreeSet::new();
    ids.extend(implementation.trait_.as_ref().map(|of| of.id.0));
    collect(&implementation.for_, &mut ids);
    ids.into_iter().map(Id).all(|id| {
        let local = listing.renderer.krate.paths.get(&id).is_none_or(|summary| summary.crate_id == 0);
        !local || listing.renderer.names.of(&id).is_some()
    })
}

fn collect(ty: &Type, ids: &mut BTreeSet<u32>) {
    match ty {
        Type::ResolvedPath(path) => {
            ids.insert(path.id.0);
        }
        Type::BorrowedRef { type_, .. } | Type::Slice(type_) | Type::Array { type_, .. } => {
            collect(type_, ids)
        }
        Type::Tuple(types) => types.iter().for_each(|ty| collect(ty, ids)),
        _ => {}
    }
}
