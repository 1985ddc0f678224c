//! One life of a loop: it waits for what its schedule says, begins iterations, and says how it ended.
//!
//! Invariants:
//! 1. The schedule's arithmetic is [`Course`]'s alone; here is what waits, and what counts.
//! 2. Iterations are futures inside the life's own: dropped with it, so that none outlives it.
//! 3. While iterations run that the next one waits for, no timer is set: what passed is counted at their end.
//! 4. The account of what was due is the life's own. It is given back when the life ends, however that happens.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use opentelemetry::trace::SpanContext;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::{
    cell::SkipReason,
    emit::DelaySeries,
    engine::{
        Life, LifeEnd, later,
        loops::{
            alive::Alive,
            control::{Place, Wish, tell_skipped},
            iteration::{Cause, Iteration, Living, Settled, Underway},
            task_loop::Parts,
        },
    },
    policy::Exit,
    timetable::{Course, LeftOut, Moment, Now, OverlapPolicy, Schedule},
};

/// The time after which a loop on the monotonic clock reads the wall clock again.
const SHORT: Duration = Duration::from_secs(1);

/// The longest interval for which a next time that a set clock made wrong is shown, and the box of an iteration is kept.
const SOON: Duration = Duration::from_secs(60);

/// The reason why no further iteration begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The loop was requested to finish.
    Finish,
    /// The task was requested to stop.
    Stop,
    /// An iteration failed.
    Failed,
}

enum Event {
    Stop,
    Changed,
    /// An iteration has ended, which was seen to.
    Settled,
    Due,
}

/// The figures of a loop: the number of the last iteration, the next time, and true if an iteration is known to begin then.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Shown {
    begun: u64,
    upcoming: Option<Moment>,
    is_known: bool,
}

struct LoopLife<'a> {
    living: &'a Arc<Living>,
    /// The start of the monotonic clock.
    origin: Instant,
    /// The times of the clocks at the last read.
    read: Now,
    /// The same time of the monotonic clock as [`Now::steady`].
    read_at: Instant,
    course: Course,
    /// True if no further iteration begins for the time being.
    held: bool,
    running: Vec<Iteration<'a>>,
    /// The box of an iteration that has ended, for the next one if that comes soon.
    ended: Option<Pin<Box<Underway<'a>>>>,
    begun: u64,
    /// Those of them that the schedule began: its count is about these.
    counted: u64,
    ending: Option<Ending>,
    /// Nothing is due after that.
    ended_at: Option<Instant>,
    /// True if the account is given back.
    closed: bool,
    /// The exit of the last iteration. Boxed: a loop that has not run has none.
    last: Option<Box<(Exit, Option<SpanContext>)>>,
    /// The figures that were shown last, but for the distance; `None` if they are to be shown again.
    shown: Option<Shown>,
    /// Up to when the schedule was said to leave out all of its times.
    told_empty: Option<SystemTime>,
    /// For the first iteration, which takes them all.
    links: Vec<SpanContext>,
    delays: DelaySeries,
    /// The wait for the token of the life, if somebody holds it.
    token: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

/// Lives once. Not an `async fn`, which would keep room for what it was called with.
pub(super) fn live(parts: Arc<Parts>, mut life: Life) -> impl Future<Output = LifeEnd> + Send {
    let links = std::mem::take(&mut life.links);
    let living = Arc::new(Living { parts, life });
    async move {
        let alive = Alive::begin(&living);
        if let Some(pass) = living.life.context.pass() {
            Box::pin(living.take_over(pass)).await;
        }
        if let Some(hook) = &living.parts.before_loop {
            let began = Instant::now();
            let Life { context, supervised, shared, .. } = &living.life;
            // What comes while the hook runs, or after it has failed, is due.
            living.parts.control.state().account.open(shared.settings.wall_clock.now());
            let work = hook.clone().make(context.clone(), supervised.rules().cloned());
            let exit = tokio::select! {
                biased;
                // A hook that waits for what never comes must not hold up a stop; the first wait below ends the life.
                () = context.cancelled() => None,
                exit = Box::pin(living.hook("before_loop", work)) => exit,
            };
            if let Some(exit) = exit.filter(|exit| exit.error_type().is_some()) {
                return Box::pin(living.fail(exit, began, links)).await;
            }
            // Earlier requests come first: the driver receives them before it polls the life.
            tokio::task::yield_now().await;
        }
        let mut life = LoopLife::begin(&living, alive.schedule.clone(), links);
        {
            let mut timer = pin!(None);
            while let Some(event) = life.next(timer.as_mut()).await {
                life.handle(event);
            }
        }
        life.close();
        if let Some(hook) = &living.parts.after_loop {
            // Boxed, as the other: few have it, and its room would be in each loop.
            let context = living.life.context.clone();
            Box::pin(living.hook("after_loop", hook(context))).await;
        }
        life.end()
    }
}

