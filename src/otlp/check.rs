//! Asks an endpoint whether a receiver of its protocol listens there, and says in the words of a person why not.

use std::{
    error::Error as _,
    fmt,
    io::{self, ErrorKind, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

use super::{
    ledger::Signal,
    settings::{OtlpSettings, Protocol, redacted},
};
use crate::policy::Plain;

/// Where a signal goes, and how that is shown.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) signal: Signal,
    pub(super) shown: String,
    url: String,
    protocol: Protocol,
    /// Of an `https` address.
    tls: Option<Arc<ClientConfig>>,
}

impl Endpoint {
    pub(super) fn new(signal: Signal, settings: &OtlpSettings, tls: Option<ClientConfig>) -> Self {
        let tls = tls.map(|mut tls| {
            // Who speaks both answers as the exporter needs it.
            tls.alpn_protocols = match settings.protocol {
                Protocol::Grpc => vec![b"h2".to_vec()],
                Protocol::HttpProtobuf => vec![b"http/1.1".to_vec()],
            };
            Arc::new(tls)
        });
        let url = settings.endpoint.clone();
        Self { signal, shown: redacted(&url), url, protocol: settings.protocol, tls }
    }

    /// Says hello in the protocol of the endpoint, and returns why there was no answer in it.
    pub(super) fn probe(&self, timeout: Duration) -> Result<(), String> {
        let url = reqwest::Url::parse(&self.url).map_err(|error| error.to_string())?;
        let host = url.host_str().unwrap_or_default();
        let name = host.trim_matches(['[', ']']);
        let port = url.port_or_known_default().unwrap_or_default();
        let until = Instant::now() + timeout;
        let stream = connect(name, port, until, timeout)?;
        let hello = match self.protocol {
            // The preface of HTTP/2 and empty settings.
            Protocol::Grpc => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
            Protocol::HttpProtobuf => format!(
                "OPTIONS {} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                url.path()
            )
            .into_bytes(),
        };
        let answer = match &self.tls {
            None => answer(stream, &hello),
            Some(tls) => {
                let name = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
                let connection = ClientConnection::new(Arc::clone(tls), name);
                let connection = connection.map_err(|error| error.to_string())?;
                answer(StreamOwned::new(connection, stream), &hello)
            }
        };
        let answer = answer.map_err(|error| why(&error, timeout))?;
        match (Spoken::of(&answer), self.protocol) {
            (Spoken::Http1, Protocol::HttpProtobuf) | (Spoken::Http2, Protocol::Grpc) => Ok(()),
            (Spoken::Nothing, _) => Err(HUNG_UP.to_owned()),
            (Spoken::Tls, _) => Err("the port expects TLS: write https://".to_owned()),
            (Spoken::Http1, _) => Err("the port speaks HTTP/1.1 and not gRPC".to_owned()),
            (Spoken::Http2, _) => Err("the port speaks gRPC and not HTTP/1.1".to_owned()),
            (Spoken::Other, protocol) => Err(format!("the port does not speak {}", protocol.as_str())),
        }
    }
}

const HUNG_UP: &str = "the connection was closed without an answer";

fn connect(name: &str, port: u16, until: Instant, timeout: Duration) -> Result<TcpStream, String> {
    let addresses =
        (name, port).to_socket_addrs().map_err(|error| format!("unknown host {name}: {error}"))?;
    let mut last = format!("unknown host {name}");
    for address in addresses {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let connected = TcpStream::connect_timeout(&address, left).and_then(|stream| {
            // Zero would mean for ever.
            let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            stream.set_read_timeout(Some(left))?;
            stream.set_write_timeout(Some(left))?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => last = why(&error, timeout),
        }
    }
    Err(last)
}

/// The beginning of what is answered to `hello`.
fn answer(mut stream: impl Read + Write, hello: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(hello)?;
    stream.flush()?;
    let mut answer = vec![0; 1_024];
    let mut length = 0;
    // A head of HTTP/2 has nine bytes; what follows the line of an HTTP/1.1 answer tells a port of TLS.
    while length < answer.len() {
        match stream.read(&mut answer[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) if length > 0 => break,
            Err(error) => return Err(error),
        }
        let is_http1 = answer.starts_with(b"HTTP/1");
        if length >= 9 && !is_http1 {
            break;
        }
    }
    answer.truncate(length);
    Ok(answer)
}

fn why(error: &io::Error, timeout: Duration) -> String {
    if let Some(tls) = error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>()) {
        return match tls {
            rustls::Error::InvalidMessage(_) => "the port does not speak TLS: write http://".to_owned(),
            other => format!("TLS: {other}"),
        };
    }
    match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => format!("no answer within {timeout:?}"),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => HUNG_UP.to_owned(),
        _ => match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

/// What an answer is written in.
#[derive(Debug, PartialEq, Eq)]
enum Spoken {
    Nothing,
    Http1,
    Http2,
    Tls,
    Other,
}

impl Spoken {
    fn of(answer: &[u8]) -> Self {
        // Servers of Go and nginx say so in plain text.
        const HTTPS: [&[u8]; 2] =
            [b"HTTP request to an HTTPS server", b"plain HTTP request was sent to HTTPS"];
        let says = |text: &[u8]| answer.windows(text.len()).any(|part| part == text);
        match answer {
            [] => Self::Nothing,
            // An alert or a handshake of TLS 1.0 and later.
            [0x15 | 0x16, 3, ..] => Self::Tls,
            _ if answer.starts_with(b"HTTP/1") && HTTPS.into_iter().any(says) => Self::Tls,
            _ if answer.starts_with(b"HTTP/1") => Self::Http1,
            // Settings, or a farewell.
            [_, _, _, 4 | 7, _, 0, 0, 0, 0, ..] => Self::Http2,
            _ => Self::Other,
        }
    }
}

/// An endpoint to which no connection could be made, or where something else than a receiver of its protocol answered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CollectorUnreachable {
    /// Whose endpoint.
    pub signal: Signal,
    /// The endpoint, with `***` for a user and a password.
    pub endpoint: String,
    /// Why.
    pub reason: String,
}

impl fmt::Display for CollectorUnreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (endpoint, reason) = (Plain(&self.endpoint), Plain(&self.reason));
        write!(f, "reach the collector of {} at {endpoint}: {reason}", self.signal.as_str())
    }
}

impl std::error::Error for CollectorUnreachable {}
