//! Traces that come from outside: in the headers of a message or request, and in the environment of the process.
//!
//! The formats of the W3C are read here, because the API crate of OpenTelemetry has no propagator for them and the SDK is optional.

use std::{
    ffi::{OsStr, OsString},
    marker::PhantomData,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use opentelemetry::{
    Context, SpanId, TraceFlags, TraceId,
    baggage::{BaggageExt, KeyValueMetadata},
    global,
    propagation::Extractor,
    trace::{SpanContext, TraceContextExt, TraceState},
};

use super::with_trace;
use crate::contract::{self, record};

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";
const BAGGAGE: &str = "baggage";

/// The longest baggage header that is read, in bytes: the limit of the W3C, which the SDK has too.
const MAX_BAGGAGE_BYTES: usize = 8_192;
/// The most entries that are read of a baggage header: the limit of the SDK.
const MAX_BAGGAGE_ENTRIES: usize = 64;

/// True if the process's telemetry propagates nothing. Relaxed: pairs with nothing.
static OFF: AtomicBool = AtomicBool::new(false);

/// Notes whether the telemetry that was installed propagates anything (`OTEL_PROPAGATORS`).
#[cfg(feature = "otlp-http")]
pub(crate) fn set_propagation(on: bool) {
    OFF.store(!on, Relaxed);
}

/// Reads the trace and the baggage that a message or request carries, for [`TaskBuilder::parent`](crate::task::TaskBuilder::parent).
///
/// `header` is called with the names of the headers, such as `traceparent`, and returns their values. The names are as the propagator
/// gives them, mostly in lower case: a transport that keeps the case of names must compare without it.
///
/// The global propagator is used if one is set. Otherwise the headers of the W3C are read: `traceparent`, `tracestate` and `baggage`. With
/// `OTEL_PROPAGATORS=none` and [`TelemetryBuilder::install`](crate::telemetry::TelemetryBuilder::install) nothing is read. The current context
/// plays no part, so a message without a trace never becomes part of the consumer's own.
///
/// ```
/// use std::collections::HashMap;
/// # use opentelemetry::trace::TraceContextExt;
/// # use otel_tasks::{TaskManager, telemetry::remote_context};
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// # let tasks = TaskManager::new();
/// let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// let headers = HashMap::from([("traceparent", traceparent)]);
///
/// let from = remote_context(|name| headers.get(name).copied());
/// assert_eq!(from.span().span_context().trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
/// tasks.task("handle_order").parent(from).spawn(async { /* continues the producer's trace */ });
/// # }
/// ```
pub fn remote_context<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Context {
    let headers = Headers(header, PhantomData);
    let global = global::get_text_map_propagator(|propagator| {
        let is_set = propagator.fields().next().is_some();
        is_set.then(|| propagator.extract_with_context(&Context::new(), &headers))
    });
    global.unwrap_or_else(|| if OFF.load(Relaxed) { Context::new() } else { w3c(&headers.0) })
}

struct Headers<'a, F>(F, PhantomData<&'a str>);

impl<'a, F: Fn(&str) -> Option<&'a str>> Extractor for Headers<'a, F> {
    fn get(&self, key: &str) -> Option<&str> {
        (self.0)(key)
    }

    /// Unknown. Propagators that read the names search for prefixes, which W3C names do not have.
    fn keys(&self) -> Vec<&str> {
        Vec::new()
    }
}

/// The span that started this process, as `TRACEPARENT` and `TRACESTATE` name it. Read once.
pub(crate) fn environment() -> Option<&'static SpanContext> {
    static READ: OnceLock<Environment> = OnceLock::new();
    let read = READ.get_or_init(Environment::read);
    // Not while it is read: the subscriber may be the user's code, and begin a run.
    if !read.said.load(Relaxed) && !read.said.swap(true, Relaxed) {
        read.say();
    }
    read.span.as_ref()
}

struct Environment {
    traceparent: Option<OsString>,
    span: Option<SpanContext>,
    /// True if the invalid variable was reported. Relaxed: pairs with nothing.
    said: AtomicBool,
}

impl Environment {
    fn read() -> Self {
        let variable =
            |name: &str| std::env::var_os(name.to_ascii_uppercase()).filter(|value| !value.is_empty());
        let traceparent = variable(TRACEPARENT);
        let tracestate = variable(TRACESTATE);
        let tracestate = tracestate.as_deref().and_then(OsStr::to_str);
        let text = traceparent.as_deref().and_then(OsStr::to_str);
        let span = text.and_then(|traceparent| span_context(traceparent, tracestate));
        let is_valid = traceparent.is_none() || span.is_some();
        Self { traceparent, span, said: AtomicBool::new(is_valid) }
    }

    fn say(&self) {
        let Some(traceparent) = &self.traceparent else { return };
        with_trace(None, || {
            tracing::event!(
                name: record::TRACEPARENT_IGNORED,
                target: contract::SCOPE,
                parent: None,
                tracing::Level::WARN,
                "the variable TRACEPARENT is not used: {traceparent:?} is no trace context of the W3C",
            );
        });
    }
}

fn w3c<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Context {
    let span = header(TRACEPARENT).and_then(|traceparent| span_context(traceparent, header(TRACESTATE)));
    let context = span.map_or_else(Context::new, |span| Context::new().with_remote_span_context(span));
    match header(BAGGAGE).filter(|baggage| baggage.len() <= MAX_BAGGAGE_BYTES) {
        Some(baggage) => {
            context.with_baggage(baggage.split(',').take(MAX_BAGGAGE_ENTRIES).filter_map(baggage_entry))
        }
        None => context,
    }
}

