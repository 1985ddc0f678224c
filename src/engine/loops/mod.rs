//! Task loops: a body that runs again and again, each iteration a run of its own.
//!
//! ```text
//! TaskLoop   what a user says         ──> Parts, shared by the loop's lives
//! LoopHandle what a user does with it ──> Control, which the life under way reads
//! alive      the life under way, as Control shows it
//! life       one life: waits for the schedule, begins iterations, says how it ended
//! iteration  one iteration: the run, its further tries, the hooks after it
//! body       a registered loop, as its driver sees it
//! ```

pub(in crate::engine) mod alive;
pub(in crate::engine) mod body;
pub(in crate::engine) mod control;
pub(in crate::engine) mod handle;
pub(in crate::engine) mod iteration;
pub(in crate::engine) mod life;
pub(in crate::engine) mod outcome;
pub(in crate::engine) mod task_loop;

pub(crate) use body::LoopBody;
pub use handle::{LoopHandle, ManualRun};
pub use outcome::LoopOutcome;
pub use task_loop::{OnError, TaskLoop};
