//! The queue between the threads that end spans or log and the one thread that exports them.
//!
//! It replaces the batch processors of the SDK, for four reasons:
//!
//! - They allocate their whole queue at once: 65,536 spans are some 22 MB before the first one.
//! - They drop items without a count of each.
//! - They wait for an export that hangs.
//! - They lose items silently after a shutdown.
//!
//! Here every item is counted under the same lock that moves it, so the balance is correct at every instant.
//!
//! Invariants:
//! 1. `ended` is the sum of `exported`, what was lost for each reason, and `pending`, which is queued or in flight.
//! 2. `queued` is the sum of the chunks' lengths and `bytes` the sum of their items' weights. Neither is above its bound; the
//!    batch in flight is not included.
//! 3. The lock is held for a push, a pop or an addition: never while exporting, dropping items or calling out.
//! 4. Items leave in the order in which they came; `taken` and `settled` count them.
//! 5. A batch whose export may succeed later stays in flight while the queue has room. So an outage that is shorter
//!    than the queue loses nothing.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};

use super::{
    ledger::{Ledger, SignalBalance, Trend},
    runtime::start_suppressed,
    settings::{BatchSettings, capped},
    transport::{Cause, Failure},
    weight::Weighs,
};
use crate::{contract, emit::record_aside, run::catch};

/// Hands batches of `T` to one thread.
pub(super) struct Batcher<T> {
    shared: Arc<Shared<T>>,
}

/// The time for which a batch is kept whose export may succeed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Persistence {
    WhileThereIsRoom,
    /// For what the next item says again: cumulative metrics. A newer one takes the place of what waits.
    UntilTheNext,
}

struct Shared<T> {
    settings: BatchSettings,
    persistence: Persistence,
    state: Mutex<State<T>>,
    /// Wakes the worker: a full batch, a flush, the end.
    work: Condvar,
    /// Wakes who waits for the worker: items settled, another attempt to come, worker gone.
    progress: Condvar,
}

struct State<T> {
    /// Chunks of one batch each, so that a batch is taken and given back as a whole and growing never moves old items.
    chunks: VecDeque<Chunk<T>>,
    queued: usize,
    bytes: usize,
    tally: SignalBalance,
    taken: u64,
    settled: u64,
    flush_to: u64,
    flushes: u64,
    closed: bool,
    /// The number of items lost in exports when it was closed, or when a call of [`Batcher::close`] has returned.
    lost_before: u64,
    /// The end has begun: what fails now has no time left.
    hurried: bool,
    /// Further attempts of a closing queue whose receiver has never taken anything.
    last_attempts: u32,
    abandoned: bool,
    finished: bool,
    /// True if the receiver has ever taken anything.
    delivered: bool,
    /// True if an item was refused since the last batch was taken.
    full: bool,
    /// Collections that failed, and that a newer one said again.
    superseded: u64,
    /// True if the batch on its way was given up for a newer one.
    is_superseded: bool,
    /// Attempts that began, ever.
    attempts: u64,
    /// The number of flushes when the last of them began.
    flushes_seen: u64,
    /// The last attempt after which was waited for another.
    waits: u64,
    /// True if an attempt of the batch on its way has failed.
    is_tried: bool,
    /// True if the batch on its way has failed once and waits for another attempt.
    is_waited: bool,
    /// True if a pause is on that the receiver asked for.
    is_paused: bool,
    last_error: Option<String>,
    /// The reason why nothing of the last request was taken, or the last attempt failed.
    failing: Option<Failure>,
    /// The reason why a part of the last batch was lost.
    loss: Option<Failure>,
    /// True if something was lost of which no line was written.
    unreported: bool,
    trend: Trend,
}

struct Chunk<T> {
    items: Vec<T>,
    bytes: usize,
    full: bool,
}

/// The fate of a batch.
#[derive(Debug, Default)]
pub(super) struct Settled {
    pub(super) exported: u64,
    pub(super) failed: u64,
    pub(super) too_large: u64,
    /// Rejected inside of a request that was taken; a collection, if each of its data points was.
    pub(super) rejected: u64,
    /// Rejected data points.
    pub(super) rejected_points: u64,
    /// The last failure, if anything was lost.
    pub(super) error: Option<Failure>,
    /// The text of the receiver for a request that it took.
    pub(super) words: String,
}

