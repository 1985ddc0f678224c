//! OTLP over HTTP/1.1.

use std::{sync::Arc, time::Instant};

use http_body_util::Full;
use hyper::{HeaderMap, Request, StatusCode, header};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use opentelemetry_http::Bytes;

use super::{
    address::Target,
    answer::{self, Answer},
    failure::{Cause, Failure, of_network},
    wire::{Proxy, Wire, answer_of_proxy},
};
use crate::otlp::parcel::Parcel;

#[cfg(feature = "tls")]
type Connector = hyper_rustls::HttpsConnector<Wire>;
#[cfg(not(feature = "tls"))]
type Connector = Wire;

/// Sends requests without a change, and follows no redirect.
pub(super) struct HttpTransport {
    client: Client<Connector, Full<Bytes>>,
    target: Target,
    headers: HeaderMap,
    gzip: bool,
    proxy: Option<Arc<Proxy>>,
}

impl HttpTransport {
    pub(super) fn new(
        target: Target,
        headers: HeaderMap,
        gzip: bool,
        proxy: Option<Proxy>,
        #[cfg(feature = "tls")] tls: rustls::ClientConfig,
    ) -> Self {
        let proxy = proxy.map(Arc::new);
        let wire = Wire::new(&target, proxy.clone());
        #[cfg(feature = "tls")]
        let wire = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(wire);
        let client = Client::builder(TokioExecutor::new()).build(wire);
        Self { client, target, headers, gzip, proxy }
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
        // A proxy reads requests in plain text alone.
        let reader = self.proxy.as_ref().filter(|_| self.target.uri.scheme_str() == Some("http"));
        if let Some(auth) = reader.and_then(|proxy| proxy.auth()) {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, auth.clone());
        }
        let answer = match self.client.request(request).await {
            Ok(answer) => answer,
            Err(error) => {
                let cause = || Failure::new(target, of_network(&error, self.target.host()));
                return answer_of_proxy(&error).unwrap_or_else(|| Answer::Again(cause(), None));
            }
        };
        let (parts, mut body) = answer.into_parts();
        if !parts.status.is_success() {
            // The status decides: its words may take half of what is left.
            let left = until.saturating_duration_since(Instant::now()) / 2;
            let body = answer::read_words(&mut body, left).await;
            let answer = answer::of_status(target, parts.status, &parts.headers, &body);
            return match reader.filter(|_| parts.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED) {
                Some(proxy) => answer.of_proxy(proxy.shown(), true),
                None => answer,
            };
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

    /// Names the proxy in a failure.
    pub(super) fn through_proxy(&self, answer: Answer) -> Answer {
        match &self.proxy {
            Some(proxy) => answer.of_proxy(proxy.shown(), false),
            None => answer,
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
