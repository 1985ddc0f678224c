//! The model: what is documented of tasks and their dependencies, as a sequential state machine. Times are milliseconds.
//!
//! It is settled ([`Model::settle`]) by letting each task take its next step until none moves; so there is no concurrency in
//! it, and no waking. Where several things await a task, an order comes first, then time, then the run itself.

use std::fmt;

use otel_tasks::{
    RestartPolicy,
    policy::{DependencyLoss, ExitKind, RestartReason, StallAction},
    snapshot::TaskState,
};

use super::world::Body;

/// Commands come at full seconds. Each other time is some milliseconds longer than full seconds, so that nothing happens at
/// the same moment as a command. Each has milliseconds of its own, so that two of them that began at different commands do
/// not end at the same moment: which task is first then is not documented.
pub(crate) const FIRST_DELAY: u64 = 1_001;
pub(crate) const LONGEST_DELAY: u64 = 4_004;
pub(crate) const GRACE: u64 = 2_011;
pub(crate) const START_TIMEOUT: u64 = 3_023;
pub(crate) const HEARTBEAT_TIMEOUT: u64 = 1_047;
/// The interval between the heartbeats of a run.
pub(crate) const BEAT: u64 = 501;
/// The time after which a failed task is tried again.
pub(crate) const RETRY_INTERVAL: u64 = 5_071;
/// The time that a slow body needs after it was asked to stop.
pub(crate) const SLOWNESS: u64 = 1_029;

#[derive(Clone)]
pub(crate) struct Spec {
    pub(crate) policy: RestartPolicy,
    pub(crate) limit: u32,
    pub(crate) window: u64,
    pub(crate) body: Body,
    pub(crate) dependencies: Vec<usize>,
    pub(crate) loss: DependencyLoss,
    pub(crate) says_ready: bool,
    pub(crate) beats: bool,
    pub(crate) on_stall: StallAction,
    /// Whether it is tried again after it failed too often.
    pub(crate) retries: bool,
}

/// What the present run does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    Ok,
    Transient,
    Permanent,
    Panic,
    Silent,
}

#[derive(Debug, Clone)]
pub(crate) enum Command {
    Register(Spec),
    Start,
    Stop,
    Restart,
    Pause,
    Resume,
    Unregister,
    Replace(Spec),
    Fault(Fault),
    /// Whether runs that begin from now on never say that they are ready.
    NeverReady(bool),
}

#[derive(Clone)]
pub(crate) struct Step {
    pub(crate) task: usize,
    pub(crate) commands: Vec<Command>,
    pub(crate) seconds: u64,
}

/// On one line, whatever was asked for: a failing case is read by people.
impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let commands: Vec<_> = self.commands.iter().map(|command| format!("{command:?}")).collect();
        write!(f, "t{}: {}; {} s", self.task, commands.join(", "), self.seconds)
    }
}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, limit, window, body, dependencies, loss, .. } = self;
        write!(f, "{policy:?} {limit} in {window}, {body:?}")?;
        if !dependencies.is_empty() {
            write!(f, ", on {dependencies:?} {loss:?}")?;
        }
        if self.says_ready {
            write!(f, ", says ready")?;
        }
        if self.retries {
            write!(f, ", retries")?;
        }
        if self.beats {
            write!(f, ", beats or {:?}", self.on_stall)?;
        }
        Ok(())
    }
}

/// What a command answered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Answer {
    Done,
    /// In so many milliseconds.
    In(u64),
    Unknown,
    UnknownDependency,
    Duplicate,
    BeingReplaced,
    LimitReached,
    Leaving,
}

/// What is known of a name, whatever task of that name it was.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Figures {
    pub(crate) begun: u64,
    pub(crate) exits: [u64; ExitKind::ALL.len()],
    pub(crate) restarts: [u64; RestartReason::ALL.len()],
    pub(crate) stalls: u64,
    pub(crate) given_up: u64,
}

