//! A gateway on this machine that speaks enough of Discord's documented protocol for a bot: hello, heartbeats, identify, resume,
//! reconnect, guilds and messages. One bot at a time. It prints what it sees, and obeys the lines that it reads:
//!
//! ```text
//! message 7 !ping      a message with this id       guild 3      the bot joins a guild
//! reconnect            the request to reconnect     leave 3      the bot leaves a guild
//! down 5               no connection for 5 seconds  forget       sessions can no longer be resumed
//! ```

use std::{collections::BTreeSet, env, error::Error, future::Future, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, stdin},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::sleep,
};
use tokio_websockets::{Message, ServerBuilder, WebSocketStream};

const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
const SESSION: &str = "session";

// Operations of the protocol.
const DISPATCH: u64 = 0;
const HEARTBEAT: u64 = 1;
const IDENTIFY: u64 = 2;
const RESUME: u64 = 6;
const RECONNECT: u64 = 7;
const INVALID_SESSION: u64 = 9;
const HELLO: u64 = 10;
const HEARTBEAT_ACK: u64 = 11;

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9000".to_owned());
    let mut listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    println!("listening on ws://{address}");
    let (sender, mut orders) = mpsc::channel(16);
    tokio::spawn(async move {
        let mut lines = BufReader::new(stdin()).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if sender.send(line).await.is_err() {
                break;
            }
        }
    });
    let mut gateway = Gateway { url: format!("ws://{address}"), ..Gateway::default() };
    loop {
        let down = tokio::select! {
            accepted = listener.accept() => gateway.talk(accepted?.0, &mut orders).await.unwrap_or_else(|error| {
                println!("connection lost: {error}");
                None
            }),
            order = orders.recv() => match order {
                Some(order) => gateway.obey(&order),
                None => return Ok(()),
            },
        };
        if let Some(down) = down {
            drop(listener);
            println!("down");
            sleep(down).await;
            listener = TcpListener::bind(address).await?;
            println!("up");
        }
    }
}

#[derive(Default)]
struct Gateway {
    url: String,
    guilds: BTreeSet<u64>,
    /// Every event of the session, for a bot that resumes it.
    events: Vec<Value>,
    session: bool,
    /// The events that the connected bot was sent.
    sent: usize,
    identified: bool,
    /// Further messages for the connected bot.
    requests: Vec<Value>,
}

impl Gateway {
    /// Talks with a bot. Returns how long to be down after that.
    async fn talk(
        &mut self,
        stream: TcpStream,
        orders: &mut mpsc::Receiver<String>,
    ) -> Result<Option<Duration>, Failure> {
        self.identified = false;
        let (_, mut bot) = ServerBuilder::new().accept(stream).await?;
        let interval = HEARTBEAT_INTERVAL.as_millis() as u64;
        send(&mut bot, &json!({ "op": HELLO, "d": { "heartbeat_interval": interval } })).await?;
        loop {
            for request in self.requests.drain(..) {
                send(&mut bot, &request).await?;
            }
            while self.identified && self.sent < self.events.len() {
                send(&mut bot, &self.events[self.sent]).await?;
                self.sent += 1;
            }
            tokio::select! {
                received = bot.next() => match received.transpose()? {
                    Some(message) if message.is_text() => self.hear(&serde_json::from_slice(message.as_payload())?),
                    Some(message) if message.is_close() => println!("closed by the bot"),
                    Some(_) => {}
                    None => return Ok(None),
                },
                order = orders.recv() => {
                    let Some(order) = order else { return Ok(None) };
                    if let Some(down) = self.obey(&order) {
                        return Ok(Some(down));
                    }
                }
            }
        }
    }

    /// Handles a message of the bot.
    fn hear(&mut self, said: &Value) {
        match said["op"].as_u64() {
            Some(HEARTBEAT) => self.requests.push(json!({ "op": HEARTBEAT_ACK })),
            Some(IDENTIFY) => {
                println!("identified");
                (self.identified, self.session, self.sent) = (true, true, 0);
                self.events.clear();
                let guilds: Vec<_> = self.guilds.iter().map(|id| unavailable(*id)).collect();
                let user = json!({ "id": "1", "username": "bot", "discriminator": "0", "bot": true, "mfa_enabled": false });
                self.event(
                    "READY",
                    json!({
                        "v": 10, "user": user, "application": { "id": "1", "flags": 0 }, "guilds": guilds,
                        "session_id": SESSION, "resume_gateway_url": self.url,
                    }),
                );
            }
            Some(RESUME) if self.session && said["d"]["session_id"] == SESSION => {
                println!("resumed");
                self.identified = true;
                self.sent = usize::try_from(said["d"]["seq"].as_u64().unwrap_or(0)).unwrap_or(0);
                self.event("RESUMED", json!({}));
            }
            Some(RESUME) => {
                println!("not resumed");
                self.requests.push(json!({ "op": INVALID_SESSION, "d": false }));
            }
            _ => println!("ignored: {said}"),
        }
    }

    fn event(&mut self, name: &str, data: Value) {
        self.events.push(json!({ "op": DISPATCH, "t": name, "s": self.events.len() + 1, "d": data }));
    }

    /// Returns how long to be down.
    fn obey(&mut self, order: &str) -> Option<Duration> {
        let mut words = order.splitn(3, ' ');
        let (verb, number) = (words.next(), words.next().and_then(|word| word.parse::<u64>().ok()));
        match (verb, number) {
            (Some("message"), Some(id)) => {
                self.event("MESSAGE_CREATE", message(id, words.next().unwrap_or("")))
            }
            (Some("guild"), Some(id)) if self.guilds.insert(id) => {
                self.event("GUILD_CREATE", unavailable(id))
            }
            (Some("leave"), Some(id)) if self.guilds.remove(&id) => {
                self.event("GUILD_DELETE", json!({ "id": id.to_string() }))
            }
            (Some("reconnect"), None) => self.requests.push(json!({ "op": RECONNECT, "d": null })),
            (Some("forget"), None) => self.session = false,
            (Some("down"), Some(seconds)) => return Some(Duration::from_secs(seconds)),
            _ => println!("no such order: {order}"),
        }
        None
    }
}

fn unavailable(id: u64) -> Value {
    json!({ "id": id.to_string(), "unavailable": true })
}

fn message(id: u64, content: &str) -> Value {
    json!({
        "id": id.to_string(), "channel_id": "1", "content": content, "timestamp": "2026-01-01T00:00:00+00:00",
        "author": { "id": "2", "username": "user", "discriminator": "0" }, "type": 0, "pinned": false, "tts": false,
        "edited_timestamp": null, "mention_everyone": false, "mentions": [], "mention_roles": [], "attachments": [], "embeds": [],
    })
}

fn send(
    bot: &mut WebSocketStream<TcpStream>,
    said: &Value,
) -> impl Future<Output = Result<(), tokio_websockets::Error>> {
    bot.send(Message::text(said.to_string()))
}
