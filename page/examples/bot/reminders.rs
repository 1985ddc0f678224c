//! Reminders that outlive the bot: a file, rewritten as a whole or not at all.

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use otel_tasks::{CriticalTaskConfig, TaskLoop, TaskPriority, schedule::OnError};
use tokio::{fs, sync::Mutex};

use crate::Bot;

/// The loop that delivers what is due, every second.
pub(crate) fn task(bot: &Arc<Bot>) -> CriticalTaskConfig {
    let bot = bot.clone();
    let reminders = TaskLoop::every(Duration::from_secs(1), move |_ctx| {
        let bot = bot.clone();
        async move { bot.reminders.deliver_due(|text| bot.outbox.send(format!("REMINDER {text}"))).await }
    })
    // What could not be delivered is still in the file: the next second is soon enough.
    .on_error(|_| async { OnError::Continue });
    CriticalTaskConfig::from_loop("reminders", reminders).priority(TaskPriority::High)
}

/// One reminder a line: when it is due, in milliseconds since 1970, and its text.
#[derive(Debug)]
pub(crate) struct ReminderFile {
    folder: PathBuf,
    /// Held while the file is read and rewritten.
    writing: Mutex<()>,
}

impl ReminderFile {
    pub(crate) fn create() -> io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("otel-tasks-bot-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("reminders"), "")?;
        Ok(Self { folder, writing: Mutex::default() })
    }

    pub(crate) async fn add(&self, after: Duration, text: &str) -> io::Result<()> {
        let _writing = self.writing.lock().await;
        let reminders = self.read().await?;
        self.replace(&format!("{reminders}{} {text}\n", now_ms() + after.as_millis())).await
    }

    /// Hands what is due to `deliver`, and keeps the rest, and what was not delivered.
    async fn deliver_due(&self, deliver: impl Fn(&str) -> io::Result<()>) -> io::Result<()> {
        let _writing = self.writing.lock().await;
        let (now, reminders) = (now_ms(), self.read().await?);
        let mut failed = Ok(());
        let mut kept = String::new();
        for reminder in reminders.lines() {
            let (due, text) = reminder.split_once(' ').unwrap_or(("0", reminder));
            if due.parse().is_ok_and(|due: u128| due > now) {
                kept += &format!("{reminder}\n");
            } else if let Err(error) = deliver(text) {
                failed = Err(error);
                kept += &format!("{reminder}\n");
            }
        }
        if kept != reminders {
            self.replace(&kept).await?;
        }
        failed
    }

    async fn read(&self) -> io::Result<String> {
        fs::read_to_string(self.folder.join("reminders")).await
    }

    /// Writes beside the file and renames, so that a crash leaves the old one or the new one.
    async fn replace(&self, reminders: &str) -> io::Result<()> {
        fs::write(self.folder.join("reminders.new"), reminders).await?;
        fs::rename(self.folder.join("reminders.new"), self.folder.join("reminders")).await
    }

    /// Removes it: an example leaves nothing behind.
    pub(crate) fn remove(&self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis()
}
