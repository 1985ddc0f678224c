//! What one restart costs where nothing delays it: a task that fails at once, again and again.
//!
//! From the first run to the last, divided by the restarts between: 20,000, or as many as two seconds hold. No system has
//! a subscriber or a meter; ours counts its runs and keeps its history all the same.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use otel_tasks::{Backoff, CriticalTaskConfig, TaskManager};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use task_supervisor::{CancellationToken, SupervisedTask, SupervisorBuilder, TaskResult};
use tokio::sync::Notify;

use crate::cell::{BARE, Limit, Measured, OURS, Scale, Workload};

const RESTARTS: usize = 20_000;
const AT_MOST: Duration = Duration::from_secs(2);
/// The clock is read once in so many runs: it costs a twentieth of a bare restart.
const BETWEEN_LOOKS: usize = 16;

pub fn workload() -> Workload {
    Workload::new("restart", "ns per restart", "what does a restart without delay cost")
        .cell(BARE, |scale| bare(Failing::new(scale)))
        .cell(OURS, |scale| ours(Failing::new(scale)))
        .cell("task-supervisor", |scale| task_supervisor(Failing::new(scale)))
        .cell("ractor", |scale| ractor(Failing::new(scale)))
        .goal(Limit::OfSystem(0.05, "task-supervisor"))
}

#[derive(Debug)]
struct Failed;

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failed at once")
    }
}

impl std::error::Error for Failed {}

/// What every system runs: it fails until there were enough restarts, then succeeds.
struct Failing {
    runs: AtomicUsize,
    restarts: usize,
    at_most: Duration,
    began: OnceLock<Instant>,
    ended: OnceLock<Measured>,
    over: Notify,
}

impl Failing {
    fn new(scale: Scale) -> Arc<Self> {
        let at_most = if scale == Scale::Quick { AT_MOST / 10 } else { AT_MOST };
        Arc::new(Self {
            runs: AtomicUsize::new(0),
            restarts: scale.of(RESTARTS),
            at_most,
            began: OnceLock::new(),
            ended: OnceLock::new(),
            over: Notify::new(),
        })
    }

    fn run(&self) -> Result<(), Failed> {
        let restarts = self.runs.fetch_add(1, Relaxed); // Runs never overlap; pairs with nothing.
        let began = *self.began.get_or_init(Instant::now);
        if restarts == self.restarts || (restarts > 0 && restarts % BETWEEN_LOOKS == 0) {
            let took = began.elapsed();
            if restarts == self.restarts || took > self.at_most {
                let _ = self.ended.set(Measured::Nanos(took.as_nanos() as f64 / restarts as f64));
                self.over.notify_one();
                return Ok(());
            }
        }
        Err(Failed)
    }

    async fn measured(&self) -> Measured {
        self.over.notified().await;
        *self.ended.get().expect("set before it was told")
    }
}

async fn bare(failing: Arc<Failing>) -> Measured {
    let task = failing.clone();
    tokio::spawn(async move {
        loop {
            let task = task.clone();
            if let Ok(Ok(())) = tokio::spawn(async move { task.run() }).await {
                break;
            }
        }
    });
    failing.measured().await
}

async fn ours(failing: Arc<Failing>) -> Measured {
    let tasks = TaskManager::new();
    let task = failing.clone();
    let config = CriticalTaskConfig::new("failing", move |_| {
        let task = task.clone();
        async move { task.run() }
    })
    .backoff(Backoff::constant(Duration::ZERO))
    // There is no "without a limit"; but no two restarts lie within a nanosecond, so this one is never reached.
    .max_restarts(2, Duration::from_nanos(1));
    tasks.register(config).expect("a sound config");
    tasks.start();
    failing.measured().await
}

async fn task_supervisor(failing: Arc<Failing>) -> Measured {
    #[derive(Clone)]
    struct Task(Arc<Failing>);

    impl SupervisedTask for Task {
        async fn run(self, _: CancellationToken) -> TaskResult {
            Ok(self.0.run()?)
        }
    }

    // The least it can be told. The restart still waits for a timer, and tokio's tick is a millisecond.
    let _supervisor = SupervisorBuilder::new()
        .with_unlimited_restarts()
        .with_base_restart_delay(Duration::ZERO)
        .with_max_restart_delay(Duration::ZERO)
        .with_restart_jitter(0.0)
        .with_task("failing", Task(failing.clone()))
        .spawn();
    failing.measured().await
}

async fn ractor(failing: Arc<Failing>) -> Measured {
    struct Child;

    impl Actor for Child {
        type Msg = ();
        type State = Arc<Failing>;
        type Arguments = Arc<Failing>;

        async fn pre_start(
            &self,
            _: ActorRef<()>,
            failing: Arc<Failing>,
        ) -> Result<Arc<Failing>, ActorProcessingErr> {
            Ok(failing)
        }

        // Not `pre_start`: what fails there is the spawning, and no supervisor hears of it.
        async fn post_start(
            &self,
            _: ActorRef<()>,
            failing: &mut Arc<Failing>,
        ) -> Result<(), ActorProcessingErr> {
            Ok(failing.run()?)
        }
    }

    struct Supervisor;

    impl Actor for Supervisor {
        type Msg = ();
        type State = Arc<Failing>;
        type Arguments = Arc<Failing>;

        async fn pre_start(
            &self,
            myself: ActorRef<()>,
            failing: Arc<Failing>,
        ) -> Result<Arc<Failing>, ActorProcessingErr> {
            Child::spawn_linked(None, Child, failing.clone(), myself.get_cell()).await?;
            Ok(failing)
        }

        async fn handle_supervisor_evt(
            &self,
            myself: ActorRef<()>,
            event: SupervisionEvent,
            failing: &mut Arc<Failing>,
        ) -> Result<(), ActorProcessingErr> {
            if let SupervisionEvent::ActorFailed(..) = event {
                Child::spawn_linked(None, Child, failing.clone(), myself.get_cell()).await?;
            }
            Ok(())
        }
    }

    let _supervisor = Supervisor::spawn(None, Supervisor, failing.clone()).await.expect("it starts");
    failing.measured().await
}
