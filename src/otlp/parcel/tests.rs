use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::InstrumentationScope as Scope,
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    metrics::v1::{
        ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric,
        NumberDataPoint, ResourceMetrics as OfResource, ScopeMetrics, Sum, Summary, SummaryDataPoint,
        metric::Data,
    },
    resource::v1::Resource as ProtoResource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use proptest::prelude::*;
use prost::Message;

use super::*;

fn request(sizes: &[Vec<usize>]) -> ExportTraceServiceRequest {
    let mut name = 0;
    let resource_spans = sizes
        .iter()
        .enumerate()
        .map(|(resource, scopes)| ResourceSpans {
            resource: Some(ProtoResource { dropped_attributes_count: resource as u32, ..Default::default() }),
            scope_spans: scopes
                .iter()
                .map(|&size| ScopeSpans {
                    scope: Some(Scope { name: format!("scope {size}"), ..Scope::default() }),
                    spans: (0..size)
                        .map(|_| {
                            name += 1;
                            Span { name: name.to_string(), ..Span::default() }
                        })
                        .collect(),
                    ..ScopeSpans::default()
                })
                .collect(),
            ..ResourceSpans::default()
        })
        .collect();
    ExportTraceServiceRequest { resource_spans }
}

/// Each span with its resource and its scope, in order.
fn leaves(request: &ExportTraceServiceRequest) -> Vec<(u32, String, String)> {
    let mut all = Vec::new();
    for of_resource in &request.resource_spans {
        let resource = of_resource.resource.as_ref().map_or(0, |resource| resource.dropped_attributes_count);
        for of_scope in &of_resource.scope_spans {
            let scope = of_scope.scope.as_ref().map(|scope| scope.name.clone()).unwrap_or_default();
            all.extend(of_scope.spans.iter().map(|span| (resource, scope.clone(), span.name.clone())));
        }
    }
    all
}

fn parcel_of(request: &ExportTraceServiceRequest) -> Parcel {
    let items = leaves(request).len() as u64;
    Parcel { signal: Signal::Traces, body: request.encode_to_vec().into(), items, encoding: None }
}

proptest! {
    #[test]
    fn the_halves_are_the_whole_and_nearly_equal(
        sizes in prop::collection::vec(prop::collection::vec(0_usize..5, 0..4), 0..4),
    ) {
        let whole = request(&sizes);
        let count = leaves(&whole).len();
        match parcel_of(&whole).split() {
            None => prop_assert!(count < 2),
            Some([first, second]) => {
                prop_assert_eq!((first.items, second.items), ((count / 2) as u64, count.div_ceil(2) as u64));
                let halves = [first, second].map(|half| {
                    ExportTraceServiceRequest::decode(half.body).expect("a request")
                });
                for half in &halves {
                    let empty = |of: &ResourceSpans| of.scope_spans.iter().any(|of| of.spans.is_empty());
                    prop_assert!(!half.resource_spans.iter().any(|of| of.scope_spans.is_empty() || empty(of)));
                }
                let both: Vec<_> = halves.iter().flat_map(leaves).collect();
                prop_assert_eq!(both, leaves(&whole));
            }
        }
    }
}

#[test]
fn a_collection_is_split_within_a_metric_and_stays_one_item() {
    let point = |n: u64| NumberDataPoint { time_unix_nano: n, ..NumberDataPoint::default() };
    let gauge = Gauge { data_points: (0..5).map(point).collect() };
    let metric = Metric { name: "many".to_owned(), data: Some(Data::Gauge(gauge)), ..Metric::default() };
    let scope = ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() };
    let resource = OfResource { scope_metrics: vec![scope], ..OfResource::default() };
    let request = ExportMetricsServiceRequest { resource_metrics: vec![resource] };
    let whole =
        Parcel { signal: Signal::Metrics, body: request.encode_to_vec().into(), items: 1, encoding: None };
    let halves = whole.split().expect("five points");
    let points = halves.map(|half| {
        assert_eq!(half.items, 1);
        let request = ExportMetricsServiceRequest::decode(half.body).expect("a request");
        let metric = &request.resource_metrics[0].scope_metrics[0].metrics[0];
        let Some(Data::Gauge(gauge)) = &metric.data else { panic!("{metric:?}") };
        (metric.name.clone(), gauge.data_points.iter().map(|point| point.time_unix_nano).collect::<Vec<_>>())
    });
    assert_eq!(points, [("many".to_owned(), vec![0, 1]), ("many".to_owned(), vec![2, 3, 4])]);
}

