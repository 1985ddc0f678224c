//! The books of a loop balance, whatever happens to it: each time that was due was run, or counted with its reason, once.
//!
//! What was due is reckoned here from the schedule's pure times alone: from those that the clock showed while the schedule held and the
//! loop was neither paused nor over.

use std::{collections::BTreeSet, sync::atomic::AtomicBool};

use otel_tasks::schedule::{ManualRun, MissedPolicy, OverlapPolicy};
use proptest::prelude::*;

use super::*;

use crate::support::WallClock;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
/// How long a loop waits after an error, in minutes.
const BACKOFF: u64 = 25;

/// Half a second past some midnight: what the test does never falls together with a time of a calendar.
fn midnight() -> SystemTime {
    SystemTime::UNIX_EPOCH + secs(20_000 * 24 * HOUR) + millis(500)
}

#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    /// The clock is set, by so many minutes.
    Set(i64),
    Restart,
    Change(usize),
    Pause(u64),
    /// Somebody asks for an iteration.
    Run,
    /// The next iteration to end fails, and ends the life.
    Fail,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1_u64..200_000).prop_map(Step::Pass),
        2 => (-300_i64..300).prop_map(Step::Set),
        1 => Just(Step::Restart),
        1 => (0_usize..3).prop_map(Step::Change),
        1 => (1_u64..200_000).prop_map(Step::Pause),
        1 => Just(Step::Run),
        1 => Just(Step::Fail),
    ];
    prop::collection::vec(step, 1..30)
}

/// What is said of a loop beside its schedule.
#[derive(Debug, Clone)]
struct Loop {
    /// How long an iteration takes, in seconds.
    takes: u64,
    missed: MissedPolicy,
    overlap: OverlapPolicy,
    count: Option<u64>,
    /// How long the hook before each life takes, in seconds, and how many of them fail.
    hook: (u64, u64),
    /// The jitter of each iteration, as a part of what it may be.
    random: f64,
}

fn loops() -> impl Strategy<Value = Loop> {
    let takes = prop_oneof![Just(0_u64), 1_u64..5_400];
    let missed =
        prop_oneof![Just(MissedPolicy::Skip), Just(MissedPolicy::RunOnce), Just(MissedPolicy::CatchUp(3))];
    let overlap = prop_oneof![
        Just(OverlapPolicy::Skip),
        Just(OverlapPolicy::Queue),
        Just(OverlapPolicy::Allow(2)),
        Just(OverlapPolicy::CancelRunning),
    ];
    let count = prop_oneof![4 => Just(None), 1 => (1_u64..12).prop_map(Some)];
    let hook = prop_oneof![2 => Just((0_u64, 0_u64)), 1 => (0_u64..9_000, 0_u64..3)];
    let random = prop_oneof![Just(0.0), Just(0.5), Just(0.999)];
    (takes, missed, overlap, count, hook, random).prop_map(|(takes, missed, overlap, count, hook, random)| {
        Loop { takes, missed, overlap, count, hook, random }
    })
}

/// What happened, as the loop's own code has seen it.
#[derive(Default)]
struct Seen {
    /// How many iterations the schedule has begun, and somebody.
    begun: u64,
    manual: u64,
    /// Those of this life that the schedule has begun.
    of_life: (u64, u64),
    /// When the last of a count began.
    over: Option<SystemTime>,
    /// When each life began its work, and when it ended, or was ended.
    lives: Vec<(SystemTime, Option<SystemTime>)>,
    /// What the outcomes say they were due at.
    due: Vec<SystemTime>,
}

impl Seen {
    fn ends(&mut self, at: SystemTime) {
        if let Some((_, end @ None)) = self.lives.last_mut() {
            *end = Some(at);
        }
    }
}

struct Running {
    clock: WallClock,
    tasks: TaskManager,
    handle: LoopHandle,
    seen: Arc<Mutex<Seen>>,
    running: Arc<AtomicUsize>,
    in_hook: Arc<AtomicBool>,
    fails: Arc<AtomicBool>,
    asks: Arc<AtomicBool>,
}

