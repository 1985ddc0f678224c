//! A registered task exports the series that can occur for its settings. Each collection has them, from the first on.

use std::collections::BTreeSet;

use otel_tasks::{
    CriticalTaskConfig, RestartPolicy, TaskContext, TaskFamily, TaskGroup, TaskLoop, TaskManager,
    policy::{DependencyLoss, GiveUp, RestartReason, RestartStrategy, StallAction},
};

use crate::support::{Door, metrics::Metrics, secs, settle};

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
