//! The paths of the page, and the document that describes them.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{ConnectInfo, Extension, Path, State},
    http::{HeaderMap, HeaderName, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use futures_util::{
    FutureExt, StreamExt,
    future::{self, BoxFuture},
};
use otel_tasks::telemetry::contract::SCOPE;
use utoipa::OpenApi;

use crate::{
    Feed, Page,
    answers::{self, Busy, Maker},
    assets,
    control::{Action, Refusals, Refused, control, permit},
    format::{shortened, unix},
    guard::{METRICS, guard, refusal},
    guesses::Guesses,
    live::{Gone, Hub, TooMany, frame},
    metrics,
    view::{
        self, ErrorView, EventView, Lane, Probe, ProbeView, RuntimeView, Shown, Summary, TaskDetail, TaskRow,
    },
};

/// The interval of `alive` messages of a stream without changes.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The longest name of a task, and how much of another one is written down.
const NAME: usize = 256;
/// The time for which one response serves all requests for it.
const FRESH: Duration = Duration::from_millis(100);
/// The same of `/metrics`, which is asked for less often and costs more.
const METRICS_FRESH: Duration = Duration::from_secs(1);

/// The state that the paths share.
struct Api {
    hub: Arc<Hub>,
    feed: Option<Feed>,
    token: Option<String>,
    refusals: Refusals,
    guesses: Guesses,
    streams_end: StreamsEnd,
    until: Option<future::Shared<BoxFuture<'static, ()>>>,
    maker: Maker,
    tasks: answers::Shared,
    schedule: answers::Shared,
    /// Prometheus' text and OpenMetrics.
    metrics: [answers::Shared; 2],
}

type Shared = State<Arc<Api>>;

impl Page {
    /// Returns the page as a router, to nest in a router with any state.
    ///
    /// Its event streams run on the runtime of the service: a blocked worker delays them. They end when the ordered shutdown begins,
    /// so that they do not hold up the graceful shutdown of the server.
    pub fn router<S: Clone + Send + Sync + 'static>(self) -> Router<S> {
        router(self, StreamsEnd::WithShutdown)
    }
}

impl Page {
    /// Returns the page below `path`, to merge into a router with any state. The address may have a slash at the end, too.
    ///
    /// With [`axum::Router::nest`], the address with a slash at the end is not found.
    ///
    /// # Panics
    ///
    /// If `path` does not begin with `/`, or has parameters in it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use otel_tasks::TaskManager;
    /// # use otel_tasks_page::Page;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # #[derive(Clone)] struct Service;
    /// let tasks = TaskManager::new();
    /// let service: axum::Router =
    ///     axum::Router::new().merge(Page::new(&tasks).nested("/admin/tasks")).with_state(Service);
    /// # drop(service);
    /// # }
    /// ```
    pub fn nested<S: Clone + Send + Sync + 'static>(self, path: &str) -> Router<S> {
        Router::new().nest_service(path, router::<()>(self, StreamsEnd::WithShutdown))
    }
}

/// The moment at which event streams end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamsEnd {
    /// At the begin of the ordered shutdown: the server is a part of the service.
    WithShutdown,
    /// After the last event of the shutdown: the server is the page's own, and shows the shutdown too.
    AfterShutdown,
}

pub(crate) fn router<S: Clone + Send + Sync + 'static>(page: Page, streams_end: StreamsEnd) -> Router<S> {
    let Page {
        manager,
        events: subscription,
        feed,
        token,
        hosts,
        streams,
        connections: _,
        until,
        trace_link,
        meter,
    } = page;
    let maker = Maker::default();
    let shown = Shown { control: token.is_some(), traces: false, trace_link: trace_link.map(Into::into) };
    let api = Api {
        hub: Hub::new(manager, subscription, feed.clone(), shown, streams, maker.room().clone()),
        feed,
        token,
        refusals: Refusals::new(&meter.unwrap_or_else(|| opentelemetry::global::meter(SCOPE))),
        guesses: Guesses::default(),
        streams_end,
        until: until.map(FutureExt::shared),
        maker,
        tasks: answers::Shared::new(FRESH),
        schedule: answers::Shared::new(FRESH),
        metrics: [METRICS_FRESH; 2].map(answers::Shared::new),
    };
    Router::new()
        .route("/", get(assets::index))
        .route("/assets/{*name}", get(assets::file))
        .route("/openapi.json", get(|| async { Json(Document::openapi()) }))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/health/startup", get(startup))
        .route("/tasks", get(tasks))
        .route("/tasks/{name}", get(task))
        .route("/tasks/{name}/{action}", post(act))
        .route("/events", get(events))
        .route("/events/recent", get(recent))
        .route("/schedule", get(schedule))
        .route("/runtime", get(runtime))
        .route(METRICS, get(metrics))
        .fallback(|| async { refusal(StatusCode::NOT_FOUND, "there is no such path") })
        .layer(middleware::from_fn_with_state(Arc::new(hosts), guard))
        .with_state(Arc::new(api))
}