/// Counts down when an iteration ends, or is dropped.
struct Runs(Arc<AtomicUsize>);

impl Drop for Runs {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Running {
    fn begin(of: &Loop, schedule: Schedule, last_run: Option<SystemTime>) -> Self {
        let clock = WallClock::starting(midnight());
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let running = Arc::new(AtomicUsize::new(0));
        let [in_hook, fails, asks] = [(); 3].map(|()| Arc::new(AtomicBool::new(false)));
        let (log, reader, count, fail, asked) =
            (seen.clone(), clock.clone(), running.clone(), fails.clone(), asks.clone());
        let (takes, limit) = (of.takes, of.count);
        let body = TaskLoop::on(schedule, move |ctx: TaskContext| {
            let mut seen = log.lock().unwrap();
            if asked.swap(false, SeqCst) {
                seen.manual += 1;
            } else {
                seen.begun += 1;
                if seen.of_life.0 != ctx.generation() {
                    seen.of_life = (ctx.generation(), 0);
                }
                seen.of_life.1 += 1;
                if limit == Some(seen.of_life.1) {
                    seen.over = Some(reader.now());
                }
            }
            drop(seen);
            count.fetch_add(1, SeqCst);
            let (runs, fail, log) = (Runs(count.clone()), fail.clone(), log.clone());
            async move {
                let _runs = runs;
                if takes > 0 {
                    sleep(secs(takes)).await;
                }
                // After the last of a count a life that failed would begin another.
                let is_over = log.lock().unwrap().over.is_some();
                if !is_over && fail.swap(false, SeqCst) { Err("down") } else { Ok(()) }
            }
        });
        let (log, ends, reader, ender) = (seen.clone(), seen.clone(), clock.clone(), clock.clone());
        let (in_it, lives, hook) = (in_hook.clone(), AtomicU64::new(0), of.hook);
        let outcomes = seen.clone();
        let body = body
            .missed(of.missed)
            .overlap(of.overlap)
            .last_run(last_run)
            .before_loop(move |_| {
                in_it.store(true, SeqCst);
                let (log, reader, in_it) = (log.clone(), reader.clone(), in_it.clone());
                let fails = lives.fetch_add(1, SeqCst) < hook.1;
                async move {
                    if hook.0 > 0 {
                        sleep(secs(hook.0)).await;
                    }
                    in_it.store(false, SeqCst);
                    if fails {
                        return Err("not yet");
                    }
                    log.lock().unwrap().lives.push((reader.now(), None));
                    Ok(())
                }
            })
            .after_iteration(move |done: LoopOutcome| {
                outcomes.lock().unwrap().due.extend(done.due);
                async {}
            })
            .on_error(move |_| {
                ends.lock().unwrap().ends(ender.now());
                async { OnError::End }
            });
        let body = match limit {
            Some(count) => body.count(count),
            None => body,
        };
        let handle = body.handle();
        let random = of.random;
        let tasks = TaskManager::builder().wall_clock(clock.reader()).random(move || random).build().unwrap();
        let config = CriticalTaskConfig::from_loop("l", body)
            .shutdown_grace(secs(0))
            .backoff(Backoff::constant(secs(BACKOFF * MINUTE)));
        tasks.register(config).unwrap();
        tasks.start();
        Self { clock, tasks, handle, seen, running, in_hook, fails, asks }
    }

    /// Whether a life is at work.
    fn works(&self) -> bool {
        self.handle.is_running() && !self.in_hook.load(SeqCst) && !self.is_over()
    }

    fn is_idle(&self) -> bool {
        self.running.load(SeqCst) == 0
    }

    fn is_over(&self) -> bool {
        self.seen.lock().unwrap().over.is_some() || state(&self.tasks, "l") == Some(TaskState::Finished)
    }

