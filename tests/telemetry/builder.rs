//! Spans, metrics and log records arrive, over both protocols, with and without TLS.

use std::{sync::Arc, time::Duration};

use opentelemetry::trace::{Span as _, TraceContextExt as _, Tracer as _};
use otel_tasks::telemetry::{Protocol, SignalOutcome, Telemetry, contract};
use tokio_rustls::rustls;

use crate::{
    BOTH,
    support::otlp::{ANY, Kind, Receiver, certified, wait_for},
    under,
};

fn say_something(telemetry: &Telemetry) {
    under(telemetry, || {
        let outer = tracing::info_span!("outer", task.name = "reminders", n = 7_i64);
        let _entered = outer.enter();
        tracing::info_span!("inner").in_scope(|| {
            tracing::event!(name: "task.exception", tracing::Level::ERROR, exception.message = "no", "it failed");
        });
    });
    telemetry.meter().u64_counter("requests").with_unit("{request}").build().add(3, &[]);
}

fn assert_arrived(receiver: &Receiver) {
    let (outer, inner) = (receiver.span("outer"), receiver.span("inner"));
    assert!(outer.is_root());
    assert!(inner.is_child_of(&outer));
    assert_eq!((outer.string("task.name"), outer.int("n")), (Some("reminders"), Some(7)));
    assert_eq!(outer.scope.name, contract::SCOPE);
    assert_eq!(outer.resource.string("service.name"), Some("tux"));

    let log = receiver.log("task.exception");
    assert_eq!((log.body.as_deref(), log.severity.as_str()), (Some("it failed"), "ERROR"));
    assert_eq!(log.string("exception.message"), Some("no"));
    assert_eq!((&log.trace_id, &log.span_id), (&inner.trace_id, &inner.span_id));

    let requests = receiver.metric("requests").expect("the counter");
    assert_eq!(
        (requests.kind, requests.unit.as_str(), requests.cumulative),
        (Kind::Counter, "{request}", true)
    );
    assert_eq!(receiver.sum("requests", &[]), Some(3.0));

    let instance = outer.resource.string("service.instance.id").expect("an instance id");
    assert_eq!(instance.len(), 36, "a UUID");
    assert_eq!(log.resource, outer.resource);
    assert_eq!(requests.resource, outer.resource);
}

#[test]
fn spans_metrics_and_records_arrive_over_both_protocols() {
    for protocol in BOTH {
        let receiver = Receiver::start(protocol);
        let telemetry = receiver.telemetry("tux").build().expect("telemetry");
        say_something(&telemetry);
        let report = telemetry.shutdown_blocking();
        assert!(report.is_complete(), "{report}");
        assert_eq!((report.traces.ended, report.logs.ended), (2, 1));
        assert_eq!(report.metrics.outcome, SignalOutcome::Delivered);
        assert_arrived(&receiver);
    }
}

#[test]
fn spans_metrics_and_records_arrive_over_tls_on_both_protocols() {
    for protocol in BOTH {
        let receiver = Receiver::start_tls(protocol);
        let authority = receiver.authority().display().to_string();
        let telemetry = receiver
            .telemetry("tux")
            .env(move |name| (name == "OTEL_EXPORTER_OTLP_CERTIFICATE").then(|| authority.clone()))
            .build()
            .expect("telemetry");
        say_something(&telemetry);
        let report = telemetry.shutdown_blocking();
        assert!(report.is_complete(), "{protocol:?}: {report}");
        assert_arrived(&receiver);
    }
}

#[test]
fn an_authority_that_is_not_trusted_gets_nothing() {
    for protocol in BOTH {
        let receiver = Receiver::start_tls(protocol);
        let telemetry = receiver.telemetry("tux").build().expect("telemetry");
        say_something(&telemetry);
        let report = telemetry.shutdown_blocking();
        assert_eq!(report.traces.export_failed, 2, "{report}");
        assert_eq!(receiver.requests(), Default::default());
    }
}

#[test]
fn a_certificate_that_cannot_be_read_is_warned_of() {
    let receiver = Receiver::start_tls(ANY);
    let missing =
        |name: &str| (name == "OTEL_EXPORTER_OTLP_CERTIFICATE").then(|| "/nowhere/ca.pem".to_owned());
    let telemetry = receiver.telemetry("tux").env(missing).build().expect("telemetry");
    let warned = telemetry.warnings().iter().filter(|w| w.value == "/nowhere/ca.pem");
    let variables: Vec<_> = warned.map(|w| w.variable.as_str()).collect();
    assert_eq!(variables, ["OTEL_EXPORTER_OTLP_CERTIFICATE"], "once, though each signal has it");
}

