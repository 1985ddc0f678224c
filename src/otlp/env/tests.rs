use super::*;

/// With everything compiled.
fn read(get: &dyn Fn(&str) -> Option<String>, overrides: &Overrides) -> Result<Settings, BadOverride> {
    read_for(get, overrides, |_| true)
}
use crate::otlp::settings::{LONGEST_WAIT, Warning, redacted};

fn read_from(pairs: &[(&str, &str)], overrides: &Overrides) -> Settings {
    let get = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    read(&get, overrides).unwrap_or_else(|bad| panic!("{bad:?}"))
}

fn settings(pairs: &[(&str, &str)]) -> Settings {
    read_from(pairs, &Overrides::default())
}

#[test]
fn an_empty_environment_gives_the_defaults_of_the_specification() {
    let s = settings(&[("OTEL_TRACES_SAMPLER", " "), ("OTEL_SDK_DISABLED", "")]);
    assert!(!s.disabled);
    assert_eq!(s.traces.targets, Targets { otlp: true, console: false });
    assert_eq!(s.traces.otlp.endpoint, "http://localhost:4318/v1/traces");
    assert_eq!(s.logs.otlp.endpoint, "http://localhost:4318/v1/logs");
    assert_eq!(s.metrics.otlp.protocol, Protocol::HttpProtobuf);
    assert_eq!(s.traces.otlp.timeout, Duration::from_secs(10));
    assert_eq!(s.metric_interval, Duration::from_secs(60));
    assert_eq!(s.spans.delay, Duration::from_secs(5));
    assert_eq!(s.records.delay, Duration::from_secs(1));
    assert_eq!(s.propagators, [Propagator::TraceContext, Propagator::Baggage]);
    assert_eq!(format!("{:?}", s.sampler), "ParentBased(AlwaysOn)");
    assert_eq!(s.warnings, []);
}

#[test]
fn an_endpoint_of_one_signal_is_used_as_it_is_and_a_general_one_gets_the_path() {
    let s = settings(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/otel/"),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "https://logs.example/ingest?x=1"),
    ]);
    assert_eq!(s.traces.otlp.endpoint, "http://collector:4318/otel/v1/traces");
    assert_eq!(s.metrics.otlp.endpoint, "http://collector:4318/otel/v1/metrics");
    assert_eq!(s.logs.otlp.endpoint, "https://logs.example/ingest?x=1");
    assert_eq!(s.warnings, []);
}

#[test]
fn grpc_endpoint_without_scheme_uses_tls_unless_insecure() {
    let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4317");
    let s = settings(&[grpc, endpoint]);
    assert_eq!(s.traces.otlp.endpoint, "https://localhost:4317/");
    assert_eq!(s.warnings[0].kind, WarningKind::Suspicious);
    let s = settings(&[grpc, endpoint, ("OTEL_EXPORTER_OTLP_INSECURE", "true")]);
    assert_eq!(s.traces.otlp.endpoint, "http://localhost:4317/");
    assert_eq!(s.warnings, []);
}

#[test]
fn overrides_in_code_precede_the_environment() {
    let overrides = Overrides {
        endpoint: Some("http://code:1".to_owned()),
        protocol: Some(Protocol::Grpc),
        ..Overrides::default()
    };
    let env = [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://env:2"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
    ];
    let s = read_from(&env, &overrides);
    assert_eq!((s.traces.otlp.endpoint.as_str(), s.traces.otlp.protocol), ("http://code:1/", Protocol::Grpc));
    let bad = Overrides { endpoint: Some("not a url".to_owned()), ..Overrides::default() };
    assert_eq!(read(&|_| None, &bad).err(), Some(BadOverride::Endpoint("not a url".to_owned())));
}

#[test]
fn malformed_values_warn_and_give_the_default() {
    let env = [
        ("OTEL_SDK_DISABLED", "maybe"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_METRICS_EXPORTER", "prometheus,console"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "secret"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=b,c"),
        ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_BLRP_MAX_QUEUE_SIZE", "10"),
        ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "11"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1s"),
        ("OTEL_PROPAGATORS", "b3,tracecontext,nonsense"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "both"),
    ];
    let s = settings(&env);
    for (name, _) in env {
        if name != "OTEL_TRACES_SAMPLER" && name != "OTEL_BLRP_MAX_QUEUE_SIZE" {
            assert!(s.warnings.iter().any(|w| w.variable == name), "no warning for {name}");
        }
    }
    assert!(!s.disabled);
    assert_eq!(s.traces.targets, Targets { otlp: true, console: false });
    assert_eq!(s.metrics.targets, Targets { otlp: false, console: true });
    assert_eq!(s.traces.otlp.endpoint, "http://localhost:4318/v1/traces");
    assert_eq!(s.traces.otlp.timeout, Duration::from_secs(10));
    assert_eq!(s.resource, []);
    assert_eq!(format!("{:?}", s.sampler), "TraceIdRatioBased(1.0)");
    assert_eq!((s.spans.queue, s.records.queue, s.records.batch), (DEFAULT_QUEUE, 10, 10));
    assert_eq!(s.propagators, [Propagator::TraceContext]);
    assert!(s.warnings.iter().all(|w| !w.to_string().contains("secret")), "headers hold credentials");
}

