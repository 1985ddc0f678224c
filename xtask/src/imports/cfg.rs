//! Whether a `cfg` leaves an item in a build of the library: tests, loom models and doctests are not part of it.

use syn::{Attribute, Expr, ExprLit, Lit, Meta, Token, punctuated::Punctuated};

/// Flags that a build of the library never has.
const NEVER: [&str; 4] = ["test", "otel_tasks_loom", "doctest", "doc"];

/// Whether no build of the library has the item with these attributes.
pub fn is_test_only(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || (attribute.path().is_ident("cfg")
                && attribute.parse_args::<Meta>().is_ok_and(|meta| holds(&meta) == Some(false)))
    })
}

/// The path that `#[path = "..."]` names.
pub fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    })
}

/// Whether the predicate holds in a build of the library; `None` if that depends on the build.
fn holds(meta: &Meta) -> Option<bool> {
    let Meta::List(list) = meta else {
        return NEVER.iter().any(|flag| meta.path().is_ident(flag)).then_some(false);
    };
    let parts: Vec<Option<bool>> = list
        .parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)
        .ok()?
        .iter()
        .map(holds)
        .collect();
    if list.path.is_ident("not") {
        parts.first().copied().flatten().map(|value| !value)
    } else if list.path.is_ident("all") {
        fold(&parts, false)
    } else if list.path.is_ident("any") {
        fold(&parts, true)
    } else {
        None
    }
}

/// `decisive` if one part is, its opposite if all parts are, and `None` otherwise.
fn fold(parts: &[Option<bool>], decisive: bool) -> Option<bool> {
    if parts.contains(&Some(decisive)) {
        Some(decisive)
    } else if parts.iter().all(|part| *part == Some(!decisive)) {
        Some(!decisive)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::parse_quote;

    #[test]
    fn only_code_that_no_library_build_has_is_left_out() {
        let left_out: [Attribute; 5] = [
            parse_quote!(#[cfg(test)]),
            parse_quote!(#[cfg(otel_tasks_loom)]),
            parse_quote!(#[cfg(all(test, feature = "calendar"))]),
            parse_quote!(#[cfg(all(doctest, feature = "otlp"))]),
            parse_quote!(#[test]),
        ];
        for attribute in left_out {
            assert!(is_test_only(&[attribute]));
        }
        let kept: [Attribute; 4] = [
            parse_quote!(#[cfg(feature = "otlp")]),
            parse_quote!(#[cfg(not(all(test, otel_tasks_loom)))]),
            parse_quote!(#[cfg(any(test, feature = "testing"))]),
            parse_quote!(#[cfg(not(feature = "calendar"))]),
        ];
        for attribute in kept {
            assert!(!is_test_only(&[attribute]));
        }
    }
}
