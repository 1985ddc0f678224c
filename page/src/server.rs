//! The page on a thread and a runtime of its own, so that it answers while every worker of the service is blocked.

use std::{
    convert::Infallible,
    fmt, io,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    runtime::Runtime,
    sync::{Semaphore, oneshot},
};

use crate::{
    Page,
    api::{StreamsEnd, router},
};

/// So many connections are held at once; more are closed unanswered.
const CONNECTIONS: usize = 1_024;
/// How long a client may take for the head of a request, also between two requests.
const HEAD: Duration = Duration::from_secs(10);
/// How large that may be, and how much is buffered per connection.
const BUFFER: usize = 64 * 1_024;
/// How long it waits after a connection that could not be accepted: there are no descriptors left, say.
const PAUSE: Duration = Duration::from_millis(100);

/// A page that is served. Dropped, it stops, and waits for its thread, which ends at once.
#[must_use = "the page is served until this is dropped"]
pub struct PageServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for PageServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageServer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl PageServer {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for PageServer {
    fn drop(&mut self) {
        // That its sender is gone is the sign.
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // Its panic was printed.
            let _ = thread.join();
        }
    }
}

impl Page {
    /// Serves the page on a thread and a runtime of its own, until the [`PageServer`] is dropped.
    ///
    /// # Errors
    /// If no address can be bound, or the thread or its runtime cannot be created.
    pub fn serve(self, address: impl ToSocketAddrs) -> io::Result<PageServer> {
        serve(router(self, StreamsEnd::WithManager), address)
    }
}

fn serve(router: Router, address: impl ToSocketAddrs) -> io::Result<PageServer> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let (stop, stopped) = oneshot::channel();
    let (report, is_ready) = mpsc::channel();
    let thread = std::thread::Builder::new().name("otel-tasks-page".to_owned()).spawn(move || {
        // Made here and dropped here: a runtime that is dropped in an async context panics, and the caller may be in one.
        let (runtime, listener) = match prepare(listener) {
            Ok(prepared) => prepared,
            Err(error) => return drop(report.send(Err(error))),
        };
        // Fails only if the caller is gone; then `stopped` ends at once.
        let _ = report.send(Ok(()));
        runtime.block_on(async {
            tokio::select! {
                () = accept(listener, router) => {}
                _ = stopped => {}
            }
        });
        // With the runtime go the connections.
    })?;
    is_ready.recv().map_err(io::Error::other)??;
    Ok(PageServer { address, stop: Some(stop), thread: Some(thread) })
}

/// The page's runtime, and the listener registered with it.
fn prepare(listener: TcpListener) -> io::Result<(Runtime, tokio::net::TcpListener)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let inside = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener)?;
    drop(inside);
    Ok((runtime, listener))
}

async fn accept(listener: tokio::net::TcpListener, router: Router) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(BUFFER);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Ok(permit) = connections.clone().try_acquire_owned() else { continue };
        let connection =
            http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
        tokio::spawn(async move {
            // A client that breaks off or talks nonsense concerns nobody else.
            let _ = connection.await;
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::TcpStream,
        sync::atomic::{AtomicBool, Ordering::SeqCst},
    };

    use super::*;

    /// Tells when it has been dropped, which takes its time.
    struct Slow(Arc<AtomicBool>);

    impl Drop for Slow {
        fn drop(&mut self) {
            std::thread::sleep(Duration::from_millis(50));
            self.0.store(true, SeqCst);
        }
    }

    #[test]
    fn dropped_it_waits_for_its_thread_and_nobody_listens() {
        let is_over = Arc::new(AtomicBool::new(false));
        let router = Router::new().layer(axum::Extension(Arc::new(Slow(is_over.clone()))));
        let server = serve(router, "127.0.0.1:0").expect("served");
        let address = server.address();
        assert_eq!(format!("{server:?}"), format!("PageServer {{ address: {address}, .. }}"));
        TcpStream::connect(address).expect("it listens");
        drop(server);
        assert!(is_over.load(SeqCst));
        let refused = TcpStream::connect(address).expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
