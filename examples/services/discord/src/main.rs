//! A Discord bot: the gateway as a task that must never end, commands as short tasks, a loop for each guild.
//!
//! ```text
//! cd examples/services/discord
//! cargo run --bin local_gateway                                          # prints its address
//! DISCORD_GATEWAY=ws://127.0.0.1:9000 cargo run --bin bot
//! ```
//! Settings: `DISCORD_TOKEN`, `DISCORD_GATEWAY`, `SWEEP_EVERY` and `COMMANDS_TAKE` (seconds), and the `OTEL_*` variables.
//!
//! An outage of the gateway is an error of the task `gateway`: it is restarted with growing delays until it succeeds, and resumes its
//! session. A token that Discord refuses ends the process. After SIGTERM the gateway ends first, with the commands that it has begun.

use std::{env, error::Error, fmt, sync::Arc, time::Duration};

use otel_tasks::{
    CriticalTaskConfig, FamilyHandle, Lent, TaskCategory, TaskContext, TaskFamily, TaskLoop, TaskManager,
    TaskPriority, Telemetry,
    policy::{CategoryRules, ErrorClass, Escalation},
    shutdown_signal,
    task::RegisterError,
};
use twilight_gateway::{
    CloseFrame, ConfigBuilder, Event, EventTypeFlags, Intents, Shard, ShardId, ShardState, StreamExt as _,
    error::{ReceiveMessageError, ReceiveMessageErrorType},
};
use twilight_model::{
    gateway::payload::incoming::MessageCreate,
    id::{Id, marker::GuildMarker},
};

type GuildId = Id<GuildMarker>;

/// Twice Discord's interval between heartbeats (41 s), and some more.
const SILENCE: Duration = Duration::from_secs(90);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    // A signal that comes while the service starts is not lost.
    let signal = shutdown_signal();
    let telemetry = Telemetry::builder().service("discord-bot").export_if_configured().install()?;
    let setting = |name, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
    let sweep_every = Duration::try_from_secs_f64(setting("SWEEP_EVERY", "300").parse()?)?;
    let commands_take = Duration::try_from_secs_f64(setting("COMMANDS_TAKE", "0.1").parse()?)?;

    let mut config = ConfigBuilder::new(
        setting("DISCORD_TOKEN", "no token"),
        Intents::GUILDS | Intents::GUILD_MESSAGES | Intents::MESSAGE_CONTENT,
    );
    if let Ok(gateway) = env::var("DISCORD_GATEWAY") {
        config = config.proxy_url(gateway);
    }
    // It knows the session: lent to each run, so that a restart resumes it.
    let shard = Shard::with_config(ShardId::ONE, config.build());

    let tasks = TaskManager::builder().categories(CategoryRules::discord()).build()?;
    let guilds = tasks.register_family(TaskFamily::of("guild_sweep", move |guild: &GuildId| {
        let guild = *guild;
        let sweep = TaskLoop::every(sweep_every, move |_| async move { println!("swept guild {guild}") });
        CriticalTaskConfig::from_loop("guild_sweep", sweep)
    }))?;
    let bot = Arc::new(Bot { guilds, commands_take });
    let gateway =
        CriticalTaskConfig::lend("gateway", shard, move |ctx, shard| gateway(ctx, shard, bot.clone()));
    tasks.register(
        gateway
            .category(TaskCategory::Gateway)
            .priority(TaskPriority::Critical)
            .intake()
            .heartbeat_timeout(SILENCE)
            .start_timeout(Duration::from_secs(60))
            .unlimited_restarts()
            .classify(|error: &GatewayError| match error {
                GatewayError::Refused => ErrorClass::Permanent,
                GatewayError::Lost(_) | GatewayError::Guilds(_) => ErrorClass::Transient,
            })
            .escalation(Escalation::Shutdown),
    )?;
    let report = tasks.run_until(signal).await;
    println!("{report}\n{}", telemetry.shutdown().await);
    report.exit()
}

struct Bot {
    /// Weak: it does not keep the manager alive.
    guilds: FamilyHandle<GuildId>,
    commands_take: Duration,
}

const WANTED: EventTypeFlags = EventTypeFlags::READY
    .union(EventTypeFlags::RESUMED)
    .union(EventTypeFlags::GUILD_CREATE)
    .union(EventTypeFlags::GUILD_DELETE)
    .union(EventTypeFlags::MESSAGE_CREATE)
    .union(EventTypeFlags::GATEWAY_HEARTBEAT_ACK);

/// Reads the gateway until it is asked to stop.
async fn gateway(ctx: TaskContext, mut shard: Lent<Shard>, bot: Arc<Bot>) -> Result<(), GatewayError> {
    if shard.state() == ShardState::Active {
        // The run before has left it connected.
        ctx.ready();
    }
    while let Some(next) = ctx.run_until_cancelled(shard.next_event(WANTED)).await {
        let event = match next.ok_or(GatewayError::Refused)? {
            Ok(event) => event,
            Err(error) if matches!(error.kind(), ReceiveMessageErrorType::Reconnect) => {
                return Err(GatewayError::Lost(error));
            }
            Err(error) => {
                tracing::warn!(%error, "an event was skipped");
                continue;
            }
        };
        ctx.heartbeat();
        match event {
            Event::Ready(ready) => {
                let guilds = ready.guilds.iter().map(|guild| guild.id);
                bot.guilds.set(guilds).await.map_err(GatewayError::Guilds)?;
                ctx.ready();
            }
            Event::Resumed => ctx.ready(),
            Event::GuildCreate(guild) => {
                bot.guilds.ensure(guild.id()).map_err(GatewayError::Guilds)?;
            }
            // Not in an outage of the guild.
            Event::GuildDelete(guild) if guild.unavailable != Some(true) => {
                bot.guilds.remove(&guild.id).await;
            }
            Event::MessageCreate(message) => command(&ctx, &bot, *message),
            _ => {}
        }
    }
    shard.close(CloseFrame::NORMAL);
    while !matches!(shard.next_event(WANTED).await, None | Some(Ok(Event::GatewayClose(_)) | Err(_))) {}
    Ok(())
}

/// Begins what a message asks for. The task `gateway` owns the command: it is waited for when the gateway is asked to stop.
fn command(ctx: &TaskContext, bot: &Bot, message: MessageCreate) {
    let takes = bot.commands_take;
    match message.content.as_str() {
        "!ping" => {
            // A real bot replies through twilight-http.
            ctx.task("command_ping").timeout(Duration::from_secs(10)).spawn(async move {
                tokio::time::sleep(takes).await;
                println!("replied to message {}: pong", message.id);
            });
        }
        text if text.starts_with('!') => tracing::info!(text, "no such command"),
        _ => {}
    }
}

/// The reason why the gateway was left.
#[derive(Debug)]
enum GatewayError {
    /// Discord closed the session for good: the token or the intents are wrong.
    Refused,
    Lost(ReceiveMessageError),
    Guilds(RegisterError),
}

impl fmt::Display for GatewayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "the gateway refused the bot",
            Self::Lost(_) => "the gateway is out of reach",
            Self::Guilds(_) => "a guild cannot be registered",
        })
    }
}

impl Error for GatewayError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Refused => None,
            Self::Lost(error) => Some(error),
            Self::Guilds(error) => Some(error),
        }
    }
}
