//! One task name's figures.
//!
//! Each figure has one writer. A run writes its own start and end, and the supervisor of the task writes state and restarts. Its loop writes
//! interval, next run and skips, and its context writes heartbeats. Readers only read.

use std::{
    any::Any,
    collections::VecDeque,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    FEW_RUNS, HISTORY_LENGTH, Identity, RunError, RunRecord, SkipReason, TaskSnapshot, TaskState, Vitals,
    failures::Failures, histogram::Histogram, minutes::Minutes,
};
use crate::{
    policy::{ExitKind, RestartIntensity, RestartReason},
    shards::COUNT as SHARDS,
    sync::{
        Mutex, MutexGuard, OnceBox, OnceLock,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
        lock,
    },
};

/// Set in [`TaskCell::active`] once the name is hot: runs are counted by the part of their thread's shard.
const HOT: u64 = 1 << 61;

/// Set in [`TaskCell::active`] while the task that was registered under the name is gone and no other has come.
const RETIRED: u64 = 1 << 62;

/// Set in [`TaskCell::active`] once the registry has let the retired name go.
const GONE: u64 = 1 << 63;

/// A name is hot if this number of ended runs waited for the lock of [`Rare`], and they were at least one in [`HOT_SHARE`].
const HOT_WAITS: u32 = 32;
const HOT_SHARE: u64 = 64;

/// The position of the number of a state in its word: below it there is room for microseconds until the year 4253.
const STATE_SHIFT: u32 = 56;

/// Set in [`TaskCell::first_end`] once the figures are being made, which count all ends from then on.
const SEALED: u64 = 1 << 63;

/// The position of the number of a result in [`TaskCell::first_end`]: below it there is room for nanoseconds of 18 years.
const RESULT_SHIFT: u32 = 59;

/// The time window of health.
const HOUR: Duration = Duration::from_secs(3_600);

/// Every `Relaxed` in this file is statistics only and pairs with nothing: no figure depends on another. A reader
/// that must see a run's figures (a test at rest, a joined handle) is ordered by its own wait.
#[derive(Debug, Default)]
pub(crate) struct TaskCell {
    /// Runs under way; above them [`HOT`], [`RETIRED`] and [`GONE`]. It is one word, so that a name is let go only between two runs. A run
    /// that begins either keeps the name, or sees that it is gone.
    active: AtomicU64,
    /// Nanoseconds since the registry was made, plus one; 0 for never. Ages are computed from it, because a wall clock may be set.
    first_start_at: AtomicU64,
    /// Unix time in nanoseconds, 0 for never; so the next one.
    first_start: AtomicU64,
    last_seen: AtomicU64,
    /// 0 for not registered, else the index in [`TaskState::ALL`] plus one, above [`STATE_SHIFT`]; below it the unix time in
    /// microseconds at which it was set. One word, so that a reader never sees the time of another state.
    state: AtomicU64,
    /// The end of the first run: the index of its result in [`ExitKind::ALL`] plus one, above [`RESULT_SHIFT`]; below it its duration in
    /// nanoseconds. 0 if no run has ended. The figures are made of it when somebody reads them, or when they count something else.
    first_end: AtomicU64,
    /// Beside the figures: a loop that waits for its first iteration has none of those.
    timing: OnceBox<Timing>,
    figures: OnceBox<Figures>,
}

/// The times of a loop, and of a task with a poll whose time is known.
#[derive(Debug, Default)]
struct Timing {
    interval_nanos: AtomicU64,
    /// Unix time in nanoseconds, 0 for never.
    next_run: AtomicU64,
    longest_poll_nanos: AtomicU64,
}

/// The figures that exist only after their first event. A registered task that idles in its first run has none of them, and there
/// may be a hundred thousand such tasks. A task that ends well for the first time has none either, until somebody reads them.
// In this order, so that what each end of a run changes is in few cache lines: two threads may take them from each other.
#[derive(Debug, Default)]
#[repr(C)]
struct Figures {
    runs: [AtomicU64; ExitKind::ALL.len()],
    run_nanos: AtomicU64,
    longest_run_nanos: AtomicU64,
    /// 0 before the first run has ended.
    shortest_run_nanos: AtomicU64,
    /// Unix time in nanoseconds, 0 for never.
    last_success: AtomicU64,
    rare: Mutex<Rare>,
    /// Made when the first error comes, or the first part. The cells of a hot name have one.
    failures: OnceLock<Arc<Failures>>,
    /// Made when the first run ends while somebody wants them.
    minutes: OnceLock<Box<Minutes>>,
    durations: Histogram,
    restarts: [AtomicU64; RestartReason::ALL.len()],
    skipped: [AtomicU64; SkipReason::ALL.len()],
    retries: AtomicU64,
    slow_polls: AtomicU64,
    stalls: AtomicU64,
    stale_signals: AtomicU64,
    /// Made with the first part of a hot name.
    parts: OnceLock<Box<Parts>>,
    /// True for a part of a hot name.
    is_part: bool,
    /// As [`TaskCell::first_start_at`].
    last_restart_at: AtomicU64,
    /// Unix time in nanoseconds, 0 for never; so the next one.
    last_restart: AtomicU64,
    next_retry: AtomicU64,
    /// Reservations that wait, plus one; 0 if the name has never had a limit.
    reservations: AtomicU64,
}

