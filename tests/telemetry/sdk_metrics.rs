//! `otel.sdk.*`: the balance under the names of the semantic conventions.

use std::collections::BTreeSet;

use opentelemetry::trace::{Span as _, Tracer as _};
use otel_tasks::telemetry::{Protocol, TelemetryBuilder, contract::sdk::INSTRUMENTS};

use crate::{
    BOTH,
    support::otlp::{Behaviour, Point, Receiver},
};

#[test]
fn sdk_metrics_show_the_balance_under_the_names_of_the_conventions() {
    for protocol in BOTH {
        for is_on in [false, true] {
            let receiver = Receiver::start(protocol);
            let builder = receiver.telemetry("counted").span_queue(3);
            let telemetry = if is_on { builder.sdk_metrics() } else { builder };
            let telemetry = telemetry.build().expect("built");
            receiver.set_behaviour(Behaviour::Refuse);
            (0..2).for_each(|_| telemetry.tracer().start("span").end());
            let _ = telemetry.tracer_provider().force_flush();
            receiver.set_behaviour(Behaviour::Ok);
            telemetry.tracer().start("span").end();
            telemetry.tracer_provider().force_flush().expect("delivered");
            telemetry.meter_provider().force_flush().expect("delivered");
            let balance = telemetry.balance().snapshot().traces;
            assert_eq!((balance.ended, balance.exported, balance.export_failed), (3, 1, 2));
            let names: BTreeSet<_> = receiver
                .metrics()
                .into_iter()
                .map(|metric| metric.name)
                .filter(|name| name.starts_with("otel."))
                .collect();
            let expected = INSTRUMENTS;
            let expected = expected.iter().filter(|_| is_on).map(|instrument| instrument.name.to_owned());
            assert_eq!(names, expected.collect());
            if !is_on {
                continue;
            }
            let exporter = match protocol {
                Protocol::Grpc => "otlp_grpc_span_exporter",
                _ => "otlp_http_span_exporter",
            };
            // Without an error type it is a success.
            let of = |name: &str, component: &str, error_type: Option<&str>| -> Vec<f64> {
                let points = receiver.points(name, &[("otel.component.type", component)]);
                let points =
                    points.iter().filter(|point| point.attributes.string("error.type") == error_type);
                let named = |point: &&Point| {
                    point.attributes.string("otel.component.name") == Some(&format!("{component}/0"))
                };
                points.filter(named).map(|point| point.value).collect()
            };
            let processor = "batching_span_processor";
            assert_eq!(of("otel.sdk.processor.span.processed", processor, None), [3.0]);
            assert_eq!(of("otel.sdk.processor.span.processed", processor, Some("queue_full")), [0.0]);
            assert_eq!(of("otel.sdk.processor.span.processed", processor, Some("already_shutdown")), [0.0]);
            assert_eq!(of("otel.sdk.processor.span.queue.size", processor, None), [0.0]);
            assert_eq!(of("otel.sdk.processor.span.queue.capacity", processor, None), [3.0]);
            assert_eq!(of("otel.sdk.exporter.span.exported", exporter, None), [1.0]);
            assert_eq!(of("otel.sdk.exporter.span.exported", exporter, Some("_OTHER")), [2.0]);
            let log = "otel.sdk.processor.log.queue.capacity";
            assert_eq!(of(log, "batching_log_processor", None), [TelemetryBuilder::DEFAULT_QUEUE as f64]);
            for instrument in INSTRUMENTS {
                let metric = receiver.metric(instrument.name).expect("exported");
                assert_eq!((&*metric.unit, &*metric.description), (instrument.unit, instrument.description));
                for point in &metric.points {
                    let keys = point.attributes.0.keys();
                    assert!(keys.clone().all(|key| instrument.attributes.contains(&&**key)), "{metric:?}");
                }
            }
        }
    }
}
