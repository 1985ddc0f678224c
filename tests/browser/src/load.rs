//! As many clients as one address may have, slow ones and half-open ones: what they cost, and that no task is later for them.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use crate::{Checked, check, service::Service};

const CLIENTS: usize = 30;
const TASKS: usize = 500;
/// How long it is watched.
pub const WATCHED: Duration = Duration::from_secs(5);

/// The status of an answer.
pub fn status(address: SocketAddr, path: &str) -> Checked<u16> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split(' ').nth(1).ok_or("no status")?.parse()?)
}

pub async fn run() -> Checked {
    let service = Service::start(TASKS, "", CLIENTS);
    let alone = late(&service)?;
    let idle = processor_share(WATCHED).await?;
    let before = resident()?;
    let mut clients = Vec::with_capacity(CLIENTS);
    for number in 0..CLIENTS {
        let mut stream =
            TcpStream::connect(service.address).map_err(|error| format!("client {number}: {error}"))?;
        // A tenth never ends its request; nobody ever reads an answer.
        let end = if number % 10 == 0 { "" } else { "\r\n" };
        write!(stream, "GET /events HTTP/1.1\r\nHost: localhost\r\n{end}")?;
        clients.push(stream);
    }
    let looked_at = processor_share(WATCHED).await?;
    let held = resident()?.saturating_sub(before);
    let watched = late(&service)?;
    let live = status(service.address, "/health/live")?;
    println!(
        "ok  {CLIENTS} clients that do not read, {TASKS} tasks: {} KiB each; processor {looked_at:.1} % with them, \
         {idle:.1} % with nobody; a 5 ms sleep is late by {watched:.1?} (p99), {alone:.1?} with nobody",
        held / 1_024 / CLIENTS,
    );
    check!(live == 200, "it answers {live}");
    check!(held < 64 << 20, "{held} bytes are held");
    // What is promised is nothing at all; but the service itself works, too.
    check!(idle < 10.0, "nobody looks, and it takes {idle:.1} %");
    check!(watched < alone + Duration::from_millis(200), "tasks are late by {watched:?}, {alone:?} alone");
    Ok(())
}

/// How much of one processor this process takes, in percent.
pub async fn processor_share(watched: Duration) -> Checked<f64> {
    let before = processor_time()?;
    tokio::time::sleep(watched).await;
    Ok(100.0 * (processor_time()? - before).as_secs_f64() / watched.as_secs_f64())
}

/// How late a task of the service is after a short sleep, at the 99th percentile.
fn late(service: &Service) -> Checked<Duration> {
    const SLEEP: Duration = Duration::from_millis(5);
    let (tell, told) = std::sync::mpsc::channel();
    // A short task runs on the runtime of its caller, and this thread is blocked below.
    let _inside = service.runtime().enter();
    drop(service.tasks.spawn("measured", async move {
        let mut late = Vec::new();
        for _ in 0..400 {
            let began = Instant::now();
            tokio::time::sleep(SLEEP).await;
            late.push(began.elapsed().saturating_sub(SLEEP));
        }
        late.sort_unstable();
        let _ = tell.send(late[late.len() * 99 / 100]);
    }));
    Ok(told.recv()?)
}

/// The processor time that this process has taken.
fn processor_time() -> Checked<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| -> Checked<u64> { Ok(fields.get(index).ok_or("no such field")?.parse()?) };
    // Hundredths of a second, on every Linux there is.
    Ok(Duration::from_millis(10 * (ticks(11)? + ticks(12)?)))
}

/// The memory that this process holds, in bytes.
fn resident() -> Checked<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    Ok(1_024 * line.split_whitespace().nth(1).ok_or("no figure")?.parse::<usize>()?)
}