impl<'a> LoopLife<'a> {
    fn begin(living: &'a Arc<Living>, schedule: Arc<Schedule>, links: Vec<SpanContext>) -> Self {
        let origin = Instant::now();
        let settings = &living.life.shared.settings;
        let now = Now { steady: Now::ORIGIN, wall: settings.wall_clock.now() };
        let account = living.parts.control.state().account;
        let (course, left) = Course::begin(schedule, account, now, &*settings.random);
        let mut life = Self {
            origin,
            read: now,
            read_at: origin,
            course,
            held: false,
            running: Vec::new(),
            ended: None,
            begun: 0,
            counted: 0,
            ending: None,
            ended_at: None,
            closed: false,
            last: None,
            shown: None,
            told_empty: None,
            links,
            delays: DelaySeries::default(),
            token: None,
            living,
        };
        life.left_out(left);
        // A hook, or somebody while it ran, may have asked for something.
        life.changed(None);
        life
    }

    /// Reads both clocks.
    fn now(&mut self) -> Now {
        self.now_at(Instant::now())
    }

    /// Reads the wall clock; the other was read a moment ago.
    fn now_at(&mut self, at: Instant) -> Now {
        let living = self.living;
        let wall = living.life.shared.settings.wall_clock.now();
        self.read = Now { steady: self.steady(at), wall };
        self.read_at = at;
        let missed = self.course.look(self.read, &*living.life.shared.settings.random);
        self.skipped(SkipReason::Missed, missed);
        self.read
    }

    /// The times of the clocks at the end of an iteration. The wall clock is read again after a long iteration, and for a long interval. It is
    /// also read for a schedule that does not follow the monotonic clock alone. Otherwise it is as much further.
    fn now_after(&mut self, (began, took): (Instant, Duration)) -> Now {
        let at = began + took;
        // Mostly the clocks were last read for its begin.
        let took = if began == self.read_at { took } else { at.saturating_duration_since(self.read_at) };
        let follows =
            self.course.is_steady() && self.course.distance().is_some_and(|distance| distance <= SOON);
        match self.read.wall.checked_add(took) {
            Some(wall) if took < SHORT && follows => {
                self.read = Now { steady: self.read.steady + took, wall };
                self.read_at = self.read_at.max(at);
            }
            _ => {
                // The wall clock may have been set.
                self.shown = None;
                self.now_at(at);
            }
        }
        self.read
    }

    fn steady(&self, at: Instant) -> Duration {
        match at.checked_duration_since(self.origin) {
            Some(after) => Now::ORIGIN + after,
            None => Now::ORIGIN.saturating_sub(self.origin.duration_since(at)),
        }
    }

    /// Returns true if times that come during an iteration must be noticed at once.
    fn is_watched(&self) -> bool {
        self.living.parts.overlap.is_watched() && self.course.overlaps() && !self.course.catches_up()
    }

    fn has_counted_all(&self) -> bool {
        self.course.schedule().limit().is_some_and(|count| self.counted >= count)
    }

    fn is_exhausted(&self) -> bool {
        self.has_counted_all() || self.running.is_empty() && self.course.wakes().is_none()
    }

