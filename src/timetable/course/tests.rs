//! Each step of a course beside a plain one, which has the times in a list and looks through it.

use std::{cell::RefCell, time::UNIX_EPOCH};

use proptest::prelude::*;

use super::*;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Some night before a change of the clock in Berlin.
fn at(steady: Duration) -> Now {
    Now { steady, wall: UNIX_EPOCH + secs(1_711_800_000) + steady }
}

/// The time since the beginning.
fn since_begin(wall: SystemTime) -> Duration {
    wall.duration_since(at(Duration::ZERO).wall).expect("nothing is due before the beginning")
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct PlannedTime {
    index: usize,
    /// With its jitter, or while it waits.
    at: Duration,
    jitter: Duration,
}

/// The time of the schedule after one.
fn after(schedule: &Schedule) -> impl Fn(Duration) -> Option<Duration> + 'static {
    let schedule = schedule.clone();
    move |time| match schedule.interval() {
        Some(interval) => Some(time + interval),
        None => schedule.next_after(at(time).wall).map(since_begin),
    }
}

/// The first times, and those after them as far as they are asked for.
struct Times {
    known: RefCell<Vec<Duration>>,
    after: Box<dyn Fn(Duration) -> Option<Duration>>,
}

impl Times {
    fn of(schedule: &Schedule, first: impl IntoIterator<Item = Duration>) -> Self {
        Self { known: RefCell::new(first.into_iter().collect()), after: Box::new(after(schedule)) }
    }

    fn get(&self, index: usize) -> Option<Duration> {
        let mut known = self.known.borrow_mut();
        while known.len() <= index {
            let next = (self.after)(*known.last()?)?;
            known.push(next);
        }
        known.get(index).copied()
    }
}

/// The first time of a schedule that begins then.
fn first(schedule: &Schedule, from: SystemTime) -> Option<Duration> {
    schedule.upcoming(from).next().map(since_begin)
}

/// What a [`Course`] is to do, from a list of all times.
struct Plain {
    times: Times,
    due: Option<PlannedTime>,
    last: Option<usize>,
    /// When that was on the clock of rhythms: a change to a calendar and back does not shift a rhythm.
    used_at: Duration,
    behind: u64,
    /// What was due up to then is not missed: another schedule held.
    since: Duration,
    spread: Duration,
    ends: Option<Duration>,
}

impl Plain {
    fn begin(schedule: &Schedule, jitter: f64) -> Self {
        let mut plain = Self {
            times: Times::of(schedule, first(schedule, at(Duration::ZERO).wall)),
            due: None,
            last: None,
            used_at: Duration::ZERO,
            behind: 0,
            since: Duration::ZERO,
            spread: schedule.spread(),
            ends: schedule.end().map(since_begin),
        };
        plain.plan(0, jitter);
        plain
    }

    fn plan(&mut self, index: usize, jitter: f64) {
        let jitter = self.spread.mul_f64(jitter);
        let time = self.times.get(index).filter(|time| self.is_within(*time));
        self.due = time.map(|time| PlannedTime { index, at: time + jitter, jitter });
    }

    fn is_within(&self, time: Duration) -> bool {
        self.ends.is_none_or(|ends| time <= ends)
    }

    fn time(&self, index: usize) -> Duration {
        self.times.get(index).expect("it was due")
    }

    /// From the one after the last on.
    fn later_ones(&self) -> impl Iterator<Item = (usize, Duration)> {
        (self.after_last()..).map_while(|index| Some((index, self.times.get(index)?)))
    }

    fn use_up(&mut self, index: usize) {
        self.last = Some(index);
        self.used_at = self.time(index);
    }

    fn after_last(&self) -> usize {
        self.last.map_or(0, |last| last + 1)
    }

    fn next_in_the_list(&self) -> Option<Duration> {
        self.times.get(self.after_last()).filter(|time| self.is_within(*time))
    }

    /// The first time after the last one that has not passed.
    fn not_before(&self, now: Duration) -> usize {
        self.later_ones().find(|(_, time)| *time >= now).map_or(usize::MAX, |(index, _)| index)
    }

    fn passed(&self, is_past: impl Fn(Duration) -> bool) -> Vec<usize> {
        self.later_ones()
            .take_while(|(_, time)| is_past(*time) && self.is_within(*time))
            .filter(|(_, time)| *time > self.since)
            .map(|(index, _)| index)
            .collect()
    }

