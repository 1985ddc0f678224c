//! A queue consumer: takes orders from a broker, handles 16 at once, and continues the trace of each order's producer.
//!
//! ```text
//! cargo run --manifest-path examples/services/Cargo.toml --bin broker       # sends an order every 100 ms
//! cargo run --manifest-path examples/services/Cargo.toml --bin consumer
//! ```
//! Settings: `QUEUE_BROKER`, `QUEUE_HANDLED` (a file), `QUEUE_HANDLING_TAKES` (seconds), and the `OTEL_*` variables.
//!
//! After SIGTERM no order is taken any more. Those in hand are handled and acknowledged within 20 s; the broker redelivers what is not
//! acknowledged. A second signal hands back at once what is in hand.

mod queue;

use std::{env, error::Error, fs::File, io::Write as _, sync::Arc, time::Duration};

use otel_tasks::{
    Backoff, CriticalTaskConfig, GiveUp, TaskContext, TaskManager, Telemetry, shutdown_signal,
    telemetry::remote_context,
};
use queue::{Message, Queue};

/// Orders that are handled at once.
const AT_ONCE: usize = 16;
/// The longest that an order may take. At shutdown orders in hand get this long.
const TIMEOUT: Duration = Duration::from_secs(20);

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    // A signal that comes while the service starts is not lost.
    let signal = shutdown_signal();
    let setting = |name, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
    let telemetry = Telemetry::builder().service("orders").export_if_configured().install()?;
    let shop = Arc::new(Shop {
        broker: setting("QUEUE_BROKER", "127.0.0.1:5672"),
        handled: File::options().append(true).create(true).open(setting("QUEUE_HANDLED", "handled.txt"))?,
        takes: Duration::try_from_secs_f64(setting("QUEUE_HANDLING_TAKES", "0.2").parse()?)?,
    });

    let tasks = TaskManager::new();
    // Intake stops before all others. A lost connection is made again without a limit: a broker's restart must not end the service.
    let consumer = CriticalTaskConfig::new("consumer", move |ctx| consume(ctx, shop.clone()))
        .intake()
        .shutdown_grace(TIMEOUT)
        .backoff(Backoff::growing(Duration::from_millis(200), Duration::from_secs(10)))
        .give_up(GiveUp::RetryEvery(Duration::from_secs(60)));
    tasks.register(consumer)?;
    let report = tasks.run_until(signal).await;
    println!("{report}\n{}", telemetry.shutdown().await);
    report.exit()
}

async fn consume(ctx: TaskContext, shop: Arc<Shop>) -> std::io::Result<()> {
    let Some(queue) = ctx.run_until_cancelled(Queue::connect(&shop.broker)).await else { return Ok(()) };
    let mut queue = queue?;
    let work = ctx.task("handle_order").timeout(TIMEOUT).limit(AT_ONCE);
    // Room first, the message then: nothing is in hand while it waits, and the broker gives the message to another consumer.
    while let Some(room) = ctx.run_until_cancelled(work.reserve()).await {
        let Some(message) = ctx.run_until_cancelled(queue.next()).await else { break };
        let message = message?;
        let producer = remote_context(|name| message.header(name));
        // Owned by `consumer`: never refused, and waited for when this task has ended.
        room.parent(producer).spawn(shop.clone().handle(message));
    }
    Ok(())
}

/// The inputs of an order's handler.
struct Shop {
    broker: String,
    handled: File,
    /// The time that an order takes: the example does nothing else with it.
    takes: Duration,
}

impl Shop {
    /// Handles an order, then acknowledges it. Until then the message goes back to the broker where it is dropped: after an error, a
    /// panic, the timeout, or at the second signal.
    async fn handle(self: Arc<Self>, message: Message) -> Result<(), Failure> {
        tokio::time::sleep(self.takes).await;
        // One write, so that lines of several orders do not mix. From here to the acknowledgement nothing may be repeated or lost by
        // the service itself; a crash in between is why orders may come twice.
        (&self.handled).write_all(format!("{}\n", message.body).as_bytes())?;
        message.acknowledge().await?;
        Ok(())
    }
}
