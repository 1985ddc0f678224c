//! A registered loop, as its driver sees it.

use std::{pin::Pin, sync::Arc};

use super::life;
use crate::engine::{
    loops::{
        handle::LoopHandle,
        task_loop::{Parts, TaskLoop},
    },
    supervision::supervised::{Life, LifeEnd, Supervised},
};
/// A registered loop.
pub(crate) struct LoopBody(Arc<Parts>);

impl LoopBody {
    pub(crate) fn new(task_loop: TaskLoop) -> Self {
        Self(Arc::new(task_loop.parts))
    }

    /// One life. Runs no user code before it is polled.
    pub(crate) fn live(&self, life: Life) -> Pin<Box<dyn Future<Output = LifeEnd> + Send>> {
        Box::pin(life::live(self.0.clone(), life))
    }

    /// Holds the life under way, or lets it go on. Answers whether there is one.
    pub(crate) fn hold(&self, held: bool) -> bool {
        self.0.control.hold(held)
    }

    /// Called when the task is registered.
    pub(crate) fn registered(&self, supervised: &Arc<Supervised>) {
        self.0.control.registered(supervised);
    }

    pub(crate) fn handle(&self) -> LoopHandle {
        LoopHandle { control: self.0.control.clone() }
    }
}
