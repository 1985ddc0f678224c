//! What carries telemetry away: one small runtime, the exporters of each protocol, and TLS on ring.

use std::{
    future::{Future, poll_fn},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use opentelemetry::InstrumentationScope;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response, ResponseBodyTooLarge};
use opentelemetry_otlp::{
    Compression, ExporterBuildError, WithExportConfig, WithHttpConfig, WithTonicConfig,
    tonic_types::{
        metadata::MetadataMap,
        transport::{ClientTlsConfig, Identity},
    },
};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    logs::{LogBatch, LogExporter as _, SdkLogRecord},
    metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter as _},
    trace::{SpanData, SpanExporter as _},
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{runtime::Handle, sync::oneshot};

use super::settings::{OtlpSettings, Protocol, SignalSettings, Targets, Warning, WarningKind, warn_once};

/// The runtime that connections live on: one thread of its own, so that exporting works when the application's runtime
/// is single-threaded, blocked or gone. It ends when the last exporter and the [`Telemetry`](super::Telemetry) are gone.
#[derive(Debug)]
pub(super) struct ExportRuntime {
    handle: Handle,
    _running: oneshot::Sender<()>,
}

impl ExportRuntime {
    pub(super) fn start() -> io::Result<Arc<Self>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (running, stopped) = oneshot::channel::<()>();
        std::thread::Builder::new().name("otel-tasks-export".to_owned()).spawn(move || {
            // What HTTP and gRPC clients report of themselves while exporting must not be exported.
            let _suppressed = opentelemetry::Context::enter_telemetry_suppressed_scope();
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        })?;
        Ok(Arc::new(Self { handle, _running: running }))
    }

    /// Runs an export to its end or for `limit`, whichever comes first, on any executor. A panic becomes an error: the
    /// console exporter's `println!` panics once standard output is closed, and would end the SDK's metrics thread.
    pub(super) async fn bounded(
        &self,
        limit: Duration,
        export: impl Future<Output = OTelSdkResult>,
    ) -> OTelSdkResult {
        let mut export = pin!(export);
        let mut alarm = pin!({
            let _entered = self.handle.enter();
            tokio::time::sleep(limit)
        });
        poll_fn(|cx| {
            let _entered = self.handle.enter();
            match catch_unwind(AssertUnwindSafe(|| export.as_mut().poll(cx))) {
                Ok(Poll::Ready(result)) => return Poll::Ready(result),
                Ok(Poll::Pending) => {}
                Err(_) => {
                    return Poll::Ready(Err(OTelSdkError::InternalFailure(
                        "the exporter panicked".to_owned(),
                    )));
                }
            }
            alarm.as_mut().poll(cx).map(|()| Err(OTelSdkError::Timeout(limit)))
        })
        .await
    }

    /// [`bounded`](Self::bounded) for a thread that has nothing else to do.
    pub(super) fn block_on(
        &self,
        limit: Duration,
        export: impl Future<Output = OTelSdkResult>,
    ) -> OTelSdkResult {
        self.handle.block_on(self.bounded(limit, export))
    }
}

/// An HTTP client of our own: it works from any thread, and no other crate's features can replace it.
#[derive(Debug)]
struct RuntimeHttpClient {
    client: reqwest::Client,
    handle: Handle,
}

/// Responses hold an error text at most.
const MAX_RESPONSE_BYTES: usize = 4 * 1024 * 1024;

impl HttpClient for RuntimeHttpClient {
    // Written out because the trait is an `async_trait`, and one method does not merit the macro.
    fn send_bytes<'a, 'f>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'f>>
    where
        'a: 'f,
        Self: 'f,
    {
        let client = self.client.clone();
        Box::pin(async move {
            let call = async move {
                let mut answer = client.execute(request.try_into()?).await?;
                let mut body = Vec::new();
                while let Some(chunk) = answer.chunk().await? {
                    if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
                        return Err(HttpError::from(ResponseBodyTooLarge::new()));
                    }
                    body.extend_from_slice(&chunk);
                }
                let mut response = Response::builder().status(answer.status()).body(Bytes::from(body))?;
                *response.headers_mut() = std::mem::take(answer.headers_mut());
                Ok(response)
            };
            let mut call = AbortOnDrop(self.handle.spawn(call));
            (&mut call.0).await?
        })
    }
}

