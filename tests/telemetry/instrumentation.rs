//! `check_instrumentation` says what leaves the process, and why nothing does.

use std::time::Duration;

use opentelemetry_sdk::{
    metrics::{InMemoryMetricExporter, PeriodicReader},
    trace::Sampler,
};
use otel_tasks::{
    TaskManager,
    task::InstrumentationCheck,
    telemetry::{Protocol, Telemetry, TelemetryBuilder, TelemetryState},
};

use crate::{
    BOTH, end_spans,
    support::otlp::{Behaviour, Receiver, closed_port},
    under,
};

fn env(pairs: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<String> + Send + Sync {
    |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
}

/// What the check says once a run has ended under the telemetry, and all was flushed if `flush`.
fn check(telemetry: &Telemetry, flush: bool) -> InstrumentationCheck {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    under(telemetry, || {
        runtime.block_on(async {
            let tasks = TaskManager::builder().meter(telemetry.meter()).build().expect("a manager");
            tasks.spawn("one", async {}).await.expect("a run");
            if flush {
                let _ = telemetry.tracer_provider().force_flush();
                let _ = telemetry.meter_provider().force_flush();
                let _ = telemetry.logger_provider().force_flush();
            }
            tasks.check_instrumentation()
        })
    })
}

fn build(telemetry: TelemetryBuilder) -> Telemetry {
    telemetry.shutdown_timeout(Duration::from_millis(200)).build().expect("telemetry")
}

#[track_caller]
fn says(check: &InstrumentationCheck, line: &str) {
    assert!(check.to_string().lines().any(|said| said == line), "{line:?} is not said:\n{check}");
}

#[test]
fn check_counts_deliveries_and_expects_no_early_collection() {
    for protocol in BOTH {
        let receiver = Receiver::start(protocol);
        let telemetry = build(receiver.telemetry("seen"));
        let endpoint = telemetry.endpoints().next().expect("traces").1.to_owned();
        let early = check(&telemetry, false);
        says(&early, &format!("traces: exported to {endpoint}: 0 of 1 spans delivered, 1 pending"));
        says(&early, "metrics: not yet: collected every 60s, for the first time 60s after the installation");
        assert!(early.is_complete(), "a right installation: {early}");
        let seen = check(&telemetry, true);
        says(&seen, &format!("traces: exported to {endpoint}: 2 of 2 spans delivered"));
        let metrics = telemetry.endpoints().nth(1).expect("metrics").1.to_owned();
        let metrics = format!("metrics: exported to {metrics}: 1 of 1 collections delivered, the last ");
        assert!(seen.to_string().contains(&metrics), "{metrics}\n{seen}");
        assert!(seen.is_complete(), "{seen}");
    }
}

/// Seen to fail: each was "traces: exported".
#[test]
fn check_names_the_reason_for_each_unexported_signal() {
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    let told = |telemetry: &Telemetry| {
        let check = check(telemetry, true);
        assert!(!check.is_complete(), "{check}");
        check
    };

    let off = build(receiver.telemetry("off").env(env(&[("OTEL_TRACES_SAMPLER", "always_off")])));
    says(&told(&off), "traces: NOT sampled: the sampler AlwaysOff leaves out each trace that begins here");
    let parent = Sampler::ParentBased(Box::new(Sampler::AlwaysOff));
    let off = build(receiver.telemetry("off").sampler(parent));
    says(
        &told(&off),
        "traces: NOT sampled: the sampler ParentBased(AlwaysOff) leaves out each trace that begins here",
    );

    let none = build(receiver.telemetry("none").env(env(&[("OTEL_TRACES_EXPORTER", "none")])));
    says(&told(&none), "traces: OFF: OTEL_TRACES_EXPORTER is none");
    let none = build(receiver.telemetry("none").env(env(&[("OTEL_METRICS_EXPORTER", "none")])));
    says(&told(&none), "metrics: OFF: OTEL_METRICS_EXPORTER is none");

    let unconfigured = build(otel_tasks::Telemetry::builder().env(|_| None).export_if_configured());
    says(&told(&unconfigured), "traces: OFF: no endpoint is configured");

    let disabled = build(receiver.telemetry("disabled").env(env(&[("OTEL_SDK_DISABLED", "true")])));
    let check = told(&disabled);
    for signal in ["traces", "metrics", "logs"] {
        says(&check, &format!("{signal}: OFF: OTEL_SDK_DISABLED is true"));
    }

    let nobody =
        build(receiver.telemetry("nobody").endpoint(format!("http://user:hunter2@{}", closed_port())));
    let check = told(&nobody);
    let endpoint = nobody.endpoints().next().expect("traces").1.to_owned();
    let line = format!("traces: NOT delivered to {endpoint}: ");
    assert!(check.to_string().contains(&line) && !check.to_string().contains("hunter2"), "{check}");
    assert!(check.to_string().contains("; 0 of 1 spans delivered"), "{check}");

    receiver.set_behaviour(Behaviour::Refuse);
    let refused = build(receiver.telemetry("refused"));
    let check = told(&refused);
    assert!(check.to_string().contains("NOT delivered to"), "{check}");
    receiver.set_behaviour(Behaviour::Ok);
    let check = self::check(&refused, true);
    assert!(check.is_complete(), "it works again: {check}");

    let warned = build(receiver.telemetry("warned").env(env(&[("OTEL_CONFIG_FILE", "/etc/otel.yaml")])));
    let check = self::check(&warned, true);
    says(
        &check,
        "warning: OTEL_CONFIG_FILE=\"/etc/otel.yaml\" is not supported: the file is not read, and the other variables are used",
    );
}

/// A loss that the receiver calls a success, and one after another delivery.
#[test]
fn check_reports_losses_without_a_failed_request() {
    for protocol in BOTH {
        let receiver = Receiver::start(protocol);
        let telemetry = build(receiver.telemetry("lost"));
        assert!(check(&telemetry, true).is_complete());

        receiver.set_behaviour(Behaviour::Reject(1_000_000));
        let rejected = check(&telemetry, true);
        assert!(!rejected.is_complete(), "{rejected}");
        let endpoint = telemetry.endpoints().next().expect("traces").1.to_owned();
        let line = format!("traces: NOT delivered to {endpoint}: the receiver rejected ");
        assert!(rejected.to_string().contains(&line), "{line}\n{rejected}");
        let endpoint = telemetry.endpoints().nth(1).expect("metrics").1.to_owned();
        let line = format!("metrics: NOT delivered to {endpoint}: the receiver rejected ");
        assert!(rejected.to_string().contains(&line), "{line}\n{rejected}");
        assert!(rejected.to_string().contains(" data points rejected"), "{rejected}");
        let export = rejected.export.as_ref().expect("telemetry");
        assert!(export.traces.failure.is_some() && export.metrics.failure.is_some(), "{export:?}");
        assert_eq!(export.metrics.lost, 1, "a collection of which nothing was taken");

        receiver.set_behaviour(Behaviour::Reject(1));
        let part = check(&telemetry, true);
        assert!(
            part.export.as_ref().is_some_and(|export| export.metrics.is_exported()),
            "most of it: {part}"
        );
        let line = format!("metrics: exported to {endpoint}, NOT in full: the receiver rejected 1 of ");
        assert!(part.to_string().contains(&line), "{line}\n{part}");

        receiver.set_behaviour(Behaviour::AtMost(1));
        let large = check(&telemetry, true);
        assert!(!large.is_complete(), "{large}");
        assert!(large.to_string().contains("is too large for the receiver"), "{large}");

        receiver.set_behaviour(Behaviour::Ok);
        let well = check(&telemetry, true);
        assert!(well.is_complete() && !well.to_string().contains("NOT"), "{well}");
    }
}

#[test]
fn telemetry_that_has_ended_is_said_by_its_layer() {
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    for drops in [true, false] {
        let telemetry = receiver.telemetry("over").build().expect("telemetry");
        let layer =
            tracing_subscriber::layer::SubscriberExt::with(tracing_subscriber::registry(), telemetry.layer());
        let line = if drops { "telemetry: DROPPED" } else { "telemetry: SHUT DOWN" };
        if drops {
            drop(telemetry);
        } else {
            let _report = telemetry.shutdown_blocking();
        }
        let check = tracing::subscriber::with_default(layer, || TaskManager::new().check_instrumentation());
        assert!(check.to_string().starts_with(line) && !check.is_complete(), "{check}");
        assert_ne!(check.export.expect("its own").state, TelemetryState::Alive);
    }
}

#[test]
fn a_reader_of_your_own_is_a_collection() {
    let reader = PeriodicReader::builder(InMemoryMetricExporter::default()).build();
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    let telemetry = build(
        receiver
            .telemetry("own")
            .env(env(&[("OTEL_METRICS_EXPORTER", "none")]))
            .meter_provider(move |provider| provider.with_reader(reader)),
    );
    let check = check(&telemetry, true);
    assert!(check.to_string().contains("ago, by a reader of yours") && check.is_complete(), "{check}");
}

#[test]
fn a_part_of_the_traces_is_said_to_be_one() {
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    let telemetry = build(receiver.telemetry("part").sampler(Sampler::TraceIdRatioBased(0.5)));
    let check = check(&telemetry, false);
    assert!(
        check.to_string().contains("; the sampler TraceIdRatioBased(0.5) leaves out the other traces"),
        "{check}"
    );
}

/// The lines of the documentation, of which one may end in `[...]`, are those that the program prints.
#[test]
fn each_documented_line_is_printed() {
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    let closed = format!("http://{}", closed_port());
    let mut said = Vec::new();
    let mut note = |check: &InstrumentationCheck| {
        let text = check.to_string().replace(&receiver.endpoint(), "http://localhost:4318");
        said.extend(text.replace(&closed, "http://localhost:4318").lines().map(str::to_owned));
    };
    for variables in [
        &[("OTEL_SDK_DISABLED", "true")][..],
        &[
            ("OTEL_TRACES_EXPORTER", "none"),
            ("OTEL_METRICS_EXPORTER", "none"),
            ("OTEL_LOGS_EXPORTER", "none"),
        ],
        &[("OTEL_TRACES_SAMPLER", "always_off")],
    ] {
        note(&check(&build(receiver.telemetry("lines").env(env(variables))), false));
    }
    // Nothing is ever sent to these: they end before their first export.
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318/v1/traces"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://localhost:4318"),
    ] {
        let variables = move |asked: &str| (asked == name).then(|| value.to_owned());
        let telemetry = build(otel_tasks::Telemetry::builder().env(variables));
        note(&under(&telemetry, || TaskManager::new().check_instrumentation()));
    }
    note(&check(&build(otel_tasks::Telemetry::builder().env(|_| None).export_if_configured()), false));
    note(&check(&build(receiver.telemetry("nobody").endpoint(&closed)), true));
    receiver.set_behaviour(Behaviour::Reject(1));
    let rejected = build(receiver.telemetry("rejected"));
    note(&check(&rejected, true));
    end_spans(&rejected, 2);
    let _ = rejected.tracer_provider().force_flush();
    note(&under(&rejected, || TaskManager::new().check_instrumentation()));
    receiver.set_behaviour(Behaviour::Ok);
    let telemetry = build(receiver.telemetry("early"));
    note(&under(&telemetry, || TaskManager::new().check_instrumentation()));
    note(&check(&telemetry, false));
    note(&check(&build(receiver.telemetry("delivered")), true));
    let (dropped, shut_down) = (build(receiver.telemetry("dropped")), build(receiver.telemetry("shut down")));
    let under_layer = |telemetry: Telemetry, ends: fn(Telemetry)| {
        let layer =
            tracing_subscriber::layer::SubscriberExt::with(tracing_subscriber::registry(), telemetry.layer());
        ends(telemetry);
        tracing::subscriber::with_default(layer, || TaskManager::new().check_instrumentation())
    };
    note(&under_layer(dropped, drop));
    note(&under_layer(shut_down, |telemetry| drop(telemetry.shutdown_blocking())));
    let none = tracing::subscriber::NoSubscriber::default();
    note(&tracing::subscriber::with_default(none, || TaskManager::new().check_instrumentation()));
    let foreign = otel_tasks::telemetry::layer(telemetry.tracer());
    let foreign = tracing_subscriber::layer::SubscriberExt::with(tracing_subscriber::registry(), foreign);
    note(&tracing::subscriber::with_default(foreign, || TaskManager::new().check_instrumentation()));

    let page = include_str!("../../docs/telemetry.md");
    let (_, lines) = page.split_once("<!-- lines -->").expect("the opening mark");
    let (lines, _) = lines.split_once("<!-- /lines -->").expect("the closing mark");
    let mut count = 0;
    for block in lines.split("```text\n").skip(1) {
        let (block, _) = block.split_once("```").expect("the end of the block");
        for line in block.lines() {
            count += 1;
            let is_said = match line.strip_suffix("[...]") {
                Some(begins) => said.iter().any(|said| said.starts_with(begins)),
                None => said.iter().any(|said| said == line),
            };
            assert!(is_said, "no check says {line:?}:\n{said:#?}");
        }
    }
    assert!(count >= 15, "{count}");
}

#[test]
fn failed_traces_that_are_kept_are_said_beside_the_sampler() {
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    let telemetry = build(receiver.telemetry("kept").sampler(Sampler::AlwaysOff).keep_failed_traces());
    let check = check(&telemetry, false).to_string();
    let said = "; the sampler AlwaysOff (failed or slow traces are kept) leaves out the other traces";
    assert!(check.contains(said) && !check.contains("NOT sampled"), "{check}");
}