/// True if a failed export is to be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    Again,
    /// The batch is lost.
    GiveUp,
    /// The queue is left behind past its deadline: what was not delivered stays pending.
    Abandoned,
}

/// The queue as who exports sees it.
pub(super) trait Waiting {
    /// Notes a failed attempt.
    fn failed(&self, failure: &Failure);

    /// Notes an attempt of which something was taken.
    fn delivered(&self);

    /// Notes that an attempt begins. False if none may, as the queue is left behind past its deadline.
    fn begins(&self) -> bool;

    /// Waits before another attempt until `delay` has passed or the end begins. A wait that the receiver did not ask for also ends
    /// if somebody flushes, and within a second if the queue is full.
    fn wait(&self, delay: Duration, is_asked: bool) -> Patience;
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

impl<T: Weighs + Send + 'static> Batcher<T> {
    /// Starts a thread which calls `export` for one batch of `items` after another. A batch with which `export` panics is lost.
    pub(super) fn start(
        items: &'static str,
        settings: BatchSettings,
        persistence: Persistence,
        mut export: impl FnMut(Vec<T>, &dyn Waiting) -> Settled + Send + 'static,
    ) -> std::io::Result<Self> {
        let state = State {
            chunks: VecDeque::new(),
            queued: 0,
            bytes: 0,
            tally: SignalBalance::default(),
            taken: 0,
            settled: 0,
            flush_to: 0,
            flushes: 0,
            closed: false,
            lost_before: 0,
            hurried: false,
            last_attempts: 2,
            abandoned: false,
            finished: false,
            delivered: false,
            full: false,
            superseded: 0,
            is_superseded: false,
            attempts: 0,
            flushes_seen: 0,
            waits: 0,
            is_tried: false,
            is_waited: false,
            is_paused: false,
            last_error: None,
            failing: None,
            loss: None,
            unreported: false,
            trend: Trend::new(items),
        };
        let shared = Arc::new(Shared {
            settings,
            persistence,
            state: Mutex::new(state),
            work: Condvar::new(),
            progress: Condvar::new(),
        });
        let worker = Arc::clone(&shared);
        // Nothing that exporting does may be exported.
        let work = move || {
            let mut losses = Losses { items, ..Losses::default() };
            while let Some(batch) = worker.next() {
                let mut words = String::new();
                let mut error = None;
                if let Some(batch) = batch {
                    let count = batch.len() as u64;
                    let settled = catch(false, || export(batch, &*worker)).unwrap_or_else(|caught| {
                        Settled::lost(
                            count,
                            Cause::Other(format!("exporting panicked: {}", caught.panic.text)),
                            &*worker,
                        )
                    });
                    words = settled.words.clone();
                    error = worker.settle(count, settled);
                }
                let tally = worker.lock().tally;
                losses.report(&tally, &worker.settings, error.as_ref(), &words);
            }
        };
        start_suppressed(&format!("otel-tasks-{items}"), Box::new(work))?;
        Ok(Self { shared })
    }

    /// Queues an item, or counts why not. Never blocks on an export.
    pub(super) fn push(&self, item: T) {
        // Counted, and reported by the worker.
        let _ = self.admit(item);
    }

