//! The connection of a socket: to the receiver, or through an HTTP proxy.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
};

use http_body_util::Empty;
use hyper::{
    Request, Uri,
    client::conn::http1,
    header::{self, HeaderValue},
};
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector},
    rt::TokioIo,
};
use opentelemetry_http::Bytes;
use tokio::net::TcpStream;
use tower_service::Service;

use super::{
    address::Target,
    answer::{self, Answer},
    failure::{Failure, of_network},
};

/// The sockets' side of a connection.
type Socket = TokioIo<TcpStream>;

/// A proxy that is spoken to in plain HTTP.
pub(super) struct Proxy {
    target: Target,
    auth: Option<HeaderValue>,
}

impl Proxy {
    pub(super) fn read(url: &str) -> Result<Self, String> {
        let (target, auth) = Target::read(url)?;
        Ok(Self { target, auth })
    }

    /// The address as it may be shown.
    pub(super) fn shown(&self) -> &Arc<str> {
        &self.target.shown
    }

    /// The value of `Proxy-Authorization`.
    pub(super) fn auth(&self) -> Option<&HeaderValue> {
        self.auth.as_ref()
    }

    /// A failure of the network on the way to the proxy, or to its answer.
    fn failed(&self, to: &Arc<str>, error: &(dyn Error + 'static)) -> OfProxy {
        let failure = Failure::new(to, of_network(error, self.target.host()));
        OfProxy(Answer::Again(failure, None).of_proxy(self.shown(), true))
    }

    /// Asks for a way through to `to`. RFC 9110, section 9.3.6.
    async fn tunnel(&self, socket: Socket, to: &Uri, shown: &Arc<str>) -> Result<Socket, OfProxy> {
        let host = to.host().unwrap_or_default();
        let address = format!("{host}:{}", to.port_u16().unwrap_or(443));
        let mut request = Request::connect(&address)
            .header(header::HOST, &address)
            .body(Empty::<Bytes>::new())
            .expect("a host and a port");
        if let Some(auth) = &self.auth {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, auth.clone());
        }
        let failed = |error: hyper::Error| self.failed(shown, &error);
        let (mut sender, connection) = http1::handshake(socket).await.map_err(failed)?;
        // Ends with the sender, also if this future is dropped.
        let connection = tokio::spawn(connection.without_shutdown());
        let (parts, mut body) = sender.send_request(request).await.map_err(failed)?.into_parts();
        if !parts.status.is_success() {
            let words = answer::read_words(&mut body, answer::MAX_ERROR_WAIT).await;
            let answer = match answer::of_status(shown, parts.status, &parts.headers, &words) {
                // A smaller request would get the same answer.
                Answer::TooLarge(failure) => Answer::Refused(failure),
                answer => answer,
            };
            return Err(OfProxy(answer.of_proxy(self.shown(), true)));
        }
        match connection.await {
            Ok(Ok(parts)) => Ok(parts.io),
            Ok(Err(error)) => Err(failed(error)),
            Err(error) => Err(self.failed(shown, &error)),
        }
    }
}

/// The refusal of a proxy, as the error of a connection.
#[derive(Debug)]
struct OfProxy(Answer);

impl fmt::Display for OfProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the proxy failed")
    }
}

impl Error for OfProxy {}

/// The answer among the sources of a client's error, if it is a proxy's.
pub(super) fn answer_of_proxy(error: &(dyn Error + 'static)) -> Option<Answer> {
    let sources = std::iter::successors(Some(error), |&error| error.source());
    let mut answers = sources.filter_map(|error| error.downcast_ref::<OfProxy>());
    answers.next().map(|OfProxy(answer)| answer.clone())
}

/// Connects to a receiver, or to the proxy before it.
#[derive(Clone)]
pub(super) struct Wire {
    direct: HttpConnector,
    proxy: Option<Arc<Proxy>>,
    /// The receiver's address as it may be shown.
    shown: Arc<str>,
}

impl Wire {
    pub(super) fn new(target: &Target, proxy: Option<Arc<Proxy>>) -> Self {
        let mut direct = HttpConnector::new();
        direct.enforce_http(false);
        direct.set_nodelay(true);
        Self { direct, proxy, shown: Arc::clone(&target.shown) }
    }
}

/// A connection, and whether a proxy reads the requests on it.
pub(super) struct Wired {
    socket: Socket,
    by_proxy: bool,
}

impl Connection for Wired {
    fn connected(&self) -> Connected {
        self.socket.inner().connected().proxy(self.by_proxy)
    }
}

impl hyper::rt::Read for Wired {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Wired {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl Service<Uri> for Wire {
    type Response = Wired;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Wired, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.direct.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let Self { mut direct, proxy, shown } = self.clone();
        Box::pin(async move {
            let Some(proxy) = proxy else {
                return Ok(Wired { socket: direct.call(to).await?, by_proxy: false });
            };
            let socket = direct.call(proxy.target.uri.clone()).await;
            let socket = socket.map_err(|error| proxy.failed(&shown, &error))?;
            if to.scheme_str() == Some("https") {
                return Ok(Wired { socket: proxy.tunnel(socket, &to, &shown).await?, by_proxy: false });
            }
            Ok(Wired { socket, by_proxy: true })
        })
    }
}
