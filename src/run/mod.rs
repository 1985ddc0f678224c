//! The future around a user's future: the run with its span, its figures and its end; and the handle.

mod current;
mod handle;
mod instrument;
mod managed;
mod panics;
mod recorder;
mod rules;

pub(crate) use handle::{Outcome, Refusal};
pub use handle::{TaskError, TaskHandle};
pub use instrument::{BorrowingProbe, Instrumented, Probe, instrument, via};
pub(crate) use managed::{Begin, Ended, Guard, Run, SpanDetails, SpanMade};
pub(crate) use panics::{Contained, Guarded, Payload, catch, catch_inline, install_hook, resume};
pub(crate) use recorder::{PollTime, Recorder, RecorderOptions, Task};
pub use rules::Rules;
pub(crate) use rules::exit_of_run;
