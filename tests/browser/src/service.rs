//! A service with tasks to look at.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use opentelemetry::{
    KeyValue,
    trace::{Span, Status, TraceContextExt, Tracer, TracerProvider},
};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracer, SdkTracerProvider},
};
use otel_tasks::{
    Backoff, CriticalTaskConfig, RestartPolicy, TaskLoop, TaskManager,
    gate::{BootInstant, BoxFuture, Gate, Grant},
};
use otel_tasks_page::{Feed, Page, PageServer};
use tokio::{runtime::Runtime, sync::Notify, time::sleep};

pub const TOKEN: &str = "a long and random token";
pub const HOSTILE: &str = "<img src=x onerror=document.title='owned'>\u{202e}gnp.exe 🦀";

/// What runs, and its page.
pub struct Service {
    runtime: Option<Runtime>,
    pub tasks: TaskManager,
    pub address: SocketAddr,
    page: Option<PageServer>,
    feed: Feed,
    token: String,
    streams: usize,
    /// Makes the task `flaky` fail.
    pub fail: Arc<Notify>,
}

impl Service {
    /// With `names` idle tasks beside the others.
    pub fn start(names: usize, token: &str, streams: usize) -> Self {
        Self::with(token, streams, names, |tasks, fail, _| register(tasks, fail))
    }

    /// A shop at night: all is well but the synchronisation of its orders, on which two tasks depend.
    pub fn night(token: &str) -> Self {
        Self::with(token, 8, 0, |tasks, _, tracer| register_shop(tasks, tracer))
    }

    fn with(
        token: &str,
        streams: usize,
        names: usize,
        register: impl FnOnce(&TaskManager, &Arc<Notify>, &SdkTracer),
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let inside = runtime.enter();
        let feed = Feed::default();
        let shop =
            [KeyValue::new("service.version", "1.8.2"), KeyValue::new("service.instance.id", "pod shop-7c9")];
        let resource = Resource::builder().with_service_name("shop").with_attributes(shop).build();
        let traces = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_span_processor(feed.span_processor())
            .build();
        let tracer = traces.tracer("otel-tasks-browser");
        let tasks = TaskManager::builder()
            .tracer(tracer.clone())
            .runtime_stall(Duration::from_millis(500))
            .max_names(names + 100)
            .build()
            .unwrap();
        let fail = Arc::new(Notify::new());
        register(&tasks, &fail, &tracer);
        for number in 0..names {
            let name = format!("worker_{number:05}");
            let idle = CriticalTaskConfig::new(name, |ctx| async move { ctx.cancelled().await });
            tasks.register(idle.component(format!("pool {}", number % 8))).expect("registered");
        }
        tasks.start();
        drop(inside);
        let mut service = Self {
            tasks,
            address: ([127, 0, 0, 1], 0).into(),
            page: None,
            feed,
            token: token.to_owned(),
            streams,
            fail,
            runtime: Some(runtime),
        };
        service.serve();
        service
    }

    /// Serves the page, at the address of before if there is one.
    pub fn serve(&mut self) {
        let page = Page::new(&self.tasks)
            .feed(&self.feed)
            .token(self.token.clone())
            .streams(self.streams)
            .trace_link("https://jaeger.example.com/trace/{trace_id}");
        let page = page.serve(self.address).expect("served");
        self.address = page.address();
        self.page = Some(page);
    }

    /// Ends the page and its connections; the tasks go on.
    pub fn end_page(&mut self) {
        self.page = None;
    }

    pub fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("until it is dropped")
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Inside another runtime, where none may be waited for.
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

fn waits(name: &str) -> CriticalTaskConfig {
    CriticalTaskConfig::new(name, |ctx| async move { ctx.cancelled().await })
}

fn register(tasks: &TaskManager, fail: &Arc<Notify>) {
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
        sleep(Duration::from_millis(3)).await;
    });
    tasks.register(waits("gateway").component("chat")).expect("registered");
    tasks.register(waits("reader").depends_on("gateway").component("chat")).expect("registered");
    tasks
        .register(flaky.restart_policy(RestartPolicy::Never).backoff(Backoff::constant(Duration::ZERO)))
        .expect("registered");
    tasks.register(CriticalTaskConfig::from_loop("tick", tick)).expect("registered");
}

