use hyper::StatusCode;

use super::*;

fn answer(status: u16, headers: &[(&'static str, &str)], body: &[u8]) -> Answer {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, value.parse().expect("a value"));
    }
    answer::of_status(&"".into(), StatusCode::from_u16(status).expect("a status"), &map, body)
}

#[test]
fn status_decides_whether_a_request_is_retried() {
    for again in [429, 502, 503, 504] {
        assert!(matches!(answer(again, &[], b""), Answer::Again(_, None)), "{again}");
    }
    for refused in [100, 300, 304, 308, 400, 401, 403, 404, 405, 408, 411, 415, 431, 500, 501, 505] {
        assert!(matches!(answer(refused, &[], b""), Answer::Refused(_)), "{refused}");
    }
    assert!(matches!(answer(413, &[], b""), Answer::TooLarge(_)));
}

#[test]
fn a_pause_is_read_in_seconds_and_as_a_date() {
    let pause = |value: &str| match answer(503, &[("retry-after", value)], b"") {
        Answer::Again(_, pause) => pause,
        other => panic!("{other:?}"),
    };
    assert_eq!(pause("7"), Some(Duration::from_secs(7)));
    assert_eq!(pause(" 7 "), Some(Duration::from_secs(7)));
    let date = httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(100));
    let read = pause(&date).expect("a date");
    assert!((90..=100).contains(&read.as_secs()), "{read:?}");
    assert_eq!(pause("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO), "it is over");
    for none in ["soon", "-1", "1.5", ""] {
        assert_eq!(pause(none), None, "{none}");
    }
}

#[test]
fn a_partial_success_is_read_for_each_signal() {
    use opentelemetry_proto::tonic::collector::{
        logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse},
        metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceResponse},
    };
    use prost::Message as _;
    let error_message = "no".to_owned();
    let logs = ExportLogsPartialSuccess { rejected_log_records: 3, error_message: error_message.clone() };
    let logs = ExportLogsServiceResponse { partial_success: Some(logs) }.encode_to_vec();
    assert_eq!(answer::exported(Signal::Logs, &logs, false), Some((3, "no".to_owned())));
    // A number below zero is no number of items.
    let metrics = ExportMetricsPartialSuccess { rejected_data_points: -3, error_message };
    let metrics = ExportMetricsServiceResponse { partial_success: Some(metrics) }.encode_to_vec();
    assert_eq!(answer::exported(Signal::Metrics, &metrics, true), Some((0, "no".to_owned())));
}

#[test]
fn an_export_response_may_be_json() {
    let read = |text: &str| answer::exported(Signal::Traces, text.as_bytes(), false);
    let taken = |rejected, words: &str| Some((rejected, words.to_owned()));
    for whole in [
        "{}",
        " {\n} ",
        r#"{"partialSuccess":{}}"#,
        r#"{"partialSuccess":null}"#,
        r#"{"partial_success": {}}"#,
    ] {
        assert_eq!(read(whole), taken(0, ""), "{whole}");
    }
    for part in [
        r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"no \"x\""}}"#,
        r#"{ "partialSuccess" : {"errorMessage": "no \u0022x\"", "rejectedSpans": 3, "later": [1]}, "later": 1}"#,
        r#"{"partial_success":{"rejected_spans":3,"error_message":"no \"x\""}}"#,
    ] {
        assert_eq!(read(part), taken(3, "no \"x\""), "{part}");
    }
    assert_eq!(read(r#"{"partialSuccess":{"rejectedSpans":"-3"}}"#), taken(0, ""), "no number of items");
    for other in [
        r#"{"status":"ok"}"#,
        r#"{"partialSuccess":null,"status":"ok"}"#,
        r#"{"partialSuccess":3}"#,
        r#"{"partialSuccess":{"rejectedSpans":"many"}}"#,
        r#"{"partialSuccess":{"errorMessage":3}}"#,
        r#"{"partialSuccess":{}"#,
        "[]",
        "null",
        "3",
    ] {
        assert_eq!(read(other), None, "{other}");
    }
    let of = |signal, key: &str| {
        answer::exported(signal, format!(r#"{{"partialSuccess":{{"{key}":1}}}}"#).as_bytes(), false)
    };
    assert_eq!(of(Signal::Metrics, "rejectedDataPoints"), taken(1, ""));
    assert_eq!(of(Signal::Logs, "rejectedLogRecords"), taken(1, ""));
}

#[test]
fn server_message_is_shown_as_one_bounded_line() {
    let failure = Failure::new(&"http://c/".into(), Cause::Status(400));
    let said = failure.clone().saying("a\nb\u{1b}[31m").to_string();
    assert_eq!(said, "http://c/: HTTP 400: \"a b [31m\"");
    assert!(failure.saying(&"x".repeat(10_000)).to_string().len() < 400);
}

/// A setting of the environment never fails an installation.
#[test]
fn an_endpoint_of_a_variable_that_cannot_be_used_is_the_default_with_a_warning() {
    let runtime = ExportRuntime::start().expect("a thread");
    let settings = crate::otlp::env::read(&|_| None, &Default::default()).expect("the defaults").traces.otlp;
    let settings = OtlpSettings { endpoint: "http://user:secret@:1/".to_owned(), ..settings };
    let mut warnings = Vec::new();
    let mut transports = Transports::new(&runtime, &mut warnings);
    let limit = Duration::from_secs(1);
    assert!(transports.open(Signal::Traces, &settings, limit).is_err(), "in code");
    let settings = OtlpSettings { variable: Some("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned()), ..settings };
    let opened = transports.open(Signal::Traces, &settings, limit).expect("the default");
    assert_eq!(&**opened.shown(), "http://localhost:4318/v1/traces");
    let [warning] = &*warnings else { panic!("one warning: {warnings:?}") };
    assert_eq!((&*warning.variable, warning.kind), ("OTEL_EXPORTER_OTLP_ENDPOINT", WarningKind::Unsupported));
    assert!(warning.used.starts_with("http://localhost:4318/v1/traces is used: "), "{warning}");
    assert!(!warning.to_string().contains("secret"), "{warning}");
}
