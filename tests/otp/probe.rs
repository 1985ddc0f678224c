//! Children whose starts, ends and stops are the test's to say, and the order in which things happened to them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use otel_tasks::{
    Backoff, CriticalTaskConfig, RestartPolicy, ShutdownReport, TaskContext, TaskGroup, TaskManager,
    events::{TaskEvent, TaskEventKind, TaskEvents},
    policy::{ExitKind, RestartReason, RestartStrategy},
    snapshot::TaskState,
    task::TaskManagerBuilder,
};
use tokio::{sync::Notify, time::sleep};

use crate::support::{Alive, listen};

pub(crate) const HOUR: Duration = Duration::from_secs(3_600);

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Ok,
    Err,
    Panic,
}

impl End {
    pub(crate) const ALL: [Self; 3] = [Self::Ok, Self::Err, Self::Panic];
    pub(crate) const FAILURES: [Self; 2] = [Self::Err, Self::Panic];

    fn happen(self) -> Result<(), &'static str> {
        match self {
            Self::Ok => Ok(()),
            Self::Err => Err("down"),
            Self::Panic => panic!("died"),
        }
    }

    pub(crate) fn kind(self) -> ExitKind {
        match self {
            Self::Ok => ExitKind::Success,
            Self::Err => ExitKind::Failure,
            Self::Panic => ExitKind::Panic,
        }
    }

    /// The reason of the restart that it leads to, where the policy asks for one.
    pub(crate) fn reason(self) -> RestartReason {
        match self {
            Self::Ok => RestartReason::Finished,
            Self::Err => RestartReason::Failure,
            Self::Panic => RestartReason::Panic,
        }
    }
}

/// How a run begins. To be ready is what OTP's start function answering `{ok, Pid}` is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start {
    Ready,
    /// It ends before it is ready.
    Ends(End),
    /// The same after a while.
    EndsAfter(Duration, End),
    /// It waits for the test's word.
    Gated,
}

/// What a run does when it is asked to stop.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stop {
    AtOnce,
    After(Duration),
    With(End),
    Never,
}

#[derive(Debug, Clone, Copy)]
enum Say {
    Ready,
    End(End),
}

/// What happened, in order: `start c`, `ready c`, `stop c` (asked to), `end c`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().expect("not poisoned")
    }

    fn note(&self, what: &str, name: &str) {
        self.lines().push(format!("{what} {name}"));
    }

    pub(crate) fn has(&self, line: &str) -> bool {
        self.lines().iter().any(|held| held == line)
    }

    /// What happened since it was last taken.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines())
    }
}

/// A child under the test's control.
#[derive(Clone)]
pub(crate) struct Child(Arc<Inner>);

struct Inner {
    name: String,
    log: Log,
    alive: Alive,
    own: Alive,
    start: Mutex<Start>,
    stop: Mutex<Stop>,
    /// What is said, and to which of its runs.
    say: Mutex<Option<(usize, Say)>>,
    said: Notify,
}

impl Child {
    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// How its next starts go.
    pub(crate) fn starts(&self, start: Start) -> &Self {
        *self.0.start.lock().expect("not poisoned") = start;
        self
    }

    /// How it answers the next times it is asked to stop.
    pub(crate) fn stops(&self, stop: Stop) -> &Self {
        *self.0.stop.lock().expect("not poisoned") = stop;
        self
    }

    /// Lets the present run end.
    pub(crate) fn end(&self, end: End) {
        self.end_run(self.runs(), end);
    }

    /// Lets this run end, from 1, if it is not over by now.
    pub(crate) fn end_run(&self, run: usize, end: End) {
        self.say(run, Say::End(end));
    }

    /// Lets a gated start go on.
    pub(crate) fn go(&self) {
        self.say(self.runs(), Say::Ready);
    }

    fn say(&self, run: usize, say: Say) {
        *self.0.say.lock().expect("not poisoned") = Some((run, say));
        self.0.said.notify_one();
    }

    /// How often it has begun.
    pub(crate) fn runs(&self) -> usize {
        self.0.own.total()
    }

    /// How many of its runs are alive.
    pub(crate) fn alive(&self) -> usize {
        self.0.own.now()
    }

