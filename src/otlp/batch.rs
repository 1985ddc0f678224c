//! The queue between the threads that end spans or log and the one thread that exports them.
//!
//! Why not the SDK's batch processors: they allocate their whole queue at once (65,536 spans are some 22 MB before the
//! first one), drop without saying what became of which item, wait for an export that hangs, and after a shutdown lose
//! items silently. Here every item is counted under the same lock that moves it, so the balance holds at every instant.
//!
//! Invariants:
//! 1. `ended = exported + queue_full + export_failed + after_shutdown + pending`, where `pending` is queued or in flight.
//! 2. `queued` is the sum of the chunks' lengths and never above the bound; the batch in flight comes on top.
//! 3. The lock is held for a push, a pop or an addition: never while exporting, dropping items or calling out.
//! 4. Items leave in the order in which they came; `taken` and `settled` count them.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};

use super::{
    ledger::{Change, Ledger, SignalBalance, Trend},
    settings::BatchSettings,
};
use crate::contract;

/// Hands batches of `T` to one thread.
pub(super) struct Batcher<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    settings: BatchSettings,
    state: Mutex<State<T>>,
    /// Wakes the worker: a full batch, a flush, the end.
    work: Condvar,
    /// Wakes who waits for the worker: items settled, worker gone.
    progress: Condvar,
}

struct State<T> {
    /// Chunks of one batch each, so that a batch is taken and given back as a whole and growing never moves old items.
    chunks: VecDeque<Vec<T>>,
    queued: usize,
    tally: SignalBalance,
    taken: u64,
    settled: u64,
    flush_to: u64,
    closed: bool,
    abandoned: bool,
    finished: bool,
    last_error: Option<String>,
    trend: Trend,
}

