//! The instruments: built once per meter, reading the cells of every manager that reports to it.
//!
//! OpenTelemetry's callbacks cannot be unregistered, so they hold a [`Weak`] and observe whatever managers are alive.
//! A panic in a callback would end all metrics of the process, so each is guarded. Nothing here creates an instrument,
//! blocks, or takes a lock under which an instrument is made. One snapshot serves all callbacks of one collection.

use std::{
    collections::{BTreeMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use opentelemetry::{
    KeyValue,
    metrics::{AsyncInstrument, Histogram, Meter},
};

#[cfg(feature = "bound-instruments")]
use super::attributes::BoundDuration;
use super::{
    TaskAttributes,
    attributes::Varied,
    deferred::{Observable, Observed, defer, is_deferring},
};
use crate::{
    cell::{DEFAULT_MAX_NAMES, Entry, TaskSnapshot},
    contract::{self, DURATION_BOUNDARIES, Instrument, key},
    policy::ExitKind,
};

/// The figures that a meter reads: the cells of one manager, or of the process.
pub(crate) trait Figures: Send + Sync {
    /// Returns every exported entry with its current figures, sorted by name. Removes the names that are due.
    fn snapshots(&self) -> Vec<Row>;
    /// The names that are exported no more and may come back. They count where others report under the same attributes.
    fn remembered(&self) -> Vec<Row>;
    /// Returns the names that were forgotten since the last call.
    fn take_forgotten(&self) -> Vec<Row>;
    /// Returns the outcomes of the tasks at shutdown, by the attribute value of [`ShutdownOutcome`](crate::shutdown::ShutdownOutcome).
    fn shutdown_outcomes(&self) -> Vec<(&'static str, u64)>;
}

/// An entry with what it says.
pub(crate) type Row = (Arc<Entry<TaskAttributes>>, TaskSnapshot);

/// The writer of figures, which moves with them to another exposition.
pub(crate) trait Source: Send + Sync {
    /// Reports to `exposition` from now on.
    fn report_to(self: Arc<Self>, exposition: &Arc<Exposition>);
}

/// The instruments that are recorded as things happen.
#[derive(Debug)]
pub(crate) struct Instruments {
    pub(crate) run_duration: RunDuration,
    schedule_delay: Histogram<f64>,
    reservation_wait_time: Histogram<f64>,
    pub(crate) shutdown_duration: Histogram<f64>,
    pub(crate) monitor_duration: Histogram<f64>,
}

impl Instruments {
    /// Records the time that a run of a task has waited for room.
    pub(crate) fn reservation_waited(&self, task: &Entry<TaskAttributes>, seconds: f64) {
        self.reservation_wait_time.record(seconds, task.recorded_as(None).0.attributes());
    }

    /// Records the delay of an iteration after its due time. With the feature `bound-instruments` the series is held from now on.
    #[cfg(feature = "bound-instruments")]
    pub(crate) fn iteration_delayed(
        &self,
        series: &mut DelaySeries,
        task: &Entry<TaskAttributes>,
        seconds: f64,
    ) {
        let bound = self.schedule_delay.bind(task.recorded_as(None).0.attributes());
        bound.record(seconds);
        series.bound = Some((self.run_duration.number(), bound));
    }

    #[cfg(not(feature = "bound-instruments"))]
    pub(crate) fn iteration_delayed(&self, _: &mut DelaySeries, task: &Entry<TaskAttributes>, seconds: f64) {
        self.schedule_delay.record(seconds, task.recorded_as(None).0.attributes());
    }
}

/// The durations of runs, which are recorded once per run. With the feature `bound-instruments` each name holds its series;
/// otherwise the SDK finds the series by the hash of the attributes, each time.
#[derive(Debug)]
pub(crate) struct RunDuration {
    histogram: Histogram<f64>,
    /// The number of this histogram in the process.
    #[cfg(feature = "bound-instruments")]
    number: u64,
}

/// A number for one more histogram, from 1.
#[cfg(feature = "bound-instruments")]
fn number() -> u64 {
    static NUMBERS: AtomicU64 = AtomicU64::new(1);
    NUMBERS.fetch_add(1, Relaxed)
}

impl RunDuration {
    fn new(histogram: Histogram<f64>) -> Self {
        Self {
            histogram,
            #[cfg(feature = "bound-instruments")]
            number: number(),
        }
    }

    /// The number of this histogram, for [`Self::record_held`]; 0 if no name holds a series.
    pub(crate) fn number(&self) -> u64 {
        #[cfg(feature = "bound-instruments")]
        return self.number;
        #[cfg(not(feature = "bound-instruments"))]
        0
    }

    /// Records a run without an error type in the series that its name holds, if that is of the histogram with this number. Returns
    /// false if it is not.
    #[cfg(feature = "bound-instruments")]
    #[inline]
    pub(crate) fn record_held(
        number: u64,
        task: &Entry<TaskAttributes>,
        seconds: f64,
        kind: ExitKind,
    ) -> bool {
        match task.recorded().held(kind) {
            Some((held, series)) if *held == number => {
                series.record(seconds);
                true
            }
            _ => false,
        }
    }

    #[cfg(not(feature = "bound-instruments"))]
    pub(crate) fn record_held(_: u64, _: &Entry<TaskAttributes>, _: f64, _: ExitKind) -> bool {
        false
    }

    pub(crate) fn record(
        &self,
        task: &Entry<TaskAttributes>,
        seconds: f64,
        kind: ExitKind,
        error_type: Option<&'static str>,
    ) {
        let (task, error_type) = task.recorded_as(error_type);
        match error_type {
            None => self.record_plain(task, seconds, kind),
            Some(error_type) => task.with_error_attributes(kind, error_type, |attributes| {
                self.histogram.record(seconds, attributes);
            }),
        }
    }

    fn record_plain(&self, task: &Entry<TaskAttributes>, seconds: f64, kind: ExitKind) {
        if !task.keeps_sets() {
            task.with_new_result_attributes(kind, |attributes| self.histogram.record(seconds, attributes));
            return;
        }
        #[cfg(feature = "bound-instruments")]
        {
            let bind = || (self.number, self.histogram.bind(task.result_attributes(kind)));
            let (number, series) = task.bound(kind).get_or_init(bind);
            // Otherwise the manager reports to another meter than before.
            if *number == self.number {
                series.record(seconds);
                return;
            }
        }
        self.histogram.record(seconds, task.result_attributes(kind));
    }
}

/// The series that one life of a loop holds for the delays of its iterations.
#[derive(Default)]
pub(crate) struct DelaySeries {
    /// With the number of the exposition's histogram of runs.
    #[cfg(feature = "bound-instruments")]
    bound: Option<BoundDuration>,
}

impl DelaySeries {
    /// Records a delay in the series that is held, if that is of the exposition with this number. Returns false if it is not.
    #[cfg(feature = "bound-instruments")]
    #[inline]
    pub(crate) fn record_held(&self, number: u64, seconds: f64) -> bool {
        match &self.bound {
            Some((held, series)) if *held == number => {
                series.record(seconds);
                true
            }
            _ => false,
        }
    }

    #[cfg(not(feature = "bound-instruments"))]
    pub(crate) fn record_held(&self, _: u64, _: f64) -> bool {
        false
    }
}

/// One meter's instruments and who reports to them.
pub(crate) struct Exposition {
    pub(crate) instruments: Instruments,
    lasting: bool,
    reporting: Mutex<Reporting>,
    collection: Mutex<Collection>,
    made: Instant,
    /// Milliseconds from `made` to the last collection, plus one; 0 for never.
    collected: AtomicU64,
}

#[derive(Default)]
struct Reporting {
    /// Held strongly are the figures alone, so that nothing of a manager ends inside a callback.
    sources: Vec<(Weak<dyn Source>, Arc<dyn Figures>)>,
    /// The last figures of managers that are gone. Without them, the sums of the other managers would run backwards, which the SDK
    /// takes for an underflow under delta temporality.
    gone: Snapshot,
    /// The last figures of names that their manager has forgotten while another reports under the same attributes: without
    /// them its sum would run backwards. In the order of the names, one row for each set of attributes.
    remains: Vec<Row>,
}

#[derive(Default)]
struct Collection {
    /// The instruments that have read this snapshot: the second read of an instrument begins a new collection.
    seen: HashSet<&'static str>,
    snapshot: Arc<Snapshot>,
}

#[derive(Clone, Default)]
struct Snapshot {
    /// In the order of the names.
    tasks: Vec<Row>,
    shutdown: BTreeMap<&'static str, u64>,
}

impl Snapshot {
    /// Adds what a manager says. Two on one meter: the same series is one sum, not the last writer's figure.
    fn absorb(&mut self, figures: &dyn Figures) {
        for (attribute, count) in figures.shutdown_outcomes() {
            *self.shutdown.entry(attribute).or_default() += count;
        }
        // What one manager says has no twins, and comes in the order of the names: here too, so that twins are searched for.
        let held = self.tasks.len();
        for (entry, task) in figures.snapshots() {
            match twin(&mut self.tasks[..held], &entry) {
                Some(held) => held.absorb(task),
                None => self.tasks.push((entry, task)),
            }
        }
        if held > 0 {
            self.tasks.sort_by(|(a, _), (b, _)| a.identity.name.cmp(&b.identity.name));
        }
    }

    /// Adds what is exported no more to what others say under the same attributes. Returns whether somebody does.
    fn absorb_past(&mut self, (entry, task): &Row) -> bool {
        let held = twin(&mut self.tasks, entry);
        let counts = held.is_some();
        if let Some(held) = held {
            let retired = held.retired;
            held.absorb(task.clone());
            held.retired = retired;
        }
        counts
    }
}

/// Returns the snapshot under the attributes of an entry, from rows that are sorted by name.
fn twin<'a>(rows: &'a mut [Row], entry: &Entry<TaskAttributes>) -> Option<&'a mut TaskSnapshot> {
    let name = &entry.identity.name;
    let of_name = rows.partition_point(|(other, _)| other.identity.name < *name);
    let mut twins = rows[of_name..].iter_mut().take_while(|(other, _)| other.identity.name == *name);
    twins.find(|(other, _)| other.attributes() == entry.attributes()).map(|(_, held)| held)
}

/// Adds a row to rows that are in the order of the names, or to what they say under its attributes.
fn add_row(rows: &mut Vec<Row>, (entry, task): Row) {
    match twin(rows, &entry) {
        Some(held) => held.absorb(task),
        None => {
            let place = rows.partition_point(|(other, _)| other.identity.name <= entry.identity.name);
            rows.insert(place, (entry, task));
        }
    }
}

impl Exposition {
    /// For one manager: its figures end with it.
    pub(crate) fn new(meter: &Meter) -> Arc<Self> {
        Self::build(meter, false)
    }

    /// For managers that come and go: what one counted stays in the sums.
    fn lasting(meter: &Meter) -> Arc<Self> {
        Self::build(meter, true)
    }

    fn build(meter: &Meter, lasting: bool) -> Arc<Self> {
        let exposition = Arc::new(Self {
            lasting,
            instruments: Instruments {
                run_duration: RunDuration::new(histogram(meter, contract::RUN_DURATION)),
                schedule_delay: histogram(meter, contract::SCHEDULE_DELAY),
                reservation_wait_time: histogram(meter, contract::RESERVATION_WAIT_TIME),
                shutdown_duration: histogram(meter, contract::SHUTDOWN_DURATION),
                monitor_duration: histogram(meter, contract::MONITOR_DURATION),
            },
            reporting: Mutex::default(),
            collection: Mutex::default(),
            made: Instant::now(),
            collected: AtomicU64::new(0),
        });
        exposition.build_observables(meter);
        exposition
    }

    fn reporting(&self) -> MutexGuard<'_, Reporting> {
        self.reporting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add_source(&self, source: Weak<dyn Source>, figures: Arc<dyn Figures>) {
        self.reporting().sources.push((source, figures));
    }

    fn take_sources(&self) -> Vec<(Weak<dyn Source>, Arc<dyn Figures>)> {
        std::mem::take(&mut self.reporting().sources)
    }

    /// Returns the time since the last collection of the meter; `None` for never.
    pub(crate) fn last_collection(&self) -> Option<Duration> {
        let collected = self.collected.load(Relaxed).checked_sub(1)?;
        Some(self.made.elapsed().saturating_sub(Duration::from_millis(collected)))
    }

    fn read(&self, instrument: &'static str) -> Arc<Snapshot> {
        let mut collection = self.collection.lock().unwrap_or_else(PoisonError::into_inner);
        if !collection.seen.insert(instrument) || collection.seen.len() == 1 {
            collection.seen.clear();
            collection.seen.insert(instrument);
            collection.snapshot = Arc::new(self.snapshot());
            self.collected
                .store(u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1, Relaxed);
        }
        collection.snapshot.clone()
    }

    fn snapshot(&self) -> Snapshot {
        let mut reporting = self.reporting();
        let Reporting { sources, gone, remains } = &mut *reporting;
        sources.retain(|(source, figures)| {
            let lives = source.strong_count() > 0;
            if !lives && self.lasting {
                gone.absorb(&**figures);
                gone.tasks.iter_mut().for_each(|(_, task)| {
                    (task.state, task.members) = (None, None);
                });
                let past = figures.remembered().into_iter().chain(figures.take_forgotten());
                past.for_each(|row| add_row(remains, row));
            }
            lives
        });
        let mut snapshot = gone.clone();
        for (_, figures) in &*sources {
            snapshot.absorb(&**figures);
        }
        // What one manager lets go has no twin in itself.
        let alone = sources.len() == 1 && gone.tasks.is_empty() && remains.is_empty();
        for (_, figures) in &*sources {
            let forgotten = figures.take_forgotten();
            if !alone {
                figures.remembered().iter().for_each(|row| _ = snapshot.absorb_past(row));
                forgotten.into_iter().for_each(|row| add_row(remains, row));
            }
        }
        remains.retain(|row| snapshot.absorb_past(row));
        snapshot
    }

    fn build_observables(self: &Arc<Self>, meter: &Meter) {
        /// A callback that observes, for each task, what `observe` passes on.
        fn callback<T: Observable>(
            exposition: &Arc<Exposition>,
            instrument: Instrument,
            observe: impl Fn(&Snapshot, &mut dyn FnMut(T, &[KeyValue])) + Copy + Send + Sync + 'static,
        ) -> impl Fn(&dyn AsyncInstrument<T>) + Send + Sync + 'static {
            let exposition = Arc::downgrade(exposition);
            move |observer| {
                let Some(exposition) = exposition.upgrade() else { return };
                let _ = catch_unwind(AssertUnwindSafe(|| {
                    let snapshot = exposition.read(instrument.name);
                    if !is_deferring() {
                        observe(&snapshot, &mut |value, attributes| observer.observe(value, attributes));
                        return;
                    }
                    let mut is_first = true;
                    observe(&snapshot, &mut |value, attributes| {
                        if std::mem::take(&mut is_first) {
                            observer.observe(value, attributes);
                            let snapshot = snapshot.clone();
                            let all = move |each: &mut dyn FnMut(Observed, &[KeyValue])| {
                                observe(&snapshot, &mut |value, attributes| {
                                    each(value.observed(), attributes);
                                });
                            };
                            defer(instrument.name, attributes, Box::new(all));
                        }
                    });
                }));
            }
        }

        macro_rules! observable {
            ($builder:ident, $type:ty, $instrument:expr,
             |$entry:ident, $task:ident, $varied:pat_param, $observe:ident| $body:expr) => {{
                let instrument = $instrument;
                meter
                    .$builder(instrument.name)
                    .with_unit(instrument.unit)
                    .with_description(instrument.description)
                    .with_callback(callback::<$type>(self, instrument, move |snapshot, observe| {
                        let $observe = observe;
                        let $varied = &mut Varied::default();
                        snapshot.tasks.iter().for_each(|($entry, $task)| $body);
                    }))
                    .build();
            }};
        }
        macro_rules! gauge {
            ($type:ty, $builder:ident, $instrument:expr, |$task:ident| $value:expr) => {
                observable!($builder, $type, $instrument, |entry, $task, _, observe| {
                    if let Some(value) = $value {
                        observe(value, entry.attributes());
                    }
                })
            };
        }

        observable!(i64_observable_up_down_counter, i64, contract::RUN_ACTIVE, |entry, task, _, observe| {
            observe(i64::try_from(task.active).unwrap_or(i64::MAX), entry.attributes())
        });
        observable!(u64_observable_counter, u64, contract::RUNS, |entry, task, varied, observe| {
            varied.begin(entry.attributes(), key::RESULT);
            for &kind in ExitKind::ALL {
                observe(task.runs(kind), varied.with(kind.as_str()));
            }
        });
        observable!(u64_observable_counter, u64, contract::RUN_ERRORS, |entry, task, varied, observe| {
            if !task.errors.is_empty() {
                varied.begin(entry.attributes(), key::ERROR_TYPE);
            }
            for error in &task.errors {
                observe(error.count, varied.with(error.error_type));
            }
        });
        observable!(f64_observable_counter, f64, contract::RUN_TIME, |entry, task, _, observe| observe(
            task.run_time.as_secs_f64(),
            entry.attributes()
        ));
        gauge!(f64, f64_observable_gauge, contract::RUN_DURATION_MAX, |task| (task.total_runs() > 0)
            .then_some(task.longest_run.as_secs_f64()));
        // Zeros too, for what can occur: `increase()` needs a baseline.
        observable!(u64_observable_counter, u64, contract::RESTARTS, |entry, task, varied, observe| {
            let mut restarts = task.restarts_by_reason().peekable();
            if restarts.peek().is_some() {
                varied.begin(entry.attributes(), key::RESTART_REASON);
            }
            for (reason, count) in restarts {
                observe(count, varied.with(reason.as_str()));
            }
        });
        observable!(i64_observable_up_down_counter, i64, contract::STATUS, |entry, task, varied, observe| {
            let mut states = task.tasks_by_state().peekable();
            if states.peek().is_some() {
                varied.begin(entry.attributes(), key::STATE);
            }
            for (state, tasks) in states {
                observe(i64::try_from(tasks).unwrap_or(i64::MAX), varied.with(state.as_str()));
            }
        });
        gauge!(f64, f64_observable_gauge, contract::LAST_SUCCESS_TIME, |task| task
            .last_success
            .map(unix_seconds));
        gauge!(f64, f64_observable_gauge, contract::LAST_ERROR_TIME, |task| task
            .last_error_time
            .map(unix_seconds));
        gauge!(f64, f64_observable_gauge, contract::LAST_RESTART_TIME, |task| task
            .last_restart
            .map(unix_seconds));
        gauge!(f64, f64_observable_gauge, contract::HEARTBEAT_TIME, |task| task
            .last_seen
            .filter(|_| task.is_registered())
            .map(unix_seconds));
        gauge!(f64, f64_observable_gauge, contract::POLL_DURATION_MAX, |task| (task.longest_poll
            > Duration::ZERO)
            .then_some(task.longest_poll.as_secs_f64()));
        observable!(u64_observable_counter, u64, contract::POLLS_SLOW, |entry, task, _, observe| observe(
            task.slow_polls,
            entry.attributes()
        ));
        observable!(
            u64_observable_counter,
            u64,
            contract::ITERATIONS_SKIPPED,
            |entry, task, varied, observe| {
                let mut skipped = task.skipped_by_reason().peekable();
                if skipped.peek().is_some() {
                    varied.begin(entry.attributes(), key::REASON);
                }
                for (reason, count) in skipped {
                    observe(count, varied.with(reason.as_str()));
                }
            }
        );
        observable!(u64_observable_counter, u64, contract::ITERATIONS_RETRIED, |entry, task, _, observe| {
            if let Some(retries) = task.counted_retries() {
                observe(retries, entry.attributes());
            }
        });
        gauge!(f64, f64_observable_gauge, contract::INTERVAL, |task| task
            .interval
            .filter(|_| task.is_registered())
            .map(|interval| interval.as_secs_f64()));
        gauge!(f64, f64_observable_gauge, contract::NEXT_RUN_TIME, |task| task
            .next_run
            .filter(|_| task.is_registered())
            .map(unix_seconds));
        gauge!(f64, f64_observable_gauge, contract::NEXT_RETRY_TIME, |task| task
            .next_retry
            .filter(|_| task.is_registered())
            .map(unix_seconds));
        // Zeros too: a queue that is empty again is a figure.
        observable!(
            i64_observable_up_down_counter,
            i64,
            contract::RESERVATION_PENDING,
            |entry, task, _, observe| {
                if let Some(pending) = task.pending_reservations {
                    observe(i64::try_from(pending).unwrap_or(i64::MAX), entry.attributes());
                }
            }
        );
        observable!(u64_observable_counter, u64, contract::STALLS, |entry, task, _, observe| {
            if let Some(stalls) = task.counted_stalls() {
                observe(stalls, entry.attributes());
            }
        });

        let shutdown = contract::SHUTDOWN_TASKS;
        meter
            .u64_observable_counter(shutdown.name)
            .with_unit(shutdown.unit)
            .with_description(shutdown.description)
            .with_callback(callback::<u64>(self, shutdown, |snapshot, observe| {
                for (outcome, count) in &snapshot.shutdown {
                    observe(*count, &[KeyValue::new(key::SHUTDOWN_OUTCOME, *outcome)]);
                }
            }))
            .build();
    }
}