    /// As OTP's suite restarts: at once, by this policy, without a limit of its own that could come before the group's.
    pub(crate) fn config(&self, policy: RestartPolicy) -> CriticalTaskConfig {
        let child = self.clone();
        CriticalTaskConfig::new(self.name(), move |ctx| {
            let child = child.clone();
            async move { child.run(ctx).await }
        })
        .restart_policy(policy)
        .backoff(Backoff::constant(Duration::ZERO))
        .max_restarts(1_000, HOUR)
        .start_timeout(24 * HOUR)
    }

    pub(crate) fn permanent(&self) -> CriticalTaskConfig {
        self.config(RestartPolicy::Always)
    }

    pub(crate) fn transient(&self) -> CriticalTaskConfig {
        self.config(RestartPolicy::OnFailure)
    }

    pub(crate) fn temporary(&self) -> CriticalTaskConfig {
        self.config(RestartPolicy::Never)
    }

    /// One run; also what a spawned instance is.
    pub(crate) async fn run(&self, ctx: TaskContext) -> Result<(), &'static str> {
        let inner = &*self.0;
        let _alive = (inner.alive.guard(), inner.own.guard());
        let run = self.runs();
        inner.log.note("start", &inner.name);
        let _end = Ending(self);
        let start = *inner.start.lock().expect("not poisoned");
        let said = match start {
            Start::Ready => Say::Ready,
            Start::Ends(end) => Say::End(end),
            Start::EndsAfter(time, end) => tokio::select! {
                () = sleep(time) => Say::End(end),
                () = ctx.cancelled() => return self.stopping(run).await,
            },
            Start::Gated => tokio::select! {
                said = self.said(run) => said,
                () = ctx.cancelled() => return self.stopping(run).await,
            },
        };
        if let Say::End(end) = said {
            return end.happen();
        }
        inner.log.note("ready", &inner.name);
        ctx.ready();
        loop {
            tokio::select! {
                // Where it is asked to stop just when it ends by itself, it has ended by itself.
                biased;
                said = self.said(run) => if let Say::End(end) = said { return end.happen() },
                () = ctx.cancelled() => return self.stopping(run).await,
            }
        }
    }

    async fn said(&self, to: usize) -> Say {
        loop {
            if let Some((_, said)) = self.0.say.lock().expect("not poisoned").take_if(|(run, _)| *run == to) {
                return said;
            }
            self.0.said.notified().await;
        }
    }

    async fn stopping(&self, run: usize) -> Result<(), &'static str> {
        self.0.log.note("stop", self.name());
        let stop = *self.0.stop.lock().expect("not poisoned");
        match stop {
            Stop::AtOnce => Ok(()),
            Stop::With(end) => end.happen(),
            Stop::Never => std::future::pending().await,
            Stop::After(time) => {
                // One that is told to end by itself meanwhile does.
                tokio::select! {
                    () = sleep(time) => Ok(()),
                    said = self.said(run) => match said {
                        Say::End(end) => end.happen(),
                        Say::Ready => Ok(()),
                    },
                }
            }
        }
    }
}

struct Ending<'a>(&'a Child);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.0.log.note("end", self.0.name());
    }
}

