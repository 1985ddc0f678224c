//! Outcomes of tasks at shutdown.

use super::labels::labels;
labels! {
    /// The outcome of a task at shutdown.
    pub enum ShutdownOutcome {
        /// It ended while its stage was waited for.
        Clean = "clean",
        /// It ended by itself after its stage's share of the time, before the deadline.
        Late = "late",
        /// It was dropped, because its grace or the deadline had come.
        Aborted = "aborted",
        /// It was still there at the deadline: it blocks its thread, or the thread that it needs is blocked by another.
        Leaked = "leaked",
        /// It was registered and not alive: not begun, waiting for a restart, finished, stopped or given up.
        NotRunning = "not_running",
    }
}

impl ShutdownOutcome {
    /// Returns true if the task did not end by itself.
    pub const fn is_forced(self) -> bool {
        matches!(self, Self::Aborted | Self::Leaked)
    }
}