impl<T> Clone for Batcher<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> fmt::Debug for Batcher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batcher").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Batcher<T> {
    /// Starts a thread which calls `export` for one batch of `items` after another. `export` must not panic.
    pub(super) fn start(
        items: &'static str,
        settings: BatchSettings,
        mut export: impl FnMut(Vec<T>) -> OTelSdkResult + Send + 'static,
    ) -> std::io::Result<Self> {
        let state = State {
            chunks: VecDeque::new(),
            queued: 0,
            tally: SignalBalance::default(),
            taken: 0,
            settled: 0,
            flush_to: 0,
            closed: false,
            abandoned: false,
            finished: false,
            last_error: None,
            trend: Trend::default(),
        };
        let shared = Arc::new(Shared {
            settings,
            state: Mutex::new(state),
            work: Condvar::new(),
            progress: Condvar::new(),
        });
        let worker = Arc::clone(&shared);
        std::thread::Builder::new().name(format!("otel-tasks-{items}")).spawn(move || {
            // Nothing that exporting does may be exported.
            let _suppressed = opentelemetry::Context::enter_telemetry_suppressed_scope();
            let mut told = 0;
            while let Some(batch) = worker.next_batch() {
                let count = batch.len() as u64;
                let (change, refused) = worker.settle(count, export(batch));
                if let Some(change) = change {
                    change.tell(items);
                }
                // The first, and whenever they have doubled.
                if refused > told * 2 {
                    told = refused;
                    let bound = worker.settings.queue;
                    tracing::warn!(target: contract::SCOPE, "{refused} {items} were refused, {bound} waiting already");
                }
            }
        })?;
        Ok(Self { shared })
    }

    /// Queues an item, or counts why not. Never blocks on an export.
    pub(super) fn push(&self, item: T) {
        let shared = &*self.shared;
        let mut state = shared.lock();
        state.tally.ended += 1;
        if state.closed {
            state.tally.after_shutdown += 1;
            return;
        }
        if state.queued >= shared.settings.queue {
            state.tally.queue_full += 1;
            return;
        }
        state.queued += 1;
        let size = shared.settings.batch;
        match state.chunks.back_mut() {
            Some(chunk) if chunk.len() < size => chunk.push(item),
            _ => state.chunks.push_back(vec![item]),
        }
        let full = state.chunks.back().is_some_and(|chunk| chunk.len() == size);
        drop(state);
        if full {
            shared.work.notify_one();
        }
    }

    /// Waits until everything queued so far has been exported or has failed.
    pub(super) fn flush(&self, timeout: Duration) -> OTelSdkResult {
        let deadline = Instant::now() + timeout;
        let shared = &*self.shared;
        let mut state = shared.lock();
        let failed = state.tally.export_failed;
        let target = state.taken + state.queued as u64;
        state.flush_to = state.flush_to.max(target);
        shared.work.notify_one();
        while state.settled < target && !state.finished {
            state =
                shared.wait_until(&shared.progress, state, deadline).ok_or(OTelSdkError::Timeout(timeout))?;
        }
        state.failure_since(failed)
    }

    /// Admits nothing more; true the first time.
    pub(super) fn refuse(&self) -> bool {
        !std::mem::replace(&mut self.shared.lock().closed, true)
    }

    /// Admits nothing more, exports what is queued and ends the thread. A second call only waits.
    ///
    /// Past the deadline the thread is left behind in the export it is in, and exports nothing after it.
    pub(super) fn close(&self, timeout: Duration) -> OTelSdkResult {
        let deadline = Instant::now() + timeout;
        let shared = &*self.shared;
        let mut state = shared.lock();
        let failed = state.tally.export_failed;
        state.closed = true;
        shared.work.notify_one();
        while !state.finished && !state.abandoned {
            match shared.wait_until(&shared.progress, state, deadline) {
                Some(woken) => state = woken,
                None => {
                    shared.lock().abandoned = true;
                    shared.work.notify_one();
                    return Err(OTelSdkError::Timeout(timeout));
                }
            }
        }
        state.failure_since(failed)
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` once the deadline has passed.
    fn wait_until<'a>(
        &self,
        condvar: &Condvar,
        state: MutexGuard<'a, State<T>>,
        deadline: Instant,
    ) -> Option<MutexGuard<'a, State<T>>> {
        let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        Some(condvar.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Waits for the next batch; `None` ends the worker.
    fn next_batch(&self) -> Option<Vec<T>> {
        let mut state = self.lock();
        let mut due = Instant::now() + self.settings.delay;
        loop {
            let wanted = state.closed
                || state.flush_to > state.taken
                || state.chunks.front().is_some_and(|chunk| chunk.len() >= self.settings.batch)
                || Instant::now() >= due;
            if state.abandoned {
                break;
            }
            let batch = if wanted { state.chunks.pop_front() } else { None };
            if let Some(batch) = batch {
                state.queued -= batch.len();
                state.taken += batch.len() as u64;
                return Some(batch);
            }
            if state.closed {
                break;
            }
            let now = Instant::now();
            if now >= due {
                due = now + self.settings.delay;
            }
            state = self.work.wait_timeout(state, due - now).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.finished = true;
        let left = std::mem::take(&mut state.chunks);
        drop(state);
        self.progress.notify_all();
        drop(left);
        None
    }

    /// Counts a batch; tells what is new of the exporter, and how many items have been refused so far.
    fn settle(&self, count: u64, result: OTelSdkResult) -> (Option<Change>, u64) {
        let mut state = self.lock();
        state.settled += count;
        let news = (state.trend.note(count, &result), state.tally.queue_full);
        match result {
            Ok(()) => state.tally.exported += count,
            Err(error) => {
                state.tally.export_failed += count;
                state.last_error = Some(error.to_string());
            }
        }
        drop(state);
        self.progress.notify_all();
        news
    }
}

impl<T> State<T> {
    fn failure_since(&self, failed: u64) -> OTelSdkResult {
        if self.tally.export_failed == failed {
            return Ok(());
        }
        Err(OTelSdkError::InternalFailure(self.last_error.clone().unwrap_or_default()))
    }
}

impl<T: Send + 'static> Ledger for Batcher<T> {
    fn read(&self) -> SignalBalance {
        self.shared.lock().tally.with_pending()
    }

    fn failure(&self) -> Option<String> {
        let state = self.shared.lock();
        state.last_error.clone().filter(|_| state.trend.is_failing())
    }
}

#[cfg(test)]
mod tests;
