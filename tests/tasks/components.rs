//! Components: which tasks they bring, in which order those are registered, and what unloading one does.

use std::sync::{Arc, Mutex};

use otel_tasks::{TaskManager, snapshot::TaskState};

use crate::support::{
    Events, settle, shown,
    tasks::{obeys, states},
};

#[tokio::test(start_paused = true)]
async fn components_may_depend_on_each_others_tasks_in_any_order() {
    let tasks = TaskManager::new();
    // They are asked by name.
    tasks.register_component("1", || vec![obeys("c").depends_on("b")]);
    tasks.register_component("2", || vec![obeys("b").depends_on("a")]);
    tasks.register_component("3", || vec![obeys("a")]);
    tasks.start();
    settle().await;
    assert_eq!(states(&tasks, ["a", "b", "c"]), [Some(TaskState::Running); 3]);
}

#[tokio::test(start_paused = true)]
async fn a_component_with_an_unknown_dependency_is_refused_alone() {
    let (events, _guard) = Events::record();
    let tasks = TaskManager::new();
    tasks.register_component("astray", || vec![obeys("a").depends_on("nobody"), obeys("b")]);
    tasks.start();
    settle().await;
    assert_eq!(tasks.task_names(), ["b"]);
    let told = events.named("task.monitor.failed");
    assert_eq!(told.len(), 1);
    assert!(told[0].message().contains("nobody"), "{}", told[0].message());
}

#[tokio::test(start_paused = true)]
async fn a_component_is_known_by_itself_or_by_its_tasks() {
    let tasks = TaskManager::new();
    tasks.register_component("idle", Vec::new);
    tasks.register(obeys("owned").component("unregistered")).expect("a valid task");
    tasks.start();
    settle().await;
    assert_eq!(tasks.unregister_component("idle").await, Ok(vec![]));
    assert_eq!(tasks.unregister_component("unregistered").await, Ok(vec!["owned".to_owned()]));
    for gone in ["idle", "unregistered"] {
        let unknown = format!("Err(UnknownComponent {{ name: {gone:?} }})");
        assert_eq!(shown(&tasks.unregister_component(gone).await), unknown);
    }
}

/// Calls its function when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Fails if a call discovers each new component, and not its own alone: then another call has the result.
#[tokio::test(start_paused = true)]
async fn each_call_returns_the_result_of_its_own_component() {
    let tasks = TaskManager::new();
    tasks.start();
    let (weak, other) = (tasks.downgrade(), Arc::new(Mutex::new(None)));
    let of_other = other.clone();
    // The first component is dropped in the middle of the call that replaces it.
    let meanwhile = OnDrop(move || {
        let tasks = weak.upgrade().expect("alive");
        let found = tasks.register_component("other", || vec![obeys("b"), obeys("d").depends_on("nobody")]);
        *of_other.lock().unwrap() = Some(found);
    });
    tasks.register_component("c", move || {
        let _meanwhile = &meanwhile;
        vec![]
    });
    let found = tasks.register_component("c", || vec![obeys("a"), obeys("c").depends_on("nobody")]);
    let (registered, refused) = (&found.registered, &found.refused);
    assert_eq!((&**registered, &*refused[0].0), (&["a".to_owned()][..], "c"));
    let found = other.lock().unwrap().take().expect("registered");
    assert_eq!((&*found.registered, &*found.refused[0].0), (&["b".to_owned()][..], "other"));
}

/// Fails if the manager has called the providers for the last time before it says that it is started.
#[tokio::test(start_paused = true)]
async fn a_component_that_comes_while_the_manager_starts_is_discovered() {
    let tasks = TaskManager::new();
    let weak = tasks.downgrade();
    tasks.register_component("outer", move || {
        let tasks = weak.upgrade().expect("alive");
        tasks.register_component("inner", || vec![obeys("late")]);
        vec![]
    });
    tasks.start();
    settle().await;
    assert_eq!(states(&tasks, ["late"]), [Some(TaskState::Running)]);
}
