//! A line on the standard error output of a process that is about to end.

use std::{io::Write, sync::mpsc, thread, time::Duration};

/// Writes a line to stderr, on a thread of its own, and waits for it for this time at most. A full pipe blocks its writer, and a
/// blocked thread may hold the lock of stderr.
pub(crate) fn say_within(limit: Duration, line: String) {
    let (written, done) = mpsc::channel();
    let write = move || {
        // Not the macro, which panics if stderr is closed.
        let _ = writeln!(std::io::stderr(), "{line}");
        let _ = written.send(());
    };
    if thread::Builder::new().name("otel-tasks-stderr".into()).spawn(write).is_ok() {
        let _ = done.recv_timeout(limit);
    }
}