    /// Waits for what happens next; `None` where nothing will.
    async fn next(&mut self, mut timer: Pin<&mut Option<Sleep>>) -> Option<Event> {
        let over = self.ending.is_some() || self.is_exhausted();
        if over && self.running.is_empty() {
            // What came in between is seen to first.
            let is_over = self.ending.is_some() || self.living.parts.control.state().refuses();
            return (!is_over).then_some(Event::Changed);
        }
        let waits = !over && !self.held && (self.running.is_empty() || self.is_watched());
        self.show(self.course.due().filter(|_| waits));
        self.tell_empty();
        let waits_for = self.course.wakes().filter(|_| waits);
        if !self.running.is_empty() && !self.living.parts.overlap.is_watched() {
            if timer.as_ref().as_pin_ref().is_some_and(|timer| !timer.is_elapsed()) {
                timer.set(None);
            }
            // Whatever is asked for meanwhile is seen to when it has ended.
            poll_fn(|cx| self.poll_settled(cx)).await;
            return Some(Event::Settled);
        }
        loop {
            if self.is_to_stop() {
                return Some(Event::Stop);
            }
            match waits_for {
                None => timer.set(None),
                Some(Moment::Steady(at)) => {
                    set(timer.as_mut(), later(self.origin, at.saturating_sub(Now::ORIGIN)));
                }
                // In bounded steps: the clock may be set, and the process suspended, meanwhile.
                Some(due @ Moment::Wall(_)) => {
                    let step = self.living.life.shared.settings.wall_clock.step;
                    set(timer.as_mut(), later(Instant::now(), due.ahead(self.now()).min(step)));
                }
            }
            if let Some(event) = poll_fn(|cx| self.poll_event(timer.as_mut(), cx)).await {
                return Some(event);
            }
            let now = self.now();
            match self.course.wakes() {
                due if due != waits_for => return Some(Event::Changed),
                Some(due) if due.ahead(now).is_zero() => return Some(Event::Due),
                _ => {}
            }
        }
    }

    /// Returns true if a stop came during the current poll: its driver has not yet received it.
    fn is_to_stop(&self) -> bool {
        let Life { supervised, context, .. } = &self.living.life;
        self.ending.is_none()
            && (supervised.has_signal() || context.pass().is_some())
            && context.is_cancelled()
    }

    /// Polls for the next event; `None` if the timer has fired. The driver polls this after each order and each change, so neither needs a waker
    /// here.
    fn poll_event(&mut self, timer: Pin<&mut Option<Sleep>>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.ending.is_none() && self.poll_stop(cx).is_ready() {
            return Poll::Ready(Some(Event::Stop));
        }
        if self.living.parts.control.take_changed() {
            return Poll::Ready(Some(Event::Changed));
        }
        if self.poll_settled(cx).is_ready() {
            return Poll::Ready(Some(Event::Settled));
        }
        match timer.as_pin_mut() {
            Some(sleep) => sleep.poll(cx).map(|()| None),
            None => Poll::Pending,
        }
    }

