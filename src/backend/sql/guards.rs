//! What a commit checks beside the versions of records: requests for keys, and caps on the keys of
//! accounts.

use super::cell::Cell;
use super::session::{Driver, Query, Session, SqlError};
use super::store::SqlStore;
use crate::key::digest::KeyId;
use crate::store::{AccountCap, IssueRequest, StoreError};

impl<D: Driver> SqlStore<D> {
    pub(super) async fn find_request(
        &self,
        id: &[u8; 32],
    ) -> Result<Option<IssueRequest>, StoreError> {
        let statement = self.sql("SELECT fingerprint, key_id, at FROM {requests} WHERE id = $1");
        let query = Query::new(statement, [Cell::bytes(*id)]);
        let rows = self.within(self.fetch(query)).await?;
        let Some(mut row) = rows.into_iter().next() else {
            return Ok(None);
        };
        let (fingerprint, key) = (row.bytes("fingerprint")?, row.id("key_id")?);
        let at = row.instant("at")?;
        Ok(Some(IssueRequest::new(*id, fingerprint, key, at)))
    }

    /// Remembers requests. Of two rivals with the same one, the second waits here for the first.
    pub(super) async fn remember(
        &self,
        session: &mut D::Session,
        requests: &[(&IssueRequest, Option<KeyId>)],
    ) -> Result<(), SqlError> {
        for (request, replaces) in requests {
            let mut cells = vec![
                Cell::bytes(request.id),
                Cell::bytes(request.fingerprint),
                Cell::id(request.key),
                Cell::instant(request.at),
            ];
            let (statement, error) = match replaces {
                None => (
                    "INSERT INTO {requests} (id, fingerprint, key_id, at) \
                     VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING",
                    StoreError::already_exists(),
                ),
                Some(replaced) => {
                    cells.push(Cell::id(*replaced));
                    (
                        "UPDATE {requests} SET fingerprint = $2, key_id = $3, at = $4 \
                         WHERE id = $1 AND key_id = $5",
                        StoreError::conflict(),
                    )
                }
            };
            let query = Query::new(self.sql(statement), cells);
            if session.execute(query).await? != 1 {
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Locks the accounts of caps until the end of the transaction, in the same order in all
    /// transactions, before any row is locked. So the count at the end sees all that was committed
    /// under the same cap before.
    pub(super) async fn lock_accounts(
        &self,
        session: &mut D::Session,
        caps: &[&AccountCap],
    ) -> Result<(), SqlError> {
        let lock = D::DIALECT.lock_account;
        if lock.is_empty() {
            return Ok(()); // there is one writer
        }
        let mut accounts: Vec<&str> = caps.iter().map(|cap| cap.account.as_str()).collect();
        accounts.sort_unstable();
        accounts.dedup();
        for account in accounts {
            let name = format!("tower-api-key {} {account}", self.names);
            session
                .execute(Query::new(lock, [Cell::text(name)]))
                .await?;
        }
        Ok(())
    }

    /// Counts the chains of rotations of each account that has a cap.
    pub(super) async fn check_caps(
        &self,
        session: &mut D::Session,
        caps: &[&AccountCap],
    ) -> Result<(), SqlError> {
        // Each part is read from the index of keys that are not revoked. With `OR`, all keys of the
        // account that have expired would be read.
        let count = self.sql(
            "SELECT CAST(count(DISTINCT chain) AS bigint) FROM (\
               SELECT COALESCE(lineage, id) AS chain FROM {keys} \
               WHERE account = $1 AND revoked_at IS NULL AND expires_at > $2 \
               UNION ALL SELECT COALESCE(lineage, id) FROM {keys} \
               WHERE account = $1 AND revoked_at IS NULL AND expires_at IS NULL\
             ) AS chains",
        );
        for cap in caps {
            let cells = [Cell::text(cap.account.as_str()), Cell::instant(cap.at)];
            let rows = session.fetch(Query::new(count.clone(), cells)).await?;
            let count = rows.into_iter().next().map(|mut row| row.count("count"));
            if count.transpose()?.unwrap_or_default() > u64::from(cap.most) {
                return Err(StoreError::cap_reached().into());
            }
        }
        Ok(())
    }
}
