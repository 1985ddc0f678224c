//! A shop: takes orders over HTTP, stores them in SQLite, and sends a mail for each.
//!
//! ```text
//! cargo run --manifest-path examples/services/Cargo.toml --bin axum_service
//! curl --json '{"item": "tea"}' http://127.0.0.1:8080/orders       # the page of the tasks: http://127.0.0.1:8080/ops
//! ```
//! Settings: `SHOP_ADDRESS`, `SHOP_DATABASE`, `SHOP_DRAIN` and `SHOP_MAIL_TAKES` (seconds), `SHOP_OPS_TOKEN`, and the `OTEL_*` variables.
//!
//! After SIGTERM `/ops/health/ready` is 503 for `SHOP_DRAIN` seconds. Then HTTP ends, with the mails of its orders, then the loops. Then the
//! pool is closed and the telemetry flushed. Ctrl-C skips the drain. Each further signal goes one step on.

mod store;

use std::{
    env,
    error::Error,
    io::{self, IsTerminal as _},
    net,
    sync::Arc,
    time::Duration,
};

use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use otel_tasks::{
    CriticalTaskConfig, TaskContext, TaskLoop, TaskManager, TaskPriority, Telemetry, shutdown_signal,
};
use otel_tasks_page::{Feed, Page};
use store::{Store, StoreError};
use tracing_subscriber::{EnvFilter, filter::LevelFilter, fmt, prelude::*};

const MAIL_TIMEOUT: Duration = Duration::from_secs(30);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const KEPT: Duration = Duration::from_secs(90 * 24 * 3_600);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    // A signal that comes while the service starts is not lost.
    let signal = shutdown_signal();
    let setting = |name, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
    let drain = Duration::try_from_secs_f64(setting("SHOP_DRAIN", "5").parse()?)?;
    let mail_takes = Duration::try_from_secs_f64(setting("SHOP_MAIL_TAKES", "0.2").parse()?)?;

    let feed = Feed::default();
    let telemetry = Telemetry::builder().service("shop").export_if_configured().with(&feed).build()?;
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    tracing_subscriber::registry().with(telemetry.layer()).with(filter).with(lines).init();
    for warning in telemetry.warnings() {
        tracing::warn!("{warning}");
    }

    // A port in use ends the program here. The socket outlives each run of `http`, so a restart refuses no connection.
    let socket = net::TcpListener::bind(setting("SHOP_ADDRESS", "127.0.0.1:8080"))?;
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    let shop = Shop { store: Store::open(&setting("SHOP_DATABASE", "shop.db")).await?, mail_takes };

    // `Telemetry::builder().build()` sets nothing global, so the manager is given the meter.
    let tasks = TaskManager::builder().drain(drain).meter(telemetry.meter()).build()?;
    let ops = Page::new(&tasks).feed(&feed).token(setting("SHOP_OPS_TOKEN", "")).router();
    let http = Arc::new(Http { socket, shop: shop.clone(), ops });
    // Intake stops before all others. A server beside the manager, with `tasks.shutting_down()`, cannot be drained first: the manager does
    // not know it, asks the loops at the same time, and refuses the mails of the server's last orders.
    let http = CriticalTaskConfig::with("http", http, serve)
        .intake()
        .priority(TaskPriority::Critical)
        .shutdown_grace(Duration::from_secs(10));
    let unsent = TaskLoop::with(MINUTE, shop.clone(), |ctx, shop| shop.send_unsent(ctx));
    let prune = TaskLoop::with(HOUR, shop.store.clone(), |_, store| store.prune(KEPT));
    let unsent = CriticalTaskConfig::from_loop("unsent_mails", unsent);
    tasks.register_all([http, unsent, CriticalTaskConfig::from_loop("prune", prune)])?;

    println!("listening on http://{address}");
    let report = tasks.run_until(signal).await;
    // No task is left that uses the pool. An error here is still exported.
    if let Err(error) = shop.store.close().await {
        tracing::error!(error, "the database was not closed");
    }
    println!("{report}\n{}", telemetry.shutdown().await);
    report.exit()
}

/// The inputs of each run of the task `http`.
struct Http {
    socket: net::TcpListener,
    shop: Shop,
    ops: Router<App>,
}

async fn serve(ctx: TaskContext, http: Arc<Http>) -> io::Result<()> {
    let app = App { shop: http.shop.clone(), ctx: ctx.clone() };
    let router = Router::new().route("/orders", post(place)).nest("/ops", http.ops.clone()).with_state(app);
    let listener = tokio::net::TcpListener::from_std(http.socket.try_clone()?)?;
    axum::serve(listener, router).with_graceful_shutdown(ctx.cancelled_owned()).await
}

/// The inputs of a handler.
#[derive(Clone)]
struct App {
    shop: Shop,
    ctx: TaskContext,
}

#[derive(serde::Deserialize)]
struct Order {
    item: String,
}

#[tracing::instrument(skip_all)]
async fn place(State(app): State<App>, Json(order): Json<Order>) -> Result<(StatusCode, String), StatusCode> {
    let id = app.shop.store.insert(order.item).await.map_err(|error| {
        tracing::error!(error, "the order was not stored");
        StatusCode::INTERNAL_SERVER_ERROR
    })?;
    // Owned by `http`: admitted until `http` has ended, and waited for within its grace.
    app.ctx.task("confirmation_mail").timeout(MAIL_TIMEOUT).spawn(app.shop.send_mail(id));
    Ok((StatusCode::CREATED, id.to_string()))
}

#[derive(Clone)]
struct Shop {
    store: Store,
    /// The time that the mail server takes: the example has none.
    mail_takes: Duration,
}

impl Shop {
    async fn send_mail(self, id: i64) -> Result<(), StoreError> {
        tokio::time::sleep(self.mail_takes).await;
        self.store.mail_was_sent(id).await
    }

    /// Sends the mails of the last process and the mails that failed. It skips recent orders: their mails may be under way.
    async fn send_unsent(self, ctx: TaskContext) -> Result<(), StoreError> {
        for id in self.store.unsent(MAIL_TIMEOUT * 2).await? {
            if ctx.is_cancelled() {
                break;
            }
            self.clone().send_mail(id).await?;
        }
        Ok(())
    }
}