/// The part of a hot name for each shard of threads, made by the first of them that needs it. Held with its owner, which a run holds.
type Parts = [OnceLock<Arc<dyn Part>>; SHARDS];

/// The owner of a cell that counts some of the runs of a hot name.
pub(super) trait Part: Any + Send + Sync {
    fn cell(&self) -> &TaskCell;

    fn any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

impl fmt::Debug for dyn Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cell().fmt(f)
    }
}

/// The figures that are written rarely or need an order.
#[derive(Debug, Default)]
struct Rare {
    /// The number of ended runs that waited for this lock, since [`Rare::waits_since`].
    waits: u32,
    /// The number of ended runs when the first of them waited.
    waits_since: u64,
    history: VecDeque<RunRecord>,
    /// The times of restarts that count for the limit, since the registry was made; the oldest first.
    restart_log: VecDeque<Duration>,
}

/// A run that has just ended.
pub(crate) struct EndedRun<'a> {
    pub(crate) kind: ExitKind,
    pub(crate) started: SystemTime,
    pub(crate) duration: Duration,
    pub(crate) error: Option<RunError<'a>>,
}

impl Figures {
    fn rare(&self) -> MutexGuard<'_, Rare> {
        // Nothing below panics while it holds the lock. If it were poisoned anyway, the figures would still be whole.
        lock(&self.rare)
    }

    fn ended_runs(&self) -> u64 {
        load(&self.runs).iter().sum()
    }

    fn failures(&self) -> &Arc<Failures> {
        self.failures.get_or_init(Arc::default)
    }

    /// Counts an ended run, but for its error. Its result is counted last.
    #[inline(always)]
    fn add<'a>(
        &'a self,
        run: &EndedRun<'_>,
        nanos: u64,
        ended: u64,
        rare: impl FnOnce() -> MutexGuard<'a, Rare>,
    ) {
        if run.kind == ExitKind::Success {
            advance(&self.last_success, ended);
            if let Some(failures) = self.failures.get() {
                failures.set_row(0);
            }
        }
        let mut rare = rare();
        // Each of these is changed under this lock alone. So none of the changes needs to be atomic.
        let add = |figure: &AtomicU64, more| figure.store(figure.load(Relaxed).wrapping_add(more), Relaxed);
        add(&self.run_nanos, nanos);
        advance(&self.longest_run_nanos, nanos);
        let shortest = self.shortest_run_nanos.load(Relaxed);
        if shortest == 0 || nanos < shortest {
            self.shortest_run_nanos.store(nanos.max(1), Relaxed);
        }
        self.durations.record(run.duration);
        if rare.history.len() == HISTORY_LENGTH {
            rare.history.pop_front();
        }
        rare.history.push_back(RunRecord { started: run.started, duration: run.duration, result: run.kind });
        add(&self.runs[run.kind as usize], 1);
    }

    /// Returns the cells that a hot name has beside its first.
    fn parts(&self) -> impl Iterator<Item = &TaskCell> {
        let parts = self.parts.get().into_iter();
        parts.flat_map(|parts| parts.iter()).filter_map(|part| part.get().map(|part| part.cell()))
    }

    /// Returns the records of restarts. The time of the last restart is written before the log. If there was no restart, the lock is
    /// not taken.
    fn restarted(&self) -> Option<MutexGuard<'_, Rare>> {
        (self.last_restart_at.load(Relaxed) != 0).then(|| self.rare())
    }

    /// But for the reservations: the limit is still there.
    fn reset(&self) {
        // First: a run that ends meanwhile adds to what it has read under this lock.
        let mut rare = self.rare();
        let single = [
            &self.retries,
            &self.run_nanos,
            &self.longest_run_nanos,
            &self.shortest_run_nanos,
            &self.slow_polls,
            &self.stalls,
            &self.stale_signals,
            &self.last_restart_at,
            &self.last_success,
            &self.last_restart,
            &self.next_retry,
        ];
        let figures = single.into_iter().chain(&self.runs).chain(&self.restarts).chain(&self.skipped);
        figures.for_each(|figure| figure.store(0, Relaxed));
        self.durations.clear();
        if let Some(failures) = self.failures.get() {
            failures.reset();
        }
        if let Some(minutes) = self.minutes.get() {
            minutes.clear();
        }
        (rare.history, rare.restart_log) = (VecDeque::new(), VecDeque::new());
    }

    /// The durations of all runs, if they are few.
    fn few_runs(&self) -> Vec<Duration> {
        if self.ended_runs() > FEW_RUNS as u64 {
            return Vec::new();
        }
        self.rare().history.iter().map(|run| run.duration).collect()
    }

    /// Returns the number of automatic restarts that are younger than `within`. A search of the log and no walk: a thousand tasks that fail at
    /// once would read as many logs that no cache holds.
    fn restarts_within(&self, now: Duration, within: Duration) -> usize {
        let Some(rare) = self.restarted() else { return 0 };
        let log = &rare.restart_log;
        let old = now.checked_sub(within).map_or(0, |oldest| log.partition_point(|at| *at <= oldest));
        log.len() - old
    }

    fn restarts_last_hour(&self, now: Duration) -> u64 {
        u64::try_from(self.restarts_within(now, HOUR)).unwrap_or(u64::MAX)
    }
}