/// A manager, its children, and what is told of them.
pub(crate) struct World {
    pub(crate) tasks: TaskManager,
    pub(crate) log: Log,
    pub(crate) alive: Alive,
    events: TaskEvents,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::of(TaskManager::builder())
    }

    pub(crate) fn of(builder: TaskManagerBuilder) -> Self {
        // Somebody hears of the panics, so they are not printed.
        listen();
        let tasks = builder.build().unwrap();
        let events = tasks.subscribe();
        Self { tasks, log: Log::default(), alive: Alive::default(), events }
    }

    /// A world, and the children of these names in it.
    pub(crate) fn with<const N: usize>(names: [&str; N]) -> (Self, [Child; N]) {
        let world = Self::new();
        let children = world.children(names);
        (world, children)
    }

    pub(crate) fn child(&self, name: &str) -> Child {
        Child(Arc::new(Inner {
            name: name.to_owned(),
            log: self.log.clone(),
            alive: self.alive.clone(),
            own: Alive::default(),
            start: Mutex::new(Start::Ready),
            stop: Mutex::new(Stop::AtOnce),
            say: Mutex::default(),
            said: Notify::new(),
        }))
    }

    pub(crate) fn children<const N: usize>(&self, names: [&str; N]) -> [Child; N] {
        names.map(|name| self.child(name))
    }

    /// Registers a group with a limit of its own in an hour, and starts it.
    pub(crate) async fn supervise(
        &self,
        strategy: RestartStrategy,
        limit: u32,
        members: impl IntoIterator<Item = CriticalTaskConfig>,
    ) {
        self.supervise_as(group(strategy, members).max_restarts(limit, HOUR)).await;
    }

    pub(crate) async fn supervise_as(&self, group: TaskGroup) {
        self.tasks.register_group(group).expect("a valid group");
        self.tasks.start();
        calm().await;
    }

    pub(crate) async fn register(&self, config: CriticalTaskConfig) {
        self.tasks.register(config).expect("a valid config");
        self.tasks.start();
        calm().await;
    }

    pub(crate) fn state(&self, name: &str) -> TaskState {
        let snapshot = self.tasks.snapshot(name).expect("a known name");
        snapshot.state.expect("a registered task")
    }

    pub(crate) fn states<const N: usize>(&self, names: [&str; N]) -> [TaskState; N] {
        names.map(|name| self.state(name))
    }

    pub(crate) fn restarts(&self, name: &str, reason: RestartReason) -> u64 {
        self.tasks.snapshot(name).map_or(0, |task| task.restarts(reason))
    }

    /// As OTP's `count_children`: registered, and of them active.
    pub(crate) fn counts(&self) -> [usize; 2] {
        let names = self.tasks.task_names();
        let active =
            names.iter().filter(|name| self.state(name) == TaskState::Running && self.is_ready(name));
        [names.len(), active.count()]
    }

    pub(crate) fn is_ready(&self, name: &str) -> bool {
        self.tasks.task_health(name).is_some_and(|health| health.is_ready)
    }

    /// The events since the last look.
    pub(crate) fn told(&mut self) -> Vec<TaskEvent> {
        std::iter::from_fn(|| self.events.try_recv()).collect()
    }

    /// Shuts down, and holds what holds of every run: it ended, once, before the next of its task began, and is gone.
    pub(crate) async fn finish(mut self) -> Arc<ShutdownReport> {
        let report = self.tasks.shutdown().await;
        assert_eq!(self.alive.now(), 0, "something is left alive: {report}");
        let told = self.told();
        assert_eq!(self.events.missed(), 0);
        if told.iter().any(|event| matches!(event.kind, TaskEventKind::Registered)) {
            each_run_ended_once(&told);
        }
        report
    }
}

/// Of each life one beginning and one end are told, and those of one task one after the other.
pub(crate) fn each_run_ended_once(told: &[TaskEvent]) {
    let mut lives: BTreeMap<&str, Vec<(char, u64)>> = BTreeMap::new();
    for event in told {
        let what = match event.kind {
            TaskEventKind::Started { .. } => 's',
            TaskEventKind::Exited { .. } => 'e',
            _ => continue,
        };
        let name = event.task.as_deref().expect("of a task");
        lives.entry(name).or_default().push((what, event.generation));
    }
    for (name, lives) in lives {
        let first = lives[0].1;
        for (place, (what, generation)) in lives.iter().enumerate() {
            let expected = (if place % 2 == 0 { 's' } else { 'e' }, first + place as u64 / 2);
            let near = &lives[place.saturating_sub(4)..];
            let near = &near[..near.len().min(8)];
            assert_eq!((*what, *generation), expected, "{name}: {near:?}");
        }
        assert_eq!(lives.len() % 2, 0, "{name} has not ended: {:?}", lives.last());
    }
}

pub(crate) fn group(
    strategy: RestartStrategy,
    members: impl IntoIterator<Item = CriticalTaskConfig>,
) -> TaskGroup {
    members.into_iter().fold(TaskGroup::new("sup", strategy), TaskGroup::task)
}

/// Lets everything run until it is idle; a tenth of a second, so that whatever follows at once has followed.
pub(crate) async fn calm() {
    sleep(Duration::from_millis(100)).await;
}

pub(crate) const STRATEGIES: [RestartStrategy; 3] =
    [RestartStrategy::OneForOne, RestartStrategy::OneForAll, RestartStrategy::RestForOne];

pub(crate) const POLICIES: [RestartPolicy; 3] =
    [RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never];
