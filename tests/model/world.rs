//! The real thing: a manager in virtual time, tasks whose runs do what they are told, and the comparison with the model.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
};

use otel_tasks::{
    Backoff, CriticalTaskConfig, GiveUp, TaskContext, TaskManager,
    events::{TaskEvent, TaskEventKind, TaskEvents},
    policy::{ErrorClass, ExitKind, Jitter, RestartReason},
    shutdown::ShutdownOutcome,
    snapshot::TaskSnapshot,
    task::{RegisterError, RestartError, TaskControlError},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    model::{
        Answer, BEAT, Command, FIRST_DELAY, Fault, GRACE, HEARTBEAT_TIMEOUT, LONGEST_DELAY, Model,
        RETRY_INTERVAL, SLOWNESS, START_TIMEOUT, Spec, Step,
    },
    support::{Alive, millis, secs},
};

/// How many names there are.
pub(crate) const NAMES: usize = 4;

/// How a run takes being asked to stop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Body {
    /// It ends.
    Obedient,
    /// It ends a while later, within its grace.
    Slow,
    /// It does not.
    Deaf,
}

#[derive(Debug)]
enum Broken {
    Transient,
    Permanent,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl std::error::Error for Broken {}

type Begun = (u64, Vec<usize>);

/// What the runs of one name show of themselves.
#[derive(Clone, Default)]
pub(crate) struct Probe {
    pub(crate) alive: Alive,
    pub(crate) never_ready: Arc<AtomicBool>,
    /// To the present run.
    faults: Arc<Mutex<Option<mpsc::UnboundedSender<Fault>>>>,
    /// The runs that have begun: generation, and what they rest on.
    begun: Arc<Mutex<VecDeque<Begun>>>,
}

impl Probe {
    pub(crate) fn fault(&self, fault: Fault) {
        if let Some(run) = &*self.faults.lock().unwrap() {
            // It may have ended.
            let _ = run.send(fault);
        }
    }
}

pub(crate) fn name(task: usize) -> String {
    format!("t{task}")
}

/// The config of a task, whose runs tell `asked` when they are asked to stop.
pub(crate) fn config(
    task: usize,
    spec: &Spec,
    probe: &Probe,
    asked: impl Fn() + Clone + Send + Sync + 'static,
) -> CriticalTaskConfig {
    let backoff = Backoff::new(millis(FIRST_DELAY), 2.0, millis(LONGEST_DELAY)).expect("valid");
    let (of_run, probe) = (spec.clone(), probe.clone());
    let mut config = CriticalTaskConfig::new(name(task), move |ctx| {
        run_of_task(ctx, of_run.clone(), probe.clone(), asked.clone())
    })
    .restart_policy(spec.policy)
    .give_up(if spec.retries { GiveUp::RetryEvery(millis(RETRY_INTERVAL)) } else { GiveUp::ForGood })
    .max_restarts(spec.limit, millis(spec.window))
    .backoff(backoff.jitter(Jitter::None))
    .shutdown_grace(millis(GRACE))
    .on_dependency_loss(spec.loss)
    .on_stall(spec.on_stall)
    .classify(|error: &Broken| match error {
        Broken::Transient => ErrorClass::Transient,
        Broken::Permanent => ErrorClass::Permanent,
    });
    for dependency in &spec.dependencies {
        config = config.depends_on(name(*dependency));
    }
    if spec.says_ready {
        config = config.start_timeout(millis(START_TIMEOUT));
    }
    if spec.beats {
        config = config.heartbeat_timeout(millis(HEARTBEAT_TIMEOUT));
    }
    config
}

async fn run_of_task(ctx: TaskContext, spec: Spec, probe: Probe, asked: impl Fn()) -> Result<(), Broken> {
    let _guard = probe.alive.guard();
    probe.begun.lock().unwrap().push_back((ctx.generation(), spec.dependencies.clone()));
    let (faults, mut told) = mpsc::unbounded_channel();
    *probe.faults.lock().unwrap() = Some(faults);
    if spec.says_ready && !probe.never_ready.load(SeqCst) {
        ctx.ready();
    }
    let mut beating = spec.beats;
    let mut beat_at = Instant::now() + millis(BEAT);
    let mut asked_at: Option<Instant> = None;
    loop {
        let end_at = asked_at.filter(|_| spec.body == Body::Slow).map(|asked| asked + millis(SLOWNESS));
        tokio::select! {
            biased;
            Some(fault) = told.recv() => match fault {
                Fault::Ok => return Ok(()),
                Fault::Transient => return Err(Broken::Transient),
                Fault::Permanent => return Err(Broken::Permanent),
                // Not the macro: the hook would print it, thousands of times.
                Fault::Panic => std::panic::resume_unwind(Box::new("panic")),
                Fault::Silent => beating = false,
            },
            () = sleep_until(beat_at), if beating => {
                ctx.heartbeat();
                beat_at += millis(BEAT);
            }
            () = ctx.cancelled(), if asked_at.is_none() => {
                asked();
                if spec.body == Body::Obedient {
                    return Ok(());
                }
                asked_at = Some(Instant::now());
            }
            () = sleep_until(end_at.unwrap_or(beat_at)), if end_at.is_some() => return Ok(()),
        }
    }
}

/// What the events of one name said last.
#[derive(Default, Clone)]
pub(crate) struct Told {
    /// Whether a run goes on.
    running: bool,
    ready: bool,
    pub(crate) exits: u64,
    given_up: u64,
    stalls: u64,
}

pub(crate) fn run(steps: &[Step]) -> Result<(), String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(drive(steps))
}

