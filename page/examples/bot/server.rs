//! The chat service that the bot talks to: a real TCP server, here because an example should need nothing.
//!
//! It is no part of the bot, and not under its task manager. It sends commands at an irregular rate, checks every
//! answer, and drops connections: all of it from one seed.
//!
//! ```text
//! service ─► bot   CMD <id> <command> <arguments>     SAY <room> <id> <message>     ACK <n>
//! bot ─► service   REPLY <id> <text>   ERROR <id> <why>   REMINDER <text>   FLAG <id>   STATUS <text>   DIGEST <room> <n>   HEARTBEAT <n>
//! ```
//! A connection that begins with `PAGE <n>` instead of `HELLO` asks the archive, gets one line, and ends.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

/// Archive pages that take longer than the bot is willing to wait.
const SLOW_PAGES: u64 = 7;
/// The page that arrives broken, the first time somebody asks for it.
const BROKEN_PAGE: u64 = 103;

pub(crate) struct ChatService {
    address: SocketAddr,
    ledger: Arc<Ledger>,
    accepting: JoinHandle<()>,
}

/// What the service has seen.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counts {
    pub(crate) connections: u64,
    pub(crate) dropped: u64,
    pub(crate) commands: u64,
    pub(crate) right: u64,
    pub(crate) refused: u64,
    pub(crate) unanswered: usize,
    pub(crate) wrong: Vec<String>,
    pub(crate) reminders_asked: u64,
    pub(crate) reminders_delivered: u64,
    pub(crate) flagged: u64,
    pub(crate) status_updates: u64,
    pub(crate) digests: u64,
}

#[derive(Debug, Default)]
struct Ledger {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    counts: Counts,
    next_id: u64,
    expected: HashMap<u64, Expect>,
    spam: Vec<u64>,
    broken_page_sent: bool,
}

