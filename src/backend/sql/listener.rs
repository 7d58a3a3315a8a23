//! A connection to `PostgreSQL` that listens for notifications.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgNotification, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgExecutor, Row};
use tokio::runtime;
use tokio::time::{Instant, timeout, timeout_at};

/// The time limit of a connection, from the first packet to the end of its test.
pub(super) const OPENING_LIMIT: Duration = Duration::from_secs(5);

/// The time in which a notification arrives, or an answer.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

/// The time between two tests of a connection.
const TEST_EVERY: Duration = Duration::from_secs(30);

/// An error for a connection that does not listen.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotListening {
    #[error(
        "one connection is served by several of the server, as by PgBouncer in transaction mode"
    )]
    Shared,
    #[error("a notification for a test did not arrive in {HEARD_WITHIN:?}")]
    Unheard,
    #[error("a change was not told of")]
    Deaf,
    #[error("no answer in {0:?}")]
    Late(Duration),
    #[error("the connection was closed")]
    Closed,
    /// The message only: what the driver knows beside it may be secret.
    #[error("{0}")]
    Failed(String),
}

impl From<sqlx::Error> for NotListening {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// A connection that listens on a channel, and has heard something.
#[derive(Debug)]
pub(super) struct Listener {
    /// `None` only when this is dropped.
    inner: Option<PgListener>,
    channel: String,
    /// The time of the next test, and when it was begun.
    test_at: Instant,
    tested_at: Option<Instant>,
    /// When a change was found that should have been told of.
    doubted_at: Option<Instant>,
}

impl Listener {
    /// Connects, listens on a channel, and waits for a notification by another connection.
    ///
    /// A change that is committed after the return is told of.
    pub(super) async fn open(
        options: &PgConnectOptions,
        channel: &str,
    ) -> Result<Self, NotListening> {
        let opening = Self::open_now(options, channel);
        let late = |_| NotListening::Late(OPENING_LIMIT);
        timeout(OPENING_LIMIT, opening).await.map_err(late)?
    }

    async fn open_now(options: &PgConnectOptions, channel: &str) -> Result<Self, NotListening> {
        // sqlx listens on connections of a pool only.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(options.clone());
        let mut inner = PgListener::connect_with(&pool).await?;
        // A connection that is made again behind our back has missed something.
        inner.eager_reconnect(false);
        let mut listener = Self {
            inner: Some(inner),
            channel: channel.to_owned(),
            test_at: Instant::now() + TEST_EVERY,
            tested_at: None,
            doubted_at: None,
        };
        let mut other = options.connect().await?;
        let finding = listener.own_backend(&mut other);
        let late = |_| NotListening::Late(HEARD_WITHIN);
        let backend = timeout(HEARD_WITHIN, finding).await.map_err(late)??;
        // Nobody else listens on it.
        let test = format!("tower_api_key_test_{backend}");
        // The server ends a connection that is not tested any more: its client is gone, or does not
        // read. PostgreSQL 13 does not know the setting.
        let listen = format!(
            "SELECT set_config(name, '300000', false) FROM pg_settings \
             WHERE name = 'idle_session_timeout'; LISTEN \"{channel}\"; LISTEN \"{test}\""
        );
        run(listener.inner(), listen).await?;
        run(&mut other, format!("NOTIFY \"{test}\"")).await?;
        let hearing = async {
            while listener.receive().await?.channel() != test {}
            Ok(())
        };
        let heard = timeout(HEARD_WITHIN, hearing).await;
        heard.unwrap_or(Err(NotListening::Unheard))?;
        let _ = other.close().await; // it is closed in any case
        Ok(listener)
    }

