//! The port to a driver: sessions on borrowed connections.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use super::cell::{Cell, Row};
use super::dialect::Dialect;
use super::names::Names;
use crate::store::StoreError;

/// A database driver: hands out sessions.
pub(super) trait Driver: Clone + fmt::Debug + Send + Sync + 'static {
    /// A session of this driver.
    type Session: Session;

    /// The words of this database.
    const DIALECT: Dialect;

    /// Borrows a connection to read.
    fn reader(&self) -> impl Future<Output = Result<Self::Session, SqlError>> + Send;

    /// Borrows a connection to write.
    fn writer(&self) -> impl Future<Output = Result<Self::Session, SqlError>> + Send;

    /// Returns the statement that tells other processes of a change, in its transaction. Empty if
    /// nobody is told.
    fn ring(&self, _names: &Names) -> String {
        String::new()
    }

    /// Waits until somebody tells of a change, at most so long. `looked_at` is when the last look
    /// for changes began. Returns whether a change that is found next should have been told of.
    fn wait_for_ring(
        &self,
        _names: &Names,
        _looked_at: Instant,
        limit: Duration,
    ) -> impl Future<Output = bool> + Send {
        async move {
            tokio::time::sleep(limit).await;
            false
        }
    }

    /// Notes that a change was found of which nobody has told.
    fn missed_ring(&self) {}
}

/// A borrowed connection.
///
/// A session that is dropped closes its connection, unless it was [finished](Self::finish): a
/// statement or a transaction may still be in progress on it. sqlx by itself would give it back to
/// the pool, where it is handed out inside of an open transaction, or waits for the answer of a
/// network that swallowed the question, and never comes back.
pub(super) trait Session: Send {
    /// Runs a statement, and returns its rows.
    fn fetch(&mut self, query: Query) -> impl Future<Output = Result<Vec<Row>, SqlError>> + Send;

    /// Runs a statement, and returns the number of rows that it changed.
    fn execute(&mut self, query: Query) -> impl Future<Output = Result<u64, SqlError>> + Send;

    /// Runs several statements without parameters.
    fn run(&mut self, sql: &str) -> impl Future<Output = Result<(), SqlError>> + Send;

    /// Returns the connection to its pool. No transaction may be open.
    fn finish(self);
}

/// The time in which a connection is given back to its pool, or closed.
///
/// sqlx asks the server for a sign of life then, and by itself would wait for the answer for ever:
/// a network that begins to swallow packets at that moment would cost the pool a connection for
/// good.
pub(super) const RETURN_LIMIT: Duration = Duration::from_millis(500);

/// A statement with its parameters: `$1`, `$2` and so on.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) sql: String,
    pub(super) cells: Vec<Cell>,
    /// The connection keeps the prepared statement, since the same text comes again.
    pub(super) is_kept: bool,
}

impl Query {
    pub(super) fn new(sql: impl Into<String>, cells: impl Into<Vec<Cell>>) -> Self {
        Self {
            sql: sql.into(),
            cells: cells.into(),
            is_kept: true,
        }
    }

    /// Creates a statement with `{values}` in its text, in the place of which come parameters for
    /// all rows: `($1, $2), ($3, $4)`.
    pub(super) fn of_rows(sql: &str, rows: impl IntoIterator<Item = Vec<Cell>>) -> Self {
        let mut cells = Vec::new();
        let mut values = String::new();
        let mut rows_written = 0;
        for row in rows {
            values += if rows_written == 0 { "(" } else { ", (" };
            for (at, cell) in row.into_iter().enumerate() {
                cells.push(cell);
                let comma = if at == 0 { "" } else { ", " };
                let number = cells.len();
                values.extend([comma, "$", &number.to_string()]);
            }
            values += ")";
            rows_written += 1;
        }
        Self {
            sql: sql.replace("{values}", &values),
            cells,
            is_kept: rows_written == 1,
        }
    }
}

/// An error of a driver.
#[derive(Debug)]
pub(super) enum SqlError {
    /// The connection was lost, or could not be had: a transaction that was being committed may
    /// have been carried out.
    Lost(DriverError),
    /// The database asks to run the transaction again: it was in a deadlock, for example.
    Again(DriverError),
    /// A limit of the database was reached, such as the size of its queue of notifications.
    Limit(DriverError),
    /// Any other error of the database, or one of the store itself.
    Store(StoreError),
}

/// The attempts at a transaction that the database may ask to run again.
#[derive(Debug, Default)]
pub(super) struct Attempts(u32);

impl Attempts {
    const MOST: u32 = 3;

    /// Returns whether a transaction with this result is run again.
    pub(super) fn allow_another<T>(&mut self, result: &Result<T, SqlError>) -> bool {
        self.0 += 1;
        matches!(result, Err(SqlError::Again(_))) && self.0 < Self::MOST
    }
}

