//! A small chat bot, the shape of service that `otel-tasks` is made for: a gateway, commands, loops, a loop for each
//! room, a component that is loaded while it runs; a task that recovers from a panic, and one that never works and is given up.
//!
//! ```text
//! cargo run --example bot -- --for 10s
//! ```
//! Nothing in it is staged: the chat service is a real TCP server (`server.rs`), and every figure is what the manager
//! measured. With `OTEL_EXPORTER_OTLP_ENDPOINT` set it exports traces, metrics and logs, too.

mod background;
mod commands;
mod gateway;
mod options;
mod page;
mod reminders;
mod rooms;
mod run_lines;
mod server;
mod telemetry;
mod terminal;

use std::{error::Error, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use background::{Messages, Moderation};
use gateway::Outbox;
use options::{Command, Options};
use otel_tasks::{TaskManager, health::HealthThresholds, policy::CategoryRules};
use otel_tasks_page::Feed;
use reminders::ReminderFile;
use rooms::Rooms;
use server::ChatService;
use terminal::Terminal;
use tokio::time::{Instant, interval_at, sleep, sleep_until};

/// When the component is loaded, and how long before the end it is unloaded.
const MODERATION_AFTER: Duration = Duration::from_secs(2);
const MODERATION_ENDS: Duration = Duration::from_secs(1);
/// How often the table is printed.
const TABLE_EVERY: Duration = Duration::from_millis(2_500);

/// What the bot's tasks share.
pub(crate) struct Bot {
    pub(crate) tasks: TaskManager,
    pub(crate) service: SocketAddr,
    pub(crate) outbox: Outbox,
    pub(crate) reminders: ReminderFile,
    pub(crate) messages: Messages,
    pub(crate) rooms: Rooms,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = match options::parse() {
        Ok(Command::Run(options)) => options,
        Ok(Command::Help) => {
            Terminal::new(false).say(options::USAGE);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("bot: {error}\nTry --help.");
            return ExitCode::from(2);
        }
    };
    match run(&options).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bot: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<ExitCode, Box<dyn Error>> {
    let terminal = Arc::new(Terminal::new(options.quiet));
    let feed = Feed::default();
    let telemetry = telemetry::install(&terminal, &feed)?;
    terminal.say(&telemetry::destination(&telemetry));
    // Of tokio's threads and queues, beside the tasks'; after the installation, since it takes the global meter.
    opentelemetry_instrumentation_tokio::observe_current_runtime();
    let service = ChatService::start(options.seed, options.drop).await?;
    // An address that nobody listens at any more.
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?;

    // The gateway is restarted with every dropped connection.
    let thresholds =
        HealthThresholds::default().restarts_per_hour(100).recovering_for(Duration::from_secs(2));
    let tasks = TaskManager::builder()
        .categories(CategoryRules::discord())
        .monitor_interval(Duration::from_secs(1))
        .shutdown_deadline(Duration::from_secs(5))
        .health_thresholds(thresholds)
        .build()
        .unwrap();
    let page = page::serve(&tasks, &feed, options)?;
    terminal.banner(&format!("the page is at http://{}/", page.address()));
    let bot = Arc::new(Bot {
        tasks: tasks.clone(),
        service: service.address(),
        outbox: Outbox::default(),
        reminders: ReminderFile::create()?,
        messages: Messages::default(),
        rooms: Rooms::default(),
    });
    tasks.register(gateway::task(&bot)?)?;
    tasks.register(reminders::task(&bot))?;
    tasks.register(background::cache_warmer(&bot))?;
    tasks.register(background::legacy_sync(nobody))?;
    tasks.register(background::status(&bot))?;
    rooms::register(&bot)?;
    tasks.start();

    let end = async {
        tokio::select! {
            () = otel_tasks::shutdown_signal() => terminal.say("\nasked to stop"),
            () = load_and_unload(&bot, options.run_for) => {}
            () = print_tables(&terminal, &tasks), if options.table => {}
        }
        if options.table {
            terminal.table(&tasks);
        }
    };
    let report = tasks.run_until(end).await;

    let statistics = tasks.statistics();
    bot.reminders.remove();
    terminal.say(&format!("statistics\n{}\n", terminal::statistics(&statistics)));
    terminal.say(&format!("chat service\n{}\n", terminal::service(&service.finish())));
    terminal.say(&format!("{report}\n"));
    terminal.say(&telemetry.shutdown().await.to_string());
    Ok(ExitCode::from(report.exit_code()))
}

/// Loads the component after a while and unloads it before the end; completes when the bot is to end.
async fn load_and_unload(bot: &Arc<Bot>, run_for: Option<Duration>) {
    let started = Instant::now();
    sleep(run_for.map_or(MODERATION_AFTER, |run_for| MODERATION_AFTER.min(run_for / 3))).await;
    let found = bot.tasks.register_component("moderation", Moderation(bot.clone()));
    tracing::info!("component moderation loaded: {}", found.registered.join(", "));
    let Some(run_for) = run_for else { return std::future::pending().await };
    sleep_until(started + run_for.saturating_sub(MODERATION_ENDS)).await;
    match bot.tasks.unregister_component("moderation").await {
        Ok(stopped) => tracing::info!("component moderation unloaded: {}", stopped.join(", ")),
        Err(error) => tracing::warn!("{error}"),
    }
    sleep_until(started + run_for).await;
}

async fn print_tables(terminal: &Terminal, tasks: &TaskManager) {
    let mut ticks = interval_at(Instant::now() + TABLE_EVERY, TABLE_EVERY);
    loop {
        ticks.tick().await;
        terminal.table(tasks);
    }
}
