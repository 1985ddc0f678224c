//! Leases in a table of PostgreSQL: one row per lease, and the server's clock.
//!
//! The store does not use advisory locks. They belong to a session, so a pooler or a dropped future leaves them locked. They also have no term.
//!
//! The table is made by [`Postgres::migrate`], or by [`SCHEMA`] in a migration of your own. Afterwards the role needs `SELECT`, `INSERT` and
//! `UPDATE` on it. Statements are not prepared on the server, so poolers work in any mode. A pooler in transaction mode has no
//! `LISTEN`: a hand-over then takes until the candidates ask again.

use std::{
    collections::BTreeSet,
    fmt,
    future::poll_fn,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use otel_tasks::gate::Claim;
pub use tokio_postgres;
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, NoTls, Row, Socket,
    error::SqlState,
    tls::{MakeTlsConnect, TlsConnect},
    types::{ToSql, Type},
};

use crate::{
    connection::{self, Making, Slot},
    freed::Channels,
    holds::TERM,
    store::{Answer, Ask, Held, LeaseStore, Renewed, StoreError},
};

/// The statement that makes the table.
pub const SCHEMA: &str = "\
CREATE TABLE IF NOT EXISTS otel_tasks_lease (
    name text PRIMARY KEY,
    holder text,
    term bigint NOT NULL,
    expires_at timestamptz NOT NULL,
    last_run timestamptz,
    last_run_term bigint
)";

/// The channel on which a release is notified, with the name of the lease.
const CHANNEL: &str = "otel_tasks_lease";
/// `pg_notify` refuses longer texts. The candidates of a lease with a longer name get no notification and ask by time.
const LONGEST_NOTIFIED: usize = 7_000;

// `now()` is the start of the transaction; a statement may have waited for a lock since.
//
// A held lease is only read: no row is locked or written for a candidate.
const ACQUIRE: &str = "\
WITH granted AS (
    INSERT INTO otel_tasks_lease AS lease (name, holder, term, expires_at)
    SELECT $1, $2, 1, clock_timestamp() + $3 * interval '1 microsecond'
    WHERE NOT EXISTS (
        SELECT FROM otel_tasks_lease
        WHERE name = $1 AND holder <> $2 AND expires_at > clock_timestamp()
    )
    ON CONFLICT (name) DO UPDATE
    SET holder = $2, term = lease.term + 1, expires_at = clock_timestamp() + $3 * interval '1 microsecond'
    WHERE lease.holder IS NULL OR lease.holder = $2 OR lease.expires_at <= clock_timestamp()
    RETURNING term, last_run
)
SELECT term, last_run, NULL, NULL FROM granted
UNION ALL
SELECT NULL, NULL, holder, greatest(0, extract(epoch FROM expires_at - clock_timestamp()) * 1000000)::bigint
FROM otel_tasks_lease WHERE name = $1 AND NOT EXISTS (SELECT FROM granted)";

const RENEW: &str = "\
UPDATE otel_tasks_lease AS lease
SET expires_at = clock_timestamp() + held.ttl * interval '1 microsecond'
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) AS held (name, holder, term, ttl)
WHERE lease.name = held.name AND lease.holder = held.holder AND lease.term = held.term
    AND lease.expires_at > clock_timestamp()
RETURNING lease.name, lease.holder";

const CLAIM: &str = "\
WITH held AS (
    SELECT last_run FROM otel_tasks_lease
    WHERE name = $1 AND holder = $2 AND term = $3 AND expires_at > clock_timestamp()
), claimed AS (
    UPDATE otel_tasks_lease SET last_run = $4, last_run_term = $3
    WHERE name = $1 AND holder = $2 AND term = $3 AND expires_at > clock_timestamp()
        AND (last_run IS NULL OR last_run < $4 OR last_run = $4 AND last_run_term = $3)
    RETURNING name
)
SELECT EXISTS (SELECT FROM held), EXISTS (SELECT FROM claimed)";

const RELEASE: &str = "\
WITH released AS (
    UPDATE otel_tasks_lease SET holder = NULL, expires_at = clock_timestamp()
    WHERE name = $1 AND holder = $2
    RETURNING name
)
SELECT pg_notify('otel_tasks_lease', name) FROM released WHERE octet_length(name) <= $3";

/// Leases in a table of PostgreSQL, over one connection that is made again when it is lost. Clones share it.
///
/// ```no_run
/// use otel_tasks_lease::{Leases, Postgres, StoreError};
/// # async fn example() -> Result<(), StoreError> {
/// let store = Postgres::new("host=db user=shop connect_timeout=2")?;
/// store.migrate().await?;
/// let lease = Leases::new(store).lease("outbox");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Postgres(Arc<Inner>);