impl IntoResponse for Gone {
    fn into_response(self) -> Response {
        refusal(StatusCode::SERVICE_UNAVAILABLE, "the manager is gone")
    }
}

impl IntoResponse for Busy {
    fn into_response(self) -> Response {
        let later = [(header::RETRY_AFTER, "1")];
        let refusal = refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "the page is busy: other clients have not read their responses",
        );
        (later, refusal).into_response()
    }
}

/// The reason for a response without data.
#[derive(Debug)]
enum NoAnswer {
    Gone,
    Busy,
    Failed(String),
}

impl From<Gone> for NoAnswer {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

impl From<Busy> for NoAnswer {
    fn from(Busy: Busy) -> Self {
        Self::Busy
    }
}

impl IntoResponse for NoAnswer {
    fn into_response(self) -> Response {
        match self {
            Self::Gone => Gone.into_response(),
            Self::Busy => Busy.into_response(),
            Self::Failed(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, error),
        }
    }
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, NoAnswer> {
    serde_json::to_vec(value).map_err(|error| NoAnswer::Failed(error.to_string()))
}

fn is_json(bytes: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], bytes).into_response()
}

/// The liveness of the service.
#[utoipa::path(get, path = "/health/live", responses(
    (status = 200, description = "It is alive.", body = ProbeView),
    (status = 503, description = "Restarting the process can help: a required task stalled or was given up for good, or the runtime runs nothing.", body = ProbeView),
))]
async fn live(State(api): Shared) -> Response {
    answer(&api, Probe::Live)
}

/// The readiness of the service.
#[utoipa::path(get, path = "/health/ready", responses(
    (status = 200, description = "Every required task is ready, paused, standing by or finished.", body = ProbeView),
    (status = 503, description = "Not all are, or it is shutting down.", body = ProbeView),
))]
async fn ready(State(api): Shared) -> Response {
    answer(&api, Probe::Ready)
}

/// The startup of the service: each required task has been ready once.
#[utoipa::path(get, path = "/health/startup", responses(
    (status = 200, description = "Every required task has been ready at least once, or is paused or standing by.", body = ProbeView),
    (status = 503, description = "Some have not.", body = ProbeView),
))]
async fn startup(State(api): Shared) -> Response {
    answer(&api, Probe::Startup)
}

fn answer(api: &Api, probe: Probe) -> Response {
    let manager = match api.hub.manager() {
        Ok(manager) => manager,
        Err(gone) => return gone.into_response(),
    };
    let (passes, view) = view::probe(&manager, probe);
    let status = if passes { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(view)).into_response()
}

/// Every task, and the service as a whole.
#[derive(serde::Serialize, utoipa::ToSchema)]
struct Tasks {
    summary: Summary,
    tasks: Vec<TaskRow>,
}

/// Every task, by name.
#[utoipa::path(get, path = "/tasks", responses(
    (status = 200, description = "Every name that is known, in order.", body = Tasks),
    (status = 503, description = "The manager is gone, or the page is busy: other clients have not read their responses.", body = ErrorView),
))]
async fn tasks(State(api): Shared) -> Result<Response, NoAnswer> {
    let hub = api.hub.clone();
    let make = move || {
        let (summary, tasks) = hub.overview()?;
        json(&Tasks { summary, tasks })
    };
    Ok(is_json(api.tasks.get(&api.maker, make).await?))
}

/// Everything about one task.
#[utoipa::path(get, path = "/tasks/{name}", params(("name" = String, Path, description = "The task's name.")), responses(
    (status = 200, description = "What is known of it.", body = TaskDetail),
    (status = 404, description = "No task of this name was ever seen.", body = ErrorView),
    (status = 503, description = "The manager is gone, or the page is busy: other clients have not read their responses.", body = ErrorView),
))]
async fn task(State(api): Shared, Path(name): Path<String>) -> Result<Response, NoAnswer> {
    let (hub, of) = (api.hub.clone(), name.clone());
    let made = api.maker.make(move || hub.detail(&of)?.as_ref().map(json).transpose()).await?;
    Ok(match made? {
        Some(detail) => is_json(api.maker.room().hold(detail)?),
        None => unknown(&name),
    })
}

