use std::time::Duration;

use opentelemetry::{KeyValue, SpanId, TraceId, metrics::MeterProvider};
use opentelemetry_sdk::{Resource, metrics::SdkMeterProvider};

use super::{
    open_metrics::{Exemplar, Exemplars, written},
    *,
};

#[path = "../../tests/support/open_metrics.rs"]
mod parser;

const NASTY: &str = "a \"b\" \\ c\nd";

/// A registry with one of everything that can be gathered.
fn gathered() -> (prometheus::Registry, SdkMeterProvider) {
    let registry = prometheus::Registry::new();
    let service = KeyValue::new("service.name", NASTY);
    let provider = SdkMeterProvider::builder()
        .with_resource(Resource::builder_empty().with_attribute(service).build())
        .with_reader(reader(&registry).expect("a reader"))
        .build();
    let meter = provider.meter("scope");
    let runs = meter.u64_counter("runs").with_description("All \"runs\"\nand \\ more").build();
    runs.add(3, &[KeyValue::new("task.name", NASTY)]);
    meter.f64_counter("time").with_unit("s").build().add(0.1, &[]);
    meter.f64_up_down_counter("open").with_unit("{run}").build().add(-1.5, &[]);
    meter.i64_gauge("big").with_unit("By").build().record(i64::MAX, &[]);
    // Past the SDK, which drops them.
    for (name, value) in [("nan", f64::NAN), ("least", f64::NEG_INFINITY)] {
        let gauge = prometheus::Gauge::new(name, "Help.").expect("a name");
        gauge.set(value);
        registry.register(Box::new(gauge)).expect("a new name");
    }
    let took =
        meter.f64_histogram("took").with_unit("s").with_boundaries(vec![0.0001, 0.005, 1.0, 3600.0]).build();
    [0.002, 5_000.0, 1.0].iter().for_each(|seconds| took.record(*seconds, &[]));
    (registry, provider)
}

#[test]
fn open_metrics_is_written_like_this() {
    let (registry, provider) = gathered();
    let expected = r##"# TYPE big_bytes gauge
# UNIT big_bytes bytes
big_bytes{otel_scope_name="scope"} 9.223372036854776e18
# TYPE least gauge
# HELP least Help.
least -Inf
# TYPE nan gauge
# HELP nan Help.
nan NaN
# TYPE open gauge
open{otel_scope_name="scope"} -1.5
# TYPE runs counter
# HELP runs All \"runs\"\nand \\ more
runs_total{task_name="a \"b\" \\ c\nd",otel_scope_name="scope"} 3.0
# TYPE target info
# HELP target Target metadata
target_info{service_name="a \"b\" \\ c\nd"} 1.0
# TYPE time_seconds counter
# UNIT time_seconds seconds
time_seconds_total{otel_scope_name="scope"} 0.1
# TYPE took_seconds histogram
# UNIT took_seconds seconds
took_seconds_bucket{otel_scope_name="scope",le="0.0001"} 0
took_seconds_bucket{otel_scope_name="scope",le="0.005"} 1
took_seconds_bucket{otel_scope_name="scope",le="1.0"} 2
took_seconds_bucket{otel_scope_name="scope",le="3600.0"} 2
took_seconds_bucket{otel_scope_name="scope",le="+Inf"} 3
took_seconds_sum{otel_scope_name="scope"} 5001.002
took_seconds_count{otel_scope_name="scope"} 3
# EOF
"##;
    assert_eq!(open_metrics(&registry, &[]), expected);
    drop(provider);
}

#[test]
fn every_sample_of_the_plain_text_is_in_open_metrics_and_texts_survive() {
    let (registry, provider) = gathered();
    let open = open_metrics(&registry, &[]);
    let families = parser::parse(&open).expect("valid");
    assert_eq!(families["runs"].help.as_deref(), Some("All \"runs\"\nand \\ more"));
    assert_eq!(families["runs"].samples[0].labels["task_name"], NASTY);
    assert_eq!(families["time_seconds"].unit.as_deref(), Some("seconds"));
    let key = |line: &str| {
        // The two formats write bounds and numbers in different ways.
        let line = line.replace("le=\"1\"", "le=\"1.0\"").replace("le=\"3600\"", "le=\"3600.0\"");
        line.rsplit_once(' ').map(|(series, _)| series.to_owned())
    };
    let plain = text(&registry).expect("text");
    let samples = |text: &str| -> Vec<_> {
        let mut samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).map(key).collect();
        samples.sort();
        samples
    };
    assert_eq!(samples(&open), samples(&plain));
    drop(provider);
}

