//! The audit trail: pages, and the check of its chains.

use std::time::SystemTime;

use super::cell::{Cell, Row, microseconds};
use super::chain::{self, Link};
use super::commit::hashed;
use super::record_row;
use super::session::{Driver, Query, Session, SqlError};
use super::store::{Access, SqlStore};
use super::trail_row;
use crate::key::digest::KeyId;
use crate::store::{
    BrokenTrail, Cursor, Page, Paging, StoreError, TrailFault, TrailQuery, TrailRecord, TrailReport,
};

/// The keys whose trails are checked, or purged, at a time.
const KEYS_AT_ONCE: usize = 200;

/// The records of a key that are read at a time.
const RECORDS_AT_ONCE: usize = 500;

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

    /// Checks the chains of all keys, each batch of keys in a snapshot of its own.
    pub(super) async fn verify_trail(&self) -> Result<TrailReport, StoreError> {
        let mut report = TrailReport::default();
        let mut after = Vec::new();
        loop {
            let batch = self.within(self.verify_batch(&after, &mut report)).await?;
            let Some(last) = batch else {
                return Ok(report);
            };
            after = last.as_bytes().to_vec();
        }
    }

    /// Checks the next keys after an id, and returns the last one.
    async fn verify_batch(
        &self,
        after: &[u8],
        report: &mut TrailReport,
    ) -> Result<Option<KeyId>, SqlError> {
        let mut session = self.session(Access::Read).await?;
        session.run(D::DIALECT.begin_snapshot).await?;
        // With the keys of which only the trail is left.
        let ids = self.sql(&format!(
            "SELECT id FROM (SELECT * FROM \
             (SELECT id FROM {{keys}} WHERE id > $1 ORDER BY id LIMIT {KEYS_AT_ONCE}) AS k \
             UNION SELECT * FROM (SELECT DISTINCT key_id FROM {{trail}} WHERE key_id > $1 \
             ORDER BY key_id LIMIT {KEYS_AT_ONCE}) AS t) AS both_ \
             ORDER BY id LIMIT {KEYS_AT_ONCE}"
        ));
        let rows = session.fetch(Query::new(ids, [Cell::bytes(after)])).await?;
        let mut last = None;
        for mut row in rows {
            let id = row.id("id")?;
            let faults = self.verify_key(&mut session, id, report).await?;
            report.keys += 1;
            report.add(
                faults
                    .into_iter()
                    .map(|(version, fault)| BrokenTrail::new(id, version, fault)),
            );
            last = Some(id);
        }
        session.run("COMMIT").await?;
        session.finish();
        Ok(last)
    }

    async fn verify_key(
        &self,
        session: &mut D::Session,
        id: KeyId,
        report: &mut TrailReport,
    ) -> Result<Vec<(u64, TrailFault)>, SqlError> {
        let mut faults = Vec::new();
        let (mut version, mut previous) = match self.stub(session, id).await? {
            Ok(Some((version, digest))) => (Some(version), Some(digest)),
            Ok(None) => (None, None),
            Err(version) => {
                faults.push((version, TrailFault::Edited));
                return Ok(faults);
            }
        };
        let columns = trail_row::COLUMNS.join(", ");
        let statement = self.sql(&format!(
            "SELECT {columns}, state, previous, digest FROM {{trail}} \
             WHERE key_id = $1 AND version > $2 ORDER BY version LIMIT {RECORDS_AT_ONCE}"
        ));
        let mut state = None;
        loop {
            let after = [Cell::id(id), Cell::count(version.unwrap_or(0))];
            let rows = session.fetch(Query::new(&*statement, after)).await?;
            let is_end = rows.len() < RECORDS_AT_ONCE;
            for mut row in rows {
                report.records += 1;
                let Ok(entry) = Entry::read(&mut row) else {
                    faults.push((version.unwrap_or(0) + 1, TrailFault::Edited));
                    return Ok(faults);
                };
                let at = entry.record.version;
                let is_next = version.is_none_or(|before| at == before + 1);
                if !is_next || entry.previous != previous {
                    faults.push((at, TrailFault::Missing));
                }
                let (columns, cells) = hashed(&entry.record, entry.state);
                let key = self.audit_key.as_ref();
                if chain::link(key, entry.previous.as_ref(), &columns, &cells) != entry.digest {
                    faults.push((at, TrailFault::Edited));
                }
                (version, previous, state) = (Some(at), Some(entry.digest), Some(entry.state));
            }
            if is_end {
                break;
            }
        }
        let head = self.state_of(session, id).await?;
        let last = version.unwrap_or(0);
        match head {
            None => faults.push((last, TrailFault::KeyDeleted)),
            Some(Err(_)) => faults.push((last, TrailFault::KeyEdited)),
            Some(Ok(key)) => {
                if version != Some(key.version) || key.last != previous {
                    faults.push((key.version, TrailFault::Missing));
                } else if state.is_some_and(|state| state != key.state) {
                    faults.push((key.version, TrailFault::KeyEdited));
                }
            }
        }
        Ok(faults)
    }

    /// Reads the stub that a purge left of a trail. Its version is the error if the seal is broken.
    async fn stub(
        &self,
        session: &mut D::Session,
        id: KeyId,
    ) -> Result<Result<Option<(u64, Link)>, u64>, SqlError> {
        let statement = self.sql("SELECT version, digest, at, seal FROM {stubs} WHERE key_id = $1");
        let rows = session.fetch(Query::new(statement, [Cell::id(id)])).await?;
        let Some(mut row) = rows.into_iter().next() else {
            return Ok(Ok(None));
        };
        let (version, digest) = (row.count("version")?, row.bytes("digest")?);
        let (at, seal): (_, Link) = (row.integer("at")?, row.bytes("seal")?);
        if chain::seal(self.audit_key.as_ref(), id, version, &digest, at) != seal {
            return Ok(Err(version));
        }
        Ok(Ok(Some((version, digest))))
    }

    /// Reads the state of a key, hashed as the trail hashes it.
    async fn state_of(
        &self,
        session: &mut D::Session,
        id: KeyId,
    ) -> Result<Option<Result<KeyState, StoreError>>, SqlError> {
        let columns = record_row::COLUMNS.join(", ");
        let statement = format!("SELECT {columns}, head FROM {{keys}} WHERE id = $1");
        let query = Query::new(self.sql(&statement), [Cell::id(id)]);
        let rows = session.fetch(query).await?;
        let key = self.audit_key.as_ref();
        Ok(rows.into_iter().next().map(|mut row| {
            let record = record_row::record(&mut row)?;
            let cells = record_row::cells(&record);
            Ok(KeyState {
                version: record.version(),
                last: row.optional_bytes("head")?,
                state: chain::state(key, &record_row::COLUMNS, &cells),
            })
        }))
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

/// A row of the trail, with its hashes.
struct Entry {
    record: TrailRecord,
    state: Link,
    previous: Option<Link>,
    digest: Link,
}

impl Entry {
    fn read(row: &mut Row) -> Result<Self, StoreError> {
        Ok(Self {
            record: trail_row::record(row)?,
            state: row.bytes("state")?,
            previous: row.optional_bytes("previous")?,
            digest: row.bytes("digest")?,
        })
    }
}

/// A key as it is.
struct KeyState {
    version: u64,
    /// The last hash of its chain.
    last: Option<Link>,
    state: Link,
}

fn decode(list: &str, cursor: &Cursor) -> Result<i64, StoreError> {
    let number = || {
        let text = cursor.as_str().strip_prefix("t1-")?;
        text.strip_prefix(list)?.strip_prefix('-')?.parse().ok()
    };
    number().ok_or_else(StoreError::invalid_cursor)
}
