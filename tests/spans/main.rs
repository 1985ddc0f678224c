//! The spans of runs and of the manager's own work, and the layer that exports them.

#[path = "../support/mod.rs"]
mod support;

mod direct;
mod layer;
mod parents;
mod runs;

/// One test at a time: with a single dispatcher alive, `tracing` asks whatever thread comes first what a callsite is worth.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
