//! What depends on the process itself: its environment, its root certificates, its standard output. Each test runs itself
//! again as a child that is set up so.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use opentelemetry::trace::{Span as _, Tracer as _};
use otel_tasks::telemetry::{Protocol, TelemetryState};

use crate::support::{
    otlp::{Receiver, closed_port, wait_for},
    process::is_child,
};

/// The test of that name in this module.
fn child(test: &str) -> Command {
    crate::support::process::child(&format!("process::{test}"))
}

#[test]
fn the_processs_variables_and_the_systems_roots_are_used() {
    if is_child() {
        let telemetry = otel_tasks::Telemetry::builder().build().expect("telemetry");
        assert_eq!(telemetry.warnings(), []);
        telemetry.tracer().start("one").end();
        let report = telemetry.shutdown_blocking();
        assert!(report.is_complete(), "{report}");
        return;
    }
    for protocol in crate::BOTH {
        let receiver = Receiver::start_tls(protocol);
        let output = child("the_processs_variables_and_the_systems_roots_are_used")
            .env("SSL_CERT_FILE", receiver.authority())
            .env("HTTPS_PROXY", "http://localhost:1")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint())
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.as_str())
            .env("OTEL_EXPORTER_OTLP_HEADERS", "x-token=secret")
            .env("OTEL_SERVICE_NAME", "child")
            .output()
            .expect("a child");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(receiver.span("one").resource.string("service.name"), Some("child"));
        let tokens: Vec<_> =
            receiver.headers().iter().filter_map(|headers| headers.get("x-token").cloned()).collect();
        assert_eq!(tokens, ["secret"; 2], "once in the request of spans, once in that of metrics");
    }
}

/// Seen to fail: a bad endpoint was an error of `install`, and a value that is not UTF-8 was passed over in silence.
#[test]
#[cfg(unix)]
fn a_bad_variable_of_the_process_never_fails_the_installation_and_is_named() {
    use std::os::unix::ffi::OsStrExt as _;
    if is_child() {
        let telemetry = otel_tasks::Telemetry::builder().install().expect("bad variables are no errors");
        let endpoints: Vec<_> = telemetry.endpoints().map(|(_, endpoint)| endpoint.to_owned()).collect();
        assert_eq!(endpoints, ["http://localhost:4318/v1/traces"]);
        assert_eq!(telemetry.warnings().len(), 4, "{:?}", telemetry.warnings());
        assert!(!format!("{telemetry:?}").contains("hunter2"), "{telemetry:?}");
        return;
    }
    let output = child("a_bad_variable_of_the_process_never_fails_the_installation_and_is_named")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:hunter2@host:99999")
        .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization: Bearer hunter2=")
        .env("OTEL_SERVICE_NAME", std::ffi::OsStr::from_bytes(b"caf\xe9"))
        .env("OTEL_CONFIG_FILE", "/etc/otel.yaml")
        .env("OTEL_METRICS_EXPORTER", "none")
        .env("OTEL_LOGS_EXPORTER", "none")
        .output()
        .expect("a child");
    let lines = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{lines}");
    for line in [
        "OTEL_EXPORTER_OTLP_ENDPOINT=\"http://***@host:99999\" cannot be read: http://localhost:4318 is used",
        "OTEL_EXPORTER_OTLP_HEADERS=\"(hidden)\" cannot be read: the header is left out",
        "OTEL_SERVICE_NAME=\"caf\u{fffd}\" cannot be read: it counts as unset: it is not UTF-8",
        "OTEL_CONFIG_FILE=\"/etc/otel.yaml\" is not supported: the file is not read, and the other variables are used",
    ] {
        assert_eq!(lines.matches(line).count(), 1, "{line}\n{lines}");
    }
    assert!(!lines.contains("hunter2"), "{lines}");
}

