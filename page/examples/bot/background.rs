//! What a bot does besides answering: a cache, an old synchronisation that nobody mended, a status, a component.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use otel_tasks::{
    CriticalTaskConfig, CriticalTasksProvider, GiveUp, TaskCategory, TaskContext, TaskLoop, TaskPriority,
    schedule::OnError,
};
use tokio::{net::TcpStream, time::sleep};

use crate::{Bot, commands::parse_page, server::ask_archive};

/// Keeps the first pages of the archive at hand. Its third page arrives broken once: it panics, is restarted, and goes on.
pub(crate) fn cache_warmer(bot: &Arc<Bot>) -> CriticalTaskConfig {
    let service = bot.service;
    CriticalTaskConfig::new("cache_warmer", move |ctx| warm(ctx, service))
        .category(TaskCategory::System)
        .priority(TaskPriority::Normal)
        .max_restarts(3, Duration::from_secs(60))
        .restart_delay(Duration::from_millis(500))
}

async fn warm(ctx: TaskContext, service: SocketAddr) -> io::Result<()> {
    let mut cache: HashMap<u64, String> = HashMap::new();
    for page in (101..=104).cycle() {
        let line = ask_archive(service, page).await?;
        let (number, text) = parse_page(&line).expect("the archive sends whole pages");
        cache.insert(number, text.to_owned());
        tokio::select! {
            () = sleep(Duration::from_millis(400)) => {}
            () = ctx.cancelled() => break,
        }
    }
    Ok(())
}

/// Talks to a server that was switched off long ago: restarted twice, then given up, and one line says so.
pub(crate) fn legacy_sync(nobody: SocketAddr) -> CriticalTaskConfig {
    CriticalTaskConfig::new(
        "legacy_sync",
        move |_ctx| async move { TcpStream::connect(nobody).await.map(drop) },
    )
    .priority(TaskPriority::Low)
    .max_restarts(2, Duration::from_secs(10))
    .restart_delay(Duration::from_millis(200))
    .give_up(GiveUp::ForGood)
    .error_type(|_: &io::Error| "connection_refused")
}

/// Tells the chat how the bot is, every two seconds.
pub(crate) fn status(bot: &Arc<Bot>) -> CriticalTaskConfig {
    let (bot, to_connect) = (bot.clone(), bot.clone());
    let status = TaskLoop::every(Duration::from_secs(2), move |_ctx| {
        let bot = bot.clone();
        async move {
            let statistics = bot.tasks.statistics();
            bot.outbox
                .send(format!("STATUS {} runs, {} errors", statistics.total_runs, statistics.total_errors))
        }
    })
    .before_loop(move |_| {
        let bot = to_connect.clone();
        async move { bot.outbox.connected().await }
    })
    .on_error(|_| async { OnError::Continue });
    CriticalTaskConfig::from_loop("status", status).priority(TaskPriority::Low)
}

/// A component that is loaded while the bot runs, and brings a loop of its own.
pub(crate) struct Moderation(pub(crate) Arc<Bot>);

impl CriticalTasksProvider for Moderation {
    fn critical_tasks(&self) -> Vec<CriticalTaskConfig> {
        let bot = self.0.clone();
        let sweep = TaskLoop::every(Duration::from_millis(700), move |_ctx| {
            let bot = bot.clone();
            async move { bot.messages.take().iter().try_for_each(|message| review(&bot, message)) }
        })
        .on_error(|_| async { OnError::Continue });
        vec![CriticalTaskConfig::from_loop("moderation_sweep", sweep).priority(TaskPriority::Normal)]
    }
}

fn review(bot: &Bot, message: &str) -> io::Result<()> {
    match message.split_once(' ') {
        Some((id, text)) if text.contains("followers") => bot.outbox.send(format!("FLAG {id}")),
        _ => Ok(()),
    }
}

/// What was said in the chat and not looked at yet; at most a hundred messages.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    unread: Mutex<Vec<String>>,
}

impl Messages {
    pub(crate) fn push(&self, message: &str) {
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        if unread.len() < 100 {
            unread.push(message.to_owned());
        }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.unread.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
