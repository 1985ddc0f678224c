//! What an idle supervised task costs: to start it, to hold it, to stop it.
//!
//! Each task has a name of its own and waits until it is asked to stop. Started is from the first call until the last task
//! was polled; held is what is allocated then (requested bytes, live); stopped is from asking all to stop, by the system's
//! own call for that, until the last has ended. No system has a subscriber or a meter.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{
            AtomicU8, AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Relaxed},
        },
    },
    time::{Duration, Instant, SystemTime},
};

use opentelemetry::global;
use otel_tasks::{CriticalTaskConfig, TaskManager};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use task_supervisor::{SupervisedTask, SupervisorBuilder, SupervisorHandle, TaskResult};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    cell::{BARE, BY_HAND_GUARDED, Limit, Measured, OURS, Scale, Workload},
    memory,
    telemetry::ByHand,
    workloads::guarded::caught,
};

/// What the start has left under way is over by then.
const SETTLED: Duration = Duration::from_millis(500);

/// How often the allocated bytes are read within that time.
const READINGS: u32 = 20;

/// The delay before a restart in the version by hand.
const BACKOFF: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
enum Figure {
    Start,
    Memory,
    Stop,
}

const TASK_SUPERVISOR: &str = "task-supervisor";
/// The bytes that an idle registered task holds at most.
const IDLE_TASK: f64 = 955.0;
/// The bytes that a manager holds for itself, whatever it has to do, with the values of 16 shards of threads. They are spread over its tasks.
const MANAGER: f64 = 32_768.0;

pub fn workloads() -> Vec<Workload> {
    let start = "what does it cost to start an idle task among so many";
    let memory = "what does an idle task hold";
    let stop = "what does it cost to stop an idle task among so many";
    vec![
        workload("supervised-start-20000", "ns per task", start, Figure::Start, 20_000),
        workload("supervised-memory-20000", "bytes per task", memory, Figure::Memory, 20_000),
        workload("supervised-stop-20000", "ns per task", stop, Figure::Stop, 20_000),
        workload("supervised-start-100000", "ns per task", start, Figure::Start, 100_000),
        workload("supervised-memory-100000", "bytes per task", memory, Figure::Memory, 100_000),
        workload("supervised-stop-100000", "ns per task", stop, Figure::Stop, 100_000),
    ]
}

fn workload(
    name: &'static str,
    unit: &'static str,
    question: &'static str,
    figure: Figure,
    tasks: usize,
) -> Workload {
    let count = move |scale: Scale| match figure {
        // What is required of a task is about so many.
        Figure::Memory => tasks,
        Figure::Start | Figure::Stop => scale.of(tasks),
    };
    Workload::new(name, unit, question)
        .cell(BARE, move |scale| measure::<Bare>(figure, count(scale)))
        .cell(BY_HAND_GUARDED, move |scale| measure::<Guarded>(figure, count(scale)))
        .cell(OURS, move |scale| measure::<Ours>(figure, count(scale)))
        .cell(TASK_SUPERVISOR, move |scale| measure::<TaskSupervisor>(figure, count(scale)))
        .cell("ractor", move |scale| measure::<Ractor>(figure, count(scale)))
        .goal(match figure {
            Figure::Start => Limit::OfSystem(1.0, TASK_SUPERVISOR),
            Figure::Memory => Limit::AtMost(955.0),
            Figure::Stop => Limit::AtMost(1_500.0),
        })
        .required(match figure {
            Figure::Memory => Some(IDLE_TASK + (MANAGER / tasks as f64).round()),
            Figure::Start | Figure::Stop => None,
        })
        .at_most_rounds(match figure {
            // What is held is the same each time.
            Figure::Memory => 1,
            Figure::Start | Figure::Stop if tasks > 20_000 => 3,
            Figure::Start | Figure::Stop => usize::MAX,
        })
}

/// What a system does with idle tasks.
trait System {
    type Running: Send;
    fn start(names: &[String], started: &Arc<Started>) -> impl Future<Output = Self::Running> + Send;
    /// Asks all of them to stop and waits until the last has ended.
    fn stop(running: Self::Running) -> impl Future<Output = ()> + Send;
}

/// So many idle tasks of ours, each of which has been polled.
pub async fn started(tasks: usize) -> TaskManager {
    let (names, started) = (names(tasks), Started::of(tasks));
    let running = Ours::start(&names, &started).await;
    started.all.notified().await;
    running
}

/// Stops them.
pub async fn stopped(tasks: TaskManager) {
    Ours::stop(tasks).await;
}

fn names(tasks: usize) -> Vec<String> {
    (0..tasks).map(|number| format!("idle-{number:06}")).collect()
}

