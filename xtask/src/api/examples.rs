//! The methods of the main types: each has an example in its documentation that names it.

use rustdoc_types::{Crate, Id, ItemEnum, Type, Visibility};

use super::names::Names;

/// The tags of a code block that rustdoc compiles.
const COMPILED: [&str; 5] = ["", "rust", "no_run", "should_panic", "compile_fail"];

/// Returns the methods of `types` without an example, and each entry that is no type with methods.
pub fn check(krate: &Crate, types: &[String]) -> Vec<String> {
    let names = Names::new(krate);
    let mut findings = Vec::new();
    for path in types {
        let methods = methods(krate, &names, path);
        if methods.is_empty() {
            findings.push(format!("{path} has no public methods: correct `examples` in xtask/api.toml"));
        }
        let without = methods.iter().filter(|(name, docs)| !has_example(name, docs));
        findings.extend(without.map(|(name, _)| {
            format!(
                "{path}::{name} has no example: show a call of `{name}` in a code block of its documentation"
            )
        }));
    }
    findings
}

/// The public methods of the type with this public path: name and documentation.
fn methods<'a>(krate: &'a Crate, names: &Names, path: &str) -> Vec<(&'a str, &'a str)> {
    let is_it = |ty: &Type| match ty {
        Type::ResolvedPath(of) => names.of(&of.id) == Some(path),
        _ => false,
    };
    let mut methods = Vec::new();
    for item in krate.index.values() {
        let ItemEnum::Impl(of) = &item.inner else { continue };
        if of.trait_.is_none() && is_it(&of.for_) {
            methods.extend(of.items.iter().filter_map(|id| method(krate, id)));
        }
    }
    methods.sort_unstable();
    methods
}

fn method<'a>(krate: &'a Crate, id: &Id) -> Option<(&'a str, &'a str)> {
    let item = krate.index.get(id)?;
    let is_public = item.visibility == Visibility::Public && matches!(item.inner, ItemEnum::Function(_));
    is_public.then(|| item.name.as_deref().map(|name| (name, item.docs.as_deref().unwrap_or_default())))?
}

/// Whether a compiled code block of `docs` names the method.
fn has_example(name: &str, docs: &str) -> bool {
    let mut block = None;
    for line in docs.lines().map(str::trim) {
        match (line.strip_prefix("```"), block) {
            (Some(tags), None) => {
                block = Some(tags.split(',').all(|tag| {
                    let tag = tag.trim();
                    COMPILED.contains(&tag) || tag.starts_with("edition")
                }));
            }
            (Some(_), Some(_)) => block = None,
            (None, Some(true)) if names_it(name, line) => return true,
            _ => {}
        }
    }
    false
}

/// Whether the name is a word of a line of code.
fn names_it(name: &str, line: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name)
}
