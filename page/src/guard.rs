//! The accepted requests: for known hosts, and writes from the page itself. Headers keep a browser from doing more than the page
//! needs.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::view::ErrorView;

/// The path of the metrics.
pub(crate) const METRICS: &str = "/metrics";

/// Returns true if a path is one of the probes.
pub(crate) fn is_probe(path: &str) -> bool {
    matches!(path, "/health/live" | "/health/ready" | "/health/startup")
}

/// Nothing from elsewhere, no script or style in the page itself, no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      base-uri 'self'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
];

/// The accepted host names beside `localhost` and IP addresses.
#[derive(Debug, Default, Clone)]
pub(crate) struct Hosts(BTreeSet<String>);

impl Hosts {
    pub(crate) fn allow(&mut self, name: &str) {
        self.0.insert(name.trim_end_matches('.').to_ascii_lowercase());
    }

    /// Returns true if requests for this host are accepted. An address cannot be rebound, only a name can.
    fn allows(&self, authority: &str) -> bool {
        let host = host_of(authority).trim_end_matches('.').to_ascii_lowercase();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || address.parse::<IpAddr>().is_ok() || self.0.contains(&host)
    }
}

/// The host of an authority, without port.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// The body of a refusal.
pub(crate) fn refusal(status: StatusCode, error: impl Into<String>) -> Response {
    (status, Json(ErrorView { error: error.into() })).into_response()
}

/// Refuses what is for another host or from another origin, and sets the headers of every answer.
pub(crate) async fn guard(State(hosts): State<Arc<Hosts>>, request: Request, next: Next) -> Response {
    let mut response = match check(&hosts, &request) {
        Ok(()) => next.run(request).await,
        Err(why) => refusal(StatusCode::FORBIDDEN, why),
    };
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

fn check(hosts: &Hosts, request: &Request) -> Result<(), &'static str> {
    // A probe or a scrape uses the name of a service. Its response changes nothing. A page of a browser that rebinds a name can read names of
    // tasks, reasons and figures: SECURITY.md.
    if request.method().is_safe() && (is_probe(request.uri().path()) || request.uri().path() == METRICS) {
        return Ok(());
    }
    let host = authority(request.headers(), request.uri()).ok_or("the request says no Host")?;
    if !hosts.allows(host) {
        return Err("this Host is not allowed: see Page::allow_host");
    }
    if request.method().is_safe() {
        return Ok(());
    }
    // A browser names the origin of a write. Other clients do not, and need the token too.
    let origin = request.headers().get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or(""));
    match origin.map(|origin| origin.split_once("://").map(|(_, authority)| authority)) {
        None => Ok(()),
        Some(Some(authority)) if authority.eq_ignore_ascii_case(host) => Ok(()),
        Some(_) => Err("this Origin may not write"),
    }
}

fn authority<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    match headers.get(header::HOST) {
        Some(host) => host.to_str().ok(),
        // HTTP/2 says it there.
        None => uri.authority().map(|authority| authority.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_must_be_allowed_and_addresses_are() {
        let mut hosts = Hosts::default();
        hosts.allow("Tasks.Example.com.");
        for allowed in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1:9464",
            "[::1]:80",
            "[::1]",
            "10.1.2.3",
            "tasks.example.com:443",
        ] {
            assert!(hosts.allows(allowed), "{allowed}");
        }
        for refused in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "tasks.example.com.evil",
        ] {
            assert!(!hosts.allows(refused), "{refused}");
        }
    }
}
