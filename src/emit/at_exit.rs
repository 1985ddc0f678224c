//! The end of the installed telemetry: the flush before the process exits at once, which the pipelines register and the engine calls,
//! and whether the telemetry was dropped.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, Ordering::SeqCst},
};

static DROPPED: AtomicBool = AtomicBool::new(false);

/// The installed telemetry was dropped without its shutdown.
#[cfg(feature = "otlp-http")]
pub(crate) fn telemetry_dropped() {
    DROPPED.store(true, SeqCst);
}

/// Whether the installed telemetry was dropped without its shutdown.
pub(crate) fn is_telemetry_dropped() -> bool {
    DROPPED.load(SeqCst)
}

static FLUSH: OnceLock<fn()> = OnceLock::new();

/// Registers the flush. The first registration of a process stays.
#[cfg(feature = "otlp-http")]
pub(crate) fn flush_with(flush: fn()) {
    let _ = FLUSH.set(flush);
}

/// Flushes the installed telemetry, within one second. Does nothing if none is installed.
pub(crate) fn flush_before_exit() {
    if let Some(flush) = FLUSH.get() {
        flush();
    }
}
