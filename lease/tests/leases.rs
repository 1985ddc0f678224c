//! Leases in virtual time: a store that is late, that fails and that is shared by several managers.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, PeriodicReader, SdkMeterProvider,
    data::{AggregatedMetrics, MetricData},
};
use otel_tasks::{
    CriticalTaskConfig, Schedule, TaskGroup, TaskLoop, TaskManager,
    gate::{Claim, Gate},
    policy::{RestartReason, RestartStrategy},
    schedule::MissedPolicy,
    shutdown::ShutdownOutcome,
    snapshot::TaskState,
    testing::WallClock,
};
use otel_tasks_lease::{Answer, Ask, Held, LeaseStore, Leases, Renewed, StoreError, testing::Memory};
use tokio::time::{Instant, sleep};

use self::support::{TTL, leases, millis, secs};

/// A store whose answers are late, or errors. What was asked takes effect at once.
#[derive(Clone, Default)]
struct Away {
    store: Memory,
    /// In milliseconds.
    late: Arc<AtomicU64>,
    fails: Arc<AtomicU64>,
    renewals: Arc<Mutex<Vec<usize>>>,
    /// The requests that were granted.
    granted: Arc<Mutex<Vec<Ask>>>,
}

impl Away {
    fn late(&self, by: Duration) {
        self.late.store(u64::try_from(by.as_millis()).expect("short"), SeqCst);
    }

    /// The leases of a process of this name.
    fn named(self, holder: &str) -> (Self, Leases) {
        (self.clone(), leases(self).holder(holder))
    }

    fn fail(&self, fails: bool) {
        self.fails.store(u64::from(fails), SeqCst);
    }

    async fn answer<T>(&self, request: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        if self.fails.load(SeqCst) > 0 {
            return Err(StoreError::new("away", "not there"));
        }
        let answer = request.await;
        sleep(millis(self.late.load(SeqCst))).await;
        answer
    }
}

impl LeaseStore for Away {
    async fn acquire(&self, ask: &Ask) -> Result<Answer, StoreError> {
        let answer = self.answer(self.store.acquire(ask)).await?;
        if matches!(answer, Answer::Granted { .. }) {
            self.granted.lock().unwrap().push(ask.clone());
        }
        Ok(answer)
    }

    async fn renew(&self, held: &[Held]) -> Result<Vec<Renewed>, StoreError> {
        self.renewals.lock().unwrap().push(held.len());
        self.answer(self.store.renew(held)).await
    }

    async fn claim(&self, held: &Held, due: SystemTime) -> Result<Claim, StoreError> {
        self.answer(self.store.claim(held, due)).await
    }

    async fn release(&self, ask: &Ask) -> Result<(), StoreError> {
        self.answer(self.store.release(ask)).await
    }

    async fn freed(&self, lease: &str) {
        self.store.freed(lease).await;
    }
}

/// Who runs: the terms, and how many at once.
#[derive(Clone, Default)]
struct Runs(Arc<Mutex<(Vec<u64>, usize)>>);

struct Ends(Runs);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().1 -= 1;
    }
}

impl Runs {
    fn task(&self, name: &str, leases: &Leases, lease: &str) -> CriticalTaskConfig {
        let runs = self.clone();
        let task = CriticalTaskConfig::new(name, move |ctx| {
            let runs = runs.clone();
            async move {
                let _ends = runs.begin(ctx.pass().map_or(0, |pass| pass.term()));
                ctx.cancelled().await;
            }
        });
        task.gate(leases.lease(lease).ttl(TTL))
    }

    fn begin(self, term: u64) -> Ends {
        {
            let mut now = self.0.lock().unwrap();
            now.0.push(term);
            now.1 += 1;
        }
        Ends(self)
    }

    fn terms(&self) -> Vec<u64> {
        self.0.lock().unwrap().0.clone()
    }

    fn now(&self) -> usize {
        self.0.lock().unwrap().1
    }
}

fn started(configs: impl IntoIterator<Item = CriticalTaskConfig>) -> TaskManager {
    let tasks = TaskManager::new();
    tasks.register_all(configs).unwrap();
    tasks.start();
    tasks
}

