//! The stack in trouble: its programs are killed and come back, the network is slow. The service goes on as if nothing was, counts
//! what it lost, and is seen again without being restarted.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    END, THROUGH, figures,
    proxy::{DELAY, Proxy},
    stack_bot,
};
use crate::{
    checks::Checks,
    process::{Bot, wait_until},
    stack::{Places, Ports, Stack},
};

/// How long a program stays away.
const AWAY: Duration = Duration::from_secs(15);
/// Prometheus stays away for a minute, as the promise says.
const PROMETHEUS_AWAY: Duration = Duration::from_secs(60);
/// How late a task may be at the worst. Whoever waits for a collector waits for its exporter's ten seconds; this is room for
/// a machine that does other things.
const LATE: f64 = 1.0;
/// How much a queue that is full may take.
const ROOM: u64 = 64 << 20;
/// The Collector's limit of 256 MiB of heap, and its program.
const COLLECTOR: u64 = 384 << 20;
/// What a killed Collector takes with it: what it had accepted and not passed on, a batch's second and some.
const DIED: u64 = 600;

struct Trouble<'a> {
    stack: Stack,
    bot: Bot,
    proxy: Proxy,
    checks: &'a Checks,
    /// What the bot had before anything happened.
    memory: u64,
}

pub(crate) fn prove(places: &Places, checks: &Checks) -> Result<()> {
    let stack = Stack::start("faults", places, Ports::free()?)?;
    let proxy = Proxy::before(stack.ports.otlp_http)?;
    let bot = stack_bot("phases", "steady", &proxy.endpoint)?;
    bot.answer(THROUGH)?;
    thread::sleep(Duration::from_secs(8));
    let memory = bot.memory()?;
    let mut trouble = Trouble { stack, bot, proxy, checks, memory };

    let calm = trouble.next("phase_jaeger_away")?;
    trouble.undisturbed(&calm, "before anything happens")?;
    trouble.jaeger_away()?;
    let ended = trouble.next("phase_collector_away")?;
    trouble.undisturbed(&ended, "while Jaeger is away")?;
    trouble.arrived(&ended, 0)?;
    trouble.collector_away(&ended)?;
    let before = trouble.next("phase_prometheus_away")?;
    trouble.undisturbed(&before, "while the Collector is killed and comes back")?;
    trouble.prometheus_away()?;
    let ended = trouble.next("phase_network_slow")?;
    trouble.undisturbed(&ended, "while Prometheus is away for a minute")?;
    trouble.arrived(&ended, lost(&ended, "traces") - lost(&before, "traces"))?;
    trouble.network_slow()?;
    let (before, ended) = (ended, trouble.next("phase_end")?);
    trouble.undisturbed(&ended, "while the network is slow")?;
    trouble.arrived(&ended, lost(&ended, "traces") - lost(&before, "traces"))?;
    trouble.end()
}

/// How much of a signal the bot has lost so far, as it says itself.
fn lost(ended: &Value, signal: &str) -> u64 {
    ["queue_full", "export_failed"]
        .iter()
        .filter_map(|reason| ended["telemetry"][signal][reason].as_u64())
        .sum()
}