struct Inner {
    connect: Box<dyn Fn(Weak<Channels>) -> Making<'static, Client> + Send + Sync>,
    connection: Slot<Client>,
    channels: Arc<Channels>,
}

impl Postgres {
    /// Creates a store on the server of a connection string or URL, without TLS. The connection is made with the first request.
    ///
    /// # Errors
    /// If the text is no connection string.
    pub fn new(config: &str) -> Result<Self, StoreError> {
        let config = config.parse().map_err(|error| StoreError::new("config", describe(error)))?;
        Ok(Self::with_tls(config, NoTls))
    }

    /// Creates a store with a configuration and a TLS connector of tokio-postgres, such as that of `tokio-postgres-rustls`.
    pub fn with_tls<T>(mut config: Config, tls: T) -> Self
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + 'static,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        if config.get_application_name().is_none() {
            config.application_name("otel-tasks-lease");
        }
        let connect = move |channels| -> Making<'static, Client> {
            let (config, tls) = (config.clone(), tls.clone());
            Box::pin(async move {
                let (client, connection) = config.connect(tls).await.map_err(|error| failed(&error))?;
                tokio::spawn(drive(connection, channels));
                let listen = client.batch_execute(&format!("LISTEN {CHANNEL}")).await;
                listen.map_err(|error| failed(&error))?;
                Ok(client)
            })
        };
        Self(Arc::new(Inner {
            connect: Box::new(connect),
            connection: Slot::default(),
            channels: Arc::default(),
        }))
    }

    /// Creates the table if there is none.
    ///
    /// # Errors
    /// If the server cannot be reached, or refuses it.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let client = self.0.client().await?;
        match client.batch_execute(SCHEMA).await {
            // Two processes create it at once: one of them gets this error.
            Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => Ok(()),
            result => result.map_err(|error| failed(&error)),
        }
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The configuration has a password.
        f.debug_struct("Postgres").finish_non_exhaustive()
    }
}

/// Drives a connection, and passes on what is notified.
async fn drive<T>(mut connection: Connection<Socket, T>, channels: Weak<Channels>)
where
    T: tokio_postgres::tls::TlsStream + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
        let Some(channels) = channels.upgrade() else { return };
        if let AsyncMessage::Notification(notification) = message {
            channels.freed(notification.payload());
        }
    }
}

impl connection::Connection for Client {
    fn is_closed(&self) -> bool {
        self.is_closed()
    }
}

impl Inner {
    async fn client(&self) -> Result<Arc<Client>, StoreError> {
        let connect = || (self.connect)(Arc::downgrade(&self.channels));
        self.connection.get(connect, || self.channels.all_freed()).await
    }

    async fn query(
        &self,
        statement: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, StoreError> {
        let client = self.client().await?;
        let answered = Answered { inner: self, client: &client, is_over: false };
        let result = client.query_typed(statement, parameters).await;
        answered.over();
        result.map_err(|error| failed(&error))
    }
}

/// A request that waits for its response. If it is dropped before that, its connection is given up. The connection may be dead, and no
/// caller waits for the response.
struct Answered<'a> {
    inner: &'a Inner,
    client: &'a Arc<Client>,
    is_over: bool,
}

impl Answered<'_> {
    fn over(mut self) {
        self.is_over = true;
    }
}

impl Drop for Answered<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.inner.connection.give_up(self.client);
        }
    }
}

impl LeaseStore for Postgres {
    async fn acquire(&self, ask: &Ask) -> Result<Answer, StoreError> {
        let (lease, holder, ttl) = (&*ask.lease, &*ask.holder, micros(ask.ttl));
        let parameters: [(&(dyn ToSql + Sync), Type); 3] =
            [(&lease, Type::TEXT), (&holder, Type::TEXT), (&ttl, Type::INT8)];
        let rows = self.0.query(ACQUIRE, &parameters).await?;
        // Granted to another by a statement that began later than this one: it is read with the next request.
        let Some(row) = rows.first() else {
            return Ok(Answer::HeldBy { holder: None, ask_again_in: ask.ttl / 12 });
        };
        if let Some(term) = get::<Option<i64>>(row, 0)? {
            let term = u64::try_from(term).map_err(|error| StoreError::new(TERM, error))?;
            return Ok(Answer::Granted { term, last_run: get(row, 1)? });
        }
        let left = u64::try_from(get::<Option<i64>>(row, 3)?.unwrap_or_default()).unwrap_or_default();
        Ok(Answer::HeldBy { holder: get(row, 2)?, ask_again_in: Duration::from_micros(left).min(ask.ttl) })
    }

