//! A PostgreSQL of the test's own: Debian's binaries, a temporary folder, a user that is not root, stopped by its pid.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use otel_tasks_lease::Postgres;

use crate::guarded::{Folder, Guarded, free_port, shared, wait_until};

/// The user `nobody`: PostgreSQL refuses to run as root.
const NOBODY: u32 = 65_534;

/// The store of these tests.
pub(crate) type Store = Postgres;

/// A store by the address of a cluster.
pub(crate) fn open(address: &str) -> Store {
    Postgres::new(address).expect("an address")
}

/// A cluster, stopped and removed when it is dropped.
pub(crate) struct Cluster {
    server: Mutex<Option<Guarded>>,
    folder: Folder,
    bin: PathBuf,
    pub(crate) port: u16,
}

impl Cluster {
    /// The cluster that the tests share while at least one of them uses it.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        shared(&SHARED, Self::start)
    }

    /// Starts a cluster that has the table.
    pub(crate) fn start() -> Self {
        let cluster =
            Self { server: Mutex::new(None), folder: Folder::new(), bin: binaries(), port: free_port() };
        if is_root() {
            chown(cluster.folder.path(), Some(NOBODY), Some(NOBODY)).expect("root may");
        }
        let init = cluster
            .command("initdb")
            .args(["--no-sync", "--auth=trust", "--username=test", "--encoding=UTF8", "--locale=C", "-D"])
            .arg(cluster.data())
            .output()
            .expect("initdb");
        assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
        cluster.serve();
        cluster.blocking(async |cluster| open(&cluster.address()).migrate().await.expect("migrated"));
        cluster
    }

    /// Runs a future on a thread of its own, which may be that of a runtime.
    fn blocking<T: Send>(&self, future: impl AsyncFnOnce(&Self) -> T + Send) -> T {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("built");
            runtime.block_on(future(self))
        };
        std::thread::scope(|scope| scope.spawn(run).join().expect("no panic"))
    }

    fn count(&self, query: &str) -> usize {
        let count: i64 = self.blocking(async |cluster| {
            cluster.client().await.query_one(query, &[]).await.expect("counted").get(0)
        });
        count.try_into().expect("a count")
    }

    async fn client(&self) -> tokio_postgres::Client {
        let (client, connection) =
            tokio_postgres::connect(&self.address(), tokio_postgres::NoTls).await.expect("connected");
        tokio::spawn(connection);
        client
    }

    /// The number of connections of stores.
    pub(crate) fn connections(&self) -> usize {
        self.count("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'otel-tasks-lease'")
    }

    /// The number of leases without a holder.
    pub(crate) fn free_leases(&self) -> usize {
        self.count("SELECT count(*) FROM otel_tasks_lease WHERE holder IS NULL")
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A program of PostgreSQL, as a user that may run it.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        self.as_user(&mut command);
        command
    }

    fn as_user(&self, command: &mut Command) {
        command.current_dir(self.folder.path()).env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
    }

    /// Starts the server, and waits until it answers.
    pub(crate) fn serve(&self) {
        let mut command = Command::new("sh");
        self.as_user(&mut command);
        let (data, port) = (self.data(), self.port.to_string());
        let arguments = [
            "-F",
            "-D",
            data.to_str().expect("a path of text"),
            "-p",
            &port,
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "unix_socket_directories=",
            "-c",
            "max_connections=60",
        ];
        let log = self.folder.path().join("log");
        let server = Guarded::start(command, "-INT", &self.bin.join("postgres"), arguments, &log);
        *self.server.lock().expect("no panic") = Some(server);
        let is_ready = || {
            let mut command = self.command("pg_isready");
            command.args(["-q", "-h", "127.0.0.1", "-U", "test", "-d", "postgres", "-p", &port]);
            command.status().is_ok_and(|status| status.success())
        };
        wait_until(is_ready, || self.folder.log("log"));
    }

    /// Stops the server, which ends its connections.
    pub(crate) fn stop(&self) {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(server);
    }

    /// The connection string, by way of a port: its own or that of a proxy.
    pub(crate) fn address_by(&self, port: u16) -> String {
        format!("host=127.0.0.1 port={port} user=test dbname=postgres")
    }

    pub(crate) fn address(&self) -> String {
        self.address_by(self.port)
    }

    /// A store of its own.
    pub(crate) fn store(&self) -> Store {
        open(&self.address())
    }
}

/// The receiver of what holders write: a row of the server, which refuses a lower term.
pub(crate) struct Fenced {
    client: tokio_postgres::Client,
    runtime: tokio::runtime::Runtime,
    table: String,
}

impl Fenced {
    /// Creates the row. Not within a runtime.
    pub(crate) fn new(cluster: &Cluster, name: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("built");
        let client = runtime.block_on(cluster.client());
        let fenced = Self { client, runtime, table: format!("fenced_{name}") };
        fenced.execute(&format!("CREATE TABLE {} (term bigint NOT NULL)", fenced.table));
        fenced.execute(&format!("INSERT INTO {} VALUES (0)", fenced.table));
        fenced
    }

    fn execute(&self, statement: &str) -> u64 {
        self.runtime.block_on(self.client.execute(statement, &[])).expect("executed")
    }

    /// Returns the number of rows that a write of this term changed.
    pub(crate) fn write(&self, term: u64) -> u64 {
        let table = &self.table;
        self.execute(&format!("UPDATE {table} SET term = {term} WHERE term <= {term}"))
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
