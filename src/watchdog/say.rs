//! A line on the standard error output of a process that is about to end.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use crate::threads::{Workers, start};

/// Writes a line to stderr, on a thread of its own, and waits for it for this time at most. A full pipe blocks its writer, and a
/// blocked thread may hold the lock of stderr.
pub(crate) fn say_within(limit: Duration, line: String) {
    let deadline = Instant::now() + limit;
    let writers = Workers::default();
    let writing = writers.add();
    let write = move || {
        // Not the macro, which panics if stderr is closed.
        let _ = writeln!(std::io::stderr(), "{line}");
        drop(writing);
    };
    // Without a thread nobody writes.
    let _ = start("otel-tasks-stderr", Box::new(write));
    writers.wait(Some(deadline));
}
