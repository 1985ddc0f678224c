//! The locks and atomics of what threads share without waiting for each other: the standard library's, or loom's where
//! every interleaving is tried.
//!
//! The models stand in the files whose protocol they try, in `mod loom`:
//! `RUSTFLAGS="--cfg otel_tasks_loom" cargo test --release --lib --no-default-features --target-dir target/loom loom`.

#[cfg(not(all(test, otel_tasks_loom)))]
pub(crate) use std::sync::{Mutex, MutexGuard, OnceLock, RwLock, atomic};

#[cfg(not(all(test, otel_tasks_loom)))]
pub(crate) use once_cell::race::OnceBox;

#[cfg(all(test, otel_tasks_loom))]
pub(crate) use loom::sync::{Mutex, MutexGuard, RwLock, atomic};

/// The `OnceLock` of the standard library, with its guarantee visible to loom: a reader of the value sees all earlier writes of the setter.
#[cfg(all(test, otel_tasks_loom))]
#[derive(Debug)]
pub(crate) struct OnceLock<T> {
    value: std::sync::OnceLock<T>,
    set: Mutex<bool>,
}

#[cfg(all(test, otel_tasks_loom))]
impl<T> Default for OnceLock<T> {
    fn default() -> Self {
        Self { value: std::sync::OnceLock::new(), set: Mutex::default() }
    }
}

#[cfg(all(test, otel_tasks_loom))]
impl<T> OnceLock<T> {
    pub(crate) fn get(&self) -> Option<&T> {
        if *lock(&self.set) { self.value.get() } else { None }
    }

    pub(crate) fn get_or_init(&self, init: impl FnOnce() -> T) -> &T {
        let mut set = lock(&self.set);
        *set = true;
        self.value.get_or_init(init)
    }
}

/// The `OnceBox` of once_cell, of which loom sees the same as of [`OnceLock`].
#[cfg(all(test, otel_tasks_loom))]
#[derive(Debug)]
pub(crate) struct OnceBox<T>(OnceLock<Box<T>>);

#[cfg(all(test, otel_tasks_loom))]
impl<T> Default for OnceBox<T> {
    fn default() -> Self {
        Self(OnceLock::default())
    }
}

#[cfg(all(test, otel_tasks_loom))]
impl<T> OnceBox<T> {
    pub(crate) fn get(&self) -> Option<&T> {
        self.0.get().map(|value| &**value)
    }

    pub(crate) fn get_or_init(&self, init: impl FnOnce() -> Box<T>) -> &T {
        self.0.get_or_init(init)
    }
}

/// Locks whatever a panic left behind: what is kept under our locks is whole at every moment that code of others can panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Tries every interleaving with at most `preemptions` switches that no thread asked for.
#[cfg(all(test, otel_tasks_loom))]
pub(crate) fn model(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    // `LOOM_MAX_PREEMPTIONS` goes before.
    model.preemption_bound = model.preemption_bound.or(Some(preemptions));
    // A snapshot reads some two hundred atomics.
    model.max_branches = 20_000;
    model.check(body);
}