#[test]
fn the_points_of_all_kinds_of_metrics_are_counted() {
    let data = [
        Data::Gauge(Gauge { data_points: vec![NumberDataPoint::default(); 1] }),
        Data::Sum(Sum { data_points: vec![NumberDataPoint::default(); 2], ..Sum::default() }),
        Data::Histogram(Histogram {
            data_points: vec![HistogramDataPoint { sum: Some(0.1), ..HistogramDataPoint::default() }; 4],
            aggregation_temporality: 2,
        }),
        Data::ExponentialHistogram(ExponentialHistogram {
            data_points: vec![ExponentialHistogramDataPoint::default(); 8],
            ..ExponentialHistogram::default()
        }),
        Data::Summary(Summary { data_points: vec![SummaryDataPoint::default(); 16] }),
    ];
    let metrics = data.map(|data| Metric { data: Some(data), ..Metric::default() });
    let scope = ScopeMetrics { metrics: metrics.to_vec(), ..ScopeMetrics::default() };
    let resource = OfResource { scope_metrics: vec![scope; 2], ..OfResource::default() };
    let body = ExportMetricsServiceRequest { resource_metrics: vec![resource] }.encode_to_vec();
    let parcel = Parcel { signal: Signal::Metrics, body: body.into(), items: 1, encoding: None };
    assert_eq!(parcel.points(), Some(62));
}

#[test]
fn fields_of_a_later_version_stay_in_both_halves() {
    // A number, eight bytes, a text and four bytes, in fields that OTLP does not have.
    let unknown =
        b"\xa0\x06\x96\x01\xa9\x06\x01\x02\x03\x04\x05\x06\x07\x08\xb2\x06\x02hi\xbd\x06\x01\x02\x03\x04";
    let records = LogRecord { time_unix_nano: 1, ..LogRecord::default() };
    let scope = ScopeLogs { log_records: vec![records; 2], ..ScopeLogs::default() };
    let resource = ResourceLogs { scope_logs: vec![scope], ..ResourceLogs::default() };
    let body = ExportLogsServiceRequest { resource_logs: vec![resource] }.encode_to_vec();
    let body = [&body[..], &unknown[..]].concat().into();
    let whole = Parcel { signal: Signal::Logs, body, items: 2, encoding: None };
    for half in whole.split().expect("two records") {
        assert!(half.body.ends_with(unknown), "{:?}", half.body);
        let request = ExportLogsServiceRequest::decode(half.body).expect("a request");
        assert_eq!(request.resource_logs[0].scope_logs[0].log_records.len(), 1);
    }
}

#[test]
fn compressed_or_invalid_parcels_are_not_split() {
    let whole = parcel_of(&request(&[vec![4]]));
    assert!(whole.split().is_some());
    let compressed = Parcel { encoding: Some("gzip".parse().expect("a value")), ..whole.clone() };
    assert!(compressed.split().is_none());
    for broken in [&b"\xff"[..], b"\x0a", b"\x0a\x05", b"\x0b", b"\x0a\x02\x12\x05", b"\x08\xff", b"\x0d\x01"]
    {
        let broken = Parcel { body: Bytes::from_static(broken), ..whole.clone() };
        assert!(broken.leaves().is_none(), "{:?}", broken.body);
        assert!(broken.split().is_none());
    }
    assert!(Parcel::empty(Signal::Traces).split().is_none());
}
