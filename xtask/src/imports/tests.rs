//! Small trees of sources with one point each.

use super::{Sources, check, graph::Graph, rooms::Rooms};

const ROOMS: &str = r#"
crates = [{ name = "low", src = "low/src" }, { name = "demo", src = "src" }]
[[level]]
rooms = [{ name = "low crate", files = ["low/"] }]
[[level]]
rooms = [{ name = "policy", files = ["src/policy/"] }]
[[level]]
rooms = [{ name = "cell", files = ["src/cell.rs", "src/cell/"] }, { name = "read", files = ["src/read.rs"] }]
[[level]]
rooms = [{ name = "engine", files = ["src/engine/", "src/lib.rs"] }]
"#;

/// The files of `text`: `//- path` begins each.
fn sources(text: &str) -> Sources {
    let mut sources: Sources = text
        .split("//- ")
        .skip(1)
        .filter_map(|part| part.split_once('\n'))
        .map(|(path, text)| (path.trim().to_owned(), text.to_owned()))
        .collect();
    sources.entry("low/src/lib.rs".to_owned()).or_default();
    sources
}

fn graph_of(text: &str) -> Graph {
    let (graph, ..) = check(&sources(text), &Rooms::parse(ROOMS).unwrap()).unwrap();
    graph
}

/// The findings, without those about rooms that a small tree has no files for.
fn findings_with(rooms: &str, text: &str) -> Vec<String> {
    let (_, _, mut findings) = check(&sources(text), &Rooms::parse(rooms).unwrap()).unwrap();
    findings.retain(|finding| !finding.contains("no file fits"));
    findings
}

fn edges(graph: &Graph) -> Vec<String> {
    let mut lines = Vec::new();
    for (from, targets) in &graph.edges {
        for (to, names) in targets {
            lines.push(format!("{from} -> {to}: {}", names.keys().cloned().collect::<Vec<_>>().join(" ")));
        }
    }
    lines
}

const UPWARD: &str = "
//- src/lib.rs
mod policy;
mod engine;
//- src/policy/mod.rs
mod limit;
pub use limit::Limit;
//- src/policy/limit.rs
use crate::engine::Driver;
pub struct Limit;
//- src/engine/mod.rs
mod driver;
mod links;
pub use driver::Driver;
//- src/engine/driver.rs
pub struct Driver;
//- src/engine/links.rs
use crate::policy::Limit;
";

#[test]
fn upward_import_is_found_through_a_facade() {
    assert_eq!(
        edges(&graph_of(UPWARD)),
        [
            "src/engine/links.rs -> src/policy/limit.rs: Limit",
            "src/policy/limit.rs -> src/engine/driver.rs: Driver"
        ]
    );
    let findings = findings_with(ROOMS, UPWARD);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(
        findings[0].starts_with("src/policy/limit.rs:1 imports `Driver` from src/engine/driver.rs"),
        "{findings:?}"
    );
}

#[test]
fn allowed_import_passes_and_stale_allowance_fails() {
    let allow = |to| {
        format!("{ROOMS}\n[[allow]]\nfrom = \"src/policy/limit.rs\"\nto = \"{to}\"\nreason = \"a seam\"\n")
    };
    assert_eq!(findings_with(&allow("src/engine/driver.rs"), UPWARD), Vec::<String>::new());
    let findings = findings_with(&allow("src/engine/links.rs"), UPWARD);
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings[1].contains("does not occur"), "{findings:?}");
}

const ROUND: &str = "
//- src/lib.rs
mod cell;
mod engine;
//- src/cell/mod.rs
pub mod a;
pub mod b;
//- src/cell/a.rs
use super::b::B;
pub struct A;
//- src/cell/b.rs
use super::a::A;
pub struct B;
//- src/engine/mod.rs
";

fn circle(files: &str) -> String {
    format!("{ROOMS}\n[[circle]]\nfiles = [{files}]\nreason = \"one recursion\"\n")
}

#[test]
fn circle_without_an_entry_is_an_error() {
    assert_eq!(graph_of(ROUND).circles(), [vec!["src/cell/a.rs", "src/cell/b.rs"]]);
    let findings = findings_with(ROOMS, ROUND);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].starts_with("a new circle of 2 files: src/cell/a.rs, src/cell/b.rs"), "{findings:?}");
    let listed = circle(r#""src/cell/a.rs", "src/cell/b.rs""#);
    assert_eq!(findings_with(&listed, ROUND), Vec::<String>::new());
}