    /// Asks for an iteration, where it would begin at once.
    async fn run(&self) -> Option<ManualRun> {
        if !self.works() {
            return None;
        }
        self.asks.store(true, SeqCst);
        let manual = self.handle.run_now().ok();
        if manual.is_none() {
            self.asks.store(false, SeqCst);
        }
        settle().await;
        assert!(!self.asks.load(SeqCst), "what is accepted begins");
        manual
    }

    /// Until all that runs or waits is through; then the loop is stopped.
    async fn finish(&self, of: &Loop, jitter: u64) {
        for _ in 0..6 {
            sleep(secs(of.takes + jitter + 60)).await;
        }
        self.handle.stop();
        self.seen.lock().unwrap().ends(self.clock.now());
        sleep(secs(of.takes * 4 + of.hook.0 + 60)).await;
    }

    /// What was run, missed and overlapped.
    fn accounted(&self) -> (u64, u64, u64) {
        let snapshot = self.tasks.snapshot("l").unwrap();
        let begun = self.seen.lock().unwrap().begun;
        (begun, snapshot.skipped(SkipReason::Missed), snapshot.skipped(SkipReason::Overlapped))
    }

    fn check(&self, expected: u64) -> Result<(), TestCaseError> {
        let (begun, missed, overlapped) = self.accounted();
        prop_assert_eq!(
            begun + missed + overlapped,
            expected,
            "run {}, missed {}, overlapped {}",
            begun,
            missed,
            overlapped
        );
        let mut due = self.seen.lock().unwrap().due.clone();
        due.sort_unstable();
        prop_assert!(due.windows(2).all(|pair| pair[0] < pair[1]), "none twice: {due:?}");
        Ok(())
    }
}

fn block_on<T>(test: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(test)
}

fn calendars(jitter: u64) -> [Schedule; 4] {
    [
        Schedule::cron("0 1-23 * * *", "UTC"),
        Schedule::cron("*/20 0-23 * * *", "UTC"),
        Schedule::daily(["00:30", "06:00", "06:10", "17:00"], "UTC").except(|time| time.hour == 17),
        Schedule::once(midnight() + secs(5 * HOUR)),
    ]
    .map(|schedule| schedule.jitter(secs(jitter)))
}

/// What the clock has shown of a schedule's times, each once.
#[derive(Default)]
struct Shown {
    times: BTreeSet<SystemTime>,
    total: u64,
    /// The latest of them.
    latest: Option<SystemTime>,
    /// True if the latest was shown in a pause alone.
    latest_paused: bool,
    since: Option<SystemTime>,
}

impl Shown {
    /// The clock shows this. With `counts`, the times since then are due.
    fn show(&mut self, schedule: &Schedule, now: SystemTime, counts: bool) {
        let since = *self.since.get_or_insert(now);
        let mut time = since.min(now) - Duration::from_nanos(1);
        while let Some(next) = schedule.next_after(time).filter(|next| *next <= now) {
            time = next;
            if self.latest.is_none_or(|latest| next > latest) && self.times.insert(next) {
                self.total += u64::from(counts);
                self.latest_paused = !counts;
            }
        }
        self.since = Some(since.min(now));
        // Later times alone are due from now on.
        self.latest = self.latest.max(self.times.last().copied());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, max_shrink_iters: 100, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn the_times_of_a_calendar_balance(
        of in loops(),
        jitter in prop_oneof![2 => Just(0_u64), 1 => 1_u64..1_200],
        first in 0_usize..4,
        carried in prop::option::of(1_u64..30),
        steps in steps(),
    ) {
        block_on(async move {
            // What waits for its jitter is not due any more once a count is reached.
            let jitter = if of.count.is_some() { 0 } else { jitter };
            let all = calendars(jitter);
            let mut current = first;
            // A new life begins `once` again: there a life is all there is.
            let is_once = |current: usize| current == 3;
            let carried = carried.filter(|_| !is_once(first)).map(|hours| midnight() - secs(hours * HOUR));
            let of = Loop { hook: if is_once(first) { (0, 0) } else { of.hook }, ..of };
            let l = Running::begin(&of, all[current].clone(), carried);
            settle().await;
            let mut shown = Shown { since: carried, latest: carried, ..Shown::default() };
            let now = |l: &Running| {
                let over = l.seen.lock().unwrap().over;
                over.unwrap_or_else(|| l.clock.now())
            };
            shown.show(&all[current], now(&l), true);
            for step in steps {
                if l.is_over() {
                    break;
                }
                match step {
                    Step::Pass(by) => sleep(secs(by / 10)).await,
                    // A time that passed in a pause, and passes again, is due for a life that has begun after the pause alone.
                    Step::Set(by)
                        if l.works()
                            && l.is_idle()
                            && (by > 0 || jitter == 0 && !shown.latest_paused) =>
                    {
                        l.clock.shift(by * MINUTE as i64);
                    }
                    Step::Restart if !is_once(current) => l.handle.restart().unwrap(),
                    Step::Change(other) if l.works() && !is_once(current) => {
                        shown.show(&all[current], now(&l), true);
                        current = other;
                        let count = of.count;
                        let other = count.map_or(all[other].clone(), |count| all[other].clone().count(count));
                        l.handle.change_schedule(other).unwrap();
                        shown.since = Some(l.clock.now());
                    }
                    Step::Pause(by) if !is_once(current) => {
                        shown.show(&all[current], now(&l), true);
                        l.handle.pause().unwrap();
                        sleep(secs(by / 10)).await;
                        if l.is_over() {
                            break;
                        }
                        l.handle.resume().unwrap();
                        settle().await;
                        shown.show(&all[current], l.clock.now(), false);
                    }
                    Step::Run => drop(l.run().await),
                    Step::Fail if !is_once(current) => l.fails.store(true, SeqCst),
                    _ => continue,
                }
                // The clock is looked at.
                sleep(secs(31)).await;
                shown.show(&all[current], now(&l), true);
            }
            l.finish(&of, jitter).await;
            let end = l.seen.lock().unwrap().over;
            let stopped = l.clock.now() - secs(of.takes * 4 + of.hook.0 + 60);
            shown.show(&all[current], end.unwrap_or(stopped), true);
            l.check(shown.total)
        })?;
    }
}

/// Distances that nothing else falls together with.
fn rhythms() -> impl Strategy<Value = Schedule> {
    let interval = prop_oneof![Just(433_337_u64), Just(1_801_111), Just(5_400_777)];
    let immediate = prop_oneof![Just(None), Just(Some(true)), Just(Some(false))];
    let phase = prop_oneof![2 => Just(0), 1 => Just(1), 1 => Just(2), 1 => Just(3)];
    (interval, immediate, phase, 0_u32..4).prop_map(|(interval, immediate, phase, quarters)| {
        let schedule = Schedule::every(millis(interval)).jitter(millis(interval) / 4 * quarters);
        let schedule = immediate.map_or(schedule.clone(), |immediate| schedule.immediate(immediate));
        match phase {
            0 => schedule,
            1 => schedule.spread("a key"),
            2 => schedule.starts(midnight() - millis(12_345_678)),
            _ => schedule.starts(midnight() + millis(4_345_678)),
        }
    })
}

#[test]
fn times_that_come_while_a_loop_catches_up_are_counted_when_its_count_is_reached() {
    block_on(async {
        let of = Loop {
            takes: 3_857,
            missed: MissedPolicy::CatchUp(3),
            overlap: OverlapPolicy::Skip,
            count: Some(2),
            hook: (0, 0),
            random: 0.0,
        };
        let schedule = Schedule::every(millis(433_337)).immediate(false);
        let l = Running::begin(&of, schedule, Some(midnight() - millis(866_674)));
        sleep(secs(31)).await;
        l.finish(&of, 434).await;
        // Two that an earlier process left, and eight during the first of them: two run, and the others are missed.
        assert_eq!(l.accounted(), (2, 8, 0));
    });
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, max_shrink_iters: 100, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn the_times_of_a_rhythm_balance(
        of in loops(),
        schedule in rhythms(),
        carried in prop::option::of(1_u64..20_000_000),
        steps in steps(),
    ) {
        block_on(async move {
            // What waits for its jitter is not due any more once a count is reached.
            let schedule = if of.count.is_some() { schedule.jitter(Duration::ZERO) } else { schedule };
            let jitter = schedule.interval().unwrap().as_secs() + 1;
            let carried = carried.map(|millis| midnight() - Duration::from_millis(millis));
            // A hook that fails has no life in which it goes on from there.
            let of = Loop { hook: (of.hook.0, if carried.is_some() { 0 } else { of.hook.1 }), ..of };
            let l = Running::begin(&of, schedule.clone(), carried);
            settle().await;
            let mut pauses = Vec::new();
            for step in steps {
                if l.is_over() {
                    break;
                }
                match step {
                    Step::Pass(by) => sleep(millis(by * 100)).await,
                    Step::Restart => {
                        l.handle.restart().unwrap();
                        l.seen.lock().unwrap().ends(l.clock.now());
                    }
                    // During a hook it is not yet known that an iteration at once takes the place of what was left.
                    Step::Pause(by) if carried.is_none() || !l.in_hook.load(SeqCst) => {
                        let paused = l.clock.now();
                        l.handle.pause().unwrap();
                        sleep(millis(by * 100)).await;
                        if l.is_over() {
                            break;
                        }
                        l.handle.resume().unwrap();
                        pauses.push((paused, l.clock.now()));
                    }
                    Step::Run => drop(l.run().await),
                    Step::Fail => l.fails.store(true, SeqCst),
                    _ => continue,
                }
                sleep(millis(31_013)).await;
            }
            // A stop during the first hook: what came after the stop is counted only if the schedule is immediate.
            while carried.is_some() && l.in_hook.load(SeqCst) {
                sleep(secs(60)).await;
            }
            l.finish(&of, jitter).await;
            let (lives, over) = {
                let seen = l.seen.lock().unwrap();
                (seen.lives.clone(), seen.over)
            };
            let mut expected = 0;
            for (index, (begin, end)) in lives.iter().enumerate() {
                let end = over.filter(|_| index + 1 == lives.len()).or(*end);
                // One that has no end was stopped during its hook.
                let end = end.unwrap_or(*begin - millis(1));
                let is_due = |time: &SystemTime| {
                    !pauses.iter().any(|(paused, resumed)| (paused..resumed).contains(&time))
                };
                // The first life goes on from what an earlier process has run.
                let owed: Vec<_> = match carried.filter(|_| index == 0) {
                    None => schedule.upcoming(*begin).take_while(|time| *time <= end).collect(),
                    Some(carried) => {
                        let text = schedule.to_string();
                        let is_immediate = text.contains("immediate true");
                        let after: Vec<_> = if text.contains("starts") && text.contains("immediate false") {
                            // The first is one interval after the start.
                            let from = carried + Duration::from_nanos(1);
                            schedule.upcoming(from).take_while(|time| *time <= end).collect()
                        } else {
                            let next = |time: &SystemTime| schedule.next_after(*time);
                            std::iter::successors(next(&carried), next).take_while(|time| *time <= end).collect()
                        };
                        if is_immediate {
                            let missed = after.into_iter().filter(|time| time < begin);
                            missed.chain(schedule.upcoming(*begin).take_while(|time| *time <= end)).collect()
                        } else {
                            after
                        }
                    }
                };
                expected += owed.iter().filter(|time| is_due(time)).count() as u64;
            }
            l.check(expected)
        })?;
    }
}
