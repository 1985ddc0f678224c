//! The recorder of runs: the cells, the clock, the instruments and the tracer of one manager, or of the process.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use arc_swap::{ArcSwapOption, Guard};
use opentelemetry::{SpanId, TraceId};
use tokio::time::Instant;

use crate::{
    cell::{
        DEFAULT_MAX_NAMES, EndedRun, Entry, Identity, Registry, RunError, TaskSnapshot, by_name,
        include_members, snapshot,
    },
    emit::{
        AnyTracer, DelaySeries, Exposition, Figures, Row, RunDuration, RunExemplar, Source, SpanPath,
        TaskAttributes,
    },
    policy::{CategoryRules, ErrorRules, Exit, NameRule, TaskCategory, TaskPriority},
    shards::LocalArcs,
};

/// A task name with its cell and its attribute sets.
pub(crate) type Task = Entry<TaskAttributes>;

/// The attribute sets a stream holds besides its overflow set.
const DEFAULT_STREAMS: usize = 1_999;
/// From how long on a poll counts as slow by default.
pub(crate) const DEFAULT_SLOW_POLL: Duration = Duration::from_millis(100);
/// Somebody has asked for exemplars.
const EXEMPLARS: u8 = 1;
/// Somebody has asked for the counts of minutes.
const MINUTES: u8 = 2;
/// Durations kept for instruments that do not exist yet; only the process-wide recorder ever waits for them.
const MAX_PENDING: usize = 4_096;

pub(crate) struct RecorderOptions {
    pub(crate) max_names: usize,
    pub(crate) instance: Option<Arc<str>>,
    pub(crate) categories: CategoryRules,
    pub(crate) name_rule: NameRule,
    pub(crate) slow_poll: Duration,
    pub(crate) polls: PollTime,
    pub(crate) silence_panics: bool,
    pub(crate) tracer: Option<Arc<dyn AnyTracer>>,
    pub(crate) span_path: SpanPath,
    /// The rules that classify and name errors, unless a task has its own; `None` without rules.
    pub(crate) error_rules: Option<Arc<ErrorRules>>,
}

impl Default for RecorderOptions {
    fn default() -> Self {
        Self {
            max_names: DEFAULT_MAX_NAMES,
            instance: None,
            categories: CategoryRules::default(),
            name_rule: NameRule::default(),
            slow_poll: DEFAULT_SLOW_POLL,
            polls: PollTime::Seen,
            silence_panics: false,
            tracer: None,
            span_path: SpanPath::default(),
            error_rules: None,
        }
    }
}

pub(crate) struct Recorder {
    figures: Arc<Cells>,
    pub(crate) options: RecorderOptions,
    exposition: ArcSwapOption<Exposition>,
    /// The number of the exposition's histogram of runs; 0 before there is one. Relaxed: a series has its number beside it.
    histogram: AtomicU64,
    pending: Mutex<Vec<Pending>>,
    /// True if our exporting layer took the last run's span.
    spans_taken: AtomicBool,
    /// The optional records beside the figures: [`EXEMPLARS`], [`MINUTES`]. Relaxed: pairs with nothing.
    wanted: AtomicU8,
}

/// The state that a meter may still read when the manager is gone.
struct Cells {
    registry: Registry<TaskAttributes>,
    epoch: Instant,
    /// The outcomes of the tasks at shutdown. Only the shutdown writes them.
    shutdown_outcomes: Mutex<Vec<(&'static str, u64)>>,
}

impl Cells {
    fn at(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.epoch)
    }

    fn now(&self) -> Duration {
        self.at(Instant::now())
    }
}

struct Pending {
    task: Arc<Task>,
    seconds: f64,
    exit: crate::policy::ExitKind,
    error_type: Option<&'static str>,
}

impl Recorder {
    pub(crate) fn new(options: RecorderOptions) -> Arc<Self> {
        // More names than fit in a default stream: the user has raised the limit by a View, as our installer does.
        let streams = DEFAULT_STREAMS.max(options.max_names.saturating_mul(10));
        Arc::new(Self {
            figures: Arc::new(Cells {
                registry: Registry::new(
                    options.max_names,
                    streams,
                    options.instance.clone(),
                    TaskAttributes::new,
                ),
                epoch: Instant::now(),
                shutdown_outcomes: Mutex::default(),
            }),
            options,
            exposition: ArcSwapOption::empty(),
            histogram: AtomicU64::new(0),
            pending: Mutex::default(),
            spans_taken: AtomicBool::new(false),
            wanted: AtomicU8::new(0),
        })
    }

    pub(crate) fn registry(&self) -> &Registry<TaskAttributes> {
        &self.figures.registry
    }

    /// Notes what became of the tasks at shutdown.
    pub(crate) fn shut_down(&self, outcomes: Vec<(&'static str, u64)>) {
        *self.figures.shutdown_outcomes.lock().unwrap_or_else(PoisonError::into_inner) = outcomes;
    }

    /// The recorder of `#[instrumented_task]` functions that run under no manager.
    pub(crate) fn process() -> &'static LocalArcs<Self> {
        static PROCESS: OnceLock<LocalArcs<Recorder>> = OnceLock::new();
        PROCESS.get_or_init(|| LocalArcs::new(Self::new(RecorderOptions::default())))
    }