    /// Polls the iterations until one of them ends, and sees to that. There are few, and each is polled.
    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for index in 0..self.running.len() {
            if let Poll::Ready(settled) = self.running[index].poll(cx) {
                let ended = self.running.remove(index);
                self.keep(ended);
                self.settled(settled);
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// Keeps the box of an iteration that has ended. A loop that sleeps for long holds none.
    fn keep(&mut self, ended: Iteration<'a>) {
        let interval = self.course.schedule().interval();
        if let (Iteration::Underway(ended), true) = (ended, interval.is_some_and(|interval| interval <= SOON))
        {
            self.ended = Some(ended);
        }
    }

    fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let context = &self.living.life.context;
        if context.is_asked_to_stop() {
            return Poll::Ready(());
        }
        match (&mut self.token, context.held_token()) {
            (None, None) => Poll::Pending,
            (waits, Some(token)) => {
                waits.get_or_insert_with(|| Box::pin(token.clone().cancelled_owned())).as_mut().poll(cx)
            }
            (Some(waits), None) => waits.as_mut().poll(cx),
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Stop => self.ends(Ending::Stop, Instant::now()),
            Event::Changed => self.changed(None),
            Event::Settled => {}
            Event::Due => self.due(),
        }
    }

    /// No further iteration begins, and nothing was due after `at`.
    fn ends(&mut self, ending: Ending, at: Instant) {
        self.ending = Some(ending);
        self.ended_at = Some(self.ended_at.map_or(at, |ended| ended.min(at)));
        let unheard = self.living.parts.control.state().refuse();
        // Wakes the callers that await them.
        drop(unheard);
    }

    /// Does what a handle has asked for. `settled` has just ended.
    fn changed(&mut self, settled: Option<&mut Settled>) {
        let ended = settled.as_ref().map(|settled| (settled.began, settled.took));
        let settling = ended.is_some();
        let is_asked = {
            let mut state = self.living.parts.control.state();
            if let Some(settled) = settled {
                state.leave_places(1);
                self.living.note(&mut state, settled);
            }
            state.asked.is_some()
        };
        let now = match ended {
            Some(ended) => self.now_after(ended),
            None => self.now(),
        };
        if !is_asked {
            return;
        }
        let (stop, manual, wishes) = {
            let mut state = self.living.parts.control.state();
            let stop = state.stop_requested();
            let upto = self.ended_at.into_iter().chain(stop).min();
            (stop, state.take_manual(), state.take_wishes(upto))
        };
        // What was asked for before the stop still begins.
        let begins = self.ending.is_none();
        // A wish may be newer than the end of the iteration, and a new schedule may follow the wall clock.
        let now = if settling && !wishes.is_empty() { self.now() } else { now };
        for (at, wish) in wishes {
            self.grant(wish, at, settling, now);
        }
        if begins {
            for awaits in manual {
                self.begin_iteration(Cause::Asked(awaits));
            }
        }
        if let Some(at) = stop {
            self.ends(self.ending.unwrap_or(Ending::Finish), at);
        }
    }

    /// Returns true if the next iteration waits for a running one, or with `settling` for the one before, which has just ended.
    fn waits(&self, settling: bool, is_watched: bool) -> bool {
        if self.running.is_empty() { settling } else { !is_watched }
    }

    /// Grants a wish as of the moment at which it was made.
    fn grant(&mut self, wish: Wish, at: Instant, settling: bool, now: Now) {
        let living = self.living;
        let random = &*living.life.shared.settings.random;
        let since = self.steady(at);
        let then = now.ago(now.steady.saturating_sub(since));
        self.reckon(then, self.waits(settling, self.is_watched()));
        match wish {
            Wish::Hold(held) => {
                if held && !self.held {
                    // What came before is missed.
                    let passed = self.course.leave_out(then, random);
                    self.skipped(SkipReason::Missed, passed);
                }
                self.held = held;
            }
            Wish::Schedule(schedule) => {
                self.shown = None;
                let is_watched = living.parts.overlap.is_watched() && !schedule.is_delay();
                let waits = self.waits(settling, is_watched);
                let left = self.course.change(schedule, since, waits, now, random);
                self.left_out(left);
            }
        }
    }

    /// Processes the times that came up to then, during an iteration for which the next one waited, or while the loop was held.
    fn reckon(&mut self, then: Now, waits: bool) {
        let living = self.living;
        let random = &*living.life.shared.settings.random;
        if waits && self.course.overlaps() {
            let passed = self.course.follow(self.queues(), then, random);
            if !self.held {
                self.skipped(SkipReason::Overlapped, passed);
            }
        }
        if self.held {
            // Left out, and not counted.
            self.course.leave_out(then, random);
        }
    }

    fn queues(&self) -> bool {
        self.living.parts.overlap == OverlapPolicy::Queue
    }

    fn begin_iteration(&mut self, cause: Cause) {
        self.begun += 1;
        let links = std::mem::take(&mut self.links);
        // The monotonic clock was read a moment ago, and for a due iteration the wall clock, too.
        let wall = match cause {
            Cause::Due(_) if self.living.life.shared.settings.wall_clock.is_of_system() => self.read.wall,
            _ => SystemTime::now(),
        };
        let began = (self.read_at, wall);
        let ended = &mut self.ended;
        self.running.push(self.living.begin(self.begun, began, cause, links, &mut self.delays, ended));
    }

    fn due(&mut self) {
        let living = self.living;
        let random = &*living.life.shared.settings.random;
        let now = self.read;
        let control = &living.parts.control;
        let place = control.state().take_place(matches!(living.parts.overlap, OverlapPolicy::Allow(_)));
        match place {
            Place::Taken => {}
            Place::Waits => return self.changed(None),
            Place::None => {
                let passed = self.course.overlap(now);
                self.skipped(SkipReason::Overlapped, passed);
                self.course.go_on(now, random);
                return;
            }
        }
        let fired = self.course.fire(living.parts.missed, now);
        self.skipped(SkipReason::Missed, fired.missed);
        let Some(begins) = fired.begins else {
            control.state().leave_places(1);
            self.course.go_on(now, random);
            return;
        };
        if !self.running.is_empty() && living.parts.overlap == OverlapPolicy::CancelRunning {
            // They have begun, and are counted as cancelled.
            let dropped = std::mem::take(&mut self.running);
            control.state().leave_places(dropped.len());
        }
        self.counted += 1;
        if self.has_counted_all() {
            let missed = self.course.leave_out_rest(now);
            self.skipped(SkipReason::Missed, missed);
        }
        if self.is_watched() {
            self.course.go_on(now, random);
        }
        self.begin_iteration(Cause::Due(begins));
    }

    fn settled(&mut self, mut settled: Settled) {
        let is_last = self.ending != Some(Ending::Failed);
        if !settled.goes_on {
            {
                let mut state = self.living.parts.control.state();
                state.failed = true;
                // Before the callers are woken that await an iteration.
                self.living.note(&mut state, &mut settled);
            }
            self.ends(Ending::Failed, Instant::now());
        }
        // What a handle has changed meanwhile holds from when it did.
        self.changed(Some(&mut settled));
        let Settled { exit, span_context, reply, .. } = settled;
        if is_last {
            let ended = (exit, span_context);
            match &mut self.last {
                Some(last) => **last = ended,
                None => self.last = Some(Box::new(ended)),
            }
        }
        if let Some((awaits, outcome)) = reply.map(|reply| *reply) {
            // Nobody need wait for it.
            let _ = awaits.send(outcome);
        }
        if self.ending.is_some() || self.has_counted_all() {
            return;
        }
        let (now, waited) = (self.read, !self.is_watched() && self.running.is_empty());
        if self.course.due().is_none() || waited && !self.held {
            let random = &*self.living.life.shared.settings.random;
            let passed = self.course.follow(self.queues(), now, random);
            if !self.held {
                self.skipped(SkipReason::Overlapped, passed);
            }
        }
    }

    /// Gives the account back.
    fn close(&mut self) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        let supervised = &self.living.life.supervised;
        let now = Now { steady: self.steady(Instant::now()), wall: supervised.wall_clock() };
        let missed = self.course.look(now, &|| 0.0);
        self.skipped(SkipReason::Missed, missed);
        let wishes = self.living.parts.control.state().take_wishes(self.ended_at);
        for (at, wish) in wishes {
            self.grant(wish, at, false, now);
        }
        let ended = now.ago(self.ended_at.map_or(Duration::ZERO, |at| at.elapsed()));
        if self.held {
            self.reckon(ended, self.waits(false, self.is_watched()));
        }
        let left = self.course.end((true, self.queues()), self.has_counted_all(), ended);
        self.left_out(left);
        let mut account = self.course.account();
        let is_stopped = self.living.parts.control.state().stop_requested().is_some();
        if is_stopped || self.held {
            // Nothing was due after it was asked, however long its last iteration took; nor until the loop is resumed.
            let missed = account.rest(self.course.schedule(), ended.wall);
            self.skipped(SkipReason::Missed, missed);
        }
        let schedule = self.course.schedule().clone();
        let missed = self.living.parts.control.give_back(schedule, account, None, now.wall);
        self.skipped(SkipReason::Missed, missed);
    }

