//! A course beside a plain account, which has in a list what has come on its clock and is not used.

use std::{collections::BTreeSet, time::UNIX_EPOCH};

use proptest::prelude::*;

use super::*;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Some night before a change of the clock in Berlin.
fn at(steady: Duration) -> Now {
    Now { steady: Now::ORIGIN + steady, wall: UNIX_EPOCH + secs(1_711_800_000) + steady }
}

/// The times of a calendar, found one by one.
fn times_between(schedule: &Schedule, after: SystemTime, upto: SystemTime) -> Vec<SystemTime> {
    let mut times = Vec::new();
    let mut time = after;
    while let Some(next) = schedule.next_after(time).filter(|next| *next <= upto) {
        times.push(next);
        time = next;
    }
    times
}

/// The requirement for every loop on a calendar: each time that its clock showed under the schedule is run or counted once.
struct Plain {
    schedule: Schedule,
    /// Nothing before it is due.
    since: SystemTime,
    /// The latest time that is used.
    used: Option<SystemTime>,
    /// Came, and are not used.
    owed: BTreeSet<SystemTime>,
    clock: SystemTime,
}

impl Plain {
    /// Sets the clock. Returns the number of owed times that are lost, and must be counted.
    fn goes_to(&mut self, wall: SystemTime) -> u64 {
        let mut lost = 0;
        if wall < std::mem::replace(&mut self.clock, wall) {
            let back = self.used.and_then(|used| used.duration_since(wall).ok());
            if back.is_some_and(|back| back > self.schedule.not_repeated()) {
                // The clock was wrong.
                lost = self.owed.len() as u64;
                (self.used, self.since) = (None, wall);
                self.owed.clear();
            } else {
                self.since = self.since.min(wall);
                // What it shows again comes again, but for one of a schedule before.
                let again = self.owed.split_off(&(wall + Duration::from_nanos(1)));
                lost = again.iter().filter(|time| !self.is_own(**time)).count() as u64;
            }
        }
        self.collect();
        lost
    }

    /// Returns true if it is a time of the schedule, and not of one before.
    fn is_own(&self, time: SystemTime) -> bool {
        time >= self.since && self.schedule.next_after(time - Duration::from_nanos(1)) == Some(time)
    }

    /// All that the clock has shown by now.
    fn collect(&mut self) {
        let just_before = self.since - Duration::from_nanos(1);
        let after = self.used.map_or(just_before, |used| used.max(just_before));
        self.owed.extend(times_between(&self.schedule, after, self.clock));
    }

    /// Counts this number of the earliest times, and then runs one, maybe.
    fn account(&mut self, counted: u64, run: Option<SystemTime>) {
        for _ in 0..counted {
            self.use_first("counted");
        }
        if let Some(run) = run {
            assert_eq!(self.use_first("run"), run, "the earliest that is left is run");
        }
    }

