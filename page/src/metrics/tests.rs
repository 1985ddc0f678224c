use std::{collections::BTreeSet, time::Duration};

use opentelemetry::{Array, Key, KeyValue, SpanId, StringValue, TraceId, Value, metrics::MeterProvider};
use opentelemetry_sdk::{
    Resource,
    metrics::{Aggregation, Instrument, MeterProviderBuilder, SdkMeterProvider, Stream},
};
use otel_tasks::{CriticalTaskConfig, TaskManager};

use super::{
    exposition::{Exemplar, Exemplars, written},
    *,
};

#[path = "../../tests/support/open_metrics.rs"]
mod parser;

const NASTY: &str = "a \"b\" \\ c\nd";

/// A provider and two readers of it.
fn provider() -> (Reader, prometheus::Registry, SdkMeterProvider) {
    provider_with(|provider| provider)
}

fn provider_with(
    views: impl FnOnce(MeterProviderBuilder) -> MeterProviderBuilder,
) -> (Reader, prometheus::Registry, SdkMeterProvider) {
    let (reader, registry) = (Reader::default(), prometheus::Registry::new());
    let other = opentelemetry_prometheus::exporter().with_registry(registry.clone()).build();
    let service = KeyValue::new("service.name", NASTY);
    let provider = SdkMeterProvider::builder()
        .with_resource(Resource::builder_empty().with_attribute(service).build())
        .with_reader(reader.clone())
        .with_reader(other.expect("a reader"));
    let provider = views(provider).build();
    (reader, registry, provider)
}

/// Records one of everything.
fn recorded() -> (Reader, prometheus::Registry, SdkMeterProvider) {
    let (reader, registry, provider) = provider();
    let meter = provider.meter("scope");
    let runs = meter.u64_counter("runs").with_description("All \"runs\"\nand \\ more").build();
    runs.add(3, &[KeyValue::new("task.name", NASTY)]);
    meter.f64_counter("time").with_unit("s").build().add(0.1, &[]);
    meter.f64_up_down_counter("open").with_unit("{run}").build().add(-1.5, &[]);
    meter.i64_gauge("big").with_unit("By").build().record(i64::MAX, &[]);
    let took =
        meter.f64_histogram("took").with_unit("s").with_boundaries(vec![0.0001, 0.005, 1.0, 3600.0]).build();
    [0.002, 5_000.0, 1.0].iter().for_each(|seconds| took.record(*seconds, &[]));
    (reader, registry, provider)
}

#[test]
fn open_metrics_is_written_like_this() {
    let (reader, _, provider) = recorded();
    let expected = r##"# TYPE big_bytes gauge
# UNIT big_bytes bytes
big_bytes{otel_scope_name="scope"} 9223372036854775807
# TYPE open gauge
open{otel_scope_name="scope"} -1.5
# TYPE runs counter
# HELP runs All \"runs\"\nand \\ more
runs_total{task_name="a \"b\" \\ c\nd",otel_scope_name="scope"} 3
# TYPE target info
# HELP target Target metadata
target_info{service_name="a \"b\" \\ c\nd"} 1
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
    let open = reader.read(Format::OpenMetrics, &[]).expect("registered");
    assert_eq!(open, expected);
    let families = parser::parse(&open).expect("valid");
    assert_eq!(families["runs"].help.as_deref(), Some("All \"runs\"\nand \\ more"));
    assert_eq!(families["runs"].samples[0].labels["task_name"], NASTY);
    assert_eq!(families["time_seconds"].unit.as_deref(), Some("seconds"));
    drop(provider);
}

/// The lines of Prometheus' text, with the values as numbers that a float has.
fn lines(text: &str) -> BTreeSet<String> {
    let line = |line: &str| match line.rsplit_once(' ') {
        Some((series, value)) if !line.starts_with('#') => {
            format!("{series} {}", value.parse::<f64>().expect("a number"))
        }
        _ => line.to_owned(),
    };
    text.lines().map(line).collect()
}

/// Compares with opentelemetry-prometheus. Returns the number of lines.
#[track_caller]
fn assert_same(reader: &Reader, registry: &prometheus::Registry) -> usize {
    let mut text = Vec::new();
    prometheus::Encoder::encode(&prometheus::TextEncoder::new(), &registry.gather(), &mut text)
        .expect("text");
    let theirs = lines(std::str::from_utf8(&text).expect("text"));
    let ours = lines(&reader.read(Format::Text, &[]).expect("registered"));
    let missing: Vec<_> = theirs.difference(&ours).collect();
    let more: Vec<_> = ours.difference(&theirs).collect();
    assert!(missing.is_empty() && more.is_empty(), "{missing:#?}\n{more:#?}");
    ours.len()
}

