//! What the tests of faults share: the runtimes, and what the manager tells, kept and checked.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    panic::resume_unwind,
    sync::{Arc, mpsc},
    time::Duration,
};

use otel_tasks::{
    TaskManager,
    events::{TaskEvent, TaskEventKind, TaskEvents},
    policy::Exit,
};

use crate::support::{
    listen,
    process::{child, is_child},
    secs,
};

/// Where a scenario runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    CurrentThread,
    OneWorker,
    FourWorkers,
}

/// A scenario that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

impl On {
    /// Runs the scenario; on the current thread in virtual time. A scenario that hangs fails.
    pub(crate) fn run<F: Future<Output = ()>>(self, scenario: impl FnOnce(On) -> F + Send + 'static) {
        self.run_in(self.runtime(self == Self::CurrentThread, None), scenario);
    }

    /// The same in real time everywhere: for scenarios that block threads.
    pub(crate) fn run_in_real_time<F: Future<Output = ()>>(
        self,
        scenario: impl FnOnce(On) -> F + Send + 'static,
    ) {
        self.run_in(self.runtime(false, None), scenario);
    }

    /// As [`run`](Self::run), every thread of the runtime under this subscriber.
    pub(crate) fn run_under<F: Future<Output = ()>>(
        self,
        subscriber: &tracing::Dispatch,
        scenario: impl FnOnce(On) -> F + Send + 'static,
    ) {
        let runtime = self.runtime(self == Self::CurrentThread, Some(subscriber.clone()));
        let subscriber = subscriber.clone();
        listen();
        limited(move || {
            let _default = tracing::dispatcher::set_default(&subscriber);
            runtime.block_on(scenario(self));
        });
    }

    /// As [`run`](Self::run) without any subscriber, whose registry takes memory of its own.
    pub(crate) fn run_unheard<F: Future<Output = ()>>(self, scenario: impl FnOnce(On) -> F + Send + 'static) {
        let runtime = self.runtime(self == Self::CurrentThread, None);
        limited(move || runtime.block_on(scenario(self)));
    }

    fn run_in<F: Future<Output = ()>>(
        self,
        runtime: Unwaited,
        scenario: impl FnOnce(On) -> F + Send + 'static,
    ) {
        // With a subscriber, panics of tasks are not printed: backtraces take longer than a poll may.
        listen();
        limited(move || runtime.block_on(scenario(self)));
    }

    fn runtime(self, paused: bool, subscriber: Option<tracing::Dispatch>) -> Unwaited {
        let mut builder = match self {
            Self::CurrentThread => tokio::runtime::Builder::new_current_thread(),
            Self::OneWorker | Self::FourWorkers => tokio::runtime::Builder::new_multi_thread(),
        };
        match self {
            Self::CurrentThread => &mut builder,
            Self::OneWorker => builder.worker_threads(1),
            Self::FourWorkers => builder.worker_threads(4),
        };
        if paused {
            builder.start_paused(true);
        }
        if let Some(subscriber) = subscriber {
            // For as long as the thread lives, which is the runtime's.
            builder.on_thread_start(move || std::mem::forget(tracing::dispatcher::set_default(&subscriber)));
        }
        Unwaited(Some(builder.enable_all().build().expect("a runtime")))
    }
}

/// A runtime that is not waited for: what a fault has left blocked must not hold up the test.
struct Unwaited(Option<tokio::runtime::Runtime>);

impl Unwaited {
    fn block_on(&self, future: impl Future<Output = ()>) {
        self.0.as_ref().expect("taken when it is dropped").block_on(future);
    }
}

impl Drop for Unwaited {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Runs `scenario` on a thread of its own, so that one that hangs fails.
pub(crate) fn limited(scenario: impl FnOnce() + Send + 'static) {
    let (done, over) = mpsc::channel();
    let name = std::thread::current().name().unwrap_or("scenario").to_owned();
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        // Dropped also where the scenario panics.
        let _done: mpsc::Sender<()> = done;
        scenario();
    });
    let thread = thread.expect("a thread");
    assert_ne!(over.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Timeout), "the scenario hangs");
    if let Err(panic) = thread.join() {
        resume_unwind(panic);
    }
}

/// One test of a scenario.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) on: On,
    /// Its path in this binary.
    pub(crate) test: &'static str,
}

impl Case {
    /// `path` begins with the name of the binary.
    pub(crate) fn new(on: On, path: &'static str) -> Self {
        let (_, test) = path.split_once("::").expect("a test in a module");
        Self { on, test }
    }

    pub(crate) fn run<F: Future<Output = ()>>(self, scenario: impl FnOnce(On) -> F + Send + 'static) {
        self.on.run(scenario);
    }

