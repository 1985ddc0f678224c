//! The pace of a client: a time limit for the head of a request, and a minimum rate of reading.
//!
//! A limit of progress alone is not enough: a client that reads a byte every few seconds would keep its place without limit.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

/// The slowest that a client may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// The time for a whole head, also between two requests.
    pub(super) head: Duration,
    /// The longest that the page waits for a client that takes nothing.
    pub(super) patience: Duration,
    /// The bytes for which a client has one more second of patience.
    pub(super) rate: u32,
}

/// A connection whose writes fail once its client is slower than its pace. An idle one costs no patience, whatever its age.
#[derive(Debug)]
pub(super) struct Paced<S> {
    stream: S,
    pace: Pace,
    /// The patience that is left. Grows again with each byte that the client reads.
    left: Duration,
    /// Since when the page waits for the client.
    waits: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl<S> Paced<S> {
    pub(super) fn new(stream: S, pace: Pace) -> Self {
        let timer = Box::pin(sleep(pace.patience));
        Self { stream, pace, left: pace.patience, waits: None, timer }
    }

    /// The result of a write, or the end of the patience with it.
    fn judged(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Pending => {
                if self.waits.is_none() {
                    let now = Instant::now();
                    self.waits = Some(now);
                    self.timer.as_mut().reset(now + self.left);
                }
                let is_over = self.timer.as_mut().poll(context).is_ready();
                if is_over { Poll::Ready(Err(io::ErrorKind::TimedOut.into())) } else { Poll::Pending }
            }
            Poll::Ready(Ok(bytes)) => {
                let waited = self.waits.take().map_or(Duration::ZERO, |since| since.elapsed());
                let earned = Duration::from_secs_f64(bytes as f64 / f64::from(self.pace.rate));
                self.left = (self.left.saturating_sub(waited) + earned).min(self.pace.patience);
                written
            }
            Poll::Ready(Err(_)) => written,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judged(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.judged(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    const PACE: Pace = Pace { head: Duration::from_secs(10), patience: Duration::from_secs(10), rate: 1_000 };

    /// The time that this number of bytes took, written to a client that reads `each` of them every nine seconds.
    async fn written(bytes: usize, each: usize) -> (io::Result<()>, Duration) {
        let (client, server) = tokio::io::duplex(1_000);
        let reads = async |mut client: DuplexStream| {
            loop {
                tokio::time::sleep(Duration::from_secs(9)).await;
                let _ = client.read_exact(&mut vec![0; each]).await;
            }
        };
        let began = Instant::now();
        let mut server = Paced::new(server, PACE);
        let bytes = vec![0; bytes];
        tokio::select! {
            done = server.write_all(&bytes) => (done, began.elapsed()),
            () = reads(client) => unreachable!("it reads without end"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn too_slow_client_times_out() {
        let (done, time) = written(1 << 20, 1).await;
        assert_eq!(done.expect_err("given up").kind(), io::ErrorKind::TimedOut);
        assert!(time < Duration::from_secs(15), "{time:?}");
        // The time grows with what is taken, and not beyond it.
        let (done, time) = written(1 << 20, 500).await;
        assert_eq!(done.expect_err("given up").kind(), io::ErrorKind::TimedOut);
        assert!(time < Duration::from_secs(25), "{time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn client_at_the_pace_receives_everything_and_may_pause() {
        let (done, time) = written(100_000, 10_000).await;
        done.expect("all of it");
        assert!(time > Duration::from_secs(60), "{time:?}");
        let (mut client, server) = tokio::io::duplex(1_000);
        let mut server = Paced::new(server, PACE);
        for _ in 0..10 {
            server.write_all(b"event").await.expect("there is room");
            client.read_exact(&mut [0; 5]).await.expect("there");
            tokio::time::sleep(Duration::from_secs(3_600)).await;
        }
    }
}
