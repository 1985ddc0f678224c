//! Random races of acquire, renew, claim, release and take-over, in virtual time: whatever is late, lost or refused, a task is polled only while
//! the store says that it holds the lease. `OTEL_TASKS_LEASE_SEED` runs one seed alone.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use otel_tasks::{
    CriticalTaskConfig, Schedule, TaskLoop, TaskManager,
    gate::{BootClock, BootInstant, Claim},
    schedule::MissedPolicy,
    testing::WallClock,
};
use otel_tasks_lease::{Answer, Ask, Held, LeaseStore, Leases, Renewed, StoreError, testing::Memory};
use tokio::time::{Instant, sleep, sleep_until};

const TTL: Duration = Duration::from_secs(12);
const REPLICAS: usize = 3;
const SEEDS: u64 = 12;
/// How long the network misbehaves.
const CHAOS: Duration = Duration::from_secs(20 * 60);

/// A replica's way to the store: requests are late before they take effect, and answers after it; both may be lost. What was sent takes effect also if
/// nobody waits for it.
#[derive(Clone)]
struct Network {
    store: Memory,
    random: Arc<Mutex<fastrand::Rng>>,
    is_bad: Arc<AtomicBool>,
    /// Until then this replica gets no answer.
    cut_until: Arc<Mutex<Instant>>,
}

impl Network {
    fn millis(&self, most: u64) -> Duration {
        Duration::from_millis(self.random.lock().unwrap().u64(0..=most))
    }

    fn chance(&self, of: u32) -> bool {
        self.is_bad.load(SeqCst) && self.random.lock().unwrap().u32(0..of) == 0
    }

    fn delay(&self) -> Duration {
        match self.chance(5) {
            // Up to far more than the limit of a request, and than the ttl.
            true => self.millis(if self.chance(4) { 30_000 } else { 4_000 }),
            false => self.millis(20),
        }
    }

    async fn request<T: Send + 'static>(
        &self,
        request: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let failed = || StoreError::new("lost", "on its way");
        let is_cut = *self.cut_until.lock().unwrap() > Instant::now();
        if is_cut || self.chance(12) {
            return Err(failed());
        }
        let (there, back, is_lost) = (self.delay(), self.delay(), self.chance(12));
        let effect = tokio::spawn(async move {
            sleep(there).await;
            request.await
        });
        let answer = effect.await.map_err(|error| StoreError::new("panic", error))?;
        sleep(back).await;
        let cut_until = *self.cut_until.lock().unwrap();
        if cut_until > Instant::now() {
            sleep_until(cut_until).await;
            return Err(failed());
        }
        if is_lost { Err(failed()) } else { answer }
    }
}

impl LeaseStore for Network {
    async fn acquire(&self, ask: &Ask) -> Result<Answer, StoreError> {
        let (store, ask) = (self.store.clone(), ask.clone());
        self.request(async move { store.acquire(&ask).await }).await
    }

    async fn renew(&self, held: &[Held]) -> Result<Vec<Renewed>, StoreError> {
        let (store, held) = (self.store.clone(), held.to_vec());
        self.request(async move { store.renew(&held).await }).await
    }

    async fn claim(&self, held: &Held, due: SystemTime) -> Result<Claim, StoreError> {
        let (store, held) = (self.store.clone(), held.clone());
        self.request(async move { store.claim(&held, due).await }).await
    }

    async fn release(&self, ask: &Ask) -> Result<(), StoreError> {
        let (store, ask) = (self.store.clone(), ask.clone());
        self.request(async move { store.release(&ask).await }).await
    }

    async fn freed(&self, lease: &str) {
        self.store.freed(lease).await;
    }
}

/// What must hold.
#[derive(Default)]
struct Seen {
    alive: usize,
    /// The terms in which a run began, in order.
    terms: Vec<u64>,
    /// How often each due time was run.
    due: BTreeMap<SystemTime, usize>,
    faults: Vec<String>,
}

type Shared = Arc<Mutex<Seen>>;

struct Alive(Shared);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.lock().unwrap().alive -= 1;
    }
}

fn polled(store: Memory, seen: Shared) -> CriticalTaskConfig {
    CriticalTaskConfig::new("polled", move |ctx| {
        let (store, seen) = (store.clone(), seen.clone());
        async move {
            let term = ctx.pass().map_or(0, |pass| pass.term());
            let _alive = {
                let mut now = seen.lock().unwrap();
                now.alive += 1;
                now.terms.push(term);
                Alive(seen.clone())
            };
            // Deaf at times: then it is dropped.
            let is_deaf = term % 2 == 0;
            let pass = ctx.pass().cloned();
            loop {
                {
                    let mut now = seen.lock().unwrap();
                    let held = store.held_term("polled");
                    // A late request of this holder may have counted its term up, in which case nobody else has one.
                    let is_own = held.is_some_and(|held| held >= term);
                    let others = now.terms.last().is_some_and(|last| *last > term);
                    if !is_own || others || now.alive != 1 {
                        let fault = format!("polled in term {term}: {held:?}, {} alive, {pass:?}", now.alive);
                        now.faults.push(fault);
                    }
                }
                let pause = sleep(Duration::from_millis(100));
                if is_deaf {
                    pause.await;
                } else if ctx.run_until_cancelled(pause).await.is_none() {
                    return;
                }
            }
        }
    })
}

