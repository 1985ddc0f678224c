//! The paths of the page, and the document that describes them.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    middleware,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::{get, post},
};
use futures_util::StreamExt;
use utoipa::OpenApi;

use crate::{
    Feed, Page, assets,
    control::{Action, Refused, control},
    format::{shortened, unix},
    guard::{guard, refusal},
    live::{Gone, Hub, Message, TooMany},
    metrics,
    view::{
        self, ErrorView, EventView, Lane, Probe, ProbeView, RuntimeView, Shown, Summary, TaskDetail, TaskRow,
    },
};

/// How often a stream says that it is there, where nothing changes.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How much of a name that nobody knows is written down.
const NAME: usize = 256;

/// What the paths share.
struct Api {
    hub: Arc<Hub>,
    feed: Option<Feed>,
    token: Option<String>,
    streams_end: StreamsEnd,
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

/// When event streams end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamsEnd {
    /// When the ordered shutdown begins: the server is a part of the service.
    WithShutdown,
    /// When the manager is gone: the server is the page's own, and shows the shutdown too.
    WithManager,
}

pub(crate) fn router<S: Clone + Send + Sync + 'static>(page: Page, streams_end: StreamsEnd) -> Router<S> {
    let Page { manager, events: subscription, feed, token, hosts, streams, trace_link } = page;
    let ring = feed.as_ref().map(|feed| feed.ring.clone());
    let shown =
        Shown { control: token.is_some(), traces: ring.is_some(), trace_link: trace_link.map(Into::into) };
    let api = Api { hub: Hub::new(manager, subscription, ring, shown, streams), feed, token, streams_end };
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
        .route("/metrics", get(metrics))
        .fallback(|| async { refusal(StatusCode::NOT_FOUND, "there is no such path") })
        .layer(middleware::from_fn_with_state(Arc::new(hosts), guard))
        .with_state(Arc::new(api))
}

impl IntoResponse for Gone {
    fn into_response(self) -> Response {
        refusal(StatusCode::SERVICE_UNAVAILABLE, "the manager is gone")
    }
}

/// Whether the service is alive.
#[utoipa::path(get, path = "/health/live", responses(
    (status = 200, description = "It is alive.", body = ProbeView),
    (status = 503, description = "Restarting the process can help: a required task stalled or was given up for good, or the runtime runs nothing.", body = ProbeView),
))]
async fn live(State(api): Shared) -> Response {
    answer(&api, Probe::Live)
}

/// Whether to send it work.
#[utoipa::path(get, path = "/health/ready", responses(
    (status = 200, description = "Every required task is ready, paused or finished.", body = ProbeView),
    (status = 503, description = "Not all are, or it is shutting down.", body = ProbeView),
))]
async fn ready(State(api): Shared) -> Response {
    answer(&api, Probe::Ready)
}

/// Whether every task has been ready once.
#[utoipa::path(get, path = "/health/startup", responses(
    (status = 200, description = "Every required task has been ready at least once, or is paused.", body = ProbeView),
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
    (status = 503, description = "The manager is gone.", body = ErrorView),
))]
async fn tasks(State(api): Shared) -> Result<Json<Tasks>, Gone> {
    let (summary, tasks) = api.hub.overview()?;
    Ok(Json(Tasks { summary, tasks }))
}

/// Everything about one task.
#[utoipa::path(get, path = "/tasks/{name}", params(("name" = String, Path, description = "The task's name.")), responses(
    (status = 200, description = "What is known of it.", body = TaskDetail),
    (status = 404, description = "No task of this name was ever seen.", body = ErrorView),
    (status = 503, description = "The manager is gone.", body = ErrorView),
))]
async fn task(State(api): Shared, Path(name): Path<String>) -> Result<Response, Gone> {
    Ok(match api.hub.detail(&name)? {
        Some(detail) => Json(detail).into_response(),
        None => unknown(&name),
    })
}

fn unknown(name: &str) -> Response {
    refusal(StatusCode::NOT_FOUND, format!("no task of the name {:?} was ever seen", shortened(name, NAME)))
}