/// The span context of a `traceparent`, if it is valid: `<version>-<trace id>-<span id>-<flags>`, in lower-case digits. A later version may
/// have more after that. An invalid `tracestate` is left out.
fn span_context(traceparent: &str, tracestate: Option<&str>) -> Option<SpanContext> {
    let mut parts = traceparent.trim().split('-');
    let mut digits = |length: usize| {
        let part = parts.next().filter(|part| part.len() == length)?;
        part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')).then_some(part)
    };
    let version = digits(2).filter(|version| *version != "ff")?;
    let (trace, span, flags) = (digits(32)?, digits(16)?, digits(2)?);
    if version == "00" && parts.next().is_some() {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let state = tracestate.and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    Some(SpanContext::new(trace, span, flags, true, state)).filter(SpanContext::is_valid)
}

/// One entry of a `baggage` header: `name=value;metadata`, percent-encoded. `None` if it is invalid.
fn baggage_entry(entry: &str) -> Option<KeyValueMetadata> {
    let mut properties = entry.split(';');
    let (name, value) = properties.next()?.split_once('=')?;
    let metadata: Vec<_> =
        properties.filter_map(|property| Some(decoded(property)?.trim().to_owned())).collect();
    let (name, value) = (decoded(name)?.trim().to_owned(), decoded(value)?.trim().to_owned());
    Some(KeyValueMetadata::new(name, value, metadata.join(";").as_str()))
}

/// Decodes a percent-encoded text; `None` if it is not UTF-8. A `%` without two digits is a literal.
fn decoded(text: &str) -> Option<String> {
    let digit =
        |byte: Option<&u8>| char::from(*byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        let encoded = digit(after.first()).zip(digit(after.get(1))).filter(|_| *byte == b'%');
        bytes.push(encoded.map_or(*byte, |(high, low)| high * 16 + low));
        rest = if encoded.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).ok()
}

/// Held against the propagators of the SDK.
#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use opentelemetry::propagation::TextMapPropagator;
    use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};
    use proptest::prelude::*;

    use super::*;

    fn of_sdk(headers: &HashMap<String, String>) -> Context {
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), headers);
        BaggagePropagator::new().extract_with_context(&context, headers)
    }

    fn ours(headers: &HashMap<String, String>) -> Context {
        w3c(|name| headers.get(name).map(String::as_str))
    }

    fn baggage(context: &Context) -> Vec<String> {
        let mut entries: Vec<_> =
            context.baggage().iter().map(|(name, (value, rest))| format!("{name}={value};{rest}")).collect();
        entries.sort();
        entries
    }

    fn traceparents() -> impl Strategy<Value = String> {
        let part = |valid: &'static str| prop_oneof![8 => valid, 1 => "[0-9a-f]{0,33}"];
        let version = part("(00|00|00|01|cc|fe|ff)");
        let (trace, span, flags) =
            (part("[0-9a-f]{32}"), part("[0-9a-f]{16}"), part("(00|01|03|[0-9a-f]{2})"));
        (version, trace, span, flags, "(|||-|-more| )")
            .prop_map(|(version, trace, span, flags, more)| format!("{version}-{trace}-{span}-{flags}{more}"))
    }

    proptest! {
        /// Both read these headers alike. The SDK also reads headers that are too short, and a dash at the end.
        #[test]
        fn traceparent_is_read_as_by_the_sdk(traceparent in traceparents(), tracestate in "([a-z]=[0-9],?){0,3}|!") {
            let headers = HashMap::from([(TRACEPARENT.to_owned(), traceparent.clone()), (TRACESTATE.to_owned(), tracestate)]);
            let (ours, theirs) = (ours(&headers), of_sdk(&headers));
            let lengths: Vec<_> = traceparent.trim().split('-').map(str::len).collect();
            let is_longer = traceparent.starts_with("00-") && lengths.len() > 4;
            if lengths.starts_with(&[2, 32, 16, 2]) && !is_longer {
                let (ours, theirs) = (ours.span(), theirs.span());
                prop_assert_eq!(ours.span_context(), theirs.span_context());
            } else {
                prop_assert!(!ours.span().span_context().is_valid());
            }
        }

        /// The SDK drops what follows a second `=` in a value, so there is none.
        #[test]
        fn baggage_is_read_as_by_the_sdk(
            entries in prop::collection::vec("([a-z %]|%[0-9a-fA-F]{2}|é){0,5}(=([a-z %]|%[0-9a-fA-F]{2}|é){0,5})?(;([a-z %]|%[0-9a-fA-F]{2}|é){0,5}){0,2}", 0..8),
        ) {
            let header = entries.join(",");
            let headers = HashMap::from([(BAGGAGE.to_owned(), header)]);
            prop_assert_eq!(baggage(&ours(&headers)), baggage(&of_sdk(&headers)));
        }
    }

    #[test]
    fn ids_of_zeros_and_version_ff_are_invalid() {
        let valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(span_context(valid, None).is_some_and(|span| span.is_remote() && span.is_sampled()));
        assert!(span_context(&valid.replacen("00", "fe", 1), None).is_some());
        for invalid in [
            valid.replacen("00", "ff", 1),
            valid.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            valid.replace("b7ad6b7169203331", &"0".repeat(16)),
            valid.to_uppercase(),
            format!("{valid}-more"),
            "b3".to_owned(),
        ] {
            assert_eq!(span_context(&invalid, None), None, "{invalid}");
        }
        let long = format!("{valid}-more").replacen("00", "01", 1);
        assert!(span_context(&long, None).is_some(), "a later version may say more");
    }
}
