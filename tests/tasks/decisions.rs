//! Why a task was restarted or given up: answered whole, and the same when the policy is asked again.

use otel_tasks::{
    Backoff, CriticalTaskConfig, GiveUp, RestartPolicy, TaskGroup, TaskManager,
    events::{DecisionCause, RestartVerdict, TaskDecision},
    policy::{DependencyLoss, Escalation, ExitKind, Jitter, RestartReason, RestartStrategy, StallAction},
};
use tokio::time::sleep;

use crate::support::{
    Events, millis, secs,
    spans::Spans,
    tasks::{begun, obeys, started},
};

fn failing(name: &str) -> CriticalTaskConfig {
    CriticalTaskConfig::new(name, |_| async { Err::<(), _>("refused") })
}

/// Asks the policy again about each recorded decision that was its own.
fn replay(decisions: &[TaskDecision]) -> usize {
    let own = decisions.iter().filter(|decision| decision.cause != DecisionCause::Group);
    let asked = own.filter_map(|decision| Some((decision.question?, decision)));
    asked.map(|(question, decision)| assert_eq!(question.answer(), decision.verdict, "{decision:?}")).count()
}

#[tokio::test(start_paused = true)]
async fn replayed_decisions_get_the_same_verdict() {
    let grown = Backoff::growing(secs(1), secs(30));
    let configs = [
        failing("full").backoff(grown.jitter(Jitter::Full)).max_restarts(5, secs(600)),
        failing("decorrelated").backoff(grown.jitter(Jitter::Decorrelated)).max_restarts(5, secs(600)),
        failing("for_good").backoff(grown).max_restarts(2, secs(600)).give_up(GiveUp::ForGood),
        failing("never").restart_policy(RestartPolicy::Never),
        CriticalTaskConfig::new("ends", |_| async {}).backoff(grown).max_restarts(3, secs(600)),
        CriticalTaskConfig::new("panics", |_| async { panic!("torn") })
            .backoff(grown)
            .max_restarts(3, secs(600)),
        CriticalTaskConfig::new("slow", |_| std::future::pending::<()>())
            .run_timeout(secs(5))
            .backoff(grown)
            .max_restarts(3, secs(600)),
        CriticalTaskConfig::new("silent", |_| std::future::pending::<()>())
            .heartbeat_timeout(secs(2))
            .on_stall(StallAction::Restart)
            .max_restarts(3, secs(600)),
    ];
    let names = configs.each_ref().map(|config| config.name().to_owned());
    let tasks = begun(TaskManager::builder().panic_hook(false).build().unwrap(), configs);
    sleep(secs(1_000)).await;
    let mut asked = 0;
    for name in &names {
        let decisions = tasks.decisions(name).unwrap();
        let given_up = |decision: &TaskDecision| matches!(decision.verdict, RestartVerdict::GiveUp { .. });
        assert!(decisions.iter().any(given_up), "{name}: {decisions:?}");
        asked += replay(&decisions);
    }
    assert!(asked > 25, "{asked}");
}

