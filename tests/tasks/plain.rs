//! What a user names and fails with never moves a terminal's cursor, forges a line or turns its writing around.

use std::time::Duration;

use otel_tasks::{CriticalTaskConfig, TaskManager, policy::Escalation};

const EVIL: &str = "evil\u{1b}[2J\u{9b}1m\r\nshutdown took 0s\u{202e}";

#[track_caller]
fn is_plain(text: &str) {
    let bad = |c: char| c.is_control() && c != '\n' || ('\u{2028}'..='\u{202e}').contains(&c);
    assert_eq!(text.chars().filter(|&c| bad(c)).collect::<String>(), "", "in {text:?}");
    assert!(!text.lines().any(|line| line.starts_with("shutdown took 0s")), "a forged line: {text}");
    assert!(text.contains("evil\\u{1b}[2J"), "it shows what was written: {text}");
}

/// Seen to fail: names and texts were written as they were.
#[tokio::test(start_paused = true)]
async fn names_and_errors_are_escaped_in_every_report() {
    let tasks = TaskManager::new();
    let fails = CriticalTaskConfig::new(EVIL, |_| async { Err::<(), _>(EVIL.to_owned()) })
        .component(EVIL)
        .max_restarts(1, Duration::from_secs(60))
        .escalation(Escalation::Shutdown);
    tasks.register(fails).expect("a name");
    is_plain(&tasks.check_instrumentation().to_string());
    let panicked = tasks.spawn("panics", async { panic!("{EVIL}") }).await;
    is_plain(&panicked.expect_err("a panic").to_string());
    tasks.start();
    tokio::time::sleep(Duration::from_secs(1)).await;
    is_plain(&tasks.health().to_string());
    let circle =
        CriticalTaskConfig::new(EVIL.replace("evil", "evil\u{1b}[2J"), |_| async {}).depends_on(EVIL);
    let _ = tasks.register(circle);
    let report = tasks.shutdown().await;
    is_plain(&report.to_string());
    if let Some(cause) = &report.cause {
        is_plain(&cause.to_string());
    }
}

#[test]
fn the_circle_of_an_error_is_escaped() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _entered = runtime.enter();
    let tasks = TaskManager::new();
    let circle = CriticalTaskConfig::new(EVIL, |_| async {}).depends_on(EVIL);
    is_plain(&tasks.register(circle).expect_err("a circle").to_string());
}
