//! The one connection to the API server: requests and the watch are side by side in HTTP/2. It has the credentials, and the pauses that the
//! server asks for.

use std::{
    error::Error,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http2::{self, SendRequest},
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use otel_tasks::gate::BootInstant;
use serde_json::Value;
use tokio::{net::TcpStream, sync::Notify, task::AbortHandle};
use tokio_rustls::TlsConnector;

use super::{
    config::{Config, Server},
    error::RequestError,
    object::{LABEL, Object},
};
use crate::{
    connection::{Connection, Slot},
    store::StoreError,
};

/// The longest response. etcd keeps no object above 1.5 MiB.
pub(super) const LONGEST_RESPONSE: usize = 4 << 20;
/// The time between two readings of the token's file: the kubelet replaces a token long before it is over.
const TOKEN_LASTS: Duration = Duration::from_secs(60);
/// The longest pause that the server can ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A watch ends after this time and is begun again if a candidate waits.
const WATCH_LASTS: Duration = Duration::from_secs(60);
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("otel-tasks-lease/", env!("CARGO_PKG_VERSION")));

/// The result of a write or a read of an object.
#[derive(Debug)]
pub(super) enum Reply {
    Object(Object),
    Absent,
    /// Another request changed it first.
    Conflict,
}

pub(super) struct Api {
    config: Config,
    server: Server,
    /// The URL of the namespace's leases.
    leases: String,
    connection: Slot<Live>,
    /// Notified of each connection.
    pub(super) made: Arc<Notify>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<(HeaderValue, BootInstant)>,
    /// No request is sent before this time, and why.
    pause: Option<(BootInstant, Option<Duration>)>,
}

/// A connection.
struct Live {
    sender: SendRequest<Full<Bytes>>,
    /// Counts what was received. Only compared with itself.
    heard: Arc<AtomicU64>,
    driver: AbortHandle,
}

impl Connection for Live {
    fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl Drop for Live {
    /// Also while a watch is open.
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A request that waits for its response. If it is dropped before that and nothing else was received since, its connection is given up: it may
/// be dead.
struct Waits<'a> {
    api: &'a Api,
    live: &'a Arc<Live>,
    heard: u64,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        if self.live.heard.load(Relaxed) == self.heard {
            self.api.connection.give_up(self.live);
            self.live.driver.abort();
        }
    }
}

