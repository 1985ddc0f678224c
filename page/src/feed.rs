//! The part of a telemetry pipeline that feeds the page: the last spans, and the metrics.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use opentelemetry_sdk::{metrics::MeterProviderBuilder, trace::SpanProcessor};
#[cfg(feature = "otlp")]
use otel_tasks::telemetry::{TelemetryBuilder, TelemetryPart};

use crate::{
    metrics,
    spans::{RingProcessor, SpanRing},
};

/// Collects spans and metrics for a page.
///
/// Give the feed to the telemetry, which fills it, and to the [page](crate::Page::feed), which shows it. Clones share their
/// content.
///
/// # Examples
///
/// As a part of otel-tasks' telemetry:
///
#[cfg_attr(feature = "otlp", doc = "```")]
#[cfg_attr(not(feature = "otlp"), doc = "```ignore")]
/// use otel_tasks::Telemetry;
/// use otel_tasks_page::Feed;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let feed = Feed::default();
/// let telemetry = Telemetry::builder().service("shop").export_if_configured().with(&feed).build()?;
/// # drop(telemetry);
/// # Ok(()) }
/// ```
///
/// In providers of your own:
///
/// ```
/// use opentelemetry_sdk::{metrics::SdkMeterProvider, trace::SdkTracerProvider};
/// use otel_tasks_page::Feed;
///
/// let feed = Feed::default();
/// let traces = SdkTracerProvider::builder().with_span_processor(feed.span_processor()).build();
/// let metrics = feed.read_metrics(SdkMeterProvider::builder()).build();
/// # drop((traces, metrics));
/// ```
#[derive(Debug, Clone)]
pub struct Feed {
    pub(crate) ring: Arc<SpanRing>,
    /// The reader of the newest meter provider. Replaced by `read_metrics` alone.
    reader: Arc<Mutex<Option<metrics::Reader>>>,
    /// True once a tracer provider has its processor.
    has_spans: Arc<AtomicBool>,
}

impl Default for Feed {
    fn default() -> Self {
        Self {
            ring: Arc::new(SpanRing::new(Self::SPANS, Self::BYTES)),
            reader: Arc::default(),
            has_spans: Arc::default(),
        }
    }
}

impl Feed {
    /// The most ended spans that a feed keeps.
    pub const SPANS: usize = 4_096;

    /// The most bytes of ended spans that a feed keeps, as an estimate: 8 MiB.
    pub const BYTES: usize = 8 << 20;

    /// Returns a span processor for a tracer provider. It keeps running spans, and the last ended ones within
    /// [`SPANS`](Self::SPANS) and [`BYTES`](Self::BYTES).
    pub fn span_processor(&self) -> impl SpanProcessor + use<> {
        self.has_spans.store(true, Relaxed);
        RingProcessor(self.ring.clone())
    }

    /// Adds a reader to a meter provider. It collects when `/metrics` is requested.
    ///
    /// A feed reads one provider: after a second call, the page shows the metrics of the second provider alone.
    pub fn read_metrics(&self, provider: MeterProviderBuilder) -> MeterProviderBuilder {
        // A new one for each provider: a reader collects from the first that it was given to.
        let reader = metrics::Reader::default();
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(reader.clone());
        provider.with_reader(reader)
    }

    /// The spans, if a tracer provider has the feed's processor.
    pub(crate) fn spans(&self) -> Option<Arc<SpanRing>> {
        self.has_spans.load(Relaxed).then(|| self.ring.clone())
    }

    /// The reader of the newest meter provider, if there is one.
    pub(crate) fn reader(&self) -> Option<metrics::Reader> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(feature = "otlp")]
impl TelemetryPart for &Feed {
    fn add_to(self, telemetry: TelemetryBuilder) -> TelemetryBuilder {
        let feed = self.clone();
        telemetry
            .span_processor(self.span_processor())
            .meter_provider(move |provider| feed.read_metrics(provider))
    }
}
