//! One life of a loop: it waits for what its schedule says, begins iterations, and says how it ended.
//!
//! Invariants:
//! 1. The schedule's arithmetic is [`Course`]'s alone; here is what waits, and what counts.
//! 2. Iterations are futures inside the life's own: dropped with it, so that none outlives it.
//! 3. While iterations run that the next one waits for, no timer is set: what passed is counted at their end.

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use opentelemetry::trace::SpanContext;
use tokio::time::{Instant, sleep_until};

use crate::{
    cell::SkipReason,
    emit::DelaySeries,
    engine::{
        Life, LifeEnd, TaskEventKind, later,
        loops::{
            control::Alive,
            iteration::{Iteration, Living, Settled},
            task_loop::Parts,
        },
    },
    policy::Exit,
    timetable::{Course, Fire, Moment, Now, OverlapPolicy},
};

/// Why no further iteration begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The loop was told to finish.
    Finish,
    /// The task was told to stop.
    Stop,
    /// An iteration failed.
    Failed,
}

enum Event {
    Stop,
    Changed,
    Settled(Settled),
    Due,
}

struct LoopLife {
    living: Arc<Living>,
    /// When the steady clock began.
    origin: Instant,
    /// What the clocks showed when they were last read.
    read: Now,
    course: Course,
    /// Of the schedule that the course follows.
    revision: u64,
    held: bool,
    running: Vec<Iteration>,
    begun: u64,
    ending: Option<Ending>,
    /// How the last iteration ended. Boxed: a loop that has not run has none.
    last: Option<Box<(Exit, Option<SpanContext>)>>,
    /// What was shown last.
    shown: Option<(Option<Moment>, u64)>,
    /// For the first iteration, which takes them all.
    links: Vec<SpanContext>,
    delays: DelaySeries,
}

/// Lives once. Not an `async fn`, which would keep room for what it was called with.
pub(super) fn live(parts: Arc<Parts>, mut life: Life) -> impl Future<Output = LifeEnd> + Send {
    let links = std::mem::take(&mut life.links);
    let living = Arc::new(Living { parts, life });
    async move {
        let _alive = Alive::begin(&living.parts.control, &living.life.supervised);
        if let Some(hook) = &living.parts.before_loop {
            tokio::select! {
                biased;
                // A hook that waits for what never comes must not hold up a stop; the first wait below ends the life.
                () = living.life.context.cancelled() => {}
                _ = Box::pin(living.hook("before_loop", hook(()))) => {}
            }
        }
        let mut life = LoopLife::begin(living, links);
        while let Some(event) = life.next().await {
            life.handle(event);
        }
        if let Some(hook) = &life.living.parts.after_loop {
            // Boxed, as the other: few have it, and its room would be in each loop.
            Box::pin(life.living.hook("after_loop", hook(()))).await;
        }
        life.end()
    }
}

impl LoopLife {
    fn begin(living: Arc<Living>, links: Vec<SpanContext>) -> Self {
        let origin = Instant::now();
        let settings = &living.life.shared.settings;
        let now = Now { steady: Duration::ZERO, wall: settings.wall_clock.now() };
        let (schedule, revision, last_used) = {
            let state = living.parts.control.state();
            (state.schedule.clone(), state.revision, state.last_used)
        };
        let course = Course::begin(schedule, last_used, now, &*settings.random);
        Self {
            origin,
            read: now,
            course,
            revision,
            held: false,
            running: Vec::new(),
            begun: 0,
            ending: None,
            last: None,
            shown: None,
            links,
            delays: DelaySeries::default(),
            living,
        }
    }

    /// Reads both clocks.
    fn now(&mut self) -> Now {
        let wall = self.living.life.shared.settings.wall_clock.now();
        self.read = Now { steady: self.origin.elapsed(), wall };
        self.read
    }

    /// Whether times that come during an iteration are seen when they come.
    fn is_watched(&self) -> bool {
        self.living.parts.overlap.is_watched() && self.course.overlaps()
    }

    fn is_exhausted(&self) -> bool {
        self.course.schedule().limit().is_some_and(|count| self.begun >= count)
            || self.running.is_empty() && self.course.due().is_none()
    }

