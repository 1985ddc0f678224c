//! A clock that counts suspension and that cannot be set.

use std::{fmt, sync::Arc, time::Duration};

/// An instant of a clock that continues while the machine is suspended, and that cannot be set.
///
/// On Linux and Android it is `CLOCK_BOOTTIME`, on macOS and other Unixes `CLOCK_MONOTONIC`, elsewhere [`Instant`](std::time::Instant).
/// Instants of two processes on one machine compare; instants of two machines do not.
///
/// ```
/// use otel_tasks::gate::BootInstant;
/// use std::time::Duration;
/// let now = BootInstant::now();
/// let later = now.saturating_add(Duration::from_secs(5));
/// assert_eq!(later.saturating_duration_since(now), Duration::from_secs(5));
/// assert_eq!(now.saturating_duration_since(later), Duration::ZERO);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootInstant(u64);

impl BootInstant {
    /// Reads the system's clock.
    pub fn now() -> Self {
        Self::after_boot(since_boot())
    }

    /// Returns the instant `time` after the clock began; for clocks of tests.
    pub fn after_boot(time: Duration) -> Self {
        Self(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Returns this instant plus `by`, or the last instant of the clock.
    #[must_use]
    pub fn saturating_add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(Self::after_boot(by).0))
    }

    /// Returns this instant minus `by`, or the first one of the clock.
    #[must_use]
    pub fn saturating_sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(Self::after_boot(by).0))
    }

    /// Returns the time since `earlier`; zero if that is later.
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    pub(super) fn to_bits(self) -> u64 {
        self.0
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

#[cfg(unix)]
fn since_boot() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CLOCK: ClockId = ClockId::Boottime;
    // macOS counts suspension with it.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const CLOCK: ClockId = ClockId::Monotonic;
    Duration::try_from(clock_gettime(CLOCK)).unwrap_or_default()
}

#[cfg(not(unix))]
fn since_boot() -> Duration {
    use std::{sync::OnceLock, time::Instant};
    static FIRST: OnceLock<Instant> = OnceLock::new();
    FIRST.get_or_init(Instant::now).elapsed()
}

/// The clock that a gate counts on: the system's by default, or a test's. Clones are the same clock.
#[derive(Clone, Default)]
pub struct BootClock(Option<Arc<dyn Fn() -> BootInstant + Send + Sync>>);

impl BootClock {
    /// The system's clock: [`BootInstant::now`].
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that shows what `now` returns, which must never go back.
    pub fn from_fn(now: impl Fn() -> BootInstant + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(now)))
    }

    /// Reads the clock.
    pub fn now(&self) -> BootInstant {
        match &self.0 {
            None => BootInstant::now(),
            Some(now) => now(),
        }
    }
}

impl fmt::Debug for BootClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BootClock").field(&self.now()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_goes_forward_with_the_steady_one() {
        let (boot, steady) = (BootInstant::now(), std::time::Instant::now());
        std::thread::sleep(Duration::from_millis(20));
        let went = BootInstant::now().saturating_duration_since(boot);
        assert!(went >= Duration::from_millis(20), "{went:?}");
        assert!(went <= steady.elapsed() + Duration::from_secs(60), "{went:?}");
    }

    #[test]
    fn no_time_overflows() {
        let last = BootInstant::after_boot(Duration::MAX);
        assert_eq!(last.saturating_add(Duration::MAX), last);
        assert_eq!(last.saturating_sub(Duration::MAX), BootInstant::after_boot(Duration::ZERO));
    }
}
