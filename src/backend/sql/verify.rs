//! The check of the audit trail: the chain of each key, from its beginning to the key as it is.

use std::collections::BTreeMap;

use super::cell::{Cell, Row, corrupt};
use super::chain::{self, Link};
use super::commit::HASHED;
use super::record_row;
use super::session::{Driver, Query, Session, SqlError};
use super::store::{Access, SqlStore};
use super::trail_row;
use crate::key::digest::KeyId;
use crate::store::{AuditKey, BrokenTrail, StoreError, TrailFault, TrailReport};

/// The keys that are checked at a time, in one snapshot.
const KEYS_AT_ONCE: usize = 200;

/// The records that are read at a time.
const RECORDS_AT_ONCE: usize = 1_000;

/// The check of one key's chain, fed with its records in the order of versions.
pub(super) struct ChainCheck {
    /// The version and the hash of the last record, or of the stub.
    pub(super) last: Option<(u64, Link)>,
    /// The state of the key after the last record.
    state: Option<Link>,
    pub(super) faults: Vec<(u64, TrailFault)>,
    /// The rest cannot be checked.
    is_over: bool,
}

/// A row of the trail, as it is stored.
pub(super) struct Entry {
    version: u64,
    /// The hashed cells. They are not written anew from what was read, which another version of
    /// this library, or of a dependency, could write in another way.
    cells: Vec<Cell>,
    state: Link,
    previous: Option<Link>,
    digest: Link,
}

/// The stub in the place of the records that a purge has deleted.
pub(super) struct Stub {
    version: u64,
    digest: Link,
    is_sealed: bool,
}

/// A key as it is in its table.
enum StoredKey {
    Read(KeyState),
    /// A column cannot be read.
    Corrupt,
}

/// The state of a key.
struct KeyState {
    version: u64,
    /// The last hash of its chain.
    last: Option<Link>,
    state: Link,
}

impl ChainCheck {
    pub(super) fn new(stub: Option<&Stub>) -> Self {
        let mut check = Self {
            last: stub.map(|stub| (stub.version, stub.digest)),
            state: None,
            faults: Vec::new(),
            is_over: false,
        };
        if let Some(stub) = stub.filter(|stub| !stub.is_sealed) {
            check.faults.push((stub.version, TrailFault::Edited));
            check.is_over = true;
        }
        check
    }

    /// Checks the next record. `None` is one that cannot be read.
    pub(super) fn add(&mut self, entry: Option<Entry>, key: Option<&AuditKey>) {
        if self.is_over {
            return;
        }
        let Some(entry) = entry else {
            let version = self.last.map_or(0, |(version, _)| version);
            self.faults.push((version + 1, TrailFault::Edited));
            self.is_over = true;
            return;
        };
        let version = entry.version;
        let is_next = self
            .last
            .is_none_or(|(before, _)| version.checked_sub(1) == Some(before));
        if !is_next || entry.previous != self.last.map(|(_, digest)| digest) {
            self.faults.push((version, TrailFault::Missing));
        }
        if chain::link(key, entry.previous.as_ref(), &HASHED, &entry.cells) != entry.digest {
            self.faults.push((version, TrailFault::Edited));
        }
        self.last = Some((version, entry.digest));
        self.state = Some(entry.state);
    }

    /// Returns whether the last record says that the key was deleted.
    pub(super) fn is_of_deleted_key(&self, key: Option<&AuditKey>) -> bool {
        self.state == Some(chain::gone(key))
    }

    /// Compares the key, if there is one, with the end of its chain.
    fn finish(
        mut self,
        key: Option<&StoredKey>,
        audit_key: Option<&AuditKey>,
    ) -> Vec<(u64, TrailFault)> {
        if self.is_over {
            return self.faults;
        }
        let version = self.last.map_or(0, |(version, _)| version);
        let digest = self.last.map(|(_, digest)| digest);
        match key {
            // Its last record says that it was deleted.
            None if self.is_of_deleted_key(audit_key) => {}
            None => self.faults.push((version, TrailFault::KeyDeleted)),
            Some(StoredKey::Corrupt) => self.faults.push((version, TrailFault::KeyEdited)),
            Some(StoredKey::Read(key)) => {
                // A purge keeps the last record of each key, so there is one.
                if version != key.version || digest != key.last || self.state.is_none() {
                    self.faults.push((key.version, TrailFault::Missing));
                } else if self.state != Some(key.state) {
                    self.faults.push((key.version, TrailFault::KeyEdited));
                }
            }
        }
        self.faults
    }
}