#[test]
fn an_exemplar_is_beside_the_bucket_and_the_series_that_counts_its_run() {
    let registry = prometheus::Registry::new();
    let provider = SdkMeterProvider::builder().with_reader(reader(&registry).expect("a reader")).build();
    let meter = provider.meter("scope");
    let took = meter.f64_histogram("task.run.duration").with_unit("s");
    let took = took.with_boundaries(vec![0.5, 1.0, 2.0]).build();
    let of = |name: &'static str| {
        vec![KeyValue::new("task.run.result", "success"), KeyValue::new("task.name", name)]
    };
    took.record(1.0, &of("a"));
    took.record(7.0, &of("a"));
    took.record(0.1, &of("b"));
    let mut exemplars = Exemplars::new();
    // The last two are of a bucket without runs, and of a series that there is not.
    for (name, seconds, trace) in [("a", 1.0, 1_u128), ("a", 7.0, 2), ("b", 0.7, 3), ("c", 1.0, 4)] {
        let labels = [("task_name", name), ("task_run_result", "success")];
        let labels = labels.map(|(label, value)| (label.to_owned(), value.to_owned()));
        exemplars.entry(labels.into()).or_default().push(Exemplar {
            seconds,
            ended: Duration::from_millis(1_700_000_000_250),
            trace_id: TraceId::from(trace),
            span_id: SpanId::from(10),
        });
    }
    let open = written(&registry.gather(), &exemplars);
    parser::parse(&open).expect("valid");
    let lines: Vec<_> = open.lines().filter_map(|line| line.split_once(" # ")).collect();
    let series = |le| {
        format!(
            "task_run_duration_seconds_bucket{{task_name=\"a\",task_run_result=\"success\",otel_scope_name=\"scope\",le=\"{le}\"}}"
        )
    };
    let (second, last) = (series("1.0") + " 1", series("+Inf") + " 2");
    let trace = |trace: u128| format!("{{trace_id=\"{trace:032x}\",span_id=\"000000000000000a\"}}");
    assert_eq!(
        lines,
        [
            (second.as_str(), format!("{} 1.0 1700000000.250", trace(1)).as_str()),
            (last.as_str(), format!("{} 7.0 1700000000.250", trace(2)).as_str()),
        ]
    );
    drop(provider);
}

#[test]
fn open_metrics_is_chosen_only_if_named_and_preferred() {
    let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                      application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,\
                      text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    for wanted in [
        prometheus,
        "application/openmetrics-text",
        "Application/OpenMetrics-Text; version=\"1.0.0\"; Q=0.1",
        "text/plain, application/openmetrics-text",
    ] {
        assert!(wants_open_metrics(wanted), "{wanted}");
    }
    for unwanted in [
        "",
        "*/*",
        "text/plain;version=0.0.4;q=1,*/*;q=0.1",
        "application/openmetrics-text;q=0",
        "application/openmetrics-text;q=0.2,text/plain",
        "application/openmetrics-text;version=0.0.1",
        "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    ] {
        assert!(!wants_open_metrics(unwanted), "{unwanted}");
    }
}

#[test]
fn parser_rejects_invalid_open_metrics() {
    let valid = "# TYPE a counter\na_total 1.0 # {t=\"1\"} 2.0 3.0\n# TYPE h histogram\n\
                 h_bucket{le=\"1.0\"} 1\nh_bucket{le=\"+Inf\"} 1\nh_sum 0.5\nh_count 1\n# EOF\n";
    parser::parse(valid).expect("valid");
    for (from, to) in [
        ("# EOF\n", ""),
        ("a_total", "a"),
        ("a_total 1.0", "a_total -1.0"),
        ("counter", "gauge"),
        ("h_count 1", "h_count 2"),
        ("{le=\"+Inf\"}", "{le=\"2.0\"}"),
        ("h_bucket{le=\"1.0\"} 1", "h_bucket{le=\"1.0\"} 2"),
        ("# TYPE h histogram\n", "# TYPE a counter\n"),
        ("h_sum 0.5", "h_sum .5"),
        ("h_sum 0.5", "h_sum 0.5 # {} 1.0"),
        ("{t=\"1\"}", "{t=\"\\t\"}"),
        ("# TYPE h", "# UNIT h seconds\n# TYPE h"),
        ("a_total 1.0", "a_total 1.0\n\na_total{x=\"y\"} 1.0"),
    ] {
        let broken = valid.replacen(from, to, 1);
        assert_ne!(broken, valid);
        assert!(parser::parse(&broken).is_err(), "{broken}");
    }
}
