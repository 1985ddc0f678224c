//! Asks an endpoint whether it takes telemetry.

use std::{fmt, sync::Arc, time::Duration};

use super::{ledger::Signal, transport::Transport};
use crate::policy::Plain;

/// The destination of a signal.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) signal: Signal,
    pub(super) transport: Arc<Transport>,
}

impl Endpoint {
    pub(super) fn shown(&self) -> &str {
        self.transport.shown()
    }

    /// Sends an empty request the way telemetry goes, and returns why it was not taken.
    pub(super) fn probe(&self, timeout: Duration) -> Result<(), CollectorUnreachable> {
        self.transport.probe(timeout, self.signal).map_err(|failure| CollectorUnreachable {
            signal: self.signal,
            endpoint: self.shown().to_owned(),
            reason: failure.reason(),
        })
    }
}

/// An endpoint that takes no telemetry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CollectorUnreachable {
    /// The signal that goes there.
    pub signal: Signal,
    /// The endpoint, with `***` for a user and a password.
    pub endpoint: String,
    /// The cause, in the words of a failed export.
    pub reason: String,
}

impl fmt::Display for CollectorUnreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (endpoint, reason) = (Plain(&self.endpoint), Plain(&self.reason));
        write!(f, "reach the collector of {} at {endpoint}: {reason}", self.signal.as_str())
    }
}

impl std::error::Error for CollectorUnreachable {}