fn unknown(name: &str) -> Response {
    refusal(StatusCode::NOT_FOUND, format!("no task of the name {:?} was ever seen", shortened(name, NAME)))
}

/// Restarts, pauses, resumes or stops a registered task, or runs an iteration of a loop.
#[utoipa::path(post, path = "/tasks/{name}/{action}",
    params(
        ("name" = String, Path, description = "The task's name."),
        ("action" = String, Path, description = "restart, pause, resume, stop or run."),
    ),
    responses(
        (status = 202, description = "The request was passed to the task."),
        (status = 401, description = "The token is missing or wrong.", body = ErrorView),
        (status = 403, description = "Control is off, or the request comes from elsewhere.", body = ErrorView),
        (status = 404, description = "There is no such task or action.", body = ErrorView),
        (status = 409, description = "Not now: the action has no effect in the task's state, the limit of restarts is reached, or the manager is shutting down. `error` says which.", body = ErrorView),
        (status = 429, description = "Too many requests from this address wait until their token is checked.", body = ErrorView),
        (status = 503, description = "The manager is gone.", body = ErrorView),
    ),
    security(("token" = [])),
)]
async fn act(
    State(api): Shared,
    Path((name, action)): Path<(String, String)>,
    from: Option<Extension<ConnectInfo<SocketAddr>>>,
    headers: HeaderMap,
) -> Result<Response, Gone> {
    let Some(action) = Action::parse(&action) else {
        return Ok(refusal(StatusCode::NOT_FOUND, "an action is restart, pause, resume, stop or run"));
    };
    if name.len() > NAME {
        return Ok(unknown(&name));
    }
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(bearer);
    let from = from.map(|Extension(ConnectInfo(address))| address.ip());
    let done = match permit(&api.guesses, api.token.as_deref(), given, from).await {
        Ok(()) => control(&api.hub.manager()?, &name, action),
        Err(refused) => {
            api.refusals.note(&name, action, refused.as_str());
            Err(refused)
        }
    };
    Ok(match done {
        Ok(()) => {
            // What is asked for next shows it.
            api.tasks.forget();
            StatusCode::ACCEPTED.into_response()
        }
        Err(Refused::Off) => refusal(StatusCode::FORBIDDEN, "control is off: see Page::token"),
        Err(Refused::Token) => {
            let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
            (challenge, refusal(StatusCode::UNAUTHORIZED, "the token is missing or wrong")).into_response()
        }
        Err(Refused::Busy) => {
            let later = [(header::RETRY_AFTER, "10")];
            let why = "too many requests from this address wait until their token is checked";
            (later, refusal(StatusCode::TOO_MANY_REQUESTS, why)).into_response()
        }
        Err(Refused::Unknown(error)) => refusal(StatusCode::NOT_FOUND, error),
        Err(Refused::Conflict(error)) => refusal(StatusCode::CONFLICT, error),
    })
}

/// The token of an `Authorization` whose scheme is `Bearer`, in any case (RFC 9110, section 11.1).
fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start())
}

/// Changes, as server-sent events.
#[utoipa::path(get, path = "/events", responses(
    (status = 200, description = "`all`: everything, at first and for a client that was too slow; then `delta`: what has changed, at most once a second; `alive` where nothing changes for 15 s.", content_type = "text/event-stream", body = String),
    (status = 503, description = "There are as many streams as are allowed.", body = ErrorView),
))]
async fn events(State(api): Shared) -> Response {
    let stream = match api.hub.watch() {
        Ok(stream) => stream,
        Err(TooMany) => {
            let later = [(header::RETRY_AFTER, "10")];
            let refusal =
                refusal(StatusCode::SERVICE_UNAVAILABLE, "there are as many streams as are allowed");
            return (later, refusal).into_response();
        }
    };
    let shutdown = match api.streams_end {
        StreamsEnd::WithShutdown => api.hub.manager().ok().map(|tasks| tasks.shutting_down()),
        StreamsEnd::AfterShutdown => None,
    };
    let until = api.until.clone();
    let end = async move {
        match (until, shutdown) {
            (Some(until), _) => until.await,
            (None, Some(shutdown)) => shutdown.await,
            (None, None) => std::future::pending().await,
        }
    };
    // An event and no comment, which no script sees: the page takes a stream that says nothing for a dead one.
    let alive = Bytes::from(frame("alive", ""));
    let stream = Box::pin(stream.take_until(end));
    let frames = futures_util::stream::unfold(stream, move |mut stream| {
        let alive = alive.clone();
        async move {
            let next = tokio::time::timeout(KEEP_ALIVE, stream.next()).await;
            let frame = next.unwrap_or(Some(alive))?;
            Some((Ok::<_, Infallible>(frame), stream))
        }
    });
    // nginx would keep it back until a buffer is full.
    let head =
        [(header::CONTENT_TYPE, "text/event-stream"), (HeaderName::from_static("x-accel-buffering"), "no")];
    (head, Body::from_stream(frames)).into_response()
}

