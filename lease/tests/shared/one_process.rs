//! What one process shows: several managers, each with a store of its own on the same server.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Waker},
    time::{Duration, SystemTime},
};

use otel_tasks::{
    Backoff, CriticalTaskConfig, TaskManager,
    gate::{Claim, Gate},
    snapshot::TaskState,
};
use otel_tasks_lease::{Answer, Ask, Held, LeaseStore, Leases, Renewed, StoreError, conformance};
use tokio::time::{Instant, sleep, timeout};

use super::{millis, secs};
use crate::cluster::{Cluster, Fenced, Store};

/// Waits until it is so, for a minute at most.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < secs(60), "never: {what}");
        sleep(millis(5)).await;
    }
}

fn state(tasks: &TaskManager) -> Option<TaskState> {
    tasks.task_health("t").and_then(|health| health.state)
}

/// Counts the requests to a store.
#[derive(Clone)]
struct Counted {
    store: Store,
    requests: Arc<AtomicU64>,
}

impl Counted {
    fn count(&self) -> &Store {
        self.requests.fetch_add(1, SeqCst);
        &self.store
    }
}

impl LeaseStore for Counted {
    async fn acquire(&self, ask: &Ask) -> Result<Answer, StoreError> {
        self.count().acquire(ask).await
    }

    async fn renew(&self, held: &[Held]) -> Result<Vec<Renewed>, StoreError> {
        self.count().renew(held).await
    }

    async fn claim(&self, held: &Held, due: SystemTime) -> Result<Claim, StoreError> {
        self.count().claim(held, due).await
    }

    async fn release(&self, ask: &Ask) -> Result<(), StoreError> {
        self.count().release(ask).await
    }

    async fn freed(&self, lease: &str) {
        self.store.freed(lease).await;
    }
}

#[tokio::test]
async fn the_store_conforms() {
    let cluster = Cluster::shared();
    let (first, second) = (cluster.store(), cluster.store());
    conformance::check(&first, &second, secs(3)).await;
}

fn obeys() -> CriticalTaskConfig {
    CriticalTaskConfig::new("t", |ctx| async move { ctx.cancelled().await })
}

