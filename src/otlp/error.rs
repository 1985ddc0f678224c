//! Errors of an installation.

use std::fmt;

use crate::otlp::{ledger::Signal, settings::BadOverride};

/// The reason why telemetry could not be built or installed.
#[derive(Debug)]
#[non_exhaustive]
pub enum InstallError {
    /// The endpoint given to [`endpoint`](crate::telemetry::TelemetryBuilder::endpoint) is not an `http` or `https` address. A user
    /// and a password are shown as `***`.
    Endpoint(String),
    /// A setting of the code needs a feature that otel-tasks was built without.
    #[non_exhaustive]
    NotCompiled {
        /// The setting. A user and a password are shown as `***`.
        setting: String,
        /// The feature of otel-tasks.
        feature: &'static str,
    },
    /// The directives given to [`filter`](crate::telemetry::TelemetryBuilder::filter) cannot be read.
    #[non_exhaustive]
    Filter {
        /// The directives.
        directives: String,
        /// The problem of the directives.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An exporter could not be built.
    #[non_exhaustive]
    Exporter {
        /// The signal of the exporter.
        signal: Signal,
        /// The problem.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A setting that must be greater than zero is zero.
    #[non_exhaustive]
    Zero {
        /// The name of the builder's method.
        setting: &'static str,
    },
    /// The threads or the runtime that export could not be started.
    Thread(std::io::Error),
    /// The process has a global `tracing` subscriber already; nothing was changed.
    ///
    /// Put [`layer`](crate::Telemetry::layer) into that subscriber instead, with [`build`](crate::telemetry::TelemetryBuilder::build).
    SubscriberAlreadySet,
}

impl fmt::Display for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(given) => write!(f, "use {given:?} as an endpoint: not an http or https address"),
            Self::NotCompiled { setting, feature } => {
                write!(f, "use {setting}: otel-tasks is built without its feature `{feature}`")
            }
            Self::Filter { directives, .. } => write!(f, "read the filter {directives:?}"),
            Self::Exporter { signal, .. } => write!(f, "build the exporter of {}", signal.as_str()),
            Self::Zero { setting } => write!(f, "use {setting}: it must be greater than zero"),
            Self::Thread(_) => f.write_str("start the export threads"),
            Self::SubscriberAlreadySet => {
                f.write_str("install the tracing subscriber: the process has one already")
            }
        }
    }
}

impl std::error::Error for InstallError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Filter { source, .. } | Self::Exporter { source, .. } => Some(&**source),
            Self::Thread(source) => Some(source),
            Self::Endpoint(_) | Self::NotCompiled { .. } | Self::Zero { .. } | Self::SubscriberAlreadySet => {
                None
            }
        }
    }
}

impl From<BadOverride> for InstallError {
    fn from(bad: BadOverride) -> Self {
        match bad {
            BadOverride::Endpoint(given) => Self::Endpoint(given),
            BadOverride::NotCompiled(setting, part) => Self::NotCompiled { setting, feature: part.feature() },
        }
    }
}