impl<D: Driver> SqlStore<D> {
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
        let ids = self.ids(&mut session, after).await?;
        let last = ids.last().copied();
        if let Some(last) = last {
            let range = [Cell::bytes(after), Cell::id(last)];
            let stubs = self.stubs(&mut session, range.clone()).await?;
            let keys = self.states(&mut session, range).await?;
            let checks = ids
                .iter()
                .map(|id| (*id.as_bytes(), ChainCheck::new(stubs.get(id.as_bytes()))));
            let mut checks: BTreeMap<[u8; 16], ChainCheck> = checks.collect();
            report.records += self.walk(&mut session, after, last, &mut checks).await?;
            report.keys += ids.len() as u64;
            for (id, check) in checks {
                let faults = check
                    .finish(keys.get(&id), self.audit_key.as_ref())
                    .into_iter();
                let id = KeyId::from_bytes(id);
                report.add(faults.map(|(version, fault)| BrokenTrail::new(id, version, fault)));
            }
        }
        session.run("COMMIT").await?;
        session.finish();
        Ok(last)
    }

    /// Reads the next ids, also those of which only the trail is left.
    async fn ids(&self, session: &mut D::Session, after: &[u8]) -> Result<Vec<KeyId>, SqlError> {
        let ids = self.sql(&format!(
            "SELECT id FROM (SELECT * FROM \
             (SELECT id FROM {{keys}} WHERE id > $1 ORDER BY id LIMIT {KEYS_AT_ONCE}) AS k \
             UNION SELECT * FROM (SELECT DISTINCT key_id FROM {{trail}} WHERE key_id > $1 \
             ORDER BY key_id LIMIT {KEYS_AT_ONCE}) AS t) AS ids \
             ORDER BY id LIMIT {KEYS_AT_ONCE}"
        ));
        let rows = session.fetch(Query::new(ids, [Cell::bytes(after)])).await?;
        let ids = rows.into_iter().map(|mut row| row.id("id"));
        Ok(ids.collect::<Result<_, _>>()?)
    }

    pub(super) async fn stubs(
        &self,
        session: &mut D::Session,
        range: [Cell; 2],
    ) -> Result<BTreeMap<[u8; 16], Stub>, SqlError> {
        let statement = self.sql(
            "SELECT key_id, version, digest, at, seal FROM {stubs} \
             WHERE key_id >= $1 AND key_id <= $2",
        );
        let mut stubs = BTreeMap::new();
        for mut row in session.fetch(Query::new(statement, range)).await? {
            let (id, version) = (row.id("key_id")?, row.count("version")?);
            let (digest, at) = (row.bytes("digest")?, row.integer("at")?);
            let seal: Link = row.bytes("seal")?;
            let key = self.audit_key.as_ref();
            let stub = Stub {
                version,
                digest,
                is_sealed: chain::seal(key, id, version, &digest, at) == seal,
            };
            stubs.insert(*id.as_bytes(), stub);
        }
        Ok(stubs)
    }

    /// Reads the states of keys, hashed as the trail hashes them.
    async fn states(
        &self,
        session: &mut D::Session,
        range: [Cell; 2],
    ) -> Result<BTreeMap<[u8; 16], StoredKey>, SqlError> {
        let columns = record_row::COLUMNS.join(", ");
        let statement = self.sql(&format!(
            "SELECT id, head, version, {columns} FROM {{keys}} WHERE id > $1 AND id <= $2"
        ));
        let mut states = BTreeMap::new();
        for mut row in session.fetch(Query::new(statement, range)).await? {
            let id: [u8; 16] = row.bytes("id")?;
            let state = self.state(&mut row);
            states.insert(id, state.map_or(StoredKey::Corrupt, StoredKey::Read));
        }
        Ok(states)
    }

    fn state(&self, row: &mut Row) -> Result<KeyState, StoreError> {
        let last = row.optional_bytes("head")?;
        let version = row.count("version")?;
        let cells = row.take(record_row::COLUMNS.len());
        // What cannot be read is not as it was written.
        record_row::record(&mut Row::new(cells.clone()))?;
        let key = self.audit_key.as_ref();
        Ok(KeyState {
            version,
            last,
            state: chain::state(key, &record_row::COLUMNS, &cells),
        })
    }

    /// Reads the trails of the keys in a range, and adds each record to the check of its key.
    async fn walk(
        &self,
        session: &mut D::Session,
        after: &[u8],
        last: KeyId,
        checks: &mut BTreeMap<[u8; 16], ChainCheck>,
    ) -> Result<u64, SqlError> {
        let mut records = 0;
        let mut range = Records::after(after, last);
        while !range.is_end {
            for (id, entry) in self.read_range(session, &mut range).await? {
                records += 1;
                if let Some(check) = checks.get_mut(&id) {
                    check.add(entry, self.audit_key.as_ref());
                }
            }
        }
        Ok(records)
    }

    /// Reads the next records of one key.
    pub(super) async fn read_records(
        &self,
        session: &mut D::Session,
        records: &mut Records,
    ) -> Result<Vec<Option<Entry>>, SqlError> {
        let read = self.read_range(session, records).await?;
        Ok(read.into_iter().map(|(_, entry)| entry).collect())
    }

    /// Reads the next records of a range. One that cannot be read is `None`.
    async fn read_range(
        &self,
        session: &mut D::Session,
        range: &mut Records,
    ) -> Result<Vec<([u8; 16], Option<Entry>)>, SqlError> {
        let columns = trail_row::COLUMNS.join(", ");
        let statement = self.sql(&format!(
            "SELECT key_id, version, state, previous, digest, {columns}, state FROM {{trail}} \
             WHERE (key_id, version) > ($1, $2) AND (key_id, version) <= ($3, $4) \
             ORDER BY key_id, version LIMIT {RECORDS_AT_ONCE}"
        ));
        let cells = [
            Cell::bytes(range.after.0.clone()),
            Cell::integer(range.after.1),
            Cell::id(range.last.0),
            Cell::integer(range.last.1),
        ];
        let rows = session.fetch(Query::new(statement, cells)).await?;
        range.is_end = rows.len() < RECORDS_AT_ONCE;
        let mut entries = Vec::new();
        for mut row in rows {
            let id: [u8; 16] = row.bytes("key_id")?;
            let version = row.integer("version")?;
            range.after = (id.to_vec(), version);
            entries.push((id, Entry::read(version, &mut row).ok()));
        }
        Ok(entries)
    }
}

