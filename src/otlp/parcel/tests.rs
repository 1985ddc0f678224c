use opentelemetry_proto::tonic::{
    common::v1::InstrumentationScope as Scope,
    metrics::v1::{Gauge, NumberDataPoint, ResourceMetrics as OfResource, ScopeMetrics},
    resource::v1::Resource as ProtoResource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use proptest::prelude::*;

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
        let mut request = ExportMetricsServiceRequest::decode(half.body).expect("a request");
        request.keep(&mut |_| true)
    });
    assert_eq!(points, [2, 3]);
}

#[test]
fn compressed_or_invalid_parcels_are_not_split() {
    let whole = parcel_of(&request(&[vec![4]]));
    assert!(whole.split().is_some());
    let compressed = Parcel { encoding: Some("gzip".parse().expect("a value")), ..whole.clone() };
    assert!(compressed.split().is_none());
    let broken = Parcel { body: Bytes::from_static(b"\xff"), ..whole };
    assert!(broken.split().is_none());
    assert!(Parcel::empty(Signal::Traces).split().is_none());
}
