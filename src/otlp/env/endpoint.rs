//! The endpoints of the variables: which address each signal has, and what is probably wrong with it.

use super::reader::{Reader, own};
use crate::otlp::{
    ledger::Signal,
    settings::{BadOverride, Overrides, Part, Protocol, WarningKind, default_endpoint, http_path, redacted},
    transport::Target,
};

pub(super) const GENERAL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// The name of an endpoint from code in a warning.
const IN_CODE: &str = "endpoint";

/// The text of an address.
struct Given<'a> {
    /// The variable, or [`IN_CODE`].
    name: &'a str,
    text: &'a str,
    /// For all signals.
    general: bool,
    /// True if it is plain text over gRPC if it has no scheme.
    insecure: bool,
}

impl Reader<'_> {
    /// The address of a signal, and the variable that it is of.
    pub(super) fn endpoint(
        &mut self,
        signal: Signal,
        protocol: Protocol,
        overrides: &Overrides,
    ) -> Result<(String, Option<String>), BadOverride> {
        // Also where there is a scheme: a value that cannot be read is warned of.
        let insecure = self.insecure(signal);
        if let Some(text) = &overrides.endpoint {
            let given = Given { name: IN_CODE, text, general: true, insecure };
            let complete = self.complete(signal, protocol, &given).map_err(|refused| match refused {
                Refused::NotCompiled => BadOverride::NotCompiled(redacted(text), Part::Tls),
                Refused::Malformed => BadOverride::Endpoint(redacted(text)),
            })?;
            return Ok((complete, None));
        }
        let own = own(signal, "ENDPOINT");
        // Both are read, so that both are warned of.
        let (of_signal, of_all) = (self.text(&own), self.text(GENERAL));
        let given = match (&of_signal, &of_all) {
            (Some(text), _) => Given { name: &own, text, general: false, insecure },
            (None, Some(text)) => Given { name: GENERAL, text, general: true, insecure },
            (None, None) => return Ok((default_endpoint(signal, protocol), None)),
        };
        let refused = match self.complete(signal, protocol, &given) {
            Ok(complete) => return Ok((complete, Some(given.name.to_owned()))),
            Err(refused) => refused,
        };
        let default = default_endpoint(signal, protocol);
        let (kind, used) = match refused {
            Refused::NotCompiled => (
                WarningKind::Unsupported,
                format!("{default} is used: the feature `{}` is not compiled", Part::Tls.feature()),
            ),
            // One text for all signals, so that it is said once.
            Refused::Malformed if given.general => {
                (WarningKind::Malformed, format!("{} is used", default.trim_end_matches(http_path(signal))))
            }
            Refused::Malformed => (WarningKind::Malformed, format!("{default} is used")),
        };
        self.warn(given.name, redacted(given.text), kind, used);
        Ok((default, None))
    }

    /// The complete address.
    ///
    /// A gRPC endpoint may lack its scheme: then `OTEL_EXPORTER_OTLP_INSECURE` decides, and TLS is its default, for
    /// loopback addresses too. An HTTP endpoint of one signal is used without a change; a general one gets the signal's path.
    fn complete(&mut self, signal: Signal, protocol: Protocol, given: &Given<'_>) -> Result<String, Refused> {
        let mut text = given.text.to_owned();
        let has_scheme = text.contains("://");
        if !has_scheme {
            if protocol == Protocol::HttpProtobuf {
                return Err(Refused::Malformed);
            }
            text = format!("{}://{text}", if given.insecure { "http" } else { "https" });
        }
        // What the clients of both protocols take.
        let (target, _) = Target::read(&text).map_err(|_| Refused::Malformed)?;
        let url = target.uri();
        if url.scheme_str() == Some("https") && !(self.compiled)(Part::Tls) {
            return Err(Refused::NotCompiled);
        }
        if !has_scheme && !given.insecure {
            self.suspect(
                given,
                "TLS is used, as there is no scheme; write http:// or set OTEL_EXPORTER_OTLP_INSECURE=true \
                 for plain text",
            );
        }
        self.suspect_port(protocol, url, given);
        self.suspect_path(signal, protocol, url, given);
        // With the user and the password, which the target is without.
        let address: hyper::Uri = text.parse().map_err(|_| Refused::Malformed)?;
        let mut parts = address.into_parts();
        if protocol == Protocol::HttpProtobuf && given.general {
            let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
            let path = format!("{}{}{query}", url.path().trim_end_matches('/'), http_path(signal));
            parts.path_and_query = Some(path.parse().map_err(|_| Refused::Malformed)?);
        }
        hyper::Uri::from_parts(parts).map(|address| address.to_string()).map_err(|_| Refused::Malformed)
    }

    fn suspect_port(&mut self, protocol: Protocol, url: &hyper::Uri, given: &Given<'_>) {
        let other = match (protocol, url.port_u16()) {
            (Protocol::HttpProtobuf, Some(4317)) => "grpc",
            (Protocol::Grpc, Some(4318)) => "http/protobuf",
            _ => return,
        };
        let used = format!("{} is spoken to a port that is {other}'s by convention", protocol.as_str());
        self.suspect(given, used);
    }

    /// Paths that no receiver has: a signal's path twice, none where none is added, and any over gRPC.
    fn suspect_path(&mut self, signal: Signal, protocol: Protocol, url: &hyper::Uri, given: &Given<'_>) {
        let path = url.path().trim_end_matches('/');
        let named = Signal::ALL.iter().copied().find(|&signal| path.ends_with(http_path(signal)));
        if protocol == Protocol::Grpc {
            if !path.is_empty() {
                self.suspect(given, "its path is left out: gRPC has its own");
            }
            return;
        }
        match named {
            Some(named) if given.general => {
                let path = http_path(named);
                self.suspect(
                    given,
                    format!("the path of each signal is added to it, {path} twice: write it without {path}"),
                );
            }
            Some(named) if named != signal => {
                self.suspect(given, format!("{} are sent to it anyway", signal.as_str()));
            }
            None if path.is_empty() && !given.general => {
                let usual = http_path(signal);
                self.suspect(
                    given,
                    format!("it is used without a change: {usual} is not added to an endpoint of one signal"),
                );
            }
            _ => {}
        }
    }

    fn suspect(&mut self, given: &Given<'_>, used: impl Into<String>) {
        self.warn(given.name, redacted(given.text), WarningKind::Suspicious, used);
    }

    /// Returns true if an endpoint without a scheme is plain text.
    fn insecure(&mut self, signal: Signal) -> bool {
        let own = self.flag(&own(signal, "INSECURE"));
        let general = self.flag("OTEL_EXPORTER_OTLP_INSECURE");
        own.or(general).unwrap_or(false)
    }
}

/// The reason why an address is not used.
enum Refused {
    Malformed,
    NotCompiled,
}