/// Which of two replacements is first, and whether a dependency leaves before one, is not documented.
pub(crate) fn is_undocumented(model: &Model, task: usize, command: &Command) -> bool {
    let Command::Replace(spec) = command else { return false };
    model.is_replacing(task) || (model.is_up(task) && !spec.dependencies.is_empty())
}

/// Compares the model whose first task takes its step first with the one whose last task does.
pub(crate) fn is_same_in_both_orders(steps: &[Step]) -> Result<(), String> {
    let (mut first, mut last) = (Model::new(NAMES), Model::last_first(NAMES));
    for (number, step) in steps.iter().enumerate() {
        let failed = |what: String| Err(format!("step {number}, {step:?}: {what}"));
        for command in &step.commands {
            if is_undocumented(&first, step.task, command) {
                continue;
            }
            let answers = (first.command(step.task, command), last.command(step.task, command));
            if answers.0 != answers.1 {
                return failed(format!("{command:?} answers {answers:?}"));
            }
        }
        for model in [&mut first, &mut last] {
            model.pass(step.seconds * 1_000);
        }
        for task in 0..NAMES {
            let of =
                |model: &Model| (model.state(task), model.is_ready_life(task), model.figures(task).clone());
            if of(&first) != of(&last) {
                return failed(format!("{} is {:?} or {:?}", name(task), of(&first), of(&last)));
            }
        }
    }
    Ok(())
}

async fn drive(steps: &[Step]) -> Result<(), String> {
    let tasks = TaskManager::builder().shutdown_deadline(secs(300)).build().unwrap();
    let mut events = tasks.subscribe();
    let mut model = Model::new(NAMES);
    let probes: Vec<_> = (0..NAMES).map(|_| Probe::default()).collect();
    let mut told = vec![Told::default(); NAMES];
    let mut now = Instant::now();
    for (number, step) in steps.iter().enumerate() {
        let failed = |what: String| format!("step {number}, {step:?}: {what}");
        for command in &step.commands {
            if is_undocumented(&model, step.task, command) {
                continue;
            }
            let expected = model.command(step.task, command);
            let answer = execute(&tasks, step.task, command, &probes[step.task]);
            if answer != expected {
                return Err(failed(format!("{command:?} answers {answer:?}, not {expected:?}")));
            }
        }
        now += secs(step.seconds);
        sleep_until(now).await;
        model.pass(step.seconds * 1_000);
        hear(&mut events, &mut told, &probes, |_, _| Ok(())).map_err(failed)?;
        for task in 0..NAMES {
            compare(&tasks, task, &model, &probes[task], &told[task])
                .map_err(|what| failed(format!("{}: {what}", name(task))))?;
        }
    }
    shut_down(tasks, &model, &probes).await?;
    hear(&mut events, &mut told, &probes, |_, _| Ok(()))?;
    for (task, told) in told.iter().enumerate() {
        if told.running || told.exits != model.figures(task).begun {
            return Err(format!("{}: {} runs ended in the end", name(task), told.exits));
        }
    }
    Ok(())
}

