//! A server of a test, in a folder of its own.

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

/// Ends the program when its standard input is closed, which it is also if this process is killed.
const GUARD: &str = r#"signal=$1; shift; "$@" & pid=$!; read -r _; kill "$signal" $pid; wait $pid"#;

/// A running program.
pub(crate) struct Guarded(Child);

impl Guarded {
    /// Starts a program by way of a command that is prepared, such as with its user. The signal ends it.
    pub(crate) fn start<'a>(
        mut command: Command,
        signal: &str,
        program: &Path,
        arguments: impl IntoIterator<Item = &'a str>,
        log: &Path,
    ) -> Self {
        let log = fs::File::create(log).expect("a log");
        command.args(["-c", GUARD, "sh", signal]).arg(program).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        Self(command.spawn().expect("sh"))
    }
}

impl Drop for Guarded {
    /// Ends the program, and waits until it is gone.
    fn drop(&mut self) {
        if let Some(mut stdin) = self.0.stdin.take() {
            let _ = stdin.write_all(b"\n");
        }
        let _ = self.0.wait();
    }
}

/// A temporary folder, removed when it is dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("otel-tasks-lease-{}-{}", std::process::id(), NUMBER.fetch_add(1, SeqCst));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("a temporary folder");
        Self(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The end of a log in this folder.
    pub(crate) fn log(&self, name: &str) -> String {
        let text = fs::read_to_string(self.0.join(name)).unwrap_or_default();
        text.lines().rev().take(40).map(|line| format!("{line}\n")).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}

/// The value that the tests share while at least one of them uses it.
pub(crate) fn shared<T>(kept: &Mutex<Weak<T>>, start: impl FnOnce() -> T) -> Arc<T> {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(shared) = kept.upgrade() {
        return shared;
    }
    let shared = Arc::new(start());
    *kept = Arc::downgrade(&shared);
    shared
}

/// Waits until a server is ready, for a minute at most.
pub(crate) fn wait_until(is_so: impl Fn() -> bool, log: impl FnOnce() -> String) {
    let began = Instant::now();
    while !is_so() {
        if began.elapsed() > Duration::from_secs(60) {
            panic!("it does not begin: {}", log());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
