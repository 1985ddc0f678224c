use std::pin::{Pin, pin};

use futures_util::StreamExt;
use otel_tasks::CriticalTaskConfig;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;

fn hub(tasks: &TaskManager) -> Arc<Hub> {
    Hub::new(tasks.downgrade(), tasks.subscribe(), None, Shown::default(), 8, Room::default())
}

/// The next message: its name and its data.
async fn message(client: &mut Pin<&mut impl Stream<Item = Bytes>>) -> Option<(String, String)> {
    let frame = tokio::time::timeout(9 * TICK, client.next()).await.expect("a message in time")?;
    let text = std::str::from_utf8(&frame).expect("text");
    let (event, data) = text.strip_suffix("\n\n").and_then(|text| text.split_once('\n')).expect("two lines");
    let part = |line: &str, name| line.strip_prefix(name).expect("a field").to_owned();
    Some((part(event, "event: "), part(data, "data: ")))
}

async fn next(client: &mut Pin<&mut impl Stream<Item = Bytes>>) -> String {
    message(client).await.map_or("over".to_owned(), |(event, _)| event)
}

#[tokio::test(start_paused = true)]
async fn hub_reads_nothing_without_clients() {
    let tasks = TaskManager::new();
    tasks.spawn("command", async {}).await.expect("it runs");
    let hub = hub(&tasks);
    assert!(!hub.told().is_ticking, "no client has come");
    {
        let mut client = pin!(hub.watch().expect("room"));
        assert_eq!(next(&mut client).await, "all");
        tokio::time::sleep(3 * TICK).await;
        let told = hub.told();
        assert!(told.is_ticking && told.rows.len() == 1);
    }
    tokio::time::sleep(2 * TICK).await;
    let told = hub.told();
    assert!(!told.is_ticking && told.rows.is_empty());
}

#[tokio::test(start_paused = true)]
async fn client_far_behind_receives_everything_again() {
    let tasks = TaskManager::new();
    let hub = hub(&tasks);
    let mut client = pin!(hub.watch().expect("room"));
    assert_eq!(next(&mut client).await, "all");
    for _ in 0..BEHIND + 2 {
        tasks.spawn("command", async {}).await.expect("it runs");
        tokio::time::sleep(TICK).await;
    }
    assert_eq!(next(&mut client).await, "all");
    tasks.spawn("command", async {}).await.expect("it runs");
    assert_eq!(next(&mut client).await, "delta");
    drop(tasks);
    assert_eq!(next(&mut client).await, "over");
}

/// The next message: whether it is complete, not a delta, and its content without the time.
async fn told(client: &mut Pin<&mut impl Stream<Item = Bytes>>) -> (bool, Value) {
    let (event, text) = message(client).await.expect("the manager is there");
    let mut told: Value = serde_json::from_str(&text).expect("JSON");
    told["at"].take();
    (event == "all", told)
}

/// The last message of a client is the end of the shutdown; then its stream is over.
#[tokio::test(start_paused = true)]
async fn a_stream_ends_after_the_last_event_of_the_shutdown() {
    let tasks = TaskManager::new();
    let hub = hub(&tasks);
    let mut client = pin!(hub.watch().expect("room"));
    assert_eq!(next(&mut client).await, "all");
    assert!(tasks.shutdown().await.is_clean());
    let (_, delta) = told(&mut client).await;
    assert_eq!(of(&delta["events"], "kind").last(), Some(&&json!("shutdown_ended")));
    assert_eq!(next(&mut client).await, "over");
    assert!(!hub.told().is_ticking);
}

/// Two clients that come between two ticks receive the same bytes.
#[tokio::test(start_paused = true)]
async fn clients_between_two_ticks_share_the_same_bytes() {
    let tasks = TaskManager::new();
    let hub = hub(&tasks);
    let (mut first, mut second) = (pin!(hub.watch().expect("room")), pin!(hub.watch().expect("room")));
    let (first, second) = (first.next().await.expect("all"), second.next().await.expect("all"));
    assert_eq!(first.as_ptr(), second.as_ptr());
}

/// The value after it was read again: the last digit of a number may differ.
fn read_back(value: Value) -> Value {
    serde_json::from_str(&value.to_string()).expect("JSON")
}