async fn measure<S: System>(figure: Figure, tasks: usize) -> Measured {
    let (names, started) = (names(tasks), Started::of(tasks));
    if let Figure::Memory = figure {
        memory::count_from_here();
    }
    let per_task = |since: Instant| Measured::Nanos(since.elapsed().as_nanos() as f64 / tasks as f64);
    let began = Instant::now();
    let running = S::start(&names, &started).await;
    started.all.notified().await;
    let started = match figure {
        Figure::Start => per_task(began),
        Figure::Memory => Measured::Bytes(least_held().await as f64 / tasks as f64),
        Figure::Stop => {
            tokio::time::sleep(SETTLED).await;
            let asked = Instant::now();
            S::stop(running).await;
            return per_task(asked);
        }
    };
    // Dropped, it would begin a shutdown that nobody measures; the process ends here.
    std::mem::forget(running);
    started
}

/// The least that was allocated at any of some readings: what a sweep of all tasks allocates for a moment is not counted.
async fn least_held() -> i64 {
    let mut least = memory::held();
    for _ in 0..READINGS {
        tokio::time::sleep(SETTLED / READINGS).await;
        least = least.min(memory::held());
    }
    least
}

/// Counts the tasks down that have begun.
struct Started {
    left: AtomicUsize,
    all: Notify,
}

impl Started {
    fn of(tasks: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(tasks), all: Notify::new() })
    }

    fn one(&self) {
        if self.left.fetch_sub(1, AcqRel) == 1 {
            self.all.notify_one();
        }
    }
}

struct Bare;

impl System for Bare {
    type Running = (TaskTracker, CancellationToken);

    async fn start(names: &[String], started: &Arc<Started>) -> Self::Running {
        let (tasks, token) = (TaskTracker::new(), CancellationToken::new());
        for _ in names {
            let (started, token) = (started.clone(), token.clone());
            tasks.spawn(async move {
                started.one();
                token.cancelled().await;
            });
        }
        (tasks, token)
    }

    async fn stop((tasks, token): Self::Running) {
        token.cancel();
        tasks.close();
        tasks.wait().await;
    }
}

struct Ours;

impl System for Ours {
    type Running = TaskManager;

    async fn start(names: &[String], started: &Arc<Started>) -> TaskManager {
        let tasks = TaskManager::builder()
            .max_names(names.len())
            // Nothing is to be aborted here for being slow: how slow it is, is the question.
            .shutdown_deadline(Duration::from_secs(3_600))
            .build()
            .unwrap();
        for name in names {
            let started = started.clone();
            let config = CriticalTaskConfig::new(name.as_str(), move |ctx| {
                let started = started.clone();
                async move {
                    started.one();
                    ctx.cancelled().await;
                }
            });
            tasks.register(config).expect("a sound config");
        }
        tasks.start();
        tasks
    }

    async fn stop(tasks: TaskManager) {
        let report = tasks.shutdown().await;
        assert!(report.is_clean(), "stopped within the deadline");
    }
}

/// The least that a supervisor with the guarantees of otel-tasks does: a task has a name of its own that is found, a state and figures for
/// its health, a token of its own, a restart after each end, and a line in the report of the stop. Each run has a time, and is recorded.
struct Guarded {
    metrics: &'static ByHand,
    tasks: Mutex<HashMap<Arc<str>, Arc<Kept>>>,
    running: TaskTracker,
}

struct Kept {
    name: Arc<str>,
    body: Box<dyn Fn(CancellationToken) -> Boxed + Send + Sync>,
    state: AtomicU8,
    /// Nanoseconds since 1970.
    since: AtomicU64,
    restarts: AtomicU32,
    failures: AtomicU32,
    /// The ended runs, and their time in nanoseconds.
    runs: AtomicU64,
    run_nanos: AtomicU64,
    /// Of the run that it is in.
    stop: Mutex<Option<CancellationToken>>,
    /// The time from the stop to the end.
    stopped: Mutex<Option<Duration>>,
}

type Boxed = Pin<Box<dyn Future<Output = ()> + Send>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum State {
    Waiting,
    Running,
    Restarting,
    Stopped,
}

/// A line of the report.
struct Line {
    name: Arc<str>,
    state: u8,
    after: Option<Duration>,
}

impl Guarded {
    fn new() -> Self {
        // Without a meter, as otel-tasks here.
        let metrics = ByHand::leaked(&global::meter("bench"));
        Self { metrics, tasks: Mutex::default(), running: TaskTracker::new() }
    }

    fn register(&self, name: &str, body: impl Fn(CancellationToken) -> Boxed + Send + Sync + 'static) {
        let name: Arc<str> = name.into();
        let kept = Kept {
            name: name.clone(),
            body: Box::new(body),
            state: AtomicU8::new(State::Waiting as u8),
            since: AtomicU64::new(now()),
            restarts: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            runs: AtomicU64::new(0),
            run_nanos: AtomicU64::new(0),
            stop: Mutex::default(),
            stopped: Mutex::default(),
        };
        let before = self.tasks.lock().unwrap().insert(name, Arc::new(kept));
        assert!(before.is_none(), "each name once");
    }