    pub(crate) fn run_in_real_time<F: Future<Output = ()>>(
        self,
        scenario: impl FnOnce(On) -> F + Send + 'static,
    ) {
        self.on.run_in_real_time(scenario);
    }

    /// In a process of its own, without a subscriber: for what is looked at of a whole process.
    #[track_caller]
    pub(crate) fn run_alone<F: Future<Output = ()>>(self, scenario: impl FnOnce(On) -> F + Send + 'static) {
        if is_child() {
            return self.on.run_unheard(scenario);
        }
        let ended = child(self.test).output().expect("a child");
        let said = [ended.stdout, ended.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(ended.status.success() && said.contains("1 passed"), "{said}");
    }

    /// For a scenario that makes its runtime itself.
    pub(crate) fn call(self, scenario: impl FnOnce(Case)) {
        scenario(self);
    }
}

/// For each scenario a module of its name, with a `#[test]` per runtime that hands it to that method of [`Case`].
macro_rules! on_each_runtime {
    (@tests $run:ident $scenario:ident [$($on:ident $test:ident)+]) => { $(
        #[test]
        fn $test() {
            let path = concat!(module_path!(), "::", stringify!($test));
            $crate::common::Case::new($crate::common::On::$on, path).$run(super::$scenario);
        }
    )+ };
    (@modules $run:ident $runtimes:tt $($scenario:ident,)+) => { $(
        mod $scenario {
            $crate::common::on_each_runtime! { @tests $run $scenario $runtimes }
        }
    )+ };
    ($run:ident on workers: $($scenario:ident,)+) => {
        $crate::common::on_each_runtime! {
            @modules $run [OneWorker one_worker FourWorkers four_workers] $($scenario,)+
        }
    };
    ($run:ident on one_thread: $($scenario:ident,)+) => {
        $crate::common::on_each_runtime! {
            @modules $run [CurrentThread current_thread OneWorker one_worker] $($scenario,)+
        }
    };
    ($run:ident: $($scenario:ident,)+) => {
        $crate::common::on_each_runtime! {
            @modules $run [CurrentThread current_thread OneWorker one_worker FourWorkers four_workers]
            $($scenario,)+
        }
    };
}
pub(crate) use on_each_runtime;

/// Resident memory of this process, in KiB; 0 where nobody tells. Not the pages of the program itself, which come when
/// they are first run.
pub(crate) fn rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

/// What a manager tells, kept.
pub(crate) struct Told {
    events: TaskEvents,
    seen: Vec<TaskEvent>,
}

impl Told {
    /// From now on: before the tasks are registered.
    pub(crate) fn by(tasks: &TaskManager) -> Self {
        Self { events: tasks.subscribe(), seen: Vec::new() }
    }

    /// Everything so far.
    pub(crate) fn all(&mut self) -> &[TaskEvent] {
        while let Some(event) = self.events.try_recv() {
            self.seen.push(event);
        }
        &self.seen
    }

    /// Waits for an event, from the first on: also one that was told before.
    #[track_caller]
    pub(crate) fn until(
        &mut self,
        what: &str,
        mut is_it: impl FnMut(&TaskEvent) -> bool,
    ) -> impl Future<Output = TaskEvent> {
        let caller = std::panic::Location::caller();
        async move {
            let mut looked = 0;
            let found = tokio::time::timeout(secs(20), async {
                loop {
                    if let Some(event) = self.seen[looked..].iter().find(|event| is_it(event)) {
                        return Some(event.clone());
                    }
                    looked = self.seen.len();
                    self.seen.push(self.events.recv().await?);
                }
            });
            match found.await {
                Ok(Some(event)) => event,
                _ => panic!("{caller}: never told: {what}; told was {:#?}", self.seen),
            }
        }
    }

    /// What was told of a task, in words: "started", "exited panic", "backing_off failure" and so on. Without slow polls,
    /// which are there on a busy machine.
    pub(crate) fn story(&mut self, task: &str) -> Vec<String> {
        let of_task = self.all().iter().filter(|event| event.task.as_deref() == Some(task));
        of_task.filter(|event| !is_of_the_machine(event)).map(word).collect()
    }

    /// What was told of all tasks and the manager, in words, each with the task's name before it. Without what a busy
    /// machine does.
    pub(crate) fn stories(&mut self) -> Vec<String> {
        let line = |event: &TaskEvent| match &event.task {
            Some(task) => format!("{task} {}", word(event)),
            None => word(event),
        };
        self.all().iter().filter(|event| !is_of_the_machine(event)).map(line).collect()
    }

