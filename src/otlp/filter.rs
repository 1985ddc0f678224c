//! The filter of the subscriber of `install`: an `EnvFilter`, or levels of targets without the feature `env-filter`.
//!
//! The regular expressions of `EnvFilter` are an eighth of a build.

use tracing_subscriber::filter::ParseError;

#[cfg(feature = "env-filter")]
pub(super) use tracing_subscriber::EnvFilter as Filter;
#[cfg(not(feature = "env-filter"))]
pub(super) use tracing_subscriber::filter::Targets as Filter;

use super::settings::{Part, compiled};

/// The reason that directives cannot be read as a [`Filter`].
#[derive(Debug)]
pub(super) enum Unreadable {
    /// They name spans or fields.
    NotCompiled,
    Malformed(ParseError),
}

/// Checks that directives can be read as a [`Filter`].
pub(super) fn checked(directives: &str) -> Result<(), Unreadable> {
    // `Targets` takes a span for a part of the target, which no target has.
    if !compiled(Part::EnvFilter) && directives.contains('[') {
        return Err(Unreadable::NotCompiled);
    }
    directives.parse::<Filter>().map(drop).map_err(Unreadable::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::otlp::{InstallError, Telemetry};

    #[test]
    fn levels_of_targets_can_be_read_with_each_feature() {
        for directives in ["info", "warn,otel_tasks=debug", "off", "hyper::client=trace", "INFO", "3", ""] {
            checked(directives).unwrap_or_else(|why| panic!("{directives:?}: {why:?}"));
        }
        assert!(matches!(checked("a=b=c"), Err(Unreadable::Malformed(_))));
    }

    #[test]
    fn spans_and_fields_need_the_feature() {
        for directives in ["[run]=debug", "shop[run{user=1}]=debug", "info,[{user}]=debug"] {
            assert_eq!(checked(directives).is_ok(), compiled(Part::EnvFilter), "{directives:?}");
            let from_code = Telemetry::builder().env(|_| None).filter(directives).build().map(drop);
            let from_variable = Telemetry::builder()
                .env(move |name| (name == "RUST_LOG").then(|| directives.to_owned()))
                .build()
                .expect("a variable never fails it");
            let warnings: Vec<_> = from_variable.warnings().iter().map(ToString::to_string).collect();
            if compiled(Part::EnvFilter) {
                from_code.expect("it can be read");
                assert_eq!(warnings, [""; 0]);
            } else {
                let error = from_code.expect_err("it cannot be read");
                assert!(matches!(error, InstallError::NotCompiled { feature: "env-filter", .. }), "{error}");
                let [warning] = &warnings[..] else { panic!("{warnings:?}") };
                assert!(warning.contains("RUST_LOG") && warning.contains("`env-filter`"), "{warning}");
            }
        }
    }
}
