//! OTLP over gRPC: the same bytes in a unary call.

use std::{
    error::Error as _,
    sync::{Mutex, PoisonError},
};

use opentelemetry_http::Bytes;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

use super::{
    address::Target,
    answer::{Answer, exported},
    failure::{Cause, Failure, NOT_HTTP2, of_network},
};
use crate::otlp::{ledger::Signal, parcel::Parcel};

/// A channel that connects at the first request.
pub(super) struct GrpcTransport {
    endpoint: Endpoint,
    channel: Mutex<Channel>,
    target: Target,
    metadata: MetadataMap,
    gzip: bool,
}

impl GrpcTransport {
    /// To be called in the runtime whose thread is to drive the channel.
    pub(super) fn new(
        target: Target,
        metadata: hyper::HeaderMap,
        gzip: bool,
        #[cfg(feature = "tls")] tls: Option<tonic::transport::ClientTlsConfig>,
    ) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from(target.uri.clone());
        #[cfg(feature = "tls")]
        let endpoint = match tls {
            // The brackets of an address of IPv6 are no part of the name.
            Some(tls) => endpoint.tls_config(tls.domain_name(target.host().trim_matches(['[', ']'])))?,
            None => endpoint,
        };
        let channel = Mutex::new(endpoint.connect_lazy());
        Ok(Self { endpoint, channel, target, metadata: MetadataMap::from_headers(metadata), gzip })
    }

    /// Leaves a connection on which no answer came: it may be dead without a sign, and would be used again.
    pub(super) fn reconnect(&self) {
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = self.endpoint.connect_lazy();
    }

    pub(super) async fn send(&self, parcel: &Parcel) -> Answer {
        let target = &self.target.shown;
        let mut client = Grpc::new(self.channel.lock().unwrap_or_else(PoisonError::into_inner).clone());
        #[cfg(feature = "gzip")]
        if self.gzip {
            use tonic::codec::CompressionEncoding::Gzip;
            client = client.send_compressed(Gzip).accept_compressed(Gzip);
        }
        debug_assert!(cfg!(feature = "gzip") || !self.gzip, "the settings know what was compiled");
        client = client.max_decoding_message_size(MAX_ANSWER_BYTES);
        if let Err(error) = client.ready().await {
            return Answer::Again(Failure::new(target, of_network(&error, self.target.host())), None);
        }
        let mut request = Request::new(parcel.body.clone());
        *request.metadata_mut() = self.metadata.clone();
        let path = hyper::http::uri::PathAndQuery::from_static(match parcel.signal {
            Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        });
        match client.unary(request, path, RawCodec).await {
            Ok(response) => match exported(parcel.signal, response.get_ref(), true) {
                Some((rejected, words)) => Answer::Taken { rejected, words },
                None => Answer::Refused(Failure::new(
                    target,
                    Cause::OtherProtocol("the answer is not an OTLP response"),
                )),
            },
            Err(status) => self.of_status(&status),
        }
    }

    /// Returns the meaning of a status, by the [specification](https://opentelemetry.io/docs/specs/otlp/#failures).
    fn of_status(&self, status: &Status) -> Answer {
        let target = &self.target.shown;
        // tonic makes a status of what happened on the way, too.
        if let Some(source) = status.source() {
            let cause = match of_network(source, self.target.host()) {
                // Which of the two it is depends on who is first to notice.
                Cause::HangUp | Cause::Other(_) => Cause::OtherProtocol(NOT_HTTP2),
                cause => cause,
            };
            return Answer::Again(Failure::new(target, cause), None);
        }
        let failure = Failure::new(target, Cause::Grpc(name_of(status.code()))).saying(status.message());
        let wait = status.get_details_retry_info().map(|info| info.retry_delay.unwrap_or_default());
        match status.code() {
            // Of our side.
            Code::ResourceExhausted | Code::OutOfRange if is_of_answer(status.message()) => {
                Answer::Refused(Failure::new(target, Cause::AnswerTooLarge))
            }
            Code::ResourceExhausted | Code::OutOfRange if wait.is_none() && is_of_size(status.message()) => {
                Answer::TooLarge(failure)
            }
            // Without a delay it is for good, says the specification: of the reasons for it only size can be mended here.
            Code::ResourceExhausted if wait.is_none() => Answer::TooLarge(failure),
            Code::ResourceExhausted
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss => Answer::Again(failure, wait),
            _ => Answer::Refused(failure),
        }
    }
}

/// The largest response, in bytes. For a larger one, tonic uses the text and the code of a tonic server that refuses a large request.
/// This limit differs from the default of such servers, so its number identifies the side.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024 - 1;

/// Returns true if this side refuses the size of a response.
fn is_of_answer(message: &str) -> bool {
    message.contains(&format!(" {MAX_ANSWER_BYTES} bytes"))
}

/// Returns true if a receiver complains of a message's size: servers on tonic say so with `OUT_OF_RANGE`.
fn is_of_size(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("too large") || message.contains("larger than")
}

/// The name of a code as the gRPC specification writes it.
fn name_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Bytes without a further encoding: they are encoded already.
#[derive(Clone, Copy)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        use prost::bytes::BufMut as _;
        buf.put(item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        use prost::bytes::Buf as _;
        Ok(Some(buf.copy_to_bytes(buf.remaining())))
    }
}