fn due(seen: Shared) -> CriticalTaskConfig {
    let schedule = Schedule::every(Duration::from_secs(10)).aligned("UTC");
    let body = TaskLoop::on(schedule, |_| async {}).missed(MissedPolicy::CatchUp(1_000)).after_iteration(
        move |done| {
            *seen.lock().unwrap().due.entry(done.due.expect("scheduled")).or_default() += 1;
            async {}
        },
    );
    CriticalTaskConfig::from_loop("due", body)
}

async fn race(seed: u64) -> Result<(usize, usize), String> {
    let began = Instant::now();
    let wall = WallClock::starting(SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000));
    let (store, seen, is_bad) = (Memory::new(), Shared::default(), Arc::new(AtomicBool::new(true)));
    let random = Arc::new(Mutex::new(fastrand::Rng::with_seed(seed)));
    let (mut replicas, mut cuts) = (Vec::new(), Vec::new());
    for _ in 0..REPLICAS {
        let cut_until = Arc::new(Mutex::new(began));
        cuts.push(cut_until.clone());
        let network =
            Network { store: store.clone(), random: random.clone(), is_bad: is_bad.clone(), cut_until };
        let clock = BootClock::from_fn(move || BootInstant::after_boot(began.elapsed()));
        let leases = Leases::on(network, clock);
        let tasks = TaskManager::builder().wall_clock(wall.reader()).build().unwrap();
        tasks.register(polled(store.clone(), seen.clone()).gate(leases.lease("polled").ttl(TTL))).unwrap();
        tasks.register(due(seen.clone()).gate(leases.lease("due").ttl(TTL))).unwrap();
        tasks.start();
        replicas.push(tasks);
    }
    let pick = |most: usize| random.lock().unwrap().usize(0..most);
    while began.elapsed() < CHAOS {
        sleep(Duration::from_millis(u64::try_from(pick(20_000)).unwrap())).await;
        let cut = Duration::from_millis(u64::try_from(pick(40_000)).unwrap());
        *cuts[pick(REPLICAS)].lock().unwrap() = Instant::now() + cut;
        if pick(3) > 0 {
            continue;
        }
        let tasks = &replicas[pick(REPLICAS)];
        let name = ["polled", "due"][pick(2)];
        // Some are refused: nobody pauses what is paused.
        let _ = match pick(4) {
            0 => tasks.pause(name).is_ok(),
            1 | 2 => tasks.resume(name).is_ok(),
            _ => tasks.restart(name).is_ok(),
        };
    }
    is_bad.store(false, SeqCst);
    cuts.iter().for_each(|cut| *cut.lock().unwrap() = Instant::now());
    for tasks in &replicas {
        let _ = (tasks.resume("polled"), tasks.resume("due"));
    }
    // What is on its way arrives, and is over.
    sleep(Duration::from_secs(60) + TTL * 3).await;
    let (ran, terms) = {
        let seen = seen.lock().unwrap();
        if let Some(fault) = seen.faults.first() {
            return Err(fault.clone());
        }
        if !seen.terms.windows(2).all(|pair| pair[0] < pair[1]) {
            return Err(format!("terms do not grow: {:?}", seen.terms));
        }
        if let Some((due, times)) = seen.due.iter().find(|(_, times)| **times != 1) {
            return Err(format!("{due:?} ran {times} times"));
        }
        if seen.alive != 1 {
            return Err(format!("{} run in a network that is well", seen.alive));
        }
        (seen.due.len(), seen.terms.len())
    };
    for tasks in &replicas {
        tasks.shutdown().await;
    }
    match (store.held_term("polled"), store.held_term("due")) {
        (None, None) => Ok((ran, terms)),
        held => Err(format!("left behind: {held:?}")),
    }
}

#[test]
fn task_is_polled_only_while_it_holds_its_lease() {
    let seeds = match std::env::var("OTEL_TASKS_LEASE_SEED") {
        Ok(seed) => seed.parse().map(|seed| seed..=seed).expect("a number"),
        Err(_) => 0..=SEEDS,
    };
    let mut all = (0, 0);
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let ended = runtime.expect("built").block_on(race(seed));
        let (due, terms) = ended.unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
        all = (all.0 + due, all.1 + terms);
    }
    println!("{} due times, {} terms", all.0, all.1);
}