impl Api {
    pub(super) fn new(config: Config) -> Result<Self, StoreError> {
        let (server, leases) = (config.server()?, config.leases()?);
        // What is wrong with the certificates is known before the first request.
        config.tls()?;
        Ok(Self {
            config,
            server,
            leases,
            connection: Slot::default(),
            made: Arc::default(),
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn get(&self, name: &str) -> Result<Option<Object>, StoreError> {
        match self.object("get", Method::GET, format!("{}/{name}", self.leases), None).await? {
            Reply::Object(object) => Ok(Some(object)),
            Reply::Absent => Ok(None),
            Reply::Conflict => Err(RequestError::Protocol("a conflict of a read".to_owned()).into()),
        }
    }

    /// Creates the object. `Conflict` if there is one.
    pub(super) async fn create(&self, object: Object) -> Result<Reply, StoreError> {
        self.object("create", Method::POST, self.leases.clone(), Some(object)).await
    }

    /// Writes the next version of the object. `Conflict` if it was changed since, `Absent` if it was deleted.
    pub(super) async fn update(&self, name: &str, object: Object) -> Result<Reply, StoreError> {
        self.object("update", Method::PUT, format!("{}/{name}", self.leases), Some(object)).await
    }

    async fn object(
        &self,
        verb: &'static str,
        method: Method,
        url: String,
        body: Option<Object>,
    ) -> Result<Reply, StoreError> {
        let request = self.request(method, url, body)?;
        let live = self.connection.get(|| Box::pin(self.connect()), || self.made.notify_waiters()).await?;
        let waits = Waits { api: self, live: &live, heard: live.heard.load(Relaxed) };
        let response = self.send(&live, verb, request).await?;
        let status = response.status();
        let read = Limited::new(response.into_body(), LONGEST_RESPONSE).collect().await;
        let bytes = read.map_err(RequestError::NoAnswer)?.to_bytes();
        live.heard.fetch_add(1, Relaxed);
        drop(waits);
        let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok(match status {
            StatusCode::OK | StatusCode::CREATED => Reply::Object(Object::of(value)?),
            StatusCode::NOT_FOUND if value["details"]["kind"] == "namespaces" => {
                return Err(RequestError::NoNamespace { namespace: self.config.namespace.clone() }.into());
            }
            StatusCode::NOT_FOUND => Reply::Absent,
            StatusCode::CONFLICT => Reply::Conflict,
            _ => return Err(self.refused(verb, status, &value).into()),
        })
    }

    /// Begins a watch of the objects of this store: first each object, then each change. `None` without a connection: the requests, which have
    /// a time limit, make it.
    pub(super) async fn watch(&self) -> Option<Result<Watch, StoreError>> {
        Some(self.watch_on(&*self.connection.current()?).await)
    }

    async fn watch_on(&self, live: &Live) -> Result<Watch, StoreError> {
        let (label, time) = (LABEL.replace('/', "%2F"), WATCH_LASTS.as_secs());
        let url = format!("{}?watch=1&labelSelector={label}&timeoutSeconds={time}", self.leases);
        let response = self.send(live, "watch", self.request(Method::GET, url, None)?).await?;
        live.heard.fetch_add(1, Relaxed);
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(Watch { body: response.into_body(), heard: live.heard.clone(), buffer: Vec::new() });
        }
        let read = Limited::new(response.into_body(), LONGEST_RESPONSE).collect().await;
        let bytes = read.map_err(RequestError::NoAnswer)?.to_bytes();
        Err(self.refused("watch", status, &serde_json::from_slice(&bytes).unwrap_or_default()).into())
    }

    /// A request, unless the server asked for a pause.
    fn request(
        &self,
        method: Method,
        url: String,
        body: Option<Object>,
    ) -> Result<Request<Full<Bytes>>, StoreError> {
        let pause = self.state().pause;
        if let Some((_, retry_after)) = pause.filter(|(until, _)| *until > BootInstant::now()) {
            return Err(RequestError::TooManyRequests { retry_after }.into());
        }
        let mut request =
            Request::builder().method(method).uri(url).header(ACCEPT, JSON).header(USER_AGENT, AGENT);
        if let Some(token) = self.token()? {
            request = request.header(AUTHORIZATION, token);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, JSON);
        }
        let body = body.map(Object::into_body).unwrap_or_default();
        Ok(request.body(Full::from(body)).map_err(|error| RequestError::Protocol(error.to_string()))?)
    }

    async fn send(
        &self,
        live: &Live,
        verb: &'static str,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, StoreError> {
        let response = live.sender.clone().send_request(request).await;
        let response = response.map_err(|error| RequestError::NoAnswer(describe(&error).into()))?;
        match response.status() {
            StatusCode::TOO_MANY_REQUESTS => {
                let seconds =
                    response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
                let retry_after = seconds.map(Duration::from_secs);
                let pause = retry_after.unwrap_or_default().min(LONGEST_PAUSE);
                self.state().pause = Some((BootInstant::now().saturating_add(pause), retry_after));
                live.heard.fetch_add(1, Relaxed);
                Err(RequestError::TooManyRequests { retry_after }.into())
            }
            StatusCode::UNAUTHORIZED => {
                // The next request reads it again.
                self.state().token = None;
                live.heard.fetch_add(1, Relaxed);
                Err(RequestError::Unauthorized { verb, namespace: self.config.namespace.clone() }.into())
            }
            _ => Ok(response),
        }
    }

    fn refused(&self, verb: &'static str, status: StatusCode, answer: &Value) -> RequestError {
        let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        let (reason, message) = (text("reason"), text("message"));
        match status {
            StatusCode::FORBIDDEN => {
                RequestError::Forbidden { verb, namespace: self.config.namespace.clone(), message }
            }
            _ => RequestError::Refused { status: status.as_u16(), reason, message },
        }
    }

    /// Returns the header with the token, which is read again each minute. The file is in memory.
    fn token(&self) -> Result<Option<HeaderValue>, StoreError> {
        let Some(source) = &self.config.token else { return Ok(None) };
        let now = BootInstant::now();
        if let Some((token, read)) = &self.state().token {
            if now.saturating_duration_since(*read) < TOKEN_LASTS {
                return Ok(Some(token.clone()));
            }
        }
        let token = source.read().map_err(|error| StoreError::new("config", error))?;
        let mut header = HeaderValue::from_bytes(&[b"Bearer ", token.trim_ascii()].concat())
            .map_err(|_| StoreError::new("config", "the token is no text"))?;
        header.set_sensitive(true);
        self.state().token = Some((header.clone(), now));
        Ok(Some(header))
    }

    async fn connect(&self) -> Result<Live, StoreError> {
        let Server { host, port, name } = &self.server;
        let failed = |error: std::io::Error| RequestError::NoAnswer(error.into());
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let connector = TlsConnector::from(Arc::new(self.config.tls()?));
        let stream = connector.connect(name.clone(), stream).await.map_err(failed)?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(RequestError::Protocol("the server does not speak HTTP/2".to_owned()).into());
        }
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|error| RequestError::NoAnswer(describe(&error).into()))?;
        let driver = tokio::spawn(async move {
            // Each request has the error, too.
            let _ = connection.await;
        });
        Ok(Live { sender, heard: Arc::default(), driver: driver.abort_handle() })
    }
}

/// A change of an object.
pub(super) enum Event {
    Changed(Object),
    Deleted(Object),
}

/// An open watch. It ends with its connection.
pub(super) struct Watch {
    body: Incoming,
    heard: Arc<AtomicU64>,
    buffer: Vec<u8>,
}

impl Watch {
    /// Returns the next change; `None` if the watch is over.
    pub(super) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let mut event: Value = serde_json::from_slice(&line).ok()?;
                let object = Object::of(event["object"].take());
                return match event["type"].as_str()? {
                    "ADDED" | "MODIFIED" => Some(Event::Changed(object.ok()?)),
                    "DELETED" => Some(Event::Deleted(object.ok()?)),
                    _ => None,
                };
            }
            let frame = self.body.frame().await?.ok()?;
            self.heard.fetch_add(1, Relaxed);
            let data = frame.into_data().ok()?;
            if self.buffer.len() + data.len() > LONGEST_RESPONSE {
                return None;
            }
            self.buffer.extend_from_slice(&data);
        }
    }
}

/// The error with its sources, which hyper leaves out.
fn describe(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
