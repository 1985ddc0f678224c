//! What a subscriber hears of a manager's events, and what it misses.

use otel_tasks::{
    CriticalTaskConfig, TaskManager,
    events::{TaskEventKind, TaskEvents},
};

use crate::support::settle;

/// Registers and unregisters a task that is never started, which tells so many events each time.
const EVENTS_EACH: usize = 2;

async fn come_and_go(tasks: &TaskManager, times: usize) {
    for _ in 0..times {
        tasks.register(CriticalTaskConfig::one_shot("a", |_| async {})).expect("the name is free");
        tasks.unregister("a").await.expect("registered");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_subscriber_misses_the_oldest_events_and_learns_how_many() {
    let tasks = TaskManager::new();
    let mut quick = tasks.subscribe();
    come_and_go(&tasks, 1).await;
    let heard: Vec<_> = std::iter::from_fn(|| quick.try_recv()).map(|event| event.kind.as_str()).collect();
    assert_eq!(heard, ["registered", "unregistered"]);
    assert_eq!(quick.missed(), 0);

    // Seen to fail with `missed` answering 0, and with `+=` as `*=` or `-=` in either way to receive.
    let (mut waiting, mut asking) = (tasks.subscribe(), tasks.subscribe());
    for round in 1..=2 {
        come_and_go(&tasks, TaskEvents::CAPACITY / EVENTS_EACH + 5 * round).await;
        let mut heard = 0;
        while asking.try_recv().is_some() {
            heard += 1;
        }
        assert_eq!(heard, TaskEvents::CAPACITY);
        for _ in 0..TaskEvents::CAPACITY {
            waiting.recv().await.expect("the manager lives");
        }
        assert!(waiting.try_recv().is_none());
    }
    assert_eq!((waiting.missed(), asking.missed()), (30, 30), "ten and then twenty");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_shutdown_is_the_last_event() {
    let tasks = TaskManager::new();
    let (mut waiting, mut asking) = (tasks.subscribe(), tasks.subscribe());
    tasks.shutdown().await;
    settle().await;
    let mut last = None;
    while let Some(event) = waiting.recv().await {
        last = Some(event.kind);
    }
    assert!(matches!(last, Some(TaskEventKind::ShutdownEnded(_))), "{last:?}");
    // Seen to fail with `over` never set: the channel is open as long as the manager lives.
    assert!(waiting.recv().await.is_none());
    let last = std::iter::from_fn(|| asking.try_recv()).last().map(|event| event.kind);
    assert!(matches!(last, Some(TaskEventKind::ShutdownEnded(_))), "{last:?}");
    assert!(asking.try_recv().is_none());
}

#[test]
fn each_event_kind_has_its_name() {
    let named = [
        (TaskEventKind::Registered, "registered"),
        (TaskEventKind::Ready, "ready"),
        (TaskEventKind::Finished, "finished"),
        (TaskEventKind::Stopped, "stopped"),
        (TaskEventKind::Paused, "paused"),
        (TaskEventKind::ShutdownBegan, "shutdown_began"),
    ];
    for (kind, name) in named {
        assert_eq!(kind.as_str(), name);
    }
}