/// A range of records, by key and version, as far as it was read.
pub(super) struct Records {
    after: (Vec<u8>, i64),
    last: (KeyId, i64),
    pub(super) is_end: bool,
}

impl Records {
    /// Returns the range of all keys after one, up to another one.
    fn after(after: &[u8], last: KeyId) -> Self {
        Self {
            after: (after.to_vec(), i64::MAX),
            last: (last, i64::MAX),
            is_end: false,
        }
    }

    /// Returns the range of one key, up to a version.
    pub(super) fn of(key: KeyId, version: u64) -> Self {
        Self {
            after: (key.as_bytes().to_vec(), -1),
            last: (key, i64::try_from(version).unwrap_or(i64::MAX)),
            is_end: false,
        }
    }
}

impl Entry {
    /// Reads `state`, `previous`, `digest` and the columns of [`HASHED`].
    pub(super) fn read(version: i64, row: &mut Row) -> Result<Self, StoreError> {
        let (state, previous) = (row.bytes("state")?, row.optional_bytes("previous")?);
        let digest = row.bytes("digest")?;
        let cells = row.take(HASHED.len());
        // What cannot be read is not as it was written.
        trail_row::record(&mut Row::new(cells.clone()))?;
        Ok(Self {
            version: u64::try_from(version).map_err(|_| corrupt("version"))?,
            cells,
            state,
            previous,
            digest,
        })
    }
}
