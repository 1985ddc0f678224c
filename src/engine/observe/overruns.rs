//! The end of a process in which a poll behind a gate has not returned shortly before its permission ends.
//!
//! It is decided on a thread of its own, which calls no code of the user's: no subscriber, no destructor of a task, no gate. The
//! watchdog's thread calls all of these, and each of them may wait for the thread that is blocked. The thread ends when there has been no
//! permission for a while, and a process without gates never has it.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::runtime::Handle;

use crate::{gate::Pass, policy::Plain, threads::start, watchdog::say_within};

/// The longest time between two checks.
const TICK: Duration = Duration::from_millis(50);
/// The time between two checks of one overrun. A poll that is refused, and a destructor that is quick, are over by the second.
const AGAIN: Duration = Duration::from_millis(2);
/// The longest and the shortest time that the line on stderr may take.
const LINE_WITHIN: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(50));
/// For how long the thread stays after the last permission has ended.
const LINGER: Duration = Duration::from_secs(10);

/// A permission to run.
struct Permission {
    pass: Pass,
    task: Arc<str>,
    gate: Arc<str>,
    /// For its clock, which may be a test's.
    runtime: Handle,
    /// True if the last check found an overrun.
    late: bool,
}

#[derive(Default)]
struct State {
    running: bool,
    added: Vec<Permission>,
}

/// The permissions of all managers of the process.
struct Overruns {
    state: Mutex<State>,
    changed: Condvar,
}

static OVERRUNS: Overruns =
    Overruns { state: Mutex::new(State { running: false, added: Vec::new() }), changed: Condvar::new() };

/// Ends the process if user code under this permission has not returned shortly before it ends.
///
/// # Errors
/// If the system refuses the thread.
pub(crate) fn watch(pass: Pass, task: Arc<str>, gate: Arc<str>) -> io::Result<()> {
    let mut state = OVERRUNS.state();
    if !state.running {
        // Under the lock, so that there is one thread.
        start("otel-tasks-gates", Box::new(|| OVERRUNS.run()))?;
        state.running = true;
    }
    state.added.push(Permission { pass, task, gate, runtime: Handle::current(), late: false });
    drop(state);
    OVERRUNS.changed.notify_one();
    Ok(())
}

impl Overruns {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut watched = Vec::new();
        let mut next = Duration::ZERO;
        while self.wait(&mut watched, next) {
            watched.retain(|permission: &Permission| !permission.pass.is_released());
            next = watched.iter_mut().map(Permission::check).min().unwrap_or(LINGER);
        }
    }

    /// Waits for this time, or until there are others, and takes those. Returns false if the thread shall end.
    fn wait(&self, watched: &mut Vec<Permission>, time: Duration) -> bool {
        let mut state = self.state();
        if state.added.is_empty() {
            let waited = self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
            if watched.is_empty() && state.added.is_empty() && waited.1.timed_out() && !time.is_zero() {
                state.running = false;
                return false;
            }
        }
        watched.append(&mut state.added);
        true
    }
}

impl Permission {
    /// Ends the process on an overrun. Returns the time until the next check.
    fn check(&mut self) -> Duration {
        let _inside = self.runtime.enter();
        if !self.pass.is_overrun() {
            self.late = false;
            // Bounded: the time of a suspension is not waited for, and a permission may be revoked.
            return self.pass.overrun_in().clamp(AGAIN, TICK);
        }
        if !std::mem::replace(&mut self.late, true) {
            return AGAIN;
        }
        let within = (self.pass.remaining() / 2).clamp(LINE_WITHIN.0, LINE_WITHIN.1);
        let (task, gate, term) = (Plain(&self.task), Plain(&self.gate), self.pass.term());
        say_within(
            within,
            format!(
                "otel-tasks: task {task} blocks its thread though {gate}, term {term}, is about to end: the process is aborted"
            ),
        );
        // No exit handlers: they may wait for the thread that is blocked.
        std::process::abort();
    }
}
