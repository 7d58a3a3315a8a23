//! The common part of the stores of all databases.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::cell::{Cell, Row};
use super::migrations::{self, Migration};
use super::names::Names;
use super::record_row;
use super::session::{Driver, Query, Session, SqlError};
use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::store::{AuditKey, StoreError};

/// A store over a driver.
#[derive(Clone)]
pub(super) struct SqlStore<D> {
    pub(super) driver: D,
    pub(super) names: Names,
    pub(super) audit_key: Option<AuditKey>,
    /// The longest time of a call.
    pub(super) time_limit: Duration,
    /// The statement that finds a record.
    find: Arc<str>,
    /// The identifier of the server. Set once the tables were found to be of the right version.
    server: Arc<OnceLock<i64>>,
}

/// The purpose of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

impl<D: Driver> SqlStore<D> {
    pub(super) fn new(driver: D, names: Names) -> Self {
        Self {
            driver,
            find: find_statement(&names).into(),
            names,
            audit_key: None,
            time_limit: Duration::from_secs(5),
            server: Arc::default(),
        }
    }

    pub(super) fn with_names(self, names: Names) -> Self {
        Self {
            find: find_statement(&names).into(),
            names,
            server: Arc::default(),
            ..self
        }
    }

    /// Fills the names of tables into a statement.
    pub(super) fn sql(&self, statement: &str) -> String {
        self.names.fill(statement, &D::DIALECT)
    }

    /// Does work within the time limit.
    pub(super) async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, SqlError>>,
    ) -> Result<T, StoreError> {
        let limit = self.time_limit;
        let late = |_| StoreError::unavailable(format!("no answer in {limit:?}"));
        let result = tokio::time::timeout(limit, work).await.map_err(late)?;
        result.map_err(SqlError::into_store_error)
    }

    /// Borrows a connection, and checks the tables on it the first time.
    pub(super) async fn session(&self, access: Access) -> Result<D::Session, SqlError> {
        let mut session = match access {
            Access::Read => self.driver.reader().await?,
            Access::Write => self.driver.writer().await?,
        };
        if self.server.get().is_none() {
            let server = migrations::check::<D>(&mut session, &self.names).await?;
            let _ = self.server.set(server); // by another call at the same time
        }
        Ok(session)
    }

    /// Returns the identifier of the server, which the cursors of its snapshots contain.
    pub(super) async fn server(&self) -> Result<i64, SqlError> {
        if self.server.get().is_none() {
            self.session(Access::Read).await?.finish();
        }
        Ok(self.server.get().copied().unwrap_or_default())
    }

    /// Runs one statement that writes, in a transaction, and returns the number of its rows.
    pub(super) async fn write_one(&self, query: Query) -> Result<u64, SqlError> {
        let mut session = self.session(Access::Write).await?;
        session.run(D::DIALECT.begin).await?;
        let written = session.execute(query).await?;
        session.run("COMMIT").await?;
        session.finish();
        Ok(written)
    }

    /// Runs one statement, and returns its rows.
    pub(super) async fn fetch(&self, query: Query) -> Result<Vec<Row>, SqlError> {
        let mut session = self.session(Access::Read).await?;
        let rows = session.fetch(query).await?;
        session.finish();
        Ok(rows)
    }

    pub(super) async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let query = Query::new(&*self.find, [Cell::id(*id)]);
        let rows = self.within(self.fetch(query)).await?;
        let row = rows.into_iter().next();
        row.map(|mut row| record_row::record(&mut row)).transpose()
    }

    pub(super) async fn migrate(&self) -> Result<(), StoreError> {
        let at = super::cell::microseconds(std::time::SystemTime::now());
        let work = async {
            let mut session = self.driver.writer().await?;
            session.run(D::DIALECT.begin).await?;
            migrations::migrate::<D>(&mut session, &self.names, at).await?;
            session.run("COMMIT").await?;
            session.finish();
            Ok(())
        };
        work.await.map_err(SqlError::into_store_error)
    }

    pub(super) fn migrations(&self) -> Vec<Migration> {
        migrations::migrations(&self.names, &D::DIALECT)
    }
}

fn find_statement(names: &Names) -> String {
    let columns = record_row::COLUMNS.join(", ");
    format!(
        "SELECT {columns} FROM {} WHERE id = $1",
        names.table("keys")
    )
}

impl<D> fmt::Debug for SqlStore<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlStore")
            .field("names", &self.names)
            .field("audit_key", &self.audit_key)
            .field("time_limit", &self.time_limit)
            .finish_non_exhaustive()
    }
}
