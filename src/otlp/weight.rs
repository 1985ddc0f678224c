//! The memory of a waiting item: its own size, and its parts on the heap.

use opentelemetry::{
    Array, KeyValue, Value,
    logs::AnyValue,
    trace::{SpanContext, Status},
};
use opentelemetry_sdk::trace::SpanData;

use super::parcel::QueuedRecord;

/// An item of a queue that is bounded in bytes.
pub(super) trait Weighs {
    /// The memory of the item in bytes. Shared text counts for each that has it; allocators' rounding does not.
    fn weight(&self) -> usize;
}

impl Weighs for SpanData {
    fn weight(&self) -> usize {
        let status = match &self.status {
            Status::Error { description } => description.len(),
            Status::Unset | Status::Ok => 0,
        };
        let events: usize = self
            .events
            .iter()
            .map(|event| size_of_val(event) + event.name.len() + of_pairs(&event.attributes))
            .sum();
        let links: usize = self
            .links
            .iter()
            .map(|link| size_of_val(link) + of_context(&link.span_context) + of_pairs(&link.attributes))
            .sum();
        let scope: usize = self.instrumentation_scope.attributes().map(of_pair).sum();
        let own = self.name.len() + status + of_context(&self.span_context) + of_pairs(&self.attributes);
        size_of::<Self>() + own + scope + events + links
    }
}

impl Weighs for QueuedRecord {
    fn weight(&self) -> usize {
        let record = &self.0;
        let pairs: usize = record
            .attributes_iter()
            .map(|(key, value)| key.as_str().len() + size_of_val(value) + of_any(value))
            .sum();
        let scope: usize = self.1.attributes().map(of_pair).sum();
        let scope = scope + self.1.name().len() + record.target().map_or(0, |target| target.len());
        size_of_val(&**self) + pairs + record.body().map_or(0, of_any) + scope
    }
}

/// The state of a trace comes from the sender of the parent, in up to 32 pairs.
fn of_context(context: &SpanContext) -> usize {
    const PAIR: usize = 2 * size_of::<String>();
    match context.trace_state().header() {
        header if header.is_empty() => 0,
        header => header.len() + PAIR * (header.matches(',').count() + 1),
    }
}

fn of_pairs(pairs: &[KeyValue]) -> usize {
    pairs.iter().map(of_pair).sum()
}

fn of_pair(pair: &KeyValue) -> usize {
    size_of_val(pair) + pair.key.as_str().len() + of_value(&pair.value)
}

fn of_value(value: &Value) -> usize {
    match value {
        Value::String(text) => text.as_str().len(),
        Value::Array(Array::Bool(all)) => size_of_val(all.as_slice()),
        Value::Array(Array::I64(all)) => size_of_val(all.as_slice()),
        Value::Array(Array::F64(all)) => size_of_val(all.as_slice()),
        Value::Array(Array::String(all)) => {
            all.iter().map(|text| size_of_val(text) + text.as_str().len()).sum()
        }
        // Numbers are in the value itself, and so is what a later version of the API may add, as far as is known.
        _ => 0,
    }
}

fn of_any(value: &AnyValue) -> usize {
    match value {
        AnyValue::String(text) => text.as_str().len(),
        AnyValue::Bytes(bytes) => bytes.len(),
        AnyValue::ListAny(all) => all.iter().map(|value| size_of_val(value) + of_any(value)).sum(),
        AnyValue::Map(map) => map
            .iter()
            .map(|(key, value)| size_of_val(key) + key.as_str().len() + size_of_val(value) + of_any(value))
            .sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