    fn fire(&mut self, missed: MissedPolicy, now: Duration) -> (Fire, u64) {
        let due = self.due.take().expect("something is due");
        self.use_up(due.index);
        let late = now - due.at;
        if self.behind > 0 {
            self.behind -= 1;
            return (Fire::Run { late }, 0);
        }
        let until = now.saturating_sub(due.jitter);
        let further = self.passed(|time| time <= until);
        let mut all = vec![due.index];
        all.extend(&further);
        let latest = all[all.len() - 1];
        let late = if further.is_empty() { late } else { until - self.time(latest) };
        let runs = match missed {
            MissedPolicy::Skip if late > Schedule::START_TOLERANCE => 0,
            MissedPolicy::Skip | MissedPolicy::RunOnce => 1,
            MissedPolicy::CatchUp(limit) => all.len().min(limit.max(1) as usize),
        };
        let left_out = (all.len() - runs) as u64;
        if runs == 0 {
            self.use_up(latest);
            return (Fire::Skip, left_out);
        }
        let first = all[all.len() - runs];
        self.use_up(first);
        self.behind = runs as u64 - 1;
        (Fire::Run { late: if further.is_empty() { late } else { until - self.time(first) } }, left_out)
    }

    fn follow(&mut self, queue: bool, now: Duration, jitter: f64) -> u64 {
        if self.behind > 0 {
            self.plan(self.after_last(), jitter);
            return 0;
        }
        match self.passed(|time| time < now).as_slice() {
            [first, .., latest] | [first @ latest] if queue => {
                self.due =
                    Some(PlannedTime { index: *latest, at: self.time(*first), jitter: Duration::ZERO });
                (latest - first) as u64
            }
            passed => {
                self.plan(self.not_before(now), jitter);
                passed.len() as u64
            }
        }
    }

    fn go_on(&mut self, now: Duration, jitter: f64) {
        let next = if self.behind > 0 { self.after_last() } else { self.not_before(now) };
        self.plan(next, jitter);
    }

    fn leave_out(&mut self, now: Duration, jitter: f64) {
        if let Some(due) = self.due.filter(|due| due.at < now) {
            self.behind = 0;
            self.use_up(due.index);
            self.plan(self.not_before(now), jitter);
        }
    }

    /// The schedule is this one since then; `waits` where an iteration has just ended.
    fn change(&mut self, schedule: &Schedule, since: Duration, waits: bool, now: Duration, jitter: f64) {
        self.spread = schedule.spread();
        self.ends = schedule.end().map(since_begin);
        self.since = since;
        self.behind = 0;
        let is_calendar = schedule.interval().is_none();
        let starts = schedule.start().filter(|starts| *starts > at(now).wall);
        let Some(last) = self.last else {
            let at_once = self.due.filter(|due| schedule.is_immediate() && starts.is_none() && due.at <= now);
            let from = at_once.map_or(now, |due| self.time(due.index));
            self.times = Times::of(schedule, first(schedule, at(from).wall));
            match at_once {
                // It stays as it is.
                Some(due) => self.due = Some(PlannedTime { index: 0, ..due }),
                None => self.plan(0, jitter),
            }
            return;
        };
        let last = self.time(last);
        let (last, from) =
            if is_calendar { (last.max(since), last.max(since)) } else { (last, self.used_at) };
        if let Some(starts) = starts.filter(|_| !is_calendar) {
            self.times = Times::of(schedule, [last].into_iter().chain(first(schedule, starts)));
            self.last = Some(0);
            self.plan(1, jitter);
            return;
        }
        let next = match after(schedule)(from) {
            // It is due at once, and the rhythm goes on from there.
            Some(next) if next < now && !waits => Some(now),
            next => next,
        };
        self.times = Times::of(schedule, [last].into_iter().chain(next));
        self.last = Some(0);
        if !waits {
            self.plan(1, jitter);
        }
    }
}