impl TaskCell {
    fn figures(&self) -> &Figures {
        self.figures.get_or_init(|| self.new_figures())
    }

    /// Two threads may make them at once. Both find the same first end, and one of the two is kept.
    fn new_figures(&self) -> Box<Figures> {
        let figures = Box::<Figures>::default();
        // Sealed: a run that ends meanwhile waits for the figures. Acquire: pairs with the Release in `is_first_end`.
        let first = self.first_end.fetch_or(SEALED, Acquire) & !SEALED;
        let kind = usize::try_from(first >> RESULT_SHIFT).ok().and_then(|number| number.checked_sub(1));
        if let Some((kind, started)) = kind.zip(time(&self.first_start)) {
            let (kind, nanos) = (ExitKind::ALL[kind], first & ((1 << RESULT_SHIFT) - 1));
            let run = EndedRun { kind, started, duration: Duration::from_nanos(nanos), error: None };
            figures.add(&run, nanos, unix_nanos(started).saturating_add(nanos), || figures.rare());
        }
        figures
    }

    /// Returns the figures for a reader; `None` if nothing was counted in them.
    fn read(&self) -> Option<&Figures> {
        self.figures.get().or_else(|| (self.ended_here() > 0).then(|| self.figures()))
    }

    /// Returns the number of ended runs that this cell has counted.
    fn ended_here(&self) -> u64 {
        match self.figures.get() {
            Some(figures) => figures.ended_runs(),
            None => u64::from(self.first_end.load(Relaxed) & !SEALED != 0),
        }
    }

    fn timing(&self) -> &Timing {
        self.timing.get_or_init(Box::default)
    }

    /// Counts a run that begins. Returns whether the registry has let the name go meanwhile.
    #[inline]
    pub(crate) fn run_started(&self, now: impl FnOnce() -> Duration, wall: SystemTime) -> bool {
        let before = self.active.fetch_add(1, Relaxed);
        let wall = unix_nanos(wall);
        self.last_seen.store(wall, Relaxed);
        if self.first_start.load(Relaxed) == 0 {
            self.first_start.store(wall, Relaxed);
            self.first_start_at.store(nanos(now()) + 1, Relaxed);
        }
        before & GONE != 0
    }

    /// The cells of the name: this, and the parts of a hot name. Each run begins and ends in one of them. So every cell is
    /// right alone, and so is their sum.
    fn all(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(self.parts())
    }

    /// The cells that a hot name has beside its first.
    fn parts(&self) -> impl Iterator<Item = &Self> {
        self.figures.get().into_iter().flat_map(|figures| figures.parts())
    }

