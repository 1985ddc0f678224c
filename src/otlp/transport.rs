//! The transport of encoded requests to a receiver: the same bytes over HTTP or gRPC, and every response read.
//!
//! `opentelemetry-otlp` encodes and does not send: its clients hide the response of a receiver, and take headers
//! and compression from the process's variables.

mod address;
mod answer;
mod failure;
#[cfg(feature = "otlp-grpc")]
mod grpc;
mod http;
mod json;
#[cfg(feature = "tls")]
mod tls;
mod wire;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::{
    HeaderMap,
    header::{self, HeaderName, HeaderValue},
};

pub(super) use self::{
    address::Target,
    answer::Answer,
    failure::{Cause, Failure},
};
use super::{
    ledger::Signal,
    parcel::Parcel,
    runtime::ExportRuntime,
    settings::{OtlpSettings, Protocol, Warning, WarningKind, default_endpoint, redacted, warn_once},
};

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
        let until = Instant::now() + limit;
        let attempt = async {
            match &self.kind {
                Kind::Http(http) => http.send(parcel, until).await,
                #[cfg(feature = "otlp-grpc")]
                Kind::Grpc(grpc) => grpc.send(parcel).await,
            }
        };
        let answer = self.runtime.block_on(limit, attempt).unwrap_or_else(|| {
            #[cfg(feature = "otlp-grpc")]
            if let Kind::Grpc(grpc) = &self.kind {
                let _entered = self.runtime.enter();
                grpc.reconnect();
            }
            Answer::Again(Failure::new(&self.target.shown, Cause::NoAnswer(limit)), None)
        });
        match &self.kind {
            Kind::Http(http) => http.through_proxy(answer),
            #[cfg(feature = "otlp-grpc")]
            Kind::Grpc(_) => answer,
        }
    }

    /// Sends an empty request, and returns why a receiver would not take one with telemetry.
    pub(super) fn probe(&self, limit: Duration, signal: Signal) -> Result<(), Failure> {
        match self.attempt_within(limit, &Parcel::empty(signal)) {
            Answer::Taken { .. } => Ok(()),
            Answer::TooLarge(failure) | Answer::Again(failure, _) | Answer::Refused(failure) => Err(failure),
        }
    }
}

/// The parts that all transports of a build share.
pub(super) struct Transports<'a> {
    runtime: &'a Arc<ExportRuntime>,
    warnings: &'a mut Vec<Warning>,
    #[cfg(feature = "tls")]
    trust: tls::Trusts,
}

impl<'a> Transports<'a> {
    pub(super) fn new(runtime: &'a Arc<ExportRuntime>, warnings: &'a mut Vec<Warning>) -> Self {
        Self {
            runtime,
            warnings,
            #[cfg(feature = "tls")]
            trust: tls::Trusts::default(),
        }
    }

    /// A transport for one signal, of which no attempt takes longer than `limit`. Where an endpoint of a variable cannot be used, the
    /// default is, with a warning.
    ///
    /// # Errors
    ///
    /// An endpoint of the code, or the default, cannot be used.
    pub(super) fn open(
        &mut self,
        signal: Signal,
        settings: &OtlpSettings,
        limit: Duration,
    ) -> Result<Transport, Box<dyn std::error::Error + Send + Sync>> {
        let opened = self.try_open(settings, limit);
        #[cfg(feature = "tls")]
        self.trust.warnings.drain(..).for_each(|warning| warn_once(self.warnings, warning));
        let (error, variable) = match (opened, &settings.variable) {
            (Err(error), Some(variable)) => (error, variable.clone()),
            (opened, _) => return opened,
        };
        let endpoint = default_endpoint(signal, settings.protocol);
        let used = format!("{endpoint} is used: {error}");
        let value = redacted(&settings.endpoint);
        warn_once(self.warnings, Warning { variable, value, kind: WarningKind::Unsupported, used });
        self.try_open(&OtlpSettings { endpoint, variable: None, proxy: None, ..settings.clone() }, limit)
    }

    fn try_open(
        &mut self,
        settings: &OtlpSettings,
        limit: Duration,
    ) -> Result<Transport, Box<dyn std::error::Error + Send + Sync>> {
        let (target, auth) = Target::read(&settings.endpoint)?;
        let is_tls = target.uri.scheme_str() == Some("https");
        if is_tls && cfg!(not(feature = "tls")) {
            return Err("https needs the feature `tls` of otel-tasks".into());
        }
        let mut headers = HeaderMap::new();
        let agent = concat!("otel-tasks/", env!("CARGO_PKG_VERSION"), " OTel-OTLP-Exporter-Rust");
        headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
        headers.extend(auth.map(|auth| (header::AUTHORIZATION, auth)));
        for (name, value) in &settings.headers {
            if let (Ok(name), Ok(mut value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                value.set_sensitive(true);
                // More than a request can have is left out.
                let _ = headers.try_insert(name, value);
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
                is_tls.then(|| self.trust.grpc(settings)),
            )?)),
            #[cfg(not(feature = "otlp-grpc"))]
            Protocol::Grpc => return Err("gRPC needs the feature `otlp-grpc` of otel-tasks".into()),
            Protocol::HttpProtobuf => Kind::Http(Box::new(http::HttpTransport::new(
                target.clone(),
                headers,
                settings.gzip,
                settings.proxy.as_deref().map(wire::Proxy::read).transpose()?,
                #[cfg(feature = "tls")]
                self.trust.http(settings, is_tls)?,
            ))),
        };
        let limit = limit.min(settings.timeout);
        Ok(Transport { kind, target, runtime: Arc::clone(self.runtime), limit })
    }
}

#[cfg(test)]
mod tests;