#[test]
fn circle_of_the_list_may_have_neither_more_nor_fewer_files() {
    let more = findings_with(&circle(r#""src/cell/a.rs""#), ROUND);
    assert!(more[0].starts_with("a new circle"), "{more:?}");
    let fewer = findings_with(&circle(r#""src/cell/a.rs", "src/cell/b.rs", "src/cell/mod.rs""#), ROUND);
    assert_eq!(fewer.len(), 1, "{fewer:?}");
    assert!(fewer[0].contains("not all in one circle"), "{fewer:?}");
    let unexplained = circle(r#""src/cell/a.rs", "src/cell/b.rs""#).replace("one recursion", " ");
    let unexplained = findings_with(&unexplained, ROUND);
    assert!(unexplained[0].contains("has no reason"), "{unexplained:?}");
}

#[test]
fn rooms_of_one_level_do_not_import_each_other() {
    let text = "
//- src/lib.rs
mod cell;
mod read;
//- src/cell.rs
pub struct Cell;
//- src/read.rs
fn read() { crate::cell::Cell; }
";
    let findings = findings_with(ROOMS, text);
    assert!(
        findings[0].contains("src/read.rs:1 imports `Cell`") && findings[0].contains("beside"),
        "{findings:?}"
    );
}

#[test]
fn globs_renames_and_nested_trees_lead_to_the_definition() {
    let text = "
//- src/lib.rs
mod cell;
mod policy;
pub use policy::*;
//- src/policy/mod.rs
mod exit;
mod limit;
pub use exit::{Exit as End, *};
pub use limit::Limit;
//- src/policy/exit.rs
pub struct Exit;
pub struct Unused;
pub trait Classify {}
//- src/policy/limit.rs
pub struct Limit;
pub enum Mode { Hard }
//- src/cell.rs
use crate::policy::{self, limit::{Mode::*}, *};
use crate::{End as Renamed, policy as rules};
fn cell(_: Renamed) -> Limit { let _ = Hard; rules::limit::nothing() }
";
    assert_eq!(
        edges(&graph_of(text)),
        [
            "src/cell.rs -> src/policy/exit.rs: Classify End",
            "src/cell.rs -> src/policy/limit.rs: Hard Limit Mode nothing"
        ]
    );
}

#[test]
fn a_function_with_the_name_of_its_module_is_found() {
    let text = "
//- src/lib.rs
mod engine;
pub use engine::watch as engine;
//- src/engine/mod.rs
mod watch;
pub use watch::watch;
mod driver;
//- src/engine/watch.rs
pub fn watch() {}
//- src/engine/driver.rs
use crate::engine::{self, watch as other};
pub use engine::watch::Watch;
fn f() { super::watch(); }
fn g() { crate::engine(); }
";
    assert_eq!(edges(&graph_of(text)), ["src/engine/driver.rs -> src/engine/watch.rs: Watch engine watch"]);
}

#[test]
fn paths_in_code_macros_and_attributes_are_imports() {
    let text = r#"
//- src/lib.rs
mod cell;
mod policy;
mod engine { pub mod inline { fn f() { super::super::policy::exit::call(); } } }
//- src/policy/mod.rs
pub mod exit;
//- src/policy/exit.rs
macro_rules! span { () => { $crate::cell::Cell } }
pub(crate) use span;
//- src/cell.rs
#[schema(value = crate::policy::exit::Exit)]
pub struct Cell;
fn one() { use crate::policy::exit as out; out::two(); format!("{}", super::policy::exit::three()); crate::policy::exit::span!() }
"#;
    assert_eq!(
        edges(&graph_of(text)),
        [
            "src/cell.rs -> src/policy/exit.rs: Exit span three two",
            "src/lib.rs -> src/policy/exit.rs: call",
            "src/policy/exit.rs -> src/cell.rs: Cell"
        ]
    );
}

#[test]
fn tests_loom_models_and_doctests_are_ignored() {
    let text = "
//- src/lib.rs
mod cell;
mod policy;
#[cfg(all(doctest, feature = \"otlp\"))]
struct Readme(crate::cell::Cell);
//- src/policy/mod.rs
#[cfg(test)]
mod tests;
#[cfg(all(test, otel_tasks_loom))]
mod loom { use crate::cell::Cell; }
fn f() {
    #[cfg(otel_tasks_loom)]
    crate::cell::f();
}
//- src/policy/tests.rs
mod deep;
use crate::cell::Cell;
//- src/policy/tests/deep.rs
use crate::cell::Cell;
//- src/cell.rs
pub struct Cell;
";
    assert_eq!(edges(&graph_of(text)), Vec::<String>::new());
    assert_eq!(findings_with(ROOMS, text), Vec::<String>::new());
}

#[test]
fn files_without_a_room_or_a_module_are_errors() {
    let findings =
        findings_with(ROOMS, "//- src/lib.rs\nmod free;\n//- src/free.rs\n//- src/policy/lost.rs\n");
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings[0].starts_with("src/policy/lost.rs belongs to no module"), "{findings:?}");
    assert!(findings[1].starts_with("src/free.rs belongs to no room"), "{findings:?}");
}

#[test]
fn a_crate_sees_the_crates_before_it() {
    let text = "
//- low/src/lib.rs
pub struct Low;
fn f() { demo::Demo; }
//- src/lib.rs
pub struct Demo;
mod engine;
//- src/engine/mod.rs
use low::Low;
";
    assert_eq!(edges(&graph_of(text)), ["src/engine/mod.rs -> low/src/lib.rs: Low"]);
}