    fn left_out(&self, left: LeftOut) {
        self.skipped(SkipReason::Missed, left.missed);
        self.skipped(SkipReason::Overlapped, left.overlapped);
    }

    fn skipped(&self, reason: SkipReason, iterations: u64) {
        if iterations == 0 {
            return;
        }
        let Life { shared, supervised, .. } = &self.living.life;
        tell_skipped(shared, supervised, reason, iterations);
    }

    /// Says that the schedule leaves out all of its times for a long while.
    #[inline]
    fn tell_empty(&mut self) {
        let empty = self.course.looks_at();
        if empty.is_none() && self.told_empty.is_none() {
            return;
        }
        if std::mem::replace(&mut self.told_empty, empty) != empty {
            if let Some(upto) = empty {
                let Life { shared, supervised, .. } = &self.living.life;
                shared.announcer(supervised, supervised.signals.generation()).schedule_is_empty(upto);
            }
        }
    }

    /// Shows the next due time, or that there is none. The figures show the schedule's next time also while
    /// an iteration runs, because an iteration that does not end is overdue, too.
    fn show(&mut self, due: Option<Moment>) {
        let Life { supervised, .. } = &self.living.life;
        let sleeps = if self.running.is_empty() {
            self.course.wakes().is_some() || self.held
        } else {
            supervised.body.gated().is_some_and(|gated| gated.iterations.all_wait(self.running.len()))
        };
        supervised.signals.set_sleeping(sleeps);
        let now = self.read;
        let more = self.ending.is_none() && !self.has_counted_all();
        let upcoming = due.or_else(|| self.course.upcoming(now).filter(|_| more && !self.running.is_empty()));
        let is_known = !self.held && (due.is_some() || self.course.overlaps());
        let shown = Shown { begun: self.begun, upcoming, is_known };
        if self.shown == Some(shown) {
            return;
        }
        self.shown = Some(shown);
        let upcoming = upcoming.and_then(|moment| moment.on_wall(now));
        // Not under the lock: the schedule may have the user's code in it.
        let distance = self.course.distance();
        {
            let mut state = self.living.parts.control.state();
            (state.iteration, state.next) = (self.begun, upcoming.filter(|_| is_known));
        }
        supervised.task.cell.set_schedule(distance, upcoming);
    }

