//! Leases in virtual time.

use std::time::Duration;

use otel_tasks::gate::{BootClock, BootInstant};
use otel_tasks_lease::{LeaseStore, Leases};
use tokio::{runtime::Handle, time::Instant};

pub(crate) const TTL: Duration = secs(15);

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) const fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Leases of a store, on the clock of the runtime.
pub(crate) fn leases(store: impl LeaseStore) -> Leases {
    // The reader of metrics has a thread of its own, which would see the system's clock.
    let (began, runtime) = (Instant::now(), Handle::current());
    let clock = BootClock::from_fn(move || {
        let _inside = runtime.enter();
        BootInstant::after_boot(began.elapsed())
    });
    Leases::on(store, clock)
}