/// An export that is given up must give up its request too.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What every exporter of a build shares.
pub(super) struct Transports<'a> {
    pub(super) runtime: &'a ExportRuntime,
    pub(super) resource: &'a Resource,
    pub(super) warnings: &'a mut Vec<Warning>,
    /// The system's root certificates, once they have been needed.
    pub(super) system_roots: Option<RootCertStore>,
}

type Built<T> = Result<T, ExporterBuildError>;

macro_rules! otlp {
    ($this:expr, $settings:expr, $builder:expr) => {{
        let settings = $settings;
        match settings.protocol {
            Protocol::Grpc => {
                // tonic's channel spawns its worker where it is built.
                let _entered = $this.runtime.handle.enter();
                let mut builder =
                    $builder.with_tonic().with_endpoint(&settings.endpoint).with_timeout(settings.timeout);
                if let Some(tls) = $this.grpc_tls(settings) {
                    builder = builder.with_tls_config(tls);
                }
                if settings.gzip {
                    builder = builder.with_compression(Compression::Gzip);
                }
                for (key, value) in &settings.headers {
                    let header = opentelemetry_http::Request::builder().header(key, value).body(());
                    if let Ok(header) = header {
                        let map = header.into_parts().0.headers;
                        builder = builder.with_metadata(MetadataMap::from_headers(map));
                    }
                }
                builder.build()?
            }
            Protocol::HttpProtobuf => {
                let mut builder = $builder
                    .with_http()
                    .with_http_client($this.http_client(settings)?)
                    .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
                    .with_endpoint(&settings.endpoint)
                    .with_timeout(settings.timeout)
                    .with_headers(settings.headers.iter().cloned().collect());
                if settings.gzip {
                    builder = builder.with_compression(Compression::Gzip);
                }
                builder.build()?
            }
        }
    }};
}

