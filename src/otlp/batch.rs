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
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn settings(queue: usize, batch: usize) -> BatchSettings {
        BatchSettings { queue, batch, delay: LONG, timeout: LONG }
    }

    /// A batcher whose every export waits for a word from the test.
    fn gated(
        queue: usize,
        batch: usize,
    ) -> (Batcher<u32>, mpsc::Receiver<Vec<u32>>, mpsc::Sender<OTelSdkResult>) {
        let (seen_tx, seen) = mpsc::channel();
        let (go, go_rx) = mpsc::channel::<OTelSdkResult>();
        let batcher = Batcher::start("test", settings(queue, batch), move |batch| {
            let _ = seen_tx.send(batch);
            go_rx.recv().unwrap_or(Ok(()))
        });
        (batcher.unwrap_or_else(|error| panic!("{error}")), seen, go)
    }

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_full_batch_leaves_at_once_and_a_part_waits_for_its_time_or_a_flush() {
        let (batcher, seen, go) = gated(10, 2);
        (0..3).for_each(|item| batcher.push(item));
        assert_eq!(seen.recv(), Ok(vec![0, 1]));
        go.send(Ok(())).unwrap_or_default();
        assert!(seen.recv_timeout(Duration::from_millis(50)).is_err(), "half a batch waits");
        batcher.push(3);
        assert_eq!(seen.recv_timeout(SOON), Ok(vec![2, 3]), "the other half wakes the thread");
        go.send(Ok(())).unwrap_or_default();
        batcher.push(4);
        go.send(Ok(())).unwrap_or_default();
        assert!(batcher.flush(LONG).is_ok());
        assert_eq!(seen.recv(), Ok(vec![4]));
        assert_eq!(batcher.read().exported, 5);
    }

    #[test]
    fn a_flush_waits_for_what_was_there_and_takes_nothing_that_came_after() {
        let (batcher, seen, go) = gated(10, 2);
        for item in [0, 10] {
            batcher.push(item);
            std::thread::scope(|scope| {
                let flush = scope.spawn(|| batcher.flush(LONG));
                assert_eq!(seen.recv_timeout(SOON), Ok(vec![item]));
                batcher.push(item + 1);
                assert!(!flush.is_finished());
                go.send(Ok(())).unwrap_or_default();
                assert!(flush.join().is_ok_and(|flushed| flushed.is_ok()));
            });
            assert!(seen.recv_timeout(Duration::from_millis(50)).is_err(), "half a batch waits");
            batcher.push(item + 2);
            assert_eq!(seen.recv_timeout(SOON), Ok(vec![item + 1, item + 2]));
            go.send(Ok(())).unwrap_or_default();
        }
    }

    #[test]
    fn who_refuses_first_is_told_and_nothing_is_admitted_after_it() {
        let (batcher, _seen, _go) = gated(10, 2);
        assert!(batcher.refuse());
        assert!(!batcher.refuse());
        batcher.push(0);
        let balance = batcher.read();
        assert_eq!((balance.ended, balance.after_shutdown), (1, 1));
    }

    #[test]
    fn the_bound_refuses_exactly_what_is_beyond_it() {
        let (batcher, seen, go) = gated(4, 2);
        (0..2).for_each(|item| batcher.push(item));
        assert_eq!(seen.recv(), Ok(vec![0, 1]), "one batch is in flight, the queue is empty");
        (2..9).for_each(|item| batcher.push(item));
        let balance = batcher.read();
        assert_eq!((balance.ended, balance.queue_full, balance.pending), (9, 3, 6));
        let closing = batcher.clone();
        let verdicts = std::thread::spawn(move || {
            while !closing.shared.lock().closed {
                std::thread::yield_now();
            }
            go.send(Err(OTelSdkError::InternalFailure("no".into()))).unwrap_or_default();
            go.send(Ok(())).unwrap_or_default();
            go.send(Ok(())).unwrap_or_default();
        });
        assert!(batcher.close(LONG).is_err(), "a failure while closing is told");
        assert!(verdicts.join().is_ok());
        batcher.push(9);
        let b = batcher.read();
        assert_eq!(
            (b.ended, b.exported, b.queue_full, b.export_failed, b.after_shutdown, b.pending),
            (10, 4, 3, 2, 1, 0)
        );
        assert!(batcher.close(LONG).is_ok(), "a second close has nothing to say");
    }

    #[test]
    fn a_hung_export_does_not_hold_up_the_end() {
        let (batcher, seen, go) = gated(10, 1);
        (0..3).for_each(|item| batcher.push(item));
        assert_eq!(seen.recv(), Ok(vec![0]));
        assert!(matches!(batcher.close(Duration::from_millis(20)), Err(OTelSdkError::Timeout(_))));
        let b = batcher.read();
        assert_eq!((b.exported, b.pending), (0, 3));
        drop(go);
        assert!(seen.recv().is_err(), "after its export the thread ends without another");
        assert_eq!(batcher.read().pending, 2);
    }
    /// Lines of a log, without their time.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_failing_export_is_one_line_and_refusals_are_one_each_time_they_have_doubled() {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().without_time().with_ansi(false).with_target(false);
        let log = tracing::Dispatch::new(log.with_writer(move || writer.clone()).finish());
        // While there is but one, `tracing` asks whatever thread comes first what a callsite is worth.
        let _another = tracing::Dispatch::new(tracing_subscriber::registry());
        let (seen_tx, seen) = mpsc::channel();
        let (go, go_rx) = mpsc::channel::<OTelSdkResult>();
        let batcher = Batcher::start("tests", settings(2, 1), move |batch: Vec<u32>| {
            std::mem::forget(tracing::dispatcher::set_default(&log));
            let _ = seen_tx.send(batch);
            go_rx.recv().unwrap_or(Ok(()))
        });
        let batcher = batcher.unwrap_or_else(|error| panic!("{error}"));
        let failed = || Err(OTelSdkError::InternalFailure("no".to_owned()));
        // One is on its way and two may wait: what comes beyond is refused.
        batcher.push(0);
        for (pushed, result) in
            [(2, Ok(())), (1, failed()), (2, failed()), (2, Ok(())), (2, Ok(())), (4, Ok(())), (0, Ok(()))]
        {
            assert!(seen.recv_timeout(SOON).is_ok());
            (0..pushed).for_each(|item| batcher.push(item));
            go.send(result).unwrap_or_default();
        }
        drop(go);
        assert!(batcher.close(SOON).is_ok());
        assert_eq!(batcher.read().queue_full, 6);
        let lines = lines.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = OTelSdkError::InternalFailure("no".to_owned()).to_string();
        let expected = [
            format!(" WARN export of tests fails: {failure}"),
            " WARN 1 tests were refused, 2 waiting already".to_owned(),
            " INFO export of tests works again, 2 were lost".to_owned(),
            " WARN 3 tests were refused, 2 waiting already".to_owned(),
        ];
        let lines = String::from_utf8_lossy(&lines);
        assert_eq!(lines.lines().collect::<Vec<_>>(), expected);
    }
    /// Seen to fail where the time to look at a part is not set anew while there is none: then the thread spins.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_part_leaves_at_its_time_and_an_idle_thread_sleeps() {
        /// `None` where the kernel does not count it.
        fn on_processor() -> Option<Duration> {
            let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
            stat.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
        }
        let (tell, told) = mpsc::channel();
        let settings = BatchSettings { delay: Duration::from_millis(5), ..settings(10, 10) };
        let batcher = Batcher::start("test", settings, move |batch: Vec<u32>| {
            let _ = tell.send((batch, on_processor()));
            Ok(())
        });
        let batcher = batcher.unwrap_or_else(|error| panic!("{error}"));
        let export = |item| {
            batcher.push(item);
            let (batch, at) = told.recv_timeout(SOON).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(batch, [item]);
            at
        };
        let before = export(0);
        std::thread::sleep(Duration::from_millis(100));
        if let (Some(before), Some(after)) = (before, export(1)) {
            let spent = after - before;
            assert!(spent < Duration::from_millis(20), "{spent:?} of a hundred milliseconds");
        }
    }
}
