//! The bot's connection to the chat service: reads what is said, spawns commands, writes what the bot has to say.

use std::{io, sync::Arc, time::Duration};

use otel_tasks::{Backoff, CriticalTaskConfig, TaskCategory, TaskContext, TaskPriority, policy::PolicyError};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tracing::info;

use crate::{Bot, commands};

/// Lines that may wait to be written; more than that and the connection is as good as gone.
const OUTBOX: usize = 64;

/// The gateway as a critical task: restarted soon after each lost connection, however often that happens.
pub(crate) fn task(bot: &Arc<Bot>) -> Result<CriticalTaskConfig, PolicyError> {
    let bot = bot.clone();
    let backoff = Backoff::new(Duration::from_millis(300), 2.0, Duration::from_secs(2))?
        .stable_after(Duration::from_secs(1));
    Ok(CriticalTaskConfig::new("gateway", move |ctx| gateway(ctx, bot.clone()))
        .category(TaskCategory::Gateway)
        .priority(TaskPriority::Critical)
        .backoff(backoff)
        .max_restarts(20, Duration::from_secs(60))
        .heartbeat_timeout(Duration::from_secs(3))
        .health_check_interval(Duration::from_secs(1))
        .error_type(|error: &io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => "disconnected",
            io::ErrorKind::ConnectionRefused => "connection_refused",
            _ => "io",
        }))
}

async fn gateway(ctx: TaskContext, bot: Arc<Bot>) -> io::Result<()> {
    let (read, mut write) = TcpStream::connect(bot.service).await?.into_split();
    write.write_all(b"HELLO bot\n").await?;
    info!("connected to the chat service, connection {}", ctx.generation());
    let mut lines = BufReader::new(read).lines();
    let mut to_write = bot.outbox.open();
    let mut answers: JoinSet<String> = JoinSet::new();
    let mut heartbeat = interval(Duration::from_millis(500));
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let line = tokio::select! {
            biased;
            () = ctx.cancelled() => break,
            Some(answer) = answers.join_next() => answer.map_err(io::Error::other)?,
            Some(line) = to_write.recv() => line,
            _ = heartbeat.tick() => format!("HEARTBEAT {}", ctx.generation()),
            line = lines.next_line() => {
                let Some(line) = line? else {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the chat service hung up"));
                };
                match line.split_once(' ') {
                    Some(("CMD", command)) => {
                        answers.spawn(commands::answer(bot.clone(), command.to_owned()));
                    }
                    Some(("SAY", said)) => {
                        let (room, message) = said.split_once(' ').unwrap_or((said, ""));
                        bot.messages.push(message);
                        bot.rooms.spoken_in(room).map_err(io::Error::other)?;
                    }
                    // The service is there and answers, and so are we.
                    Some(("ACK", _)) => ctx.heartbeat(),
                    _ => tracing::warn!("not understood: {line}"),
                }
                continue;
            }
        };
        write.write_all(format!("{line}\n").as_bytes()).await?;
    }
    // The gateway is stopped last: commands have ended, and their answers are still to be written.
    while let Some(answer) = answers.join_next().await {
        write.write_all(format!("{}\n", answer.map_err(io::Error::other)?).as_bytes()).await?;
    }
    write.shutdown().await
}

/// What the other tasks have to say, to whichever connection there is.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    connection: watch::Sender<Option<mpsc::Sender<String>>>,
}

impl Outbox {
    fn open(&self) -> mpsc::Receiver<String> {
        let (sender, receiver) = mpsc::channel(OUTBOX);
        self.connection.send_replace(Some(sender));
        receiver
    }

    /// Waits for the first connection.
    pub(crate) async fn connected(&self) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.connection.subscribe().wait_for(Option::is_some).await;
    }

    pub(crate) fn send(&self, line: String) -> io::Result<()> {
        let connection = self.connection.borrow().clone();
        let sent = connection.and_then(|connection| connection.try_send(line).ok());
        sent.ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "no connection to the chat service"))
    }
}
