//! The figures of the tokio runtime of a manager's own work, as far as tokio has them without `tokio_unstable`.

use std::time::Duration;

use tokio::runtime::Handle;

/// The tokio runtime of a manager's own work at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuntimeFigures {
    /// The number of worker threads.
    pub workers: usize,
    /// The tokio tasks that are alive, those of others included.
    pub alive_tasks: usize,
    /// The tasks that wait in the queue that all workers share.
    pub global_queue_depth: usize,
    /// The time that the workers were busy since the runtime began, added up; `None` on targets without 64-bit atomics.
    pub busy: Option<Duration>,
}

impl RuntimeFigures {
    pub(crate) fn of(runtime: &Handle) -> Self {
        let metrics = runtime.metrics();
        let workers = metrics.num_workers();
        #[cfg(target_has_atomic = "64")]
        let busy = Some((0..workers).map(|worker| metrics.worker_total_busy_duration(worker)).sum());
        #[cfg(not(target_has_atomic = "64"))]
        let busy = None;
        Self {
            workers,
            alive_tasks: metrics.num_alive_tasks(),
            global_queue_depth: metrics.global_queue_depth(),
            busy,
        }
    }

    /// Returns true if a worker has done something since `before`: its time was added, or a task was taken from the queue or has ended. A worker adds
    /// its time after 61 polls at the latest.
    pub(super) fn shows_progress_since(&self, before: &Self) -> bool {
        self.busy != before.busy
            || self.global_queue_depth < before.global_queue_depth
            || self.alive_tasks < before.alive_tasks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_makes_progress_if_one_of_three_figures_shows_it() {
        let busy = |seconds| Some(Duration::from_secs(seconds));
        let before = RuntimeFigures { workers: 2, alive_tasks: 10, global_queue_depth: 5, busy: busy(1) };
        assert!(RuntimeFigures { busy: busy(2), ..before }.shows_progress_since(&before));
        assert!(RuntimeFigures { global_queue_depth: 4, ..before }.shows_progress_since(&before));
        assert!(RuntimeFigures { alive_tasks: 9, ..before }.shows_progress_since(&before));
        // More work comes also to a runtime whose threads are blocked.
        let more = RuntimeFigures { alive_tasks: 11, global_queue_depth: 6, ..before };
        assert!(!more.shows_progress_since(&before) && !before.shows_progress_since(&before));
    }
}
