//! The destinations of batches: a receiver, the terminal, or both. Only the receiver's result counts: the terminal is for development.

use std::sync::Arc;

use opentelemetry_sdk::{
    Resource,
    metrics::{Temporality, data::ResourceMetrics},
    trace::SpanData,
};

use super::{
    batch::{Settled, Waiting},
    console::{Console, Metrics, Records, Spans},
    delivery::Delivery,
    parcel::{Built, MetricEncoder, Parcel, QueuedRecord, RecordEncoder, SpanEncoder},
    settings::Targets,
    transport::{Cause, Failure, Transport},
    weight::Weighs,
};

impl Settled {
    /// A batch that was lost on this side.
    pub(super) fn lost(items: u64, cause: Cause, waiting: &dyn Waiting) -> Self {
        let failure = Failure::new(&"".into(), cause);
        waiting.failed(&failure);
        Self { failed: items, error: Some(failure), ..Self::default() }
    }

    /// Returns the result without a receiver.
    fn printed(items: u64, printed: Result<(), Cause>, waiting: &dyn Waiting) -> Self {
        match printed {
            Ok(()) => {
                waiting.delivered();
                Self { exported: items, ..Self::default() }
            }
            Err(cause) => Self::lost(items, cause, waiting),
        }
    }
}

/// Prints a batch, if it is to be printed.
type Print<T> = dyn Fn(&[T]) -> Result<(), String> + Send;

/// The destination of spans or log records.
pub(super) struct Sink<T> {
    encode: Box<dyn Fn(Vec<T>) -> Result<Parcel, String> + Send>,
    print: Box<Print<T>>,
    delivery: Option<Delivery<Arc<Transport>>>,
}

impl Sink<SpanData> {
    pub(super) fn of_spans(
        resource: &Resource,
        delivery: Option<Delivery<Arc<Transport>>>,
        targets: Targets,
    ) -> Built<Self> {
        let encoder = SpanEncoder::new(resource)?;
        let console = Console::<Spans>::new(targets.console, resource);
        Ok(Self {
            encode: Box::new(move |batch| encoder.encode(batch)),
            print: Box::new(move |batch| console.print(batch)),
            delivery,
        })
    }
}

impl Sink<QueuedRecord> {
    pub(super) fn of_records(
        resource: &Resource,
        delivery: Option<Delivery<Arc<Transport>>>,
        targets: Targets,
    ) -> Built<Self> {
        let encoder = RecordEncoder::new(resource)?;
        let console = Console::<Records>::new(targets.console, resource);
        Ok(Self {
            encode: Box::new(move |batch| encoder.encode(&batch)),
            print: Box::new(move |batch| console.print(batch)),
            delivery,
        })
    }
}

impl<T> Sink<T> {
    pub(super) fn export(&mut self, batch: Vec<T>, waiting: &dyn Waiting) -> Settled {
        let items = batch.len() as u64;
        let printed = (self.print)(&batch);
        let Some(delivery) = &mut self.delivery else {
            return Settled::printed(items, printed.map_err(Cause::Console), waiting);
        };
        // From here on the bytes are enough, however long it takes.
        match (self.encode)(batch) {
            Ok(parcel) => delivery.deliver(parcel, waiting),
            Err(text) => Settled::lost(items, Cause::Encoding(text), waiting),
        }
    }
}

/// Makes of a collection of metrics what can wait.
pub(super) struct MetricPress {
    encoder: Option<MetricEncoder>,
    console: Console<Metrics>,
}

/// A collection that was encoded, or printed and has nowhere else to go.
pub(super) struct Collection(pub(super) Result<Option<Parcel>, Cause>);

impl Weighs for Collection {
    fn weight(&self) -> usize {
        match &self.0 {
            Ok(Some(parcel)) => size_of::<Self>() + parcel.body.len(),
            Ok(None) | Err(_) => size_of::<Self>(),
        }
    }
}

impl MetricPress {
    pub(super) fn new(temporality: Temporality, targets: Targets) -> Built<Self> {
        Ok(Self {
            encoder: if targets.otlp { Some(MetricEncoder::new(temporality)?) } else { None },
            console: Console::<Metrics>::new(targets.console, temporality),
        })
    }

    pub(super) fn press(&self, metrics: &ResourceMetrics) -> Collection {
        let printed = self.console.print(metrics);
        Collection(match &self.encoder {
            Some(encoder) => encoder.encode(metrics).map(Some).map_err(Cause::Encoding),
            None => printed.map(|()| None).map_err(Cause::Console),
        })
    }
}

/// The destination of queued collections, one at a time.
pub(super) struct MetricSink(pub(super) Option<Delivery<Arc<Transport>>>);

impl MetricSink {
    pub(super) fn export(&mut self, batch: Vec<Collection>, waiting: &dyn Waiting) -> Settled {
        // Batches of one: each collection is a request of its own.
        let Some(Collection(collection)) = batch.into_iter().next() else { return Settled::default() };
        match (collection, &mut self.0) {
            (Ok(Some(parcel)), Some(delivery)) => delivery.deliver(parcel, waiting),
            (Ok(_), _) => Settled::printed(1, Ok(()), waiting),
            (Err(cause), _) => Settled::printed(1, Err(cause), waiting),
        }
    }
}
