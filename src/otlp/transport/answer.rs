//! What a receiver answered to one attempt.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http_body_util::BodyExt as _;
use hyper::{HeaderMap, StatusCode, body::Incoming, header};
use opentelemetry_http::Bytes;
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceResponse, metrics::v1::ExportMetricsServiceResponse,
    trace::v1::ExportTraceServiceResponse,
};
use prost::Message;

use super::failure::{Cause, Failure};
use crate::otlp::{ledger::Signal, settings::redacted};

/// The outcome of one attempt.
#[derive(Debug)]
pub(in crate::otlp) enum Answer {
    /// The request was taken, but for so many items.
    Taken { rejected: u64, words: String },
    /// The request is too large for the receiver; a smaller one may be taken.
    TooLarge(Failure),
    /// Another attempt may succeed, not before that time.
    Again(Failure, Option<Duration>),
    /// Another attempt is of no use.
    Refused(Failure),
}

/// Responses hold an error text at most.
const MAX_RESPONSE_BYTES: usize = 4 * 1024 * 1024;

/// Reads a body up to its bound; `Err(None)` beyond it.
pub(super) async fn read(mut body: Incoming) -> Result<Bytes, Option<hyper::Error>> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(Some)?;
        let Some(data) = frame.data_ref() else { continue };
        if bytes.len() + data.len() > MAX_RESPONSE_BYTES {
            return Err(None);
        }
        bytes.extend_from_slice(data);
    }
    Ok(bytes.into())
}

/// What an HTTP answer means, by the [specification](https://opentelemetry.io/docs/specs/otlp/#otlphttp-response).
pub(super) fn of_http(
    target: &Arc<str>,
    signal: Signal,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) -> Answer {
    let code = status.as_u16();
    if status.is_success() {
        return match exported(signal, body, is_protobuf(headers)) {
            Some((rejected, words)) => Answer::Taken { rejected, words },
            None => {
                let failure = Failure::new(target, Cause::NotAnExportResponse(code));
                Answer::Refused(failure.saying(&String::from_utf8_lossy(body)))
            }
        };
    }
    if status.is_redirection() {
        let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let location = redacted(location.unwrap_or("(no location)"));
        return Answer::Refused(Failure::new(target, Cause::Redirect(code, location)));
    }
    let failure = Failure::new(target, Cause::Status(code)).saying(&words(headers, body));
    match code {
        413 => Answer::TooLarge(failure),
        429 | 502 | 503 | 504 => Answer::Again(failure, retry_after(headers)),
        _ => Answer::Refused(failure),
    }
}

fn is_protobuf(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    matches!(
        kind.split(';').next().unwrap_or_default().trim(),
        "application/x-protobuf" | "application/protobuf"
    )
}

/// The number of rejected items and the receiver's words; `None` where `body` is not an export response.
///
/// Random bytes may be read as a message of unknown fields. Those of a later version of OTLP are believed where the answer
/// says that it is protobuf; otherwise the message must be exactly what is known.
pub(super) fn exported(signal: Signal, body: &[u8], is_protobuf: bool) -> Option<(u64, String)> {
    fn read<R: Message + Default>(body: &[u8], is_protobuf: bool) -> Option<R> {
        let response = R::decode(body).ok()?;
        (is_protobuf || response.encode_to_vec() == body).then_some(response)
    }
    let text: String =
        body.iter().filter(|byte| !byte.is_ascii_whitespace()).map(|&byte| char::from(byte)).collect();
    if matches!(text.as_str(), "" | "{}" | r#"{"partialSuccess":{}}"# | r#"{"partialSuccess":null}"#) {
        return Some((0, String::new()));
    }
    let (rejected, words) = match signal {
        Signal::Traces => {
            let part =
                read::<ExportTraceServiceResponse>(body, is_protobuf)?.partial_success.unwrap_or_default();
            (part.rejected_spans, part.error_message)
        }
        Signal::Metrics => {
            let part =
                read::<ExportMetricsServiceResponse>(body, is_protobuf)?.partial_success.unwrap_or_default();
            (part.rejected_data_points, part.error_message)
        }
        Signal::Logs => {
            let part =
                read::<ExportLogsServiceResponse>(body, is_protobuf)?.partial_success.unwrap_or_default();
            (part.rejected_log_records, part.error_message)
        }
    };
    Some((u64::try_from(rejected).unwrap_or(0), words))
}

/// The message of a `google.rpc.Status`, which OTLP asks of errors, or the text as it is.
fn words(headers: &HeaderMap, body: &[u8]) -> String {
    #[derive(Clone, PartialEq, Message)]
    struct Status {
        #[prost(int32, tag = "1")]
        code: i32,
        #[prost(string, tag = "2")]
        message: String,
    }
    if is_protobuf(headers) {
        if let Ok(status) = Status::decode(body) {
            return status.message;
        }
    }
    String::from_utf8_lossy(body).into_owned()
}

/// `Retry-After`, in seconds or as a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    Some(until.duration_since(SystemTime::now()).unwrap_or_default())
}
