//! Groups: what must hold whatever happened, and, where one member fails in a group at rest, exactly what becomes of each.

use std::sync::{Arc, Mutex};

use otel_tasks::{
    RestartPolicy, TaskGroup, TaskManager,
    events::{TaskEvent, TaskEventKind},
    policy::{DependencyLoss, RestartReason, RestartStrategy, StallAction},
    shutdown::ShutdownOutcome,
    snapshot::{TaskSnapshot, TaskState},
};
use proptest::prelude::*;
use tokio::time::{Instant, sleep_until};

use super::{
    body, config, fault,
    model::{Command, Fault, Spec, index_of},
    policy,
    support::{millis, secs},
    twice,
    world::{Body, NAMES, Probe, Told, config as task_config, execute, hear, name, restarts_of},
};

/// After so long whatever a step has begun is over: the longest delay, and all members' graces.
const REST: u64 = 20;

#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) strategy: RestartStrategy,
    pub(super) limit: Option<u32>,
    pub(super) members: Vec<Spec>,
    pub(super) steps: Vec<(usize, Command, u64)>,
}

fn member() -> impl Strategy<Value = Spec> {
    (policy(), 0..4_u32, body(), prop::bool::weighted(0.4)).prop_map(|(policy, limit, body, says_ready)| {
        Spec {
            policy,
            limit,
            window: 60_500,
            body,
            dependencies: Vec::new(),
            loss: DependencyLoss::Keep,
            says_ready,
            beats: false,
            on_stall: StallAction::Restart,
            retries: false,
        }
    })
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        8 => fault().prop_map(Command::Fault),
        2 => Just(Command::Stop),
        3 => Just(Command::Restart),
        1 => Just(Command::Pause),
        2 => Just(Command::Resume),
        1 => Just(Command::Unregister),
        1 => prop::bool::weighted(0.3).prop_map(Command::NeverReady),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let strategy = prop_oneof![
        1 => Just(RestartStrategy::OneForOne),
        2 => Just(RestartStrategy::OneForAll),
        2 => Just(RestartStrategy::RestForOne),
    ];
    // Most steps find the group at rest, some in the midst of something.
    let pass = prop_oneof![3 => Just(REST), 1 => Just(1), 1 => Just(0)];
    let steps = prop::collection::vec((0..NAMES, command(), pass), 1..20);
    (strategy, prop::option::weighted(0.3, 1..4_u32), prop::collection::vec(member(), 2..=NAMES), steps)
        .prop_map(|(strategy, limit, members, mut steps)| {
            steps.iter_mut().for_each(|(member, ..)| *member %= members.len());
            Case { strategy, limit, members, steps }
        })
}

proptest! {
    #![proptest_config(config(25))]

    /// Seen to fail in the last way of `shown`.
    #[test]
    fn groups_keep_their_order_and_restart_together(case in case()) {
        twice(&case, || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(drive(&case))
        })?;
    }
}

/// Drives one case of members that are restarted when they fail.
fn drive_one(
    strategy: RestartStrategy,
    members: &[(u32, Body)],
    steps: &[(usize, Command, u64)],
) -> Result<(), String> {
    let member = |&(limit, body)| Spec {
        policy: RestartPolicy::OnFailure,
        limit,
        window: 60_500,
        body,
        dependencies: Vec::new(),
        loss: DependencyLoss::Keep,
        says_ready: false,
        beats: false,
        on_stall: StallAction::Restart,
        retries: false,
    };
    let case =
        Case { strategy, limit: None, members: members.iter().map(member).collect(), steps: steps.to_vec() };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(drive(&case))
}

/// A member is paused while a later one that it waits for still goes down, and between them is one that stays up.
// Fails where the one that goes down lets only the nearest look: the pause was carried out half a minute later, or by the
// shutdown, before those that come after it.
#[test]
fn a_pause_that_was_held_up_is_carried_out_when_nothing_holds_it_up() {
    let members = [(0, Body::Obedient), (0, Body::Obedient), (0, Body::Slow), (2, Body::Slow)];
    let steps = [(3, Command::Restart, 1), (1, Command::Pause, REST)];
    assert_eq!(drive_one(RestartStrategy::RestForOne, &members, &steps), Ok(()));
}

