//! Reads one variable after another, and keeps what it had to warn of.

use std::time::Duration;

use crate::otlp::{
    ledger::Signal,
    settings::{Part, Warning, WarningKind, capped, redacted, warn_once},
};

/// The placeholder in a warning for a text that may be a credential.
pub(super) const HIDDEN: &str = "(hidden)";

pub(super) struct Reader<'a> {
    get: &'a dyn Fn(&str) -> Option<String>,
    pub(super) compiled: fn(Part) -> bool,
    pub(super) warnings: Vec<Warning>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(get: &'a dyn Fn(&str) -> Option<String>, compiled: fn(Part) -> bool) -> Self {
        Self { get, compiled, warnings: Vec::new() }
    }

    /// The value of a variable as a warning may show it.
    pub(super) fn shown(&mut self, name: &str) -> Option<String> {
        self.text(name).map(|value| shown(name, &value))
    }

    /// The value without white space around it; `None` if nothing is left, or if it is not UTF-8.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        let value = (self.get)(name)?;
        let value = value.trim();
        if value.contains(char::REPLACEMENT_CHARACTER) {
            self.warn(
                name,
                shown(name, value),
                WarningKind::Malformed,
                "it counts as unset: it is not UTF-8",
            );
            return None;
        }
        (!value.is_empty()).then(|| value.to_owned())
    }

    /// The items of a list; `None` if there is no item.
    pub(super) fn list(&mut self, name: &str) -> Option<Vec<String>> {
        let list = self.text(name)?;
        let items: Vec<_> =
            list.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect();
        (!items.is_empty()).then_some(items)
    }

    pub(super) fn warn(
        &mut self,
        variable: impl Into<String>,
        value: impl Into<String>,
        kind: WarningKind,
        used: impl Into<String>,
    ) {
        let (variable, value, used) = (variable.into(), value.into(), used.into());
        warn_once(&mut self.warnings, Warning { variable, value, kind, used });
    }

    /// Reads a boolean as the specification does: `true` in any case is true, everything else false.
    pub(super) fn flag(&mut self, name: &str) -> Option<bool> {
        let value = self.text(name)?;
        let is_true = value.eq_ignore_ascii_case("true");
        if !is_true && !value.eq_ignore_ascii_case("false") {
            self.warn(name, value, WarningKind::Malformed, "false is used");
        }
        Some(is_true)
    }

    pub(super) fn count(&mut self, name: &str, default: usize) -> usize {
        let Some(value) = self.text(name) else { return default };
        match value.parse() {
            Ok(count) if count > 0 => count,
            _ => {
                self.warn(name, value, WarningKind::Malformed, format!("{default} is used"));
                default
            }
        }
    }

    pub(super) fn millis(&mut self, name: &str, default: Duration) -> Duration {
        let Some(value) = self.text(name) else { return default };
        match value.parse() {
            Ok(millis) if millis > 0 => capped(Duration::from_millis(millis)),
            _ => {
                let used = format!("{} ms are used", default.as_millis());
                self.warn(name, value, WarningKind::Malformed, used);
                default
            }
        }
    }

    /// A limit of spans: what is beyond it is left out of the span. Zero leaves out all.
    pub(super) fn limit(&mut self, name: &str, default: u32) -> u32 {
        let Some(value) = self.text(name) else { return default };
        value.parse().unwrap_or_else(|_| {
            self.warn(name, value, WarningKind::Malformed, format!("{default} is used"));
            default
        })
    }

    /// The signal's own variable, else the general one.
    pub(super) fn either(&mut self, signal: Signal, what: &str) -> Option<(String, String)> {
        let own = own(signal, what);
        if let Some(value) = self.text(&own) {
            return Some((own, value));
        }
        let general = format!("OTEL_EXPORTER_OTLP_{what}");
        self.text(&general).map(|value| (general, value))
    }
}

/// A signal's own variable.
pub(super) fn own(signal: Signal, what: &str) -> String {
    let signal = match signal {
        Signal::Traces => "TRACES",
        Signal::Metrics => "METRICS",
        Signal::Logs => "LOGS",
    };
    format!("OTEL_EXPORTER_OTLP_{signal}_{what}")
}

/// The value as a warning may show it.
fn shown(name: &str, value: &str) -> String {
    let is_secret = ["HEADERS", "PASSWORD", "USER"].iter().any(|end| name.ends_with(end));
    if is_secret {
        HIDDEN.to_owned()
    } else if name.ends_with("ENDPOINT") || name.to_ascii_uppercase().ends_with("_PROXY") {
        redacted(value)
    } else {
        value.to_owned()
    }
}