impl Transports<'_> {
    pub(super) fn spans(&mut self, settings: &SignalSettings) -> Built<SpanSinks> {
        let Targets { otlp, console } = settings.targets;
        let mut sinks = SpanSinks { otlp: None, console: None };
        if otlp {
            let mut exporter = otlp!(self, &settings.otlp, opentelemetry_otlp::SpanExporter::builder());
            exporter.set_resource(self.resource);
            sinks.otlp = Some(exporter);
        }
        if console {
            let mut exporter = opentelemetry_stdout::SpanExporter::default();
            exporter.set_resource(self.resource);
            sinks.console = Some(exporter);
        }
        Ok(sinks)
    }

    pub(super) fn records(&mut self, settings: &SignalSettings) -> Built<LogSinks> {
        let Targets { otlp, console } = settings.targets;
        let mut sinks = LogSinks { otlp: None, console: None };
        if otlp {
            let mut exporter = otlp!(self, &settings.otlp, opentelemetry_otlp::LogExporter::builder());
            exporter.set_resource(self.resource);
            sinks.otlp = Some(exporter);
        }
        if console {
            let mut exporter = opentelemetry_stdout::LogExporter::default();
            exporter.set_resource(self.resource);
            sinks.console = Some(exporter);
        }
        Ok(sinks)
    }

    pub(super) fn metrics(
        &mut self,
        settings: &SignalSettings,
        temporality: Temporality,
    ) -> Built<MetricSinks> {
        let Targets { otlp, console } = settings.targets;
        let mut sinks = MetricSinks { otlp: None, console: None };
        if otlp {
            let builder = || opentelemetry_otlp::MetricExporter::builder().with_temporality(temporality);
            sinks.otlp = Some(otlp!(self, &settings.otlp, builder()));
        }
        if console {
            sinks.console =
                Some(opentelemetry_stdout::MetricExporter::builder().with_temporality(temporality).build());
        }
        Ok(sinks)
    }

    fn file(&mut self, variable: &str, path: &Path, used: &str) -> Option<Vec<u8>> {
        match std::fs::read(path) {
            Ok(pem) => Some(pem),
            Err(error) => {
                self.warn(variable, path, format!("{used} ({error})"));
                None
            }
        }
    }

    fn warn(&mut self, variable: &str, path: &Path, used: String) {
        let (variable, value) = (variable.to_owned(), path.display().to_string());
        warn_once(self.warnings, Warning { variable, value, kind: WarningKind::Malformed, used });
    }

    /// Whom an https endpoint is trusted by and who we are to it, as far as the files of the settings can be read.
    fn trust(&mut self, settings: &OtlpSettings) -> Trust {
        let roots = settings.certificate.as_ref().and_then(|(variable, path)| self.authority(variable, path));
        let roots = roots.unwrap_or_else(|| self.system_roots());
        let identity = settings
            .identity
            .as_ref()
            .and_then(|(variable, certificate, key)| self.identity(variable, certificate, key));
        Trust { roots, identity }
    }

    fn authority(&mut self, variable: &str, path: &Path) -> Option<RootCertStore> {
        let used = "the system's roots are used";
        let pem = self.file(variable, path, used)?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem).flatten() {
            // What cannot be parsed is as good as missing.
            let _ = roots.add(certificate);
        }
        if roots.is_empty() {
            self.warn(variable, path, format!("{used} (no certificate in it)"));
            return None;
        }
        Some(roots)
    }

    fn identity(&mut self, variable: &str, certificate: &Path, key: &Path) -> Option<PemIdentity> {
        let used = "no client certificate is used";
        let identity = PemIdentity {
            certificate: self.file(variable, certificate, used)?,
            key: self.file(variable, key, used)?,
        };
        if let Err(error) = identity.parsed() {
            self.warn(variable, certificate, format!("{used} ({error})"));
            return None;
        }
        Some(identity)
    }

    fn system_roots(&mut self) -> RootCertStore {
        if let Some(roots) = &self.system_roots {
            return roots.clone();
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            self.warnings.push(Warning {
                variable: "OTEL_EXPORTER_OTLP_CERTIFICATE".to_owned(),
                value: String::new(),
                kind: WarningKind::Suspicious,
                used: "the system has no root certificates, so no https endpoint is trusted".to_owned(),
            });
        }
        self.system_roots.insert(roots).clone()
    }

    /// The configuration of an `https` endpoint, for a look at it; `None` for any other.
    pub(super) fn tls(&mut self, settings: &OtlpSettings) -> Option<rustls::ClientConfig> {
        settings.endpoint.starts_with("https:").then(|| rustls_config(self.trust(settings)).ok())?
    }

    fn grpc_tls(&mut self, settings: &OtlpSettings) -> Option<ClientTlsConfig> {
        if !settings.endpoint.starts_with("https:") {
            return None;
        }
        let trust = self.trust(settings);
        // The exporter's own default has no roots at all, so that every handshake would fail.
        let tls = ClientTlsConfig::new().trust_anchors(trust.roots.roots);
        Some(match trust.identity {
            Some(PemIdentity { certificate, key }) => tls.identity(Identity::from_pem(certificate, key)),
            None => tls,
        })
    }

    fn http_client(&mut self, settings: &OtlpSettings) -> Built<RuntimeHttpClient> {
        let failed = |error: &dyn std::fmt::Display| ExporterBuildError::InternalFailure(error.to_string());
        // Plain HTTP needs no roots, but a configuration all the same: without a process-wide crypto provider reqwest
        // panics when it makes one by itself.
        let trust = match settings.endpoint.starts_with("https:") {
            true => self.trust(settings),
            false => Trust { roots: RootCertStore::empty(), identity: None },
        };
        let tls = rustls_config(trust).map_err(|error| failed(&error))?;
        let mut builder = reqwest::Client::builder().timeout(settings.timeout).tls_backend_preconfigured(tls);
        if is_loopback(&settings.endpoint) {
            // A proxy cannot reach what is local to us.
            builder = builder.no_proxy();
        }
        let _entered = self.runtime.handle.enter();
        let client = builder.build().map_err(|error| failed(&error))?;
        Ok(RuntimeHttpClient { client, handle: self.runtime.handle.clone() })
    }
}