/// One of these that waits has done what it does at once when it is first polled; it goes on in a task of its own.
fn at_once<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Option<T> {
    let mut future = Box::pin(future);
    match pin!(&mut future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => {
            tokio::spawn(future);
            None
        }
    }
}

fn registered(result: Result<(), RegisterError>) -> Answer {
    match result {
        Ok(()) => Answer::Done,
        Err(RegisterError::Duplicate { .. }) => Answer::Duplicate,
        Err(RegisterError::BeingReplaced { .. }) => Answer::BeingReplaced,
        Err(RegisterError::UnknownDependency { .. }) => Answer::UnknownDependency,
        Err(other) => panic!("{other}"),
    }
}

pub(crate) fn execute(tasks: &TaskManager, task: usize, command: &Command, probe: &Probe) -> Answer {
    let (tasks, named) = (tasks.clone(), name(task));
    let known = |result: Result<(), TaskControlError>| match result {
        Ok(()) => Answer::Done,
        Err(TaskControlError::Leaving { .. }) => Answer::Leaving,
        Err(_) => Answer::Unknown,
    };
    match command {
        Command::Register(spec) => registered(tasks.register(config(task, spec, probe, || ()))),
        Command::Start => {
            tasks.start();
            Answer::Done
        }
        Command::Stop => known(tasks.stop(&named)),
        Command::Restart => match tasks.restart(&named) {
            Ok(after) => Answer::In(after.as_millis().try_into().expect("short")),
            Err(RestartError::Unknown(_)) => Answer::Unknown,
            Err(RestartError::LimitReached { .. }) => Answer::LimitReached,
            Err(RestartError::Leaving { .. }) => Answer::Leaving,
            Err(other) => panic!("{other}"),
        },
        Command::Pause => known(tasks.pause(&named)),
        Command::Resume => known(tasks.resume(&named)),
        Command::Unregister => at_once(async move { tasks.unregister(&named).await })
            .map_or(Answer::Done, |left| known(left.map_err(Into::into))),
        Command::Replace(spec) => {
            let config = config(task, spec, probe, || ());
            at_once(async move { tasks.replace(config).await }).map_or(Answer::Done, registered)
        }
        Command::Fault(fault) => {
            probe.fault(*fault);
            Answer::Done
        }
        Command::NeverReady(never_ready) => {
            probe.never_ready.store(*never_ready, SeqCst);
            Answer::Done
        }
    }
}

/// Follows the events: each run begins when none goes on and what it rests on is ready, and ends once.
pub(crate) fn hear(
    events: &mut TaskEvents,
    told: &mut [Told],
    probes: &[Probe],
    mut also: impl FnMut(usize, &TaskEvent) -> Result<(), String>,
) -> Result<(), String> {
    while let Some(event) = events.try_recv() {
        let Some(of) = &event.task else { continue };
        let task: usize = of[1..].parse().expect("a name of ours");
        also(task, &event)?;
        match event.kind {
            TaskEventKind::Started { .. } => {
                if told[task].running {
                    return Err(format!("{of} begins a second run"));
                }
                let Some((generation, rests_on)) = probes[task].begun.lock().unwrap().pop_front() else {
                    return Err(format!("{of} began and nothing runs"));
                };
                if generation != event.generation {
                    return Err(format!("{of} runs in generation {generation}, told {}", event.generation));
                }
                if let Some(missing) = rests_on.iter().find(|dependency| !told[**dependency].ready) {
                    return Err(format!("{of} begins though {} is not ready", name(*missing)));
                }
                told[task].running = true;
            }
            TaskEventKind::Ready => told[task].ready = true,
            TaskEventKind::Finished => told[task].ready = true,
            TaskEventKind::Exited { .. } => {
                if !std::mem::take(&mut told[task].running) {
                    return Err(format!("{of} ends twice"));
                }
                told[task].ready = false;
                told[task].exits += 1;
            }
            TaskEventKind::Stopped | TaskEventKind::Paused | TaskEventKind::Unregistered => {
                told[task].ready = false;
            }
            TaskEventKind::GaveUp { .. } => {
                told[task].ready = false;
                told[task].given_up += 1;
            }
            TaskEventKind::Stalled { .. } => told[task].stalls += 1,
            _ => {}
        }
    }
    Ok(())
}

