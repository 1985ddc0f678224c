//! Random commands and faults, against a model: what every task's state and figures must be after each step, when
//! everything has settled.
//!
//! The model ([`model`]) is a plain sequential state machine in whole milliseconds, written from the documentation. It
//! predicts single tasks and tasks with dependencies exactly. Groups are tried too ([`groups`]), there against what must
//! hold whatever happened, and exactly where one member fails in a group at rest.
//!
//! Where a case fails its smallest form is printed, with the line for `tests/model.regressions`: that file is committed with
//! the fix, its cases are tried first, and a line leaves it when the strategies have changed so that it means another case.
//! What such a case has shown is written as a test of its own (at the end), which does not depend on the strategies.

#[path = "../support/mod.rs"]
mod support;

mod groups;
mod hangs;
mod model;
mod world;

use std::fmt::Debug;

use model::{Command, Fault, Spec, Step};
use otel_tasks::{
    RestartPolicy,
    policy::{DependencyLoss, StallAction},
};
use proptest::{
    prelude::*,
    test_runner::{Config, FileFailurePersistence, TestCaseError},
};
use world::Body;

/// Cases of all tests together; `PROPTEST_CASES` sets another number.
const CASES: u32 = 10_000;

pub(crate) fn config(share: u32) -> Config {
    let mut config = Config::default();
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES * share / 100;
    }
    config.failure_persistence = Some(Box::new(FileFailurePersistence::Direct("tests/model.regressions")));
    config
}

pub(crate) fn policy() -> impl Strategy<Value = RestartPolicy> {
    prop_oneof![
        3 => Just(RestartPolicy::OnFailure),
        2 => Just(RestartPolicy::Always),
        1 => Just(RestartPolicy::Never),
    ]
}

pub(crate) fn body() -> impl Strategy<Value = Body> {
    prop_oneof![4 => Just(Body::Obedient), 1 => Just(Body::Slow), 1 => Just(Body::Deaf)]
}

pub(crate) fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        2 => Just(Fault::Ok),
        4 => Just(Fault::Transient),
        1 => Just(Fault::Permanent),
        2 => Just(Fault::Panic),
        2 => Just(Fault::Silent),
    ]
}

/// A task that depends on some of those before it.
fn spec(task: usize, linked: bool) -> impl Strategy<Value = Spec> {
    let loss =
        prop_oneof![Just(DependencyLoss::Keep), Just(DependencyLoss::Stop), Just(DependencyLoss::Restart)];
    let stall = prop_oneof![
        1 => Just(StallAction::Report),
        2 => Just(StallAction::Restart),
        1 => Just(StallAction::Escalate),
    ];
    let dependencies = prop::collection::vec(prop::bool::weighted(0.5), if linked { task } else { 0 });
    (
        (policy(), 0..4_u32, prop::bool::ANY, body()),
        (dependencies, loss, prop::bool::weighted(0.3), prop::bool::weighted(0.25), stall),
        prop::bool::ANY,
    )
        .prop_map(
            |(
                (policy, limit, long_window, body),
                (dependencies, loss, says_ready, beats, on_stall),
                retries,
            )| Spec {
                policy,
                limit,
                window: if long_window { 60_500 } else { 10_500 },
                body,
                dependencies: (0..).zip(dependencies).filter(|(_, on)| *on).map(|(task, _)| task).collect(),
                loss,
                says_ready,
                beats,
                on_stall,
                retries,
            },
        )
}

fn command(task: usize, linked: bool) -> impl Strategy<Value = Command> {
    prop_oneof![
        3 => spec(task, linked).prop_map(Command::Register),
        1 => Just(Command::Start),
        2 => Just(Command::Stop),
        3 => Just(Command::Restart),
        1 => Just(Command::Pause),
        2 => Just(Command::Resume),
        1 => Just(Command::Unregister),
        1 => spec(task, linked).prop_map(Command::Replace),
        8 => fault().prop_map(Command::Fault),
        1 => prop::bool::ANY.prop_map(Command::NeverReady),
    ]
}

/// What is done to one task at one moment, and how many seconds pass then. Two tasks are never told something at the same
/// moment: who is heard first is nobody's promise.
fn step(tasks: usize, linked: bool) -> impl Strategy<Value = Step> {
    (0..tasks).prop_flat_map(move |task| {
        let pass = prop_oneof![4 => Just(1_u64), 1 => Just(2), 1 => Just(4)];
        (prop::collection::vec(command(task, linked), 1..=2), pass)
            .prop_map(move |(commands, seconds)| Step { task, commands, seconds })
    })
}

/// Some tasks are there from the beginning, so that the case does something.
fn case(tasks: usize, linked: bool) -> impl Strategy<Value = Vec<Step>> {
    let registered: Vec<_> = (0..tasks)
        .map(|task| {
            spec(task, linked).prop_map(move |spec| Step {
                task,
                commands: vec![Command::Register(spec)],
                seconds: 1,
            })
        })
        .collect();
    (registered, prop::collection::vec(step(tasks, linked), 1..24)).prop_map(|(mut steps, more)| {
        steps.push(Step { task: 0, commands: vec![Command::Start], seconds: 1 });
        steps.extend(more);
        steps
    })
}

