//! What `#[instrumented_task]` refuses, and in which words; every shape of function that it takes; and what the compiler
//! says of the common mistakes with the library itself. Here, because trybuild compiles all dependencies anew, and these
//! are few.
//!
//! The expected messages are those of the current stable compiler. This command writes them again after a change of wording:
//!
//! ```sh
//! TRYBUILD=overwrite cargo test -p otel-tasks-macros --test ui -- --ignored
//! ```

#[test]
#[ignore = "builds the dependencies again, for half a minute or more: `.ci/run feature-tests`"]
fn refusals_name_the_mistake_and_every_shape_compiles() {
    // In one set, because trybuild checks or builds the dependencies once for each set.
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
    cases.compile_fail("tests/ui/mistakes/*.rs");
    cases.pass("tests/ui/accepted/*.rs");
}
