//! Helpers of the tests: an HTTP client over a plain socket, and waiting with a bound.
#![allow(dead_code, clippy::allow_attributes, reason = "each test binary uses a part of this")]

pub(crate) mod open_metrics;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use otel_tasks::CriticalTaskConfig;
use otel_tasks_page::PageServer;
use serde_json::Value;

pub(crate) const ANY: &str = "127.0.0.1:0";
pub(crate) const TOKEN: &str = "correct horse battery staple";

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim())
    }
}

pub(crate) fn ask(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(secs(10))).expect("a timeout");
    let host = address.to_string();
    let host = headers.iter().find(|(name, _)| *name == "Host").map_or(&*host, |(_, host)| host);
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in headers.iter().filter(|(name, _)| *name != "Host") {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{request}\r\n").as_bytes()).expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let body = if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        unchunked(body)
    } else {
        body.to_owned()
    };
    Answer { status, head: head.to_owned(), body }
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a size");
        whole.push_str(&rest[..size]);
        body = &rest[size..];
        body = body.strip_prefix("\r\n").unwrap_or(body);
    }
    whole
}

pub(crate) fn get(page: &PageServer, path: &str) -> Answer {
    ask(page.address(), "GET", path, &[])
}

pub(crate) fn waits(name: &str) -> CriticalTaskConfig {
    CriticalTaskConfig::new(name, |ctx| async move { ctx.cancelled().await })
}

/// Waits until `holds`, at most 20 s of the runtime's clock; then fails with `what`.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let end = tokio::time::Instant::now() + secs(20);
        while !holds() {
            assert!(tokio::time::Instant::now() < end, "{caller}: never came: {what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