/// The latest events.
#[derive(serde::Serialize, utoipa::ToSchema)]
struct Recent {
    events: Vec<EventView>,
    /// The number of events that were dropped before a client read them.
    missed: u64,
}

/// The last events of all tasks.
#[utoipa::path(get, path = "/events/recent", responses(
    (status = 200, description = "The last events, the oldest first.", body = Recent),
    (status = 503, description = "The page is busy: other clients have not read their responses.", body = ErrorView),
))]
async fn recent(State(api): Shared) -> Result<Response, NoAnswer> {
    let hub = api.hub.clone();
    let make = move || {
        let (events, missed) = hub.all_events();
        json(&Recent { events, missed })
    };
    Ok(is_json(api.maker.answer(make).await?))
}

/// The next runs of the loops.
#[derive(serde::Serialize, utoipa::ToSchema)]
struct Lanes {
    at: f64,
    tasks: Vec<Lane>,
}

/// The runs of the next 24 hours.
#[utoipa::path(get, path = "/schedule", responses(
    (status = 200, description = "Every registered loop, the next one first.", body = Lanes),
    (status = 503, description = "The manager is gone.", body = ErrorView),
))]
async fn schedule(State(api): Shared) -> Result<Response, NoAnswer> {
    let hub = api.hub.clone();
    let make = move || {
        let tasks = view::lanes(&hub.manager()?);
        json(&Lanes { at: unix(SystemTime::now()), tasks })
    };
    Ok(is_json(api.schedule.get(&api.maker, make).await?))
}

/// The tokio runtime of the service.
#[utoipa::path(get, path = "/runtime", responses(
    (status = 200, description = "The figures of tokio, and the tasks that block a thread.", body = RuntimeView),
    (status = 503, description = "The manager is gone.", body = ErrorView),
))]
async fn runtime(State(api): Shared) -> Result<Json<RuntimeView>, Gone> {
    Ok(Json(view::runtime(&api.hub.manager()?)))
}

/// All metrics.
#[utoipa::path(get, path = "/metrics", responses(
    (status = 200, description = "Prometheus text, or OpenMetrics where `Accept` asks for it.", content_type = "text/plain", body = String),
    (status = 404, description = "The page has no feed, or the feed no meter provider.", body = ErrorView),
    (status = 503, description = "The page is busy: other clients have not read their responses.", body = ErrorView),
))]
async fn metrics(State(api): Shared, headers: HeaderMap) -> Result<Response, NoAnswer> {
    let Some(feed) = &api.feed else {
        return Ok(refusal(StatusCode::NOT_FOUND, "this page is given no metrics: see Page::feed"));
    };
    let Some(reader) = feed.reader() else {
        let why = "the page's feed has no meter provider: OTEL_SDK_DISABLED is true, or the feed was given to no telemetry \
                   (Telemetry::builder().with(&feed), Feed::read_metrics)";
        return Ok(refusal(StatusCode::NOT_FOUND, why));
    };
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let is_open = metrics::wants_open_metrics(accept);
    let format = if is_open { metrics::Format::OpenMetrics } else { metrics::Format::Text };
    let hub = api.hub.clone();
    let make = move || {
        // Before the figures, which then have the runs that the exemplars are of.
        let exemplars = if is_open { hub.exemplars() } else { Vec::new() };
        reader.read(format, &exemplars).map(String::into_bytes).map_err(NoAnswer::Failed)
    };
    let text = api.metrics[usize::from(is_open)].get(&api.maker, make).await?;
    Ok(([(header::CONTENT_TYPE, format.content_type())], text).into_response())
}

#[derive(OpenApi)]
#[openapi(
    info(title = "otel-tasks", description = "The tasks of one process: what they do and how they are."),
    paths(live, ready, startup, tasks, task, act, events, recent, schedule, runtime, metrics),
    modifiers(&Token)
)]
struct Document;

/// The scheme by which writes are permitted.
struct Token;

impl utoipa::Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}
