//! Stores that break the guarantees of `LeaseStore`, panic, or are slow for some leases.

mod support;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use otel_tasks::{
    CriticalTaskConfig, Schedule, TaskContext, TaskLoop, TaskManager, gate::Claim, schedule::MissedPolicy,
    snapshot::TaskState,
};
use otel_tasks_lease::{Answer, Ask, Held, LeaseStore, Renewed, StoreError, testing::Memory};
use tokio::time::{Instant, sleep};

use self::support::{TTL, leases, millis, secs};

/// Changes an answer.
type Change<T> = Arc<dyn Fn(T) -> T + Send + Sync>;

/// A store whose answers are changed. What was asked takes effect.
#[derive(Clone)]
struct Hostile {
    store: Memory,
    acquire: Change<Answer>,
    renew: Change<Vec<Renewed>>,
    claim: Change<Claim>,
    release: Change<()>,
    /// Renewals with a longer lease have no response.
    longest_renewed: Duration,
}

impl Hostile {
    fn new() -> Self {
        Self {
            store: Memory::new(),
            acquire: Arc::new(|answer| answer),
            renew: Arc::new(|answer| answer),
            claim: Arc::new(|answer| answer),
            release: Arc::new(|answer| answer),
            longest_renewed: Duration::MAX,
        }
    }
}

impl LeaseStore for Hostile {
    async fn acquire(&self, ask: &Ask) -> Result<Answer, StoreError> {
        Ok((self.acquire)(self.store.acquire(ask).await?))
    }

    async fn renew(&self, held: &[Held]) -> Result<Vec<Renewed>, StoreError> {
        if held.iter().any(|held| held.ask.ttl > self.longest_renewed) {
            std::future::pending::<()>().await;
        }
        Ok((self.renew)(self.store.renew(held).await?))
    }

    async fn claim(&self, held: &Held, due: SystemTime) -> Result<Claim, StoreError> {
        Ok((self.claim)(self.store.claim(held, due).await?))
    }

    async fn release(&self, ask: &Ask) -> Result<(), StoreError> {
        self.store.release(ask).await?;
        (self.release)(());
        Ok(())
    }

    async fn freed(&self, lease: &str) {
        self.store.freed(lease).await;
    }
}

/// The terms of the runs.
#[derive(Clone, Default)]
struct Terms(Arc<Mutex<Vec<u64>>>);

impl Terms {
    fn task(&self, name: &str) -> CriticalTaskConfig {
        let terms = self.clone();
        CriticalTaskConfig::new(name, move |ctx: TaskContext| {
            terms.0.lock().unwrap().push(ctx.pass().expect("a lease").term());
            async move { ctx.cancelled().await }
        })
    }

    fn all(&self) -> Vec<u64> {
        self.0.lock().unwrap().clone()
    }
}

fn started(configs: impl IntoIterator<Item = CriticalTaskConfig>) -> TaskManager {
    let tasks = TaskManager::new();
    tasks.register_all(configs).unwrap();
    tasks.start();
    tasks
}

fn state(tasks: &TaskManager, name: &str) -> Option<TaskState> {
    tasks.task_health(name).and_then(|health| health.state)
}

/// True at the calls of these numbers, of which the first is 1.
fn at_calls(calls: &'static [u64]) -> impl Fn() -> bool + Send + Sync {
    let count = AtomicU64::new(0);
    move || calls.contains(&(count.fetch_add(1, SeqCst) + 1))
}

