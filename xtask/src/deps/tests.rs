//! The policy on hand-made trees.

use super::{
    policy::{Dependency, Policy, Source},
    tree,
};

const POLICY: &str = r#"
[graph]
all-features = true
[licenses]
allow = ["MIT", "Apache-2.0 WITH LLVM-exception"]
[bans]
deny = [{ crate = "openssl-sys" }]
skip = [{ crate = "base64:0.22", reason = "tonic has not moved" }]
"#;

fn dependency(name: &str, version: &str, license: &str) -> Dependency {
    Dependency {
        name: name.to_owned(),
        version: version.to_owned(),
        license: Some(license.to_owned()),
        source: Source::Registry,
    }
}

/// The findings on a tree that also has the duplicate which `POLICY` skips.
fn findings(more: &[Dependency]) -> Vec<String> {
    let mut tree = vec![dependency("base64", "0.22.1", "MIT"), dependency("base64", "0.23.0", "MIT")];
    tree.extend_from_slice(more);
    Policy::parse(POLICY).unwrap().check(&tree)
}

#[test]
fn allowed_licences_in_any_spelling_pass() {
    let fine = ["MIT OR GPL-3.0", "MIT/BSD-2-Clause", "Apache-2.0 WITH LLVM-exception AND MIT"];
    for license in fine {
        assert_eq!(findings(&[dependency("a", "1.0.0", license)]), Vec::<String>::new(), "{license}");
    }
}

#[test]
fn licence_that_is_not_covered_is_an_error() {
    for license in ["GPL-3.0-only", "MIT AND BSD-2-Clause", "Apache-2.0", "no licence at all"] {
        let found = findings(&[dependency("a", "1.0.0", license)]);
        assert!(found.len() == 1 && found[0].starts_with("a 1.0.0 "), "{license}: {found:?}");
    }
    let silent = Dependency { license: None, ..dependency("a", "1.0.0", "") };
    assert!(findings(&[silent])[0].contains("states no licence"));
}

#[test]
fn denied_crate_and_foreign_source_are_errors() {
    assert!(findings(&[dependency("openssl-sys", "0.9.1", "MIT")])[0].contains("bans.deny"));
    let forked = Dependency { source: Source::Other("git+x".to_owned()), ..dependency("a", "1.0.0", "MIT") };
    assert!(findings(&[forked])[0].contains("comes from git+x"));
}

#[test]
fn duplicate_is_an_error_unless_it_is_skipped() {
    let found = findings(&[dependency("syn", "2.0.0", "MIT"), dependency("syn", "3.0.0", "MIT")]);
    assert!(found.len() == 1 && found[0].contains("versions 2.0.0, 3.0.0"), "{found:?}");
    let found = findings(&[dependency("base64", "0.21.0", "MIT")]);
    assert!(found.len() == 1 && found[0].contains("versions 0.21.0, 0.23.0"), "{found:?}");
}

#[test]
fn skip_without_use_or_reason_is_an_error() {
    let policy = Policy::parse(POLICY).unwrap();
    assert!(policy.check(&[dependency("base64", "0.22.1", "MIT")])[0].contains("is no duplicate"));
    let bare = POLICY.replace(", reason = \"tonic has not moved\"", "");
    let tree = [dependency("base64", "0.22.1", "MIT"), dependency("base64", "0.23.0", "MIT")];
    assert!(Policy::parse(&bare).unwrap().check(&tree)[0].contains("has no reason"));
}

#[test]
fn lines_of_cargo_tree_are_read_once_each() {
    let text = "otel-tasks v0.1.0 (/x)\nserde v1.0.1\nserde_derive v1.0.1 (proc-macro)\nserde v1.0.1 (*)\n";
    let names: Vec<String> = tree::parse(text).unwrap().into_iter().map(|version| version.name).collect();
    assert_eq!(names, ["otel-tasks", "serde", "serde_derive"]);
    assert!(tree::parse("no crate\n").is_err());
}
