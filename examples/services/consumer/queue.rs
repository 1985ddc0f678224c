//! The consumer's side of the broker's protocol, which `broker/broker.rs` describes.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// A connection that messages come on. The broker takes back what is not acknowledged when it is closed: after the queue and all of its
/// messages were dropped.
pub(crate) struct Queue {
    lines: Lines<BufReader<OwnedReadHalf>>,
    link: Arc<Link>,
    /// True if a message was requested that has not come.
    requested: bool,
}

struct Link {
    broker: String,
    writes: Mutex<OwnedWriteHalf>,
}

impl Link {
    /// A few bytes, which the socket has room for, so that a destructor can send them, too.
    fn send(&self, line: &str) -> io::Result<()> {
        let sent = self.writes.lock().unwrap_or_else(PoisonError::into_inner).try_write(line.as_bytes())?;
        if sent == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

impl Queue {
    pub(crate) async fn connect(broker: &str) -> io::Result<Self> {
        let (reads, writes) = TcpStream::connect(broker).await?.into_split();
        writes.writable().await?;
        let link = Arc::new(Link { broker: broker.to_owned(), writes: writes.into() });
        Ok(Self { lines: BufReader::new(reads).lines(), link, requested: false })
    }

    /// Waits for the next message. Cancel safe: a message that comes later is returned by the next call.
    pub(crate) async fn next(&mut self) -> io::Result<Message> {
        if !self.requested {
            self.link.send("NEXT\n")?;
            self.requested = true;
        }
        let line = self.lines.next_line().await?.ok_or(io::ErrorKind::ConnectionReset)?;
        self.requested = false;
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, format!("no message: {line}"));
        let (head, body) = line.split_once('\t').ok_or_else(invalid)?;
        let mut head = head.split(' ');
        let id = head.next().and_then(|id| id.parse().ok()).ok_or_else(invalid)?;
        let headers =
            head.filter_map(|header| header.split_once('=')).map(|(name, value)| (name.into(), value.into()));
        Ok(Message { id, headers: headers.collect(), body: body.into(), link: Some(self.link.clone()) })
    }
}

/// Handed back to the broker where it is dropped without [`acknowledge`](Self::acknowledge).
pub(crate) struct Message {
    id: u64,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
    /// `None` once it is acknowledged.
    link: Option<Arc<Link>>,
}

impl Message {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name))?;
        Some(&header.1)
    }

    /// Returns when the broker has confirmed it. On a connection of its own, as with brokers that speak HTTP.
    pub(crate) async fn acknowledge(mut self) -> io::Result<()> {
        let Some(link) = &self.link else { return Ok(()) };
        let mut connection = BufReader::new(TcpStream::connect(&link.broker).await?);
        connection.write_all(format!("ACK {}\n", self.id).as_bytes()).await?;
        let mut confirmation = String::new();
        connection.read_line(&mut confirmation).await?;
        if confirmation.trim() != "OK" {
            return Err(io::Error::other(format!("not acknowledged: {confirmation:?}")));
        }
        self.link = None;
        Ok(())
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            // If this fails the broker has it back when the connection is closed.
            let _ = link.send(&format!("BACK {}\n", self.id));
        }
    }
}
