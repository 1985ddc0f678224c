//! The reason of a failed export, in words for a person.

use std::{error::Error, fmt, io, sync::Arc, time::Duration};

/// A failed attempt, or a batch that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::otlp) struct Failure {
    /// The destination, without user and password.
    pub(in crate::otlp) target: Arc<str>,
    pub(in crate::otlp) cause: Cause,
    /// The text of the server, if any.
    pub(in crate::otlp) words: String,
}

impl Failure {
    pub(in crate::otlp) fn new(target: &Arc<str>, cause: Cause) -> Self {
        Self { target: Arc::clone(target), cause, words: String::new() }
    }

    pub(in crate::otlp) fn saying(mut self, words: &str) -> Self {
        /// A page of HTML says no more after this.
        const MOST: usize = 300;
        let words: String = words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST).collect();
        self.words = words.trim().to_owned();
        self
    }
}

impl Failure {
    /// Adds the proxy, unless the cause names it already.
    pub(super) fn of_proxy(self, shown: &Arc<str>, is_own: bool) -> Self {
        match self.cause {
            Cause::Proxy { .. } => self,
            cause => {
                let cause = Cause::Proxy { shown: Arc::clone(shown), is_own, cause: Box::new(cause) };
                Self { cause, ..self }
            }
        }
    }

    /// The cause and the server's words, without the address.
    pub(in crate::otlp) fn reason(&self) -> String {
        match self.words.as_str() {
            "" => self.cause.to_string(),
            words => format!("{}: {words:?}", self.cause),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.target.is_empty() {
            write!(f, "{}: ", self.target)?;
        }
        f.write_str(&self.reason())
    }
}

/// The kind of a failure; a change of it is worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::otlp) enum Cause {
    Refused,
    UnknownHost(String),
    /// Neither refused nor responded: the text of the network.
    Unreachable(String),
    #[cfg(feature = "tls")]
    Untrusted(String),
    /// TLS to a port that does not speak it.
    #[cfg(feature = "tls")]
    NotTls,
    #[cfg(feature = "tls")]
    Tls(String),
    HangUp,
    /// The response is in another protocol.
    OtherProtocol(&'static str),
    NoAnswer(Duration),
    /// A response or refusal of a proxy, or an error behind it.
    Proxy {
        shown: Arc<str>,
        /// True if the proxy itself failed.
        is_own: bool,
        cause: Box<Self>,
    },
    Redirect(u16, String),
    Status(u16),
    #[cfg(feature = "otlp-grpc")]
    Grpc(&'static str),
    NotAnExportResponse(u16),
    AnswerTooLarge,
    TooLarge(u64),
    /// A part of a request that was taken.
    Rejected {
        count: u64,
        of: Option<u64>,
        items: &'static str,
    },
    /// The text of the terminal's exporter.
    Console(String),
    Encoding(String),
    Other(String),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::UnknownHost(host) => write!(f, "unknown host {host:?}"),
            Self::Unreachable(text) | Self::Other(text) => f.write_str(text),
            #[cfg(feature = "tls")]
            Self::Untrusted(text) => write!(f, "the server's certificate is not trusted: {text}"),
            #[cfg(feature = "tls")]
            Self::NotTls => f.write_str("the port does not speak TLS: write http://"),
            #[cfg(feature = "tls")]
            Self::Tls(text) => write!(f, "TLS: {text}"),
            Self::HangUp => f.write_str("the server closed the connection without an answer"),
            Self::OtherProtocol(text) => f.write_str(text),
            Self::NoAnswer(limit) => write!(f, "no answer within {limit:?}"),
            Self::Proxy { shown, is_own: true, cause } => write!(f, "the proxy {shown}: {cause}"),
            Self::Proxy { shown, is_own: false, cause } => write!(f, "{cause} (through the proxy {shown})"),
            Self::Redirect(status, location) => {
                write!(f, "HTTP {status} redirects to {location:?}; redirects are not followed")
            }
            Self::Status(status) => write!(f, "HTTP {status}"),
            #[cfg(feature = "otlp-grpc")]
            Self::Grpc(code) => write!(f, "gRPC {code}"),
            Self::NotAnExportResponse(status) => {
                write!(f, "HTTP {status}, but the body is not an OTLP response; is this an OTLP receiver?")
            }
            Self::AnswerTooLarge => f.write_str("the answer is larger than 4 MiB"),
            Self::TooLarge(bytes) => write!(f, "a single item of {bytes} B is too large for the receiver"),
            Self::Rejected { count, of: Some(of), items } => {
                write!(f, "the receiver rejected {count} of {of} {items}")
            }
            Self::Rejected { count, of: None, items } => write!(f, "the receiver rejected {count} {items}"),
            Self::Console(text) => write!(f, "the terminal: {text}"),
            Self::Encoding(text) => write!(f, "encode the request: {text}"),
        }
    }
}

/// The limit of a client's knowledge: it cannot name the other protocol.
const NOT_HTTP1: &str = "the response is not HTTP/1.1: is it a gRPC port, or does it expect https://?";
#[cfg(feature = "otlp-grpc")]
pub(super) const NOT_HTTP2: &str = "the connection was closed without a response in HTTP/2: is it an HTTP/1.1 port, or does it expect https://?";

/// Finds the cause among the sources of a client's error.
pub(in crate::otlp) fn of_network(error: &(dyn Error + 'static), host: &str) -> Cause {
    let mut last = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(cause) = of_one(error, host) {
            return cause;
        }
        last = error.to_string();
        next = error.source();
    }
    Cause::Other(last)
}

fn of_one(error: &(dyn Error + 'static), host: &str) -> Option<Cause> {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return of_io(error, host);
    }
    #[cfg(feature = "tls")]
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        return Some(match error {
            rustls::Error::InvalidCertificate(error) => Cause::Untrusted(error.to_string()),
            rustls::Error::InvalidMessage(_) => Cause::NotTls,
            other => Cause::Tls(other.to_string()),
        });
    }
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        if error.is_parse() {
            return Some(Cause::OtherProtocol(NOT_HTTP1));
        }
        if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
            return Some(Cause::HangUp);
        }
        return None;
    }
    // The error of the name's resolution has no type of its own outside hyper-util.
    (error.to_string() == "dns error").then(|| Cause::UnknownHost(host.to_owned()))
}

/// The cause that a socket's error names; `None` where it wraps another.
pub(in crate::otlp) fn of_io(error: &io::Error, host: &str) -> Option<Cause> {
    if let Some(inner) = error.get_ref() {
        if let Some(cause) = of_one(inner, host) {
            return Some(cause);
        }
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Some(Cause::Refused),
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => Some(Cause::HangUp),
        _ if error.get_ref().is_none() => Some(Cause::Unreachable(error.to_string())),
        _ => None,
    }
}