fn of<'a>(list: &'a Value, field: &str) -> Vec<&'a Value> {
    list.as_array().expect("a list").iter().map(|item| &item[field]).collect()
}

#[tokio::test(start_paused = true)]
async fn next_tick_sends_only_the_changes() {
    let tasks = TaskManager::new();
    let hub = hub(&tasks);
    tasks.spawn("command", async {}).await.expect("it runs");
    tasks.start();
    let looks = Instant::now();
    let mut client = pin!(hub.watch().expect("room"));
    let (everything, all) = told(&mut client).await;
    let overview = |hub: &Hub| hub.overview().expect("the manager is there");
    let (summary, rows) = overview(&hub);
    assert_eq!(
        (everything, all),
        (true, read_back(json!({ "at": null, "summary": summary, "rows": rows, "events": [] })))
    );

    let waits = CriticalTaskConfig::new("gateway", |ctx| async move { ctx.cancelled().await });
    tasks.register(waits).expect("registered");
    let (everything, delta) = told(&mut client).await;
    assert_eq!(looks.elapsed(), TICK);
    let (summary, rows) = overview(&hub);
    let events = json!(hub.all_events().0);
    assert_eq!(of(&events, "kind"), ["registered", "started", "ready"]);
    let gateway = json!(rows[1]);
    assert_eq!(
        (everything, delta),
        (false, read_back(json!({ "at": null, "summary": summary, "rows": [gateway], "events": events })))
    );

    // Ticks without changes send nothing, and unchanged parts are not sent.
    tokio::time::sleep(5 * TICK / 2).await;
    tasks.spawn("command", async {}).await.expect("it runs");
    let (_, delta) = told(&mut client).await;
    assert_eq!(looks.elapsed(), 4 * TICK);
    let command = json!(overview(&hub).1[0]);
    assert_eq!((&command["name"], &command["runs"]), (&json!("command"), &json!(2)));
    assert_eq!(delta, read_back(json!({ "at": null, "rows": [command] })));
}

#[tokio::test(start_paused = true)]
async fn last_events_are_kept_and_each_is_sent_once() {
    let (many, most) = (EVENTS + 10, EVENTS + 11 + TaskEvents::CAPACITY + 7);
    let tasks = TaskManager::builder().max_names(most).build().expect("valid");
    let hub = hub(&tasks);
    // Before the start, the registration of a task is one event; the names distinguish the events.
    let tell = |numbers: std::ops::Range<usize>| {
        for number in numbers {
            tasks.register(CriticalTaskConfig::new(number.to_string(), |_| async {})).expect("registered");
        }
    };
    let numbers = |events: &Value| -> Vec<_> {
        let name = |name: &Value| name.as_str().and_then(|name| name.parse::<usize>().ok());
        of(events, "task").into_iter().map(|task| name(task).expect("a number")).collect()
    };
    let kept = |hub: &Hub| {
        let (events, missed) = hub.all_events();
        (numbers(&json!(events)), missed)
    };
    let mut client = pin!(hub.watch().expect("room"));
    assert_eq!(told(&mut client).await.1["events"], json!([]));
    tell(0..3);
    assert_eq!(kept(&hub), ((0..3).collect(), 0));
    let (_, delta) = told(&mut client).await;
    assert_eq!(numbers(&delta["events"]), [0, 1, 2], "although they were read already");
    tell(3..5);
    let (_, delta) = told(&mut client).await;
    assert_eq!(numbers(&delta["events"]), [3, 4]);

    tell(5..many);
    assert_eq!(kept(&hub), ((10..many).collect(), 0));
    let (_, delta) = told(&mut client).await;
    assert_eq!(numbers(&delta["events"]), (10..many).collect::<Vec<_>>(), "as many as there are");
    tell(many..many + 1);
    let mut newcomer = pin!(hub.watch().expect("room"));
    let (_, all) = told(&mut newcomer).await;
    let first = many - FIRST_EVENTS as usize;
    assert_eq!(numbers(&all["events"]), (first..many).collect::<Vec<_>>(), "what the others know");
    assert_eq!(numbers(&told(&mut newcomer).await.1["events"]), [many], "and then its message");

    // The tick that sent this is over.
    drop(hub.told());
    tell(many + 1..most);
    assert_eq!(kept(&hub), ((most - EVENTS..most).collect(), 7));
}
