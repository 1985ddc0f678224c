use std::sync::mpsc;

use super::*;
use crate::otlp::transport::Cause;

const LONG: Duration = Duration::from_secs(3600);

fn settings(queue: usize, batch: usize) -> BatchSettings {
    BatchSettings { queue, batch, bytes: usize::MAX, batch_bytes: usize::MAX, delay: LONG, timeout: LONG }
}

impl Weighs for u32 {
    /// Its own value, so that a test chooses.
    fn weight(&self) -> usize {
        *self as usize
    }
}

/// The result of an export for the whole batch.
type Verdict = Result<(), &'static str>;

fn failure(text: &str) -> Failure {
    Failure::new(&"".into(), Cause::Other(text.to_owned()))
}

/// Settles a batch as `verdict` says, and notes the attempt.
fn settled(count: usize, verdict: Verdict, waiting: &dyn Waiting) -> Settled {
    match verdict {
        Ok(()) => {
            waiting.delivered();
            Settled { exported: count as u64, ..Settled::default() }
        }
        Err(text) => {
            waiting.failed(&failure(text));
            Settled { failed: count as u64, error: Some(failure(text)), ..Settled::default() }
        }
    }
}

/// A batcher whose every export waits for a word from the test.
fn gated(queue: usize, batch: usize) -> (Batcher<u32>, mpsc::Receiver<Vec<u32>>, mpsc::Sender<Verdict>) {
    let (seen_tx, seen) = mpsc::channel();
    let (go, go_rx) = mpsc::channel::<Verdict>();
    let batcher = Batcher::start(
        "test",
        settings(queue, batch),
        Persistence::WhileThereIsRoom,
        move |batch, waiting| {
            let count = batch.len();
            let _ = seen_tx.send(batch);
            settled(count, go_rx.recv().unwrap_or(Ok(())), waiting)
        },
    );
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
fn flush_waits_for_earlier_items_and_leaves_later_ones() {
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
fn refuse_returns_true_once_and_rejects_later_items() {
    let (batcher, _seen, _go) = gated(10, 2);
    assert!(batcher.refuse());
    assert!(!batcher.refuse());
    batcher.push(0);
    let balance = batcher.read();
    assert_eq!((balance.ended, balance.after_shutdown), (1, 1));
}

/// The worker may export what is queued between the two calls.
#[test]
fn close_returns_what_was_lost_since_nothing_more_is_admitted() {
    let (batcher, seen, go) = gated(10, 5);
    for before in ["earlier", "late"] {
        batcher.push(1);
        go.send(Err(before)).expect("the worker waits");
        if before == "earlier" {
            assert!(batcher.flush(LONG).is_err());
            assert_eq!(seen.recv_timeout(SOON), Ok(vec![1]));
        }
    }
    batcher.refuse();
    batcher.hurry();
    assert_eq!(seen.recv_timeout(SOON), Ok(vec![1]));
    while !batcher.shared.lock().finished {
        std::thread::yield_now();
    }
    let lost = batcher.close(LONG).expect_err("one was lost after the refusal");
    assert!(lost.to_string().contains("late"), "{lost}");

    let (batcher, _seen, go) = gated(10, 5);
    batcher.push(1);
    go.send(Err("earlier")).expect("the worker waits");
    assert!(batcher.flush(LONG).is_err());
    assert!(batcher.close(LONG).is_ok(), "nothing was lost since");
}

#[test]
fn bound_refuses_exactly_the_excess_items() {
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
        go.send(Err("no")).unwrap_or_default();
        go.send(Ok(())).unwrap_or_default();
        go.send(Ok(())).unwrap_or_default();
    });
    assert!(batcher.close(LONG).is_err(), "a failure while closing is returned");
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
    let again = batcher.close(LONG);
    assert!(matches!(again, Err(OTelSdkError::Timeout(_))), "three are still pending: {again:?}");
    drop(go);
    assert!(seen.recv().is_err(), "after its export the thread ends without another");
    assert_eq!(batcher.read().pending, 2);
}