fn histogram(meter: &Meter, instrument: Instrument) -> Histogram<f64> {
    meter
        .f64_histogram(instrument.name)
        .with_unit(instrument.unit)
        .with_description(instrument.description)
        .with_boundaries(DURATION_BOUNDARIES.into())
        .build()
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The exposition that managers without a meter of their own share.
///
/// A meter from `global::meter` before a provider is set stays a no-op. So, as long as nothing has been collected from
/// the shared exposition, the next manager makes a new one and moves the sources to it. An exposition on a meter of our
/// installer stays, because its recorded values would be lost.
///
/// `join` is called under the lock, so that nobody joins an exposition that has just been replaced.
pub(crate) fn shared(renew: Option<&Meter>, join: impl FnOnce(&Arc<Exposition>)) {
    /// With whether its meter was given, and so is no no-op.
    static SHARED: Mutex<Option<(Arc<Exposition>, bool)>> = Mutex::new(None);
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    match &*shared {
        Some((exposition, given))
            if renew.is_none() && (*given || exposition.last_collection().is_some()) =>
        {
            return join(exposition);
        }
        _ => {}
    }
    let fresh = match renew {
        Some(meter) => Exposition::lasting(meter),
        None => Exposition::lasting(&opentelemetry::global::meter(contract::SCOPE)),
    };
    if let Some((stale, _)) = shared.replace((fresh.clone(), renew.is_some())) {
        for (source, _) in stale.take_sources() {
            if let Some(source) = source.upgrade() {
                source.report_to(&fresh);
            }
        }
    }
    join(&fresh);
}

/// Returns the default number of names that a manager tracks.
pub(crate) fn default_max_names() -> usize {
    match INSTALLED_NAMES.load(Relaxed) {
        0 => DEFAULT_MAX_NAMES,
        names => names,
    }
}

/// The names that this crate's installer made room for by a View; 0 where it was not used.
static INSTALLED_NAMES: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// Called by the installer once its provider is the global one.
#[cfg(feature = "otlp-http")]
pub(crate) fn installed_with(meter: &Meter, max_names: usize, join: impl FnOnce(&Arc<Exposition>)) {
    INSTALLED_NAMES.store(max_names, Relaxed);
    shared(Some(meter), join);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use opentelemetry::metrics::MeterProvider as _;
    use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};

    use super::*;
    use crate::cell::{Identity, Registry};

    /// A manager that is asked for its figures.
    struct Asked {
        registry: Registry<TaskAttributes>,
        times: AtomicUsize,
    }

    impl Asked {
        fn of(names: &[&str]) -> Arc<Self> {
            let registry = Registry::new(10, 1_999, None, TaskAttributes::new);
            for name in names {
                registry.entry(Identity::named(name), true, Duration::ZERO).expect("room");
            }
            Arc::new(Self { registry, times: AtomicUsize::new(0) })
        }
    }

    impl Figures for Asked {
        fn snapshots(&self) -> Vec<Row> {
            self.times.fetch_add(1, Relaxed);
            self.registry.collect(Duration::ZERO)
        }

        fn remembered(&self) -> Vec<Row> {
            self.registry.remembered()
        }

        fn take_forgotten(&self) -> Vec<Row> {
            self.registry.take_forgotten()
        }

        fn shutdown_outcomes(&self) -> Vec<(&'static str, u64)> {
            vec![("graceful", 2)]
        }
    }

    impl Source for Asked {
        fn report_to(self: Arc<Self>, _: &Arc<Exposition>) {}
    }

    #[test]
    fn names_of_several_managers_merge_into_sorted_rows() {
        let mut sum = Snapshot::default();
        for names in [&["m"][..], &["a", "z"], &["a", "m", "z"], &["b"], &["b", "z"]] {
            sum.absorb(&*Asked::of(names));
        }
        let names: Vec<_> = sum.tasks.iter().map(|(entry, _)| &*entry.identity.name).collect();
        assert_eq!(names, ["a", "b", "m", "z"]);
        assert_eq!(sum.shutdown, BTreeMap::from([("graceful", 10)]));
    }

    /// Seen to fail: each time that a name was forgotten left a row behind, as long as another manager reported it.
    #[test]
    fn repeatedly_forgotten_name_leaves_one_row() {
        let reader = PeriodicReader::builder(InMemoryMetricExporter::default())
            .with_interval(Duration::from_secs(86_400))
            .build();
        let provider = SdkMeterProvider::builder().with_reader(reader).build();
        let exposition = Exposition::lasting(&provider.meter("test"));
        let (coming, staying) = (Asked::of(&[]), Asked::of(&["a", "b"]));
        for asked in [&coming, &staying] {
            let source: Arc<dyn Source> = asked.clone();
            exposition.add_source(Arc::downgrade(&source), asked.clone());
        }
        for round in 1..=5 {
            for name in ["b", "a"] {
                let entries = coming.registry.entries_of([Identity::named(name)].iter(), || Duration::ZERO);
                let entry = entries.expect("room").remove(0);
                entry.cell.heartbeat(UNIX_EPOCH);
                entry.stalled();
                coming.registry.retire(&entry, Duration::ZERO);
            }
            let stalls = || exposition.snapshot().tasks.iter().map(|(_, task)| task.stalls).sum::<u64>();
            assert_eq!(stalls(), 2 * round);
            // Let go, and forgotten.
            for now in [300, 600] {
                coming.registry.expire(Duration::from_secs(now));
            }
            assert_eq!(stalls(), 2 * round, "what was counted stays");
            assert_eq!(exposition.reporting().remains.len(), 2);
        }
    }

    #[test]
    fn one_collection_asks_once() {
        let reader = PeriodicReader::builder(InMemoryMetricExporter::default())
            .with_interval(Duration::from_secs(86_400))
            .build();
        let provider = SdkMeterProvider::builder().with_reader(reader).build();
        let exposition = Exposition::new(&provider.meter("test"));
        let asked = Asked::of(&["a"]);
        let source: Arc<dyn Source> = asked.clone();
        exposition.add_source(Arc::downgrade(&source), asked.clone());
        for collections in 1..=3 {
            provider.force_flush().expect("the exporter is in memory");
            assert_eq!(asked.times.load(Relaxed), collections);
        }
    }
}
