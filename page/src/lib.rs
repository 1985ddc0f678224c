//! A live page to look at the tasks with, where there is no Grafana, and while developing: what they do, how they are, why
//! they failed, their last traces; with probes, `/metrics`, and a JSON API beside it.
//!
//! [`Page::serve`] answers from a thread and a runtime of its own, also while every worker of yours is blocked;
//! [`Page::router`] is an [`axum::Router`] to nest in a service of yours.
//!
//! ```
//! use otel_tasks::{TaskManager, page::Page};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
//! let tasks = TaskManager::new();
//! let page = Page::new(&tasks).serve("127.0.0.1:0")?;
//! println!("http://{}", page.address());
//! # Ok(()) }
//! ```
//!
//! | path | answers |
//! |---|---|
//! | `/` | the page |
//! | `/health/live`, `/health/ready`, `/health/startup` | 200 or 503, with the reasons: for the probes of Kubernetes |
//! | `/tasks`, `/tasks/{name}` | every task; everything about one |
//! | `/events` | server-sent events: `all` at first, then `delta` |
//! | `/metrics` | Prometheus text, or OpenMetrics where it is asked for; needs a [`Feed`] |
//! | `/openapi.json` | all of this, as an OpenAPI document |
//! | `POST /tasks/{name}/{action}` | `restart`, `pause`, `resume`, `stop`; needs a [token](Page::token) |
//!
//! # What it costs
//!
//! Nothing is computed while nobody looks. With a client, all cells are read once a second, for all clients together.
//! [`Feed`]'s spans are kept as they end, in a ring of bounded size.
//!
//! # Who may look
//!
//! Whoever reaches the address: bind it to loopback, or stand behind what authenticates. Requests whose `Host` is a name that was
//! not [allowed](Page::allow_host) are refused, so that no page of the web can read it through a name that it has pointed here (DNS
//! rebinding); IP addresses and `localhost` always are allowed. Writes need the token, and an `Origin` that is the page's own.

mod api;
mod control;
mod guard;
mod live;
mod metrics;
mod server;
mod spans;
mod view;

use std::{fmt, io, net::ToSocketAddrs, sync::Arc};

use opentelemetry_sdk::{error::OTelSdkError, metrics::reader::MetricReader, trace::SpanProcessor};
pub use server::PageServer;

use crate::TaskManager;

/// How many spans a [`Feed`] keeps.
pub const FEED_SPANS: usize = 4_096;
/// How many bytes of spans a [`Feed`] keeps, about: 8 MiB.
pub const FEED_BYTES: usize = 8 << 20;
/// How many clients may be told of changes at once.
pub const DEFAULT_STREAMS: usize = 64;

/// What a page shows beside the tasks themselves: the last spans, and the metrics.
///
/// It is given to the telemetry, which fills it, and to the page, which shows it. Clones share what they hold.
///
/// ```
/// use opentelemetry_sdk::{metrics::SdkMeterProvider, trace::SdkTracerProvider};
/// use otel_tasks::page::Feed;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let feed = Feed::default();
/// let traces = SdkTracerProvider::builder().with_span_processor(feed.span_processor()).build();
/// let metrics = SdkMeterProvider::builder().with_reader(feed.metric_reader()?).build();
/// # drop((traces, metrics));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Feed {
    ring: Arc<spans::SpanRing>,
    registry: prometheus::Registry,
}

impl Default for Feed {
    fn default() -> Self {
        Self {
            ring: Arc::new(spans::SpanRing::new(FEED_SPANS, FEED_BYTES)),
            registry: prometheus::Registry::new(),
        }
    }
}

impl Feed {
    /// The part for a tracer provider: keeps the last [`FEED_SPANS`] ended spans, at most [`FEED_BYTES`] of them, and those under
    /// way.
    pub fn span_processor(&self) -> impl SpanProcessor + use<> {
        spans::RingProcessor(self.ring.clone())
    }

    /// The part for a meter provider: collects when `/metrics` is asked for.
    ///
    /// # Errors
    /// Where this feed has a reader already.
    pub fn metric_reader(&self) -> Result<impl MetricReader + use<>, OTelSdkError> {
        metrics::reader(&self.registry)
    }
}

/// A page of a manager's tasks. It does not keep the manager alive.
#[must_use = "nothing answers before `router` or `serve`"]
pub struct Page {
    manager: TaskManager,
    feed: Option<Feed>,
    token: Option<String>,
    hosts: guard::Hosts,
    streams: usize,
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page")
            .field("manager", &self.manager)
            .field("control", &self.token.is_some())
            .field("streams", &self.streams)
            .finish_non_exhaustive()
    }
}

impl Page {
    /// A page that shows, and controls nothing.
    pub fn new(manager: &TaskManager) -> Self {
        Self {
            manager: manager.clone(),
            feed: None,
            token: None,
            hosts: guard::Hosts::default(),
            streams: DEFAULT_STREAMS,
        }
    }

    /// What it shows beside the tasks: traces and `/metrics`.
    pub fn feed(mut self, feed: &Feed) -> Self {
        self.feed = Some(feed.clone());
        self
    }

    /// Lets whoever knows this token restart, pause, resume and stop tasks. An empty token is none.
    ///
    /// It is sent as `Authorization: Bearer`, so choose it long and random, and do not send it over a network without TLS. Each
    /// attempt is a span `bot.control_task` and a log record.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into()).filter(|token| !token.is_empty());
        self
    }

    /// Answers requests for this host name, too: that of a proxy in front of it, say. Without port.
    pub fn allow_host(mut self, name: impl Into<String>) -> Self {
        self.hosts.allow(&name.into());
        self
    }

    /// How many clients may be told of changes at once ([`DEFAULT_STREAMS`]); more are refused, with 503.
    pub fn streams(mut self, most: usize) -> Self {
        self.streams = most;
        self
    }

    /// The page as a router, to be nested in another. Its streams are part of the service they run in: a blocked worker holds
    /// them up.
    pub fn router(self) -> axum::Router {
        api::router(self)
    }

    /// Serves the page on a thread and a runtime of its own, until the [`PageServer`] is dropped.
    ///
    /// # Errors
    /// Where no address can be bound or the thread cannot be started.
    pub fn serve(self, address: impl ToSocketAddrs) -> io::Result<PageServer> {
        server::serve(self.router(), address)
    }
}