#[derive(Default)]
struct Name {
    figures: Figures,
    /// When restarts that count happened.
    counted: Vec<u64>,
    never_ready: bool,
    task: Option<Task>,
}

struct Task {
    spec: Spec,
    /// Which registration of all, so that a new task of an old name is another one.
    number: u64,
    generation: u64,
    order: Option<Order>,
    phase: Phase,
    /// Restarts in a row by the backoff.
    attempt: u32,
    last_restart: Option<u64>,
    /// When it is tried again.
    retry_at: Option<u64>,
    /// Whether it has failed and has not recovered since.
    has_failed: bool,
    /// Whether the next failure leads back to `Failed` at once.
    retrying: bool,
    /// Whether it is being unregistered or replaced.
    leaving: bool,
    replacement: Option<Spec>,
}

#[derive(Clone, Copy, PartialEq)]
enum Order {
    Start,
    Restart { after: u64 },
    StalledRestart,
    GiveUp,
    Stop,
    Pause,
    Resume,
    Leave,
}

enum Phase {
    Rest(TaskState),
    BackingOff {
        until: u64,
        reason: RestartReason,
    },
    /// For what it depends on.
    Waiting(Option<RestartReason>),
    Living(Life),
}

struct Life {
    ready: bool,
    ready_by: Option<u64>,
    /// Which task in which generation it rests on.
    rests_on: Vec<(usize, u64, u64)>,
    inbox: Vec<Fault>,
    beating: bool,
    last_beat: u64,
    stall_told: bool,
    restart_at: Option<u64>,
    stopping: Option<(Then, Option<u64>)>,
}

/// What follows when a life has been stopped.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Restart(RestartReason),
    Stopped,
    Failed,
    Paused,
    Gone,
}

pub(crate) struct Model {
    now: u64,
    started: bool,
    registrations: u64,
    /// Whether the last of the tasks that can take a step takes it first.
    last_first: bool,
    names: Vec<Name>,
}

impl Model {
    pub(crate) fn new(names: usize) -> Self {
        let names = (0..names).map(|_| Name::default()).collect();
        Self { now: 0, started: false, registrations: 0, last_first: false, names }
    }

    pub(crate) fn last_first(names: usize) -> Self {
        Self { last_first: true, ..Self::new(names) }
    }

    pub(crate) fn figures(&self, name: usize) -> &Figures {
        &self.names[name].figures
    }

    pub(crate) fn state(&self, name: usize) -> Option<TaskState> {
        self.names[name].task.as_ref().map(Task::state)
    }

    pub(crate) fn is_up(&self, name: usize) -> bool {
        self.life(name).is_some()
    }

    /// Whether a run goes on that has said that it is ready.
    pub(crate) fn is_ready_life(&self, name: usize) -> bool {
        self.life(name).is_some_and(|life| life.ready)
    }

    pub(crate) fn is_running_and_ready(&self, name: usize) -> bool {
        self.state(name) == Some(TaskState::Running) && self.is_ready_life(name)
    }

    pub(crate) fn is_replacing(&self, name: usize) -> bool {
        self.names[name].task.as_ref().is_some_and(|task| task.replacement.is_some())
    }

    fn generation(&self, name: usize) -> Option<u64> {
        self.names[name].task.as_ref().map(|task| task.generation)
    }

    pub(crate) fn body(&self, name: usize) -> Option<Body> {
        self.names[name].task.as_ref().map(|task| task.spec.body)
    }

    fn life(&self, name: usize) -> Option<&Life> {
        match &self.names[name].task.as_ref()?.phase {
            Phase::Living(life) => Some(life),
            _ => None,
        }
    }

    // Commands.