/// A server that asks who calls, and hands on the first caller's certificate.
fn start_asking(
    authority: &rcgen::CertifiedIssuer<'_, rcgen::KeyPair>,
) -> (u16, std::sync::mpsc::Receiver<Vec<u8>>) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    let leaf = leaf.signed_by(&key, authority).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der().clone()).expect("an authority");
    let callers =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(callers.build().expect("a verifier"))
        .with_single_cert(vec![leaf.der().clone()], key.into())
        .expect("a certificate");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a call");
        let mut connection = rustls::ServerConnection::new(Arc::new(config)).expect("a connection");
        while connection.is_handshaking() && connection.complete_io(&mut stream).is_ok() {}
        let shown = connection.peer_certificates().and_then(|chain| chain.first());
        let _ = tell.send(shown.map(|shown| shown.to_vec()).unwrap_or_default());
    });
    (port, told)
}

#[test]
fn client_certificate_is_sent_to_a_server_requesting_it() {
    let (authority, ours, key) = certified("us");
    let folder = std::env::temp_dir().join(format!("otel-tasks-client-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    for (name, pem) in [("ca", authority.pem()), ("us", ours.pem()), ("key", key.serialize_pem())] {
        std::fs::write(folder.join(name), pem).expect("a writable folder");
    }
    for protocol in BOTH {
        let (port, caller) = start_asking(&authority);
        let held = folder.clone();
        let file = move |name: &str| Some(held.join(name).display().to_string());
        let telemetry = otel_tasks::Telemetry::builder()
            .protocol(protocol)
            .endpoint(format!("https://localhost:{port}"))
            .env(move |name| match name {
                "OTEL_EXPORTER_OTLP_CERTIFICATE" => file("ca"),
                "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE" => file("us"),
                "OTEL_EXPORTER_OTLP_CLIENT_KEY" => file("key"),
                "OTEL_METRICS_EXPORTER" | "OTEL_LOGS_EXPORTER" => Some("none".to_owned()),
                _ => None,
            })
            .build()
            .expect("telemetry");
        assert_eq!(telemetry.warnings(), []);
        telemetry.tracer().start("one").end();
        let _unanswered = telemetry.shutdown();
        let shown = caller.recv_timeout(Duration::from_secs(10)).expect("a call");
        assert_eq!(shown, ours.der().to_vec(), "{protocol:?}");
    }
    std::fs::remove_dir_all(folder).expect("our folder");
}

#[cfg(feature = "gzip")]
#[test]
fn compression_and_headers_reach_the_receiver() {
    for protocol in BOTH {
        let receiver = Receiver::start(protocol);
        let telemetry = receiver
            .telemetry("tux")
            .env(|name| match name {
                "OTEL_EXPORTER_OTLP_HEADERS" => Some("x-token=a%20b,X-Other=1".to_owned()),
                "OTEL_EXPORTER_OTLP_COMPRESSION" => Some("gzip".to_owned()),
                "OTEL_METRICS_EXPORTER" | "OTEL_LOGS_EXPORTER" => Some("none".to_owned()),
                _ => None,
            })
            .build()
            .expect("telemetry");
        telemetry.tracer().start("one").end();
        let report = telemetry.shutdown_blocking();
        let headers = receiver.headers();
        assert_eq!(headers.len(), 1, "{report}");
        assert_eq!(headers[0].get("x-token").map(String::as_str), Some("a b"));
        assert_eq!(headers[0].get("x-other").map(String::as_str), Some("1"));
        let encoding = match protocol {
            Protocol::Grpc => "grpc-encoding",
            _ => "content-encoding",
        };
        assert_eq!(headers[0].get(encoding).map(String::as_str), Some("gzip"));
    }
}

#[test]
fn an_exporters_own_telemetry_is_not_exported() {
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    let telemetry = receiver.telemetry("tux").build().expect("telemetry");
    under(&telemetry, || {
        tracing::info_span!(target: "hyper::client", "client").in_scope(|| ());
        tracing::info!(target: "h2::codec", "frame");
        tracing::info!(target: "tonic::transport", "connected");
        tracing::info!(target: "tower::buffer", "ready");
        tracing::info!(target: "reqwest::connect", "connecting");
        tracing::info!(target: "rustls::client", "hello");
        tracing::warn!(target: "opentelemetry-otlp", "failed");
        tracing::info!(target: "tower_http::trace", "request");
        tracing::info_span!(target: "hyperspace", "kept").in_scope(|| ());
        let _suppressed = opentelemetry::Context::enter_telemetry_suppressed_scope();
        tracing::info_span!("suppressed").in_scope(|| tracing::info!("suppressed"));
    });
    drop(telemetry);
    let names: Vec<_> = receiver.spans().into_iter().map(|span| span.name).collect();
    assert_eq!(names, ["kept"]);
    let bodies: Vec<_> = receiver.logs().into_iter().filter_map(|log| log.body).collect();
    assert_eq!(bodies, ["request"]);
}

#[test]
fn metrics_are_exported_at_their_interval() {
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    let telemetry =
        receiver.telemetry("tux").metric_interval(Duration::from_millis(20)).build().expect("telemetry");
    telemetry.meter().u64_counter("requests").build().add(1, &[]);
    assert!(wait_for(Duration::from_secs(10), || receiver.requests().metrics >= 3));
    let report = telemetry.shutdown_blocking();
    assert!(report.metrics.ended >= 3, "{report}");
}

#[test]
fn a_task_instrument_has_room_for_the_names_that_were_asked_for() {
    let receiver = Receiver::start(ANY);
    let telemetry = receiver.telemetry("tux").name_capacity(250).build().expect("telemetry");
    let ours = telemetry.meter().u64_counter("task.test").build();
    let other = telemetry.meter().u64_counter("other").build();
    for n in 0..2_500_i64 {
        ours.add(1, &[opentelemetry::KeyValue::new("n", n)]);
        other.add(1, &[opentelemetry::KeyValue::new("n", n)]);
    }
    let _report = telemetry.shutdown_blocking();
    let overflow = [("otel.metric.overflow", "true")];
    assert_eq!(receiver.sum("task.test", &overflow), None);
    assert_eq!(receiver.sum("task.test", &[]), Some(2_500.0));
    assert_eq!(receiver.sum("other", &overflow), Some(500.0), "the SDK's own limit, for comparison");
}

#[test]
fn debug_output_of_telemetry_names_its_parts() {
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    let builder = receiver.telemetry("tux");
    assert!(format!("{builder:?}").contains("\"tux\""), "{builder:?}");
    let telemetry = builder.build().expect("telemetry");
    telemetry.tracer().start("one").end();
    let shown = format!("{telemetry:?}");
    assert!(shown.contains(&format!("{}/v1/traces", receiver.endpoint())), "{shown}");
    assert!(shown.contains("SignalBalance { ended: 1,"), "{shown}");
    let shown = format!("{:?}", telemetry.tracer_provider());
    assert!(shown.contains("Batcher { settings: BatchSettings { queue: 65536"), "{shown}");
}

#[test]
fn telemetry_that_is_dropped_is_still_flushed() {
    let receiver = Receiver::start(ANY);
    let telemetry = receiver.telemetry("tux").build().expect("telemetry");
    telemetry.tracer().start("one").end();
    drop(telemetry);
    assert_eq!(receiver.spans().len(), 1);
}

#[test]
fn a_sampler_in_code_beats_the_variable() {
    use opentelemetry_sdk::trace::Sampler;
    let env = |name: &str| (name == "OTEL_TRACES_SAMPLER").then(|| "always_off".to_owned());
    for (sampler, spans) in [(Some(Sampler::AlwaysOn), 1), (None, 0)] {
        let receiver = Receiver::start(Protocol::HttpProtobuf);
        let telemetry = receiver.telemetry("tux").env(env);
        let telemetry = match sampler {
            Some(sampler) => telemetry.sampler(sampler),
            None => telemetry,
        };
        let telemetry = telemetry.build().expect("telemetry");
        telemetry.tracer().start("one").end();
        let _report = telemetry.shutdown_blocking();
        assert_eq!(receiver.spans().len(), spans);
    }
}

#[test]
fn a_resource_of_your_own_lies_between_the_variables_and_the_builders_attributes() {
    use opentelemetry_sdk::Resource;
    let pair = |key: &'static str, value: &'static str| opentelemetry::KeyValue::new(key, value);
    let env = |name: &str| {
        let list = "service.name=env,region=env,zone=env,host=env";
        (name == "OTEL_RESOURCE_ATTRIBUTES").then(|| list.to_owned())
    };
    let detected = Resource::builder().with_attributes([pair("region", "own"), pair("zone", "own")]).build();
    let named = Resource::builder_empty()
        .with_schema_url([pair("rack", "7")], "https://opentelemetry.io/schemas/1.42.0")
        .build();
    let telemetry = otel_tasks::Telemetry::builder()
        .env(env)
        .export_if_configured()
        .resource(detected)
        .resource(named)
        .resource_attribute("zone", "code")
        .build()
        .expect("telemetry");
    let get = |key: &'static str| telemetry.resource().get(&key.into()).map(|value| value.to_string());
    let found = ["service.name", "host", "region", "zone", "rack"].map(get);
    assert_eq!(found.map(Option::unwrap_or_default), ["env", "env", "own", "code", "7"]);
    assert_eq!(telemetry.resource().schema_url(), Some("https://opentelemetry.io/schemas/1.42.0"));
    let own = Resource::builder_empty().with_attribute(pair("service.name", "own")).build();
    let telemetry = otel_tasks::Telemetry::builder().env(env).export_if_configured().resource(own);
    let telemetry = telemetry.build().expect("telemetry");
    assert_eq!(telemetry.resource().get(&"service.name".into()), Some("own".into()));
}

#[test]
fn propagation_follows_the_variable() {
    use opentelemetry::propagation::TextMapPropagator as _;
    let fields = |value: Option<&'static str>| {
        let env = move |name: &str| match name {
            "OTEL_PROPAGATORS" => value.map(str::to_owned),
            "OTEL_SDK_DISABLED" => Some("true".to_owned()),
            _ => None,
        };
        let telemetry = otel_tasks::Telemetry::builder().env(env).build().expect("telemetry");
        let mut carrier = std::collections::HashMap::<String, String>::new();
        let id = opentelemetry::trace::SpanContext::new(
            opentelemetry::trace::TraceId::from(1_u128),
            opentelemetry::trace::SpanId::from(1_u64),
            opentelemetry::trace::TraceFlags::SAMPLED,
            true,
            Default::default(),
        );
        use opentelemetry::baggage::BaggageExt as _;
        let context = opentelemetry::Context::new()
            .with_remote_span_context(id)
            .with_baggage([opentelemetry::KeyValue::new("k", "v")]);
        telemetry.propagator().inject_context(&context, &mut carrier);
        let mut keys: Vec<_> = carrier.into_keys().filter(|key| key != "tracestate").collect();
        keys.sort();
        keys
    };
    assert_eq!(fields(None), ["baggage", "traceparent"]);
    assert_eq!(fields(Some("tracecontext")), ["traceparent"]);
    assert_eq!(fields(Some("none")), Vec::<String>::new());
}

