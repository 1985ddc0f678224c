//! Work that may block for ever, on a thread of its own: a line for stderr, a record for the user's subscriber.
//!
//! A full pipe blocks its writer, and a blocked thread may hold the lock of stderr. A caller that others depend on must wait for neither.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

/// The largest number of threads that have not returned in their time. While there are as many, further work is dropped: if a pipe is full, each
/// line would need another thread.
const LATE_AT_MOST: usize = 16;

/// The number of threads that nobody waits for any more.
static LATE: AtomicUsize = AtomicUsize::new(0);

/// Runs `work` on a thread of its own, and waits for it for this time at most. Returns true if the work is done. A panic in it ends
/// that thread.
pub(crate) fn aside(limit: Duration, work: impl FnOnce() + Send + 'static) -> bool {
    if LATE.load(SeqCst) >= LATE_AT_MOST {
        return false;
    }
    let (done, over) = mpsc::channel();
    // Swapped by the thread at its end, and by a caller that waits no longer: the second of them counts.
    let is_over = Arc::new(AtomicBool::new(false));
    let ends = Ends { is_over: is_over.clone(), _done: done };
    let run = move || {
        let _ends = ends;
        work();
    };
    if thread::Builder::new().name("otel-tasks-aside".into()).spawn(run).is_err() {
        return false;
    }
    // Nothing is ever sent: the thread drops the sender.
    let in_time = over.recv_timeout(limit) != Err(mpsc::RecvTimeoutError::Timeout);
    if !in_time && !is_over.swap(true, SeqCst) {
        LATE.fetch_add(1, SeqCst);
    }
    in_time
}

/// Writes a line to stderr, within this time at most.
pub(crate) fn say_within(limit: Duration, line: String) {
    // Not the macro, which panics if stderr is closed.
    aside(limit, move || drop(writeln!(std::io::stderr(), "{line}")));
}

/// The end of the work, also by a panic.
struct Ends {
    is_over: Arc<AtomicBool>,
    _done: mpsc::Sender<()>,
}

impl Drop for Ends {
    fn drop(&mut self) {
        if self.is_over.swap(true, SeqCst) {
            LATE.fetch_sub(1, SeqCst);
        }
    }
}