    /// Returns the process of the server that serves this connection, and no other one.
    ///
    /// Behind a pooler that hands out connections of the server by transaction, LISTEN would stay
    /// behind on one of them. Notifications would then come to whoever uses it next, and sqlx, for
    /// one, takes them for errors.
    async fn own_backend(&mut self, other: &mut PgConnection) -> Result<i32, NotListening> {
        let mine = backend(self.inner()).await?;
        if backend(&mut *other).await? == mine {
            return Err(NotListening::Shared);
        }
        // Within a transaction, the other connection keeps the process that it has got. The look
        // before tells of a pooler that has one process only, which this would hold up.
        run(&mut *other, "BEGIN").await?;
        let theirs = backend(&mut *other).await?;
        let again = backend(self.inner()).await?;
        run(other, "COMMIT").await?;
        if mine == theirs || mine != again {
            return Err(NotListening::Shared);
        }
        Ok(mine)
    }

    /// Waits for a notification. An error means that this connection hears nothing any more.
    ///
    /// The future may be dropped at any time.
    pub(super) async fn ring(&mut self) -> Result<(), NotListening> {
        loop {
            if Instant::now() >= self.test_at {
                self.test().await?;
            }
            let doubted_until = self.doubted_at.map(|at| at + HEARD_WITHIN);
            let until = doubted_until.map_or(self.test_at, |until| until.min(self.test_at));
            let Ok(received) = timeout_at(until, self.receive()).await else {
                if doubted_until == Some(until) {
                    return Err(NotListening::Deaf);
                }
                continue;
            };
            if received?.channel() == self.channel {
                self.doubted_at = None;
                return Ok(());
            }
        }
    }

    /// Doubts that this connection hears: a change was found without a notification. It is tested at
    /// once, and a notification in the next second ends the doubt.
    pub(super) fn doubt(&mut self) {
        if self.doubted_at.is_none() {
            let now = Instant::now();
            self.doubted_at = Some(now);
            self.test_at = now;
        }
    }

    /// Asks the server whether it knows that this connection listens. Without an answer, the
    /// connection is half open.
    async fn test(&mut self) -> Result<(), NotListening> {
        let channel = &self.channel;
        let ask = format!("SELECT 1 FROM pg_listening_channels() AS name WHERE name = '{channel}'");
        // If this is dropped, the next call asks again, and the time goes on.
        let tested_at = *self.tested_at.get_or_insert_with(Instant::now);
        let asking = sqlx::raw_sql(AssertSqlSafe(ask)).fetch_optional(self.inner());
        let Ok(answer) = timeout_at(tested_at + HEARD_WITHIN, asking).await else {
            return Err(NotListening::Late(HEARD_WITHIN));
        };
        answer?.ok_or(NotListening::Deaf)?;
        self.tested_at = None;
        self.test_at = Instant::now() + TEST_EVERY;
        Ok(())
    }

    /// Receives the next notification on any channel. Nobody looks at the content: sqlx panics if
    /// it is not UTF-8.
    async fn receive(&mut self) -> Result<PgNotification, NotListening> {
        let received = self.inner().try_recv().await?;
        received.ok_or(NotListening::Closed)
    }

    fn inner(&mut self) -> &mut PgListener {
        let inner = self.inner.as_mut();
        inner.expect("it is taken only when this is dropped")
    }
}

/// Closes the connection without a word to the server.
///
/// By itself, sqlx spawns a task that asks the server to stop, and waits for the answer for ever:
/// on a connection that is half open, it never comes. Without a runtime, it panics. So it gets a
/// runtime that is over, which drops the task at once, and with it the connection.
impl Drop for Listener {
    fn drop(&mut self) {
        let inner = self.inner.take();
        let Ok(runtime) = runtime::Builder::new_current_thread().build() else {
            return;
        };
        let over = runtime.handle().clone();
        runtime.shutdown_background();
        let _entered = over.enter();
        drop(inner);
    }
}

/// Returns the process of the server that carries out a statement.
async fn backend(connection: impl PgExecutor<'_>) -> Result<i32, sqlx::Error> {
    let row = sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(connection);
    row.await?.try_get(0)
}

async fn run(connection: impl PgExecutor<'_>, sql: impl Into<String>) -> Result<(), sqlx::Error> {
    let sql = AssertSqlSafe(sql.into());
    sqlx::raw_sql(sql).execute(connection).await?;
    Ok(())
}