    pub(crate) fn command(&mut self, name: usize, command: &Command) -> Answer {
        match command {
            Command::Register(spec) => return self.register(name, spec.clone()),
            Command::Start => {
                self.started = true;
                (0..self.names.len()).for_each(|name| {
                    self.order(name, Order::Start);
                });
                return Answer::Done;
            }
            Command::NeverReady(never_ready) => {
                self.names[name].never_ready = *never_ready;
                return Answer::Done;
            }
            Command::Fault(fault) => {
                if let Some(Phase::Living(life)) = self.names[name].task.as_mut().map(|task| &mut task.phase)
                {
                    life.inbox.push(*fault);
                }
                return Answer::Done;
            }
            Command::Replace(spec) if self.names[name].task.is_none() => {
                return self.register(name, spec.clone());
            }
            Command::Replace(_)
                if self.names[name].task.as_ref().is_some_and(|task| task.replacement.is_some()) =>
            {
                return Answer::BeingReplaced;
            }
            // Checked before the old task is asked to stop.
            Command::Replace(spec) if self.lacks_dependency(spec) => return Answer::UnknownDependency,
            _ => {}
        }
        let now = self.now;
        let Some(task) = &mut self.names[name].task else { return Answer::Unknown };
        let order = match command {
            Command::Stop | Command::Pause | Command::Resume | Command::Restart if task.leaving => {
                return Answer::Leaving;
            }
            Command::Stop => Order::Stop,
            Command::Pause => Order::Pause,
            Command::Resume => Order::Resume,
            Command::Unregister => {
                task.leaving = true;
                Order::Leave
            }
            Command::Replace(spec) => {
                task.leaving = true;
                task.replacement = Some(spec.clone());
                Order::Leave
            }
            Command::Restart => {
                let alive =
                    matches!(task.state(), TaskState::Running | TaskState::Backoff | TaskState::Stopping);
                let running = task.state() == TaskState::Running;
                let since = task.last_restart.map_or(u64::MAX, |last| now - last);
                if alive && task.spec.limit > 0 && self.limit_reached(name) {
                    return Answer::LimitReached;
                }
                // Restarts stay apart by the first delay; until then a running task goes on.
                let after = if running { FIRST_DELAY.saturating_sub(since) } else { 0 };
                self.order(name, Order::Restart { after });
                return Answer::In(after);
            }
            _ => unreachable!("answered above"),
        };
        self.order(name, order);
        Answer::Done
    }

    fn lacks_dependency(&self, spec: &Spec) -> bool {
        spec.dependencies.iter().any(|dependency| self.names[*dependency].task.is_none())
    }

    fn register(&mut self, name: usize, spec: Spec) -> Answer {
        if self.names[name].task.is_some() {
            return Answer::Duplicate;
        }
        if self.lacks_dependency(&spec) {
            return Answer::UnknownDependency;
        }
        self.registrations += 1;
        // What an earlier task of this name did does not count against this one.
        self.names[name].counted.clear();
        self.names[name].task = Some(Task {
            spec,
            number: self.registrations,
            generation: 0,
            order: self.started.then_some(Order::Start),
            phase: Phase::Rest(TaskState::Waiting),
            attempt: 0,
            last_restart: None,
            retry_at: None,
            has_failed: false,
            retrying: false,
            leaving: false,
            replacement: None,
        });
        Answer::Done
    }

    /// The last order wins; but none takes back that a task leaves, a resume only a pause, and what nobody asked for or what
    /// says nothing new gives way to any other.
    fn order(&mut self, name: usize, order: Order) {
        let Some(task) = &mut self.names[name].task else { return };
        let wins = match (task.order, order) {
            (None, _) => true,
            (Some(Order::Leave), _) => false,
            (Some(held), Order::Resume) => held == Order::Pause,
            (Some(_), Order::Start | Order::StalledRestart | Order::GiveUp) => false,
            (Some(_), _) => true,
        };
        if wins {
            task.order = Some(order);
        }
    }

    // Time.

    /// Lets so much time pass.
    pub(crate) fn pass(&mut self, milliseconds: u64) {
        let end = self.now + milliseconds;
        self.settle();
        while let Some(next) = (0..self.names.len()).filter_map(|name| self.next_time(name)).min() {
            if next > end {
                break;
            }
            self.now = next;
            self.settle();
        }
        self.now = end;
    }

