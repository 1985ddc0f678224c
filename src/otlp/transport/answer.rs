//! The response of a receiver to one attempt.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http_body_util::BodyExt as _;
use hyper::{HeaderMap, StatusCode, body::Incoming, header};
use prost::Message;

use super::{
    failure::{Cause, Failure},
    json::Json,
};
use crate::otlp::{ledger::Signal, settings::redacted};

/// The outcome of one attempt.
#[derive(Debug, Clone)]
pub(in crate::otlp) enum Answer {
    /// The request was taken, except for this number of items.
    Taken { rejected: u64, words: String },
    /// The request is too large for the receiver; a smaller one may be taken.
    TooLarge(Failure),
    /// Another attempt may succeed, not before that time.
    Again(Failure, Option<Duration>),
    /// Another attempt is of no use.
    Refused(Failure),
}

impl Answer {
    /// Names the proxy in a failure that does not name it yet.
    pub(super) fn of_proxy(self, shown: &Arc<str>, is_own: bool) -> Self {
        match self {
            Self::Taken { .. } => self,
            Self::TooLarge(failure) => Self::TooLarge(failure.of_proxy(shown, is_own)),
            Self::Again(failure, wait) => Self::Again(failure.of_proxy(shown, is_own), wait),
            Self::Refused(failure) => Self::Refused(failure.of_proxy(shown, is_own)),
        }
    }
}

/// The most bytes of an export response. It has an error text at most.
const MAX_RESPONSE_BYTES: usize = 4 * 1024 * 1024;

/// The most bytes of an error's body: its status says what to do, and a line of the log shows less.
const MAX_ERROR_BYTES: usize = 16 * 1024;
/// The longest time that the body of an error is waited for.
pub(super) const MAX_ERROR_WAIT: Duration = Duration::from_secs(1);

/// The reason why a body was not read to its end.
pub(super) enum Unread {
    TooLarge,
    Broken(hyper::Error),
}

/// Reads the body of a success up to its bound.
pub(super) async fn read(body: &mut Incoming) -> Result<Vec<u8>, Unread> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(Unread::Broken)?;
        let Some(data) = frame.data_ref() else { continue };
        if bytes.len() + data.len() > MAX_RESPONSE_BYTES {
            return Err(Unread::TooLarge);
        }
        bytes.extend_from_slice(data);
    }
    Ok(bytes)
}

/// Reads what comes of an error's body within `left`, and within its bounds.
pub(super) async fn read_words(body: &mut Incoming, left: Duration) -> Vec<u8> {
    let mut bytes = Vec::new();
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            let data = frame.data_ref().map(|data| &data[..]).unwrap_or_default();
            bytes.extend_from_slice(&data[..data.len().min(MAX_ERROR_BYTES - bytes.len())]);
            if bytes.len() == MAX_ERROR_BYTES {
                break;
            }
        }
    };
    // What came until then is enough.
    let _ = tokio::time::timeout(left.min(MAX_ERROR_WAIT), reading).await;
    bytes
}

/// Returns the meaning of a success, by the [specification](https://opentelemetry.io/docs/specs/otlp/#otlphttp-response).
pub(super) fn of_success(
    target: &Arc<str>,
    signal: Signal,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) -> Answer {
    match exported(signal, body, is_protobuf(headers)) {
        Some((rejected, words)) => Answer::Taken { rejected, words },
        None => {
            let failure = Failure::new(target, Cause::NotAnExportResponse(status.as_u16()));
            Answer::Refused(failure.saying(&String::from_utf8_lossy(body)))
        }
    }
}

/// Returns the meaning of any other status, whatever its body.
pub(super) fn of_status(target: &Arc<str>, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Answer {
    if status.is_redirection() {
        let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let location = redacted(location.unwrap_or("(no location)"));
        return Answer::Refused(Failure::new(target, Cause::Redirect(status.as_u16(), location)));
    }
    let failure = Failure::new(target, Cause::Status(status.as_u16())).saying(&words(headers, body));
    match status.as_u16() {
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

/// A response to an export of any signal: the three messages of OTLP differ in names alone.
#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(message, optional, tag = "1")]
    partial: Option<Partial>,
}

/// `ExportTracePartialSuccess` and its two siblings.
#[derive(Clone, PartialEq, Message)]
struct Partial {
    #[prost(int64, tag = "1")]
    rejected: i64,
    #[prost(string, tag = "2")]
    words: String,
}

/// Returns the number of rejected items and the receiver's text; `None` if `body` is not an export response.
///
/// Random bytes may be read as a message of unknown fields. Fields of a later version of OTLP are accepted if the response
/// is marked as protobuf. Otherwise the message must match the known fields exactly. A receiver may respond in JSON anyway.
pub(super) fn exported(signal: Signal, body: &[u8], is_protobuf: bool) -> Option<(u64, String)> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Some((0, String::new()));
    }
    if body.trim_ascii_start().starts_with(b"{") {
        if let Some(read) = exported_in_json(signal, body) {
            return Some(read);
        }
    }
    let response = Response::decode(body).ok()?;
    if !is_protobuf && response.encode_to_vec() != body {
        return None;
    }
    let Partial { rejected, words } = response.partial.unwrap_or_default();
    Some((u64::try_from(rejected).unwrap_or(0), words))
}

/// [`exported`] in the [JSON encoding](https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding): fields in camel case,
/// 64-bit numbers as text or as numbers, unknown fields ignored. The names of protobuf are read too, as protobuf's JSON mapping
/// asks. Without a partial success the object must be empty: any service may answer with an object.
fn exported_in_json(signal: Signal, body: &[u8]) -> Option<(u64, String)> {
    let response = Json::read(body)?;
    let Json::Object(fields) = &response else { return None };
    let names = ["partialSuccess", "partial_success"];
    let part = match response.field(&names) {
        part @ Json::Object(_) => part,
        Json::Null if fields.iter().all(|(name, _)| names.contains(&name.as_str())) => {
            return Some((0, String::new()));
        }
        _ => return None,
    };
    let rejected = match signal {
        Signal::Traces => ["rejectedSpans", "rejected_spans"],
        Signal::Metrics => ["rejectedDataPoints", "rejected_data_points"],
        Signal::Logs => ["rejectedLogRecords", "rejected_log_records"],
    };
    let rejected = match part.field(&rejected) {
        Json::Null => 0,
        Json::Integer(number) => *number,
        Json::Text(text) => text.parse().ok()?,
        _ => return None,
    };
    let words = match part.field(&["errorMessage", "error_message"]) {
        Json::Null => String::new(),
        Json::Text(text) => text.clone(),
        _ => return None,
    };
    Some((u64::try_from(rejected).unwrap_or(0), words))
}

/// Returns the message of a `google.rpc.Status`, which OTLP requires of errors, in protobuf or JSON; else the whole text.
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
    if let Some(Json::Text(message)) = Json::read(body).as_ref().map(|status| status.field(&["message"])) {
        return message.clone();
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
