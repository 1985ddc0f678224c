//! A registered task exports the series that can occur for its settings. Each collection has them, from the first on.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex},
};

use otel_tasks::{
    CriticalTaskConfig, LoopHandle, RestartPolicy, TaskContext, TaskFamily, TaskGroup, TaskLoop, TaskManager,
    policy::{DependencyLoss, ErrorClass, Escalation, GiveUp, RestartReason, RestartStrategy, StallAction},
};
use proptest::{prelude::*, sample::select};

use crate::support::{Door, metrics::Metrics, millis, secs, settle};

async fn until_cancelled(ctx: TaskContext) {
    ctx.cancelled().await;
}

fn task(name: &str) -> CriticalTaskConfig {
    CriticalTaskConfig::new(name, until_cancelled)
}

fn ticking(name: &str) -> CriticalTaskConfig {
    CriticalTaskConfig::from_loop(name, TaskLoop::every(secs(60), |_| async {}))
}

struct Series {
    metrics: Metrics,
    tasks: TaskManager,
}

impl Series {
    fn new() -> Self {
        let metrics = Metrics::new();
        let tasks = TaskManager::builder().meter(metrics.meter()).build().unwrap();
        Self { metrics, tasks }
    }

    /// The exported values of a name that depend on its settings: states, reasons, and instruments without either.
    fn of(&self, name: &str) -> BTreeSet<String> {
        let points = self.metrics.collect();
        let of_name = points
            .0
            .iter()
            .filter(|point| point.attributes.get("task.name").is_some_and(|held| held == name));
        let series = of_name.filter_map(|point| match point.instrument.as_str() {
            "task.restarts" => Some(point.attributes["task.restart.reason"].clone()),
            "task.status" => Some(format!("is {}", point.attributes["task.state"])),
            "task.iterations.skipped" => Some(format!("skipped {}", point.attributes["reason"])),
            instrument @ ("task.stalls" | "task.iterations.retried") => Some(instrument.to_owned()),
            _ => None,
        });
        series.collect()
    }

    /// Returns what `of` returns for a task with these settings.
    fn registered(config: CriticalTaskConfig) -> BTreeSet<String> {
        let series = Self::new();
        series.tasks.register_all([task("other"), config]).expect("registered");
        series.of("t")
    }
}

const STATES: [&str; 7] =
    ["is waiting", "is running", "is backoff", "is stopping", "is failed", "is stopped", "is paused"];

/// The states of each task, and these.
fn with<'a>(more: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    STATES.into_iter().chain(more).map(str::to_owned).collect()
}

const PLAIN: [&str; 5] = ["failure", "panic", "finished", "requested", "retry"];

#[tokio::test(start_paused = true)]
async fn series_that_cannot_occur_for_a_task_are_left_out() {
    let one_shot = || CriticalTaskConfig::one_shot("t", |_| async {});
    let restart = |loss| task("t").depends_on("other").on_dependency_loss(loss);
    let stalls = |action| task("t").heartbeat_timeout(secs(30)).on_stall(action);
    let ended = ["failure", "panic", "requested", "retry", "is finished"];
    let looped = ["skipped missed", "skipped overlapped", "task.iterations.retried"];
    for (settings, config, more) in [
        ("none", task("t"), &[][..]),
        ("a gate", task("t").gate(Door::new()), &["is standby"]),
        ("a run timeout", task("t").run_timeout(secs(9)), &["timeout"]),
        ("a start timeout", task("t").start_timeout(secs(9)), &["timeout"]),
        ("a heartbeat", stalls(StallAction::Restart), &["stalled", "task.stalls"]),
        ("a reported stall", stalls(StallAction::Report), &["task.stalls"]),
        ("a poll timeout", task("t").poll_timeout(secs(9)), &["stalled", "task.stalls"]),
        ("a stall that gives up", stalls(StallAction::Escalate), &["task.stalls"]),
        ("a dependency", restart(DependencyLoss::Restart), &["dependency"]),
        ("a dependency that is kept", restart(DependencyLoss::Keep), &[]),
        ("a dependency that stops it", restart(DependencyLoss::Stop), &[]),
    ] {
        assert_eq!(Series::registered(config), with(PLAIN.iter().chain(more).copied()), "{settings}");
    }
    assert_eq!(Series::registered(one_shot()), with(ended));
    assert_eq!(Series::registered(ticking("t")), with(ended.into_iter().chain(looped)));
    let always = ticking("t").restart_policy(RestartPolicy::Always);
    assert_eq!(
        Series::registered(always),
        with(ended.into_iter().chain(looped).chain(["finished"])),
        "under each policy, its handle finishes it"
    );
    let never = one_shot().restart_policy(RestartPolicy::Never).run_timeout(secs(9));
    let never = never.heartbeat_timeout(secs(30)).on_stall(StallAction::Restart);
    assert_eq!(Series::registered(never), with(["requested", "is finished", "task.stalls"]));
    let stays = task("t").give_up(GiveUp::ForGood);
    assert_eq!(Series::registered(stays), with(["failure", "panic", "finished", "requested"]));
    let gated = ticking("t").gate(Door::new());
    assert_eq!(Series::registered(gated), with(ended.into_iter().chain(looped).chain(["is standby"])));
}