/// Restarts, pauses, resumes or stops a registered task.
#[utoipa::path(post, path = "/tasks/{name}/{action}",
    params(
        ("name" = String, Path, description = "The task's name."),
        ("action" = String, Path, description = "restart, pause, resume, stop or run."),
    ),
    responses(
        (status = 202, description = "The task was told."),
        (status = 401, description = "The token is missing or wrong.", body = ErrorView),
        (status = 403, description = "Control is off, or the request comes from elsewhere.", body = ErrorView),
        (status = 404, description = "There is no such task or action.", body = ErrorView),
        (status = 409, description = "Not now: the limit of restarts is reached, or the manager is shutting down.", body = ErrorView),
        (status = 503, description = "The manager is gone.", body = ErrorView),
    ),
    security(("token" = [])),
)]
async fn act(
    State(api): Shared,
    Path((name, action)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Gone> {
    let Some(action) = Action::parse(&action) else {
        return Ok(refusal(StatusCode::NOT_FOUND, "an action is restart, pause, resume, stop or run"));
    };
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer "));
    let manager = api.hub.manager()?;
    Ok(match control(&manager, api.token.as_deref(), given, shortened(&name, NAME), action) {
        Ok(()) => StatusCode::ACCEPTED.into_response(),
        Err(Refused::Off) => refusal(StatusCode::FORBIDDEN, "control is off: see Page::token"),
        Err(Refused::Token) => {
            let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
            (challenge, refusal(StatusCode::UNAUTHORIZED, "the token is missing or wrong")).into_response()
        }
        Err(Refused::Unknown(error)) => refusal(StatusCode::NOT_FOUND, error),
        Err(Refused::Conflict(error)) => refusal(StatusCode::CONFLICT, error),
    })
}

/// What changes, as server-sent events.
#[utoipa::path(get, path = "/events", responses(
    (status = 200, description = "`all`: everything, at first and to whoever was too slow; then `delta`: what has changed, at most once a second; `alive` where nothing changes for 15 s.", content_type = "text/event-stream", body = String),
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
    let ends_with_shutdown = api.streams_end == StreamsEnd::WithShutdown;
    let shutdown = api.hub.manager().ok().filter(|_| ends_with_shutdown).map(|tasks| tasks.shutting_down());
    let end = async move {
        match shutdown {
            Some(shutdown) => shutdown.await,
            None => std::future::pending().await,
        }
    };
    let events = stream.take_until(end).map(|message| {
        Ok::<_, Infallible>(match message {
            Message::All(text) => Event::default().event("all").data(text),
            Message::Delta(text) => Event::default().event("delta").data(text),
        })
    });
    // A comment is seen by no script: the page takes a stream that says nothing for a dead one.
    let alive = KeepAlive::new().interval(KEEP_ALIVE).event(Event::default().event("alive").data(""));
    Sse::new(events).keep_alive(alive).into_response()
}

/// What was told lately.
#[derive(serde::Serialize, utoipa::ToSchema)]
struct Recent {
    events: Vec<EventView>,
    /// Events that were dropped unread, because nobody looked for so long.
    missed: u64,
}

/// The last events of all tasks.
#[utoipa::path(get, path = "/events/recent", responses(
    (status = 200, description = "The last events, the oldest first.", body = Recent),
))]
async fn recent(State(api): Shared) -> Json<Recent> {
    let (events, missed) = api.hub.all_events();
    Json(Recent { events, missed })
}

/// When loops run.
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
async fn schedule(State(api): Shared) -> Result<Json<Lanes>, Gone> {
    let tasks = view::lanes(&api.hub.manager()?);
    Ok(Json(Lanes { at: unix(SystemTime::now()), tasks }))
}

/// The tokio runtime of the service.
#[utoipa::path(get, path = "/runtime", responses(
    (status = 200, description = "What tokio tells of it, and who blocks a thread.", body = RuntimeView),
    (status = 503, description = "The manager is gone.", body = ErrorView),
))]
async fn runtime(State(api): Shared) -> Result<Json<RuntimeView>, Gone> {
    Ok(Json(view::runtime(&api.hub.manager()?)))
}

/// All metrics.
#[utoipa::path(get, path = "/metrics", responses(
    (status = 200, description = "Prometheus text, or OpenMetrics where `Accept` asks for it.", content_type = "text/plain", body = String),
    (status = 404, description = "The page has no feed.", body = ErrorView),
))]
async fn metrics(State(api): Shared, headers: HeaderMap) -> Response {
    let Some(feed) = &api.feed else {
        return refusal(StatusCode::NOT_FOUND, "this page is given no metrics: see Page::feed");
    };
    let registry = feed.registry();
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let (kind, text) = if metrics::wants_open_metrics(accept) {
        // Before the figures, which then have the runs that the exemplars are of.
        let exemplars = api.hub.exemplars();
        (metrics::OPEN_METRICS, Ok(metrics::open_metrics(&registry, &exemplars)))
    } else {
        (metrics::TEXT, metrics::text(&registry))
    };
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

#[derive(OpenApi)]
#[openapi(
    info(title = "otel-tasks", description = "The tasks of one process: what they do and how they are."),
    paths(live, ready, startup, tasks, task, act, events, recent, schedule, runtime, metrics),
    modifiers(&Token)
)]
struct Document;

/// How writes are permitted.
struct Token;

impl utoipa::Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}
