//! The settings of a manager.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use crate::{engine::shutdown::report::LastResort, policy::Panic, read::HealthThresholds, run::catch};

/// The first part of the names of the manager's own spans by default.
pub(crate) const DEFAULT_SPAN_PREFIX: &str = "bot";

pub(crate) struct Settings {
    pub(crate) span_prefix: Arc<str>,
    pub(crate) monitor_interval: Duration,
    pub(crate) shutdown_deadline: Duration,
    pub(crate) drain: Duration,
    pub(crate) spawn_grace: Duration,
    pub(crate) thresholds: HealthThresholds,
    pub(crate) runtime_stall: Duration,
    pub(crate) last_resort: LastResort,
    /// The source of jitter: numbers in `0.0..1.0`.
    pub(crate) random: Arc<dyn Fn() -> f64 + Send + Sync>,
    pub(crate) wall_clock: WallClock,
    /// `None` if there is no service manager.
    #[cfg(all(feature = "systemd", unix))]
    pub(crate) service: Option<crate::engine::Service>,
}

/// Returns a function that calls the user's, and uses the fallback if that panics. The first panic is reported.
pub(crate) fn or_else<T: 'static>(
    call: impl Fn() -> T + Send + Sync + 'static,
    fallback: fn() -> T,
    report: impl Fn(Panic) + Send + Sync + 'static,
) -> Arc<dyn Fn() -> T + Send + Sync> {
    let is_told = AtomicBool::new(false);
    Arc::new(move || {
        catch(true, &call).unwrap_or_else(|caught| {
            if !is_told.swap(true, SeqCst) {
                report(caught.panic);
            }
            fallback()
        })
    })
}

/// The interval at which a sleeping calendar loop reads the wall clock, which may be set, or jump after a suspend: 30 s.
pub(crate) const DEFAULT_WALL_CLOCK_STEP: Duration = Duration::from_secs(30);

/// The clock that people read.
pub(crate) struct WallClock {
    /// The user's clock; `None` for the clock of the system.
    pub(crate) read: Option<Arc<dyn Fn() -> SystemTime + Send + Sync>>,
    pub(crate) step: Duration,
}

impl WallClock {
    pub(crate) fn now(&self) -> SystemTime {
        self.read.as_ref().map_or_else(SystemTime::now, |read| read())
    }

    pub(crate) fn is_of_system(&self) -> bool {
        self.read.is_none()
    }
}

impl Default for WallClock {
    fn default() -> Self {
        Self { read: None, step: DEFAULT_WALL_CLOCK_STEP }
    }
}
