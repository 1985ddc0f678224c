//! What carries encoded requests to a receiver: the same bytes over HTTP or gRPC, and every answer read.
//!
//! `opentelemetry-otlp` encodes and does not send: its clients keep to themselves what a receiver answered, and take headers
//! and compression from the process's variables.

mod answer;
mod failure;
#[cfg(feature = "otlp-grpc")]
mod grpc;
mod http;
#[cfg(feature = "tls")]
mod tls;

use std::{sync::Arc, time::Duration};

use base64::Engine as _;
use hyper::{
    HeaderMap, Uri,
    header::{self, HeaderName, HeaderValue},
};

pub(super) use self::{
    answer::Answer,
    failure::{Cause, Failure},
};
use super::{
    ledger::Signal,
    parcel::Parcel,
    runtime::ExportRuntime,
    settings::{OtlpSettings, Protocol, Warning, has_a_port_or_none, redacted},
};

/// Where requests go, and how that is shown.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Without user and password.
    uri: Uri,
    shown: Arc<str>,
}

impl Target {
    /// Reads an address that the clients of both protocols take. Returns the header for its user and password apart.
    pub(super) fn read(endpoint: &str) -> Result<(Self, Option<HeaderValue>), String> {
        let shown = redacted(endpoint);
        let user = userinfo(endpoint);
        let address = match user {
            Some(user) => endpoint.replacen(&format!("{user}@"), "", 1),
            None => endpoint.to_owned(),
        };
        let uri: Uri = address.parse().map_err(|error: hyper::http::uri::InvalidUri| error.to_string())?;
        let host = uri.host().unwrap_or_default();
        let can_be_called = match uri.scheme_str() {
            Some("http") => true,
            Some("https") => is_certified_name(host),
            _ => false,
        };
        if !can_be_called || host.is_empty() || !has_a_port_or_none(&uri) {
            return Err("not an http or https address".to_owned());
        }
        let auth = user.map(|user| {
            let encoded = base64::engine::general_purpose::STANDARD.encode(percent_decoded(user));
            let mut value =
                HeaderValue::try_from(format!("Basic {encoded}")).expect("base64 is a header's text");
            value.set_sensitive(true);
            value
        });
        Ok((Self { uri, shown: shown.into() }, auth))
    }

    pub(super) fn uri(&self) -> &Uri {
        &self.uri
    }

    fn host(&self) -> &str {
        self.uri.host().unwrap_or_default()
    }

    fn is_loopback(&self) -> bool {
        let host = self.host();
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
    }
}

/// Whether a certificate can be for this host; TLS does not begin for another.
fn is_certified_name(host: &str) -> bool {
    #[cfg(feature = "tls")]
    return rustls::pki_types::ServerName::try_from(host.trim_matches(['[', ']'])).is_ok();
    #[cfg(not(feature = "tls"))]
    return !host.is_empty();
}

/// `user:password` of an address.
fn userinfo(address: &str) -> Option<&str> {
    let rest = address.split_once("://")?.1;
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    authority.rfind('@').map(|at| &authority[..at])
}