impl Trouble<'_> {
    /// Jaeger has each run of a phase, but for those that the bot counted as lost meanwhile.
    fn arrived(&self, ended: &Value, lost: u64) -> Result<()> {
        let phase = ended["ended"].as_str().context("a phase")?;
        let ran = ended["lateness"]["tasks"].as_u64().context("tasks")?;
        let (jaeger, mut held) = (self.stack.asked_jaeger(), 0);
        let arrived = wait_until(phase, THROUGH, || {
            held = jaeger.runs(("steady", ""), phase)?.len() as u64;
            Ok(held + lost >= ran)
        });
        self.checks.that(
            &format!("{phase}: of {ran} runs Jaeger has {held}, {lost} were counted as lost"),
            arrived.is_ok() && held <= ran && ran > 100,
            || format!("{arrived:?}"),
        );
        Ok(())
    }

    /// Begins the next phase; what the last one was like.
    fn next(&mut self, phase: &str) -> Result<Value> {
        self.bot.tell(phase)?;
        self.bot.answer(THROUGH)
    }

    /// No task was late, and no queue grew without bound.
    fn undisturbed(&self, ended: &Value, when: &str) -> Result<()> {
        let late = &ended["lateness"];
        let [worst, p99, tasks] =
            [&late["worst"], &late["p99"], &late["tasks"]].map(|value| value.as_f64().unwrap_or(f64::MAX));
        self.checks.that(
            &format!(
                "no task is delayed {when} ({tasks} tasks, p99 {:.0} ms, worst {:.0} ms)",
                p99 * 1e3,
                worst * 1e3
            ),
            worst < LATE && tasks > 100.0,
            || late.to_string(),
        );
        let (bot, collector) = (self.bot.memory()?, self.stack.collector.memory()?);
        self.checks.that(
            &format!(
                "memory is bounded: the bot's {} MiB, the Collector's {} MiB",
                bot >> 20,
                collector >> 20
            ),
            bot < self.memory + ROOM && collector < COLLECTOR,
            || format!("the bot's was {} before", self.memory),
        );
        Ok(())
    }

    /// The Collector holds what Jaeger cannot take: nothing is lost.
    fn jaeger_away(&mut self) -> Result<()> {
        self.stack.jaeger.kill()?;
        thread::sleep(AWAY);
        self.stack.restart_jaeger()?;
        self.data_flows("after Jaeger came back", "phase_jaeger_away")
    }

    /// Killed: what it held is gone with it, and what the bot could not deliver is kept until it is back.
    fn collector_away(&mut self, before: &Value) -> Result<()> {
        self.stack.collector.kill()?;
        thread::sleep(AWAY);
        self.stack.restart_collector()?;
        self.data_flows("after the Collector came back", "phase_collector_away")?;
        let spans = "sum(task_telemetry_dropped_total{job=\"steady\", signal=\"traces\"})";
        let prometheus = self.stack.asked_prometheus();
        let shown = prometheus.sum(spans)?;
        self.checks.that("the bot lost no span meanwhile", shown == lost(before, "traces") as f64, || {
            format!("{shown} {before}")
        });
        Ok(())
    }

    /// The Collector holds what Prometheus cannot take; it comes late, under its own time.
    fn prometheus_away(&mut self) -> Result<()> {
        self.stack.prometheus.kill()?;
        let away = Instant::now();
        thread::sleep(PROMETHEUS_AWAY);
        self.stack.restart_prometheus()?;
        self.data_flows("after Prometheus came back", "phase_prometheus_away")?;
        let prometheus = self.stack.asked_prometheus();
        let window = away.elapsed().as_secs() + 10;
        // The Collector passes on what it holds, oldest first.
        let mut longest = f64::MAX;
        let selector = format!("task_run_active{{job=\"steady\", task_name=\"phase_begin\"}}[{window}s]");
        let filled = wait_until("no gap", THROUGH, || {
            let samples = prometheus.samples(&selector)?;
            let samples = samples.first().context("no samples")?;
            longest = samples.windows(2).map(|pair| pair[1].0 - pair[0].0).fold(0.0, f64::max);
            Ok(samples.len() > 30 && longest < 10.0)
        });
        self.checks.that(
            &format!("no gap is left in Prometheus (longest {longest:.1} s of {window} s)"),
            filled.is_ok(),
            || format!("{longest}"),
        );
        let alert = wait_until("TaskTelemetryDropped", Duration::from_secs(60), || {
            Ok(prometheus.firing()?.iter().any(|(name, _)| name == "TaskTelemetryDropped"))
        });
        self.checks
            .that("TaskTelemetryDropped fires", alert.is_ok(), || format!("{:?}", prometheus.firing()));
        Ok(())
    }

    fn network_slow(&mut self) -> Result<()> {
        self.proxy.set_slow(true);
        let begun = Instant::now();
        // What is asked does not matter: the way there and back does.
        let _ = ureq::get(format!("{}/v1/traces", self.proxy.endpoint)).call();
        let took = begun.elapsed();
        self.checks.that(
            &format!("the network is slow ({} ms for nothing)", took.as_millis()),
            took >= 2 * DELAY,
            || format!("{took:?}"),
        );
        thread::sleep(AWAY);
        self.proxy.set_slow(false);
        self.data_flows("after the network was slow", "phase_network_slow")
    }

    /// Figures and traces of now arrive again, from the same process.
    fn data_flows(&self, when: &str, phase: &str) -> Result<()> {
        let (prometheus, jaeger) = (self.stack.asked_prometheus(), self.stack.asked_jaeger());
        let begun = Instant::now();
        let runs = format!("sum(task_runs_total{{job=\"steady\", task_name=\"{phase}\"}})");
        let (first, mut spans) = (prometheus.sum(&runs).unwrap_or(0.0), None);
        let flows = wait_until("data flows", THROUGH, || {
            let now = jaeger.runs(("steady", ""), phase)?.len();
            let spans = *spans.get_or_insert(now);
            Ok(prometheus.sum(&runs)? > first + 50.0 && now > spans)
        });
        let instances = prometheus.query("count by (instance) (task_run_active{job=\"steady\"})")?;
        self.checks.that(
            &format!(
                "data flows again {when} ({:.1} s), from the same process",
                begun.elapsed().as_secs_f64()
            ),
            flows.is_ok() && instances.len() == 1,
            || format!("{flows:?} {instances:?}"),
        );
        Ok(())
    }

    /// The balance is exact, and what was counted is what arrived.
    fn end(self) -> Result<()> {
        let (prometheus, jaeger, checks) =
            (self.stack.asked_prometheus(), self.stack.asked_jaeger(), self.checks);
        let printed = self.bot.end(END)?;
        let spans = &printed["telemetry"]["traces"];
        let count = |field: &str| spans[field].as_u64().unwrap_or(0);
        let lost: u64 = figures::REASONS.iter().map(|reason| count(reason)).sum();
        checks.that(
            &format!("each span is accounted for: {spans}"),
            count("ended") == count("exported") + lost && count("ended") > 10_000,
            || printed["said"].to_string(),
        );
        for signal in ["traces", "metrics", "logs"] {
            // Traces alone are held before they are kept.
            for reason in
                figures::REASONS.into_iter().filter(|reason| *reason != "buffer_full" || signal == "traces")
            {
                let query = format!(
                    "task_telemetry_dropped_total{{job=\"steady\", signal=\"{signal}\", reason=\"{reason}\"}}"
                );
                let wanted = printed["telemetry"][signal][reason].as_f64().unwrap_or(-1.0);
                let agreed = wait_until(&query, THROUGH, || Ok(prometheus.sum(&query)? == wanted));
                if wanted > 0.0 || agreed.is_err() {
                    checks.that(
                        &format!("Prometheus shows {wanted} {signal} lost: {reason}"),
                        agreed.is_ok(),
                        || format!("{:?}", prometheus.query(&query)),
                    );
                }
            }
        }
        let runs = |phase: &str| -> u64 {
            let tasks = printed["tasks"].as_array().into_iter().flatten();
            tasks.filter(|task| task["name"] == phase).map(|task| figures::Task(task).total_runs()).sum()
        };
        let phase = "phase_collector_away";
        let (ran, held) = (runs(phase), jaeger.runs(("steady", ""), phase)?.len() as u64);
        checks.that(
            &format!("{phase}: of {ran} runs Jaeger has {held}, {lost} were counted as lost, the rest died with the Collector"),
            held > 100 && held <= ran && held + lost + DIED >= ran,
            String::new,
        );
        self.stack.stop()
    }
}