#[tokio::test(start_paused = true)]
async fn renewal_of_a_long_lease_does_not_lose_a_short_one() {
    let (store, terms) = (Hostile { longest_renewed: secs(60), ..Hostile::new() }, Terms::default());
    let leases = leases(store.clone());
    let _tasks = started([
        terms.task("long").gate(leases.lease("long").ttl(secs(600))),
        terms.task("short").gate(leases.lease("short").ttl(TTL)),
    ]);
    // The renewals of the long one have no response.
    sleep(secs(390)).await;
    assert_eq!(terms.all(), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn lease_that_its_store_calls_lost_is_given_back() {
    let (is_lost, terms) = (at_calls(&[1]), Terms::default());
    let store = Hostile {
        renew: Arc::new(move |renewed| if is_lost() { vec![Renewed::Lost; renewed.len()] } else { renewed }),
        ..Hostile::new()
    };
    let tasks = started([terms.task("t").gate(leases(store.clone()).lease("l").ttl(TTL))]);
    sleep(TTL / 3 + millis(10)).await;
    assert_eq!((state(&tasks, "t"), store.store.held_term("l")), (Some(TaskState::Standby), None));
    sleep(secs(2)).await;
    assert_eq!(terms.all(), [1, 2], "far sooner than the lease lasts");
}

#[tokio::test(start_paused = true)]
async fn claim_that_finds_another_holder_ends_the_run() {
    // At the begin of the loop, and after its first iteration.
    for calls in [&[1][..], &[2]] {
        let is_lost = at_calls(calls);
        let store = Hostile {
            claim: Arc::new(move |claim| if is_lost() { Claim::Lost } else { claim }),
            ..Hostile::new()
        };
        let iterations = TaskLoop::on(Schedule::every(secs(3_600)), |_| async {});
        let lease = leases(store.clone()).lease("l").ttl(TTL).after_run();
        let tasks = started([CriticalTaskConfig::from_loop("t", iterations).gate(lease)]);
        sleep(millis(10)).await;
        assert_eq!(state(&tasks, "t"), Some(TaskState::Standby), "{calls:?}");
        assert_eq!(tasks.snapshot("t").unwrap().total_runs(), calls[0] - 1);
    }
}

#[tokio::test(start_paused = true)]
async fn lease_without_a_grace_leaves_time_for_destructors() {
    /// Notes when it is dropped.
    struct Notes(Arc<Mutex<Vec<Duration>>>, Instant);
    impl Drop for Notes {
        fn drop(&mut self) {
            self.0.lock().unwrap().push(self.1.elapsed());
        }
    }
    let began = Instant::now();
    let store = Hostile { longest_renewed: Duration::ZERO, ..Hostile::new() };
    let dropped = Arc::new(Mutex::new(Vec::new()));
    let noted = dropped.clone();
    let deaf = CriticalTaskConfig::new("t", move |_| {
        let notes = Notes(noted.clone(), began);
        async move {
            let _notes = notes;
            std::future::pending::<()>().await;
        }
    });
    let _tasks = started([deaf.gate(leases(store.clone()).lease("l").ttl(TTL).grace(Duration::ZERO))]);
    sleep(TTL).await;
    let dropped = dropped.lock().unwrap().clone();
    assert!(dropped.len() == 1 && dropped[0] <= TTL - TTL / 100, "{dropped:?}");
}

#[tokio::test(start_paused = true)]
async fn candidate_asks_again_whatever_time_its_store_names() {
    for names in [Duration::MAX, secs(u64::MAX / 2), Duration::ZERO] {
        let (is_held, terms) = (at_calls(&[1, 2]), Terms::default());
        let store = Hostile {
            acquire: Arc::new(move |answer| match is_held() {
                true => Answer::HeldBy { holder: None, ask_again_in: names },
                false => answer,
            }),
            ..Hostile::new()
        };
        let _tasks = started([terms.task("t").gate(leases(store.clone()).lease("l").ttl(TTL))]);
        sleep(TTL * 3).await;
        assert_eq!(terms.all().len(), 1, "{names:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn term_that_does_not_grow_begins_no_run() {
    let (given, terms) = (Arc::new(AtomicU64::new(0)), Terms::default());
    let next = given.clone();
    let store = Hostile {
        acquire: Arc::new(move |answer| match answer {
            Answer::Granted { last_run, .. } => Answer::Granted { term: next.load(SeqCst), last_run },
            held => held,
        }),
        ..Hostile::new()
    };
    let leases = leases(store.clone());
    let tasks = started([terms.task("t").gate(leases.lease("l").ttl(TTL))]);
    sleep(TTL).await;
    assert!(terms.all().is_empty(), "a term is at least 1");
    given.store(7, SeqCst);
    sleep(TTL).await;
    for again in [7, 6, 0] {
        given.store(again, SeqCst);
        tasks.restart("t").unwrap();
        sleep(TTL).await;
        assert_eq!((terms.all(), state(&tasks, "t")), (vec![7], Some(TaskState::Standby)), "{again}");
    }
    given.store(8, SeqCst);
    sleep(TTL).await;
    assert_eq!(terms.all(), [7, 8]);
}

#[tokio::test(start_paused = true)]
async fn store_that_panics_is_one_that_fails() {
    let terms = Terms::default();
    let panics = |calls| {
        let is_now = at_calls(calls);
        move || assert!(!is_now(), "the store panics")
    };
    let [acquire, renew, claim, release] = [&[1_u64, 2][..], &[2, 5], &[1, 3], &[1]].map(panics);
    let store = Hostile {
        acquire: Arc::new(move |answer| {
            acquire();
            answer
        }),
        renew: Arc::new(move |answer| {
            renew();
            answer
        }),
        claim: Arc::new(move |answer| {
            claim();
            answer
        }),
        release: Arc::new(move |answer| {
            release();
            answer
        }),
        ..Hostile::new()
    };
    let leases = leases(store.clone());
    let (ran, counts) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(true)));
    let (counted, is_counted) = (ran.clone(), counts.clone());
    let iterations = TaskLoop::on(Schedule::every(secs(10)), move |_| {
        counted.fetch_add(u64::from(is_counted.load(SeqCst)), SeqCst);
        async {}
    });
    let tasks = started([
        terms.task("t").gate(leases.lease("l").ttl(TTL)),
        CriticalTaskConfig::from_loop("loop", iterations).gate(leases.lease("loop").ttl(TTL)),
    ]);
    sleep(TTL * 10).await;
    assert_eq!(terms.all().len(), 1, "no lease is lost: {:?}", terms.all());
    let snapshot = tasks.snapshot("loop").unwrap();
    assert_eq!((snapshot.total_restarts(), snapshot.last_error), (0, None));
    assert!(ran.load(SeqCst) > 10);
    counts.store(false, SeqCst);
    tasks.restart("t").unwrap();
    sleep(TTL / 2).await;
    assert_eq!(terms.all().len(), 2, "given back at the second request");
}

#[tokio::test(start_paused = true)]
async fn last_run_of_another_age_does_not_hold_up_a_loop() {
    let ages = [
        SystemTime::UNIX_EPOCH,
        SystemTime::UNIX_EPOCH - secs(4_000_000_000),
        SystemTime::UNIX_EPOCH + secs(400_000_000_000),
        SystemTime::UNIX_EPOCH + secs(9_000_000_000_000_000),
    ];
    for policy in [MissedPolicy::Skip, MissedPolicy::RunOnce, MissedPolicy::CatchUp(3)] {
        for age in ages {
            let store = Hostile {
                acquire: Arc::new(move |answer| match answer {
                    Answer::Granted { term, .. } => Answer::Granted { term, last_run: Some(age) },
                    held => held,
                }),
                claim: Arc::new(|_| Claim::Won),
                ..Hostile::new()
            };
            let ran = Arc::new(AtomicU64::new(0));
            let counted = ran.clone();
            let iterations = TaskLoop::on(Schedule::every(secs(1)).aligned("UTC"), move |_| {
                counted.fetch_add(1, SeqCst);
                async {}
            });
            let config = CriticalTaskConfig::from_loop("l", iterations.missed(policy));
            let wall = otel_tasks::testing::WallClock::starting(SystemTime::UNIX_EPOCH + secs(1_790_000_000));
            let tasks = TaskManager::builder().wall_clock(wall.reader()).build().unwrap();
            tasks.register(config.gate(leases(store.clone()).lease("l").ttl(TTL))).unwrap();
            tasks.start();
            let began = std::time::Instant::now();
            sleep(secs(10)).await;
            // What comes before the last claim is not due.
            let is_past = age < wall.now();
            assert_eq!(ran.load(SeqCst) >= 5, is_past, "{policy:?} {age:?}: {}", ran.load(SeqCst));
            let snapshot = tasks.snapshot("l").unwrap();
            assert_eq!((snapshot.total_restarts(), snapshot.last_error), (0, None));
            assert!(began.elapsed() < secs(20), "{policy:?} {age:?}: {:?}", began.elapsed());
        }
    }
}

#[cfg(feature = "postgres")]
#[tokio::test(start_paused = true)]
async fn server_that_does_not_speak_is_given_up() {
    // The kernel accepts the connection.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("host=127.0.0.1 port={} user=shop", listener.local_addr().unwrap().port());
    let store = otel_tasks_lease::Postgres::new(&address).unwrap();
    let migrated = tokio::time::timeout(secs(600), store.migrate()).await;
    assert_eq!(migrated.expect("given up").unwrap_err().error_type(), "timeout");
}
