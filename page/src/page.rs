//! The settings of a page.

use std::fmt;

use futures_util::future::BoxFuture;
use opentelemetry::metrics::Meter;
use otel_tasks::{TaskManager, events::TaskEvents, task::WeakTaskManager};

use crate::{Feed, guard::Hosts};

/// A page of one manager's tasks. It does not keep the manager alive.
///
/// # Examples
///
/// ```
/// use otel_tasks::TaskManager;
/// use otel_tasks_page::Page;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// # #[derive(Clone)] struct Service;
/// let tasks = TaskManager::new();
/// let service: axum::Router = axum::Router::new()
///     .merge(Page::new(&tasks).nested("/admin/tasks"))
///     .with_state(Service);
/// # drop(service);
/// # }
/// ```
#[must_use = "a page responds to nothing before `router` or `serve`"]
pub struct Page {
    pub(crate) manager: WeakTaskManager,
    pub(crate) events: TaskEvents,
    pub(crate) feed: Option<Feed>,
    pub(crate) token: Option<String>,
    pub(crate) hosts: Hosts,
    pub(crate) streams: usize,
    pub(crate) connections: usize,
    pub(crate) until: Option<BoxFuture<'static, ()>>,
    pub(crate) trace_link: Option<String>,
    pub(crate) meter: Option<Meter>,
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
    /// The most event streams at once by default.
    pub const DEFAULT_STREAMS: usize = 32;

    /// The most connections at once by default.
    pub const DEFAULT_CONNECTIONS: usize = 64;

    /// Creates a page without control. It shows the events from now on.
    pub fn new(manager: &TaskManager) -> Self {
        manager.record_minutes();
        Self {
            manager: manager.downgrade(),
            events: manager.subscribe(),
            feed: None,
            token: None,
            hosts: Hosts::default(),
            streams: Self::DEFAULT_STREAMS,
            connections: Self::DEFAULT_CONNECTIONS,
            until: None,
            trace_link: None,
            meter: None,
        }
    }

    /// Adds traces and `/metrics` to the page.
    pub fn feed(mut self, feed: &Feed) -> Self {
        self.feed = Some(feed.clone());
        self
    }

    /// Allows requests with this token to restart, pause, resume and stop tasks, and to run an iteration of a loop. An empty token allows nothing.
    ///
    /// The client sends it as `Authorization: Bearer`. Use a long random token, and TLS outside of loopback.
    ///
    /// Each request with the token becomes a `tracing` span `bot.control_task` and a log record `task.controlled`. Requests without it
    /// are counted in `task.control.refusals`: the first is a log record, and one a minute at most after it.
    ///
    /// A wrong token is refused after a second, and further tokens of the same address wait for that. The address is that of the
    /// connection: [`router`](Self::router) knows it if the service is made with axum's `into_make_service_with_connect_info::<SocketAddr>()`.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into()).filter(|token| !token.is_empty());
        self
    }

    /// Allows requests for this host name, for example the name of a proxy. Without port.
    pub fn allow_host(mut self, name: impl Into<String>) -> Self {
        self.hosts.allow(&name.into());
        self
    }

    /// Counts refused requests through this meter instead of the global provider's, which has to be set before the page is made.
    ///
    /// The counter is [`CONTROL_REFUSALS`](otel_tasks::telemetry::contract::page::CONTROL_REFUSALS).
    pub fn meter(mut self, meter: Meter) -> Self {
        self.meter = Some(meter);
        self
    }

    /// Links each trace to where it is stored: `{trace_id}` in the address becomes the trace's id, 32 hexadecimal digits.
    ///
    /// An address that is neither `http://` nor `https://` is shown nowhere.
    ///
    /// # Examples
    ///
    /// ```
    /// # use otel_tasks::TaskManager;
    /// # use otel_tasks_page::Page;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let tasks = TaskManager::new();
    /// let jaeger = Page::new(&tasks).trace_link("https://jaeger.example.com/trace/{trace_id}");
    /// // Tempo, in Grafana's Explore:
    /// let grafana = Page::new(&tasks).trace_link(concat!(
    ///     "https://grafana.example.com/explore?schemaVersion=1&panes=",
    ///     r#"{"t":{"datasource":"tempo","queries":[{"refId":"A","queryType":"traceql","query":"{trace_id}"}]}}"#,
    /// ));
    /// # drop((jaeger, grafana));
    /// # }
    /// ```
    pub fn trace_link(mut self, address: impl Into<String>) -> Self {
        let is_web = |address: &String| address.starts_with("https://") || address.starts_with("http://");
        self.trace_link = Some(address.into()).filter(is_web);
        self
    }

    /// Sets the most connections at once of [`serve`](Self::serve) ([`DEFAULT_CONNECTIONS`](Self::DEFAULT_CONNECTIONS)).
    ///
    /// The maximum is a quarter of the descriptors that the process may have (`RLIMIT_NOFILE`). Half of the connections may have the same
    /// address. Beyond that, `/health/*` still responds, and any other request is refused with 503.
    pub fn connections(mut self, most: usize) -> Self {
        self.connections = most;
        self
    }

    /// Ends the event streams when `end` completes.
    ///
    /// By default those of [`router`](Self::router) end when the ordered shutdown begins, and those of [`serve`](Self::serve) after its last event.
    pub fn until(mut self, end: impl Future<Output = ()> + Send + 'static) -> Self {
        self.until = Some(Box::pin(end));
        self
    }

    /// Sets the most event streams at once ([`DEFAULT_STREAMS`](Self::DEFAULT_STREAMS)). Further ones are refused with 503.
    pub fn streams(mut self, most: usize) -> Self {
        self.streams = most;
        self
    }
}
