//! A service with tasks to look at.

use std::{sync::Arc, time::Duration};

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use otel_tasks::{Backoff, CriticalTaskConfig, RestartPolicy, TaskLoop, TaskManager};
use otel_tasks_page::{Feed, Page, PageServer};
use tokio::{runtime::Runtime, sync::Notify};

pub const TOKEN: &str = "a long and random token";
pub const HOSTILE: &str = "<img src=x onerror=document.title='owned'>\u{202e}gnp.exe 🦀";

/// What runs, and its page.
pub struct Service {
    runtime: Option<Runtime>,
    pub tasks: TaskManager,
    pub page: PageServer,
    /// Makes the task `flaky` fail.
    pub fail: Arc<Notify>,
}

impl Service {
    /// With `names` idle tasks beside the others.
    pub fn start(names: usize, token: &str, streams: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let inside = runtime.enter();
        let feed = Feed::default();
        let traces = SdkTracerProvider::builder().with_span_processor(feed.span_processor()).build();
        let tasks = TaskManager::builder()
            .tracer(traces.tracer("otel-tasks-browser"))
            .runtime_stall(Duration::from_millis(500))
            .max_names(names + 100)
            .build()
            .unwrap();
        let fail = Arc::new(Notify::new());
        register(&tasks, &fail);
        for number in 0..names {
            let name = format!("worker_{number:05}");
            let idle = CriticalTaskConfig::new(name, |ctx| async move { ctx.cancelled().await });
            tasks.register(idle.component(format!("pool {}", number % 8))).expect("registered");
        }
        tasks.start();
        let page =
            Page::new(&tasks).feed(&feed).token(token).streams(streams).serve("127.0.0.1:0").expect("served");
        drop(inside);
        Self { tasks, page, fail, runtime: Some(runtime) }
    }

    pub fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("until it is dropped")
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.page.address())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Inside another runtime, where none may be waited for.
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

fn register(tasks: &TaskManager, fail: &Arc<Notify>) {
    let gateway =
        CriticalTaskConfig::new("gateway", |ctx| async move { ctx.cancelled().await }).component("chat");
    let reader = CriticalTaskConfig::new("reader", |ctx| async move { ctx.cancelled().await });
    let told = fail.clone();
    let flaky = CriticalTaskConfig::new("flaky", move |ctx| {
        let told = told.clone();
        async move {
            tokio::select! {
                () = told.notified() => Err("the other side hung up"),
                () = ctx.cancelled() => Ok(()),
            }
        }
    });
    let tick = TaskLoop::every(Duration::from_millis(300), |_| async {
        tokio::time::sleep(Duration::from_millis(3)).await;
    });
    tasks.register(gateway).expect("registered");
    tasks.register(reader.depends_on("gateway").component("chat")).expect("registered");
    tasks
        .register(flaky.restart_policy(RestartPolicy::Never).backoff(Backoff::constant(Duration::ZERO)))
        .expect("registered");
    tasks.register(CriticalTaskConfig::from_loop("tick", tick)).expect("registered");
}
