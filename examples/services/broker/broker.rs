//! A message broker for one queue, in lines of text over TCP, that delivers again what is not acknowledged.
//!
//! | a client sends | the broker |
//! |---|---|
//! | `NEXT` | delivers one message as soon as there is one: `<id> <header>=<value> ..<tab><body>` |
//! | `ACK <id>` | forgets the message, and returns `OK`; `GONE` if it was given to another client meanwhile. On any connection |
//! | `BACK <id>` | delivers the message again, before all others |
//!
//! A connection that is closed hands back what was delivered on it and is not acknowledged.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    sync::{Arc, Mutex, MutexGuard},
    thread,
};

/// The fate of a message.
#[derive(Debug, Clone, Default)]
pub struct Message {
    pub traceparent: String,
    pub body: String,
    pub deliveries: usize,
    pub acknowledged: usize,
    /// The number of times that a client handed it back, apart from closed connections.
    pub handed_back: usize,
}

#[derive(Default)]
struct State {
    messages: Vec<Message>,
    queue: VecDeque<usize>,
    /// The connection that each unacknowledged message was delivered on.
    in_flight: BTreeMap<usize, u64>,
    most_in_flight: usize,
    /// Clients that wait for a message.
    waiting: VecDeque<(u64, TcpStream)>,
    connections: u64,
}

impl State {
    fn deliver(&mut self) {
        while let (Some(id), Some((connection, stream))) =
            (self.queue.front().copied(), self.waiting.front_mut())
        {
            let Message { traceparent, body, .. } = &self.messages[id];
            let line = format!("{id} traceparent={traceparent}\t{body}\n");
            if stream.write_all(line.as_bytes()).is_ok() {
                self.in_flight.insert(id, *connection);
                self.most_in_flight = self.most_in_flight.max(self.in_flight.len());
                self.messages[id].deliveries += 1;
                self.queue.pop_front();
            }
            self.waiting.pop_front();
        }
    }

    fn take_back(&mut self, id: usize, connection: u64) -> bool {
        let is_its = self.in_flight.get(&id) == Some(&connection);
        if is_its {
            self.in_flight.remove(&id);
            self.queue.push_front(id);
        }
        is_its
    }

    fn close(&mut self, connection: u64) {
        self.waiting.retain(|(waiting, _)| *waiting != connection);
        let of_it: Vec<_> =
            self.in_flight.iter().filter(|(_, on)| **on == connection).map(|(id, _)| *id).collect();
        for id in of_it.into_iter().rev() {
            self.take_back(id, connection);
        }
        self.deliver();
    }
}

/// A running broker; it ends with the process.
#[derive(Clone)]
pub struct Broker {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Broker {
    pub fn start(address: impl ToSocketAddrs) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let broker = Self { address: listener.local_addr()?, state: Arc::default() };
        let serves = broker.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let broker = serves.clone();
                thread::spawn(move || broker.serve(stream));
            }
        });
        Ok(broker)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn serve(&self, mut stream: TcpStream) {
        let connection = {
            let mut state = self.state();
            state.connections += 1;
            state.connections
        };
        let Ok(reads) = stream.try_clone() else { return };
        for line in BufReader::new(reads).lines().map_while(Result::ok) {
            let mut state = self.state();
            let (command, id) = line.split_once(' ').unwrap_or((&line, ""));
            match (command, id.parse::<usize>(), stream.try_clone()) {
                ("NEXT", _, Ok(stream)) => state.waiting.push_back((connection, stream)),
                ("ACK", Ok(id), _) => {
                    let confirmation = match state.in_flight.remove(&id) {
                        Some(_) => {
                            state.messages[id].acknowledged += 1;
                            "OK\n"
                        }
                        None => "GONE\n",
                    };
                    let _ = stream.write_all(confirmation.as_bytes());
                }
                ("BACK", Ok(id), _) => {
                    if state.take_back(id, connection) {
                        state.messages[id].handed_back += 1;
                    }
                }
                _ => break,
            }
            state.deliver();
        }
        self.state().close(connection);
    }

    /// Adds a message to the queue.
    pub fn publish(&self, traceparent: String, body: String) {
        let mut state = self.state();
        let id = state.messages.len();
        state.messages.push(Message { traceparent, body, ..Message::default() });
        state.queue.push_back(id);
        state.deliver();
    }

    /// Returns all messages, and the numbers of the messages that are neither acknowledged nor delivered.
    pub fn messages(&self) -> (Vec<Message>, Vec<usize>) {
        let state = self.state();
        (state.messages.clone(), state.queue.iter().copied().collect())
    }

    /// Returns the number of messages that are delivered and not acknowledged: now, and the largest so far.
    pub fn in_flight(&self) -> (usize, usize) {
        let state = self.state();
        (state.in_flight.len(), state.most_in_flight)
    }
}