/// Seen to fail: the SDK read the limits of the process, whatever the reader of variables said.
#[test]
fn process_environment_is_ignored_beside_a_variable_reader() {
    if is_child() {
        let receiver = Receiver::start(Protocol::HttpProtobuf);
        let limit = |name: &str| (name == "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT").then(|| "2".to_owned());
        let telemetry = receiver.telemetry("limits").env(limit).build().expect("telemetry");
        let mut span = telemetry.tracer().start("one");
        for n in 0..5_i64 {
            span.set_attribute(opentelemetry::KeyValue::new(format!("key{n}"), n));
            span.add_event(format!("event {n}"), Vec::new());
        }
        span.end();
        let _report = telemetry.shutdown_blocking();
        let span = receiver.span("one").raw;
        assert_eq!((span.attributes.len(), span.events.len()), (2, 5));
        return;
    }
    let output = child("process_environment_is_ignored_beside_a_variable_reader")
        .env("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "1")
        .env("OTEL_SPAN_EVENT_COUNT_LIMIT", "1")
        .output()
        .expect("a child");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The terminal is for looking on: however often the receiver is asked, a batch is printed once.
#[cfg(feature = "console")]
#[test]
fn a_batch_that_is_sent_again_is_printed_once() {
    use crate::support::otlp::Behaviour;
    if is_child() {
        let receiver = Receiver::start(Protocol::HttpProtobuf);
        receiver.set_behaviour(Behaviour::Unavailable);
        let both = |name: &str| (name == "OTEL_TRACES_EXPORTER").then(|| "otlp,console".to_owned());
        let telemetry = receiver.telemetry("both").env(both).build().expect("telemetry");
        telemetry.tracer().start("looked-on").end();
        assert!(telemetry.tracer_provider().force_flush().is_err(), "it is unavailable");
        assert!(wait_for(Duration::from_secs(30), || receiver.requests().traces >= 3));
        receiver.set_behaviour(Behaviour::Ok);
        assert!(telemetry.tracer_provider().force_flush().is_ok());
        receiver.span("looked-on");
        return;
    }
    let output = child("a_batch_that_is_sent_again_is_printed_once").output().expect("a child");
    let lines = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(lines.matches("looked-on").count(), 1, "{lines}");
}

#[cfg(feature = "console")]
#[test]
fn closed_stdout_fails_only_the_console_exports() {
    use otel_tasks::telemetry::SignalOutcome;
    use std::io::Write as _;
    const ALL_FAILED: i32 = 42;
    if is_child() {
        let closed =
            || std::io::stdout().write_all(b"still open\n").and_then(|()| std::io::stdout().flush()).is_err();
        assert!(wait_for(Duration::from_secs(10), closed));
        let console = |name: &str| name.ends_with("S_EXPORTER").then(|| "console".to_owned());
        let telemetry = otel_tasks::Telemetry::builder().env(console).build().expect("telemetry");
        telemetry.tracer().start("one").end();
        let metrics = telemetry.meter_provider();
        let both_failed = metrics.force_flush().is_err() && metrics.force_flush().is_err();
        let report = telemetry.shutdown_blocking();
        let failed = report.traces.export_failed == 1
            && report.metrics.export_failed == 3
            && matches!(report.metrics.outcome, SignalOutcome::Failed(_));
        // The harness cannot write its verdict any more.
        std::process::exit(if both_failed && failed { ALL_FAILED } else { 1 });
    }
    let mut child = child("closed_stdout_fails_only_the_console_exports")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child");
    // The harness must have said its first words, or it would not begin.
    let mut output = BufReader::new(child.stdout.take().expect("its output"));
    let mut line = String::new();
    while !line.contains("still open") {
        line.clear();
        assert!(output.read_line(&mut line).expect("text") > 0, "the child ended early");
    }
    drop(output);
    let ended = child.wait_with_output().expect("a child that ends");
    assert_eq!(ended.status.code(), Some(ALL_FAILED), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn a_collector_that_is_away_and_comes_back_is_one_line_each_and_not_exported() {
    if is_child() {
        let address = closed_port();
        let telemetry = otel_tasks::Telemetry::builder()
            .env(|_| None)
            .endpoint(format!("http://{address}"))
            .install()
            .expect("telemetry");
        let spans = telemetry.tracer_provider();
        for _ in 0..2 {
            telemetry.tracer().start("kept").end();
            assert!(spans.force_flush().is_err());
        }
        let receiver = Receiver::start_at(Protocol::HttpProtobuf, address);
        telemetry.tracer().start("kept").end();
        spans.force_flush().expect("a collector");
        tracing::info!("said by the program");
        let _report = telemetry.shutdown_blocking();
        assert_eq!(receiver.spans_named("kept").len(), 3);
        let bodies: Vec<_> = receiver.logs().into_iter().filter_map(|log| log.body).collect();
        assert_eq!(bodies, ["said by the program"]);
        return;
    }
    let output = child("a_collector_that_is_away_and_comes_back_is_one_line_each_and_not_exported")
        .output()
        .expect("a child");
    let lines = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{lines}");
    let count = |text: &str| lines.matches(text).count();
    assert_eq!(count("export of spans fails"), 1, "{lines}");
    assert_eq!(count("export of spans works again, 0 were lost"), 1, "{lines}");
    assert_eq!(count("said by the program"), 1, "{lines}");
    assert_eq!(count(" opentelemetry"), 0, "each retry is not told as well: {lines}");
}

/// Seen to fail without `set_global`: metrics of a program with a subscriber of its own were not collected, and headers not read.
#[test]
fn building_touches_nothing_global_and_set_global_makes_it_the_processs() {
    use opentelemetry::{global, trace::TraceContextExt as _};
    use tracing_subscriber::prelude::*;
    if is_child() {
        let receiver = Receiver::start(Protocol::HttpProtobuf);
        let first = Receiver::start(Protocol::HttpProtobuf);
        let own = |name: &str| match name {
            "OTEL_PROPAGATORS" => Some("baggage".to_owned()),
            "OTEL_METRIC_EXPORT_INTERVAL" => Some("soon".to_owned()),
            _ => None,
        };
        let earlier = first.telemetry("earlier").build().expect("telemetry");
        let telemetry = receiver.telemetry("own").env(own).build().expect("telemetry");
        tracing_subscriber::registry()
            .with(telemetry.layer())
            .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false))
            .init();

        assert!(!global::tracer("mine").start("lost").span_context().is_valid(), "no tracer provider");
        global::meter_provider().meter("mine").u64_counter("lost").build().add(1, &[]);
        let fields = || global::get_text_map_propagator(|propagator| propagator.fields().count());
        assert_eq!(fields(), 0, "no propagator");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let tasks = runtime.block_on(async {
            let tasks = otel_tasks::TaskManager::new();
            tasks.spawn("early", async {}).await.expect("a run");
            tasks
        });
        telemetry.meter_provider().force_flush().expect("a receiver");
        assert_eq!(receiver.sum("task.runs", &[]), None, "no meter of the process");

        earlier.set_global();
        telemetry.set_global();
        assert!(fields() > 0);
        let headers = [
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("baggage", "tenant=acme"),
        ];
        let remote = otel_tasks::telemetry::remote_context(|name| {
            headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
        });
        use opentelemetry::baggage::BaggageExt as _;
        assert_eq!(remote.baggage().get("tenant").map(|value| value.as_str()), Some("acme"));
        assert!(!remote.span().span_context().is_valid(), "tracecontext was not asked for");
        global::tracer("mine").start("found").end();
        global::meter_provider().meter("mine").u64_counter("found").build().add(1, &[]);
        runtime.block_on(async { tasks.spawn("early", async {}).await.expect("a run") });
        let report = telemetry.shutdown_blocking();
        assert!(report.is_complete(), "{report}");
        receiver.span("found");
        assert_eq!((receiver.sum("lost", &[]), receiver.sum("found", &[])), (None, Some(1.0)));
        assert_eq!(receiver.sum("task.runs", &[("task.name", "early")]), Some(2.0), "the early run, too");
        let _report = earlier.shutdown_blocking();
        assert_eq!(first.spans().len(), 0, "another took its place");
        return;
    }
    let output = child("building_touches_nothing_global_and_set_global_makes_it_the_processs")
        .output()
        .expect("a child");
    let lines = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{lines}");
    let warning = "OTEL_METRIC_EXPORT_INTERVAL=\"soon\" cannot be read: 60000 ms are used";
    assert_eq!(lines.matches(warning).count(), 1, "{lines}");
}

/// Seen to fail: fields were written as they were, and so were line feeds and marks of direction in messages.
#[test]
fn logged_text_is_escaped_for_the_terminal() {
    const EVIL: &str = "evil\u{1b}[2J\u{9b}1m\r\n2026-01-01T00:00:00Z ERROR forged\u{202e}";
    #[derive(Debug)]
    struct Evil;
    impl std::fmt::Display for Evil {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(EVIL)
        }
    }
    impl std::error::Error for Evil {}
    if is_child() {
        let telemetry = otel_tasks::Telemetry::builder().env(|_| None).export_if_configured().install();
        let telemetry = telemetry.expect("telemetry");
        let span = tracing::info_span!("span", shown = %Evil, later = tracing::field::Empty);
        span.record("later", tracing::field::display(Evil));
        let _entered = span.enter();
        let error: &(dyn std::error::Error + 'static) = &Evil;
        tracing::info!(field = %Evil, text = EVIL, error, "{EVIL}");
        tracing::info!(message = EVIL);
        log::info!("{EVIL}");
        let _report = telemetry.shutdown_blocking();
        return;
    }
    let output = child("logged_text_is_escaped_for_the_terminal").output().expect("a child");
    let lines = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{lines}");
    let bad = |c: char| c.is_control() && c != '\n' || ('\u{2028}'..='\u{202e}').contains(&c);
    assert_eq!(lines.chars().filter(|&c| bad(c)).collect::<String>(), "", "{lines:?}");
    assert!(!lines.lines().any(|line| line.starts_with("2026-01-01")), "a forged line: {lines}");
    let evil = "evil\\u{1b}[2J\\u{9b}1m\\r\\n2026-01-01T00:00:00Z ERROR forged\\u{202e}";
    let first = lines.lines().next().expect("a line");
    assert!(first.contains(&format!("span{{shown={evil} later={evil}}}: ")), "{first}");
    assert!(first.ends_with(&format!("{evil} field={evil} text=\"{evil}\" error={evil}")), "{first}");
    assert_eq!(lines.matches(&format!(": {evil}\n")).count(), 2, "{lines}");
}

/// Seen to fail: they reached nobody.
#[test]
fn records_of_log_reach_the_terminal_and_the_receiver() {
    if is_child() {
        let receiver = Receiver::start(Protocol::HttpProtobuf);
        let filter = |name: &str| (name == "RUST_LOG").then(|| "info,quiet=off".to_owned());
        let telemetry = receiver.telemetry("log").env(filter).install().expect("telemetry");
        tracing::info_span!("work").in_scope(|| log::info!(target: "app", "said through log"));
        log::info!(target: "quiet", "filtered");
        log::debug!(target: "app", "below the level");
        for carrier in
            ["hyper::proto", "h2::codec", "tonic", "reqwest::connect", "rustls::client", "hyper_util"]
        {
            log::warn!(target: carrier, "chatter of {carrier}");
        }
        let report = telemetry.shutdown_blocking();
        assert!(report.is_complete(), "{report}");
        let logs = receiver.logs();
        let bodies: Vec<_> = logs.iter().filter_map(|log| log.body.as_deref()).collect();
        assert_eq!(bodies, ["said through log"]);
        assert_eq!((&*logs[0].severity, logs[0].string("log.target")), ("INFO", Some("app")));
        assert_eq!(logs[0].trace_id, receiver.span("work").trace_id);
        return;
    }
    let output = child("records_of_log_reach_the_terminal_and_the_receiver").output().expect("a child");
    let lines = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{lines}");
    assert_eq!(lines.matches(" INFO work: app: said through log\n").count(), 1, "{lines}");
    assert_eq!(lines.matches(" WARN hyper::proto: chatter of hyper::proto\n").count(), 1, "{lines}");
    assert!(!lines.contains("filtered") && !lines.contains("below the level"), "{lines}");
}

#[test]
fn a_logger_that_is_there_already_keeps_its_records() {
    struct Own;
    impl log::Log for Own {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &log::Record<'_>) {
            eprintln!("own logger: {}", record.args());
        }
        fn flush(&self) {}
    }
    if is_child() {
        log::set_logger(&Own).map(|()| log::set_max_level(log::LevelFilter::Info)).expect("the first");
        let telemetry = otel_tasks::Telemetry::builder().env(|_| None).export_if_configured().install();
        let telemetry = telemetry.expect("another logger is no error");
        log::info!("said");
        let _report = telemetry.shutdown_blocking();
        return;
    }
    let output = child("a_logger_that_is_there_already_keeps_its_records").output().expect("a child");
    let lines = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{lines}");
    assert_eq!(lines.matches("own logger: said").count(), 1, "{lines}");
    assert_eq!(lines.matches("the process has a logger already").count(), 1, "{lines}");
}

/// Seen to fail: 19 lines of the SDK's, an ERROR for each instrument.
#[test]
fn metrics_that_are_off_are_no_errors() {
    if is_child() {
        let telemetry = otel_tasks::Telemetry::builder().install().expect("telemetry");
        let tasks = otel_tasks::TaskManager::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async { tasks.spawn("one", async {}).await.expect("a run") });
        let _report = telemetry.shutdown_blocking();
        return;
    }
    for off in ["OTEL_METRICS_EXPORTER", "OTEL_SDK_DISABLED"] {
        let output = child("metrics_that_are_off_are_no_errors")
            .env("RUST_LOG", "info")
            .env("OTEL_TRACES_EXPORTER", "none")
            .env("OTEL_LOGS_EXPORTER", "none")
            .env("OTEL_METRICS_EXPORTER", "none")
            .env(off, if off == "OTEL_SDK_DISABLED" { "true" } else { "none" })
            .output()
            .expect("a child");
        let lines = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{lines}");
        let bad: Vec<_> =
            lines.lines().filter(|line| line.contains(" ERROR ") || line.contains(" WARN ")).collect();
        assert!(bad.is_empty(), "{off}: {bad:#?}");
    }
}