fn manager(config: CriticalTaskConfig) -> TaskManager {
    let tasks = TaskManager::new();
    tasks.register(config).expect("registered");
    tasks.start();
    tasks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_stops_its_holders_and_nobody_takes_over() {
    let cluster = Cluster::start();
    let ttl = secs(3);
    let begun = Arc::new(AtomicU64::new(0));
    let [first, second] = [cluster.store(), cluster.store()].map(|store| {
        let begun = begun.clone();
        let task = CriticalTaskConfig::new("t", move |ctx| {
            begun.fetch_add(1, SeqCst);
            async move { ctx.cancelled().await }
        });
        manager(task.gate(Leases::new(store).lease("away").ttl(ttl)))
    });
    let running = || {
        let all = [&first, &second].into_iter();
        all.filter(|tasks| state(tasks) == Some(TaskState::Running)).count()
    };
    until("one runs", || running() == 1).await;
    cluster.stop();
    until("the holder stops", || running() == 0).await;
    for _ in 0..20 {
        sleep(ttl / 5).await;
        assert_eq!(running(), 0, "without the store nobody runs");
        for tasks in [&first, &second] {
            let health = tasks.health();
            assert!(health.is_live && health.is_ready && health.has_started, "{health}");
        }
    }
    cluster.serve();
    until("one runs again", || running() == 1).await;
    sleep(ttl * 2).await;
    assert_eq!((running(), begun.load(SeqCst)), (1, 2), "by one take-over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_that_goes_leaves_nothing_behind() {
    let cluster = Cluster::shared();
    let ttl = secs(300);
    let mine = Leases::new(cluster.store()).lease("cancelled").ttl(ttl);
    let other = Leases::new(cluster.store()).lease("cancelled").ttl(ttl);
    for polls in 0..20 {
        {
            let mut enters = pin!(mine.enter());
            for _ in 0..polls {
                if enters.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                    break;
                }
                sleep(Duration::from_micros(300)).await;
            }
        }
        let grant = timeout(secs(30), other.enter()).await.expect("far sooner than the lease lasts");
        drop(grant);
        other.settled().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_free_the_lease_while_it_is_held_and_leave_it_while_standing_by() {
    let cluster = Cluster::shared();
    // A take-over within the test shows that the lease was given back.
    let lease = || Leases::new(cluster.store()).lease("orders").ttl(secs(600));
    let runs = |tasks: &TaskManager| state(tasks) == Some(TaskState::Running);
    let begun = Arc::new(AtomicU64::new(0));
    let counts = {
        let begun = begun.clone();
        CriticalTaskConfig::new("t", move |ctx| {
            begun.fetch_add(1, SeqCst);
            async move { ctx.cancelled().await }
        })
    };
    let first = manager(counts.gate(lease()));
    until("the first holds it", || runs(&first)).await;
    let second = manager(obeys().gate(lease()));
    until("the second stands by", || state(&second) == Some(TaskState::Standby)).await;

    // While it stands by.
    second.pause("t").expect("paused");
    until("the second is paused", || state(&second) == Some(TaskState::Paused)).await;
    let before = begun.load(SeqCst);
    first.restart("t").expect("restarted");
    until("the first runs again", || begun.load(SeqCst) > before && runs(&first)).await;
    second.resume("t").expect("resumed");
    until("the second stands by again", || state(&second) == Some(TaskState::Standby)).await;

    // While it is held.
    first.pause("t").expect("paused");
    until("a pause frees it", || runs(&second)).await;
    first.resume("t").expect("resumed");
    until("the first stands by", || state(&first) == Some(TaskState::Standby)).await;
    second.stop("t").expect("stopped");
    until("a stop frees it", || runs(&first)).await;
    second.restart("t").expect("restarted");
    until("the second stands by", || state(&second) == Some(TaskState::Standby)).await;
    first.unregister("t").await.expect("unregistered");
    until("leaving frees it", || runs(&second)).await;
    first.register(obeys().gate(lease())).expect("registered");
    until("the first stands by", || state(&first) == Some(TaskState::Standby)).await;
    second.replace(obeys().gate(lease())).await.expect("replaced");
    until("one of them runs", || runs(&first) != runs(&second)).await;
    let [holds, stands] = if runs(&first) { [&first, &second] } else { [&second, &first] };
    until("the other stands by", || state(stands) == Some(TaskState::Standby)).await;
    stands.unregister("t").await.expect("unregistered");
    assert!(runs(holds));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_hand_overs_never_overlap_and_a_stale_write_changes_nothing() {
    let cluster = Cluster::shared();
    let (alive, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut managers = Vec::new();
    for _ in 0..2 {
        let lease = Leases::new(cluster.store()).lease("handed over").ttl(secs(60));
        let (alive, most, seen) = (alive.clone(), most.clone(), seen.clone());
        let task = CriticalTaskConfig::new("t", move |ctx| {
            let (alive, most, seen) = (alive.clone(), most.clone(), seen.clone());
            async move {
                most.fetch_max(alive.fetch_add(1, SeqCst) + 1, SeqCst);
                let term = ctx.pass().map_or(0, |pass| pass.term());
                seen.lock().expect("no panic").push(term);
                tokio::task::yield_now().await;
                alive.fetch_sub(1, SeqCst);
            }
        });
        let task = task.unlimited_restarts().backoff(Backoff::constant(Duration::ZERO));
        managers.push(manager(task.gate(lease)));
    }
    until("a thousand grants", || seen.lock().expect("no panic").len() >= 1_000).await;
    for tasks in &managers {
        tasks.shutdown().await;
    }
    let terms = seen.lock().expect("no panic").clone();
    assert_eq!(most.load(SeqCst), 1, "never two at once");
    assert!(terms.windows(2).all(|pair| pair[0] < pair[1]), "terms grow");

    tokio::task::block_in_place(|| {
        let fenced = Fenced::new(&cluster, "handed_over");
        for pair in terms.windows(2) {
            assert_eq!((fenced.write(pair[1]), fenced.write(pair[0])), (1, 0), "the term before is refused");
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_leases_share_one_connection_and_are_renewed_together() {
    let cluster = Cluster::start();
    let counted = Counted { store: cluster.store(), requests: Arc::default() };
    let leases = Leases::new(counted.clone());
    let ttl = secs(6);
    let tasks = TaskManager::builder().max_names(200).build().expect("valid");
    let name = |number: usize| format!("t{number}");
    for number in 0..100 {
        let task = CriticalTaskConfig::new(name(number), |ctx| async move { ctx.cancelled().await });
        tasks.register(task.gate(leases.lease(name(number)).ttl(ttl))).expect("registered");
    }
    tasks.start();
    let running = || tasks.snapshots().iter().filter(|task| task.state == Some(TaskState::Running)).count();
    until("all run", || running() == 100).await;
    sleep(ttl).await;
    let before = counted.requests.load(SeqCst);
    let rounds = 3;
    sleep(ttl * rounds).await;
    let requests = counted.requests.load(SeqCst) - before;
    println!("{requests} requests in {rounds} lifetimes of 100 leases");
    assert_eq!(running(), 100);
    assert!(requests <= 100, "fewer than one request for each lease and lifetime: {requests}");
    assert_eq!(cluster.connections(), 1);
    tasks.shutdown().await;
    assert_eq!(cluster.free_leases(), 100, "all are given back before the shutdown returns");
}