#[test]
fn nothing_is_exported_without_configuration_where_that_was_asked() {
    let asked = Overrides { only_if_configured: true, ..Overrides::default() };
    let targets = |pairs: &[(&str, &str)], overrides| {
        let s = read_from(pairs, overrides);
        [s.traces.targets, s.metrics.targets, s.logs.targets]
    };
    let otlp = Targets { otlp: true, console: false };
    let none = Targets::NONE;
    assert_eq!(targets(&[], &asked), [none; 3]);
    let own = [("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://c:1/m")];
    assert_eq!(targets(&own, &asked), [none, otlp, none]);
    let general = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:1")];
    assert_eq!(targets(&general, &asked), [otlp; 3]);
    let console = [("OTEL_TRACES_EXPORTER", "console")];
    assert_eq!(targets(&console, &asked), [Targets { otlp: false, console: true }, none, none]);
    let in_code = Overrides { endpoint: Some("http://c:1".to_owned()), ..asked };
    assert_eq!(targets(&[], &in_code), [otlp; 3]);
}

#[test]
fn resource_attributes_are_percent_decoded() {
    let s = settings(&[("OTEL_RESOURCE_ATTRIBUTES", "a=b%2Cc, service.instance.id = 7,empty=")]);
    let expected = [("a", "b,c"), ("service.instance.id", "7"), ("empty", "")];
    assert_eq!(s.resource, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
}

fn warned(s: &Settings) -> Vec<(&str, &str, WarningKind)> {
    s.warnings.iter().map(|w| (&*w.variable, &*w.value, w.kind)).collect()
}

#[test]
fn every_sampler_is_known_by_its_name_and_its_argument() {
    const NAME: &str = "OTEL_TRACES_SAMPLER";
    const ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
    for (name, arg, expected) in [
        ("always_on", "", "AlwaysOn"),
        ("always_off", "", "AlwaysOff"),
        ("traceidratio", "", "TraceIdRatioBased(1.0)"),
        ("traceidratio", "0", "TraceIdRatioBased(0.0)"),
        ("traceidratio", "0.25", "TraceIdRatioBased(0.25)"),
        ("traceidratio", "1", "TraceIdRatioBased(1.0)"),
        ("parentbased_always_on", "", "ParentBased(AlwaysOn)"),
        ("parentbased_always_off", "", "ParentBased(AlwaysOff)"),
        ("parentbased_traceidratio", "0.5", "ParentBased(TraceIdRatioBased(0.5))"),
    ] {
        let s = settings(&[(NAME, name), (ARG, arg)]);
        assert_eq!(format!("{:?}", s.sampler), expected, "{name} {arg}");
        assert_eq!(warned(&s), [], "{name} {arg}");
    }
    for (name, expected) in [("", "ParentBased(AlwaysOn)"), ("always_off", "AlwaysOff")] {
        let s = settings(&[(NAME, name), (ARG, "0.1")]);
        assert_eq!(format!("{:?}", s.sampler), expected, "{name}");
        assert_eq!(warned(&s), [(ARG, "0.1", WarningKind::Suspicious)], "{name} has no argument");
    }
    for arg in ["-0.1", "1.1", "NaN", "inf", "half"] {
        let s = settings(&[(NAME, "traceidratio"), (ARG, arg)]);
        assert_eq!(format!("{:?}", s.sampler), "TraceIdRatioBased(1.0)");
        assert_eq!(warned(&s), [(ARG, arg, WarningKind::Malformed)]);
    }
    for (name, kind) in [
        ("jaeger_remote", WarningKind::Unsupported),
        ("parentbased_jaeger_remote", WarningKind::Unsupported),
        ("xray", WarningKind::Unsupported),
        ("sometimes", WarningKind::Unknown),
    ] {
        let s = settings(&[(NAME, name)]);
        assert_eq!(format!("{:?}", s.sampler), "ParentBased(AlwaysOn)");
        assert_eq!(warned(&s), [(NAME, name, kind)]);
    }
}

#[test]
fn every_temporality_compression_propagator_and_exporter_is_known_by_its_name() {
    use WarningKind::{Unknown, Unsupported};
    const TEMPORALITY: &str = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
    for (name, expected, warning) in [
        ("cumulative", Temporality::Cumulative, None),
        ("delta", Temporality::Delta, None),
        ("lowmemory", Temporality::LowMemory, None),
        ("both", Temporality::Cumulative, Some((TEMPORALITY, "both", Unknown))),
    ] {
        let s = settings(&[(TEMPORALITY, name)]);
        assert_eq!(s.temporality, expected);
        assert_eq!(warned(&s), Vec::from_iter(warning));
    }

    const COMPRESSION: &str = "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION";
    for (name, gzip, warning) in [
        ("gzip", true, None),
        ("none", false, None),
        ("zstd", false, Some((COMPRESSION, "zstd", Unsupported))),
        ("lzma", false, Some((COMPRESSION, "lzma", Unknown))),
    ] {
        let s = settings(&[(COMPRESSION, name)]);
        assert_eq!((s.traces.otlp.gzip, s.logs.otlp.gzip), (gzip, false), "{name}");
        assert_eq!(warned(&s), Vec::from_iter(warning));
    }

    const PROPAGATORS: &str = "OTEL_PROPAGATORS";
    let (context, baggage) = (Propagator::TraceContext, Propagator::Baggage);
    for (list, expected) in [
        ("tracecontext", vec![context]),
        ("baggage", vec![baggage]),
        ("baggage, tracecontext ,,baggage", vec![baggage, context]),
        ("none", vec![]),
    ] {
        let s = settings(&[(PROPAGATORS, list)]);
        assert_eq!(s.propagators, expected, "{list}");
        assert_eq!(warned(&s), [], "{list}");
    }
    let s = settings(&[(PROPAGATORS, "b3,b3multi,jaeger,xray,ottrace,pigeon")]);
    assert_eq!(s.propagators, []);
    let unsupported =
        ["b3", "b3multi", "jaeger", "xray", "ottrace"].map(|name| (PROPAGATORS, name, Unsupported));
    assert_eq!(warned(&s), [&unsupported[..], &[(PROPAGATORS, "pigeon", Unknown)]].concat());

    const EXPORTER: &str = "OTEL_LOGS_EXPORTER";
    for (list, otlp, console, warning) in [
        ("otlp", true, false, None),
        ("console", false, true, None),
        ("console, otlp", true, true, None),
        ("none", false, false, None),
        ("none,console", false, true, None),
        (",", true, false, None),
        ("zipkin", true, false, Some((EXPORTER, "zipkin", Unsupported))),
        ("prometheus,none", false, false, Some((EXPORTER, "prometheus", Unsupported))),
        ("pigeon,console", false, true, Some((EXPORTER, "pigeon", Unknown))),
    ] {
        let s = settings(&[(EXPORTER, list)]);
        assert_eq!(s.logs.targets, Targets { otlp, console }, "{list}");
        assert_eq!(s.traces.targets, Targets { otlp: true, console: false }, "{list}");
        assert_eq!(warned(&s), Vec::from_iter(warning));
    }
}

#[test]
fn a_port_that_is_the_other_protocols_is_used_and_warned_of() {
    const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT";
    for (protocol, given, endpoint, said) in [
        ("grpc", "http://c:4317", "http://c:4317/", None),
        ("grpc", "http://c:4318", "http://c:4318/", Some("grpc is spoken to a port that is http/protobuf's")),
        ("http/protobuf", "http://c:4318/v1/logs", "http://c:4318/v1/logs", None),
        (
            "http/protobuf",
            "http://c:4317/x",
            "http://c:4317/x",
            Some("http/protobuf is spoken to a port that is grpc's"),
        ),
    ] {
        let s = settings(&[(ENDPOINT, given), ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", protocol)]);
        assert_eq!((s.logs.otlp.protocol.as_str(), &*s.logs.otlp.endpoint), (protocol, endpoint));
        let expected = said.map(|_| (ENDPOINT, given, WarningKind::Suspicious));
        assert_eq!(warned(&s), Vec::from_iter(expected));
        assert!(s.warnings.iter().all(|w| w.used.starts_with(said.unwrap_or_default())), "{:?}", s.warnings);
    }
    for (protocol, kind) in [("http/json", WarningKind::Unsupported), ("udp", WarningKind::Unknown)] {
        let s = settings(&[("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", protocol)]);
        assert_eq!(s.metrics.otlp.protocol, Protocol::HttpProtobuf);
        assert_eq!(warned(&s), [("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", protocol, kind)]);
    }
}

#[test]
fn headers_are_pairs_and_a_bad_one_is_left_out() {
    const HEADERS: &str = "OTEL_EXPORTER_OTLP_METRICS_HEADERS";
    let general = ("OTEL_EXPORTER_OTLP_HEADERS", "Api-Key=a%3Db, x = 1=2 ,, empty=");
    let s = settings(&[general, (HEADERS, "own=%e2%82%ac")]);
    let pairs = |pairs: &[(&str, &str)]| -> Vec<_> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    assert_eq!(s.traces.otlp.headers, pairs(&[("api-key", "a=b"), ("x", "1=2"), ("empty", "")]));
    assert_eq!(s.metrics.otlp.headers, pairs(&[("own", "€")]), "its own, none of the general ones");
    assert_eq!(warned(&s), []);
    use WarningKind::{Malformed, Suspicious, Unsupported};
    for (bad, told, kind) in [
        ("secret", "(hidden)", Malformed),
        ("=secret", "(hidden)", Malformed),
        (" =secret", "(hidden)", Malformed),
        ("authorization: Bearer secret=", "(hidden)", Malformed),
        ("{\"api-key\"=\"secret\"}", "(hidden)", Malformed),
        ("ключ=secret", "(hidden)", Malformed),
        ("key=secret%", "key", Malformed),
        ("key=secret%4", "key", Malformed),
        ("key=secret%zz", "key", Malformed),
        ("key=secret%ff", "key", Malformed),
        ("key=secret%0d%0aother: 1", "key", Malformed),
        ("key=secret%00", "key", Malformed),
        ("key=secret%7f", "key", Malformed),
        ("Content-Type=secret", "content-type", Unsupported),
        ("grpc-timeout=secret", "grpc-timeout", Unsupported),
        ("Good=secret", "good", Suspicious),
    ] {
        let s = settings(&[(HEADERS, &format!("{bad},good=1"))]);
        assert_eq!(s.metrics.otlp.headers, pairs(&[("good", "1")]), "{bad}");
        assert_eq!(warned(&s), [(HEADERS, told, kind)], "{bad}");
        assert!(!format!("{s:?}").contains("secret"), "{bad}: {s:?}");
    }
    let s = settings(&[(HEADERS, "good=1,good=1")]);
    assert_eq!((s.metrics.otlp.headers, s.warnings), (pairs(&[("good", "1")]), vec![]), "twice the same");
}

#[test]
fn an_endpoint_that_no_client_takes_is_replaced_by_the_default() {
    for protocol in ["grpc", "http/protobuf"] {
        for bad in [
            "http://",
            "http:///v1/traces",
            "http://c:99999",
            "http://c:0",
            "http://c:port",
            "http://[::1",
            "ftp://c",
            "unix:///run/otel.sock",
            "file:///tmp/x",
            "https://a..b",
            "https://-a.example",
            "https://a$b",
            "http://user:secret@:4318",
            &format!("https://{}.example", "a".repeat(64)),
            &format!("http://c/{}", "x".repeat(70_000)),
        ] {
            // Whether a name fits a certificate is known to the TLS library alone.
            if bad.starts_with("https") && !compiled(Part::Tls) {
                continue;
            }
            let of_one = "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT";
            for name in [of_one, "OTEL_EXPORTER_OTLP_ENDPOINT"] {
                let s = settings(&[(name, bad), ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)]);
                let default = match (protocol, name == of_one) {
                    ("grpc", _) => "http://localhost:4317/",
                    (_, true) => "http://localhost:4318/v1/logs",
                    (_, false) => "http://localhost:4318",
                };
                assert!(s.logs.otlp.endpoint.starts_with(default), "{bad}: {:?}", s.logs.otlp.endpoint);
                let [warning] = &*s.warnings else { panic!("one warning of {bad}: {:?}", s.warnings) };
                assert_eq!((&*warning.variable, warning.kind), (name, WarningKind::Malformed), "{bad}");
                assert_eq!(warning.used, format!("{default} is used"), "{bad}");
                assert!(!warning.to_string().contains("secret"), "{warning}");
            }
            let in_code = Overrides { endpoint: Some(bad.to_owned()), ..Overrides::default() };
            let error = read(&|_| None, &in_code).expect_err("an error in code stays one");
            assert!(matches!(error, BadOverride::Endpoint(_)), "{error:?}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }
}

#[test]
fn paths_that_receivers_do_not_have_are_suspicious() {
    const GENERAL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    const OWN: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    for (name, protocol, given, endpoint, said) in [
        (GENERAL, "http/protobuf", "http://c/v1/traces", "http://c/v1/traces/v1/traces", "the path of each"),
        (
            GENERAL,
            "http/protobuf",
            "http://c/otel/v1/logs/",
            "http://c/otel/v1/logs/v1/traces",
            "the path of each",
        ),
        (GENERAL, "http/protobuf", "http://c/otel", "http://c/otel/v1/traces", ""),
        (OWN, "http/protobuf", "http://c:4318", "http://c:4318/", "it is used without a change: /v1/traces"),
        (OWN, "http/protobuf", "http://c/v1/logs", "http://c/v1/logs", "traces are sent to it anyway"),
        (OWN, "http/protobuf", "http://c/v1/traces", "http://c/v1/traces", ""),
        (OWN, "http/protobuf", "http://c/otlp/x", "http://c/otlp/x", ""),
        (OWN, "grpc", "http://c/v1/traces", "http://c/v1/traces", "its path is left out"),
        (OWN, "grpc", "http://c:4317", "http://c:4317/", ""),
    ] {
        let s = settings(&[(name, given), ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)]);
        assert_eq!(s.traces.otlp.endpoint, endpoint, "{given}");
        if said.is_empty() {
            assert_eq!(s.warnings, [], "{given}");
        } else {
            assert_eq!(warned(&s), [(name, given, WarningKind::Suspicious)], "{given}");
            assert!(s.warnings[0].used.starts_with(said), "{given}: {}", s.warnings[0]);
        }
    }
}

#[test]
fn warning_names_the_missing_feature_and_the_fallback() {
    let read = |pairs: &[(&str, &str)]| {
        let get =
            |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        read_for(&get, &Overrides::default(), |_| false).expect("no endpoint in code")
    };
    let feature = |s: &Settings| {
        let [warning] = &*s.warnings else { panic!("one warning: {:?}", s.warnings) };
        assert_eq!(warning.kind, WarningKind::Unsupported);
        warning.used.clone()
    };
    let s = read(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]);
    assert_eq!(s.traces.otlp.protocol, Protocol::HttpProtobuf);
    assert_eq!(feature(&s), "http/protobuf is used: the feature `otlp-grpc` is not compiled");
    let s = read(&[("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")]);
    assert!(!s.traces.otlp.gzip);
    assert_eq!(feature(&s), "no compression is used: the feature `gzip` is not compiled");
    let s = read(&[("OTEL_LOGS_EXPORTER", "console")]);
    assert_eq!(s.logs.targets, Targets { otlp: true, console: false });
    assert_eq!(feature(&s), "otlp is used: the feature `console` is not compiled");
    let s = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c")]);
    assert_eq!(s.logs.otlp.endpoint, "http://localhost:4318/v1/logs");
    assert!(s.warnings.iter().all(|w| w.used.ends_with("the feature `tls` is not compiled")), "{s:?}");
    let in_code = Overrides { endpoint: Some("https://c".to_owned()), ..Overrides::default() };
    assert!(read_for(&|_| None, &in_code, |part| part != Part::Tls).is_err());
}

#[test]
fn a_url_is_shown_without_its_user_and_password() {
    for (url, shown) in [
        ("http://c:4318/v1/traces", "http://c:4318/v1/traces"),
        ("http://c/v1/traces@2", "http://c/v1/traces@2"),
        ("http://user:secret@c:4318/x?y=1", "http://***@c:4318/x?***"),
        ("https://secret@c/", "https://***@c/"),
        ("https://:secret@c/", "https://***@c/"),
        ("http://user:sec/ret@c", "http://***@c"),
        ("http://user:sec@ret@c/", "http://***@c/"),
        ("user:secret@c:4317", "***@c:4317"),
        ("secret@", "***@"),
        ("ftp://user:secret@c", "ftp://***@c"),
    ] {
        assert_eq!(redacted(url), shown, "{url}");
    }
}

#[test]
fn a_key_where_its_path_is_wanted_is_not_shown() {
    for (text, shown) in [
        ("/etc/key.pem", "/etc/key.pem"),
        ("-----BEGIN PRIVATE KEY-----", "(hidden)"),
        ("c2VjcmV0\nc2VjcmV0", "(hidden)"),
        ("c2VjcmV0\rc2VjcmV0", "(hidden)"),
    ] {
        assert_eq!(shown_path(text), shown);
        let s = settings(&[("OTEL_EXPORTER_OTLP_CLIENT_KEY", text)]);
        assert_eq!(warned(&s), [("OTEL_EXPORTER_OTLP_CLIENT_KEY", shown, WarningKind::Malformed)]);
    }
}

/// Values that people write, and that nobody should: each is read, or warned of with what is used instead.
#[test]
fn odd_values_of_variables_are_read_or_warned_of() {
    const SECRET: &str = "hunter2";
    let long = "x".repeat(70_000);
    let odd = [
        "0",
        "7",
        "-1",
        "1.5",
        "18446744073709551616",
        "true",
        " TRUE ",
        "yes",
        "none",
        "grpc",
        ",",
        ";",
        "a=b",
        "=hunter2",
        "x=hunter2%zz",
        "http://",
        "ftp://user:hunter2@host",
        "http://user:hunter2@host:99999/v1/traces",
        "user:hunter2@host:4317",
        "not UTF-8: \u{fffd}",
        "☃",
        &long,
    ];
    const ANY: &[&str] = &["*"];
    const WHOLE: &[&str] = &["7"];
    const LIMIT: &[&str] = &["0", "7"];
    const FLAG: &[&str] = &["true", " TRUE "];
    const NONE: &[&str] = &["none", ","];
    const PAIRS: &[&str] = &["a=b", ","];
    let of_signals = |what: &str| {
        ["", "_TRACES", "_METRICS", "_LOGS"].map(|signal| format!("OTEL_EXPORTER_OTLP{signal}_{what}"))
    };
    let mut variables: Vec<(String, &[&str])> = Vec::new();
    for (what, accepted) in [
        ("ENDPOINT", &[][..]),
        ("HEADERS", PAIRS),
        ("TIMEOUT", WHOLE),
        ("PROTOCOL", &["grpc"]),
        ("COMPRESSION", &["none"]),
        ("INSECURE", FLAG),
        ("CERTIFICATE", ANY),
        ("CLIENT_CERTIFICATE", &[]),
        ("CLIENT_KEY", &[]),
    ] {
        variables.extend(of_signals(what).into_iter().map(|name| (name, accepted)));
    }
    for (name, accepted) in [
        ("OTEL_SDK_DISABLED", FLAG),
        ("OTEL_SERVICE_NAME", ANY),
        ("OTEL_RESOURCE_ATTRIBUTES", PAIRS),
        ("OTEL_TRACES_SAMPLER", &[]),
        ("OTEL_TRACES_SAMPLER_ARG", &[]),
        ("OTEL_TRACES_EXPORTER", NONE),
        ("OTEL_METRICS_EXPORTER", NONE),
        ("OTEL_LOGS_EXPORTER", NONE),
        ("OTEL_PROPAGATORS", NONE),
        ("OTEL_BSP_MAX_QUEUE_SIZE", WHOLE),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", WHOLE),
        ("OTEL_BSP_SCHEDULE_DELAY", WHOLE),
        ("OTEL_BSP_EXPORT_TIMEOUT", WHOLE),
        ("OTEL_BLRP_MAX_QUEUE_SIZE", WHOLE),
        ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", WHOLE),
        ("OTEL_BLRP_SCHEDULE_DELAY", WHOLE),
        ("OTEL_BLRP_EXPORT_TIMEOUT", WHOLE),
        ("OTEL_METRIC_EXPORT_INTERVAL", WHOLE),
        ("OTEL_METRIC_EXPORT_TIMEOUT", WHOLE),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", &[]),
        // Its values are used for spans, and warned of because log records have none.
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", &[]),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", LIMIT),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", LIMIT),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", LIMIT),
        ("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", LIMIT),
        ("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", LIMIT),
    ] {
        variables.push((name.to_owned(), accepted));
    }
    for (name, _) in unsupported::UNSUPPORTED.into_iter().chain(unsupported::ONE_VALUE) {
        variables.push((name.to_owned(), &[]));
    }

    let asked = std::sync::Mutex::new(std::collections::BTreeSet::new());
    let get = |name: &str| {
        asked.lock().expect("whole").insert(name.to_owned());
        None
    };
    let without_warnings = |mut s: Settings| {
        s.warnings.clear();
        format!("{s:?}")
    };
    let defaults = without_warnings(read(&get, &Overrides::default()).expect("no endpoint in code"));
    asked.lock().expect("whole").remove("RUST_LOG");
    let listed = variables.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(asked.into_inner().expect("whole"), listed, "this table has each variable that is read");

    let page = include_str!("../../../docs/telemetry.md");
    for (name, _) in &variables {
        let general = ["_TRACES_", "_METRICS_", "_LOGS_"]
            .into_iter()
            .filter(|signal| name.starts_with(&format!("OTEL_EXPORTER_OTLP{signal}")))
            .fold(name.clone(), |name, signal| name.replacen(signal, "_", 1));
        let is_there = [name, &general].into_iter().any(|name| page.contains(&format!("`{name}`")));
        assert!(is_there, "docs/telemetry.md has no {name}");
    }

    for (name, accepted) in &variables {
        for unset in ["", " ", "\t\n"] {
            let s = settings(&[(name, unset)]);
            assert_eq!(s.warnings, [], "{name}={unset:?}");
            assert_eq!(without_warnings(s), defaults, "{name}={unset:?}");
        }
        for value in odd {
            let s = settings(&[(name, value)]);
            let warnings: Vec<_> = s.warnings.iter().filter(|w| w.variable == *name).collect();
            assert_eq!(warnings.len(), s.warnings.len(), "{name}={value}: of others: {:?}", s.warnings);
            let is_text = !value.contains('\u{fffd}');
            if accepted.contains(&value) || *accepted == ANY && is_text {
                assert_eq!(s.warnings, [], "{name}={value}");
                continue;
            }
            assert!(!warnings.is_empty(), "{name}={value} is neither read nor warned of");
            assert!(warnings.iter().all(|w| !w.used.is_empty()), "{warnings:?}");
            let is_secret = ["HEADERS", "PASSWORD", "USER"].iter().any(|end| name.ends_with(end));
            if is_secret || name.ends_with("ENDPOINT") && value.contains('@') {
                assert!(!format!("{:?} {}", s, warnings[0]).contains(SECRET), "{name}={value}: {warnings:?}");
            }
            // Of propagators, the known ones stay; if none is known, none stays.
            let is_partial = name == "OTEL_PROPAGATORS";
            if !is_partial && warnings.iter().all(|w| w.kind != WarningKind::Suspicious) {
                assert_eq!(without_warnings(s), defaults, "{name}={value}");
            }
        }
    }
}

/// The proxy of an endpoint.
fn proxied(endpoint: &str, pairs: &[(&str, &str)]) -> (Option<String>, Vec<Warning>) {
    let overrides = Overrides { endpoint: Some(endpoint.to_owned()), ..Overrides::default() };
    let s = read_from(pairs, &overrides);
    (s.traces.otlp.proxy, s.warnings)
}

#[test]
fn a_proxy_is_that_of_the_scheme_and_the_lower_case_goes_first() {
    const HTTP: &str = "http://collector:4318";
    const HTTPS: &str = "https://collector:4318";
    type Variables = &'static [(&'static str, &'static str)];
    let cases: [(&str, Variables, Option<&str>); 14] = [
        (HTTP, &[], None),
        (HTTP, &[("http_proxy", "http://a:1"), ("HTTP_PROXY", "http://b:1")], Some("http://a:1")),
        (HTTP, &[("http_proxy", ""), ("HTTP_PROXY", "http://b:1")], Some("http://b:1")),
        (HTTP, &[("https_proxy", "http://a:1"), ("HTTPS_PROXY", "http://b:1")], None),
        (HTTPS, &[("https_proxy", "http://a:1"), ("HTTPS_PROXY", "http://b:1")], Some("http://a:1")),
        (HTTPS, &[("HTTPS_PROXY", "http://b:1"), ("all_proxy", "http://c:1")], Some("http://b:1")),
        (HTTPS, &[("http_proxy", "http://a:1")], None),
        (HTTPS, &[("all_proxy", "http://c:1"), ("ALL_PROXY", "http://d:1")], Some("http://c:1")),
        (HTTP, &[("ALL_PROXY", "http://d:1")], Some("http://d:1")),
        // Without a scheme it is HTTP.
        (HTTP, &[("http_proxy", "user:pw@a:1")], Some("http://user:pw@a:1")),
        (HTTP, &[("http_proxy", "HTTP://a")], Some("HTTP://a")),
        // A request of the web could choose this one.
        (HTTP, &[("REQUEST_METHOD", "GET"), ("HTTP_PROXY", "http://b:1")], None),
        (HTTP, &[("REQUEST_METHOD", "GET"), ("http_proxy", "http://a:1")], Some("http://a:1")),
        (HTTPS, &[("REQUEST_METHOD", "GET"), ("HTTPS_PROXY", "http://b:1")], Some("http://b:1")),
    ];
    for (endpoint, pairs, expected) in cases {
        let (proxy, warnings) = proxied(endpoint, pairs);
        assert_eq!((proxy.as_deref(), warnings), (expected, vec![]), "{endpoint} {pairs:?}");
    }
    for local in ["http://localhost:4318", "http://127.0.0.1:4318", "http://[::1]:4318"] {
        assert_eq!(proxied(local, &[("ALL_PROXY", "socks5://a:1")]), (None, vec![]), "{local}");
    }
}

#[test]
fn a_proxy_that_is_not_used_is_warned_of_without_its_password() {
    use WarningKind::{Malformed, Unsupported};
    let only_http = "no proxy is used: only those with http:// are known";
    for (value, shown, kind, used) in [
        ("https://u:secret@p:1", "https://***@p:1", Unsupported, only_http),
        ("socks5h://u:secret@p:1", "socks5h://***@p:1", Unsupported, only_http),
        ("socks4://p", "socks4://p", Unsupported, only_http),
        ("http://u:secret@p:port", "http://***@p:port", Malformed, "no proxy is used"),
        ("u:sec/ret@p:1", "***@p:1", Malformed, "no proxy is used"),
        ("http://", "http://", Malformed, "no proxy is used"),
    ] {
        let (proxy, warnings) = proxied("https://c.example", &[("https_proxy", value)]);
        let variable = "https_proxy".to_owned();
        let warning = Warning { variable, value: shown.to_owned(), kind, used: used.to_owned() };
        assert_eq!((proxy, warnings), (None, vec![warning]), "{value}");
        // Where it is not asked for, it is none of our business.
        for elsewhere in [("no_proxy", "c.example"), ("OTEL_TRACES_EXPORTER", "none")] {
            let all_off = [("OTEL_METRICS_EXPORTER", "none"), ("OTEL_LOGS_EXPORTER", "none")];
            let pairs = [("https_proxy", value), elsewhere, all_off[0], all_off[1]];
            assert_eq!(proxied("https://c.example", &pairs), (None, vec![]), "{value} {elsewhere:?}");
        }
    }
    let overrides = Overrides {
        endpoint: Some("http://c.example:4317".to_owned()),
        protocol: Some(Protocol::Grpc),
        ..Overrides::default()
    };
    let s = read_from(&[("http_proxy", "http://u:secret@p:1")], &overrides);
    assert_eq!(s.traces.otlp.proxy, None);
    assert_eq!(warned(&s), [("http_proxy", "http://***@p:1", Unsupported)]);
    assert_eq!(s.warnings[0].used, "no proxy is used over gRPC");
    let s = settings(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:1"), ("http_proxy", "u:secret@p:1")]);
    assert!(!format!("{s:?}").contains("secret"), "{s:?}");
}

#[test]
fn the_list_of_hosts_without_a_proxy_has_names_addresses_networks_and_ports() {
    let cases = [
        ("http://a.example:4318", "*", true),
        ("http://10.0.0.1:4318", "x *", true),
        ("http://a.example:4318", "a.example", true),
        ("http://A.Example:4318", "a.eXample", true),
        ("http://b.a.example:4318", "a.example", true),
        ("http://a.example:4318", ".a.example", true),
        ("http://b.a.example:4318", ".a.example", true),
        ("http://b.a.example:4318", "*.a.example", true),
        ("http://a.example.:4318", "a.example", true),
        ("http://a.example:4318", "a.example.", true),
        ("http://xa.example:4318", "a.example", false),
        ("http://a.example:4318", "b.a.example", false),
        ("http://a.example:4318", "x, a.example ,y", true),
        ("http://a.example:4318", "x a.example", true),
        ("http://a.example:4318", ", . ,,", false),
        ("http://a.example:4318", "a.example:4318", true),
        ("http://a.example:4318", "a.example:80", false),
        ("http://a.example", "a.example:80", true),
        ("https://a.example", "a.example:443", true),
        ("http://10.1.2.3:4318", "10.1.2.3", true),
        ("http://10.1.2.3:4318", "10.1.2.3:4318", true),
        ("http://10.1.2.3:4318", "10.1.2.3:1", false),
        ("http://10.1.2.3:4318", "10.1.2.4", false),
        ("http://10.1.2.3:4318", "10.0.0.0/8", true),
        ("http://10.1.2.3:4318", "10.1.2.0/31", false),
        ("http://10.1.2.3:4318", "10.1.2.2/31", true),
        ("http://10.1.2.3:4318", "0.0.0.0/0", true),
        ("http://10.1.2.3:4318", "10.1.2.3/33", false),
        ("http://10.1.2.3:4318", "10.1.2.3/x", false),
        ("http://10.1.2.3:4318", "::/0", false),
        ("http://10.1.2.3:4318", "2.3", false),
        ("http://[fe80::1]:4318", "fe80::1", true),
        ("http://[fe80::1]:4318", "fe80:0::1", true),
        ("http://[fe80::1]:4318", "[fe80::1]", true),
        ("http://[fe80::1]:4318", "[fe80::1]:4318", true),
        ("http://[fe80::1]:4318", "[fe80::1]:1", false),
        ("http://[fe80::1]:4318", "fe80::/10", true),
        ("http://[fe80::1]:4318", "fec0::/10", false),
        ("http://[fe80::1]:4318", "::/0", true),
    ];
    for (endpoint, list, excepted) in cases {
        for name in ["no_proxy", "NO_PROXY"] {
            let (proxy, warnings) = proxied(endpoint, &[("ALL_PROXY", "http://p:1"), (name, list)]);
            assert_eq!((proxy.is_none(), warnings), (excepted, vec![]), "{endpoint} {name}={list}");
        }
    }
    let both = [("ALL_PROXY", "http://p:1"), ("no_proxy", "a.example"), ("NO_PROXY", "b.example")];
    assert!(proxied("http://b.example", &both).0.is_some(), "the lower case goes first");
}

#[test]
fn numbers_are_whole_and_at_least_one() {
    let millis = Duration::from_millis;
    type Read = fn(&Settings) -> Duration;
    let waits: [(&str, Read, Duration); 8] = [
        ("OTEL_BSP_SCHEDULE_DELAY", |s| s.spans.delay, millis(5_000)),
        ("OTEL_BSP_EXPORT_TIMEOUT", |s| s.spans.timeout, millis(30_000)),
        ("OTEL_BLRP_SCHEDULE_DELAY", |s| s.records.delay, millis(1_000)),
        ("OTEL_BLRP_EXPORT_TIMEOUT", |s| s.records.timeout, millis(30_000)),
        ("OTEL_METRIC_EXPORT_INTERVAL", |s| s.metric_interval, millis(60_000)),
        ("OTEL_METRIC_EXPORT_TIMEOUT", |s| s.metric_timeout, millis(30_000)),
        ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", |s| s.logs.otlp.timeout, millis(10_000)),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", |s| s.traces.otlp.timeout, millis(10_000)),
    ];
    for (name, read, default) in waits {
        for (value, expected) in
            [("1", millis(1)), ("2500", millis(2_500)), ("18446744073709551615", LONGEST_WAIT)]
        {
            let s = settings(&[(name, value)]);
            assert_eq!(read(&s), expected, "{name}={value}");
            assert_eq!(warned(&s), [], "{name}={value}");
        }
        for bad in ["0", "-1", "1.5", "1s", "18446744073709551616"] {
            let s = settings(&[(name, bad)]);
            assert_eq!(read(&s), default, "{name}={bad}");
            assert!(warned(&s).contains(&(name, bad, WarningKind::Malformed)), "{name}={bad}");
        }
    }
    let s = settings(&[("OTEL_EXPORTER_OTLP_TIMEOUT", "7"), ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "x")]);
    assert_eq!(s.logs.otlp.timeout, millis(7), "the general one where its own cannot be read");

    for (queue, batch, expected) in [
        ("", "", (DEFAULT_QUEUE, 512)),
        ("100", "", (100, 100)),
        ("100", "100", (100, 100)),
        ("100", "99", (100, 99)),
        ("1", "1", (1, 1)),
    ] {
        for (queue_name, batch_name, read) in [
            (
                "OTEL_BSP_MAX_QUEUE_SIZE",
                "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
                (|s| (s.spans.queue, s.spans.batch)) as fn(&Settings) -> (usize, usize),
            ),
            ("OTEL_BLRP_MAX_QUEUE_SIZE", "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", |s| {
                (s.records.queue, s.records.batch)
            }),
        ] {
            let s = settings(&[(queue_name, queue), (batch_name, batch)]);
            assert_eq!(read(&s), expected, "{queue_name}={queue} {batch_name}={batch}");
            assert_eq!(warned(&s), []);
            for bad in ["0", "-5", "many"] {
                let s = settings(&[(queue_name, bad), (batch_name, bad)]);
                assert_eq!(read(&s), (DEFAULT_QUEUE, 512));
                let malformed = |name| (name, bad, WarningKind::Malformed);
                assert_eq!(warned(&s), [malformed(queue_name), malformed(batch_name)]);
            }
        }
    }
}

