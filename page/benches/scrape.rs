//! What `GET /metrics` costs for 2,000 tasks.
//!
//! `cargo bench -p otel-tasks-page --bench scrape`: 2,000 registered tasks, each with a failed run, over a
//! socket on loopback. The first row is a collection by the SDK alone, which is part of each scrape. Medians of nine.
//! `--quick` takes 50 tasks and one round.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::{
    ManualReader, Pipeline, SdkMeterProvider, Temporality, data::ResourceMetrics, reader::MetricReader,
};
use otel_tasks::{Backoff, CriticalTaskConfig, TaskManager};
use otel_tasks_page::{Feed, Page};

/// A reader that the benchmark shares with the provider.
#[derive(Debug, Clone, Default)]
struct Shared(Arc<ManualReader>);

impl MetricReader for Shared {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> opentelemetry_sdk::error::OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> opentelemetry_sdk::error::OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> opentelemetry_sdk::error::OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, _: opentelemetry_sdk::metrics::InstrumentKind) -> Temporality {
        Temporality::Cumulative
    }
}

/// Returns the lines and the bytes of a response. It is read through a buffer: the memory of a client is not the page's cost.
fn get(address: SocketAddr, accept: &str) -> (usize, usize) {
    let mut stream = TcpStream::connect(address).expect("connected");
    let request =
        format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("written");
    let (mut buffer, mut lines, mut bytes) = (vec![0; 256 << 10], 0, 0);
    loop {
        let read = stream.read(&mut buffer).expect("read");
        let part = &buffer[..read];
        assert!(bytes > 0 || part.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(part));
        if read == 0 {
            return (lines, bytes);
        }
        lines += part.split(|byte| *byte == b'\n').count() - 1;
        bytes += read;
    }
}

/// Returns the processor time of the process, where Linux reports it. Other work on the machine is not in it.
fn processor_time() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of_thread =
        threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("schedstat")).ok());
    let nanoseconds = of_thread.filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    Duration::from_nanos(nanoseconds.sum())
}

fn row(name: &str, rounds: usize, mut once: impl FnMut() -> String) {
    let mut size = String::new();
    let (took, worked): (Vec<_>, Vec<_>) = (0..rounds)
        .map(|_| {
            // One text serves a second.
            std::thread::sleep(Duration::from_millis(1_100));
            let (began, before) = (Instant::now(), processor_time());
            size = once();
            (began.elapsed(), processor_time() - before)
        })
        .unzip();
    let [took, worked] = [took, worked].map(|times| median(times).as_secs_f64() * 1e3);
    println!("{name:<28}{took:>8.1} ms{worked:>8.1} ms of the processor{size}");
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (tasks, rounds) = if quick { (50, 1) } else { (2_000, 9) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("built");
    let (feed, alone) = (Feed::default(), Shared::default());
    let provider = feed.read_metrics(SdkMeterProvider::builder().with_reader(alone.clone())).build();
    let _guard = runtime.enter();
    let manager =
        TaskManager::builder().meter(provider.meter("scrape")).max_names(tasks + 10).build().expect("valid");
    for number in 0..tasks {
        let first = AtomicBool::new(true);
        let task = CriticalTaskConfig::new(format!("task-{number:04}"), move |ctx| {
            let is_first = first.swap(false, Relaxed);
            async move {
                if is_first {
                    return Err("the first run fails");
                }
                ctx.cancelled().await;
                Ok(())
            }
        });
        manager.register(task.backoff(Backoff::constant(Duration::ZERO))).expect("registered");
    }
    manager.start();
    let server = Page::new(&manager).feed(&feed).serve("127.0.0.1:0").expect("bound");
    let address = server.address();
    std::thread::sleep(Duration::from_secs(1));

    row("a collection of the SDK", rounds, || {
        alone.collect(&mut ResourceMetrics::default()).expect("registered");
        String::new()
    });
    for (name, accept) in
        [("Prometheus' text", "text/plain"), ("OpenMetrics", "application/openmetrics-text;version=1.0.0")]
    {
        row(name, rounds, || {
            let (lines, bytes) = get(address, accept);
            format!("{lines:>10} lines{bytes:>12} bytes")
        });
    }
}