/// A schedule, and what a quarter of the least distance between two of its times is: with steps of it the clock often stands
/// right on a time.
fn schedules() -> impl Strategy<Value = (Schedule, Duration)> {
    let seconds = prop_oneof![Just(4), Just(20), Just(60), Just(80), Just(240)];
    let rhythm = (seconds, any::<bool>(), any::<bool>()).prop_map(|(seconds, immediate, jitter)| {
        let schedule = Schedule::every(secs(seconds)).immediate(immediate);
        (if jitter { schedule.jitter(secs(seconds / 2)) } else { schedule }, secs(seconds / 4))
    });
    let calendar = (
        prop_oneof![
            Just((Schedule::cron("* * * * *", "Europe/Berlin"), secs(15))),
            Just((Schedule::cron("*/7 1-3 * * *", "Europe/Berlin"), secs(60))),
            Just((
                Schedule::daily(["00:00", "02:00", "02:30", "03:00", "23:59:59"], "Europe/Berlin"),
                secs(450)
            )),
        ],
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|((schedule, unit), immediate, jitter)| {
            let schedule = schedule.immediate(immediate);
            (if jitter { schedule.jitter(unit * 2) } else { schedule }, unit)
        });
    let bounds = (prop::option::of(0_u32..20), prop::option::of(30_u32..200));
    (prop_oneof![rhythm, calendar], bounds).prop_map(|((mut schedule, unit), (starts, ends))| {
        if let Some(starts) = starts {
            schedule = schedule.starts(at(unit * starts).wall);
        }
        if let Some(ends) = ends {
            schedule = schedule.ends(at(unit * ends).wall);
        }
        (schedule, unit)
    })
}

fn policies() -> impl Strategy<Value = MissedPolicy> {
    prop_oneof![
        Just(MissedPolicy::Skip),
        Just(MissedPolicy::RunOnce),
        (0_u32..6).prop_map(MissedPolicy::CatchUp)
    ]
}

#[derive(Debug, Clone)]
enum Step {
    /// What is due begins so much later than it should, takes so long, and is followed: with `queue`, by one that waited.
    Run { late: u32, takes: u32, queue: bool },
    /// The same, but the course goes on while it runs.
    Beside { late: u32 },
    /// The loop was paused for so long.
    Pause { lasts: u32 },
    /// Another schedule, `ago` before it is looked at: while nothing runs, or so long into an iteration.
    Change { other: usize, ago: u32, running: Option<u32> },
}