    fn settle(&mut self) {
        let mut steps = 0;
        let names = self.names.len();
        while (0..names).any(|name| self.step(if self.last_first { names - 1 - name } else { name })) {
            steps += 1;
            assert!(steps < 10_000, "the model does not settle");
        }
    }

    /// When something happens next to a task by itself.
    fn next_time(&self, name: usize) -> Option<u64> {
        let task = self.names[name].task.as_ref()?;
        let life = match &task.phase {
            Phase::BackingOff { until, .. } => return Some(*until),
            Phase::Rest(_) => return task.retry_at,
            Phase::Living(life) => life,
            _ => return None,
        };
        let ask = life.stopping.and_then(|(_, asked)| asked);
        let times = [
            ask.map(|asked| asked + GRACE),
            ask.filter(|_| task.spec.body == Body::Slow).map(|asked| asked + SLOWNESS),
            life.ready_by.filter(|_| !life.ready),
            life.restart_at.filter(|_| life.stopping.is_none()),
            life.beating.then_some(life.last_beat + BEAT),
            (task.spec.beats && !life.beating && !life.stall_told && life.stopping.is_none())
                .then_some(life.last_beat + HEARTBEAT_TIMEOUT),
        ];
        times.into_iter().flatten().filter(|time| *time > self.now).min()
    }

    // What a task rests on.

    /// Whether others may rest on it: it does its work, or has done it for good.
    fn is_ready(&self, name: usize) -> bool {
        match self.state(name) {
            Some(TaskState::Running) => self.life(name).is_some_and(|life| life.ready),
            state => state == Some(TaskState::Finished),
        }
    }

    /// Whether a task that does not keep going has lost one that it depends on.
    fn has_lost(&self, name: usize) -> bool {
        let (Some(task), Some(life)) = (&self.names[name].task, self.life(name)) else { return false };
        task.spec.loss != DependencyLoss::Keep
            && life.rests_on.iter().any(|(dependency, number, generation)| {
                let held = self.names[*dependency].task.as_ref();
                !self.is_ready(*dependency)
                    || held.is_none_or(|held| (held.number, held.generation) != (*number, *generation))
            })
    }

    /// Whether somebody goes down because of this task, and has not yet.
    fn is_held_up(&self, name: usize) -> bool {
        (0..self.names.len()).any(|other| {
            self.names[other].task.as_ref().is_some_and(|task| task.spec.dependencies.contains(&name))
                && self.has_lost(other)
        })
    }

    fn limit_reached(&self, name: usize) -> bool {
        let Some(task) = &self.names[name].task else { return false };
        let young = |at: &&u64| self.now - **at < task.spec.window;
        self.names[name].counted.iter().filter(young).count() >= task.spec.limit as usize
    }

    // Steps.

    /// One step of one task. Answers whether it moved.
    fn step(&mut self, name: usize) -> bool {
        let Some(task) = &mut self.names[name].task else { return false };
        let order = task.order.take();
        match &task.phase {
            Phase::Rest(state) => {
                let (state, retry_at) = (*state, task.retry_at);
                match order {
                    Some(order) => self.hears_at_rest(name, state, order),
                    None if retry_at.is_some_and(|at| at <= self.now) => {
                        self.enter(name, Phase::Waiting(Some(RestartReason::Retry)))
                    }
                    None => false,
                }
            }
            Phase::BackingOff { until, reason } => {
                let (due, reason) = (*until <= self.now, *reason);
                match order {
                    Some(Order::Restart { .. }) => {
                        self.enter(name, Phase::Waiting(Some(RestartReason::Requested)))
                    }
                    Some(order) => self.calls_off(name, order),
                    None if due => self.enter(name, Phase::Waiting(Some(reason))),
                    None => false,
                }
            }
            Phase::Waiting(reason) => {
                let reason = *reason;
                match order {
                    Some(Order::Restart { .. }) if reason.is_some() => {
                        self.enter(name, Phase::Waiting(Some(RestartReason::Requested)))
                    }
                    Some(order) => self.calls_off(name, order),
                    None => self.may_begin(name) && self.begin(name, reason),
                }
            }
            Phase::Living(_) => match order {
                Some(order) => self.hears_alive(name, order),
                None => self.lives(name),
            },
        }
    }

