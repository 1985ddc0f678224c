//! The locks and atomics that the cells and the tracker use: the standard library's, or loom's where they are model-checked.

#[cfg(not(otel_tasks_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic};

#[cfg(otel_tasks_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard, atomic};

/// Locks whatever a panic left behind: what is kept under our locks is whole at every moment that code of others can panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
