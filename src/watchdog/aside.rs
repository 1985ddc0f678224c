//! Work that may block forever, on a thread of its own: a line for stderr, a record for the user's subscriber.
//!
//! A full pipe blocks its writer, and a blocked thread may hold the lock of stderr. A caller that others depend on must wait for neither.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use crate::threads::{Workers, Working, start};

/// The largest number of threads that have not returned in their time. While there are as many, further work is dropped: if a pipe is full, each
/// line would need another thread.
const LATE_AT_MOST: usize = 16;

/// The number of threads that have not returned in their time, and still run.
static LATE: AtomicUsize = AtomicUsize::new(0);

/// Runs `work` on a thread of its own, and waits for it for this time at most. Returns true if the work is done. A panic in it ends
/// that thread.
pub(crate) fn aside(limit: Duration, work: Box<dyn FnOnce() + Send>) -> bool {
    if LATE.load(SeqCst) >= LATE_AT_MOST {
        return false;
    }
    let deadline = Instant::now() + limit;
    let workers = Workers::default();
    // Swapped by the thread at its end, and by a caller that waits no longer: the second of them counts.
    let is_over = Arc::new(AtomicBool::new(false));
    let ends = Ends { is_over: is_over.clone(), _working: workers.add() };
    let run = move || {
        let _ends = ends;
        work();
    };
    if start("otel-tasks-aside", Box::new(run)).is_err() {
        return false;
    }
    workers.wait(Some(deadline));
    let in_time = is_over.swap(true, SeqCst);
    if !in_time {
        LATE.fetch_add(1, SeqCst);
    }
    in_time
}

/// Writes a line to stderr, within this time at most.
pub(crate) fn say_within(limit: Duration, line: String) {
    // Not the macro, which panics if stderr is closed.
    aside(limit, Box::new(move || drop(writeln!(std::io::stderr(), "{line}"))));
}

/// The end of the work, also by a panic.
struct Ends {
    is_over: Arc<AtomicBool>,
    _working: Working,
}

impl Drop for Ends {
    fn drop(&mut self) {
        if self.is_over.swap(true, SeqCst) {
            LATE.fetch_sub(1, SeqCst);
        }
    }
}
