//! The standard variables do what the specification says, and a bad value never stops the program.

use std::time::Duration;

use opentelemetry::trace::{Span as _, Tracer as _};
use otel_tasks::telemetry::{
    InstallError, Protocol, Signal, SignalOutcome, Telemetry, TelemetryBuilder, WarningKind,
};
use tracing_subscriber::layer::SubscriberExt as _;

use crate::{
    support::otlp::{ANY, Receiver},
    under,
};

fn with(builder: TelemetryBuilder, pairs: &[(&'static str, &str)]) -> Telemetry {
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    builder
        .env(move |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone()))
        .shutdown_timeout(Duration::from_secs(5))
        .build()
        .expect("telemetry")
}

fn from(pairs: &[(&'static str, &str)]) -> Telemetry {
    with(otel_tasks::Telemetry::builder(), pairs)
}

fn use_all_signals(telemetry: &Telemetry) {
    under(telemetry, || {
        tracing::info_span!("span").in_scope(|| tracing::info!("record"));
    });
    telemetry.meter().u64_counter("counter").build().add(1, &[]);
}

#[cfg(feature = "otlp-grpc")]
#[test]
fn the_endpoint_and_the_protocol_come_from_the_environment() {
    for protocol in ["grpc", "http/protobuf"] {
        let receiver = Receiver::start(ANY);
        let telemetry = from(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &receiver.endpoint()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_SERVICE_NAME", "from-env"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=ignored,service.instance.id=7,deployment=a%2Cb"),
        ]);
        use_all_signals(&telemetry);
        assert_eq!(telemetry.warnings(), []);
        let report = telemetry.shutdown_blocking();
        assert!(report.is_complete(), "{report}");
        let span = receiver.span("span");
        assert_eq!(span.resource.string("service.name"), Some("from-env"));
        assert_eq!(span.resource.string("service.instance.id"), Some("7"));
        assert_eq!(span.resource.string("deployment"), Some("a,b"));
        assert_eq!(span.resource.string("telemetry.sdk.language"), Some("rust"));
        let grpc = receiver.headers().iter().all(|headers| {
            headers.get("content-type").is_some_and(|kind| kind.starts_with("application/grpc"))
        });
        assert_eq!(grpc, protocol == "grpc");
    }
}

#[test]
fn resource_settings_in_code_override_the_environment() {
    let telemetry = with(
        otel_tasks::Telemetry::builder().service("code").instance_id("me").resource_attribute("n", 7_i64),
        &[
            ("OTEL_SERVICE_NAME", "env"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=env,n=1"),
            ("OTEL_SDK_DISABLED", "true"),
        ],
    );
    let get = |key: &'static str| telemetry.resource().get(&key.into()).map(|value| value.to_string());
    assert_eq!(get("service.name").as_deref(), Some("code"));
    assert_eq!(get("service.instance.id").as_deref(), Some("me"));
    assert_eq!(get("n").as_deref(), Some("7"));
}

#[test]
fn two_instances_have_two_ids() {
    let id = || from(&[("OTEL_SDK_DISABLED", "true")]).resource().get(&"service.instance.id".into());
    assert!(id().is_some());
    assert_ne!(id(), id());
}

#[test]
fn each_signal_has_an_endpoint_of_its_own() {
    let (traces, others) = (Receiver::start(ANY), Receiver::start(ANY));
    let own = format!("{}/v1/traces", traces.endpoint());
    let telemetry = from(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &others.endpoint()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &own),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
    ]);
    use_all_signals(&telemetry);
    let report = telemetry.shutdown_blocking();
    assert!(report.is_complete(), "{report}");
    assert_eq!((traces.spans().len(), traces.logs().len(), traces.metrics().len()), (1, 0, 0));
    assert_eq!((others.spans().len(), others.logs().len()), (0, 1));
    assert_eq!(others.sum("counter", &[]), Some(1.0));
}

#[test]
fn a_disabled_sdk_does_nothing() {
    let receiver = Receiver::start(ANY);
    let telemetry = with(receiver.telemetry("off"), &[("OTEL_SDK_DISABLED", "TRUE")]);
    assert!(!telemetry.is_enabled());
    use_all_signals(&telemetry);
    assert!(!telemetry.tracer().start("direct").is_recording());
    let report = telemetry.shutdown_blocking();
    assert!(
        report.signals().all(|signal| signal.outcome == SignalOutcome::Off && signal.ended == 0),
        "{report}"
    );
    assert_eq!(receiver.requests(), Default::default());
}