/// The bytes of a text with `%xx` in it; what is no such escape stays.
fn percent_decoded(text: &str) -> Vec<u8> {
    let hex = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let (bytes, mut decoded, mut at) = (text.as_bytes(), Vec::new(), 0);
    while let Some(&byte) = bytes.get(at) {
        match (byte, hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

/// One signal's way to its receiver.
pub(super) struct Transport {
    kind: Kind,
    target: Target,
    runtime: Arc<ExportRuntime>,
    /// The longest time one attempt may take.
    limit: Duration,
}

enum Kind {
    Http(Box<http::HttpTransport>),
    #[cfg(feature = "otlp-grpc")]
    Grpc(Box<grpc::GrpcTransport>),
}

impl Transport {
    /// The address as it may be shown.
    pub(super) fn shown(&self) -> &Arc<str> {
        &self.target.shown
    }

    /// Makes one attempt and blocks the thread meanwhile.
    pub(super) fn attempt(&self, parcel: &Parcel) -> Answer {
        self.attempt_within(self.limit, parcel)
    }

    fn attempt_within(&self, limit: Duration, parcel: &Parcel) -> Answer {
        let attempt = async {
            match &self.kind {
                Kind::Http(http) => http.send(parcel).await,
                #[cfg(feature = "otlp-grpc")]
                Kind::Grpc(grpc) => grpc.send(parcel).await,
            }
        };
        self.runtime
            .block_on(limit, attempt)
            .unwrap_or_else(|| Answer::Again(Failure::new(&self.target.shown, Cause::NoAnswer(limit)), None))
    }

    /// Sends an empty request, and returns why a receiver would not take one with telemetry.
    pub(super) fn probe(&self, limit: Duration, signal: Signal) -> Result<(), Failure> {
        match self.attempt_within(limit, &Parcel::empty(signal)) {
            Answer::Taken { .. } => Ok(()),
            Answer::TooLarge(failure) | Answer::Again(failure, _) | Answer::Refused(failure) => Err(failure),
        }
    }
}

/// What every transport of a build shares.
pub(super) struct Transports<'a> {
    runtime: &'a Arc<ExportRuntime>,
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "only what TLS reads can be wrong here"))]
    warnings: &'a mut Vec<Warning>,
    #[cfg(feature = "tls")]
    roots: tls::SystemRoots,
}

impl<'a> Transports<'a> {
    pub(super) fn new(runtime: &'a Arc<ExportRuntime>, warnings: &'a mut Vec<Warning>) -> Self {
        Self {
            runtime,
            warnings,
            #[cfg(feature = "tls")]
            roots: tls::SystemRoots::default(),
        }
    }

    /// A transport for one signal, of which no attempt takes longer than `limit`.
    ///
    /// # Errors
    ///
    /// The address is none, or TLS cannot be set up.
    pub(super) fn open(
        &mut self,
        settings: &OtlpSettings,
        limit: Duration,
    ) -> Result<Transport, Box<dyn std::error::Error + Send + Sync>> {
        let (target, auth) = Target::read(&settings.endpoint)?;
        let is_tls = target.uri.scheme_str() == Some("https");
        if is_tls && cfg!(not(feature = "tls")) {
            return Err(
                format!("{}: an https address needs the feature `tls` of otel-tasks", target.shown).into()
            );
        }
        let mut headers = HeaderMap::new();
        let agent = concat!("otel-tasks/", env!("CARGO_PKG_VERSION"), " OTel-OTLP-Exporter-Rust");
        headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
        headers.extend(auth.map(|auth| (header::AUTHORIZATION, auth)));
        for (name, value) in &settings.headers {
            if let (Ok(name), Ok(mut value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                value.set_sensitive(true);
                headers.insert(name, value);
            }
        }
        // The channels and connections are driven by the runtime in which they are made.
        let _entered = self.runtime.enter();
        let kind = match settings.protocol {
            #[cfg(feature = "otlp-grpc")]
            Protocol::Grpc => Kind::Grpc(Box::new(grpc::GrpcTransport::new(
                target.clone(),
                headers,
                settings.gzip,
                #[cfg(feature = "tls")]
                is_tls.then(|| self.grpc_tls(settings)),
            )?)),
            #[cfg(not(feature = "otlp-grpc"))]
            Protocol::Grpc => return Err("gRPC needs the feature `otlp-grpc` of otel-tasks".into()),
            Protocol::HttpProtobuf => Kind::Http(Box::new(http::HttpTransport::new(
                target.clone(),
                headers,
                settings.gzip,
                #[cfg(feature = "tls")]
                self.http_tls(settings, is_tls)?,
            ))),
        };
        let limit = limit.min(settings.timeout);
        Ok(Transport { kind, target, runtime: Arc::clone(self.runtime), limit })
    }
}

#[cfg(test)]
mod tests;
