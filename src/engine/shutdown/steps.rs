//! The signals that come while a caller waits for the shutdown: each begins the next step.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use tokio::time::sleep;

use crate::engine::{
    Shared, ShutdownReport,
    shutdown::{
        guard::Guard,
        os_signal::{FurtherSignals, further_signals},
        sequence::{abort, begin, shutdown_after},
    },
};

/// The time that `run_until` has to act on a signal before another caller does.
const RUN_UNTIL_FIRST: Duration = Duration::from_millis(200);

/// A caller that listens for signals on behalf of a manager. Of several callers one acts on a signal, so that it is one step.
pub(crate) struct Listener<'a> {
    shared: &'a Shared,
    /// For the time that this caller waits.
    pub(crate) guard: Option<Guard>,
    /// True if the signals are left to this caller.
    leads: bool,
    /// The steps that this caller knows of.
    known: usize,
    pub(crate) signals: FurtherSignals,
}

impl<'a> Listener<'a> {
    pub(crate) fn new(shared: &'a Arc<Shared>) -> Self {
        Self {
            shared,
            guard: Guard::begin(shared),
            leads: false,
            known: shared.steps.load(SeqCst),
            signals: further_signals(),
        }
    }

    /// That of `run_until`, which others leave the signals to.
    pub(crate) fn leading(shared: &'a Arc<Shared>) -> Self {
        shared.leading.fetch_add(1, SeqCst);
        let mut leading = Self::new(shared);
        leading.leads = true;
        leading
    }

    /// This caller has acted on a signal: to the others it is no further one.
    pub(crate) fn acted(&mut self) {
        self.known = self.shared.steps.fetch_add(1, SeqCst) + 1;
    }

    /// Waits for the next signal that this caller has to act on.
    async fn next(&mut self) {
        loop {
            self.signals.next().await;
            if !self.leads && self.shared.leading.load(SeqCst) > 0 {
                // It may be kept and not polled: then the process must not be deaf.
                sleep(RUN_UNTIL_FIRST).await;
            }
            match self.shared.steps.compare_exchange(self.known, self.known + 1, SeqCst, SeqCst) {
                Ok(_) => {
                    self.known += 1;
                    return;
                }
                // Another caller has acted on this signal.
                Err(now) => self.known = now,
            }
        }
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        if self.leads {
            self.shared.leading.fetch_sub(1, SeqCst);
        }
    }
}

/// Drains for this time, then shuts down. Each signal meanwhile begins the next step: the ordered shutdown, and then
/// the end at once.
///
/// # Cancel safety
/// The shutdown continues without its caller.
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
