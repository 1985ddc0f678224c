//! What `#[instrumented_task]` refuses, and in which words; every shape of function that it takes; and what the compiler
//! says of the common mistakes with the library itself. Here, because trybuild compiles all dependencies anew, and these
//! are few.
//!
//! After a change of wording, `TRYBUILD=overwrite cargo test -p otel-tasks-macros --test ui` writes the expectations anew. They are
//! the words of the current stable compiler.

#[test]
fn refusals_point_at_the_mistake() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}

#[test]
fn every_shape_of_async_fn_compiles_without_a_warning() {
    trybuild::TestCases::new().pass("tests/ui/accepted/*.rs");
}

#[test]
fn common_mistakes_are_told_in_readable_words() {
    trybuild::TestCases::new().compile_fail("tests/ui/mistakes/*.rs");
}
