//! A live page of the tasks that [`otel_tasks`] manages: for development, and for services without Grafana.
//!
//! The page shows the state, health, runs, errors, restarts and last traces of each task. Beside it are health probes,
//! `/metrics` and a JSON API.
//!
//! [`Page::serve`] runs the page on a thread and a runtime of its own. It responds while every worker of the service is
//! blocked. [`Page::router`] returns an [`axum::Router`] to nest in a service.
//!
//! ```
//! use otel_tasks::TaskManager;
//! use otel_tasks_page::Page;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
//! let tasks = TaskManager::new();
//! let page = Page::new(&tasks).serve("127.0.0.1:0")?;
//! println!("http://{}", page.address());
//! # Ok(()) }
//! ```
//!
//! | path | response |
//! |---|---|
//! | `/` | the page |
//! | `/health/live`, `/health/ready`, `/health/startup` | 200 or 503 with the reasons: for the probes of Kubernetes |
//! | `/tasks`, `/tasks/{name}` | every task; everything about one task |
//! | `/events` | server-sent events: `all` first, then `delta` |
//! | `/events/recent` | the last events of all tasks |
//! | `/schedule` | the runs of each loop in the next 24 hours |
//! | `/runtime` | the tokio runtime of the service |
//! | `/metrics` | Prometheus text, or OpenMetrics if `Accept` asks for it; needs a [`Feed`] |
//! | `/openapi.json` | an OpenAPI document of these paths |
//! | `POST /tasks/{name}/{action}` | `restart`, `pause`, `resume`, `stop`, `run` (an iteration of a loop, now); needs a [token](Page::token) |
//!
//! # Cost
//!
//! Without a client, nothing is computed. With clients, the manager's figures are read once a second for all of them together.
//! A [`Feed`] keeps ended spans in a ring of bounded size.
//!
//! # Access
//!
//! The page has no log-in. Bind it to loopback, or put it behind a proxy that authenticates.
//!
//! - Requests for a `Host` name that was not [allowed](Page::allow_host) are refused. This prevents DNS rebinding: a web page
//!   cannot read this one through a name of its own. IP addresses and `localhost` are always allowed.
//! - Writes need the token, and an `Origin` that is the page's own if there is one.
//!
//! # Features
//!
//! `otlp` (default): `Telemetry::builder().with(&feed)`. Without it, otel-tasks is built without its exporters.

#![warn(missing_docs, unreachable_pub)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod answers;
mod api;
mod assets;
mod control;
mod feed;
mod format;
mod guard;
mod guesses;
mod live;
mod metrics;
mod page;
mod server;
mod spans;
mod view;

pub use feed::Feed;
pub use page::Page;
pub use server::PageServer;

/// The README's code compiles.
#[cfg(all(doctest, feature = "otlp"))]
#[doc = include_str!("../README.md")]
struct Readme;
