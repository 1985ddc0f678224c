//! Tests that run themselves again, in a process of their own.

use std::process::Command;

const ROLE: &str = "OTEL_TASKS_TEST_ROLE";

/// What this process is to be, if [`child_as`] made it.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Whether this process was made by [`child`].
pub(crate) fn is_child() -> bool {
    role().is_some()
}

/// This binary's test of that path and no other, to be run in a process of its own.
pub(crate) fn child(test: &str) -> Command {
    child_as(test, "child")
}

pub(crate) fn child_as(test: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(ROLE, role);
    command
}