/// A member is stopped while the last one still goes down, and then everything is: also one between them, which goes first.
// Fails where a stop that was held up is carried out during a shutdown as soon as nothing holds it up, and not in its stage.
#[test]
fn a_stop_that_was_held_up_when_a_shutdown_begins_keeps_the_groups_order() {
    let members = [(0, Body::Obedient), (0, Body::Obedient), (0, Body::Slow)];
    let steps = [(2, Command::Restart, 1), (0, Command::Stop, 0)];
    assert_eq!(drive_one(RestartStrategy::RestForOne, &members, &steps), Ok(()));
}

/// The same of one that is to leave for good. Fails where that is taken for the shutdown's own word.
#[test]
fn a_member_that_was_to_be_unregistered_when_a_shutdown_begins_keeps_the_groups_order() {
    let members = [(0, Body::Obedient), (0, Body::Obedient), (1, Body::Obedient), (0, Body::Slow)];
    let steps = [(2, Command::Fault(Fault::Transient), 1), (1, Command::Unregister, 0)];
    assert_eq!(drive_one(RestartStrategy::OneForAll, &members, &steps), Ok(()));
}

/// A run that was asked to stop, and the later members that were alive then.
#[derive(Debug)]
struct Asked {
    member: usize,
    run: usize,
    later: Vec<usize>,
}

/// What the events say of a member.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Seen {
    NotBegun,
    Begun,
    Ready,
    Ended,
    Rests(TaskState),
    Gone,
}

struct Group<'a> {
    case: &'a Case,
    tasks: TaskManager,
    probes: Vec<Probe>,
    seen: Vec<Seen>,
    told: Vec<Told>,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// The runs that went down because of the group.
    yielded: Vec<(usize, u64)>,
}

pub(super) async fn drive(case: &Case) -> Result<(), String> {
    let tasks = TaskManager::builder().shutdown_deadline(secs(300)).build().unwrap();
    let mut events = tasks.subscribe();
    let probes: Vec<_> = (0..NAMES).map(|_| Probe::default()).collect();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let mut group = TaskGroup::new("group", case.strategy);
    if let Some(limit) = case.limit {
        group = group.max_restarts(limit, millis(60_500));
    }
    for (member, spec) in case.members.iter().enumerate() {
        let (asked, all) = (asked.clone(), probes.clone());
        let note = move || {
            let later = (member + 1..NAMES).filter(|later| all[*later].alive.now() > 0).collect();
            asked.lock().unwrap().push(Asked { member, run: all[member].alive.total(), later });
        };
        group = group.task(task_config(member, spec, &probes[member], note));
    }
    tasks.register_group(group).expect("a valid group");
    tasks.start();
    let size = case.members.len();
    let mut group = Group {
        case,
        tasks,
        probes,
        seen: vec![Seen::NotBegun; size],
        told: vec![Told::default(); NAMES],
        asked,
        yielded: Vec::new(),
    };
    let mut now = Instant::now() + secs(REST);
    sleep_until(now).await;
    group.check(&mut events)?;
    let mut rested = true;
    for (number, (member, command, seconds)) in case.steps.iter().enumerate() {
        let failed = |what: String| format!("step {number}, t{member} {command:?}: {what}");
        let before = group.snapshots();
        let predicts = rested && *seconds == REST && group.is_at_rest(&before);
        execute(&group.tasks, *member, command, &group.probes[*member]);
        rested = *seconds == REST;
        now += secs(*seconds);
        sleep_until(now).await;
        group.check(&mut events).map_err(failed)?;
        if let (true, Command::Fault(fault)) = (predicts, command) {
            group.restarted(*member, *fault, &before).map_err(failed)?;
        }
    }
    // What was asked for by hand at last is under way, and nothing else new.
    sleep_until(now + millis(1)).await;
    group.check(&mut events)?;
    group.shut_down(&mut events).await
}