    /// # Errors
    ///
    /// Why the item was not queued.
    fn admit(&self, item: T) -> Result<(), &'static str> {
        let shared = &*self.shared;
        let (settings, weight) = (&shared.settings, item.weight());
        let mut state = shared.lock();
        state.tally.ended += 1;
        if state.closed {
            state.tally.after_shutdown += 1;
            return Err("telemetry was shut down");
        }
        if weight > settings.batch_bytes {
            let why = "it is larger than a batch";
            state.tally.too_large += 1;
            (state.unreported, state.last_error) = (true, Some(why.to_owned()));
            drop(state);
            shared.work.notify_one();
            return Err(why);
        }
        // Dropped after the lock.
        let older = match shared.persistence {
            Persistence::UntilTheNext => state.displace(),
            Persistence::WhileThereIsRoom => VecDeque::new(),
        };
        if state.queued >= settings.queue || state.bytes + weight > settings.bytes {
            state.tally.queue_full += 1;
            state.unreported = true;
            // Who waits to try again must not wait on.
            let first = !std::mem::replace(&mut state.full, true);
            drop(state);
            if first {
                shared.work.notify_one();
            }
            return Err("the queue is full");
        }
        state.queued += 1;
        state.bytes += weight;
        match state.chunks.back_mut() {
            Some(chunk) if !chunk.full && chunk.bytes + weight <= settings.batch_bytes => {
                chunk.items.push(item);
                chunk.bytes += weight;
            }
            last => {
                if let Some(last) = last {
                    last.full = true;
                }
                state.chunks.push_back(Chunk { items: vec![item], bytes: weight, full: false });
            }
        }
        let chunk = state.chunks.back_mut().expect("an item was just pushed");
        chunk.full |= chunk.items.len() >= settings.batch;
        let wake = state.chunks.front().is_some_and(|chunk| chunk.full);
        drop(state);
        drop(older);
        if wake {
            shared.work.notify_one();
        }
        Ok(())
    }

    /// Waits until everything queued so far has been exported or has failed. A receiver that has never taken anything is
    /// waited for no longer than the next attempt, which costs nothing: what was queued stays so.
    pub(super) fn flush(&self, timeout: Duration) -> OTelSdkResult {
        let lost = self.shared.lock().lost();
        let mut before = None;
        self.settle_within(timeout, |state, _| {
            let is_tried_again = state.waits > *before.get_or_insert(state.attempts);
            !state.delivered && (state.is_paused || is_tried_again)
        })?;
        self.shared.lock().loss_since(lost)
    }

    /// Queues an item and waits until it has been exported or has failed. A newer item may take its place. Returns the fate of that
    /// item alone.
    ///
    /// The wait lasts at most one attempt that begins now, of this item or of an item that must be delivered before it. It does not include
    /// a pause that the receiver requested.
    pub(super) fn push_and_wait(&self, item: T, timeout: Duration) -> OTelSdkResult {
        self.admit(item).map_err(|why| OTelSdkError::InternalFailure(why.to_owned()))?;
        let persistence = self.shared.persistence;
        let mut before = None;
        self.settle_within(timeout, |state, target| {
            let is_tried_again = state.waits > *before.get_or_insert(state.attempts);
            state.is_paused
                || match persistence {
                    Persistence::UntilTheNext => state.taken >= target && state.is_waited,
                    Persistence::WhileThereIsRoom => is_tried_again,
                }
        })?;
        let state = self.shared.lock();
        match &state.failing {
            Some(failure) => Err(OTelSdkError::InternalFailure(failure.to_string())),
            None => Ok(()),
        }
    }

    /// Waits until what is queued now is settled, or until `gives_up` of the state and the number of the last item.
    fn settle_within(
        &self,
        timeout: Duration,
        mut gives_up: impl FnMut(&State<T>, u64) -> bool,
    ) -> OTelSdkResult {
        let deadline = Instant::now() + capped(timeout);
        let shared = &*self.shared;
        let mut state = shared.lock();
        let target = state.taken + state.queued as u64;
        state.flush_to = state.flush_to.max(target);
        state.flushes += 1;
        shared.work.notify_one();
        while state.settled < target && !state.finished {
            if gives_up(&state, target) {
                let failure = state.failing.as_ref().map(Failure::to_string);
                return Err(OTelSdkError::InternalFailure(failure.unwrap_or_default()));
            }
            state =
                shared.wait_until(&shared.progress, state, deadline).ok_or(OTelSdkError::Timeout(timeout))?;
        }
        Ok(())
    }

    /// Admits nothing more; true the first time.
    pub(super) fn refuse(&self) -> bool {
        self.shared.lock().refuse()
    }

    /// Says that the end has begun: waits between attempts become short.
    pub(super) fn hurry(&self) {
        self.shared.lock().hurried = true;
        self.shared.work.notify_one();
    }

    /// Admits nothing more, exports what is queued and ends the thread. A second call only waits, and does not wait for a thread that was left
    /// behind.
    ///
    /// Past the deadline the thread is left behind in the export it is in, and exports nothing after it. A receiver that has
    /// never taken anything gets two more attempts; then what is left has one for each batch.
    ///
    /// # Errors
    ///
    /// Why something was lost since nothing more is admitted, or that the time is over, or was over in an earlier call.
    pub(super) fn close(&self, timeout: Duration) -> OTelSdkResult {
        let deadline = Instant::now() + capped(timeout);
        let shared = &*self.shared;
        let mut state = shared.lock();
        state.refuse();
        state.hurried = true;
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
        let lost = state.lost_before;
        state.lost_before = state.lost();
        // An earlier call may have left it behind.
        if state.tally.with_pending().pending > 0 {
            return Err(OTelSdkError::Timeout(timeout));
        }
        state.loss_since(lost)
    }

    /// Returns why something was lost in an export, last.
    pub(super) fn last_loss(&self) -> Option<String> {
        self.shared.lock().last_error.clone()
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

    /// Waits for the next batch, or for a loss to report (`Some(None)`). `None` ends the worker.
    fn next(&self) -> Option<Option<Vec<T>>> {
        let mut state = self.lock();
        let mut due = Instant::now() + self.settings.delay;
        loop {
            let wanted = state.closed
                || state.flush_to > state.taken
                || state.chunks.front().is_some_and(|chunk| chunk.full)
                || Instant::now() >= due;
            if state.abandoned {
                break;
            }
            let batch = if wanted { state.chunks.pop_front() } else { None };
            if let Some(Chunk { items, bytes, .. }) = batch {
                state.queued -= items.len();
                state.bytes -= bytes;
                state.taken += items.len() as u64;
                (state.full, state.unreported) = (false, false);
                (state.is_tried, state.is_waited) = (false, false);
                return Some(Some(items));
            }
            if std::mem::take(&mut state.unreported) {
                return Some(None);
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

    /// Counts a batch; returns the failure that lost a part of it.
    fn settle(&self, count: u64, settled: Settled) -> Option<Failure> {
        let mut state = self.lock();
        state.settled += count;
        if std::mem::take(&mut state.is_superseded) {
            state.superseded += settled.failed;
        }
        let tally = &mut state.tally;
        tally.exported += settled.exported;
        tally.export_failed += settled.failed;
        tally.too_large += settled.too_large;
        tally.rejected += settled.rejected;
        tally.rejected_points = tally.rejected_points.saturating_add(settled.rejected_points);
        if let Some(error) = &settled.error {
            state.last_error = Some(error.to_string());
        }
        if settled.exported > 0 || settled.error.is_some() {
            state.failing = settled.error.clone().filter(|_| settled.exported == 0);
            state.loss = settled.error.clone();
        }
        drop(state);
        self.progress.notify_all();
        settled.error
    }
}

impl<T> Waiting for Shared<T> {
    fn failed(&self, failure: &Failure) {
        let mut state = self.lock();
        state.is_tried = true;
        state.failing = Some(failure.clone());
        let lost = state.tally.queue_full + state.tally.lost_in_export();
        let change = state.trend.fails(failure, lost);
        drop(state);
        if let Some(change) = change {
            record_aside(move || change.report());
        }
    }

    fn delivered(&self) {
        let mut state = self.lock();
        state.delivered = true;
        state.failing = None;
        let lost = state.tally.queue_full + state.tally.lost_in_export();
        let change = state.trend.works(lost);
        drop(state);
        if let Some(change) = change {
            record_aside(move || change.report());
        }
    }

    fn begins(&self) -> bool {
        let mut state = self.lock();
        state.attempts += 1;
        state.flushes_seen = state.flushes;
        !state.abandoned
    }

    fn wait(&self, delay: Duration, is_asked: bool) -> Patience {
        /// At the end, when there are seconds left at most.
        const HURRIED: Duration = Duration::from_millis(200);
        /// With a full queue: a receiver that is down is not asked for each item that is refused.
        const FULL: Duration = Duration::from_secs(1);
        let mut state = self.lock();
        let superseded = |state: &State<T>| self.persistence == Persistence::UntilTheNext && state.queued > 0;
        if state.full {
            return Patience::GiveUp;
        }
        // Who waits for the newer one waits for its own attempt.
        if superseded(&state) {
            state.is_superseded = true;
            return Patience::GiveUp;
        }
        // A pause from before its first attempt is no failure of the batch.
        (state.waits, state.is_waited, state.is_paused) = (state.attempts, state.is_tried, is_asked);
        self.progress.notify_all();
        let began = Instant::now();
        let mut until = began + delay;
        let patience = loop {
            if state.abandoned {
                break Patience::Abandoned;
            }
            if superseded(&state) {
                state.is_superseded = true;
                break Patience::GiveUp;
            }
            if state.full && is_asked {
                break Patience::GiveUp;
            }
            if state.full {
                until = until.min(began + FULL);
            }
            if state.hurried {
                if !state.delivered && state.last_attempts == 0 {
                    break Patience::GiveUp;
                }
                until = until.min(Instant::now() + HURRIED);
            }
            let now = Instant::now();
            if now >= until || (state.flushes != state.flushes_seen && !is_asked) {
                if state.hurried {
                    state.last_attempts = state.last_attempts.saturating_sub(1);
                }
                break Patience::Again;
            }
            state = self.work.wait_timeout(state, until - now).unwrap_or_else(PoisonError::into_inner).0;
        };
        state.is_paused = false;
        patience
    }
}

impl<T> State<T> {
    /// Admits nothing more; true the first time.
    fn refuse(&mut self) -> bool {
        if self.closed {
            return false;
        }
        self.closed = true;
        // Here, and not when somebody begins to wait: the worker may be faster.
        self.lost_before = self.lost();
        true
    }

    /// Returns the number of items that were lost in an export, without collections that a newer one said again.
    fn lost(&self) -> u64 {
        self.tally.lost_in_export() - self.superseded
    }

    /// Removes what waits, which counts as failed: a newer item says it again. Who waits for it waits for that one.
    fn displace(&mut self) -> VecDeque<Chunk<T>> {
        let count = self.queued as u64;
        self.tally.export_failed += count;
        self.superseded += count;
        (self.queued, self.bytes) = (0, 0);
        std::mem::take(&mut self.chunks)
    }

    fn loss_since(&self, lost: u64) -> OTelSdkResult {
        if self.lost() == lost {
            return Ok(());
        }
        Err(OTelSdkError::InternalFailure(self.last_error.clone().unwrap_or_default()))
    }
}

/// The losses so far, and the reported ones: the first, and each time the number has doubled.
#[derive(Default)]
struct Losses {
    items: &'static str,
    queue_full: u64,
    too_large: u64,
    rejected: u64,
    words: String,
}

impl Losses {
    fn report(
        &mut self,
        tally: &SignalBalance,
        settings: &BatchSettings,
        error: Option<&Failure>,
        words: &str,
    ) {
        fn doubled(reported: &mut u64, count: u64) -> bool {
            let news = count > reported.saturating_mul(2);
            if news {
                *reported = count;
            }
            news
        }
        let items = self.items;
        if doubled(&mut self.queue_full, tally.queue_full) {
            let (count, bound, bytes) = (tally.queue_full, settings.queue, settings.bytes);
            warn(format!(
                "{count} {items} were refused: the queue is full, with room for {bound} {items} and {bytes} B"
            ));
        }
        if doubled(&mut self.too_large, tally.too_large) {
            let (count, bound) = (tally.too_large, settings.batch_bytes);
            match error.filter(|error| matches!(error.cause, Cause::TooLarge(_))) {
                Some(error) => warn(format!("{count} {items} were too large: {error}")),
                None => warn(format!("{count} {items} were too large: more than the {bound} B of a batch")),
            }
        }
        let (rejected, what) = match tally.rejected_points {
            0 => (tally.rejected, items),
            points => (points, "data points"),
        };
        if doubled(&mut self.rejected, rejected) {
            warn(format!("the receiver rejected {rejected} {what}: {words:?}"));
        } else if !words.is_empty() && words != self.words {
            warn(format!("the receiver of {items} says: {words:?}"));
        }
        self.words = words.to_owned();
    }
}

/// Emits a record. The subscriber is the user's: if it panics or blocks forever, the export continues.
fn warn(text: String) {
    record_aside(move || tracing::warn!(target: contract::SCOPE, "{text}"));
}

impl<T: Weighs + Send + 'static> Ledger for Batcher<T> {
    fn read(&self) -> SignalBalance {
        self.shared.lock().tally.with_pending()
    }

    fn failure(&self) -> Option<String> {
        self.shared.lock().failing.as_ref().map(Failure::reason)
    }

    fn loss(&self) -> Option<String> {
        self.shared.lock().loss.as_ref().map(Failure::reason)
    }
}

#[cfg(test)]
mod tests;