    /// Returns where the time of the stop is set.
    fn start(&self) -> Arc<OnceLock<Instant>> {
        let stopping: Arc<OnceLock<Instant>> = Arc::default();
        for kept in self.tasks.lock().unwrap().values() {
            self.running.spawn(kept.clone().drive(stopping.clone(), self.metrics));
        }
        self.running.close();
        stopping
    }

    fn report(self) -> Vec<Line> {
        let tasks = self.tasks.into_inner().unwrap();
        let line = |kept: Arc<Kept>| Line {
            name: kept.name.clone(),
            state: kept.state.load(Relaxed),
            after: *kept.stopped.lock().unwrap(),
        };
        let mut lines: Vec<_> = tasks.into_values().map(line).collect();
        lines.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        lines
    }
}

impl Kept {
    async fn drive(self: Arc<Self>, stopping: Arc<OnceLock<Instant>>, metrics: &'static ByHand) {
        loop {
            let stop = CancellationToken::new();
            *self.stop.lock().unwrap() = Some(stop.clone());
            // Either the stop finds this token, or it is found here.
            if stopping.get().is_some() {
                stop.cancel();
            }
            self.set(State::Running);
            let began = Instant::now();
            let failed = caught((self.body)(stop)).await.is_err();
            let ran = began.elapsed();
            self.runs.fetch_add(1, Relaxed);
            self.run_nanos.fetch_add(ran.as_nanos() as u64, Relaxed);
            metrics.ended(&self.name, ran, !failed);
            if let Some(asked) = stopping.get() {
                *self.stopped.lock().unwrap() = Some(asked.elapsed());
                return self.set(State::Stopped);
            }
            self.failures.fetch_add(u32::from(failed), Relaxed);
            self.restarts.fetch_add(1, Relaxed);
            self.set(State::Restarting);
            tokio::time::sleep(BACKOFF).await;
        }
    }

    fn set(&self, state: State) {
        self.since.store(now(), Relaxed);
        self.state.store(state as u8, Relaxed);
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

impl System for Guarded {
    type Running = (Self, Arc<OnceLock<Instant>>);

    async fn start(names: &[String], started: &Arc<Started>) -> Self::Running {
        let tasks = Self::new();
        for name in names {
            let started = started.clone();
            tasks.register(name, move |stop| {
                let started = started.clone();
                Box::pin(async move {
                    started.one();
                    stop.cancelled().await;
                })
            });
        }
        let stopping = tasks.start();
        (tasks, stopping)
    }

    async fn stop((tasks, stopping): Self::Running) {
        stopping.get_or_init(Instant::now);
        for kept in tasks.tasks.lock().unwrap().values() {
            kept.stop.lock().unwrap().iter().for_each(CancellationToken::cancel);
        }
        tasks.running.wait().await;
        let is_clean = |line: &Line| line.state == State::Stopped as u8 && line.after.is_some();
        assert!(tasks.report().iter().all(is_clean), "each has stopped");
    }
}

struct TaskSupervisor;

#[derive(Clone)]
struct Idle(Arc<Started>);

impl SupervisedTask for Idle {
    async fn run(self, token: CancellationToken) -> TaskResult {
        self.0.one();
        token.cancelled().await;
        Ok(())
    }
}

impl System for TaskSupervisor {
    type Running = SupervisorHandle;

    async fn start(names: &[String], started: &Arc<Started>) -> SupervisorHandle {
        let mut supervisor = SupervisorBuilder::new();
        for name in names {
            supervisor = supervisor.with_task(name, Idle(started.clone()));
        }
        supervisor.spawn()
    }

    async fn stop(supervisor: SupervisorHandle) {
        supervisor.shutdown().await.expect("it shuts down");
    }
}

struct Ractor;

struct Supervisor;

impl Actor for Supervisor {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    // By default it would stop with the first of its children.
    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        _: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

struct Child;

impl Actor for Child {
    type Msg = ();
    type State = Arc<Started>;
    type Arguments = Arc<Started>;

    async fn pre_start(
        &self,
        _: ActorRef<()>,
        started: Arc<Started>,
    ) -> Result<Arc<Started>, ActorProcessingErr> {
        Ok(started)
    }

    async fn post_start(
        &self,
        _: ActorRef<()>,
        started: &mut Arc<Started>,
    ) -> Result<(), ActorProcessingErr> {
        started.one();
        Ok(())
    }
}

impl System for Ractor {
    type Running = ActorRef<()>;

    async fn start(names: &[String], started: &Arc<Started>) -> ActorRef<()> {
        let (supervisor, _) = Supervisor::spawn(None, Supervisor, ()).await.expect("it starts");
        for name in names {
            let child =
                Child::spawn_linked(Some(name.clone()), Child, started.clone(), supervisor.get_cell());
            child.await.expect("it starts");
        }
        supervisor
    }

    async fn stop(supervisor: ActorRef<()>) {
        supervisor.stop_children_and_wait(None, None).await;
    }
}
