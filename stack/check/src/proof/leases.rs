//! Tasks that run on one of two instances, with their leases in a real PostgreSQL: a pair that is well, and beside it each condition that
//! an alert is about.

use std::{thread, time::Duration};

use anyhow::{Result, bail};
use otel_tasks::telemetry::contract::lease;

use super::{
    END, THROUGH,
    cluster::Cluster,
    pages::{self, Panels},
    provoked::fires,
    stack_bot_with,
};
use crate::{
    checks::Checks,
    contract::metric,
    process::{Bot, wait_until},
    prometheus::Prometheus,
};

/// How often the lease is lost: more than the alert needs.
const LOSSES: f64 = 5.0;

pub(super) fn prove(endpoint: &str, prometheus: &Prometheus, checks: &Checks) -> Result<()> {
    // One stays, and one goes away.
    let (store, lost_store) = (Cluster::start(), Cluster::start());
    for database in ["first", "second"] {
        run(&store, "createdb", &[database])?;
    }
    let start = |service: &str, address: &str| stack_bot_with(&["leases", address], service, endpoint);
    let in_database = |name: &str| store.address().replace("dbname=postgres", &format!("dbname={name}"));
    let (old, other) = (start("pair", &store.address())?, start("pair", &store.address())?);
    // Two stores for one lease: each instance holds it.
    let split = [start("split", &in_database("first"))?, start("split", &in_database("second"))?];
    let orders = [start("orders", &lost_store.address())?, start("orders", &lost_store.address())?];
    for (service, holders) in [("pair", 1.0), ("split", 2.0), ("orders", 1.0)] {
        held(prometheus, service, holders)?;
    }
    let mut panels = Panels::of_leases();
    flap(prometheus, &lost_store)?;
    panels.ask(prometheus, "orders")?;

    // As a deploy does it: the next instance starts, and the one before ends in order.
    let next = start("pair", &store.address())?;
    old.end(END)?;
    held(prometheus, "pair", 1.0)?;

    let is_about = |service| [("job", Some(service)), ("task_lease_name", Some("outbox"))];
    fires(prometheus, "TaskLeaseFlapping", &is_about("orders"), checks);
    panels.ask(prometheus, "orders")?;
    lost_store.stop();
    fires(prometheus, "TaskLeaseNotHeld", &is_about("orders"), checks);
    fires(prometheus, "TaskLeaseHeldTwice", &is_about("split"), checks);
    panels.ask(prometheus, "orders")?;
    panels.tell("about leases ", checks);
    pages::names(prometheus, "orders", "task_lease_", lease::INSTRUMENTS, checks)?;

    held(prometheus, "pair", 1.0)?;
    let firing = prometheus.query("max_over_time(ALERTS{job=\"pair\", alertstate=\"firing\"}[20m])")?;
    checks.that("no alert fires for a healthy pair, nor for its deploy", firing.is_empty(), || {
        format!("{firing:?}")
    });
    let bots: [Bot; 2] = [other, next];
    for bot in bots.into_iter().chain(split).chain(orders) {
        bot.end(END)?;
    }
    Ok(())
}

/// Waits until so many instances hold the lease, by what they exported last.
fn held(prometheus: &Prometheus, service: &str, holders: f64) -> Result<()> {
    let held = format!("sum(last_over_time({}{{job=\"{service}\"}}[2m]))", metric(&lease::HELD));
    wait_until(&format!("{holders} holders of {service}"), THROUGH, || Ok(prometheus.sum(&held)? == holders))
}

/// Ends the lease in the store, again and again: each holder finds that it has lost it.
fn flap(prometheus: &Prometheus, store: &Cluster) -> Result<()> {
    let losses =
        format!("sum({}{{job=\"orders\", task_lease_transition=\"lost\"}})", metric(&lease::TRANSITIONS));
    for _ in 0..40 {
        if prometheus.sum(&losses)? >= LOSSES {
            return Ok(());
        }
        let expire = "UPDATE otel_tasks_lease SET expires_at = clock_timestamp() - interval '1 second'";
        run(store, "psql", &["--dbname=postgres", "--quiet", "--command", expire])?;
        thread::sleep(Duration::from_millis(1_500));
    }
    bail!("the lease was lost {} times", prometheus.sum(&losses)?)
}

/// Runs a program of PostgreSQL against a server.
fn run(store: &Cluster, program: &str, arguments: &[&str]) -> Result<()> {
    let mut command = store.command(program);
    command.args(["--host=127.0.0.1", "--username=test", &format!("--port={}", store.port)]).args(arguments);
    let output = command.output()?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
