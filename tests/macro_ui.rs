//! What `#[instrumented_task]` refuses, and in which words; and every shape of function that it takes.
//!
//! After a change of wording, `TRYBUILD=overwrite cargo test --test macro_ui` writes the expectations anew. They are
//! the words of the current stable compiler.

#![cfg(feature = "macros")]

#[test]
fn refusals_point_at_the_mistake() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}

#[test]
fn every_shape_of_async_fn_compiles_without_a_warning() {
    trybuild::TestCases::new().pass("tests/ui/accepted/*.rs");
}
