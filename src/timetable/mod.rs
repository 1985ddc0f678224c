//! The due times of a loop's iterations: pure values and arithmetic. No clock, no tokio, no random source; the caller provides
//! the time.
//!
//! [`Schedule`] is the user's description. [`Course`] is the position of one life of a loop in it, and [`Account`] the state that a life
//! leaves to the next. Rhythms follow a monotonic clock, times of day and bounds the wall clock.

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
