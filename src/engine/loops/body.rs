//! A registered loop, as its driver sees it.

use std::{any::Any, pin::Pin, sync::Arc};

use crate::{
    cell::SkipReason,
    engine::{
        loops::{
            control::tell_skipped,
            handle::LoopHandle,
            task_loop::{Parts, TaskLoop},
        },
        shared::Shared,
        supervision::supervised::{Body, LifeEnd, NewLife, Supervised},
    },
};

/// A registered loop.
pub(crate) struct LoopBody(Arc<Parts>);

impl LoopBody {
    pub(crate) fn new(task_loop: TaskLoop) -> Self {
        Self(Arc::new(task_loop.parts))
    }

    pub(crate) fn handle(&self) -> LoopHandle {
        LoopHandle { control: self.0.control.clone() }
    }
}

impl Body for LoopBody {
    fn live(self: Arc<Self>, life: NewLife<'_>) -> Pin<Box<dyn Future<Output = LifeEnd> + Send>> {
        Box::pin(super::life::live(self.0.clone(), life.kept()))
    }

    fn is_loop(&self) -> bool {
        true
    }

    fn hold(&self, held: bool) -> bool {
        self.0.control.hold(held)
    }

    fn rests(&self, supervised: &Arc<Supervised>, shared: &Arc<Shared>) {
        let missed = self.0.control.rests(supervised.wall_clock());
        tell_skipped(shared, supervised, SkipReason::Missed, missed);
    }

    fn registered(&self, supervised: &Arc<Supervised>) {
        self.0.control.registered(supervised);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