/// A span inside the current one, of so many milliseconds.
async fn step(tracer: &SdkTracer, name: &'static str, millis: u64, attributes: Vec<KeyValue>) {
    let mut span = tracer.start_with_context(name, &opentelemetry::Context::current());
    span.set_attributes(attributes);
    sleep(Duration::from_millis(millis)).await;
    span.end();
}

async fn synchronise(tracer: SdkTracer) -> Result<(), &'static str> {
    const FAILED: &str = "insert orders: connection to shop-db:5432 refused (os error 111)";
    step(&tracer, "GET /orders", 62, vec![KeyValue::new("http.response.status_code", 200)]).await;
    step(&tracer, "parse orders", 9, vec![KeyValue::new("orders", 118)]).await;
    let span = tracer.start_with_context("INSERT orders", &opentelemetry::Context::current());
    let context = opentelemetry::Context::current_with_span(span);
    for attempt in 1..=3_i64 {
        let mut connect = tracer.start_with_context("connect shop-db:5432", &context);
        connect.set_attribute(KeyValue::new("attempt", attempt));
        sleep(Duration::from_millis(20 * 2_u64.pow(attempt as u32 - 1))).await;
        connect.set_status(Status::error("connection refused (os error 111)"));
        connect.end();
    }
    context.span().set_status(Status::error(FAILED));
    context.span().end();
    Err(FAILED)
}

/// A lease: this process holds it for an hour, or another one holds it.
struct Lease {
    name: &'static str,
    holder: &'static str,
    is_own: bool,
}

impl Gate for Lease {
    fn name(&self) -> &str {
        self.name
    }

    fn holder(&self) -> Option<Arc<str>> {
        Some(self.holder.into())
    }

    fn enter(&self) -> BoxFuture<'_, Grant> {
        Box::pin(async {
            if !self.is_own {
                std::future::pending::<()>().await;
            }
            let until = BootInstant::now().saturating_add(Duration::from_secs(3_600));
            Grant::new(412, until, Duration::from_secs(5)).0
        })
    }
}

fn register_shop(tasks: &TaskManager, tracer: &SdkTracer) {
    let runs = Arc::new(AtomicU64::new(0));
    let orders = {
        let tracer = tracer.clone();
        CriticalTaskConfig::new("order_sync", move |_| synchronise(tracer.clone()))
            .component("orders")
            .max_restarts(4, Duration::from_secs(60))
            .backoff(Backoff::constant(Duration::from_millis(400)))
    };
    let every = |name: &str, millis: u64, work: u64| {
        let (tracer, runs) = (tracer.clone(), runs.clone());
        let work = TaskLoop::every(Duration::from_millis(millis), move |_| {
            let (tracer, number) = (tracer.clone(), runs.fetch_add(1, Relaxed));
            async move {
                step(&tracer, "SELECT", work / 3 + number % 5, Vec::new()).await;
                step(&tracer, "publish", work / 2 + number % 7, Vec::new()).await;
            }
        });
        CriticalTaskConfig::from_loop(name, work)
    };
    let registered = tasks.register_all([
        orders,
        waits("gateway").component("web"),
        waits("invoice_writer").component("orders").depends_on("order_sync"),
        waits("stock_watch").component("orders").depends_on("order_sync"),
        waits("mail_outbox").component("web").gate(Lease {
            name: "outbox",
            holder: "shop-4f2:1:9c04e1d7",
            is_own: false,
        }),
        waits("price_feed").component("catalogue").gate(Lease {
            name: "feed",
            holder: "shop-7c9:1:31b7a02f",
            is_own: true,
        }),
        waits("cart_cache").component("web").depends_on("gateway"),
        every("price_refresh", 900, 30).component("catalogue"),
        every("session_sweep", 2_500, 12).component("web"),
        every("search_index", 15 * 60_000, 40).component("catalogue"),
        every("daily_report", 6 * 3_600_000, 60).component("reports"),
        every("backup", 24 * 3_600_000, 80).component("reports"),
    ]);
    registered.expect("registered");
}