    fn enter(&mut self, name: usize, phase: Phase) -> bool {
        if let Some(task) = &mut self.names[name].task {
            task.phase = phase;
            task.retry_at = None;
        }
        true
    }

    fn rest(&mut self, name: usize, state: TaskState) -> bool {
        self.enter(name, Phase::Rest(state))
    }

    fn hears_at_rest(&mut self, name: usize, state: TaskState, order: Order) -> bool {
        use TaskState::{Paused, Stopped, Waiting};
        let has_begun = self.generation(name) > Some(0);
        let is_tried_again = self.names[name].task.as_ref().is_some_and(|task| task.retry_at.is_some());
        match order {
            Order::Start | Order::Restart { .. } if state == Waiting => {
                self.enter(name, Phase::Waiting(None))
            }
            Order::Resume if state == Paused => {
                self.enter(name, Phase::Waiting(has_begun.then_some(RestartReason::Requested)))
            }
            Order::Restart { .. } => {
                // A person decided to try again: what led here is forgiven.
                self.names[name].counted.clear();
                if let Some(task) = &mut self.names[name].task {
                    (task.attempt, task.retrying) = (0, false);
                }
                self.enter(name, Phase::Waiting(Some(RestartReason::Requested)))
            }
            Order::Stop if matches!(state, Waiting | Paused) || is_tried_again => self.rest(name, Stopped),
            Order::Pause if state == Waiting || is_tried_again => self.rest(name, Paused),
            Order::Leave => self.leave(name),
            _ => true,
        }
    }

    /// What an order makes of a start that is still to come.
    fn calls_off(&mut self, name: usize, order: Order) -> bool {
        match order {
            Order::Stop => self.rest(name, TaskState::Stopped),
            Order::Pause => self.rest(name, TaskState::Paused),
            Order::Leave => self.leave(name),
            _ => true,
        }
    }

    fn leave(&mut self, name: usize) -> bool {
        if let Some(Task { replacement: Some(spec), .. }) = self.names[name].task.take() {
            self.register(name, spec);
        }
        true
    }

    fn may_begin(&self, name: usize) -> bool {
        let dependencies = self.names[name].task.iter().flat_map(|task| &task.spec.dependencies);
        dependencies.into_iter().all(|dependency| self.is_ready(*dependency)) && !self.is_held_up(name)
    }

    fn begin(&mut self, name: usize, reason: Option<RestartReason>) -> bool {
        let now = self.now;
        let tasks = &self.names;
        let Some(task) = &tasks[name].task else { return false };
        let rests_on = |dependency: &usize| {
            let held = tasks[*dependency].task.as_ref()?;
            Some((*dependency, held.number, held.generation))
        };
        let rests_on = task.spec.dependencies.iter().filter_map(rests_on).collect();
        let never_ready = tasks[name].never_ready;
        let Name { task: Some(task), figures, counted, .. } = &mut self.names[name] else { return false };
        task.generation += 1;
        figures.begun += 1;
        if let Some(reason) = reason {
            figures.restarts[index_of(reason)] += 1;
            task.last_restart = Some(now);
            use RestartReason::{Dependency, Group, Requested, Retry};
            if !matches!(reason, Requested | Group | Dependency | Retry) {
                counted.push(now);
            }
        }
        task.phase = Phase::Living(Life {
            ready: !task.spec.says_ready || !never_ready,
            ready_by: task.spec.says_ready.then_some(now + START_TIMEOUT),
            rests_on,
            inbox: Vec::new(),
            beating: task.spec.beats,
            last_beat: now,
            stall_told: false,
            restart_at: None,
            stopping: None,
        });
        true
    }

