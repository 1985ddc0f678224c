//! The signals that come while a caller waits for the shutdown: each goes one step on.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::sync::MutexGuard;

use crate::engine::{
    Shared, ShutdownReport,
    shutdown::{
        os_signal::{FurtherSignals, further_signals},
        sequence::{abort, begin, shutdown_after},
    },
};

/// A caller that listens for signals on behalf of a manager. Of several callers one acts, so that a signal is one step.
pub(crate) struct Listener<'a> {
    shared: &'a Shared,
    turn: Option<MutexGuard<'a, ()>>,
    pub(crate) signals: FurtherSignals,
}

impl<'a> Listener<'a> {
    pub(crate) fn new(shared: &'a Shared) -> Self {
        Self { shared, turn: shared.listening.try_lock().ok(), signals: further_signals() }
    }

    /// Waits for the next signal that this caller has to act on.
    async fn next(&mut self) {
        if self.turn.is_none() {
            self.turn = Some(self.shared.listening.lock().await);
            // The caller before has acted on those that have come.
            self.signals.take_seen();
        }
        self.signals.next().await;
    }
}

/// Drains for so long, then shuts down. Each signal meanwhile goes one step on: from the drain to the ordered shutdown, and from there
/// to the end at once.
///
/// # Cancel safety
/// The shutdown goes on without its caller.
pub(crate) async fn shutdown_in_steps(
    shared: &Arc<Shared>,
    drain: Duration,
    mut listener: Listener<'_>,
) -> Arc<ShutdownReport> {
    let mut report = pin!(shutdown_after(shared, drain));
    loop {
        tokio::select! {
            // First: a signal that is seen before the drain has begun would end everything at once.
            biased;
            report = &mut report => return report,
            () = listener.next() => {}
        }
        if shared.drain.is_under_way() {
            begin(shared, None);
        } else {
            abort(shared);
        }
    }
}
