//! The audit trail: pages, and purges.

use std::time::SystemTime;

use super::cell::{Cell, microseconds};
use super::chain::{self, Link};
use super::session::{Driver, Query, Session, SqlError};
use super::store::{Access, SqlStore};
use super::trail_row;
use crate::key::digest::KeyId;
use crate::store::{Cursor, Page, Paging, StoreError, TrailQuery, TrailRecord};

/// The keys whose trails are purged at a time.
const KEYS_AT_ONCE: usize = 200;

impl<D: Driver> SqlStore<D> {
    pub(super) async fn trail(
        &self,
        query: &TrailQuery,
        paging: &Paging,
    ) -> Result<Page<TrailRecord>, StoreError> {
        if query
            .account
            .as_ref()
            .is_some_and(|account| account.contains('\0'))
        {
            return Ok(Page::new(Vec::new(), None)); // no record has such an account
        }
        let fingerprint = query.fingerprint();
        let start = if query.newest_first { i64::MAX } else { 0 };
        let after = match paging.cursor() {
            None => start,
            Some(cursor) => decode(&fingerprint, cursor)?,
        };
        let (than, direction) = if query.newest_first {
            ("<", "DESC")
        } else {
            (">", "ASC")
        };
        // One statement for each index. A key belongs to one account at a time.
        let (condition, index) = match (query.key, &query.account) {
            (None, None) => ("$2 IS NULL AND $3 IS NULL", ""),
            (None, Some(_)) => ("$2 IS NULL AND account = $3", "account"),
            (Some(_), None) => ("key_id = $2 AND $3 IS NULL", "key_id"),
            (Some(_), Some(_)) => ("key_id = $2 AND account = $3", "key_id"),
        };
        let by = if index.is_empty() {
            String::new()
        } else {
            format!("{index} {direction}, ")
        };
        let columns = trail_row::COLUMNS.join(", ");
        let limit = paging.limit() as usize;
        let most = limit + 1;
        let statement = self.sql(&format!(
            "SELECT seq, {columns} FROM {{trail}} WHERE {condition} AND seq {than} $1 \
             ORDER BY {by}seq {direction} LIMIT {most}"
        ));
        let parameters = [
            Cell::integer(after),
            Cell::optional_id(query.key),
            Cell::optional_text(query.account.as_deref()),
        ];
        let rows = self
            .within(self.fetch(Query::new(statement, parameters)))
            .await?;
        let has_more = rows.len() > limit;
        let mut items = Vec::new();
        let mut last = None;
        for mut row in rows.into_iter().take(limit) {
            last = Some(row.integer("seq")?);
            items.push(trail_row::record(&mut row)?);
        }
        let next = last.filter(|_| has_more);
        let next = next.map(|number| Cursor::new(format!("t1-{fingerprint}-{number}")));
        Ok(Page::new(items, next))
    }

    /// Deletes the records of the trail from before a time, except for the last one of each key.
    /// Of each trail that is cut, a sealed stub stays.
    pub(super) async fn purge_trail(&self, before: SystemTime) -> Result<u64, StoreError> {
        let mut purged = 0;
        let mut after = Vec::new();
        loop {
            let batch = self.within(self.purge_batch(&after, before)).await?;
            let Some((last, deleted)) = batch else {
                return Ok(purged);
            };
            purged += deleted;
            after = last.as_bytes().to_vec();
        }
    }

    async fn purge_batch(
        &self,
        after: &[u8],
        before: SystemTime,
    ) -> Result<Option<(KeyId, u64)>, SqlError> {
        let mut session = self.session(Access::Write).await?;
        session.run(D::DIALECT.begin).await?;
        // The last record of each key that is old enough, and is not the key's last one.
        let ends = self.sql(&format!(
            "SELECT t.key_id, max(t.version) FROM {{trail}} AS t \
             WHERE t.key_id > $1 AND t.at < $2 AND EXISTS (\
               SELECT 1 FROM {{trail}} AS later \
               WHERE later.key_id = t.key_id AND later.version > t.version) \
             GROUP BY t.key_id ORDER BY t.key_id LIMIT {KEYS_AT_ONCE}"
        ));
        let cells = [Cell::bytes(after), Cell::instant(before)];
        let mut last = None;
        let mut deleted = 0;
        for mut row in session.fetch(Query::new(ends, cells)).await? {
            let (id, version) = (row.id("key_id")?, row.count("version")?);
            deleted += self
                .cut(&mut session, id, version, microseconds(before))
                .await?;
            last = Some(id);
        }
        session.run("COMMIT").await?;
        session.finish();
        Ok(last.map(|last| (last, deleted)))
    }

    /// Cuts the trail of a key up to a version, and seals a stub.
    async fn cut(
        &self,
        session: &mut D::Session,
        id: KeyId,
        version: u64,
        at: i64,
    ) -> Result<u64, SqlError> {
        let of_version = [Cell::id(id), Cell::count(version)];
        let digest = self.sql("SELECT digest FROM {trail} WHERE key_id = $1 AND version = $2");
        let rows = session
            .fetch(Query::new(digest, of_version.clone()))
            .await?;
        let Some(mut row) = rows.into_iter().next() else {
            return Ok(0);
        };
        let digest: Link = row.bytes("digest")?;
        let seal = chain::seal(self.audit_key.as_ref(), id, version, &digest, at);
        let stub = self.sql(
            "INSERT INTO {stubs} (key_id, version, digest, at, seal) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (key_id) DO UPDATE SET version = excluded.version, \
             digest = excluded.digest, at = excluded.at, seal = excluded.seal",
        );
        let cells = [
            Cell::id(id),
            Cell::count(version),
            Cell::bytes(digest),
            Cell::integer(at),
            Cell::bytes(seal),
        ];
        session.execute(Query::new(stub, cells)).await?;
        self.mark_purged(session, id, version).await?;
        let delete = self.sql("DELETE FROM {trail} WHERE key_id = $1 AND version <= $2");
        session.execute(Query::new(delete, of_version)).await
    }

    /// Notes the last row that is purged, so that a reader of the feed who has not seen it is told
    /// of the gap.
    async fn mark_purged(
        &self,
        session: &mut D::Session,
        id: KeyId,
        version: u64,
    ) -> Result<(), SqlError> {
        let number = if D::DIALECT.has_snapshots() {
            "CAST(CAST(xid AS text) AS bigint)"
        } else {
            "seq"
        };
        let mark = self.sql(&format!(
            "INSERT INTO {{marks}} AS m (name, number) \
             SELECT 'trail', max({number}) FROM {{trail}} WHERE key_id = $1 AND version <= $2 \
             GROUP BY key_id \
             ON CONFLICT (name) DO UPDATE SET number = CASE \
             WHEN m.number > excluded.number THEN m.number ELSE excluded.number END"
        ));
        session
            .execute(Query::new(mark, [Cell::id(id), Cell::count(version)]))
            .await?;
        Ok(())
    }
}

fn decode(list: &str, cursor: &Cursor) -> Result<i64, StoreError> {
    let number = || {
        let text = cursor.as_str().strip_prefix("t1-")?;
        text.strip_prefix(list)?.strip_prefix('-')?.parse().ok()
    };
    number().ok_or_else(StoreError::invalid_cursor)
}