#[tokio::test(start_paused = true)]
async fn restart_decision_is_complete_and_matches_its_record() {
    let (events, _guard) = Events::record();
    let spans = Spans::new();
    let tasks = TaskManager::builder().tracer(spans.tracer()).random(|| 0.25).build().unwrap();
    let backoff = Backoff::growing(secs(10), secs(60));
    tasks
        .register(failing("t").backoff(backoff).max_restarts(2, secs(600)).give_up(GiveUp::ForGood))
        .unwrap();
    tasks.start();
    sleep(secs(300)).await;
    let decisions = tasks.decisions("t").unwrap();
    assert_eq!(decisions.len(), 3);
    let runs: Vec<_> = spans.runs_of("t").iter().map(|run| run.span_context.clone()).collect();
    let second = &decisions[1];
    let question = second.question.unwrap();
    assert_eq!((second.cause, second.generation), (DecisionCause::Exit, 2));
    assert_eq!((second.error_type, second.message.as_deref()), (Some("&str"), Some("refused")));
    assert_eq!(second.trace_id, Some(runs[1].trace_id()));
    assert_eq!(second.span_id, Some(runs[1].span_id()));
    assert_eq!(
        (question.result, question.restarts, question.limit.max_restarts()),
        (Some(ExitKind::Failure), 1, 2)
    );
    assert_eq!((question.attempt, question.random), (1, 0.25));
    let RestartVerdict::Restart { reason, delay, .. } = second.verdict else { panic!("{second:?}") };
    assert_eq!((reason, delay), (RestartReason::Failure, backoff.delay(1, question.previous_delay, 0.25)));
    assert!(matches!(decisions[2].verdict, RestartVerdict::GiveUp { retry_after: None, .. }));

    let records = events.named("task.decision");
    assert_eq!(records.len(), 3);
    let record = &records[1];
    for (key, value) in [
        ("task.name", "t".to_owned()),
        ("task.decision", "restart".to_owned()),
        ("task.decision.cause", "exit".to_owned()),
        ("reason", "failure".to_owned()),
        ("task.run.result", "failure".to_owned()),
        ("task.run.generation", "2".to_owned()),
        ("task.decision.restarts", "1".to_owned()),
        ("task.decision.limit", "2".to_owned()),
        ("task.decision.window", "600.0".to_owned()),
        ("task.decision.attempt", "1".to_owned()),
        ("task.decision.random", "0.25".to_owned()),
        ("task.decision.delay", format!("{:?}", delay.as_secs_f64())),
        ("task.decision.previous_delay", format!("{:?}", question.previous_delay.as_secs_f64())),
        ("exception.message", "refused".to_owned()),
    ] {
        assert_eq!(record.field(key), value, "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_restart_decision_records_its_cause() {
    let tasks = TaskManager::new();
    tasks
        .register_group(TaskGroup::new("g", RestartStrategy::OneForAll).task(obeys("a")).task(obeys("b")))
        .unwrap();
    tasks.register(obeys("dependent").depends_on("a").on_dependency_loss(DependencyLoss::Restart)).unwrap();
    tasks.start();
    sleep(secs(1)).await;
    tasks.restart("a").unwrap();
    sleep(secs(60)).await;
    let cause =
        |name: &str| tasks.decisions(name).unwrap().iter().map(|decision| decision.cause).collect::<Vec<_>>();
    assert_eq!(cause("a"), [DecisionCause::Request]);
    assert_eq!(cause("b"), [DecisionCause::Group]);
    assert_eq!(cause("dependent"), [DecisionCause::Dependency]);
    for name in ["a", "b", "dependent"] {
        assert!(tasks.decisions(name).unwrap()[0].question.is_none(), "the policy was not asked");
    }
}

#[tokio::test(start_paused = true)]
async fn another_try_is_a_decision_and_so_is_its_failure() {
    let tasks = started(failing("t").max_restarts(0, secs(60)).give_up(GiveUp::RetryEvery(secs(100))));
    sleep(secs(150)).await;
    let decisions = tasks.decisions("t").unwrap();
    let told: Vec<_> =
        decisions.iter().map(|decision| (decision.cause.as_str(), decision.verdict.as_str())).collect();
    assert_eq!(told, [("exit", "give_up"), ("retry", "restart"), ("exit", "give_up")]);
    assert!(decisions[2].question.unwrap().is_retry);
    assert_eq!(replay(&decisions), 2);
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_a_group_overrules_the_policy() {
    let tasks = TaskManager::new();
    let config = failing("t").backoff(Backoff::constant(millis(10))).escalation(Escalation::None);
    let group = TaskGroup::new("g", RestartStrategy::OneForOne).max_restarts(1, secs(600)).task(config);
    tasks.register_group(group).unwrap();
    tasks.start();
    sleep(secs(10)).await;
    let decisions = tasks.decisions("t").unwrap();
    let last = decisions.last().unwrap();
    assert_eq!((last.cause, last.verdict.as_str()), (DecisionCause::Group, "give_up"));
    assert_eq!(last.question.unwrap().answer().as_str(), "restart", "what the policy said");
}

#[tokio::test(start_paused = true)]
async fn the_newest_decisions_are_kept() {
    let tasks = started(failing("t").backoff(Backoff::constant(secs(1))).unlimited_restarts());
    sleep(secs(100)).await;
    let decisions = tasks.decisions("t").unwrap();
    assert_eq!(decisions.len(), TaskDecision::KEPT);
    assert!(decisions.last().unwrap().number > 50);
    assert!(tasks.decisions("nobody").is_none());
}