/// What a right answer is.
#[derive(Debug)]
enum Expect {
    Reply(String),
    /// So many numbers, each from 1 to so many.
    Dice {
        dice: usize,
        sides: u64,
    },
    OneOf(&'static str),
    Error,
}

impl Expect {
    fn accepts(&self, verb: &str, text: &str) -> bool {
        match self {
            Self::Error => verb == "ERROR",
            _ if verb != "REPLY" => false,
            Self::Reply(expected) => text == expected,
            Self::OneOf(options) => options.split(' ').any(|option| option == text),
            Self::Dice { dice, sides } => {
                let rolled: Vec<u64> = text.split(' ').filter_map(|number| number.parse().ok()).collect();
                rolled.len() == *dice && rolled.iter().all(|number| (1..=*sides).contains(number))
            }
        }
    }
}

impl Ledger {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChatService {
    /// Connections are dropped after about `drop`, if it says so.
    pub(crate) async fn start(seed: u64, drop: Option<Duration>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let ledger = Arc::<Ledger>::default();
        let accepting = tokio::spawn(accept(listener, ledger.clone(), seed, drop));
        Ok(Self { address, ledger, accepting })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, and says what it has seen.
    pub(crate) fn finish(self) -> Counts {
        self.accepting.abort();
        let state = self.ledger.state();
        Counts { unanswered: state.expected.len(), ..state.counts.clone() }
    }
}

async fn accept(listener: TcpListener, ledger: Arc<Ledger>, seed: u64, drop: Option<Duration>) {
    let mut sessions = tokio::task::JoinSet::new();
    let mut chats = 0;
    while let Ok((stream, _)) = listener.accept().await {
        let (read, write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        let Ok(Some(greeting)) = lines.next_line().await else { continue };
        if let Some(page) = greeting.strip_prefix("PAGE ").and_then(|page| page.parse().ok()) {
            sessions.spawn(archive(write, page, ledger.clone()));
        } else {
            chats += 1;
            let session = Session {
                lines,
                write,
                ledger: ledger.clone(),
                drop,
                random: fastrand::Rng::with_seed(seed.wrapping_mul(1_000).wrapping_add(chats)),
            };
            sessions.spawn(session.chat());
        }
        while sessions.try_join_next().is_some() {}
    }
}

/// Answers with one page; slowly for some, and once brokenly.
async fn archive(mut write: OwnedWriteHalf, page: u64, ledger: Arc<Ledger>) {
    let slow = page % SLOW_PAGES == 0;
    sleep(Duration::from_millis(if slow { 2_000 } else { 20 + page * 37 % 60 })).await;
    let broken = page == BROKEN_PAGE && !std::mem::replace(&mut ledger.state().broken_page_sent, true);
    let line = if broken { "PAG\n".to_owned() } else { format!("PAGE {page} {}\n", page_text(page)) };
    // Whoever asked may have lost patience.
    let _ = write.write_all(line.as_bytes()).await;
}

fn page_text(page: u64) -> String {
    format!("it was written on day {}", page * page % 365)
}

/// One connection of the bot.
struct Session {
    lines: Lines<BufReader<OwnedReadHalf>>,
    write: OwnedWriteHalf,
    ledger: Arc<Ledger>,
    drop: Option<Duration>,
    random: fastrand::Rng,
}

impl Session {
    async fn chat(mut self) {
        self.ledger.state().counts.connections += 1;
        // Between three quarters and five quarters of it.
        let drop_after = self.drop.map(|drop| drop.mul_f64(0.75 + self.random.f64() / 2.0));
        let drop_at = Instant::now() + drop_after.unwrap_or_default();
        let mut next = Instant::now();
        loop {
            let line = tokio::select! {
                line = self.lines.next_line() => match line {
                    Ok(Some(line)) => self.hear(&line),
                    _ => return,
                },
                () = sleep_until(drop_at), if drop_after.is_some() => {
                    self.ledger.state().counts.dropped += 1;
                    return;
                }
                () = sleep_until(next) => {
                    next += Duration::from_millis(self.random.u64(20..240));
                    Some(self.say())
                }
            };
            let Some(line) = line else { continue };
            if self.write.write_all(format!("{line}\n").as_bytes()).await.is_err() {
                return;
            }
        }
    }

    /// Takes a line of the bot's; answers what there is to answer.
    fn hear(&mut self, line: &str) -> Option<String> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let mut state = self.ledger.state();
        match verb {
            "HEARTBEAT" => return Some(format!("ACK {rest}")),
            "REPLY" | "ERROR" | "BUSY" => {
                let (id, text) = rest.split_once(' ').unwrap_or((rest, ""));
                match id.parse().ok().and_then(|id: u64| state.expected.remove(&id)) {
                    Some(_) if verb == "BUSY" => state.counts.refused += 1,
                    Some(expected) if expected.accepts(verb, text) => state.counts.right += 1,
                    expected => state.counts.wrong.push(format!("{line:?}, expected {expected:?}")),
                }
            }
            "REMINDER" => state.counts.reminders_delivered += 1,
            "FLAG" => match rest.parse() {
                Ok(id) if state.spam.contains(&id) => state.counts.flagged += 1,
                _ => state.counts.wrong.push(format!("{line:?} is no spam")),
            },
            "STATUS" => state.counts.status_updates += 1,
            "DIGEST" => state.counts.digests += 1,
            _ => state.counts.wrong.push(format!("{line:?} is not understood")),
        }
        None
    }

    /// The next thing that somebody in the chat says.
    fn say(&mut self) -> String {
        let mut state = self.ledger.state();
        state.next_id += 1;
        let id = state.next_id;
        let random = &mut self.random;
        let (command, expected) = match random.u32(0..100) {
            0..40 => (format!("ping {id}"), Expect::Reply(format!("pong {id}"))),
            40..58 => {
                let (dice, sides) = (random.usize(1..5), random.u64(2..21));
                (format!("roll {dice}d{sides}"), Expect::Dice { dice, sides })
            }
            58..63 => ("roll 2d0".to_owned(), Expect::Error),
            63..70 => {
                state.counts.reminders_asked += 1;
                let seconds = random.u64(1..4);
                (format!("remind {seconds} tea {id}"), Expect::Reply(format!("in {seconds} s")))
            }
            70..76 => ("choose tea coffee water".to_owned(), Expect::OneOf("tea coffee water")),
            76..79 => ("choose".to_owned(), Expect::Error),
            79..88 => {
                let page = random.u64(1..60);
                let slow = page % SLOW_PAGES == 0;
                let expected = if slow { Expect::Error } else { Expect::Reply(page_text(page)) };
                (format!("archive {page}"), expected)
            }
            88..92 => {
                state.spam.push(id);
                return format!("SAY lobby {id} buy cheap followers now");
            }
            92..96 => return format!("SAY games {id} who plays tonight?"),
            _ => return format!("SAY lobby {id} good evening everybody"),
        };
        state.counts.commands += 1;
        state.expected.insert(id, expected);
        format!("CMD {id} {command}")
    }
}

/// Asks the archive for a page: one connection, one line.
pub(crate) async fn ask_archive(address: SocketAddr, page: u64) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("PAGE {page}\n").as_bytes()).await?;
    let mut lines = BufReader::new(stream).lines();
    lines.next_line().await?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
}