    /// Waits for what happens next; `None` where nothing will.
    async fn next(&mut self) -> Option<Event> {
        let over = self.ending.is_some() || self.is_exhausted();
        if over && self.running.is_empty() {
            return None;
        }
        let waits_for = self
            .course
            .due()
            .filter(|_| !over && !self.held && (self.running.is_empty() || self.is_watched()));
        self.show(waits_for);
        if waits_for.is_none() && !self.running.is_empty() && !self.is_watched() {
            // Whatever is asked for meanwhile is seen to when it has ended.
            return Some(Event::Settled(settled(&mut self.running).await));
        }
        let living = self.living.clone();
        let clock = &living.life.shared.settings.wall_clock;
        loop {
            let wake = match waits_for {
                None => None,
                Some(Moment::Steady(at)) => Some(later(self.origin, at)),
                // In bounded steps: the clock may be set, and the process suspended, meanwhile.
                Some(due @ Moment::Wall(_)) => {
                    Some(later(Instant::now(), due.ahead(self.now()).min(clock.step)))
                }
            };
            let running = &mut self.running;
            tokio::select! {
                biased;
                () = living.life.context.cancelled(), if self.ending.is_none() => return Some(Event::Stop),
                () = living.parts.control.changed.notified() => return Some(Event::Changed),
                settled = settled(running), if !running.is_empty() => return Some(Event::Settled(settled)),
                () = sleep_until(wake.unwrap_or(self.origin)), if wake.is_some() => {}
            }
            let now = self.now();
            self.course.look(now, &*living.life.shared.settings.random);
            match self.course.due() {
                due if due != waits_for => return Some(Event::Changed),
                Some(due) if due.ahead(now).is_zero() => return Some(Event::Due),
                _ => {}
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Stop => self.ending = Some(Ending::Stop),
            Event::Changed => self.changed(false),
            Event::Settled(settled) => self.settled(settled),
            Event::Due => self.due(),
        }
    }

    /// Does what a handle has asked for; `settling` where an iteration has just ended.
    fn changed(&mut self, settling: bool) {
        let living = self.living.clone();
        let random = &*living.life.shared.settings.random;
        let now = self.now();
        let (schedule, held, changed_at) = {
            let state = living.parts.control.state();
            if state.stop_requested {
                self.ending.get_or_insert(Ending::Finish);
            }
            let changed = state.revision != self.revision;
            self.revision = state.revision;
            (changed.then(|| state.schedule.clone()), state.held, state.changed_at)
        };
        if std::mem::replace(&mut self.held, held) && !held {
            // What fell due meanwhile was not to take place; the rhythm is kept.
            self.course.leave_out(now, random);
        }
        if let Some(schedule) = schedule {
            let since = changed_at.saturating_duration_since(self.origin);
            let waits = settling && self.course.due().is_none();
            self.course.change(schedule, since, waits, now, random);
        }
    }

    fn due(&mut self) {
        let living = self.living.clone();
        let random = &*living.life.shared.settings.random;
        let now = self.read;
        if let OverlapPolicy::Allow(limit) = living.parts.overlap {
            if self.running.len() >= usize::try_from(limit).unwrap_or(usize::MAX) {
                let (_, further) = self.course.fire(living.parts.missed, now);
                self.skipped(SkipReason::Overlapped, further.saturating_add(1));
                self.course.go_on(now, random);
                return;
            }
        }
        let (fire, missed) = self.course.fire(living.parts.missed, now);
        self.skipped(SkipReason::Missed, missed);
        let Fire::Run { late } = fire else {
            self.course.go_on(now, random);
            return;
        };
        if !self.running.is_empty() && living.parts.overlap == OverlapPolicy::CancelRunning {
            self.skipped(SkipReason::Overlapped, self.running.len() as u64);
            self.running.clear();
        }
        self.begun += 1;
        {
            let mut state = living.parts.control.state();
            state.iteration = self.begun;
            state.last_used = self.course.last_used();
        }
        if self.is_watched() {
            self.course.go_on(now, random);
        }
        let links = std::mem::take(&mut self.links);
        self.running.push(living.begin(self.begun, late, links, &mut self.delays));
    }

    fn settled(&mut self, settled: Settled) {
        let living = self.living.clone();
        if self.ending != Some(Ending::Failed) {
            let ended = (settled.exit, settled.span_context);
            match &mut self.last {
                Some(last) => **last = ended,
                None => self.last = Some(Box::new(ended)),
            }
        }
        if !settled.goes_on {
            living.parts.control.state().failed = true;
            self.ending = Some(Ending::Failed);
        }
        // What a handle has changed meanwhile holds from when it did.
        self.changed(true);
        let over =
            self.ending.is_some() || self.course.schedule().limit().is_some_and(|count| self.begun >= count);
        if !over && self.course.due().is_none() {
            let queue = living.parts.overlap == OverlapPolicy::Queue;
            let passed = self.course.follow(queue, self.read, &*living.life.shared.settings.random);
            self.skipped(SkipReason::Overlapped, passed);
        }
    }

    fn skipped(&self, reason: SkipReason, iterations: u64) {
        if iterations > 0 {
            let Life { shared, supervised, .. } = &self.living.life;
            supervised.task.skipped(reason, iterations);
            shared.tell(supervised, || TaskEventKind::Skipped { reason, iterations });
        }
    }

    /// Shows when the next iteration is due, or that none is waited for. The figures show the schedule's next time also while
    /// an iteration runs: one that does not end is overdue, too.
    fn show(&mut self, due: Option<Moment>) {
        let Life { supervised, .. } = &self.living.life;
        supervised.signals.set_sleeping(self.running.is_empty() && (due.is_some() || self.held));
        let shown = (due, self.begun);
        if self.shown == Some(shown) {
            return;
        }
        self.shown = Some(shown);
        let now = self.read;
        let more =
            self.ending.is_none() && self.course.schedule().limit().is_none_or(|count| self.begun < count);
        let upcoming = due.or_else(|| self.course.upcoming(now).filter(|_| more && !self.running.is_empty()));
        let on_wall = |moment: Option<Moment>| moment.and_then(|moment| moment.on_wall(now));
        let mut state = self.living.parts.control.state();
        state.next = on_wall(due);
        supervised.task.cell.set_schedule(self.course.distance(), on_wall(upcoming));
    }

    fn end(&self) -> LifeEnd {
        // Under one lock: a stop that comes later finds the loop not running, and becomes an order.
        let mut state = self.living.parts.control.state();
        state.running = false;
        let finished = match self.ending {
            None | Some(Ending::Finish) => true,
            Some(Ending::Stop) => state.stop_requested || self.is_exhausted(),
            Some(Ending::Failed) => state.stop_requested,
        };
        let (exit, span_context) = self.last.as_deref().cloned().unwrap_or((Exit::Success, None));
        LifeEnd { exit, finished, span_context }
    }
}

/// Waits for the first of the iterations that ends. There are few, and each is polled.
async fn settled(running: &mut Vec<Iteration>) -> Settled {
    poll_fn(|cx| {
        for index in 0..running.len() {
            if let Poll::Ready(settled) = running[index].as_mut().poll(cx) {
                drop(running.remove(index));
                return Poll::Ready(settled);
            }
        }
        Poll::Pending
    })
    .await
}
