//! When a loop's iterations are due: pure values and arithmetic. No clock, no tokio, no random source; whoever asks brings
//! the time.
//!
//! [`Schedule`] is what a user says, [`Course`] where one life of a loop stands in it, and [`Account`] what a life leaves to the
//! next. Rhythms run on the clock that nobody can
//! set, times of day and bounds on the one that people read.

mod account;
mod course;
mod error;
mod policies;
mod text;
mod value;

#[cfg(feature = "calendar")]
mod calendar;
#[cfg(feature = "calendar")]
mod cron;
#[cfg(feature = "calendar")]
mod cron_fields;
#[cfg(feature = "calendar")]
mod daily;
#[cfg(feature = "calendar")]
mod local_time;
#[cfg(feature = "calendar")]
mod zone;

pub(crate) use account::Account;
pub(crate) use course::{Begins, Course, LeftOut, Moment, Now};
pub use error::ScheduleError;
#[cfg(feature = "calendar")]
pub use local_time::LocalTime;
pub(crate) use policies::Retry;
pub use policies::{MissedPolicy, OverlapPolicy, Trigger};
pub use value::{Schedule, Upcoming};