/// Seen to fail: the providers lived on in the process, and what waited in a processor of the user's was never exported.
#[test]
fn the_end_flushes_processors_and_readers_of_ones_own() {
    use opentelemetry::logs::{LogRecord as _, Logger as _, LoggerProvider as _};
    use opentelemetry_sdk::{
        logs::{BatchLogProcessor, InMemoryLogExporter},
        metrics::{InMemoryMetricExporter, PeriodicReader},
        trace::{BatchSpanProcessor, InMemorySpanExporter},
    };
    for exporters in ["none", "otlp"] {
        let receiver = Receiver::start(ANY);
        let (spans, logs) = (InMemorySpanExporter::default(), InMemoryLogExporter::default());
        let metrics = InMemoryMetricExporter::default();
        let reader =
            PeriodicReader::builder(metrics.clone()).with_interval(Duration::from_secs(3_600)).build();
        let telemetry = receiver
            .telemetry("own")
            .env(move |name| name.ends_with("S_EXPORTER").then(|| exporters.to_owned()))
            .span_processor(BatchSpanProcessor::builder(spans.clone()).build())
            .log_processor(BatchLogProcessor::builder(logs.clone()).build())
            .meter_provider(move |provider| provider.with_reader(reader))
            .build()
            .expect("telemetry");
        telemetry.tracer().start("one").end();
        telemetry.meter().u64_counter("count").build().add(1, &[]);
        let logger = telemetry.logger_provider().logger("tests");
        let mut record = logger.create_log_record();
        record.set_body("said".into());
        logger.emit(record);
        // Somebody keeps the providers, as an installation does.
        let kept = (telemetry.tracer_provider().clone(), telemetry.logger_provider().clone());
        let _report = telemetry.shutdown_blocking();
        assert_eq!(spans.get_finished_spans().map(|spans| spans.len()).ok(), Some(1), "{exporters}");
        assert_eq!(logs.get_emitted_logs().map(|logs| logs.len()).ok(), Some(1), "{exporters}");
        assert!(metrics.get_finished_metrics().is_ok_and(|all| !all.is_empty()), "{exporters}");
        drop(kept);
    }
}