/// Seen to fail: the signal was taken, and the shutdown went on to its deadline.
#[test]
#[cfg(unix)]
fn a_signal_cuts_the_shutdown_in_a_process_that_listens() {
    use std::os::unix::process::ExitStatusExt as _;

    const TEST: &str = "a_signal_cuts_the_shutdown_in_a_process_that_listens";
    const WAY: &str = "OTEL_TASKS_TEST_WAY";
    const DEADLINE: Duration = Duration::from_secs(60);
    if is_child() {
        let way = std::env::var(WAY).expect("set by the parent");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            if way != "deaf" {
                drop(otel_tasks::shutdown_signal());
            }
            let telemetry = otel_tasks::Telemetry::builder().shutdown_timeout(DEADLINE).build();
            let telemetry = telemetry.expect("telemetry");
            telemetry.tracer().start("waits").end();
            let report = if way == "blocks" {
                println!("shutting down");
                telemetry.shutdown_blocking()
            } else {
                let ends = telemetry.shutdown();
                println!("shutting down");
                ends.await
            };
            println!("{report}");
        });
        return;
    }
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    receiver.set_behaviour(crate::support::otlp::Behaviour::Hang);
    for way in ["awaits", "blocks", "deaf"] {
        let began = std::time::Instant::now();
        let mut child = child(TEST)
            .env(WAY, way)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint())
            .env("OTEL_EXPORTER_OTLP_TIMEOUT", "60000")
            .env("OTEL_BSP_EXPORT_TIMEOUT", "60000")
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let mut output = BufReader::new(child.stdout.take().expect("its output"));
        let mut line = String::new();
        while !line.contains("shutting down") {
            line.clear();
            assert!(output.read_line(&mut line).expect("text") > 0, "the child ended early");
        }
        // Again and again: the first may come before the child listens.
        let ends = |child: &mut std::process::Child| {
            let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
            wait_for(Duration::from_secs(4), || child.try_wait().is_ok_and(|status| status.is_some()))
        };
        let ended = (0..4).any(|_| ends(&mut child));
        let _ = child.kill();
        let status = child.wait().expect("a child that ends");
        assert!(ended, "{way}: it went on");
        assert!(began.elapsed() < Duration::from_secs(20), "{way}: after {:?}", began.elapsed());
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut output, &mut rest).expect("text");
        if way == "deaf" {
            assert_eq!(status.signal(), Some(15), "the default action: {rest}");
        } else {
            assert!(status.success(), "{way}: {rest}");
            assert!(
                rest.contains("0 of 1 spans delivered, 1 undelivered; timed out after 1."),
                "{way}: {rest}"
            );
        }
    }
}

