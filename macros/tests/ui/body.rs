//! Mistakes in the body are reported where they are.

use otel_tasks::instrumented_task;

#[instrumented_task]
async fn wrong_tail() -> u32 {
    "text"
}

#[instrumented_task]
async fn wrong_return(early: bool) -> std::io::Result<()> {
    if early {
        return 1;
    }
    Ok(())
}

#[instrumented_task]
async fn wrong_question_mark() -> Option<u32> {
    Some("1".parse::<u32>()?)
}

fn main() {
    let _ = (wrong_tail(), wrong_return(true), wrong_question_mark());
}
