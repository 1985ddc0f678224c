//! The proxies of the variables: which one an endpoint is reached through, by the rules of curl.

use std::net::IpAddr;

use hyper::Uri;

use super::reader::Reader;
use crate::otlp::{
    settings::{OtlpSettings, Protocol, WarningKind, redacted},
    transport::Target,
};

/// The variables in the order in which they are asked for: those of one scheme, then those of all.
const OF_HTTP: [&str; 4] = ["http_proxy", OF_A_REQUEST, "all_proxy", "ALL_PROXY"];
const OF_HTTPS: [&str; 4] = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];

/// A web server's child has each header of the request as a variable: this one is the header `Proxy` then.
const OF_A_REQUEST: &str = "HTTP_PROXY";

impl Reader<'_> {
    /// The address of the proxy for an endpoint. Each proxy that cannot be used is warned of.
    pub(super) fn proxy(&mut self, otlp: &OtlpSettings) -> Option<String> {
        let (target, _) = Target::read(&otlp.endpoint).ok()?;
        // A proxy cannot reach what is local to this process.
        if target.is_loopback() {
            return None;
        }
        let is_tls = target.uri().scheme_str() == Some("https");
        let (name, value) = self.proxy_variable(if is_tls { OF_HTTPS } else { OF_HTTP })?;
        let excepted = ["no_proxy", "NO_PROXY"].into_iter().find_map(|name| self.text(name));
        if excepted.is_some_and(|list| is_excepted(&list, target.uri())) {
            return None;
        }
        if otlp.protocol == Protocol::Grpc {
            let used = "no proxy is used over gRPC";
            self.warn(name, redacted(&value), WarningKind::Unsupported, used);
            return None;
        }
        let url = match value.split_once("://") {
            None => format!("http://{value}"),
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("http") => value.clone(),
            Some(_) => {
                let used = "no proxy is used: only those with http:// are known";
                self.warn(name, redacted(&value), WarningKind::Unsupported, used);
                return None;
            }
        };
        if Target::read(&url).is_err() {
            self.warn(name, redacted(&value), WarningKind::Malformed, "no proxy is used");
            return None;
        }
        Some(url)
    }

    fn proxy_variable(&mut self, names: [&'static str; 4]) -> Option<(&'static str, String)> {
        let is_cgi = self.text("REQUEST_METHOD").is_some();
        let names = names.into_iter().filter(|name| !is_cgi || *name != OF_A_REQUEST);
        let mut set = names.filter_map(|name| Some((name, self.text(name)?)));
        set.next()
    }
}

/// Returns true if a list of hosts names the host of an address. An entry is `*`, a name with all names below it, an address, or a
/// network such as `10.0.0.0/8`. An entry with a port is for that port.
fn is_excepted(list: &str, uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).trim_end_matches('.');
    let is_tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let entries = list.split(|c: char| c == ',' || c.is_whitespace());
    entries.filter(|entry| !entry.is_empty()).any(|entry| {
        let (name, of_port) = split_port(entry);
        (entry == "*" || is_host_of(name, host)) && of_port.is_none_or(|of_port| of_port == port)
    })
}

/// The host of an entry and its port, if it has one.
fn split_port(entry: &str) -> (&str, Option<u16>) {
    // Without brackets, the colons are those of an address of IPv6.
    let has_a_port = entry.starts_with('[') || entry.matches(':').count() == 1;
    match entry.rsplit_once(':').filter(|_| has_a_port) {
        Some((name, port)) if port.parse::<u16>().is_ok() => (name, port.parse().ok()),
        _ => (entry, None),
    }
}

fn is_host_of(name: &str, host: &str) -> bool {
    let name = name.trim_matches(['[', ']']);
    if let Ok(address) = host.parse() {
        return is_in(address, name);
    }
    let name = name.strip_prefix('*').unwrap_or(name);
    let (name, host) = (name.trim_matches('.').to_ascii_lowercase(), host.to_ascii_lowercase());
    let below = host.strip_suffix(&name);
    !name.is_empty() && below.is_some_and(|below| below.is_empty() || below.ends_with('.'))
}

/// Returns true if an address is that of a text, or in its network.
fn is_in(address: IpAddr, network: &str) -> bool {
    let (network, bits) = match network.split_once('/') {
        Some((network, bits)) => (network, Some(bits)),
        None => (network, None),
    };
    let (address, network, width): (u128, u128, u32) = match (address, network.parse()) {
        (IpAddr::V4(address), Ok(IpAddr::V4(network))) => {
            (address.to_bits().into(), network.to_bits().into(), 32)
        }
        (IpAddr::V6(address), Ok(IpAddr::V6(network))) => (address.to_bits(), network.to_bits(), 128),
        _ => return false,
    };
    // How many bits at the end may differ.
    let free = bits.map_or(Some(0), |bits| width.checked_sub(bits.parse().ok()?));
    free.is_some_and(|free| address.checked_shr(free) == network.checked_shr(free))
}
