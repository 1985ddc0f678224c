//! The flush of the installed telemetry before the process exits at once. The pipelines register it, and the engine calls it.

use std::sync::OnceLock;

static FLUSH: OnceLock<fn()> = OnceLock::new();

/// Registers the flush. The first registration of a process stays.
#[cfg(feature = "otlp")]
pub(crate) fn flush_with(flush: fn()) {
    let _ = FLUSH.set(flush);
}

/// Flushes the installed telemetry, within one second. Does nothing if none is installed.
pub(crate) fn flush_before_exit() {
    if let Some(flush) = FLUSH.get() {
        flush();
    }
}