#[test]
fn an_item_that_is_larger_than_a_batch_is_the_reason_of_the_loss() {
    let settings = BatchSettings { batch_bytes: 10, ..settings(10, 1) };
    let batcher =
        Batcher::start("test", settings, Persistence::WhileThereIsRoom, |batch: Vec<u32>, waiting| {
            settled(batch.len(), Err("refused"), waiting)
        });
    let batcher = batcher.unwrap_or_else(|error| panic!("{error}"));
    batcher.push(1);
    assert!(is_soon(|| batcher.read().export_failed == 1));
    batcher.push(11);
    assert_eq!(batcher.last_loss().as_deref(), Some("it is larger than a batch"));
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
    let (log, lines) = log();
    // While there is but one, `tracing` asks whatever thread comes first what a callsite is worth.
    let _another = tracing::Dispatch::new(tracing_subscriber::registry());
    let (seen_tx, seen) = mpsc::channel();
    let (go, go_rx) = mpsc::channel::<Verdict>();
    let batcher = Batcher::start(
        "tests",
        settings(2, 1),
        Persistence::WhileThereIsRoom,
        move |batch: Vec<u32>, waiting| {
            std::mem::forget(tracing::dispatcher::set_default(&log));
            let count = batch.len();
            let _ = seen_tx.send(batch);
            settled(count, go_rx.recv().unwrap_or(Ok(())), waiting)
        },
    );
    let batcher = batcher.unwrap_or_else(|error| panic!("{error}"));
    let failed = || Err("no");
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
    let written = || {
        let lines = lines.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&lines).into_owned()
    };
    let expected = [
        " WARN export of tests fails: no".to_owned(),
        format!(" WARN 1 tests were refused: the queue is full, with room for 2 tests and {} B", usize::MAX),
        " INFO export of tests works again, 4 were lost".to_owned(),
        format!(" WARN 3 tests were refused: the queue is full, with room for 2 tests and {} B", usize::MAX),
    ];
    // On a busy machine, nothing waits for a line that is made aside.
    let end = Instant::now() + SOON;
    while written().lines().count() < expected.len() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(written().lines().collect::<Vec<_>>(), expected);
}