#[test]
fn a_client_certificate_needs_its_key() {
    const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE";
    const KEY: &str = "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY";
    let s = settings(&[(CERTIFICATE, "c.pem"), (KEY, "k.pem"), ("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.pem")]);
    assert_eq!(s.traces.otlp.identity, Some((CERTIFICATE.to_owned(), "c.pem".into(), "k.pem".into())));
    assert_eq!(s.logs.otlp.identity, None, "only spans have a key");
    let authority = Some(("OTEL_EXPORTER_OTLP_CERTIFICATE".to_owned(), PathBuf::from("ca.pem")));
    assert_eq!(s.logs.otlp.certificate, authority);
    assert!(warned(&s).contains(&(CERTIFICATE, "c.pem", WarningKind::Malformed)), "{:?}", s.warnings);
    let s = settings(&[(KEY, "k.pem")]);
    assert_eq!(s.traces.otlp.identity, None);
    assert_eq!(warned(&s), [(KEY, "k.pem", WarningKind::Malformed)]);
}
#[test]
fn names_are_known_in_any_case() {
    let s = settings(&[
        ("OTEL_TRACES_SAMPLER", "Always_Off"),
        ("OTEL_TRACES_EXPORTER", "NONE"),
        ("OTEL_LOGS_EXPORTER", "Console"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "GRPC"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "GZip"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "DELTA"),
        ("OTEL_PROPAGATORS", "TraceContext"),
    ]);
    assert_eq!(warned(&s), []);
    assert_eq!(format!("{:?}", s.sampler), "AlwaysOff");
    assert_eq!((s.traces.targets, s.logs.targets), (Targets::NONE, Targets { otlp: false, console: true }));
    assert_eq!((s.metrics.otlp.protocol, s.metrics.otlp.gzip), (Protocol::Grpc, true));
    assert_eq!((s.temporality, s.propagators), (Temporality::Delta, vec![Propagator::TraceContext]));
}
#[test]
fn shared_variables_cause_one_warning_each() {
    let env = [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "udp"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "lzma"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "k.pem"),
    ];
    let s = settings(&env);
    let mut names: Vec<_> = s.warnings.iter().map(|w| &*w.variable).collect();
    names.sort_unstable();
    let mut expected = env.map(|(name, _)| name);
    expected.sort_unstable();
    assert_eq!(names, expected, "{:?}", s.warnings);
}

/// In code it is an error with the feature's name: the code is what can be changed.
#[test]
fn missing_feature_required_in_code_is_an_error() {
    let plain =
        |get: &dyn Fn(&str) -> Option<String>, overrides: &Overrides| read_for(get, overrides, |_| false);
    let https = Overrides { endpoint: Some("https://user:secret@c:4318".to_owned()), ..Overrides::default() };
    let not_compiled = |setting: &str, part| Some(BadOverride::NotCompiled(setting.to_owned(), part));
    assert_eq!(plain(&|_| None, &https).err(), not_compiled("https://***@c:4318", Part::Tls));
    let grpc = Overrides { protocol: Some(Protocol::Grpc), ..Overrides::default() };
    assert_eq!(plain(&|_| None, &grpc).err(), not_compiled("protocol grpc", Part::Grpc));
    let http = Overrides {
        endpoint: Some("http://c:4318".to_owned()),
        protocol: Some(Protocol::HttpProtobuf),
        ..Overrides::default()
    };
    assert!(plain(&|_| None, &http).is_ok());
    assert!(read(&|_| None, &https).is_ok() && read(&|_| None, &grpc).is_ok());
}