/// A case that fails has failed twice. Cases run in virtual time and do the same again, but for one thing: the watchdog is a
/// real thread. On a loaded machine it can be held up in the midst of a stage's stop, and virtual time leaps past that stage's
/// share meanwhile; or it does not come by for a second, and silence is put down to the process.
pub(crate) fn twice(case: &impl Debug, run: impl Fn() -> Result<(), String>) -> Result<(), TestCaseError> {
    let _watched = hangs::watch(case);
    run()
        .or_else(|first| run().inspect(|()| eprintln!("only once, on a loaded machine: {first}\n{case:?}")))
        .map_err(TestCaseError::fail)
}

proptest! {
    #![proptest_config(config(25))]

    /// Seen to fail where the restart limit is off by one.
    #[test]
    fn single_tasks_follow_the_model(steps in case(2, false)) {
        twice(&steps, || world::run(&steps))?;
    }
}

proptest! {
    #![proptest_config(config(50))]

    /// Seen to fail in the first four ways of [`shown`].
    #[test]
    fn tasks_with_dependencies_follow_the_model(steps in case(4, true)) {
        twice(&steps, || world::run(&steps))?;
    }
}

proptest! {
    #![proptest_config(config(50))]

    /// A model that depends on it would require of the engine an order that is not documented. Seen to fail where the grace of
    /// one task ends at the moment at which another restarts.
    #[test]
    fn the_model_does_not_depend_on_the_order_of_its_tasks(steps in case(4, true)) {
        world::is_same_in_both_orders(&steps).map_err(TestCaseError::fail)?;
    }
}

mod shown {
    //! What random cases have shown, by hand.

    use DependencyLoss::{Keep, Stop};
    use RestartPolicy::OnFailure;
    use otel_tasks::policy::RestartStrategy;
    use world::Body::{Deaf, Obedient, Slow};

    use super::*;

    fn spec(body: Body) -> Spec {
        Spec {
            policy: OnFailure,
            limit: 1,
            window: 60_500,
            body,
            dependencies: Vec::new(),
            loss: Keep,
            says_ready: false,
            beats: false,
            on_stall: StallAction::Restart,
            retries: false,
        }
    }

    fn on<const N: usize>(dependencies: [usize; N], loss: DependencyLoss, body: Body) -> Spec {
        Spec { dependencies: dependencies.into(), loss, ..spec(body) }
    }

    /// Registers the tasks, starts them, and gives these commands, one a second.
    #[track_caller]
    fn holds<const T: usize, const C: usize>(tasks: [Spec; T], commands: [(usize, Command); C]) {
        let register = tasks.into_iter().map(Command::Register).enumerate();
        let steps: Vec<_> = register
            .chain([(0, Command::Start)])
            .chain(commands)
            .map(|(task, command)| Step { task, commands: vec![command], seconds: 1 })
            .collect();
        let _watched = hangs::watch(&steps);
        world::run(&steps).unwrap_or_else(|what| panic!("{what}"));
    }

    /// It began, had to go down, and began, within one poll and for ever.
    #[test]
    fn task_waits_for_a_dependency_that_must_still_stop() {
        holds(
            [
                spec(Obedient),
                on([0], Stop, Slow),
                on([0, 1], Keep, Obedient),
                on([1, 2], DependencyLoss::Restart, Obedient),
            ],
            [(0, Command::Unregister)],
        );
    }

    #[test]
    fn no_delay_is_over_during_a_shutdown() {
        holds([spec(Obedient), on([0], Keep, Slow)], [(0, Command::Fault(Fault::Transient))]);
    }

    #[test]
    fn a_stop_whose_grace_ends_during_a_shutdown_is_reported_as_aborted() {
        holds([spec(Deaf), on([0], Keep, Slow)], [(0, Command::Stop)]);
    }

    /// Its stop is for the stall, and the error that it ends with says that no further try helps.
    #[test]
    fn a_stalled_task_that_ends_with_a_permanent_error_is_not_tried_again() {
        for on_stall in [StallAction::Restart, StallAction::Escalate] {
            let stalls = Spec { limit: 0, beats: true, retries: true, on_stall, ..spec(Slow) };
            let rest = [(); 8].map(|()| (1, Command::NeverReady(false)));
            let faults = [Fault::Silent, Fault::Permanent].map(|fault| (1, Command::Fault(fault)));
            let commands: Vec<_> = faults.into_iter().chain(rest).collect();
            holds([spec(Obedient), stalls], <[_; 10]>::try_from(commands).expect("ten"));
        }
    }

    #[test]
    fn finished_task_restarts_after_its_dependents_have_stopped() {
        holds([spec(Obedient), on([0], Stop, Slow)], [(0, Command::Fault(Fault::Ok)), (0, Command::Restart)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_that_goes_down_when_a_shutdown_begins_keeps_its_order() {
        let case = groups::Case {
            strategy: RestartStrategy::OneForAll,
            limit: None,
            members: vec![spec(Obedient), spec(Obedient), spec(Slow)],
            steps: vec![(1, Command::Fault(Fault::Transient), 1)],
        };
        groups::drive(&case).await.unwrap_or_else(|what| panic!("{what}"));
    }
}
