//! Addresses of receivers.

use std::sync::Arc;

use base64::Engine as _;
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
            let encoded = base64::engine::general_purpose::STANDARD.encode(user);
            let mut value =
                HeaderValue::try_from(format!("Basic {encoded}")).expect("base64 is a header's text");
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

#[cfg(test)]
mod tests;