/// Seen to fail if the time to check a part is not set again while there is none: then the thread spins.
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
    let batcher =
        Batcher::start("test", settings, Persistence::WhileThereIsRoom, move |batch: Vec<u32>, waiting| {
            let count = batch.len();
            let _ = tell.send((batch, on_processor()));
            settled(count, Ok(()), waiting)
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

/// A batcher whose receiver takes nothing until the test says so; each attempt is sent to the test.
fn outage(
    settings: BatchSettings,
    persistence: Persistence,
) -> (Batcher<u32>, mpsc::Receiver<Vec<u32>>, Arc<std::sync::atomic::AtomicBool>) {
    let (tell, told) = mpsc::channel();
    let up = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_up = Arc::clone(&up);
    let batcher = Batcher::start("test", settings, persistence, move |batch: Vec<u32>, waiting| {
        loop {
            waiting.begins();
            let _ = tell.send(batch.clone());
            if is_up.load(std::sync::atomic::Ordering::SeqCst) {
                return settled(batch.len(), Ok(()), waiting);
            }
            waiting.failed(&failure("down"));
            match waiting.wait(Duration::from_millis(5), false) {
                Patience::Again => {}
                Patience::GiveUp => {
                    let count = batch.len() as u64;
                    return Settled { failed: count, error: Some(failure("down")), ..Settled::default() };
                }
                Patience::Abandoned => return Settled::default(),
            }
        }
    });
    (batcher.unwrap_or_else(|error| panic!("{error}")), told, up)
}

fn is_soon(mut condition: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + SOON;
    while !condition() {
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

#[test]
fn an_outage_that_is_shorter_than_the_queue_loses_nothing() {
    let (batcher, attempts, up) = outage(settings(4, 1), Persistence::WhileThereIsRoom);
    (0..5).for_each(|item| {
        batcher.push(item);
        assert!(attempts.recv_timeout(SOON).is_ok());
    });
    assert_eq!(batcher.failure().as_deref(), Some("down"));
    up.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(is_soon(|| batcher.read().exported == 5), "{:?}", batcher.read());
    assert_eq!(batcher.failure(), None);
    assert!(batcher.close(SOON).is_ok());
}

#[test]
fn a_full_queue_gives_up_the_oldest_batch() {
    let (batcher, attempts, up) = outage(settings(2, 1), Persistence::WhileThereIsRoom);
    batcher.push(0);
    assert!(attempts.recv_timeout(SOON).is_ok());
    (1..4).for_each(|item| batcher.push(item));
    assert!(is_soon(|| batcher.read().export_failed == 1), "{:?}", batcher.read());
    assert_eq!(batcher.read().queue_full, 1, "one was refused, and then there was room");
    up.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(is_soon(|| batcher.read().exported == 2), "{:?}", batcher.read());
}

/// A receiver that asked for a pause is not asked sooner, whatever has no room meanwhile; any other wait is cut to a second.
#[test]
fn a_full_queue_gives_up_a_batch_whose_receiver_asked_for_a_pause() {
    for (is_asked, patience) in [(true, Patience::GiveUp), (false, Patience::Again)] {
        let (tell, told) = mpsc::channel();
        let batcher = Batcher::start(
            "test",
            settings(1, 1),
            Persistence::WhileThereIsRoom,
            move |batch: Vec<u32>, waiting| {
                if batch == [0] {
                    waiting.failed(&failure("pause"));
                    let _ = tell.send(None);
                    let _ = tell.send(Some(waiting.wait(LONG, is_asked)));
                }
                settled(batch.len(), Ok(()), waiting)
            },
        );
        let batcher = batcher.unwrap_or_else(|error| panic!("{error}"));
        batcher.push(0);
        assert_eq!(told.recv_timeout(SOON), Ok(None));
        assert!(is_soon(|| batcher.shared.lock().is_waited));
        [1, 2].into_iter().for_each(|item| batcher.push(item));
        assert_eq!(told.recv_timeout(SOON), Ok(Some(patience)), "asked for: {is_asked}");
    }
}

#[test]
fn the_queue_is_bounded_in_bytes_and_a_batch_too() {
    let (seen_tx, seen) = mpsc::channel();
    let settings = BatchSettings { bytes: 100, batch_bytes: 40, ..settings(1_000, 512) };
    let batcher =
        Batcher::start("test", settings, Persistence::WhileThereIsRoom, move |batch: Vec<u32>, waiting| {
            let count = batch.len();
            let _ = seen_tx.send(batch);
            settled(count, Ok(()), waiting)
        });
    let batcher = batcher.unwrap_or_else(|error| panic!("{error}"));
    batcher.push(41);
    assert_eq!(batcher.read().too_large, 1, "no item is larger than a batch");
    for item in [20, 20, 20] {
        batcher.push(item);
    }
    assert_eq!(seen.recv_timeout(SOON), Ok(vec![20, 20]), "a batch that is full of bytes leaves at once");
    assert!(batcher.flush(SOON).is_ok());
    assert_eq!(seen.recv_timeout(SOON), Ok(vec![20]));
    let balance = batcher.read();
    assert_eq!((balance.ended, balance.exported, balance.too_large, balance.pending), (4, 3, 1, 0));

    let (batcher, attempts, _up) =
        outage(BatchSettings { bytes: 100, ..settings }, Persistence::WhileThereIsRoom);
    batcher.push(40);
    batcher.push(1);
    assert!(attempts.recv_timeout(SOON).is_ok(), "40 are on their way");
    [40, 40, 20].into_iter().for_each(|item| batcher.push(item));
    assert!(batcher.read().queue_full <= 1, "{:?}", batcher.read());
}

#[test]
fn newer_collection_replaces_a_waiting_one() {
    let (batcher, attempts, up) = outage(settings(10, 1), Persistence::UntilTheNext);
    for item in 0..3 {
        batcher.push(item);
        assert!(is_soon(|| attempts.try_recv() == Ok(vec![item])), "{item} is tried");
    }
    assert_eq!(batcher.read().export_failed, 2);
    up.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(is_soon(|| batcher.read().exported == 1), "{:?}", batcher.read());
}

#[test]
fn a_flush_returns_the_failure_of_a_receiver_that_never_took_anything_and_loses_nothing() {
    let (batcher, _attempts, up) = outage(settings(10, 10), Persistence::WhileThereIsRoom);
    batcher.push(0);
    let began = Instant::now();
    let flushed = batcher.flush(LONG);
    assert!(matches!(&flushed, Err(OTelSdkError::InternalFailure(text)) if text == "down"), "{flushed:?}");
    assert!(began.elapsed() < SOON);
    assert_eq!(batcher.read().pending, 1);
    up.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(is_soon(|| batcher.read().exported == 1));
}

#[test]
fn the_end_waits_for_a_receiver_that_took_something_before_and_not_for_another() {
    let (batcher, _attempts, _up) = outage(settings(10, 1), Persistence::WhileThereIsRoom);
    (0..3).for_each(|item| batcher.push(item));
    let began = Instant::now();
    assert!(batcher.close(SOON).is_err());
    assert!(began.elapsed() < SOON / 2, "{:?}", began.elapsed());
    assert_eq!(batcher.read().export_failed, 3);

    let (batcher, _attempts, up) = outage(settings(10, 1), Persistence::WhileThereIsRoom);
    up.store(true, std::sync::atomic::Ordering::SeqCst);
    batcher.push(0);
    assert!(batcher.flush(SOON).is_ok());
    up.store(false, std::sync::atomic::Ordering::SeqCst);
    batcher.push(1);
    let comes_back = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        up.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    assert!(batcher.close(SOON).is_ok());
    assert_eq!(batcher.read().exported, 2);
    assert!(comes_back.join().is_ok());
}

/// A log to read, and the lines that were written to it.
fn log() -> (tracing::Dispatch, Lines) {
    let lines = Lines::default();
    let writer = lines.clone();
    let log = tracing_subscriber::fmt().without_time().with_ansi(false).with_target(false);
    (tracing::Dispatch::new(log.with_writer(move || writer.clone()).finish()), lines)
}

#[test]
fn a_loss_is_reported_also_if_nothing_follows() {
    let (log, lines) = log();
    let _another = tracing::Dispatch::new(tracing_subscriber::registry());
    let settings = BatchSettings { batch_bytes: 40, ..settings(10, 1) };
    let batcher =
        Batcher::start("tests", settings, Persistence::WhileThereIsRoom, move |batch: Vec<u32>, waiting| {
            std::mem::forget(tracing::dispatcher::set_default(&log));
            settled(batch.len(), Ok(()), waiting)
        });
    let batcher = batcher.unwrap_or_else(|error| panic!("{error}"));
    batcher.push(1);
    assert!(batcher.flush(SOON).is_ok());
    batcher.push(41);
    let written =
        || String::from_utf8_lossy(&lines.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned();
    let line = " WARN 1 tests were too large: more than the 40 B of a batch\n";
    assert!(is_soon(|| written() == line), "{}", written());
    [41, 41].into_iter().for_each(|item| batcher.push(item));
    assert!(batcher.close(SOON).is_ok());
    assert!(
        is_soon(|| written().ends_with("3 tests were too large: more than the 40 B of a batch\n")),
        "{}",
        written()
    );
}

#[test]
fn a_panic_of_an_export_loses_its_batch_and_nothing_else() {
    let batcher =
        Batcher::start("test", settings(10, 1), Persistence::WhileThereIsRoom, |batch: Vec<u32>, waiting| {
            assert!(batch != [1], "one is more than it can bear");
            settled(batch.len(), Ok(()), waiting)
        });
    let batcher = batcher.unwrap_or_else(|error| panic!("{error}"));
    batcher.push(1);
    let flushed = batcher.flush(SOON);
    assert!(
        matches!(&flushed, Err(OTelSdkError::InternalFailure(text)) if text.contains("more than it can bear")),
        "{flushed:?}"
    );
    assert!(
        batcher.failure().is_some_and(|text| text.contains("exporting panicked")),
        "{:?}",
        batcher.failure()
    );
    batcher.push(2);
    assert!(batcher.flush(SOON).is_ok());
    assert_eq!(batcher.failure(), None);
    let balance = batcher.read();
    assert_eq!((balance.ended, balance.exported, balance.export_failed, balance.pending), (2, 1, 1, 0));
    assert!(batcher.close(SOON).is_ok());
}

/// A delta behind a failing one is not waited for until the receiver is back.
#[test]
fn item_behind_a_failing_one_waits_for_one_attempt() {
    let (batcher, attempts, up) = outage(settings(10, 1), Persistence::WhileThereIsRoom);
    for item in 0..3 {
        let failed = batcher.push_and_wait(item, SOON);
        assert!(matches!(&failed, Err(OTelSdkError::InternalFailure(text)) if text == "down"), "{failed:?}");
    }
    assert!(attempts.try_iter().all(|batch| batch == [0]), "they are delivered in their order");
    assert_eq!(batcher.read().pending, 3);
    up.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(batcher.push_and_wait(3, SOON).is_ok());
    assert_eq!(batcher.read().exported, 4);
}

/// A collection's flush returns the fate of that collection, or of the collection that took its place.
#[test]
fn a_collection_that_is_waited_for_has_an_attempt_of_its_own() {
    let (seen_tx, seen) = mpsc::channel();
    let (go, go_rx) = mpsc::channel::<Verdict>();
    let batcher = Batcher::start(
        "test",
        settings(10, 1),
        Persistence::UntilTheNext,
        move |batch: Vec<u32>, waiting| {
            loop {
                waiting.begins();
                let _ = seen_tx.send(batch.clone());
                match go_rx.recv().unwrap_or(Ok(())) {
                    Ok(()) => return settled(1, Ok(()), waiting),
                    Err(text) => waiting.failed(&failure(text)),
                }
                match waiting.wait(LONG, false) {
                    Patience::Again => {}
                    Patience::GiveUp => {
                        return Settled { failed: 1, error: Some(failure("given up")), ..Settled::default() };
                    }
                    Patience::Abandoned => return Settled::default(),
                }
            }
        },
    );
    let batcher = batcher.unwrap_or_else(|error| panic!("{error}"));
    batcher.push(0);
    assert_eq!(seen.recv_timeout(SOON), Ok(vec![0]), "the first is on its way");
    std::thread::scope(|scope| {
        let second = scope.spawn(|| batcher.push_and_wait(1, SOON));
        assert!(is_soon(|| batcher.read().ended == 2));
        let third = scope.spawn(|| batcher.push_and_wait(2, SOON));
        assert!(is_soon(|| batcher.read().ended == 3));
        go.send(Err("the first fails")).unwrap_or_default();
        assert_eq!(seen.recv_timeout(SOON), Ok(vec![2]), "the third took the place of the second");
        assert!(!second.is_finished() && !third.is_finished());
        go.send(Ok(())).unwrap_or_default();
        for flush in [second, third] {
            assert!(flush.join().is_ok_and(|flushed| flushed.is_ok()), "the newest was taken");
        }
    });
    go.send(Err("its own")).unwrap_or_default();
    let failed = batcher.push_and_wait(3, SOON);
    assert!(matches!(&failed, Err(OTelSdkError::InternalFailure(text)) if text == "its own"), "{failed:?}");
    go.send(Ok(())).unwrap_or_default();
    assert!(batcher.close(SOON).is_ok());
    assert!(batcher.push_and_wait(4, SOON).is_err(), "it was not even queued");
}

/// An attempt that began before somebody waits says nothing of the receiver now.
#[test]
fn the_failure_of_an_attempt_that_began_earlier_ends_no_wait() {
    for persistence in [Persistence::UntilTheNext, Persistence::WhileThereIsRoom] {
        let (tell, told) = mpsc::channel();
        let (go, may) = mpsc::channel::<()>();
        let batcher =
            Batcher::start("test", settings(10, 1), persistence, move |batch: Vec<u32>, waiting| {
                if batch != [0] {
                    return settled(batch.len(), Ok(()), waiting);
                }
                waiting.begins();
                let _ = tell.send(());
                let _ = may.recv();
                waiting.failed(&failure("down"));
                let patience = waiting.wait(LONG, false);
                // A test that takes it for a current failure fails now.
                let _ = may.recv_timeout(Duration::from_millis(200));
                settled(batch.len(), if patience == Patience::Again { Ok(()) } else { Err("down") }, waiting)
            });
        let batcher = batcher.unwrap_or_else(|error| panic!("{error}"));
        batcher.push(0);
        assert_eq!(told.recv_timeout(SOON), Ok(()), "it is on its way");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| match persistence {
                Persistence::UntilTheNext => batcher.push_and_wait(1, SOON),
                Persistence::WhileThereIsRoom => batcher.flush(SOON),
            });
            assert!(is_soon(|| batcher.shared.lock().flushes == 1));
            go.send(()).unwrap_or_default();
            let waited = waits.join();
            assert!(matches!(waited, Ok(Ok(()))), "{persistence:?}: {waited:?}");
        });
    }
}

#[test]
fn a_pause_before_its_first_attempt_is_no_failure_of_a_collection_unless_it_was_asked_for() {
    for is_asked in [false, true] {
        let batcher = Batcher::start(
            "test",
            settings(10, 1),
            Persistence::UntilTheNext,
            move |batch: Vec<u32>, waiting| {
                if batch == [0] {
                    waiting.begins();
                    waiting.failed(&failure("down"));
                    let _ = waiting.wait(LONG, is_asked);
                    return settled(1, Err("down"), waiting);
                }
                // The rest of the pause.
                match waiting.wait(if is_asked { LONG } else { Duration::from_millis(100) }, is_asked) {
                    Patience::Again => {
                        // The attempt takes its time.
                        std::thread::sleep(Duration::from_millis(50));
                        settled(1, Ok(()), waiting)
                    }
                    _ => settled(1, Err("down"), waiting),
                }
            },
        );
        let batcher = batcher.unwrap_or_else(|error| panic!("{error}"));
        let failed = |waited: OTelSdkResult| matches!(waited, Err(OTelSdkError::InternalFailure(text)) if text == "down");
        assert!(failed(batcher.push_and_wait(0, SOON)));
        let began = Instant::now();
        assert_eq!(failed(batcher.push_and_wait(1, SOON)), is_asked);
        assert!(began.elapsed() < SOON, "nobody waits for a pause to end");
        assert_eq!(batcher.read().exported, u64::from(!is_asked));
    }
}

#[test]
fn a_flush_during_a_pause_that_was_asked_for_returns_at_once() {
    let batcher = Batcher::start(
        "test",
        settings(10, 10),
        Persistence::WhileThereIsRoom,
        |batch: Vec<u32>, waiting| {
            waiting.begins();
            waiting.failed(&failure("pause"));
            let _ = waiting.wait(LONG, true);
            settled(batch.len(), Err("pause"), waiting)
        },
    );
    let batcher = batcher.unwrap_or_else(|error| panic!("{error}"));
    batcher.push(0);
    for _ in 0..2 {
        let flushed = batcher.flush(SOON);
        assert!(
            matches!(&flushed, Err(OTelSdkError::InternalFailure(text)) if text == "pause"),
            "{flushed:?}"
        );
    }
    assert_eq!(batcher.read().pending, 1);
}

#[test]
fn delta_behind_a_failing_one_waits_for_one_attempt() {
    let (batcher, attempts, up) = outage(settings(10, 1), Persistence::WhileThereIsRoom);
    for item in 0..3 {
        let failed = batcher.push_and_wait(item, SOON);
        assert!(matches!(&failed, Err(OTelSdkError::InternalFailure(text)) if text == "down"), "{failed:?}");
    }
    assert!(attempts.try_iter().all(|batch| batch == [0]), "they are delivered in their order");
    up.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(batcher.push_and_wait(3, SOON).is_ok());
    assert_eq!(batcher.read().exported, 4);
}

#[test]
fn a_pause_that_is_over_is_no_failure() {
    let (tell, told) = mpsc::channel();
    let (go, may) = mpsc::channel::<()>();
    let batcher = Batcher::start(
        "test",
        settings(10, 1),
        Persistence::WhileThereIsRoom,
        move |batch: Vec<u32>, waiting| {
            waiting.begins();
            waiting.failed(&failure("pause"));
            assert_eq!(waiting.wait(Duration::from_millis(5), true), Patience::Again);
            waiting.begins();
            let _ = tell.send(());
            let _ = may.recv();
            settled(batch.len(), Ok(()), waiting)
        },
    );
    let batcher = batcher.unwrap_or_else(|error| panic!("{error}"));
    batcher.push(0);
    assert_eq!(told.recv_timeout(SOON), Ok(()), "it is tried again");
    std::thread::scope(|scope| {
        let flush = scope.spawn(|| batcher.flush(SOON));
        assert!(is_soon(|| batcher.shared.lock().flushes == 1));
        std::thread::sleep(Duration::from_millis(20));
        go.send(()).unwrap_or_default();
        let flushed = flush.join();
        assert!(matches!(flushed, Ok(Ok(()))), "{flushed:?}");
    });
}

#[test]
fn a_flush_ends_one_wait_and_no_more() {
    let (tell, told) = mpsc::channel();
    let batcher = Batcher::start(
        "test",
        settings(10, 1),
        Persistence::WhileThereIsRoom,
        move |batch: Vec<u32>, waiting| {
            for _ in 0..100 {
                waiting.begins();
                let _ = tell.send(());
                waiting.failed(&failure("down"));
                if waiting.wait(LONG, false) != Patience::Again {
                    break;
                }
            }
            settled(batch.len(), Err("down"), waiting)
        },
    );
    let batcher = batcher.unwrap_or_else(|error| panic!("{error}"));
    batcher.push(0);
    assert_eq!(told.recv_timeout(SOON), Ok(()));
    for _ in 0..3 {
        assert!(batcher.flush(SOON).is_err());
        assert_eq!(told.recv_timeout(SOON), Ok(()), "an attempt for the flush");
        assert!(told.recv_timeout(Duration::from_millis(50)).is_err(), "and then the wait continues");
    }
    let _ = batcher.close(Duration::ZERO);
}