    /// Reports to `exposition`; the process-wide recorder joins the first one there is.
    pub(crate) fn attach(self: &Arc<Self>, exposition: &Arc<Exposition>) {
        Arc::clone(self).report_to(exposition);
        Self::join_process(exposition);
    }

    /// Lets the process-wide recorder report to `exposition`, unless it reports somewhere already.
    pub(crate) fn join_process(exposition: &Arc<Exposition>) {
        let process = Self::process();
        if process.exposition.load().is_none() {
            Arc::clone(process).report_to(exposition);
        }
    }

    /// Time since this recorder was made, on the monotonic clock (tokio's, so that paused time is honoured).
    pub(crate) fn now(&self) -> Duration {
        self.at(Instant::now())
    }

    /// Converts an instant to the time base of [`Recorder::now`].
    pub(crate) fn at(&self, instant: Instant) -> Duration {
        self.figures.at(instant)
    }

    pub(crate) fn exposition(&self) -> Guard<Option<Arc<Exposition>>> {
        self.exposition.load()
    }

    pub(crate) fn tracer(&self) -> Option<&Arc<dyn AnyTracer>> {
        self.options.tracer.as_ref()
    }

    /// Returns true if a run's span can be made after the run began: only our exporting layer lets it begin earlier than it is made.
    /// The run before sets it, because only a span shows if the layer takes it. Relaxed: pairs with nothing.
    pub(crate) fn spans_may_wait(&self) -> bool {
        self.spans_taken.load(Relaxed)
    }

    /// Notes whether our exporting layer took a run's span.
    pub(crate) fn let_spans_wait(&self, taken: bool) {
        // A load first: nearly always it is so already, and a read leaves the line with the other workers.
        if self.spans_taken.load(Relaxed) != taken {
            self.spans_taken.store(taken, Relaxed);
        }
    }

    /// A task's rules, and after them the manager's.
    pub(crate) fn with_rules(&self, rules: ErrorRules) -> Option<Arc<ErrorRules>> {
        rules.before(self.options.error_rules.as_ref())
    }

    /// Returns the way in which the polls of this manager's own tasks are timed.
    pub(crate) fn polls(&self) -> PollTime {
        self.options.polls
    }

    /// The task that a bare name is recorded under.
    pub(crate) fn task(&self, given: &str) -> Arc<Task> {
        self.task_by(given, |name| self.registry().plain(name))
    }

    /// The same for a run that a thread of this shard spawns.
    pub(crate) fn task_here(&self, given: &str, shard: usize) -> Arc<Task> {
        self.task_by(given, |name| self.registry().plain_here(name, shard, TaskAttributes::shared))
    }

    #[inline]
    fn task_by(&self, given: &str, find: impl FnOnce(&str) -> Option<Arc<Task>>) -> Arc<Task> {
        let name = self.options.name_rule.apply(given);
        if let Some(task) = find(&name) {
            return task;
        }
        let identity = Identity {
            name: name.as_ref().into(),
            category: self.options.categories.categorize(given),
            priority: TaskPriority::default(),
            component: None,
        };
        self.registry().entry(identity, true, self.now()).unwrap_or_else(|| self.registry().overflow())
    }

    /// The task of a name about which the caller said more.
    pub(crate) fn task_with(
        &self,
        given: &str,
        category: Option<TaskCategory>,
        priority: Option<TaskPriority>,
        component: Option<Arc<str>>,
    ) -> Arc<Task> {
        let identity = Identity {
            name: self.options.name_rule.apply(given).as_ref().into(),
            category: category.unwrap_or_else(|| self.options.categories.categorize(given)),
            priority: priority.unwrap_or_default(),
            component,
        };
        self.registry().entry(identity, false, self.now()).unwrap_or_else(|| self.registry().overflow())
    }

    /// The same for a run that a thread of this shard spawns.
    pub(crate) fn task_with_here(
        &self,
        given: &str,
        category: Option<TaskCategory>,
        priority: Option<TaskPriority>,
        component: Option<&str>,
        shard: usize,
    ) -> Arc<Task> {
        let name = self.options.name_rule.apply(given);
        let category = category.unwrap_or_else(|| self.options.categories.categorize(given));
        let said = (&*name, category, priority.unwrap_or_default());
        self.registry()
            .entry_here(said, component, shard, TaskAttributes::shared, || self.now())
            .unwrap_or_else(|| self.registry().overflow())
    }

