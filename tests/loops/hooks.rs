//! The hooks before the first and after the last iteration of a life.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_error_before_the_loop_keeps_the_body_from_running() {
    let (body, handle, moments) = noting(10, 0);
    let body = body.before_loop(|ctx: TaskContext| async move {
        sleep(secs(5)).await;
        if ctx.generation() < 3 { Err("no database") } else { Ok(()) }
    });
    let tasks = started(CriticalTaskConfig::from_loop("l", body).backoff(Backoff::constant(secs(20))));
    sleep(secs(6)).await;
    assert_eq!(state(&tasks, "l"), Some(TaskState::Backoff));
    assert!(handle.failed() && !handle.is_running());
    assert!(matches!(handle.last_result(), Some(Exit::Failure(failure)) if failure.message == "no database"));
    let snapshot = tasks.snapshot("l").unwrap();
    assert_eq!((snapshot.runs(ExitKind::Failure), snapshot.total_errors()), (1, 1), "a failed run");
    assert_eq!(snapshot.last_error.unwrap().message, "no database");
    sleep(secs(60)).await;
    assert_eq!(moments.seconds(), [0, 10], "the third life begins its work after 55 s");
    assert_eq!(tasks.snapshot("l").unwrap().total_restarts(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_restart_policy_decides_on_an_error_before_the_loop() {
    let (body, _, moments) = noting(10, 0);
    let body = body.before_loop(|_| async { Err::<(), _>("no database") });
    let tasks = started(CriticalTaskConfig::from_loop("l", body).restart_policy(RestartPolicy::Never));
    sleep(secs(100)).await;
    assert_eq!((moments.count(), state(&tasks, "l")), (0, Some(TaskState::Failed)));
}

#[tokio::test(start_paused = true)]
async fn requests_in_before_loop_apply_before_the_first_iteration() {
    for how in ["cancel", "pause", "stop", "change"] {
        let (body, handle, moments) = noting(10, 0);
        let own = handle.clone();
        let body = body.before_loop(move |_| {
            match how {
                "cancel" => own.cancel().unwrap(),
                "pause" => own.pause().unwrap(),
                "stop" => own.stop(),
                _ => own.change_schedule(Schedule::every(secs(60)).immediate(false)).unwrap(),
            }
            async {}
        });
        let tasks = started(CriticalTaskConfig::from_loop("l", body));
        sleep(secs(45)).await;
        assert_eq!(moments.count(), 0, "{how}");
        let expected = match how {
            "cancel" => TaskState::Stopped,
            "pause" => TaskState::Paused,
            "stop" => TaskState::Finished,
            _ => TaskState::Running,
        };
        assert_eq!(state(&tasks, "l"), Some(expected), "{how}");
        if how == "pause" {
            handle.resume().unwrap();
            sleep(secs(10)).await;
            assert_eq!(moments.count(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn after_loop_hook_sees_whether_the_loop_was_cancelled() {
    for (how, expected) in [("count", false), ("stop", false), ("shutdown", true)] {
        let (body, handle, _) = noting(10, 0);
        let heard = Arc::new(Mutex::new(None));
        let log = heard.clone();
        let body = body.count(3).after_loop(move |ctx: TaskContext| {
            *log.lock().unwrap() = Some(ctx.is_cancelled());
            async {}
        });
        let tasks = started(CriticalTaskConfig::from_loop("l", body));
        sleep(secs(5)).await;
        match how {
            "stop" => handle.stop(),
            "shutdown" => drop(tasks.shutdown().await),
            _ => {}
        }
        sleep(secs(60)).await;
        assert_eq!(*heard.lock().unwrap(), Some(expected), "{how}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_knows_when_the_next_iteration_is_due() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let slot: Arc<Mutex<Option<LoopHandle>>> = Arc::default();
    let (log, own) = (seen.clone(), slot.clone());
    let body = TaskLoop::every(secs(600), move |ctx: TaskContext| {
        let next = own.lock().unwrap().as_ref().unwrap().next_run();
        log.lock().unwrap().push((ctx.iteration().unwrap(), next));
        async {}
    });
    *slot.lock().unwrap() = Some(body.handle());
    let began = SystemTime::now();
    let _tasks = started(CriticalTaskConfig::from_loop("l", body.count(2)));
    sleep(secs(700)).await;
    let seen = seen.lock().unwrap();
    let ahead = seen[0].1.expect("known").duration_since(began).unwrap();
    assert!(ahead >= secs(599) && ahead <= secs(602), "{ahead:?}");
    assert_eq!(seen[1], (2, None), "there is none after the last");
}