fn compare(
    tasks: &TaskManager,
    task: usize,
    model: &Model,
    probe: &Probe,
    told: &Told,
) -> Result<(), String> {
    fn same<T: PartialEq + fmt::Debug>(what: &str, real: T, expected: T) -> Result<(), String> {
        if real == expected { Ok(()) } else { Err(format!("{what} is {real:?}, not {expected:?}")) }
    }
    let expected = model.figures(task);
    let up = model.is_up(task);
    same("alive", probe.alive.now(), usize::from(up))?;
    if probe.alive.most() > 1 {
        return Err("two runs were alive at once".into());
    }
    let snapshot = tasks.snapshot(&name(task));
    same("the state", snapshot.as_ref().and_then(|snapshot| snapshot.state), model.state(task))?;
    same("runs begun", probe.alive.total() as u64, expected.begun)?;
    let ended: u64 = expected.exits.iter().sum();
    same("runs begun or ended", ended + u64::from(up), expected.begun)?;
    same("Exited events", told.exits, ended)?;
    same("a run by the events", told.running, up)?;
    same("GaveUp events", told.given_up, expected.given_up)?;
    same("Stalled events", told.stalls, expected.stalls)?;
    let Some(snapshot) = snapshot else { return Ok(()) };
    same("restarts", restarts_of(&snapshot), expected.restarts)?;
    same(
        "runs",
        ExitKind::ALL.iter().map(|&kind| snapshot.runs(kind)).collect::<Vec<_>>(),
        expected.exits.to_vec(),
    )?;
    same("active", snapshot.active, u64::from(up))?;
    same("stalls", snapshot.stalls, expected.stalls)?;
    let health = tasks.task_health(&name(task)).expect("known");
    let ready = model.is_running_and_ready(task);
    same("readiness", health.is_ready, ready && health.is_live)?;
    Ok(())
}

/// One line for each registered task, with what became of it; and nothing is left.
async fn shut_down(tasks: TaskManager, model: &Model, probes: &[Probe]) -> Result<(), String> {
    let report = tasks.shutdown().await;
    for (task, probe) in probes.iter().enumerate() {
        let lines: Vec<_> = report.tasks.iter().filter(|line| *line.name == *name(task)).collect();
        let possible: &[ShutdownOutcome] = match model.body(task) {
            None => &[],
            Some(_) if !model.is_up(task) => &[ShutdownOutcome::NotRunning],
            // Its start timeout may end it before its grace does.
            Some(Body::Deaf) if !model.is_ready_life(task) => {
                &[ShutdownOutcome::Aborted, ShutdownOutcome::Clean]
            }
            Some(Body::Deaf) => &[ShutdownOutcome::Aborted],
            Some(_) => &[ShutdownOutcome::Clean],
        };
        let fits = match &lines[..] {
            [] => possible.is_empty(),
            [line] => line.count == 1 && possible.contains(&line.outcome),
            _ => false,
        };
        if !fits {
            return Err(format!("{}: {lines:?} in the report, not {possible:?}", name(task)));
        }
        if probe.alive.now() > 0 {
            return Err(format!("{} is alive after the shutdown", name(task)));
        }
    }
    Ok(())
}

/// Restarts by reason, in the order of [`RestartReason::ALL`].
pub(crate) fn restarts_of(snapshot: &TaskSnapshot) -> [u64; RestartReason::ALL.len()] {
    std::array::from_fn(|index| snapshot.restarts(RestartReason::ALL[index]))
}