fn is_loopback(endpoint: &str) -> bool {
    let url = reqwest::Url::parse(endpoint).ok();
    let host = url.as_ref().and_then(|url| url.host_str()).unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

struct Trust {
    roots: RootCertStore,
    identity: Option<PemIdentity>,
}

struct PemIdentity {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl PemIdentity {
    fn parsed(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), rustls::pki_types::pem::Error> {
        let chain = CertificateDer::pem_slice_iter(&self.certificate).collect::<Result<_, _>>()?;
        Ok((chain, PrivateKeyDer::from_pem_slice(&self.key)?))
    }
}

/// A client configuration on the process's crypto provider, or on ring where there is none.
fn rustls_config(trust: Trust) -> Result<rustls::ClientConfig, Box<dyn std::error::Error + Send + Sync>> {
    let provider = rustls::crypto::CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(rustls::crypto::ring::default_provider()));
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(trust.roots);
    Ok(match trust.identity {
        Some(identity) => {
            let (chain, key) = identity.parsed()?;
            builder.with_client_auth_cert(chain, key)?
        }
        None => builder.with_no_client_auth(),
    })
}

/// Where spans go. What OTLP says counts: the console is for looking on.
#[derive(Debug)]
pub(super) struct SpanSinks {
    otlp: Option<opentelemetry_otlp::SpanExporter>,
    console: Option<opentelemetry_stdout::SpanExporter>,
}

impl SpanSinks {
    pub(super) async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        match (&self.otlp, &self.console) {
            (Some(otlp), Some(console)) => {
                console.export(batch.clone()).await?;
                otlp.export(batch).await
            }
            (Some(otlp), None) => otlp.export(batch).await,
            (None, Some(console)) => console.export(batch).await,
            (None, None) => Ok(()),
        }
    }
}

/// Where log records go.
#[derive(Debug)]
pub(super) struct LogSinks {
    otlp: Option<opentelemetry_otlp::LogExporter>,
    console: Option<opentelemetry_stdout::LogExporter>,
}

impl LogSinks {
    pub(super) async fn export(&self, batch: Vec<QueuedRecord>) -> OTelSdkResult {
        let pairs: Vec<_> = batch.iter().map(|record| (&record.0, &record.1)).collect();
        if let Some(console) = &self.console {
            console.export(LogBatch::new(&pairs)).await?;
        }
        match &self.otlp {
            Some(otlp) => otlp.export(LogBatch::new(&pairs)).await,
            None => Ok(()),
        }
    }
}

/// Where metrics go.
pub(super) struct MetricSinks {
    otlp: Option<opentelemetry_otlp::MetricExporter>,
    console: Option<opentelemetry_stdout::MetricExporter>,
}

impl MetricSinks {
    pub(super) async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        if let Some(console) = &self.console {
            console.export(metrics).await?;
        }
        match &self.otlp {
            Some(otlp) => otlp.export(metrics).await,
            None => Ok(()),
        }
    }
}

/// A log record with its scope, as the queue holds it.
pub(super) type QueuedRecord = Box<(SdkLogRecord, InstrumentationScope)>;

#[cfg(test)]
mod tests;