#[test]
fn without_exporters_other_layers_still_see_everything() {
    #[derive(Clone, Default)]
    struct Lines(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic while writing").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let none =
        [("OTEL_TRACES_EXPORTER", "none"), ("OTEL_METRICS_EXPORTER", "none"), ("OTEL_LOGS_EXPORTER", "none")];
    for telemetry in [from(&[("OTEL_SDK_DISABLED", "true")]), from(&none), from(&none[..2])] {
        let lines = Lines::default();
        let writer = lines.clone();
        let fmt = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        tracing::subscriber::with_default(
            tracing_subscriber::registry().with(telemetry.layer()).with(fmt),
            || {
                tracing::info_span!("span").in_scope(|| tracing::info!("record"));
                tracing::warn!(target: "opentelemetry-otlp", "export failed");
            },
        );
        let lines = String::from_utf8(lines.0.lock().expect("no panic while writing").clone()).expect("text");
        assert!(lines.contains("span: telemetry::environment: record"), "{lines}");
        assert!(lines.contains("export failed"), "{lines}");
    }
}

#[test]
fn each_signal_can_be_switched_off() {
    for (off, variable) in [
        (Signal::Traces, "OTEL_TRACES_EXPORTER"),
        (Signal::Metrics, "OTEL_METRICS_EXPORTER"),
        (Signal::Logs, "OTEL_LOGS_EXPORTER"),
    ] {
        let receiver = Receiver::start(Protocol::HttpProtobuf);
        let telemetry = with(receiver.telemetry("some"), &[(variable, "none")]);
        use_all_signals(&telemetry);
        let report = telemetry.shutdown_blocking();
        for signal in report.signals() {
            let expected = if signal.signal == off { SignalOutcome::Off } else { SignalOutcome::Delivered };
            assert_eq!(signal.outcome, expected, "{report}");
        }
        assert_eq!(receiver.spans().is_empty(), off == Signal::Traces);
        assert_eq!(receiver.metrics().is_empty(), off == Signal::Metrics);
        assert_eq!(receiver.logs().is_empty(), off == Signal::Logs);
        if off == Signal::Traces {
            assert!(
                !receiver.logs()[0].trace_id.is_empty(),
                "records carry trace ids without exported spans"
            );
        }
    }
}

#[cfg(feature = "console")]
#[test]
fn the_console_is_an_exporter_too() {
    let receiver = Receiver::start(ANY);
    let telemetry = with(
        receiver.telemetry("both"),
        &[
            ("OTEL_TRACES_EXPORTER", "otlp,console"),
            ("OTEL_LOGS_EXPORTER", "console"),
            ("OTEL_METRICS_EXPORTER", "console"),
        ],
    );
    use_all_signals(&telemetry);
    let endpoints: Vec<_> = telemetry.endpoints().map(|(signal, _)| signal).collect();
    assert_eq!(endpoints, [Signal::Traces]);
    let report = telemetry.shutdown_blocking();
    assert!(report.is_complete(), "{report}");
    assert_eq!((report.logs.exported, report.metrics.exported), (1, 1));
    assert_eq!((receiver.spans().len(), receiver.logs().len(), receiver.metrics().len()), (1, 0, 0));
}

#[test]
fn malformed_values_warn_and_everything_still_works() {
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    let bad = [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "lzma"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-5"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "soon"),
        ("OTEL_RESOURCE_ATTRIBUTES", "%zz=1"),
        ("OTEL_PROPAGATORS", "carrier-pigeon"),
        ("OTEL_SDK_DISABLED", "perhaps"),
        ("RUST_LOG", "a=b=c"),
    ];
    let mut env = bad.to_vec();
    let endpoint = receiver.endpoint();
    env.push(("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint));
    let env: Vec<_> = env.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
    let telemetry = otel_tasks::Telemetry::builder()
        .env(move |name| env.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone()))
        .build()
        .expect("telemetry");
    for (name, value) in bad {
        let warning = telemetry.warnings().iter().find(|warning| warning.variable == name);
        let warning = warning.unwrap_or_else(|| panic!("no warning for {name}"));
        assert!(warning.to_string().contains(value), "{warning}");
    }
    let kind = |name: &str| telemetry.warnings().iter().find(|w| w.variable == name).map(|w| w.kind);
    assert_eq!(kind("OTEL_EXPORTER_OTLP_PROTOCOL"), Some(WarningKind::Unsupported));
    use_all_signals(&telemetry);
    let report = telemetry.shutdown_blocking();
    assert!(report.is_complete(), "{report}");
    assert_eq!(receiver.spans().len(), 1);
}

/// An error's text and its source's.
fn texts(error: InstallError) -> (String, Option<String>) {
    let source = std::error::Error::source(&error).map(|source| source.to_string());
    (error.to_string(), source)
}

#[test]
fn a_malformed_endpoint_of_the_environment_is_replaced_and_one_of_the_code_is_an_error() {
    let telemetry = from(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector"), ("OTEL_LOGS_EXPORTER", "none")]);
    let endpoints: Vec<_> = telemetry.endpoints().map(|(_, endpoint)| endpoint.to_owned()).collect();
    assert_eq!(endpoints, ["http://localhost:4318/v1/traces", "http://localhost:4318/v1/metrics"]);
    for bad in ["collector", "ftp://collector", "http://"] {
        let built = otel_tasks::Telemetry::builder().env(|_| None).endpoint(bad).build();
        assert!(matches!(&built, Err(InstallError::Endpoint(given)) if given == bad));
        let told = format!("use {bad:?} as an endpoint: not an http or https address");
        assert_eq!(built.map(drop).map_err(texts), Err((told, None)));
    }
    let built = otel_tasks::Telemetry::builder().env(|_| None).filter("a=b=c").build();
    assert!(matches!(&built, Err(InstallError::Filter { .. })));
    let (told, why) = built.map(drop).map_err(texts).expect_err("no filter");
    assert_eq!(told, "read the filter \"a=b=c\"");
    let parsed = "a=b=c".parse::<tracing_subscriber::EnvFilter>();
    assert_eq!(why, parsed.map_err(|why| why.to_string()).err());
    let threads = InstallError::Thread(std::io::Error::other("no more"));
    assert_eq!(texts(threads), ("start the export threads".to_owned(), Some("no more".to_owned())));
}

#[test]
fn nothing_is_exported_without_configuration_where_that_was_asked() {
    let telemetry = with(otel_tasks::Telemetry::builder().export_if_configured(), &[]);
    use_all_signals(&telemetry);
    assert_eq!(telemetry.endpoints().count(), 0);
    assert!(Signal::ALL.iter().all(|signal| !telemetry.exports(*signal)));
    let report = telemetry.shutdown_blocking();
    assert!(report.signals().all(|signal| signal.outcome == SignalOutcome::Off), "{report}");
    assert!(report.to_string().contains("traces  off"), "{report}");

    let receiver = Receiver::start(Protocol::HttpProtobuf);
    let builder = otel_tasks::Telemetry::builder().export_if_configured();
    let telemetry = with(builder, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &receiver.endpoint())]);
    assert!(Signal::ALL.iter().all(|signal| telemetry.exports(*signal)));
    use_all_signals(&telemetry);
    assert!(telemetry.shutdown_blocking().is_complete());
    assert_eq!((receiver.spans().len(), receiver.logs().len()), (1, 1));
}

#[test]
fn the_queue_and_the_batch_come_from_the_environment() {
    let receiver = Receiver::start(ANY);
    let telemetry = with(
        receiver.telemetry("queue"),
        &[
            ("OTEL_BSP_MAX_QUEUE_SIZE", "10"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10"),
            ("OTEL_BSP_SCHEDULE_DELAY", "3600000"),
        ],
    );
    let tracer = telemetry.tracer();
    (0..9).for_each(|_| tracer.start("one").end());
    assert_eq!((receiver.requests().traces, telemetry.balance().snapshot().traces.pending), (0, 9));
    let report = telemetry.shutdown_blocking();
    assert_eq!((report.traces.exported, receiver.requests().traces), (9, 1));
}

#[test]
fn delta_temporality_is_honoured() {
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    let telemetry =
        with(receiver.telemetry("delta"), &[("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")]);
    let counter = telemetry.meter().u64_counter("counter").build();
    for amount in [1, 2] {
        counter.add(amount, &[]);
        telemetry.meter_provider().force_flush().expect("a delivered collection");
        assert_eq!(receiver.sum("counter", &[]), Some(amount as f64));
    }
    assert!(!receiver.metric("counter").expect("the counter").cumulative);
}

#[test]
fn no_duration_is_too_long() {
    let receiver = Receiver::start(ANY);
    let longest = u64::MAX.to_string();
    let telemetry = with(
        receiver.telemetry("patient").metric_interval(Duration::MAX),
        &[
            ("OTEL_BSP_SCHEDULE_DELAY", &longest),
            ("OTEL_BSP_EXPORT_TIMEOUT", &longest),
            ("OTEL_BLRP_SCHEDULE_DELAY", &longest),
            ("OTEL_METRIC_EXPORT_TIMEOUT", &longest),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", &longest),
        ],
    );
    use_all_signals(&telemetry);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    assert_eq!(runtime.block_on(telemetry.check(Duration::MAX)), Ok(()));
    assert!(telemetry.shutdown_blocking().is_complete());

    let telemetry = receiver.telemetry("patient").shutdown_timeout(Duration::MAX).build().expect("telemetry");
    use_all_signals(&telemetry);
    assert!(telemetry.shutdown_blocking().is_complete());
}
