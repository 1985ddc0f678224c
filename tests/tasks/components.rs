//! Components: which tasks they bring, in which order those are registered, and what unloading one does.

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
