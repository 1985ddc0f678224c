//! Telemetry that a thread emits on which others depend: the subscriber is the user's code, and may block forever.

use std::time::Duration;

use opentelemetry::Context as OtelContext;
use tracing::{Dispatch, dispatcher};

use crate::watchdog;

/// The longest time that a thread on which others depend waits for a record.
const RECORD_WITHIN: Duration = Duration::from_millis(100);

/// Emits a record on a thread of its own, as [`aside`] does.
pub(crate) fn record_aside(record: impl FnOnce() + Send + 'static) {
    aside(RECORD_WITHIN, Box::new(record));
}

/// Runs `emit` on a thread of its own, with the subscriber and the OpenTelemetry context of this thread. Waits for it for this time at
/// most, so that a record is there when its cause has been handled. Returns true if `emit` has returned.
pub(crate) fn aside(limit: Duration, emit: Box<dyn FnOnce() + Send>) -> bool {
    let subscriber = dispatcher::get_default(Dispatch::clone);
    let context = OtelContext::current();
    let emit = move || {
        let _attached = context.attach();
        dispatcher::with_default(&subscriber, emit);
    };
    watchdog::aside(limit, Box::new(emit))
}
