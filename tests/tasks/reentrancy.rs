//! A subscriber that asks the manager back, at every span and event: no lock of ours may be held while it runs.

use std::{
    sync::{Arc, OnceLock, mpsc},
    time::Duration,
};

use otel_tasks::{CriticalTaskConfig, TaskContext, TaskLoop, TaskManager, task::WeakTaskManager};
use tracing::{Event, Subscriber, span};
use tracing_subscriber::{Layer, layer::Context, prelude::*};

#[derive(Clone, Default)]
struct AsksBack(Arc<OnceLock<TaskManager>>);

impl AsksBack {
    fn ask(&self) {
        let Some(tasks) = self.0.get() else { return };
        tasks.task_names();
        tasks.statistics();
        // Takes the write lock of the registrations, for a name that nobody has.
        tasks.detach("nobody").expect_err("unknown");
    }
}

impl<S: Subscriber> Layer<S> for AsksBack {
    fn on_new_span(&self, _: &span::Attributes<'_>, _: &span::Id, _: Context<'_, S>) {
        self.ask();
    }

    fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
        self.ask();
    }
}

#[test]
fn a_subscriber_may_ask_the_manager_back() {
    let (ended, told) = mpsc::channel();
    // On a thread of its own: a deadlock must fail the test, not hang it.
    std::thread::spawn(move || {
        let asks_back = AsksBack::default();
        let _default = tracing_subscriber::registry().with(asks_back.clone()).set_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let tasks = TaskManager::builder().monitor_interval(Duration::from_secs(1)).build().unwrap();
            assert!(asks_back.0.set(tasks.clone()).is_ok());
            tasks.register_component("bad", || -> Vec<CriticalTaskConfig> { panic!("no tasks today") });
            let fails =
                CriticalTaskConfig::new("fails", |_| async { Err::<(), _>("down") }).component("missing");
            tasks.register(fails).expect("registered");
            let ticks = TaskLoop::every(Duration::from_secs(1), |_| async {}).count(2);
            tasks.register(CriticalTaskConfig::from_loop("ticks", ticks)).expect("registered");
            tasks.start();
            drop(tasks.spawn("of_no_known_category", std::future::pending::<()>()));
            tokio::time::sleep(Duration::from_secs(100)).await;
            assert_eq!(tasks.check_instrumentation().missing_components, ["missing"]);
            tasks.restart("fails").expect("restarted");
            tasks.detach("ticks").expect("registered");
            tasks.unregister("fails").await.expect("registered");
            tasks.shutdown().await;
        });
        ended.send(()).expect("the test waits");
    });
    told.recv_timeout(Duration::from_secs(20)).expect("no deadlock");
}

/// Asks the manager when it is dropped.
struct AsksAtItsEnd(WeakTaskManager);

impl Drop for AsksAtItsEnd {
    fn drop(&mut self) {
        self.0.upgrade().expect("the manager lives").task_names();
    }
}

/// Fails if what is refused is dropped under the lock of the registrations.
#[test]
fn a_value_of_a_refused_task_may_ask_the_manager() {
    let (ended, told) = mpsc::channel();
    // On a thread of its own, as above.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let tasks = TaskManager::builder().max_names(1).build().unwrap();
            let config = |name: &str| {
                let value = AsksAtItsEnd(tasks.downgrade());
                CriticalTaskConfig::new(name, move |ctx: TaskContext| {
                    let _ = &value;
                    async move { ctx.cancelled().await }
                })
            };
            tasks.register(config("a")).expect("registered");
            tasks.register(config("a")).expect_err("its name is taken");
            tasks.register(config("b")).expect_err("its name finds no room");
            tasks.unregister("a").await.expect("registered");
            tasks.shutdown().await;
            tasks.register(config("a")).expect_err("the manager has shut down");
        });
        ended.send(()).expect("the test waits");
    });
    told.recv_timeout(Duration::from_secs(20)).expect("no deadlock");
}