/// Seen to fail in silence.
#[test]
fn installed_telemetry_that_is_dropped_at_once_is_a_warning() {
    if is_child() {
        let _ = otel_tasks::Telemetry::builder().env(|_| None).install().expect("telemetry");
        let check = otel_tasks::TaskManager::new().check_instrumentation();
        let export = check.export.as_ref().expect("it was installed");
        assert_eq!(export.state, TelemetryState::Dropped);
        assert!(!check.is_complete(), "{check}");
        assert!(check.to_string().starts_with("telemetry: DROPPED"), "{check}");
        return;
    }
    let output = child("installed_telemetry_that_is_dropped_at_once_is_a_warning").output().expect("a child");
    let lines = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{lines}");
    assert_eq!(lines.matches("the installed telemetry was dropped").count(), 1, "{lines}");
    assert!(lines.contains(" WARN otel_tasks: the installed telemetry was dropped"), "{lines}");
}

#[test]
fn telemetry_that_is_shut_down_or_was_not_installed_is_no_warning() {
    if is_child() {
        let built = otel_tasks::Telemetry::builder().env(|_| None).build().expect("telemetry");
        let installed = otel_tasks::Telemetry::builder().env(|_| None).install().expect("telemetry");
        drop(built);
        assert!(otel_tasks::Telemetry::builder().env(|_| None).install().is_err());
        let _report = installed.shutdown_blocking();
        let check = otel_tasks::TaskManager::new().check_instrumentation();
        assert_eq!(check.export.map(|export| export.state), Some(TelemetryState::ShutDown));
        return;
    }
    let output = child("telemetry_that_is_shut_down_or_was_not_installed_is_no_warning").output();
    let output = output.expect("a child");
    let lines = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !lines.contains("was dropped"), "{lines}");
}

/// With a filter that lets no WARN record pass, the text goes to stderr.
#[test]
fn installed_telemetry_that_is_dropped_without_a_listener_is_printed() {
    if is_child() {
        let builder = otel_tasks::Telemetry::builder().env(|_| None).filter("off");
        drop(builder.install().expect("telemetry"));
        return;
    }
    let output = child("installed_telemetry_that_is_dropped_without_a_listener_is_printed").output();
    let output = output.expect("a child");
    let lines = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{lines}");
    assert_eq!(lines.matches("otel-tasks: the installed telemetry was dropped").count(), 1, "{lines}");
}