    /// Returns the records for a run that has ended. The name becomes hot if such runs often wait here. Then they are on several threads, which
    /// take the cache lines of the whole cell from each other.
    // The compiler does not inline it by itself, for 30 instructions of each run.
    #[inline(always)]
    fn rare_of_run<'a>(&self, figures: &'a Figures) -> MutexGuard<'a, Rare> {
        match figures.rare.try_lock() {
            Ok(rare) => rare,
            Err(_) => self.rare_after_wait(figures),
        }
    }

    #[cold]
    fn rare_after_wait<'a>(&self, figures: &'a Figures) -> MutexGuard<'a, Rare> {
        let mut rare = figures.rare();
        let runs = figures.ended_runs();
        if rare.waits == 0 {
            rare.waits_since = runs;
        }
        rare.waits += 1;
        if rare.waits == HOT_WAITS {
            rare.waits = 0;
            if runs.saturating_sub(rare.waits_since) <= u64::from(HOT_WAITS) * HOT_SHARE && !figures.is_part {
                self.heat_up();
            }
        }
        rare
    }

    /// The name is hot from now on.
    pub(crate) fn heat_up(&self) {
        self.active.fetch_or(HOT, Relaxed);
    }

    /// Returns true if the name is hot.
    pub(super) fn is_hot(&self) -> bool {
        self.active.load(Relaxed) & HOT != 0
    }

    /// Returns true if a run that begins now is counted by this cell.
    #[inline]
    pub(super) fn takes_runs(&self) -> bool {
        self.active.load(Relaxed) & (HOT | GONE) == 0
    }

    /// Returns the owner of the part at this index, if it was made.
    pub(super) fn part(&self, index: usize) -> Option<Arc<dyn Any + Send + Sync>> {
        let part = self.figures.get()?.parts.get()?[index].get()?;
        Some(part.clone().any())
    }

    /// Returns true if `cell` is this or a part of it.
    pub(super) fn is_or_has(&self, cell: &Self) -> bool {
        self.all().any(|part| std::ptr::eq(part, cell))
    }

    /// Makes the cell of a part. Under the registry's lock, as the next.
    pub(super) fn new_part(&self) -> Self {
        let cell = Self::default();
        cell.active.store(self.active.load(Relaxed) & (RETIRED | GONE), Relaxed);
        let figures = Figures { is_part: true, ..Figures::default() };
        figures.failures.get_or_init(|| self.figures().failures().clone());
        cell.figures.get_or_init(|| Box::new(figures));
        cell
    }

    /// Adds a part to a hot name.
    pub(super) fn add_part(&self, index: usize, part: Arc<dyn Part>) {
        let parts =
            self.figures().parts.get_or_init(|| Box::new(std::array::from_fn(|_| OnceLock::default())));
        parts[index].get_or_init(|| part);
    }

    /// The number of runs under way.
    fn active(&self) -> u64 {
        let here = self.active_here();
        if self.is_hot() { here + self.parts().map(Self::active_here).sum::<u64>() } else { here }
    }

    fn active_here(&self) -> u64 {
        self.active.load(Relaxed) & !(HOT | RETIRED | GONE)
    }

    /// Returns true if no run is under way.
    #[inline]
    pub(crate) fn is_quiet(&self) -> bool {
        match self.active.load(Relaxed) & !(RETIRED | GONE) {
            0 => true,
            HOT => self.active() == 0,
            _ => false,
        }
    }

    /// The task that was registered under the name is gone. Under the registry's lock, as the next five.
    pub(super) fn retire(&self) {
        self.all().for_each(|cell| _ = cell.active.fetch_or(RETIRED, Relaxed));
    }

    /// Returns true if the task that was registered under the name is gone, and no other has come.
    pub(crate) fn is_retired(&self) -> bool {
        self.active.load(Relaxed) & RETIRED != 0
    }

    /// A task is registered under the name again.
    pub(super) fn revive(&self) {
        self.all().for_each(|cell| _ = cell.active.fetch_and(!(RETIRED | GONE), Relaxed));
    }

    /// Lets a retired name go, unless a run is under way. Returns whether it did.
    pub(super) fn let_go(&self) -> bool {
        let goes = |cell: &Self| {
            let quiet = cell.active.load(Relaxed) & HOT | RETIRED;
            cell.active.compare_exchange(quiet, quiet | GONE, Relaxed, Relaxed).is_ok()
        };
        let let_go = self.all().all(goes);
        if !let_go {
            // A run that has begun in a part meanwhile waits for the registry's lock, and then finds the name.
            self.take_back();
        }
        let_go
    }

    /// Takes a retired name back that was let go. Returns whether it was.
    pub(super) fn take_back(&self) -> bool {
        let was_gone = self.is_gone();
        self.all().for_each(|cell| _ = cell.active.fetch_and(!GONE, Relaxed));
        was_gone
    }

    /// Returns true if the registry has let the name go.
    pub(super) fn is_gone(&self) -> bool {
        self.active.load(Relaxed) & GONE != 0
    }

    /// Forgets the last runs and the times of restarts, which nobody reads of a name that was let go.
    pub(super) fn shrink(&self) {
        for figures in self.all().filter_map(|cell| cell.figures.get()) {
            let mut rare = figures.rare();
            (rare.history, rare.restart_log) = (VecDeque::new(), VecDeque::new());
        }
    }

    /// Lets the name begin at zero. What is exported of it is not read meanwhile. A run that ends meanwhile counts once or not at all.
    pub(super) fn reset(&self) {
        self.all().for_each(Self::reset_here);
    }

    fn reset_here(&self) {
        let own = [&self.first_start_at, &self.first_start, &self.last_seen];
        own.into_iter().for_each(|figure| figure.store(0, Relaxed));
        if let Some(timing) = self.timing.get() {
            let all = [&timing.interval_nanos, &timing.next_run, &timing.longest_poll_nanos];
            all.into_iter().for_each(|figure| figure.store(0, Relaxed));
        }
        // Made for a first end, too: a second run that ends meanwhile makes them with this end.
        if let Some(figures) = self.read() {
            figures.reset();
        }
    }

    /// The classes of errors that were counted.
    pub(super) fn error_types(&self) -> Vec<&'static str> {
        // Not only after a failure: some error types may be known from before.
        self.failures().map(Failures::error_types).unwrap_or_default()
    }

    fn failures(&self) -> Option<&Failures> {
        self.figures.get()?.failures.get().map(|failures| &**failures)
    }

    /// Admits classes of errors that the histograms know of the name already, from before it was let go. Called before a run.
    pub(super) fn know_error_types(&self, error_types: impl Iterator<Item = &'static str>) {
        self.figures().failures().know(error_types);
    }

    /// Counts an ended run once, everywhere. Returns the error type it was counted under.
    #[inline]
    pub(crate) fn run_ended(
        &self,
        run: &EndedRun<'_>,
        now: impl FnOnce() -> Duration,
        error_type_budget: &AtomicUsize,
    ) -> Option<&'static str> {
        let nanos = nanos(run.duration);
        let ended = unix_nanos(run.started).saturating_add(nanos);
        advance(&self.last_seen, ended);
        let figures = match self.figures.get() {
            Some(figures) => figures,
            None if self.is_first_end(run, nanos) => {
                self.active.fetch_sub(1, Relaxed);
                return None;
            }
            None => self.figures(),
        };
        if run.kind.is_error() {
            figures.failures().continue_row();
        }
        let error_type =
            run.error.as_ref().map(|error| figures.failures().count(error, ended, now(), error_type_budget));
        figures.add(run, nanos, ended, || self.rare_of_run(figures));
        self.active.fetch_sub(1, Relaxed);
        error_type
    }

    /// Counts an ended run without the figures, if that is enough: it is the first to end and to begin, and has no error. Returns whether it is.
    #[inline(never)]
    fn is_first_end(&self, run: &EndedRun<'_>, nanos: u64) -> bool {
        let is_plain = run.error.is_none() && !run.kind.is_error() && nanos < 1 << RESULT_SHIFT;
        let word = (run.kind as u64 + 1) << RESULT_SHIFT | nanos;
        is_plain
            && time(&self.first_start) == Some(run.started)
            && self.first_end.compare_exchange(0, word, Release, Relaxed).is_ok()
    }

    /// Counts an ended run in its minute.
    pub(crate) fn count_minute(&self, now: Duration, is_error: bool) {
        self.figures().minutes.get_or_init(Box::default).count(now, is_error);
    }

    /// Returns the number of ended runs.
    pub(crate) fn ended_runs(&self) -> u64 {
        self.all().map(Self::ended_here).sum()
    }

    pub(crate) fn polled(&self, duration: Duration, slow: Duration) {
        let nanos = nanos(duration);
        raise(&self.timing().longest_poll_nanos, nanos);
        if duration > slow {
            self.figures().slow_polls.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn heartbeat(&self, wall: SystemTime) {
        self.last_seen.fetch_max(unix_nanos(wall), Relaxed);
    }

    pub(crate) fn restarted(&self, reason: RestartReason, now: Duration, wall: SystemTime) {
        let figures = self.figures();
        figures.restarts[reason as usize].fetch_add(1, Relaxed);
        figures.last_restart.store(unix_nanos(wall), Relaxed);
        figures.last_restart_at.store(nanos(now) + 1, Relaxed);
        if reason.counts() {
            let mut rare = figures.rare();
            if rare.restart_log.len() == RestartIntensity::MAX_RESTARTS as usize {
                rare.restart_log.pop_front();
            }
            // Kept in order, whichever of two drivers of one name read its clock first: readers search it.
            let last = rare.restart_log.back().copied().unwrap_or_default();
            rare.restart_log.push_back(now.max(last));
        }
    }

    /// Returns the number of automatic restarts that are younger than `within`.
    pub(crate) fn restarts_within(&self, now: Duration, within: Duration) -> u32 {
        let restarts = self.figures.get().map_or(0, |figures| figures.restarts_within(now, within));
        u32::try_from(restarts).unwrap_or(u32::MAX)
    }

    /// Forgets the restarts that count against the limit and the failures in a row: a person decided to try again.
    pub(crate) fn forgive_restarts(&self) {
        if let Some(figures) = self.figures.get() {
            figures.rare().restart_log.clear();
        }
        if let Some(failures) = self.failures() {
            failures.set_row(0);
        }
    }

    /// Forgets what led to a failure that is over, the errors of the last hour too: health is about what comes now.
    pub(crate) fn recovered(&self) {
        self.forgive_restarts();
        if let Some(failures) = self.failures() {
            failures.forget_last_hour();
        }
    }

    /// Counts the failure that has just ended a long run as the first in a row: such a run would succeed only by ending.
    pub(crate) fn failed_after_long(&self) {
        if let Some(failures) = self.failures() {
            failures.set_row(1);
        }
    }

    pub(crate) fn stalled(&self) {
        self.figures().stalls.fetch_add(1, Relaxed);
    }

    pub(crate) fn stale_signal(&self) {
        self.figures().stale_signals.fetch_add(1, Relaxed);
    }

    pub(crate) fn skipped(&self, reason: SkipReason, iterations: u64) {
        self.figures().skipped[reason as usize].fetch_add(iterations, Relaxed);
    }

    pub(crate) fn retried(&self) {
        self.figures().retries.fetch_add(1, Relaxed);
    }

    /// The name has a limit: who waits for room is counted.
    pub(crate) fn limited(&self) {
        let _ = self.figures().reservations.compare_exchange(0, 1, Relaxed, Relaxed);
    }

    /// A reservation begins to wait. The name has a limit.
    pub(crate) fn reservation_waits(&self) {
        self.figures().reservations.fetch_add(1, Relaxed);
    }

    /// A reservation waits no longer.
    pub(crate) fn reservation_ended(&self) {
        self.figures().reservations.fetch_sub(1, Relaxed);
    }

    pub(crate) fn set_schedule(&self, interval: Option<Duration>, next_run: Option<SystemTime>) {
        let timing = self.timing();
        timing.interval_nanos.store(interval.map_or(0, nanos), Relaxed);
        timing.next_run.store(next_run.map_or(0, unix_nanos), Relaxed);
    }

    /// Sets when a task that has failed is tried again; `None` for never.
    pub(crate) fn set_next_retry(&self, next_retry: Option<SystemTime>) {
        // A task that has nothing to try again is not worth the room.
        if next_retry.is_some() || self.figures.get().is_some() {
            self.figures().next_retry.store(next_retry.map_or(0, unix_nanos), Relaxed);
        }
    }

    /// Returns the time at which a task that has failed is tried again.
    pub(crate) fn next_retry(&self) -> Option<SystemTime> {
        self.figures.get().and_then(|figures| time(&figures.next_retry))
    }

    /// Sets the state of the registered task; `None` once it is unregistered. The same state again does not change its time.
    pub(crate) fn set_state(&self, state: Option<TaskState>, wall: SystemTime) {
        let number = state.map_or(0, |state| state as u64 + 1);
        if self.state.load(Relaxed) >> STATE_SHIFT != number {
            // Microseconds that need more room are of a clock that is wrong anyway.
            let since = (unix_nanos(wall) / 1_000).min((1 << STATE_SHIFT) - 1);
            self.state.store(number << STATE_SHIFT | since, Relaxed);
        }
    }

    pub(crate) fn state(&self) -> Option<TaskState> {
        state_of(self.state.load(Relaxed))
    }

    /// The state, and when it was set.
    pub(crate) fn state_since(&self) -> Option<(TaskState, SystemTime)> {
        let word = self.state.load(Relaxed);
        let since = UNIX_EPOCH + Duration::from_micros(word & ((1 << STATE_SHIFT) - 1));
        Some((state_of(word)?, since))
    }

    /// Returns true if a task is registered under the name, or has runs under way.
    pub(crate) fn is_alive(&self) -> bool {
        self.state().is_some() || !self.is_quiet()
    }

    /// Returns the last runs, in the order of their ends.
    pub(crate) fn history(&self) -> Vec<RunRecord> {
        let mut history = Vec::new();
        for figures in self.all().filter_map(Self::read) {
            history.extend(figures.rare().history.iter().copied());
        }
        if self.is_hot() {
            history.sort_by_key(|run| run.started + run.duration);
            history.drain(..history.len().saturating_sub(HISTORY_LENGTH));
        }
        history
    }

    /// Returns the figures for health and the totals, without texts and buckets.
    pub(crate) fn vitals(&self, now: Duration) -> Vitals {
        let mut vitals = self.vitals_here(now);
        if self.is_hot() {
            self.parts().for_each(|part| vitals.absorb(&part.vitals_here(now)));
        }
        vitals
    }

    fn vitals_here(&self, now: Duration) -> Vitals {
        let state = self.state_since();
        let vitals = Vitals {
            state: state.map(|(state, _)| state),
            state_since: state.map(|(_, since)| since),
            active: self.active_here(),
            uptime: age(&self.first_start_at, now),
            last_seen: time(&self.last_seen),
            ..Vitals::default()
        };
        // Not made for this: each registered task is checked.
        let Some(figures) = self.figures.get() else { return Vitals { runs: self.ended_here(), ..vitals } };
        let runs = load(&figures.runs);
        // Those of a part are its name's.
        let failures = figures.failures.get().filter(|_| !figures.is_part);
        Vitals {
            failures_in_a_row: failures.map_or(0, |failures| failures.in_a_row()),
            errors_last_hour: failures.map_or(0, |failures| failures.last_hour(now)),
            runs: runs.iter().sum(),
            errors: ExitKind::ALL
                .iter()
                .filter(|kind| kind.is_error())
                .map(|kind| runs[*kind as usize])
                .sum(),
            restarts: load(&figures.restarts).iter().sum(),
            since_restart: age(&figures.last_restart_at, now),
            restarts_last_hour: figures.restarts_last_hour(now),
            ..vitals
        }
    }

    /// A snapshot of what is exported: ages, windows, buckets and the last error's text are left out.
    pub(crate) fn exported(&self, identity: &Identity) -> TaskSnapshot {
        let mut sum = self.counted_here(identity);
        self.parts().for_each(|part| sum.absorb(part.counted_here(identity)));
        if let Some(failures) = self.failures() {
            (sum.errors, sum.last_error_time) = (failures.errors(), time(&failures.last));
        }
        sum
    }

    pub(crate) fn snapshot(&self, identity: &Identity, now: Duration) -> TaskSnapshot {
        let mut sum = self.snapshot_here(identity, now);
        self.parts().for_each(|part| sum.absorb(part.snapshot_here(identity, now)));
        if let Some(failures) = self.failures() {
            (sum.errors, sum.last_error_time) = (failures.errors(), time(&failures.last));
            (sum.last_error, sum.errors_last_hour) = (failures.last(), failures.last_hour(now));
        }
        sum
    }

    fn snapshot_here(&self, identity: &Identity, now: Duration) -> TaskSnapshot {
        let uptime = age(&self.first_start_at, now);
        let Some(figures) = self.read() else {
            return TaskSnapshot { durations: Histogram::none(), uptime, ..self.counted_here(identity) };
        };
        let few = figures.few_runs();
        TaskSnapshot {
            few,
            minutes: figures.minutes.get().map(|minutes| minutes.read(now)),
            durations: figures.durations.counts(),
            uptime,
            since_restart: age(&figures.last_restart_at, now),
            restarts_last_hour: figures.restarts_last_hour(now),
            ..self.counted_here(identity)
        }
    }

    /// The figures of this cell alone, as the other functions that end in `_here`. Failures are of all cells of the name.
    fn counted_here(&self, identity: &Identity) -> TaskSnapshot {
        let timing = self.timing.get();
        let interval = timing.map(|timing| duration(&timing.interval_nanos));
        let snapshot = TaskSnapshot {
            interval: interval.filter(|interval| !interval.is_zero()),
            next_run: timing.and_then(|timing| time(&timing.next_run)),
            state: self.state(),
            retired: self.is_retired(),
            active: self.active_here(),
            longest_poll: timing.map_or(Duration::ZERO, |timing| duration(&timing.longest_poll_nanos)),
            first_start: time(&self.first_start),
            last_seen: time(&self.last_seen),
            ..TaskSnapshot::of(identity)
        };
        let Some(figures) = self.read() else { return snapshot };
        TaskSnapshot {
            runs: load(&figures.runs),
            restarts: load(&figures.restarts),
            run_time: duration(&figures.run_nanos),
            longest_run: duration(&figures.longest_run_nanos),
            shortest_run: duration(&figures.shortest_run_nanos),
            slow_polls: figures.slow_polls.load(Relaxed),
            stalls: figures.stalls.load(Relaxed),
            stale_signals: figures.stale_signals.load(Relaxed),
            skipped: load(&figures.skipped),
            retries: figures.retries.load(Relaxed),
            pending_reservations: figures.reservations.load(Relaxed).checked_sub(1),
            last_success: time(&figures.last_success),
            last_restart: time(&figures.last_restart),
            next_retry: time(&figures.next_retry),
            ..snapshot
        }
    }
}

/// The state in a word of [`TaskCell::state`].
fn state_of(word: u64) -> Option<TaskState> {
    let index = usize::try_from(word >> STATE_SHIFT).ok()?.checked_sub(1)?;
    Some(TaskState::ALL[index])
}

/// Raises a maximum. A load first: almost no value is the largest, and a read does not take the line from the other workers.
fn raise(maximum: &AtomicU64, value: u64) {
    if value > maximum.load(Relaxed) {
        maximum.fetch_max(value, Relaxed);
    }
}

/// Moves a moment forward. Of two runs that end together either one's may stay: they are as far apart as two instructions.
fn advance(moment: &AtomicU64, to: u64) {
    if to > moment.load(Relaxed) {
        moment.store(to, Relaxed);
    }
}

/// Reads a duration that was written as [`nanos`].
fn duration(nanos: &AtomicU64) -> Duration {
    Duration::from_nanos(nanos.load(Relaxed))
}

/// Reads a time that was written as [`unix_nanos`]; `None` for never.
fn time(unix: &AtomicU64) -> Option<SystemTime> {
    match unix.load(Relaxed) {
        0 => None,
        nanos => Some(UNIX_EPOCH + Duration::from_nanos(nanos)),
    }
}

/// Reads a time since the registry was made, and returns its age; `None` for never.
fn age(at: &AtomicU64, now: Duration) -> Option<Duration> {
    at.load(Relaxed).checked_sub(1).map(|at| now.saturating_sub(Duration::from_nanos(at)))
}

fn load<const N: usize>(counters: &[AtomicU64; N]) -> [u64; N] {
    std::array::from_fn(|index| counters[index].load(Relaxed))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[inline]
fn unix_nanos(wall: SystemTime) -> u64 {
    // Before 1970 the clock is wrong anyway; 1 keeps it apart from "never".
    wall.duration_since(UNIX_EPOCH).map_or(1, nanos)
}

#[cfg(test)]
pub(super) mod tests;

/// Seen to fail if `active` is decreased by a load and a store. Also seen to fail if the error is counted after the lock of [`Rare`] was
/// released and taken again. Orderings do not matter: every access is `Relaxed`, which these models show to suffice.
/// The first end is the exception, and loom does not test its ordering: its [`OnceBox`] takes a lock.
#[cfg(all(test, otel_tasks_loom))]
mod loom {
    use std::sync::Arc;

    use ::loom::thread;

    use super::*;
    use crate::{
        policy::{TaskCategory, TaskPriority},
        sync::model,
    };

    fn identity() -> Identity {
        Identity {
            name: "t".into(),
            category: TaskCategory::Scheduled,
            priority: TaskPriority::High,
            component: None,
        }
    }

    fn run(cell: &TaskCell, error_type: &'static str, budget: &AtomicUsize) {
        cell.run_started(|| Duration::ZERO, UNIX_EPOCH);
        let error = RunError { error_type, message: &String::new, trace_id: None };
        let run = EndedRun {
            kind: ExitKind::Failure,
            started: UNIX_EPOCH,
            duration: Duration::from_secs(1),
            error: Some(error),
        };
        cell.run_ended(&run, || Duration::ZERO, budget);
    }

    #[test]
    fn at_rest_all_figures_agree() {
        model(2, || {
            let cell = Arc::new(TaskCell::default());
            let budget = Arc::new(AtomicUsize::new(1));
            let other = {
                let (cell, budget) = (cell.clone(), budget.clone());
                thread::spawn(move || run(&cell, "one", &budget))
            };
            run(&cell, "another", &budget);
            other.join().expect("no panic");
            let rest = cell.snapshot(&identity(), Duration::ZERO);
            assert_eq!((rest.active, rest.total_runs(), rest.errors_last_hour), (0, 2, 2));
            assert_eq!(rest.durations.iter().sum::<u64>(), 2);
            assert_eq!(rest.run_time, Duration::from_secs(2));
            let mut errors: Vec<_> =
                rest.errors.iter().map(|error| (error.error_type, error.count)).collect();
            errors.sort_unstable();
            assert!(
                matches!(errors[..], [("_OTHER", 1), ("one" | "another", 1)]),
                "the budget admits one of two: {errors:?}"
            );
            assert_eq!(cell.history().len(), 2);
        });
    }

    /// Seen to fail if the figures are made without [`SEALED`], and if the seal replaces the first end.
    #[test]
    fn a_first_end_is_counted_once_whoever_makes_the_figures() {
        model(3, || {
            let cell = Arc::new(TaskCell::default());
            let start = UNIX_EPOCH + Duration::from_secs(1);
            let run = move |cell: &TaskCell| {
                let duration = Duration::from_secs(1);
                let run = EndedRun { kind: ExitKind::Success, started: start, duration, error: None };
                cell.run_started(|| Duration::ZERO, start);
                cell.run_ended(&run, || Duration::ZERO, &AtomicUsize::new(0));
            };
            let ends = {
                let cell = cell.clone();
                thread::spawn(move || run(&cell))
            };
            let counts = {
                let cell = cell.clone();
                thread::spawn(move || cell.stalled())
            };
            let runs = cell.vitals(Duration::ZERO).runs;
            assert!(runs <= 1 && cell.ended_runs() >= runs, "no end is counted twice, and none is lost");
            ends.join().expect("no panic");
            counts.join().expect("no panic");
            let rest = cell.snapshot(&identity(), Duration::ZERO);
            assert_eq!((rest.active, rest.total_runs(), rest.stalls), (0, 1, 1));
            assert_eq!((rest.run_time, cell.history().len()), (Duration::from_secs(1), 1));
        });
    }

    #[test]
    fn concurrent_snapshot_differs_by_at_most_the_active_runs() {
        model(2, || {
            let cell = Arc::new(TaskCell::default());
            let runs = {
                let cell = cell.clone();
                thread::spawn(move || run(&cell, "one", &AtomicUsize::new(1)))
            };
            let snapshot = cell.snapshot(&identity(), Duration::from_secs(1));
            assert!(snapshot.active <= 1 && snapshot.total_runs() <= 1, "{snapshot:?}");
            assert!(snapshot.uptime.is_none_or(|uptime| uptime <= Duration::from_secs(1)));
            runs.join().expect("no panic");
        });
    }
}