    fn use_first(&mut self, what: &str) -> SystemTime {
        let first = self.owed.pop_first().unwrap_or_else(|| panic!("{what}, and nothing was owed"));
        self.used = self.used.max(Some(first));
        first
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// The clocks run until something is due, and this much longer; then it is taken.
    Fire { late: u32 },
    /// An iteration takes this long, and another has to wait for it.
    Follow { takes: u32, queue: bool },
    /// As many run as may when something is due.
    Overlap { late: u32 },
    /// The clocks run.
    Passes { units: u32 },
    /// The wall clock is set.
    Set { units: i32 },
    /// The loop is paused for this time.
    Pause { units: u32 },
    /// A new life begins, this much later; `rests` if the loop was stopped.
    Restart { units: u32, rests: bool },
    /// Another schedule.
    Change { other: usize },
}

fn steps() -> impl Strategy<Value = Vec<(Step, f64)>> {
    let mostly_short = || prop_oneof![3 => Just(0_u32), 3 => 1_u32..6, 1 => 6_u32..60];
    let step = prop_oneof![
        5 => mostly_short().prop_map(|late| Step::Fire { late }),
        3 => (mostly_short(), any::<bool>()).prop_map(|(takes, queue)| Step::Follow { takes, queue }),
        1 => mostly_short().prop_map(|late| Step::Overlap { late }),
        2 => mostly_short().prop_map(|units| Step::Passes { units }),
        3 => prop_oneof![4 => -12_i32..12, 1 => -3_000_i32..3_000].prop_map(|units| Step::Set { units }),
        1 => mostly_short().prop_map(|units| Step::Pause { units }),
        2 => (mostly_short(), any::<bool>()).prop_map(|(units, rests)| Step::Restart { units, rests }),
        1 => (0_usize..3).prop_map(|other| Step::Change { other }),
    ];
    let jitter = prop_oneof![Just(0.0), Just(0.5), Just(1.0)];
    prop::collection::vec((step, jitter), 1..60)
}

/// Calendars, and a part of the distance between two of their times.
fn calendars() -> impl Strategy<Value = (Schedule, Duration)> {
    let calendar = prop_oneof![
        Just((Schedule::cron("* * * * *", "Europe/Berlin"), secs(15))),
        Just((Schedule::cron("*/7 1-3 * * *", "Europe/Berlin"), secs(60))),
        Just((Schedule::every(secs(1_800)).aligned("Asia/Kolkata").spread("key"), secs(450))),
        Just((Schedule::daily(["00:00", "02:00", "02:30", "03:00", "23:59:59"], "Europe/Berlin"), secs(450))),
        Just((Schedule::cron("0 * * * *", "UTC").except(|time| time.hour % 3 == 0), secs(900))),
    ];
    (calendar, prop::option::of(1_u32..8)).prop_map(|((schedule, unit), jitter)| {
        (jitter.map_or(schedule.clone(), |units| schedule.jitter(unit * units.min(4))), unit)
    })
}

fn policies() -> impl Strategy<Value = MissedPolicy> {
    prop_oneof![
        Just(MissedPolicy::Skip),
        Just(MissedPolicy::RunOnce),
        (1_u32..6).prop_map(MissedPolicy::CatchUp)
    ]
}

/// A course, its plain account, and the clocks.
struct Beside {
    course: Course,
    plain: Plain,
    now: Now,
    jitter: f64,
}

impl Beside {
    fn begin(schedule: &Schedule, account: Account, now: Now, jitter: f64) -> (Course, LeftOut) {
        Course::begin(Arc::new(schedule.clone()), account, now, &move || jitter)
    }

    fn passes(&mut self, by: Duration) {
        self.now = Now { steady: self.now.steady + by, wall: self.now.wall + by };
        self.look();
    }

    fn look(&mut self) {
        let jitter = self.jitter;
        let missed = self.course.look(self.now, &|| jitter);
        assert_eq!(self.plain.goes_to(self.now.wall), missed, "what a wrong clock had shown");
    }