impl Group<'_> {
    /// `None` for a member that is no longer registered.
    fn snapshots(&self) -> Vec<Option<TaskSnapshot>> {
        let of = |member| self.tasks.snapshot(&name(member)).filter(|snapshot| snapshot.state.is_some());
        (0..self.case.members.len()).map(of).collect()
    }

    /// What must hold at any time.
    fn check(&mut self, events: &mut otel_tasks::events::TaskEvents) -> Result<(), String> {
        let Self { case, seen, yielded, .. } = self;
        hear(events, &mut self.told, &self.probes, |member, event| {
            follow(case, seen, yielded, member, event)
        })?;
        for asked in self.asked.lock().unwrap().drain(..) {
            let for_the_group = self.yielded.contains(&(asked.member, asked.run as u64));
            if for_the_group && !asked.later.is_empty() {
                return Err(format!("{asked:?}: it goes down before later ones"));
            }
        }
        for member in 0..self.case.members.len() {
            let (probe, told) = (&self.probes[member], &self.told[member]);
            let (begun, alive) = (probe.alive.total() as u64, probe.alive.now() as u64);
            let runs = self.tasks.snapshot(&name(member)).map_or(0, |snapshot| snapshot.total_runs());
            if probe.alive.most() > 1 || told.exits + alive != begun || runs != told.exits {
                let exits = told.exits;
                return Err(format!("t{member}: {begun} begun, {exits} told, {runs} counted, {alive} alive"));
            }
        }
        Ok(())
    }

    /// Whether nothing is under way, and nobody was given up.
    fn is_at_rest(&self, snapshots: &[Option<TaskSnapshot>]) -> bool {
        let ready =
            |member: usize| self.tasks.task_health(&name(member)).is_some_and(|health| health.is_ready);
        snapshots.iter().enumerate().all(|(member, snapshot)| {
            use TaskState::{Finished, Paused, Running, Stopped};
            match snapshot.as_ref().and_then(|snapshot| snapshot.state) {
                Some(Running) => ready(member),
                state => matches!(state, None | Some(Stopped | Paused | Finished)),
            }
        }) && !self.probes.iter().any(|probe| probe.never_ready.load(std::sync::atomic::Ordering::SeqCst))
    }

    /// A member failed when the group was at rest, and so it is again: it and those it takes along have begun anew, once.
    fn restarted(&self, failed: usize, fault: Fault, before: &[Option<TaskSnapshot>]) -> Result<(), String> {
        let reason = match fault {
            Fault::Transient => RestartReason::Failure,
            Fault::Panic => RestartReason::Panic,
            _ => return Ok(()),
        };
        let ran = before[failed].as_ref().is_some_and(|before| before.state == Some(TaskState::Running));
        let after = self.snapshots();
        let given_up = after[failed].as_ref().is_some_and(|after| after.state == Some(TaskState::Failed));
        let never = |member: usize| self.case.members[member].policy == RestartPolicy::Never;
        for (member, (before, after)) in before.iter().zip(&after).enumerate() {
            let (Some(before), Some(after)) = (before, after) else { continue };
            let taken_along = ran
                && member != failed
                && !(given_up && never(failed))
                && match self.case.strategy {
                    RestartStrategy::OneForAll => true,
                    RestartStrategy::RestForOne => member > failed,
                    _ => false,
                };
            use TaskState::{Failed, Finished, Running, Stopped, Waiting};
            let (state, why) = match before.state {
                _ if member == failed && ran && given_up => (Failed, None),
                _ if member == failed && ran => (Running, Some(reason)),
                Some(Running) if taken_along && never(member) => (Stopped, None),
                Some(Running) if taken_along && given_up => (Waiting, None),
                Some(Finished) if taken_along && given_up && !never(member) => (Waiting, None),
                Some(Running) if taken_along => (Running, Some(RestartReason::Group)),
                Some(Finished) if taken_along && !never(member) => (Running, Some(RestartReason::Group)),
                state => (state.unwrap_or(Stopped), None),
            };
            let mut restarts = restarts_of(before);
            if let Some(why) = why {
                restarts[index_of(why)] += 1;
            }
            if (after.state, restarts_of(after)) != (Some(state), restarts) {
                return Err(format!(
                    "t{member} was {:?} and is {:?} with restarts {:?}, not {state:?} with {restarts:?}",
                    before.state,
                    after.state,
                    restarts_of(after),
                ));
            }
        }
        Ok(())
    }

    async fn shut_down(mut self, events: &mut otel_tasks::events::TaskEvents) -> Result<(), String> {
        let up: Vec<_> = self.probes.iter().map(|probe| probe.alive.now() > 0).collect();
        let before = self.snapshots();
        let report = self.tasks.shutdown().await;
        if let Some(asked) = self.asked.lock().unwrap().iter().find(|asked| !asked.later.is_empty()) {
            return Err(format!("{asked:?}: at shutdown it goes down before later ones"));
        }
        self.check(events)?;
        for (member, spec) in self.case.members.iter().enumerate() {
            let lines: Vec<_> = report.tasks.iter().filter(|line| *line.name == *name(member)).collect();
            let fits = match (&lines[..], up[member]) {
                ([], _) => before[member].is_none(),
                ([line], false) => line.outcome == ShutdownOutcome::NotRunning,
                // A run that is not ready may pass its start timeout first.
                ([line], true) if spec.body == Body::Deaf && line.outcome == ShutdownOutcome::Clean => {
                    spec.says_ready
                }
                ([line], true) => {
                    (line.outcome == ShutdownOutcome::Aborted) == (spec.body == Body::Deaf)
                        && line.outcome != ShutdownOutcome::NotRunning
                }
                _ => false,
            };
            if !fits || self.probes[member].alive.now() > 0 {
                return Err(format!("t{member}: {lines:?} in the report, up: {}", up[member]));
            }
        }
        Ok(())
    }
}