    fn hears_alive(&mut self, name: usize, order: Order) -> bool {
        let now = self.now;
        let Some(Task { phase: Phase::Living(life), .. }) = &mut self.names[name].task else { return false };
        let stopping = life.stopping;
        let then = match order {
            // It leaves already.
            _ if stopping.is_some_and(|(then, _)| then == Then::Gone) => return true,
            Order::StalledRestart | Order::GiveUp if stopping.is_some() => return true,
            // It takes back a pause that is under way, and nothing else.
            Order::Resume if stopping.is_some_and(|(then, _)| then == Then::Paused) => {
                Then::Restart(RestartReason::Requested)
            }
            Order::Start | Order::Resume => return true,
            Order::Restart { after } if after > 0 && stopping.is_none() => {
                life.restart_at.get_or_insert(now + after);
                return true;
            }
            Order::Restart { .. } => Then::Restart(RestartReason::Requested),
            Order::StalledRestart => Then::Restart(RestartReason::Stalled),
            Order::GiveUp => Then::Failed,
            Order::Stop => Then::Stopped,
            Order::Pause => Then::Paused,
            Order::Leave => Then::Gone,
        };
        // The same stop for another reason: the grace goes on.
        life.stopping = Some((then, stopping.and_then(|(_, asked)| asked)));
        true
    }

    /// What a life does without being told.
    fn lives(&mut self, name: usize) -> bool {
        let (now, lost, held_up) = (self.now, self.has_lost(name), self.is_held_up(name));
        let Some(Task { spec, phase: Phase::Living(life), .. }) = &mut self.names[name].task else {
            return false;
        };
        match life.stopping {
            None if lost => {
                let stays_down = spec.loss == DependencyLoss::Stop;
                let then = Then::Restart(RestartReason::Dependency);
                life.stopping = Some((if stays_down { Then::Stopped } else { then }, None));
                return true;
            }
            Some((then, None)) if !held_up => {
                life.stopping = Some((then, Some(now)));
                return true;
            }
            _ => {}
        }
        let asked = life.stopping.and_then(|(_, asked)| asked);
        if asked.is_some_and(|asked| now >= asked + GRACE) {
            return self.end(name, ExitKind::Cancellation, false);
        }
        if life.stopping.is_none() {
            if life.restart_at.is_some_and(|at| now >= at) {
                life.stopping = Some((Then::Restart(RestartReason::Requested), None));
                return true;
            }
            if spec.beats && !life.stall_told && now >= life.last_beat + HEARTBEAT_TIMEOUT {
                life.stall_told = true;
                let order = match spec.on_stall {
                    StallAction::Restart => Some(Order::StalledRestart),
                    StallAction::Escalate => Some(Order::GiveUp),
                    _ => None,
                };
                self.names[name].figures.stalls += 1;
                order.into_iter().for_each(|order| self.order(name, order));
                return true;
            }
        }
        // The body.
        if !life.inbox.is_empty() {
            let (exit, permanent) = match life.inbox.remove(0) {
                Fault::Silent => {
                    life.beating = false;
                    return true;
                }
                Fault::Ok => (ExitKind::Success, false),
                Fault::Transient => (ExitKind::Failure, false),
                Fault::Permanent => (ExitKind::Failure, true),
                Fault::Panic => (ExitKind::Panic, false),
            };
            return self.end(name, exit, permanent);
        }
        if life.beating && now >= life.last_beat + BEAT {
            life.last_beat = now;
            return true;
        }
        let ends = match (spec.body, asked) {
            (_, None) | (Body::Deaf, _) => false,
            (Body::Obedient, Some(_)) => true,
            (Body::Slow, Some(asked)) => now >= asked + SLOWNESS,
        };
        if ends {
            return self.end(name, ExitKind::Success, false);
        }
        if !life.ready && life.ready_by.is_some_and(|by| now >= by) {
            return self.end(name, ExitKind::Timeout, false);
        }
        false
    }

