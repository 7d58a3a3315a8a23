//! The audit trail: pages, and purges.

use std::time::SystemTime;

use super::cell::{Cell, microseconds};
use super::chain::{self, Link};
use super::session::{Driver, Query, Session, SqlError};
use super::store::{Access, SqlStore};
use super::trail_row;
use super::verify::{ChainCheck, Records};
use crate::key::digest::KeyId;
use crate::store::{Cursor, Page, Paging, StoreError, TrailQuery, TrailRecord};

/// The records that a purge reads at a time.
const RECORDS_AT_ONCE: usize = 2_000;

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

    /// Deletes the records of the trail from before a time, except for the last one of each key
    /// that exists. A sealed stub takes the place of what is cut off. A trail that is broken is
    /// left as it is.
    pub(super) async fn purge_trail(&self, before: SystemTime) -> Result<u64, StoreError> {
        let mut purged = 0;
        let mut scan = PurgeScan::new(microseconds(before));
        loop {
            let (cuts, is_end) = self.within(self.scan(&mut scan)).await?;
            for cut in cuts {
                purged += self.within(self.cut(cut, scan.before)).await?;
            }
            if is_end {
                return Ok(purged);
            }
        }
    }

    /// Reads the next records, and returns where trails are to be cut.
    async fn scan(&self, scan: &mut PurgeScan) -> Result<(Vec<Cut>, bool), SqlError> {
        let statement = self.sql(&format!(
            "SELECT key_id, version, at, \
             CAST((SELECT 1 FROM {{keys}} AS k WHERE k.id = key_id) AS bigint) FROM {{trail}} WHERE (key_id, version) > ($1, $2) \
             ORDER BY key_id, version LIMIT {RECORDS_AT_ONCE}"
        ));
        let (key, version) = (scan.key.to_vec(), scan.version);
        let cells = [Cell::bytes(key), Cell::integer(version)];
        let rows = self.fetch(Query::new(statement, cells)).await?;
        let is_end = rows.len() < RECORDS_AT_ONCE;
        let mut cuts = Vec::new();
        for mut row in rows {
            let (key, version) = (row.bytes("key_id")?, row.integer("version")?);
            let at = row.integer("at")?;
            let exists = row.optional_integer("whether the key exists")?.is_some();
            cuts.extend(scan.add(key, version, at, exists));
        }
        if is_end {
            cuts.extend(scan.end());
        }
        Ok((cuts, is_end))
    }

    /// Cuts the trail of a key up to a version, and seals a stub if a part of it stays. Returns the
    /// number of records that were deleted.
    async fn cut(&self, cut: Cut, at: i64) -> Result<u64, SqlError> {
        let Cut { id, version, .. } = cut;
        let mut session = self.session(Access::Write).await?;
        session.run(D::DIALECT.begin).await?;
        // A purge by another process waits here.
        let lock = self.sql("SELECT id FROM {keys} WHERE id = $1 {for_update}");
        session.fetch(Query::new(lock, [Cell::id(id)])).await?;
        let deleted = match self.end_of_part(&mut session, &cut).await? {
            Some(digest) => {
                if cut.is_all {
                    self.drop_stub(&mut session, id).await?;
                } else {
                    self.seal(&mut session, id, version, digest, at).await?;
                }
                self.drop_records(&mut session, id, version).await?
            }
            None => 0,
        };
        session.run("COMMIT").await?;
        session.finish();
        Ok(deleted)
    }

    /// Returns the hash of the last version to delete, if the chain up to the one after it is
    /// whole: a purge must not vouch for what was edited.
    async fn end_of_part(
        &self,
        session: &mut D::Session,
        cut: &Cut,
    ) -> Result<Option<Link>, SqlError> {
        let Cut {
            id,
            version,
            is_all,
        } = *cut;
        let stubs = self.stubs(session, [Cell::id(id), Cell::id(id)]).await?;
        let mut check = ChainCheck::new(stubs.get(id.as_bytes()));
        let mut end = None;
        let mut records = Records::of(id, version + 1);
        while !records.is_end {
            for entry in self.read_records(session, &mut records).await? {
                check.add(entry, self.audit_key.as_ref());
                if let Some((last, digest)) = check.last
                    && last == version
                {
                    end = Some(digest);
                }
            }
        }
        // A key that was deleted behind the trail has no last record that says so.
        let is_whole = !is_all || check.is_of_deleted_key(self.audit_key.as_ref());
        Ok(end.filter(|_| check.faults.is_empty() && is_whole))
    }

    /// Puts a sealed stub in the place of the records up to a version.
    async fn seal(
        &self,
        session: &mut D::Session,
        id: KeyId,
        version: u64,
        digest: Link,
        at: i64,
    ) -> Result<(), SqlError> {
        let seal = chain::seal(self.audit_key.as_ref(), id, version, &digest, at);
        let stub = self.sql(
            "INSERT INTO {stubs} AS s (key_id, version, digest, at, seal) \
             VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (key_id) DO UPDATE SET version = excluded.version, \
             digest = excluded.digest, at = excluded.at, seal = excluded.seal \
             WHERE s.version < excluded.version",
        );
        let cells = [
            Cell::id(id),
            Cell::count(version),
            Cell::bytes(digest),
            Cell::integer(at),
            Cell::bytes(seal),
        ];
        session.execute(Query::new(stub, cells)).await?;
        Ok(())
    }

    async fn drop_stub(&self, session: &mut D::Session, id: KeyId) -> Result<(), SqlError> {
        let delete = self.sql("DELETE FROM {stubs} WHERE key_id = $1");
        session.execute(Query::new(delete, [Cell::id(id)])).await?;
        Ok(())
    }

    async fn drop_records(
        &self,
        session: &mut D::Session,
        id: KeyId,
        version: u64,
    ) -> Result<u64, SqlError> {
        self.mark_purged(session, id, version).await?;
        let delete = self.sql("DELETE FROM {trail} WHERE key_id = $1 AND version <= $2");
        let of_version = [Cell::id(id), Cell::count(version)];
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

/// The records of a key to delete: all up to a version.
struct Cut {
    id: KeyId,
    version: u64,
    /// They are all records of a key that was deleted.
    is_all: bool,
}

/// A scan over the trail, key by key, for records to purge: those at the beginning of a trail that
/// are all old enough, except for the last record of a key that exists.
struct PurgeScan {
    before: i64,
    key: [u8; 16],
    version: i64,
    /// The key exists.
    exists: bool,
    /// All records of the key so far are old enough.
    is_old: bool,
    /// The last version of the key that is old enough, except for the one that was read last.
    cut: Option<i64>,
}

impl PurgeScan {
    const fn new(before: i64) -> Self {
        Self {
            before,
            key: [0; 16],
            version: -1,
            exists: true,
            is_old: false,
            cut: None,
        }
    }

    /// Adds a record, and returns where the trail of the key before it is to be cut.
    fn add(&mut self, key: [u8; 16], version: i64, at: i64, exists: bool) -> Option<Cut> {
        let is_same = key == self.key && self.version >= 0;
        let ready = if is_same { None } else { self.end() };
        if is_same && self.is_old {
            // The one before this is not the last one.
            self.cut = Some(self.version);
        }
        self.is_old = at < self.before && (self.is_old || !is_same);
        (self.key, self.version, self.exists) = (key, version, exists);
        ready
    }

    /// Returns where the trail of the last key is to be cut.
    fn end(&mut self) -> Option<Cut> {
        let is_all = self.is_old && !self.exists;
        let part = self.cut.take();
        let version = if is_all { self.version } else { part? };
        self.is_old = false;
        Some(Cut {
            id: KeyId::from_bytes(self.key),
            version: u64::try_from(version).unwrap_or_default(),
            is_all,
        })
    }
}

fn decode(list: &str, cursor: &Cursor) -> Result<i64, StoreError> {
    let number = || {
        let text = cursor.as_str().strip_prefix("t1-")?;
        text.strip_prefix(list)?.strip_prefix('-')?.parse().ok()
    };
    number().ok_or_else(StoreError::invalid_cursor)
}