    /// How the runs of a task ended, in order.
    pub(crate) fn exits(&mut self, task: &str) -> Vec<Exit> {
        let of_task = self.all().iter().filter(|event| event.task.as_deref() == Some(task));
        let exit = |event: &TaskEvent| match &event.kind {
            TaskEventKind::Exited { exit, .. } => Some(exit.clone()),
            _ => None,
        };
        of_task.filter_map(exit).collect()
    }

    /// How often something was told of a task.
    pub(crate) fn count(&mut self, task: &str, mut is_it: impl FnMut(&TaskEventKind) -> bool) -> usize {
        let of_task = self.all().iter().filter(|event| event.task.as_deref() == Some(task));
        of_task.filter(|event| is_it(&event.kind)).count()
    }

    /// Checks, of registered tasks at rest: nothing was missed, each run has told its end once, as many as were counted,
    /// by result, none before its start, and each generation began once and after the one before.
    #[track_caller]
    pub(crate) fn check_runs(&mut self, tasks: &TaskManager) {
        let mut exits: BTreeMap<Arc<str>, BTreeMap<&str, u64>> = BTreeMap::new();
        let mut begun: BTreeMap<Arc<str>, u64> = BTreeMap::new();
        let mut ended: BTreeSet<(Arc<str>, u64, Option<u64>)> = BTreeSet::new();
        for event in self.all() {
            let Some(task) = &event.task else { continue };
            match &event.kind {
                // The next of that name counts from 1.
                TaskEventKind::Registered => {
                    begun.insert(task.clone(), 0);
                    ended.retain(|(of, ..)| of != task);
                }
                TaskEventKind::Started { .. } => {
                    let before = begun.insert(task.clone(), event.generation).unwrap_or(0);
                    assert_eq!(event.generation, before + 1, "{task}: generations follow each other");
                }
                TaskEventKind::Exited { exit, iteration, .. } => {
                    let run = (task.clone(), event.generation, *iteration);
                    assert_eq!(
                        begun.get(task),
                        Some(&event.generation),
                        "{task}: an exit of a run that began"
                    );
                    assert!(ended.insert(run.clone()), "told twice: the end of {run:?}");
                    *exits.entry(task.clone()).or_default().entry(exit.kind().as_str()).or_default() += 1;
                }
                _ => {}
            }
        }
        assert_eq!(self.events.missed(), 0, "an event was missed");
        for task in begun.keys() {
            let Some(snapshot) = tasks.snapshot(task) else { continue };
            assert_eq!(snapshot.active, 0, "{task}: a run is under way");
            for (kind, runs) in
                otel_tasks::policy::ExitKind::ALL.iter().map(|&kind| (kind, snapshot.runs(kind)))
            {
                let told = exits.get(task).and_then(|exits| exits.get(kind.as_str())).copied().unwrap_or(0);
                assert_eq!(told, runs, "{task}: ends told and counted as {kind:?}");
            }
        }
    }
}

fn is_of_the_machine(event: &TaskEvent) -> bool {
    matches!(
        event.kind,
        TaskEventKind::SlowPoll { .. }
            | TaskEventKind::RuntimeStalled { .. }
            | TaskEventKind::ProcessResumed { .. }
    )
}

fn word(event: &TaskEvent) -> String {
    match &event.kind {
        TaskEventKind::Registered => "registered".into(),
        TaskEventKind::Waiting { waits_for, .. } => format!("waiting {}", waits_for.join(" ")),
        TaskEventKind::Started { restart: None, .. } => "started".into(),
        TaskEventKind::Started { restart: Some(reason), .. } => format!("restarted {}", reason.as_str()),
        TaskEventKind::Ready => "ready".into(),
        TaskEventKind::Exited { exit, .. } => format!("exited {}", exit.kind().as_str()),
        TaskEventKind::BackingOff { reason, .. } => format!("backing_off {}", reason.as_str()),
        TaskEventKind::Yielding { reason, .. } => format!("yielding {}", reason.as_str()),
        TaskEventKind::Finished => "finished".into(),
        TaskEventKind::Stopped => "stopped".into(),
        TaskEventKind::Paused => "paused".into(),
        TaskEventKind::GaveUp { .. } => "gave_up".into(),
        TaskEventKind::Stalled { .. } => "stalled".into(),
        TaskEventKind::SlowPoll { .. } => "slow_poll".into(),
        TaskEventKind::Unregistered => "unregistered".into(),
        TaskEventKind::HealthChanged { status, .. } => status.as_str().into(),
        TaskEventKind::RuntimeStalled { .. } => "runtime_stalled".into(),
        TaskEventKind::ProcessResumed { .. } => "process_resumed".into(),
        TaskEventKind::ShutdownBegan => "shutdown_began".into(),
        TaskEventKind::ShutdownEnded(_) => "shutdown_ended".into(),
        other => format!("{other:?}"),
    }
}
