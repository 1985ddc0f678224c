//! The threads of this crate, and the wait for their end.
//!
//! The generic functions and channels of the standard library are compiled again for each closure and each type, and these
//! uses are rare. So there is one copy for all.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// Starts a thread.
///
/// # Errors
/// If the system refuses the thread.
pub(crate) fn start(name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map(drop)
}

/// Counts the threads that work, for a thread that waits until none does.
#[derive(Default)]
pub(crate) struct Workers(Arc<Count>);

#[derive(Default)]
struct Count {
    working: Mutex<usize>,
    changed: Condvar,
}

impl Count {
    fn working(&self) -> MutexGuard<'_, usize> {
        self.working.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thread that works, until this is dropped.
pub(crate) struct Working(Arc<Count>);

impl Workers {
    /// Counts one more.
    pub(crate) fn add(&self) -> Working {
        *self.0.working() += 1;
        Working(Arc::clone(&self.0))
    }

    /// Waits until no thread works, and at most until the deadline.
    pub(crate) fn wait(&self, deadline: Option<Instant>) {
        let mut working = self.0.working();
        while *working > 0 {
            let Some(deadline) = deadline else {
                working = self.0.changed.wait(working).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            working = self.0.changed.wait_timeout(working, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        *self.0.working() -= 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_wait_ends_with_the_last_worker() {
        let workers = Workers::default();
        workers.wait(None);
        let done = Arc::new(Mutex::new(0));
        for _ in 0..3 {
            let (working, done) = (workers.add(), Arc::clone(&done));
            let body = move || {
                std::thread::sleep(Duration::from_millis(20));
                *done.lock().expect("no panic") += 1;
                drop(working);
            };
            start("otel-tasks-test", Box::new(body)).expect("a thread");
        }
        workers.wait(None);
        assert_eq!(*done.lock().expect("no panic"), 3);
    }

    #[test]
    fn a_wait_ends_at_its_deadline() {
        let workers = Workers::default();
        let _working = workers.add();
        let deadline = Instant::now() + Duration::from_millis(30);
        workers.wait(Some(deadline));
        assert!(Instant::now() >= deadline);
        workers.wait(Some(Instant::now()));
    }
}