    fn end(&self) -> LifeEnd {
        // Under one lock: a stop that comes later finds the loop not running, and becomes an order.
        let mut state = self.living.parts.control.state();
        state.running = false;
        let finished = match self.ending {
            None | Some(Ending::Finish) => true,
            Some(Ending::Stop) => state.stop_requested().is_some() || self.is_exhausted(),
            Some(Ending::Failed) => state.stop_requested().is_some(),
        };
        let (exit, span_context) = self.last.as_deref().cloned().unwrap_or((Exit::Success, None));
        LifeEnd { exit, finished, span_context }
    }
}

impl Drop for LoopLife<'_> {
    fn drop(&mut self) {
        // The schedule may have the user's code in it, and that may be what panics.
        if std::thread::panicking() {
            if !self.closed {
                self.living.parts.control.state().account = self.course.account();
            }
            return;
        }
        // A life that is dropped before its end.
        self.close();
    }
}

/// Sets a timer, which is kept from one wait to the next.
fn set(mut timer: Pin<&mut Option<Sleep>>, due: Instant) {
    match timer.as_mut().as_pin_mut() {
        Some(sleep) if sleep.deadline() == due => {}
        Some(sleep) => sleep.reset(due),
        None => timer.set(Some(sleep_until(due))),
    }
}