    /// Counts an ended run in the cell and in the histogram; the only place where either happens. Returns its duration.
    pub(crate) fn run_ended(
        &self,
        task: &Arc<Task>,
        exit: &Exit,
        (started, started_wall): (Instant, SystemTime),
        trace_id: Option<String>,
        exemplar: impl FnOnce(Duration) -> Option<(TraceId, SpanId)>,
    ) -> Duration {
        let now = Instant::now();
        let duration = now.saturating_duration_since(started);
        let message = || exit.message();
        let error = exit.error_type().map(|error_type| RunError { error_type, message: &message, trace_id });
        let run = EndedRun { kind: exit.kind(), started: started_wall, duration, error };
        let error_type = task.run_ended(&run, || self.at(now), &self.registry().error_type_budget);
        let wanted = self.wanted.load(Relaxed);
        if wanted & MINUTES != 0 {
            task.count_minute(self.at(now), error_type.is_some());
        }
        let exemplar = (wanted & EXEMPLARS != 0).then(|| exemplar(duration)).flatten();
        if let Some(span) = exemplar {
            task.note_exemplar(exit.kind(), error_type, duration, span);
        }
        let seconds = duration.as_secs_f64();
        let histogram = self.histogram.load(Relaxed);
        if error_type.is_none() && RunDuration::record_held(histogram, task, seconds, exit.kind()) {
            return duration;
        }
        match &*self.exposition.load() {
            Some(exposition) => {
                exposition.instruments.run_duration.record(task, seconds, exit.kind(), error_type)
            }
            None => {
                let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
                // Names that waited for room may have been recorded meanwhile.
                if let Some(exposition) = &*self.exposition.load() {
                    exposition.instruments.run_duration.record(task, seconds, exit.kind(), error_type);
                } else if pending.len() < MAX_PENDING {
                    pending.push(Pending { task: task.clone(), seconds, exit: exit.kind(), error_type });
                }
            }
        }
        duration
    }

    /// Records the delay of an iteration in the histogram, for a life of a loop that holds `series`.
    pub(crate) fn iteration_delayed(&self, series: &mut DelaySeries, task: &Task, delay: Duration) {
        let seconds = delay.as_secs_f64();
        if series.record_held(self.histogram.load(Relaxed), seconds) {
            return;
        }
        if let Some(exposition) = &*self.exposition.load() {
            exposition.instruments.iteration_delayed(series, task, seconds);
        }
    }

    /// The exemplars of the runs that ended since this was first called.
    pub(crate) fn exemplars(&self) -> Vec<RunExemplar> {
        self.wanted.fetch_or(EXEMPLARS, Relaxed);
        self.registry().listing().iter().flat_map(|task| task.run_exemplars()).collect()
    }

    /// Counts runs by minute from now on.
    pub(crate) fn record_minutes(&self) {
        self.wanted.fetch_or(MINUTES, Relaxed);
    }

    pub(crate) fn snapshot(&self, name: &str) -> Option<TaskSnapshot> {
        let of_name = self.registry().of_name(name);
        let snapshot = snapshot(&of_name, self.now())?;
        let mut one = [snapshot];
        let families = of_name.into_iter().filter(|entry| entry.is_family());
        let families: Vec<_> = families.map(|entry| (entry, 0)).collect();
        if !families.is_empty() {
            include_members(&self.registry().listing(), &families, &mut one);
        }
        let [snapshot] = one;
        Some(snapshot)
    }

    /// One snapshot per name, sorted by name.
    pub(crate) fn snapshots_by_name(&self) -> Vec<TaskSnapshot> {
        let now = self.now();
        let listing = self.registry().listing();
        let (mut snapshots, mut families) = (Vec::new(), Vec::new());
        for of_name in by_name(&listing) {
            let here = of_name.iter().filter(|entry| entry.is_family());
            families.extend(here.map(|entry| (entry.clone(), snapshots.len())));
            snapshots.extend(snapshot(of_name, now));
        }
        include_members(&listing, &families, &mut snapshots);
        snapshots
    }
}

impl Figures for Cells {
    fn snapshots(&self) -> Vec<Row> {
        self.registry.collect(self.now())
    }

    fn remembered(&self) -> Vec<Row> {
        self.registry.remembered()
    }

    fn take_forgotten(&self) -> Vec<Row> {
        self.registry.take_forgotten()
    }

    fn shutdown_outcomes(&self) -> Vec<(&'static str, u64)> {
        self.shutdown_outcomes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Source for Recorder {
    fn report_to(self: Arc<Self>, exposition: &Arc<Exposition>) {
        let source: Arc<dyn Source> = self.clone();
        exposition.add_source(Arc::downgrade(&source), self.figures.clone());
        self.exposition.store(Some(exposition.clone()));
        self.histogram.store(exposition.instruments.run_duration.number(), Relaxed);
        let mut waiting = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        for pending in waiting.drain(..) {
            let Pending { task, seconds, exit, error_type } = pending;
            exposition.instruments.run_duration.record(&task, seconds, exit, error_type);
        }
    }
}

/// The way in which the time of a run's polls is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PollTime {
    /// By the watchdog, which sees polls that take longer than a tick, from its first tick on. The run must be polled as a
    /// [`Polled`](crate::engine) and be the outermost of its poll.
    Seen,
    /// By the clock, twice a poll.
    Exact,
    /// Not at all: its one poll is its whole work, on a thread that is there to be blocked.
    Untimed,
}
