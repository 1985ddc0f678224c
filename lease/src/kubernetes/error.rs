//! The errors of the store, which are the sources of its [`StoreError`]s.

use std::{error::Error, fmt, time::Duration};

use crate::store::StoreError;

/// The resource that RBAC must permit.
pub const RESOURCE: &str = "leases.coordination.k8s.io";

/// The reason why a request to the API server failed: the source of the [`StoreError`].
#[derive(Debug)]
#[non_exhaustive]
pub enum RequestError {
    /// The credentials are missing, wrong or over (401). The token's file is read again for the next request.
    Unauthorized {
        /// The verb of the request.
        verb: &'static str,
        /// The namespace of the request.
        namespace: String,
    },
    /// RBAC does not permit the verb on [`RESOURCE`] in this namespace, or another check refuses it (403).
    Forbidden {
        /// The verb that a Role must permit.
        verb: &'static str,
        /// The namespace of the Role.
        namespace: String,
        /// The text of the server.
        message: String,
    },
    /// The namespace does not exist.
    NoNamespace {
        /// Its name.
        namespace: String,
    },
    /// The server limits its load (429). No request is sent before this time is over, for 10 s at most.
    TooManyRequests {
        /// The time that the server named.
        retry_after: Option<Duration>,
    },
    /// The server refused the request for another reason.
    Refused {
        /// The HTTP status.
        status: u16,
        /// The server's reason, such as `Invalid`.
        reason: String,
        /// The text of the server.
        message: String,
    },
    /// The object changed again and again while it was written.
    Contended,
    /// No connection could be made, or it ended before the response.
    NoAnswer(Box<dyn Error + Send + Sync>),
    /// The response is none of an API server.
    Protocol(String),
}

impl RequestError {
    fn error_type(&self) -> &'static str {
        match self {
            Self::Unauthorized { .. } => "unauthorized",
            Self::Forbidden { .. } => "forbidden",
            Self::NoNamespace { .. } => "no_namespace",
            Self::TooManyRequests { .. } => "too_many_requests",
            Self::Refused { .. } => "refused",
            Self::Contended => "contended",
            Self::NoAnswer(_) => "connection",
            Self::Protocol(_) => "protocol",
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unauthorized { verb, namespace } => {
                write!(f, "no valid credentials to {verb} {RESOURCE} in namespace {namespace}")
            }
            Self::Forbidden { verb, namespace, message } => write!(
                f,
                "not permitted: a Role in namespace {namespace} must permit the verb {verb} on {RESOURCE}: {message}"
            ),
            Self::NoNamespace { namespace } => write!(f, "there is no namespace {namespace}"),
            Self::TooManyRequests { retry_after: Some(after) } => {
                write!(f, "the API server limits its load and asks for {} s of pause", after.as_secs())
            }
            Self::TooManyRequests { retry_after: None } => write!(f, "the API server limits its load"),
            Self::Refused { status, reason, message } => {
                write!(f, "the API server responded with {status} {reason}: {message}")
            }
            Self::Contended => write!(f, "the object changed again and again while it was written"),
            Self::NoAnswer(_) => write!(f, "no answer from the API server"),
            Self::Protocol(text) => write!(f, "not the response of an API server: {text}"),
        }
    }
}

impl Error for RequestError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::NoAnswer(source) => Some(&**source),
            _ => None,
        }
    }
}

impl From<RequestError> for StoreError {
    fn from(error: RequestError) -> Self {
        StoreError::new(error.error_type(), error)
    }
}

/// A name of a lease that cannot be the name of an object: the source of the [`StoreError`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameError {
    /// The name is empty.
    Empty,
    /// The name is too long.
    Long {
        /// The name of the lease.
        lease: String,
        /// The length of the object's name in bytes, which may be at most 253.
        length: usize,
    },
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the name of a lease is empty"),
            Self::Long { lease, length } => {
                write!(
                    f,
                    "the lease {lease} needs an object's name of {length} bytes, and 253 is the longest"
                )
            }
        }
    }
}

impl Error for NameError {}

impl From<NameError> for StoreError {
    fn from(error: NameError) -> Self {
        StoreError::new("name", error)
    }
}
