//! What it costs to keep the traces of failed runs: a run that is not sampled, with and without `keep_failed_traces`.
//!
//! `cargo bench --bench kept`: runs of one yield, alone and with four spans inside, on one thread with the telemetry's layer and
//! on two through the manager's tracer. None fails, and nothing is exported. The cases take turns; medians. `--quick` for a look
//! that it still runs.

use std::time::{Duration, Instant};

use otel_tasks::{TaskManager, Telemetry};
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::prelude::*;

/// Runs that are spawned before the first is awaited.
const BATCH: usize = 1_000;

/// A way to treat what is sampled by that ratio.
struct Case {
    name: &'static str,
    telemetry: Telemetry,
    tasks: TaskManager,
}

impl Case {
    fn new(name: &'static str, sampler: &'static str, keeps: bool) -> Self {
        let builder = Telemetry::builder()
            // Nothing is there: the queue takes a thousand spans and refuses the others.
            .endpoint("http://127.0.0.1:9")
            .span_queue(1_000)
            .shutdown_timeout(Duration::from_millis(1))
            .env(move |variable| (variable == "OTEL_TRACES_SAMPLER").then(|| sampler.to_owned()));
        let builder = if keeps { builder.keep_failed_traces() } else { builder };
        let telemetry = builder.build().expect("built");
        let tasks = TaskManager::builder().tracer(telemetry.tracer()).build().expect("valid");
        Self { name, telemetry, tasks }
    }

    /// Nanoseconds of a run with so many spans inside.
    fn round(&self, runtime: &Runtime, layered: bool, batches: usize, spans: usize) -> f64 {
        let tracer = self.telemetry.tracer();
        let work = async move || {
            for _ in 0..spans {
                if layered {
                    tracing::info_span!("step").in_scope(|| {});
                } else {
                    use opentelemetry::trace::Tracer as _;
                    tracer.in_span("step", |_| {});
                }
            }
            tokio::task::yield_now().await;
        };
        let all = async {
            for _ in 0..batches {
                let runs: Vec<_> = (0..BATCH)
                    .map(|_| {
                        let work = work.clone();
                        self.tasks.spawn("bench", async move { work().await })
                    })
                    .collect();
                for run in runs {
                    let _ = run.await;
                }
            }
        };
        let began = Instant::now();
        if layered {
            let subscriber = tracing_subscriber::registry().with(self.telemetry.layer());
            tracing::subscriber::with_default(subscriber, || runtime.block_on(all));
        } else {
            runtime.block_on(all);
        }
        began.elapsed().as_nanos() as f64 / (batches * BATCH) as f64
    }
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick" || argument == "--test");
    let (rounds, batches) = if quick { (1, 2) } else { (9, 50) };
    let cases = [
        Case::new("not sampled", "always_off", false),
        Case::new("not sampled, kept if it fails", "always_off", true),
        Case::new("sampled, and refused by a full queue", "always_on", false),
    ];
    let one = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let two = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    println!("{rounds} rounds of {} runs; ns per run, median", batches * BATCH);
    println!(
        "{:<40} {:>14} {:>14} {:>14} {:>14}",
        "", "1 thread", "with 4 spans", "2 threads", "with 4 spans"
    );
    let ways = [(&one, true, 0), (&one, true, 4), (&two, false, 0), (&two, false, 4)];
    let mut figures = cases.each_ref().map(|_| ways.map(|_| Vec::new()));
    for round in 0..=rounds {
        for (case, of_case) in cases.iter().zip(&mut figures) {
            for ((runtime, layered, spans), of_way) in ways.iter().zip(of_case) {
                let nanos = case.round(runtime, *layered, batches, *spans);
                // The first round warms up and is not counted.
                if round > 0 {
                    of_way.push(nanos);
                }
            }
        }
    }
    for (case, of_case) in cases.iter().zip(figures) {
        print!("{:<40}", case.name);
        for mut of_way in of_case {
            of_way.sort_by(f64::total_cmp);
            print!(" {:>14.0}", of_way[of_way.len() / 2]);
        }
        println!();
    }
}
