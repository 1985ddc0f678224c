//! Destructors of the user's values that panic: each wait for their task ends all the same.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use otel_tasks::{
    CriticalTaskConfig, Lent, TaskContext, TaskLoop, TaskManager, policy::ErrorClass, snapshot::TaskState,
};
use tokio::time::{sleep, timeout};

use crate::support::secs;

/// Panics when it is dropped, and counts that.
struct Bomb(Arc<AtomicUsize>);

impl Drop for Bomb {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
        assert!(std::thread::panicking(), "a destructor that panics");
    }
}

/// A task whose closure, future, state, hook or rule has such a value.
fn with_bomb(kind: &str, dropped: &Arc<AtomicUsize>) -> CriticalTaskConfig {
    let bomb = Bomb(dropped.clone());
    let again = dropped.clone();
    match kind {
        "factory" => CriticalTaskConfig::new("task", move |ctx: TaskContext| {
            let _ = &bomb;
            async move { ctx.cancelled().await }
        }),
        "future" => {
            std::mem::forget(bomb);
            CriticalTaskConfig::new("task", move |ctx: TaskContext| {
                let bomb = Bomb(again.clone());
                async move {
                    let _bomb = bomb;
                    ctx.cancelled().await;
                    std::future::pending::<()>().await;
                }
            })
            .shutdown_grace(Duration::from_millis(100))
        }
        "state" => {
            CriticalTaskConfig::lend("task", bomb, |ctx: TaskContext, _state: Lent<Bomb>| async move {
                ctx.cancelled().await;
            })
        }
        "hook" => {
            let hooked = TaskLoop::every(secs(1), |_: TaskContext| async {});
            let hook = move |_: TaskContext| {
                let _ = &bomb;
                async {}
            };
            CriticalTaskConfig::from_loop("task", hooked.after_loop(hook))
        }
        "rule" => CriticalTaskConfig::new("task", |ctx: TaskContext| async move {
            ctx.cancelled().await;
            Ok::<(), std::io::Error>(())
        })
        .classify(move |_: &std::io::Error| {
            let _ = &bomb;
            ErrorClass::Transient
        }),
        _ => unreachable!("{kind}"),
    }
}

fn plain() -> CriticalTaskConfig {
    CriticalTaskConfig::new("task", |ctx: TaskContext| async move { ctx.cancelled().await })
}

/// Fails if the panic ends the driver, the shutdown's task or the call that drops the last reference.
#[tokio::test(start_paused = true)]
async fn a_destructor_that_panics_keeps_nobody_waiting() {
    for kind in ["factory", "future", "state", "hook", "rule"] {
        for way in ["unregister", "replace", "shutdown", "detach", "refused"] {
            let dropped = Arc::new(AtomicUsize::new(0));
            let tasks = TaskManager::new();
            if way == "refused" {
                tasks.register(plain()).unwrap();
            } else {
                tasks.register(with_bomb(kind, &dropped)).unwrap();
            }
            // A dependent and a dependency, which the shutdown holds.
            let dependent =
                CriticalTaskConfig::new("dependent", |ctx: TaskContext| async move { ctx.cancelled().await });
            tasks.register(dependent.depends_on("task")).unwrap();
            tasks.start();
            sleep(secs(3)).await;
            let what = format!("{kind}, {way}");
            match way {
                "unregister" => {
                    assert!(timeout(secs(60), tasks.unregister("task")).await.expect(&what).is_ok())
                }
                "replace" => assert!(timeout(secs(60), tasks.replace(plain())).await.expect(&what).is_ok()),
                "detach" => {
                    tasks.stop("task").unwrap();
                    sleep(secs(11)).await;
                    tasks.detach("task").unwrap();
                }
                // The caller's own value, in its own call: the panic is the caller's, and the manager is none the worse.
                "refused" => {
                    let refused =
                        catch_unwind(AssertUnwindSafe(|| tasks.register(with_bomb(kind, &dropped))));
                    assert!(!matches!(refused, Ok(Ok(()))), "{what}");
                }
                _ => {}
            }
            if matches!(way, "unregister" | "detach") {
                tasks.register(plain()).unwrap();
            }
            if way != "shutdown" {
                sleep(secs(1)).await;
                assert_eq!(
                    tasks.snapshot("task").and_then(|task| task.state),
                    Some(TaskState::Running),
                    "{what}"
                );
            }
            let report = timeout(secs(60), tasks.shutdown()).await.expect(&what);
            assert!(report.is_clean() || kind == "future", "{what}: {report}");
            drop(tasks);
            sleep(secs(1)).await;
            let expected = usize::from(!(kind == "future" && way == "refused"));
            assert_eq!(dropped.load(SeqCst), expected, "{what}: dropped once");
        }
    }
}