    /// Checks that the next due time is the earliest owed time, or the next one to come.
    fn check(&self) {
        let next = self.course.due.map(|due| due.time.on_wall(self.now).unwrap());
        let owed = self.plain.owed.first().copied();
        let just_before = self.plain.since - Duration::from_nanos(1);
        let after = self.plain.used.map_or(just_before, |used| used.max(just_before));
        let expected = owed.or_else(|| self.plain.schedule.next_after(after));
        assert_eq!(next, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// Whatever happens to a loop and its clock.
    #[test]
    fn every_time_of_a_calendar_is_run_or_counted_once(
        schedules in prop::collection::vec(calendars(), 3),
        policy in policies(),
        first_jitter in prop_oneof![Just(0.0), Just(1.0)],
        steps in steps(),
    ) {
        let (schedule, mut unit) = schedules[0].clone();
        let now = at(Duration::ZERO);
        let (course, left) = Beside::begin(&schedule, Account::default(), now, first_jitter);
        prop_assert_eq!(left, LeftOut::default());
        let mut plain = Plain {
            schedule,
            since: now.wall,
            used: None,
            owed: BTreeSet::new(),
            clock: now.wall,
        };
        plain.collect();
        let mut beside = Beside { course, plain, now, jitter: first_jitter };
        for (step, jitter) in steps {
            beside.jitter = jitter;
            beside.check();
            let Some(due) = beside.course.due() else { break };
            let random = || jitter;
            match step {
                Step::Fire { late } | Step::Overlap { late } => {
                    let ahead = due.ahead(beside.now);
                    beside.passes(ahead + unit * late);
                    let now = beside.now;
                    if beside.course.due().is_none_or(|due| !due.ahead(now).is_zero()) {
                        continue;
                    }
                    if matches!(step, Step::Overlap { .. }) && !beside.course.catches_up() {
                        let counted = beside.course.overlap(now);
                        prop_assert!(counted > 0);
                        beside.plain.account(counted, None);
                    } else {
                        let was_behind = beside.course.catches_up();
                        let fired = beside.course.fire(policy, now);
                        beside.plain.account(fired.missed, fired.begins.map(|begins| begins.due));
                        let left = beside.plain.owed.len();
                        // Without jitter nothing has room.
                        if beside.plain.schedule.most_jitter().is_zero() && !was_behind {
                            match policy {
                                MissedPolicy::CatchUp(limit) => prop_assert!(left < limit as usize),
                                _ => prop_assert_eq!(left, 0),
                            }
                        }
                    }
                    beside.course.go_on(now, &random);
                }
                Step::Follow { takes, queue } => {
                    let ahead = due.ahead(beside.now);
                    beside.passes(ahead);
                    let now = beside.now;
                    if beside.course.due().is_none_or(|due| !due.ahead(now).is_zero()) {
                        continue;
                    }
                    let fired = beside.course.fire(policy, now);
                    beside.plain.account(fired.missed, fired.begins.map(|begins| begins.due));
                    if fired.begins.is_none() {
                        beside.course.go_on(now, &random);
                        continue;
                    }
                    // No code reads the clock meanwhile.
                    beside.passes(unit * takes);
                    let passed = beside.course.follow(queue, beside.now, &random);
                    beside.plain.account(passed, None);
                }
                Step::Passes { units } => beside.passes(unit * units),
                Step::Set { units } => {
                    let by = unit * units.unsigned_abs();
                    let wall = if units < 0 { beside.now.wall - by } else { beside.now.wall + by };
                    beside.now = Now { wall, ..beside.now };
                    beside.look();
                }
                Step::Pause { units } => {
                    let missed = beside.course.leave_out(beside.now, &random);
                    beside.plain.account(missed, None);
                    beside.passes(unit * units);
                    let passed = beside.course.leave_out(beside.now, &random);
                    beside.plain.account(passed, None);
                }
                Step::Restart { units, rests } => {
                    let foreign = beside.plain.owed.iter().filter(|time| !beside.plain.is_own(**time)).count();
                    let left = beside.course.end((true, false), false, beside.now);
                    prop_assert_eq!(left, LeftOut { missed: foreign as u64, overlapped: 0 });
                    beside.plain.account(left.missed, None);
                    let mut account = beside.course.account();
                    if rests {
                        let missed = account.rest(&beside.plain.schedule, beside.now.wall);
                        beside.plain.account(missed, None);
                        // At most a time that is due at this very moment.
                        prop_assert!(beside.plain.owed.iter().all(|time| *time == beside.now.wall));
                    }
                    beside.now.steady += unit * units;
                    beside.now.wall += unit * units;
                    if rests {
                        beside.plain.since = beside.now.wall;
                        beside.plain.owed.clear();
                    }
                    prop_assert_eq!(beside.plain.goes_to(beside.now.wall), 0);
                    let (course, left) = Beside::begin(&beside.plain.schedule, account, beside.now, jitter);
                    prop_assert_eq!(left, LeftOut::default());
                    beside.course = course;
                }
                Step::Change { other } => {
                    let (schedule, other_unit) = schedules[other].clone();
                    unit = other_unit;
                    let now = beside.now;
                    let left =
                        beside.course.change(Arc::new(schedule.clone()), now.steady, false, now, &random);
                    prop_assert_eq!(left.overlapped, 0);
                    beside.plain.owed.remove(&now.wall);
                    beside.plain.account(left.missed, None);
                    prop_assert!(beside.plain.owed.len() <= 1, "the latest that came before stays due");
                    (beside.plain.since, beside.plain.schedule) = (now.wall, schedule);
                    let forgotten = beside.plain.used.is_some_and(|used| {
                        used.duration_since(now.wall).is_ok_and(|back| back > beside.plain.schedule.not_repeated())
                    });
                    if forgotten {
                        beside.plain.used = None;
                    }
                    beside.plain.collect();
                }
            }
        }
    }
}

/// 2:00 of the first schedule stays due under the second one, and is counted in favour of 2:30. The second schedule's time before that, 1:30,
/// is not the last used time.
#[test]
fn a_time_counted_under_another_schedule_is_not_due_again_when_the_clock_is_set_back() {
    let at_minute = |minute: u64, wall: u64| {
        let day = UNIX_EPOCH + secs(1_711_843_200);
        Now { steady: Now::ORIGIN + secs(60 * minute), wall: day + secs(60 * wall) }
    };
    let none = || 0.0;
    let hours = Arc::new(Schedule::cron("0 0-23 * * *", "UTC"));
    let halves = Arc::new(Schedule::cron("30 0-23 * * *", "UTC"));
    let now = at_minute(70, 70);
    let mut course = Course::begin(hours.clone(), Account::default(), now, &none).0;
    let left = |missed| LeftOut { missed, overlapped: 0 };
    let changed = at_minute(140, 140);
    assert_eq!(course.change(halves, changed.steady, false, changed, &none), left(0), "2:00 stays due");
    let changed = at_minute(160, 160);
    assert_eq!(course.look(changed, &none), 0);
    assert_eq!(
        course.change(hours, changed.steady, false, changed, &none),
        left(1),
        "2:30 does, and 2:00 is counted"
    );
    assert_eq!(course.look(at_minute(160, 110), &none), 1, "2:30 does not come again");
    assert_eq!(course.due(), Some(Moment::Wall(at_minute(0, 180).wall)), "2:00 was counted");
}

/// The requirement for every loop on a rhythm.
struct PlainRhythm {
    schedule: Schedule,
    /// Came, and are not used; in seconds.
    owed: BTreeSet<u64>,
    /// The next to come.
    next: u64,
    used: Option<u64>,
    now: u64,
}

impl PlainRhythm {
    fn begin(schedule: &Schedule, now: u64) -> Self {
        let next = if schedule.is_immediate() { now } else { now + interval(schedule) };
        let mut plain = Self { schedule: schedule.clone(), owed: BTreeSet::new(), next, used: None, now };
        plain.passes(0);
        plain
    }

    fn passes(&mut self, by: u64) {
        self.now += by;
        while self.next <= self.now {
            self.owed.insert(self.next);
            self.next += interval(&self.schedule);
        }
    }

    fn account(&mut self, counted: u64, run: Option<SystemTime>) {
        for _ in 0..counted {
            self.used = Some(self.owed.pop_first().expect("counted, and nothing was owed"));
        }
        if let Some(run) = run {
            self.used = Some(self.owed.pop_first().expect("run, and nothing was owed"));
            assert_eq!(Some(run), self.used.map(|used| at(secs(used)).wall));
        }
    }

    /// Returns the number of times before now.
    fn left(&self) -> u64 {
        self.owed.range(..self.now).count() as u64
    }

    fn change(&mut self, schedule: Schedule) {
        let step = interval(&schedule);
        self.owed.remove(&self.now);
        self.next = match (self.owed.last(), self.used) {
            // From the time that is still due, and not before now.
            (Some(due), _) => due + ((self.now - due) / step + 1) * step,
            (None, Some(used)) => (used + step).max(self.now),
            (None, None) if schedule.is_immediate() => self.now,
            (None, None) => self.now + step,
        };
        self.schedule = schedule;
        self.passes(0);
    }

    fn check(&self, course: &Course) {
        let expected = self.owed.first().copied().unwrap_or(self.next);
        let due = course.due.map(|due| due.time);
        assert_eq!(due, Some(Moment::Steady(Now::ORIGIN + secs(expected))));
    }

    /// Checks that an owed time may begin within its jitter.
    fn check_room(&self) {
        let jitter = self.schedule.most_jitter().as_secs();
        assert!(self.owed.iter().all(|time| time + jitter >= self.now), "{:?} at {}", self.owed, self.now);
    }
}

fn interval(schedule: &Schedule) -> u64 {
    schedule.interval().expect("a rhythm").as_secs()
}

fn rhythms() -> impl Strategy<Value = Schedule> {
    (prop_oneof![Just(4_u64), Just(20), Just(60), Just(240)], any::<bool>(), 0_u64..5).prop_map(
        |(seconds, immediate, quarters)| {
            Schedule::every(secs(seconds)).immediate(immediate).jitter(secs(seconds * quarters / 4))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    #[test]
    fn every_time_of_a_rhythm_is_run_or_counted_once(
        schedules in prop::collection::vec(rhythms(), 3),
        policy in policies(),
        steps in steps(),
    ) {
        let now_at = |seconds: u64| at(secs(seconds));
        let begin = |schedule: &Schedule, seconds, jitter: f64| {
            Course::begin(Arc::new(schedule.clone()), Account::default(), now_at(seconds), &move || jitter).0
        };
        let mut course = begin(&schedules[0], 0, 0.0);
        let mut plain = PlainRhythm::begin(&schedules[0], 0);
        for (step, jitter) in steps {
            plain.check(&course);
            let random = || jitter;
            let unit = (interval(&plain.schedule) / 4).max(1);
            // Half a second late counts as the second after.
            let ahead = course.due().map(|due| due.ahead(now_at(plain.now)).as_secs_f64().ceil() as u64).unwrap_or_default();
            match step {
                Step::Fire { late } => {
                    plain.passes(ahead + unit * u64::from(late));
                    let was_behind = course.catches_up();
                    let fired = course.fire(policy, now_at(plain.now));
                    plain.account(fired.missed, fired.begins.map(|begins| begins.due));
                    course.go_on(now_at(plain.now), &random);
                    if !was_behind && !matches!(policy, MissedPolicy::CatchUp(_)) {
                        plain.check_room();
                    }
                }
                Step::Overlap { late } => {
                    plain.passes(ahead + unit * u64::from(late));
                    if !course.catches_up() {
                        plain.account(course.overlap(now_at(plain.now)), None);
                        course.go_on(now_at(plain.now), &random);
                        plain.check_room();
                    }
                }
                Step::Follow { takes, queue } => {
                    plain.passes(ahead);
                    let fired = course.fire(policy, now_at(plain.now));
                    plain.account(fired.missed, fired.begins.map(|begins| begins.due));
                    if fired.begins.is_none() {
                        course.go_on(now_at(plain.now), &random);
                        continue;
                    }
                    plain.passes(unit * u64::from(takes));
                    let passed = course.follow(queue, now_at(plain.now), &random);
                    plain.account(passed, None);
                    if !course.catches_up() && !queue {
                        plain.check_room();
                    }
                }
                Step::Passes { units } | Step::Pause { units } => {
                    plain.account(course.leave_out(now_at(plain.now), &random), None);
                    plain.passes(unit * u64::from(units));
                    plain.account(course.leave_out(now_at(plain.now), &random), None);
                    let now = now_at(plain.now);
                    prop_assert!(course.due().is_none_or(|due| due.past(now).is_zero()), "nothing has passed");
                }
                Step::Set { units } => {
                    // A clock that is set changes nothing.
                    let now = now_at(plain.now);
                    let by = secs(unit * u64::from(units.unsigned_abs()));
                    let wall = if units < 0 { now.wall - by } else { now.wall + by };
                    prop_assert_eq!(course.look(Now { wall, ..now }, &random), 0);
                    prop_assert_eq!(course.look(now, &random), 0);
                }
                Step::Restart { units, .. } => {
                    let left = course.end((true, false), false, now_at(plain.now));
                    prop_assert_eq!(left.missed + left.overlapped, plain.left(), "a rhythm leaves nothing");
                    let (schedule, now) = (plain.schedule.clone(), plain.now + unit * u64::from(units));
                    course = begin(&schedule, now, jitter);
                    plain = PlainRhythm::begin(&schedule, now);
                }
                Step::Change { other } => {
                    let schedule = schedules[other].clone();
                    let since = now_at(plain.now);
                    let left = course.change(Arc::new(schedule.clone()), since.steady, false, since, &random);
                    plain.account(left.missed, None);
                    prop_assert!(plain.left() <= 1, "the latest stays due");
                    plain.change(schedule);
                }
            }
        }
    }
}
