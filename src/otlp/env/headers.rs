//! The headers of the variables: pairs that HTTP and gRPC allow. Each pair that is sent in another form has a warning.

use super::reader::{HIDDEN, Reader};
use crate::otlp::{ledger::Signal, settings::WarningKind};

const LEFT_OUT: &str = "the header is left out";

/// Headers that the transport sets itself: another value would break the request.
const OF_THE_TRANSPORT: [&str; 11] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

impl Reader<'_> {
    pub(super) fn headers(&mut self, signal: Signal) -> Vec<(String, String)> {
        let Some((name, list)) = self.either(signal, "HEADERS") else { return Vec::new() };
        let mut headers: Vec<(String, String)> = Vec::new();
        for pair in list.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = key.trim().to_ascii_lowercase();
            // Without a `=`, or with an invalid name, any part may be the credential.
            if !pair.contains('=') || !is_header_name(&key) {
                self.warn(&*name, HIDDEN, WarningKind::Malformed, LEFT_OUT);
                continue;
            }
            if OF_THE_TRANSPORT.contains(&&*key) || key.starts_with("grpc-") {
                self.warn(
                    &*name,
                    key,
                    WarningKind::Unsupported,
                    "the header is left out: the exporter sets it",
                );
                continue;
            }
            let Some(value) = percent_decoded(value.trim()).filter(|value| is_header_value(value)) else {
                self.warn(&*name, key, WarningKind::Malformed, LEFT_OUT);
                continue;
            };
            match headers.iter_mut().find(|(earlier, _)| *earlier == key) {
                Some((_, earlier)) if *earlier == value => {}
                Some((_, earlier)) => {
                    *earlier = value;
                    self.warn(
                        &*name,
                        key,
                        WarningKind::Suspicious,
                        "it is there more than once, and the last is used",
                    );
                }
                None => headers.push((key, value)),
            }
        }
        headers
    }
}

/// A `token` of RFC 9110.
fn is_header_name(name: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.len() < 1 << 16 && name.bytes().all(is_token)
}

/// A `field-value` of RFC 9110: no control characters but tabs.
fn is_header_value(value: &str) -> bool {
    value.bytes().all(|byte| byte == b'\t' || byte >= b' ' && byte != 0x7f)
}

pub(super) fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes().iter();
    while let Some(&byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let high = char::from(*rest.next()?).to_digit(16)?;
        let low = char::from(*rest.next()?).to_digit(16)?;
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}
