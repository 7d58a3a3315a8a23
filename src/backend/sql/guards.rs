//! The checks of a commit beside the versions of records: requests for keys, and caps on the keys
//! of accounts.

use std::collections::BTreeMap;

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
    /// transactions, before any row is locked. So the counts see all that was committed under the
    /// same cap before. Returns the number of chains of each account.
    pub(super) async fn lock_accounts(
        &self,
        session: &mut D::Session,
        caps: &[&AccountCap],
    ) -> Result<Counts, SqlError> {
        let mut accounts: Vec<&str> = caps.iter().map(|cap| cap.account.as_str()).collect();
        accounts.sort_unstable();
        accounts.dedup();
        let lock = D::DIALECT.lock_account;
        if !lock.is_empty() {
            for accounts in accounts.chunks(D::DIALECT.most_parameters) {
                let names = accounts.iter().map(|account| {
                    vec![Cell::text(format!(
                        "tower-api-key {} {account}",
                        self.names
                    ))]
                });
                session.execute(Query::of_rows(lock, names)).await?;
            }
        }
        self.count_chains(session, caps).await
    }

    /// Checks that no account exceeds its cap by this change.
    pub(super) async fn check_caps(
        &self,
        session: &mut D::Session,
        caps: &[&AccountCap],
        before: &Counts,
    ) -> Result<(), SqlError> {
        let after = self.count_chains(session, caps).await?;
        let exceeds = |cap: &&AccountCap| {
            let count = |counts: &Counts| counts.get(&cap.account).copied().unwrap_or_default();
            count(&after) > u64::from(cap.most) && count(&after) > count(before)
        };
        if caps.iter().any(exceeds) {
            return Err(StoreError::cap_reached().into());
        }
        Ok(())
    }

    /// Counts the chains of rotations with a key that is alive, of each account with a cap.
    async fn count_chains(
        &self,
        session: &mut D::Session,
        caps: &[&AccountCap],
    ) -> Result<Counts, SqlError> {
        // Each part is read from the index of keys that are not revoked. With `OR`, all keys of the
        // account that have expired would be read.
        let count = self.sql(
            "WITH caps(account, at) AS (VALUES {values}) \
             SELECT account, CAST(count(DISTINCT chain) AS bigint) FROM (\
               SELECT k.account, COALESCE(k.lineage, k.id) AS chain \
               FROM caps AS c JOIN {keys} AS k ON k.account = c.account \
               WHERE k.revoked_at IS NULL AND k.expires_at > c.at \
               UNION ALL SELECT k.account, COALESCE(k.lineage, k.id) \
               FROM caps AS c JOIN {keys} AS k ON k.account = c.account \
               WHERE k.revoked_at IS NULL AND k.expires_at IS NULL\
             ) AS chains GROUP BY account",
        );
        let mut counts = Counts::new();
        for caps in caps.chunks(D::DIALECT.most_parameters / 2) {
            let rows = caps
                .iter()
                .map(|cap| vec![Cell::text(cap.account.as_str()), Cell::instant(cap.at)]);
            for mut row in session.fetch(Query::of_rows(&count, rows)).await? {
                counts.insert(row.text("account")?, row.count("count")?);
            }
        }
        Ok(counts)
    }
}

/// The number of chains of rotations of each account.
pub(super) type Counts = BTreeMap<String, u64>;