#[tokio::test(start_paused = true)]
async fn only_a_member_that_its_group_restarts_has_the_series_of_that() {
    use RestartPolicy::{Always, Never, OnFailure};
    use RestartStrategy::{OneForAll, OneForOne, RestForOne};
    for (strategy, policy, is_restarted) in [
        (OneForOne, Always, false),
        (OneForOne, Never, false),
        (OneForAll, Always, true),
        (OneForAll, OnFailure, true),
        (OneForAll, Never, false),
        (RestForOne, Always, true),
        (RestForOne, Never, false),
    ] {
        let series = Series::new();
        let member = task("t").restart_policy(policy);
        let group = TaskGroup::new("g", strategy).task(task("first")).task(member);
        series.tasks.register_group(group).expect("registered");
        assert_eq!(series.of("t").contains("group"), is_restarted, "{strategy:?}, {policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn spawned_name_has_no_state_and_no_restart() {
    let series = Series::new();
    series.tasks.spawn("t", async {}).await.unwrap();
    assert_eq!(series.of("t"), BTreeSet::new());
    let snapshot = series.tasks.snapshot("t").unwrap();
    assert_eq!(snapshot.restarts_by_reason().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn series_appears_at_zero_once_it_can_occur_and_stays() {
    let series = Series::new();
    series.tasks.register(task("t")).expect("registered");
    series.tasks.start();
    settle().await;
    assert_eq!(series.of("t"), with(PLAIN));

    series.tasks.replace(task("t").gate(Door::new())).await.expect("replaced");
    assert_eq!(series.of("t"), with(PLAIN.into_iter().chain(["is standby"])));
    series.tasks.replace(task("t").heartbeat_timeout(secs(30))).await.expect("replaced");
    let so_far = with(PLAIN.into_iter().chain(["is standby", "stalled", "task.stalls"]));
    assert_eq!(series.of("t"), so_far, "also without the gate");
    let reasons = series.tasks.snapshot("t").unwrap();
    let reasons: Vec<_> = reasons.restarts_by_reason().collect();
    assert!(reasons.contains(&(RestartReason::Stalled, 0)), "the snapshot says the same: {reasons:?}");

    series.tasks.unregister("t").await.expect("registered");
    assert_eq!(series.of("t"), so_far, "also of a task that is gone");
    let group = TaskGroup::new("g", RestartStrategy::OneForAll)
        .task(task("t"))
        .task(task("u").on_dependency_loss(DependencyLoss::Restart));
    series.tasks.register_group(group).expect("registered");
    let mut in_group = so_far;
    in_group.insert("group".to_owned());
    assert_eq!(series.of("t"), in_group, "as soon as it is in a group");
    assert_eq!(series.of("u"), with(PLAIN.into_iter().chain(["group"])), "it has no dependency");
    let points = series.metrics.collect();
    assert_eq!(points.sum("task.restarts", &[]), 0.0);
}

#[tokio::test(start_paused = true)]
async fn family_exports_what_can_occur_for_its_members() {
    let series = Series::new();
    let family = TaskFamily::new("t", |ctx, _: u64| until_cancelled(ctx));
    let family = series.tasks.register_family(family.each(|config| config.run_timeout(secs(9)))).unwrap();
    family.ensure(1).expect("registered");
    assert_eq!(series.of("t"), with(PLAIN.into_iter().chain(["timeout"])));

    let series = Series::new();
    let family = TaskFamily::of("t", |_: &u64| ticking("").gate(Door::new()));
    series.tasks.register_family(family).unwrap().ensure(1).expect("registered");
    let of_loop = ["failure", "panic", "requested", "retry", "is finished", "is standby"];
    let of_loop =
        of_loop.into_iter().chain(["skipped missed", "skipped overlapped", "task.iterations.retried"]);
    assert_eq!(series.of("t"), with(of_loop));
}

/// What a run does.
#[derive(Debug, Clone, Copy)]
enum Act {
    Succeed,
    Fail,
    FailForGood,
    Panic,
    /// It is not ready, sends no heartbeat and passes each time limit.
    Hang,
    /// It is ready, and sends heartbeats until it is asked to stop.
    Serve,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Closure,
    OneShot,
    Loop,
}

#[derive(Debug, Clone)]
struct Settings {
    kind: Kind,
    policy: RestartPolicy,
    for_good: bool,
    escalates: bool,
    run_timeout: bool,
    start_timeout: bool,
    stalls: Option<StallAction>,
    gate: bool,
    loss: Option<DependencyLoss>,
    max_restarts: u32,
    /// Of the runs, in turn; then it serves.
    acts: Vec<Act>,
}

#[derive(Debug, Clone, Copy)]
enum Order {
    Restart,
    Stop,
    Pause,
    Resume,
    RunNow,
    FinishLoop,
    /// Lets a candidate in, for two seconds.
    OpenDoor,
    Pass(u64),
}

const NAMES: [&str; 3] = ["other", "t", "u"];

fn act() -> impl Strategy<Value = Act> {
    use Act::{Fail, FailForGood, Hang, Panic, Serve, Succeed};
    select(vec![Succeed, Fail, Fail, FailForGood, Panic, Hang, Hang, Serve])
}

fn settings() -> impl Strategy<Value = Settings> {
    let kind = select(vec![Kind::Closure, Kind::OneShot, Kind::Loop]);
    let policy = select(RestartPolicy::ALL.to_vec());
    let stalls = prop::option::of(select(StallAction::ALL.to_vec()));
    let loss = prop::option::of(select(DependencyLoss::ALL.to_vec()));
    let booleans = prop::array::uniform5(prop::bool::weighted(0.3));
    (kind, policy, stalls, loss, booleans, 0..3_u32, prop::collection::vec(act(), 0..6)).prop_map(
        |(kind, policy, stalls, loss, booleans, max_restarts, acts)| {
            let [for_good, escalates, run_timeout, start_timeout, gate] = booleans;
            Settings {
                kind,
                policy,
                for_good,
                escalates,
                run_timeout,
                start_timeout,
                stalls,
                gate,
                loss,
                max_restarts,
                acts,
            }
        },
    )
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![
        2 => Just(Order::Restart),
        1 => Just(Order::Stop),
        1 => Just(Order::Pause),
        1 => Just(Order::Resume),
        1 => Just(Order::RunNow),
        1 => Just(Order::FinishLoop),
        3 => Just(Order::OpenDoor),
        8 => (0..6_u64).prop_map(Order::Pass),
        1 => Just(Order::Pass(40)),
    ]
}

async fn run(ctx: TaskContext, acts: Arc<Mutex<VecDeque<Act>>>) -> Result<(), &'static str> {
    let act = acts.lock().unwrap().pop_front().unwrap_or(Act::Serve);
    match act {
        Act::Succeed => Ok(()),
        Act::Fail => Err("fails"),
        Act::FailForGood => Err("fails for good"),
        Act::Panic => std::panic::panic_any("panics"),
        Act::Hang => {
            ctx.cancelled().await;
            Ok(())
        }
        Act::Serve => {
            ctx.ready();
            let serve = async {
                loop {
                    ctx.heartbeat();
                    tokio::time::sleep(millis(500)).await;
                }
            };
            ctx.run_until_cancelled(serve).await;
            Ok(())
        }
    }
}

/// A task with these settings, with its loop and its gate.
fn config_of(name: &str, settings: &Settings) -> (CriticalTaskConfig, Option<LoopHandle>, Option<Door>) {
    let acts = Arc::new(Mutex::new(VecDeque::from(settings.acts.clone())));
    let mut config = match settings.kind {
        Kind::Closure => CriticalTaskConfig::new(name, move |ctx| run(ctx, acts.clone())),
        Kind::OneShot => CriticalTaskConfig::one_shot(name, move |ctx| run(ctx, acts.clone())),
        Kind::Loop => {
            CriticalTaskConfig::from_loop(name, TaskLoop::every(secs(1), move |ctx| run(ctx, acts.clone())))
        }
    };
    let handle = config.loop_handle();
    let door = settings.gate.then(Door::new);
    config = config
        .restart_policy(settings.policy)
        .max_restarts(settings.max_restarts, secs(60))
        .restart_delay(millis(100))
        .give_up(if settings.for_good { GiveUp::ForGood } else { GiveUp::RetryEvery(secs(5)) })
        .classify(|error: &&'static str| match *error {
            "fails for good" => ErrorClass::Permanent,
            _ => ErrorClass::Transient,
        });
    if settings.escalates {
        config = config.escalation(Escalation::Group);
    }
    if settings.run_timeout {
        config = config.run_timeout(secs(3));
    }
    if settings.start_timeout {
        config = config.start_timeout(secs(2));
    }
    if let Some(action) = settings.stalls {
        config = config.heartbeat_timeout(secs(2)).on_stall(action);
    }
    if let Some(door) = &door {
        config = config.gate(door.clone());
    }
    if let Some(loss) = settings.loss.filter(|_| name != "other") {
        config = config.depends_on("other").on_dependency_loss(loss);
    }
    (config, handle, door)
}

/// Returns the name and the series of the first that is not exported as it must be.
async fn history(
    strategy: Option<RestartStrategy>,
    all: &[Settings; 3],
    orders: &[(usize, Order)],
) -> Result<(), String> {
    let series = Series::new();
    let mut controls = Vec::new();
    let mut group = TaskGroup::new("g", strategy.unwrap_or_default());
    for (name, settings) in NAMES.into_iter().zip(all) {
        let (config, handle, door) = config_of(name, settings);
        controls.push((name, handle, door));
        match strategy {
            Some(_) if name != "other" => group = group.task(config),
            _ => series.tasks.register(config).map_err(|error| error.to_string())?,
        }
    }
    if strategy.is_some() {
        series.tasks.register_group(group).map_err(|error| error.to_string())?;
    }
    let first = NAMES.map(|name| series.of(name));
    series.tasks.start();
    let mut keepers = Vec::new();
    for (place, order) in orders {
        let (name, handle, door) = &controls[*place];
        // An order may come at a wrong time: then it is refused.
        match order {
            Order::Restart => _ = series.tasks.restart(name),
            Order::Stop => _ = series.tasks.stop(name),
            Order::Pause => _ = series.tasks.pause(name),
            Order::Resume => _ = series.tasks.resume(name),
            Order::RunNow => handle.iter().for_each(|handle| _ = handle.run_now()),
            Order::FinishLoop => handle.iter().for_each(LoopHandle::stop),
            Order::OpenDoor => {
                let door = door.iter().filter(|door| door.candidates() > 0);
                keepers.extend(door.map(|door| door.admit(1, secs(2), secs(1))));
            }
            Order::Pass(time) => tokio::time::sleep(secs(*time)).await,
        }
        settle().await;
    }
    let points = series.metrics.collect();
    for (name, first) in NAMES.iter().zip(first) {
        let of_name = [("task.name", *name)];
        let snapshot = series.tasks.snapshot(name).ok_or("it is registered")?;
        let mut counts = vec![("task.stalls".to_owned(), "", "", snapshot.stalls)];
        counts.push(("task.iterations.retried".to_owned(), "", "", snapshot.retries));
        for &reason in RestartReason::ALL {
            let count = snapshot.restarts(reason);
            counts.push((reason.to_string(), "task.restarts", "task.restart.reason", count));
        }
        if let Some(state) = snapshot.state {
            counts.push((format!("is {state}"), "task.status", "task.state", 1));
        }
        for (shown, instrument, key, count) in counts.into_iter().filter(|(.., count)| *count > 0) {
            if !first.contains(&shown) {
                return Err(format!("{shown:?} of {name} was not exported before it occurred"));
            }
            let exported = match key {
                "" => points.sum(&shown, &of_name),
                _ => points.sum(instrument, &[of_name[0], (key, shown.trim_start_matches("is "))]),
            };
            if exported != count as f64 {
                return Err(format!("{shown:?} of {name} is {count}, and exported as {exported}"));
            }
        }
        let last = series.of(name);
        if last != first {
            return Err(format!("{name} had {first:?}, and has {last:?}"));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// For any settings, and any history.
    #[test]
    fn series_that_occurs_was_exported_before(
        strategy in prop::option::of(select(RestartStrategy::ALL.to_vec())),
        all in prop::array::uniform3(settings()),
        orders in prop::collection::vec((0..NAMES.len(), order()), 1..25),
    ) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let kept = runtime.block_on(history(strategy, &all, &orders));
        prop_assert_eq!(kept, Ok(()));
    }
}