    /// What follows a life.
    fn end(&mut self, name: usize, exit: ExitKind, permanent: bool) -> bool {
        let exit_index = ExitKind::ALL.iter().position(|kind| *kind == exit).expect("a known kind");
        self.names[name].figures.exits[exit_index] += 1;
        let now = self.now;
        let was_retrying = self.names[name].task.as_ref().is_some_and(|task| task.retrying);
        let limit_reached = was_retrying || self.limit_reached(name);
        let mut for_good = permanent;
        let Some(Task { spec, attempt, phase: Phase::Living(life), .. }) = &mut self.names[name].task else {
            return false;
        };
        let then = life.stopping.map(|(then, _)| then);
        let next = match (then, life.restart_at) {
            (Some(Then::Gone), _) => return self.leave(name),
            (Some(Then::Stopped), _) => Phase::Rest(TaskState::Stopped),
            (Some(Then::Paused), _) => Phase::Rest(TaskState::Paused),
            (Some(Then::Failed), _) => Phase::Rest(TaskState::Failed),
            (Some(Then::Restart(RestartReason::Stalled)), _)
                if limit_reached || spec.policy == RestartPolicy::Never =>
            {
                Phase::Rest(TaskState::Failed)
            }
            (Some(Then::Restart(reason)), _) => Phase::Waiting(Some(reason)),
            // Promised to whoever asked for it.
            (None, Some(until)) => Phase::BackingOff { until, reason: RestartReason::Requested },
            (None, None) => {
                let reason = match exit {
                    ExitKind::Success => RestartReason::Finished,
                    ExitKind::Panic => RestartReason::Panic,
                    ExitKind::Timeout => RestartReason::Timeout,
                    _ => RestartReason::Failure,
                };
                match (spec.policy, exit) {
                    (RestartPolicy::OnFailure | RestartPolicy::Never, ExitKind::Success) => {
                        Phase::Rest(TaskState::Finished)
                    }
                    (RestartPolicy::Never, _) => Phase::Rest(TaskState::Failed),
                    _ if permanent || limit_reached => Phase::Rest(TaskState::Failed),
                    _ => {
                        let delay = (FIRST_DELAY << (*attempt).min(8)).min(LONGEST_DELAY);
                        *attempt += 1;
                        Phase::BackingOff { until: now + delay, reason }
                    }
                }
            }
        };
        let given_up = matches!(next, Phase::Rest(TaskState::Failed));
        let succeeded = matches!(next, Phase::Rest(TaskState::Finished));
        for_good |= spec.policy == RestartPolicy::Never;
        let retries = given_up && spec.retries && !for_good;
        self.names[name].figures.given_up += u64::from(given_up && !(retries && was_retrying));
        self.enter(name, next);
        let Name { task: Some(task), counted, .. } = &mut self.names[name] else { return true };
        if succeeded && task.has_failed {
            counted.clear();
            (task.attempt, task.has_failed, task.retrying) = (0, false, false);
        }
        if given_up {
            task.has_failed = true;
            task.retrying = retries;
            task.retry_at = retries.then_some(now + RETRY_INTERVAL);
        }
        true
    }
}

impl Task {
    fn state(&self) -> TaskState {
        match &self.phase {
            Phase::Rest(state) => *state,
            Phase::BackingOff { .. } => TaskState::Backoff,
            Phase::Waiting(_) => TaskState::Waiting,
            Phase::Living(life) if life.stopping.is_some() => TaskState::Stopping,
            Phase::Living(_) => TaskState::Running,
        }
    }
}

pub(crate) fn index_of(reason: RestartReason) -> usize {
    RestartReason::ALL.iter().position(|known| *known == reason).expect("a known reason")
}