#[test]
fn prometheus_text_has_the_lines_that_opentelemetry_prometheus_writes() {
    let (reader, registry, provider) = recorded();
    let units = ["d", "h", "min", "s", "ms", "us", "ns", "By", "KiBy", "MiBy", "GiBy", "TiBy", "KBy", "MBy"]
        .into_iter()
        .chain([
            "GBy", "TBy", "B", "KB", "MB", "GB", "TB", "m", "V", "A", "J", "W", "g", "Cel", "Hz", "1", "%",
        ])
        .chain([
            "",
            "{run}",
            "m/s",
            "s/s",
            "1/y",
            "{run}/min",
            "By/mo",
            "By/x",
            "x/d",
            "/s",
            "A/h",
            "KB/w",
            "s/",
        ]);
    let meter = provider.meter("other");
    let array = Value::Array(Array::String(vec![StringValue::from("x"), StringValue::from(NASTY)]));
    for (number, unit) in units.enumerate() {
        let attributes = [
            KeyValue::new("z.key", number as i64),
            KeyValue::new("a_key", "no \u{e9} ascii"),
            KeyValue::new("a.key", true),
            KeyValue::new("k-ey", array.clone()),
            KeyValue::new("float", 0.5),
            KeyValue::new("otel.scope.name", "taken"),
        ];
        let name = |kind: &str| format!("{kind}.of-{number}/x");
        meter.u64_counter(name("c")).with_unit(unit).build().add(7, &attributes);
        meter.f64_up_down_counter(name("u")).with_unit(unit).build().add(-1e-9, &attributes);
        meter
            .f64_gauge(name("g"))
            .with_unit(unit)
            .with_description("\\ \" \n")
            .build()
            .record(1e21, &attributes);
        meter.u64_histogram(name("h")).with_unit(unit).build().record(30, &attributes);
    }
    let (first, second) = (provider.meter("a"), provider.meter("b"));
    for meter in [first, second] {
        meter.u64_counter("of.two").build().add(1, &[]);
    }
    assert!(assert_same(&reader, &registry) > 500);
    parser::parse(&reader.read(Format::OpenMetrics, &[]).expect("registered")).expect("valid");
    provider.shutdown().expect("shut down");
}

/// A manager with tasks that have ended, whose figures change no more.
async fn ended(provider: &SdkMeterProvider, scope: &'static str) -> TaskManager {
    let tasks = TaskManager::builder().meter(provider.meter(scope)).build().expect("valid");
    for name in ["a", "b \"quoted\""] {
        tasks.spawn(name, async {}).await.expect("it ends well");
        tasks.spawn(name, async { Err::<(), _>("it fails") }).await.expect("it ran").expect_err("it fails");
    }
    tasks
        .register(CriticalTaskConfig::new("registered", |ctx| async move { ctx.cancelled().await }))
        .expect("valid");
    tasks.shutdown().await;
    tasks
}

#[tokio::test]
async fn the_figures_of_tasks_are_those_that_the_sdk_would_collect() {
    let (reader, registry, provider) = provider();
    let tasks = [ended(&provider, "tasks").await, ended(&provider, "tasks").await];
    let lines = assert_same(&reader, &registry);
    assert!(lines > 100, "{lines}");
    assert_eq!(assert_same(&reader, &registry), lines, "a collection leaves nothing for another reader");
    assert!(!reader.0.collects_all.load(Relaxed), "nothing was collected again");
    drop(tasks);
}

#[tokio::test]
async fn tasks_of_one_name_in_two_scopes_are_separate_series() {
    let (reader, registry, provider) = provider();
    let tasks = [ended(&provider, "first").await, ended(&provider, "second").await];
    for _ in 0..2 {
        assert_same(&reader, &registry);
    }
    assert!(reader.0.collects_all.load(Relaxed), "by the SDK");
    drop(tasks);
}

#[tokio::test]
async fn views_apply_to_the_figures_of_tasks() {
    type View = fn(&Instrument) -> Option<Stream>;
    let views: [(View, bool); 3] = [
        (
            |of| {
                (of.name() == "task.runs")
                    .then(|| Stream::builder().with_name("renamed").build().expect("valid"))
            },
            true,
        ),
        (
            |of| {
                (of.name() == "task.runs").then(|| {
                    Stream::builder()
                        .with_allowed_attribute_keys([Key::new("task.name")])
                        .build()
                        .expect("valid")
                })
            },
            true,
        ),
        (
            |of| {
                (of.name() == "task.runs")
                    .then(|| Stream::builder().with_aggregation(Aggregation::Drop).build().expect("valid"))
            },
            false,
        ),
    ];
    for (view, by_the_sdk) in views {
        let (reader, registry, provider) = provider_with(|provider| provider.with_view(view));
        let tasks = ended(&provider, "tasks").await;
        for _ in 0..2 {
            assert_same(&reader, &registry);
            assert_eq!(reader.0.collects_all.load(Relaxed), by_the_sdk);
        }
        drop(tasks);
    }
}

/// With opentelemetry-prometheus Prometheus refuses the whole scrape because of such a key.
#[test]
fn keys_that_are_no_labels_become_labels() {
    let keys = ["", "1st", "a:b", "é", "_", "le gal"];
    assert_eq!(keys.map(names::label), ["_", "_1st", "a_b", "_", "_", "le_gal"]);
}

#[test]
fn a_reader_without_a_provider_is_an_error() {
    let (reader, _, provider) = provider();
    assert!(Reader::default().read(Format::Text, &[]).is_err());
    assert!(reader.read(Format::Text, &[]).is_ok());
    provider.shutdown().expect("shut down");
    assert!(reader.read(Format::Text, &[]).is_err());
}

#[test]
fn an_exemplar_is_beside_the_bucket_and_the_series_that_counts_its_run() {
    let (reader, _, provider) = provider();
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
        let labels = format!("task_name=\"{name}\",task_run_result=\"success\"");
        exemplars.entry(labels).or_default().push(Exemplar {
            seconds,
            ended: Duration::from_millis(1_700_000_000_250),
            trace_id: TraceId::from(trace),
            span_id: SpanId::from(10),
        });
    }
    let mut metrics = ResourceMetrics::default();
    reader.collect(&mut metrics).expect("registered");
    let written = |format| written(&metrics, Assigned::default(), format, &exemplars, 0);
    let open = written(Format::OpenMetrics);
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
    let text = written(Format::Text);
    assert!(!text.contains(" # "), "Prometheus' text has no exemplars");
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
