//! Addresses of receivers.

use std::sync::Arc;

use hyper::{Uri, header::HeaderValue};

use crate::otlp::settings::{has_a_port_or_none, redacted};

/// The destination of requests, and its text.
#[derive(Clone, Debug)]
pub(in crate::otlp) struct Target {
    /// Without user and password.
    pub(super) uri: Uri,
    pub(super) shown: Arc<str>,
}

impl Target {
    /// Reads an address that the clients of both protocols take. Returns the header for its user and password apart.
    pub(in crate::otlp) fn read(endpoint: &str) -> Result<(Self, Option<HeaderValue>), String> {
        let shown = redacted(endpoint);
        let user = userinfo(endpoint);
        let address = match user {
            Some(user) => endpoint.replacen(&format!("{user}@"), "", 1),
            None => endpoint.to_owned(),
        };
        let uri: Uri = address.parse().map_err(|error: hyper::http::uri::InvalidUri| error.to_string())?;
        let host = uri.host().unwrap_or_default();
        let can_be_called = match uri.scheme_str() {
            Some("http") => true,
            Some("https") => is_certified_name(host),
            _ => false,
        };
        if !can_be_called || host.is_empty() || !has_a_port_or_none(&uri) {
            return Err("not an http or https address".to_owned());
        }
        let auth = user.map(|user| {
            // The colon is there without a password, too.
            let colon = if user.contains(':') { "" } else { ":" };
            let user = percent_decoded(&format!("{user}{colon}"));
            let mut value =
                HeaderValue::try_from(format!("Basic {}", base64(&user))).expect("a header's text");
            value.set_sensitive(true);
            value
        });
        Ok((Self { uri, shown: shown.into() }, auth))
    }

    pub(in crate::otlp) fn uri(&self) -> &Uri {
        &self.uri
    }

    pub(super) fn host(&self) -> &str {
        self.uri.host().unwrap_or_default()
    }

    pub(in crate::otlp) fn is_loopback(&self) -> bool {
        let host = self.host();
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
    }
}

/// Returns true if a certificate can be for this host; TLS does not begin for another.
fn is_certified_name(host: &str) -> bool {
    #[cfg(feature = "tls")]
    return rustls::pki_types::ServerName::try_from(host.trim_matches(['[', ']'])).is_ok();
    #[cfg(not(feature = "tls"))]
    return !host.is_empty();
}

/// `user:password` of an address.
fn userinfo(address: &str) -> Option<&str> {
    let rest = address.split_once("://")?.1;
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    authority.rfind('@').map(|at| &authority[..at])
}

/// The bytes of a text with `%xx` in it; what is no such escape stays.
fn percent_decoded(text: &str) -> Vec<u8> {
    let hex = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let (bytes, mut decoded, mut at) = (text.as_bytes(), Vec::new(), 0);
    while let Some(&byte) = bytes.get(at) {
        match (byte, hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

/// The base64 encoding of RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits_of = |three: &[u8]| {
        let [first, second, third] = std::array::from_fn(|at| u32::from(three.get(at).copied().unwrap_or(0)));
        let bits = first << 16 | second << 8 | third;
        let digits = [18, 12, 6, 0].map(|shift| char::from(DIGITS[(bits >> shift) as usize % 64]));
        // Three bytes have four digits; digits without a byte are padding.
        let count = three.len() + 1;
        digits.into_iter().take(count).chain(std::iter::repeat_n('=', 4 - count)).collect::<String>()
    };
    bytes.chunks(3).map(digits_of).collect()
}

#[cfg(test)]
mod tests;