/// Members begin in order.
fn follow(
    case: &Case,
    seen: &mut [Seen],
    yielded: &mut Vec<(usize, u64)>,
    member: usize,
    event: &TaskEvent,
) -> Result<(), String> {
    seen[member] = match event.kind {
        TaskEventKind::Started { .. } => {
            let in_order = case.strategy != RestartStrategy::OneForOne || event.generation == 1;
            let holds_up = |before: &usize| match seen[*before] {
                Seen::Ready | Seen::Gone => false,
                Seen::Rests(TaskState::Failed) => case.members[*before].policy != RestartPolicy::Never,
                Seen::Rests(_) => false,
                Seen::NotBegun | Seen::Begun | Seen::Ended => true,
            };
            if let Some(before) = (0..member).filter(|_| in_order).find(holds_up) {
                return Err(format!("t{member} begins while t{before} has {:?}", seen[before]));
            }
            Seen::Begun
        }
        TaskEventKind::Ready => Seen::Ready,
        TaskEventKind::Exited { .. } => Seen::Ended,
        TaskEventKind::Finished => Seen::Rests(TaskState::Finished),
        TaskEventKind::Stopped => Seen::Rests(TaskState::Stopped),
        TaskEventKind::Paused => Seen::Rests(TaskState::Paused),
        TaskEventKind::GaveUp { .. } => Seen::Rests(TaskState::Failed),
        TaskEventKind::Unregistered => Seen::Gone,
        TaskEventKind::Yielding { reason: RestartReason::Group, .. } => {
            yielded.push((member, event.generation));
            return Ok(());
        }
        _ => return Ok(()),
    };
    Ok(())
}
