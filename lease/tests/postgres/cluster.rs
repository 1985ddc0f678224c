//! A PostgreSQL of the test's own: Debian's binaries, a temporary folder, a user that is not root, stopped by its pid.

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use otel_tasks_lease::Postgres;

/// The user `nobody`: PostgreSQL refuses to run as root.
const NOBODY: u32 = 65_534;
/// Ends the server when its standard input is closed, which it is also if this process is killed.
const GUARD: &str = r#""$@" & pid=$!; read -r _; kill -INT $pid; wait $pid"#;

/// A cluster, stopped and removed when it is dropped.
pub(crate) struct Cluster {
    folder: PathBuf,
    bin: PathBuf,
    pub(crate) port: u16,
    server: Mutex<Option<Child>>,
}

impl Cluster {
    /// The cluster that the tests share while at least one of them uses it.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(cluster) = shared.upgrade() {
            return cluster;
        }
        let cluster = Arc::new(Self::start());
        *shared = Arc::downgrade(&cluster);
        cluster
    }

    /// Starts a cluster.
    pub(crate) fn start() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("otel-tasks-lease-{}-{}", std::process::id(), NUMBER.fetch_add(1, SeqCst));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("a temporary folder");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        drop(listener);
        let cluster = Self { folder, bin: binaries(), port, server: Mutex::new(None) };
        if is_root() {
            chown(&cluster.folder, Some(NOBODY), Some(NOBODY)).expect("root may");
        }
        let init = cluster
            .command("initdb")
            .args(["--no-sync", "--auth=trust", "--username=test", "--encoding=UTF8", "--locale=C", "-D"])
            .arg(cluster.data())
            .output()
            .expect("initdb");
        assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
        cluster.serve();
        cluster
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// A program of PostgreSQL, as a user that may run it.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        self.as_user(&mut command);
        command
    }

    fn as_user(&self, command: &mut Command) {
        command.current_dir(&self.folder).env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
    }

    /// Starts the server, and waits until it answers.
    pub(crate) fn serve(&self) {
        let log = fs::File::create(self.folder.join("log")).expect("a log");
        let mut command = Command::new("sh");
        self.as_user(&mut command);
        command.args(["-c", GUARD, "sh"]).arg(self.bin.join("postgres")).arg("-F").arg("-D").arg(self.data());
        command.arg("-p").arg(self.port.to_string()).args([
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "unix_socket_directories=",
            "-c",
            "max_connections=60",
        ]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("sh");
        *self.server.lock().expect("no panic") = Some(child);
        let began = Instant::now();
        loop {
            let ready = self
                .command("pg_isready")
                .args(["-q", "-h", "127.0.0.1", "-U", "test", "-d", "postgres", "-p"])
                .arg(self.port.to_string())
                .status();
            if ready.is_ok_and(|status| status.success()) {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "no PostgreSQL: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops the server, which ends its connections.
    pub(crate) fn stop(&self) {
        let server = self.server.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(mut server) = server {
            if let Some(mut stdin) = server.stdin.take() {
                let _ = stdin.write_all(b"\n");
            }
            let _ = server.wait();
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// The connection string, by way of a port: its own or that of a proxy.
    pub(crate) fn address_by(&self, port: u16) -> String {
        format!("host=127.0.0.1 port={port} user=test dbname=postgres")
    }

    pub(crate) fn address(&self) -> String {
        self.address_by(self.port)
    }

    /// A store of its own, with its table.
    pub(crate) async fn store(&self) -> Postgres {
        let store = Postgres::new(&self.address()).expect("an address");
        store.migrate().await.expect("migrated");
        store
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The newest that is installed.
fn binaries() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.map(|entry| entry.path()).max_by_key(|path| number(path));
    let found = newest.map(|path| path.join("bin")).filter(|bin| bin.join("initdb").exists());
    found.unwrap_or_else(|| panic!("these tests need PostgreSQL: apt-get install postgresql"))
}
