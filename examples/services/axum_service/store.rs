//! The orders, in SQLite behind a pool of connections.

use std::{error::Error, time::Duration};

use deadpool_sqlite::{
    Config, Pool, Runtime,
    rusqlite::{self, Connection},
};

pub(crate) type StoreError = Box<dyn Error + Send + Sync>;

/// The most connections, and the longest wait for one.
const CONNECTIONS: usize = 4;
const WAIT: Duration = Duration::from_secs(5);
const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    CREATE TABLE IF NOT EXISTS orders (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        item TEXT NOT NULL,
        received INTEGER NOT NULL DEFAULT (unixepoch()),
        mail_sent INTEGER
    );";

#[derive(Clone)]
pub(crate) struct Store {
    pool: Pool,
    /// The last order from before this start, 0 without one.
    last: i64,
}

impl Store {
    pub(crate) async fn open(path: &str) -> Result<Self, StoreError> {
        let pool = Config::new(path).builder(Runtime::Tokio1)?.max_size(CONNECTIONS).wait_timeout(Some(WAIT));
        let mut store = Self { pool: pool.build()?, last: 0 };
        store.query(|db| db.execute_batch(SCHEMA)).await?;
        let last = "SELECT coalesce(max(id), 0) FROM orders";
        store.last = store.query(|db| db.query_row(last, [], |row| row.get(0))).await?;
        Ok(store)
    }

    pub(crate) async fn insert(&self, item: String) -> Result<i64, StoreError> {
        let insert = "INSERT INTO orders (item) VALUES (?1) RETURNING id";
        self.query(move |db| db.query_row(insert, [item], |row| row.get(0))).await
    }

    pub(crate) async fn mail_was_sent(&self, id: i64) -> Result<(), StoreError> {
        let update = "UPDATE orders SET mail_sent = unixepoch() WHERE id = ?1";
        self.query(move |db| db.execute(update, [id]).map(drop)).await
    }

    /// The orders without a mail that are older than `age` or from before this start.
    pub(crate) async fn unsent(&self, age: Duration) -> Result<Vec<i64>, StoreError> {
        let known = (self.last, age.as_secs_f64());
        let select =
            "SELECT id FROM orders WHERE mail_sent IS NULL AND (id <= ?1 OR received < unixepoch() - ?2)";
        self.query(move |db| db.prepare(select)?.query_map(known, |row| row.get(0))?.collect()).await
    }

    pub(crate) async fn prune(self, age: Duration) -> Result<(), StoreError> {
        let delete = "DELETE FROM orders WHERE mail_sent < unixepoch() - ?1";
        self.query(move |db| db.execute(delete, [age.as_secs_f64()]).map(drop)).await
    }

    /// Writes the log into the database file, then closes the pool.
    pub(crate) async fn close(self) -> Result<(), StoreError> {
        let written = self.query(|db| db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")).await;
        self.pool.close();
        written
    }

    async fn query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let connection = self.pool.get().await?;
        Ok(connection.interact(|db| query(db)).await.map_err(|error| error.to_string())??)
    }
}
