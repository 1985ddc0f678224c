//! OTLP over HTTP/1.1.

use std::{
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
    time::Instant,
};

use http_body_util::Full;
use hyper::{HeaderMap, Request, Uri, header};
use hyper_util::{
    client::{
        legacy::{
            Client,
            connect::{Connected, Connection, HttpConnector, proxy::Tunnel},
        },
        proxy::matcher::{Intercept, Matcher},
    },
    rt::{TokioExecutor, TokioIo},
};
use opentelemetry_http::Bytes;
use tokio::net::TcpStream;
use tower_service::Service;

use super::{
    address::Target,
    answer::{self, Answer},
    failure::{Cause, Failure, of_network},
};
use crate::otlp::parcel::Parcel;

/// The sockets' side of a connection.
type Socket = TokioIo<TcpStream>;

#[cfg(feature = "tls")]
type Connector = hyper_rustls::HttpsConnector<Wire>;
#[cfg(not(feature = "tls"))]
type Connector = Wire;

/// Sends requests as they are, and follows no redirect.
pub(super) struct HttpTransport {
    client: Client<Connector, Full<Bytes>>,
    target: Target,
    headers: HeaderMap,
    gzip: bool,
    /// What a proxy for plain HTTP wants to know.
    proxy_auth: Option<header::HeaderValue>,
}

impl HttpTransport {
    pub(super) fn new(
        target: Target,
        headers: HeaderMap,
        gzip: bool,
        #[cfg(feature = "tls")] tls: rustls::ClientConfig,
    ) -> Self {
        let proxy = match target.is_loopback() {
            // A proxy cannot reach what is local to us.
            true => None,
            false => Matcher::from_env().intercept(&target.uri),
        };
        let is_plain = target.uri.scheme_str() == Some("http");
        let proxy_auth = proxy.as_ref().filter(|_| is_plain).and_then(|proxy| proxy.basic_auth().cloned());
        let wire = Wire::new(proxy);
        #[cfg(feature = "tls")]
        let wire = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(wire);
        let client = Client::builder(TokioExecutor::new()).build(wire);
        Self { client, target, headers, gzip, proxy_auth }
    }

    /// Makes one attempt, which is given up at `until`.
    pub(super) async fn send(&self, parcel: &Parcel, until: Instant) -> Answer {
        let target = &self.target.shown;
        let (body, encoding) = match self.body(parcel) {
            Ok(body) => body,
            Err(text) => return Answer::Refused(Failure::new(target, Cause::Encoding(text))),
        };
        let mut request =
            Request::post(self.target.uri.clone()).body(Full::new(body)).expect("a checked address");
        *request.headers_mut() = self.headers.clone();
        request
            .headers_mut()
            .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/x-protobuf"));
        if let Some(encoding) = encoding {
            request.headers_mut().insert(header::CONTENT_ENCODING, encoding);
        }
        if let Some(auth) = &self.proxy_auth {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, auth.clone());
        }
        let answer = match self.client.request(request).await {
            Ok(answer) => answer,
            Err(error) => {
                let cause = of_network(&error, self.target.host());
                return Answer::Again(Failure::new(target, cause), None);
            }
        };
        let (parts, mut body) = answer.into_parts();
        if !parts.status.is_success() {
            // The status decides: its words may take half of what is left.
            let left = until.saturating_duration_since(Instant::now()) / 2;
            let body = answer::read_words(&mut body, left).await;
            return answer::of_status(target, parts.status, &parts.headers, &body);
        }
        // A success that breaks off does not say what was taken of the request.
        match answer::read(&mut body).await {
            Ok(body) => answer::of_success(target, parcel.signal, parts.status, &parts.headers, &body),
            Err(answer::Unread::TooLarge) => Answer::Refused(Failure::new(target, Cause::AnswerTooLarge)),
            Err(answer::Unread::Broken(error)) => {
                let cause = of_network(&error, self.target.host());
                Answer::Again(Failure::new(target, cause), None)
            }
        }
    }

    fn body(&self, parcel: &Parcel) -> Result<(Bytes, Option<header::HeaderValue>), String> {
        #[cfg(feature = "gzip")]
        if self.gzip && parcel.encoding.is_none() {
            use std::io::Write as _;
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(&parcel.body).map_err(|error| error.to_string())?;
            let body = encoder.finish().map_err(|error| error.to_string())?;
            return Ok((body.into(), Some(header::HeaderValue::from_static("gzip"))));
        }
        debug_assert!(cfg!(feature = "gzip") || !self.gzip, "the settings know what was compiled");
        Ok((parcel.body.clone(), parcel.encoding.clone()))
    }
}

/// How a socket comes about: to the server, or through a proxy of the variables `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`
/// and `NO_PROXY`.
#[derive(Clone)]
struct Wire {
    direct: HttpConnector,
    proxy: Option<Arc<Intercept>>,
}

impl Wire {
    fn new(proxy: Option<Intercept>) -> Self {
        let mut direct = HttpConnector::new();
        direct.enforce_http(false);
        direct.set_nodelay(true);
        Self { direct, proxy: proxy.map(Arc::new) }
    }
}

/// A connection, and whether a proxy reads the requests on it.
struct Wired {
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
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Wired, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.direct.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let (mut direct, proxy) = (self.direct.clone(), self.proxy.clone());
        Box::pin(async move {
            let Some(proxy) = proxy else {
                return Ok(Wired { socket: direct.call(to).await?, by_proxy: false });
            };
            if to.scheme_str() == Some("https") {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), direct);
                if let Some(auth) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(auth.clone());
                }
                return Ok(Wired { socket: tunnel.call(to).await?, by_proxy: false });
            }
            Ok(Wired { socket: direct.call(proxy.uri().clone()).await?, by_proxy: true })
        })
    }
}
