//! The flush before the process exits at once, which the pipelines register and the engine calls.

use std::sync::OnceLock;

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