fn state(tasks: &TaskManager, name: &str) -> Option<TaskState> {
    tasks.task_health(name).and_then(|health| health.state)
}

#[tokio::test(start_paused = true)]
async fn late_response_starts_nothing_and_leaves_no_lease() {
    let (store, runs) = (Away::default(), Runs::default());
    store.late(TTL / 6 + millis(10));
    let tasks = started([runs.task("t", &leases(store.clone()), "l")]);
    sleep(TTL * 2).await;
    assert!(runs.terms().is_empty(), "each of the answers was too late");
    store.late(millis(5));
    sleep(TTL / 2).await;
    assert_eq!(runs.now(), 1, "the same candidate is granted what it holds by the store's account");
    let term = runs.terms()[0];
    assert!(term > 1);
    tasks.shutdown().await;
    // A candidate that goes while its answers are late.
    store.late(TTL / 6 + millis(10));
    let tasks = started([runs.task("t", &leases(store.clone()), "l")]);
    sleep(millis(10)).await;
    store.late(Duration::ZERO);
    tasks.shutdown().await;
    sleep(TTL / 6 * 2).await;
    let tasks = started([runs.task("t", &leases(store.clone()), "l")]);
    sleep(millis(200)).await;
    assert_eq!(runs.now(), 1, "far sooner than the lease lasts");
    tasks.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn late_renewal_response_does_not_extend_the_lease() {
    let (store, runs) = (Away::default(), Runs::default());
    let tasks = started([runs.task("t", &leases(store.clone()), "l")]);
    sleep(TTL * 3).await;
    assert_eq!((runs.now(), runs.terms()), (1, vec![1]), "as long as it is renewed");
    store.late(TTL);
    // The last renewal was answered at most a third of the ttl ago.
    sleep(TTL).await;
    assert_eq!((runs.now(), state(&tasks, "t")), (0, Some(TaskState::Standby)));
    store.late(Duration::ZERO);
    sleep(TTL * 2).await;
    assert_eq!((runs.now(), runs.terms().len()), (1, 2), "whoever lost stands again");
}

#[tokio::test(start_paused = true)]
async fn a_single_late_or_failed_renewal_costs_nothing() {
    let (store, runs) = (Away::default(), Runs::default());
    let _tasks = started([runs.task("t", &leases(store.clone()), "l")]);
    sleep(millis(100)).await;
    for _ in 0..20 {
        sleep(TTL / 3).await;
        store.fail(true);
        sleep(TTL / 7).await;
        store.fail(false);
    }
    assert_eq!((runs.now(), runs.terms()), (1, vec![1]));
}

#[tokio::test(start_paused = true)]
async fn leases_of_one_name_exclude_each_other_in_one_process_too() {
    let (store, runs) = (Memory::new(), Runs::default());
    let leases = leases(store);
    let tasks =
        started([runs.task("a", &leases, "l"), runs.task("b", &leases, "l"), runs.task("c", &leases, "m")]);
    sleep(TTL * 2).await;
    assert_eq!(runs.now(), 2);
    let holder = if state(&tasks, "a") == Some(TaskState::Running) { "a" } else { "b" };
    tasks.pause(holder).unwrap();
    sleep(millis(100)).await;
    assert_eq!((runs.now(), runs.terms().len()), (2, 3), "the other takes over at once");
}

#[tokio::test(start_paused = true)]
async fn candidates_know_the_holder_from_the_store() {
    let (store, runs) = (Memory::new(), Runs::default());
    let near = |name: &str| Away { store: store.clone(), ..Away::default() }.named(name);
    let ((_, first), (away, second)) = (near("web-1"), near("web-2"));
    let gate = |tasks: &TaskManager| {
        let gate = tasks.snapshot("t").unwrap().gate.expect("it has a gate");
        (gate.holder.map(|holder| holder.to_string()), gate.term)
    };
    let is = |holder: &str, term| (Some(holder.to_owned()), term);
    let holds = started([runs.task("t", &first, "l")]);
    sleep(millis(10)).await;
    let waits = started([runs.task("t", &second, "l")]);
    sleep(millis(10)).await;
    assert_eq!((gate(&holds), gate(&waits)), (is("web-1", Some(1)), is("web-1", None)));
    // What the store said before it failed is not known any more.
    away.fail(true);
    sleep(TTL * 2).await;
    assert_eq!((gate(&holds), gate(&waits)), (is("web-1", Some(1)), (None, None)));
    away.fail(false);
    sleep(TTL).await;
    assert_eq!(gate(&waits), is("web-1", None));
    holds.shutdown().await;
    sleep(millis(100)).await;
    assert_eq!((gate(&holds), gate(&waits)), ((None, None), is("web-2", Some(2))));
    waits.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_does_not_hide_that_another_task_of_the_process_has_it() {
    let exporter = InMemoryMetricExporter::default();
    let reader = PeriodicReader::builder(exporter.clone()).with_interval(secs(1_000_000)).build();
    let provider = SdkMeterProvider::builder().with_reader(reader).build();
    let (store, runs) = (Away::default(), Runs::default());
    let leases = leases(store.clone()).meter(provider.meter("test"));
    let tasks = started([runs.task("a", &leases, "l"), runs.task("b", &leases, "l")]);
    sleep(millis(10)).await;
    // A person frees it in the store. The other task has it before the first one knows.
    take_away(&store, "l").await;
    sleep(TTL / 2).await;
    let all = values(&provider, &exporter);
    let get = |name: &str| all.get(name).copied();
    assert_eq!(get("task.lease.transitions task.lease.name=l task.lease.transition=acquired"), Some(2.0));
    assert_eq!(get("task.lease.transitions task.lease.name=l task.lease.transition=lost"), Some(1.0));
    assert_eq!(get("task.lease.held task.lease.name=l"), Some(1.0), "{all:?}");
    tasks.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn leases_that_were_acquired_one_by_one_are_renewed_together() {
    let (store, runs) = (Away::default(), Runs::default());
    let leases = leases(store.clone());
    let tasks = TaskManager::new();
    tasks.start();
    for number in 0..20 {
        tasks.register(runs.task(&format!("t{number}"), &leases, &format!("l{number}"))).unwrap();
        sleep(TTL / 40).await;
    }
    sleep(TTL * 2).await;
    store.renewals.lock().unwrap().clear();
    sleep(TTL * 10).await;
    let renewals = store.renewals.lock().unwrap().clone();
    assert!(renewals.len() <= 62, "not one by one: {renewals:?}");
    assert_eq!((runs.now(), runs.terms().len()), (20, 20));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_while_a_lease_is_asked_for_is_over_soon_and_leaves_it_free() {
    let (store, runs) = (Away::default(), Runs::default());
    store.late(TTL / 10);
    let tasks = started([runs.task("t", &leases(store.clone()), "l")]);
    sleep(millis(10)).await;
    assert_eq!(state(&tasks, "t"), Some(TaskState::Standby));
    let report = tasks.shutdown().await;
    assert_eq!(report.count(ShutdownOutcome::NotRunning), 1, "{report}");
    assert!(runs.terms().is_empty());
    sleep(TTL / 3).await;
    store.late(Duration::ZERO);
    let _tasks = started([runs.task("t", &leases(store), "l")]);
    sleep(millis(200)).await;
    assert_eq!(runs.now(), 1, "far sooner than the lease lasts");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_returns_when_the_leases_are_given_back() {
    let (store, runs) = (Away::default(), Runs::default());
    let tasks = started([runs.task("t", &leases(store.clone()), "l")]);
    sleep(secs(1)).await;
    store.late(millis(300));
    let began = Instant::now();
    tasks.shutdown().await;
    assert!(began.elapsed() >= millis(300), "it waits for the answer: {:?}", began.elapsed());
    // A store that is away holds it up for a second, and no longer.
    let tasks = started([runs.task("t", &leases(store.clone()), "l")]);
    sleep(secs(1)).await;
    assert_eq!(runs.now(), 1);
    store.fail(true);
    let began = Instant::now();
    tasks.shutdown().await;
    assert!((secs(1)..secs(2)).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn unregister_and_replace_return_when_the_lease_is_given_back() {
    for replaces in [false, true] {
        let (store, runs) = (Away::default(), Runs::default());
        let leases = leases(store.clone());
        let tasks = started([runs.task("t", &leases, "l")]);
        let end = async || {
            let began = Instant::now();
            if replaces {
                tasks.replace(runs.task("t", &leases, "l")).await.unwrap();
            } else {
                tasks.unregister("t").await.unwrap();
            }
            began.elapsed()
        };
        sleep(secs(1)).await;
        store.late(millis(300));
        assert_eq!(end().await, millis(300), "replaces: {replaces}");
        store.late(Duration::ZERO);
        if !replaces {
            tasks.register(runs.task("t", &leases, "l")).unwrap();
        }
        sleep(secs(1)).await;
        assert_eq!(runs.terms(), [1, 2]);
        store.fail(true);
        let took = end().await;
        assert!((secs(1)..secs(2)).contains(&took), "a store that is away: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn first_due_time_at_the_moment_of_the_first_grant_is_run() {
    for after_run in [false, true] {
        let lease = leases(Memory::new()).lease("l").ttl(TTL);
        let lease = if after_run { lease.after_run() } else { lease };
        let ran = Arc::new(AtomicU64::new(0));
        let counted = ran.clone();
        let iterations = TaskLoop::on(Schedule::every(secs(3_600)), move |_| {
            counted.fetch_add(1, SeqCst);
            async {}
        });
        let wall = WallClock::starting(SystemTime::UNIX_EPOCH + secs(1_790_000_000));
        let tasks = TaskManager::builder().wall_clock(wall.reader()).build().unwrap();
        tasks.register(CriticalTaskConfig::from_loop("l", iterations).gate(lease)).unwrap();
        tasks.start();
        sleep(secs(1)).await;
        assert_eq!(ran.load(SeqCst), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_waits_for_the_store_and_is_won_once() {
    let store = Away::default();
    let lease = leases(store.clone()).lease("l").ttl(TTL);
    let grant = lease.enter().await;
    let due = SystemTime::UNIX_EPOCH + secs(1_000);
    // Taken effect, and the answer is lost: asked again, it is won.
    store.late(TTL / 5);
    let (claim, ()) = tokio::join!(lease.begin(&grant.pass(), due), async {
        sleep(TTL / 6 + millis(50)).await;
        store.late(Duration::ZERO);
    });
    assert_eq!(claim, Claim::Won);
    assert_eq!(lease.begin(&grant.pass(), due).await, Claim::Done, "whatever the clock of the loop does");
    assert_eq!(lease.begin(&grant.pass(), due + secs(1)).await, Claim::Won);
    let pass = grant.pass();
    drop(grant);
    assert_eq!(lease.begin(&pass, due + secs(2)).await, Claim::Lost, "it is given back");
}

/// Frees a lease in the store, as a person would: its holder learns of it at the next renewal.
async fn take_away(store: &Away, lease: &str) {
    let last = store.granted.lock().unwrap().iter().rfind(|ask| &*ask.lease == lease).cloned();
    LeaseStore::release(&store.store, &last.expect("it was granted")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_group_whose_members_have_leases_is_on_one_process() {
    for strategy in [RestartStrategy::RestForOne, RestartStrategy::OneForAll] {
        let (store, first, second) = (Away::default(), Runs::default(), Runs::default());
        let process = || {
            let (tasks, leases) = (TaskManager::new(), leases(store.clone()));
            let group = TaskGroup::new("g", strategy)
                .task(first.task("first", &leases, "l1"))
                .task(second.task("second", &leases, "l2"));
            tasks.register_group(group).unwrap();
            tasks.start();
            tasks
        };
        let states = |tasks: &TaskManager| ["first", "second"].map(|name| state(tasks, name).unwrap());
        let (here, elsewhere) = ([TaskState::Running; 2], [TaskState::Standby, TaskState::Waiting]);
        let a = process();
        sleep(millis(10)).await;
        let b = process();
        sleep(millis(10)).await;
        assert_eq!((states(&a), states(&b)), (here, elsewhere), "{strategy}");
        // The first member's lease is lost: the second goes with it, and gives its own back.
        take_away(&store, "l1").await;
        sleep(TTL).await;
        assert_eq!((states(&a), states(&b)), (elsewhere, here), "{strategy}");
        assert_eq!((first.terms(), second.terms()), (vec![1, 2], vec![1, 2]), "{strategy}");
        // The second member's is lost: the strategy decides about the first.
        take_away(&store, "l2").await;
        sleep(TTL).await;
        let on = (states(&a), states(&b));
        assert_eq!(second.terms(), [1, 2, 3], "{strategy}");
        if strategy == RestartStrategy::OneForAll {
            // The first gives its lease back, and either process may be the next to have it.
            assert!([(here, elsewhere), (elsewhere, here)].contains(&on), "{on:?}");
            assert_eq!(first.terms(), [1, 2, 3]);
        } else {
            assert_eq!((on, first.terms()), ((elsewhere, here), vec![1, 2]));
        }
        assert_eq!((first.now(), second.now()), (1, 1), "{strategy}");
        for task in [a.snapshots(), b.snapshots()].concat() {
            assert_eq!(task.total_restarts(), task.restarts(RestartReason::Group), "a loss is no restart");
        }
        a.shutdown().await;
        b.shutdown().await;
        assert_eq!((store.store.held_term("l1"), store.store.held_term("l2")), (None, None));
    }
}

/// The exported values of the instruments of leases, by name and attributes.
fn values(provider: &SdkMeterProvider, exporter: &InMemoryMetricExporter) -> BTreeMap<String, f64> {
    exporter.reset();
    provider.force_flush().unwrap();
    let mut values = BTreeMap::new();
    let finished = exporter.get_finished_metrics().unwrap();
    let metrics =
        finished.iter().flat_map(|resource| resource.scope_metrics()).flat_map(|scope| scope.metrics());
    for metric in metrics {
        let mut note = |mut attributes: Vec<String>, value: f64| {
            attributes.sort();
            values.insert(format!("{} {}", metric.name(), attributes.join(" ")).trim().to_owned(), value);
        };
        let text = |attribute: &opentelemetry::KeyValue| format!("{}={}", attribute.key, attribute.value);
        match metric.data() {
            AggregatedMetrics::I64(MetricData::Sum(sum)) => sum
                .data_points()
                .for_each(|point| note(point.attributes().map(text).collect(), point.value() as f64)),
            AggregatedMetrics::U64(MetricData::Sum(sum)) => sum
                .data_points()
                .for_each(|point| note(point.attributes().map(text).collect(), point.value() as f64)),
            AggregatedMetrics::F64(MetricData::Gauge(gauge)) => gauge
                .data_points()
                .for_each(|point| note(point.attributes().map(text).collect(), point.value())),
            AggregatedMetrics::F64(MetricData::Histogram(histogram)) => histogram
                .data_points()
                .for_each(|point| note(point.attributes().map(text).collect(), point.count() as f64)),
            other => panic!("{}: {other:?}", metric.name()),
        }
    }
    values
}

#[tokio::test(start_paused = true)]
async fn instruments_show_the_holder_transitions_and_errors() {
    let exporter = InMemoryMetricExporter::default();
    let reader = PeriodicReader::builder(exporter.clone()).with_interval(secs(1_000_000)).build();
    let provider = SdkMeterProvider::builder().with_reader(reader).build();
    let (store, runs) = (Away::default(), Runs::default());
    let leases = leases(store.clone()).meter(provider.meter("test"));
    let tasks = started([runs.task("a", &leases, "l")]);
    let value = |name: &str| values(&provider, &exporter).get(name).copied();
    assert_eq!(value("task.lease.held task.lease.name=l"), Some(0.0), "seen before anybody holds it");
    sleep(TTL).await;
    assert_eq!(value("task.lease.held task.lease.name=l"), Some(1.0));
    let remaining = value("task.lease.remaining task.lease.name=l").unwrap();
    assert!(remaining > TTL.as_secs_f64() / 2.0 && remaining <= TTL.as_secs_f64(), "{remaining}");
    assert!(value("task.lease.renew.duration").unwrap() >= 2.0);
    store.fail(true);
    sleep(TTL).await;
    let all = values(&provider, &exporter);
    let get = |name: &str| all.get(name).copied().unwrap_or_default();
    assert_eq!(get("task.lease.held task.lease.name=l"), 0.0);
    assert!(!all.contains_key("task.lease.remaining task.lease.name=l"));
    assert!(get("task.lease.errors error.type=away task.lease.operation=renew") >= 2.0, "{all:?}");
    assert!(get("task.lease.errors error.type=away task.lease.operation=acquire") >= 1.0, "{all:?}");
    assert_eq!(
        get("task.lease.transitions task.lease.name=l task.lease.transition=acquired"),
        1.0,
        "{all:?}"
    );
    assert_eq!(get("task.lease.transitions task.lease.name=l task.lease.transition=lost"), 1.0);
    store.fail(false);
    sleep(TTL).await;
    tasks.shutdown().await;
    assert_eq!(value("task.lease.transitions task.lease.name=l task.lease.transition=acquired"), Some(2.0));
    assert_eq!(value("task.lease.transitions task.lease.name=l task.lease.transition=released"), Some(1.0));
    assert_eq!(value("task.lease.held task.lease.name=l"), Some(0.0));
}

/// The due times that were run from a Friday morning on, while a process runs in each of these spans of hours.
async fn nights(from: u64, lives: &[(u64, u64)]) -> Vec<SystemTime> {
    let wall = WallClock::starting(SystemTime::UNIX_EPOCH + secs(from));
    let ran = Arc::new(Mutex::new(Vec::new()));
    let (store, began) = (Memory::new(), Instant::now());
    for (begins, ends) in lives {
        tokio::time::sleep_until(began + secs(begins * 3_600)).await;
        let tasks =
            TaskManager::builder().wall_clock(wall.reader()).wall_clock_step(secs(600)).build().unwrap();
        let noted = ran.clone();
        let nightly = TaskLoop::on(Schedule::daily(["02:30"], "Europe/Berlin"), |_| async {})
            .missed(MissedPolicy::RunOnce)
            .after_iteration(move |done| {
                noted.lock().unwrap().push(done.due.expect("scheduled"));
                async {}
            });
        let lease = leases(store.clone()).lease("nightly").ttl(secs(600));
        tasks.register(CriticalTaskConfig::from_loop("nightly", nightly).gate(lease)).unwrap();
        tasks.start();
        tokio::time::sleep_until(began + secs(ends * 3_600)).await;
        tasks.shutdown().await;
    }
    // A thread that ticks all managers may be about to drop the last of these, in real time.
    let until = std::time::Instant::now() + secs(20);
    while Arc::strong_count(&ran) > 1 {
        assert!(std::time::Instant::now() < until, "all are gone");
        std::thread::yield_now();
    }
    Arc::into_inner(ran).expect("the last reference").into_inner().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_deploy_across_the_night_loses_no_run_and_repeats_none_also_when_the_clocks_change() {
    // Fridays at 06:00 UTC; the clocks go back in the night to 2026-10-25, and forward in the night to 2026-03-29.
    for from in [1_792_735_200, 1_774_591_200] {
        let reference = nights(from, &[(0, 124)]).await;
        assert_eq!(reference.len(), 5, "{reference:?}");
        // The night is the second: one is gone before the time, and the next comes after it.
        for lives in [
            vec![(0, 41), (44, 124)],
            vec![(0, 42), (43, 124)],
            vec![(0, 43), (46, 67), (67, 124)],
            // The first process ends before the first night.
            vec![(0, 17), (21, 124)],
            (0..62).map(|turn| (turn * 2, turn * 2 + 2)).collect(),
        ] {
            let ran = nights(from, &lives).await;
            assert_eq!(ran.iter().collect::<BTreeSet<_>>().len(), ran.len(), "twice: {ran:?}");
            assert_eq!(ran, reference, "{lives:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_lease_counts_from_before_its_requests_were_sent() {
    let (store, late) = (Away::default(), millis(2_100));
    store.late(late);
    let grant = leases(store.clone()).lease("l").ttl(TTL).enter().await;
    let pass = grant.pass();
    assert_eq!(pass.remaining(), TTL - late);
    for _ in 0..10 {
        sleep(TTL / 10).await;
        assert!(pass.is_open() && pass.remaining() <= TTL - late, "{:?}", pass.remaining());
    }
}
