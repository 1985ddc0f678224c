//! An iteration that fails is tried again inside its run.

use otel_tasks::{events::TaskEventKind, policy::ErrorClass};

use super::*;

/// A loop whose iterations fail so often before they succeed, and the tries they took.
fn flaky(failures: usize) -> (TaskLoop, Moments) {
    let moments = Moments::default();
    let log = moments.clone();
    let body = TaskLoop::every(secs(1_000), move |_| {
        log.note();
        let fails = log.count() % (failures + 1) != 0;
        async move { if fails { Err("flaky") } else { Ok(()) } }
    });
    (body, moments)
}

#[tokio::test(start_paused = true)]
async fn an_iteration_that_succeeds_in_the_end_is_one_successful_run() {
    let (events, _guard) = Events::record();
    let (body, moments) = flaky(2);
    let tasks = TaskManager::new();
    let mut told = tasks.subscribe();
    let body = body.retry(3, Backoff::constant(secs(20)));
    tasks.register(CriticalTaskConfig::from_loop("l", body)).unwrap();
    tasks.start();
    sleep(secs(100)).await;
    assert_eq!(moments.seconds(), [0, 20, 40]);
    let snapshot = tasks.snapshot("l").unwrap();
    assert_eq!((snapshot.total_runs(), snapshot.total_errors(), snapshot.retries), (1, 0, 2));
    assert_eq!(snapshot.longest_run.as_secs(), 40, "the tries and what lies between are one run");
    let records = events.named("task.iteration.retried");
    assert_eq!(records.len(), 2);
    assert!(
        records[0].message().contains("iteration 1 of loop l is tried again after 20s: flaky"),
        "{records:?}"
    );
    let retries = std::iter::from_fn(|| told.try_recv())
        .filter(|event| matches!(&event.kind, TaskEventKind::Retrying { iteration: 1, failure, delay, .. } if failure.message == "flaky" && *delay == secs(20)));
    assert_eq!(retries.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_iteration_that_fails_too_often_fails() {
    let (body, moments) = flaky(9);
    let body = body.retry(2, Backoff::constant(secs(5)));
    let tasks = started(CriticalTaskConfig::from_loop("l", body).restart_policy(RestartPolicy::Never));
    sleep(secs(100)).await;
    assert_eq!(moments.seconds(), [0, 5, 10], "the first, and two more");
    let snapshot = tasks.snapshot("l").unwrap();
    assert_eq!(
        (snapshot.state, snapshot.total_runs(), snapshot.total_errors()),
        (Some(TaskState::Running), 1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn the_delays_grow() {
    let (body, moments) = flaky(9);
    let backoff = Backoff::new(secs(1), 2.0, secs(4)).unwrap().jitter(otel_tasks::policy::Jitter::None);
    let _tasks = started(CriticalTaskConfig::from_loop("l", body.retry(4, backoff)));
    sleep(secs(20)).await;
    assert_eq!(moments.seconds(), [0, 1, 3, 7, 11]);
}

#[tokio::test(start_paused = true)]
async fn permanent_errors_and_panics_are_not_retried() {
    let (body, moments) = flaky(9);
    let body = body.retry(5, Backoff::constant(secs(1)));
    let config = CriticalTaskConfig::from_loop("permanent", body).restart_policy(RestartPolicy::Never);
    let tasks = started(config.classify(|_: &&str| ErrorClass::Permanent));
    let panics = TaskLoop::every(secs(1_000), |_| async { panic!("never again") });
    let panics = panics.retry(5, Backoff::constant(secs(1)));
    let config = CriticalTaskConfig::from_loop("panics", panics).restart_policy(RestartPolicy::Never);
    tasks.register(config).unwrap();
    sleep(secs(50)).await;
    assert_eq!(moments.count(), 1);
    for name in ["permanent", "panics"] {
        let snapshot = tasks.snapshot(name).unwrap();
        assert_eq!((snapshot.total_runs(), snapshot.retries), (1, 0), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn retry_when_selects_the_failures_to_retry() {
    for (word, tries) in [("flaky", 3), ("other", 1)] {
        let (body, moments) = flaky(9);
        let body =
            body.retry_when(move |failure| failure.message == word).retry(2, Backoff::constant(secs(1)));
        let _tasks = started(CriticalTaskConfig::from_loop("l", body).restart_policy(RestartPolicy::Never));
        sleep(secs(50)).await;
        assert_eq!(moments.count(), tries, "{word}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_wait_for_a_further_try() {
    let (body, moments) = flaky(9);
    let body = body.retry(5, Backoff::constant(secs(3_600)));
    let tasks = started(CriticalTaskConfig::from_loop("l", body));
    sleep(secs(1)).await;
    ends_at_once(&tasks).await;
    assert_eq!(moments.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_time_limit_counts_over_all_tries() {
    let (body, moments) = flaky(9);
    let body = body.retry(9, Backoff::constant(secs(3))).on_error(|_| async { OnError::Continue });
    let handle = body.handle();
    let _tasks = started(CriticalTaskConfig::from_loop("l", body).run_timeout(secs(10)));
    sleep(secs(50)).await;
    assert_eq!(moments.seconds(), [0, 3, 6, 9]);
    assert_eq!(handle.last_result(), Some(Exit::Timeout(secs(10))));
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_a_further_try_is_no_stall() {
    let (body, moments) = flaky(1);
    let body = body.retry(1, Backoff::constant(secs(600)));
    let tasks = started(CriticalTaskConfig::from_loop("l", body).heartbeat_timeout(secs(60)));
    sleep(secs(900)).await;
    assert_eq!((moments.count(), tasks.snapshot("l").unwrap().stalls), (2, 0));
}