/// The message of an error of the driver. What the driver knows beside it may have the content of a
/// row, such as a verifier.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct DriverError(String);

/// Tables that are missing.
#[derive(Debug, thiserror::Error)]
#[error(
    "the database has no tables for keys, or they are of another version: call migrate() first"
)]
struct NoTable(#[source] DriverError);

impl SqlError {
    pub(super) fn into_store_error(self) -> StoreError {
        match self {
            Self::Store(error) => error,
            Self::Lost(error) | Self::Again(error) | Self::Limit(error) => {
                StoreError::unavailable(error)
            }
        }
    }
}

impl From<StoreError> for SqlError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<sqlx::Error> for SqlError {
    fn from(error: sqlx::Error) -> Self {
        let said = DriverError(error.to_string());
        let Some(database) = error.as_database_error() else {
            return Self::Lost(said);
        };
        let code = database.code().unwrap_or_default();
        let is_missing = code == "1" && database.message().starts_with("no such ");
        match &*code {
            // Serialization failure and deadlock of PostgreSQL; SQLITE_BUSY in all its forms.
            "40001" | "40P01" | "5" | "261" | "517" | "773" => Self::Again(said),
            "54000" => Self::Limit(said),
            // The server shuts down, or has just crashed.
            "57P01" | "57P02" | "57P03" => Self::Lost(said),
            // Undefined table, schema and column.
            "42P01" | "3F000" | "42703" => Self::Store(StoreError::refused(NoTable(said))),
            _ if is_missing => Self::Store(StoreError::refused(NoTable(said))),
            // The role lacks a right.
            "42501" => Self::Store(StoreError::refused(said)),
            // The trail has a record of the same version: the table of keys was edited, or restored
            // without that of the trail.
            "23505" | "2067" => Self::Store(StoreError::corrupt(said)),
            _ => Self::Store(StoreError::unavailable(said)),
        }
    }
}

/// Implements [`Session`] for a borrowed connection of a database. `parameters` rewrites `$1` as
/// the database needs it, and `read` reads a row.
macro_rules! session {
    ($name:ident, $database:ty, $parameters:expr, $read:path) => {
        /// A borrowed connection.
        #[derive(Debug)]
        pub(super) struct $name {
            connection: Option<sqlx::pool::PoolConnection<$database>>,
            /// The permit to read, which ends with the session.
            _permit: Option<tokio::sync::OwnedSemaphorePermit>,
        }

        impl $name {
            fn new(
                connection: sqlx::pool::PoolConnection<$database>,
                permit: Option<tokio::sync::OwnedSemaphorePermit>,
            ) -> Self {
                Self {
                    connection: Some(connection),
                    _permit: permit,
                }
            }

            fn connection(&mut self) -> &mut <$database as sqlx::Database>::Connection {
                let connection = self.connection.as_mut();
                connection.expect("it is taken only when the session ends")
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                if let Some(connection) = &mut self.connection {
                    connection.close_on_drop();
                }
            }
        }

        impl $crate::backend::sql::session::Session for $name {
            async fn fetch(&mut self, query: Query) -> Result<Vec<Row>, SqlError> {
                let statement = bound(query);
                let rows = statement.fetch_all(self.connection()).await?;
                Ok(rows.iter().map($read).collect::<Result<_, _>>()?)
            }

            async fn execute(&mut self, query: Query) -> Result<u64, SqlError> {
                let statement = bound(query);
                Ok(statement.execute(self.connection()).await?.rows_affected())
            }

            async fn run(&mut self, sql: &str) -> Result<(), SqlError> {
                let sql = sqlx::AssertSqlSafe(sql.to_owned());
                sqlx::raw_sql(sql).execute(self.connection()).await?;
                Ok(())
            }

            fn finish(mut self) {
                if let Some(mut connection) = self.connection.take() {
                    let returned = connection.return_to_pool();
                    tokio::spawn(tokio::time::timeout(RETURN_LIMIT, returned));
                }
            }
        }

        fn bound<'q>(
            query: Query,
        ) -> sqlx::query::Query<'q, $database, <$database as sqlx::Database>::Arguments> {
            let parameters: fn(&str) -> String = $parameters;
            let sql = sqlx::AssertSqlSafe(parameters(&query.sql));
            let mut statement = sqlx::query::<$database>(sql).persistent(query.is_kept);
            for cell in query.cells {
                statement = match cell {
                    Cell::Integer(number) => statement.bind(number),
                    Cell::Text(text) => statement.bind(text),
                    Cell::Bytes(bytes) => statement.bind(bytes),
                };
            }
            statement
        }
    };
}

#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(super) use session;