    async fn renew(&self, held: &[Held]) -> Result<Vec<Renewed>, StoreError> {
        if held.is_empty() {
            return Ok(Vec::new());
        }
        let leases: Vec<&str> = held.iter().map(|held| &*held.ask.lease).collect();
        let holders: Vec<&str> = held.iter().map(|held| &*held.ask.holder).collect();
        let terms = held.iter().map(|held| term(held.term)).collect::<Result<Vec<_>, _>>()?;
        let ttls: Vec<i64> = held.iter().map(|held| micros(held.ask.ttl)).collect();
        let parameters: [(&(dyn ToSql + Sync), Type); 4] = [
            (&leases, Type::TEXT_ARRAY),
            (&holders, Type::TEXT_ARRAY),
            (&terms, Type::INT8_ARRAY),
            (&ttls, Type::INT8_ARRAY),
        ];
        let rows = self.0.query(RENEW, &parameters).await?;
        let mut kept = BTreeSet::new();
        for row in &rows {
            kept.insert((get::<&str>(row, 0)?, get::<&str>(row, 1)?));
        }
        let answer = |held: &Held| match kept.contains(&(&*held.ask.lease, &*held.ask.holder)) {
            true => Renewed::Kept,
            false => Renewed::Lost,
        };
        Ok(held.iter().map(answer).collect())
    }

    async fn claim(&self, held: &Held, due: SystemTime) -> Result<Claim, StoreError> {
        let (lease, holder, term, due) = (&*held.ask.lease, &*held.ask.holder, term(held.term)?, up(due));
        let parameters: [(&(dyn ToSql + Sync), Type); 4] =
            [(&lease, Type::TEXT), (&holder, Type::TEXT), (&term, Type::INT8), (&due, Type::TIMESTAMPTZ)];
        let rows = self.0.query(CLAIM, &parameters).await?;
        let row = rows.first().ok_or_else(|| StoreError::new("protocol", "no row"))?;
        Ok(match (get(row, 0)?, get(row, 1)?) {
            (_, true) => Claim::Won,
            (true, false) => Claim::Done,
            (false, false) => Claim::Lost,
        })
    }

    async fn release(&self, ask: &Ask) -> Result<(), StoreError> {
        let (lease, holder) = (&*ask.lease, &*ask.holder);
        let longest = LONGEST_NOTIFIED as i32;
        let parameters: [(&(dyn ToSql + Sync), Type); 3] =
            [(&lease, Type::TEXT), (&holder, Type::TEXT), (&longest, Type::INT4)];
        self.0.query(RELEASE, &parameters).await.map(drop)
    }

    async fn freed(&self, lease: &str) {
        let waiting = self.0.channels.of(lease);
        waiting.notified().await;
    }
}

fn get<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, StoreError> {
    row.try_get(column).map_err(|error| failed(&error))
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

fn term(term: u64) -> Result<i64, StoreError> {
    i64::try_from(term).map_err(|error| StoreError::new(TERM, error))
}

/// A due time in whole microseconds, as the column has it: never earlier than it is, or it would be due again.
fn up(due: SystemTime) -> SystemTime {
    let after = due.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let rest = u64::from(after.subsec_nanos() % 1_000);
    if rest == 0 { due } else { due + Duration::from_nanos(1_000 - rest) }
}

/// An error by its class: the server's code, or what became of the connection.
fn failed(error: &tokio_postgres::Error) -> StoreError {
    let class = match error.code() {
        Some(&SqlState::UNDEFINED_TABLE) => "undefined_table",
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => "insufficient_privilege",
        Some(code) if code.code().starts_with("08") => "connection",
        Some(code) if code.code().starts_with("28") => "authorization",
        Some(code) if code.code().starts_with("40") => "transaction_rollback",
        Some(code) if code.code().starts_with("53") => "insufficient_resources",
        Some(code) if code.code().starts_with("57") => "operator_intervention",
        Some(_) => "server",
        None => "connection",
    };
    StoreError::new(class, describe(error))
}

/// The error with its sources, which tokio-postgres leaves out.
fn describe(error: impl std::borrow::Borrow<tokio_postgres::Error>) -> String {
    let error: &dyn std::error::Error = error.borrow();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