fn steps() -> impl Strategy<Value = Vec<(Step, f64)>> {
    let mostly_short = || prop_oneof![3 => Just(0_u32), 3 => 1_u32..6, 1 => 6_u32..60];
    let step = prop_oneof![
        4 => (mostly_short(), mostly_short(), any::<bool>())
            .prop_map(|(late, takes, queue)| Step::Run { late, takes, queue }),
        2 => mostly_short().prop_map(|late| Step::Beside { late }),
        1 => mostly_short().prop_map(|lasts| Step::Pause { lasts }),
        1 => (0_usize..3, 0_u32..6, prop::option::of(0_u32..8))
            .prop_map(|(other, ago, running)| Step::Change { other, ago, running }),
    ];
    let jitter = prop_oneof![Just(0.0), Just(0.5), Just(1.0)];
    prop::collection::vec((step, jitter), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Whatever happens to a loop, each time that is used, left out or due is the one that a list of times says.
    #[test]
    fn a_course_is_a_plain_list_of_times(
        schedules in prop::collection::vec(schedules(), 3),
        missed in policies(),
        first_jitter in prop_oneof![Just(0.0), Just(1.0)],
        steps in steps(),
    ) {
        let (schedule, mut unit) = schedules[0].clone();
        let mut course = Course::begin(Arc::new(schedule.clone()), None, at(Duration::ZERO), &|| first_jitter);
        let mut plain = Plain::begin(&schedule, first_jitter);
        let mut clock = Duration::ZERO;
        for (step, jitter) in steps {
            let random = || jitter;
            let due = course.due().map(|due| due.on_wall(at(clock)).map(since_begin).expect("in range"));
            prop_assert_eq!(due, plain.due.map(|due| due.at), "after {:?}", clock);
            let last = plain.last.map(|last| plain.time(last));
            prop_assert_eq!(course.last_used().map(since_begin), last);
            let Some(due) = due else { break };
            match step {
                Step::Run { late, takes, queue } => {
                    clock = clock.max(due) + unit * late;
                    let fired = course.fire(missed, at(clock));
                    prop_assert_eq!(fired, plain.fire(missed, clock));
                    let upcoming = course.upcoming(at(clock)).and_then(|time| time.on_wall(at(clock)));
                    prop_assert_eq!(upcoming.map(since_begin), plain.next_in_the_list());
                    if fired.0 == Fire::Skip {
                        course.go_on(at(clock), &random);
                        plain.go_on(clock, jitter);
                    } else {
                        clock += unit * takes;
                        let passed = course.follow(queue, at(clock), &random);
                        prop_assert_eq!(passed, plain.follow(queue, clock, jitter));
                    }
                }
                Step::Beside { late } => {
                    clock = clock.max(due) + unit * late;
                    prop_assert_eq!(course.fire(missed, at(clock)), plain.fire(missed, clock));
                    course.go_on(at(clock), &random);
                    plain.go_on(clock, jitter);
                }
                Step::Pause { lasts } => {
                    clock += unit * lasts;
                    course.leave_out(at(clock), &random);
                    plain.leave_out(clock, jitter);
                }
                Step::Change { other, ago, running } => {
                    let waits = running.is_some();
                    if let Some(takes) = running {
                        clock = clock.max(due);
                        let fired = course.fire(missed, at(clock));
                        prop_assert_eq!(fired, plain.fire(missed, clock));
                        clock += unit * takes;
                    }
                    let (schedule, other_unit) = schedules[other].clone();
                    unit = other_unit;
                    let since = clock.saturating_sub(unit * ago);
                    course.change(Arc::new(schedule.clone()), since, waits, at(clock), &random);
                    plain.change(&schedule, since, waits, clock, jitter);
                    if waits && course.due().is_none() {
                        let passed = course.follow(false, at(clock), &random);
                        prop_assert_eq!(passed, plain.follow(false, clock, jitter));
                    }
                }
            }
        }
    }
}

/// On Saturday noon: the last nine o'clock was this morning's, the next is tomorrow's.
fn begun_after(last: Option<SystemTime>) -> Option<SystemTime> {
    let schedule = Arc::new(Schedule::daily(["09:00"], "UTC"));
    let noon = Now { steady: Duration::ZERO, wall: saturday() + secs(12 * 3_600) };
    Course::begin(schedule, last, noon, &|| 0.0).due().and_then(|due| due.on_wall(noon))
}

/// Midnight, UTC.
fn saturday() -> SystemTime {
    UNIX_EPOCH + secs(1_711_756_800)
}

#[test]
fn a_new_life_does_what_the_one_before_has_not_done() {
    const DAY: u64 = 86_400;
    let nine = |day: u64| saturday() + secs(9 * 3_600 + day * DAY);
    assert_eq!(begun_after(None), Some(nine(1)));
    assert_eq!(begun_after(Some(nine(0) - secs(3 * DAY))), Some(nine(1)), "what was due meanwhile is over");
    assert_eq!(begun_after(Some(nine(1))), Some(nine(2)), "the clock was set back since");
    let noon = saturday() + secs(DAY / 2);
    assert_eq!(begun_after(Some(noon + secs(2 * DAY))), Some(nine(3)), "by two days");
    let too_far = noon + secs(2 * DAY) + Duration::from_nanos(1);
    assert_eq!(begun_after(Some(too_far)), Some(nine(1)), "it was wrong before");
}

#[test]
fn more_than_are_counted_are_passed_all_the_same() {
    let start = at(Duration::ZERO);
    let every_second = Arc::new(Schedule::cron("* * * * * *", "UTC").immediate(true));
    let mut course = Course::begin(every_second, None, start, &|| 0.0);
    let later = at(secs(86_400) + Duration::from_millis(250));
    let expected = (Fire::Run { late: Duration::from_millis(250) }, MissedPolicy::MAX_COUNTED);
    assert_eq!(course.fire(MissedPolicy::RunOnce, later), expected);
    assert_eq!(course.last_used(), Some(at(secs(86_400)).wall));
    // And those that pass during an iteration: up to the present second, which is still to come.
    let again = at(secs(2 * 86_400));
    assert_eq!(course.follow(false, again, &|| 0.0), MissedPolicy::MAX_COUNTED);
    assert_eq!(course.due(), Some(Moment::Wall(again.wall)));
}
