//! A network that can be slow: a proxy in front of the Collector, which passes bytes on after a while, and few at a time.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use anyhow::Result;

/// How long each piece takes when the network is slow, and how large it is: 32 KiB a second.
pub(crate) const DELAY: Duration = Duration::from_millis(250);
const PIECE: usize = 8 * 1024;

pub(crate) struct Proxy {
    pub(crate) endpoint: String,
    slow: Arc<AtomicBool>,
}

impl Proxy {
    /// Listens on a port of its own and passes everything on to `port`.
    pub(crate) fn before(port: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let slow = Arc::new(AtomicBool::new(false));
        let is_slow = slow.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // Nobody there: the client sees its connection end.
                if let Ok(server) = TcpStream::connect(("127.0.0.1", port)) {
                    pass_on(&client, &server, &is_slow);
                    pass_on(&server, &client, &is_slow);
                }
            }
        });
        Ok(Self { endpoint, slow })
    }

    pub(crate) fn set_slow(&self, slow: bool) {
        self.slow.store(slow, Relaxed);
    }
}

fn pass_on(from: &TcpStream, to: &TcpStream, slow: &Arc<AtomicBool>) {
    let (Ok(mut from), Ok(mut to), slow) = (from.try_clone(), to.try_clone(), slow.clone()) else { return };
    thread::spawn(move || {
        let mut piece = [0; PIECE];
        while let Ok(length @ 1..) = from.read(&mut piece) {
            if slow.load(Relaxed) {
                thread::sleep(DELAY);
            }
            if to.write_all(&piece[..length]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
        let _ = from.shutdown(std::net::Shutdown::Both);
    });
}
